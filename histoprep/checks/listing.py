"""HP1: what the listing alone shows."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np

from histoprep import rule_ids
from histoprep.checks import MAX_LISTED, Chunk, Evidence, flag, true
from histoprep.checks.commands import LEFT_OUT, exclude
from histoprep.checks.registry import row_rule, table_rule
from histoprep.choices import Severity
from histoprep.findings import Finding, FixSafety, Rule, Scope, finding
from histoprep.labels import IGNORED, UNMAPPED, LabelMap
from histoprep.names import to_text
from histoprep.phrases import first_of
from histoprep.remote import file_bytes
from histoprep.scanning import IssueKind
from histoprep.scanning.advice import (
    MAX_NAMES,
    combine_advice,
    explain_masks_alone,
    explain_nothing_paired,
    further_masks,
    pairing_command,
    suggest_pairing,
)
from histoprep.scanning.commands import import_commands, pairs_command
from histoprep.scanning.content import Content, content_of
from histoprep.scanning.formats import extension_of
from histoprep.scanning.name_rules import is_data

# Of the unread folders, so many are looked at.
_MAX_SHOWN = 3

ORPHAN_MASK = Rule(
    *rule_ids.ORPHAN_MASK,
    Severity.ERROR,
    Scope.TILE,
    definition="A mask has no image of the same key.",
    cause="The image was moved, renamed, filtered out or never exported.",
    suggestion=(
        f"No command can restore images: export the missing ones again; until then {LEFT_OUT}"
    ),
)
MISSING_MASK = Rule(
    "HP102",
    "missing-mask",
    Severity.INFO,
    Scope.TILE,
    definition="An image has no mask, so it belongs to the unconditional pool.",
    cause="The tile was never annotated, or its mask is named differently.",
    suggestion=(
        "No command is needed, if these tiles are meant to be unlabelled. Otherwise say how masks"
        " are named, with --mask-suffix or --layout: histoprep audit --help"
    ),
)
DUPLICATE_KEY = Rule(
    "HP103",
    "duplicate-key",
    Severity.ERROR,
    Scope.TILE,
    definition="Two files have the same key; case, extension and Unicode form are ignored.",
    cause=(
        "The same tile was exported twice in two formats, or the folder was copied between "
        "systems that spell names differently."
    ),
    suggestion=(
        "Keep one file of each. Until then every spelling is a tile of its own; where only "
        "extensions differ, the first file in byte order is used. To leave these tiles out:"
        f" {exclude('HP103')}"
    ),
    fix_safety=FixSafety.UNSAFE,
)
AMBIGUOUS_PAIR = Rule(
    "HP104",
    "ambiguous-pair",
    Severity.ERROR,
    Scope.TILE,
    definition="One image matches several masks, or several images match one mask.",
    cause="Old and new masks lie side by side, or a tile was exported in two formats.",
    suggestion=(
        "Keep one mask for each image. Until then the one spelled exactly like the image is "
        "used, or, without rival images, the first in byte order. To leave these tiles out:"
        f" {exclude('HP104')}"
    ),
    fix_safety=FixSafety.UNSAFE,
)
UNPARSED_NAME = Rule(
    "HP105",
    "unparsed-name",
    Severity.WARNING,
    Scope.TILE,
    definition="The --group-by pattern does not match, so the tile has no group.",
    cause="The name follows a different convention, or the table has no row for it.",
    suggestion=(
        "Widen the pattern; with csv:COLUMN, add the missing rows or correct the names in them. To"
        f" leave these tiles out: {exclude('HP105')}"
    ),
)
UNEXPECTED_FILE = Rule(
    "HP106",
    "unexpected-file",
    Severity.INFO,
    Scope.TILE,
    definition=(
        "A file or folder that is neither image, mask, dataset.csv nor label map; links that"
        " leave the data set and special files are reported too."
    ),
    cause="Notes, thumbnails, archives, links or leftovers of another tool.",
    suggestion="No command is needed: these files are not read.",
)
CSV_MISMATCH = Rule(
    "HP107",
    "csv-mismatch",
    Severity.ERROR,
    Scope.TILE,
    definition=(
        "A table (dataset.csv, --csv or --pairs) names a file that does not exist or fits several,"
        " or its labels differ from the mask."
    ),
    cause="The table was written before files were moved or masks were edited.",
    suggestion="Write it again: histoprep manifest ROOT --dataset-csv dataset.csv",
    fix_safety=FixSafety.SAFE,
)
COUNT_MISMATCH = Rule(
    "HP108",
    "count-mismatch",
    Severity.ERROR,
    Scope.DATASET,
    definition="A count differs from the expectation file.",
    cause="A copy or download is incomplete, or files were added.",
    suggestion="No command can help: copy the data set again, or correct the expectation file.",
)

LABEL_LIKE_IMAGE = Rule(
    *rule_ids.LABEL_LIKE_IMAGE,
    Severity.ERROR,
    Scope.TILE,
    definition=(
        "A file that is read as an image looks like a label mask, with few values in flat regions,"
        " or belongs to another image by its name: a mask, probability map or overlay; subcodes say"
        " of what kind."
    ),
    cause="Masks lie among the images, and nothing in their names says which image they belong to.",
    suggestion=(
        "Say how masks are named: --mask-suffix, --masks with --images, --mask-pattern, or a table"
        " of pairs with --pairs. Until then the manifest stops; to leave these files out: histoprep"
        " manifest ROOT --force"
    ),
)
SECOND_MASK = Rule(
    "HP110",
    "second-mask",
    Severity.ERROR,
    Scope.TILE,
    definition="A file is called like a further mask of an image, as x_mask_1.png of x.png.",
    cause="Each object, class or reader has a mask file of its own.",
    suggestion=(
        "No command is needed, if the masks that are read are the right ones: these files are left"
        " out. Otherwise choose others with --mask-suffix, or make one mask of all those of an"
        " image: histoprep import combine ROOT --by instance --out ROOT-combined"
    ),
)

SHIFTED_NUMBERS = Rule(
    *rule_ids.SHIFTED_NUMBERS,
    Severity.ERROR,
    Scope.TILE,
    definition=(
        "Masks are numbered from another number on than the images of their folder, as mask_1 to"
        " mask_100 beside img_0 to img_99: equal numbers pair each mask with a wrong image."
    ),
    cause="One program counts from 0, the other from 1.",
    suggestion=(
        "Pair them with the table that the audit writes (--pairs). If equal numbers do belong"
        " together: histoprep manifest ROOT --force"
    ),
)

_RULES_OF_ISSUES = {
    IssueKind.DUPLICATE_KEY: DUPLICATE_KEY,
    IssueKind.AMBIGUOUS: AMBIGUOUS_PAIR,
    IssueKind.UNPARSED: UNPARSED_NAME,
    IssueKind.UNEXPECTED: UNEXPECTED_FILE,
    IssueKind.SECOND_MASK: SECOND_MASK,
}
# Beside pairs that were chosen by their names; such files are not read.
_OTHER_NAME_CAUSE = "Other versions of the masks, overlays or previews lie beside the data."
_OTHER_NAME_SUGGESTION = "No command is needed, if the right files were read."
_FORMAT_CAUSE = (
    "Masks, images or annotations are stored in a format that is not read from a folder."
)
_FORMAT_SUGGESTION = (
    "No command is needed, if these files are no part of the data set. If they are masks or"
    " annotations: IMPORTS"
)
_BROKEN_CAUSE = (
    "The files are in a store that is not mounted or was never fetched, or they were moved: {store}"
    " is not there."
)
_BROKEN_SUGGESTION = (
    "Until the store is mounted or fetched (dvc pull, git annex get), what these links stand for is"
    " missing: images without their masks count as unlabelled. Then: histoprep audit ROOT"
)
_IMPORTS = "IMPORTS"
_IMPORT_HELP = "histoprep import --help"
_LEAVING = (
    "No command is needed for files that are not part of the data set. Links that leave its folder"
    " are read by: histoprep audit ROOT --follow-links"
)


class _RowTexts(NamedTuple):
    severity: Severity
    cause: str
    suggestion: str


_TEXTS_OF_ROWS = {
    IssueKind.CSV_SHARED: _RowTexts(
        Severity.WARNING,
        "The table names files without their folders, and several folders have such a file.",
        "No command can help: write the folder into the table where the rows are not meant for all"
        " of these images.",
    ),
    IssueKind.PAIRS_MISSING: _RowTexts(
        Severity.ERROR,
        "The table of --pairs was written before files were moved, or elsewhere.",
        f"No command can help: correct these rows, or put the files there; {LEFT_OUT}",
    ),
    IssueKind.PAIRS_SHARED: _RowTexts(
        Severity.WARNING,
        "A row was copied, or rows of the table of --pairs slipped.",
        "No command can help: correct these rows, unless the images are views of one field.",
    ),
    IssueKind.CSV_SLIDE: _RowTexts(
        Severity.INFO,
        "No tile was cut from this slide, or its tiles are named differently.",
        "No command is needed, if these slides have no tiles here.",
    ),
}
_ROWS_OF_GONE_FILES = (
    "Bring these files back from the source, or take their rows out of the table. Rows of files"
    " that are gone change no result; to accept them: histoprep audit ROOT --write-baseline"
    " ROOT-accepted.json"
)
_OTHER_FOLDER = (
    "The names in the table may be relative to another folder than ROOT: at least as many are"
    " missing as there are images."
)
_UNREAD_CAUSE = (
    "There are images beside the folders that were read, perhaps another version of the masks, or"
    " more images."
)
_UNREAD_SUGGESTION = (
    "Choose the folders to read with --images and --masks, and those of images without masks with"
    " --unlabelled. If the right folders were read, name them too: the others are then only an"
    " info. The options: histoprep audit --help"
)
_NO_IMAGES = (
    "There are no images at all: check --layout, --images and --mask-suffix: histoprep audit --help"
)


@row_rule(ORPHAN_MASK, MISSING_MASK)
def unpaired(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield orphan masks and images without a mask; images below an --unlabelled root need none."""
    tiles, amounts = chunk.tiles, evidence.amounts
    suggestion = "" if amounts.images else _NO_IMAGES
    if evidence.shifts:
        suggestion = (
            f"The numbers of masks and images are shifted: histoprep explain {SHIFTED_NUMBERS.code}"
        )
    # Where no mask has an image, `nothing_paired` says why.
    orphan = tiles.image_path.isna() & (amounts.pairs > 0 or not amounts.images)
    yield from flag(
        ORPHAN_MASK,
        tiles,
        orphan,
        "mask_path",
        "no image {tile_id}",
        denominator=amounts.masks,
        unit="masks",
        suggestion=suggestion,
    )
    # Where no tile has a mask, masks were never meant to be there.
    if amounts.masks:
        missing = tiles.mask_path.isna() & ~tiles.unlabelled
        yield from flag(
            MISSING_MASK,
            tiles,
            missing,
            "image_path",
            "no mask",
            denominator=amounts.images,
            unit="images",
        )


