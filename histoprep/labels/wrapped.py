"""Labels that were written as if they were brightness: R's png and tiff store the label k as 256 -
k, or 65,536 - k, and 0 as 0.

`writePNG` and `writeTIFF` take numbers from 0 to 1, multiply them by 255 or 65,535 and keep the
lower 8 or 16 bits: k * 255 is -k modulo 256.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histoprep.labels.model import LabelMap

CAUSE = (
    "Values are {modulus:,} - k for labels k ({labels}): R's writePNG and writeTIFF store a matrix"
    " of labels so, since they expect 0 to 1."
)
ADVICE = "Write them again in R with writePNG(labels / 255, ...), or 65535 for 16 bits; 0 stays 0."
_MODULI = (256, 65_536)
_MIN_LABELS = 2
# How unlikely so many values so near to the top must be by chance.
_MIN_SURPRISE = 1000
_NUM_SHOWN = 8


def wrapped_modulus(values: Collection[int], label_map: LabelMap | None = None) -> int | None:
    """Return 256 or 65,536 when the values other than 0 seem to be that number minus a label, else
    None.

    With a label map: it lists none of the values, and all of the labels.
    Without: all values lie nearer to the top than chance has it; 255 beside one other value than
    254 is rather a foreground.
    """
    stored = {value for value in values if value}
    for modulus in _MODULI:
        if len(stored) < _MIN_LABELS or max(stored) >= modulus:
            continue
        labels = {modulus - value for value in stored}
        if label_map is not None:
            if not label_map.unlisted(labels) and set(label_map.unlisted(stored)) == stored:
                return modulus
        elif (modulus > 256 or len(labels) > 2 or max(labels) == 2) and (
            modulus / max(labels)
        ) ** len(labels) >= _MIN_SURPRISE:
            return modulus
    return None


def wrapped_cause(values: Collection[int], modulus: int) -> str:
    """Return what happened to the labels, in a sentence."""
    labels = sorted(modulus - value for value in values if value)
    return CAUSE.format(modulus=modulus, labels=", ".join(map(str, labels[:_NUM_SHOWN])))
