"""Training on a data set that moved, with images beside it: found, or where --root says."""

from __future__ import annotations

from pathlib import Path

import pytest
from moved_sets import move_with_unlabelled

from trainer.cli import run as trainer
from trainer.cli.sample import _mask_list
from trainer.config_layers import load_config
from trainer.data.source import open_run_tiles

SMALL = (
    "architecture.block_out_channels=[8,8,16,16]",
    *("data.image_size=32", "data.fit=crop", "batch_size=2", "data.num_workers=0"),
    *("every.validate=null", "every.images=null", "accelerator=cpu"),
)


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """Return the root of a data set that moved together with images beside it without masks."""
    return move_with_unlabelled(tmp_path)


def fit(manifest: Path, out: Path, steps: int, *more: str) -> int:
    words = ["--manifest", str(manifest), "--preset", "codec-tiny", "--out", str(out), *more]
    for value in (*SMALL, f"duration.steps={steps}"):
        words += ["--set", value]
    return trainer(["fit", *words])


def test_a_training_reads_it_where_it_is_and_resumes_elsewhere(
    moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, out = moved.with_name("data.histoprep") / "manifest.parquet", tmp_path / "run"
    assert fit(manifest, out, 1) == 0, capsys.readouterr().err
    assert "the data set moved" in capsys.readouterr().err
    # Under another name nobody finds it but for --root, and the run goes on.
    root = moved.rename(moved.with_name("tiles"))
    assert fit(manifest, out, 1) == 2
    assert f"trainer fit --manifest {manifest} --root FOLDER" in capsys.readouterr().err
    assert fit(manifest, out, 1, "--root", str(root)) == 0, capsys.readouterr().err
    assert "training is finished: 1 step" in capsys.readouterr().err
    other = tmp_path / "another run"
    assert fit(manifest, other, 1, "--root", str(root)) == 0, capsys.readouterr().err
    # What comes next takes it, too.
    assert f"next: trainer fit --manifest {manifest} --root {root} --codec" in (
        capsys.readouterr().err
    )
    encode = ["encode", "--manifest", str(manifest), "--codec", str(other), "--image-size", "32"]
    encode += ["--fit", "crop", "--report", "0", "--num-workers", "0", "--device", "cpu"]
    assert trainer([*encode, "--out", str(tmp_path / "latents")]) == 2
    assert "--root FOLDER" in capsys.readouterr().err
    encode += ["--root", str(root), "--out", str(tmp_path / "latents")]
    assert trainer(encode) == 0, capsys.readouterr().err
    # Masks of a manifest are read there as well.
    classes = open_run_tiles(
        load_config(preset="codec-tiny", manifest=str(manifest), out="run", root=str(root))
    ).label_map
    place = tmp_path / "made"
    listed = _mask_list(str(manifest), classes, None, None, None, place, root)
    assert listed.read_mask(0).ndim == 2
    config = load_config(preset="codec-tiny", manifest=str(manifest), out="run", root=str(root))
    tiles = open_run_tiles(config)
    assert all(tiles.read(row).image.shape[2] == 3 for row in range(len(tiles)))
    assert fit(manifest, other, 1, "--root", str(root / "nowhere")) == 2
    assert "not where --root says" in capsys.readouterr().err
