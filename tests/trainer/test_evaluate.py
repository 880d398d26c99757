"""`trainer evaluate`: gates on generated tissue and real tiles, its page, its findings."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generated_sets import Change, blurred, hue_shifted, jpeg, noisy, write_set

from histoprep import imageio
from histoprep.cli import run as histoprep
from histoprep.demo import GROUP_PATTERN, make_clean_demo
from histoprep.errors import UsageError
from histoprep.shards import open_tiles
from trainer.cli import run as trainer
from trainer.evaluation.copies import disguise, nearest_distances, search_copies
from trainer.evaluation.distances import cut_halves, measure_distances
from trainer.evaluation.evaluate import Evaluation, evaluate_tiles
from trainer.evaluation.features import (
    FEATURE_BLOCKS,
    Sight,
    class_regions,
    mean_and_std,
    open_sight,
    thumbnail,
)
from trainer.evaluation.looks import EvaluateOptions
from trainer.evaluation.sides import limit_side, real_side, synthetic_side
from trainer.models.trunks import normalise_images
from trainer.segmentation.quick import QuickOptions

QUICK = QuickOptions(steps=120)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 tiles of 128 px of 8 slides: 4 slides to train on, 4 held out."""
    folder = tmp_path_factory.mktemp("evaluate") / "real"
    make_clean_demo(folder, num_tiles=96, tile_px=128, seed=5)
    command = ["--quiet", "manifest", str(folder), "--map", "label_map_5.yml"]
    more = ["--group-by", GROUP_PATTERN, "--split", "0.5/0.25/0.25"]
    assert histoprep([*command, *more]) == 0
    return folder.with_name("real.histoprep") / "manifest.parquet"


def evaluate(
    manifest: Path, synthetic: Path, quick: QuickOptions = QUICK, **options: Any
) -> Evaluation:
    chosen = EvaluateOptions(device="cpu", quick=quick, **options)
    return evaluate_tiles(str(manifest), str(synthetic), chosen)


