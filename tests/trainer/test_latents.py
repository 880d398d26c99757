"""Latent sets as samples: the codec's own numbers, views with their masks, the scaling, refusals
(HP907).
"""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from coordinate_tiles import image_of, labels_of, write_tiles
from small_codecs import save_kl, save_tiny

from histoprep.cli import run
from histoprep.execution import Engine
from histoprep.shards import TileSource, open_tiles
from histoprep.shards.write import write_shards
from histoprep.streams import class_streams, single_stream
from trainer.config_layers import load_config
from trainer.data.latent_dataset import LatentDataset
from trainer.data.latents import LatentSet
from trainer.data.loader import loader
from trainer.data.run_lengths import decode_runs, encode_runs
from trainer.data.transforms import apply_view, to_float
from trainer.encode import VIEW_ORDER, EncodeOptions, encode_tiles
from trainer.errors import ExitCode, IntegrityError, LatentSetError
from trainer.models.codec import Codec
from trainer.recipes.codecs import load_codec
from trainer.recipes.ldm_data import prepare_latents
from trainer.reporter import NULL_REPORTER

SIZE = 32
NUM_TILES = 20


@dataclass
class Made:
    """A data set, its codec and its latent set with 8 views."""

    manifest: Path
    codec: Codec
    latents: LatentSet

    @property
    def tiles(self) -> TileSource:
        return open_tiles(self.manifest)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("latents")
    manifest = write_tiles(folder / "data", NUM_TILES, SIZE)
    codec = load_codec(save_kl(folder / "codec"))
    encode_tiles(
        open_tiles(manifest), codec, folder / "latents", EncodeOptions(views=8, batch_size=4)
    )
    return Made(manifest, codec, LatentSet.open(folder / "latents"))


def dataset(made: Made, **changes: object) -> LatentDataset:
    tiles = made.tiles
    streams = class_streams(tiles.table, tiles.label_map, split="train", unconditional=0.3)
    return LatentDataset(made.latents, tiles, streams, 5, **changes)  # type: ignore[arg-type]


def test_every_view_is_what_the_codec_gives_for_the_turned_tile(made: Made) -> None:
    assert (
        made.latents.shape == (4, 4, 4)
        and made.latents.views == VIEW_ORDER
        and made.latents.has_std
    )
    for index in (0, 7, 19):
        entry = made.latents.row_of(f"tile{index:03d}")
        for place, view in enumerate(VIEW_ORDER):
            turned = np.ascontiguousarray(apply_view(image_of(index, SIZE), view))
            posterior = made.codec.encode(torch.from_numpy(to_float(turned))[None])
            assert posterior.std is not None
            mean, std = made.latents.raw(entry, view)
            assert np.allclose(mean, posterior.mean[0], atol=2e-3) and np.allclose(
                std, posterior.std[0], rtol=2e-3
            )  # type: ignore[arg-type]
            stored = made.latents.masks(np.array([entry]), np.array([place]))[0]
            assert np.array_equal(stored, apply_view(labels_of(index, SIZE), view))


def test_views_encoded_are_not_views_of_the_latents(made: Made) -> None:
    mean, _ = made.latents.raw(0, 0)
    mirrored, _ = made.latents.raw(0, 4)
    assert not np.allclose(mirrored, mean[..., ::-1], atol=1e-3)


def test_the_scaling_is_measured_over_the_training_split_alone(made: Made) -> None:
    train = [
        made.latents.row_of(str(identifier))
        for identifier in made.tiles.tile_ids[made.tiles.split == "train"]
    ]
    raw = made.latents.array[train].astype(np.float64)
    mean, std = raw[:, :, 0], raw[:, :, 1]
    expected = mean.mean(axis=(0, 1, 3, 4))
    spread = np.sqrt(((mean - expected[:, None, None]) ** 2 + std**2).mean(axis=(0, 1, 3, 4)))
    assert np.allclose(made.latents.statistics["mean"], expected) and np.allclose(
        made.latents.statistics["std"], spread
    )
    everything = made.latents.array[:, :, 0].astype(np.float64).mean(axis=(0, 1, 3, 4))
    assert not np.allclose(expected, everything)
    assert made.latents.scaling.shift == tuple(made.latents.statistics["mean"])


