"""Configurations: layers, refusals with a suggestion, and a dump that gives the very same
configuration back.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trainer.config import Duration, RunConfig
from trainer.config_layers import build_config, dump_config, load_config, presets
from trainer.engine.checkpoints import load_run_config
from trainer.errors import CheckpointError, ConfigError, ExitCode
from trainer.stage import DEFAULT_PRESETS, RECIPES, recipe_of

MINE = ("reference-512", "reference-512-class", "ldm-tiny")
FLAGS = {"manifest": "m.parquet", "codec": "codec"}


@pytest.mark.parametrize("name", MINE)
def test_a_dumped_configuration_is_the_same_configuration(name: str) -> None:
    config = load_config(preset=name, **FLAGS)
    again = build_config(type(config), yaml.safe_load(dump_config(config)))
    assert again == config
    assert config.preset == name and config.out.endswith(f"runs/{name}")


def test_the_reference_presets_differ_in_one_word() -> None:
    flat = [load_config(preset=name, out="x", **FLAGS).model_dump() for name in MINE[:2]]
    assert {key for key in flat[0] if flat[0][key] != flat[1][key]} == {"preset", "model"}
    assert [item["model"].pop("mask_query") for item in flat] == ["binary", "class"]
    assert flat[0]["model"] == flat[1]["model"]


def test_the_reference_preset_is_the_published_one() -> None:
    config = load_config(preset="reference-512", **FLAGS).model_dump()
    published = {"dim": 256, "dim_mults": (1, 2, 4), "resnet_block_groups": 2, "block_per_layer": 2}
    assert {key: config["model"][key] for key in published} == published
    assert config["ema"] == {"decay": 0.995, "every": 10}
    assert (
        config["optimiser"] | {"lr": 1e-4, "betas": (0.9, 0.99), "clip_norm": 1.0}
        == config["optimiser"]
    )
    assert (
        config["batch_size"],
        config["schedule"]["kind"],
        config["streams"]["cond_drop_prob"],
    ) == (4, "one_cycle", 0.5)
    assert (
        config["diffusion"]["loss"],
        config["diffusion"]["prediction_type"],
        config["diffusion"]["noise_schedule"],
    ) == ("l1", "epsilon", "cosine")


def test_later_layers_win(tmp_path: Path) -> None:
    file = tmp_path / "run.yml"
    file.write_text("seed: 1\noptimiser: {lr: 0.5}\nbatch_size: 8\n")
    config = load_config(
        preset="ldm-tiny",
        file=file,
        sets=["optimiser.lr=1e-3", "every.validate=null"],
        batch_size=2,
        **FLAGS,
    )
    assert (config.seed, config.optimiser.lr, config.batch_size, config.every.validate_) == (
        1,
        1e-3,
        2,
        None,
    )
    assert config.optimiser.kind == "adamw", "what a layer does not say stays"


def test_a_preset_can_be_named_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yml"
    file.write_text("preset: ldm-tiny\nseed: 5\n")
    config = load_config(file=file, **FLAGS)
    assert (config.preset, config.seed, config.recipe) == ("ldm-tiny", 5, "ldm")


def test_keys_of_older_configurations_mean_what_they_are_called_now(tmp_path: Path) -> None:
    file = tmp_path / "run.yml"
    file.write_text("every: {pictures: 7}\nsampling: {num_pictures: 3}\n")
    config = load_config(preset="ldm-tiny", file=file, **FLAGS)
    assert config.every.images == 7 and config.model_dump()["sampling"]["num_images"] == 3
    config = load_config(preset="ldm-tiny", file=file, sets=["every.pictures=null"], **FLAGS)
    assert config.every.images is None
    old = yaml.safe_load(dump_config(load_config(preset="codec-tiny", manifest="m")))
    old["validation"]["num_pictures"] = old["validation"].pop("num_images") + 1
    assert (
        build_config(recipe_of("codec").Config, old).model_dump()["validation"]["num_images"] == 5
    )


def test_another_kind_of_duration_replaces_that_of_the_preset() -> None:
    config = load_config(preset="ldm-tiny", sets=["duration.epochs=2"], **FLAGS)
    assert config.duration == Duration(epochs=2)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("optimizer.lr=1", "perhaps optimiser"),
        ("optimiser.learning=1", "known here"),
        ("optimiser.Lr=1", "perhaps lr"),
        ("every.validation=5", "perhaps validate"),
        ("ema.decai=0.5", "perhaps decay"),
        ("batchsize=4", "perhaps batch_size"),
        ("optimiser.lr=fast", "seen 'fast'"),
        ("optimiser.lr=.inf", "optimiser.lr"),
        ("batch_size=0", "batch_size"),
        ("keep_checkpoints=1", "keep_checkpoints"),
        ("precision=fp8", "precision"),
        ("ema.decay=1.0", "ema.decay"),
    ],
)
def test_what_is_not_known_or_wrong_is_refused(entry: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(preset="ldm-tiny", sets=[entry], **FLAGS)
    assert expected in str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(
            preset="ldm-tiny", sets=["sede=1", "optimiser.lr=-1", "data.flip=true"], **FLAGS
        )
    assert all(item in str(caught.value) for item in ("sede", "optimiser.lr", "data.flip"))


@pytest.mark.parametrize(
    "text",
    ["seed: 1\nseed: 2\n", "a: &x 1\nseed: *x\n", "- 1\n", "seed: [1\n",
    "seed: 1\n<<: {batch_size: 2}\n",
        "seed: 2026-13-45\n", "seed: !!timestamp x\n", "seed: " + "[" * 3000],
)  # fmt: skip
def test_yaml_that_surprises_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.yml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_config(preset="ldm-tiny", file=file, **FLAGS)


@pytest.mark.parametrize(
    "arguments",
    [
        {"sets": ["novalue"], "preset": "ldm-tiny"},
        {"sets": [".a=1"], "preset": "ldm-tiny"},
        {"preset": "ldm-tini"},
        {},
    ],
)
def test_usage_errors(arguments: dict) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(**arguments, **FLAGS)
    if arguments.get("preset") == "ldm-tini":
        assert "--preset ldm-tiny" in str(caught.value)


@pytest.mark.parametrize(
    ("duration", "positions"),
    [
        ({"steps": 3}, 12),
        ({"images": 12}, 12),
        ({"images": 13}, 16),
        ({"epochs": 1}, 100),
        ({"epochs": 0.5}, 52),
        ({"epochs": 1e-9}, 4),
    ],
)
def test_durations_round_up_to_whole_steps(duration: dict, positions: int) -> None:
    assert Duration(**duration).num_positions(4, 100) == positions


@pytest.mark.parametrize("given", [{}, {"steps": 1, "images": 2}])
def test_a_duration_is_exactly_one(given: dict) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Duration(**given)


@pytest.mark.parametrize(
    ("period", "steps"),
    [(7, 7), ("1 epoch", 25), ("2.5 epochs", 62), ("0.001 epochs", 1), (None, None)],
)
def test_periods_are_steps_or_epochs(period: object, steps: int | None) -> None:
    every = load_config(preset="ldm-tiny", sets=[f"every.images={period or 'null'}"], **FLAGS).every
    assert every.in_steps(batch_size=4, num_tiles=100).images == steps


@pytest.mark.parametrize("period", ["0", "0 epochs", "5 steps", "epochs", "-1 epochs", "1.5"])
def test_other_periods_are_refused(period: str) -> None:
    with pytest.raises(ConfigError, match=r"every\.validate: .*5 epochs"):
        load_config(preset="ldm-tiny", sets=[f"every.validate={period}"], **FLAGS)


def test_paths_become_absolute_and_addresses_stay() -> None:
    config = load_config(
        preset="ldm-tiny", manifest="s3://bucket/index.parquet", codec="hub:owner/vae", latents="l"
    )
    assert config.manifest == "s3://bucket/index.parquet"
    assert config.model_dump()["codec"] == "hub:owner/vae"
    assert Path(config.model_dump()["latents"]).is_absolute() and Path(config.out).is_absolute()


def test_configurations_are_frozen() -> None:
    config = load_config(preset="ldm-tiny", **FLAGS)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_keeps_the_protocol(name: str) -> None:
    recipe = recipe_of(name)
    assert (
        issubclass(recipe.Config, RunConfig)
        and callable(recipe.stages)
        and callable(recipe.describe)
    )


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_a_configuration(name: str) -> None:
    text = {"manifest": "m", "out": "o"}
    config = load_config(preset=name, **text)
    assert config.recipe in RECIPES


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_recipe_stands_for_its_preset_of_full_size(recipe: str) -> None:
    config = load_config(
        recipe=recipe, manifest="m.parquet", **({"codec": "c"} if recipe == "ldm" else {})
    )
    assert (config.recipe, config.preset) == (recipe, DEFAULT_PRESETS[recipe])


def test_a_recipe_that_is_not_the_presets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another recipe"):
        load_config(recipe="codec", preset="ldm-tiny", manifest="m.parquet", codec="c")
    with pytest.raises(ConfigError, match="no such recipe"):
        load_config(recipe="gan", manifest="m.parquet")


@pytest.mark.parametrize(
    ("entry", "meant"),
    [
        ("steps=400", "duration.steps"),
        ("max_steps=400", "duration.steps"),
        ("stepz=400", "duration.steps"),
        ("lr=1e-4", "optimiser.lr"),
        ("batchsize=4", "batch_size"),
        ("optimiser.lrr=1", "lr"),
    ],
)
def test_an_unknown_key_leads_to_the_one_that_is_meant(entry: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(preset="ldm-tiny", manifest="m.parquet", sets=[entry])
    key = entry.partition("=")[0]
    assert f"{key}: unknown key; perhaps {meant}" in str(caught.value).splitlines()[1]


def test_a_run_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such run") as caught:
        load_run_config(tmp_path / "nope")
    assert caught.value.exit_code == ExitCode.USAGE
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError):
        load_run_config(tmp_path / "empty")
