"""Sources in which some masks went through JPEG and the others did not: which masks are listed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.lossy_moved import cropped
from benchmarks.lossy_sets import CLEAN, MANY, Mask, jpeg
from histoprep.lossy.observations import MaskObservation, table_of
from histoprep.lossy.verdict import judge

TEST_SEED = 971
FAMILIES = (
    "smooth regions, 55 labels",
    "bands, labels 0-4",
    "one class, 7 on 0",
    "nuclei, border 1 px between",
    "12 labels one step apart",
    "vessels 1-3 px",
)
SHARES, QUALITIES, KINDS = (0.1, 0.3), (75, 90), ("own grid", "crops")
_MASKS, _SLIDE_PX = 60, 600


def mixed_rows() -> Iterator[str]:
    """Yield the table of mixed sources: how much of what is listed is damaged, and how much of what
    is damaged is listed.
    """
    yield (
        "| family | blocks | quality | damaged | listed | of these damaged | precision | recall |"
        " cannot be told | wholly damaged source found |"
    )
    yield "|---" * 10 + "|"
    for name in FAMILIES:
        slides = [
            {**CLEAN, **MANY}[name](np.random.default_rng([TEST_SEED, number]), _SLIDE_PX)
            for number in range(_MASKS)
        ]
        for kind in KINDS:
            clean = [_seen(slide, kind, number) for number, slide in enumerate(slides)]
            for quality in QUALITIES:
                bad = [_seen(jpeg(slide, quality), kind, n) for n, slide in enumerate(slides)]
                whole = "yes" if judge(table_of(bad)) else "no"
                for share in SHARES:
                    chosen = set(range(0, _MASKS, round(1 / share)))
                    mixed = [bad[n] if n in chosen else clean[n] for n in range(_MASKS)]
                    verdicts = judge(table_of(mixed))
                    listed = {int(mask) for verdict in verdicts for mask in verdict.masks}
                    unclear = sum(len(verdict.unclear) for verdict in verdicts)
                    # A mask of one label went through JPEG as it was.
                    bounded = {n for n in chosen if bad[n].signals is not None}
                    right = len(listed & bounded)
                    precision = f"{right / len(listed):.2f}" if listed else "-"
                    yield (
                        f"| {name} | {kind} | {quality} | {len(bounded)} of {_MASKS} |"
                        f" {len(listed)} | {right} | {precision} |"
                        f" {right / max(len(bounded), 1):.2f} | {unclear} | {whole} |"
                    )


def _seen(slide: Mask, kind: str, number: int) -> MaskObservation:
    if kind == "crops":
        return MaskObservation.of(cropped(slide, np.random.default_rng([TEST_SEED, 1, number])))
    return MaskObservation.of(np.ascontiguousarray(slide[:256, :256]))
