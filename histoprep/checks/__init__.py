"""The rules of the audit, one file for each family: what a rule means stands beside the function
that finds it, a pure function from tables to findings.

Two kinds: a *row rule* looks at one piece of tiles.parquet at a time, so memory does not grow
with the data set; a *table rule* needs all tiles and sees a few columns of them. Both
get the same `Evidence`. `catalogue.py` collects the rules of all files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep.findings import Finding, Rule, finding, in_order
from histoprep.labels import IGNORED, LabelMap, MapProblem
from histoprep.labels.ignored import IgnoredValue
from histoprep.scanning import ScanOptions
from histoprep.scanning.companions import Companions
from histoprep.scanning.group_patterns import Grouping
from histoprep.scanning.numbering import Shift
from histoprep.tiles.exif_fit import ExifFit
from histoprep.tiles.image_labels import CrossTable

if TYPE_CHECKING:
    import pandas as pd

    from histoprep.tiles.instances import InstanceIds
    from histoprep.tiles.lossy_sources import LossySource
    from histoprep.tiles.misfits import Misfit
    from histoprep.tiles.readings import MaskReadings


if TYPE_CHECKING:
    from histoprep.counting.counts import Counts

MAX_LISTED = 8
# What only sources are judged by, or all tiles at once.
_VOTES = ("fit_evidence", "borders", "landmarks")
# Columns of the tiles table that table rules see; a few short ones, so that millions of tiles fit.
OVERVIEW_COLUMNS = (
    "tile_id", "group", "split", "label", "unlabelled", "image_path", "mask_path", "image_digest",
    "image_error", "image_format", "image_mode", "width_px",
    "height_px", "jpeg_quality", "jpeg_subsampling", "focus", "contrast", "background_share",
    "mask_digest", "mask_error", "mask_label_map",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Thresholds a user may set, and whether pixels were looked at at all."""

    min_area_px: int = 64
    tile_size_px: tuple[int, int] | None = None
    headers_only: bool = False


@dataclass(frozen=True, slots=True)
class Amounts:
    """How many there are of each kind; also what an expectation file may declare.

    `zero_masks` are masks with an image that hold label 0 alone, `unreadable` counts images and
    masks.
    """

    images: int = 0
    masks: int = 0
    pairs: int = 0
    orphan_masks: int = 0
    zero_masks: int = 0
    unreadable: int = 0


def _no_readings() -> MaskReadings:
    # Here, since it loads pandas, and rules are listed without.
    from histoprep.tiles.readings import MaskReadings

    return MaskReadings()


