"""Sampling: a data set that audits clean, the same images in any company, resumed as if never
stopped, kept pixels kept.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from histoprep import imageio
from histoprep.auditing import audit
from histoprep.errors import ExitCode, UsageError
from histoprep.labels import LabelMap, SourceLabel, TargetClass
from histoprep.labels.model import default_colour
from histoprep.schemas.manifest import open_manifest
from histoprep.schemas.synthetic import read_real
from histoprep.shards import open_tiles
from trainer.cli import run
from trainer.cli.sample import sampling_options
from trainer.config_layers import dump_config, load_config
from trainer.data.latent_scaling import LatentScaling
from trainer.diffusion.objectives import Objective
from trainer.diffusion.samplers import Solver
from trainer.errors import DataError, DivergedError
from trainer.models.codec import Posterior
from trainer.models.denoisers.masks import class_fractions
from trainer.models.denoisers.reference_unet import Config, ReferenceUNet
from trainer.sample import sample_dataset
from trainer.sampling.generator import Generator, KeptPixels, SamplingOptions
from trainer.sampling.keep import keep_regions
from trainer.sampling.masks import masks_in_folder, masks_of_tiles, read_labels
from trainer.sampling.sheets import comparison_sheet, guidance_sheet

torch.set_num_threads(1)

COLOURS = torch.tensor([[0.0, 0.0, 0.0], [0.9, -0.5, -0.5], [-0.5, 0.8, -0.4], [-0.6, -0.5, 0.9]])
CLASSES = LabelMap(
    "four",
    tuple(SourceLabel(number, f"source {number}") for number in range(4)),
    tuple(TargetClass(number, f"class {number}", default_colour(number)) for number in range(4)),
    {number: number for number in range(4)},
)


class PixelCodec:
    """A codec whose latents are the mean colours of 8 x 8 pixels."""

    factor, channels, digest, identifier = 8, 3, "pixels", "pixels"
    halo, decoder_width = 0, 1

    def encode(self, images: Tensor) -> Posterior:
        return Posterior(nn.functional.avg_pool2d(images, 8), None)

    def decode(self, raw: Tensor) -> Tensor:
        return nn.functional.interpolate(raw, scale_factor=8, mode="nearest").clamp(-1, 1)


class Painter:
    """The exact denoiser of images in which each class has its colour, with a little noise; the
    null knows nothing but the spread.
    """

    def __init__(self, spread: float = 0.05) -> None:
        self.objective, self.spread, self.num_asked = Objective("v"), spread, 0

    def __call__(self, x: Tensor, t: Tensor, mask: Tensor, drop: Tensor | None = None) -> Tensor:
        self.num_asked += len(x)
        mean = torch.einsum("bkhw,kc->bchw", class_fractions(mask, 4, 8), COLOURS)
        mean = mean if drop is None else torch.where(drop.view(-1, 1, 1, 1), 0.0, mean)
        spread = torch.full((len(x), 1, 1, 1), self.spread)
        spread = spread if drop is None else torch.where(drop.view(-1, 1, 1, 1), 1.0, spread)
        signal, sigma = self.objective.signal_and_sigma(t)
        clean = mean + signal * spread**2 / (signal**2 * spread**2 + sigma**2) * (x - signal * mean)
        return signal * (x - signal * clean) / sigma - sigma * clean


SCALING = LatentScaling("measured", (0.1, 0.0, -0.1), (1.0, 1.0, 1.0))
UNSCALED = LatentScaling("codec", (0.0,) * 3, (1.0,) * 3)
HALVED = LatentScaling("measured", (0.2, -0.1, 0.0), (0.5, 0.5, 0.5))
OPTIONS = SamplingOptions(guidance_scale=1.0, solver=Solver("dpm++", 10), seed=5)


def _painter(spread: float = 0.05, scaling: LatentScaling = UNSCALED) -> Generator:
    return Generator(
        Painter(spread), Objective("v"), PixelCodec(), scaling, num_classes=4, stride=1
    )


def _network() -> Generator:
    torch.manual_seed(0)
    network = ReferenceUNet(
        Config(dim=8, dim_mults=(1, 2), block_per_layer=1, mask_query="class"), 4, channels=3
    ).eval()
    return Generator(network, Objective("epsilon"), PixelCodec(), SCALING, num_classes=4, stride=2)


def _regions(index: int, height: int = 64, width: int = 64) -> np.ndarray:
    """A mask with two regions whose place and classes depend on `index`."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[8 * (index % 3) + 8 : 48, 8:56] = 1 + index % 3
    mask[32:56, 8 * (index % 4) : 8 * (index % 4) + 24] = 1 + (index + 1) % 3
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "labels"
    for index in range(7):
        path = root / f"slide{index // 3}" / f"tile{index}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            imageio.encode_mask_png(_regions(index, *((64, 64) if index != 4 else (48, 96))))
        )
    return root


