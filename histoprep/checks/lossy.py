"""HP403 and HP404: masks that were saved with loss or resized with interpolation, decided for a
source as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TYPE_CHECKING

from histoprep import rule_ids
from histoprep.checks import Evidence
from histoprep.checks.commands import fix
from histoprep.checks.registry import table_rule
from histoprep.choices import Severity
from histoprep.findings import Finding, FixSafety, Rule, Scope, finding
from histoprep.lossy.blocks import BLOCK_PX
from histoprep.lossy.jpeg_repair import MIN_QUALITY
from histoprep.lossy.verdict import FIRM_MASKS, LossKind
from histoprep.phrases import first_of, plural

if TYPE_CHECKING:
    from histoprep.tiles.lossy_sources import LossySource

LOSSY_MASK = Rule(
    *rule_ids.LOSSY_MASK,
    Severity.ERROR,
    Scope.SOURCE,
    definition=(
        "Masks are stored with lossy compression, or were once saved as JPEG, which leaves traces"
        " in 8x8 blocks; judged for each slide or folder."
    ),
    cause=(
        "The export or a viewer saved label masks as JPEG; this creates spurious labels along"
        " every boundary, which remain after a label map is applied."
    ),
    suggestion="Restore the masks from a lossless source, or repair them: histoprep repair ROOT",
    fix_safety=FixSafety.UNSAFE,
)
INTERPOLATED_MASK = Rule(
    *rule_ids.INTERPOLATED_MASK,
    Severity.ERROR,
    Scope.SOURCE,
    definition=(
        "Nearly all boundaries of a slide or folder are ramps: spurious intermediate values lie"
        " between two labels."
    ),
    cause=(
        "Masks were resized or smoothed with interpolation, drawn with anti-aliased outlines, or"
        " compressed with a lossy format without a block grid, such as WebP."
    ),
    suggestion=(
        "Resize label masks with nearest neighbour only; restore them, or repair them: histoprep"
        " repair ROOT"
    ),
    fix_safety=FixSafety.UNSAFE,
)

_LOOK = "; or look at the unclear ones: histoprep repair ROOT --unclear --dry-run --diff"
_REPAIRED = (
    "No command is needed: remap, manifest, stats, shards and training use the repaired masks. A"
    f" copy with the repaired masks in place: {fix('--only repaired')}"
)
_NO_REPAIR = (
    "No command can help: restore these masks from a lossless source; they do not contain enough to"
    " be repaired."
)
_KINDS_OF_FILES = (
    LossKind.JPEG_CONTAINER,
    LossKind.WEBP_CONTAINER,
    LossKind.OTHER_CONTAINER,
)
_SUGGESTIONS = {
    LossKind.WEBP_CONTAINER: _NO_REPAIR,
    LossKind.OTHER_CONTAINER: _NO_REPAIR,
    LossKind.WEBP_HISTORY: _NO_REPAIR,
}


@table_rule(LOSSY_MASK, INTERPOLATED_MASK)
def lossy(evidence: Evidence) -> Iterator[Finding]:
    """Yield one finding for the sources of one verdict: a warning if too few masks of a source have
    boundaries for a reliable one, an info if all are repaired.
    """
    alike: dict[tuple[object, ...], list[LossySource]] = {}
    for source in evidence.lossy:
        verdict, all_repaired = source.verdict, evidence.repaired.issuperset(source.paths)
        key = (verdict.kind, verdict.quality, verdict.block_px, verdict.firm, all_repaired)
        alike.setdefault(key, []).append(source)
    for sources in alike.values():
        yield _finding(sources, evidence.repaired)


def _finding(sources: list[LossySource], repaired: AbstractSet[str]) -> Finding:
    """Return the finding about sources of one kind, quality and reliability."""
    largest = max(sources, key=lambda source: len(source.paths))
    items = [(path, _detail(largest)) for source in sources for path in source.paths]
    num_repaired = sum(path in repaired for path, _ in items)
    found = finding(
        _rule_of(largest), items,
        denominator=sum(source.num_masks for source in sources), unit=_unit(largest),
        subcode=largest.verdict.kind.value,
        where=first_of([source.source for source in sources]),
        cause=(
            f"{_cause(largest, len(sources))}{_parts(sources)}{_unclear(sources)}"
            f"{_of_repaired(num_repaired, len(items))}"
        ),
        suggestion=(
            _REPAIRED
            if num_repaired == len(items)
            else _suggestion(largest) + (_LOOK if any(map(_tells_more, sources)) else "")
        ),
    )  # fmt: skip
    severity = found.severity if largest.verdict.firm else Severity.WARNING
    return replace(found, severity=Severity.INFO if num_repaired == len(items) else severity)


def _rule_of(source: LossySource) -> Rule:
    return INTERPOLATED_MASK if source.code == INTERPOLATED_MASK.code else LOSSY_MASK


def _unit(source: LossySource) -> str:
    """Return what was examined: a lossy file is recognised even if its mask has one label only."""
    return "masks" if source.verdict.kind in _KINDS_OF_FILES else "masks with boundaries"


def _of_repaired(number: int, whole: int) -> str:
    return f" {number:,} of {whole:,} have a repaired copy." if number else ""


def _detail(source: LossySource) -> str:
    quality = (
        f"JPEG quality {source.verdict.quality}" if source.verdict.quality else "quality unknown"
    )
    return (
        quality
        if source.verdict.kind in (LossKind.JPEG_HISTORY, LossKind.JPEG_CONTAINER)
        else source.verdict.kind.value
    )


def _cause(source: LossySource, num_sources: int) -> str:
    """Return the cause with the evidence of `source`, the largest of so many."""
    verdict = source.verdict
    shown = f"in {source.source}: {verdict.evidence}" if num_sources > 1 else verdict.evidence
    quality = f" of quality {verdict.quality}" if verdict.quality else ""
    what = {
        LossKind.JPEG_CONTAINER: "The masks are JPEG files",
        LossKind.WEBP_CONTAINER: "The masks are lossy WebP files",
        LossKind.OTHER_CONTAINER: "The masks are files of a lossy format",
        LossKind.WEBP_HISTORY: "The masks were once saved as lossy WebP",
        LossKind.JPEG_HISTORY: f"The masks were once saved as JPEG{quality}{_since(source)}",
        LossKind.INTERPOLATED: (
            "The masks were resized or smoothed with interpolation, drawn with anti-aliased"
            " outlines, or saved as lossy WebP"
        ),
    }[verdict.kind]
    if not verdict.firm:
        masks = plural(verdict.boundary_masks, "mask")
        return (
            f"Perhaps: {what[0].lower()}{what[1:]} ({shown}). Based on {masks} with"
            f" boundaries only; at least {FIRM_MASKS} are needed for a reliable verdict."
        )
    return f"{what} ({shown}). Some labels along their boundaries are spurious."


def _since(source: LossySource) -> str:
    """Return what became of masks after they were JPEG."""
    side = source.verdict.block_px
    if side is None and source.verdict.quality:
        return ""
    if side is None:
        return (
            ", with tables other than the standard ones (such as those of mozjpeg) or as colours"
            if source.verdict.is_ordered
            else ", then mapped to other values"
        )
    if side == BLOCK_PX:
        since = ", then cut or cropped"
        return since if source.verdict.quality else f"{since} and mapped to other values"
    return f", then {'enlarged' if side > BLOCK_PX else 'reduced'} by the nearest pixel"


def _parts(sources: list[LossySource]) -> str:
    """Return which groups or folders of sources that were judged together hold the listed masks."""
    names = sorted({part for source in sources for part in source.parts if part != source.source})
    if not names:
        return ""
    words = "group or folder" if len(names) == 1 else "groups or folders"
    return f" The listed masks are of {len(names):,} {words}: {first_of(names)}."


def _unclear(sources: list[LossySource]) -> str:
    """Return how many other masks of the sources are unclear."""
    number = sum(source.num_unclear for source in sources)
    if not number:
        return ""
    words = "mask has" if number == 1 else "masks have"
    return f" {number:,} more {words} boundaries too short to be judged and are unclear."


def _tells_more(source: LossySource) -> bool:
    """Return whether the quality of a source tells more of its unclear masks, so that those can be
    repaired.
    """
    verdict = source.verdict
    is_known = verdict.quality is not None and verdict.quality >= MIN_QUALITY
    return bool(source.unclear) and is_known and verdict.block_px in (None, BLOCK_PX)


def _suggestion(source: LossySource) -> str:
    verdict = source.verdict
    if verdict.kind in _SUGGESTIONS:
        return _SUGGESTIONS[verdict.kind]
    if verdict.block_px not in (None, BLOCK_PX):
        return (
            "No command can help: restore the masks from before they were resized, and repair those"
            " with histoprep repair."
        )
    if verdict.kind is LossKind.JPEG_HISTORY and verdict.quality is None and verdict.is_ordered:
        return (
            "No command can help: no standard quality explains these masks, so that they cannot be"
            " repaired; restore them from a lossless source."
        )
    if verdict.kind is LossKind.JPEG_HISTORY and verdict.quality is None:
        return (
            "No command can help: restore the masks from before the label map, and repair those"
            " with histoprep repair."
        )
    if verdict.quality is not None and verdict.quality < MIN_QUALITY:
        return (
            f"No command can help: restore these masks; below quality {MIN_QUALITY} whole regions"
            " may have moved to another label."
        )
    return _rule_of(source).suggestion
