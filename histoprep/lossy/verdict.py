"""What the masks of one source say together: clean, stored as JPEG, once JPEG, or interpolated.
Pure.

One mask with little boundary proves nothing, so signals are summed over masks. A source may be a
folder that mixes good and bad masks; it is therefore looked at in parts that are chosen by one
signal (how dense steps are, which knows no grid) and judged by another (their block phase). Chosen
by one that shares a count with the phase, clean masks of one small object would be those that
happen to lie well in their blocks. Thresholds come from `benchmarks/lossy.py`: no sum over clean
masks of any family, thin structures and lines along the blocks included, came above
1.6 / sqrt(shifted mixed blocks).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from histoprep.lossy.blocks import BLOCK_PX, CELL_PX
from histoprep.lossy.jpeg_history import MAX_TELLING_QUALITY, are_certain
from histoprep.lossy.onsets import HALVED_EXCESS, MIN_ONSETS

# From this many masks with boundaries on, a verdict is firm.
FIRM_MASKS = 30
# From this score on a mask shows a grid of blocks by itself. Of 15,000 clean masks of all families
# one in 7,000 reached it, all with boxes drawn along 8x8 blocks; the highest score was 2.2.
SHOWN = 2.0
# From this one on blocks of the grid are encoded again; a quality that they name shows it, too.
LOOKED_AT = 1.0
# Block phase of a lossy source: at least this, and this over the root of the number of mixed blocks
# more.
PHASE, PHASE_NOISE = 0.04, 1.5
# Differing neighbours per mixed block: a drawn boundary has 8 to 9, one that went through JPEG at
# least this.
ROUGHNESS = 9.5
# Masks that look damaged, or full of thin structures: dense steps, or soft contacts. Steps at a
# boundary that somebody drew have a density of 0.25 to 0.29.
_DENSE, SOFT = 0.3, 0.5
# Ramps: nearly every contact is soft, and this share of masks has two or more labels that only lie
# between others.
SOFT_SHARE, RAMP_MASKS, RAMP_LABELS = 0.9, 0.2, 2
MIN_CONTACTS = 16
BLOCKY_PHASE = -0.3
# Fixed points: share of blocks.
FIXED_SHARE = 0.15
# A quality is named also where this share of masks agrees on it; of those that a label map went
# over, at most a third does.
_AGREED_MASKS = 0.5
# A block phase that needs no rough blocks beside it.
_STRONG_PHASE, _STRONG_NOISE = 0.08, 2.0
# Share of blocks of two labels that are what JPEG leaves of labels one step apart: of drawn ones at
# most a seventh.
_RENAMED_SHARE, _MIN_RENAMED = 0.24, 96
# A source shows blocks of a JPEG when the scores of the masks that show them, one less each, come
# to this, and when so many of those that could show them do. Where each shows little, the mean
# score of at least twelve must be 1, and the masks above 1.5 are listed: clean sources have means
# of 0.7 at most.
_MIN_WEIGHT, _MIN_SHOWN_SHARE = 6.0, 0.02
_SHOWN_TOGETHER, _SCORE_TOGETHER, _MIN_TELLING = 1.5, 1.0, 12
# Blocks whose quality less than half of the masks name, and the weight of each counts one less:
# thin structures that were reduced by a fifth reach 3.1.
_SHOWN_ALONE = 3.0
# So many of a source's masks must show blocks of 4 px where each shows little: of thin structures
# that were reduced by a fifth or a third at most a seventh did.
_HALVED_SHARE = 0.3
# How many more ends than by chance lie at blocks, as a share of those by chance, in half of the
# masks: at most 0.30 of such clean structures, which show blocks of 4 px and of 8.
_EXCESS_HALVED, _EXCESS = 0.32, 0.45
# Above this share of masks whose blocks do not begin at the corner, those where they do were cut
# from the same large masks.
_MOVED_SHARE = 0.7
# In a source that was found masks with this score on their own grid show it: one clean mask in a
# hundred has it, of those with boxes along the blocks one in ten. Where nearly all that reach
# `SHOWN` name their quality, it is asked of all; not one clean mask names any. Fewer masks than
# that stand for nobody else. A quarter left over is most likely of the same kind. Qualities differ
# by this much when they are the same.
_NEAR = 2
_NEARLY_ALL_NAME = 0.8
_OWN_SHOWN, _NEARLY_ALL, _FEWEST_SHOWN, _REMAINDER = 0.75, 0.9, 3, 0.25
# Up to this one they are masks of a JPEG of their own that happen to look otherwise.
_CHANCE_SHARE = 0.1
# Share of steps that turn back: of ringing at least this, of ramps to eight times the size less;
# on a grid of 4 px, where ramps to twice and four times the size are met, more.
_TURNS, _TURNS_HALVED = 0.25, 0.42
# Levels that WebP lacks, between their neighbours, in each of so many masks; and how many masks
# that show blocks must lack the one or two that they could hold.
_WEBP_GAPS, _WEBP_MASKS, _WEBP_SHOWN = 3, 3, 20
# Without a block phase, fixed points alone must be this clear, on this many blocks.
_CERTAIN_SHARE, _MIN_TRIED = 0.45, 128


class LossKind(StrEnum):
    """What became of masks."""

    JPEG_CONTAINER = "jpeg-container"
    WEBP_CONTAINER = "webp-container"
    OTHER_CONTAINER = "lossy-container"
    JPEG_HISTORY = "jpeg-history"
    WEBP_HISTORY = "webp-history"
    INTERPOLATED = "interpolated"


_CONTAINERS = {
    "jpeg": LossKind.JPEG_CONTAINER,
    "webp": LossKind.WEBP_CONTAINER,
}
_CONTAINER_WORDS = {
    LossKind.JPEG_CONTAINER: "the files are JPEG",
    LossKind.WEBP_CONTAINER: "the files are lossy WebP",
}


@dataclass(frozen=True, slots=True)
class MaskSignals:
    """The signals of the masks of one source, one entry a mask in every array.

    `mixed` and `shifted` are `GridCounts.own` and `.shifted` of 8x8 blocks (0 for masks of one
    label); `steps`, `rim_pixels`, `rough_pairs`, `contacts`, `soft_contacts` as in `Signals`;
    `ramp_labels` how many ids it has in `ramp_ids`. `quality`, `fixed`, `tried` and `fixed_moved`
    are of `FixedPoint`, 0 where it was not looked for; for a JPEG file its own quality. `container`
    is the lossy format of the file, or "". What follows is of `BlockGrid`, 0 where too few thin
    traces end to tell; `turns` is NaN for labels without an order.
    """

    mixed: np.ndarray
    shifted: np.ndarray
    steps: np.ndarray
    rim_pixels: np.ndarray
    rough_pairs: np.ndarray
    contacts: np.ndarray
    soft_contacts: np.ndarray
    ramp_labels: np.ndarray
    quality: np.ndarray
    fixed: np.ndarray
    tried: np.ndarray
    fixed_moved: np.ndarray
    container: np.ndarray
    grid_score: np.ndarray
    own_score: np.ndarray
    grid_px: np.ndarray
    grid_row: np.ndarray
    grid_column: np.ndarray
    onsets: np.ndarray
    turns: np.ndarray
    webp_gaps: np.ndarray
    webp_filled: np.ndarray

    def take(self, masks: np.ndarray) -> MaskSignals:
        """Return the signals of the masks at these positions."""
        return MaskSignals(
            **{item.name: getattr(self, item.name)[masks] for item in dataclasses.fields(self)}
        )

    @property
    def is_own_grid(self) -> np.ndarray:
        """Return whether the block grid of each mask is that of a JPEG of this very mask."""
        result: np.ndarray = (
            (self.grid_px == BLOCK_PX) & (self.grid_row == 0) & (self.grid_column == 0)
        )
        return result

    @property
    def is_certain(self) -> np.ndarray:
        """Return whether each mask by itself names its quality; see `FixedPoint.is_certain`."""
        return are_certain(self.quality, self.fixed, self.tried)

    @property
    def density(self) -> np.ndarray:
        """Return differing neighbours per pixel near a boundary, of each mask; 0 without any."""
        result: np.ndarray = self.steps / np.maximum(self.rim_pixels, 1)
        return result

    @property
    def softness(self) -> np.ndarray:
        """Return the share of soft contacts of each mask; 0 where there are too few contacts to
        say.
        """
        return np.where(
            self.contacts >= MIN_CONTACTS, self.soft_contacts / np.maximum(self.contacts, 1), 0.0
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that is wrong with a source.

    `masks` are positions of the masks concerned, `boundary_masks` how many of them have boundaries.
    `quality` is None where values say nothing of it, because they were mapped to others afterwards.
    A verdict that is not `firm` rests on fewer than 30 masks with boundaries. `evidence` says in
    words what was measured. `unclear` are positions of masks of the source that cannot be told by
    themselves. `block_px` is the side of the blocks of a JPEG in masks that were cut from larger
    ones or resized afterwards, None where each mask was a JPEG of its own.
    """

    kind: LossKind
    masks: np.ndarray
    boundary_masks: int
    quality: int | None
    firm: bool
    evidence: str
    unclear: np.ndarray = field(default_factory=lambda: np.zeros(0, np.intp))
    block_px: float | None = None
    # Whether values still lie between those of the labels around them, as no label map leaves them.
    is_ordered: bool = False