def _images(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.png"))
    }


def test_each_region_gets_the_look_of_its_class(folder):
    masks = masks_in_folder(folder, CLASSES)
    for index in range(len(masks)):
        mask = masks.read_mask(index)
        image = _painter().generate(mask[None], [masks.ids[index]], OPTIONS)[0] / 127.5 - 1
        assert np.abs(image - COLOURS.numpy()[mask]).mean() < 0.1
        assert np.abs(image - COLOURS.numpy()[(mask + 1) % 4]).mean() > 0.3


@pytest.mark.parametrize("kept", [False, True])
def test_latents_are_scaled_back_for_the_codec_and_forth_for_what_is_kept(kept):
    mask = _regions(1)[None]
    real = np.full((1, 64, 64, 3), 200, dtype=np.uint8)
    seen = []

    class Watching(Painter):
        def __call__(
            self, x: Tensor, t: Tensor, mask: Tensor, drop: Tensor | None = None
        ) -> Tensor:
            seen.append(x)
            return super().__call__(x, t, mask, drop)

    generator = Generator(Watching(), Objective("v"), PixelCodec(), HALVED, num_classes=4, stride=1)
    image = (
        generator.generate(
            mask,
            ["a"],
            OPTIONS,
            KeptPixels(real, np.ones((1, 64, 64), dtype=bool)) if kept else None,
        )[0]
        / 127.5
        - 1
    )
    shift, scale = np.array(HALVED.shift), np.array(HALVED.scale)
    if kept:
        # At the last evaluation hardly any noise is left.
        assert (
            np.abs(seen[-1][0].permute(1, 2, 0).numpy() - (200 / 127.5 - 1 - shift) / scale).mean()
            < 0.25
        )
    else:
        assert np.abs(image - (COLOURS.numpy()[mask[0]] * scale + shift)).mean() < 0.05


def test_masks_whose_labels_depend_on_the_reader_are_refused(folder):
    palette = Image.fromarray((_regions(1) > 0).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 3, 3, 3])
    path = folder / "slide0" / "tile1_mask.png"
    palette.save(path)
    masks = masks_in_folder(folder, CLASSES)
    with pytest.raises(DataError, match="by index") as refused:
        masks.read_mask(masks.ids.index("slide0/tile1"))
    assert "histoprep audit" in str(refused.value.hint)
    Image.fromarray(_regions(1) > 0).save(path)
    with pytest.raises(UsageError, match="1 of 7 masks have fewer bits") as mixed:
        masks_in_folder(folder, CLASSES)
    assert mixed.value.path == str(path)


def test_the_data_set_audits_clean_and_has_a_true_manifest(folder, tmp_path):
    out = tmp_path / "made"
    masks = masks_in_folder(folder, CLASSES, split="val")
    # Another size is a finding (HP301), and the fifth mask has one.
    result = sample_dataset(_painter(0.3), masks, out, OPTIONS, batch_size=3, limit=4)
    assert (result.num_made, result.num_there) == (4, 0)
    report = audit(out)
    assert [finding.code for finding in report.findings if str(finding.severity) == "error"] == []
    manifest = open_manifest(result.manifest)
    assert len(manifest) == 4
    assert set(manifest.read(["split"])["split"].to_pylist()) == {"val"}
    tiles = open_tiles(result.manifest)
    for row, tile_id in enumerate(tiles.tile_ids):
        index = masks.ids.index(str(tile_id).removeprefix("images/"))
        assert np.array_equal(tiles.read(row).mask, masks.read_mask(index))
    assert [cls.name for cls in tiles.label_map.classes] == [cls.name for cls in CLASSES.classes]


