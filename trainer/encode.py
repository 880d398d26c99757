"""Encode the tiles of a manifest once: a latent set, and a report of what the codec costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from histoprep.digests import digest_text
from histoprep.durable import locked
from histoprep.errors import HistoprepError, UsageError
from histoprep.labels import IGNORED_ID
from histoprep.schemas.latents import IDENTITY_COLUMNS
from trainer.choices import Fit, OnUnreadable, ScalingMethod
from trainer.data.latent_scaling import LatentScaling
from trainer.data.latent_writer import LatentLayout, LatentWriter, refuse_foreign_files
from trainer.data.latents import LatentSet
from trainer.data.loader import loader
from trainer.data.transforms import (
    VIEW_COUNTS,
    VIEW_ORDER,
    apply_view,
    check_size,
    to_float,
    windows,
)
from trainer.errors import DataError
from trainer.signals import saying

if TYPE_CHECKING:
    from histoprep.shards import Tile, TileSource
    from trainer.models.codec import Codec

TRAIN = "train"
PIXEL_TRANSFORM = "x / 127.5 - 1"
_CHUNK_BYTES = 16 << 20
# A killed run loses at most one chunk; of small crops, 16 MiB would be many minutes of work.
_CHUNK_ENTRIES = 1024
_LEAST_STD = 1e-6

Advance = Callable[[int], object]


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode. `image_size` None: that of the tiles, which must have one size then. `views`:
    1, 2, 4 or 8 of the symmetries.

    `fit`: refuse tiles of another size, crop their middle, or encode all of their windows.
    `scaling`: measured over the training split, or the codec's own. `batch_size` crops are
    encoded at once. `asked_by`: the names that the user gives size and fit by, for errors.
    """

    image_size: int | None = None
    views: int = 1
    fit: Fit = "refuse"
    scaling: ScalingMethod = "measured"
    batch_size: int = 8
    num_workers: int = 0
    on_unreadable: OnUnreadable = "stop"
    device: str = "cpu"
    asked_by: tuple[str, str] = ("--image-size", "--fit")

    def validate(self) -> None:
        """Raise UsageError for values that make no sense."""
        if self.image_size is not None and self.image_size < 1:
            raise UsageError(
                "--image-size must be at least 1 px",
                seen=f"{self.asked_by[0]} {self.image_size}",
                expected="at least 1 px",
            )
        if self.views not in VIEW_COUNTS:
            raise UsageError(
                "no such number of views",
                seen=self.views,
                expected=", ".join(map(str, VIEW_COUNTS)),
            )
        if self.batch_size < 1 or self.num_workers < 0:
            raise UsageError(
                "invalid batch size or number of workers",
                seen=f"{self.batch_size}, {self.num_workers}",
                expected="at least 1 and 0",
            )


@dataclass(frozen=True)
class EncodeResult:
    """What `encode_tiles` made: `num_encoded` entries in this run, of `num_entries`; `skipped` ids
    of tiles that cannot be read.
    """

    latents: LatentSet
    num_entries: int
    num_encoded: int
    skipped: tuple[str, ...]


