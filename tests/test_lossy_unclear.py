"""Masks that do not show by themselves that they were JPEG: straight boundaries whose steps name
the blocks, halved masks that show little each, and masks that the quality of others tells.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import lossy_masks as made
import numpy as np
import pytest
from advice import commands_in
from audit_cases import DataSet
from PIL import Image

import histoprep
from histoprep import tables
from histoprep.cli import run
from histoprep.demo.layout import noise
from histoprep.errors import ExitCode
from histoprep.lossy import steps_of
from histoprep.lossy.observations import MaskObservation, table_of
from histoprep.lossy.onsets import find_step_offset
from histoprep.lossy.unclear import find_blocks
from histoprep.lossy.verdict import LossKind, Verdict, judge
from histoprep.schemas.ledgers import LEDGER, REPAIR
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.lossy_sources import lossy_sources

NUM_MASKS = 31
# Fewer are enough for a warning, and for repair.
FEW = 14


def one_step(seed: int, size: int = 300) -> np.ndarray:
    """Return smooth regions of labels 0 and 1, whose boundaries quality 75 makes straight."""
    return (noise(np.random.default_rng([31, seed]), size, size / 4) > 0.3).astype(np.uint8)


def cut(labels: np.ndarray, row: int, column: int) -> np.ndarray:
    return np.ascontiguousarray(labels[-row % 8 or 8 :, -column % 8 or 8 :])


def observed(masks: list[np.ndarray]) -> list[Verdict]:
    return judge(table_of([MaskObservation.of(mask) for mask in masks]))


def test_steps_name_the_blocks_of_boundaries_that_jpeg_made_straight() -> None:
    for seed in range(6):
        row, column = 1 + seed, 7 - seed
        lossy = cut(made.jpeg(one_step(seed), 75), row, column)
        assert find_step_offset(*steps_of(lossy)) == (row, column)
        seen = MaskObservation.of(lossy)
        assert seen.fixed is not None and seen.fixed.is_moved and seen.fixed.is_certain
        assert seen.fixed.quality == 75
        assert seen.fixed.grid is not None
        assert (seen.fixed.grid.row, seen.fixed.grid.column) == (row, column)


def test_such_sources_are_found() -> None:
    assert observed([cut(one_step(seed), 3, 5) for seed in range(NUM_MASKS)]) == []
    (found,) = observed([cut(made.jpeg(one_step(seed), 75), 3, 5) for seed in range(NUM_MASKS)])
    assert (found.kind, found.quality, found.block_px) == (LossKind.JPEG_HISTORY, 75, 8)
    assert "labels change along blocks" in found.evidence


STRAIGHT: dict[str, Callable[[int], np.ndarray]] = {
    "one step": one_step,
    "boxes": partial(made.boxes, size=200),
    "stripes": partial(made.stripes, size=200),
    "enlarged": partial(made.enlarged, size=200),
    "enlarged by 3": lambda seed: np.kron(one_step(seed, 80), np.ones((3, 3), np.uint8)),
    "rectangles": lambda seed: rectangles(seed),
}


def rectangles(seed: int) -> np.ndarray:
    rng, labels = np.random.default_rng([32, seed]), np.zeros((200, 200), np.uint8)
    for _ in range(12):
        top, left = (4 * rng.integers(0, 45, 2)).tolist()
        height, width = (4 * rng.integers(1, 20, 2)).tolist()
        labels[top : top + height, left : left + width] ^= 1
    return labels


@pytest.mark.parametrize("name", STRAIGHT)
def test_drawn_straight_boundaries_name_no_quality(name: str) -> None:
    for seed in range(NUM_MASKS):
        seen = MaskObservation.of(cut(STRAIGHT[name](seed), 3, 6))
        assert seen.fixed is None or seen.fixed.grid is None


def reduced(labels: np.ndarray, factor: float) -> np.ndarray:
    side = round(len(labels) * factor)
    return cut(cv2.resize(labels, (side, side), interpolation=cv2.INTER_NEAREST), 1, 2)


def dots(seed: int) -> np.ndarray:
    """Return many small objects of nine labels on two regions."""
    rng = np.random.default_rng([34, seed])
    labels = (4 * (noise(rng, 600, 300) > 0)).astype(np.uint8)
    for _ in range(150):
        centre = rng.integers(0, 600, 2).tolist()
        cv2.circle(labels, centre, int(rng.integers(0, 3)), int(rng.integers(1, 10)), -1)
    return labels


def test_halved_masks_that_show_little_each_show_it_together() -> None:
    damaged = [reduced(made.jpeg(dots(seed), 90), 0.5) for seed in range(NUM_MASKS)]
    table = table_of([MaskObservation.of(mask) for mask in damaged])
    # Without a quality, a mask by itself has to show three; here hardly any does.
    assert np.count_nonzero(table.grid_score >= 3) < 4
    (found,) = [verdict for verdict in judge(table) if verdict.block_px == 4]
    assert len(found.masks) >= 0.3 * NUM_MASKS


@pytest.mark.parametrize("factor", [0.5, 2 / 3, 0.8])
@pytest.mark.parametrize("size", [600, 1200])
def test_large_masks_of_thin_structures_may_be_reduced(factor: float, size: int) -> None:
    # Every fifth or third row and column is missing, so that traces end on a grid without any JPEG.
    number = 12 if size == 600 else 6
    masks = [reduced(made.nuclei(seed, size), factor) for seed in range(number)]
    assert observed(masks * (12 // number)) == []


@pytest.mark.parametrize("quality", [75, 90])
def test_who_knows_the_quality_tells_more(quality: int) -> None:
    for seed in range(8):
        clean = speck(seed)
        lossy = made.jpeg(clean, quality)
        assert find_blocks(lossy, quality, anywhere=False) == (0, 0)
        assert find_blocks(clean, quality, anywhere=False) is None
        assert find_blocks(clean, quality, anywhere=True) is None
        moved = cut(made.jpeg(made.nuclei(seed, 128), quality), 6, 3)
        assert find_blocks(moved, quality, anywhere=True) == (6, 3)


def speck(
    seed: int, radii: tuple[int, int] = (8, 11), labels: tuple[int, int] = (11, 19)
) -> np.ndarray:
    """Return one object with a boundary that is too short to tell much."""
    rng, mask = np.random.default_rng([33, seed]), np.full((136, 136), labels[0], np.uint8)
    centre, axes = rng.integers(40, 90, 2).tolist(), rng.integers(*radii, 2).tolist()
    cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, labels[1], -1)
    return mask


def tiny(seed: int) -> np.ndarray:
    return speck(seed, (4, 6), (0, 255))


def test_unclear_masks_are_repaired_on_request_and_the_ledger_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataSet(tmp_path / "set")
    data.image("only.jpg")
    for index in range(FEW):
        regions = made.regions(index)
        labels = (255 * (regions > regions.mean())).astype(np.uint8)
        data.mask(f"slide/{index:02}_mask.png", made.jpeg(labels, 75))
    for index in range(4):
        data.mask(f"slide/speck{index}_mask.png", made.jpeg(tiny(index), 75))
    root, out = str(data.root), tmp_path / "set.histoprep" / "repaired"
    [found] = [finding for finding in data.audit().findings if finding.code == "HP403"]
    assert commands_in(found.suggestion) == [
        f"histoprep repair {root}",
        f"histoprep repair {root} --unclear --dry-run --diff",
    ]
    run(["repair", root, "--workers", "1"])
    printed = capsys.readouterr()
    assert f"{FEW} masks repaired, 0 not" in printed.out
    (source,) = lossy_sources(Workspace.of(data.root).tiles)
    assert source.unclear == tuple(f"slide/speck{index}_mask.png" for index in range(4))
    assert "4 more masks of these cannot be judged alone and stay as they are" in printed.err
    assert not list(out.rglob("speck*"))

    assert run(["repair", root, "--unclear", "--workers", "1"]) == ExitCode.USAGE
    assert "--unclear" in capsys.readouterr().err
    assert run(["repair", root, "--rule", "HP403", "--workers", "1"]) == ExitCode.USAGE
    assert "--rule " in capsys.readouterr().err
    run(["repair", root, "--unclear", "--force", "--workers", "1"])
    printed = capsys.readouterr()
    opened, _ = tables.open_table(
        out / LEDGER, kind=REPAIR.ledger, schema_version=REPAIR.schema_version
    )
    written = [row for row in tables.read_table(opened).to_pylist() if row["status"] == "written"]
    unclear = [row for row in written if row["is_unclear"]]
    assert len(written) - len(unclear) == FEW
    assert 2 <= len(unclear) <= 4
    assert f"{len(unclear)} of the repaired masks are in no finding (--unclear)" in printed.err
    for row in unclear:
        true = tiny(int(row["mask_path"][-10]))
        after = np.asarray(Image.open(out / row["output_path"]))
        wrong = np.count_nonzero(made.jpeg(true, 75) != true)
        assert np.count_nonzero(after != true) < wrong / 5


def test_unclear_masks_without_a_trace_are_no_failure(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    data.image("only.jpg")
    for index in range(FEW):
        data.mask(f"crops/{index:02}_mask.png", cut(made.jpeg(made.nuclei(index, 136), 75), 3, 5))
    data.mask("crops/speck_mask.png", cut(speck(0), 3, 5))
    result = histoprep.repair(data.root, unclear=True, workers=1)
    assert result.num_not_shown == 1
    listed = result.num_left - result.num_not_shown
    command = ["repair", str(data.root), "--unclear", "--workers", "1"]
    assert run(command) == (ExitCode.INCOMPLETE if listed else ExitCode.OK)