def test_every_file_says_that_it_is_synthetic_and_nothing_else(folder, tmp_path):
    out = tmp_path / "made"
    sample_dataset(_painter(), masks_in_folder(folder, CLASSES), out, OPTIONS)
    for data in _images(out).values():
        header = imageio.read_header(data)
        assert list(header.structure.text) == ["histoprep-synthetic"]


def test_any_subset_and_any_batch_size_give_the_same_images(folder, tmp_path):
    masks, generator = masks_in_folder(folder, CLASSES), _network()
    whole = tmp_path / "whole"
    sample_dataset(generator, masks, whole, OPTIONS, batch_size=4)
    for index in (0, 3, 4, 6):
        alone = generator.generate(masks.read_mask(index)[None], [masks.ids[index]], OPTIONS)[0]
        there = imageio.decode_rgb((whole / "images" / f"{masks.ids[index]}.png").read_bytes())
        assert np.abs(alone.astype(int) - there).max() <= 1


def test_seed_and_name_make_the_image(folder):
    generator, mask = _network(), _regions(1)[None]
    images = [
        generator.generate(
            mask, [name], SamplingOptions(guidance_scale=1.5, solver=OPTIONS.solver, seed=seed)
        )
        for name, seed in (("a", 0), ("b", 0), ("a", 1), ("a", 0))
    ]
    assert np.array_equal(images[0], images[3])
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_guidance_in_an_interval_of_noise_levels(folder):
    generator, mask = _network(), _regions(1)[None]

    def image(scale: float, interval: tuple[float, float] | None) -> np.ndarray:
        options = SamplingOptions(scale, OPTIONS.solver, 3, interval)
        return generator.generate(mask, ["a"], options)

    plain, guided = image(1.0, None), image(4.0, None)
    assert not np.array_equal(plain, guided)
    assert np.array_equal(image(4.0, (0.0, 1e9)), guided)
    assert np.array_equal(image(4.0, (1e8, 1e9)), plain)
    partly = image(4.0, (0.3, 3.0))
    assert not np.array_equal(partly, plain) and not np.array_equal(partly, guided)


def test_what_came_later_is_not_in_the_record_at_its_default():
    options = SamplingOptions(1.5, Solver("dpm++", 5), 3)
    solver = {"kind": "dpm++", "num_inference_steps": 5, "eta": 0.0}
    assert options.to_json() == {"guidance_scale": 1.5, "solver": solver, "seed": 3}
    other = SamplingOptions(1.5, Solver("dpm++", 5, spacing="log_snr"), 3, (0.2, 5.0))
    assert other.to_json() == {
        "guidance_scale": 1.5,
        "solver": {**solver, "spacing": "log_snr"},
        "seed": 3,
        "guidance_interval": (0.2, 5.0),
    }


def test_interval_and_spacing_are_those_of_the_run_unless_given():
    own = "{guidance_interval: [0.2, 5], spacing: log_snr}"
    config = load_config(preset="ldm-tiny", manifest="m", sets=[f"sampling={own}"])
    found = sampling_options(config, 0)
    assert (found.guidance_interval, found.solver.spacing) == ((0.2, 5.0), "log_snr")
    found = sampling_options(config, 0, guidance_interval="0.5,2", spacing="time")
    assert (found.guidance_interval, found.solver.spacing) == ((0.5, 2.0), "time")
    assert sampling_options(config, 0, solver="ddim").solver.spacing == "time"
    for text in ("0.5", "a,b", "1,2,3"):
        with pytest.raises(UsageError, match="not two numbers"):
            sampling_options(config, 0, guidance_interval=text)


