"""The recipe ldm: streams and drop as promised, the loss by hand, a whole run on procedural tiles
with a codec, and what it refuses.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from histoprep.schemas.manifest import open_manifest, write_manifest
from histoprep.shards import open_tiles
from histoprep.streams import Stream, Streams
from trainer.config_layers import load_config
from trainer.data.latents import LatentSet
from trainer.engine.checkpoints import load_weights
from trainer.engine.fit import fit
from trainer.errors import ConfigError, HistoprepError, UsageError
from trainer.models.codec import save_codec
from trainer.recipes.codec import describe as describe_codec
from trainer.recipes.ldm import describe, load_generator, read_facts, stages
from trainer.recipes.ldm_data import (
    extra_drop,
    latents_folder,
    prepare_latents,
    training_streams,
    validation_streams,
)
from trainer.recipes.ldm_stage import LdmStage, objective_of
from trainer.reporter import NULL_REPORTER, Reporter
from trainer.sampling.generator import SamplingOptions

TINY = [
    "data.image_size=32",
    "model.dim=8",
    "batch_size=4",
    "duration.steps=6",
    "validation.num_tiles=8",
    "sampling.num_inference_steps=2",
]
EVERY = [
    "every.log=2",
    "every.validate=3",
    "every.checkpoint=3",
    "every.images=6",
    "sampling.num_images=2",
    "encoding.views=1",
    "data.flips=false",
    "data.turns=false",
]


def _save_small_codec(folder: Path, seed: int) -> Path:
    """Write an untrained codec with a posterior, 8 pixels a latent, and return its folder."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    save_codec(
        AutoencoderKL(
            **blocks,
            block_out_channels=(4, 4, 4, 4),
            norm_num_groups=2,
            layers_per_block=1,
            latent_channels=4,
        ),
        folder,
    )
    return folder


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small codec."""
    return _save_small_codec(tmp_path_factory.mktemp("codec") / "codec", 0)


def _config(manifest: Path, codec: Path, out: Path, *sets: str) -> Any:
    return load_config(
        preset="ldm-tiny",
        sets=[*TINY, *EVERY, *sets],
        manifest=str(manifest),
        codec=str(codec),
        out=str(out),
    )


@pytest.fixture(scope="module")
def finished(
    demo_manifest: Path, codec: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    """Return configuration and folder of a short whole run."""
    config = _config(demo_manifest, codec, tmp_path_factory.mktemp("ldm") / "run")
    return config, fit(config).run


def _stage(config: Any) -> LdmStage:
    return LdmStage(config, open_tiles(config.manifest), LatentSet.open(latents_folder(config)))


def test_a_run_leaves_losses_by_noise_and_stream_images_and_facts(
    finished: tuple[Any, Path],
) -> None:
    config, run = finished
    header = (run / "metrics.csv").read_text().splitlines()[0]
    assert (
        all(f"loss_noise_{item}" in header for item in ("0.0-0.2", "0.8-1.0"))
        and "loss_stream_Carcinoma" in header
        and "val_loss_null" in header
    )
    assert [path.name for path in (run / "samples").iterdir()] == [
        "00000006-mask-tile-generated.png"
    ]
    facts = read_facts(run)
    assert facts.label_map.num_classes == 5 and facts.channels == 4
    assert facts.codec_digest == LatentSet.open(latents_folder(config)).codec.digest
    assert json.loads((run / "finished.json").read_text())["best"]["metric"] == "loss"


def test_a_trained_run_makes_images_of_any_size(finished: tuple[Any, Path]) -> None:
    generator = load_generator(finished[1])
    masks = np.zeros((1, 32, 64), dtype=np.uint8)
    made = generator.generate(masks, ["a"], SamplingOptions(solver=generator_solver()))
    assert made.shape == (1, 32, 64, 3) and made.dtype == np.uint8
    assert np.array_equal(
        made, generator.generate(masks, ["a"], SamplingOptions(solver=generator_solver()))
    )


def generator_solver() -> Any:
    from trainer.diffusion.samplers import Solver

    return Solver("dpm++", 2)


def test_sampling_refuses_another_codec(finished: tuple[Any, Path], tmp_path: Path) -> None:
    _save_small_codec(tmp_path / "other", 1)
    with pytest.raises(HistoprepError, match="HP907"):
        load_generator(finished[1], codec=str(tmp_path / "other"))


def test_the_loss_is_that_of_the_objective_written_out(finished: tuple[Any, Path]) -> None:
    stage = _stage(finished[0])
    weights, _ = load_weights(finished[1])
    stage.module.load_state_dict(weights)
    batch = stage.dataset().batch(np.arange(8))
    with torch.no_grad():
        output = stage.loss(stage.module.eval(), batch)
        # v-prediction on the cosine schedule, from its definition: Nichol and Dhariwal's alpha_bar
        # with betas capped at 0.999.
        t = (batch["u"].double() * 1000).long()
        steps = torch.arange(1001, dtype=torch.float64)
        curve = torch.cos((steps / 1000 + 0.008) / 1.008 * torch.pi / 2) ** 2
        alpha_bar = (
            torch.cumprod(1 - (1 - curve[1:] / curve[:-1]).clamp(max=0.999), 0)[t]
            .view(-1, 1, 1, 1)
            .float()
        )
        noisy = alpha_bar.sqrt() * batch["latents"] + (1 - alpha_bar).sqrt() * batch["noise"]
        target = alpha_bar.sqrt() * batch["noise"] - (1 - alpha_bar).sqrt() * batch["latents"]
        expected = (
            (stage.module(noisy, t, batch["mask"][:, None], batch["drop"]) - target)
            .square()
            .mean(dim=(1, 2, 3))
        )
    torch.testing.assert_close(output.loss, expected, rtol=1e-3, atol=1e-4)
    assert output.groups["noise"].tolist() == [int(item * 5) for item in batch["u"].tolist()]
    assert torch.equal(output.groups["stream"], batch["stream"])


def test_validation_is_on_fixed_noise(finished: tuple[Any, Path]) -> None:
    first, second = _stage(finished[0]), _stage(finished[0].model_copy(update={"seed": 5}))
    second.module.load_state_dict(first.module.state_dict())
    with torch.no_grad():
        metrics = first.validate(first.module.eval())
        assert metrics == first.validate(first.module) == second.validate(second.module.eval())
    assert metrics.keys() == {"loss", "loss_null"}


def test_who_is_shown_without_a_mask(finished: tuple[Any, Path]) -> None:
    config = finished[0].model_copy(
        update={"streams": finished[0].streams.model_copy(update={"cond_drop_prob": 0.3})}
    )
    batch = _stage(config).dataset().batch(np.arange(600))
    # The demo has no unconditional tiles, so that stream is empty and tiles of the classes lose
    # their mask in its place.
    assert float(batch["drop"].float().mean()) == pytest.approx(0.3, abs=0.06)
    assert torch.equal(
        batch["drop"][100:200], _stage(config).dataset().batch(np.arange(100, 200))["drop"]
    )


@pytest.mark.parametrize(
    ("given", "wanted", "expected"),
    [(0.5, 0.5, 0.0), (0.0, 0.3, 0.3), (0.2, 0.6, 0.5), (0.7, 0.5, 0.0), (1.0, 0.5, 0.0)],
)
def test_the_share_without_condition_is_made_up(
    given: float, wanted: float, expected: float
) -> None:
    rows = np.arange(4)
    parts = [Stream("unconditional", None, rows, given), Stream("a", 1, rows, 1 - given)]
    assert extra_drop(Streams(tuple(parts)), wanted) == pytest.approx(expected)


def test_labelled_tiles_lose_their_mask_at_least_as_often_as_is_asked(
    finished: tuple[Any, Path],
) -> None:
    values = finished[0].model_dump()
    values["streams"] |= {"cond_drop_prob": 0.0, "drop_conditional": 0.25}
    dataset = _stage(type(finished[0])(**values)).dataset()
    batch = dataset.batch(np.arange(2000))
    labelled = ~np.isin(batch["stream"].numpy(), dataset.unconditional)
    assert labelled.all()
    assert float(batch["drop"].float().mean()) == pytest.approx(0.25, abs=0.03)


def test_the_unconditional_stream_is_always_dropped(
    finished: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = _stage(finished[0]).dataset()
    dataset.unconditional, dataset.extra = (2,), 0.0
    batch = dataset.batch(np.arange(64))
    assert (
        torch.equal(batch["drop"], batch["stream"] == 2)
        and bool(batch["drop"].any())
        and not bool(batch["drop"].all())
    )


def test_streams_of_the_splits(finished: tuple[Any, Path]) -> None:
    config = finished[0]
    tiles = open_tiles(config.manifest)
    for stream in training_streams(config, tiles).streams:
        assert set(tiles.split[stream.rows]) <= {"train"}
    streams, warning = validation_streams(tiles)
    # This manifest has train and test alone, and the test split stays out of training.
    assert warning is not None and all(
        set(tiles.split[stream.rows]) <= {"train"} for stream in streams.streams
    )


@pytest.mark.slow
def test_tiles_without_masks_train_a_model_without_condition(
    demo_manifest: Path, codec: Path, tmp_path: Path
) -> None:
    from histoprep.cli import run
    from histoprep.schemas.manifest import open_manifest

    manifest = open_manifest(demo_manifest)
    (tmp_path / "images").mkdir()
    for path in manifest.read(["image_path"])["image_path"].to_pylist()[:8]:
        shutil.copy(Path(manifest.header["root"]) / path, tmp_path / "images" / Path(path).name)
    assert run(["--quiet", "manifest", str(tmp_path / "images")]) == 0
    config = _config(
        tmp_path / "images.histoprep" / "manifest.parquet",
        codec,
        tmp_path / "run",
        "every.images=null",
    )
    messages: list[str] = []
    reporter = Reporter(note=messages.append, warn=messages.append)
    assert fit(config, reporter=reporter).stages[""]["step"] == 6
    assert any("unconditional has everything" in record for record in messages)
    assert bool(_stage(config).dataset().batch(np.arange(8))["drop"].all())


def test_an_encoded_set_is_shared_and_named_by_its_codec(
    finished: tuple[Any, Path], codec: Path, tmp_path: Path
) -> None:
    config = finished[0]
    folder = latents_folder(config)
    assert codec.name in folder.name and folder.parent.parent == Path(config.manifest).parent
    stamp = (folder / "latents.npy").stat().st_mtime_ns
    (tmp_path / "other").mkdir()
    prepare_latents(config.model_copy(update={"seed": 3}), tmp_path / "other", NULL_REPORTER)
    assert (folder / "latents.npy").stat().st_mtime_ns == stamp


def test_tiles_of_another_size_are_refused_in_words_of_the_configuration(
    demo_manifest: Path, codec: Path, tmp_path: Path
) -> None:
    config = _config(demo_manifest, codec, tmp_path / "run", "data.fit=refuse", "data.image_size=8")
    with pytest.raises(
        UsageError, match=r"set data\.image_size to the size of the tiles, or data\.fit to crop"
    ):
        prepare_latents(config, tmp_path / "run", NULL_REPORTER)


def test_a_latent_set_can_be_named(finished: tuple[Any, Path], tmp_path: Path) -> None:
    config = finished[0]
    where = {
        "manifest": config.manifest,
        "latents": str(latents_folder(config)),
        "out": str(tmp_path / "run"),
    }
    named = load_config(preset="ldm-tiny", sets=[*TINY, *EVERY], **where)
    run = fit(named).run
    # The codec is found where the set says it is; the same seed and data give the same weights.
    assert load_weights(run)[0].keys() == load_weights(finished[1])[0].keys()
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            load_weights(run)[0].values(), load_weights(finished[1])[0].values(), strict=True
        )
    )


def test_a_latent_set_of_another_size_is_refused_before_and_in_training(
    finished: tuple[Any, Path], tmp_path: Path
) -> None:
    config = finished[0]
    where = {
        "manifest": config.manifest,
        "latents": str(latents_folder(config)),
        "out": str(tmp_path / "run"),
    }
    larger = load_config(preset="ldm-tiny", sets=[*TINY, *EVERY, "data.image_size=64"], **where)
    with pytest.raises(
        ConfigError, match=r"32 px(.|\n)*64 px(.|\n)*--set data\.image_size=32"
    ) as planned:
        describe(larger)
    with pytest.raises(ConfigError) as trained:
        fit(larger)
    assert str(trained.value) == str(planned.value)
    advised = load_config(preset="ldm-tiny", sets=[*TINY, *EVERY, "data.image_size=32"], **where)
    assert fit(advised).stages[""]["step"] == 6


@pytest.mark.parametrize(
    ("sets", "unmet", "needed"),
    [
        (("data.flips=true",), "flips", 4),
        (("data.turns=true", "encoding.views=4"), "turns", 8),
        (("data.flips=true", "data.turns=true"), "flips and turns", 8),
    ],
)
@pytest.mark.slow
def test_augmentation_that_the_latents_cannot_give_is_refused(
    sets: tuple[str, ...], unmet: str, needed: int, finished: tuple[Any, Path], tmp_path: Path
) -> None:
    config, _ = finished
    made = _config(Path(config.manifest), Path(config.codec), tmp_path / "run", *sets)
    for check in (describe, fit):
        with pytest.raises(ConfigError, match=f"no views for the {unmet} that") as caught:
            check(made)
        assert caught.value.expected == f"{needed} views"
        assert f"--set encoding.views={needed}" in str(caught.value.hint)
    named = made.model_copy(update={"latents": str(latents_folder(config))})
    with pytest.raises(ConfigError) as caught:
        describe(named)
    if needed == 8 and len(sets) == 1:
        assert caught.value.seen == "1 view"
    assert f"trainer encode --views {needed}" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ((), "none (1 view of a tile)"),
        (("data.flips=true", "encoding.views=2"), "flips (2 views of a tile)"),
        (("data.flips=true", "encoding.views=null"), "flips (4 views of a tile)"),
        (("data.turns=true", "encoding.views=null"), "turns (4 views of a tile)"),
        (
            ("data.flips=true", "data.turns=true", "encoding.views=null"),
            "flips and turns (8 views of a tile)",
        ),
    ],
)
def test_the_plan_says_which_augmentation_is_in_force(
    sets: tuple[str, ...], words: str, finished: tuple[Any, Path], tmp_path: Path
) -> None:
    config, _ = finished
    made = _config(Path(config.manifest), Path(config.codec), tmp_path / "run", *sets)
    assert describe(made)["augmentation"] == words


def test_a_run_that_began_with_other_rules_goes_on(finished: tuple[Any, Path]) -> None:
    config, run = finished
    changed = config.model_copy(
        update={"data": config.data.model_copy(update={"flips": True}), "out": str(run)}
    )
    with pytest.raises(ConfigError):
        describe(changed)
    prepare_latents(changed, run, NULL_REPORTER)


def test_a_plan_refuses_tiles_of_another_size(finished: tuple[Any, Path], tmp_path: Path) -> None:
    config, _ = finished
    sets = ("data.fit=refuse", "data.image_size=48")
    made = _config(Path(config.manifest), Path(config.codec), tmp_path / "run", *sets)
    with pytest.raises(UsageError, match="not of the training size") as caught:
        describe(made)
    assert caught.value.expected == "48 x 48 px"
    codec = load_config(
        preset="codec-tiny",
        manifest=config.manifest,
        sets=["data.fit=refuse", "data.image_size=48"],
        out=str(tmp_path / "codec"),
    )
    with pytest.raises(UsageError, match="not of the training size"):
        describe_codec(codec)


def test_neither_latents_nor_a_codec_is_an_error(demo_manifest: Path) -> None:
    config = load_config(preset="ldm-tiny", manifest=str(demo_manifest))
    with pytest.raises(ConfigError, match="neither latents nor a codec"):
        stages(config)


@pytest.mark.parametrize("entry", ["diffusion.min_snr_gamma=5", "diffusion.prediction_type=flow"])
def test_objectives_that_go_together(
    demo_manifest: Path, codec: Path, tmp_path: Path, entry: str
) -> None:
    assert objective_of(_config(demo_manifest, codec, tmp_path, entry).diffusion)


def test_an_objective_that_does_not_is_refused_before_anything_is_read(
    demo_manifest: Path, codec: Path, tmp_path: Path
) -> None:
    config = _config(
        demo_manifest,
        codec,
        tmp_path,
        "diffusion.min_snr_gamma=5",
        "diffusion.prediction_type=flow",
    )
    with pytest.raises(ConfigError, match="min_snr_gamma"):
        stages(config)


@pytest.fixture(scope="module")
def manifest_of_512_px(demo_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the manifest of the demo with tiles as large as those of the reference."""
    manifest = open_manifest(demo_manifest)
    rows = manifest.read()
    for name in ("width_px", "height_px"):
        at = rows.schema.get_field_index(name)
        column = pa.array([512] * len(rows), rows.schema.field(at).type)
        rows = rows.set_column(at, rows.schema.field(at), column)
    names = ("root", "recipe", "certificate", "tiles_digest", "excluded")
    path = tmp_path_factory.mktemp("512") / "manifest.parquet"
    header = {name: manifest.header[name] for name in names}
    write_manifest(path, [rows], manifest.label_map, header)
    return path


