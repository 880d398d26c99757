"""Random numbers are functions of (seed, position, purpose) and have the distribution they should;
views and cuts move pixels only.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from histoprep.errors import UsageError
from trainer.data.randomness import keyed_generator, keyed_normals, keyed_uniforms
from trainer.data.transforms import (
    NUM_VIEWS,
    allowed_views,
    apply_view,
    check_size,
    corner,
    pick,
    to_float,
    to_uint8,
    window_starts,
    windows,
)

POSITIONS = np.array([0, 1, 7, 2**31, 2**45])


def test_normals_depend_on_their_own_position_only() -> None:
    whole = keyed_normals(3, POSITIONS, "noise", (4, 5))
    for index, position in enumerate(POSITIONS):
        assert np.array_equal(
            whole[index], keyed_normals(3, np.array([position]), "noise", (4, 5))[0]
        )
    assert np.array_equal(whole[::-1], keyed_normals(3, POSITIONS[::-1], "noise", (4, 5)))


def test_uniforms_depend_on_their_own_position_and_column_only() -> None:
    whole = keyed_uniforms(3, POSITIONS, "augment", 4)
    assert np.array_equal(whole[2:3, :2], keyed_uniforms(3, POSITIONS[2:3], "augment", 2))
    assert len(np.unique(whole)) == whole.size


@pytest.mark.parametrize("change", ["seed", "position", "purpose"])
def test_each_part_of_the_key_counts(change: str) -> None:
    base = {"seed": 5, "position": 9, "purpose": "noise"}
    other = (
        base
        | {"seed": {"seed": 6}, "position": {"position": 10}, "purpose": {"purpose": "eps"}}[change]
    )
    draws = [keyed_generator(**side).standard_normal(1000) for side in (base, other)]
    assert abs(np.corrcoef(draws)[0, 1]) < 0.15
    made = [
        keyed_normals(side["seed"], np.array([side["position"]]), side["purpose"], (1000,))[0]
        for side in (base, other)
    ]
    assert abs(np.corrcoef(made)[0, 1]) < 0.15
    uniform = [
        keyed_uniforms(side["seed"], np.array([side["position"]]), side["purpose"])[0, 0]
        for side in (base, other)
    ]
    assert uniform[0] != uniform[1]


def test_normals_are_normal() -> None:
    drawn = keyed_normals(1, np.arange(100), "noise", (10_000,)).ravel().astype(np.float64)
    assert stats.kstest(drawn[:200_000], "norm").pvalue > 0.01
    assert abs(drawn.mean()) < 0.004 and abs(drawn.std() - 1) < 0.003
    assert abs(stats.kurtosis(drawn)) < 0.02 and abs(stats.skew(drawn)) < 0.01
    # A million numbers have 63.3 beyond 4 standard deviations.
    assert 40 < np.sum(np.abs(drawn) > 4) < 90


def test_positions_and_columns_are_uncorrelated() -> None:
    drawn = keyed_uniforms(1, np.arange(20_000), "augment", 2)
    assert stats.kstest(drawn[:, 0], "uniform").pvalue > 0.01
    assert drawn.min() >= 0 and drawn.max() < 1
    for drawing, other in ((drawn[1:, 0], drawn[:-1, 0]), (drawn[:, 0], drawn[:, 1])):
        assert abs(np.corrcoef(drawing, other)[0, 1]) < 0.03
    seeds = np.concatenate(
        [keyed_uniforms(seed, np.arange(2), "augment")[:, 0] for seed in range(10_000)]
    )
    assert stats.kstest(seeds, "uniform").pvalue > 0.01


def test_a_negative_position_is_refused() -> None:
    with pytest.raises(ValueError, match="positions count from 0"):
        keyed_generator(0, -1, "noise")


def test_pick_gives_every_number_and_no_other() -> None:
    drawn = pick(keyed_uniforms(0, np.arange(1000), "augment")[:, 0], 8)
    assert sorted(set(drawn.tolist())) == list(range(8))
    assert pick(np.array([np.nextafter(1.0, 0.0)]), 3) == 2


def test_views_are_the_symmetries_of_the_square() -> None:
    square = np.arange(9).reshape(3, 3)
    seen = {apply_view(square, view).tobytes(): view for view in range(NUM_VIEWS)}
    assert len(seen) == NUM_VIEWS
    for item, other in itertools.product(range(NUM_VIEWS), repeat=2):
        assert apply_view(apply_view(square, item), other).tobytes() in seen
    assert np.array_equal(apply_view(square, 1), np.rot90(square)) and np.array_equal(
        apply_view(square, 4), np.fliplr(square)
    )


@pytest.mark.parametrize(
    ("flips", "turns", "count"),
    [(True, True, 8), (True, False, 4), (False, True, 4), (False, False, 1)],
)
def test_allowed_views_are_a_group(flips: bool, turns: bool, count: int) -> None:
    square = np.arange(9).reshape(3, 3)
    allowed = allowed_views(flips=flips, turns=turns)
    made = {apply_view(square, view).tobytes() for view in allowed}
    assert len(made) == count
    assert {
        apply_view(apply_view(square, item), other).tobytes()
        for item in allowed
        for other in allowed
    } == made
    mirrored = {np.fliplr(square).tobytes(), np.flipud(square).tobytes()}
    assert mirrored <= made if flips else not mirrored & made
    assert (np.rot90(square).tobytes() in made) == turns


def test_pixels_survive_the_way_there_and_back() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    scaled = to_float(rgb)
    assert scaled.shape == (3, 5, 7) and scaled.dtype == np.float32
    assert (
        to_float(np.zeros((1, 1, 3), np.uint8)).min() == -1
        and to_float(np.full((1, 1, 3), 255, np.uint8)).max() == 1
    )
    assert np.array_equal(to_uint8(scaled), rgb)
    assert np.array_equal(to_uint8(to_float(rgb[None])), rgb[None])


@pytest.mark.parametrize(
    ("length", "size", "starts"),
    [(512, 512, (0,)), (1024, 512, (0, 512)), (1000, 512, (0, 488)), (1025, 512, (0, 512, 513))],
)
def test_windows_cover_with_as_few_as_possible(
    length: int, size: int, starts: tuple[int, ...]
) -> None:
    assert window_starts(length, size) == starts
    covered = np.zeros((length, 600), bool)
    for top, left in windows(length, 600, size):
        covered[top : top + size, left : left + size] = True
    assert covered.all()


def test_corners_stay_inside_and_reach_both_ends() -> None:
    found = [
        corner(10, 12, 8, "crop", item) for item in keyed_uniforms(0, np.arange(500), "augment", 2)
    ]
    assert set(found) == set(itertools.product(range(3), range(5)))


@pytest.mark.parametrize(
    ("fit", "height", "message"),
    [("refuse", 600, "not of the training"), ("crop", 500, "smaller"), ("tile", 500, "smaller")],
)
def test_sizes_that_do_not_fit_are_refused_with_the_tile(
    fit: str, height: int, message: str
) -> None:
    with pytest.raises(UsageError, match=f"tile a/b .*{message}") as caught:
        check_size(height, 600, 512, fit, tile_id="a/b")  # type: ignore[arg-type]
    assert (
        f"{height} x 600" in str(caught.value)
        and "512" in str(caught.value)
        and "data.image_size" in str(caught.value)
    )


def test_numbers_that_training_depends_on_never_change() -> None:
    """Golden values: with others, a run that is resumed would not be the one that was begun."""
    uniform = [
        [0.9960380612816958, 0.5909085096261145, 0.9837965064046323],
        [0.9798465192092092, 0.62480468139714, 0.8286170295824491],
    ]
    np.testing.assert_array_equal(keyed_uniforms(7, np.array([0, 1]), "time", 3), uniform)
    np.testing.assert_array_equal(
        keyed_uniforms(7, np.array([10**9]), "time", 2), [[0.10260907446759204, 0.7825366366581997]]
    )
    normal = [[1.7572299242019653, -0.09186407178640366, 0.6306626796722412, -1.2995092868804932]]
    normal += [
        [-0.08241929858922958, -0.12636151909828186, 0.43002504110336304, 0.013922790065407753]
    ]
    np.testing.assert_array_equal(
        keyed_normals(7, np.array([12345]), "noise", (2, 4)), np.array([normal], np.float32)
    )
    assert keyed_generator(7, 3, "flip").integers(0, 1000, 5).tolist() == [615, 624, 364, 925, 504]
