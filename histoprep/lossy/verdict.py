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
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from histoprep.lossy.jpeg_history import MAX_TELLING_QUALITY

# From this many masks with boundaries on, a verdict is firm.
FIRM_MASKS = 30
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
# Without a block phase, fixed points alone must be this clear, on this many blocks.
_CERTAIN_SHARE, _MIN_TRIED = 0.45, 128


class LossKind(StrEnum):
    """What became of masks."""

    JPEG_CONTAINER = "jpeg-container"
    WEBP_CONTAINER = "webp-container"
    OTHER_CONTAINER = "lossy-container"
    JPEG_HISTORY = "jpeg-history"
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
    `ramp_labels` how many ids it has in `ramp_ids`. `quality`, `fixed` and `tried` are of
    `FixedPoint`, 0 where it was not looked for; for a JPEG file its own quality. `container` is the
    lossy format of the file, or "".
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
    container: np.ndarray

    def take(self, masks: np.ndarray) -> MaskSignals:
        """Return the signals of the masks at these positions."""
        return MaskSignals(
            **{item.name: getattr(self, item.name)[masks] for item in dataclasses.fields(self)}
        )

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
    words what was measured.
    """

    kind: LossKind
    masks: np.ndarray
    boundary_masks: int
    quality: int | None
    firm: bool
    evidence: str


def judge(signals: MaskSignals) -> list[Verdict]:
    """Return what is wrong with the masks of one source; nothing for a clean one. No mask is in two
    verdicts.
    """
    verdicts = [*_containers(signals)]
    plain = np.flatnonzero((signals.container == "") & (signals.shifted > 0))
    lossy = _lossy(signals, plain)
    if lossy is not None:
        verdicts.append(lossy)
        plain = np.setdiff1d(plain, lossy.masks)
    ramps = _interpolated(signals, plain)
    return verdicts if ramps is None else [*verdicts, ramps]


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
    masks = masks[signals.mixed[masks] > 0]
    if not len(masks):
        return None
    quality, share = _agreed_quality(signals, masks)
    agreed = float(np.mean(signals.quality[masks] == quality)) if quality else 0.0
    quality = quality if share >= FIXED_SHARE or agreed > _AGREED_MASKS else None
    return Verdict(
        LossKind.JPEG_HISTORY,
        masks,
        len(masks),
        quality,
        len(masks) >= FIRM_MASKS,
        _evidence(signals, masks, quality, share),
    )


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