def test_fresh_noise_of_ancestral_sampling_belongs_to_the_tile():
    generator, masks = _network(), np.stack([_regions(0), _regions(1)])
    ancestral = SamplingOptions(1.0, Solver("ddim", 10, eta=1.0), seed=2)
    together = generator.generate(masks, ["a", "b"], ancestral)
    assert (
        np.abs(together[1].astype(int) - generator.generate(masks[1:], ["b"], ancestral)[0]).max()
        <= 1
    )
    assert not np.array_equal(
        together,
        generator.generate(masks, ["a", "b"], SamplingOptions(1.0, Solver("ddim", 10), seed=2)),
    )


class _Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.slow
def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(folder, tmp_path, after):
    masks = masks_in_folder(folder, CLASSES)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    sample_dataset(_network(), masks, whole, OPTIONS, batch_size=2)
    progress = []

    def stop(_: int) -> None:
        progress.append(1)
        if len(progress) == after:
            raise _Stop

    with pytest.raises(_Stop):
        sample_dataset(_network(), masks, stopped, OPTIONS, batch_size=2, advance=stop)
    # Half a batch is no batch: its other half must not be made in other company.
    next((stopped / "images").rglob("*.png")).unlink()
    result = sample_dataset(_network(), masks, stopped, OPTIONS, batch_size=2)
    assert result.num_there == 2 * (after - 1)
    assert _images(stopped) == _images(whole)


def test_a_limit_can_be_lifted_and_set_again(folder, tmp_path):
    masks, out = masks_in_folder(folder, CLASSES), tmp_path / "made"
    numbers = [
        sample_dataset(_painter(), masks, out, OPTIONS, batch_size=1, limit=limit).num_made
        for limit in (2, None, 3)
    ]
    assert numbers == [2, 5, 0]
    assert len(open_manifest(tmp_path / "made.histoprep" / "manifest.parquet")) == 7


def test_a_finished_run_asks_the_network_nothing_and_a_changed_mask_is_made_again(folder, tmp_path):
    generator, out = _painter(), tmp_path / "made"
    sample_dataset(generator, masks_in_folder(folder, CLASSES), out, OPTIONS, batch_size=1)
    num_before = generator.denoiser.num_asked
    assert (
        sample_dataset(
            generator, masks_in_folder(folder, CLASSES), out, OPTIONS, batch_size=1
        ).num_made
        == 0
    )
    assert generator.denoiser.num_asked == num_before
    (folder / "slide0" / "tile0_mask.png").write_bytes(imageio.encode_mask_png(_regions(2)))
    assert (
        sample_dataset(
            generator, masks_in_folder(folder, CLASSES), out, OPTIONS, batch_size=1
        ).num_made
        == 1
    )
    assert np.array_equal(read_labels(out / "masks" / "slide0" / "tile0.png"), _regions(2))


def test_another_request_for_the_same_folder_is_refused_unless_forced(folder, tmp_path):
    masks, out = masks_in_folder(folder, CLASSES), tmp_path / "made"
    sample_dataset(_painter(), masks, out, OPTIONS)
    other = SamplingOptions(1.0, OPTIONS.solver, seed=6)
    before = _images(out)
    with pytest.raises(UsageError, match="made with other settings: seed"):
        sample_dataset(_painter(), masks, out, other)
    assert _images(out) == before
    sample_dataset(_painter(), masks, out, other, force=True)
    assert all(
        _images(out)[name] != data for name, data in before.items() if name.startswith("images")
    )
    assert json.loads((tmp_path / "made.histoprep" / "sampling.json").read_text())["seed"] == 6


def _contents(*folders: Path) -> dict[str, bytes]:
    return {
        path.as_posix(): path.read_bytes()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        ("made/images/a.png", "did not make it"),
        ("made/label_map.yml", "did not make it"),
        ("made/tile.jpg", "did not make it"),
    ]
    + [
        (f"made.histoprep/{name}", "workspace of another data set")
        for name in ("manifest.parquet", "tiles.parquet")
    ],
)
def test_a_folder_of_someone_else_is_left_alone(folder, tmp_path, theirs, reason):
    (tmp_path / theirs).parent.mkdir(parents=True)
    (tmp_path / theirs).write_bytes(b"theirs")
    before = _contents(tmp_path)
    for force in (False, True):
        with pytest.raises(UsageError, match=reason):
            sample_dataset(
                _painter(),
                masks_in_folder(folder, CLASSES),
                tmp_path / "made",
                OPTIONS,
                force=force,
            )
    assert _contents(tmp_path) == before


