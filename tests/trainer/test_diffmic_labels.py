"""Classes from manifests and masks, the validation split, and what is refused."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from coloured_blobs import bare_manifest, blob

from histoprep.durable import write_bytes
from histoprep.imageio import encode_rgb_png
from histoprep.labels import LabelMap, SourceLabel, TargetClass
from histoprep.manifest.build import ManifestOptions, build_manifest, raw_label_map
from histoprep.scanning import Layout, ScanOptions
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.table import ensure_tiles
from trainer.config_layers import load_config
from trainer.errors import DataError, IntegrityError
from trainer.recipes.diffmic_labels import labelled_tiles, validation_rows, write_split


def config_for(manifest, **sets):
    return load_config(
        preset="diffmic-tiny",
        manifest=str(manifest),
        out=str(manifest.parent / "run"),
        sets=[f"{key}={value}" for key, value in sets.items()],
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_single_tiles_are_held_out_within_one_of_the_share(seed):
    labels = np.repeat([0, 1, 2, 3, 4], [500, 61, 10, 2, 1])
    held = validation_rows(labels, np.arange(len(labels)), 5, 0.2, seed)
    counts = np.bincount(labels[held], minlength=5)
    assert (np.abs(counts - 0.2 * np.bincount(labels)) <= 0.5).all()
    assert counts.tolist()[3:] == [0, 0]
    assert (held == validation_rows(labels, np.arange(len(labels)), 5, 0.2, seed)).all()
    assert (held != validation_rows(labels, np.arange(len(labels)), 5, 0.2, seed + 1)).any()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_groups_are_never_cut(seed):
    rng = np.random.default_rng(seed)
    units = rng.integers(0, 60, 600)
    labels = (units % 4 + (rng.uniform(size=600) < 0.2)) % 4
    held = validation_rows(labels, units, 4, 0.2, seed)
    assert not set(units[held]) & set(units[~held])
    shares = np.bincount(labels[held], minlength=4) / np.bincount(labels)
    assert (np.abs(shares - 0.2) < 0.06).all()


def test_a_manifest_with_validation_is_taken_as_it_is(tmp_path):
    path = bare_manifest(
        tmp_path / "m.parquet", ["train"] * 6 + ["val"] * 2 + ["test"] * 2, labels=["a", "b"] * 5
    )
    data = labelled_tiles(config_for(path))
    assert not data.derived
    assert data.names == ("a", "b")
    assert {split: rows.tolist() for split, rows in data.rows.items()} == {
        "train": [0, 1, 2, 3, 4, 5],
        "val": [6, 7],
        "test": [8, 9],
    }
    assert data.labels.tolist() == [0, 1] * 5


def test_validation_is_taken_from_train_and_stored(tmp_path):
    path = bare_manifest(
        tmp_path / "m.parquet", ["train"] * 100 + ["test"] * 10, labels=["a", "b"] * 55
    )
    data = labelled_tiles(config_for(path))
    assert data.derived
    assert data.counts() == {
        "train": {"a": 40, "b": 40},
        "val": {"a": 10, "b": 10},
        "test": {"a": 5, "b": 5},
    }
    write_split(tmp_path, data)
    stored = json.loads((tmp_path / "split.json").read_text())
    assert stored["counts"] == data.counts()
    assert set(stored["tiles"]["train"]).isdisjoint(stored["tiles"]["val"])
    assert "test" not in stored["tiles"]
    again = labelled_tiles(config_for(path))
    assert (again.rows["val"] == data.rows["val"]).all()


def test_copies_and_groups_stay_together_in_validation(tmp_path):
    digests = [f"{row // 2}" for row in range(60)]
    groups = [f"g{row // 3}" for row in range(60)]
    path = bare_manifest(
        tmp_path / "m.parquet",
        ["train"] * 60,
        labels=["a", "b"] * 30,
        digests=digests,
        groups=groups,
    )
    held = set(labelled_tiles(config_for(path)).rows["val"].tolist())
    assert held
    # Pairs and triples join to units of six.
    assert {row // 6 for row in held}.isdisjoint({row // 6 for row in range(60) if row not in held})


@pytest.mark.parametrize("column", ["groups", "digests"])
def test_a_group_or_a_copy_in_two_splits_is_refused(tmp_path, column):
    values = [f"{row}" for row in range(20)]
    splits = ["train"] * 10 + ["val"] * 5 + ["test"] * 5
    labelled_tiles(
        config_for(
            bare_manifest(
                tmp_path / "fine.parquet", splits, labels=["a", "b"] * 10, **{column: values}
            )
        )
    )
    values[19] = values[2]
    path = bare_manifest(
        tmp_path / "leak.parquet", splits, labels=["a", "b"] * 10, **{column: values}
    )
    with pytest.raises(IntegrityError, match="two splits") as caught:
        labelled_tiles(config_for(path))
    assert "tile-0002" in str(caught.value)
    assert "tile-0019" in str(caught.value)


def test_a_chain_of_groups_and_copies_is_followed(tmp_path):
    # Row 0 and 1 share a group, 1 and 15 an image: 0 and 15 must not be apart.
    groups = [f"g{row}" for row in range(20)]
    groups[1] = groups[0]
    digests = [f"d{row}" for row in range(20)]
    digests[15] = digests[1]
    path = bare_manifest(
        tmp_path / "m.parquet",
        ["train"] * 10 + ["test"] * 10,
        labels=["a", "b"] * 10,
        groups=groups,
        digests=digests,
    )
    with pytest.raises(IntegrityError):
        labelled_tiles(config_for(path))


def label_map() -> LabelMap:
    classes = tuple(
        TargetClass(item, name, "#808080")
        for item, name in enumerate(("Unknown", "Dermis", "Fat", "Never"))
    )
    return LabelMap(
        "four",
        tuple(SourceLabel(number, str(number)) for number in range(4)),
        classes,
        {number: number for number in range(4)},
    )


def test_classes_of_masks_are_dominant_and_never_class_0(tmp_path):
    pixels = np.array([[90, 6, 4, 0], [90, 4, 6, 0], [100, 0, 0, 0], [0, 50, 50, 0]] * 8)
    path = bare_manifest(
        tmp_path / "m.parquet",
        ["train"] * 24 + ["test"] * 8,
        class_pixels=pixels,
        label_map=label_map(),
    )
    data = labelled_tiles(config_for(path))
    assert data.names == ("Dermis", "Fat")
    assert data.labels[:4].tolist() == [0, 1, -1, 0]
    assert any("8 of 32 tiles have no class" in warning for warning in data.warnings)
    assert not set(np.flatnonzero(data.labels < 0)) & {
        row for rows in data.rows.values() for row in rows.tolist()
    }


def test_masks_of_real_tiles_give_their_declared_class_and_cases_stay_whole(shared_data, tmp_path):
    root = shared_data / "ebhi_seg"
    with (root / "index.csv").open(newline="") as stream:
        declared = {
            row["image"].rpartition(".")[0]: (int(row["class_id"]), row["case_id"])
            for row in csv.DictReader(stream)
        }
    workspace = Workspace.of(root, tmp_path / "workspace")
    options = ScanOptions(
        layout=Layout.FOLDERS,
        images="images",
        masks="labels",
        csv=root / "index.csv",
        group_by="csv:case_id",
    )
    tiles = ensure_tiles(workspace, options, workers=1)
    build_manifest(tiles, raw_label_map(tiles), ManifestOptions(), workspace.manifest)
    data = labelled_tiles(config_for(workspace.manifest, labels="masks"))
    assert data.names == tuple(f"label {number}" for number in range(1, 7))
    assert data.derived
    ids = [str(identifier) for identifier in data.tiles.tile_ids]
    assert len(ids) == 734
    assert [f"label {declared[identifier][0]}" for identifier in ids] == [
        data.names[label] for label in data.labels
    ]
    cases = {split: {declared[ids[row]][1] for row in rows} for split, rows in data.rows.items()}
    assert cases["train"].isdisjoint(cases["val"])
    assert cases["test"].isdisjoint(cases["train"] | cases["val"])
    counts = {
        split: np.bincount(data.labels[rows], minlength=6) for split, rows in data.rows.items()
    }
    # Two classes have 13 and 16 cases only.
    assert (np.abs(counts["val"] / (counts["val"] + counts["train"]) - 0.2) < 0.08).all()


def test_labels_of_the_manifest_come_before_masks_unless_asked(tmp_path):
    pixels = np.array([[0, 9, 1, 0], [0, 1, 9, 0]] * 10)
    path = bare_manifest(
        tmp_path / "m.parquet",
        ["train"] * 20,
        labels=["x", "y"] * 10,
        class_pixels=pixels,
        label_map=label_map(),
    )
    assert labelled_tiles(config_for(path)).names == ("x", "y")
    assert labelled_tiles(config_for(path, labels="masks")).names == ("Dermis", "Fat")


def test_classes_that_cannot_be_learnt_are_refused(tmp_path):
    item = bare_manifest(tmp_path / "one.parquet", ["train"] * 9, labels=["a"] * 9)
    with pytest.raises(DataError, match="two classes"):
        labelled_tiles(config_for(item))
    unseen = bare_manifest(
        tmp_path / "unseen.parquet", ["train"] * 20 + ["test"], labels=["a", "b"] * 10 + ["c"]
    )
    with pytest.raises(DataError, match="without a tile to train on") as caught:
        labelled_tiles(config_for(unseen))
    assert "c" in str(caught.value)


def test_what_the_refusal_advises_gives_classes(tmp_path):
    from histoprep.cli import run

    root = tmp_path / "data"
    for number in range(12):
        path = root / ("benign", "malign")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, encode_rgb_png(blob(number % 2, np.random.default_rng(number))))
    assert run(["--quiet", "manifest", str(root)]) == 0
    config = config_for(Workspace.of(root).manifest)
    with pytest.raises(DataError, match="two classes") as caught:
        labelled_tiles(config)
    advised = re.findall(r"histoprep (\w+) ROOT([^,;]*)", caught.value.hint)
    assert [command for command, _ in advised] == ["audit", "manifest"]
    for command, options in advised:
        assert run(["--quiet", command, str(root), *options.split()]) == 0
    assert labelled_tiles(config).names == ("benign", "malign")


def test_a_class_that_is_missing_in_test_is_told(tmp_path):
    path = bare_manifest(
        tmp_path / "m.parquet", ["train"] * 20 + ["test"] * 2, labels=["a", "b"] * 10 + ["a", "a"]
    )
    assert "test has no tile of class b" in labelled_tiles(config_for(path)).warnings


def test_groups_number_cases_and_lonely_tiles(tmp_path):
    path = bare_manifest(
        tmp_path / "m.parquet",
        ["train"] * 4 + ["val"] * 4,
        labels=["a", "b"] * 4,
        groups=["x", "x", None, None] + [None] * 4,
    )
    groups = labelled_tiles(config_for(path)).groups(np.arange(4))
    assert groups[0] == groups[1]
    assert len(set(groups.tolist())) == 3