def judge(signals: MaskSignals) -> list[Verdict]:
    """Return what is wrong with the masks of one source; nothing for a clean one. No mask is in two
    verdicts.
    """
    verdicts = [*_containers(signals)]
    plain = np.flatnonzero((signals.container == "") & (signals.shifted > 0))
    for find in (_webp, _moved, _lossy, _interpolated):
        verdict = find(signals, plain)
        if verdict is None:
            continue
        if _is_remainder(signals, verdict, verdicts):
            unclear = np.union1d(verdicts[-1].unclear, verdict.masks)
            verdicts[-1] = dataclasses.replace(verdicts[-1], unclear=unclear)
        else:
            verdicts.append(verdict)
            plain = np.setdiff1d(plain, np.union1d(verdict.masks, verdict.unclear))
    return verdicts


def _is_remainder(signals: MaskSignals, verdict: Verdict, earlier: list[Verdict]) -> bool:
    """Return whether soft boundaries are those of masks that do not show by themselves what more
    masks of the source do, or ring as JPEG does where some masks of the source went through it.
    """
    if verdict.kind is not LossKind.INTERPOLATED:
        return False
    if any(found.kind is LossKind.JPEG_HISTORY for found in earlier):
        turns = signals.turns[verdict.masks]
        if not np.isnan(turns).all() and float(np.nanmean(turns)) >= _TURNS_HALVED:
            return True
    for found in earlier:
        is_soft = found.kind is LossKind.WEBP_HISTORY or found.block_px is not None
        share = 1.0 if is_soft else _REMAINDER * (found.kind is LossKind.JPEG_HISTORY)
        if len(verdict.masks) < share * len(found.masks):
            return True
    return False


