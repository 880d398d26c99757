"""Samples are functions of their position: whatever the batch, the workers, the start, and whether
they come from files or shards.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from coordinate_tiles import CLASS_STEP, image_of, labels_of, write_tiles

from histoprep.cli import run
from histoprep.errors import HistoprepError, UsageError
from histoprep.execution import Engine
from histoprep.imageio import encode_rgb_png
from histoprep.shards import open_tiles
from histoprep.shards.write import write_shards
from histoprep.streams import class_streams, single_stream
from trainer.data.loader import loader
from trainer.data.tiles import TileDataset, label_ids, label_names
from trainer.data.transforms import apply_view, to_uint8

SIZE = 32
NUM_TILES = 24


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles") / "data", NUM_TILES, SIZE)


def dataset(path: Path, **changes: object) -> TileDataset:
    tiles = open_tiles(path)
    streams = class_streams(tiles.table, tiles.label_map, split="train", unconditional=0.3)
    return TileDataset(
        tiles, streams, **{"seed": 5, "image_size": SIZE, "noise_shape": (2, 3), **changes}
    )  # type: ignore[arg-type]


def joined(batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def assert_same(item: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert item.keys() == other.keys()
    for name, value in item.items():
        assert value.dtype == other[name].dtype and torch.equal(value, other[name]), name


def test_a_batch_has_the_promised_shapes(manifest: Path) -> None:
    batch = dataset(manifest).batch(np.arange(6))
    assert batch["image"].shape == (6, 3, SIZE, SIZE) and batch["image"].dtype == torch.float32
    assert batch["mask"].shape == (6, SIZE, SIZE) and batch["mask"].dtype == torch.uint8
    assert batch["noise"].shape == (6, 2, 3) and batch["u"].dtype == torch.float32
    assert batch["label"].tolist() == [-1] * 6 and batch["row"].dtype == torch.int64
    assert -1 <= batch["image"].min() < -0.5 and batch["image"].max() <= 1


def test_image_and_mask_move_together_and_are_never_interpolated(manifest: Path) -> None:
    data = dataset(manifest)
    names = data.tiles.tile_ids
    seen_views = set()
    batch = data.batch(np.arange(120))
    for image, mask, row in zip(
        to_uint8(batch["image"].numpy()), batch["mask"].numpy(), batch["row"].tolist(), strict=True
    ):
        index = int(str(names[row])[-3:])
        assert np.array_equal(image[..., 0] // CLASS_STEP, mask)
        turned = [
            view
            for view in range(8)
            if np.array_equal(apply_view(image_of(index, SIZE), view), image)
        ]
        assert len(turned) == 1
        assert np.array_equal(apply_view(labels_of(index, SIZE), turned[0]), mask)
        seen_views.add(turned[0])
    assert seen_views == set(range(8))


def test_nothing_is_turned_unless_allowed(manifest: Path) -> None:
    batch = dataset(manifest, flips=False, turns=False).batch(np.arange(20))
    for image, row in zip(to_uint8(batch["image"].numpy()), batch["row"].tolist(), strict=True):
        assert np.array_equal(image[..., 1:], image_of(0, SIZE)[..., 1:]), row


def test_a_sample_does_not_depend_on_its_batch(manifest: Path) -> None:
    data = dataset(manifest)
    batch = data.batch(np.array([40, 3, 11]))
    for index, position in enumerate((40, 3, 11)):
        alone = data[position]
        assert alone["position"] == position
        for name, value in alone.items():
            assert torch.equal(
                torch.as_tensor(value), batch[name][index].to(torch.as_tensor(value).dtype)
            ), name


def test_another_seed_gives_other_samples(manifest: Path) -> None:
    item, other = (dataset(manifest, seed=seed).batch(np.arange(16)) for seed in (1, 2))
    for name in ("row", "u", "noise", "image"):
        assert not torch.equal(item[name], other[name]), name


@pytest.mark.parametrize(
    ("batch_size", "workers", "start"), [(3, 0, 0), (7, 0, 5), (4, 2, 0), (5, 2, 9)]
)
def test_batches_do_not_depend_on_workers_size_or_start(
    manifest: Path, batch_size: int, workers: int, start: int
) -> None:
    data = dataset(manifest)
    expected = data.batch(np.arange(start, 30))
    assert_same(joined(list(loader(data, range(start, 30), batch_size, workers))), expected)


def test_loading_leaves_the_state_of_torch_alone(manifest: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(loader(dataset(manifest), range(4), 2))
    assert torch.equal(before, torch.get_rng_state())


def test_the_last_batch_can_be_dropped(manifest: Path) -> None:
    data = dataset(manifest)
    assert [len(item["row"]) for item in loader(data, range(7), 3)] == [3, 3, 1]
    assert [len(item["row"]) for item in loader(data, range(7), 3, drop_last=True)] == [3, 3]


def test_files_and_shards_give_the_same_samples(manifest: Path, tmp_path: Path) -> None:
    write_shards(manifest, tmp_path / "shards", engine=Engine(1))
    assert_same(
        dataset(tmp_path / "shards").batch(np.arange(40)), dataset(manifest).batch(np.arange(40))
    )


def test_a_dataset_crosses_process_borders(manifest: Path) -> None:
    data = dataset(manifest)
    data.batch(np.arange(2))
    assert_same(pickle.loads(pickle.dumps(data)).batch(np.arange(8)), data.batch(np.arange(8)))


def test_larger_tiles_are_refused_unless_cut(manifest: Path) -> None:
    with pytest.raises(UsageError, match=r"tile tile\d+ is not of the training size"):
        dataset(manifest, image_size=16).batch(np.arange(1))
    with pytest.raises(UsageError, match="smaller than the training size"):
        dataset(manifest, image_size=64, fit="crop").batch(np.arange(1))
    with pytest.raises(UsageError, match="no such value of fit"):
        dataset(manifest, fit="stretch")


@pytest.mark.parametrize(("fit", "corners"), [("crop", 17), ("tile", 2)])
def test_cuts_are_whole_squares_that_the_position_draws(
    manifest: Path, fit: str, corners: int
) -> None:
    data = dataset(manifest, image_size=16, fit=fit, flips=False, turns=False)
    batch = data.batch(np.arange(400))
    images = to_uint8(batch["image"].numpy())
    tops, lefts = images[:, 0, 0, 1], images[:, 0, 0, 2]
    assert len(set(tops.tolist())) == len(set(lefts.tolist())) == corners
    rows, columns = np.mgrid[:16, :16]
    assert np.array_equal(images[..., 1], tops[:, None, None] + rows) and np.array_equal(
        images[..., 2], lefts[:, None, None] + columns
    )
    assert np.array_equal(images[..., 0] // CLASS_STEP, batch["mask"].numpy())
    assert_same(data.batch(np.arange(400)), batch)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    path = write_tiles(tmp_path / "data", NUM_TILES, SIZE)
    (tmp_path / "data" / "tile006.png").write_bytes(b"not an image")
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_tile_stops_with_its_name(damaged: Path, workers: int) -> None:
    tiles = open_tiles(damaged)
    data = TileDataset(tiles, single_stream(np.arange(NUM_TILES)), 0, SIZE)
    with pytest.raises(HistoprepError, match="tile006") as caught:
        list(loader(data, range(NUM_TILES), 4, workers))
    assert caught.value.path and caught.value.path.endswith("tile006.png") and caught.value.hint


def test_an_unreadable_tile_is_skipped_for_the_next_of_its_stream_and_counted(
    damaged: Path,
) -> None:
    tiles = open_tiles(damaged)
    broken = int(np.flatnonzero(tiles.tile_ids == "tile006")[0])
    stream = np.array([row for row in range(NUM_TILES) if row % 2 == broken % 2])
    data = TileDataset(tiles, single_stream(stream), 0, SIZE, on_unreadable="skip")
    batch = data.batch(np.arange(len(stream)))
    class_ids = data.placement.place(np.arange(len(stream)), 0)[1]
    at = int(np.flatnonzero(class_ids == broken)[0])
    assert batch["num_skipped"].tolist() == [int(index == at) for index in range(len(stream))]
    assert batch["row"][at] == stream[(np.flatnonzero(stream == broken)[0] + 1) % len(stream)]
    assert torch.equal(
        batch["row"][batch["num_skipped"] == 0], torch.from_numpy(class_ids[class_ids != broken])
    )


def test_a_stream_without_a_readable_tile_stops(damaged: Path) -> None:
    tiles = open_tiles(damaged)
    broken = np.flatnonzero(tiles.tile_ids == "tile006")
    with pytest.raises(HistoprepError, match="no tile of this stream can be read"):
        TileDataset(tiles, single_stream(broken), 0, SIZE, on_unreadable="skip").batch(np.arange(1))


def test_labels_are_numbered_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for index, name in enumerate(["wall", "gland", "fat"]):
        for number, split in enumerate(["train", "train", "test"]):
            place = folder / split / name / f"{name}{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(encode_rgb_png(image_of(3 * index + number, SIZE)))
    assert run(["--quiet", "manifest", str(folder)]) == 0
    tiles = open_tiles(tmp_path / "data.histoprep" / "manifest.parquet")
    assert label_names(tiles) == ("fat", "gland", "wall")
    for tile_id, number in zip(tiles.tile_ids, label_ids(tiles), strict=True):
        assert str(tile_id).split("/")[1] == ("fat", "gland", "wall")[number]