@table_rule(ORPHAN_MASK)
def nothing_paired(evidence: Evidence) -> Iterator[Finding]:
    """Yield all masks where none has an image although there are images: names of two schemes."""
    amounts, overview = evidence.amounts, evidence.overview
    if amounts.pairs or not amounts.images or not amounts.orphan_masks:
        return
    orphans = overview[overview.image_path.isna()]
    images = evidence.images.image_path.tolist()
    cause, suggestion = explain_nothing_paired(
        evidence.root,
        images[:MAX_NAMES],
        orphans.mask_path[:MAX_NAMES].tolist(),
        evidence.scan,
    )
    yield from flag(
        ORPHAN_MASK,
        orphans,
        orphans.mask_path.notna(),
        "mask_path",
        "no image {tile_id}",
        denominator=amounts.masks,
        unit="masks",
        cause=cause,
        suggestion=suggestion,
    )


@table_rule(SHIFTED_NUMBERS)
def numbers_shifted(evidence: Evidence) -> Iterator[Finding]:
    """Yield the masks of folders where numbers are shifted, each with the images that it is paired
    with and seems to belong to.
    """
    for shift in evidence.shifts:
        items = [
            (mask, f"paired with {image or 'no image'}, seems to belong to {partner}")
            for mask, image, partner in shift.masks
        ]
        root = evidence.root
        yield finding(
            SHIFTED_NUMBERS,
            items,
            denominator=evidence.amounts.masks,
            unit="masks",
            where=items[0][0].rpartition("/")[0],
            suggestion=(
                "Look at some of them. To pair them by their order:"
                f" {pairs_command(root, evidence.suggested_pairs)}; or, if equal numbers do belong"
                " together: histoprep manifest ROOT --force"
            ),
        )


