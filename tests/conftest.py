"""What several test files need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import shape_checks
from hypothesis import HealthCheck, settings
from long_runs import pytest_addoption, pytest_configure

__all__ = ["pytest_addoption", "pytest_configure"]

shape_checks.install()

# The same examples in every run, so that a commit that passed here passes elsewhere; `make
# test-examples` looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile(
    "search", max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
# Mutation testing runs the tests of a class again and again in one process.
settings.register_profile(
    "mutants",
    settings.get_profile("same"),
    max_examples=20,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)
settings.load_profile("mutants" if "MUTANT_UNDER_TEST" in os.environ else "same")


# Files that take longest: begun first, so that no process is left alone with one at the end.
LONG_FILES = (
    *("test_documentation", "test_kills", "test_repair_interrupted", "test_resume", "test_repair"),
    *("test_disk_full", "test_workers", "test_demo_end_to_end", "test_repaired_masks"),
    *("test_remap", "test_audit_real_data", "test_block_limits", "test_fit", "test_verify"),
    *("test_browse_page", "test_browse_server"),
    *("test_doctor", "test_shards_interrupted", "test_cli_audit", "test_tile_table"),
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest files; leave tests of a marker to `pytest -m MARKER`."""
    rank = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    if not config.option.markexpr:
        long_runs = [
            item
            for item in items
            if any(item.get_closest_marker(name) for name in ("faults", "published", "slow"))
        ]
        config.hook.pytest_deselected(items=long_runs)
        items[:] = [item for item in items if item not in long_runs]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real tiles and masks, or skip where there is none."""
    folder = Path(os.environ.get("HISTOPREP_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no shared data at {folder}; set HISTOPREP_DATA")
    return folder.resolve()
