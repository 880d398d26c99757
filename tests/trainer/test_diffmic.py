"""The diffusion classifier from class folders to test results, on tiles that small networks learn
in seconds.
"""

from __future__ import annotations

import csv
import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from coloured_blobs import NAMES, blob, make_blobs
from PIL import Image

from histoprep import checksums
from histoprep.durable import write_bytes
from histoprep.imageio import encode_rgb_png
from histoprep.verify import walk
from trainer.classification.evaluate import TestOptions as Options
from trainer.classification.evaluate import evaluate_run
from trainer.cli import run as run_command
from trainer.config_layers import build_config, load_config, presets
from trainer.data.loader import loader
from trainer.engine.checkpoints import load_run_config, load_weights
from trainer.engine.fit import fit
from trainer.engine.schedules import lr_factor
from trainer.errors import CheckpointError, ConfigError, ExitCode, IntegrityError
from trainer.recipes.diffmic_config import Config
from trainer.recipes.diffmic_data import SquareTiles, ordered_tiles, square_image, training_dataset
from trainer.recipes.diffmic_denoising import DenoisingStage
from trainer.recipes.diffmic_guidance import GuidanceStage, class_weights
from trainer.recipes.diffmic_inference import build_classifier, build_denoiser
from trainer.recipes.diffmic_labels import labelled_tiles
from trainer.stage import recipe_of
from trainer.verify import verify

NUM_TEST = 31
HEADS = ("diffusion", "guidance_fused", "guidance_global", "guidance_local")


def make_config(manifest: Path, out: Path, *sets: str) -> Config:
    small = [
        "accelerator=cpu",
        "guidance.duration={epochs: 6}",
        "duration={epochs: 14}",
        "every.validate=20",
        "every.checkpoint=20",
        *sets,
    ]
    config = load_config(preset="diffmic-tiny", manifest=str(manifest), out=str(out), sets=small)
    assert isinstance(config, Config)
    return config


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_blobs(tmp_path_factory.mktemp("blobs") / "tiles", 151, NUM_TEST)


