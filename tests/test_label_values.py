"""Label maps of ranges, lists, colours, a default and ignored values: what may be written, what is
refused, and the same classes as a plain Python dictionary gives.
"""

from __future__ import annotations

import json
import pickle
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_remap import make_set, remapped, scanned, tree

from histoprep.choices import OnUnmapped
from histoprep.errors import BrokenFileError, LabelMapError, UsageError
from histoprep.labels import (
    IGNORED,
    UNMAPPED,
    LabelMap,
    SourceLabel,
    TargetClass,
    check_label_map,
    compose,
    diff,
    format_label_map,
    identity_map,
    load_label_map,
    packed_folder,
)
from histoprep.labels.lookup import LabelLookup
from histoprep.labels.values import MAX_SOURCE_ID, complement, merged
from histoprep.remapping import RemapOptions

RANGES = """\
sources:
  0: background
  1-400: nucleus
  500, 502, 510-519: vessel
  4294967295: artefact
ignore: [65535, 600-610]
classes:
  0: {name: Background, colour: "#999999"}
  1: Nucleus
  2: Vessel
map:
  background: Background
  1-400: Nucleus
  vessel: 2
  4294967295: 0
"""
COLOURS = """\
sources:
  "#000000": background
  "#FF0000, #ff8000": tumour
  "*": other
ignore: ["#ffffff"]
classes: {0: Background, 1: Tumour, 2: Other}
map:
  "#000000": Background
  tumour: Tumour
  "*": Other
"""