def test_an_empty_folder_and_a_link_to_one_are_good_enough(folder, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "link").symlink_to("made")
    masks = masks_in_folder(folder, CLASSES)
    result = sample_dataset(_painter(), masks, tmp_path / "link", OPTIONS)
    assert result.manifest == tmp_path / "made.histoprep" / "manifest.parquet"
    assert sample_dataset(_painter(), masks, tmp_path / "made", OPTIONS).num_made == 0
    assert not (tmp_path / "link.histoprep").exists()


def _real_set(folder: Path, tmp_path: Path) -> Path:
    """A data set of real images with its manifest: what a first run makes will do."""
    return sample_dataset(
        _painter(0.4), masks_in_folder(folder, CLASSES, split="test"), tmp_path / "real", OPTIONS
    ).manifest


def test_masks_of_a_manifest_keep_their_split(folder, tmp_path):
    tiles = open_tiles(_real_set(folder, tmp_path))
    masks = masks_of_tiles(tiles, "test")
    result = sample_dataset(_painter(), masks, tmp_path / "again", OPTIONS)
    assert set(open_manifest(result.manifest).read(["split"])["split"].to_pylist()) == {"test"}
    # So that a browser finds the real tiles by itself.
    assert read_real(tmp_path / "again.histoprep") == [(tiles.path, Path(tiles.path))]
    with pytest.raises(DataError, match="7 in test"):
        masks_of_tiles(tiles, "train")


def test_kept_pixels_are_kept_to_the_last_bit_and_the_rest_follows_the_mask(folder, tmp_path):
    masks = masks_of_tiles(open_tiles(_real_set(folder, tmp_path)))
    region = np.zeros((64, 64), dtype=np.uint8)
    region[:, :30] = 255
    (tmp_path / "keep.png").write_bytes(imageio.encode_mask_png(region))
    chosen = [index for index in range(len(masks)) if tuple(masks.sizes[index]) == (64, 64)]
    keep = keep_regions(tmp_path / "keep.png", masks)
    for index in chosen:
        real, mask = masks.read_image(index), masks.read_mask(index)
        made = _painter().generate(
            mask[None], [masks.ids[index]], OPTIONS, KeptPixels(real[None], keep.read(index)[None])
        )[0]
        assert np.array_equal(made[:, :30], real[:, :30])
        # Latents that are known in part are made: pixels 30 and 31 follow the mask, too.
        assert np.abs(made[:, 30:32] / 127.5 - 1 - COLOURS.numpy()[mask[:, 30:32]]).mean() < 0.1
        assert np.abs(made[:, 30:] / 127.5 - 1 - COLOURS.numpy()[mask[:, 30:]]).mean() < 0.1


def test_what_cannot_be_kept_is_refused(folder, tmp_path):
    masks = masks_in_folder(folder, CLASSES)
    region = tmp_path / "keep.png"
    region.write_bytes(imageio.encode_mask_png(np.ones((64, 64), dtype=np.uint8)))
    with pytest.raises(UsageError, match="real images"):
        sample_dataset(
            _painter(), masks, tmp_path / "out", OPTIONS, keep=keep_regions(region, masks)
        )
    with pytest.raises(UsageError, match="7, such as slide0/tile0"):
        keep_regions(tmp_path, masks)
    real = masks_of_tiles(open_tiles(_real_set(folder, tmp_path)))
    with pytest.raises(UsageError, match="another size"):
        sample_dataset(_painter(), real, tmp_path / "out", OPTIONS, keep=keep_regions(region, real))


