"""Cards are read by the tools they are for: mlcroissant and datasets."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import mlcroissant
import numpy as np
import pytest
import yaml
from audit_cases import DataSet, stripes
from datasets import load_dataset

from histoprep.cli import run
from histoprep.errors import ExitCode
from histoprep.schemas.manifest import Manifest, open_manifest
from histoprep.schemas.workspace import Workspace

NUM_SLIDES, NUM_TILES = 10, 30
LABEL_MAP = """\
sources: {0: glass, 1: stroma, 2: tumour}
classes: {0: Background, 1: "Stroma | dense", 2: Tumour}
map: {glass: Background, stroma: "Stroma | dense", tumour: Tumour}
"""
ABOUT = (
    "--name", "Test: tiles", "--description", "Tiles of a test.", "--license", "cc-by-4.0",
    "--url", "https://example.org/tiles",
)  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("cards")
    data = DataSet(folder / "tiles")
    for index in range(NUM_TILES):
        name = f"s{index % NUM_SLIDES}_{index:02}"
        data.image(f"{name}.jpg")
        if index % 3:
            data.mask(f"{name}_mask.png", stripes(0, 1, 2))
    data.mask("lone_mask.png", stripes(0, 1))
    (folder / "map.yml").write_text(LABEL_MAP)
    words = ["--map", str(folder / "map.yml"), "--group-by", r"(s\d+)_", "--workers", "1"]
    assert run(["audit", str(data.root), *words]) in (ExitCode.OK, ExitCode.FINDINGS)
    run(["manifest", str(data.root), *words[:4]])
    return open_manifest(Workspace.of(data.root).manifest)


@pytest.fixture(scope="module")
def shards(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "shards"
    assert run(["shard", str(manifest.path), "--out", str(out), "--workers", "1"]) == ExitCode.OK
    return out


def front_matter(folder: Path) -> dict[str, object]:
    text = (folder / "README.md").read_text()
    assert text.startswith("---\n")
    found: dict[str, object] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_mlcroissant_reads_the_tiles(manifest: Manifest, tmp_path: Path) -> None:
    assert run(["card", str(manifest.path), *ABOUT]) == ExitCode.OK
    path = manifest.path.with_name("croissant.json")
    data = mlcroissant.Dataset(jsonld=str(path))
    assert not data.metadata.ctx.issues.errors
    assert (data.metadata.name, data.metadata.url) == ("Test: tiles", "https://example.org/tiles")
    rows = list(data.records("tiles"))
    wanted = manifest.read().to_pylist()
    assert [row["tiles/tile_id"].decode() for row in rows] == [row["tile_id"] for row in wanted]
    assert [row["tiles/split"].decode() for row in rows] == [row["split"] for row in wanted]
    assert [list(row["tiles/classes"]) for row in rows] == [row["classes"] for row in wanted]
    classes = list(data.records("classes"))
    assert [(row["classes/id"], row["classes/name"]) for row in classes] == [
        (cls.id, cls.name) for cls in manifest.label_map.classes
    ]
    assert [row["splits/name"] for row in data.records("splits")] == ["test", "train"] or [
        row["splits/name"] for row in data.records("splits")
    ] == ["train", "test"]


def test_a_changed_manifest_does_not_fit_its_description(
    manifest: Manifest, tmp_path: Path
) -> None:
    assert run(["card", str(manifest.path), "--out", str(tmp_path), *ABOUT]) == ExitCode.OK
    described = json.loads((tmp_path / "croissant.json").read_text())
    (file,) = described["distribution"]
    assert file["contentUrl"] == str(manifest.path.absolute())
    file["sha256"] = "0" * 64
    (tmp_path / "croissant.json").write_text(json.dumps(described))
    data = mlcroissant.Dataset(jsonld=str(tmp_path / "croissant.json"))
    with pytest.raises(mlcroissant.GenerationError, match="manifest"):
        list(data.records("tiles"))


def test_the_hub_opens_the_shards_by_split(manifest: Manifest, shards: Path) -> None:
    assert run(["card", str(shards), *ABOUT]) == ExitCode.OK
    front = front_matter(shards)
    assert front["license"] == "cc-by-4.0"
    assert front["task_categories"] == ["image-segmentation"]
    assert front["size_categories"] == ["n<1K"]
    opened = load_dataset(str(shards), streaming=True)
    wanted = Counter(row["split"] for row in manifest.read().to_pylist())
    found = {name: list(split) for name, split in opened.items()}
    assert {name: len(rows) for name, rows in found.items()} == wanted
    pixels = np.asarray(found["test"][0]["jpg"])
    assert pixels.ndim == 3
    files = mlcroissant.Dataset(jsonld=str(shards / "croissant.json"))
    assert len(list(files.records("tiles"))) == NUM_TILES


def test_the_card_says_what_was_counted_and_left_out(manifest: Manifest) -> None:
    assert run(["card", str(manifest.path), *ABOUT, "--citation", "Me, 2026."]) == ExitCode.OK
    text = manifest.path.with_name("README.md").read_text()
    split = manifest.certificate["splits"]["train"]
    cells = ("tiles", "conditional", "unconditional", "groups")
    assert "| train | " + " | ".join(str(split[cell]) for cell in cells) + " |" in text
    assert f"| 1 | Stroma \\| dense | {manifest.label_map.classes[1].colour} |" in text
    assert "- groups in two splits: 0" in text
    assert "| orphan-mask | 1 |" in text
    assert "| HP101 | error | 1 |" in text, "the mask without an image was found by the audit"
    assert text.endswith("## Citation\n\nMe, 2026.\n")


def test_a_card_of_another_hand_is_kept(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Mine\n")
    words = ["card", str(manifest.path), "--out", str(tmp_path)]
    assert run(words) == ExitCode.USAGE
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    assert not (tmp_path / "croissant.json").exists()
    assert run([*words, "--force"]) == ExitCode.OK
    assert run(words) == ExitCode.OK
    assert front_matter(tmp_path)["license"] == "unknown"


def test_nothing_is_written_into_the_data(manifest: Manifest) -> None:
    before = sorted(manifest.root.rglob("*"))
    assert run(["card", str(manifest.path), "--out", str(manifest.root)]) == ExitCode.USAGE
    assert sorted(manifest.root.rglob("*")) == before
