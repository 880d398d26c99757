"""docs/adding-a-format.md: a format of another package is read like every other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from audit_cases import stripes, tissue
from extending import Installed, install_example

from histoprep.imageio import encode_rgb_png

SIDE = 96
MAP = """name: netpbm
sources:
  0: background
  3: tissue
classes:
  0: background
  1: tissue
map:
  background: background
  tissue: tissue
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install_example("adding-a-format.md", tmp_path_factory.mktemp("netpbm"))


def ppm(pixels: np.ndarray) -> bytes:
    kind = b"P6" if pixels.ndim == 3 else b"P5"
    height, width = pixels.shape[:2]
    return kind + f"\n{width} {height}\n255\n".encode() + pixels.tobytes()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tiles with masks, one of them cut off, and a PPM that is called .png."""
    folder = tmp_path_factory.mktemp("tiles") / "data"
    folder.mkdir()
    for number in range(6):
        (folder / f"t{number}.ppm").write_bytes(ppm(tissue(number)))
        (folder / f"t{number}_mask.PGM").write_bytes(ppm(stripes(0, 3)))
    cut = folder / "t5.ppm"
    cut.write_bytes(cut.read_bytes()[:-1])
    (folder / "other.png").write_bytes(ppm(tissue(9)))
    (folder / "map.yml").write_text(MAP)
    return folder


@pytest.fixture(scope="module")
def report(package: Installed, root: Path) -> dict[str, list[str]]:
    """The paths of each finding of an audit with worker processes."""
    output = root.parent / "report.json"
    done = package.histoprep(
        "audit", str(root), "--map", str(root / "map.yml"), "--workers", "2",
        "--format", "json", "--output", str(output), "--exit-zero",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {
        finding["code"]: [example["path"] for example in finding["examples"]]
        for finding in json.loads(output.read_text("utf-8"))["findings"]
    }


@pytest.mark.slow
def test_the_audit_pairs_and_reads_it(report: dict[str, list[str]]) -> None:
    assert report["HP201"] == ["t5.ppm"]
    assert report["HP203"] == ["other.png"]
    assert report["HP102"] == ["other.png"]
    assert not {"HP101", "HP106", "HP301", "HP302", "HP401", "HP402", "HP501"} & set(report)


@pytest.mark.slow
def test_masks_are_remapped_counted_and_go_into_a_manifest_and_shards(
    package: Installed, root: Path, report: dict[str, list[str]], tmp_path: Path
) -> None:
    chosen = ("--map", str(root / "map.yml"))
    done = package.histoprep("remap", str(root), *chosen, "--out", str(tmp_path / "remapped"))
    assert done.returncode in (0, 3), done.stderr
    masks = sorted(path.name for path in (tmp_path / "remapped").rglob("*_mask.png"))
    assert masks == [f"t{number}_mask.png" for number in range(6)]
    done = package.histoprep("stats", str(root), *chosen, "--format", "json")
    assert done.returncode in (0, 3), done.stderr
    assert '"tissue"' in done.stdout
    done = package.histoprep("manifest", str(root), *chosen)
    assert done.returncode in (0, 3), done.stderr
    manifest = Path(f"{root}.histoprep") / "manifest.parquet"
    shards = tmp_path / "shards"
    done = package.histoprep("shard", str(manifest), "--out", str(shards))
    assert done.returncode == 0, done.stderr
    assert package.histoprep("shard", "verify", str(shards)).returncode == 0


@pytest.mark.slow
def test_the_doctor_checks_its_decoder(package: Installed) -> None:
    checks = json.loads(package.histoprep("doctor", "--json").stdout)["checks"]
    [own] = [check for check in checks if check["name"] == "netpbm decoder"]
    assert own["status"] == "ok", own
    assert "netpbm-format 1.0" in own["detail"]


@pytest.mark.slow
def test_without_the_package_the_files_are_unexpected(root: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    workspace = tmp_path / "workspace"
    done = Installed(tmp_path / "nothing").histoprep(
        "audit", str(root), "--workspace", str(workspace), "--format", "json", "--exit-zero"
    )
    found = {finding["code"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["HP106"]["count"] == 12
    assert "NumPy archive or MATLAB array: starts with" in str(found["HP201"]["examples"])


def test_a_taken_suffix_is_refused(tmp_path: Path) -> None:
    package = install_example("adding-a-format.md", tmp_path)
    module = tmp_path / "netpbm_format.py"
    module.write_text(module.read_text().replace('("ppm", "pgm")', '("ppm", "png")'))
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles" / "a.png").write_bytes(encode_rgb_png(tissue(1)))
    done = package.histoprep("audit", str(tmp_path / "tiles"))
    assert done.returncode == 2
    assert "netpbm-format" in done.stderr and "PNG has its name or a suffix of it" in done.stderr
