"""HP2: files that cannot be read, or are not what they seem."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from histoprep import rule_ids
from histoprep.checks import Chunk, Evidence, flag, true
from histoprep.checks.commands import LEFT_OUT, RESTORE, fix
from histoprep.checks.registry import row_rule, table_rule
from histoprep.choices import Severity
from histoprep.findings import Finding, FixSafety, Rule, Scope
from histoprep.image_formats import image_formats
from histoprep.scanning import IssueKind
from histoprep.scanning.commands import import_commands
from histoprep.scanning.formats import extension_of

UNREADABLE_FILE = Rule(
    *rule_ids.UNREADABLE_FILE,
    Severity.ERROR,
    Scope.TILE,
    definition="The file or folder cannot be opened or decoded; subcodes say how.",
    cause="An interrupted copy, a full disk during export, a damaged disk or missing permission.",
    suggestion=RESTORE,
)
TRUNCATED_JPEG = Rule(
    *rule_ids.TRUNCATED_JPEG,
    Severity.ERROR,
    Scope.TILE,
    definition=(
        "A JPEG opens, but its end marker is missing or its coefficients do not fill the image."
    ),
    cause=(
        "An interrupted copy or download; many viewers show such a file with a grey or "
        "repeated lower part."
    ),
    suggestion=RESTORE,
)
EXTENSION_MISMATCH = Rule(
    "HP203",
    "extension-mismatch",
    Severity.WARNING,
    Scope.TILE,
    definition="The first bytes of the file belong to another format than its extension.",
    cause="The file was renamed instead of converted.",
    suggestion=(
        "A corrected copy has the right extensions, also in tables that name the files:"
        f" {fix('--only extension')}"
    ),
    fix_safety=FixSafety.SAFE,
)
HUGE_IMAGE = Rule(
    *rule_ids.HUGE_IMAGE,
    Severity.ERROR,
    Scope.TILE,
    definition="The header declares more pixels than --max-pixels; the file was not decoded.",
    cause="A whole-slide image is among the tiles, or the file is a decompression bomb.",
    suggestion=(
        "No command can cut it into tiles; if the size is intended, audit with a larger"
        f" --max-pixels; until then {LEFT_OUT}"
    ),
)
CHANGED_WHILE_READING = Rule(
    *rule_ids.CHANGED_WHILE_READING,
    Severity.ERROR,
    Scope.TILE,
    definition="Size or time of the file changed between listing and reading.",
    cause="An export or copy is still running.",
    suggestion="Wait until it has finished, then: histoprep audit ROOT",
    fix_safety=FixSafety.SAFE,
)
PRIVACY_METADATA = Rule(
    "HP207",
    "privacy-metadata",
    Severity.WARNING,
    Scope.TILE,
    definition="EXIF, text chunks or TIFF tags that may identify a patient, a person or a device.",
    cause="The scanner or the export wrote them.",
    suggestion=(
        "Masks and shards written by histoprep never contain them; a copy of the data set without"
        f" them, every pixel the same: {fix('--only metadata')}"
    ),
    fix_safety=FixSafety.SAFE,
)
UNSUPPORTED_ENCODING = Rule(
    *rule_ids.UNSUPPORTED_ENCODING,
    Severity.ERROR,
    Scope.TILE,
    definition=(
        "The file is intact, but common readers refuse its compression or encoding or read it"
        " differently; subcodes say how."
    ),
    cause=(
        "GDAL, libvips or microscope software wrote it: LERC, JPEG 2000, JPEG XL, bit depths such"
        " as 12, a transparency mask, min-is-white integers of 32 bits."
    ),
    suggestion=(
        "No command can convert it: save it as 8-bit or 16-bit TIFF with deflate or LZW, or as"
        f" PNG; {LEFT_OUT}"
    ),
)
SEVERAL_PAGES = Rule(
    "HP209",
    "several-pages",
    Severity.INFO,
    Scope.TILE,
    definition="The file has several pages, of which one is read.",
    cause=(
        "It is a pyramid: its further pages are smaller copies of the first, which is the image at"
        " full size."
    ),
    suggestion=(
        "No command is needed, if the first page is the one you mean; for masks, --page chooses"
        " another: histoprep audit ROOT --page 2"
    ),
)

_SIDES = ("image", "mask")
# What differs from the rule by subcode: cause and suggestion for an image and for a mask.
_PAGES_CAUSE = (
    "The file is whole: a z-stack, a time series, channels or several masks were saved as pages of"
    " one file."
)
_BY_SUBCODE = {
    ("multi-page", "image"): (
        _PAGES_CAUSE,
        "No command can choose: save the page that is the image as a file of its own, such as with"
        f" tiffcp stack.tif,0 image.tif; {LEFT_OUT}",
    ),
    ("multi-page", "mask"): (
        _PAGES_CAUSE,
        "Choose the page that holds the labels, from 1: histoprep audit ROOT --page 1",
    ),
    ("shortened", "mask"): (
        "The end of the coefficients was left out to save space, as OpenCV does by default, so that"
        " labels near boundaries are others.",
        f"No command can restore them: export the masks again as PNG; {LEFT_OUT}",
    ),
    ("frames", "mask"): (
        "The GIF is an animation: its frames are drawn over each other.",
        f"No command can choose: save the frame that holds the labels as PNG; {LEFT_OUT}",
    ),
    ("arrays", "mask"): (
        "The file holds several arrays, or one that is no image of labels.",
        "No command can choose: save the array of labels as a file of its own, [height, width],"
        f" such as with numpy.save; {LEFT_OUT}",
    ),
}
# The same for images and masks.
_BY_REASON = {
    "zero-bytes": (
        "The disk was full, or an export or copy stopped before it wrote anything.",
        f"No command can restore them: export or copy these files again; {LEFT_OUT}",
    ),
    "bad-header": (
        "The file is of another kind than its extension says, or its first bytes are damaged.",
        "No command can help before one of them was looked at, such as with `file NAME`: convert"
        f" files of another kind, and restore damaged ones from the source; {LEFT_OUT}",
    ),
    "pointer": (
        "The store was not asked for the files: each is a note of a few bytes in their place.",
        "Fetch the files, with `git lfs pull` or `git annex get`, then: histoprep audit ROOT",
    ),
    "web-page": (
        "A download ended with a page of the server: a login, an error or a limit.",
        f"No command can restore them: download these files again; {LEFT_OUT}",
    ),
    "bad-checksum": ("A disk or a transfer changed bytes inside of the file.", RESTORE),
    "corrupt": ("A disk or a transfer changed bytes inside of the file.", RESTORE),
    "permission": (
        "The file belongs to somebody else, and you may not read it.",
        "Get permission to read it, then: histoprep audit ROOT",
    ),
    "folder": (
        "The folder belongs to somebody else, or its disk is damaged.",
        "Get permission to list it, then: histoprep audit ROOT",
    ),
    "absent": (
        "The table of --pairs names files that are not there.",
        "Correct the table (HP107 says which rows), or put the files there; until then the manifest"
        " leaves these tiles out. Then: histoprep audit ROOT",
    ),
    "vanished": (
        "The file was moved or removed while the audit ran.",
        "Wait until nobody changes the data set, then: histoprep audit ROOT",
    ),
    "input-output": ("The disk or the network failed.", "When it is back: histoprep audit ROOT"),
}
_BROKEN = (UNREADABLE_FILE, TRUNCATED_JPEG, HUGE_IMAGE, CHANGED_WHILE_READING, UNSUPPORTED_ENCODING)


def _num_files(evidence: Evidence) -> int:
    return evidence.amounts.images + evidence.amounts.masks


@row_rule(*_BROKEN)
def broken(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield every file that could not be used, by code and subcode."""
    rules = {rule.code: rule for rule in _BROKEN}
    for side in _SIDES:
        verdicts = chunk.tiles[f"{side}_error"]
        for verdict in verdicts.dropna().unique():
            code, subcode = verdict.split(" ", 1)
            if code not in rules:
                # Files that can be read, and whose labels are in question.
                continue
            detail = f"{{{side}_error_detail}}"
            chosen = verdicts == verdict
            cause, suggestion = _BY_SUBCODE.get((subcode, side), ("", ""))
            # What helps an image and what helps a mask are two findings.
            shown = f"{subcode}-{side}" if cause else subcode
            if subcode == "arrays":
                kinds = dict.fromkeys(map(extension_of, chunk.tiles[f"{side}_path"][chosen]))
                if commands := import_commands(evidence.root, kinds):
                    suggestion = f"Masks of known data sets: {'; or '.join(commands)}"
            if code == UNREADABLE_FILE.code:
                # Only a table names what never was there.
                is_gone = subcode == "absent" and evidence.scan.pairs is None
                reason = "vanished" if is_gone else subcode
                shown = reason if is_gone else shown
                cause, suggestion = _BY_REASON.get(reason, (cause, suggestion))
            yield from flag(
                rules[code],
                chunk.tiles,
                chosen,
                f"{side}_path",
                detail,
                denominator=_num_files(evidence),
                unit="files",
                subcode=shown,
                cause=cause,
                suggestion=suggestion,
            )