@table_rule(LABEL_LIKE_IMAGE)
def companions_among_images(evidence: Evidence) -> Iterator[Finding]:
    """Yield files that belong to other images, as the manifest refuses them."""
    for group in evidence.companions:
        yield finding(
            LABEL_LIKE_IMAGE,
            [(path, "seems to belong to another image") for path in group.paths],
            denominator=evidence.amounts.images,
            unit="images",
            subcode=group.kind.value,
            where=group.shared,
            cause=group.cause,
            suggestion=group.suggestion(evidence.root, evidence.scan),
        )


@table_rule(LABEL_LIKE_IMAGE, SECOND_MASK)
def labels_among_images(evidence: Evidence) -> Iterator[Finding]:
    """Yield images that look like label masks, with the option that would pair them, if any."""
    overview = evidence.overview[~evidence.overview.image_path.isin(evidence.companion_paths)]
    verdicts = overview.image_error.where(
        overview.image_error.str.startswith(rule_ids.LABEL_LIKE_IMAGE.code).fillna(False)
    )
    labels = overview[verdicts.notna()].image_path.tolist()
    if not labels:
        return
    further = further_masks(labels, overview.image_path[overview.mask_path.notna()].dropna())
    is_further = overview.image_path.isin(further)
    yield from flag(
        SECOND_MASK,
        overview,
        is_further,
        "image_path",
        "looks like a label mask, of an image that has one",
        denominator=evidence.amounts.images,
        unit="images",
    )
    verdicts = verdicts.where(~is_further)
    labels = [path for path in labels if path not in further]
    if not labels:
        return
    images = overview[verdicts.isna() & overview.image_path.notna()][:MAX_NAMES]
    paired = images[images.mask_path.notna()]
    # Blank masks look like blank images.
    if true(images.contrast.fillna(1) > 0).any():
        cause, suggestion = (
            "",
            suggest_pairing(
                evidence.root,
                images.image_path.tolist(),
                labels[:MAX_NAMES],
                evidence.scan,
                zip(paired.image_path.tolist(), paired.mask_path.tolist(), strict=True),
            ),
        )
    else:
        cause, suggestion = explain_masks_alone(evidence.root)
    for verdict in sorted(set(verdicts.dropna())):
        subcode = verdict.split(" ", 1)[1]
        yield from flag(
            LABEL_LIKE_IMAGE,
            overview,
            verdicts == verdict,
            "image_path",
            f"looks like a label mask: {Content[subcode.upper()]}",
            denominator=evidence.amounts.images,
            unit="images",
            subcode=subcode,
            cause=cause,
            suggestion=suggestion,
        )


