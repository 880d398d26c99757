"""Grey levels that a lossy WebP never decodes to. Pure.

WebP stores luminance in the range of video, 16 to 235, and spreads it over 0 to 255 when it is
decoded: 220 levels become as many of 256, and every seventh or so is never met. A mask that holds
both neighbours of such levels, and none of these, came out of one. Source: ITU-R BT.601, 2011,
section 2.5.3; in whole numbers as the WebP
decoder has it (RFC 9649, section 2.5, names the matrix).
"""

from __future__ import annotations

import numpy as np

_DARKEST, _BRIGHTEST = 16, 235
# 255 / 219 in units of 2^-14, and what 16 comes to, in units of 2^-6.
_GAIN, _OFFSET = 19077, 1160
_MET = ((np.arange(_DARKEST, _BRIGHTEST + 1) * _GAIN >> 8) - _OFFSET) >> 6
NEVER_MET = np.setdiff1d(np.arange(256), _MET)


def count_gaps(ids: np.ndarray) -> tuple[int, int]:
    """Return how many levels that WebP never decodes to lie between two labels that occur, one
    below and one above, and how many of those levels occur themselves.

    Args:
        ids: The labels of a mask, ascending.
    """
    occurs = np.zeros(258, bool)
    occurs[ids[ids < 256]] = True
    between = NEVER_MET[occurs[NEVER_MET - 1] & occurs[NEVER_MET + 1]]
    return len(between), int(np.count_nonzero(occurs[between]))
