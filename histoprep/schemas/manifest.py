"""The manifest: one row a usable tile, the contract between the toolkit and the trainer.

The schema has its one home here, with the readers. `build.py` makes a manifest from the tiles
table, `check.py` holds one against the files and against itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from histoprep import tables
from histoprep.errors import IntegrityError, UsageError
from histoprep.labels import IGNORED_ID, LabelMap
from histoprep.mask_reading import Reading
from histoprep.names import to_name, to_text
from histoprep.notebook import html_result
from histoprep.phrases import plural
from histoprep.schemas.columns import column
from histoprep.schemas.workspace import MANIFEST_NAME
from histoprep.schemas.workspace import SUFFIX as WORKSPACE_SUFFIX
from histoprep.visible import visible

if TYPE_CHECKING:
    from pandas import DataFrame

KIND = "manifest"
SCHEMA_VERSION = "1.0"


FOLD = column("fold", pa.int8(), "cross-validation fold, from 0; null for tiles in none")
"""The column that a manifest with folds has beside the others."""


def schema(num_classes: int, *, has_folds: bool = False) -> pa.Schema:
    """Return the columns of a manifest under a label map of `num_classes` classes."""
    return pa.schema(
        [
            column(
                "tile_id",
                pa.string(),
                "POSIX path of the image below its root, without suffix; unique",
                nullable=False,
            ),
            column(
                "image_path",
                pa.string(),
                "relative to the root of the header, or absolute",
                nullable=False,
            ),
            column("mask_path", pa.string(), "as image_path; null when there is none"),
            column("group", pa.string(), "slide, case or patient; null when unknown"),
            column("split", pa.string(), "train, val or test", nullable=False),
            column("pool", pa.string(), "conditional or unconditional", nullable=False),
            column(
                "class_pixels",
                pa.list_(pa.int64(), num_classes),
                "pixels of each class, by class id; zeros without a mask",
                nullable=False,
            ),
            column(
                "classes", pa.list_(pa.uint8()), "core-present class ids, ascending", nullable=False
            ),
            column("label", pa.string(), "image-level class; null unless given"),
            column("width_px", pa.int32(), "image width"),
            column("height_px", pa.int32(), "image height"),
            column("image_bytes", pa.int64(), "file size"),
            column("image_digest", pa.string(), "XXH3-128 of the file, hex"),
            column("mask_bytes", pa.int64(), "file size; null without a mask"),
            column("mask_digest", pa.string(), "XXH3-128 of the file, hex; null without a mask"),
            # Where the members lie once the tiles were packed; null until then.
            column("shard", pa.string(), "name of the tar file, beside the index"),
            column("image_offset", pa.int64(), "first byte of the image in the shard"),
            column("image_length", pa.int64(), "bytes of the image in the shard"),
            column("mask_offset", pa.int64(), "first byte of the mask in the shard"),
            column("mask_length", pa.int64(), "bytes of the mask in the shard"),
            *((FOLD,) if has_folds else ()),
        ]
    )


EXCLUDED_KIND = "excluded"

EXCLUDED_SCHEMA = pa.schema(
    [
        pa.field("tile_id", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)


COLUMNS = tuple(schema(1).names)
SHARD_COLUMNS = ("shard", "image_offset", "image_length", "mask_offset", "mask_length")
_KEYS = tuple(field.name for field in schema(1) if not field.nullable)


@dataclass(frozen=True, eq=False, repr=False)
class Manifest:
    """An open manifest: its header at once, its rows when asked for."""

    path: Path
    header: dict[str, Any]
    label_map: LabelMap
    opened: pq.ParquetFile

    def __len__(self) -> int:
        """Return the number of tiles."""
        return int(self.opened.metadata.num_rows)

    def __repr__(self) -> str:
        """Return the number of tiles and classes, and the path."""
        counts = f"{plural(len(self), 'tile')}, {self.label_map.num_classes:,} classes"
        return f"<Manifest: {counts} | {visible(str(self.path))}>"

    def _repr_html_(self) -> str:
        """Return the classes, for notebooks."""
        rows = [(cls.id, cls.name) for cls in self.label_map.classes]
        return html_result(f"{plural(len(self), 'tile')} | {self.path}", ("class", "name"), rows)

    def to_pandas(self, columns: Sequence[str] | None = None) -> DataFrame:
        """Return a row a tile, with all columns or those that are named."""
        frame: DataFrame = self.read(columns).to_pandas()
        return frame

    @cached_property
    def root(self) -> Path:
        """Return the absolute folder that relative paths start from.

        Where the folder of the header is gone, it is the one at the same place relative to the
        manifest that has the first image.
        """
        stated = Path(self.header["root"])
        return stated if stated.is_dir() else self._moved_root(stated) or stated

    def check_root(self, command: str) -> None:
        """Raise UsageError when the data set is nowhere to be found.

        Args:
            command: What to type before `--root`, as `histoprep shard manifest.parquet`.
        """
        if not self.root.is_dir():
            raise UsageError(
                "the data set of the manifest is not where it was, nor in the same place beside it",
                path=self.path,
                seen=f"no folder {self.root}",
                expected="the folder that the manifest was made of",
                hint=f"{command} --root FOLDER",
            )

    def _moved_root(self, stated: Path) -> Path | None:
        """Return the folder that has the name of the stated one, or the end of its path, below a
        folder around the manifest, the nearest first.
        """
        images = (
            to_name(path)
            for batch in self.iter_batches(["image_path"])
            for path in batch["image_path"].to_pylist()
        )
        # Images of --unlabelled folders outside have absolute paths.
        image = next((path for path in images if not os.path.isabs(path)), None)
        if image is None:
            return None
        ends = [Path(*stated.parts[-length:]) for length in range(len(stated.parts) - 1, 0, -1)]
        places = (folder / end for folder in self.path.absolute().parents for end in ends)
        return next((place for place in places if (place / image).is_file()), None)

    @property
    def moved(self) -> str | None:
        """Return that the data set moved since the manifest was made, in words, or None."""
        stated = self.header["root"]
        root = str(self.root)
        return None if root == stated else f"the data set moved: {stated} is now {root}"

    @property
    def data_folders(self) -> tuple[Path, ...]:
        """Return the folders that nothing may be written into: the root and the --unlabelled
        folders, absolute.
        """
        outside = self.header.get("unlabelled_roots", ())
        return (self.root, *(Path(to_name(self.path_of(folder))) for folder in outside))

    def path_of(self, name: str, root: str | Path | None = None) -> str:
        """Return the path of a file as text: that of a row, or, for a file of an --unlabelled
        folder that moved together with the data set, where it is now.

        Args:
            name: Path of a row, as text.
            root: The folder that relative paths start from; None for that of the manifest.
        """
        if not name.startswith("/"):
            return name
        moves = self._moves(None if root is None else str(root))
        for stated, there in moves.items():
            if name == stated or name.startswith(f"{stated}/"):
                return there + name[len(stated) :]
        return name

    def _moves(self, root: str | None) -> dict[str, str]:
        """Return where the --unlabelled folders outside of the root that are gone lie now, by the
        paths that the manifest has, both as text: at the same place relative to the root.
        """
        if root not in self._known_moves:
            stated = str(self.header["root"])
            now = os.path.abspath(self.root if root is None else root)
            places = {
                folder: os.path.normpath(os.path.join(now, os.path.relpath(folder, stated)))
                for folder in map(str, self.header.get("unlabelled_roots", ()))
                if not os.path.isdir(folder)
            }
            self._known_moves[root] = {
                to_text(folder): to_text(there)
                for folder, there in places.items()
                if os.path.isdir(there)
            }
        return self._known_moves[root]

    @cached_property
    def _known_moves(self) -> dict[str | None, dict[str, str]]:
        return {}

    @property
    def recipe(self) -> dict[str, Any]:
        """Return how the split was made: fractions, seed, grouping, method, solver."""
        return dict(self.header["recipe"])

    @property
    def certificate(self) -> dict[str, Any]:
        """Return what the split was proven to be when it was made; see
        `split.certificate.certify`.
        """
        return dict(self.header["certificate"])

    @property
    def num_folds(self) -> int:
        """Return the number of cross-validation folds; 0 without."""
        return len(self.recipe["folds"]["names"]) if "folds" in self.recipe else 0

    @property
    def tiles_digest(self) -> str:
        """Return the XXH3-128 (hex) of the tiles table that the manifest was made from."""
        return str(self.header["tiles_digest"])

    @property
    def mask_reading(self) -> Reading:
        """Return what was decided of masks that readers understand in two ways."""
        return Reading.from_json(self.header.get("mask_reading", {}))

    @property
    def excluded(self) -> dict[str, int]:
        """Return how many tiles were left out, by reason."""
        return dict(self.header["excluded"])

    def iter_batches(
        self, columns: Sequence[str] | None = None, rows: int = tables.ROW_GROUP_ROWS
    ) -> Iterator[pa.Table]:
        """Yield the rows in order, at most `rows` at a time."""
        return tables.read_batches(self.opened, columns, rows)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all rows, or the named columns of them."""
        return tables.read_table(self.opened, columns)