def test_normalised_training_latents_have_unit_variance(made: Made) -> None:
    tiles = made.tiles
    data = LatentDataset(
        made.latents, tiles, single_stream(np.flatnonzero(tiles.split == "train")), 0
    )
    drawn = data.batch(np.arange(2000))["latents"].double()
    assert torch.allclose(drawn.mean(dim=(0, 2, 3)), torch.zeros(4, dtype=torch.double), atol=0.06)
    assert torch.allclose(drawn.std(dim=(0, 2, 3)), torch.ones(4, dtype=torch.double), atol=0.06)


def test_the_scaling_goes_there_and_back(made: Made) -> None:
    raw = torch.randn(2, 4, 4, 4)
    assert torch.allclose(made.latents.denormalise(made.latents.normalise(raw)), raw, atol=1e-5)
    assert np.allclose(made.latents.normalise(raw.numpy()), made.latents.normalise(raw), atol=1e-6)


def test_a_sample_has_latents_and_mask_of_one_view(made: Made) -> None:
    data = dataset(made, sample_posterior=False)
    batch = data.batch(np.arange(60))
    assert batch["latents"].dtype == torch.float32 and batch["noise"].shape == batch[
        "latents"
    ].shape == (60, 4, 4, 4)
    seen = set()
    for latents, mask, row in zip(
        batch["latents"], batch["mask"].numpy(), batch["row"].tolist(), strict=True
    ):
        entry = made.latents.row_of(str(data.tiles.tile_ids[row]))
        known = [torch.from_numpy(made.latents.raw(entry, view)[0]) for view in VIEW_ORDER]
        places = [
            index
            for index, name in enumerate(known)
            if torch.allclose(made.latents.normalise(name), latents, atol=1e-5)
        ]
        assert any(
            np.array_equal(made.latents.masks(np.array([entry]), np.array([place]))[0], mask)
            for place in places
        )
        seen |= set(places)
    assert seen == set(range(8))


def test_the_posterior_is_drawn_by_position(made: Made) -> None:
    drawn, means = (
        dataset(made, sample_posterior=each).batch(np.arange(30)) for each in (True, False)
    )
    rows = torch.from_numpy(
        np.array(
            [made.latents.row_of(str(made.tiles.tile_ids[row])) for row in drawn["row"].tolist()]
        )
    )
    apart = (drawn["latents"] - means["latents"]) * torch.tensor(made.latents.scaling.scale)[
        :, None, None
    ]
    # std differs by view and place; random weights give a std near 1, so that the ratio is a unit
    # normal.
    assert torch.equal(drawn["mask"], means["mask"]) and len(rows) == 30
    std = made.latents.array[:, :, 1].astype(np.float64).mean()
    assert 0.9 < float(apart.std()) / std < 1.1
    assert torch.equal(dataset(made).batch(np.arange(10, 20))["latents"], drawn["latents"][10:20])


@pytest.mark.parametrize(
    ("flips", "turns", "views"),
    [(True, False, {0, 4, 2, 6}), (False, True, {0, 1, 2, 3}), (False, False, {0})],
)
def test_only_views_that_are_allowed_are_drawn(
    made: Made, flips: bool, turns: bool, views: set[int]
) -> None:
    data = dataset(made, flips=flips, turns=turns)
    assert {VIEW_ORDER[index] for index in data._views} == views


@pytest.mark.parametrize(("batch_size", "workers", "start"), [(3, 0, 0), (8, 1, 5)])
def test_batches_do_not_depend_on_workers_size_or_start(
    made: Made, batch_size: int, workers: int, start: int
) -> None:
    data = dataset(made)
    expected = data.batch(np.arange(start, 20))
    found = list(loader(data, range(start, 20), batch_size, workers))
    for name, value in expected.items():
        assert torch.equal(torch.cat([item[name] for item in found]), value), name


