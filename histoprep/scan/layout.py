"""The names of the folder layouts, apart from the scan so that `--help` needs nothing else."""

from __future__ import annotations

from enum import StrEnum


class Layout(StrEnum):
    """How images and masks lie beside each other."""

    AUTO = "auto"
    SIBLING = "sibling"
    FOLDERS = "folders"
    CLASS_FOLDERS = "class-folders"
