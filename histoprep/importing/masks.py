"""Mask files of a source: which pixels are set, and what identifies a file without reading it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histoprep.errors import UsageError
from histoprep.image_formats import Compression, format_called
from histoprep.imageio import Header, decode_rgb, decode_stored, read_header
from histoprep.importing.model import ImageSize

_HALF = 128


def read_set_pixels(path: Path, size: ImageSize) -> tuple[np.ndarray, bool]:
    """Return which pixels of a mask file are set, bool [height, width], and whether set pixels
    differ, so that the file says more than that.

    A pixel is set where its value, or a channel of its colour, is not 0; in a JPEG, which has
    values between, where a channel is 128 or more.

    Raises:
        UsageError: The mask has another size than its image.
        BrokenFileError: It cannot be decoded.
        OSError: It cannot be read.
    """
    data = path.read_bytes()
    header = read_header(data)
    refuse_other_size(path, header, size)
    if is_lossy(header):
        return np.asarray((decode_rgb(data, header) >= _HALF).any(-1)), False
    if header.palette or header.is_min_is_white:
        return _set_and_differing(decode_rgb(data, header))
    stored = decode_stored(data, header)
    if stored.ndim == 2:
        return _set_and_differing(stored[..., None])
    # The last of two or four channels is how opaque a pixel is.
    return _set_and_differing(stored[..., :-1] if stored.shape[-1] in (2, 4) else stored)


def _set_and_differing(channels: np.ndarray) -> tuple[np.ndarray, bool]:
    pixels = np.asarray((channels != 0).any(-1))
    values = channels[pixels]
    return pixels, bool(len(values) and (values != values[0]).any())


def is_lossy(header: Header) -> bool:
    """Return whether the pixels of a file went through lossy compression."""
    return header.lossy is not None or format_called(header.format).compression is Compression.LOSSY


def refuse_other_size(path: Path, header: Header, size: ImageSize) -> None:
    """Raise UsageError for a mask file of another size than its image."""
    seen = ImageSize(header.height_px, header.width_px)
    if seen != size:
        raise UsageError(
            "the mask has another size than its image",
            path=path,
            seen=str(seen),
            expected=str(size),
        )


def state_of(*paths: Path) -> str:
    """Return size and modification time of files, by which a change of them is seen."""
    return "\n".join(
        f"{path.name} {stat.st_size} {stat.st_mtime_ns}" for path in paths for stat in [path.stat()]
    )