def _webp(signals: MaskSignals, plain: np.ndarray) -> Verdict | None:
    """Return that masks lack the grey levels that WebP lacks, and no others."""
    gaps, filled = signals.webp_gaps[plain], signals.webp_filled[plain]
    # Masks of few labels have few such levels; of these, the ones that show blocks must agree.
    has_blocks = np.maximum(signals.grid_score[plain], signals.own_score[plain]) >= SHOWN
    masks = plain[:0]
    for chosen, least, share in (
        (gaps >= _WEBP_GAPS, _WEBP_MASKS, _AGREED_MASKS),
        ((gaps > 0) & has_blocks, _WEBP_SHOWN, _NEARLY_ALL),
    ):
        lacking = plain[chosen & (filled == 0)]
        if len(lacking) >= max(least, share * np.count_nonzero(chosen)):
            masks = np.union1d(masks, lacking)
    if not len(masks):
        return None
    evidence = (
        f"{signals.webp_gaps[masks].sum():,} times a grey level is missing between its neighbours,"
        " and always one that lossy WebP cannot hold"
    )
    firm = len(masks) >= FIRM_MASKS
    return Verdict(LossKind.WEBP_HISTORY, masks, len(masks), None, firm, evidence)


def _moved(signals: MaskSignals, plain: np.ndarray) -> Verdict | None:
    """Return that masks show blocks of a JPEG that are not those of a JPEG of their own."""
    score, is_own = signals.grid_score[plain], signals.is_own_grid[plain]
    shown = _shown_elsewhere(signals, plain)
    if not len(shown):
        return None
    quality, _ = _agreed_quality(signals, shown)
    is_near = np.abs(signals.quality[plain] - (quality or 0)) <= _NEAR
    is_own_certain = signals.is_certain[plain] & ~signals.fixed_moved[plain] & is_near
    own = plain[((score >= SHOWN) & is_own) | is_own_certain]
    share = len(shown) / (len(shown) + len(own))
    if share < _CHANCE_SHARE:
        return None
    if share < _MOVED_SHARE:
        # Those that do not begin at the corner alone.
        own = own[:0]
    masks = np.union1d(shown, own)
    sides, numbers = np.unique(signals.grid_px[shown], return_counts=True)
    side = float(sides[numbers.argmax()])
    if not _rings(signals, masks, side) or not _is_strong(signals, masks, side):
        return None
    quality, share = _agreed_quality(signals, masks)
    quality = quality if share >= FIXED_SHARE and side >= BLOCK_PX else None
    score = float(signals.grid_score[masks].mean())
    words = [
        f"thin traces begin and end at blocks of {side:g} px in {len(masks):,} masks, on the"
        f" average {score:.1f} standard deviations above chance"
        if score >= LOOKED_AT
        else f"labels change along blocks of {side:g} px in {len(masks):,} masks"
    ]
    words += [f"JPEG quality {quality} explains {share:.0%} of their blocks"] if quality else []
    firm = _weight(signals, masks) >= FIRM_MASKS
    return Verdict(
        LossKind.JPEG_HISTORY,
        masks,
        len(masks),
        quality,
        firm,
        "; ".join(words),
        _unclear(signals, plain, masks),
        side,
    )


