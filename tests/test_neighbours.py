"""Borders and landmarks: what touches and overlaps is found, and nothing else."""

from __future__ import annotations

from pathlib import Path

import coloured_tissue as made
import cv2
import numpy as np
import pytest
from scipy.ndimage import uniform_filter1d

from histoprep.neighbours import overlaps
from histoprep.neighbours.borders import (
    LENGTH,
    Touching,
    find_touching,
    measure_borders,
    running_mean,
)
from histoprep.neighbours.landmarks import NUM_BYTES, Landmarks, find_landmarks, turn
from histoprep.neighbours.overlaps import Overlapping, between, find_overlapping
from histoprep.neighbours.placement import SmallImage, may_agree, place, turned

FIELD_PX, TILE_PX = 512, 128
Place = tuple[int, int, int]


def field(seed: int, side_px: int = FIELD_PX) -> np.ndarray:
    """Return luminance of made tissue, uint8 [side, side]."""
    image, _ = made.tile(seed, side_px)
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def cut(image: np.ndarray, tile_px: int, stride_px: int) -> dict[tuple[int, int], np.ndarray]:
    """Return the tiles of a field by row and column of their upper left corner."""
    height, width = image.shape
    return {
        (row, column): image[row : row + tile_px, column : column + tile_px]
        for row in range(0, height - tile_px + 1, stride_px)
        for column in range(0, width - tile_px + 1, stride_px)
    }


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


def touching(tiles: list[np.ndarray]) -> Touching:
    blank = np.zeros((4, LENGTH), np.int8)
    borders = [measure_borders(tile) for tile in tiles]
    return find_touching(
        np.stack([blank if own is None else own for own in borders]),
        np.array([tile.shape[0] for tile in tiles]),
        np.array([tile.shape[1] for tile in tiles]),
    )


def named(found: Touching) -> set[tuple[int, int, bool]]:
    return set(
        zip(found.first.tolist(), found.second.tolist(), found.is_below.tolist(), strict=True)
    )


def neighbours_in(places: list[Place], step: int) -> set[tuple[int, int, bool]]:
    """Return who touches whom in fields that were cut in steps."""
    at = {place: index for index, place in enumerate(places)}
    steps = ((0, step, False), (step, 0, True))
    return {
        (index, at[seed, row + down, column + right], is_below)
        for (seed, row, column), index in at.items()
        for down, right, is_below in steps
        if (seed, row + down, column + right) in at
    }


@pytest.mark.parametrize("quality", [100, 90, 75])
def test_tiles_that_touch_are_found_and_no_others(quality: int) -> None:
    places, tiles = [], []
    for seed in range(4):
        for (row, column), tile in cut(field(seed), TILE_PX, TILE_PX).items():
            places.append((seed, row, column))
            tiles.append(through_jpeg(tile, quality))
    order = np.random.default_rng(0).permutation(len(tiles))
    found = touching([tiles[at] for at in order])
    expected = neighbours_in([places[at] for at in order], TILE_PX)
    assert named(found) <= expected
    assert len(named(found)) >= 0.95 * len(expected)
    assert (found.score > found.rival).all()


def test_tiles_of_other_sizes_touch_where_their_borders_are_of_one_length() -> None:
    image = field(7)
    tiles = [image[:128, :128], image[:128, 128:328], image[128:300, :128], image[300:, 400:]]
    assert named(touching(tiles)) == {(0, 1, False), (0, 2, True)}