def encode_tiles(
    tiles: TileSource,
    codec: Codec,
    out: Path,
    options: EncodeOptions,
    *,
    force: bool = False,
    advance: Advance = lambda _: None,
) -> EncodeResult:
    """Write the latent set of all tiles into `out`, or resume one that was begun there.

    A second run ends with the same bytes. When only the split or the scaling changed, statistics
    are
    measured again and the latents kept.

    Args:
        tiles: The tiles of a manifest or of shards.
        codec: The autoencoder.
        out: Folder of the latent set.
        options: How to encode.
        force: Replace a latent set of other options, or one with damaged files.
        advance: Called with the number of crops done.

    Returns:
        The latent set, and what this run did.

    Raises:
        UsageError: For options or tiles that do not fit and, also with `force`, for a folder of
            other
            files.
        LockedError: When another process writes to `out`.
        OutputError: When `out` cannot be written.
        HistoprepError: What reading a tile raises.
    """
    options.validate()
    place = _Placed.of(tiles, options)
    codec = codec.to(options.device)
    refuse_foreign_files(out)
    with locked(out):
        layout = _layout(place, codec, options)
        writer = LatentWriter(out, layout, _request(tiles, codec, place, options), anew=force)
        layout = writer.layout
        before = writer.done
        advance(sum(len(chunk) for chunk in layout.chunks()[:before]))
        with saying(
            lambda: (
                f"{sum(map(len, layout.chunks()[: writer.done])):,} of {layout.num_entries:,} crops"
                " are kept"
            )
        ):
            _write_chunks(
                writer, _EntryTiles(tiles, place, options.on_unreadable), codec, options, advance
            )
            _finish(writer, tiles, codec, place, options)
    skipped = tuple(str(tiles.tile_ids[row]) for row in sorted(set(writer.skipped)))
    num_encoded = sum(len(chunk) for chunk in layout.chunks()[before:])
    return EncodeResult(LatentSet.open(out), layout.num_entries, num_encoded, skipped)