def _shown_elsewhere(signals: MaskSignals, plain: np.ndarray) -> np.ndarray:
    """Return the masks that show blocks which are not those of a JPEG of their own; none where they
    are not enough to say so of the source.
    """
    score, is_own = signals.grid_score[plain], signals.is_own_grid[plain]
    is_named = signals.is_certain[plain] & signals.fixed_moved[plain]
    telling, halved = plain[signals.grid_px[plain] > 0], _halved(signals, plain)
    shown: np.ndarray = plain[((score >= SHOWN) | is_named) & ~is_own]
    weight = _weight(signals, shown)
    if len(shown) and signals.is_certain[shown].mean() < _AGREED_MASKS:
        # Without a quality, as after a label map, the blocks alone must be clearer.
        shown = plain[(score >= _SHOWN_ALONE) & ~is_own]
        weight = _weight(signals, shown) - len(shown)
        shown = np.union1d(shown, halved)
    if len(halved) or (weight >= _MIN_WEIGHT and len(shown) >= _MIN_SHOWN_SHARE * len(telling)):
        return shown
    shown = plain[((score >= _SHOWN_TOGETHER) | is_named) & ~is_own]
    together = (
        len(telling) >= _MIN_TELLING
        and signals.grid_score[telling].mean() >= _SCORE_TOGETHER
        and signals.is_certain[shown].sum() >= _AGREED_MASKS * len(shown) > 0
    )
    return shown if together and _weight(signals, shown) >= _MIN_WEIGHT else shown[:0]


def _halved(signals: MaskSignals, plain: np.ndarray) -> np.ndarray:
    """Return the masks that show blocks of 4 px, as halved ones do; none where they are a smaller
    share of the source than thin structures reach that were reduced by a fifth.
    """
    telling = plain[signals.grid_px[plain] > 0]
    is_halved = signals.grid_px[telling] == CELL_PX
    shown: np.ndarray = telling[is_halved & (signals.grid_score[telling] >= _SHOWN_TOGETHER)]
    is_enough = (
        len(telling) >= _MIN_TELLING
        and len(shown) >= _HALVED_SHARE * len(telling)
        and _weight(signals, shown) >= _MIN_WEIGHT
    )
    return shown if is_enough else shown[:0]


