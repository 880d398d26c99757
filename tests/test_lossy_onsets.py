"""Blocks of a JPEG that lie anywhere in a mask: tiles and crops of larger masks, and masks resized
by the nearest pixel afterwards; and what only looks like them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import cv2
import lossy_masks as made
import numpy as np
import pytest
from audit_cases import DataSet, by_code
from PIL import Image

import histoprep
from histoprep.choices import Severity
from histoprep.lossy import measure_signals
from histoprep.lossy.jpeg_repair import repair_jpeg
from histoprep.lossy.observations import MaskObservation, table_of
from histoprep.lossy.onsets import MIN_ONSETS, BlockGrid
from histoprep.lossy.verdict import SHOWN, LossKind, Verdict, judge
from histoprep.lossy.webp_levels import NEVER_MET, count_gaps
from histoprep.repairing import RepairOptions, plan_repair, run_repair
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.lossy_sources import lossy_sources

NUM_MASKS = 31


def grid_of(labels: np.ndarray) -> BlockGrid | None:
    signals = measure_signals(np.ascontiguousarray(labels))
    return signals.grid if signals else None


def verdicts(masks: Iterable[np.ndarray]) -> list[Verdict]:
    return judge(table_of([MaskObservation.of(np.ascontiguousarray(mask)) for mask in masks]))


def slide(seed: int, quality: int | None) -> np.ndarray:
    """Return a larger mask, through JPEG when a quality is given."""
    labels = made.regions(seed, 320)
    return made.jpeg(labels, quality) if quality else labels


def cropped(seed: int, quality: int | None) -> np.ndarray:
    """Return a part that begins at another offset for each seed, never at that of the blocks."""
    row, column = 1 + seed % 7, 1 + seed // 7 % 7
    return slide(seed, quality)[row : row + 200, column : column + 200]


def resized(seed: int, quality: int | None, factor: float) -> np.ndarray:
    side = round(320 * factor)
    image = Image.fromarray(slide(seed, quality))
    return np.asarray(image.resize((side, side), Image.Resampling.NEAREST))


@pytest.mark.parametrize("offset", [(0, 0), (0, 1), (3, 6), (5, 0), (7, 7)])
@pytest.mark.parametrize("quality", [75, 90])
def test_the_offset_of_the_blocks_is_found(offset: tuple[int, int], quality: int) -> None:
    row, column = offset
    whole = slide(3, quality)
    found = grid_of(whole[-row % 8 : 300, -column % 8 : 310])
    assert found is not None
    assert found.score >= 2 * SHOWN
    assert (found.period_px, found.row, found.column) == (8, row, column)
    assert found.is_own == (offset == (0, 0))
    assert (found.own_score >= SHOWN) == found.is_own


@pytest.mark.parametrize(("factor", "period"), [(1.5, 12), (2, 16), (0.5, 4)])
def test_the_side_of_resized_blocks_is_found(factor: float, period: float) -> None:
    found = [grid_of(resized(seed, 80, factor)) for seed in range(6)]
    assert [grid.period_px for grid in found if grid is not None] == [period] * 6
    assert min(grid.score for grid in found if grid is not None) >= SHOWN


def test_a_mask_is_seen_as_it_was_before_it_was_enlarged() -> None:
    small = made.jpeg(made.regions(2, 256), 80)
    large = np.asarray(Image.fromarray(small).resize((384, 384), Image.Resampling.NEAREST))
    found = grid_of(large)
    assert found is not None
    assert (found.whole_blocks(large) == small).all()
    halved = grid_of(resized(2, 80, 0.5))
    assert halved is not None and halved.whole_blocks(resized(2, 80, 0.5)) is None


def uneven(seed: int) -> np.ndarray:
    """Return layers enlarged to a size that no small fraction gives: their places tell nothing."""
    thin = np.abs(np.diff(made.regions(seed, 112).astype(int), axis=0, prepend=0)) > 0
    labels = made.regions(seed, 112) + thin.astype(np.uint8)
    return cv2.resize(labels, (300, 300), interpolation=cv2.INTER_NEAREST)


CLEAN: dict[str, Callable[[int], np.ndarray]] = {
    "regions": partial(cropped, quality=None),
    "nuclei": partial(made.nuclei, size=200),
    "nuclei enlarged": lambda seed: resized_nuclei(seed, 1.5),
    "nuclei reduced": lambda seed: resized_nuclei(seed, 0.5),
    "boxes": partial(made.boxes, size=200),
    "stripes": partial(made.stripes, size=200),
    "uneven": uneven,
    "every fifth row left out": lambda seed: reduced(seed, 0.8),
}


def _highest(name: str) -> float:
    """Return what no clean mask reaches: of rows and columns left out at regular places, what is
    asked of masks without a quality.
    """
    return 3.0 if name == "every fifth row left out" else SHOWN


def reduced(seed: int, factor: float) -> np.ndarray:
    side = round(300 * factor)
    return cv2.resize(made.nuclei(seed, 300), (side, side), interpolation=cv2.INTER_NEAREST)


def resized_nuclei(seed: int, factor: float) -> np.ndarray:
    side = round(240 * factor)
    image = Image.fromarray(made.nuclei(seed, 240))
    return np.asarray(image.resize((side, side), Image.Resampling.NEAREST))


@pytest.mark.parametrize("name", CLEAN)
def test_clean_masks_show_no_blocks(name: str) -> None:
    masks = [CLEAN[name](seed) for seed in range(NUM_MASKS)]
    scores = [grid.score for mask in masks if (grid := grid_of(mask)) is not None]
    assert max(scores, default=0.0) < _highest(name)
    assert verdicts(masks) == []
    assert verdicts(made.many_to_one(mask) for mask in masks) == []


def test_masks_without_thin_traces_are_not_looked_at() -> None:
    assert all(grid_of(cropped(seed, None)) is None for seed in range(4))
    found = grid_of(made.nuclei(0))
    assert found is not None and found.onsets >= MIN_ONSETS


@pytest.mark.parametrize("quality", [75, 80, 85, 90])
def test_crops_of_jpeg_masks_are_called_jpeg_and_their_quality_named(quality: int) -> None:
    (found,) = verdicts(cropped(seed, quality) for seed in range(NUM_MASKS))
    assert (found.kind, found.quality, found.block_px) == (LossKind.JPEG_HISTORY, quality, 8)
    assert found.firm
    assert len(found.masks) >= 0.9 * NUM_MASKS


@pytest.mark.parametrize(("factor", "side"), [(1.5, 12), (0.5, 4)])
def test_resized_jpeg_masks_are_called_jpeg(factor: float, side: float) -> None:
    (found,) = verdicts(resized(seed, 85, factor) for seed in range(NUM_MASKS))
    assert (found.kind, found.block_px) == (LossKind.JPEG_HISTORY, side)


def test_crops_are_found_after_a_label_map_and_as_colours() -> None:
    (found,) = verdicts(made.many_to_one(cropped(seed, 85)) for seed in range(NUM_MASKS))
    assert (found.kind, found.quality, found.block_px) == (LossKind.JPEG_HISTORY, None, 8)
    seen = []
    for seed in range(NUM_MASKS):
        signals = measure_signals(np.ascontiguousarray(cropped(seed, 85)))
        assert signals is not None
        seen.append(MaskObservation(signals.without_values()))
    (found,) = judge(table_of(seen))
    assert found.block_px == 8


@pytest.mark.parametrize("factor", [0.5, 0.25])
def test_ramps_that_begin_on_a_grid_stay_interpolated(factor: float) -> None:
    def enlarged(seed: int) -> np.ndarray:
        small = made.regions(seed, round(256 * factor))
        return cv2.resize(small, (256, 256), interpolation=cv2.INTER_LINEAR)

    masks = [enlarged(seed) for seed in range(NUM_MASKS)]
    # They show a grid, so that it is by how their values go that they are told apart.
    assert np.median([grid.score for mask in masks if (grid := grid_of(mask))]) >= SHOWN
    (found,) = verdicts(masks)
    assert found.kind is LossKind.INTERPOLATED


def through_webp(labels: np.ndarray, quality: int) -> np.ndarray:
    import io

    stream = io.BytesIO()
    Image.fromarray(labels).convert("RGB").save(stream, "WEBP", quality=quality)
    return np.asarray(Image.open(stream).convert("L"))


@pytest.mark.parametrize("quality", [60, 75, 90])
def test_masks_that_were_webp_are_called_so(quality: int) -> None:
    (found,) = verdicts(through_webp(made.regions(seed, 256), quality) for seed in range(NUM_MASKS))
    assert (found.kind, found.quality) == (LossKind.WEBP_HISTORY, None)
    assert len(found.masks) >= 0.9 * NUM_MASKS


def test_masks_of_few_labels_that_were_webp_are_called_so() -> None:
    def lines(seed: int) -> np.ndarray:
        labels, rng = np.zeros((200, 200), np.uint8), np.random.default_rng([41, seed])
        labels[:, 100:] = 5
        for _ in range(12):
            ends = rng.integers(0, 200, (2, 2)).tolist()
            cv2.line(labels, ends[0], ends[1], int(rng.choice([3, 9])), int(rng.integers(1, 4)))
        return labels

    assert verdicts(lines(seed) for seed in range(NUM_MASKS)) == []
    kinds = {found.kind for found in verdicts(through_webp(lines(s), 80) for s in range(NUM_MASKS))}
    assert kinds == {LossKind.WEBP_HISTORY}
    kinds = {found.kind for found in verdicts(made.jpeg(lines(s), 80) for s in range(NUM_MASKS))}
    assert kinds == {LossKind.JPEG_HISTORY}


def test_other_tables_and_colours_are_called_jpeg_without_a_wrong_quality() -> None:
    import io

    colours = np.random.default_rng(5).integers(0, 256, (256, 3)).astype(np.uint8)
    flat = {0: [6] * 64}

    def through(labels: np.ndarray, **options: object) -> np.ndarray:
        stream = io.BytesIO()
        Image.fromarray(labels).save(stream, "JPEG", **options)
        return np.asarray(Image.open(stream).convert("L"))

    (found,) = verdicts(through(made.regions(s), qtables=flat) for s in range(NUM_MASKS))
    assert (found.kind, found.quality, found.is_ordered) == (LossKind.JPEG_HISTORY, None, True)
    (found,) = verdicts(through(colours[made.regions(s)], quality=85) for s in range(NUM_MASKS))
    assert found.kind is LossKind.JPEG_HISTORY
    assert found.quality in (None, 85)
    mapped = (made.many_to_one(made.jpeg(made.regions(s), 85)) for s in range(NUM_MASKS))
    assert not verdicts(mapped)[0].is_ordered


def test_clean_masks_in_a_folder_with_damaged_ones_are_not_listed() -> None:
    for draw in (made.regions, made.nuclei):
        bad = range(3, 2 * NUM_MASKS, 10)
        masks = [draw(seed) for seed in range(2 * NUM_MASKS)]
        for seed in bad:
            masks[seed] = made.jpeg(masks[seed], 90)
        (found,) = verdicts(masks)
        assert found.masks.tolist() == list(bad)


def test_levels_that_webp_never_decodes_to() -> None:
    # Flat areas of one grey each.
    greys = np.kron(np.arange(256, dtype=np.uint8).reshape(16, 16), np.ones((64, 64), np.uint8))
    decoded = np.unique(through_webp(greys, 100)[32::64, 32::64])
    # A few come from greys whose chroma is one off.
    assert np.isin(decoded, NEVER_MET).sum() <= 3 < np.isin(greys, NEVER_MET).sum()
    assert len(NEVER_MET) == 36
    low = NEVER_MET[:3]
    assert count_gaps(np.arange(60)) == (8, 8)
    assert count_gaps(np.setdiff1d(np.arange(20), low)) == (3, 0)
    assert count_gaps(np.array([0, 3, 700])) == (0, 0)


def test_a_crop_is_repaired_on_its_own_blocks() -> None:
    for seed in range(4):
        true, damaged = cropped(seed, 85), np.ascontiguousarray(cropped(seed, 85))
        true = np.ascontiguousarray(cropped(seed, None))
        row, column = 1 + seed % 7, 1 + seed // 7 % 7
        repaired = repair_jpeg(damaged, 85, grid=(-row % 8, -column % 8))
        assert repaired.labels.shape == true.shape
        assert np.mean(repaired.labels != true) < 0.1 * np.mean(damaged != true)
        assert repaired.confidence > 0.8


def test_an_audit_says_what_became_of_the_masks_and_repair_does_what_it_can(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    for folder, draw in {
        "crops": partial(cropped, quality=85),
        "large": partial(resized, quality=85, factor=1.5),
        "clean": partial(cropped, quality=None),
    }.items():
        for seed in range(8):
            data.image(f"{folder}/{seed}.png", np.full((8, 8, 3), 200, np.uint8))
            data.mask(f"{folder}/{seed}_mask.png", np.ascontiguousarray(draw(seed)))
    found = [
        item for item in histoprep.audit(data.root, workers=1).findings if item.code == "HP403"
    ]
    assert set(by_code(found)) == {"HP403 jpeg-history in crops", "HP403 jpeg-history in large"}
    said = {item.where: item for item in found}
    assert said["crops"].severity is Severity.ERROR
    assert "JPEG of quality 85, then cut or cropped" in said["crops"].cause
    assert "then enlarged by the nearest pixel" in said["large"].cause
    assert "before they were resized" in said["large"].suggestion
    workspace = Workspace.of(data.root)
    assert [source.verdict.block_px for source in lossy_sources(workspace.tiles)] == [8, 12]
    plan = plan_repair(workspace, RepairOptions(tmp_path / "repaired"))
    assert (plan.num_masks, plan.num_refused) == (16, 8)
    result = run_repair(plan)
    # Others are left alone for what is in them, and listed.
    assert result.num_repaired >= 6
    for path in sorted((tmp_path / "repaired" / "crops").glob("*_mask.png")):
        seed = int(path.name[0])
        after = np.asarray(Image.open(path))
        true, before = cropped(seed, None), cropped(seed, 85)
        assert np.count_nonzero(after != true) < 0.2 * np.count_nonzero(before != true)
