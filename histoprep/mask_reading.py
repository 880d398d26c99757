"""What somebody decided of masks that readers understand in two ways: `--palette`,
`--min-is-white`, `--depth`.

A decision is an option of the tiles table: made once, it holds for the audit, remap, repair, the
manifest and all that is made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from histoprep.choices import DepthReading, MinIsWhiteReading, PaletteReading
from histoprep.errors import UsageError

PALETTE, MIN_IS_WHITE, DEPTH = "palette", "min-is-white", "depth"


@dataclass(frozen=True, slots=True)
class Reading:
    """What somebody decided for encodings that readers understand in two ways; None where nobody
    has.
    """

    palette: PaletteReading | None = None
    min_is_white: MinIsWhiteReading | None = None
    depth: DepthReading | None = None

    def as_json(self) -> dict[str, str]:
        """Return the decisions that were made, as JSON values."""
        decided = {PALETTE: self.palette, MIN_IS_WHITE: self.min_is_white, DEPTH: self.depth}
        return {name: str(value) for name, value in decided.items() if value is not None}

    @classmethod
    def from_json(cls, decided: Mapping[str, str | None]) -> Reading:
        """Return the decisions that `as_json` gave, or options of these names; raises UsageError
        for a value that there is not.
        """
        made = {
            field: _member(kind, name, decided[name])
            for name, (field, kind) in _KINDS.items()
            if decided.get(name) is not None
        }
        return cls(**made)

    def updated(self, other: Reading) -> Reading:
        """Return these decisions with those of `other` in their place, as far as it makes any."""
        return Reading.from_json({**self.as_json(), **other.as_json()})

    def describe(self) -> str:
        """Return the options that make these decisions."""
        return " ".join(f"--{name} {value}" for name, value in self.as_json().items())


_KINDS: dict[str, tuple[str, type[StrEnum]]] = {
    PALETTE: ("palette", PaletteReading),
    MIN_IS_WHITE: ("min_is_white", MinIsWhiteReading),
    DEPTH: ("depth", DepthReading),
}


def _member(kind: type[StrEnum], name: str, value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(
            f"no such value for --{name}", seen=value, expected=" or ".join(kind)
        ) from None


UNDECIDED = Reading()
