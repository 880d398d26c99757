"""The ledgers of trees of new files: what became of each file, one row a file; and the kinds of
tree: remap, repair, import, fix and export.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from histoprep import tables
from histoprep.checksums import Checksum, Expected
from histoprep.choices import LinkKind
from histoprep.job_folder import JobFolder
from histoprep.schemas.columns import column
from histoprep.schemas.repaired import MASK_COLUMNS
from histoprep.schemas.tiles import SCHEMA

if TYPE_CHECKING:
    from pandas import DataFrame

LEDGER = "ledger.parquet"


# What every ledger says, around the columns of its own.
FIRST_COLUMNS = (
    column("mask_path", pa.string(), "path of the mask relative to the data set"),
    column(
        "output_path", pa.string(), "path of the new mask relative to this folder; null when failed"
    ),
    column(
        "source_digest", pa.string(), "XXH3-128 of the mask, hex; null when it could not be read"
    ),
    column("output_digest", pa.string(), "XXH3-128 of the new mask, hex; null when failed"),
    column("output_bytes", pa.int64(), "size of the new mask; null when failed"),
)


LAST_COLUMNS = (
    column(
        "status",
        pa.string(),
        "written; failed: may be tried again; refused: would come out the same",
    ),
    column("reason", pa.string(), "why it failed: code, subcode and words; null when written"),
)


@dataclass(frozen=True, slots=True)
class TreeKind:
    """What one kind of tree has of its own: its name, the columns of its ledger, further files in
    its folder.
    """

    name: str
    schema_version: str
    ledger_schema: pa.Schema
    notes: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("output",)
    """Of each file that a row promises, `<output>_path`, `<output>_bytes`, `<output>_digest`."""
    again: str = "with --force writes them again"
    content: str = "masks"

    @property
    def path_column(self) -> str:
        """Return the column with the path of a file in the data set."""
        return str(self.ledger_schema.names[0])

    @property
    def request(self) -> str:
        """Return the name of the file that says what was asked for."""
        return f"{self.name}.json"

    def job(self, out: Path) -> JobFolder:
        """Return the folder of such a tree as one that a job fills."""
        remake = f"histoprep {self.name} {self.again}"
        return JobFolder(out, self.request, f"histoprep {self.name}", self.content, remake)

    @property
    def ledger(self) -> str:
        """Return the kind of the ledger's table."""
        return f"{self.name}-ledger"

    @property
    def part(self) -> str:
        """Return the kind of the table of a part of the ledger."""
        return f"{self.name}-ledger-part"


def fix_command(request: Mapping[str, Any], out: Path | str) -> str:
    """Return the command that makes a copy as one was requested.

    Args:
        request: The request of a tree, as `fix.json` has it.
        out: Folder of the copy.
    """
    words = ["histoprep", "fix", request["root"], "--out", str(out)]
    if request["link"] != LinkKind.HARD:
        words += ["--link", request["link"]]
    return shlex.join([*words, "--only", operations_words(request["operations"])])


def operations_words(operations: Mapping[str, str]) -> str:
    """Return operations as `histoprep fix --only` takes them, in whichever order they are stored:
    `plain,specks=64`.
    """
    ordered = sorted(operations.items())
    return ",".join(f"{name}={value}" if value else name for name, value in ordered)


def open_ledger(path: Path, name: str, kind: TreeKind) -> Any:
    """Return the open ledger, or part of one; raises IntegrityError, FileNotFoundError."""
    return tables.open_table(path, kind=name, schema_version=kind.schema_version)[0]


def read_ledger(out: Path, kind: TreeKind) -> DataFrame:
    """Return the ledger of a tree as a row a mask; raises IntegrityError, FileNotFoundError."""
    frame: DataFrame = tables.read_table(open_ledger(out / LEDGER, kind.ledger, kind)).to_pandas()
    return frame


def expected_files(ledger: pa.Table, outputs: tuple[str, ...] = ("output",)) -> Iterator[Expected]:
    """Yield the files that a ledger, or a part of one, promises."""
    for output in outputs:
        columns = (ledger[name].to_pylist() for name in _file_columns(output))
        for name, size, key in zip(*columns, strict=True):
            if name is not None:
                yield Expected(name, Checksum(size, key))


def _file_columns(output: str) -> tuple[str, str, str]:
    return f"{output}_path", f"{output}_bytes", f"{output}_digest"


