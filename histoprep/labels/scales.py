"""Labels of one data set in two scales: some masks hold 0 and 1, others 0 and 255. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Values white is stored as: alone beside 0 they are an image of two labels.
WHITES = (255, 65_535)
# How unlikely a common divisor must be before it means anything: n values share the divisor d by
# chance once in d^n.
MIN_SURPRISE = 1000
# A single mask of other values proves nothing.
_MIN_MASKS = 2


@dataclass(frozen=True, slots=True)
class TwoScales:
    """Labels and the factor by which other masks hold them multiplied, in order."""

    labels: tuple[int, ...]
    factor: int

    @property
    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yield each label with its scaled value."""
        return ((label, label * self.factor) for label in self.labels)


def find_two_scales(
    masks: Mapping[int, int], together: Mapping[tuple[int, int], int]
) -> TwoScales | None:
    """Return the two scales that all labels other than 0 are in, None where they are not.

    Every label has its scaled value, no mask holds labels of both scales, and the factor is one for
    viewing: the largest value is white, or chance is unlikely.

    Args:
        masks: Number of masks of each label.
        together: Number of masks of two labels (smaller, larger) that stand in one.
    """
    values = sorted(value for value in masks if value)
    if len(values) < 2 or len(values) % 2:
        return None
    labels, scaled = values[: len(values) // 2], values[len(values) // 2 :]
    factor = scaled[0] // labels[0]
    if factor < 2 or scaled != [label * factor for label in labels]:
        return None
    is_for_viewing = scaled[-1] in WHITES or (
        len(labels) > 1 and factor ** len(labels) >= MIN_SURPRISE
    )
    are_apart = not any(together.get((label, value)) for label in labels for value in scaled)
    are_many = all(max(masks[value] for value in side) >= _MIN_MASKS for side in (labels, scaled))
    return TwoScales(tuple(labels), factor) if is_for_viewing and are_apart and are_many else None
