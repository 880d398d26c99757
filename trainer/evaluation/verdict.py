"""What the numbers of an evaluation mean, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.evaluation.copies import CopySearch
from trainer.evaluation.measured import Measured

_FOLLOWS, _SOMEWHAT = 0.8, 0.5


@dataclass(frozen=True, slots=True)
class EvaluationVerdict:
    """`word` sums up; `tone` is passed, reserved or failed; `sentences` give the reasons."""

    word: str
    tone: str
    sentences: tuple[str, ...]


def judge(measures: Mapping[str, Measured], copies: CopySearch) -> EvaluationVerdict:
    """Return the verdict: copies weigh most, then whether masks are followed, then looks."""
    sentences = [
        *_of_distance(measures["kid"]),
        *_of_faithfulness(measures.get("faithfulness")),
        *_of_spread(measures.get("spread")),
        *_of_copies(copies),
    ]
    word, tone = _in_short(measures, copies)
    return EvaluationVerdict(word, tone, tuple(sentences))


def looks_real(kid: Measured) -> bool:
    """Return whether the distance lies inside what real tiles give among themselves."""
    return kid.is_known and kid.value <= kid.floor_high


def follows_masks(faithfulness: Measured | None) -> bool | None:
    """Return whether masks are followed at least half as clearly as by real tiles, and more than by
    shuffled ones; None where that was not measured.
    """
    if faithfulness is None or not math.isfinite(faithfulness.value):
        return None
    shuffled = faithfulness.more.get("shuffled") or 0.0
    return faithfulness.value >= _SOMEWHAT and faithfulness.low > shuffled


def _in_short(measures: Mapping[str, Measured], copies: CopySearch) -> tuple[str, str]:
    follows, kid = follows_masks(measures.get("faithfulness")), measures["kid"]
    if copies.verdict == "copies":
        return "Copies of training tiles", "failed"
    if follows is False:
        return "The masks are not followed", "failed"
    if not kid.is_known:
        return "Too few real groups to tell", "reserved"
    if not looks_real(kid):
        return (
            "Follows its masks, but differs from real tiles"
            if follows
            else "Differs from real tiles"
        ), "reserved"
    if copies.verdict == "cannot tell":
        return "Looks real; whether it copies cannot be told", "reserved"
    return (
        ("Like real tiles, for its masks", "passed")
        if follows
        else ("Looks real; masks were not measured", "reserved")
    )


def _of_distance(kid: Measured) -> list[str]:
    if not kid.is_known:
        return ["There are too few real groups for a floor, so distances say nothing."]
    inside = f"real halves give {kid.floor_low:.2f} to {kid.floor_high:.2f}"
    if looks_real(kid):
        return [
            f"KID {kid.value:.2f} lies inside the floor ({inside}): no difference can be shown."
        ]
    times = f", {kid.value / kid.floor_high:.1f} times its bound" if kid.floor_high > 0 else ""
    return [f"KID {kid.value:.2f} lies above the floor{times} ({inside})."]


def _of_faithfulness(found: Measured | None) -> list[str]:
    if found is None or not math.isfinite(found.value):
        return ["Whether masks are followed was not measured."]
    shuffled, ceiling = found.more.get("shuffled"), found.more.get("ceiling")
    how = (
        "as clearly as by real tiles"
        if found.high >= 1 or found.value >= 1
        else "nearly as clearly as by real tiles"
        if found.value >= _FOLLOWS
        else "in part"
        if found.value >= _SOMEWHAT
        else "hardly"
    )
    text = f"Masks are followed {how}: {found.value:.2f} of the mean IoU of real tiles"
    text += f" ({found.low:.2f} to {found.high:.2f})" if found.low != found.high else ""
    text += f", {shuffled:.2f} with shuffled masks" if shuffled is not None else ""
    text += f"; the codec allows {ceiling:.2f}" if ceiling is not None else ""
    return [f"{text}."]


def _of_spread(found: Measured | None) -> list[str]:
    if found is None or not found.is_known:
        return []
    floor = f"{found.floor_low:.2f} to {found.floor_high:.2f}"
    inside = f"({found.low:.2f} to {found.high:.2f}; real halves {floor})"
    if found.high < found.floor_low:
        return [f"Within a class, tiles vary too little: {found.value:.2f} of real ones {inside}."]
    if found.low > found.floor_high:
        return [f"Within a class, tiles vary too much: {found.value:.2f} of real ones {inside}."]
    return [f"Within a class, tiles vary as real ones do: {found.value:.2f} {inside}."]


def _of_copies(copies: CopySearch) -> list[str]:
    more = copies.measured.more
    planted = f"{more['planted_found']} of {more['planted']} planted copies were found"
    if copies.verdict == "cannot tell":
        why = planted if more["planted"] else "there are too few held-out tiles or groups"
        return [f"Whether training tiles are copied cannot be told: {why}."]
    if copies.found:
        count = len(copies.found)
        tiles = "tile is a copy" if count == 1 else "tiles are copies"
        return [f"{count} generated {tiles} of training tiles ({planted})."]
    return [f"No copy of a training tile was found ({planted})."]
