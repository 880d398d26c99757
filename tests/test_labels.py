"""Label maps: what may be written, what is refused and why, and the laws of applying and joining
them.
"""

from __future__ import annotations

import csv
import itertools
import os
import pickle
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from histoprep.errors import ExitCode, LabelMapError
from histoprep.labels import (
    PALETTE,
    LabelMap,
    SourceLabel,
    TargetClass,
    check_label_map,
    compose,
    default_colour,
    diff,
    find_label_map,
    format_label_map,
    identity_map,
    load_label_map,
    packed_folder,
)
from histoprep.labels.strict_yaml import name_fault

GOOD = """\
sources:
  0: unknown
  1: dermis
  2: dermis, scar
classes:
  0: {name: Unknown, colour: "#999999"}
  1: {name: Tissue, colour: D55E00, min_radius_px: 1.5}
map:
  unknown: Unknown
  dermis: Tissue
  2: 1
"""


def _file(folder: Path, text: str | bytes, name: str = "map.yml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _refusal(path: Path) -> LabelMapError:
    with pytest.raises(LabelMapError) as caught:
        load_label_map(path)
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(path) in str(caught.value.path)
    return caught.value


def _codes(path: Path) -> list[tuple[str, int | None]]:
    return [(finding.code, finding.line) for finding in check_label_map(path)]


# --- our format


def test_a_map_reads_as_written(tmp_path: Path) -> None:
    read = load_label_map(_file(tmp_path, GOOD))
    expected = LabelMap(
        "map",
        (SourceLabel(0, "unknown"), SourceLabel(1, "dermis"), SourceLabel(2, "dermis, scar")),
        (TargetClass(0, "Unknown", "#999999"), TargetClass(1, "Tissue", "#d55e00", 1.5)),
        {0: 0, 1: 1, 2: 1},
    )
    assert read == expected
    assert hash(read) == hash(expected)
    assert check_label_map(tmp_path / "map.yml") == []
    assert (read.num_classes, read.gaps, read.class_name(1), read.source_name(2)) == (
        2,
        (),
        "Tissue",
        "dermis, scar",
    )


def test_sources_alone_map_each_label_to_itself(tmp_path: Path) -> None:
    read = load_label_map(_file(tmp_path, "sources:\n  4: tumour\n  9: stroma\n"))
    assert read.mapping == {4: 4, 9: 9}
    assert [cls.name for cls in read.classes] == ["tumour", "stroma"]


def test_a_source_list_beside_the_map_comes_before_the_packed_one(tmp_path: Path) -> None:
    text = "sources: source_labels.yml\nclasses:\n  0: All\nmap:\n  0: 0\n"
    assert {code for code, _ in _codes(_file(tmp_path, text))} == {
        "HP503"
    }  # the packed list has 54 more
    _file(tmp_path, "sources:\n  0: only\n", "source_labels.yml")
    assert load_label_map(tmp_path / "map.yml").sources == (SourceLabel(0, "only"),)


@pytest.mark.parametrize("where", ["/etc/passwd.yml", "../map.yml", "nowhere.yml", "labels.txt"])
def test_a_source_list_is_a_file_beside_the_map(tmp_path: Path, where: str) -> None:
    assert (
        _refusal(_file(tmp_path, f"sources: {where}\nclasses:\n  0: A\nmap:\n  0: 0\n")).path
        == f"{tmp_path / 'map.yml'}:1"
    )


def test_names_are_compared_after_composition(tmp_path: Path) -> None:
    read = load_label_map(
        _file(
            tmp_path,
            "sources:\n  0: ne\u0301vus\nclasses:\n  0: E\u0301\nmap:\n  n\u00e9vus: \u00c9\n",
        )
    )
    assert read.mapping == {0: 0}
    assert _codes(_file(tmp_path, "sources:\n  0: ne\u0301vus\n  1: n\u00e9vus\n")) == [
        ("HP504", 3)
    ]


# --- problems with a code

PROBLEMS = {
    "label without class": ("  dermis: Tissue\n", "", "HP503", 3),
    "misspelt class": ("dermis: Tissue", "dermis: Tisue", "HP503", 10),
    "misspelt label": ("  dermis: Tissue", "  dermis: Tissue\n  demris: Tissue", "HP503", 11),
    "label listed twice": ("  2: dermis, scar", "  2: dermis, scar\n  2: bone", "HP504", 5),
    "label name twice": ("  2: dermis, scar", "  2: dermis", "HP504", 4),
    "mapped twice": ("  2: 1", "  2: 1\n  2: 1", "HP504", 12),
    "mapped by name and by id": ("  2: 1", "  2: 1\n  1: Tissue", "HP504", 12),
    "class listed twice": ("classes:", "classes:\n  0: Void", "HP504", 7),
    "class name twice": ("map:", "  2: Tissue\nmap:", "HP504", 8),
    "too large for 8 bits": ("map:", "  256: Rare\nmap:", "HP505", 8),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_each_problem_has_its_code_and_line(tmp_path: Path, case: str) -> None:
    old, new, code, line = PROBLEMS[case]
    assert GOOD.count(old) == 1
    path = _file(tmp_path, GOOD.replace(old, new))
    assert (code, line) in _codes(path)
    error = _refusal(path)
    assert error.what.startswith(f"{code} ")
    assert error.path == f"{path}:{line}"


def test_a_misspelt_name_gets_a_suggestion(tmp_path: Path) -> None:
    [problem] = check_label_map(_file(tmp_path, GOOD.replace("dermis: Tissue", "dermis: tisue")))
    assert (
        str(problem)
        == "HP503 map-not-total: source label 'dermis' goes to 'tisue', which is no class; perhaps"
        " you meant 'Tissue'"
    )


def test_check_reports_all_problems_and_loading_the_first(tmp_path: Path) -> None:
    text = (
        GOOD.replace("  dermis: Tissue\n", "")
        .replace("  2: 1\n", "  2: 7\n")
        .replace("map:", "  300: Rare\nmap:")
    )
    path = _file(tmp_path, text)
    assert _codes(path) == [("HP503", 3), ("HP505", 8), ("HP503", 11), ("HP506", None)]
    error = _refusal(path)
    assert "(and 2 more)" in error.what  # the gap is a warning and is not counted
    assert error.hint is not None


def test_a_gap_is_a_warning(tmp_path: Path) -> None:
    path = _file(
        tmp_path, GOOD.replace("  1: {name: T", "  3: {name: T").replace("  2: 1", "  2: 3")
    )
    [problem] = check_label_map(path)
    assert (problem.code, problem.forbids_use) == ("HP506", False)
    assert load_label_map(path).gaps == (1, 2)


def test_class_255_fits_and_256_does_not(tmp_path: Path) -> None:
    text = "sources:\n  0: a\nclasses:\n  {0}: A\nmap:\n  a: A\n"
    assert load_label_map(_file(tmp_path, text.replace("{0}", "255"))).mapping == {0: 255}
    assert _codes(_file(tmp_path, text.replace("{0}", "256")))[0] == ("HP505", 4)
    assert _codes(_file(tmp_path, text.replace("{0}", "999999999")))[0] == ("HP505", 4)


@pytest.mark.timeout(120)  # hours, if every name were compared with every other one
@pytest.mark.slow
def test_thousands_of_wrong_names_are_reported(tmp_path: Path) -> None:
    names = "".join(f"  {number}: label number {number}\n" for number in range(3_000))
    wrong = "".join(f"  lable number {number}: A\n" for number in range(3_000))
    problems = check_label_map(_file(tmp_path, f"sources:\n{names}classes:\n  0: A\nmap:\n{wrong}"))
    assert len(problems) == 6_000


# --- what strict YAML refuses

NUMBERS = {
    "010": "leading zero",
    "1_000": "underscore",
    "0x10": "not decimal",
    "0o7": "not decimal",
    "1e3": "not whole",
    "1.0": "not whole",
    "+1": "sign",
    "-1": "sign",
    '" 1"': "blanks",
    '" no"': "blanks",
    "no": "true, false",
    "Yes": "true, false",
    "~": "true, false",
    "'~'": "true, false",
    '""': "empty",
    "\u0663": "not a number",  # ARABIC-INDIC DIGIT THREE, which int() takes
    "1\u0663": "not a number",
    "\u00b2": "not a number",
    "one": "not a number",
    "4294967296": "too large",
    "9" * 5000: "too large",
}


@pytest.mark.parametrize("spelling", NUMBERS)
def test_an_id_is_decimal_digits_and_nothing_else(tmp_path: Path, spelling: str) -> None:
    key = spelling if len(spelling) < 1000 else f"? {spelling}\n  "  # YAML limits simple keys
    error = _refusal(_file(tmp_path, f"sources:\n  5: a\n  {key}: x\n"))
    assert NUMBERS[spelling] in error.what
    assert error.path is not None
    assert error.path.endswith(":3")


@pytest.mark.parametrize("spelling", ["010", "1_0", "0x1", "1e0", "+1", '" 1"', '""'])
@pytest.mark.parametrize("side", ["label", "class"])
def test_the_map_refuses_what_may_be_a_number(tmp_path: Path, spelling: str, side: str) -> None:
    line = f"{spelling}: 1" if side == "label" else f"2: {spelling}"
    assert (
        "neither a name nor a plain number"
        in _refusal(_file(tmp_path, GOOD.replace("2: 1", line))).what
    )


REFUSED: dict[str, tuple[str | bytes, str, int | None]] = {
    "alias": ("a: &x {b: c}\nd: *x\n", "anchors", 1),
    "alias bomb": (
        "a: &a {x: 1, y: 2}\nb: &b {x: *a, y: *a}\nc: &c {x: *b, y: *b}\n",
        "anchors",
        1,
    ),
    "alias alone": ("a: *x\n", "aliases", 1),
    "merge": ("sources:\n  <<: {0: a}\n", "merge keys", 2),
    "tag": ("sources: !!python/object/apply:os.system {0: a}\n", "tags", 1),
    "tag on a key": ("!!str sources: {0: a}\n", "tags", 1),
    "bare tag": ("sources:\n  0: ! a\n", "tags", 2),
    "second document": ("sources:\n  0: a\n---\nsources:\n  0: b\n", "second document", 3),
    "directive": ("%YAML 1.1\n---\nsources:\n  0: a\n", "directives", 1),
    "list at the top": ("- a\n- b\n", "list", 1),
    "list of labels": ("sources: [a, b]\n", "list", 1),
    "text at the top": ("hello\n", "not a label map", 1),
    "key twice at the top": ("sources:\n  0: a\nsources:\n  0: b\n", "occurs twice", 3),
    "key twice in a class": (
        "sources:\n  0: a\nclasses:\n  0: {name: A, name: B}\nmap: {a: A}\n",
        "occurs twice",
        4,
    ),
    "unknown key": ("sources:\n  0: a\nclases:\n  0: A\n", "perhaps you meant 'classes'", 3),
    "unknown key in a class": (
        "sources:\n  0: a\nclasses:\n  0: {name: A, colr: b}\nmap: {a: A}\n",
        "perhaps you meant",
        4,
    ),
    "tab": ("sources:\n\t0: a\n", "not valid YAML", 2),
    "table as key": ("? {a: b}\n: c\n", "cannot be a key", 1),
    "table as name": ("sources:\n  0: {name: a}\n", "cannot be a table", 2),
    "table as class of a label": (GOOD.replace("2: 1", "2: {a: b}"), "cannot be a table", 11),
    "no colour": (GOOD.replace("D55E00", '""'), "unusable colour", 7),
    "colour by name": (GOOD.replace("D55E00", "red"), "unusable colour", 7),
    "radius": (GOOD.replace("1.5", "-1"), "min_radius_px", 7),
    "radius in words": (GOOD.replace("1.5", ".inf"), "min_radius_px", 7),
    "name is a number": (GOOD.replace("1: dermis\n", "1: 3\n"), "reads as a number", 3),
    "name is empty": (GOOD.replace("1: dermis\n", "1:\n"), "is empty", 3),
    "name with blanks": (GOOD.replace("1: dermis\n", "1: ' dermis'\n"), "blanks", 3),
    "name over two lines": (GOOD.replace("1: dermis\n", '1: "der\\nmis"\n'), "cannot be seen", 3),
    "name that turns the text around": (
        GOOD.replace("1: dermis\n", '1: "der\\u202Emis"\n'),
        "cannot be seen",
        3,
    ),
    "name of a folder": ("name: ../x\n" + GOOD, "folder's name", 1),
    "control character": ("sources:\n  0: a\x00b\n", "no text file should hold", 2),
    "not UTF-8": ("sources:\n  0: a\n  1: n\u00e9vus\n".encode("latin-1"), "not UTF-8", 3),
    "UTF-16": ("sources:\n  0: a\n".encode("utf-16"), "not UTF-8", 1),
    "no sources": ("classes:\n  0: A\nmap:\n  0: 0\n", "no source labels", None),
    "no map": ("sources:\n  0: a\nclasses:\n  0: A\n", "`map:` is missing", None),
    "empty table": ("sources: {}\n", "is empty", 1),
    "nothing in a table": (GOOD.split("map:", maxsplit=1)[0] + "map:\n", "must be a table", 8),
    "empty file": ("", "empty", None),
    "comments alone": ("# nothing\n", "empty", None),
    "deep": ("{a: " * 1000, "too deep", 1),
    "deep list": ("[" * 100_000, "list", 1),
    "unfinished": ('sources: {0: "a\n', "not valid YAML", None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_strict_yaml_refuses(tmp_path: Path, case: str) -> None:
    text, words, line = REFUSED[case]
    path = _file(tmp_path, text)
    error = _refusal(path)
    assert words in error.what
    if line is not None:
        assert error.path == f"{path}:{line}"
    with pytest.raises(LabelMapError):
        check_label_map(path)


def test_hints_name_the_usual_traps(tmp_path: Path) -> None:
    assert "tabs" in str(_refusal(_file(tmp_path, "sources:\n\t0: a\n")).hint)
    assert "quotes" in str(_refusal(_file(tmp_path, GOOD.replace('"#999999"', "#999999"))).hint)
    block = GOOD.replace(
        "{name: Tissue, colour: D55E00, min_radius_px: 1.5}", "\n    name: T\n    colour: #ffffff"
    )
    assert "quotes" in str(_refusal(_file(tmp_path, block)).hint)


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path: Path) -> None:
    plain = load_label_map(_file(tmp_path, GOOD))
    assert (
        load_label_map(_file(tmp_path, b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()))
        == plain
    )


@pytest.mark.slow
def test_what_is_no_readable_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yml")
    _file(tmp_path, b"#" * ((1 << 20) + 1), "huge.yml")
    (tmp_path / "loop.yml").symlink_to("loop.yml")
    refused = {
        "pipe.yml": "regular",
        "huge.yml": "too large",
        "loop.yml": "symbolic links",
        "none.yml": "No such file",
        ".": "regular",
    }
    for name, words in refused.items():
        assert words in _refusal(tmp_path / name).what
    assert (
        load_label_map(_file(tmp_path, GOOD.encode().ljust(1 << 20, b"\n"))).num_classes == 2
    )  # the limit itself is fine


# --- older formats

OLD = {
    "classes": "classes:\n  class_to_int:\n",
    "features": "features:\n  target__tfrec:\n    class_to_int:\n",
}


def _old(form: str, **numbers: int) -> str:
    return OLD[form] + "".join(f"      {name}: {number}\n" for name, number in numbers.items())


@pytest.mark.parametrize("form", OLD)
def test_distinct_numbers_without_a_list_are_pixel_values(tmp_path: Path, form: str) -> None:
    read = load_label_map(
        _file(tmp_path, _old(form, Necrosis=2, Unknown=0, Carcinoma=1), "class_to_int.yml")
    )
    assert read.mapping == {0: 0, 1: 1, 2: 2}
    assert (
        [source.name for source in read.sources]
        == [cls.name for cls in read.classes]
        == ["Unknown", "Carcinoma", "Necrosis"]
    )
    assert read.name == "class_to_int"


@pytest.mark.parametrize("form", OLD)
def test_a_list_beside_gives_the_pixel_values_by_name(tmp_path: Path, form: str) -> None:
    _file(tmp_path, "sources:\n  7: a\n  3: b\n  5: c\n", "source_labels.yml")
    read = load_label_map(_file(tmp_path, _old(form, a=1, b=0, c=1)))
    assert read.mapping == {7: 1, 3: 0, 5: 1}
    assert [cls.name for cls in read.classes] == ["class 0", "class 1"]
    assert _codes(_file(tmp_path, _old(form, a=1, b=0))) == [("HP503", None)]
    assert "perhaps you meant 'scar'" in str(_refusal_with_list(tmp_path, _old(form, a=1, scarr=1)))


def _refusal_with_list(folder: Path, text: str) -> LabelMapError:
    _file(folder, "sources:\n  7: a\n  3: scar\n", "source_labels.yml")
    return _refusal(_file(folder, text))


def test_a_list_of_other_labels_does_not_concern_the_file(tmp_path: Path) -> None:
    _file(tmp_path, "sources:\n  7: a\n  3: b\n", "source_labels.yml")
    assert load_label_map(_file(tmp_path, _old("classes", Unknown=0, Tumour=1))).mapping == {
        0: 0,
        1: 1,
    }


def test_the_packed_list_knows_the_skin_labels(tmp_path: Path) -> None:
    five = load_label_map(packed_folder() / "label_map_5.yml")
    lines = "".join(
        f"      {source.name}: {five.mapping[source.id]}\n" for source in reversed(five.sources)
    )
    read = load_label_map(_file(tmp_path, OLD["features"] + lines))
    assert (read.mapping, read.sources) == (five.mapping, five.sources)
    some = load_label_map(_file(tmp_path, _old("features", tissue_unknown=0, background=1)))
    assert some.mapping == {0: 0, 1: 1}
    # One name in common with the skin data says nothing about another data set.
    assert load_label_map(_file(tmp_path, _old("classes", background=0, tumour=1))).mapping == {
        0: 0,
        1: 1,
    }


def test_both_tables_together_are_labels_and_classes(tmp_path: Path) -> None:
    _file(tmp_path, "sources:\n  7: a\n  3: b\n  5: c\n", "source_labels.yml")
    read = load_label_map(
        _file(tmp_path, _old("features", a=1, b=0, c=1) + _old("classes", Nothing=0, Tissue=1))
    )
    assert [cls.name for cls in read.classes] == ["Nothing", "Tissue"]
    assert read.mapping == {7: 1, 3: 0, 5: 1}
    (tmp_path / "source_labels.yml").unlink()
    same = _old("features", X=0, Y=1) + _old("classes", X=0, Y=1)
    assert load_label_map(_file(tmp_path, same)).mapping == {0: 0, 1: 1}


AMBIGUOUS = {
    "shared numbers, no list": _old("classes", p=1, q=1, r=0),
    "numbers unlike the packed list": _old("classes", tissue_unknown=1, background=0),
    "two tables that differ": _old("classes", A=0, B=1) + _old("features", C=0, D=1),
    "a class that is not there": _old("classes", A=0, B=1) + _old("features", C=0, D=2, E=2),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_could_mean_two_things_is_refused(tmp_path: Path, case: str) -> None:
    error = _refusal(_file(tmp_path, AMBIGUOUS[case]))
    assert error.what.startswith("ambiguous")
    assert error.hint


def test_older_formats_are_as_strict(tmp_path: Path) -> None:
    assert "leading zero" in _refusal(_file(tmp_path, OLD["classes"] + "    a: 010\n")).what
    assert (
        "of our format" in _refusal(_file(tmp_path, _old("classes", a=0) + "map:\n  a: 0\n")).what
    )
    assert "no table class_to_int" in _refusal(_file(tmp_path, "features:\n  other: x\n")).what
    assert _codes(_file(tmp_path, OLD["classes"] + "    a: 0\n    b: 1\n    a: 2\n")) == [
        ("HP504", 5)
    ]
    assert _codes(_file(tmp_path, _old("classes", a=0, b=256)))[0][0] == "HP505"


# --- the packed maps


def _columns(path: Path) -> dict[str, tuple[dict[int, str], dict[int, int]]]:
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = {int(row["source_id"]): row["source_name"] for row in rows}
    return {
        f"label_map_{k}": (names, {int(row["source_id"]): int(row[f"class_{k}"]) for row in rows})
        for k in (5, 10)
    }


CLASSES = {
    "label_map_5": [
        "Unknown",
        "Background/Artifact",
        "Inflammatory/Reactive",
        "Carcinoma",
        "Normal Tissue",
    ],
    "label_map_10": [
        *["Unknown", "Background", "Artifacts", "Carcinoma", "Normal Dermis", "Normal Epidermis"],
        *["Normal Appendages", "Inflammatory", "Reactive", "Structural"],
    ],
}
SIZES = {"label_map_5": [1, 2, 12, 25, 15], "label_map_10": [2, 1, 1, 12, 2, 2, 11, 8, 4, 12]}


@pytest.mark.parametrize("name", CLASSES)
def test_packed_maps_are_the_facts(shared_data: Path, name: str) -> None:
    facts = shared_data.parent / "facts" / "drsk_labels.csv"
    if not facts.is_file():
        pytest.skip(f"no facts at {facts}")
    names, mapping = _columns(facts)[name]
    read = load_label_map(packed_folder() / f"{name}.yml")
    assert {source.id: source.name for source in read.sources} == names
    assert read.mapping == mapping


@pytest.mark.parametrize("name", CLASSES)
def test_packed_maps_are_total_over_55_labels(name: str) -> None:
    path = packed_folder() / f"{name}.yml"
    read = load_label_map(path)
    assert check_label_map(path) == []
    assert read.name == name
    assert [source.id for source in read.sources] == list(read.mapping) == list(range(55))
    assert len({source.name for source in read.sources}) == 55
    assert [cls.name for cls in read.classes] == CLASSES[name]
    sizes = Counter(read.mapping.values())
    assert [sizes[cls.id] for cls in read.classes] == SIZES[name]


# Machado, Oliveira and Fernandes 2009, table 1: full protanopia, deuteranopia, tritanopia; linear
# RGB.
SIGHTS = [
    np.eye(3),
    np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
]
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def _cielab(colour: str, sight: np.ndarray) -> np.ndarray:
    encoded = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    x, y, z = (TO_XYZ @ np.clip(sight @ linear, 0, 1)) / (0.9505, 1.0, 1.089)
    f = [np.cbrt(t) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def _least_distance(colours: list[str]) -> float:
    return min(
        float(np.linalg.norm(_cielab(a, sight) - _cielab(b, sight)))
        for sight in SIGHTS
        for a, b in itertools.combinations(colours, 2)
    )


def test_packed_colours_stay_apart_for_every_sight() -> None:
    for name in CLASSES:
        colours = [cls.colour for cls in load_label_map(packed_folder() / f"{name}.yml").classes]
        assert _least_distance(colours) > 24
        assert len({colours[0][1:3], colours[0][3:5], colours[0][5:7]}) == 1  # unknown is a grey
    assert _least_distance(list(PALETTE)) > 24
    assert _least_distance(["#ff0000", "#008000"]) < _least_distance(
        ["#0000ff", "#ffff00"]
    )  # the measure knows red from green


# --- laws

# Letters of all scripts, marks that compose, punctuation that YAML gives a meaning; never what
# reads as a number.
CHARACTERS = st.one_of(
    st.sampled_from(" ,:#'\"\\{}[]&*!|>%@`-?<~e\u0301\u00e9"),
    st.characters(categories=("L", "M", "N", "P", "S")),
)
NAMES = (
    st.text(CHARACTERS, min_size=1, max_size=12)
    .map(str.strip)
    .filter(lambda name: name_fault(name, -1) is None)
)
COLOURS = st.integers(0, 0xFFFFFF).map(lambda value: f"#{value:06x}")


@st.composite
def label_maps(draw: st.DrawFn) -> LabelMap:
    names = st.lists(
        NAMES, min_size=1, max_size=8, unique_by=lambda name: unicodedata.normalize("NFC", name)
    )
    labels, classes = (
        {draw(st.integers(0, limit)): name for name in draw(names)} for limit in (65_535, 255)
    )
    return LabelMap(
        draw(st.sampled_from(["map", "5", "label_map_5", "a b", "no", "caf\u00e9"])),
        tuple(SourceLabel(value, name) for value, name in labels.items()),
        tuple(
            TargetClass(cls, name, draw(COLOURS), draw(st.floats(0, 99)))
            for cls, name in classes.items()
        ),
        {cls: draw(st.sampled_from(sorted(classes))) for cls in labels},
    )


@given(label_maps())
@pytest.mark.slow
def test_every_map_survives_yaml_json_and_pickle(label_map: LabelMap) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = _file(Path(folder), format_label_map(label_map))
        again = load_label_map(path)
        assert again == label_map
        assert format_label_map(again) == format_label_map(label_map)
        assert {finding.code for finding in check_label_map(path)} <= {"HP506"}
        # Other readers of YAML see the same names.
        assert yaml.safe_load(path.read_text())["sources"] == {
            source.id: source.name for source in label_map.sources
        }
    assert LabelMap.from_json(label_map.to_json()) == label_map
    assert "\n" not in label_map.to_json()
    assert pickle.loads(pickle.dumps(label_map)) == label_map
    assert again.digest == label_map.digest


def test_names_that_yaml_would_change_are_written_in_quotes(tmp_path: Path) -> None:
    names = [
        "no",
        "Null",
        "Reactive, scar",
        "a: b",
        "a #b",
        "{x}",
        "'",
        '"',
        "\\",
        "*a",
        "- b",
        "?",
        "caf\u00e9 -",
        "\U0001f52c",
    ]
    sources = tuple(SourceLabel(item, name) for item, name in enumerate(names))
    classes = tuple(TargetClass(item, name, "#000000") for item, name in enumerate(names))
    written = LabelMap("m", sources, classes, {number: number for number in range(len(names))})
    path = _file(tmp_path, format_label_map(written))
    assert load_label_map(path) == written
    assert yaml.safe_load(path.read_text())["map"] == {name: name for name in names}


@given(label_maps())
def test_the_table_agrees_with_the_mapping_for_every_16_bit_value(label_map: LabelMap) -> None:
    table = label_map.lookup_table()
    assert (table.shape, table.dtype) == ((65_536,), np.int32)
    assert {int(item): int(table[item]) for item in np.flatnonzero(table >= 0)} == label_map.mapping
    assert set(np.unique(table[table < 0])) <= {-1}


@given(label_maps(), st.lists(st.integers(-70_000, 2**40), max_size=20))
def test_applying_to_any_integers_never_wraps(label_map: LabelMap, values: list[int]) -> None:
    ids = np.array([*values, *label_map.mapping], np.int64)
    assert label_map.apply_to_ids(ids).tolist() == [
        label_map.mapping.get(int(identifier), -1) for identifier in ids
    ]
    assert label_map.apply_to_ids(ids.reshape(1, -1)).shape == (1, len(ids))


def test_values_outside_16_bits_have_no_class() -> None:
    label_map = identity_map([0, 65_535])
    assert label_map.apply_to_ids(np.array([-65_537, -1, 0, 65_535, 65_536, 2**40])).tolist() == [
        -1,
        -1,
        0,
        65_535,
        -1,
        -1,
    ]
    assert label_map.apply_to_ids(np.array([255, 0], np.uint8)).tolist() == [-1, 0]


@given(label_maps(), st.data())
def test_composing_is_one_table_after_the_other(first: LabelMap, data: st.DataObject) -> None:
    targets = sorted(set(first.mapping.values()))
    drawn = data.draw(label_maps())
    second = LabelMap(
        "second",
        tuple(SourceLabel(target, first.class_name(target)) for target in targets),
        drawn.classes,
        {cls: data.draw(st.sampled_from([each.id for each in drawn.classes])) for cls in targets},
    )
    both = compose(first, second)
    values = np.array(sorted(first.mapping))
    np.testing.assert_array_equal(
        both.lookup_table()[values], second.lookup_table()[first.lookup_table()[values]]
    )
    assert (both.sources, both.classes) == (first.sources, second.classes)


@given(label_maps())
def test_composing_with_the_identity_changes_nothing_but_names(label_map: LabelMap) -> None:
    after = identity_map(cls.id for cls in label_map.classes)
    before = identity_map(label_map.mapping)
    assert compose(label_map, after, match_names=False).mapping == label_map.mapping
    assert compose(before, label_map, match_names=False).mapping == label_map.mapping


@given(label_maps(), label_maps())
def test_no_difference_means_equal_digests_and_the_reverse(a: LabelMap, b: LabelMap) -> None:
    assert diff(a, a) == []
    assert (diff(a, b) == []) == (a.digest == b.digest)
    assert [(item.what, item.id) for item in diff(a, b)] == [
        (item.what, item.id) for item in diff(b, a)
    ]


def test_composing_maps_for_other_masks_is_refused() -> None:
    five, ten = (load_label_map(packed_folder() / f"label_map_{k}.yml") for k in (5, 10))
    with pytest.raises(LabelMapError, match="has another name"):
        compose(ten, five)
    with pytest.raises(LabelMapError, match="does not list all classes"):
        compose(five, identity_map([0]))
    assert compose(ten, five, match_names=False).mapping[3] == 3


def test_diff_tells_what_differs(tmp_path: Path) -> None:
    a = load_label_map(_file(tmp_path, GOOD))
    changed = (
        GOOD.replace("2: 1", "2: 0")
        .replace("1: dermis\n", "1: skin\n")
        .replace("dermis: Tissue", "skin: Tissue")
    )
    changed = (
        changed.replace("name: Unknown", "name: None known")
        .replace("unknown: Unknown", "unknown: None known")
        .replace("1.5", "2")
    )
    b = load_label_map(
        _file(tmp_path, changed.replace("map:", "  2: New\nmap:").replace("999999", "aaaaaa"))
    )
    assert [(item.what, item.id, item.name, item.a, item.b) for item in diff(a, b)] == [
        ("label name", 1, "dermis", "dermis", "skin"),
        ("target", 2, "dermis, scar", "1 Tissue", "0 None known"),
        ("class name", 0, "Unknown", "Unknown", "None known"),
        ("colour", 0, "Unknown", "#999999", "#aaaaaa"),
        ("min_radius_px", 1, "Tissue", "1.5", "2.0"),
        ("class", 2, "New", "", "New"),
    ]


def test_the_digest_is_of_the_content_and_stays_the_same_between_versions(tmp_path: Path) -> None:
    plain = load_label_map(_file(tmp_path, GOOD))
    reworded = (
        GOOD.replace("2: 1", "dermis, scar: Tissue").replace("D55E00", '"#d55e00"')
        + "# a comment\n"
    )
    other = load_label_map(_file(tmp_path, "name: other\n" + reworded, "other.yml"))
    assert other.digest == plain.digest
    assert other != plain  # the name differs
    assert load_label_map(_file(tmp_path, GOOD.replace("2: 1", "2: 0"))).digest != plain.digest
    # Tables on disk hold digests: a change here makes them stale.
    assert (
        load_label_map(packed_folder() / "label_map_5.yml").digest
        == "7f64a910d791ff1d0dd7f5326f9fc8fc"
    )


# --- the map as a value


def test_an_impossible_map_cannot_be_made() -> None:
    labels = (SourceLabel(0, "a"), SourceLabel(1, "b"))
    item, two = TargetClass(0, "A", "#000000"), TargetClass(1, "B", "#000000")
    for sources, classes, mapping in (
        (labels, (item,), {0: 0}),
        (labels, (item,), {0: 0, 1: 0, 2: 0}),
        (labels, (item,), {0: 0, 1: 1}),
        ((*labels, SourceLabel(1, "c")), (item,), {0: 0, 1: 0}),
        ((*labels, SourceLabel(2, "a")), (item,), {0: 0, 1: 0, 2: 0}),
        (labels, (item, two, TargetClass(2, "A", "#000000")), {0: 0, 1: 0}),
    ):
        with pytest.raises(LabelMapError, match="HP50"):
            LabelMap("m", sources, classes, mapping)
    assert LabelMap("m", labels[::-1], (two, item), {1: 1, 0: 0}) == LabelMap(
        "m", labels, (item, two), {0: 0, 1: 1}
    )


@pytest.mark.parametrize("colour", ["red", "#FFFFFF", "#12345", "#1234567", ""])
def test_a_class_has_a_proper_colour(colour: str) -> None:
    with pytest.raises(LabelMapError):
        TargetClass(0, "A", colour)


@pytest.mark.parametrize("label_id", [-1, 1 << 32, 1.0, True, "1"])
def test_a_label_has_a_32_bit_id(label_id: int) -> None:
    with pytest.raises(LabelMapError):
        SourceLabel(label_id, "a")


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            "[]",
            "{}",
            "null",
            '{"name": 1}',
            '{"name": "a", "sources": [{"id": "0", "name": "a"}], "classes": [], "mapping": {}}',
        ],
        (
            '{"name": "a", "sources": [{"id": 0, "name": "a"}], "classes": [{"id": 0, "name": "A",'
            ' "colour": "#000000"}], "mapping": {"0": 0.5}}'
        ),
    ],
)
def test_foreign_json_is_refused(text: str) -> None:
    with pytest.raises(LabelMapError):
        LabelMap.from_json(text)


def test_identity_takes_any_16_bit_ids() -> None:
    read = identity_map(np.array([65_535, 0, 300, 300], np.uint16))
    assert read.mapping == {0: 0, 300: 300, 65_535: 65_535}
    assert [cls.name for cls in read.classes] == ["label 0", "label 300", "label 65535"]
    assert LabelMap.from_json(read.to_json()) == read
    assert identity_map([]).num_classes == 0


def test_default_colours_are_valid_and_differ_at_first() -> None:
    assert len({default_colour(number) for number in range(60)}) == 60
    assert all(TargetClass(number, "A", default_colour(number)) for number in range(2000))


def test_a_class_without_a_colour_gets_none_that_another_class_was_given(tmp_path: Path) -> None:
    given = {
        1: default_colour(3),
        2: default_colour(1),
        5: default_colour(4),
        7: default_colour(10),
    }
    described = {value: f', colour: "{colour}"' for value, colour in given.items()}
    lines = [
        f"  {item}: {{name: c{item}{described.get(item, '')}}}" for item in reversed(range(11))
    ]
    text = "\n".join(["sources: {0: s}", "classes:", *lines, "map: {s: c0}"])
    colours = {cls.id: cls.colour for cls in load_label_map(_file(tmp_path, text)).classes}
    assert len(set(colours.values())) == 11
    # 3, 4 and 10 give way in order; 2, 5 and 7 are what nobody has any more. All others keep
    # theirs.
    moved = {3: default_colour(2), 4: default_colour(5), 10: default_colour(7)}
    assert colours == {number: default_colour(number) for number in range(11)} | given | moved


def test_a_map_without_colours_has_the_defaults(tmp_path: Path) -> None:
    ids = [0, 1, 3, 9, 12, 255]
    text = "\n".join(
        [
            "sources: {0: s}",
            "classes:",
            *(f"  {identifier}: c{identifier}" for identifier in ids),
            "map: {s: c0}",
        ]
    )
    assert {cls.id: cls.colour for cls in load_label_map(_file(tmp_path, text)).classes} == {
        identifier: default_colour(identifier) for identifier in ids
    }


# --- finding a map


def test_the_search_goes_from_near_to_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, root = tmp_path / "here", tmp_path / "root"
    here.mkdir()
    root.mkdir()
    monkeypatch.chdir(here)
    assert find_label_map("label_map_5.yml", root).parent == packed_folder()
    assert find_label_map("label_map_5").name == "label_map_5.yml"
    in_root = _file(root, GOOD, "label_map_5.yml")
    assert find_label_map("label_map_5.yml", root) == in_root
    _file(here, GOOD, "label_map_5.yml")
    assert find_label_map("label_map_5.yml", root).resolve() == here / "label_map_5.yml"
    assert find_label_map(in_root, here) == in_root
    os.mkfifo(here / "label_map_10.yml")  # not a file to read
    assert find_label_map("label_map_10.yml").parent == packed_folder()


def test_a_map_that_is_not_there_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LabelMapError) as caught:
        find_label_map("label_mapp_5.yml", tmp_path / "data")
    text = str(caught.value)
    assert "perhaps you meant 'label_map_5.yml'" in text
    for place in (tmp_path, tmp_path / "data", packed_folder()):
        assert str(place) in text
    assert "histoprep map init" in text
    # A packed map is offered where it fits the labels, and nothing is known of these here.
    assert "label_map_10" not in text
    assert "source_labels.yml" not in text
