"""What several test files need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real tiles and masks, or skip where there is none."""
    folder = Path(os.environ.get("HISTOPREP_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no shared data at {folder}; set HISTOPREP_DATA")
    return folder.resolve()