@pytest.fixture(scope="module")
def same(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    out = tmp_path_factory.mktemp("same") / "tiles"
    write_set(manifest, out)
    return evaluate(manifest, out)


@pytest.mark.slow
def test_real_tiles_are_as_faithful_as_themselves(same: Evaluation) -> None:
    found = same.measures["faithfulness"]
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    assert found.more["real_miou"] > 0.5
    assert found.more["shuffled"] < 0.4


def test_real_tiles_lie_inside_every_floor(same: Evaluation) -> None:
    for name in ("kid", "fd"):
        assert same.measures[name].value <= same.measures[name].floor_high, name
    shares = same.measures["shares"]
    assert shares.value == shares.floor
    spread = same.measures["spread"]
    assert spread.low <= spread.floor_high and spread.high >= spread.floor_low


def test_real_held_out_tiles_are_no_copies(same: Evaluation) -> None:
    assert same.copies.verdict == "none" and not same.copied
    assert same.copies.measured.more["planted_found"] == same.copies.measured.more["planted"] >= 5


@pytest.fixture(scope="module")
def worse(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, list[str]]:
    """Blurred tiles, two of which are copies of training tiles."""
    out = tmp_path_factory.mktemp("worse") / "tiles"
    ids = write_set(manifest, out, blurred(2), copies=2)
    return evaluate(manifest, out), ids


@pytest.mark.slow
def test_blurred_tiles_with_copies_are_seen_as_such(
    worse: tuple[Evaluation, list[str]], same: Evaluation
) -> None:
    result, ids = worse
    assert result.measures["kid"].value > result.measures["kid"].floor_high
    assert result.measures["fd"].value > result.measures["fd"].floor_high
    assert result.measures["faithfulness"].value < 0.9
    assert {tile for tile, _, _ in result.copied} == set(ids[:2])
    assert result.verdict.tone == "failed" and "Copies" in result.verdict.word
    assert same.verdict.tone != "failed"
    assert result.shown[0].note.startswith("copy of ")


@pytest.mark.slow
def test_the_command_writes_numbers_and_a_page(
    manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_set(manifest, tmp_path / "tiles", jpeg(30))
    command = ["evaluate", "--real", str(manifest), "--synthetic", str(tmp_path / "tiles")]
    assert trainer([*command, "--limit", "30", "--device", "cpu"]) == 0
    printed = capfd.readouterr()
    assert "faithfulness" in printed.out and "JPEG mismatch" in printed.err
    folder = tmp_path / "tiles.evaluation"
    numbers = json.loads((folder / "evaluation.json").read_text())
    for name in ("kid", "fd", "faithfulness", "shares", "copies"):
        assert {"value", "low", "high", "floor_low", "floor_high"} <= numbers[name].keys(), name
    assert numbers["synthetic"]["tiles"] <= 30
    assert numbers["verdict"]["word"] in printed.out
    page = (folder / "evaluation.html").read_text()
    check_page(page)
    assert numbers["verdict"]["word"] in page
    assert trainer(["verify", str(folder)]) == 0


def check_page(text: str) -> None:
    """Every image has a text, every element is closed, and nothing outside is asked for."""
    opened: list[str] = []
    void = {"meta", "img", "line", "rect", "circle", "br", "link"}

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            facts = dict(attrs)
            assert tag not in ("script", "link")
            if tag == "img":
                assert facts["alt"] and str(facts["src"]).startswith("data:image/")
            if tag not in void:
                opened.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in void:
                assert opened.pop() == tag

    Parser().feed(text)
    assert not opened and "http" not in text.partition("</style>")[2]


@pytest.mark.slow
def test_images_without_masks_have_distances_and_copies(manifest: Path, tmp_path: Path) -> None:
    write_set(manifest, tmp_path / "tiles", with_masks=False)
    result = evaluate(manifest, tmp_path / "tiles" / "images")
    assert result.measures.keys() == {"kid", "fd"}
    assert result.to_json()["faithfulness"] is None
    assert any(finding.name == "masks not measured" for finding in result.findings)
    assert result.copies.verdict == "none"


@pytest.mark.slow
def test_what_every_measure_would_see_is_a_finding(manifest: Path, tmp_path: Path) -> None:
    small: Change = lambda image: np.ascontiguousarray(image[:96, :96])  # noqa: E731
    write_set(manifest, tmp_path / "tiles", small, splits=("train",), with_masks=False)
    real = real_side(str(manifest))
    result = evaluate(manifest, tmp_path / "tiles", limit=16)
    names = {finding.name for finding in result.findings}
    assert {"size mismatch", "JPEG mismatch", "training masks"} <= names
    assert len(limit_side(real, 16, 0)) == 16


def test_a_limit_takes_whole_groups_first(manifest: Path) -> None:
    real = real_side(str(manifest))
    groups = [limit_side(real, 30, seed).groups for seed in (0, 0, 1)]
    assert groups[0] == groups[1] != groups[2]
    sizes = {name: real.groups.count(name) for name in set(groups[0])}
    cut = [name for name, size in sizes.items() if groups[0].count(name) != size]
    assert len(cut) <= 1


def test_generated_tiles_have_the_group_of_their_mask(manifest: Path, tmp_path: Path) -> None:
    ids = write_set(manifest, tmp_path / "tiles")
    real = real_side(str(manifest))
    by_name = dict(zip(real.ids, real.groups, strict=True))
    side = synthetic_side(str(tmp_path / "tiles"), real)
    assert [by_name[name] for name in ids] == list(side.groups)
    assert side.has_groups


def test_a_folder_without_images_is_refused(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images"):
        synthetic_side(str(tmp_path), real_side(str(manifest)))
    with pytest.raises(UsageError, match="no generated tiles"):
        synthetic_side(str(tmp_path / "gone"), real_side(str(manifest)))


@pytest.mark.slow
def test_training_on_generated_tiles_is_compared_on_the_same_tiles(
    manifest: Path, tmp_path: Path
) -> None:
    write_set(manifest, tmp_path / "good", splits=("train",))
    few = QuickOptions(steps=60)
    found = evaluate(manifest, tmp_path / "good", few, limit=24, downstream=True).downstream
    assert found is not None
    segmenter = found["segmenter"]
    assert segmenter["real"]["value"] > 0.4
    assert segmenter["synthetic"]["value"] > 0.4
    gain = segmenter["both_minus_real"]
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert gain["value"] == pytest.approx(segmenter["both"]["value"] - segmenter["real"]["value"])
    assert found["classifier"]["real"]["value"] > 0.4


@pytest.mark.slow
def test_masks_of_test_groups_are_not_trained_on(manifest: Path, tmp_path: Path) -> None:
    write_set(manifest, tmp_path / "tiles", splits=("test",))
    result = evaluate(manifest, tmp_path / "tiles", downstream=True)
    assert result.downstream is None
    assert any(finding.name == "downstream not measured" for finding in result.findings)


@pytest.fixture(scope="module")
def sight() -> Sight:
    return open_sight(device="cpu")


def test_features_are_means_and_deviations_of_two_blocks(sight: Sight) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None] / 127.5 - 1).float()
    outputs = sight.trunk.block_outputs(normalise_images(pixels), FEATURE_BLOCKS)
    direct = np.concatenate(
        [
            statistic(output[0].numpy().astype(float), axis=(1, 2))
            for output in outputs
            for statistic in (np.mean, np.std)
        ]
    )
    seen = sight.see(image).vector
    assert len(seen) == 240
    assert np.allclose(seen, direct, atol=1e-5)
    assert np.allclose(mean_and_std(outputs)[0].numpy(), direct, atol=1e-5)


def test_regions_are_means_over_cells_that_a_class_fills() -> None:
    output = np.arange(2 * 6 * 6, dtype=float).reshape(2, 6, 6)
    mask = np.zeros((48, 48), np.uint8)
    mask[:, 24:] = 3
    found = class_regions(output, mask)
    assert found.keys() == {0, 3}
    assert np.allclose(found[3], output[:, :, 3:].mean(axis=(1, 2)))
    assert class_regions(output, np.indices((48, 48)).sum(0).astype(np.uint8) % 2) == {}


def test_another_encoder_comes_from_a_file(tmp_path: Path, sight: Sight) -> None:
    class Mean(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(dim=(2, 3))

    path = tmp_path / "mean.pt2"
    torch.export.save(torch.export.export(Mean(), (torch.zeros(1, 3, 32, 32),)), str(path))
    image = np.full((32, 32, 3), 255, np.uint8)
    found = open_sight(str(path), device="cpu").see(image)
    assert np.allclose(found.vector, 1.0)
    assert torch.equal(found.maps[0], sight.see(image).maps[0])


@pytest.mark.parametrize(
    ("name", "message"), [("nothing", "no such features"), ("hub:a/b", "timm|hub")]
)
def test_features_that_are_not_here_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_sight(name, device="cpu")


def test_halves_share_no_group_and_all_sets_have_one_size() -> None:
    groups = np.repeat(np.arange(7), [3, 20, 5, 9, 14, 2, 11])
    halves = cut_halves(groups, np.arange(25), 20, np.random.default_rng(0))
    assert 20 <= halves.size <= 25
    for first, second, generated in zip(halves.first, halves.second, halves.generated, strict=True):
        assert not set(groups[first]) & set(groups[second])
        assert len(set(first)) == len(set(second)) == len(set(generated)) == halves.size
    assert not cut_halves(np.zeros(50, int), np.arange(9), 5, np.random.default_rng(0)).size


def test_too_few_groups_give_no_number() -> None:
    features = np.random.default_rng(0).normal(size=(40, 5))
    found = measure_distances(features, features, np.arange(40) % 3, np.arange(40))
    assert not found["kid"].is_known and found["kid"].to_json()["value"] is None


def test_distances_of_thumbnails_are_the_least_of_all_symmetries() -> None:
    rng = np.random.default_rng(0)
    others = rng.uniform(0, 255, (5, 8, 8, 3)).astype(np.float32)
    turned = np.rot90(others[3], 1)[:, ::-1]
    distances, rows = nearest_distances(np.stack([turned, others[0] + 2]), others)
    assert rows.tolist() == [3, 0]
    assert distances == pytest.approx([0, 2], abs=1e-3)


def ebhi(
    shared_data: Path, most: int
) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray], np.ndarray]:
    """Return images and cases of two sets of real tiles without a common case."""
    folder = shared_data / "ebhi_seg"
    rows = list(csv.DictReader((folder / "index.csv").open(newline="")))
    rng = np.random.default_rng(0)
    cases = rng.permutation(sorted({row["case_id"] for row in rows}))
    half = set(cases[::2].tolist())
    sides: list[Any] = []
    for chosen in (True, False):
        own = [row for row in rows if (row["case_id"] in half) == chosen]
        own = [own[index] for index in rng.permutation(len(own))[:most].tolist()]
        sides.append([imageio.decode_rgb((folder / row["image"]).read_bytes()) for row in own])
        sides.append(np.unique([row["case_id"] for row in own], return_inverse=True)[1])
    return tuple(sides)  # type: ignore[return-value]