def ledger_files(out: Path, kind: TreeKind) -> Iterator[Expected]:
    """Yield the masks, and other files, that the ledger in `out` promises; raises IntegrityError,
    FileNotFoundError.
    """
    opened = open_ledger(out / LEDGER, kind.ledger, kind)
    columns = [name for output in kind.outputs for name in _file_columns(output)]
    for batch in tables.read_batches(opened, columns):
        yield from expected_files(batch, kind.outputs)


# The ledger says these of every new mask, or its path does.
_STATED = ("mask_path", "mask_bytes", "mask_mtime_ns", "mask_digest", "label_ids", "label_pixels")


MEASURED_TYPE = pa.struct([SCHEMA.field(name) for name in MASK_COLUMNS if name not in _STATED])
"""What else the tiles table says of a mask: the ledger's column `measured`."""


LABEL_MAP = "label_map.yml"


REMAP_LEDGER = pa.schema(
    [
        *FIRST_COLUMNS,
        column(
            "class_pixels",
            pa.list_(pa.int64()),
            "pixels of each class of the label map, in its order; null when failed",
        ),
        *LAST_COLUMNS,
    ]
)


REMAP = TreeKind("remap", "1.0", REMAP_LEDGER, (LABEL_MAP,))


SHEETS = "contact-sheets"


REPAIR_LEDGER = pa.schema(
    [
        *FIRST_COLUMNS,
        column("source", pa.string(), "group or folder that the verdict is about"),
        column(
            "cause",
            pa.string(),
            "what became of the mask: jpeg-container, jpeg-history, interpolated, ...",
        ),
        column(
            "is_unclear",
            pa.bool_(),
            "whether the finding does not list the mask: it was looked at on request",
        ),
        column("jpeg_quality", pa.int16(), "quality that it was repaired for; null without"),
        column(
            "method", pa.string(), "snap-to-candidates or cut-ramps; null when failed or refused"
        ),
        column(
            "confidence",
            pa.float32(),
            "share of boundary blocks that JPEG turns into what was there, or of ramps between two"
            " labels",
        ),
        column("changed_pixels", pa.int64(), "pixels that differ from the damaged mask"),
        column("labels_before", pa.list_(pa.uint32()), "labels of the damaged mask"),
        column(
            "removed_labels",
            pa.list_(pa.uint32()),
            "labels that the damaged mask had and the new one has not",
        ),
        column(
            "vanished_labels",
            pa.list_(pa.uint32()),
            "those of them that some mask of the source surely holds",
        ),
        column("label_ids", pa.list_(pa.uint32()), "labels of the new mask"),
        column("label_pixels", pa.list_(pa.int64()), "pixels of each"),
        column(
            "measured", MEASURED_TYPE, "what else the tiles table says of a mask, of the new one"
        ),
        *LAST_COLUMNS,
    ]
)


REPAIR = TreeKind("repair", "1.4", REPAIR_LEDGER, (SHEETS,))


DATASET_CSV = "dataset.csv"


IMPORT_LEDGER = pa.schema(
    [
        column("name", pa.string(), "path of the tile below images and masks, without suffix"),
        column("source", pa.string(), "annotation file, and place in it, that the mask is from"),
        column("image_source", pa.string(), "file of the image; null when it was made"),
        column(
            "output_path", pa.string(), "path of the mask relative to this folder; null without"
        ),
        column("output_digest", pa.string(), "XXH3-128 of the mask, hex"),
        column("output_bytes", pa.int64(), "size of the mask"),
        column(
            "image_path", pa.string(), "path of the image relative to this folder; null without"
        ),
        column("image_digest", pa.string(), "XXH3-128 of the image, hex"),
        column("image_bytes", pa.int64(), "size of the image"),
        column(
            "image_how",
            pa.string(),
            "hard link, symbolic link, copied; written: made from the source",
        ),
        column("instances_path", pa.string(), "path of the numbers of annotations; null without"),
        column("instances_digest", pa.string(), "XXH3-128 of that file, hex"),
        column("instances_bytes", pa.int64(), "size of that file"),
        column("width_px", pa.int32(), "width of the image"),
        column("height_px", pa.int32(), "height of the image"),
        column("read", pa.int64(), "annotations of this image in the source"),
        column("drawn", pa.int64(), "annotations that cover at least one pixel"),
        column("hidden", pa.int64(), "drawn annotations that others cover wholly"),
        column("empty", pa.int64(), "annotations without a pixel"),
        column("outside", pa.int64(), "annotations outside of the image"),
        column("skipped", pa.int64(), "annotations that are no areas"),
        column("skipped_kinds", pa.string(), "kinds of these and their number; null without"),
        column("overlapped_pixels", pa.int64(), "pixels that two annotations or more cover"),
        column("contested_pixels", pa.int64(), "those of them with annotations of several labels"),
        column(
            "several_values", pa.int64(), "mask files of one class or object with several values"
        ),
        column("label_ids", pa.list_(pa.uint32()), "labels of the mask"),
        column("label_pixels", pa.list_(pa.int64()), "pixels of each"),
        *LAST_COLUMNS,
    ]
)