def test_source_labels_are_mapped_and_strange_ones_named(tmp_path):
    (tmp_path / "masks").mkdir()
    source = np.full((16, 16), 300, dtype=np.uint16)
    source[:8] = 7
    (tmp_path / "masks" / "a.png").write_bytes(imageio.encode_mask_png(source))
    to_classes = LabelMap(
        "coarse",
        (SourceLabel(7, "seven"), SourceLabel(300, "far")),
        CLASSES.classes,
        {7: 2, 300: 1},
    )
    mask = masks_in_folder(tmp_path / "masks", CLASSES, source_map=to_classes).read_mask(0)
    assert mask.dtype == np.uint8
    assert (np.unique(mask[:8]), np.unique(mask[8:])) == ([2], [1])
    with pytest.raises(UsageError, match="7, 300"):
        masks_in_folder(tmp_path / "masks", CLASSES).read_mask(0)


def test_masks_of_classes_stay_what_they_are_whatever_the_map_of_the_training(tmp_path):
    (tmp_path / "masks").mkdir()
    classes = np.repeat(np.arange(4, dtype=np.uint8), 64).reshape(16, 16)
    (tmp_path / "masks" / "a.png").write_bytes(imageio.encode_mask_png(classes))
    (tmp_path / "masks" / "b.png").write_bytes(
        imageio.encode_mask_png(np.full((16, 16), 7, dtype=np.uint8))
    )
    # Source 3 is class 1 in training, and source 7 class 3.
    trained = LabelMap(
        "trained",
        tuple(SourceLabel(item, f"s{item}") for item in (0, 3, 5, 7)),
        CLASSES.classes,
        {0: 0, 3: 1, 5: 2, 7: 3},
    )
    masks = masks_in_folder(tmp_path / "masks", trained)
    assert np.array_equal(masks.read_mask(0), classes)
    with pytest.raises(UsageError, match="values without a class"):
        masks.read_mask(1)
    assert masks.label_map is trained


