"""HP418 to HP421: masks that do not belong where they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from histoprep import rule_ids
from histoprep.checks import Evidence
from histoprep.checks.commands import exclude, fix
from histoprep.checks.registry import table_rule
from histoprep.choices import Severity
from histoprep.findings import Finding, FixSafety, Mark, Rule, Scope, finding
from histoprep.phrases import first_of

if TYPE_CHECKING:
    from histoprep.tiles.misfits import Misfit, MisfitMask

MISORIENTED_MASKS = Rule(
    *rule_ids.MISORIENTED_MASKS,
    Severity.ERROR,
    Scope.SOURCE,
    definition=(
        "The masks of a slide or folder fit their images only when they are flipped, turned or"
        " transposed; judged by at least 10 tiles."
    ),
    cause="Rows and columns, or the direction of an axis, were mixed up when masks were exported.",
    suggestion=(
        "Export the masks again in the orientation of the images, or make a copy in which they are"
        f" turned: {fix('--only fit')}"
    ),
    fix_safety=FixSafety.SAFE,
    mark=Mark.FIT,
)
SHIFTED_MASKS = Rule(
    *rule_ids.SHIFTED_MASKS,
    Severity.ERROR,
    Scope.SOURCE,
    definition=(
        "The masks of a slide or folder fit their images only when they are moved by some pixels,"
        " or enlarged; judged by at least 10 tiles."
    ),
    cause="Images and masks were cut with different offsets, or exported at two magnifications.",
    suggestion=(
        "Cut the masks again at the places and the magnification of the images, or make a copy in"
        f" which they are moved: {fix('--only fit')}"
    ),
    mark=Mark.FIT,
)
MASKS_OF_OTHER_TILES = Rule(
    *rule_ids.MASKS_OF_OTHER_TILES,
    Severity.ERROR,
    Scope.SOURCE,
    definition="Masks fit the images of other tiles of their slide or folder, not their own.",
    cause="Images and masks were matched by their places in two lists, or files were swapped.",
    suggestion=(
        "No command can rename files of a data set: give each mask the name of the image that it"
        " fits, or list both in a table for --pairs."
    ),
    mark=Mark.FIT,
)
ILL_FITTING_MASK = Rule(
    "HP421",
    "ill-fitting-mask",
    Severity.WARNING,
    Scope.TILE,
    definition=(
        "The mask fits its image no better than chance, while nearly all others of its slide or"
        " folder fit."
    ),
    cause="The mask belongs to an image that is not there, was drawn by mistake, or was turned.",
    suggestion=(
        "Look at these tiles, worst first, and correct their masks. To leave them out:"
        f" {exclude('HP421')}"
    ),
    mark=Mark.FIT,
)


@table_rule(MISORIENTED_MASKS, SHIFTED_MASKS, MASKS_OF_OTHER_TILES, ILL_FITTING_MASK)
def misfits(evidence: Evidence) -> Iterator[Finding]:
    """Yield one finding for each kind of misfit of a source, or of masks of any sources; a warning
    where it is not beyond doubt.
    """
    from histoprep.tiles.misfits import MisfitKind

    rules = {
        MisfitKind.MISORIENTED: MISORIENTED_MASKS,
        MisfitKind.SHIFTED: SHIFTED_MASKS,
        MisfitKind.SCALED: SHIFTED_MASKS,
        MisfitKind.OTHER_TILES: MASKS_OF_OTHER_TILES,
        MisfitKind.SWAPPED: MASKS_OF_OTHER_TILES,
        MisfitKind.UNFIT: ILL_FITTING_MASK,
    }
    alike: dict[tuple[object, ...], list[Misfit]] = {}
    for number, misfit in enumerate(evidence.misfits):
        # What holds of a whole source has a cause of its own.
        key = number if misfit.kind.is_of_source else misfit.kind
        alike.setdefault((key, misfit.is_firm), []).append(misfit)
    for sources in alike.values():
        found = _finding(rules[sources[0].kind], sources)
        yield found if sources[0].is_firm else replace(found, severity=Severity.WARNING)


def _finding(rule: Rule, sources: list[Misfit]) -> Finding:
    """Return the finding about one kind of misfit in sources."""
    return finding(
        rule,
        [(mask.mask_path, _detail(misfit, mask)) for misfit in sources for mask in misfit.masks],
        denominator=sum(max(misfit.num_tiles, len(misfit.masks)) for misfit in sources),
        unit="masks",
        subcode=_subcode(sources[0]),
        where=first_of([misfit.source for misfit in sources]),
        cause=_cause(sources[0]),
        suggestion=_suggestion(sources[0]),
    )


def _subcode(misfit: Misfit) -> str:
    if misfit.orientation is not None:
        return misfit.orientation.value
    return "" if misfit.kind.value == "unfit" else misfit.kind.value


def remedy(misfit: Misfit) -> str:
    """Return what has to be done to all masks of a misfit, such as "flipped left to right"."""
    if misfit.orientation is not None:
        return misfit.orientation.advice
    if misfit.scale is not None:
        factor = f"{misfit.scale:.3g}"
        return f"{'enlarged' if misfit.scale > 1 else 'shrunk'} by a factor of {factor}"
    right, down = (round(value) for value in misfit.move_px)
    ways = [
        f"{abs(number)} px {word}"
        for number, word in (
            (right, "right" if right > 0 else "left"),
            (down, "down" if down > 0 else "up"),
        )
        if number
    ]
    return f"moved {' and '.join(ways)}"


def _detail(misfit: Misfit, mask: MisfitMask) -> str:
    if mask.fitting_mask is not None:
        return f"the mask that fits its image is {mask.fitting_mask}"
    if misfit.kind.value == "unfit":
        fits = f"; it fits when it is {mask.orientation.advice}" if mask.orientation else ""
        return f"fits no better than chance (evidence {mask.evidence:.0f} nats){fits}"
    return f"must be {remedy(misfit)}"


def _cause(misfit: Misfit) -> str:
    tiles = f"{misfit.num_tiles:,} tiles"
    weighed = f"evidence of {tiles}: {misfit.evidence:,.0f} nats as they are"
    perhaps = "" if misfit.is_firm else "Perhaps: "
    if misfit.kind.value == "other-tiles":
        return (
            f"{perhaps}The masks are those of other tiles of the list ({weighed},"
            f" {misfit.best:,.0f} where they belong)."
        )
    if misfit.kind.is_of_source:
        return (
            f"{perhaps}{_rule_cause(misfit)} The masks must be {remedy(misfit)} ({weighed},"
            f" {misfit.best:,.0f} then)."
        )
    return ""


def _rule_cause(misfit: Misfit) -> str:
    return (MISORIENTED_MASKS if misfit.orientation else SHIFTED_MASKS).cause


def _suggestion(misfit: Misfit) -> str:
    """Return advice that differs from that of the rule."""
    if misfit.kind.value == "scaled":
        return (
            "No command can restore what was cut off: export the masks again at the magnification"
            " of the images."
        )
    if misfit.kind.value in ("misoriented", "shifted") and not misfit.is_firm:
        return (
            "No command can be sure of it: look at some of them, and if it is so, export the masks"
            " again."
        )
    if misfit.kind.value == "swapped":
        return (
            "No command can rename files of a data set: look at these tiles, and give each mask the"
            " name of the image that it fits."
        )
    return ""