def test_blank_borders_frames_and_padding_join_nothing() -> None:
    tiles = [np.full((128, 128), 235, np.uint8) for _ in range(8)]
    for seed, tile in enumerate(tiles):
        tile[24:-24, 24:-24] = field(seed, 80)
    framed = [field(20 + seed, 128) for seed in range(8)]
    for tile in framed:
        cv2.rectangle(tile, (0, 0), (127, 127), 0, 3)
    padded = [field(40 + seed, 128) for seed in range(40)]
    for seed, tile in enumerate(padded):
        tile[:, 40 + seed // 2 * 3 :] = 255
    assert not len(touching([through_jpeg(tile, 80) for tile in [*tiles, *framed, *padded]]))


def test_padding_hides_no_tiles_that_touch() -> None:
    image = field(9, 256)
    image[:, 170:] = 255
    tiles = [*cut(image, TILE_PX, TILE_PX).values(), *(field(s, 128) for s in range(50, 60))]
    assert (1, 3, True) in named(touching(tiles))


def test_what_repeats_joins_nothing() -> None:
    image = field(3)
    copies = [*cut(image, TILE_PX, TILE_PX).values()] * 2
    waves = np.tile(np.sin(np.arange(128) / 5) * 60 + 128, (128, 1)).astype(np.uint8)
    assert not len(touching([*copies, *[waves, waves.T] * 3]))


def test_unrelated_tiles_join_nothing() -> None:
    assert not len(touching([field(seed, 128) for seed in range(100, 220)]))


def test_borders_under_the_contrast_floor_are_zero_and_small_images_have_none() -> None:
    image = field(1, 128)
    image[:, :4] = 200
    borders = measure_borders(image)
    assert borders is not None
    assert not borders[0].any()
    assert borders[1].any()
    assert measure_borders(image[:16, :16]) is None
    assert measure_borders(np.full((128, 128), 200, np.uint8)) is None


def test_a_square_of_which_three_sides_are_known_is_closed() -> None:
    rng = np.random.default_rng(4)
    borders = rng.normal(0, 32, (12, 4, LENGTH))
    left, right, upper, lower = range(4)
    for first, second, end, start in (
        (0, 1, right, left),
        (0, 2, lower, upper),
        (1, 3, lower, upper),
        (2, 3, right, left),
    ):
        borders[second, start] = borders[first, end]
    # A seam that agrees, and not by enough to be believed alone.
    borders[3, left] = 0.4 * borders[2, right] + 0.9 * borders[3, left][::-1]
    size = np.full(len(borders), 128)
    found = find_touching(np.clip(borders, -127, 127).astype(np.int8), size, size)
    seams = named(found)
    assert seams == {(0, 1, False), (2, 3, False), (0, 2, True), (1, 3, True)}
    assert found.by_square.tolist() == [
        pair == (2, 3, False)
        for pair in zip(found.first, found.second, found.is_below.tolist(), strict=True)
    ]
    without = np.delete(borders, 1, axis=0)
    alone = find_touching(np.clip(without, -127, 127).astype(np.int8), size[1:], size[1:])
    assert named(alone) == {(0, 1, True)}


def test_eight_orientations_are_a_group() -> None:
    points = np.array([3.0, 1.0])
    seen = {tuple(float(value) for value in turn(np.int64(way), *points)) for way in range(8)}
    assert len(seen) == 8
    for second in range(8):
        for first in range(8):
            way = between(np.array([second]), np.array([first]))
            moved = turn(way, *turn(np.array([second]), *points))
            expected = turn(np.array([first]), *points)
            assert [value.tolist() for value in moved] == [value.tolist() for value in expected]


def overlapping(tiles: list[np.ndarray]) -> Overlapping:
    landmarks = [find_landmarks(tile) for tile in tiles]
    owners = np.repeat(np.arange(len(tiles)), [len(own) for own in landmarks])
    return find_overlapping(Landmarks.from_bytes(np.concatenate(landmarks)), owners)


def placed(tiles: list[np.ndarray]) -> dict[tuple[int, int], tuple[int, int, int]]:
    """Return orientation, right and down of the pairs whose pixels agree."""
    result = {}
    found = overlapping(tiles)
    columns = (found.first, found.second, found.orientation, found.right, found.down)
    for first, second, way, right, down in zip(*(c.tolist() for c in columns), strict=True):
        lies = place(tiles[first], tiles[second], way, right, down)
        if lies is not None:
            result[first, second] = (lies.orientation, lies.right_px, lies.down_px)
    return result


@pytest.mark.parametrize("stride_px", [32, 64, 96, 112])
def test_overlapping_tiles_are_found_with_their_offset(stride_px: int) -> None:
    tiles, places = [], []
    for seed in range(3):
        for (row, column), tile in cut(field(seed, 256), TILE_PX, stride_px).items():
            tiles.append(through_jpeg(tile, 85))
            places.append((seed, row, column))
    found = placed(tiles)
    for (first, second), lies in found.items():
        seed, row, column = places[first]
        assert places[second] == (seed, row + lies[2], column + lies[1])
        assert lies[0] == 0
    expected = {pair[:2] for pair in neighbours_in(places, stride_px)}
    assert len(expected & found.keys()) >= 0.95 * len(expected)


def test_an_overlap_of_an_eighth_is_found_at_sizes_of_few_cells() -> None:
    # 200 px are 100 cells of two pixels, of which the overlap holds twelve.
    side, step, num_fields = 200, 175, 12
    tiles = [
        np.ascontiguousarray(image)
        for seed in range(num_fields)
        for image in cut(field(seed, side + step), side, step).values()
    ]
    found = placed(tiles)
    expected = {
        (4 * number + first, 4 * number + second): (0, right, down)
        for number in range(num_fields)
        for first, second, right, down in (
            (0, 1, step, 0),
            (2, 3, step, 0),
            (0, 2, 0, step),
            (1, 3, 0, step),
        )
    }
    right = sum(found.get(pair) == lies for pair, lies in expected.items())
    assert right >= 0.95 * len(expected)


@pytest.mark.parametrize("way", range(1, 8))
def test_a_turned_part_is_found_with_its_orientation(way: int) -> None:
    image = field(5, 256)
    tile = image[:128, :128]
    other = np.ascontiguousarray(turned(image[20:148, 36:164], way))
    tiles = [
        through_jpeg(tile, 90),
        through_jpeg(other, 90),
        *(field(s, 128) for s in range(8, 20)),
    ]
    found = placed(tiles)
    assert set(found) == {(0, 1)}
    back, right, down = found[0, 1]
    assert (right, down) == (36, 20)
    assert np.array_equal(turned(other, back), image[20:148, 36:164])


@pytest.mark.parametrize("way", range(8))
def test_cells_refuse_no_pair_that_overlaps_and_most_others(way: int) -> None:
    image = field(5, 512)
    noise = np.random.default_rng(way).normal(0, 10, (256, 256))
    part = np.clip(turned(image[40:296, 72:328], way) * 0.9 + noise, 0, 255).astype(np.uint8)
    tiles = [image[:256, :256], through_jpeg(part, 60), *(field(s, 256) for s in range(8, 14))]
    small = [SmallImage.of(tile) for tile in tiles]
    found = overlapping(tiles)
    columns = (found.first, found.second, found.orientation, found.right, found.down)
    related = 0
    for first, second, *lies in zip(*(c.tolist() for c in columns), strict=True):
        if place(tiles[first], tiles[second], *lies) is not None:
            related += 1
            assert may_agree(small[first], small[second], *lies)
    assert related == 1
    right, down = (127.0 if way & bit else 0.0 for bit in (1, 2))
    others = [
        may_agree(small[first], small[second], way, right, down)
        for second in range(3, len(small))
        for first in range(2, second)
    ]
    assert sum(others) <= 0.2 * len(others)


def test_votes_counted_in_parts_are_those_counted_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiles = [tile for seed in range(3) for tile in cut(field(seed, 256), TILE_PX, 64).values()]
    whole = overlapping(tiles)
    assert len(whole) > 20
    for most in (500, 1):
        monkeypatch.setattr(overlaps, "_MAX_VOTES", most)
        parts = overlapping(tiles)
        for name in ("first", "second", "orientation", "right", "down", "votes"):
            assert np.array_equal(getattr(whole, name), getattr(parts, name)), name


def test_unrelated_tiles_overlap_nothing() -> None:
    assert placed([field(seed, 128) for seed in range(100, 160)]) == {}


def test_landmarks_take_at_most_480_bytes_and_plain_images_have_none() -> None:
    assert find_landmarks(field(2)).nbytes <= 48 * NUM_BYTES == 480
    assert not len(find_landmarks(np.full((256, 256), 240, np.uint8)))
    assert not len(find_landmarks(field(2, 64)[:20]))


@pytest.mark.parametrize("quality", [95, 75])
def test_real_tiles_that_touch_are_found_and_no_others(shared_data: Path, quality: int) -> None:
    places, tiles = [], []
    for seed, path in enumerate(sorted((shared_data / "diffinfinite/inpainting").glob("*.jpg"))):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        for (row, column), tile in cut(image, TILE_PX, TILE_PX).items():
            places.append((seed, row, column))
            tiles.append(through_jpeg(tile, quality))
    expected = neighbours_in(places, TILE_PX)
    found = named(touching(tiles))
    assert found <= expected
    # Some of these borders are glass.
    assert len(found) >= 0.93 * len(expected)


def test_generated_tiles_join_nothing(shared_data: Path) -> None:
    paths = sorted((shared_data / "diffinfinite/patches").glob("*/*.jpg"))
    tiles = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]
    assert not len(touching(tiles))
    assert placed(tiles[:60]) == {}


@pytest.mark.parametrize("num_rows", [0, 1, 40])
def test_running_means_are_those_of_scipy(num_rows: int) -> None:
    rng = np.random.default_rng(num_rows)
    scale = 10 ** rng.uniform(-3, 6, (num_rows, 1))
    values = (rng.random((num_rows, LENGTH)) * scale).astype(np.float32)
    expected = uniform_filter1d(values, 7, axis=1, mode="wrap")
    assert np.array_equal(running_mean(values, 7), expected)