def _no_neighbours() -> pd.DataFrame:
    from histoprep.schemas.neighbours import SCHEMA

    result: pd.DataFrame = SCHEMA.empty_table().to_pandas()
    return result


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything rules may look at.

    What a repaired mask holds stands in the place of what the damaged one held; paths and digests
    are those of the data set. `overview` has one row a tile with `OVERVIEW_COLUMNS`, `source`,
    which is the group or else the folder, `is_repaired`, and of each mask whether it holds label 0
    alone (`zero`) or a label other than 0 (`foreground`). `issues` are kind, path, detail of the
    scan. `duplicates` are compared pairs of images (see `duplicates.py`), `num_uncompared` how many
    more candidates there were than the limit. `counts` are of the label map's classes, or of the
    raw labels without a map; `label_counts` always of the raw labels, which `raw_map` maps to
    themselves. `map_problems` are those of the map's file. `lossy` are the sources whose masks went
    through lossy compression or interpolation, `repaired` the paths of masks that `repair` made new
    ones of. `readings` are the masks whose labels depend on the reader. `ignored_value` is a value
    that seems to mark pixels without a label, and that the label map does not list; `instances` are
    labels that number objects instead of naming classes. `image_labels` holds image-level labels
    against the labels of masks. `companions` are files among the images that belong to others,
    `misfits` masks that do not fit their images, `exif_fit` whether masks fit images with an
    orientation tag as stored or as turned. `neighbours` are pairs of tiles that touch or overlap,
    with the columns of `schemas/neighbours.py`; `pixel_groups` says what holds groups together that
    were found by them, and `groups_in_pixels` how many groups, of how many tiles, would be found
    where no groups are known. `shifts` are folders whose masks are
    numbered otherwise than their images, and `suggested_pairs` is the table of the pairs that they
    seem to mean. `scan` are the options of the scan that a later command begins with.
    `columns_of_groups` are columns of tables in the data set that would group the tiles, where no
    groups are known.
    """

    root: Path
    overview: pd.DataFrame
    issues: pd.DataFrame
    duplicates: pd.DataFrame
    amounts: Amounts
    label_counts: Counts
    counts: Counts
    raw_map: LabelMap
    label_map: LabelMap | None = None
    map_problems: tuple[MapProblem, ...] = ()
    map_path: str = ""
    expected: Mapping[str, Any] = field(default_factory=dict)
    manifest: Path | None = None
    options: CheckOptions = field(default_factory=CheckOptions)
    lossy: tuple[LossySource, ...] = ()
    repaired: frozenset[str] = frozenset()
    num_uncompared: int = 0
    readings: MaskReadings = field(default_factory=_no_readings)
    ignored_value: IgnoredValue | None = None
    instances: InstanceIds | None = None
    image_labels: CrossTable = field(default_factory=CrossTable)
    companions: tuple[Companions, ...] = ()
    shifts: tuple[Shift, ...] = ()
    suggested_pairs: Path = Path()
    columns_of_groups: tuple[Grouping, ...] = ()
    scan: ScanOptions = field(default_factory=ScanOptions)
    misfits: tuple[Misfit, ...] = ()
    exif_fit: ExifFit = field(default_factory=ExifFit)
    neighbours: pd.DataFrame = field(default_factory=_no_neighbours)
    pixel_groups: Mapping[str, int] = field(default_factory=dict)
    groups_in_pixels: tuple[int, int] = (0, 0)

    @property
    def companion_paths(self) -> frozenset[str]:
        """Return the paths of all `companions`."""
        return frozenset(path for group in self.companions for path in group.paths)

    def label_name(self, label_id: int) -> str:
        """Return a raw label as label maps spell it: `#ff0000` where masks are coded by colour."""
        return f"#{label_id:06x}" if self.readings.has_colours else str(label_id)

    @property
    def counts_are_of_classes(self) -> bool:
        """Return whether `counts` are of classes: those of a label map, or labels that are no
        instance ids.
        """
        return self.label_map is not None or self.instances is None

    def counts_as_label(self, label_ids: np.ndarray) -> np.ndarray:
        """Return which labels (bool, same shape) stand for something: not those that the label map
        ignores, nor a value along boundaries that seems to mark pixels without a label.
        """
        ids = np.asarray(label_ids)
        counts = np.ones(ids.shape, bool)
        if self.label_map is not None and self.label_map.ignore:
            counts &= self.label_map.apply_to_ids(ids) != IGNORED
        if self.ignored_value is not None and self.ignored_value.along_boundaries:
            counts &= ids != self.ignored_value.value
        return counts

    @property
    def images(self) -> pd.DataFrame:
        """Return the rows of the overview that have an image."""
        has_image = self.overview.image_path.notna()
        return self.overview if has_image.all() else self.overview[has_image]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the tiles table: `tiles` without lists of numbers, `labels` with a row for each
    label of a tile.

    `labels` has `row` (position in `tiles`), label_id, pixels, core_pixels, radius_px, regions,
    specks, in order of row.
    """

    tiles: pd.DataFrame
    labels: pd.DataFrame

    @classmethod
    def of(cls, table: pa.Table) -> Chunk:
        """Return a piece of tiles.parquet in this form."""
        import pandas as pd

        lists = [name for name in table.column_names if name.startswith("label_")]
        tiles = table.drop_columns([*lists, *_VOTES]).to_pandas(types_mapper=nullable)
        counts = (
            table["label_ids"]
            .combine_chunks()
            .value_lengths()
            .fill_null(0)
            .to_numpy(zero_copy_only=False)
        )
        labels = {"row": np.repeat(np.arange(table.num_rows), counts)}
        for name in lists:
            labels[name.removeprefix("label_").replace("ids", "label_id")] = (
                table[name].combine_chunks().flatten().to_numpy()
            )
        return cls(tiles, pd.DataFrame(labels))

    def labels_named(self, chosen: pd.Series) -> pd.Series:
        """Return "label 3" or "labels 3, 4 and 20 more" for each tile with a chosen label; indexed
        by row.
        """
        import pandas as pd

        picked = self.labels[chosen]
        starts = np.flatnonzero(np.diff(picked.row, prepend=-1))
        sizes = np.diff(starts, append=len(picked))
        shown = np.arange(len(picked)) - np.repeat(starts, sizes) < MAX_LISTED
        ends = np.concatenate(([0], np.cumsum(np.minimum(sizes, MAX_LISTED)))).astype(np.int32)
        texts = pa.ListArray.from_arrays(ends, pa.array(picked.label_id[shown]).cast(pa.string()))
        joined = pc.binary_join(texts, ", ").to_pylist()
        rows = picked.row.to_numpy()[starts]
        words = [_label_words(text, int(size)) for text, size in zip(joined, sizes, strict=True)]
        return pd.Series(words, index=rows, dtype=object)


