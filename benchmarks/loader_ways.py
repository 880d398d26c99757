"""The same tiles in the formats of five loaders: how each writes them, reads them in order, by
index, and in the batches of a training epoch that can be stopped and taken up again.

Everybody is handed the bytes of image and mask as our shards hold them. The others decode with
simplejpeg and OpenCV and put batches together with PyTorch; ours decodes with its own readers and
checks CRC, structure and end of every file on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from torch.utils.data import DataLoader

from histoprep.shards import TileSource, open_tiles
from histoprep.streams import single_stream

BATCH, SEED = 32, 5
SHARD_BYTES = 16 * 10**6
_BUFFER = 1_000

Sample = dict[str, Any]
Batch = tuple[list[str], torch.Tensor, torch.Tensor]


def decode(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Return image, uint8 RGB [height, width, 3], and mask, uint8 [height, width]."""
    if sample["image"][:2] == b"\xff\xd8":
        image = simplejpeg.decode_jpeg(sample["image"], colorspace="RGB")
    else:
        image = cv2.imdecode(np.frombuffer(sample["image"], np.uint8), cv2.IMREAD_COLOR_RGB)
    return image, cv2.imdecode(np.frombuffer(sample["mask"], np.uint8), cv2.IMREAD_UNCHANGED)


def collate(samples: list[Sample]) -> Batch:
    """Return keys, images float32 [batch, 3, height, width] in [-1, 1], and masks uint8 [batch,
    height, width].
    """
    images, masks = zip(*map(decode, samples), strict=True)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    scaled = torch.empty(pixels.shape, dtype=torch.float32).copy_(pixels)
    scaled.mul_(1 / 127.5).sub_(1)
    return [sample["key"] for sample in samples], scaled, torch.from_numpy(np.stack(masks))


class Way:
    """A loader; `folder` has its files. States are whatever the library gives out, None if it has
    none.
    """

    module = ""
    by_index = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, samples: Iterable[Sample]) -> None:
        """Write all samples in the format of the library."""
        raise NotImplementedError

    def ordered(self) -> Iterator[Any]:
        """Yield the bytes of every sample in the order of the files."""
        raise NotImplementedError

    def read(self, index: int) -> Any:
        """Return the bytes of a sample."""
        raise NotImplementedError

    def epoch(self, num_workers: int, state: Any = None) -> Iterator[Batch]:
        """Yield the batches of a shuffled epoch, from a state on if one is given."""
        raise NotImplementedError

    def state(self, num_batches: int) -> Any:
        """Return the state after so many batches of the epoch that was begun."""
        return None


class Ours(Way):
    """Shards with an index."""

    module = "histoprep"

    @cached_property
    def tiles(self) -> TileSource:
        """Return the tiles."""
        return open_tiles(self.folder)

    def ordered(self) -> Iterator[Any]:
        """Yield in the order of the index."""
        return map(self.tiles.read_bytes, range(len(self.tiles)))

    def read(self, index: int) -> Any:
        """Return image and mask."""
        return self.tiles.read_bytes(index)

    @cached_property
    def _dataset(self) -> Any:
        from trainer.data.tiles import TileDataset

        size = self.tiles.read(0).image.shape[0]
        streams = single_stream(np.arange(len(self.tiles)))
        return TileDataset(self.tiles, streams, SEED, size, flips=False, turns=False)

    def epoch(self, num_workers: int, state: Any = None) -> Iterator[Batch]:
        """Yield batches; the state is the position."""
        from trainer.data.loader import loader

        positions = range(state or 0, len(self.tiles))
        for batch in loader(self._dataset, positions, BATCH, num_workers):
            yield list(map(str, batch["row"].tolist())), batch["image"], batch["mask"]

    def state(self, num_batches: int) -> Any:
        """Return the position."""
        return num_batches * BATCH


class WebDataset(Way):
    """Tar files, read from beginning to end."""

    module = "webdataset"
    by_index = False

    def write(self, samples: Iterable[Sample]) -> None:
        """Write tar files."""
        import webdataset

        pattern = str(self.folder / "%06d.tar")
        with webdataset.ShardWriter(pattern, maxsize=SHARD_BYTES, verbose=0) as sink:
            for sample in samples:
                sink.write(
                    {"__key__": sample["key"], "image": sample["image"], "mask": sample["mask"]}
                )

    def _open(self, **how: Any) -> Any:
        import webdataset

        urls = sorted(map(str, self.folder.glob("*.tar")))
        return webdataset.WebDataset(urls, empty_check=False, **how)

    def ordered(self) -> Iterator[Any]:
        """Yield in the order of the tar files."""
        return iter(self._open(shardshuffle=False))

    def epoch(self, num_workers: int, state: Any = None) -> Iterator[Batch]:
        """Yield batches of shuffled shards and a shuffled buffer; there is no state."""
        from webdataset.filters import detshuffle

        shuffled = self._open(shardshuffle=100, detshuffle=True, seed=SEED)
        batches = shuffled.compose(detshuffle(_BUFFER, seed=SEED)).batched(
            BATCH, collation_fn=_collate_web
        )
        return iter(DataLoader(batches, batch_size=None, num_workers=num_workers))


