"""What is compiled gives what numpy and OpenCV give, bit for bit."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from histoprep import imageio, native
from histoprep.imageio import png
from histoprep.lossy.onsets import best_offset, find_enlarged
from histoprep.neighbours.landmarks import NUM_NUMBERS, UNIT, find_landmarks
from histoprep.neighbours.overlaps import nearest_by_tree
from histoprep.neighbours.placement import correlates, turned
from histoprep.tiles.measure import measure_mask

ROOT = Path(__file__).parents[1]


def hook() -> ModuleType:
    """What `hatch_build.py` holds."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def library() -> Iterator[None]:
    """The library as its source is now."""
    sources = max(source.stat().st_mtime for source in native.LIBRARY.parent.glob("*.c"))
    is_old = not native.LIBRARY.exists() or native.LIBRARY.stat().st_mtime < sources
    if is_old and hook().compile_library() is None:
        pytest.skip("no C compiler here")
    native._functions.cache_clear()
    yield
    native._functions.cache_clear()


def without_library(mask: np.ndarray, min_area_px: int) -> Any:
    """The measures of a mask as numpy and OpenCV give them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HISTOPREP_NATIVE", "0")
        native._functions.cache_clear()
        try:
            return measure_mask(mask, min_area_px)
        finally:
            patch.undo()
            native._functions.cache_clear()


def assert_same(found: Any, expected: Any, name: str = "") -> None:
    """Equal values of equal types, in every field."""
    assert type(found) is type(expected), name
    if hasattr(found, "__dataclass_fields__"):
        for field in fields(found):
            assert_same(getattr(found, field.name), getattr(expected, field.name), field.name)
    elif isinstance(found, np.ndarray):
        assert found.dtype == expected.dtype, name
        assert np.array_equal(found, expected), name
    else:
        assert found == expected, name


def drawn(kind: str, height: int, width: int, num_labels: int, seed: int) -> np.ndarray:
    """A mask of a kind: noise, cells, blobs, lines, discs, JPEG or resized."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(256)[: max(2, num_labels)].astype(np.uint8)
    if kind == "noise":
        return ids[rng.integers(0, len(ids), (height, width))]
    if kind == "cells":
        side = int(rng.integers(2, 20))
        small = ids[rng.integers(0, len(ids), (height // side + 1, width // side + 1))]
        return np.ascontiguousarray(small.repeat(side, 0).repeat(side, 1)[:height, :width])
    if kind == "blobs":
        field = rng.standard_normal((height, width)).astype(np.float32)
        field = cv2.GaussianBlur(field, (0, 0), float(rng.uniform(1, 12)))
        level = (field - field.min()) / max(float(np.ptp(field)), 1e-6)
        return ids[np.minimum((level * len(ids)).astype(int), len(ids) - 1)]
    mask = np.full((height, width), ids[0])
    side = max(height, width)
    for _ in range(int(rng.integers(1, 8))):
        label, ends = int(rng.choice(ids)), rng.integers(0, side, (2, 2)).tolist()
        if kind == "lines":
            cv2.line(mask, ends[0], ends[1], label, int(rng.integers(1, 9)))
        else:
            cv2.circle(mask, ends[0], int(rng.integers(1, side + 1)), label, -1)
    if kind == "jpeg":
        _, data = cv2.imencode(".jpg", mask, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 99))])
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
    if kind == "resized":
        size = (width * int(rng.integers(1, 4)), height * int(rng.integers(1, 4)))
        return np.asarray(cv2.resize(mask, size, interpolation=int(rng.integers(0, 3))))
    return mask


KINDS = ["noise", "cells", "blobs", "lines", "discs", "jpeg", "resized"]


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    height=st.integers(1, 180),
    width=st.integers(1, 180),
    num_labels=st.integers(2, 256),
    min_area_px=st.integers(1, 100),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_mask_measures_the_same_with_and_without_the_library(
    kind: str, height: int, width: int, num_labels: int, min_area_px: int, seed: int
) -> None:
    mask = drawn(kind, height, width, num_labels, seed)
    assert_same(measure_mask(mask, min_area_px), without_library(mask, min_area_px))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [224, 512])
