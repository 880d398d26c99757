"""No output of either program goes into a data set: neither straight, nor through a link, nor into
a folder of --unlabelled tiles.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histoprep.cli import run as histoprep
from histoprep.durable import locked
from histoprep.errors import ExitCode, OutputError
from histoprep.schemas.workspace import Workspace


def tile(folder: Path, name: str, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
        folder / f"{name}.png"
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set with a workspace, a manifest and shards, and with unlabelled tiles
    elsewhere.
    """
    pytest.importorskip("torch")
    top = tmp_path_factory.mktemp("confined")
    data = top / "data"
    for index in range(12):
        tile(data, f"t{index}", index)
        mask = np.zeros((32, 32), np.uint8)
        mask[4:20, 4:20] = index % 3
        Image.fromarray(mask).save(data / f"t{index}_mask.png")
        tile(top / "more", f"u{index}", 100 + index)
    assert (
        histoprep(["audit", str(data), "--unlabelled", str(top / "more"), "--workers", "1"])
        == ExitCode.OK
    )
    assert (
        histoprep(["manifest", str(data), "--split", "0.6/0.2/0.2", "--workers", "1"])
        == ExitCode.OK
    )
    return data


# Of each output: the program and its arguments; MANIFEST, ROOT and OUT stand for the paths.
OUTPUTS = {
    "audit --workspace": "histoprep audit ROOT --unlabelled MORE --workspace OUT",
    "audit --output": "histoprep audit ROOT --format html --output OUT.png",
    "audit --write-baseline": "histoprep audit ROOT --write-baseline OUT.png",
    "manifest --out": "histoprep manifest ROOT --out OUT",
    "manifest --dataset-csv": "histoprep manifest ROOT --dataset-csv OUT.png",
    "remap --out": "histoprep remap ROOT --map label_map_5 --out OUT",
    "repair --out": "histoprep repair ROOT --out OUT",
    "shard --out": "histoprep shard MANIFEST --out OUT",
    "shard preview --out": "histoprep shard preview MANIFEST --out OUT",
    "fit --out": "trainer fit --manifest MANIFEST --preset codec-tiny --out OUT",
    "fit --dry-run": "trainer fit --manifest MANIFEST --preset codec-tiny --dry-run --out OUT",
    "encode --out": "trainer encode --manifest MANIFEST --codec nowhere --image-size 32 --out OUT",
    "predict --out": "trainer predict nowhere FOLDER --out OUT",
    "evaluate --out": "trainer evaluate --real MANIFEST --synthetic nowhere --out OUT",
    "review --out": "trainer review MANIFEST --out OUT.png",
}
WAYS = ("straight", "deeper", "through a link", "unlabelled")


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("way", WAYS)
def test_no_output_goes_into_the_data_set(
    root: Path, tmp_path: Path, output: str, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.cli import run as trainer

    more = root.with_name("more")
    (tmp_path / "link").symlink_to(root)
    out = {
        "straight": root / "out",
        "deeper": root / "new" / "out",
        "through a link": tmp_path / "link" / "out",
        "unlabelled": more / "out",
    }[way]
    names = {
        "ROOT": root,
        "MORE": more,
        "MANIFEST": Workspace.of(root).manifest,
        "FOLDER": more if way == "unlabelled" else root,
        "OUT.png": f"{out}.png",
        "OUT": out,
    }
    program, *arguments = (str(names.get(word, word)) for word in OUTPUTS[output].split())
    before = {
        path: path.stat().st_mtime_ns
        for folder in (root, more)
        for path in [folder, *folder.rglob("*")]
    }
    run = {"histoprep": histoprep, "trainer": trainer}[program]
    assert run(arguments) == ExitCode.USAGE
    text = capsys.readouterr().err
    assert "must not mix with the data" in text and "name another --" in text
    assert {
        path: path.stat().st_mtime_ns
        for folder in (root, more)
        for path in [folder, *folder.rglob("*")]
    } == before


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    """The file that `.lock` pointed to was overwritten with the number of a process."""
    folder, precious = tmp_path / "space", tmp_path / "precious"
    folder.mkdir()
    precious.write_text("important")
    (folder / ".lock").symlink_to(precious)
    with pytest.raises(OutputError, match="lock file is a link") as caught, locked(folder):
        pass
    assert caught.value.seen == f"a link to {precious}"
    assert precious.read_text() == "important"
    (folder / ".lock").unlink()
    (folder / ".lock").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError), locked(folder):
        pass
    assert not (tmp_path / "nowhere").exists()
