"""HP403 and HP404: masks that were saved with loss or resized with interpolation, decided for a
source as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from histoprep import rule_ids
from histoprep.checks import Evidence
from histoprep.checks.registry import table_rule
from histoprep.choices import Severity
from histoprep.findings import Finding, FixSafety, Rule, Scope, finding
from histoprep.lossy.jpeg_repair import MIN_QUALITY
from histoprep.lossy.verdict import FIRM_MASKS, Kind
from histoprep.phrases import plural
from histoprep.tiles.lossy_sources import LossySource

LOSSY_MASK = Rule(
    *rule_ids.LOSSY_MASK,
    Severity.ERROR,
    Scope.SOURCE,
    definition=(
        "Masks are stored with loss, or were once saved as JPEG: 8x8 blocks show it, for a "
        "slide or folder as a whole."
    ),
    cause=(
        "The export or a viewer saved label masks as images; every boundary then carries "
        "labels that nobody drew, also after a remap."
    ),
    suggestion="Restore the masks from a lossless source, or repair them: histoprep repair",
    fix_safety=FixSafety.UNSAFE,
)
INTERPOLATED_MASK = Rule(
    *rule_ids.INTERPOLATED_MASK,
    Severity.ERROR,
    Scope.SOURCE,
    definition=(
        "Nearly all boundaries of a slide or folder are ramps: between two labels lie values "
        "that stand for neither."
    ),
    cause=(
        "Masks were resized or smoothed as images, or compressed with loss but without a "
        "block grid, as WebP does."
    ),
    suggestion=(
        "Resize label masks with the nearest pixel only; restore them, or repair them: "
        "histoprep repair"
    ),
    fix_safety=FixSafety.UNSAFE,
)

_REPAIRED = "Nothing: remap, manifest, stats, shards and training take the repaired masks."
_NO_REPAIR = (
    "Restore these masks from a lossless source; what is left in them is not enough to repair them."
)
_KINDS_OF_FILES = (
    Kind.JPEG_CONTAINER,
    Kind.WEBP_CONTAINER,
    Kind.OTHER_CONTAINER,
    Kind.LOSSY_COLOURS,
)
_SUGGESTIONS = {
    Kind.LOSSY_COLOURS: "Restore these masks from a lossless source, as 8-bit label ids.",
    Kind.WEBP_CONTAINER: _NO_REPAIR,
    Kind.OTHER_CONTAINER: _NO_REPAIR,
}


@table_rule(LOSSY_MASK, INTERPOLATED_MASK)
def lossy(evidence: Evidence) -> Iterator[Finding]:
    """Yield one finding a source; a warning where too few of its masks have boundaries to be sure,
    and an info where all are repaired.
    """
    for source in evidence.lossy:
        items = [(path, _detail(source)) for path in source.paths]
        repaired = len(evidence.repaired.intersection(source.paths))
        found = finding(
            _rule_of(source), items, denominator=source.num_masks, unit=_unit(source),
            subcode=source.verdict.kind.value, where=source.source,
            cause=f"{_cause(source)}{_of_repaired(repaired, len(items))}",
            suggestion=_REPAIRED if repaired == len(items) else _suggestion(source),
        )  # fmt: skip
        severity = found.severity if source.verdict.firm else Severity.WARNING
        yield replace(found, severity=Severity.INFO if repaired == len(items) else severity)


def _rule_of(source: LossySource) -> Rule:
    return INTERPOLATED_MASK if source.code == INTERPOLATED_MASK.code else LOSSY_MASK


def _unit(source: LossySource) -> str:
    """Return what was looked at: a file that was stored with loss tells so even where its mask is
    of one label.
    """
    return "masks" if source.verdict.kind in _KINDS_OF_FILES else "masks with boundaries"


def _of_repaired(number: int, whole: int) -> str:
    return f" {number:,} of {whole:,} have a repaired mask beside the data set." if number else ""


def _detail(source: LossySource) -> str:
    quality = (
        f"JPEG quality {source.verdict.quality}" if source.verdict.quality else "quality unknown"
    )
    return (
        quality
        if source.verdict.kind in (Kind.JPEG_HISTORY, Kind.JPEG_CONTAINER)
        else source.verdict.kind.value
    )


def _cause(source: LossySource) -> str:
    verdict = source.verdict
    quality = (
        f" of quality {verdict.quality}" if verdict.quality else ", then mapped to other values"
    )
    what = {
        Kind.JPEG_CONTAINER: "The masks are JPEG files",
        Kind.WEBP_CONTAINER: "The masks are WebP files with loss",
        Kind.OTHER_CONTAINER: "The masks are files of a format with loss",
        Kind.LOSSY_COLOURS: "Colour-coded masks were saved with loss or resized with interpolation",
        Kind.JPEG_HISTORY: f"The masks were once saved as JPEG{quality}",
        Kind.INTERPOLATED: (
            "The masks were resized or smoothed with interpolation, or saved as lossy WebP"
        ),
    }[verdict.kind]
    if not verdict.firm:
        masks = plural(verdict.boundary_masks, "mask")
        return (
            f"Perhaps: {what[0].lower()}{what[1:]} ({verdict.evidence}). Only {masks} with"
            f" boundaries speak for it; {FIRM_MASKS} would be sure."
        )
    return f"{what} ({verdict.evidence}). Labels along their boundaries are partly false."


def _suggestion(source: LossySource) -> str:
    verdict = source.verdict
    if verdict.kind in _SUGGESTIONS:
        return _SUGGESTIONS[verdict.kind]
    if verdict.kind is Kind.JPEG_HISTORY and verdict.quality is None:
        return "Restore the masks from before the label map, and repair those: histoprep repair"
    if verdict.quality is not None and verdict.quality < MIN_QUALITY:
        return (
            f"Restore these masks: below quality {MIN_QUALITY} whole regions may have moved to"
            " another label."
        )
    return _rule_of(source).suggestion