def test_tiles_of_common_sizes_measure_the_same_and_are_measured_by_the_library(
    kind: str, side: int
) -> None:
    drawings = [
        drawn(kind, side, side, num_labels, seed) for seed in (1, 2) for num_labels in (2, 9)
    ]
    masks = [mask for mask in drawings if np.ptp(mask)]
    for mask in masks:
        assert_same(measure_mask(mask, 64), without_library(mask, 64))
    # Of larger ones, depths beyond 136 px are left to OpenCV.
    small = [mask for mask in masks if max(mask.shape) <= side]
    counted = [native.count_mask(mask, 64) is not None for mask in small]
    assert sum(counted) >= len(counted) - 1
    assert any(counted) or kind == "resized"


@given(
    width=st.integers(1, 300),
    share=st.floats(0, 1),
    every=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_enlarged_columns_are_found_alike(width: int, share: float, every: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    differs = rng.random(width) < share
    differs[rng.integers(0, every) :: every] = seed % 2 == 0
    ratios = np.array([(8, 1), (7, 2), (5, 2), (3, 1), (4, 3), (2, 1)], np.int32)
    assert native.find_enlarged(differs, ratios) == find_enlarged(differs, ratios)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 70),
    flat=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_of_every_filter_are_undone(height: int, width: int, flat: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lines = rng.integers(0, 256, (height, width + 1), dtype=np.uint8)
    if flat:
        lines[:, 1:] *= rng.random((height, width)) < 0.02
    lines[:, 0] = rng.integers(0, 5, height)
    found = native.unfilter(lines.tobytes(), height, width)
    # Pillow as another decoder.
    header = png.PngFile(width, height, 8, png.GREY, False)
    header.compressed = [memoryview(png.fast_zlib.compress(lines.tobytes()))]
    expected = np.array(Image.open(io.BytesIO(png.bare(header))))
    assert found is not None
    assert np.array_equal(found, expected)


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    faint=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_of_colours_are_undone(height: int, width: int, faint: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lines = rng.integers(0, 256, (height, 1 + 3 * width), dtype=np.uint8)
    if faint:
        lines[:, 1:] %= 5
    lines[:, 0] = rng.integers(0, 5, height)
    found = native.unfilter_colours(lines.tobytes(), height, width)
    header = png.PngFile(width, height, 8, png.RGB, False)
    header.compressed = [memoryview(png.fast_zlib.compress(lines.tobytes()))]
    bare = png.bare(header)
    assert found is not None
    assert np.array_equal(found, np.array(Image.open(io.BytesIO(bare))))
    assert np.array_equal(imageio.decode_rgb(bare), found)


def test_without_the_library_a_mask_reads_the_same(tmp_path: Path) -> None:
    mask = drawn("blobs", 224, 224, 5, 1)
    path = tmp_path / "mask.png"
    Image.fromarray(mask).save(path)
    script = (
        "import hashlib, pathlib, sys; from histoprep.tiles import TileOptions;"
        "from histoprep.tiles.measurer import Measurer; from histoprep import native;"
        "facts = Measurer(TileOptions()).mask(pathlib.Path(sys.argv[1]).read_bytes());"
        "shown = {key: getattr(value, 'tolist', value.__repr__)() for key, value in facts.items()};"
        "print(native.unfilter(bytes(2), 1, 1) is None, shown)"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script, str(path)],
            env={**os.environ, "HISTOPREP_NATIVE": wanted},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for wanted in ("0", "1")
    ]
    assert [text.split(" ", 1)[0] for text in outputs] == ["True", "False"]
    assert outputs[0].split(" ", 1)[1] == outputs[1].split(" ", 1)[1]
    data = path.read_bytes()
    assert np.array_equal(imageio.decode_mask(data, imageio.read_header(data)), mask)


@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    side=st.sampled_from([4, 8]),
    spread=st.integers(1, 256),
    seed=st.integers(0, 2**32 - 1),
)
def test_cells_are_those_of_opencv(
    height: int, width: int, side: int, spread: int, seed: int
) -> None:
    shape = (height * side + 3, width * side + 5)
    whole = np.random.default_rng(seed).integers(0, spread, shape, dtype=np.uint8)
    image = whole[2:-1, 4:-1]
    found = native.shrink(image, side)
    assert found is not None
    expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    assert np.array_equal(found, expected)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(32, 400),
    width=st.integers(32, 400),
    grain=st.floats(0.6, 6),
    step=st.sampled_from([1, 1, 16, 40]),
    seed=st.integers(0, 2**32 - 1),
)
def test_landmarks_are_the_same_with_and_without_the_library(
    height: int, width: int, grain: float, step: int, seed: int
) -> None:
    noise = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    field = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), grain), None, 0, 255, cv2.NORM_MINMAX)
    # Few grey levels, so that many places are alike.
    grey = field.astype(np.uint8) // step * step
    found = find_landmarks(grey)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HISTOPREP_NATIVE", "0")
        native._functions.cache_clear()
        expected = find_landmarks(grey)
    native._functions.cache_clear()
    assert np.array_equal(found, expected)