def _weight(signals: MaskSignals, masks: np.ndarray) -> float:
    """Return how much masks together speak for blocks: the scores that they show them by, one less
    each, and at least one for those that name their quality.
    """
    excess = signals.grid_score[masks] - 1
    return float(np.maximum(excess, signals.is_certain[masks]).sum())


def _is_strong(signals: MaskSignals, masks: np.ndarray, side: float, *, own: bool = False) -> bool:
    """Return whether blocks that name no quality are more than what large masks show whose thin
    structures were reduced by a fifth or a third: scores grow with the size of masks, excess does
    not.
    """
    if np.mean(signals.is_certain[masks]) >= _AGREED_MASKS:
        return True
    is_halved = side == CELL_PX and not own
    period = CELL_PX if is_halved else BLOCK_PX
    score = signals.own_score[masks] if own else signals.grid_score[masks]
    score = score + HALVED_EXCESS * is_halved
    # Four counts make a score, two of which are of the fewer ends.
    excess = score * np.sqrt(2 * (period - 1) / np.maximum(signals.onsets[masks], 1))
    return float(np.median(excess)) >= (_EXCESS_HALVED if is_halved else _EXCESS)


def _rings(signals: MaskSignals, masks: np.ndarray, side: float) -> bool:
    """Return whether values rise and fall as ringing does: interpolation to twice the size or more
    leaves ramps that begin and end on a grid, too.
    """
    ordered = masks[~np.isnan(signals.turns[masks])]
    if not len(ordered) or np.mean(signals.is_certain[masks]) >= _AGREED_MASKS:
        return True
    least = _TURNS_HALVED if side == CELL_PX else _TURNS
    return float(signals.turns[ordered].mean()) >= least


def _containers(signals: MaskSignals) -> list[Verdict]:
    found = []
    others = sorted({str(name) for name in signals.container} - {"", *_CONTAINERS})
    kinds = _CONTAINERS | dict.fromkeys(others, LossKind.OTHER_CONTAINER)
    for name, kind in kinds.items():
        masks = np.flatnonzero(signals.container == name)
        if len(masks):
            known = signals.quality[masks] > 0
            quality = (
                _voted(signals.quality[masks][known], np.ones(known.sum()))
                if name == "jpeg"
                else None
            )
            words = _CONTAINER_WORDS.get(kind, f"the files are lossy {name}")
            evidence = words + (f", mostly of quality {quality}" if quality else "")
            found.append(
                Verdict(
                    kind,
                    masks,
                    int(np.count_nonzero(signals.mixed[masks])),
                    quality,
                    True,
                    evidence,
                )
            )
    return found


def _lossy(signals: MaskSignals, plain: np.ndarray) -> Verdict | None:
    suspects = _suspects(signals, plain)
    shown = _shown(signals, plain)
    if not len(suspects) and not _show_together(signals, plain, shown):
        return None
    rest = np.setdiff1d(suspects, shown)
    show_together = (
        _has_block_phase(signals, rest)
        or _is_fixed(signals, rest)
        or _renamed_share(signals, rest) >= _RENAMED_SHARE
    )
    masks, unclear = shown, _unclear(signals, plain, shown)
    if len(shown) < _FEWEST_SHOWN or (show_together and len(shown) < len(rest)):
        # What hardly a mask shows by itself, all show together.
        masks, unclear = suspects, plain[:0]
    elif show_together or len(rest) <= _REMAINDER * len(suspects):
        unclear = np.union1d(rest, unclear)
    quality, share = _agreed_quality(signals, masks)
    agreed = float(np.mean(signals.quality[masks] == quality)) if quality else 0.0
    quality = quality if share >= FIXED_SHARE or agreed > _AGREED_MASKS else None
    return Verdict(
        LossKind.JPEG_HISTORY,
        masks,
        len(masks),
        quality,
        max(len(masks), len(suspects)) >= FIRM_MASKS,
        _evidence(signals, masks, quality, share),
        unclear,
        is_ordered=bool(np.median(signals.ramp_labels[masks]) >= RAMP_LABELS),
    )


