"""What the tests of the trainer share: one thread, a small prepared data set, runs of the toy
recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small networks are many times slower with two threads on a busy machine, and sums then depend
    on their number.
    """
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def demo_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the manifest of 48 procedural tiles of 64 px under label_map_5, with a test split."""
    from histoprep.cli import run
    from histoprep.demo import GROUP_PATTERN, make_clean_demo

    folder = tmp_path_factory.mktemp("trainer-demo") / "demo"
    make_clean_demo(folder, num_tiles=48, tile_px=64, seed=7)
    assert (
        run(
            [
                "--quiet",
                "manifest",
                str(folder),
                "--map",
                "label_map_5.yml",
                "--group-by",
                GROUP_PATTERN,
            ]
        )
        == 0
    )
    return folder.with_name("demo.histoprep") / "manifest.parquet"


@pytest.fixture
def toy_config(demo_manifest: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that makes a configuration of the toy recipe; keys are dotted with two
    underscores.
    """
    import toy_recipe

    from trainer.config_layers import build_config, merge

    toy_recipe.register()

    def make(out: str = "run", **changes: Any) -> Any:
        values: dict[str, Any] = {
            "recipe": "toy",
            "manifest": str(demo_manifest),
            "out": str(tmp_path / out),
            "batch_size": 4,
            "duration": {"steps": 12},
            "data": {"num_workers": 0},
            "optimiser": {"lr": 1e-2},
            "schedule": {"kind": "one_cycle"},
            "ema": {"decay": 0.9, "every": 2},
            "every": {"log": 3, "validate": 4, "checkpoint": 4, "images": None},
        }
        for key, value in changes.items():
            *parents, name = key.split("__")
            layer: Any = {name: value}
            for parent in reversed(parents):
                layer = {parent: layer}
            values = merge(values, layer)
        return build_config(toy_recipe.Config, values)

    return make
