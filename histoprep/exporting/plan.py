"""Everything about an export that is decided before the first file is written."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histoprep.digests import digest_text
from histoprep.errors import UsageError
from histoprep.exporting.formats import FORMATS
from histoprep.exporting.model import UNLABELLED, ExportTile, Format
from histoprep.exporting.numbering import Numbers, background_of, number_classes
from histoprep.exporting.task import ExportTask, TaskSettings
from histoprep.job_folder import JobFolder
from histoprep.manifest.check import check_manifest
from histoprep.names import to_name, to_text
from histoprep.schemas.ledgers import EXPORT
from histoprep.schemas.manifest import FOLD, Manifest
from histoprep.schemas.workspace import check_outside
from histoprep.shards import TileSource
from histoprep.version import __version__

PARTITION_TILES = 64
_COLUMNS = (
    "tile_id", "image_path", "mask_path", "split", "group", "label", "height_px", "width_px",
)  # fmt: skip
_NNUNET_FOLDER = re.compile(r"Dataset\d{3}_\w[\w-]*")
_NUM_KEY = 8


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How a folder is exported.

    Attributes:
        out: The folder.
        copy: Whether images are copied; else they are linked where they can be.
        background: Name or number of the class that is the background, or `none`; None for the
            class whose name says so.
        keep_unlabelled: Whether tiles without a mask come along, in folders of their own.
        leave_out_ignored: Whether tiles with pixels that have no class are left out.
    """

    out: Path
    copy: bool = False
    background: str | None = None
    keep_unlabelled: bool = False
    leave_out_ignored: bool = False


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """Everything decided before the first file is written."""

    format: Format
    source: TileSource
    options: ExportOptions
    numbers: Numbers

    @property
    def manifest(self) -> Manifest:
        """Return the manifest, or index of shards."""
        return self.source.manifest

    @property
    def out(self) -> Path:
        """Return the absolute folder."""
        return self.options.out.absolute()

    @property
    def job(self) -> JobFolder:
        """Return the folder as one that a job fills."""
        return EXPORT.job(self.out)

    @property
    def request(self) -> dict[str, Any]:
        """Return what the files depend on, as JSON values."""
        background = self.numbers.background
        return {
            "format": self.format.name,
            "manifest_digest": self.source.digest,
            "label_map_digest": self.manifest.label_map.digest,
            "is_sharded": self.source.is_sharded,
            "copy": self.options.copy,
            "background": None if background is None else to_text(background.name),
            "keep_unlabelled": self.options.keep_unlabelled,
            "leave_out_ignored": self.options.leave_out_ignored,
        }

    def tasks(self) -> Iterator[ExportTask]:
        """Yield the partitions in order of the manifest."""
        stated = digest_text(
            repr((EXPORT.schema_version, __version__, sorted(self.request.items())))
        )
        options = self.options
        settings = TaskSettings(
            self.format,
            self.numbers,
            tuple(cls.id for cls in self.manifest.label_map.classes),
            options.copy,
            options.keep_unlabelled,
            options.leave_out_ignored,
        )
        tiles = self.tiles()
        for number in itertools.count():
            chosen = tuple(itertools.islice(tiles, PARTITION_TILES))
            if not chosen:
                return
            key = digest_text(repr((stated, number, chosen)))
            part = self.job.parts / f"{key}.parquet"
            places = str(self.out), part, part.with_suffix(".at")
            yield ExportTask(self.source.path, self.source.root, chosen, settings, *places)

    def tiles(self) -> Iterator[ExportTile]:
        """Yield the tiles in order of the manifest, each with its name in the folder."""
        names = _flat_names(self.manifest) if self.format.is_flat else {}
        has_folds = self.manifest.num_folds > 0
        columns = (*_COLUMNS, *([FOLD.name] if has_folds else []))
        row = itertools.count()
        for batch in self.manifest.iter_batches(columns):
            for values in batch.to_pylist():
                tile_id, has_mask = values["tile_id"], values["mask_path"] is not None
                yield ExportTile(
                    next(row),
                    tile_id,
                    names.get(tile_id) or to_name(tile_id),
                    values["split"] if has_mask else UNLABELLED,
                    values[FOLD.name] if has_folds else None,
                    values["group"],
                    values["label"],
                    values["image_path"],
                    has_mask,
                    (values["height_px"], values["width_px"]),
                )


def plan_export(
    format_name: str,
    path: str | Path,
    options: ExportOptions,
    root: str | Path | None = None,
) -> ExportPlan:
    """Return the plan of an export; nothing is written.

    Args:
        format_name: One of `FORMATS`.
        path: A manifest, or shards.
        options: How the folder is made.
        root: Folder that relative paths start from; None for that of the manifest.

    Raises:
        UsageError: The folder would lie in the data set or hold it, or holds something else; there
            is no class to export; nnU-Net needs another name.
        IntegrityError: The manifest does not hold.
    """
    source = TileSource(str(path), None if root is None else str(root))
    manifest, form = source.manifest, FORMATS[format_name]
    check_manifest(manifest)
    _refuse_place(options.out, manifest)
    if form.name == "nnunet":
        _check_nnunet_name(options.out)
    background = background_of(manifest.label_map, options.background)
    numbers = number_classes(manifest.label_map, background, consecutive=form.consecutive)
    if not numbers.classes:
        raise UsageError(
            "there is no class besides the background",
            path=manifest.path,
            hint="--background none makes the only class one that is annotated",
        )
    plan = ExportPlan(form, source, options, numbers)
    plan.job.refuse_foreign_files()
    plan.job.refuse_other_request(plan.job.read_request(), plan.request)
    return plan


def _refuse_place(out: Path, manifest: Manifest) -> None:
    check_outside(out.absolute(), manifest.data_folders, "an export")
    real = out.resolve()
    if out.exists() and not out.is_dir():
        raise UsageError("an export needs a folder", path=out, seen="a file of that name")
    for folder in (*manifest.data_folders, manifest.path.resolve().parent):
        if folder.resolve().is_relative_to(real):
            raise UsageError(
                "an export needs a folder of its own",
                path=out,
                seen=f"it holds {folder}",
                hint="name a new folder with --out",
            )


def _check_nnunet_name(out: Path) -> None:
    if not _NNUNET_FOLDER.fullmatch(out.name):
        raise UsageError(
            "nnU-Net finds data sets by the name of their folder",
            seen=out.name,
            expected="Dataset, three digits, a line and a name, such as Dataset501_Colon",
            hint=f"--out {out / 'Dataset501_Tiles'}",
        )


def _flat_names(manifest: Manifest) -> dict[str, str]:
    """Return a name without folders for each tile id; where two would be alike, with a digest."""
    seen: dict[str, str] = {}
    names: dict[str, str] = {}
    for batch in manifest.iter_batches(["tile_id"]):
        for tile_id in batch["tile_id"].to_pylist():
            name = to_name(tile_id).replace("/", "__")
            if seen.setdefault(name.casefold(), tile_id) != tile_id:
                name = f"{name}_{digest_text(tile_id)[:_NUM_KEY]}"
            names[tile_id] = name
    return names
