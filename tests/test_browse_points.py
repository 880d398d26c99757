"""Points of the map: clusters stay apart, axes are those of most variance, files of features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from histoprep import tables
from histoprep.browse.features import open_features, read_features
from histoprep.browse.points import (
    colour_features,
    evenly,
    project,
)
from histoprep.errors import UsageError
from histoprep.schemas import latents as latent_schemas


def test_two_scanners_are_two_clusters() -> None:
    rng = np.random.default_rng(3)
    scanner = np.repeat([0, 1], 60)
    images = [
        np.clip(rng.normal([[[180, 120 + 50 * kind, 170]]], 12, (32, 32, 3)), 0, 255)
        for kind in scanner
    ]
    values = np.stack([colour_features(image.astype(np.uint8)) for image in images])
    places = project(values, tuple("abcdef")).places
    assert np.abs(places).max() < 1.5
    middles = [places[scanner == kind].mean(axis=0) for kind in (0, 1)]
    spread = max(places[scanner == kind].std(axis=0).max() for kind in (0, 1))
    assert np.linalg.norm(middles[0] - middles[1]) > 1.5
    assert abs(middles[0][0] - middles[1][0]) > 4 * places[scanner == 0, 0].std() > 0
    assert spread < 1


def test_points_that_lie_far_out_stand_at_the_edge() -> None:
    values = np.random.default_rng(6).normal(size=(400, 2)).astype(np.float32)
    values[7] = (40, -40)
    places = project(values, ("a", "b")).places
    assert np.abs(places).max() == pytest.approx(1)
    assert np.abs(places[7]).max() == pytest.approx(1)


def test_the_axes_are_the_principal_components() -> None:
    rng = np.random.default_rng(4)
    hidden = rng.normal(size=(500, 2))
    values = (hidden @ np.array([[1, 1, 0, 0], [0, 0, 1, 0.2]])).astype(np.float32)
    values += rng.normal(0, 0.05, values.shape).astype(np.float32)
    found = project(values, ("a", "b", "c", "d"))
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    singular = np.linalg.svd(np.clip(scaled, -4, 4), compute_uv=False) ** 2
    assert found.explained == pytest.approx(tuple(singular[:2] / singular.sum()), abs=1e-3)
    # Two pairs of features are one number each.
    assert {frozenset(name[2:] for name in words.split(", ")) for words in found.names} == {
        frozenset("ab"),
        frozenset("cd"),
    }
    assert all(words.startswith("+") for words in found.names)


def test_the_same_tiles_give_the_same_points() -> None:
    values = np.random.default_rng(5).normal(size=(40, 3)).astype(np.float32)
    first = project(values, ("a", "b", "c")).places
    assert np.array_equal(first, project(values.copy(), ("a", "b", "c")).places)


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5, 0)])
def test_too_few_tiles_or_features_are_in_the_middle(shape: tuple[int, int]) -> None:
    found = project(np.ones(shape, np.float32), tuple("abc"[: shape[1]]))
    assert found.places.shape == (shape[0], 2)
    assert not found.places.any()


def test_missing_values_and_constants_do_no_harm() -> None:
    values = np.array([[1, np.nan, 5], [2, 7, 5], [3, np.inf, 5], [4, 9, 5]], np.float32)
    found = project(values, ("a", "b", "constant"))
    assert np.isfinite(found.places).all()
    assert "constant" not in " ".join(found.names)


def test_points_are_spread_evenly() -> None:
    rows = np.arange(100)
    assert evenly(rows, 200) is rows
    assert evenly(rows, 10).tolist() == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]


def test_density_is_zero_for_white_and_grows_with_stain() -> None:
    white = np.full((4, 4, 3), 255, np.uint8)
    assert np.abs(colour_features(white)).max() == 0
    stained = white.copy()
    stained[..., 1] = 63
    # 64 of 256 is two halvings.
    assert colour_features(stained).tolist() == pytest.approx([0, np.log(4), 0, 0, 0, 0], abs=1e-6)


def test_features_of_a_file_are_matched_by_tile(tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    table = {
        "tile_id": ["c", "strange", "a"],
        "embedding": [[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]],
        "score": [7, 8, 9],
    }
    pq.write_table(pa.table(table), path)
    found = read_features(path, pa.chunked_array([["a", "b"], ["c"]]))
    assert found.rows.tolist() == [0, 2]
    assert found.values.tolist() == [[3, 4, 9], [1, 2, 7]]
    assert found.names == ("embedding 0", "embedding 1", "score")
    known, values = found.of(np.array([2, 1, 0]))
    assert (known.tolist(), values[:, 2].tolist()) == ([2, 0], [7, 9])


@pytest.mark.parametrize(
    "table",
    [
        {"name": ["a"], "x": [1.0]},
        {"tile_id": ["a"]},
        {"tile_id": ["strange"], "x": [1.0]},
        {"tile_id": ["a", "a"], "x": [[1.0], [1.0, 2.0]]},
        {"tile_id": ["a"], "x": ["text"]},
    ],
)
def test_files_without_features_are_errors(tmp_path: Path, table: dict[str, list[object]]) -> None:
    path = tmp_path / "features.parquet"
    pq.write_table(pa.table(table), path)
    with pytest.raises(UsageError):
        read_features(path, pa.chunked_array([["a"]]))
    path.write_text("no Parquet")
    with pytest.raises(UsageError, match="cannot be read"):
        read_features(path, pa.chunked_array([["a"]]))


def test_latents_of_the_trainer_are_pooled(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    latents = rng.normal(size=(5, 2, 2, 3, 4, 4)).astype(np.float16)
    np.save(tmp_path / "latents.npy", latents)
    rows = [("b", 0, 2), ("strange", 2, 1), ("a", 3, 2), ("c", 5, 0)]
    table = pa.table(
        {
            "tile_id": [row[0] for row in rows],
            "split": ["train"] * 4,
            "image_digest": [""] * 4,
            "mask_digest": [""] * 4,
            "first_entry": [row[1] for row in rows],
            "num_windows": pa.array([row[2] for row in rows], pa.int32()),
        },
        schema=latent_schemas.SCHEMA,
    )
    tables.write_table(
        tmp_path / latent_schemas.ENTRIES,
        [table],
        latent_schemas.SCHEMA,
        kind=latent_schemas.KIND,
        schema_version=latent_schemas.SCHEMA_VERSION,
        metadata={},
    )
    ids = pa.chunked_array([["a", "b", "c"]])
    with pytest.raises(UsageError, match="no latents"):
        open_features(tmp_path, ids)
    (tmp_path / latent_schemas.SUMMARY).write_text("{}")
    found = open_features(tmp_path, ids)
    assert found.rows.tolist() == [0, 1]
    own = latents[3:5, 0, 0].astype(np.float64)
    wanted = [*own.mean(axis=(0, 2, 3)), *own.std(axis=(0, 2, 3))]
    assert found.values[0].tolist() == pytest.approx(wanted, abs=1e-3)
    assert found.names[0] == "mean of latent 0"
    with pytest.raises(UsageError, match="no tile"):
        open_features(tmp_path, pa.chunked_array([["x"]]))
