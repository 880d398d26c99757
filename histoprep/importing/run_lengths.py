"""Compressed run lengths of COCO."""

from __future__ import annotations

import numpy as np

_FIRST, _LAST_CODE = 48, 63
_MORE, _SIGN = 32, 16
_MOST_GROUPS = 12


def decompress(text: bytes) -> np.ndarray:
    """Return the run lengths in a compressed text, int64 [runs].

    Each number is written in groups of 5 bits, the lowest first, with a sixth bit that says whether
    another group follows, and is from the fourth number on the difference to the one before the
    last. Source: maskApi.c of pycocotools, rleFrString.

    Args:
        text: Characters from `0` to `o`.

    Raises:
        ValueError: It has other characters, or is cut off.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - _FIRST
    if not len(codes) or codes.min() < 0 or codes.max() > _LAST_CODE or codes[-1] & _MORE:
        raise ValueError("no compressed run lengths, or cut off")
    ends = np.flatnonzero(codes & _MORE == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MOST_GROUPS:
        raise ValueError("a run length of more than 60 bits")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & (_MORE - 1)) << shifts, starts)
    values -= np.where(codes[ends] & _SIGN, np.int64(1) << (5 * lengths), 0)
    values[2::2] = np.cumsum(values[2::2])
    values[1::2] = np.cumsum(values[1::2])
    return np.asarray(values)
