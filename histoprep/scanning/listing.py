"""What a scan is told and what it gives: options, pairs, issues."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from histoprep.choices import Layout


class IssueKind(StrEnum):
    """What the walk can meet besides pairs; `checks/listing.py` turns them into findings."""

    UNEXPECTED = "unexpected"
    UNREAD_FOLDER = "unread-folder"
    OTHER_FOLDER = "other-folder"
    UNREADABLE = "unreadable"
    DUPLICATE_KEY = "duplicate-key"
    AMBIGUOUS = "ambiguous"
    UNPARSED = "unparsed"
    CSV_MISSING = "csv-missing"
    CSV_SLIDE = "csv-slide"
    CSV_SHARED = "csv-shared"
    PAIRS_MISSING = "pairs-missing"
    PAIRS_SHARED = "pairs-shared"
    OTHER_NAME = "other-name"
    UNREAD_FORMAT = "unread-format"
    SECOND_MASK = "second-mask"
    LEAVING_LINK = "leaving-link"
    SYSTEM_FILE = "system-file"
    BROKEN_LINK = "broken-link"


class Issue(NamedTuple):
    """One thing met by the walk: what, where (text, as the paths of pairs), and what was seen."""

    kind: IssueKind
    path: str
    detail: str


class Pair(NamedTuple):
    """One tile, or an orphan mask when `image_path` is None; texts as stored in tiles.parquet."""

    tile_id: str
    image_path: str | None
    mask_path: str | None
    group: str | None
    split: str | None
    label: str | None
    unlabelled: bool
    declared_labels: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """How to read a folder.

    `images` and `masks` name the two folders of the folders layout. `group_by` and `label_by` are
    `folder`, `csv:COLUMN`, or a regular expression searched in the tile id whose first group (or
    whole match) is the value. `unlabelled` are further folders of images without masks. `pairs` is
    a table of images and masks; then the folder is not searched.

    A suffix is the end of a stem or, with an extension, of the whole name: `.png`, `_gt.png`; the
    second kind is exact, so that other files are no masks. `images` and `masks` may hold one `*`,
    which stands for the same text on both sides. Patterns are regular expressions with a group
    named `key`, searched in the name or, with a slash in one of them, in the path below the root.
    `follow_links` reads links that leave the root, each real folder once. `is_inferred` says that
    the tool, and nobody else, chose the folders and names.
    """

    layout: Layout = Layout.AUTO
    mask_suffix: str = "_mask"
    images: str | None = None
    masks: str | None = None
    group_by: str | None = None
    label_by: str | None = None
    unlabelled: tuple[Path, ...] = ()
    csv: Path | None = None
    pairs: Path | None = None
    image_suffix: str = ""
    image_pattern: str | None = None
    mask_pattern: str | None = None
    follow_links: bool = False
    is_inferred: bool = False