def _suspects(signals: MaskSignals, plain: np.ndarray) -> np.ndarray:
    """Return the masks of the parts of a source that show together what JPEG does, none where no
    part does; the parts hold masks that look damaged and those that do not.
    """
    damaged = (signals.density[plain] >= _DENSE) | (signals.softness[plain] >= SOFT)
    parts = [
        part
        for part in (plain[damaged], plain[~damaged])
        if _has_block_phase(signals, part) or _is_fixed(signals, part)
    ]
    masks = np.sort(np.concatenate(parts)) if parts else plain[:0]
    if not parts and (
        _has_block_phase(signals, plain) or _renamed_share(signals, plain) >= _RENAMED_SHARE
    ):
        masks = plain
    # Masks without a block of two labels show nothing, whatever their past.
    chosen: np.ndarray = masks[signals.mixed[masks] > 0]
    return chosen


def _shown(signals: MaskSignals, plain: np.ndarray) -> np.ndarray:
    """Return the masks that show by themselves that they were JPEG of their own: their blocks, or
    their quality alone where nearly all that surely show their blocks name it.
    """
    named = signals.is_certain[plain]
    # Where another grid shows, that of the corner stands out by chance.
    is_other = ~signals.is_own_grid[plain] & (signals.grid_score[plain] >= SHOWN)
    own = np.where(is_other, 0.0, signals.own_score[plain])
    sure = own >= SHOWN
    if np.count_nonzero(sure) < _FEWEST_SHOWN:
        sure = named | (own >= _OWN_SHOWN)
    name_it = np.count_nonzero(sure) >= _FEWEST_SHOWN and named[sure].mean() >= _NEARLY_ALL_NAME
    least = SHOWN if name_it else _OWN_SHOWN
    shown: np.ndarray = plain[(signals.mixed[plain] > 0) & (named | (own >= least))]
    return np.union1d(shown, _alike(signals, plain, shown))