@pytest.mark.slow
def test_the_plan_of_the_reference_is_the_published_count(
    manifest_of_512_px: Path, codec: Path, tmp_path: Path
) -> None:
    config = load_config(
        preset="reference-512",
        manifest=str(manifest_of_512_px),
        codec=str(codec),
        out=str(tmp_path),
    )
    described = describe(config)
    assert described["parameters"] == {"denoiser": 172_101_124}
    tiles = open_tiles(config.manifest)
    assert sum(item["probability"] for item in described["streams"]) == pytest.approx(1)
    by_name = {item["name"]: item["tiles"] for item in described["streams"]}
    holders = [
        sum(
            1
            for row, split in zip(tiles.table["classes"].to_pylist(), tiles.split, strict=True)
            if split == "train" and 3 in row
        )
    ]
    assert by_name["Carcinoma"] == holders[0]
    memory = described["memory_bytes"]
    assert memory["weights"] == 4 * 172_101_124
    # Published, measured in float32: 956 MB an image, 547 of it the softmax matrix that ours never
    # keeps; bf16 halves the rest.
    twice = describe(config.model_copy(update={"batch_size": 8}))["memory_bytes"]
    per_image_mb = (twice["activations (8 images)"] - memory["activations (4 images)"]) / 4 / 1e6
    assert per_image_mb == pytest.approx((956 - 547) / 2, rel=0.15)


