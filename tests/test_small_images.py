"""Images in cells are kept from measuring to comparing, and change nothing but the time."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from histoprep.auditing import AuditOptions, run_audit
from histoprep.execution import Engine
from histoprep.neighbours.placement import SmallImage
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import small_images
from histoprep.tiles.neighbourhood import find_neighbours
from histoprep.tiles.small_images import KeptImages, keep, kept_files
from histoprep.tiles.table import TileTable

ENGINE = Engine(1, in_process=True)


def images(number: int) -> dict[str, SmallImage]:
    rng = np.random.default_rng(number)
    found = {}
    for digest in map(str, range(number)):
        height, width = (int(side) for side in rng.integers(20, 90, 2))
        cells = rng.integers(0, 256, (height // 2, width // 2), np.uint8)
        found[digest] = SmallImage(cells, (height, width))
    return found


def test_what_is_kept_is_found_by_digest(tmp_path: Path) -> None:
    first, second = images(4), {"other": images(5)["4"]}
    keep(tmp_path / "a.cells", first)
    keep(tmp_path / "b.cells", second)
    kept = KeptImages((tmp_path / "a.cells", tmp_path / "gone.cells", tmp_path / "b.cells"))
    for digest, image in (first | second).items():
        found = kept.get(digest)
        assert found is not None
        assert found.shape == image.shape
        assert np.array_equal(found.cells, image.cells)
    assert kept.get("5") is None


@pytest.mark.parametrize("damage", ["cut", "long", "empty", "foreign", "no numbers"])
def test_a_file_that_is_not_whole_counts_as_empty(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.cells"
    keep(path, images(3))
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:-1],
            "long": whole + b"x",
            "empty": b"",
            "foreign": whole.replace(b"cells 1", b"cells 2"),
            "no numbers": b'["histoprep cells 1", ["0", "a", "b", 1, 1]]\n',
        }[damage]
    )
    assert KeptImages((path,)).get("0") is None


def test_nothing_is_left_where_it_cannot_be_written(tmp_path: Path) -> None:
    keep(tmp_path / "no folder" / "a.cells", images(1))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def overlapping(tmp_path: Path) -> Workspace:
    """Tiles of 256 px that overlap by half, and others that overlap nothing."""
    rng, root = np.random.default_rng(0), tmp_path / "tiles"
    root.mkdir()
    for number in range(6):
        noise = rng.integers(0, 256, (256, 384)).astype(np.float32)
        field = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 6.0), None, 40, 220, cv2.NORM_MINMAX)
        for start in (0, 128) if number < 3 else (0,):
            tile = field[:, start : start + 256].astype(np.uint8)
            Image.fromarray(tile).save(root / f"{number}-{start}.png")
    return Workspace(root, tmp_path / "results")


def table_of(workspace: Workspace, *, keeps_cells: bool) -> None:
    workspace.folder.mkdir(exist_ok=True)
    TileTable(workspace, AuditOptions().table).build(ENGINE, keeps_cells=keeps_cells)


def test_neighbours_are_the_same_with_and_without(overlapping: Workspace) -> None:
    found = []
    for keeps_cells in (True, False):
        shutil.rmtree(overlapping.folder, ignore_errors=True)
        table_of(overlapping, keeps_cells=keeps_cells)
        assert bool(kept_files(overlapping)) == keeps_cells
        found.append(find_neighbours(overlapping, ENGINE).pairs)
    assert len(found[0]) == 3
    assert found[0].equals(found[1])


def test_what_is_kept_is_looked_at_instead_of_the_files(overlapping: Workspace) -> None:
    """With other cells in their place, nothing seems to overlap."""
    table_of(overlapping, keeps_cells=True)
    for path in kept_files(overlapping):
        header, _, cells = path.read_bytes().partition(b"\n")
        noise = np.random.default_rng(1).integers(0, 256, len(cells), np.uint8)
        path.write_bytes(header + b"\n" + noise.tobytes())
    assert find_neighbours(overlapping, ENGINE).pairs.empty


def test_an_audit_leaves_none(overlapping: Workspace) -> None:
    run_audit(overlapping, AuditOptions(), ENGINE)
    assert overlapping.neighbours.exists()
    assert not list(overlapping.folder.rglob("*.cells"))
    small_images.drop(overlapping)
