"""Rules and image formats of other packages: modules named by entry points, which register
themselves when they are loaded.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Any

from histoprep.errors import UsageError

_loaded: set[str] = set()


def load(group: str) -> None:
    """Load every entry point of a group, once in a process.

    Raises:
        UsageError: One cannot be loaded; names the package and the reason.
    """
    if group in _loaded:
        return
    # First, since what is loaded may ask for the same group.
    _loaded.add(group)
    chosen = _declared().select(group=group)
    for found in sorted(chosen, key=lambda entry: (entry.name, entry.value)):
        try:
            found.load()
        except Exception as error:
            _loaded.discard(group)
            package = found.dist.name if found.dist else found.name
            reason = (
                error.what if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
            )
            raise UsageError(
                f"the package {package} cannot extend histoprep: {reason}",
                path=found.value,
                seen=f"entry point {found.name} of the group {group}",
                hint=f"update or correct that package; where it lies: pip show -f {package}",
            ) from error


@cache
def _declared() -> Any:
    """Return those of all installed packages, whose metadata takes long to read."""
    return entry_points()
