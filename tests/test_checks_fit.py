"""HP418 to HP421: masks that are turned, moved, scaled or of other tiles, and what must stay
silent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import coloured_tissue as made
import cv2
import numpy as np
import pytest
import typer
from audit_cases import DataSet, Found, by_code
from typer.testing import CliRunner

import histoprep
from histoprep.choices import Severity
from histoprep.cli.manifest import app
from histoprep.errors import ExitCode, UsageError
from histoprep.execution import Engine
from histoprep.findings import Finding, Mark
from histoprep.fit.orientation import ORIENTATIONS, Orientation
from histoprep.fit.remedy import Remedy
from histoprep.report import render
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.misfits import MisfitKind, find_misfits
from histoprep.tiles.table import TableOptions, TileTable

TRIGGERS = ("HP418", "HP419", "HP420", "HP421")
FIT = ("HP418", "HP419", "HP420", "HP421")
NUM_TILES = 12
TURNED = {way.value: way for way in ORIENTATIONS if way is not Orientation.AS_IS}
Harm = Callable[[np.ndarray], np.ndarray]


def elastic(labels: np.ndarray) -> np.ndarray:
    """Return a mask drawn by an unsteady hand: displaced by up to some 5 px, in all directions."""
    rng = np.random.default_rng(int(labels.sum()) % 1000)
    side = len(labels)
    moves = [
        cv2.resize(rng.normal(0, 3, (9, 9)).astype(np.float32), (side, side)) for _ in range(2)
    ]
    y, x = np.mgrid[:side, :side].astype(np.float32)
    return cv2.remap(
        labels, x + moves[0], y + moves[1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
    )


def moved(right: int, down: int) -> Harm:
    """Return what cuts a mask beside its place: it has to be moved by so much."""
    matrix = np.array([[1, 0, -right], [0, 1, -down]], np.float32)

    def move(labels: np.ndarray) -> np.ndarray:
        return cv2.warpAffine(labels, matrix, labels.shape[::-1], flags=cv2.INTER_NEAREST)

    return move


def enlarged(labels: np.ndarray) -> np.ndarray:
    """Return a mask at twice the magnification, from the same corner."""
    side = len(labels)
    return cv2.resize(labels, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)[:side, :side]


# What is wrong with no mask.
RIGHT: dict[str, Harm] = {
    "clean": lambda labels: labels,
    "elastic": elastic,
    "dilated": lambda labels: cv2.dilate(labels, np.ones((11, 11), np.uint8)),
    "eroded": lambda labels: cv2.erode(labels, np.ones((11, 11), np.uint8)),
    "patches": lambda labels: np.kron(labels[16::32, 16::32], np.ones((32, 32), np.uint8)),
    "uniform": lambda labels: np.full_like(labels, labels[0, 0]),
    "unlabelled": np.zeros_like,
}


def fill(data: DataSet, folder: str, harm: Harm, number: int = NUM_TILES) -> None:
    """Write tiles whose masks fit but for `harm`."""
    for index in range(number):
        image, labels = made.tile(index)
        data.pair(f"{folder}/{index:02}", harm(labels), image, quality=90)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    data = DataSet(tmp_path_factory.mktemp("fit") / "set")
    for name, harm in RIGHT.items():
        fill(data, name, harm)
    for name, way in TURNED.items():
        fill(data, name, lambda labels, way=way: np.ascontiguousarray(way.inverse.apply(labels)))
    fill(data, "moved", moved(9, -16))
    fill(data, "enlarged", enlarged)
    masks = [made.tile(index)[1] for index in range(NUM_TILES)]
    for index in range(NUM_TILES):
        data.pair(f"list/{index:02}", masks[(index + 1) % NUM_TILES], made.tile(index)[0])
        # Colours that depend on nothing, and images of one colour.
        data.pair(f"colourless/{index:02}", masks[index], made.tile(500 + index)[0])
        data.pair(f"grey/{index:02}", masks[index], np.full((192, 192, 3), 180, np.uint8))
    few = [made.tile(index)[1] for index in range(5)]
    for index in range(5):
        data.pair(f"few/deep/{index:02}", few[index], made.tile(index)[0])
    single = [made.tile(index)[1] for index in range(40)]
    single[3], single[30] = single[30], single[3]
    single[12] = made.regions(999)
    single[20] = np.ascontiguousarray(single[20].T)
    for index in range(40):
        data.pair(f"single/{index:02}", single[index], made.tile(index)[0])
        also = made.regions(998) if index == 7 else made.tile(index)[1]
        data.pair(f"also/{index:02}", also, made.tile(index)[0])
    return data


@pytest.fixture(scope="module")
def findings(data: DataSet) -> tuple[Finding, ...]:
    return histoprep.audit(data.root, workers=2).findings


def fits(findings: tuple[Finding, ...]) -> Found:
    return by_code(finding for finding in findings if finding.code in FIT)


def test_every_source_gets_its_verdict_and_right_ones_none(findings: tuple[Finding, ...]) -> None:
    assert set(fits(findings)) == {
        *(f"HP418 {name} in {name}" for name in TURNED),
        "HP419 shifted in moved",
        "HP419 scaled in enlarged",
        "HP420 other-tiles in list",
        "HP420 swapped in single",
        "HP421 in also, single",
    }


@pytest.mark.parametrize("name", TURNED)
def test_what_has_to_be_done_is_said_in_words(findings: tuple[Finding, ...], name: str) -> None:
    details = fits(findings)[f"HP418 {name} in {name}"]
    assert len(details) == NUM_TILES
    assert set(details.values()) == {f"must be {TURNED[name].advice}"}


def test_moves_and_scales_are_measured(data: DataSet, findings: tuple[Finding, ...]) -> None:
    found = fits(findings)
    words = set(found["HP419 shifted in moved"].values())
    assert words <= {
        f"must be moved {right} px right and {down} px up"
        for right in (8, 9, 10)
        for down in (15, 16, 17)
    }
    assert set(found["HP419 scaled in enlarged"].values()) == {"must be shrunk by a factor of 0.5"}


def test_the_mask_that_fits_is_named(findings: tuple[Finding, ...]) -> None:
    found = fits(findings)
    listed = found["HP420 other-tiles in list"]
    for index in range(NUM_TILES):
        fitting = f"list/{(index - 1) % NUM_TILES:02}_mask.png"
        words = f"the mask that fits its image is {fitting}"
        assert listed[f"list/{index:02}_mask.png"] == words
    assert found["HP420 swapped in single"] == {
        "single/03_mask.png": "the mask that fits its image is single/30_mask.png",
        "single/30_mask.png": "the mask that fits its image is single/03_mask.png",
    }


def test_single_masks_that_fit_no_better_than_chance_are_named(
    findings: tuple[Finding, ...],
) -> None:
    details = fits(findings)["HP421 in also, single"]
    assert set(details) == {"also/07_mask.png", "single/12_mask.png", "single/20_mask.png"}
    assert details["single/20_mask.png"].endswith(
        f"it fits when it is {TURNED['transpose'].advice}"
    )
    [unfit] = [finding for finding in findings if finding.code == "HP421"]
    assert unfit.severity is Severity.WARNING
    assert (unfit.count, unfit.denominator) == (3, 80)


def test_what_was_found_is_kept_and_does_not_depend_on_workers(
    data: DataSet, findings: tuple[Finding, ...], tmp_path: Path
) -> None:
    workspace = Workspace.of(data.root)
    before = workspace.misfits.read_bytes()
    kept = find_misfits(workspace, Engine(1))
    assert workspace.misfits.read_bytes() == before
    other = Workspace.of(data.root, tmp_path / "other")
    TileTable(other, TableOptions(partition_tiles=50)).build(Engine(1))
    assert find_misfits(other, Engine(1)) == kept
    assert {misfit.kind for misfit in kept} == set(MisfitKind)


def test_the_page_shows_the_mask_as_it_is_and_as_it_fits(data: DataSet) -> None:
    report = histoprep.audit(data.root, workers=1)
    shown = {finding.subcode: finding for finding in report.findings if finding.code in FIT}
    assert shown
    for subcode, found in shown.items():
        thumbnail = report.thumbnails[found.paths[0], Mark.FIT]
        fitting = thumbnail.fitting_data_uri
        if not subcode and "fits when" not in found.details[0]:
            assert fitting is None
            continue
        assert fitting is not None and fitting != thumbnail.overlay_data_uri
        page = render(report, "html")
        assert fitting in page and "left as it is, right as it fits" in page


def test_what_is_shown_is_the_mask_that_was_right(data: DataSet) -> None:
    for misfit in find_misfits(Workspace.of(data.root), Engine(1)):
        if misfit.kind is not MisfitKind.MISORIENTED:
            continue
        for index, mask in enumerate(misfit.masks):
            path, remedy = misfit.remedy_of(mask) or ("", Remedy())
            stored = cv2.imread(str(data.root / path), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(remedy.apply(stored), made.tile(index)[1])


def test_a_manifest_stops_on_sources_that_do_not_fit(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    fill(data, "tiles", lambda labels: np.ascontiguousarray(labels.T))
    outer = typer.Typer()
    outer.add_typer(app, name="manifest")
    run = ["manifest", str(data.root)]
    refused = CliRunner().invoke(outer, run)
    assert isinstance(refused.exception, UsageError)
    assert refused.exception.what == "masks do not fit their images (HP418 misoriented-masks)"
    assert not Workspace.of(data.root).manifest.exists()
    assert CliRunner().invoke(outer, [*run, "--force"]).exit_code == ExitCode.OK


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_a_move_uncovers_a_border_and_moves_the_rest(dtype: type) -> None:
    labels = made.regions(1).astype(dtype) + dtype(1)
    moved_back = Remedy(right_px=-9, down_px=16, fill=0).apply(labels)
    assert moved_back.dtype == labels.dtype
    assert np.array_equal(moved_back[16:, :-9], labels[:-16, 9:])
    assert not moved_back[:16].any() and not moved_back[:, -9:].any()
    assert not Remedy(right_px=500).apply(labels).any()


def test_a_scale_is_that_of_nearest_neighbours() -> None:
    labels = made.regions(2)
    doubled = np.kron(labels, np.ones((2, 2), np.uint8))[:192, :192]
    assert np.array_equal(Remedy(scale=2.0).apply(labels), doubled)
    halved = Remedy(scale=0.5).apply(doubled)
    assert np.array_equal(halved[:96, :96], labels[:96, :96]) and not halved[96:].any()
