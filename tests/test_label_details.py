"""What small functions about labels return, value by value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histoprep.labels import (
    LabelMap,
    SourceLabel,
    TargetClass,
    default_map,
    diff,
    find_label_map,
    identity_map,
    maps_in,
)
from histoprep.labels.model import core_present
from histoprep.labels.wrapped import wrapped_cause, wrapped_modulus

BLACK, WHITE = "#000000", "#ffffff"
A, B = TargetClass(0, "A", BLACK), TargetClass(1, "B", WHITE)


def labels(*names: str) -> tuple[SourceLabel, ...]:
    return tuple(SourceLabel(number, name) for number, name in enumerate(names))


def test_labels_and_classes_of_one_map_alone_are_differences() -> None:
    small = LabelMap("small", labels("a"), (A,), {0: 0})
    large = LabelMap("large", labels("a", "b", "c"), (A, B), {0: 0, 1: 1, 2: 0})
    found = [(item.what, item.id, item.name, item.a, item.b) for item in diff(small, large)]
    assert found == [
        ("label", 1, "b", "", "1 B"),
        ("label", 2, "c", "", "0 A"),
        ("class", 1, "B", "", "B"),
    ]
    found = [(item.what, item.id, item.name, item.a, item.b) for item in diff(large, small)]
    assert found == [
        ("label", 1, "b", "1 B", ""),
        ("label", 2, "c", "0 A", ""),
        ("class", 1, "B", "B", ""),
    ]


def test_later_classes_are_compared_after_one_that_a_map_lacks() -> None:
    first = LabelMap("m", labels("a"), (TargetClass(1, "B", BLACK), A), {0: 0})
    second = LabelMap(
        "m", labels("a"), (TargetClass(1, "B", BLACK), A, TargetClass(2, "C", WHITE)), {0: 0}
    )
    third = LabelMap("m", labels("a"), (TargetClass(2, "D", WHITE), A), {0: 0})
    assert [(item.what, item.id) for item in diff(first, second)] == [("class", 2)]
    assert [(item.what, item.id) for item in diff(first, third)] == [("class", 1), ("class", 2)]
    assert [(item.what, item.id) for item in diff(second, third)] == [
        ("class", 1),
        ("class name", 2),
    ]


def test_equal_maps_have_equal_hashes_and_others_do_not() -> None:
    one_map, same = (LabelMap("m", labels("a"), (A,), {0: 0}) for _ in range(2))
    other = LabelMap("m", labels("b"), (A,), {0: 0})
    assert hash(one_map) == hash(same) != hash(other)


@pytest.mark.parametrize(
    ("core_pixels", "radius_px", "least", "present"),
    [
        (0, 9.0, 2.0, False),
        (1, 0.0, 2.0, True),
        (2, 0.0, 2.0, True),
        (0, 1.0, 1.0, False),
        (0, 1.1, 1.0, True),
        (9, 1.0, 1.0, False),
        (9, 3.0, 3.5, False),
        (0, 3.6, 3.5, True),
    ],
)
def test_a_label_is_present_by_its_core_or_by_its_radius(
    core_pixels: int, radius_px: float, least: float, present: bool
) -> None:
    found = core_present(np.array([core_pixels]), np.array([radius_px]), np.array([least]))
    assert found.tolist() == [present]


def test_the_only_map_of_a_data_set_is_its_default(tmp_path: Path) -> None:
    assert default_map(tmp_path) is None and maps_in(tmp_path) == []
    for name in ("map.yml", "label_map.txt", "my_label_map.yml"):
        (tmp_path / name).touch()
    assert default_map(tmp_path) is None
    first = tmp_path / "label_map_b.yaml"
    first.touch()
    assert default_map(tmp_path) == first
    second = tmp_path / "label_map_a.yml"
    second.touch()
    assert maps_in(tmp_path) == [second, first]
    assert default_map(tmp_path) is None


@pytest.mark.parametrize("suffix", [".yml", ".yaml"])
def test_the_suffix_may_be_left_out(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"mine{suffix}"
    path.touch()
    assert find_label_map("mine", tmp_path) == path
    assert find_label_map(f"mine{suffix}", tmp_path) == path


@pytest.mark.parametrize(
    ("values", "known", "modulus"),
    [
        ([0, 255, 254], [0, 1, 2], 256),
        ([255, 254], [1, 2, 3], 256),
        ([255], [1, 2], None),
        ([0, 255, 254], [1], None),
        ([0, 255, 254], [1, 2, 255], None),
        ([65_535, 65_534], [1, 2], 65_536),
        ([255, 300], [1, 2], None),
        ([256, 255], [1, 0], None),
        ([255, 253, 251, 250], None, 256),
        ([128, 130], None, None),
        ([65_535, 65_530], None, 65_536),
        ([1, 2], None, None),
        # (256 / 25)^3 = 1074 and (256 / 26)^3 = 955 against 1,000.
        ([255, 254, 231], None, 256),
        ([255, 254, 230], None, None),
        # A foreground, and one other value that is near to it.
        ([0, 255, 253], None, None),
        ([255, 254], None, 256),
    ],
)
def test_labels_stored_as_a_modulus_less_the_label(
    values: list[int], known: list[int] | None, modulus: int | None
) -> None:
    label_map = identity_map(known) if known is not None else None
    assert wrapped_modulus(values, label_map) == modulus


def test_the_cause_names_at_most_eight_labels_in_order() -> None:
    text = (
        "Values are {} - k for labels k ({}): R's writePNG and writeTIFF store a matrix of labels"
        " so, since they expect 0 to 1."
    )
    assert wrapped_cause([0, 253, 255], 256) == text.format("256", "1, 3")
    many = [65_536 - label for label in range(12, 0, -1)]
    assert wrapped_cause(many, 65_536) == text.format("65,536", "1, 2, 3, 4, 5, 6, 7, 8")