def open_manifest(path: str | Path) -> Manifest:
    """Return the manifest in a file; its rows are read later.

    Args:
        path: Path of manifest.parquet. Unknown extra columns are fine.

    Raises:
        UsageError: There is no such file.
        IntegrityError: It is no manifest, damaged, of another major version, or lacks columns.
    """
    place = Path(path)
    if place.is_dir():
        raise folder_instead(place)
    try:
        opened, header = tables.open_table(place, kind=KIND, schema_version=SCHEMA_VERSION)
    except FileNotFoundError:
        raise UsageError(
            "there is no manifest here", path=place, hint="histoprep manifest --map MAP"
        ) from None
    try:
        label_map = LabelMap.from_json(header["label_map"])
        complete = {
            name: header[name]
            for name in ("root", "recipe", "certificate", "tiles_digest", "excluded")
        }
    except (KeyError, UsageError) as error:
        raise IntegrityError(
            f"the header of the manifest is incomplete: {error}",
            path=place,
            hint="make the manifest again",
        ) from error
    wrong = schema_problems(opened.schema_arrow, label_map.num_classes)
    if wrong:
        raise IntegrityError(
            "the columns are not those of a manifest",
            path=place,
            seen="; ".join(wrong),
            hint="make the manifest again",
        )
    return Manifest(place, {**header, **complete}, label_map, opened)