def _collate_web(samples: list[Sample]) -> Batch:
    return collate([{**sample, "key": sample["__key__"]} for sample in samples])


class HfDatasets(Way):
    """Arrow files, mapped into memory; the loader with a state is torchdata's."""

    module = "datasets"

    def write(self, samples: Iterable[Sample]) -> None:
        """Write Arrow files."""
        import datasets

        datasets.disable_progress_bars()
        binary = datasets.Value("binary")
        fields = datasets.Features(
            {"key": datasets.Value("string"), "image": binary, "mask": binary}
        )
        rows = list(samples)
        datasets.Dataset.from_dict(
            {name: [row[name] for row in rows] for name in fields}, features=fields
        ).save_to_disk(str(self.folder))

    @cached_property
    def _loaded(self) -> Any:
        import datasets

        return datasets.load_from_disk(str(self.folder))

    def ordered(self) -> Iterator[Any]:
        """Yield row by row."""
        return iter(self._loaded)

    def read(self, index: int) -> Any:
        """Return a row."""
        return self._loaded[index]

    def epoch(self, num_workers: int, state: Any = None) -> Iterator[Batch]:
        """Yield batches of a permutation."""
        from torchdata.stateful_dataloader import StatefulDataLoader  # type: ignore[import-not-found]

        self._loader = StatefulDataLoader(
            self._loaded,
            BATCH,
            shuffle=True,
            num_workers=num_workers,
            collate_fn=collate,
            generator=torch.Generator().manual_seed(SEED),
        )
        if state is not None:
            self._loader.load_state_dict(state)
        return iter(self._loader)

    def state(self, num_batches: int) -> Any:
        """Return torchdata's state."""
        return self._loader.state_dict()


class Mosaic(Way):
    """MDS files of mosaicml-streaming, read where they lie."""

    module = "streaming"

    def write(self, samples: Iterable[Sample]) -> None:
        """Write MDS files."""
        from streaming import MDSWriter  # type: ignore[import-not-found]

        columns = {"key": "str", "image": "bytes", "mask": "bytes"}
        with MDSWriter(out=str(self.folder), columns=columns, size_limit=SHARD_BYTES) as out:
            for sample in samples:
                out.write(sample)

    def _open(self, **how: Any) -> Any:
        from streaming import StreamingDataset

        return StreamingDataset(local=str(self.folder), batch_size=BATCH, **how)

    @cached_property
    def _plain(self) -> Any:
        return self._open(shuffle=False)

    @cached_property
    def _shuffled(self) -> Any:
        return self._open(shuffle=True, shuffle_seed=SEED, num_canonical_nodes=1)

    def ordered(self) -> Iterator[Any]:
        """Yield sample by sample."""
        return (self._plain[index] for index in range(self._plain.num_samples))

    def read(self, index: int) -> Any:
        """Return a sample."""
        return self._plain[index]

    def epoch(self, num_workers: int, state: Any = None) -> Iterator[Batch]:
        """Yield batches in the order that the library shuffles."""
        from streaming import StreamingDataLoader

        self._loader = StreamingDataLoader(
            self._shuffled, batch_size=BATCH, num_workers=num_workers, collate_fn=collate
        )
        if state is not None:
            self._loader.load_state_dict(state)
        return iter(self._loader)

    def state(self, num_batches: int) -> Any:
        """Return the state of the library's loader."""
        return self._loader.state_dict()


class LitData(Way):
    """Chunks of litdata."""

    module = "litdata"

    def write(self, samples: Iterable[Sample]) -> None:
        """Write chunks."""
        from litdata.streaming import Cache  # type: ignore[import-not-found]

        cache = Cache(str(self.folder), chunk_bytes=SHARD_BYTES)
        for index, sample in enumerate(samples):
            cache[index] = sample
        cache.done()
        cache.merge()

    def _open(self, *, shuffle: bool) -> Any:
        from litdata import StreamingDataset

        return StreamingDataset(str(self.folder), shuffle=shuffle, seed=SEED)

    @cached_property
    def _plain(self) -> Any:
        return self._open(shuffle=False)

    def ordered(self) -> Iterator[Any]:
        """Yield in the order of the chunks."""
        return iter(self._plain)

    def read(self, index: int) -> Any:
        """Return a sample."""
        return self._plain[index]

    def epoch(self, num_workers: int, state: Any = None) -> Iterator[Batch]:
        """Yield batches in the order that the library shuffles."""
        from litdata import StreamingDataLoader

        self._loader = StreamingDataLoader(
            self._open(shuffle=True), batch_size=BATCH, num_workers=num_workers, collate_fn=collate
        )
        if state is not None:
            self._loader.load_state_dict(state)
        return iter(self._loader)

    def state(self, num_batches: int) -> Any:
        """Return the state of the library's loader."""
        return self._loader.state_dict()


WAYS: dict[str, type[Way]] = {
    "ours": Ours,
    "webdataset": WebDataset,
    "HF datasets": HfDatasets,
    "mosaicml-streaming": Mosaic,
    "litdata": LitData,
}
