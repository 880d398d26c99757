"""Numbers wider than labels usually are -> labels: floating-point values that are whole numbers,
and integers of 32 and 64 bits. Pure.
"""

from __future__ import annotations

import numpy as np

from histoprep import rule_ids
from histoprep.errors import BrokenFileError

MAX_LABEL = (1 << 32) - 1
_NUM_SHOWN = 3
_BYTE = 255
_TOLERANCE = 1e-3


def labels_of_floats(stored: np.ndarray) -> np.ndarray:
    """Return floating-point values that are whole numbers as labels, uint8, uint16 or uint32
    [height, width].

    Raises:
        BrokenFileError: HP402; some are no whole numbers (probabilities, labels divided by 255), or
            not finite. HP416; some are negative.
    """
    finite = np.isfinite(stored)
    if not finite.all():
        number = int(stored.size - np.count_nonzero(finite))
        raise _refused(
            "float",
            f"{number:,} pixels are not a number (NaN or infinite); give them a label of their own",
        )
    whole = np.rint(stored)
    if (whole != stored).any():
        raise _fractions(stored[whole != stored], float(stored.min()), float(stored.max()))
    return smallest(stored)


def smallest(values: np.ndarray) -> np.ndarray:
    """Return whole numbers as uint8, uint16 or uint32, the smallest that holds them all.

    Raises:
        BrokenFileError: HP416; some are negative. HP402; some are above 4,294,967,295.
    """
    refuse_negative(values)
    highest = int(values.max()) if values.size else 0
    if highest > MAX_LABEL:
        raise _refused("wide-integer", f"label {highest:,}; labels go up to {MAX_LABEL:,}")
    return values.astype(np.min_scalar_type(highest))


def refuse_negative(values: np.ndarray) -> None:
    """Raise BrokenFileError (HP416) if there are negative labels."""
    if not values.size or values.dtype.kind == "u" or values.min() >= 0:
        return
    negative, pixels = np.unique(values[values < 0], return_counts=True)
    named = ", ".join(
        f"{value:.0f} ({number:,} pixels)"
        for value, number in list(zip(negative.tolist(), pixels.tolist(), strict=True))[:8]
    )
    is_byte = values.dtype.itemsize == 1
    elsewhere = (
        f"; readers that ignore the sign return {int(negative[-1]) + 256} for {negative[-1]}"
        if is_byte
        else ""
    )
    raise BrokenFileError(str(rule_ids.NEGATIVE_LABEL), f"{named}, signed{elsewhere}")


def _fractions(fractions: np.ndarray, low: float, high: float) -> BrokenFileError:
    values = np.unique(fractions)
    shown = ", ".join(f"{value:.4g}" for value in values[:_NUM_SHOWN].tolist())
    if not 0 <= low <= high <= 1:
        return _refused("float", f"values that are no whole numbers, such as {shown}")
    scaled = values.astype(np.float64) * _BYTE
    if len(values) < _BYTE and np.abs(scaled - np.rint(scaled)).max() < _TOLERANCE:
        labels = ", ".join(f"{value:.0f}" for value in np.rint(scaled[:_NUM_SHOWN]).tolist())
        return _refused(
            "scaled-float",
            f"labels divided by 255 ({shown} for {labels}): multiply them by 255 and round",
        )
    return _refused(
        "probability",
        f"values from {low:.3g} to {high:.3g}, such as {shown}: probabilities, no labels; decide"
        " first (above 0.5, or the most probable class), then save label ids",
    )


def _refused(subcode: str, detail: str) -> BrokenFileError:
    return BrokenFileError(rule_ids.MASK_WRONG_MODE.verdict(subcode), detail)
