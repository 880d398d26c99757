"""Cross-validation: each fold is test once, from a manifest and from shards alike, and results of
several runs are put together.
"""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from coloured_blobs import make_blobs

from histoprep.errors import UsageError
from histoprep.execution import Engine
from histoprep.manifest.build import ManifestOptions, build_manifest, raw_label_map
from histoprep.schemas.manifest import FOLD, open_manifest
from histoprep.schemas.workspace import Workspace
from histoprep.shards import open_tiles
from histoprep.shards.write import write_shards
from trainer.cli import run as run_command
from trainer.config_layers import load_config
from trainer.errors import ExitCode

NUM_TILES, NUM_HELD_OUT, NUM_FOLDS = 60, 9, 3


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a manifest of 60 tiles in three folds, and 9 that are test."""
    root = tmp_path_factory.mktemp("folds") / "tiles"
    make_blobs(root, NUM_TILES, NUM_HELD_OUT)
    workspace = Workspace.of(root)
    options = replace(ManifestOptions(), folds=str(NUM_FOLDS))
    build_manifest(workspace.tiles, raw_label_map(workspace.tiles), options, workspace.manifest)
    return workspace.manifest


@pytest.fixture(scope="module")
def shards(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "shards"
    write_shards(manifest, out, engine=Engine(1))
    return out


@pytest.mark.parametrize("kind", ["manifest", "shards"])
def test_each_fold_is_test_once_and_validation_once(
    kind: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(kind)
    plain = open_tiles(path)
    folds = plain.manifest.read((FOLD.name,))[FOLD.name].to_pylist()
    assert Counter(folds) == {0: 20, 1: 20, 2: 20, None: NUM_HELD_OUT}
    assert [fold is None for fold in folds] == (plain.split == "test").tolist()
    names = {0: ["test", "val", "train"], 1: ["train", "test", "val"], 2: ["val", "train", "test"]}
    for fold in range(NUM_FOLDS):
        tiles = open_tiles(path, fold=fold)
        wanted = ["held-out" if at is None else names[fold][at] for at in folds]
        assert tiles.split.tolist() == wanted
        assert tiles.table["split"].to_pylist() == wanted
        assert tiles.table.drop(["split"]).equals(plain.table.drop(["split"]))
        assert tiles.digest == plain.digest


@pytest.mark.parametrize("kind", ["manifest", "shards"])
def test_with_an_inner_fold_each_pair_of_folds_is_test_and_validation(
    kind: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(kind)
    folds = open_tiles(path).manifest.read((FOLD.name,))[FOLD.name].to_pylist()
    for fold, inner in ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)):
        names = {None: "held-out", fold: "test", inner: "val"}
        tiles = open_tiles(path, fold=fold, inner_fold=inner)
        assert tiles.split.tolist() == [names.get(at, "train") for at in folds]


@pytest.mark.parametrize(("fold", "inner"), [(0, 0), (0, NUM_FOLDS), (None, 1)])
def test_inner_folds_that_there_are_not(manifest: Path, fold: int | None, inner: int) -> None:
    with pytest.raises(UsageError, match="cannot be the inner one"):
        open_tiles(manifest, fold=fold, inner_fold=inner)


def test_of_two_folds_the_other_one_trains(manifest: Path, tmp_path: Path) -> None:
    workspace = Workspace.of(open_manifest(manifest).root)
    options = replace(ManifestOptions(), folds="2")
    target = tmp_path / "two.parquet"
    build_manifest(workspace.tiles, raw_label_map(workspace.tiles), options, target)
    assert set(open_tiles(target, fold=1).split) == {"train", "test", "held-out"}


def test_folds_that_there_are_not(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such fold") as caught:
        open_tiles(manifest, fold=NUM_FOLDS)
    assert caught.value.expected == "0 to 2"
    plain = make_blobs(tmp_path / "tiles", 6, 3)
    with pytest.raises(UsageError) as caught:
        open_tiles(plain, fold=0)
    assert "histoprep manifest --folds" in str(caught.value.hint)


def test_runs_of_folds_have_their_own_folders(manifest: Path) -> None:
    config = load_config(preset="diffmic-tiny", manifest=str(manifest), fold=1)
    assert Path(config.out).name == "diffmic-tiny-fold1"
    assert config.fold == 1
    nested = load_config(preset="diffmic-tiny", manifest=str(manifest), fold=1, inner_fold=0)
    assert Path(nested.out).name == "diffmic-tiny-fold1-inner0"
    assert nested.inner_fold == 0
    assert Path(load_config(preset="diffmic-tiny", manifest=str(manifest)).out).name == (
        "diffmic-tiny"
    )


@pytest.mark.slow
def test_results_of_folds_are_put_together(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / f"fold{fold}" for fold in range(2)]
    small = ["duration={epochs: 1}", "guidance.duration={epochs: 1}", "accelerator=cpu"]
    for fold, run in enumerate(runs):
        named = {"--manifest": manifest, "--preset": "diffmic-tiny", "--fold": fold, "--out": run}
        options = [str(word) for option in named.items() for word in option]
        options += [word for value in small for word in ("--set", value)]
        assert not run_command(["--quiet", "fit", *options])
    assert not run_command(["--quiet", "test", str(runs[0]), "--sheets", "0"])
    capsys.readouterr()
    assert not run_command(["test", *map(str, runs), "--sheets", "0"])
    shown = capsys.readouterr()
    assert "was tested before: its results are taken" in shown.err
    found = [json.loads((run / "test" / "metrics.json").read_text()) for run in runs]
    assert [result["tiles"] for result in found] == [20, 20]
    assert [result["times_tested"] for result in found] == [1, 1]
    values = [result["heads"]["diffusion"]["measures"]["accuracy"]["value"] for result in found]
    lines = shown.out.partition("over 2 runs")[2].splitlines()
    line = next(line for line in lines if re.match(r"accuracy +\d\.\d{3} ", line))
    mean, spread = (float(cell) for cell in line.split()[1:3])
    assert mean == pytest.approx(np.mean(values), abs=6e-4)
    assert spread == pytest.approx(statistics.stdev(values), abs=6e-4)
    refused = run_command(["test", *map(str, runs), "--out", str(tmp_path / "x")])
    assert refused == ExitCode.USAGE
    assert "--out is the folder of one test" in capsys.readouterr().err