IMPORT = TreeKind(
    "import",
    "1.0",
    IMPORT_LEDGER,
    (LABEL_MAP, DATASET_CSV),
    ("output", "image", "instances"),
    "into another folder makes them again",
)


FIX_LEDGER = pa.schema(
    [
        column("path", pa.string(), "path of the file relative to the data set"),
        column("output_path", pa.string(), "path relative to this folder; null when failed"),
        column("source_digest", pa.string(), "XXH3-128 of the file, hex; null when not read"),
        column("output_digest", pa.string(), "XXH3-128 of the file here, hex; null when failed"),
        column("output_bytes", pa.int64(), "its size; null when failed"),
        column("role", pa.string(), "image, mask, table or other"),
        column("tile_id", pa.string(), "tile of an image or mask; null for other files"),
        column("how", pa.string(), "hard link, symbolic link, copied; written: made anew"),
        column("operations", pa.list_(pa.string()), "what was done, in order"),
        column(
            "left", pa.list_(pa.string()), "what was to be done and was not: operation and reason"
        ),
        column("label_ids", pa.list_(pa.uint32()), "labels of the mask before; null where unread"),
        column("label_pixels", pa.list_(pa.int64()), "pixels of each"),
        column("output_label_ids", pa.list_(pa.uint32()), "labels of the mask here"),
        column("output_label_pixels", pa.list_(pa.int64()), "pixels of each"),
        column("changed_pixels", pa.int64(), "pixels of the mask whose label differs"),
        column("changed_names", pa.int64(), "names of files that were changed in a table"),
        *LAST_COLUMNS,
    ]
)


FIX = TreeKind(
    "fix", "1.0", FIX_LEDGER, again="into another folder makes it again", content="files"
)


EXPORT_LEDGER = pa.schema(
    [
        column("tile_id", pa.string(), "tile of the manifest"),
        column("split", pa.string(), "train, val, test; unlabelled without a mask"),
        column("image_source", pa.string(), "file of the image; null where it is in a shard"),
        column(
            "image_path", pa.string(), "path of the image relative to this folder; null without"
        ),
        column("image_digest", pa.string(), "XXH3-128 of the image, hex"),
        column("image_bytes", pa.int64(), "size of the image"),
        column(
            "image_how",
            pa.string(),
            "hard link, symbolic link, copied; written: from a shard, or as another format",
        ),
        column(
            "output_path",
            pa.string(),
            "path of the file of annotations or mask relative to this folder; null without",
        ),
        column("output_digest", pa.string(), "XXH3-128 of that file, hex"),
        column("output_bytes", pa.int64(), "size of that file"),
        column("width_px", pa.int32(), "width of the image"),
        column("height_px", pa.int32(), "height of the image"),
        column("class_pixels", pa.list_(pa.int64()), "pixels of each class of the label map"),
        column("ignored_pixels", pa.int64(), "pixels without a class"),
        column(
            "class_regions",
            pa.list_(pa.int64()),
            "outlines of each class of the label map; null for formats of masks",
        ),
        column("holes", pa.int64(), "holes of these outlines"),
        column("status", pa.string(), "written; left-out on request; failed: may be tried again"),
        column("reason", pa.string(), "why it failed or was left out; null when written"),
    ]
)


EXPORT = TreeKind(
    "export",
    "1.0",
    EXPORT_LEDGER,
    (),
    ("output", "image"),
    "into another folder makes it again",
    "files",
)