def folder_instead(path: Path) -> UsageError:
    """Return the error for a folder where a manifest is wanted, with the manifest that is there or
    in the results of that folder, if any.
    """
    beside = path.absolute().with_name(f"{path.absolute().name}{WORKSPACE_SUFFIX}")
    known = next(
        (place for folder in (path, beside) if (place := folder / MANIFEST_NAME).is_file()), None
    )
    return UsageError(
        "this is a folder, not a manifest",
        path=path,
        expected=known,
        hint=_HINT if known is None else f"name the manifest {known}",
    )


_HINT = "name a manifest.parquet, which histoprep manifest writes"


def open_named_manifest(path: Path) -> Manifest:
    """Return the manifest that a user names; raises UsageError for a folder or a file of another
    kind, and as `open_manifest`.
    """
    hint = _HINT
    if path.is_dir():
        raise folder_instead(path)
    try:
        is_other = not tables.looks_like_parquet(path)
    except OSError:
        # `open_manifest` says what it is.
        is_other = False
    if is_other:
        raise UsageError("this is no Parquet file, and so no manifest", path=path, hint=hint)
    return open_manifest(path)


def read_manifest(path: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of a manifest as one table.

    Args:
        path: Path of manifest.parquet.
        columns: Names of columns; None for all.

    Raises:
        UsageError: There is no such file.
        IntegrityError: It is no manifest, damaged, or of another major version.
    """
    return open_manifest(path).read(columns)


def schema_problems(columns: pa.Schema, num_classes: int) -> list[str]:
    """Return what keeps `found` from being a manifest's schema: missing columns and wrong types."""
    problems = []
    for field in schema(num_classes):
        index = columns.get_field_index(field.name)
        if index < 0:
            problems.append(f"no column {field.name}")
        elif columns.field(index).type != field.type:
            problems.append(f"{field.name} is {columns.field(index).type}, not {field.type}")
    return problems


def null_keys(batch: pa.Table) -> list[str]:
    """Return the columns of `batch` that hold a null although they may not."""
    return [name for name in _KEYS if name in batch.column_names and batch[name].null_count]


def class_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """Return a `class_pixels` column as int64 [rows, classes]."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    width = array.type.list_size
    # .values ignores the slice's offset; flatten does not.
    return (
        array.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        if width
        else np.zeros((len(array), 0), dtype=np.int64)
    )


def write_manifest(
    path: Path, batches: Iterable[pa.Table], label_map: LabelMap, header: dict[str, Any]
) -> int:
    """Publish `batches` as a manifest and return the number of rows; `header` has root, recipe,
    certificate, tiles_digest, excluded. Where the label map ignores values, the header says as
    which id they stand in shards and latent sets.
    """
    described = {
        **header,
        "label_map": label_map.to_json(),
        "label_map_digest": label_map.digest,
    }
    if label_map.ignore:
        # For readers of shards that do not know label maps.
        described["ignored_id"] = IGNORED_ID
    return tables.write_table(
        path,
        batches,
        schema(label_map.num_classes, has_folds="folds" in header["recipe"]),
        kind=KIND,
        schema_version=SCHEMA_VERSION,
        metadata=described,
    )