@settings(max_examples=40, deadline=None)
@given(
    number=st.integers(1, 700),
    spread=st.integers(1, 127),
    most=st.floats(0.2, 1.2),
    nearest=st.integers(1, 13),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_nearest_landmarks_are_those_of_a_tree(
    number: int, spread: int, most: float, nearest: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    stored = rng.integers(-spread, spread + 1, (number, NUM_NUMBERS)).astype(np.int8)
    # Copies, so that many are equally far.
    stored[rng.integers(0, number, number // 3)] = stored[0]
    nearest = min(nearest, number)
    squares = np.arange(2000)
    limit = int(np.count_nonzero(np.sqrt(squares / UNIT**2) < most)) - 1
    found = native.find_nearest(stored, limit, nearest, 2)
    assert found is not None
    places, distances, counts = found
    far, near = nearest_by_tree(stored.astype(np.float32) / UNIT, np.arange(number), most, nearest)
    is_there = np.arange(nearest) < counts[:, None]
    assert np.array_equal(np.isfinite(far), is_there)
    assert np.array_equal(np.sqrt(distances / UNIT**2)[is_there], far[is_there])
    assert np.array_equal(places[is_there], near[is_there])


@pytest.mark.parametrize("seed", range(40))
def test_correlations_are_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(12, 130, 2))
    noise = rng.integers(0, 256, (height + 8, width + 8), np.uint8)
    whole = cv2.GaussianBlur(noise, (0, 0), float(rng.choice([0.5, 2.0, 5.0])))
    down, right = rng.integers(0, 9, 2)
    field = whole[4:-4, 4:-4]
    part = whole[down : down + height, right : right + width]
    if seed % 3:
        other = rng.integers(0, 256, part.shape, np.uint8)
        part = cv2.addWeighted(part, float(rng.uniform(0.2, 0.8)), other, 0.5, 0)
    if seed % 10 == 9:
        part, field = (part, np.full_like(field, 7)) if seed % 20 == 9 else (part * 0, field)
    part = turned(part.copy(), int(rng.integers(4)))
    for least in (0.1, 0.5, 0.7, 0.95):
        assert native.correlates(field, part, 3, least) == correlates(field, part, 3, least)


def test_an_image_correlates_with_what_it_is_moved_from() -> None:
    whole = np.random.default_rng(0).integers(0, 256, (80, 80), np.uint8)
    field = whole[10:60, 10:60]
    for down in range(4, 17):
        found = native.correlates(field, whole[down : down + 50, 12:62], 3, 0.9)
        assert found == (abs(down - 10) <= 3)


@given(st.sampled_from((4, 8)), st.integers(0, 2**32 - 1), st.sampled_from((0, 1, 3, 1000)))
def test_best_offsets_are_the_same(period: int, seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    begins, stops = rng.integers(0, most, (2, period), np.int32, endpoint=True)
    found = native.best_offset(begins, stops)
    assert found == best_offset(begins, stops)
    assert native.best_offset(begins.astype(np.int64), stops) is None
