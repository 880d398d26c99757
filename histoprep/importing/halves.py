"""Which half of a file with an image and its mask beside each other is the mask.

A mask has few colours, or large areas of one colour; in a photograph hardly any two pixels beside
each other are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histoprep.choices import MaskSide
from histoprep.errors import UsageError
from histoprep.phrases import plural

MAX_COLOURS = 64
_LEAST_EVEN = 0.5
# So many times as many colours has a photograph of large empty areas as the mask beside it.
_MANY_TIMES = 4

Command = Callable[..., str]
"""Returns the command that says the same with further words, such as `--mask left`."""


@dataclass(frozen=True, slots=True)
class Half:
    """What a half looks like.

    Attributes:
        num_colours: Number of its colours.
        even_share: Share of its pixels that have the colour of the pixels right of and below them,
            in [0, 1].
    """

    num_colours: int
    even_share: float

    @property
    def is_mask(self) -> bool:
        """Return whether it can be a mask."""
        return self.num_colours <= MAX_COLOURS or self.even_share >= _LEAST_EVEN

    def __str__(self) -> str:
        """Return what a message says of it."""
        colours = plural(self.num_colours, "colour")
        return f"{colours}, {self.even_share:.0%} of its pixels like their neighbours"


Halves = Mapping[MaskSide, Half]


def look_at_half(keys: np.ndarray, num_colours: int) -> Half:
    """Return what a half looks like.

    Args:
        keys: Colours 0xRRGGBB, integers [height, width].
        num_colours: How many different ones these are.
    """
    inner = keys[:-1, :-1]
    even = (inner == keys[:-1, 1:]) & (inner == keys[1:, :-1])
    return Half(num_colours, float(even.mean()) if even.size else 1.0)


def side_of(halves: Halves) -> MaskSide | None:
    """Return the side of the mask in one file; None where both halves or neither can be one."""
    left, right = halves[MaskSide.LEFT], halves[MaskSide.RIGHT]
    if left.is_mask != right.is_mask:
        return MaskSide.LEFT if left.is_mask else MaskSide.RIGHT
    fewer, more = sorted((left, right), key=lambda half: half.num_colours)
    is_clear = more.num_colours > max(MAX_COLOURS, _MANY_TIMES * fewer.num_colours)
    if not left.is_mask or not is_clear:
        return None
    return MaskSide.LEFT if fewer is left else MaskSide.RIGHT


def find_side(source: Path, looks: Mapping[Path, Halves], command: Command) -> MaskSide:
    """Return the side on which all files have their mask.

    Raises:
        UsageError: They differ, or neither half or both look like a mask in all of them.
    """
    if not looks:
        return MaskSide.RIGHT
    examples: dict[MaskSide, list[Path]] = {side: [] for side in MaskSide}
    for path, halves in looks.items():
        side = side_of(halves)
        if side is not None:
            examples[side].append(path)
    sides = [side for side, paths in examples.items() if paths]
    if len(sides) == 1:
        return sides[0]
    if sides:
        raise UsageError(
            "the mask is on different sides",
            path=source,
            seen="; ".join(
                f"on the {side} in {plural(len(paths), 'file')}, such as {paths[0]}"
                for side, paths in examples.items()
            ),
            expected="one side in all files; import the two kinds from two folders",
        )
    path, halves = next(iter(looks.items()))
    both = all(half.is_mask for half in halves.values())
    raise UsageError(
        "both halves could be the mask" if both else "neither half looks like a mask",
        path=path,
        seen="; ".join(f"{side}: {halves[side]}" for side in MaskSide),
        expected="an image and a mask of few colours or even areas, each half of the width",
        hint=" or ".join(command("--mask", side) for side in MaskSide) if both else None,
    )


def is_photograph(halves: Halves, side: MaskSide) -> bool:
    """Return whether the half where the mask should be is none."""
    return not halves[side].is_mask or side_of(halves) not in (side, None)


def refuse_photographs(
    source: Path, looks: Mapping[Path, Halves], side: MaskSide, command: Command
) -> None:
    """Raise UsageError if the half where the mask should be is a photograph in all files."""
    if not looks or not all(is_photograph(halves, side) for halves in looks.values()):
        return
    path, halves = next(iter(looks.items()))
    found = {side_of(halves) for halves in looks.values()} - {None}
    [other] = [each for each in MaskSide if each is not side]
    raise UsageError(
        f"the {side} half is a photograph, not a mask",
        path=source,
        seen=f"{halves[side]} in {path.name}",
        expected="a mask of few colours or even areas",
        hint=command("--mask", other) if found == {other} else None,
    )