def _label_words(text: str, size: int) -> str:
    return f"label{'s' if size > 1 else ''} {text}" + (
        f" and {size - MAX_LISTED} more" if size > MAX_LISTED else ""
    )


def nullable(kind: pa.DataType) -> Any:
    """Return pandas' type for an Arrow type that keeps whole numbers whole and text text where
    values are missing.
    """
    import pandas as pd

    if pa.types.is_integer(kind):
        return pd.UInt64Dtype() if pa.types.is_unsigned_integer(kind) else pd.Int64Dtype()
    if pa.types.is_string(kind):
        return pd.StringDtype("pyarrow")
    return pd.BooleanDtype() if pa.types.is_boolean(kind) else None


def true(condition: Any) -> np.ndarray:
    """Return a condition as bool [rows]; unknown counts as false."""
    import pandas as pd

    result: np.ndarray = pd.array(condition, dtype="boolean").to_numpy(dtype=bool, na_value=False)
    return result


def rows_of(frame: pd.DataFrame, chosen: Any) -> pd.DataFrame:
    """Return the chosen rows of a frame, which is not copied where all are; unknown is no."""
    mask = true(chosen)
    return frame if mask.all() else frame[mask]


def flag(
    rule: Rule,
    frame: pd.DataFrame,
    chosen: Any,
    path: str,
    detail: str,
    *,
    denominator: int,
    unit: str,
    subcode: str = "",
    where: str = "",
    cause: str = "",
    suggestion: str = "",
) -> Iterator[Finding]:
    """Yield one finding of `rule` about the chosen rows of `frame`, or nothing when there are none.

    `path` is the column that names the file and `detail` a format string over the row's columns.
    """
    mask = true(chosen)
    if mask.any():
        rows = rows_of(frame[list(dict.fromkeys((path, *_names_in(detail))))], mask)
        items = zip(rows[path].tolist(), _filled(detail, rows), strict=True)
        yield finding(
            rule,
            items,
            denominator=denominator,
            unit=unit,
            subcode=subcode,
            where=where,
            cause=cause,
            suggestion=suggestion,
        )


def _filled(template: str, rows: pd.DataFrame) -> Iterable[str]:
    """Return the template filled in for each row; only the columns it names are touched."""
    names = _names_in(template)
    if not names:
        return [template] * len(rows)
    columns = (rows[name].tolist() for name in names)
    return [
        template.format(**dict(zip(names, values, strict=True)))
        for values in zip(*columns, strict=True)
    ]


def _names_in(template: str) -> list[str]:
    """Return the columns that a template names, each once."""
    return list(dict.fromkeys(name for _, name, _, _ in Formatter().parse(template) if name))


def merged(found: Iterable[Finding]) -> list[Finding]:
    """Return the findings with those of one rule, subcode and place made one, in order of path."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for problem in found:
        groups.setdefault((problem.code, problem.subcode, problem.where), []).append(problem)
    return [_joined(parts) for parts in groups.values()]


def _joined(parts: list[Finding]) -> Finding:
    if len(parts) == 1:
        return parts[0]
    items = in_order(item for part in parts for item in zip(part.paths, part.details, strict=True))
    paths, details = zip(*items, strict=True)
    return replace(parts[0], count=sum(part.count for part in parts), paths=paths, details=details)