def test_what_the_network_cannot_make_is_refused_before_anything_is_written(folder, tmp_path):
    masks = masks_in_folder(folder, CLASSES)
    few = Generator(Painter(), Objective("v"), PixelCodec(), UNSCALED, num_classes=3, stride=1)
    with pytest.raises(UsageError, match="class 3"):
        sample_dataset(few, masks, tmp_path / "out", OPTIONS)
    coarse = Generator(Painter(), Objective("v"), PixelCodec(), UNSCALED, num_classes=4, stride=4)
    with pytest.raises(UsageError, match="multiples of 32 px"):
        sample_dataset(coarse, masks, tmp_path / "out", OPTIONS)
    with pytest.raises(UsageError, match="divisor"):
        sample_dataset(
            _painter(), masks, tmp_path / "out", SamplingOptions(1.0, Solver("ddim", 30))
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf")])
def test_a_guidance_scale_that_is_no_number_is_refused_before_anything_is_written(
    folder, tmp_path, scale
):
    with pytest.raises(UsageError, match="guidance scale is not a finite number"):
        sample_dataset(
            _painter(),
            masks_in_folder(folder, CLASSES),
            tmp_path / "out",
            SamplingOptions(scale, OPTIONS.solver),
        )
    with pytest.raises(UsageError, match="no guidance interval"):
        sample_dataset(
            _painter(),
            masks_in_folder(folder, CLASSES),
            tmp_path / "out",
            SamplingOptions(2.0, OPTIONS.solver, guidance_interval=(scale, 0.5)),
        )
    with pytest.raises(UsageError, match="eta nan"):
        sample_dataset(
            _painter(),
            masks_in_folder(folder, CLASSES),
            tmp_path / "out",
            SamplingOptions(1.0, Solver("ddim", 10, eta=float("nan"))),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_named_and_not_written(folder, tmp_path, value):
    class Exploding(Painter):
        def __call__(
            self, x: Tensor, t: Tensor, mask: Tensor, drop: Tensor | None = None
        ) -> Tensor:
            made = super().__call__(x, t, mask, drop)
            made[-1] = value
            return made

    generator = Generator(
        Exploding(), Objective("v"), PixelCodec(), UNSCALED, num_classes=4, stride=1
    )
    masks = masks_in_folder(folder, CLASSES)
    with pytest.raises(DivergedError, match="NaN or infinite") as caught:
        sample_dataset(generator, masks, tmp_path / "out", OPTIONS, batch_size=2)
    assert caught.value.seen == masks.ids[1]
    assert _images(tmp_path / "out") == {}
    # A preview of a training goes on.
    assert generator.generate(np.stack([_regions(0)] * 2), ["a", "b"], OPTIONS).shape == (
        2,
        64,
        64,
        3,
    )


def test_masks_that_are_none_are_named(tmp_path):
    with pytest.raises(UsageError, match="not a folder"):
        masks_in_folder(tmp_path / "nowhere", CLASSES)
    (tmp_path / "masks").mkdir()
    with pytest.raises(UsageError, match="no masks here"):
        masks_in_folder(tmp_path / "masks", CLASSES)
    (tmp_path / "masks" / "a.png").write_bytes(
        imageio.encode_rgb_png(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
    )
    with pytest.raises(DataError, match="no labels"):
        masks_in_folder(tmp_path / "masks", CLASSES).read_mask(0)
    (tmp_path / "masks" / "a_mask.png").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="one name"):
        masks_in_folder(tmp_path / "masks", CLASSES)


def test_sheets(folder, tmp_path):
    masks = masks_of_tiles(open_tiles(_real_set(folder, tmp_path)))
    chosen = [index for index in range(len(masks)) if tuple(masks.sizes[index]) == (64, 64)][:2]
    swept = guidance_sheet(_network(), masks, chosen, (0.0, 1.0, 3.0), OPTIONS)
    assert swept.shape == (2 * 68 - 4, 5 * 68 - 4, 3)
    beside = comparison_sheet(_painter(), masks, chosen, OPTIONS)
    assert np.array_equal(beside[:64, 68:132], masks.read_image(chosen[0]))
    assert np.array_equal(
        swept[68:132, 4 * 68 :],
        _network().generate(
            masks.read_mask(chosen[1])[None],
            [masks.ids[chosen[1]]],
            SamplingOptions(3.0, OPTIONS.solver, 5),
        )[0],
    )


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the codec that it was imported with."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    place = tmp_path_factory.mktemp("imported")
    torch.manual_seed(0)
    kinds = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        layers_per_block=1,
        **kinds,
    ).save_pretrained(place / "codec")
    torch.save(
        ReferenceUNet(Config(dim=8, dim_mults=(1, 2)), 4).state_dict(),
        place / "published.pt",
    )
    assert (
        run(
            [
                "import",
                str(place / "published.pt"),
                "--out",
                str(place / "run"),
                "--codec",
                str(place / "codec"),
            ]
        )
        == ExitCode.OK
    )
    return place / "run"


@pytest.mark.slow
def test_the_command(imported, folder, tmp_path, capsys):
    """From a checkpoint to a data set, its own manifest as the next source of masks, a sweep, a
    comparison, a refusal.
    """
    common = ["sample", "--checkpoint", str(imported), "--steps", "2", "--device", "cpu"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert (
        run(
            [*common, "--masks", str(folder), "--out", str(first), "--split", "test", "--seed", "3"]
        )
        == ExitCode.OK
    )
    manifest = tmp_path / "first.histoprep" / "manifest.parquet"
    assert str(manifest) in capsys.readouterr().out
    again = [*common, "--masks", str(manifest), "--out", str(second)]
    assert run([*again, "--limit", "2", "--real", "--precision", "bf16"]) == ExitCode.OK
    assert run([*again, "--sweep", "0,1,2"]) == ExitCode.OK
    assert sorted(path.name for path in (tmp_path / "second.histoprep").glob("*.png")) == [
        "guidance.png",
        "real.png",
    ]
    assert len(_images(second)) == 4
    for sweep in ("", "0,a", "1,nan"):
        assert run([*again, "--sweep", sweep]) == ExitCode.USAGE
        assert "not a list of numbers" in capsys.readouterr().err
    assert run([*again, "--split", "train"]) == ExitCode.INCOMPLETE
    assert run([*again, "--solver", "heun"]) == ExitCode.USAGE
    assert run([*again, "--limit", "2", "--seed", "1", "--precision", "bf16"]) == ExitCode.USAGE
    assert "made with other settings: seed" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((None, None, None, None), (1.5, "ddim", 10, 0.5)),
        ((None, None, 5, None), (1.5, "ddim", 5, 0.5)),
        ((0.0, None, None, 0.0), (0.0, "ddim", 10, 0.0)),
        ((None, "ddim", None, None), (1.5, "ddim", 10, 0.5)),
        # The run's steps and noise are those of its own solver.
        ((None, "dpm++", None, None), (1.5, "dpm++", 25, 0.0)),
        ((None, "dpm++", 7, None), (1.5, "dpm++", 7, 0.0)),
    ],
)
def test_what_is_not_asked_for_is_as_in_the_run(words, wanted):
    own = "{solver: ddim, num_inference_steps: 10, guidance_scale: 1.5, eta: 0.5}"
    config = load_config(preset="ldm-tiny", manifest="m", sets=[f"sampling={own}"])
    values = dict(zip(("guidance_scale", "solver", "steps", "eta"), words, strict=True))
    found = sampling_options(config, 4, **values)
    solver = found.solver
    assert (found.guidance_scale, solver.kind, solver.num_inference_steps, solver.eta) == wanted
    assert found.seed == 4


