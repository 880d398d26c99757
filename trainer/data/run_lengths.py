"""Masks as run lengths: a fraction of their size, and back to pixels faster than any decoder of
images.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32, Integer, UInt8


def encode_runs(
    mask: UInt8[np.ndarray, "height width"],
) -> tuple[UInt8[np.ndarray, " runs"], Int32[np.ndarray, " runs"]]:
    """Return the class ids (uint8 [runs]) and lengths in pixels (int32 [runs]) of the runs of a
    mask, in the order of its pixels.
    """
    flat = np.ascontiguousarray(mask).ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return flat[starts], np.diff(starts, append=flat.size).astype(np.int32)


def decode_runs(
    values: UInt8[np.ndarray, " runs"],
    lengths: Integer[np.ndarray, " runs"],
    out: UInt8[np.ndarray, "height width"],
) -> None:
    """Fill `out` (uint8 [height, width]) with the mask of these runs.

    Raises:
        ValueError: When they are not of its size.
    """
    if len(values) == 1 and lengths[0] == out.size:
        out[...] = values[0]
        return
    out[...] = np.repeat(values, lengths).reshape(out.shape)
