"""The segmenter: networks, measures against others, commands on a small data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score

from histoprep import imageio
from histoprep.imageio import encode_rgb_png
from histoprep.labels import IGNORED_ID
from histoprep.shards import open_tiles
from trainer.cli import run as trainer
from trainer.metrics.segmentation import (
    class_iou,
    counted_classes,
    dice,
    mean_iou,
    pixel_confusion,
)
from trainer.models.segmenter import LITE_BLOCKS, LiteUNet, PlainUNet
from trainer.models.trunks import load_trunk_weights, normalise_images
from trainer.recipes.segmenter import class_weights, pixel_loss
from trainer.segmentation.evaluate import group_numbers


def labels(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(rng.integers(0, 4, (24, 31)).astype(np.uint8) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(3))
def test_counts_and_overlaps_are_those_of_scikit_learn(seed: int) -> None:
    truth, predicted = labels(seed)
    counts = pixel_confusion(truth, predicted, 4)
    assert np.array_equal(counts, confusion_matrix(truth.ravel(), predicted.ravel()))
    pair = truth.ravel(), predicted.ravel()
    assert np.allclose(class_iou(counts), jaccard_score(*pair, average=None))
    assert np.allclose(dice(counts), f1_score(*pair, average=None))


def test_ignored_pixels_count_nowhere() -> None:
    truth, predicted = labels(0)
    ignored = truth.copy()
    ignored[:5] = IGNORED_ID
    assert np.array_equal(
        pixel_confusion(ignored, predicted, 4), pixel_confusion(truth[5:], predicted[5:], 4)
    )


def test_the_mean_is_over_labelled_classes_that_occur() -> None:
    counts = np.array([[50, 0, 5, 0], [0, 8, 2, 0], [0, 0, 0, 0], [0, 0, 0, 4]])
    assert counted_classes(counts).tolist() == [False, True, False, True]
    assert mean_iou(counts, counted_classes(counts)) == pytest.approx((8 / 10 + 1) / 2)
    assert counted_classes(np.diag([5, 0])).tolist() == [True, False]


@pytest.mark.parametrize("size", [(64, 64), (70, 45), (33, 130)])
def test_scores_have_the_size_of_the_image(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, *size) * 2 - 1
    for network in (PlainUNet(3, 8, 3), PlainUNet(3, 8, 1), LiteUNet(3, 8)):
        assert network.eval()(images).shape == (2, 3, *size)


def test_outputs_of_blocks_are_those_of_the_whole_network() -> None:
    network = LiteUNet(2, 8)
    load_trunk_weights(network.trunk, "packaged")
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    trunk = network.trunk.trunk
    seen: dict[int, torch.Tensor] = {}
    for number in LITE_BLOCKS:
        trunk._blocks[number].register_forward_hook(  # type: ignore[union-attr,operator,index]
            lambda _, __, output, number=number: seen.update({number: output})
        )
    trunk(normalise_images(images))  # type: ignore[operator]
    kept = dict(seen)
    for number, output in zip(LITE_BLOCKS, network.encode(images), strict=True):
        assert torch.equal(kept[number], output)


def test_a_frozen_encoder_keeps_its_weights_in_training() -> None:
    network = LiteUNet(2, 8).train()
    before = {name: value.clone() for name, value in network.trunk.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    network(torch.rand(2, 3, 32, 32)).square().mean().backward()
    optimiser.step()
    assert all(
        torch.equal(before[name], value) for name, value in network.trunk.state_dict().items()
    )


def test_weights_of_classes_balance_pixels() -> None:
    pixels = np.array([900, 0, 100])
    assert np.allclose(class_weights(pixels, 0.0), [1, 0, 1])
    balanced = class_weights(pixels, 1.0)
    assert balanced[0] * 900 == pytest.approx(balanced[2] * 100)
    for balance in (0.0, 0.5, 1.0):
        assert (class_weights(pixels, balance) * pixels).sum() == pytest.approx(1000)


def test_the_loss_of_a_sample_is_that_of_its_labelled_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 4, 4, generator=generator)
    masks = torch.randint(0, 3, (2, 4, 4), generator=generator).to(torch.uint8)
    masks[1, :2] = IGNORED_ID
    loss = pixel_loss(scores, masks, torch.ones(3))
    alone = pixel_loss(scores[1:, :, 2:], masks[1:, 2:], torch.ones(3))
    assert torch.allclose(loss[1:], alone)
    masks[1] = IGNORED_ID
    assert pixel_loss(scores, masks, torch.ones(3))[1] == 0


@pytest.fixture(scope="module")
def run(demo_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("segmenter") / "run"
    command = ["fit", "--preset", "segmenter-tiny", "--manifest", str(demo_manifest)]
    assert trainer([*command, "--out", str(out), "--set", "duration.steps=60"]) == 0
    return out


@pytest.mark.slow
def test_it_learns_and_its_test_counts_every_labelled_test_tile(
    run: Path, demo_manifest: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert trainer(["test", str(run)]) == 0
    assert "mIoU" in capfd.readouterr().out
    metrics = json.loads((run / "test" / "metrics.json").read_text())
    tiles = open_tiles(demo_manifest)
    rows = np.flatnonzero((tiles.split == "test") & (tiles.pool == "conditional"))
    assert metrics["tiles"] == len(rows)
    # A mask that is everywhere its largest class would reach a fifth of this.
    assert metrics["miou"]["value"] > 0.5
    assert metrics["miou"]["low"] <= metrics["miou"]["value"] <= metrics["miou"]["high"]
    counts = np.zeros((tiles.label_map.num_classes,) * 2, dtype=np.int64)
    for row in rows.tolist():
        data = (run / "test" / "masks" / f"{tiles.tile_ids[row]}.png").read_bytes()
        predicted = imageio.decode_mask(data, imageio.read_header(data))
        mask = tiles.read(row).mask
        assert mask is not None
        counts += pixel_confusion(mask, predicted, len(counts))
    assert counts.tolist() == metrics["confusion"]
    assert trainer(["test", str(run)]) == 2
    assert trainer(["test", str(run), "--again"]) == 0
    assert json.loads((run / "test" / "metrics.json").read_text())["times_tested"] == 2
    assert trainer(["verify", str(run / "test")]) == 0


def test_predicted_masks_are_those_of_the_test(
    run: Path, demo_manifest: Path, tmp_path: Path
) -> None:
    tiles = open_tiles(demo_manifest)
    row = int(np.flatnonzero((tiles.split == "test") & (tiles.pool == "conditional"))[0])
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode_rgb_png(tiles.read(row).image))
    (folder / "broken.png").write_bytes(b"no image")
    assert trainer(["predict", str(run), str(folder), "--out", str(tmp_path / "out")]) == 3
    if not (run / "test").is_dir():
        assert trainer(["test", str(run)]) == 0
    made = (tmp_path / "out" / "masks" / "a.png").read_bytes()
    assert made == (run / "test" / "masks" / f"{tiles.tile_ids[row]}.png").read_bytes()
    assert (tmp_path / "out" / "label_map.yml").is_file()
    header, line = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    shares = [float(cell) for cell in line.split(",")[3:]]
    assert sum(shares) == pytest.approx(1, abs=1e-5) and len(header.split(",")) == 3 + len(shares)


def test_two_images_of_one_name_are_refused(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(encode_rgb_png(np.zeros((32, 32, 3), np.uint8)))
    assert trainer(["predict", str(run), str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    # In one tree they keep their folders.
    out = tmp_path.with_name("predicted")
    assert trainer(["predict", str(run), str(tmp_path), "--out", str(out)]) == 0
    assert (out / "masks" / "a" / "x.png").is_file() and (out / "masks" / "b" / "x.png").is_file()


@pytest.mark.parametrize("command", ["test", "predict"])
def test_options_of_denoising_are_refused(run: Path, tmp_path: Path, command: str) -> None:
    images = [str(tmp_path)] if command == "predict" else []
    (tmp_path / "a.png").write_bytes(encode_rgb_png(np.zeros((32, 32, 3), np.uint8)))
    assert trainer([command, str(run), *images, "--steps", "3"]) == 2


def test_a_dry_run_names_what_is_trained(
    demo_manifest: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "--preset", "segmenter-tiny", "--manifest", str(demo_manifest), "--dry-run"]
    assert trainer(command) == 0
    assert "parameters trained" in capfd.readouterr().out


def test_tiles_without_a_group_are_groups_of_their_own(demo_manifest: Path) -> None:
    tiles = open_tiles(demo_manifest)
    rows = np.arange(6)
    tiles.__dict__["group"] = np.array(["a", "a", None, None, "b", "b"], dtype=object)
    assert len(np.unique(group_numbers(tiles, rows))) == 4