@row_rule(SEVERAL_PAGES)
def several_pages(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield files of several pages of which one is read: the first of a pyramid, or the chosen
    one.
    """
    page = evidence.readings.reading.page
    for side in _SIDES:
        pages, chosen = chunk.tiles[f"{side}_pages"], page is not None and side == "mask"
        yield from flag(
            SEVERAL_PAGES,
            chunk.tiles,
            pages.notna() & chunk.tiles[f"{side}_error"].isna(),
            f"{side}_path",
            f"{{{side}_pages}} pages, of which page {page if chosen else 1} is read",
            denominator=_num_files(evidence),
            unit="files",
            subcode="page-decided" if chosen else "",
            cause=f"Decided: --page {page}." if chosen else "",
        )


@table_rule(UNREADABLE_FILE)
def unreadable_folders(evidence: Evidence) -> Iterator[Finding]:
    """Yield folders that could not be listed; what is in them is unknown, and so is how many there
    are.
    """
    chosen = evidence.issues.kind == IssueKind.UNREADABLE
    yield from flag(
        UNREADABLE_FILE,
        evidence.issues,
        chosen,
        "path",
        "{detail}",
        denominator=0,
        unit="folders",
        subcode="folder",
        cause=_BY_REASON["folder"][0],
        suggestion=_BY_REASON["folder"][1],
    )


@row_rule(EXTENSION_MISMATCH)
def misnamed(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield files whose first bytes contradict their extension."""
    endings = {
        image_format.name: tuple(f".{suffix}" for suffix in image_format.suffixes)
        for image_format in image_formats()
    }
    for side in _SIDES:
        kind = chunk.tiles[f"{side}_format"]
        lowered = chunk.tiles[f"{side}_path"].str.lower()
        fits = np.zeros(len(kind), dtype=bool)
        for name in kind.dropna().unique():
            fits |= true(kind == name) & true(lowered.str.endswith(endings.get(name, ())))
        chosen = kind.notna() & ~fits
        tiles = chunk.tiles[true(chosen)]
        yield from flag(
            EXTENSION_MISMATCH,
            tiles.assign(kind=tiles[f"{side}_format"].str.upper()),
            tiles[f"{side}_format"].notna(),
            f"{side}_path",
            "its first bytes are those of a {kind}",
            denominator=_num_files(evidence),
            unit="files",
        )


@row_rule(PRIVACY_METADATA)
def telling_metadata(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield files with metadata that may identify somebody; values are never shown."""
    for side in _SIDES:
        fields = chunk.tiles[f"{side}_metadata"]
        tiles = chunk.tiles.loc[fields.notna(), [f"{side}_path"]]
        tiles = tiles.assign(fields=[", ".join(dict.fromkeys(names)) for names in fields.dropna()])
        yield from flag(
            PRIVACY_METADATA,
            tiles,
            tiles.fields.notna(),
            f"{side}_path",
            "{fields}",
            denominator=_num_files(evidence),
            unit="files",
        )