def test_the_command_writes_nothing_into_the_data_it_reads(imported, folder, tmp_path, capsys):
    real = _real_set(folder, tmp_path)
    own, images = tmp_path / "own", tmp_path / "real" / "images"
    (own / "masks").mkdir(parents=True)
    (own / "masks" / "a.png").write_bytes(imageio.encode_mask_png(_regions(0)))
    (tmp_path / "own.histoprep").mkdir()
    (tmp_path / "own.histoprep" / "tiles.parquet").write_bytes(b"theirs")
    before = _contents(tmp_path)
    common = ["sample", "--checkpoint", str(imported), "--steps", "2", "--device", "cpu"]
    # The data set itself, a folder in it, the folder of masks, a folder in it, one around it, the
    # folder of real images.
    for masks, out in (
        (real, "real"),
        (real, "real/new"),
        (folder, "labels"),
        (folder, "labels/new"),
        (own / "masks", "own"),
    ):
        assert (
            run([*common, "--masks", str(masks), "--out", str(tmp_path / out), "--force"])
            == ExitCode.USAGE
        )
        assert "must not mix with the data they are made from" in capsys.readouterr().err.replace(
            "\n", " "
        )
    assert (
        run(
            [*common, "--masks", str(folder), "--images", str(images), "--out", str(images / "new")]
        )
        == ExitCode.USAGE
    )
    assert (
        run([*common, "--masks", str(real), "--out", str(own), "--sweep", "0,1"]) == ExitCode.USAGE
    )
    assert "did not make it" in capsys.readouterr().err.replace("\n", " ")
    assert _contents(tmp_path) == before


@pytest.mark.parametrize(
    ("preset", "recipe"), [("codec-tiny", "codec"), ("diffmic-tiny", "diffmic")]
)
def test_a_run_of_another_recipe_is_told_apart_from_a_damaged_one(
    folder, tmp_path, capsys, preset, recipe
):
    (tmp_path / "run").mkdir()
    config = load_config(
        preset=preset, sets=[], manifest="manifest.parquet", out=str(tmp_path / "run")
    )
    (tmp_path / "run" / "config.yml").write_text(dump_config(config))
    arguments = [
        "sample",
        "--checkpoint",
        str(tmp_path / "run"),
        "--masks",
        str(folder),
        "--out",
        str(tmp_path / "out"),
    ]
    assert run(arguments) == ExitCode.USAGE
    printed = capsys.readouterr().err
    assert "not of the recipe ldm" in printed and f"seen: {recipe}" in printed


def test_a_run_imported_without_a_codec_asks_for_one(imported, folder, tmp_path, capsys):
    assert (
        run(["import", str(imported.with_name("published.pt")), "--out", str(tmp_path / "run")])
        == ExitCode.OK
    )
    assert (
        run(
            [
                "sample",
                "--checkpoint",
                str(tmp_path / "run"),
                "--masks",
                str(folder),
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == ExitCode.USAGE
    )
    assert "imported without --codec" in capsys.readouterr().err
