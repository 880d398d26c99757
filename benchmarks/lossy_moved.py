"""Masks that were JPEG before they were cut into tiles, cropped or resized by the nearest pixel:
their blocks lie anywhere, and have other sides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmarks.lossy_sets import CLEAN, MANY, Family, Mask, jpeg, many_to_one
from benchmarks.lossy_tempting import TEMPTING
from histoprep.lossy.observations import MaskObservation, table_of
from histoprep.lossy.verdict import FIRM_MASKS, LossKind, judge

# Draws that thresholds were chosen on, and those of the tables.
CALIBRATION_SEEDS, TEST_SEED = (701, 702, 703, 901), 961
_SLIDE_PX, _MASKS = 600, 36
QUALITIES = (75, 90)
# A cut takes a slide-level mask and a generator.
Cut = Callable[[Mask, np.random.Generator], Mask]


def tiled(slide: Mask, rng: np.random.Generator, side: int) -> Mask:
    """Return one of the tiles of a slide-level mask."""
    row, column = (side * rng.integers(0, _SLIDE_PX // side, 2)).tolist()
    return np.ascontiguousarray(slide[row : row + side, column : column + side])


def cropped(slide: Mask, rng: np.random.Generator) -> Mask:
    """Return a part of 256 px from anywhere but the grid."""
    row, column = (8 * rng.integers(0, 40, 2) + rng.integers(1, 8, 2)).tolist()
    return np.ascontiguousarray(slide[row : row + 256, column : column + 256])


def resized(slide: Mask, rng: np.random.Generator, factor: float) -> Mask:
    """Return a slide-level mask resized by the nearest pixel, a part of 300 px from anywhere."""
    side = round(_SLIDE_PX * factor)
    large = np.asarray(Image.fromarray(slide).resize((side, side), Image.Resampling.NEAREST))
    row, column = rng.integers(0, side - 300 + 1, 2).tolist()
    return np.ascontiguousarray(large[row : row + 300, column : column + 300])


CUTS: dict[str, Cut] = {
    "tiles of 250 px": lambda slide, rng: tiled(slide, rng, 250),
    "tiles of 150 px": lambda slide, rng: tiled(slide, rng, 150),
    "tiles of 100 px": lambda slide, rng: tiled(slide, rng, 100),
    "crops of 256 px": cropped,
    "nearest x1.5": lambda slide, rng: resized(slide, rng, 1.5),
    "nearest x0.5": lambda slide, rng: resized(slide, rng, 0.5),
}


@dataclass(frozen=True)
class _Outcome:
    name: str
    counts: bool
    is_found: bool
    is_jpeg: bool
    quality_error: int | None
    listed: int
    boundary_masks: int


def moved_rows(real: dict[str, list[Mask]]) -> Iterator[str]:
    """Yield the table of such sources; a source counts when it has 30 masks with boundaries and
    JPEG changed a pixel in at least half of its masks.
    """
    yield (
        "| cut | quality | found | called JPEG | quality within 5 | masks listed | missed or called"
        " otherwise |"
    )
    yield "|---|---|---|---|---|---|---|"
    outcomes: dict[tuple[str, int], list[_Outcome]] = {}
    for name, slides in _slides({**CLEAN, **MANY}, real):
        for quality in QUALITIES:
            lossy = [jpeg(slide, quality) for slide in slides]
            for cut_name, cut in CUTS.items():
                outcome = _outcome(name, slides, lossy, cut, quality)
                outcomes.setdefault((cut_name, quality), []).append(outcome)
    for cut_name, quality in itertools.product(CUTS, QUALITIES):
        rows = [row for row in outcomes[cut_name, quality] if row.counts]
        named = [row for row in rows if row.quality_error is not None]
        near = sum(abs(row.quality_error or 0) <= 5 for row in named)
        missed = "; ".join(row.name for row in rows if not row.is_jpeg) or "-"
        listed = sum(row.listed for row in rows) / max(sum(row.boundary_masks for row in rows), 1)
        found, called = sum(row.is_found for row in rows), sum(row.is_jpeg for row in rows)
        yield (
            f"| {cut_name} | {quality} | {found} of {len(rows)} | {called} |"
            f" {near} of {len(named)} | {listed:.0%} | {missed} |"
        )


def moved_clean_rows(real: dict[str, list[Mask]]) -> Iterator[str]:
    """Yield the table of false alarms on the same cuts of clean masks, as drawn and after a
    many-to-one label map.
    """
    heads = "cut | clean sources | called JPEG or WebP | called interpolated | of these"
    yield f"| {heads} | highest score |"
    yield "|---|---|---|---|---|---|"
    seen: dict[str, list[tuple[str, set[LossKind], float]]] = {cut: [] for cut in CUTS}
    for name, slides in _slides({**CLEAN, **MANY, **TEMPTING}, real):
        for cut_name, cut in CUTS.items():
            cuts = _cut(slides, cut)
            for masks in (cuts, [many_to_one(mask) for mask in cuts]):
                signals = table_of([MaskObservation.of(mask) for mask in masks])
                kinds = {verdict.kind for verdict in judge(signals)}
                seen[cut_name].append((name, kinds, float(signals.grid_score.max())))
    for cut_name, rows in seen.items():
        soft = sum(LossKind.INTERPOLATED in kinds for _, kinds, _ in rows)
        jpegs = sum(bool(kinds - {LossKind.INTERPOLATED}) for _, kinds, _ in rows)
        names = "; ".join(sorted({name for name, kinds, _ in rows if kinds})) or "-"
        highest = max(score for _, _, score in rows)
        yield f"| {cut_name} | {len(rows)} | {jpegs} | {soft} | {names} | {highest:.1f} |"


def _slides(
    families: dict[str, Family], real: dict[str, list[Mask]]
) -> Iterator[tuple[str, list[Mask]]]:
    """Yield the slide-level masks of each source; real ones are continued by their mirror image."""
    for name, draw in families.items():
        rngs = [np.random.default_rng([TEST_SEED, number]) for number in range(_MASKS)]
        yield name, [draw(rng, _SLIDE_PX) for rng in rngs]
    for name, masks in real.items():
        yield name, [_slide(mask) for mask in masks[:_MASKS]]


def _cut(masks: Sequence[Mask], cut: Cut) -> list[Mask]:
    return [
        cut(mask, np.random.default_rng([TEST_SEED, 1, number]))
        for number, mask in enumerate(masks)
    ]


def _slide(mask: Mask) -> Mask:
    pad = [(0, max(0, _SLIDE_PX - size)) for size in mask.shape]
    return np.ascontiguousarray(np.pad(mask, pad, mode="reflect")[:_SLIDE_PX, :_SLIDE_PX])


def _outcome(
    name: str, slides: Sequence[Mask], lossy: Sequence[Mask], cut: Cut, quality: int
) -> _Outcome:
    clean, seen = _cut(slides, cut), _cut(lossy, cut)
    signals = table_of([MaskObservation.of(mask) for mask in seen])
    verdicts = judge(signals)
    first = max(verdicts, key=lambda verdict: len(verdict.masks), default=None)
    changed = np.median([np.any(a != b) for a, b in zip(clean, seen, strict=True)]) > 0
    boundary_masks = int(np.count_nonzero(signals.mixed))
    error = None if first is None or first.quality is None else first.quality - quality
    return _Outcome(
        name,
        bool(changed) and boundary_masks >= FIRM_MASKS,
        first is not None,
        first is not None and first.kind is LossKind.JPEG_HISTORY,
        error,
        sum(len(verdict.masks) for verdict in verdicts if verdict.kind is LossKind.JPEG_HISTORY),
        boundary_masks,
    )
