"""One partition of an export: reads tiles, writes their files, syncs them, then writes their part
of the ledger.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from histoprep import checksums, durable, rule_ids, tables
from histoprep.choices import LinkKind
from histoprep.digests import digest
from histoprep.errors import BrokenFileError, IntegrityError
from histoprep.execution.marker import Marker
from histoprep.exporting.model import Annotated, ExportTile, Format, ImageRule
from histoprep.exporting.numbering import Numbers
from histoprep.job_folder import output_errors
from histoprep.links import COPY, place_file
from histoprep.names import to_name, to_text
from histoprep.schemas.columns import column
from histoprep.schemas.ledgers import EXPORT, expected_files, open_ledger
from histoprep.shards import EncodedTile, TileSource
from histoprep.storage import is_address

WRITTEN, FAILED, LEFT_OUT = "written", "failed", "left-out"
MADE = "written"
NO_MASK, HAS_IGNORED = "it has no mask", "it has pixels without a class"
PART_SCHEMA = EXPORT.ledger_schema.append(
    column("content", pa.string(), "what the files about all tiles say of this one, as JSON")
)
TIME_LIMIT_S = 60.0
_UPRIGHT = (None, 1)


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What all tasks of an export have in common.

    Attributes:
        format: The format.
        numbers: The number of each class.
        class_ids: Ids of all classes, in order.
        copy: Whether images are copied.
        keep_unlabelled: Whether tiles without a mask come along.
        leave_out_ignored: Whether tiles with pixels that have no class are left out.
    """

    format: Format
    numbers: Numbers
    class_ids: tuple[int, ...]
    copy: bool
    keep_unlabelled: bool
    leave_out_ignored: bool


