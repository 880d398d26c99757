"""What is loaded when: the contracts of pyproject.toml see imports in the source, and here is what
they cannot see.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from packed_tiles import make_tiles

import histoprep
from histoprep.execution import workers
from histoprep.shards.write import write_shards

REPOSITORY = Path(__file__).parents[1]
STAGES = (
    *("auditing", "checks", "repairing", "remapping", "lossy"),
    *("mask_tree", "execution", "scanning", "tiles"),
)
# Files that import modules by name, and which ones: those of their own package, but for the first.
BY_NAME = {
    "histoprep/__init__.py": "the public names",
    "histoprep/checks/__init__.py": "the families of rules",
    "histoprep/command_line.py": "the commands of a program",
    "histoprep/command_style.py": "a class of click",
    "histoprep/execution/workers.py": "what workers need, before they start",
    "histoprep/imageio/decoders/__init__.py": "the decoders of formats",
    "histoprep/importing/formats/__init__.py": "the formats of imports",
    "histoprep/report/__init__.py": "the formats of reports",
    "trainer/__init__.py": "the public names",
    "trainer/models/denoisers/registry.py": "the denoisers",
    "trainer/stage.py": "the recipes",
}


def test_every_contract_counts_indirect_imports() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    assert len(contracts) >= 12
    assert not [
        contract["name"] for contract in contracts if contract.get("allow_indirect_imports")
    ]


def test_a_class_name_stands_for_one_thing() -> None:
    # A recipe and a denoiser have a `Config` each: the seam asks for that name.
    places: dict[str, list[str]] = {}
    for package in ("histoprep", "trainer"):
        for path in (REPOSITORY / package).rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(str(path.relative_to(REPOSITORY)))
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert twice.keys() == {"Config"}


def test_modules_are_imported_by_name_in_registries_alone() -> None:
    calls = {
        path.relative_to(REPOSITORY).as_posix()
        for package in ("histoprep", "trainer")
        for path in (REPOSITORY / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("import_module", "importlib.import_module", "__import__")
    }
    assert calls <= BY_NAME.keys()


def test_public_names_are_where_the_package_says() -> None:
    for name in histoprep.__all__:
        assert getattr(histoprep, name) is not None
    for name, home in histoprep._HOMES.items():
        assert getattr(import_module(f"histoprep.{home}"), name) is getattr(histoprep, name)


def test_what_workers_load_beforehand_is_there() -> None:
    for name in (*workers._PRELOADED, *workers._PRELOADED_IF_LOADED):
        assert import_module(name)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a manifest and the folder of its shards."""
    top = tmp_path_factory.mktemp("layers")
    manifest = make_tiles(top / "data", 8)
    write_shards(manifest, top / "shards")
    return {"manifest": manifest, "shards": top / "shards"}


@pytest.mark.parametrize("source", ["manifest", "shards"])
def test_tiles_are_read_without_the_stages_that_made_them(
    packed: dict[str, Path], source: str
) -> None:
    """As in a training: a manifest is opened and checked, and every tile is decoded."""
    code = (
        "import sys\n"
        "from histoprep.manifest.check import check_manifest\n"
        "from histoprep.shards import open_tiles\n"
        f"tiles = open_tiles({str(packed[source])!r})\n"
        "check_manifest(tiles.manifest)\n"
        "masks = [tiles.read(row).mask for row in range(len(tiles))]\n"
        "assert len(masks) == 8 and any(mask is not None for mask in masks)\n"
        "print(*sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    loaded = set(run.stdout.split())
    assert "histoprep.shards.readers" in loaded
    assert not [stage for stage in STAGES if f"histoprep.{stage}" in loaded]