@pytest.mark.slow
def test_a_dry_run_writes_nothing_and_prints_the_plan(
    manifest_of_512_px: Path, codec: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from trainer.cli import run

    out = tmp_path / "run"
    arguments = [
        "fit",
        "--manifest",
        str(manifest_of_512_px),
        "--codec",
        str(codec),
        "--out",
        str(out),
        "--dry-run",
    ]
    assert run(arguments) == 0
    printed = capfd.readouterr().out
    assert (
        not out.exists()
        and "172,101,124" in printed
        and "mask_query: binary" in printed
        and "Carcinoma" in printed
        and "memory" in printed
        and "augmentation: flips and turns (8 views of a tile)" in printed
    )


@pytest.mark.slow
def test_the_command_trains_and_goes_on(
    demo_manifest: Path, codec: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from trainer.cli import run

    out = tmp_path / "run"
    sets = [part for item in (*TINY, *EVERY) for part in ("--set", item)]
    arguments = [
        "--quiet",
        "fit",
        "--force",
        "--preset",
        "ldm-tiny",
        *sets,
        "--manifest",
        str(demo_manifest),
        "--codec",
        str(codec),
        "--out",
        str(out),
    ]
    assert run(arguments) == 0
    assert f"{out}" in capfd.readouterr().out and (out / "finished.json").exists()
    assert run(arguments) == 0
    assert run([*arguments, "--set", "optimiser.lr=1"]) == 2
    assert "optimiser.lr" in capfd.readouterr().err
    assert run([*arguments, "--set", "optimizer.lr=1"]) == 2
    assert "perhaps optimiser" in capfd.readouterr().err
