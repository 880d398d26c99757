"""The same samples as shards with latents, and in the formats of others: written, and read again.

A sample is an image, its mask and latents of 64 KiB (mean and deviation of 4 x 64 x 64 in half
precision), 124 KB in all. Ours come from shards and a memory-mapped array, the others have all
three in their own format: Arrow files of `datasets`, tar files of `webdataset`, which has no access
by index and is read from beginning to end, and three plain files a sample. Nobody decodes what is
read.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.remap import InProcess
from histoprep.digests import digest
from histoprep.execution import Engine
from histoprep.labels import find_label_map, load_label_map
from histoprep.manifest.build import ManifestOptions, build_manifest
from histoprep.schemas.workspace import Workspace
from histoprep.shards import open_tiles
from histoprep.shards.plan import ShardOptions
from histoprep.shards.write import write_shards
from histoprep.tiles.table import TileTable

LATENT_SHAPE = (8, 64, 64)
SHARD_BYTES = 64 * 10**6
FEW_TILES = 32
_PIECE_BYTES = 16 << 20

Sample = tuple[str, bytes, bytes, bytes]


class Formats:
    """Some pairs of a corpus, linked into a data set of their own, and the same samples in every
    format.
    """

    def __init__(self, corpus: Path, num_samples: int, scratch: Path) -> None:
        self.scratch, self.size = scratch, num_samples
        names = sorted(path.name for path in corpus.glob("*_mask.png"))[:num_samples]
        images = [name.replace("_mask.png", ".jpg") for name in names]
        self.manifest = self._manifest(corpus, images + names, scratch / "tiles")
        self.few = self._manifest(corpus, images[:FEW_TILES] + names[:FEW_TILES], scratch / "few")
        self.bare = self._manifest(corpus, images, scratch / "bare")
        self._new = (scratch / f"shards-{number}" for number in itertools.count())
        self.shards = self.write()
        self.tiles = open_tiles(self.shards)
        self.latents = np.lib.format.open_memmap(
            scratch / "latents.npy", "w+", np.float16, (num_samples, *LATENT_SHAPE)
        )
        self.latents[:] = np.random.default_rng(0).standard_normal(LATENT_SHAPE)
        self.latents.flush()
        self.order = np.random.default_rng(1).permutation(num_samples).tolist()

    @staticmethod
    def _manifest(corpus: Path, names: list[str], root: Path) -> Path:
        root.mkdir()
        for name in names:
            os.link(corpus / name, root / name)
        workspace = Workspace.of(root)
        TileTable(workspace).build(InProcess(1))
        build_manifest(
            workspace.tiles,
            load_label_map(find_label_map("label_map_5")),
            ManifestOptions(),
            workspace.manifest,
        )
        return workspace.manifest

    def samples(self) -> Iterator[Sample]:
        """Yield key, image, mask and latents of every sample."""
        for row in range(self.size):
            image, mask = self.tiles.read_bytes(row)
            yield f"{row:06d}", image, mask or b"", self.latents[row].tobytes()

    def write(
        self,
        max_bytes: int = SHARD_BYTES,
        engine: Engine | None = None,
        manifest: Path | None = None,
    ) -> Path:
        """Return a new folder of shards, written in this process unless another engine is given."""
        out = next(self._new)
        write_shards(
            manifest or self.manifest, out, ShardOptions(max_bytes), engine or InProcess(1)
        )
        return out

    def forget(self) -> None:
        """Delete what `write` wrote since the first time."""
        for folder in self.scratch.glob("shards-*"):
            if folder != self.shards:
                shutil.rmtree(folder)

    def write_latents(self) -> None:
        """Write the latents of all samples again as latent sets are written: pieces appended,
        digested and synced.
        """
        path = self.scratch / "again.npy"
        path.unlink(missing_ok=True)
        step = _PIECE_BYTES // self.latents[0].nbytes
        for start in range(0, self.size, step):
            piece = self.latents[start : start + step].tobytes()
            digest(piece)
            with path.open("ab") as stream:
                stream.write(piece)
                stream.flush()
                os.fsync(stream.fileno())

    def read_ours(self) -> None:
        """Read every sample by index."""
        tiles, latents = self.tiles, self.latents
        for row in self.order:
            tiles.read_bytes(row)
            np.array(latents[row])

    def read_files(self) -> Callable[[], None]:
        """Write three plain files a sample and return a reading of them."""
        folder = self.scratch / "files"
        folder.mkdir()
        for key, *parts in self.samples():
            for suffix, data in zip(("jpg", "png", "latents"), parts, strict=True):
                (folder / f"{key}.{suffix}").write_bytes(data)

        def read() -> None:
            for row in self.order:
                for suffix in ("jpg", "png", "latents"):
                    with open(f"{folder}/{row:06d}.{suffix}", "rb", buffering=0) as stream:  # noqa: PTH123 (the fastest way)
                        stream.read()

        return read

    def write_datasets(self, samples: Iterable[Sample]) -> str:
        """Write Arrow files of `datasets`, to the disk, and return their folder."""
        import datasets

        datasets.disable_progress_bars()
        fields = datasets.Features(
            {name: datasets.Value("binary") for name in ("image", "mask", "latents")}
        )
        columns = zip(*(parts for _, *parts in samples), strict=True)
        folder = self.scratch / "arrow"
        datasets.Dataset.from_dict(
            dict(zip(fields, map(list, columns), strict=True)), features=fields
        ).save_to_disk(str(folder))
        _sync(folder.iterdir())
        return str(folder)

    def read_datasets(self) -> Callable[[], None]:
        """Write Arrow files of `datasets` and return a reading of them by index."""
        import datasets

        loaded = datasets.load_from_disk(self.write_datasets(self.samples()))

        def read() -> None:
            for row in self.order:
                loaded[row]

        return read

    def write_webdataset(self, samples: Iterable[Sample]) -> list[str]:
        """Write tar files of `webdataset`, to the disk, and return their paths."""
        import webdataset

        with webdataset.ShardWriter(
            f"{self.scratch}/web-%06d.tar", maxsize=SHARD_BYTES, verbose=0
        ) as sink:
            for key, image, mask, latents in samples:
                sink.write({"__key__": key, "jpg": image, "mask.png": mask, "latents": latents})
        paths = sorted(self.scratch.glob("web-*.tar"))
        _sync(paths)
        return [str(path) for path in paths]

    def read_webdataset(self) -> Callable[[], None]:
        """Write tar files of `webdataset` and return a reading of them, in order."""
        import webdataset

        urls = self.write_webdataset(self.samples())

        def read() -> None:
            assert sum(1 for _ in webdataset.WebDataset(urls, shardshuffle=False)) == self.size

        return read


def _sync(paths: Iterable[Path]) -> None:
    for path in paths:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
