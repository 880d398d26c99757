"""How what is not installed is installed."""

from __future__ import annotations


def install_command(extra: str = "") -> str:
    """Return how the package is installed with an extra of it, such as cloud.

    It is installed from its source, since no registry has it.
    """
    what = f"'.[{extra}]'" if extra else "."
    return f"in the folder of the source: pip install -c constraints.txt {what}"