SERIES: dict[str, list[Change]] = {
    "blur": [blurred(1), blurred(2), blurred(3)],
    "jpeg": [jpeg(30), jpeg(15), jpeg(5)],
    "noise": [noisy(16), noisy(32)],
    "hue": [hue_shifted(0.12), hue_shifted(0.25)],
}


@pytest.mark.slow
def test_gates_of_distances_on_real_tiles(shared_data: Path, sight: Sight) -> None:
    first, groups, second, other_groups = ebhi(shared_data, 110)
    reference = np.stack([sight.see(image).vector for image in first])

    def distances(change: Change) -> Any:
        changed = np.stack([sight.see(change(image)).vector for image in second])
        return measure_distances(reference, changed, groups, other_groups)

    untouched = distances(lambda image: image)
    for name in ("kid", "fd"):
        assert untouched[name].value <= untouched[name].floor_high
    for kind, changes in SERIES.items():
        found = [distances(change) for change in changes]
        for name in ("kid", "fd"):
            values = [result[name].value for result in found]
            assert values[0] > found[0][name].floor_high, (kind, name)
            assert values == sorted(values), (kind, name)


@pytest.mark.slow
def test_strong_changes_of_real_tiles_lie_above_the_floor(shared_data: Path, sight: Sight) -> None:
    first, groups, second, other_groups = ebhi(shared_data, 40)
    first, second = ([image[:128, :128] for image in side] for side in (first, second))
    reference = np.stack([sight.see(image).vector for image in first])
    for change, is_above in ((lambda image: image, False), (blurred(1.5), True)):
        changed = np.stack([sight.see(change(image)).vector for image in second])
        found = measure_distances(reference, changed, groups, other_groups)
        for name in ("kid", "fd"):
            assert (found[name].value > found[name].floor_high) == is_above