@table_rule(UNEXPECTED_FILE)
def unread_files(evidence: Evidence) -> Iterator[Finding]:
    """Yield files that were left out by their names or for their formats; formats that may hold
    data are a warning.
    """
    texts = {
        IssueKind.OTHER_NAME: (Severity.INFO, _OTHER_NAME_CAUSE, _OTHER_NAME_SUGGESTION),
        IssueKind.UNREAD_FORMAT: (Severity.WARNING, _FORMAT_CAUSE, _FORMAT_SUGGESTION),
    }
    for kind, (severity, cause, advice) in texts.items():
        paths = evidence.issues[evidence.issues.kind == kind].path
        commands = import_commands(evidence.root, dict.fromkeys(map(extension_of, paths)))
        imports = "; or ".join(commands) or _IMPORT_HELP
        suggestion = advice.replace(_IMPORTS, imports)
        yield from _unexpected(evidence, kind, severity, cause=cause, suggestion=suggestion)


def _unexpected(
    evidence: Evidence, kind: IssueKind, severity: Severity, unit: str = "files", **texts: str
) -> Iterator[Finding]:
    """Yield what of a kind lies in the data set beside images and masks, by its issues; how many
    folders and other places there are in all says nothing.
    """
    issues = evidence.issues[evidence.issues.kind == kind]
    files = evidence.amounts.images + evidence.amounts.masks + len(issues)
    for found in flag(
        UNEXPECTED_FILE,
        issues,
        issues.path.notna(),
        "path",
        "{detail}",
        denominator=files if unit == "files" else 0,
        unit=unit,
        subcode=kind.value,
        **texts,
    ):
        yield replace(found, severity=severity)


