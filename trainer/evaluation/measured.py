"""One measure of an evaluation: its value with an interval, beside the interval of its floor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class Measured:
    """A value with the interval of its bootstrap draws, and what real tiles give in its place.

    `floor_low` to `floor_high` hold 95 % of the values of real tiles against other real tiles, at
    the same size. `more` are further facts, JSON values.
    """

    value: float
    low: float
    high: float
    floor: float
    floor_low: float
    floor_high: float
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        """Return whether value and floor could be measured."""
        return math.isfinite(self.value) and math.isfinite(self.floor_high)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; what is undefined is null."""
        names = ("value", "low", "high", "floor", "floor_low", "floor_high")
        return {name: json_number(getattr(self, name)) for name in names} | dict(self.more)


def json_number(value: float) -> float | None:
    """Return a number as JSON can hold it: null where it is not finite."""
    return float(value) if math.isfinite(value) else None