def test_nothing_mapped_crosses_process_borders(made: Made) -> None:
    data = dataset(made)
    batch = data.batch(np.arange(4))
    packed = pickle.dumps(made.latents)
    assert len(packed) < 20_000
    assert torch.equal(
        pickle.loads(pickle.dumps(data)).batch(np.arange(4))["latents"], batch["latents"]
    )


def test_an_index_of_shards_finds_the_latents_of_its_manifest(made: Made, tmp_path: Path) -> None:
    write_shards(made.manifest, tmp_path / "shards", engine=Engine(1))
    tiles = open_tiles(tmp_path / "shards")
    streams = class_streams(tiles.table, tiles.label_map, split="train", unconditional=0.3)
    batch, expected = (
        LatentDataset(made.latents, tiles, streams, 5).batch(np.arange(9)),
        dataset(made).batch(np.arange(9)),
    )
    assert torch.equal(batch["latents"], expected["latents"]) and torch.equal(
        batch["mask"], expected["mask"]
    )


def test_other_tiles_are_refused(made: Made, tmp_path: Path) -> None:
    other = write_tiles(tmp_path / "more", NUM_TILES + 1, SIZE)
    with pytest.raises(
        LatentSetError, match="HP907 latent-mismatch: the latent set was made from other tiles"
    ) as caught:
        made.latents.match(open_tiles(other))
    assert (
        f"tile{NUM_TILES:03d} has no latents" in str(caught.value)
        and caught.value.exit_code == ExitCode.INTEGRITY
    )


def test_another_split_label_map_or_codec_is_refused(made: Made, tmp_path: Path) -> None:
    root, out = str(made.manifest.parents[1] / "data"), tmp_path / "workspace"
    assert (
        run(
            [
                "--quiet",
                "manifest",
                root,
                "--workspace",
                str(out),
                "--split",
                "0.5/0.5",
                "--seed",
                "3",
            ]
        )
        == 0
    )
    with pytest.raises(LatentSetError, match="HP907") as caught:
        made.latents.match(open_tiles(out / "manifest.parquet"))
    assert "when the scaling was measured" in str(caught.value)
    assert (
        run(
            [
                "--quiet",
                "manifest",
                root,
                "--workspace",
                str(out),
                "--map",
                "label_map_5.yml",
                "--force",
            ]
        )
        == 0
    )
    with pytest.raises(LatentSetError, match="HP907") as caught:
        made.latents.match(open_tiles(out / "manifest.parquet"))
    assert "another label map" in str(caught.value)
    made.latents.check_codec(made.codec)
    with pytest.raises(LatentSetError, match=r"HP907 latent-mismatch: .* another codec"):
        made.latents.check_codec(load_codec(save_tiny(tmp_path / "tiny")))


def test_an_unfinished_or_damaged_set_is_no_set(made: Made, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made.latents.folder, copy)
    with (copy / "latents.npy").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(LatentSetError, match="damaged"):
        LatentSet.open(copy)
    (copy / "latents.json").unlink()
    with pytest.raises(LatentSetError, match="unfinished"):
        LatentSet.open(copy)
    with pytest.raises(LatentSetError, match="no latent set here"):
        LatentSet.open(tmp_path)


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Path:
    """A copy of the latent set, to be damaged."""
    return Path(shutil.copytree(made.latents.folder, tmp_path / "copy"))