def strictly(found: Finding) -> Finding:
    """Return a finding as an error where it is about files of formats that are not read."""
    is_unread = found.rule == UNEXPECTED_FILE and found.subcode == IssueKind.UNREAD_FORMAT.value
    return replace(found, severity=Severity.ERROR) if is_unread else found


@table_rule(DUPLICATE_KEY, AMBIGUOUS_PAIR, UNPARSED_NAME, UNEXPECTED_FILE, SECOND_MASK)
def odd_names(evidence: Evidence) -> Iterator[Finding]:
    """Yield what the walk met besides clean pairs."""
    files = evidence.amounts.images + evidence.amounts.masks
    for kind, rule in _RULES_OF_ISSUES.items():
        chosen = evidence.issues.kind == kind
        suggestion = ""
        if kind is IssueKind.UNEXPECTED:
            leaving = evidence.issues.kind == IssueKind.LEAVING_LINK
            chosen, suggestion = chosen | leaving, _LEAVING if leaving.any() else ""
        elif kind is IssueKind.SECOND_MASK:
            suggestion = _combine_suggestion(evidence)
        issues = evidence.issues[chosen].drop_duplicates(["path", "detail"])
        denominator = (
            evidence.amounts.images
            if rule == UNPARSED_NAME
            else files + (len(issues) if rule in (UNEXPECTED_FILE, SECOND_MASK) else 0)
        )
        unit = "images" if rule == UNPARSED_NAME else "files"
        yield from flag(
            rule,
            issues,
            issues.path.notna(),
            "path",
            "{detail}",
            denominator=denominator,
            unit=unit,
            suggestion=suggestion,
        )


def _combine_suggestion(evidence: Evidence) -> str:
    issues, overview = evidence.issues, evidence.overview
    further = issues.path[issues.kind == IssueKind.SECOND_MASK][:MAX_NAMES].tolist()
    if not further:
        return ""
    folders = {path.rpartition("/")[0] for path in further}
    images, masks = (
        [path for path in overview[column].dropna().tolist() if path.rpartition("/")[0] in folders][
            : 2 * MAX_NAMES
        ]
        for column in ("image_path", "mask_path")
    )
    advice = combine_advice(evidence.root, images, [*masks, *further])
    return f"Only the mask without a number is used. {advice}"


@table_rule(UNEXPECTED_FILE)
def unread_folders(evidence: Evidence) -> Iterator[Finding]:
    """Yield folders that were not read; a warning where they hold images and nobody said which
    folders to read.
    """
    if (evidence.issues.kind == IssueKind.UNREAD_FOLDER).any():
        texts = {"cause": _UNREAD_CAUSE, "suggestion": _name_folders(evidence)}
        kind, severity = IssueKind.UNREAD_FOLDER, Severity.WARNING
        yield from _unexpected(evidence, kind, severity, "folders", **texts)
    yield from _unexpected(evidence, IssueKind.OTHER_FOLDER, Severity.INFO, "folders")


def _name_folders(evidence: Evidence) -> str:
    """Return the commands that read an unread folder of masks, or name the folders that were read,
    where they are known.
    """
    paths = evidence.overview[["image_path", "mask_path"]].dropna()
    advice = _others_as_masks(evidence, paths.image_path.tolist()[:MAX_NAMES])
    named = {
        differing
        for pair in zip(paths.image_path, paths.mask_path, strict=True)
        if (differing := _differing_folders(*pair)) is not None
    }
    if len(named) != 1:
        return f"{_UNREAD_SUGGESTION}{advice}"
    images, masks = named.pop()
    words = ("histoprep", "audit", to_text(str(evidence.root)), "--images", images,
             "--masks", masks)  # fmt: skip
    return (
        "If other folders are meant, name them with --images and --masks, and those of images"
        " without masks with --unlabelled. If the right ones were read, say so, and the others are"
        f" only an info: {shlex.join(words)}{advice}"
    )