@dataclass(frozen=True, slots=True)
class ExportTask:
    """One partition. `left_out` are tiles at which a worker died, and why."""

    path: str
    root: str | None
    tiles: tuple[ExportTile, ...]
    settings: TaskSettings
    out: str
    part: Path
    marker: Path
    time_limit_s: float = TIME_LIMIT_S
    left_out: tuple[tuple[int, str], ...] = ()

    def run(self) -> Path:
        """Do the work unless it is done, and return the path of the part; raises OutputError."""
        if self.is_done():
            return self.part
        out = Path(self.out)
        with output_errors(out):
            with contextlib.closing(Marker(self.marker, self.time_limit_s)) as marker:
                rows = list(self._rows(marker))
            # Its files first: a part promises them.
            durable.sync_file_system(out)
        tables.write_table(
            self.part,
            [pa.Table.from_pylist(rows, schema=PART_SCHEMA)],
            PART_SCHEMA,
            kind=EXPORT.part,
            schema_version=EXPORT.schema_version,
            metadata={},
        )
        return self.part

    def num_done(self, index: int | None) -> int:
        """Return how many tiles are done at item `index`; all of them for None."""
        return len(self.tiles) if index is None else index

    def without(self, index: int, reason: str) -> ExportTask:
        """Return the task that reports item `index` as failed instead of decoding it."""
        return replace(self, left_out=(*self.left_out, (index, reason)))

    def is_done(self) -> bool:
        """Return whether the part is there, nothing failed, and its files are what it says."""
        if not self.part.exists():
            return False
        try:
            ledger = tables.read_table(open_ledger(self.part, EXPORT.part, EXPORT))
        except IntegrityError:
            return False
        if FAILED in ledger["status"].to_pylist():
            return False
        expected = expected_files(ledger, EXPORT.outputs)
        return not checksums.check_files(Path(self.out), expected, whole=True, keep_states=False)

    def _rows(self, marker: Marker) -> Iterator[dict[str, Any]]:
        source, failures = _source_of(self.path, self.root), dict(self.left_out)
        for index, tile in enumerate(self.tiles):
            marker.at(index)
            row = _empty_row(tile)
            if index in failures:
                verdict = rule_ids.UNREADABLE_FILE.verdict("worker-died")
                yield row | {"status": FAILED, "reason": f"{verdict}: {failures[index]}"}
                continue
            try:
                yield row | self._export(source, tile)
            except BrokenFileError as error:
                yield row | {"status": FAILED, "reason": f"{error.verdict}: {error.detail}"}
            except IntegrityError as error:
                yield row | {"status": FAILED, "reason": _in_line(error)}

    def _export(self, source: TileSource, tile: ExportTile) -> dict[str, Any]:
        """Write the files of a tile and return its columns of the ledger."""
        if not tile.has_mask and not self.settings.keep_unlabelled:
            return {"status": LEFT_OUT, "reason": NO_MASK}
        encoded = source.read_bytes(tile.row)
        facts: dict[str, Any] = {"status": WRITTEN}
        annotated = Annotated()
        if encoded.mask is not None:
            classes = source.decode_mask(tile.row, encoded.mask)
            numbers = self.settings.numbers.apply(classes)
            pixels = np.bincount(classes.ravel(), minlength=256)
            facts["class_pixels"] = [int(pixels[number]) for number in self.settings.class_ids]
            facts["ignored_pixels"] = int(classes.size) - sum(facts["class_pixels"])
            if self.settings.leave_out_ignored and facts["ignored_pixels"]:
                return facts | {"status": LEFT_OUT, "reason": HAS_IGNORED}
            annotated = self.settings.format.annotate(tile, numbers, self.settings.numbers)
            facts |= self._described(annotated)
        facts |= self._place_image(source, tile, encoded)
        if annotated.data is not None:
            name = self.settings.format.output_name(tile)
            assert name is not None
            facts |= self._put("output", name, annotated.data)
        return facts

    def _described(self, annotated: Annotated) -> dict[str, Any]:
        content = None if annotated.content is None else json.dumps(annotated.content)
        has_regions = annotated.content is not None or annotated.regions
        regions = [annotated.regions[class_id] for class_id in self.settings.class_ids]
        return {
            "content": content,
            "class_regions": regions if has_regions else None,
            "holes": annotated.num_holes if has_regions else None,
        }

    def _place_image(
        self, source: TileSource, tile: ExportTile, encoded: EncodedTile
    ) -> dict[str, Any]:
        suffix = os.path.splitext(to_name(tile.image_path))[1]
        name = self.settings.format.image_name(tile)
        file = _file_of(source, tile)
        facts = {"image_source": None if file is None else to_text(str(file))}
        data = _other_bytes(source, tile, encoded.image, suffix, self.settings.format.image_rule)
        if data is not None:
            new_suffix, pixels = data
            return facts | self._put("image", name + new_suffix, pixels) | {"image_how": MADE}
        if file is None:
            return facts | self._put("image", name + suffix, encoded.image) | {"image_how": MADE}
        if self.settings.copy:
            return facts | self._put("image", name + suffix, encoded.image) | {"image_how": COPY}
        target = Path(self.out) / (name + suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        how = place_file(file, target, LinkKind.HARD)
        return facts | _columns("image", name + suffix, encoded.image) | {"image_how": how}

    def _put(self, what: str, name: str, data: bytes) -> dict[str, Any]:
        path = Path(self.out) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.publish_in_batch(path, data)
        return _columns(what, name, data)


@lru_cache(maxsize=1)
def _source_of(path: str, root: str | None) -> TileSource:
    """Return the tiles of a manifest; a worker opens them once."""
    return TileSource(path, root)


def _empty_row(tile: ExportTile) -> dict[str, Any]:
    height, width = tile.size
    return dict.fromkeys(PART_SCHEMA.names) | {
        "tile_id": tile.tile_id,
        "split": tile.split,
        "width_px": width,
        "height_px": height,
    }


def _columns(what: str, name: str, data: bytes) -> dict[str, Any]:
    return {
        f"{what}_path": to_text(name),
        f"{what}_digest": digest(data),
        f"{what}_bytes": len(data),
    }


def _in_line(error: IntegrityError) -> str:
    return f"{error.what} ({error.path})" if error.path else error.what


def _file_of(source: TileSource, tile: ExportTile) -> Path | None:
    """Return the file of an image; None for one in a shard or an object store."""
    root = source.root or str(source.manifest.root)
    if source.is_sharded or is_address(root):
        return None
    path = source.manifest.path_of(tile.image_path, source.root)
    return Path(os.path.abspath(os.path.join(root, to_name(path))))


def _other_bytes(
    source: TileSource, tile: ExportTile, data: bytes, suffix: str, rule: ImageRule
) -> tuple[str, bytes] | None:
    """Return suffix and bytes of an image that a format cannot take as it is, None for others.

    An image that its EXIF orientation turns loses that: masks fit the pixels as they are stored,
    and other programs would turn the image alone.
    """
    from histoprep import imageio

    header = imageio.read_header(data)
    named = rule.suffixes.get(suffix.lower().lstrip("."))
    is_named = named is not None and named.name == header.format
    is_plain = header.bit_depth == 8 and header.num_pages == 1 and header.mode in rule.modes
    if is_named and is_plain and not _has_transparency(data):
        if header.orientation in _UPRIGHT:
            return None
        stripped = imageio.strip_metadata(data, header.format)
        if imageio.read_header(stripped).orientation in _UPRIGHT:
            return suffix, stripped
    return ".png", imageio.encode_rgb_png(source.decode_image(tile.row, data))


def _has_transparency(data: bytes) -> bool:
    """Return whether a PNG names a colour that stands for nothing; readers make four channels of
    three then.
    """
    return data.startswith(b"\x89PNG") and b"tRNS" in data[: data.find(b"IDAT")]
