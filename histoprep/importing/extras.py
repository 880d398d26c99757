"""Libraries of the extra `[import]`, which are loaded when an outline needs them."""

from __future__ import annotations

from typing import Any

from histoprep.errors import UsageError
from histoprep.extras import install_command

INSTALL = install_command("import")


def coco_masks() -> Any:
    """Return pycocotools.mask; raises UsageError where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise missing("outlines of COCO and CVAT", "pycocotools") from error
    return mask


def rasterio_features() -> Any:
    """Return rasterio.features; raises UsageError where it is not installed."""
    try:
        from rasterio import features
    except ImportError as error:
        raise missing("outlines of regions", "rasterio") from error
    return features


def missing(what: str, package: str) -> UsageError:
    """Return the error for a library that is not installed."""
    return UsageError(
        f"{what} need the package {package}, which is not installed",
        hint=INSTALL,
    )
