"""Masks from nothing: cells and back without new classes, the network is told shares only, a mask
belongs to its number, real layouts pass and others do not, the commands.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_codecs import save_kl
from torch import Tensor, nn

from histoprep import imageio
from histoprep.errors import UsageError
from histoprep.labels import LabelMap, SourceLabel, TargetClass
from histoprep.labels.model import default_colour
from histoprep.shards import open_tiles
from histoprep.streams import single_stream
from trainer.cli import run as trainer
from trainer.config_layers import load_config
from trainer.data.mask_cells import (
    CellDataset,
    class_shares,
    cut_windows,
    enlarge_cells,
    one_hot,
    reduce_masks,
)
from trainer.diffusion.objectives import Objective
from trainer.diffusion.samplers import Solver
from trainer.errors import ConfigError
from trainer.evaluation.layouts import (
    LIKE_REAL,
    count_contacts,
    describe_layouts,
    disguise_mask,
    score_layouts,
)
from trainer.models.denoisers.mask_unet import Config as UNetConfig
from trainer.models.layout_unet import LayoutUNet
from trainer.recipes.masks import cell_dataset, load_mask_generator, stages
from trainer.sampling.generator import SamplingOptions
from trainer.sampling.layouts import MaskGenerator, list_generated, parse_shares
from trainer.sampling.masks import read_labels

CELL_PX = 4


def random_masks(count: int, side: int, seed: int = 0, classes: int = 4) -> np.ndarray:
    """Masks of smooth regions."""
    import cv2

    rng = np.random.default_rng(seed)
    fields = rng.normal(size=(count, classes, 6, 6)).astype(np.float32)
    return np.stack(
        [
            np.stack([cv2.resize(part, (side, side), None, 0, 0, 2) for part in field]).argmax(0)
            for field in fields
        ]
    ).astype(np.uint8)


def test_a_cell_has_its_most_frequent_class_and_ignored_pixels_are_unlabelled() -> None:
    masks = np.random.default_rng(0).integers(0, 4, (3, 16, 24)).astype(np.uint8)
    masks[1, :8] = 255
    cells = reduce_masks(masks, 4, CELL_PX)
    for number, row, column in np.ndindex(3, 4, 6):
        top, left = CELL_PX * row, CELL_PX * column
        window = masks[number, top : top + CELL_PX, left : left + CELL_PX]
        counts = np.bincount(np.where(window == 255, 0, window).ravel(), minlength=4)
        assert counts[cells[number, row, column]] == counts.max()
        assert cells[number, row, column] == np.flatnonzero(counts == counts.max())[0]


def test_no_pixel_gets_a_class_that_no_cell_around_it_has() -> None:
    cells = np.random.default_rng(1).choice([0, 1, 5], (2, 6, 7)).astype(np.uint8)
    mask = enlarge_cells(cells, 6, CELL_PX)
    padded = np.pad(cells, ((0, 0), (1, 1), (1, 1)), mode="edge")
    for number, y, x in np.ndindex(*mask.shape):
        top, left = (int(np.floor((place + 0.5) / CELL_PX - 0.5)) + 1 for place in (y, x))
        around = padded[number, top : top + 2, left : left + 2]
        assert mask[number, y, x] in around
    middles = mask[:, CELL_PX // 2 :: CELL_PX, CELL_PX // 2 :: CELL_PX]
    assert np.array_equal(middles, cells)


def test_layouts_without_small_parts_survive_the_way_to_cells_and_back() -> None:
    masks = random_masks(20, 96)
    back = enlarge_cells(reduce_masks(masks, 4, CELL_PX), 4, CELL_PX)
    assert (back == masks).mean() > 0.9
    moved = np.roll(masks, CELL_PX, axis=1)
    assert (back == masks).mean() > (moved == masks).mean() + 0.02


def test_scores_are_plus_and_minus_one_and_shares_sum_to_one() -> None:
    cells = torch.tensor([[[0, 2], [2, 2]]])
    assert one_hot(cells, 3)[0, :, 0].T.tolist() == [[1, -1, -1], [-1, -1, 1]]
    assert class_shares(cells, 3).tolist() == [[0.25, 0, 0.75]]


def test_cells_are_those_of_the_tiles_for_any_batch(demo_manifest: Path) -> None:
    tiles = open_tiles(demo_manifest)
    rows = np.flatnonzero(tiles.pool == "conditional")[:9]
    data = CellDataset(
        tiles, single_stream(rows), 3, 64, 5, CELL_PX, flips=False, turns=False, drop=0.3
    )
    whole = data.batch(np.arange(18))
    masks = np.stack([tiles.read(int(row)).mask for row in whole["row"]])
    assert np.array_equal(whole["cells"].numpy(), reduce_masks(masks, 5, CELL_PX))
    assert sorted(whole["row"][:9].tolist()) == sorted(rows.tolist())
    alone = data.batch(np.array([11]))
    assert all(torch.equal(alone[name][0], whole[name][11]) for name in whole)
    turned = CellDataset(tiles, single_stream(rows), 3, 64, 5, CELL_PX).batch(np.arange(18))
    assert not torch.equal(turned["cells"], whole["cells"])
    many = data.batch(np.arange(600))["drop"].float().mean()
    assert 0.25 < float(many) < 0.35


def test_hidden_shares_change_nothing_and_shown_ones_do() -> None:
    torch.manual_seed(0)
    network = LayoutUNet(UNetConfig(dim=8, dim_mults=(1, 2), block_per_layer=1), 3).eval()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    x, t = torch.randn(2, 3, 8, 6), torch.tensor([10.0, 900.0])
    some, others = torch.tensor([[1.0, 0, 0]] * 2), torch.tensor([[0.0, 0.5, 0.5]] * 2)
    hidden = torch.ones(2, dtype=torch.bool)
    assert torch.equal(network(x, t, some, hidden), network(x, t, others, hidden))
    assert not torch.allclose(network(x, t, some), network(x, t, others))
    assert not torch.allclose(network(x, t, some), network(x, t, some, hidden))


class Layout(nn.Module):
    """The exact network of masks whose first columns have class 2 and the others class 4, as many
    as the shares say.
    """

    def forward(self, x: Tensor, t: Tensor, shares: Tensor, drop: Tensor | None = None) -> Tensor:
        columns = torch.arange(x.shape[-1]) + 0.5
        first = columns[None, None] < (shares[:, 2, None, None] * x.shape[-1])
        cells = torch.where(first, 2, 4).expand(len(x), x.shape[-2], -1)
        clean = one_hot(cells, x.shape[1])
        return (x - clean) / (t / 1000)[:, None, None, None]


CLASSES = LabelMap(
    "gap",
    tuple(SourceLabel(number, f"source {number}") for number in (0, 2, 4)),
    tuple(TargetClass(number, f"class {number}", default_colour(number)) for number in (0, 2, 4)),
    {number: number for number in (0, 2, 4)},
)


def exact_generator(seed: int = 0, module: nn.Module | None = None) -> MaskGenerator:
    known = np.array([[0, 0, share, 0, 1 - share] for share in (0.25, 0.5, 0.75)], np.float32)
    options = SamplingOptions(1.0, Solver("dpm++", 8), seed)
    network = module or Layout()
    return MaskGenerator(network, Objective("flow"), CLASSES, 5, CELL_PX, 2, 32, known, options)


def test_a_mask_has_the_shares_it_was_to_have_and_no_other_values() -> None:
    listed = list_generated(exact_generator(), 40)
    shares = []
    for index in range(len(listed)):
        mask = listed.read_mask(index)
        assert mask.shape == (32, 32)
        assert set(np.unique(mask)) == {2, 4}
        assert (np.diff(mask.astype(int), axis=1) >= 0).all()
        shares.append(float((mask == 2).mean()))
    assert set(shares) == {0.25, 0.5, 0.75}
    alike = list_generated(
        exact_generator(), 3, size_px=64, shares=parse_shares("class 2=.125,4=.875", CLASSES, 5)
    )
    assert [(alike.read_mask(index) == 2).mean() for index in range(3)] == [0.125] * 3


def test_an_id_without_a_class_is_never_drawn() -> None:
    class Between(Layout):
        def forward(self, x, t, shares, drop=None):  # type: ignore[no-untyped-def]
            clean = torch.full_like(x, -1.0)
            clean[:, 3] = 1.0
            return (x - clean) / (t / 1000)[:, None, None, None]

    mask = list_generated(exact_generator(module=Between()), 1).read_mask(0)
    assert set(np.unique(mask)) <= {0, 2, 4}


def test_a_mask_belongs_to_its_number_and_seed() -> None:
    torch.manual_seed(1)
    network = LayoutUNet(UNetConfig(dim=8, dim_mults=(1, 2), block_per_layer=1), 5).eval()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    generator = exact_generator(module=network)
    many, few = list_generated(generator, 40), list_generated(generator, 20)
    backwards = {index: few.read_mask(index) for index in reversed(range(20))}
    assert all(np.array_equal(many.read_mask(index), backwards[index]) for index in range(20))
    other = list_generated(replace(generator, options=SamplingOptions(seed=1)), 1)
    assert not np.array_equal(other.read_mask(0), backwards[0])
    assert not np.array_equal(backwards[0], backwards[1])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("class 2=.5", "do not sum"),
        ("class 9=1", "does not know"),
        ("class 2=two", "not a number"),
        ("class 2=-1,class 4=2", "not a number"),
        ("1", "does not know"),
    ],
)
def test_shares_that_cannot_be_are_refused(text: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        parse_shares(text, CLASSES, 5)


def test_a_size_that_cannot_be_made_is_refused_before_anything_is() -> None:
    with pytest.raises(UsageError, match="cannot make"):
        list_generated(exact_generator(), 2, size_px=36)


def test_boundaries_and_regions_are_those_counted_one_by_one() -> None:
    masks = random_masks(3, 12)
    contacts = count_contacts(masks, 4)
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    for number, mask in enumerate(masks.tolist()):
        counts = dict.fromkeys(pairs, 0)
        for y in range(12):
            for x in range(12):
                for other in ((y + 1, x), (y, x + 1)):
                    if max(other) < 12 and mask[y][x] != mask[other[0]][other[1]]:
                        counts[tuple(sorted((mask[y][x], mask[other[0]][other[1]])))] += 1
        total = 2 * 11 * 12
        assert np.allclose(contacts[number], [counts[pair] / total for pair in pairs])
    two = np.zeros((1, 8, 8), np.uint8)
    two[0, :2, :2], two[0, 4:, 4:] = 1, 1
    described = describe_layouts(two, 2)
    assert np.allclose(sorted(described.areas[1]), np.log2([4 / 64, 16 / 64]))
    assert described.of_mask[1].tolist() == [0, 0]
    assert np.allclose(described.shares, [[44 / 64, 20 / 64]])


@pytest.mark.slow
def test_masks_of_the_same_kind_pass_and_others_are_named() -> None:
    real, groups = random_masks(160, 48), np.repeat(np.arange(8), 20)
    is_train = groups < 5
    same = score_layouts(real, random_masks(120, 48, seed=5), groups, is_train, 4, CELL_PX)
    assert same.verdict == f"{LIKE_REAL}; no copies of training masks"
    assert same.copies.planted_found == same.copies.planted > 0
    other = random_masks(120, 48, seed=5)
    cases = {
        "shares": np.where(other == 1, 2, other),
        "boundary": np.random.default_rng(0).permuted(other, axis=2),
        "regions": enlarge_cells(random_masks(120, 12, seed=5), 4, CELL_PX)[:, ::-1],
        "co_occurrence": np.where(other > 1, np.where((other > 2).mean() > 0, 3, 2), other),
    }
    cases["regions"] = np.kron(random_masks(120, 24, seed=5), np.ones((1, 2, 2), np.uint8))
    cases["regions"] = np.tile(cases["regions"][:, :24, :24], (1, 2, 2))
    for name, masks in cases.items():
        scores = score_layouts(real, masks, groups, is_train, 4, CELL_PX)
        assert name in scores.verdict.split(";")[0], (name, scores.verdict)


def test_copies_are_found_and_plain_masks_are_none() -> None:
    real, groups = random_masks(160, 48), np.repeat(np.arange(8), 20)
    is_train = groups < 5
    rng = np.random.default_rng(3)
    made = random_masks(100, 48, seed=5)
    made[7] = disguise_mask(real[12], rng)
    made[8] = 2
    real[3] = 2
    found = score_layouts(real, made, groups, is_train, 4, CELL_PX).copies
    assert found.verdict == "copies"
    assert [(number, row) for number, row, _ in found.found] == [(7, 12)]
    assert found.judged == 99
    few = score_layouts(real, made, groups, groups < 8, 4, CELL_PX).copies
    assert few.verdict == "cannot tell"


def test_windows_cover_a_mask() -> None:
    mask = np.arange(12 * 20).reshape(12, 20).astype(np.uint8)
    found = cut_windows(mask, 8)
    assert [window.shape for window in found] == [(8, 8)] * 6
    assert np.array_equal(found[-1], mask[-8:, -8:])
    with pytest.raises(UsageError, match="smaller"):
        cut_windows(mask, 16)


@pytest.fixture(scope="module")
def run(demo_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("masks") / "run"
    command = ["fit", "--preset", "masks-tiny", "--manifest", str(demo_manifest)]
    sets = (
        "duration.steps=80",
        "schedule.warmup_steps=5",
        "optimiser.lr=4e-3",
        "model.dim=16",
        "batch_size=16",
        "validation.num_tiles=32",
    )
    options = [part for entry in sets for part in ("--set", entry)]
    assert trainer([*command, "--out", str(out), *options]) == 0
    return out


@pytest.mark.slow
def test_it_learns_and_the_test_writes_masks_that_can_be_sampled_from(
    run: Path, demo_manifest: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    losses = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    column = losses[0].index("val_loss")
    # Without learning it is the variance of noise and clean scores: 2.
    assert float(losses[-1][column]) < 1.4
    assert trainer(["test", str(run)]) == 0
    assert "like real masks" in (shown := capfd.readouterr().out)
    assert "copies of training masks" in shown
    metrics = json.loads((run / "test" / "metrics.json").read_text())
    assert {"shares", "co_occurrence", "regions", "boundary", "copies"} <= metrics.keys()
    ids = {cls.id for cls in open_tiles(demo_manifest).label_map.classes}
    paths = sorted((run / "test" / "masks").rglob("*.png"))
    assert len(paths) == 32
    for path in paths:
        assert set(np.unique(read_labels(path))) <= ids
        assert imageio.read_header(path.read_bytes()).bit_depth == 8
    assert trainer(["verify", str(run / "test")]) == 0
    assert trainer(["test", str(run)]) == 2


def test_the_facts_have_the_shares_of_training_crops(run: Path, demo_manifest: Path) -> None:
    generator = load_mask_generator(run)
    assert np.allclose(generator.known_shares.sum(axis=1), 1, atol=1e-5)
    config = load_config(file=run / "config.yml")
    tiles = open_tiles(demo_manifest)
    rows = np.flatnonzero((tiles.split == "train") & (tiles.pool == "conditional"))
    cells = cell_dataset(config, tiles, rows, config.seed).batch(np.arange(4))["cells"]  # type: ignore[arg-type]
    assert np.allclose(class_shares(cells, 5).numpy(), generator.known_shares[:4], atol=1e-6)


@pytest.mark.slow
def test_images_are_made_from_nothing(
    run: Path, demo_manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    codec = save_kl(tmp_path / "codec")
    images = tmp_path / "images"
    command = ["fit", "--preset", "mask-unet-tiny", "--manifest", str(demo_manifest), "--force"]
    sets = ("duration.steps=2", "model.dim=8", "batch_size=2", "validation.num_tiles=2")
    options = [part for entry in sets for part in ("--set", entry)]
    assert trainer([*command, "--codec", str(codec), "--out", str(images), *options]) == 0
    out = tmp_path / "made"
    base = ["sample", "--checkpoint", str(images), "--out", str(out), "--steps", "2"]
    base += ["--batch-size", "3"]
    wanted = [*base, "--masks", "generate:3", "--mask-model", str(run)]
    assert trainer(wanted) == 0
    listed = list_generated(load_mask_generator(run), 3)
    for index, name in enumerate(listed.ids):
        assert np.array_equal(read_labels(out / "masks" / f"{name}.png"), listed.read_mask(index))
    tiles = open_tiles(tmp_path / "made.histoprep" / "manifest.parquet")
    assert len(tiles) == 3
    assert set(tiles.split) == {"train"}
    capfd.readouterr()
    # Further ones continue, other shares are another request.
    assert trainer([*base, "--masks", "generate:4", "--mask-model", str(run)]) == 0
    assert "3 images existed already" in capfd.readouterr().err
    assert trainer([*wanted, "--class-shares", "3=1"]) == 2
    for more, what in (
        (["--masks", "generate:3"], "need a model"),
        (["--masks", "generate:0", "--mask-model", str(run)], "whole number"),
        (["--masks", str(demo_manifest), "--mask-model", str(run)], "belongs to generated"),
        (["--masks", "generate:3", "--mask-model", str(images)], "not trained a model of masks"),
        (["--masks", "generate:3", "--mask-model", str(run), "--map", "label_map_5"], "belong to"),
    ):
        assert trainer([*base, *more]) == 2
        assert what in capfd.readouterr().err
    large = [*wanted, "--size", "128", "--force"]
    assert trainer(large) == 0
    assert read_labels(out / "masks" / "generated_000000.png").shape == (128, 128)
    alone = ["sample", "--checkpoint", str(run), "--masks", "generate:3", "--mask-model", str(run)]
    assert trainer([*alone, "--out", str(tmp_path / "other")]) == 2
    assert "--mask-model beside an image model" in capfd.readouterr().err


def test_sizes_and_classes_that_do_not_fit_are_refused(run: Path, demo_manifest: Path) -> None:
    base = {"preset": "masks-tiny", "manifest": str(demo_manifest)}
    with pytest.raises(ConfigError, match="multiple of 8"):
        load_config(**base, sets=["data.image_size=60"])  # type: ignore[arg-type]
    config = load_config(**base, init=str(run))  # type: ignore[arg-type]
    assert stages(config)[0].classes is not None  # type: ignore[arg-type]