def _file(folder: Path, text: str, name: str = "map.yml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def _load(folder: Path, text: str) -> LabelMap:
    return load_label_map(_file(folder, text))


def _refusal(folder: Path, text: str) -> LabelMapError:
    with pytest.raises(LabelMapError) as caught:
        _load(folder, text)
    return caught.value


def test_ranges_and_lists_stand_for_all_their_values(tmp_path: Path) -> None:
    read = _load(tmp_path, RANGES)
    classes = {
        0: 0, 1: 1, 400: 1, 401: -1, 499: -1, 500: 2, 501: -1, 502: 2, 509: -1, 510: 2, 519: 2,
        520: -1, 599: -1, 600: -2, 610: -2, 611: -1, 65_534: -1, 65_535: -2, 65_536: -1,
        MAX_SOURCE_ID - 1: -1, MAX_SOURCE_ID: 0,
    }  # fmt: skip
    assert {value: read.class_of(value) for value in classes} == classes
    ids = np.array(list(classes), np.uint32)
    assert read.apply_to_ids(ids).tolist() == list(classes.values())
    assert read.lookup_table()[ids[ids < 1 << 16]].tolist() == [
        classes[int(value)] for value in ids if value < 1 << 16
    ]
    assert read.unlisted([7, 700, 650, 600, 700]) == [650, 700]
    assert [read.values_of(source) for source in read.sources] == [
        "0", "1-400", "500, 502, 510-519", "4294967295",
    ]  # fmt: skip
    assert (read.source_name(0), read.source_name(17), read.source_name(601)) == (
        "background",
        "nucleus 17",
        "label 601",
    )
    assert check_label_map(tmp_path / "map.yml") == []


def test_colours_are_ids_and_the_rest_is_everything_else(tmp_path: Path) -> None:
    read = _load(tmp_path, COLOURS)
    assert read.colour_sources and read.rest == read.sources[1]
    assert read.apply_to_ids(
        np.array([0, 0xFF0000, 0xFF8000, 0xFFFFFF, 1, 0xFF0001, MAX_SOURCE_ID], np.uint32)
    ).tolist() == [0, 1, 1, IGNORED, 2, 2, 2]
    assert read.unlisted(range(1000)) == []
    assert [read.values_of(source) for source in read.sources] == [
        "#000000", "*", "#ff0000, #ff8000",
    ]  # fmt: skip
    text = format_label_map(read)
    assert '"#ff0000, #ff8000": tumour' in text and 'ignore: ["#ffffff"]' in text
    assert '  "*": other' in text


def test_numbers_and_colours_of_one_meaning_are_one_map(tmp_path: Path) -> None:
    colours = _load(tmp_path, 'sources:\n  "#0000ff": a\nclasses: {0: A}\nmap: {a: A}\n')
    numbers = _load(tmp_path, "sources:\n  255: a\nclasses: {0: A}\nmap: {a: A}\n")
    assert colours.digest == numbers.digest and diff(colours, numbers) == []


PLAIN = {
    "numbers": ("0: 0\n1: 2\n", {0: 0, 1: 2}, ()),
    "one line": ("{0: 0, 1: 2, 2: 2}\n", {0: 0, 1: 2, 2: 2}, ()),
    "ranges": ("0: 0\n1-3: 1\n5, 7: 2\n", {0: 0, 1: 1, 2: 1, 3: 1, 5: 2, 7: 2}, ()),
    "ignored": ("0: 0\n1: 1\nignore: 255\n", {0: 0, 1: 1}, ((255, 255),)),
    "colours": ('"#000000": 0\n"#0000ff": 1\n', {0: 0, 255: 1}, ()),
}


@pytest.mark.parametrize("case", PLAIN)
def test_a_plain_table_is_a_map(tmp_path: Path, case: str) -> None:
    text, classes, ignore = PLAIN[case]
    read = _load(tmp_path, text)
    assert {value: read.class_of(value) for value in range(300)} == {
        value: classes.get(value, IGNORED if (value, value) in ignore else UNMAPPED)
        for value in range(300)
    }
    assert read.ignore == ignore
    assert [cls.name for cls in read.classes] == [
        f"class {number}" for number in sorted(set(classes.values()))
    ]


def test_a_plain_table_may_have_a_name_and_a_rest(tmp_path: Path) -> None:
    read = _load(tmp_path, 'name: nuclei\n0: 0\n"*": 1\n')
    assert (read.name, read.class_of(0), read.class_of(123_456)) == ("nuclei", 0, 1)
    assert read.rest is not None and read.rest.name == "other values"
    assert {problem.code for problem in check_label_map(_file(tmp_path, "0: 0\n1: 3\n"))} == {
        "HP506"
    }
    assert "HP505" in _refusal(tmp_path, "0: 0\n1: 256\n").what


CLASSES = "classes: {0: A}\nmap: {a: A}\n"
# Text: a word of the message, the line to blame, what it says to do.
REFUSED = {
    "short colour": ('sources:\n  "#f00": a\n', "three digits", 2, "six hexadecimal"),
    "colour with alpha": ('sources:\n  "#ff0000ff": a\n', "alpha", 2, "six hexadecimal"),
    "no colour": ('sources:\n  "#red": a\n', "not #rrggbb", 2, "six hexadecimal"),
    "range of colours": ('sources:\n  "#000000-#ffffff": a\n', "no range", 2, "six hexadecimal"),
    "bare colour": ("sources:\n  0: a\n  #ff0000: b\n", "a comment", 3, "in quotes"),
    "colour as a triple": ("sources:\n  255, 0, 0: a\n", "0 twice", 2, "six hexadecimal"),
    "list in brackets": ("sources:\n  [3, 7, 9]: a\n", "cannot be a key", 2, "without brackets"),
    "thousands": ("sources:\n  1,200: a\n", "thousands separator", 2, "a blank after each comma"),
    "comma at the end": ("sources:\n  3, 7,: a\n", "comma too many", 2, "3, 7, 9"),
    "range that goes down": ("sources:\n  9-3: a\n", "must go up", 2, "3-9"),
    "range of one": ("sources:\n  3-3: a\n", "must go up", 2, "3"),
    "range from zero zero": ("sources:\n  00-3: a\n", "leading zero", 2, "digits only"),
    "range too far": ("sources:\n  0-4294967296: a\n", "too large", 2, "4294967295"),
    "long dash": ("sources:\n  1\u2013400: a\n", "not a number", 2, "a range 1-400"),
    "value twice in a list": ("sources:\n  3, 1-5: a\n", "3 twice", 2, ""),
    "mixed in a list": ('sources:\n  "3, #ff0000": a\n', "mixes", 2, "alone"),
    "mixed": ('sources:\n  3: a\n  "#ff0000": b\n', "mixed", 3, "alone"),
    "mixed with ignored": ('sources:\n  "#ff0000": a\nignore: [255]\n', "mixed", 3, "alone"),
    "range alone": ("sources:\n  0-3: a\n", "needs a class", 2, "sources, classes and map"),
    "rest alone": ('sources:\n  0: a\n  "*": b\n', "needs a class", 3, "sources, classes"),
    "colour alone": ('sources:\n  "#ff0000": a\n', "needs a class", 2, "sources, classes and map"),
    "no rest": (f'sources:\n  0-4294967295: a\n  "*": b\n{CLASSES}', "no value", 3, ""),
    "nothing ignored": ("sources:\n  0: a\nignore: []\n", "is empty", 3, "ignore: [255]"),
    "nothing ignored, bare": ("sources:\n  0: a\nignore:\n", "is empty", 3, "ignore: [255]"),
    "everything ignored": ('sources:\n  0: a\nignore: ["*"]\n', "cannot be ignored", 3, "[255]"),
    "ignored by name": ("sources:\n  0: a\nignore: [void]\n", "not a number", 3, "a number"),
    "ignored table": ("sources:\n  0: a\nignore: {255: void}\n", "a table", 3, "one value"),
    "list of lists": ("sources:\n  0: a\nignore: [[255]]\n", "values alone", 3, "[255]"),
    "names in a plain table": ("0: background\n1: tumour\n", "not a plain number", 1, "sources:"),
    "key beside a plain table": ("0: 0\ntumour: 1\n", "not a number", 2, "a range"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_says_where_and_what_to_write(tmp_path: Path, case: str) -> None:
    text, words, line, advice = REFUSED[case]
    error = _refusal(tmp_path, text)
    assert words in error.what
    assert error.path == f"{tmp_path / 'map.yml'}:{line}"
    assert advice in f"{error.expected} {error.hint}"


MAP = "classes: {0: A, 1: B}\nmap:\n  a: A\n  b: B\n"
OVERLAPS = {
    "two ranges": (
        f"sources:\n  0-9: a\n  5-12: b\n{MAP}",
        "source labels 0-9 (line 2) and 5-12 (line 3) overlap: both list 5",
        3,
    ),
    "range and number": (
        f"sources:\n  7: b\n  0-9: a\n{MAP}",
        "source labels 7 (line 2) and 0-9 (line 3) overlap: both list 7",
        3,
    ),
    "equal beginnings": (
        f"sources:\n  0-9: a\n  0: b\n{MAP}",
        "source labels 0-9 (line 2) and 0 (line 3) overlap: both list 0",
        3,
    ),
    "colours": (
        f'sources:\n  "#00ff00": a\n  "#0000ff, #00ff00": b\n{MAP}',
        "source labels #00ff00 (line 2) and #0000ff, #00ff00 (line 3) overlap: both list #00ff00",
        3,
    ),
    "ignored label": (
        f"sources:\n  0: a\n  250-255: b\nignore: [255]\n{MAP}",
        "the value 255 is ignored (line 4) and of source label 250-255 (line 3)",
        4,
    ),
    "ignored twice": (
        f"sources:\n  0: a\n  1: b\nignore:\n- 250-255\n- 255\n{MAP}",
        "the value 255 is ignored twice, in line 5 and line 6",
        6,
    ),
    "two defaults": (
        f'sources:\n  0: a\n  "*": b\n  "*": c\n{MAP}',
        '"*" is listed twice, in line 3 and line 4',
        4,
    ),
    "class of ignored pixels": (
        "sources:\n  0: a\n  1: b\nignore: 9\nclasses: {0: A, 255: B}\nmap:\n  a: A\n  b: B\n",
        "class 255 (B) has the number of ignored pixels in new masks: give it another, or leave out"
        " `ignore:` (line 4)",
        5,
    ),
}


@pytest.mark.parametrize("case", OVERLAPS)
def test_what_collides_is_a_problem_with_both_lines(tmp_path: Path, case: str) -> None:
    text, message, line = OVERLAPS[case]
    problems = check_label_map(_file(tmp_path, text))
    [problem] = [each for each in problems if each.code == "HP504"]
    assert (problem.message, problem.line) == (message, line)


def test_parts_of_a_range_cannot_be_mapped_alone(tmp_path: Path) -> None:
    text = RANGES.replace("  1-400: Nucleus\n", "  17: Nucleus\n")
    messages = [problem.message for problem in check_label_map(_file(tmp_path, text))]
    assert messages == [
        "source label 1-400 (nucleus) has no class",
        "the map lists 17, which is no source label of its own; it belongs to 1-400 (nucleus)",
    ]


def test_a_name_that_reads_as_values_is_a_name(tmp_path: Path) -> None:
    text = "sources:\n  0: 1-2\n  1: '#ff0000'\n  2: '*'\nclasses: {0: A}\nmap:\n"
    read = _load(tmp_path, text + "  1-2: A\n  '#ff0000': A\n  '*': A\n")
    assert dict(read.mapping) == {0: 0, 1: 0, 2: 0}
    both = "sources:\n  0: 1-2\n  1-2: b\nclasses: {0: A}\nmap:\n  1-2: A\n  b: A\n"
    assert "ambiguous" in _refusal(tmp_path, both).what


def test_a_list_of_source_labels_may_have_ranges_and_a_default(tmp_path: Path) -> None:
    _file(tmp_path, 'sources:\n  0: a\n  1-9: b\n  "*": c\n', "labels.yml")
    text = "sources: labels.yml\nignore: [255]\nclasses: {0: A, 1: B}\nmap: {a: A, b: B, c: B}\n"
    read = _load(tmp_path, text)
    assert [read.class_of(value) for value in (0, 9, 10, 255, 1 << 20)] == [0, 1, 1, IGNORED, 1]
    missing = _file(tmp_path, text.replace(", c: B", ""))
    assert [(problem.code, problem.line) for problem in check_label_map(missing)] == [
        ("HP503", None)
    ]


def test_older_formats_take_single_numbers_alone(tmp_path: Path) -> None:
    _file(tmp_path, "sources:\n  0: a\n  1-9: b\n", "source_labels.yml")
    error = _refusal(tmp_path, "classes:\n  class_to_int:\n    a: 0\n    b: 1\n")
    assert "single numbers" in error.what and error.seen == "1-9"


# --- the map itself


def test_differences_are_spelt_as_the_maps_spell_them(tmp_path: Path) -> None:
    first = _load(tmp_path, COLOURS)
    other = _load(tmp_path, COLOURS.replace(", #ff8000", "").replace("#ffffff", "#eeeeee"))
    differences = diff(first, other)
    found = {item.what: (item.a, item.b) for item in differences}
    values = {item.name: (item.a, item.b) for item in differences if item.what == "label values"}
    assert values["tumour"] == ("#ff0000, #ff8000", "#ff0000")
    assert values["other"][0].endswith("#ff8001-#fffffe, #1000000-#ffffffff")
    assert found["ignored"] == ("#ffffff", "#eeeeee")


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("label_map_5", "7f64a910d791ff1d0dd7f5326f9fc8fc"),
        ("label_map_10", "8d3de2fc9b1c2452e851e4e14df66358"),
    ],
)
def test_maps_without_any_of_this_keep_their_digest(name: str, digest: str) -> None:
    label_map = load_label_map(packed_folder() / f"{name}.yml")
    assert label_map.digest == digest
    assert set(json.loads(label_map.to_json())) == {"name", "sources", "classes", "mapping"}
    assert all(set(each) == {"id", "name"} for each in json.loads(label_map.to_json())["sources"])


def test_maps_written_before_are_read() -> None:
    identity = identity_map([0, 3, 255, 65_535])
    assert identity.digest == "3bc9cee17ed59aeca8cec305b6d51585"
    old = (
        '{"name": "identity", "sources": [{"id": 0, "name": "label 0"}, {"id": 3, "name": "label 3"'
        '}], "classes": [{"id": 0, "name": "label 0", "colour": "#999999", "min_radius_px": 2.0}, '
        '{"id": 3, "name": "label 3", "colour": "#d55e00", "min_radius_px": 2.0}], "mapping": {"0":'
        ' 0, "3": 3}}'
    )
    assert LabelMap.from_json(old) == identity_map([0, 3])
    assert identity_map([0, 3]).to_json() == old


A, BLACK = (TargetClass(0, "A", "#000000"),), "#000000"
UNUSABLE = {
    "range down": lambda: SourceLabel(0, "a", ((0, 0), (9, 3))),
    "ranges that overlap": lambda: SourceLabel(0, "a", ((0, 5), (3, 9))),
    "range too far": lambda: SourceLabel(0, "a", ((0, 1 << 32),)),
    "no pairs": lambda: SourceLabel(0, "a", ((0,),)),  # type: ignore[arg-type]
    "another first value": lambda: SourceLabel(1, "a", ((0, 5),)),
    "labels that overlap": lambda: LabelMap(
        "m", (SourceLabel(0, "a", ((0, 5),)), SourceLabel(3, "b")), A, {0: 0, 3: 0}
    ),
    "ignored label": lambda: LabelMap("m", (SourceLabel(0, "a"),), A, {0: 0}, ((0, 0),)),
    "ignored nonsense": lambda: LabelMap("m", (SourceLabel(0, "a"),), A, {0: 0}, (7,)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_map_is_unambiguous_by_construction(case: str) -> None:
    with pytest.raises(LabelMapError):
        UNUSABLE[case]()


# Few values, so that ranges meet, and ends of the tables of 8, 16 and 32 bits.
VALUES = st.one_of(
    st.integers(0, 40), st.sampled_from([254, 255, 256, 65_535, 65_536, 65_537, MAX_SOURCE_ID])
)


@st.composite
def wide_maps(draw: st.DrawFn) -> tuple[LabelMap, dict[int, int], int | None]:
    """Return a map, the class of each value that it lists or ignores, and the class of the rest."""
    rest = draw(st.booleans())
    owners: dict[int, int] = {}
    num_classes = draw(st.integers(1, 5))
    for value in draw(st.lists(VALUES, min_size=1, max_size=30, unique=True)):
        owners[value] = draw(st.integers(-1, 5))
    labels: dict[int, list[int]] = {}
    for value, owner in owners.items():
        labels.setdefault(owner, []).append(value)
    ignore = merged((value, value) for value in labels.pop(-1, ()))
    sources, classes = [], {}
    for owner, values in labels.items():
        ranges = merged((value, value) for value in values)
        sources.append(SourceLabel(ranges[0][0], f"label {owner}!", ranges))
        classes[ranges[0][0]] = owner % num_classes
    expected = {
        value: IGNORED if owner < 0 else owner % num_classes for value, owner in owners.items()
    }
    left = complement((value, value) for value in owners)
    if rest:
        sources.append(SourceLabel(left[0][0], "rest", left))
        classes[left[0][0]] = 0
    targets = tuple(TargetClass(number, f"class {number}!", BLACK) for number in range(num_classes))
    made = LabelMap("wide", tuple(sources), targets, classes, ignore)
    return made, expected, 0 if rest else None


@given(wide_maps())
def test_every_map_of_ranges_survives_yaml_json_and_pickle(
    case: tuple[LabelMap, dict[int, int], int | None],
) -> None:
    label_map = case[0]
    if label_map.sources:
        with tempfile.TemporaryDirectory() as folder:
            again = _load(Path(folder), format_label_map(label_map))
            assert again == label_map and again.digest == label_map.digest
    assert LabelMap.from_json(label_map.to_json()) == label_map
    assert pickle.loads(pickle.dumps(label_map)) == label_map
    assert hash(label_map) == hash(LabelMap.from_json(label_map.to_json()))


@given(wide_maps())
def test_maps_of_colours_survive_yaml_and_json(
    case: tuple[LabelMap, dict[int, int], int | None],
) -> None:
    label_map, expected, _ = case
    assume(label_map.sources and max(expected) <= 0xFFFFFF)
    colours = replace(label_map, colour_sources=True)
    with tempfile.TemporaryDirectory() as folder:
        assert _load(Path(folder), format_label_map(colours)) == colours
    assert LabelMap.from_json(colours.to_json()) == colours
    assert colours.digest == label_map.digest


@given(wide_maps(), st.sampled_from([np.uint8, np.uint16, np.uint32]), st.data())
def test_classes_are_those_of_a_dictionary(
    case: tuple[LabelMap, dict[int, int], int | None], dtype: type, data: st.DataObject
) -> None:
    label_map, expected, rest = case
    values = data.draw(
        st.lists(VALUES.filter(lambda value: value <= np.iinfo(dtype).max), min_size=1, max_size=40)
    )
    wanted = [expected.get(value, UNMAPPED if rest is None else rest) for value in values]
    labels = np.array(values, dtype)
    assert label_map.apply_to_ids(labels).tolist() == wanted
    # Large arrays go another way.
    many = np.resize(labels, 1 << 16)
    assert (
        label_map.apply_to_ids(many)[-len(values) :].tolist()
        == np.resize(wanted, 1 << 16)[-len(values) :].tolist()
    )
    assert [label_map.class_of(value) for value in values] == wanted
    lookup = LabelLookup.of(label_map, OnUnmapped.ERROR)
    if UNMAPPED in wanted:
        with pytest.raises(BrokenFileError, match="not in the tiles table"):
            lookup.apply(labels[None])
    else:
        found = lookup.apply(labels[None])
        assert found.dtype == np.uint8
        assert found[0].tolist() == [255 if cls == IGNORED else cls for cls in wanted]
    distinct = sorted(set(values) - {each for each in values if expected.get(each, rest) is None})
    pixels = list(range(1, len(distinct) + 1))
    counts = dict.fromkeys(lookup.class_ids, 0)
    for value, number in zip(distinct, pixels, strict=True):
        cls = expected.get(value, rest)
        assert cls is not None
        if cls != IGNORED:
            counts[cls] += number
    assert lookup.count(distinct, pixels) == list(counts.values())


@given(wide_maps())
def test_ignored_values_stay_ignored_when_maps_are_joined(
    case: tuple[LabelMap, dict[int, int], int | None],
) -> None:
    first, expected, _ = case
    second = LabelMap(
        "second",
        (SourceLabel(1, "b", ((1, 9),)),),
        (TargetClass(7, "B", BLACK),),
        {1: 7},
        ((0, 0),),
    )
    both = compose(first, second)
    assert {value: both.class_of(value) for value in expected} == {
        value: IGNORED if cls in (0, IGNORED) else 7 for value, cls in expected.items()
    }


def test_unknown_values_may_get_a_class_beside_ignored_ones() -> None:
    label_map = LabelMap(
        "m", (SourceLabel(1, "a"),), (TargetClass(3, "Unknown", BLACK),), {1: 3}, ((255, 255),)
    )
    labels = np.array([[1, 255, 9, 70_000]], np.uint32)
    assert LabelLookup.of(label_map, OnUnmapped.UNKNOWN).apply(labels).tolist() == [[3, 255, 3, 3]]


def test_a_class_255_beside_ignored_values_is_refused_before_work_begins() -> None:
    label_map = LabelMap(
        "m", (SourceLabel(1, "a"),), (TargetClass(255, "A", BLACK),), {1: 255}, ((9, 9),)
    )
    with pytest.raises(UsageError, match="number of ignored pixels"):
        LabelLookup.of(label_map, OnUnmapped.ERROR)


def test_ignored_bytes_alone_leave_an_identity_one() -> None:
    same = LabelMap(
        "m", (SourceLabel(1, "a"),), (TargetClass(1, "A", BLACK),), {1: 1}, ((255, 255),)
    )
    assert same.is_identity
    assert not LabelMap("m", same.sources, same.classes, {1: 1}, ((9, 9),)).is_identity


# --- the same map, written out


def test_a_range_and_its_lines_make_the_same_tree(tmp_path: Path) -> None:
    workspace = scanned(tmp_path / "data") if make_set(tmp_path / "data") else None
    assert workspace is not None
    short = _load(
        tmp_path, "sources:\n  0: a\n  1-5, 9: b\n  11: c\nclasses: {0: A, 1: B}\n"
        "map:\n  a: A\n  b: B\n  c: A\n"
    )  # fmt: skip
    lines = "".join(f"  {value}: b{value}\n" for value in (1, 2, 3, 4, 5, 9))
    mapped = "".join(f"  {value}: B\n" for value in (1, 2, 3, 4, 5, 9))
    long = _load(
        tmp_path, f"sources:\n  0: a\n{lines}  11: c\nclasses: {{0: A, 1: B}}\n"
        f"map:\n  a: A\n{mapped}  c: A\n"
    )  # fmt: skip
    assert short.digest != long.digest
    trees = []
    for label_map in (short, long):
        out = tmp_path / label_map.digest
        result = remapped(workspace, RemapOptions(out), label_map)
        assert result.num_failed == 0
        files = tree(out)
        masks = {name: data for name, data in files.items() if name.endswith(".png")}
        # The note in a mask holds the digest, and a checksum of the chunk that holds it.
        trees.append({name: _without_note(data, label_map) for name, data in masks.items()})
    assert trees[0] and trees[0] == trees[1]


def _without_note(data: bytes, label_map: LabelMap) -> bytes:
    start = data.index(label_map.digest.encode())
    return data[:start] + data[start + len(label_map.digest) + 4 :]
