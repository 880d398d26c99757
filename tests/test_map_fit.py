"""Whether a label map belongs to the masks: what is offered, and what is stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from audit_cases import DataSet, stripes, write_map
from hypothesis import given
from hypothesis import strategies as st

from histoprep.cli import main
from histoprep.errors import ExitCode
from histoprep.labels import (
    LabelMap,
    SourceLabel,
    TargetClass,
    identity_map,
    load_label_map,
    packed_maps,
)
from histoprep.remapping.fit import empty_classes, fits, fitting_maps, other_names, unknown_names

FIVE = load_label_map(packed_maps()[1])


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as done:
        main([*map(str, arguments), "--workers", "1"])
    return int(done.value.code or 0)


def data_set(folder: Path, *labels: int, number: int = 6) -> DataSet:
    data = DataSet(folder / "set")
    for index in range(number):
        data.pair(f"t{index}", stripes(*labels))
    return data


# --- what is offered


def test_a_packed_map_is_offered_only_where_the_labels_fit() -> None:
    every = range(55)
    assert fitting_maps(every) == ["label_map_10", "label_map_5"]
    assert fitting_maps(range(0, 55, 2)) == ["label_map_10", "label_map_5"]
    assert fitting_maps([0, 1, 2, 3, 4, 5]) == []
    assert fitting_maps([*every, 77]) == []
    assert fitting_maps([]) == []


def test_fewer_than_a_third_of_the_labels_do_not_fit() -> None:
    reaching = [0, 1, 3, 10, 28]
    assert empty_classes(FIVE, reaching) is None and not fits(FIVE, reaching)
    more = [label for label in range(55) if label not in reaching]
    assert not fits(FIVE, [*reaching, *more[:13]])
    assert fits(FIVE, [*reaching, *more[:14]])


def test_remap_without_a_map_offers_a_map_of_the_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_set(tmp_path, 0, 1, 2, 3, 4)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("remap", data.root) == ExitCode.USAGE
        printed = capsys.readouterr().err
        assert "label_map_5" not in printed and "label_map_10" not in printed
        assert f"histoprep map init {data.root} --out label_map.yml" in printed
        run("audit", data.root, "--exit-zero")
        capsys.readouterr()
    assert run("map", "init", data.root, "--out", "label_map.yml") == ExitCode.OK
    assert run("remap", data.root, "--map", "label_map.yml") == ExitCode.OK


def test_remap_without_a_map_offers_the_packed_ones_that_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataSet(tmp_path / "set")
    for start in range(0, 54, 6):
        data.pair(f"t{start}", stripes(*range(start, start + 6)))
    run("audit", data.root, "--exit-zero")
    capsys.readouterr()
    assert run("remap", data.root) == ExitCode.USAGE
    assert "--map label_map_10 or --map label_map_5 (all of" in capsys.readouterr().err


# --- what is stopped


@pytest.mark.parametrize("command", ["remap", "manifest"])
def test_a_map_whose_classes_stay_empty_stops_unless_forced(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_set(tmp_path, 3, 4, 5, 6)
    arguments = [data.root, "--map", "label_map_5"]
    assert run(command, *arguments) == ExitCode.USAGE
    printed = capsys.readouterr().err
    assert "label_map_5 seems to be a label map of other masks" in printed
    assert "3 of 4 classes stay empty: the labels 3, 4, 5, 6 become 3 Carcinoma" in printed
    assert f"histoprep map init {data.root} --out label_map.yml" in printed
    assert not (tmp_path / "set.histoprep" / "manifest.parquet").exists()
    assert not (tmp_path / "set.histoprep" / "masks-label_map_5").exists()
    assert run(command, *arguments, "--force") == ExitCode.OK


def test_stats_warn_of_such_a_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = data_set(tmp_path, 3, 4, 5, 6)
    assert run("stats", data.root, "--map", "label_map_5") == ExitCode.OK
    printed = capsys.readouterr().err
    assert "warning: label_map_5 seems to be a label map of other masks: 3 of 4 classes" in printed
    assert f"next: histoprep map init {data.root} --out label_map.yml" in printed


def test_classes_stay_empty_in_tiles_of_few_labels_each(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "set")
    # No label is in five of them.
    for index, label in enumerate((3, 4, 5, 6) * 2):
        data.pair(f"t{index}", stripes(label))
    assert run("remap", data.root, "--map", "label_map_5") == ExitCode.USAGE


def test_few_tiles_prove_nothing(tmp_path: Path) -> None:
    data = data_set(tmp_path, 3, 4, 5, 6, number=4)
    assert run("remap", data.root, "--map", "label_map_5") == ExitCode.OK


NAMED = """\
sources: {0: nothing, 1: stroma, 2: tumour, 3: label 3}
classes: {0: Nothing, 1: Stroma, 2: Tumour, 3: Three}
map: {nothing: Nothing, stroma: Stroma, tumour: Tumour, label 3: Three}
"""


@pytest.mark.parametrize("command", ["remap", "manifest"])
def test_names_of_the_data_set_s_own_map_are_held_against_the_map(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_set(tmp_path, 0, 1, 2, 3)
    data.write("label_map.yml", NAMED.encode())
    swapped = write_map(tmp_path, NAMED.replace("1: stroma, 2: tumour", "1: tumour, 2: stroma"))
    assert run(command, data.root, "--map", swapped) == ExitCode.USAGE
    printed = capsys.readouterr().err
    assert "label 1 is 'stroma' there and 'tumour' here" in printed
    assert run(command, data.root, "--map", swapped, "--force") == ExitCode.OK
    written = NAMED.replace("stroma", "STROMA").replace("3: label 3", "3: fat").replace(
        "label 3: Three", "fat: Three"
    )  # fmt: skip
    same = write_map(tmp_path, written)
    assert run(command, data.root, "--map", same, "--force") == ExitCode.OK
    own = load_label_map(data.root / "label_map.yml")
    assert other_names(load_label_map(same), own, [0, 1, 2, 3]) is None


def test_names_in_a_table_are_held_against_the_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_set(tmp_path, 0, 1, 2)
    rows = "".join(f"t{index}.jpg,alveoli;septum\n" for index in range(6))
    data.write("dataset.csv", f"image,classes\n{rows}".encode())
    path = write_map(tmp_path, NAMED)
    assert unknown_names(load_label_map(path), ["alveoli", "septum", "1"]) is not None
    assert unknown_names(load_label_map(path), ["alveoli", "Stroma"]) is None
    assert unknown_names(load_label_map(path), ["1", "2", "alveoli"]) is None


# --- the parts


def test_an_identity_map_or_masks_of_label_0_prove_nothing() -> None:
    assert empty_classes(identity_map(range(10)), [1]) is None
    assert empty_classes(FIVE, [0]) is None and empty_classes(FIVE, []) is None


@given(st.sets(st.integers(0, 54), max_size=8))
def test_most_classes_empty_is_more_than_half(labels: set[int]) -> None:
    reached = {FIVE.class_of(label) for label in labels if label} - {0}
    evidence = empty_classes(FIVE, labels)
    nonzero = {label for label in labels if label}
    assert (evidence is not None) == (bool(nonzero) and 4 - len(reached) > 2)


def test_classes_that_no_label_has_and_ignored_labels_count_for_nothing() -> None:
    def classes(number: int) -> tuple[TargetClass, ...]:
        return tuple(TargetClass(index, f"c{index}", "#000000") for index in range(number))

    sources = tuple(SourceLabel(label, f"l{label}") for label in range(4))
    spare = LabelMap("m", sources, classes(20), {0: 0, 1: 1, 2: 2, 3: 3})
    assert spare.is_identity
    turned = LabelMap("m", sources, classes(20), {0: 0, 1: 2, 2: 3, 3: 1}, ((255, 255),))
    assert empty_classes(turned, [1, 2]) is None
    assert empty_classes(turned, [1, 255]) is not None
    assert "become 2 c2" in str(empty_classes(turned, np.array([1, 255]).tolist()))
