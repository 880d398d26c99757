"""Latent sets: tiles encoded once, memory-mapped, and read as training samples.

A folder with `latents.npy` (float16 [entries, views, 1 or 2, channels, height, width]: the
posterior's mean and, where the codec has one, its standard deviation), the masks of the same views
as run lengths, `entries.parquet` (which entries a tile has) and `latents.json` (codec, views,
scaling, statistics). The last is written when all else is complete: without it there is no set.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from histoprep import checksums, rule_ids
from histoprep.digests import file_digest
from histoprep.phrases import first_of
from histoprep.schemas.latents import KIND, SCHEMA_VERSION, SUMMARY, align, mismatches, read_entries
from trainer.data.latent_journal import JOURNAL, read_chunks, read_journal
from trainer.data.latent_scaling import Latents, LatentScaling
from trainer.data.run_lengths import decode_runs
from trainer.data.transforms import IDENTITY
from trainer.errors import LatentSetError

if TYPE_CHECKING:
    from histoprep.shards import TileSource

LATENTS, MASK_VALUES, MASK_LENGTHS, MASK_COUNTS = (
    "latents.npy",
    "mask_values.bin",
    "mask_lengths.bin",
    "mask_counts.bin",
)
DATA = (LATENTS, MASK_VALUES, MASK_LENGTHS, MASK_COUNTS)
ENCODE_AGAIN = "copy the folder again, or encode again with --force"
_RULE = str(rule_ids.LATENT_MISMATCH)
_COUNT_BYTES = 4


class CodecIdentity(NamedTuple):
    """Where a codec came from, and the digest of its weights."""

    identifier: str
    digest: str


@dataclass(eq=False)
class LatentSet:
    """An open latent set; picklable, files are mapped where they are read. `summary` is
    latents.json.
    """

    folder: Path
    summary: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> LatentSet:
        """Return the latent set in a folder.

        Raises:
            LatentSetError: When it is unfinished, damaged or of another version.
        """
        place = Path(folder)
        try:
            summary = checksums.read_json(place / SUMMARY, hint=ENCODE_AGAIN)
            files = summary["files"]
            version = summary["schema_version"] if summary["kind"] == KIND else "of another kind"
        except FileNotFoundError:
            begun = (place / LATENTS).exists()
            what = "this latent set is unfinished" if begun else "there is no latent set here"
            hint = (
                "rerun trainer encode; it resumes where it stopped"
                if begun
                else "trainer encode --manifest MANIFEST --codec CODEC"
            )
            raise LatentSetError(what, path=place, hint=hint) from None
        except (OSError, KeyError, TypeError) as error:
            raise LatentSetError(
                f"cannot read the latent set: {error}", path=place / SUMMARY, hint=ENCODE_AGAIN
            ) from error
        if str(version).partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
            raise LatentSetError(
                "the latent set is of another version",
                path=place,
                seen=version,
                expected=SCHEMA_VERSION,
            )
        for name, size in files.items():
            seen = (
                f"{(place / name).stat().st_size} bytes"
                if (place / name).exists()
                else "no such file"
            )
            if seen != f"{size} bytes":
                hint = "copy the folder again, or encode again with --force"
                raise LatentSetError(
                    "a file of the latent set is damaged",
                    path=place / name,
                    seen=seen,
                    expected=f"{size} bytes",
                    hint=hint,
                )
        return cls(place, summary)

    @property
    def codec(self) -> CodecIdentity:
        """Return which codec encoded."""
        return CodecIdentity(self.summary["codec"]["identifier"], self.summary["codec"]["digest"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (channels, height, width) of the latents of a tile."""
        channels, height, width = self.summary["shape"]
        return channels, height, width

    @property
    def image_size(self) -> int:
        """Return the side of the encoded crops, in pixels."""
        return int(self.summary["image_size"])

    @property
    def factor(self) -> int:
        """Return how many pixels a side became one latent."""
        return self.image_size // self.shape[1]

    @property
    def views(self) -> tuple[int, ...]:
        """Return the views that were encoded; see `transforms.apply_view`."""
        return tuple(self.summary["views"])

    @property
    def num_views(self) -> int:
        """Return the number of views."""
        return len(self.views)

    @property
    def has_std(self) -> bool:
        """Return whether the codec has a posterior."""
        return bool(self.summary["has_std"])

    @property
    def statistics(self) -> dict[str, Any]:
        """Return `mean` and `std` of raw latents by channel, measured over the training split, and
        over how many entries.
        """
        return dict(self.summary["statistics"])

    @cached_property
    def scaling(self) -> LatentScaling:
        """Return the scaling of this set."""
        return LatentScaling.from_json(self.summary["scaling"])

    def normalise(self, raw: Latents) -> Latents:
        """Return latents for the denoiser; see `LatentScaling`."""
        return self.scaling.normalise(raw)

    def denormalise(self, latents: Latents) -> Latents:
        """Return raw latents for the codec."""
        return self.scaling.denormalise(latents)

    @cached_property
    def array(self) -> np.ndarray:
        """Return all latents, memory-mapped: float16 [entries, views, 1 or 2, channels, height,
        width].
        """
        return np.asarray(np.load(self.folder / LATENTS, mmap_mode="r"))

    @cached_property
    def _masks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the runs of all masks (class ids, lengths) and where those of each (entry, view)
        start.
        """
        counts = np.fromfile(self.folder / MASK_COUNTS, np.int32)
        starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        values = np.memmap(self.folder / MASK_VALUES, np.uint8, "r")
        return (
            np.asarray(values),
            np.asarray(np.memmap(self.folder / MASK_LENGTHS, np.int32, "r")),
            starts,
        )

    @cached_property
    def entries(self) -> tuple[pa.Table, dict[str, Any]]:
        """Return the tiles and the header of entries.parquet."""
        return read_entries(self.folder)

    @cached_property
    def _rows(self) -> dict[str, int]:
        table = self.entries[0]
        return dict(
            zip(table["tile_id"].to_pylist(), table["first_entry"].to_pylist(), strict=True)
        )

    def row_of(self, tile_id: str) -> int:
        """Return the first entry of a tile.

        Raises:
            LatentSetError: When it is not in the set.
        """
        if tile_id not in self._rows:
            raise LatentSetError(
                f"{_RULE}: tile {tile_id} has no latents",
                path=self.folder,
                hint="run trainer encode again",
            )
        return self._rows[tile_id]

    def raw(self, entry: int, view: int = IDENTITY) -> tuple[np.ndarray, np.ndarray | None]:
        """Return mean and standard deviation (None without a posterior) of an entry under a view:
        float32 [channels, height, width].
        """
        parts = self.array[entry, self.views.index(view)].astype(np.float32)
        return parts[0], parts[1] if self.has_std else None

    def gather(self, entries: np.ndarray, view_indices: np.ndarray) -> Tensor:
        """Return the raw latents of a batch as float32 [batch, 1 or 2, channels, height, width];
        `view_indices` count within `views`.
        """
        return torch.from_numpy(self.array[entries, view_indices]).float()

    def masks(self, entries: np.ndarray, view_indices: np.ndarray) -> Tensor:
        """Return the masks of a batch in class ids: uint8 [batch, image_size, image_size]."""
        values, lengths, starts = self._masks
        masks = np.empty((len(entries), self.image_size, self.image_size), dtype=np.uint8)
        for out, number in zip(
            masks, (entries * self.num_views + view_indices).tolist(), strict=True
        ):
            runs = slice(starts[number], starts[number + 1])
            decode_runs(values[runs], lengths[runs], out)
        return torch.from_numpy(masks)

    def check_codec(self, codec: CodecIdentity | Any) -> None:
        """Raise LatentSetError (HP907) unless `codec` (anything with `identifier` and `digest`) has
        the weights that encoded.
        """
        if codec.digest != self.codec.digest:
            raise LatentSetError(
                f"{_RULE}: the latent set was made with another codec",
                path=self.folder,
                seen=f"{codec.identifier} (digest {codec.digest[:16]})",
                expected=f"{self.codec.identifier} (digest {self.codec.digest[:16]})",
                hint=(
                    "use the codec it was made with, or run trainer encode with this one into"
                    " another folder"
                ),
            )

    def match(self, tiles: TileSource) -> tuple[np.ndarray, np.ndarray]:
        """Return the first entry and the number of windows of each row of `tiles`: int64 [tiles],
        int64 [tiles].

        Raises:
            LatentSetError: (HP907) unless all of these tiles were encoded from the same files,
                under the same label map and training split.
        """
        entries, header = self.entries
        problems = mismatches(entries, header, tiles.manifest)
        if problems:
            raise LatentSetError(
                f"{_RULE}: the latent set was made from other tiles",
                path=self.folder,
                seen=_first_of(problems),
                expected=f"the tiles of {tiles.path}",
                hint="run trainer encode again, or name the manifest it was made from",
            )
        places = align(entries, tiles.table["tile_id"])
        first, count = (
            entries[name].to_numpy().astype(np.int64)[places]
            for name in ("first_entry", "num_windows")
        )
        return first, count

    def check_files(
        self, *, whole: bool = False, advance: Callable[[int], object] = lambda _: None
    ) -> None:
        """Raise LatentSetError, naming the file, unless latents and masks are what was written.

        They are read (see `check_digests`) with `whole`, and where size, times or inode of a file
        are not those of the last time.
        """
        expected = list(data_files(self.folder, self.summary["files"]))
        known = (
            checksums.FileStates.read(self.folder / checksums.STATES)
            .find(file.name for file in expected)
            .tolist()
        )
        now = [
            checksums.state_of((self.folder / file.name).stat(), file.checksum.digest)
            for file in expected
        ]
        if whole or known != now:
            self.check_digests(advance)
            checksums.remember_files(self.folder, expected)

    def check_digests(self, advance: Callable[[int], object] = lambda _: None) -> None:
        """Read all latents and masks, and raise LatentSetError, naming the file, unless they are
        the bytes that were written.

        They are held against the digests in the journal of `trainer encode`. At 2 GB a second and
        more the time is that of reading: minutes for hundreds of GB. Do it once, where a training
        starts, in its first process. `advance` counts the crops.
        """
        _, *lines = read_journal(self.folder) or [{}]
        try:
            starts = {
                name: self.summary["files"][name] - sum(line["bytes"][name] for line in lines)
                for name in DATA
            }
        except (KeyError, TypeError):
            starts = {}
        if starts != {**dict.fromkeys(DATA, 0), LATENTS: self._first_byte()}:
            what = (
                "the journal of the latent set, by which damage is found, is"
                f" {'damaged itself' if lines else 'not there'}"
            )
            raise LatentSetError(
                what, path=self.folder / JOURNAL, hint="copy the folder again, or encode again"
            )
        for pieces in read_chunks(self.folder, lines, starts):
            advance(len(pieces[MASK_COUNTS]) // (_COUNT_BYTES * self.num_views))

    def _first_byte(self) -> int:
        """Return where the numbers begin in latents.npy.

        Raises:
            LatentSetError: When its header is not that of these latents.
        """
        shape = (self.summary["num_entries"], self.num_views, 1 + self.has_std, *self.shape)
        try:
            stored = np.load(self.folder / LATENTS, mmap_mode="r")
            order = "" if stored.flags.c_contiguous else " in columns"
            seen = f"{stored.dtype.str} {stored.shape}{order}"
        except (ValueError, TypeError) as error:
            stored, seen = None, str(error)
        if stored is not None and seen == f"<f2 {shape}":
            # NumPy reads over blanks; every byte of the header counts here.
            stream = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                stream, {"descr": "<f2", "fortran_order": False, "shape": shape}
            )
            with (self.folder / LATENTS).open("rb") as found:
                if found.read(int(stored.offset)) != stream.getvalue():
                    seen = "another header"
        if seen != f"<f2 {shape}":
            hint = ENCODE_AGAIN
            raise LatentSetError(
                "the latent set is damaged: the header of its array changed",
                path=self.folder / LATENTS,
                seen=seen,
                hint=hint,
            )
        return int(stored.offset)

    def __getstate__(self) -> dict[str, Any]:
        """Return folder and summary; maps are opened again."""
        return {"folder": self.folder, "summary": self.summary}


def data_files(folder: Path, sizes: Mapping[str, int]) -> Iterator[checksums.Expected]:
    """Yield the large files of a set; the digest of the journal, which has digests of all of their
    pieces, stands for theirs.
    """
    journal = file_digest(folder / JOURNAL) if (folder / JOURNAL).is_file() else ""
    for name in DATA:
        yield checksums.Expected(name, checksums.Checksum(sizes[name], journal))


def _first_of(problems: Sequence[tuple[str, str]]) -> str:
    named = [f"{name} {what}" if name != "label map" else what for name, what in problems]
    return first_of(named, separator="; ", limit=3)