def _alike(signals: MaskSignals, plain: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Return the masks with fewer blocks than name a quality by themselves, most of which are fixed
    points of the quality that the shown masks agree on.
    """
    quality, share = _agreed_quality(signals, shown)
    if quality is None or share < FIXED_SHARE:
        return plain[:0]
    near = np.abs(signals.quality[plain] - quality) <= _NEAR
    fixed, tried = signals.fixed[plain], signals.tried[plain]
    alike: np.ndarray = plain[near & (fixed >= _FEWEST_SHOWN) & (2 * fixed >= tried)]
    return alike


def _show_together(signals: MaskSignals, plain: np.ndarray, shown: np.ndarray) -> bool:
    """Return whether the masks that show blocks of their own are enough to say so of the source."""
    sure = shown[(signals.own_score[shown] >= SHOWN) | signals.is_certain[shown]]
    telling = np.count_nonzero(signals.grid_px[plain])
    weight = _weight(signals, sure)
    if len(sure) and signals.is_certain[sure].mean() < _AGREED_MASKS:
        sure = shown[signals.own_score[shown] >= _SHOWN_ALONE]
        weight = _weight(signals, sure) - len(sure)
    return bool(
        weight >= _MIN_WEIGHT
        and len(sure) >= _MIN_SHOWN_SHARE * telling
        and _rings(signals, sure, BLOCK_PX)
        and _is_strong(signals, sure, BLOCK_PX, own=True)
    )


def _unclear(signals: MaskSignals, plain: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """Return the masks whose boundaries are too short to show what the listed ones show."""
    if not len(listed):
        return plain[:0]
    rate = float(np.median(signals.onsets[listed] / np.maximum(signals.mixed[listed], 1)))
    others = np.setdiff1d(plain, listed)
    others = others[(signals.mixed[others] > 0) & (signals.onsets[others] < MIN_ONSETS)]
    short: np.ndarray = others[signals.mixed[others] * rate < 2 * MIN_ONSETS]
    return short


def _evidence(signals: MaskSignals, masks: np.ndarray, quality: int | None, share: float) -> str:
    own, shifted = signals.mixed[masks].sum(), signals.shifted[masks].sum()
    phase = 1 - own / shifted if shifted else 0.0
    words = (
        [f"{phase:.0%} fewer 8x8 blocks hold two labels than on a shifted grid"]
        if phase >= PHASE
        else []
    )
    words += [f"JPEG quality {quality} explains {share:.0%} of such blocks"] if quality else []
    renamed = _renamed_share(signals, masks)
    if not quality and renamed >= _RENAMED_SHARE:
        words.append(
            f"{renamed:.0%} of the blocks of two labels are as JPEG leaves labels one step apart,"
            " called otherwise afterwards"
        )
    score = float(np.median(signals.own_score[masks]))
    if not words and score > 0:
        words.append(
            f"thin traces begin and end at 8x8 blocks, {score:.1f} standard deviations above chance"
            " in half of the masks"
        )
    return "; ".join(words)


def _has_block_phase(signals: MaskSignals, masks: np.ndarray) -> bool:
    own, shifted = float(signals.mixed[masks].sum()), float(signals.shifted[masks].sum())
    if own == 0 or shifted == 0:
        # Uniform in all blocks: masks drawn at a lower resolution (HP405), which prove nothing.
        return False
    rough, phase = float(signals.rough_pairs[masks].sum()) / own, 1 - own / shifted
    strong = phase >= _STRONG_PHASE + _STRONG_NOISE / np.sqrt(shifted)
    return bool(strong or (rough >= ROUGHNESS and phase >= PHASE + PHASE_NOISE / np.sqrt(shifted)))


def _is_fixed(signals: MaskSignals, masks: np.ndarray) -> bool:
    """Return whether masks without a block phase are fixed points all the same, as where labels are
    one step apart.
    """
    quality, share = _agreed_quality(signals, masks)
    return (
        quality is not None
        and share >= _CERTAIN_SHARE
        and signals.tried[masks][signals.quality[masks] > 0].sum() >= _MIN_TRIED
    )


def _renamed_share(signals: MaskSignals, masks: np.ndarray) -> float:
    """Return the share of blocks that are fixed points once their labels are renamed; 0 when too
    few were tried to say.
    """
    renamed = masks[signals.quality[masks] == 0]
    tried = signals.tried[renamed].sum()
    return float(signals.fixed[renamed].sum() / tried) if tried >= _MIN_RENAMED else 0.0


def _agreed_quality(signals: MaskSignals, masks: np.ndarray) -> tuple[int | None, float]:
    """Return the quality with most fixed blocks, 97 at most, and the share of blocks tried that it
    or the next two fix; (None, 0) without any.
    """
    quality, fixed, tried = signals.quality[masks], signals.fixed[masks], signals.tried[masks]
    telling = (quality > 0) & (quality <= MAX_TELLING_QUALITY)
    voted = _voted(quality[telling], fixed[telling])
    if voted is None:
        return None, 0.0
    return voted, float(
        fixed[telling & (np.abs(quality - voted) <= 2)].sum() / tried[quality > 0].sum()
    )


def _interpolated(signals: MaskSignals, plain: np.ndarray) -> Verdict | None:
    soft = plain[signals.softness[plain] >= SOFT_SHARE]
    ramps = soft[signals.ramp_labels[soft] >= RAMP_LABELS]
    if not len(ramps) or len(ramps) < RAMP_MASKS * len(soft):
        return None
    contacts, number = signals.contacts[soft].sum(), int(signals.ramp_labels[soft].max())
    gradual = (
        f"{signals.soft_contacts[soft].sum() / contacts:.0%} of the steps between labels are"
        " gradual"
    )
    evidence = f"{gradual}; up to {number} labels a mask occur between two others only"
    return Verdict(LossKind.INTERPOLATED, soft, len(soft), None, len(soft) >= FIRM_MASKS, evidence)


def _voted(quality: np.ndarray, votes: np.ndarray) -> int | None:
    """Return the quality with most votes; None without any."""
    counts = np.bincount(quality.astype(np.intp), weights=votes)
    return int(counts.argmax()) if len(counts) and counts.max() > 0 else None