@dataclass(frozen=True)
class _Placed:
    """Where the crops of all tiles are: entry e is a window of tile `rows[e]` whose corner is
    `corners[e]` (top, left).
    """

    size_px: int
    first: np.ndarray
    count: np.ndarray
    rows: np.ndarray
    corners: np.ndarray

    @classmethod
    def of(cls, tiles: TileSource, options: EncodeOptions) -> _Placed:
        """Return the crops of all tiles.

        Raises:
            UsageError: For tiles that do not fit.
        """
        table = tiles.manifest.read(["height_px", "width_px"])
        sizes = np.stack([table[name].to_numpy() for name in table.column_names], axis=1)
        if np.isnan(sizes.astype(np.float64)).any():
            raise DataError(
                "the manifest lacks the sizes of the tiles",
                path=tiles.path,
                hint="make it again: histoprep manifest --map MAP",
            )
        size = _common_size(sizes) if options.image_size is None else options.image_size
        corners: list[list[tuple[int, int]]] = []
        for row, (height, width) in enumerate(sizes.astype(int).tolist()):
            check_size(
                height,
                width,
                size,
                options.fit,
                tile_id=str(tiles.tile_ids[row]),
                options=options.asked_by,
            )
            middle = [((height - size) // 2, (width - size) // 2)]
            corners.append(windows(height, width, size) if options.fit == "tile" else middle)
        count = np.array([len(corner) for corner in corners], dtype=np.int64)
        flat = np.array(
            [corner for window in corners for corner in window], dtype=np.int64
        ).reshape(-1, 2)
        return cls(
            size, np.cumsum(count) - count, count, np.repeat(np.arange(len(count)), count), flat
        )


def _common_size(sizes: np.ndarray) -> int:
    distinct, counts = np.unique(sizes, axis=0, return_counts=True)
    if len(distinct) == 1 and distinct[0, 0] == distinct[0, 1]:
        return int(distinct[0, 0])
    sizes_text = ", ".join(
        f"{count:,} of {height} x {width}"
        for (height, width), count in zip(distinct[:3].tolist(), counts[:3].tolist(), strict=True)
    )
    raise UsageError(
        "the tiles are not square and of one size",
        seen=f"{sizes_text} px",
        hint="give --image-size, with --fit crop or tile",
    )


def _layout(place: _Placed, codec: Codec, options: EncodeOptions) -> LatentLayout:
    probe = codec.encode(torch.zeros(1, 3, place.size_px, place.size_px, device=options.device))
    channels, height, width = probe.mean.shape[1:]
    num_parts = 1 if probe.std is None else 2
    entry_bytes = 2 * options.views * num_parts * channels * height * width
    # Whole batches make a chunk: the numbers of a batch may depend on its size.
    entries = min(_CHUNK_BYTES // entry_bytes, _CHUNK_ENTRIES)
    chunk = max(1, entries // options.batch_size) * options.batch_size
    return LatentLayout(
        len(place.rows), VIEW_ORDER[: options.views], num_parts, (channels, height, width), chunk
    )


def _request(
    tiles: TileSource, codec: Codec, place: _Placed, options: EncodeOptions
) -> dict[str, Any]:
    """Return what the latents depend on; the split is not among it."""
    facts = tiles.manifest.read([name for name in IDENTITY_COLUMNS if name != "split"])
    listed = "\n".join("\t".join(map(str, row.values())) for row in facts.to_pylist())
    return {
        "tiles": digest_text(f"{tiles.label_map.digest}\n{listed}"),
        "codec": codec.digest,
        "image_size": place.size_px,
        "fit": options.fit,
        "views": options.views,
        "batch_size": options.batch_size,
        "on_unreadable": options.on_unreadable,
    }


@dataclass
class _EntryTiles:
    """Entry -> its crop, uncut errors aside: uint8 image and mask, and whether the tile could be
    read.
    """

    tiles: TileSource
    place: _Placed
    on_unreadable: OnUnreadable
    # The crops of a tile follow each other: each process decodes a tile once for all of them.
    _last: tuple[int, Tile | HistoprepError] | None = field(default=None, repr=False)

    def batch(self, positions: np.ndarray) -> dict[str, Tensor]:
        """Return `image` uint8 [batch, size, size, 3], `mask` uint8 [batch, size, size], `readable`
        bool [batch].
        """
        size = self.place.size_px
        image = np.zeros((len(positions), size, size, 3), dtype=np.uint8)
        mask = np.zeros((len(positions), size, size), dtype=np.uint8)
        readable = np.ones(len(positions), dtype=bool)
        for index, entry in enumerate(positions.tolist()):
            tile = self._read(int(self.place.rows[entry]))
            if isinstance(tile, HistoprepError):
                if self.on_unreadable == "stop":
                    raise tile
                readable[index] = False
                continue
            top, left = self.place.corners[entry]
            image[index] = tile.image[top : top + size, left : left + size]
            if tile.mask is not None:
                mask[index] = tile.mask[top : top + size, left : left + size]
        return {
            "image": torch.from_numpy(image),
            "mask": torch.from_numpy(mask),
            "readable": torch.from_numpy(readable),
        }

    def _read(self, row: int) -> Tile | HistoprepError:
        """Return a tile, or why it cannot be read."""
        if self._last is None or self._last[0] != row:
            try:
                self._last = (row, self.tiles.read(row))
            except HistoprepError as error:
                self._last = (row, error)
        return self._last[1]


def _write_chunks(
    writer: LatentWriter,
    crops: _EntryTiles,
    codec: Codec,
    options: EncodeOptions,
    advance: Advance,
) -> None:
    chunks = writer.layout.chunks()[writer.done :]
    if not chunks:
        return
    # Chunks but the last are whole batches, so one loader serves all of them.
    batches = loader(
        crops,
        range(chunks[0].start, writer.layout.num_entries),
        options.batch_size,
        options.num_workers,
    )
    for chunk in chunks:
        encoded = [
            _encode_batch(next(batches), codec, writer.layout, options, advance)
            for _ in range(-(-len(chunk) // options.batch_size))
        ]
        latents, masks, readable = (np.concatenate(parts) for parts in zip(*encoded, strict=True))
        if not np.isfinite(latents).all():
            bad = chunk[
                int(np.flatnonzero(~np.isfinite(latents).reshape(len(chunk), -1).all(axis=1))[0])
            ]
            name = crops.tiles.tile_ids[crops.place.rows[bad]]
            raise DataError(
                f"the codec gives numbers that float16 cannot hold for tile {name}",
                hint="check the tile, or use another codec",
            )
        rows = crops.place.rows[np.asarray(chunk)]
        writer.append(latents, masks, sorted({int(row) for row in rows[~readable]}))


def _encode_batch(
    batch: dict[str, Tensor],
    codec: Codec,
    layout: LatentLayout,
    options: EncodeOptions,
    advance: Advance,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return latents float16 [batch, views, parts, ...], masks uint8 [batch, views, size, size] and
    which could be read.
    """
    image, mask, readable = (batch[name].numpy() for name in ("image", "mask", "readable"))
    latents = np.empty((len(image), *layout.entry_shape), dtype=np.float16)
    masks = np.empty((len(image), len(layout.views), *mask.shape[1:]), dtype=np.uint8)
    for index, view in enumerate(layout.views):
        turned = torch.from_numpy(to_float(apply_view(image, view, axes=(1, 2))))
        posterior = codec.encode(turned.to(options.device))
        # Too large for float16 becomes infinite, which `_write_chunks` refuses.
        with np.errstate(over="ignore"):
            for part, values in enumerate(posterior[: layout.num_parts]):
                latents[:, index, part] = cast(Tensor, values).float().cpu().numpy()
        masks[:, index] = apply_view(mask, view, axes=(1, 2))
    latents[~readable] = 0
    advance(len(image))
    return latents, masks, readable


def _finish(
    writer: LatentWriter, tiles: TileSource, codec: Codec, place: _Placed, options: EncodeOptions
) -> None:
    table = tiles.manifest.read(IDENTITY_COLUMNS)
    lost = np.isin(np.arange(len(place.count)), writer.skipped)
    is_train = (tiles.split == TRAIN) & ~lost
    statistics = _measure(writer, is_train[place.rows])
    own = LatentScaling("codec", tuple(codec.shift.tolist()), tuple(codec.scale.tolist()))
    scaling = (
        own
        if options.scaling == "codec"
        else LatentScaling("measured", tuple(statistics["mean"]), tuple(statistics["std"]))
    )
    columns = {name: table[name] for name in table.column_names}
    columns |= {
        "first_entry": pa.array(place.first),
        "num_windows": pa.array(np.where(lost, 0, place.count).astype(np.int32)),
    }
    summary = {
        "codec": {"identifier": codec.identifier, "digest": codec.digest, "factor": codec.factor},
        "shape": list(writer.layout.shape),
        "has_std": writer.layout.num_parts == 2,
        "num_entries": writer.layout.num_entries,
        "views": list(writer.layout.views),
        "image_size": place.size_px,
        "fit": options.fit,
        "pixel_transform": PIXEL_TRANSFORM,
        "scaling": scaling.to_json(),
        "statistics": statistics,
        "skipped": [str(tile_id) for tile_id in tiles.tile_ids[lost]],
    }
    if tiles.label_map.ignore:
        summary["ignored_id"] = IGNORED_ID
    writer.finish(pa.table(columns), {"label_map_digest": tiles.label_map.digest}, summary)


def _measure(writer: LatentWriter, is_train: np.ndarray) -> dict[str, Any]:
    """Return mean and standard deviation of raw latents by channel over entries of the training
    split, all views.

    Of latents drawn from their posteriors: the variance is that of the means plus the mean of the
    variances. Also checks all bytes.
    """
    total = np.zeros(writer.layout.shape[0])
    sum_of_squares, count = np.zeros_like(total), 0
    for mean, variance in _train_moments(writer, is_train):
        total += mean.sum(axis=(0, 1, 3, 4))
        sum_of_squares += (mean**2 + variance).sum(axis=(0, 1, 3, 4))
        count += mean[:, :, 0].size
    if not count:
        raise UsageError(
            "there is no tile of the training split to measure the scaling of latents on",
            hint="check the split of the manifest: histoprep manifest show",
        )
    mean = total / count
    std = np.sqrt(np.maximum(sum_of_squares / count - mean**2, _LEAST_STD**2))
    return {
        "split": TRAIN,
        "num_entries": int(is_train.sum()),
        "mean": mean.tolist(),
        "std": std.tolist(),
    }


def _train_moments(
    writer: LatentWriter, is_train: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray | float]]:
    for entries, latents in writer.read_chunks():
        chosen = latents[is_train[np.asarray(entries)]].astype(np.float64)
        if len(chosen):
            yield chosen[:, :, 0], chosen[:, :, 1] ** 2 if writer.layout.num_parts == 2 else 0.0