def test_a_single_copy_among_a_hundred_real_tiles_is_found(shared_data: Path) -> None:
    train, _, others, groups = ebhi(shared_data, 300)
    names = groups.astype(str)
    held_out = np.isin(groups, np.unique(groups)[::2])
    thumbnails = np.stack([thumbnail(image) for image in others])
    new = thumbnails[~held_out][:100]
    new_groups = names[~held_out][:100]
    seen = np.stack([thumbnail(image) for image in train])

    def search(tiles: np.ndarray) -> Any:
        return search_copies(
            tiles, seen, thumbnails[held_out], new_groups, names[held_out], lambda row: train[row]
        )

    clean = search(new)
    assert clean.verdict == "none"
    planted = new.copy()
    planted[17] = thumbnail(disguise(train[5], np.random.default_rng(3)))
    found = search(planted)
    assert found.verdict == "copies"
    assert [(row, source) for row, source, _ in found.found] == [(17, 5)]


def test_without_held_out_tiles_copies_cannot_be_told() -> None:
    rng = np.random.default_rng(0)
    tiles = rng.uniform(0, 255, (12, 32, 32, 3))
    image = rng.integers(0, 256, (64, 64, 3), np.uint8)
    groups = np.arange(12).astype(str)
    result = search_copies(tiles, tiles, tiles[:5], groups, groups[:5], lambda _: image)
    assert result.verdict == "cannot tell" and not result.measured.is_known


def test_masks_of_real_tiles_are_read_from_shards_alike(manifest: Path, tmp_path: Path) -> None:
    assert histoprep(["--quiet", "shard", str(manifest), "--out", str(tmp_path / "shards")]) == 0
    packed, plain = (real_side(str(path)) for path in (tmp_path / "shards", manifest))
    assert packed.ids == plain.ids and packed.groups == plain.groups
    assert np.array_equal(packed.read(3).image, plain.read(3).image)
    assert len(open_tiles(manifest)) >= len(plain)
