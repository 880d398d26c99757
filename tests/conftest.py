"""What several test files need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long runs to `pytest -m faults`."""
    if not config.option.markexpr:
        long_runs = [one for one in items if one.get_closest_marker("faults")]
        config.hook.pytest_deselected(items=long_runs)
        items[:] = [one for one in items if one not in long_runs]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real tiles and masks, or skip where there is none."""
    folder = Path(os.environ.get("HISTOPREP_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no shared data at {folder}; set HISTOPREP_DATA")
    return folder.resolve()