def _differing_folders(image: str, mask: str) -> tuple[str, str] | None:
    """Return the only two names of folders in which the paths of a pair differ, or None."""
    parts = [path.split("/")[:-1] for path in (image, mask)]
    if len(parts[0]) != len(parts[1]):
        return None
    differing = [names for names in zip(*parts, strict=True) if names[0] != names[1]]
    return differing[0] if len(differing) == 1 else None


def _others_as_masks(evidence: Evidence, images: list[str]) -> str:
    """Return the commands that take unread folders of label-like files for the masks."""
    issues = evidence.issues
    commands = []
    for folder in issues.path[issues.kind == IssueKind.UNREAD_FOLDER].tolist()[:_MAX_SHOWN]:
        place = evidence.root / folder
        try:
            names = sorted(name for name in os.listdir(place) if is_data(name))[:MAX_NAMES]
            looks = [content_of(file_bytes(place / name)).is_labels for name in names[:2]]
        except OSError:
            continue
        masks = [f"{folder.rstrip('/')}/{name}" for name in names]
        if looks and all(looks) and (found := pairing_command(evidence.root, images, masks)):
            commands.append(found[0])
    return "".join(f"; or, if the unread files are the masks: {command}" for command in commands)


@table_rule(UNEXPECTED_FILE)
def files_of_the_system(evidence: Evidence) -> Iterator[Finding]:
    """Yield what a system keeps for itself in the data set: counted, and no question."""
    cause = "Archives and network folders of macOS, Windows or Synology hold such files."
    yield from _unexpected(evidence, IssueKind.SYSTEM_FILE, Severity.INFO, "places", cause=cause)


@table_rule(UNEXPECTED_FILE)
def broken_links(evidence: Evidence) -> Iterator[Finding]:
    """Yield links whose target is not there, with the nearest folder that is missing."""
    details = evidence.issues[evidence.issues.kind == IssueKind.BROKEN_LINK].detail.tolist()
    yield from _unexpected(
        evidence,
        IssueKind.BROKEN_LINK,
        Severity.WARNING,
        cause=_BROKEN_CAUSE.format(store=_missing_store(details)),
        suggestion=_BROKEN_SUGGESTION,
    )


def _missing_store(details: list[str]) -> str:
    """Return the folder that the targets of broken links have in common, or the first target."""
    targets = [detail.removeprefix("link to ").rpartition(", ")[0] for detail in details]
    common = os.path.commonpath(targets) if targets else ""
    return common if len(common) > 1 else first_of(targets, limit=1)


@table_rule(CSV_MISMATCH)
def named_but_missing(evidence: Evidence) -> Iterator[Finding]:
    """Yield images that dataset.csv names and nobody has."""
    chosen = evidence.issues.kind == IssueKind.CSV_MISSING
    named = evidence.amounts.images + int(chosen.sum())
    cause = _OTHER_FOLDER if chosen.sum() >= max(1, evidence.amounts.images) else ""
    yield from flag(
        CSV_MISMATCH,
        evidence.issues,
        chosen,
        "path",
        "{detail}",
        denominator=named,
        unit="images",
        subcode="missing-file",
        cause=cause,
        suggestion="" if cause else _ROWS_OF_GONE_FILES,
    )


@table_rule(CSV_MISMATCH)
def odd_rows(evidence: Evidence) -> Iterator[Finding]:
    """Yield rows that fit several images, rows of --pairs whose files are not there, and slides
    without a tile, which is only an info.
    """
    for kind, texts in _TEXTS_OF_ROWS.items():
        issues = evidence.issues[evidence.issues.kind == kind]
        for issue in flag(
            CSV_MISMATCH,
            issues,
            issues.path.notna(),
            "path",
            "{detail}",
            denominator=0,
            unit="rows",
            subcode=kind.value,
            cause=texts.cause,
            suggestion=texts.suggestion,
        ):
            yield replace(issue, severity=texts.severity)


