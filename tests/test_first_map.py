"""`histoprep map init`: a map from the labels found, which check and remap accept at once."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from audit_cases import DataSet, image_bytes, stripes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from void_masks import blobs, coloured, with_void

from histoprep.cli import main
from histoprep.errors import ExitCode
from histoprep.labels import IGNORED, LabelMap, check_label_map, load_label_map
from histoprep.labels.ignored import LabelAmounts, find_ignored_value


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as done:
        main(list(map(str, arguments)))
    return int(done.value.code or 0)


def first_map(data: DataSet, folder: Path) -> LabelMap:
    """Return the map that `map init` writes, after check and remap have accepted it."""
    out = folder / "mine.yml"
    assert run("map", "init", data.root, "--out", out, "--workers", "1") == ExitCode.OK
    assert check_label_map(out) == []
    assert run("remap", data.root, "--map", out, "--workers", "1") == ExitCode.OK
    return load_label_map(out)


def test_labels_become_classes_with_pixels_tiles_and_examples(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    masks = {f"t{number}": stripes(0, 3, *([7] * number)) for number in range(5)}
    for name, labels in masks.items():
        data.pair(name, labels)
    label_map = first_map(data, tmp_path)
    assert {label: label_map.class_of(label) for label in (0, 3, 7, 5)} == {0: 0, 3: 1, 7: 2, 5: -1}
    assert [cls.name for cls in label_map.classes] == ["label 0", "label 3", "label 7"]
    text = (tmp_path / "mine.yml").read_text()
    of_seven = {name: int((labels == 7).sum()) for name, labels in masks.items()}
    best = sorted(of_seven, key=lambda name: (-of_seven[name], name))[:3]
    examples = ", ".join(f"{name}_mask.png" for name in best)
    assert (
        f"  # {sum(of_seven.values()):,} pixels in 4 tiles, such as {examples}\n  7: label 7"
        in (text)
    )


def test_a_map_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = DataSet(tmp_path / "set")
    data.pairs(2)
    kept = tmp_path / "mine.yml"
    kept.write_text("mine")
    assert run("map", "init", data.root, "--out", kept) == ExitCode.USAGE
    assert kept.read_text() == "mine"
    assert "exists already" in capsys.readouterr().err
    assert run("map", "init", data.root, "--out", tmp_path / ".yml") == ExitCode.USAGE
    assert not (tmp_path / ".yml").exists()


def test_the_data_set_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataSet(tmp_path / "set")
    data.pairs(2)
    before = sorted(path.name for path in data.root.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert run("map", "init", "set", "--workers", "1") == ExitCode.OK
    assert sorted(path.name for path in data.root.rglob("*")) == before
    assert load_label_map(tmp_path / "label_map.yml").num_classes == 3


def test_without_label_0_the_background_has_a_class_of_its_own(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    data.pair("a", stripes(4, 9))
    label_map = first_map(data, tmp_path)
    assert [(cls.id, cls.name) for cls in label_map.classes] == [
        (0, "background"),
        (1, "label 4"),
        (2, "label 9"),
    ]
    assert label_map.mapping == {4: 1, 9: 2}


def test_a_palette_gives_the_colours(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    colours = [0x112233, 0xFF0000, 0x00FF00]
    image = Image.fromarray(stripes(0, 1, 2), "P")
    image.putpalette([byte for colour in colours for byte in colour.to_bytes(3, "big")])
    data.image("a.jpg")
    data.write("a_mask.png", image_bytes(image, "PNG"))
    label_map = first_map(data, tmp_path)
    assert [cls.colour for cls in label_map.classes] == ["#112233", "#ff0000", "#00ff00"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_instance_ids_become_a_range_beside_the_background(tmp_path: Path, dtype: type) -> None:
    data = DataSet(tmp_path / "set")
    largest = 0
    for seed in range(4):
        spots = (np.random.default_rng(seed).random((16, 16)) > 0.8).astype(np.uint8)
        number, ids = cv2.connectedComponents(spots)
        largest = max(largest, number - 1)
        enlarged = cv2.resize(ids.astype(np.uint16), (96, 96), interpolation=cv2.INTER_NEAREST)
        data.pair(f"t{seed}", enlarged.astype(dtype))
    label_map = first_map(data, tmp_path)
    assert [label_map.values_of(source) for source in label_map.sources] == ["0", f"1-{largest}"]
    assert [cls.name for cls in label_map.classes] == ["background", "object"]


def test_more_labels_than_classes_are_instances(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    data.pair("a", np.kron(np.arange(0, 900, 3).reshape(15, 20), np.ones((6, 6), int)).astype("u2"))
    assert first_map(data, tmp_path).values_of(
        load_label_map(tmp_path / "mine.yml").sources[1]
    ) == ("3-897")


@pytest.mark.parametrize(("value", "width_px"), [(255, 3), (255, 5), (254, 3), (65_535, 3)])
def test_a_value_along_boundaries_is_ignored(
    tmp_path: Path, value: int, width_px: int, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataSet(tmp_path / "set")
    masks = [with_void(blobs(seed), value, width_px) for seed in range(6)]
    for seed, labels in enumerate(masks):
        data.pair(f"t{seed}", labels)
    label_map = first_map(data, tmp_path)
    assert label_map.class_of(value) == IGNORED
    assert [source.id for source in label_map.sources] == [0, 1, 2, 3]
    pixels = sum(int((labels == value).sum()) for labels in masks)
    assert f"# {pixels:,} pixels in 6 tiles" in (tmp_path / "mine.yml").read_text()
    assert f"{value} lies along boundaries" in capsys.readouterr().err


@pytest.mark.parametrize("void", [0xFFFFFF, 0xE0E0C0])
def test_a_colour_along_boundaries_is_ignored(tmp_path: Path, void: int) -> None:
    data = DataSet(tmp_path / "set")
    for seed in range(6):
        data.image(f"t{seed}.jpg")
        labels = coloured(with_void(blobs(seed)), void)
        data.write(f"t{seed}_mask.png", image_bytes(labels, "PNG"))
    label_map = first_map(data, tmp_path)
    assert label_map.colour_sources and label_map.class_of(void) == IGNORED
    assert f'ignore: ["#{void:06x}"]' in (tmp_path / "mine.yml").read_text()
    assert [cls.colour for cls in label_map.classes] == ["#000000", "#008000", "#800000", "#808000"]
    mask = np.array(Image.open(tmp_path / "set.histoprep" / "masks-mine" / "t0_mask.png"))
    expected = np.array([0, 2, 1, 3], np.uint8)[np.minimum(with_void(blobs(0)), 3)]
    expected[with_void(blobs(0)) == 255] = 255
    assert np.array_equal(mask, expected)


def test_white_in_areas_is_a_colour_like_any_other(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    for seed in range(6):
        labels = blobs(seed)
        labels[:30] = 255
        data.image(f"t{seed}.jpg")
        data.write(f"t{seed}_mask.png", image_bytes(coloured(labels, 0xFFFFFF), "PNG"))
    assert first_map(data, tmp_path).class_of(0xFFFFFF) == 4


def test_white_areas_are_a_label_with_a_word_of_doubt(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    for seed in range(6):
        labels = blobs(seed)
        labels[:30] = 255
        data.pair(f"t{seed}", labels)
    label_map = first_map(data, tmp_path)
    assert label_map.class_of(255) == 4 and label_map.ignore == ()
    text = (tmp_path / "mine.yml").read_text()
    assert len(re.findall("perhaps pixels that nobody labelled", text)) == 1


def test_names_of_files_cannot_break_the_map(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    data.pair("a\nignore: [1]\n#", stripes(0, 1))
    label_map = first_map(data, tmp_path)
    assert label_map.ignore == () and label_map.num_classes == 2
    assert yaml.safe_load((tmp_path / "mine.yml").read_text())["map"] == {
        "label 0": "label 0",
        "label 1": "label 1",
    }


def test_without_a_known_label_there_is_no_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataSet(tmp_path / "set")
    data.image("a.jpg")
    assert run("map", "init", data.root, "--out", tmp_path / "m.yml") == ExitCode.USAGE
    assert "no labels are known" in capsys.readouterr().err
    assert not (tmp_path / "m.yml").exists()


# --- what marks pixels without a label


def amounts(tiles: int, pixels: int, core_pixels: int) -> LabelAmounts:
    return LabelAmounts(tiles, tiles if core_pixels else 0, pixels, core_pixels)


def table(*labels: int, tiles: int = 10) -> tuple[dict, dict]:
    """Return amounts and pairs of labels that are all in all tiles, the last of them thin."""
    found = {label: amounts(tiles, 1000, 500) for label in labels[:-1]}
    pairs = {(a, b): tiles for a in labels for b in labels if a < b}
    return {**found, labels[-1]: amounts(tiles, 100, 10)}, pairs


def test_a_thin_value_far_above_the_others_is_found() -> None:
    found = find_ignored_value(*table(0, 1, 2, 255))
    assert found is not None and (found.value, found.along_boundaries) == (255, True)
    # Few labels, too little above the others, or few tiles, say nothing.
    assert find_ignored_value(*table(0, 255)) is None
    assert find_ignored_value(*table(0, 1, 127, 255)) is None
    assert find_ignored_value(*table(0, 1, 2, 9)) is None
    assert find_ignored_value(*table(0, 1, 2, 255, tiles=2)) is None
    assert find_ignored_value({}, {}) is None


def test_thick_or_lonely_values_lie_along_no_boundaries() -> None:
    held, pairs = table(0, 1, 255)
    assert find_ignored_value({**held, 255: amounts(10, 100, 30)}, pairs) is None
    assert find_ignored_value(held, {**pairs, (0, 255): 5, (1, 255): 5}) is None
    # Where two others meet in many tiles without it, no tool drew it along boundaries.
    assert find_ignored_value({**held, 255: amounts(10, 100, 10)}, {**pairs, (0, 1): 21}) is None


def test_few_masks_that_are_ignored_whole_hide_no_boundaries() -> None:
    held, pairs = table(0, 1, 2, 255)
    found = find_ignored_value({**held, 255: LabelAmounts(10, 2, 5000, 4000)}, pairs)
    assert found is not None and found.along_boundaries


def test_white_beside_numbered_labels_is_a_guess() -> None:
    held, pairs = table(0, 1, 2, 3, 255)
    thick = {**held, 255: amounts(10, 5000, 4000)}
    found = find_ignored_value(thick, pairs)
    assert found is not None and (found.value, found.along_boundaries) == (255, False)
    gaps = {label * 10: thick[label] for label in (0, 1, 2, 3)} | {255: thick[255]}
    assert find_ignored_value(gaps, {}) is None


@given(st.dictionaries(st.integers(0, 300), st.integers(1, 100), max_size=8))
def test_every_table_has_an_answer(tiles: dict[int, int]) -> None:
    found = find_ignored_value({label: amounts(n, n, 0) for label, n in tiles.items()}, {})
    assert found is None or found.value == max(tiles)