def _change_byte(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_whole_set_is_read_to_the_end(made: Made) -> None:
    progress: list[int] = []
    made.latents.check_digests(progress.append)
    assert sum(progress) == NUM_TILES


@pytest.mark.parametrize(
    "name", ["latents.npy", "mask_values.bin", "mask_lengths.bin", "mask_counts.bin"]
)
@pytest.mark.parametrize("place", [-1, 300, 0])
def test_one_changed_byte_is_found_and_its_file_named(copy: Path, name: str, place: int) -> None:
    _change_byte(copy / name, place)
    with pytest.raises(LatentSetError, match="damaged") as caught:
        LatentSet.open(copy).check_digests()
    assert caught.value.path == str(copy / name) and caught.value.exit_code == ExitCode.INTEGRITY


def test_an_array_of_another_shape_is_found(copy: Path) -> None:
    # In the header: (20, 8, ... becomes (21, 8, ..., more than the file holds.
    _change_byte(copy / "latents.npy", (copy / "latents.npy").read_bytes().index(b"(20") + 2)
    with pytest.raises(LatentSetError, match="the header of its array changed"):
        LatentSet.open(copy).check_digests()


def test_a_set_whose_journal_is_gone_or_damaged_is_refused(copy: Path) -> None:
    lines = (copy / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for text in (
        b"".join(lines[:-1]),
        b"".join(lines).replace(b'"bytes"', b'"butes"'),
        b"".join(lines).replace(b'"mask_', b'"mass_'),
    ):
        (copy / "journal.jsonl").write_bytes(text)
        with pytest.raises(IntegrityError, match="changed since it was written") as caught:
            LatentSet.open(copy).check_digests()
        assert caught.value.path == str(copy / "journal.jsonl")
    # As sets of earlier versions have it.
    (copy / "checksums.json").unlink()
    for text in (
        b"".join(lines[:-1]),
        b"".join(lines).replace(b'"bytes"', b'"butes"'),
        b"".join(lines).replace(b'"mask_', b'"mass_'),
    ):
        (copy / "journal.jsonl").write_bytes(text)
        with pytest.raises(LatentSetError, match="journal"):
            LatentSet.open(copy).check_digests()
    (copy / "journal.jsonl").unlink()
    with pytest.raises(LatentSetError, match=r"journal .* not there"):
        LatentSet.open(copy).check_digests()


def test_an_edited_scale_is_an_error_and_not_another_scaling(copy: Path) -> None:
    text = (copy / "latents.json").read_text()
    scale = repr(LatentSet.open(copy).scaling.scale[0])
    (copy / "latents.json").write_text(text.replace(scale, "9" + scale[1:]))
    with pytest.raises(IntegrityError, match="changed since it was written") as caught:
        LatentSet.open(copy)
    assert (
        caught.value.path == str(copy / "latents.json")
        and caught.value.exit_code == ExitCode.INTEGRITY
    )


def test_files_that_did_not_change_are_not_read_again(copy: Path) -> None:
    def looked_at(*, whole: bool = False) -> int:
        seen: list[int] = []
        LatentSet.open(copy).check_files(whole=whole, advance=seen.append)
        return len(seen)

    # A copy has other inodes than what was written.
    assert looked_at() > 0
    assert looked_at() == 0
    assert looked_at(whole=True) > 0
    os.utime(copy / "mask_counts.bin")
    assert looked_at() > 0
    _change_byte(copy / "mask_counts.bin", 0)
    with pytest.raises(LatentSetError, match="damaged") as caught:
        looked_at()
    assert caught.value.path == str(copy / "mask_counts.bin")


def test_a_training_does_not_begin_with_damaged_latents(
    made: Made, copy: Path, tmp_path: Path
) -> None:
    config = load_config(
        preset="ldm-tiny",
        sets=["data.image_size=32"],
        manifest=str(made.manifest),
        latents=str(copy),
        out=str(tmp_path),
    )
    prepare_latents(config, tmp_path, NULL_REPORTER)
    _change_byte(copy / "latents.npy", -1)
    with pytest.raises(LatentSetError, match="bytes differ from their digest"):
        prepare_latents(config, tmp_path, NULL_REPORTER)


def test_run_lengths_are_lossless() -> None:
    random = np.random.default_rng(0)
    for mask in (
        np.zeros((7, 9), np.uint8),
        random.integers(0, 3, (7, 9), dtype=np.uint8),
        labels_of(1, 64),
    ):
        values, lengths = encode_runs(mask)
        assert lengths.sum() == mask.size and np.all(values[1:] != values[:-1])
        out = np.full(mask.shape, 99, np.uint8)
        decode_runs(values, lengths, out)
        assert np.array_equal(out, mask)
    with pytest.raises(ValueError, match="reshape"):
        decode_runs(
            np.array([1, 2], np.uint8), np.array([3, 4], np.int32), np.empty((4, 4), np.uint8)
        )
