"""Labels to classes, a mask at a time: against numpy, at the limits, and every refusal in full."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from histoprep.choices import OnUnmapped
from histoprep.errors import BrokenFileError, UsageError
from histoprep.labels import LabelMap, SourceLabel, TargetClass, identity_map
from histoprep.labels.lookup import LabelLookup, MaskRemapper, unknown_class

BLACK = "#000000"
LABELS = (0, 3, 7, 300)
CLASSES = {0: 0, 3: 2, 7: 5, 300: 2}


def label_map(*names: str, ids: tuple[int, ...] = (0, 2, 5)) -> LabelMap:
    names = names or ("Unknown", "Tumour", "Stroma")
    return LabelMap(
        "three",
        tuple(SourceLabel(label, f"label {label}") for label in LABELS),
        tuple(TargetClass(number, name, BLACK) for number, name in zip(ids, names, strict=True)),
        {label: ids[(0, 2, 5).index(number)] for label, number in CLASSES.items()},
    )


REFUSE = LabelLookup.of(label_map(), OnUnmapped.ERROR)
UNKNOWN = LabelLookup.of(label_map(), OnUnmapped.UNKNOWN)


def png(labels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(labels).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(4, 6), (3, 5), (1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_pixel_gets_the_class_of_its_label(shape: tuple[int, int], dtype: type) -> None:
    known = [label for label in LABELS if label <= np.iinfo(dtype).max]
    labels = np.random.default_rng(1).choice(known, shape).astype(dtype)
    for lookup in (REFUSE, UNKNOWN):
        found = lookup.apply(labels)
        assert found.dtype == np.uint8
        assert found.tolist() == [[CLASSES[label] for label in row] for row in labels.tolist()]


def test_wide_masks_of_small_labels_are_read_alike() -> None:
    labels = np.array([[0, 3], [7, 3]], np.uint16)
    assert REFUSE.apply(labels).tolist() == [[0, 2], [5, 2]]


def test_labels_of_32_bits_are_looked_up_without_a_table_of_them() -> None:
    labels = np.array([[0, 3], [7, 300]], np.uint32)
    assert REFUSE.apply(labels).tolist() == [[0, 2], [5, 2]]
    labels[0, 0] = 4_000_000_000
    assert UNKNOWN.apply(labels).tolist() == [[0, 2], [5, 2]]
    assert UNKNOWN.count([3, 4_000_000_000], [5, 7]) == [7, 5, 0]
    with pytest.raises(BrokenFileError) as caught:
        REFUSE.apply(labels)
    assert caught.value.verdict == "HP501 unmapped-label"


@pytest.mark.parametrize("value", [1, 255, 299, 65_535])
def test_values_without_a_class_are_refused_or_unknown(value: int) -> None:
    labels = np.array([[0, value], [3, 7]], np.uint16)
    assert UNKNOWN.apply(labels).tolist() == [[0, 0], [2, 5]]
    with pytest.raises(BrokenFileError) as caught:
        REFUSE.apply(labels)
    assert str(caught.value) == "it holds values that are not in the tiles table"
    assert caught.value.verdict == "HP501 unmapped-label"


def test_the_unknown_class_may_have_any_id() -> None:
    lookup = LabelLookup.of(label_map("A", "B", "UNKNOWN"), OnUnmapped.UNKNOWN)
    assert lookup.apply(np.array([[9]], np.uint8)).tolist() == [[5]]
    assert lookup.no_class is None


def test_a_map_of_all_bytes_refuses_nothing() -> None:
    every = LabelMap(
        "all",
        tuple(SourceLabel(number, f"l{number}") for number in range(256)),
        tuple(TargetClass(number, f"c{number}", BLACK) for number in range(256)),
        {number: number for number in range(256)},
    )
    lookup = LabelLookup.of(every, OnUnmapped.ERROR)
    assert lookup.no_class is None
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(lookup.apply(labels), labels)


def test_the_mark_of_no_class_is_the_largest_free_byte() -> None:
    assert REFUSE.no_class == 255
    top = LabelLookup.of(label_map(ids=(0, 254, 255)), OnUnmapped.ERROR)
    assert top.no_class == 253
    assert (
        top.class_ids == (0, 254, 255)
        and top.note == f"three {label_map(ids=(0, 254, 255)).digest}"
    )


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (np.zeros((2, 2, 3), np.uint8), "no class map: uint8 of 3 dimensions"),
        (np.zeros((2, 2), np.float32), "no class map: float32 of 2 dimensions"),
    ],
)
def test_what_is_no_class_map_is_refused(labels: np.ndarray, text: str) -> None:
    with pytest.raises(BrokenFileError) as caught:
        REFUSE.apply(labels)
    assert str(caught.value) == text and caught.value.verdict == "HP402 mask-wrong-mode"


def test_pixels_of_labels_become_pixels_of_classes() -> None:
    assert REFUSE.class_ids == (0, 2, 5)
    assert REFUSE.count([0, 3, 300], [10, 4, 5]) == [10, 9, 0]
    with pytest.raises(ValueError, match="zip"):
        REFUSE.count([0, 3], [1])


def test_classes_above_a_byte_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        LabelLookup.of(identity_map([0, 256]), OnUnmapped.ERROR)
    assert str(caught.value) == (
        "HP505 map-overflow: new masks have 8 bits\n"
        "  seen: class 256 of identity\n"
        "  expected: class ids 0 to 255"
    )


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("Rest", "unknown", "Stroma"), 2),
        (("Void", "A", "B"), 0),
        (("Unlabelled", "A", "B"), 0),
        (("Ignored", "A", "B"), 0),
        (("undefined", "Unknown", "B"), 2),
    ],
)
def test_the_class_for_values_that_nobody_listed(names: tuple[str, ...], found: int) -> None:
    assert unknown_class(label_map(*names)).id == found


def test_without_such_a_class_unknown_values_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        unknown_class(label_map("Rest", "Void", "B"))
    assert str(caught.value) == (
        "--on-unmapped unknown needs a class for unknown values, and three has none\n"
        "  seen: 0 Rest, 2 Void, 5 B\n"
        "  expected: a class called Unknown, or a class 0 named like it\n"
        "  try: add such a class to the label map, or list the values"
    )


def test_remapped_files_hold_classes_and_the_map() -> None:
    remapper = MaskRemapper(REFUSE)
    labels = np.array([[0, 3, 7]], np.uint8)
    written = remapper(png(labels), "a")
    with Image.open(io.BytesIO(written)) as image:
        assert np.asarray(image).tolist() == [[0, 2, 5]]
        assert REFUSE.note in image.info.values()
    assert remapper(b"not read again", "a") is written
    with Image.open(io.BytesIO(remapper.zeros(2, 3))) as image:
        assert image.size == (3, 2) and not np.asarray(image).any()
    assert remapper.zeros(2, 3) is remapper.zeros(2, 3)


def test_only_the_last_256_masks_are_remembered() -> None:
    remapper = MaskRemapper(REFUSE)
    data = png(np.array([[3]], np.uint8))
    first = remapper(data, 0)
    for key in range(1, 256):
        remapper(data, key)
    assert remapper(data, 0) is first
    remapper(data, 256)
    assert remapper(data, 0) is not first