@row_rule(CSV_MISMATCH)
def declared_otherwise(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield tiles whose declared labels are not those of the mask, raw or mapped.

    A table may list what is present or only what is core-present, and label 0 or not. Names
    cannot be checked without a label map.
    """
    tiles = chunk.tiles
    readable = tiles.declared_labels.notna() & tiles.mask_path.notna() & tiles.mask_error.isna()
    rows = np.flatnonzero(true(readable))
    starts, ends = (np.searchsorted(chunk.labels.row, edge) for edge in (rows, rows + 1))
    ids, core = chunk.labels.label_id.to_numpy(), chunk.labels.core_pixels.to_numpy() > 0
    compare = _Declared(evidence.label_map)
    items = []
    for row, start, end in zip(rows, starts, ends, strict=True):
        declared, present = tuple(tiles.declared_labels.iloc[row]), ids[start:end]
        if end > start and compare.contradicts(
            declared, tuple(present.tolist()), tuple(present[core[start:end]].tolist())
        ):
            items.append(
                (
                    str(tiles.image_path.iloc[row]),
                    f"declared {_listed(declared) or 'nothing'}, the mask holds {_listed(present)}",
                )
            )
    if items:
        yield finding(
            CSV_MISMATCH,
            items,
            denominator=evidence.amounts.pairs,
            unit="tiles",
            subcode="labels-differ",
        )


def _listed(labels: tuple[str, ...] | np.ndarray) -> str:
    more = f" and {len(labels) - MAX_LISTED} more" if len(labels) > MAX_LISTED else ""
    return " ".join(str(label) for label in labels[:MAX_LISTED]) + more


class _Declared:
    """Holds declared labels against those of a mask; tiles repeat each other, so answers are
    remembered.
    """

    def __init__(self, label_map: LabelMap | None) -> None:
        self._label_map = label_map
        self._tables = (
            [
                {label.name.casefold(): label.id for label in side}
                for side in (label_map.sources, label_map.classes)
            ]
            if label_map
            else [{}]
        )
        self.contradicts = cache(self._contradicts)

    def _contradicts(
        self, declared: tuple[str, ...], present: tuple[int, ...], core: tuple[int, ...]
    ) -> bool:
        names_known = self._label_map is not None
        if not names_known and not all(label.isdecimal() for label in declared):
            return False
        readings = [(frozenset(present), frozenset(core))]
        if self._label_map is not None:
            there, certain = (_classes_of(labels, self._label_map) for labels in (present, core))
            readings.append((there, certain))
        for names, (there, certain) in zip(self._tables, readings, strict=True):
            wanted = frozenset(
                int(label) if label.isdecimal() else names.get(label.casefold(), label)
                for label in declared
            ) - {0}
            if certain - {0} <= wanted <= there:
                return False
        return True


def _classes_of(labels: tuple[int, ...], label_map: LabelMap) -> frozenset[int]:
    """Return the classes of labels, ignored ones left out; unlisted labels are their own."""
    classes = ((label, label_map.class_of(label)) for label in labels)
    return frozenset(
        label if class_id == UNMAPPED else class_id
        for label, class_id in classes
        if class_id != IGNORED
    )


@table_rule(COUNT_MISMATCH)
def counts_differ(evidence: Evidence) -> Iterator[Finding]:
    """Yield counts that differ from the expectation file; `labels` there maps a label id to its
    tiles.
    """
    counts = {name: wanted for name, wanted in evidence.expected.items() if name != "labels"}
    labels = evidence.expected.get("labels", {})
    tiles = evidence.label_counts.classes.groupby("class_id").tiles.sum()
    rows = [(name, "", getattr(evidence.amounts, name), wanted) for name, wanted in counts.items()]
    rows += [
        (f"label {label}", "in tiles: ", int(tiles.get(label, 0)), wanted)
        for label, wanted in labels.items()
    ]
    items = [
        (name, f"{unit}seen {seen:,}, expected {wanted:,}")
        for name, unit, seen, wanted in rows
        if seen != wanted
    ]
    if items:
        yield finding(COUNT_MISMATCH, items, denominator=len(rows), unit="counts")