@pytest.fixture(scope="module")
def trained(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that was trained while the test images were not there at all."""
    folder = Path(blobs).parent.parent / "tiles" / "test"
    hidden = folder.with_name("hidden")
    folder.rename(hidden)
    try:
        return fit(make_config(blobs, tmp_path_factory.mktemp("runs") / "run")).run
    finally:
        hidden.rename(folder)


@pytest.fixture(scope="module")
def tested(trained: Path) -> Path:
    assert run_command(["--quiet", "test", str(trained), "--sheets", "3"]) == 0
    return trained / "test"


def history(run: Path, stage: str) -> list[dict[str, str]]:
    with (run / stage / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_both_stages_learn_without_ever_reading_a_test_tile(trained):
    losses = [float(row["loss"]) for row in history(trained, "diffusion") if row["loss"]]
    # The published toy falls to a tenth in twice the steps.
    assert losses[-1] < 0.45 * losses[0]
    ended = {
        stage: json.loads((trained / stage / "finished.json").read_text())
        for stage in ("guidance", "diffusion")
    }
    assert ended["guidance"]["best"]["value"] > 0.9
    assert ended["diffusion"]["best"]["value"] > 0.85
    assert ended["diffusion"]["best"]["metric"] == "f1"


@pytest.mark.slow
def test_the_test_split_is_measured_beside_the_guidance_alone(tested):
    found = json.loads((tested / "metrics.json").read_text())
    assert tuple(sorted(found["heads"])) == HEADS
    assert found["tiles"] == NUM_TEST
    for name, head in found["heads"].items():
        measure = head["measures"]["accuracy"]
        # Few epochs for a test: the regions are still learning.
        assert measure["value"] > (0.7 if name == "guidance_local" else 0.85)
        assert measure["low"] <= measure["value"] <= measure["high"]
        assert sum(map(sum, head["confusion"])) == NUM_TEST
        assert set(head["numbers"]) == {
            "auc_one_vs_rest",
            "auc_one_vs_one",
            "calibration_error",
            "brier",
        }
        wanted = {
            "balanced_accuracy",
            "macro_f1",
            "weighted_f1",
            "macro_precision",
            "macro_recall",
            "kappa",
            "quadratic_kappa",
        }
        assert wanted < set(head["measures"])
    assert found["verdict"].startswith("The diffusion stage")


def test_all_artefacts_exist_and_parse(trained, tested):
    with (tested / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = pq.read_table(tested / "predictions.parquet")
    assert len(rows) == table.num_rows == NUM_TEST
    assert rows[0].keys() == set(table.column_names)
    assert sum(float(rows[0][f"probability: {name}"]) for name in NAMES) == pytest.approx(
        1, abs=1e-4
    )
    assert all(float(row["uncertainty"]) >= 0 for row in rows)
    found = json.loads((tested / "metrics.json").read_text())
    right = np.mean([row["truth"] == row["predicted"] for row in rows])
    assert right == pytest.approx(found["heads"]["diffusion"]["measures"]["accuracy"]["value"])
    for head in HEADS:
        with (tested / f"confusion-{head}.csv").open(newline="") as stream:
            confusion = list(csv.reader(stream))
        assert confusion[0] == ["truth", *NAMES]
        assert [[int(cell) for cell in row[1:]] for row in confusion[1:]] == found["heads"][head][
            "confusion"
        ]
        with (tested / f"classes-{head}.csv").open(newline="") as stream:
            assert sum(int(row["support"]) for row in csv.DictReader(stream)) == NUM_TEST
    sheets = list((tested / "sheets").glob("*.png"))
    assert len(sheets) == 3
    for path in (
        *sheets,
        tested / "roc.png",
        tested / "training.png",
        *(tested / f"confusion-{head}.png" for head in HEADS[:2]),
    ):
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5
            assert "Software" not in image.info
    for stage in ("guidance", "diffusion"):
        facts = yaml.safe_load(
            (trained / stage / "logs" / "version_0" / "hparams.yaml").read_text()
        )
        assert set(facts["weights_from"].values()) == {"random"}
        assert facts["recipe"] == "diffmic"
        assert list((trained / stage / "logs" / "version_0").glob("events.out.tfevents.*"))
        assert {
            "val_accuracy",
            "val_f1",
            "val_precision",
            "val_recall",
            "val_auc",
            "val_kappa",
            "loss",
        } <= set(history(trained, stage)[-1])
    assert json.loads((trained / "split.json").read_text())["classes"] == list(NAMES)


@pytest.mark.slow
def test_every_test_tile_is_read_once_and_a_second_test_must_be_requested(
    trained, tested, tmp_path
):
    opened: list[str] = []
    watching = True

    def spy(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open" and "/tiles/test/" in str(arguments[0]):
            opened.append(str(arguments[0]))

    sys.addaudithook(spy)
    evaluate_run(trained, tmp_path, Options(num_sheets=0))
    watching = False
    assert len(opened) == len(set(opened)) == NUM_TEST
    with pytest.raises(ConfigError, match="tested before"):
        evaluate_run(trained)
    assert run_command(["--quiet", "test", str(trained)]) == 2
    before = json.loads((tmp_path / "metrics.json").read_text())
    evaluate_run(trained, tmp_path, Options(num_sheets=0, again=True))
    after = json.loads((tmp_path / "metrics.json").read_text())
    assert (before.pop("times_tested"), after.pop("times_tested")) == (1, 2)
    assert before == after
    del tested


def test_the_best_checkpoint_gives_the_validation_numbers_again(trained):
    config = load_weights(trained / "diffusion")[1]
    data = labelled_tiles(config)
    stage = DenoisingStage(config, data, trained)
    stage.module.load_state_dict(load_weights(trained / "diffusion")[0])
    with torch.no_grad():
        again = stage.validate(stage.module.eval())
    step = json.loads((trained / "diffusion" / "finished.json").read_text())["best"]["step"]
    row = next(row for row in history(trained, "diffusion") if int(row["step"]) == step)
    assert {name: float(row[f"val_{name}"]) for name in again} == pytest.approx(again, nan_ok=True)


def test_a_run_that_lost_its_end_goes_on_to_the_same_weights(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = build_config(
        Config, load_weights(run / "diffusion")[1].model_dump(by_alias=True) | {"out": str(run)}
    )
    (run / "diffusion" / "finished.json").unlink()
    lasts = sorted((run / "diffusion" / "checkpoints").glob("last-*"))
    before = load_weights(lasts[-1])[0]
    shutil.rmtree(lasts[-1])
    fit(config)
    after = load_weights(lasts[-1])[0]
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_guidance_classifier_is_frozen_with_its_statistics(trained):
    config = load_weights(trained / "diffusion")[1]
    stage = DenoisingStage(config, labelled_tiles(config), trained)
    before = {name: value.clone() for name, value in stage.classifier.state_dict().items()}
    stage.module.train()
    optimiser = torch.optim.Adam(stage.parameters_for(stage.module), lr=1e-2)
    for batch in loader(stage.dataset(), range(48), 12):
        stage.loss(stage.module, batch).loss.mean().backward()
        optimiser.step()
    assert not stage.classifier.training
    assert all(
        torch.equal(value, before[name]) for name, value in stage.classifier.state_dict().items()
    )
    assert all(parameter.grad is None for parameter in stage.classifier.parameters())
    own = {id(parameter) for parameter in stage.module.parameters()}
    assert not own & {id(parameter) for parameter in stage.classifier.parameters()}


def test_a_last_batch_of_one_is_trained_and_validated_on(trained):
    config = load_weights(trained / "diffusion")[1].model_copy(update={"batch_size": 29})
    data = labelled_tiles(config)
    assert len(data.rows["val"]) % 29 == 1
    stage = DenoisingStage(config, data, trained)
    assert (
        stage.loss(stage.module.train(), stage.dataset().batch(np.array([5]))).loss.isfinite().all()
    )
    with torch.no_grad():
        assert 0 <= stage.validate(stage.module.eval())["accuracy"] <= 1
    first = GuidanceStage(config, data)
    assert (
        first.loss(first.module.train(), first.dataset().batch(np.array([5]))).loss.isfinite().all()
    )


def test_the_learning_rate_starts_whole_and_ends_at_a_hundredth(trained):
    for name in ("diffmic-faithful-224", "diffmic-tiny"):
        config = load_config(preset=name, manifest="m", out="o")
        assert lr_factor(config.schedule, 0, 500) == 1
        assert lr_factor(config.schedule, 500, 500) == pytest.approx(0.01)
    rates = [float(row["lr"]) for row in history(trained, "guidance") if row["lr"]]
    assert rates[0] == pytest.approx(3e-3, rel=0.5)
    assert rates[-1] == pytest.approx(3e-5, rel=0.3)


def test_samples_are_functions_of_the_position(blobs, tmp_path):
    config = make_config(blobs, tmp_path, "data.flips=true", "data.turns=true")
    dataset = training_dataset(config, labelled_tiles(config), for_diffusion=True)
    whole, part = dataset.batch(np.arange(8)), dataset.batch(np.array([5, 2]))
    for name in ("image", "label", "noise", "timesteps", "row"):
        assert torch.equal(whole[name][[5, 2]], part[name]), name
    assert whole["timesteps"].shape == (8, 4, 4)
    assert len(whole["timesteps"][0].unique()) > 8
    assert whole["timesteps"].min() >= 0
    assert whole["timesteps"].max() < 100
    assert whole["noise"].shape == (8, 3, 4, 4)


def test_timesteps_and_noise_of_points_are_independent_and_uniform(blobs, tmp_path):
    config = make_config(blobs, tmp_path)
    batch = training_dataset(config, labelled_tiles(config), for_diffusion=True).batch(
        np.arange(150)
    )
    steps = batch["timesteps"].flatten(1).float()
    assert steps.mean().item() == pytest.approx(49.5, abs=2)
    correlation = torch.corrcoef(steps.T) - torch.eye(16)
    assert correlation.abs().max() < 0.35
    assert batch["noise"].std().item() == pytest.approx(1, abs=0.03)


def test_validation_tiles_come_once_in_order_and_unchanged(blobs, tmp_path):
    config = make_config(blobs, tmp_path, "data.flips=true", "data.turns=true")
    data = labelled_tiles(config)
    rows = torch.cat(
        [
            batch["row"]
            for batch in loader(ordered_tiles(config, data, "val"), range(len(data.rows["val"])), 7)
        ]
    )
    assert rows.tolist() == data.rows["val"].tolist()
    image = SquareTiles(data.tiles, 64).read(int(rows[0])).image
    assert (image == data.tiles.read(int(rows[0])).image).all()


def test_squares_are_read_once_while_there_is_room(blobs, tmp_path):
    tiles = labelled_tiles(make_config(blobs, tmp_path)).tiles
    bare = [SquareTiles(tiles, 48, most_kept_bytes=0).read(row).image for row in range(5)]
    squares = SquareTiles(tiles, 48, most_kept_bytes=3 * 48 * 48 * 3)
    for _ in range(2):
        for row, expected in enumerate(bare):
            assert np.array_equal(squares.read(row).image, expected)
    kept = [squares.read(row).image is squares.read(row).image for row in range(5)]
    assert kept == [True] * 3 + [False] * 2
    # A worker gets none of them.
    assert len(pickle.dumps(squares)) < 48 * 48


def test_images_of_any_size_become_squares():
    image = np.zeros((40, 100, 3), dtype=np.uint8)
    image[:, 30:70] = 200
    assert (square_image(image, 20) == 200).all()
    assert square_image(image, 80).shape == (80, 80, 3)
    assert square_image(image, 40).flags["C_CONTIGUOUS"]


def test_images_are_predicted_and_broken_ones_named(trained, tmp_path, capsys):
    rng = np.random.default_rng(3)
    folder = tmp_path / "new"
    for index in range(6):
        write_bytes(
            folder / f"{index}.png",
            encode_rgb_png(np.pad(blob(index % 3, rng), ((0, 0), (9, 9), (0, 0)))),
        )
    out = tmp_path / "out"
    assert (
        run_command(["predict", str(trained), str(folder), "--out", str(out), "--samples", "2"])
        == 0
    )
    table = pq.read_table(out / "predictions.parquet").to_pylist()
    assert sum(row["predicted"] == NAMES[index % 3] for index, row in enumerate(table)) >= 5
    for row in table:
        assert sum(row[f"probability: {name}"] for name in NAMES) == pytest.approx(1)
        assert row["uncertainty"] >= 0
    with (out / "predictions.csv").open(newline="") as stream:
        assert [row["predicted"] for row in csv.DictReader(stream)] == [
            row["predicted"] for row in table
        ]
    (folder / "torn.png").write_bytes((folder / "0.png").read_bytes()[:200])
    assert (
        run_command(
            [
                "predict",
                str(trained),
                str(folder / "1.png"),
                str(folder / "torn.png"),
                "--out",
                str(out),
            ]
        )
        == 3
    )
    assert "torn.png" in capsys.readouterr().err
    assert pq.read_table(out / "predictions.parquet").num_rows == 1
    assert run_command(["predict", str(trained), str(tmp_path / "nothing")]) == 2


def test_what_is_no_classifier_is_refused(trained, blobs, tmp_path):
    with pytest.raises(CheckpointError):
        evaluate_run(tmp_path)
    other = tmp_path / "run"
    shutil.copytree(trained, other)
    split = json.loads((other / "split.json").read_text())
    (other / "split.json").write_text(json.dumps(split | {"manifest_digest": "0"}))
    # Not an edit of this run, but the file of another.
    checksums.list_files(other, ["split.json"])
    with pytest.raises(IntegrityError, match="not the one of this run"):
        evaluate_run(other, tmp_path / "out")


def test_a_dry_run_tells_sizes_and_tiles(blobs, tmp_path):
    config = make_config(blobs, tmp_path)
    facts = recipe_of("diffmic").describe(config)
    classifier, denoiser = build_classifier(config, 3), build_denoiser(config, 3)
    assert facts["parameters"] == {
        "guidance classifier": sum(parameter.numel() for parameter in classifier.parameters()),
        "label denoiser": sum(parameter.numel() for parameter in denoiser.parameters()),
    }
    assert sum(record["tiles"] for record in facts["streams"]) == 151 + NUM_TEST
    assert (
        run_command(
            [
                "--quiet",
                "fit",
                "--preset",
                "diffmic-tiny",
                "--manifest",
                str(blobs),
                "--out",
                str(tmp_path / "dry"),
                "--dry-run",
            ]
        )
        == 0
    )
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize("name", [preset for preset in presets() if preset.startswith("diffmic")])
def test_presets_load_and_build(name):
    config = load_config(preset=name, manifest="m", out="o")
    assert isinstance(config, Config)
    with torch.device("meta"):
        classifier, denoiser = build_classifier(config, 4), build_denoiser(config, 4)
    if "faithful" in name:
        assert sum(parameter.numel() for parameter in classifier.parameters()) == 22_488_320
        assert sum(parameter.numel() for parameter in denoiser.parameters()) == 132_502_852 - 384


def test_three_presets_are_packed():
    assert {"diffmic-faithful-224", "diffmic-224", "diffmic-tiny"} <= set(presets())


@pytest.mark.parametrize(
    "wrong",
    [
        "diffusion.num_inference_steps=2000",
        "guidance.crop_px=65",
        "guidance.loss_terms=[]",
        "denoiser.kernel=2",
        "diffusion.stat=gaussian",
        "guidance.freeze=true",
    ],
)
def test_configurations_that_cannot_work_are_refused(wrong, tmp_path):
    with pytest.raises(ConfigError):
        load_config(preset="diffmic-tiny", manifest="m", out=str(tmp_path), sets=[wrong])


def test_rare_classes_weigh_more():
    weights = class_weights(np.array([0, 0, 0, 1]), 2)
    assert weights.tolist() == pytest.approx([4 / 6, 2.0])


def test_every_file_of_a_tested_run_is_protected_and_used_only_as_it_was_written(
    tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tested.parent, run)
    found = verify(run)
    assert (found.damages, found.notes) == ([], [])
    assert found.num_files == len([path for path in walk(run) if path.name != "SHA256SUMS"])
    image = next(
        (Path(load_run_config(run).manifest).parent.parent / "tiles" / "test").rglob("*.png")
    )
    best = max((run / "diffusion/checkpoints").glob("best-*"))
    commands = [["test", str(run), "--again"], ["predict", str(run), str(image)]]
    for victim in (
        run / "config.yml",
        run / "split.json",
        best / "weights.safetensors",
        run / "test/metrics.json",
    ):
        whole = victim.read_bytes()
        victim.write_bytes(
            whole[: len(whole) // 2]
            + bytes([whole[len(whole) // 2] ^ 1])
            + whole[len(whole) // 2 + 1 :]
        )
        assert [damage.path for damage in verify(run).damages] == [str(victim)]
        for command in commands[: 1 if victim.name == "metrics.json" else 2]:
            assert run_command([*command, "--device", "cpu"]) == ExitCode.INTEGRITY
            assert str(victim) in capsys.readouterr().err
        assert run_command([*commands[1], "--device", "cpu", "--verify"]) == ExitCode.INTEGRITY
        victim.write_bytes(whole)
    assert run_command(["--quiet", *commands[1], "--device", "cpu", "--verify"]) == ExitCode.OK
    assert verify(run).damages == []


def test_an_image_in_memory_has_the_class_of_its_file(trained, blobs, tmp_path):
    import trainer
    from histoprep import imageio
    from histoprep.errors import UsageError

    path = next((Path(blobs).parent.parent / "tiles" / "test").rglob("*.png"))
    image = imageio.decode_rgb(path.read_bytes())
    classifier = trainer.load_run(trained, device="cpu")
    found = classifier.classify(image)
    assert run_command(["--quiet", "predict", str(trained), str(path), "--out", str(tmp_path)]) == 0
    with (tmp_path / "predictions.csv").open(newline="") as stream:
        [row] = csv.DictReader(stream)
    assert found.predicted == [row["predicted"]]
    name = f"probability: {row['predicted']}"
    assert found.to_pandas()[name][0] == pytest.approx(float(row[name]), rel=1e-4)
    assert len(classifier.classify([image, image]).predicted) == 2
    assert repr(found) == f"<Classification: {row['predicted']}>"
    assert repr(classifier).startswith("<ImageClassifier: ")
    for wrong in (image[..., 0], image.astype(float), []):
        with pytest.raises(UsageError):
            classifier.classify(wrong)
