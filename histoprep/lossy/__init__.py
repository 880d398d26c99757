"""Signals of lossy compression and interpolation in one mask: an array in, numbers out.

JPEG works on 8x8 blocks. From quality 75 on a block of one label
comes back unchanged, so all damage lies in blocks that a boundary crosses, and fills them:

- *block phase*: blocks of more than one label are fewer on the grid of the file than on the same
  grid shifted by half a block, because damage ends at block borders. It survives a label map;
- *density of steps*: differing neighbours for each pixel near a boundary. It is a quarter along a
  boundary that somebody drew, more where structures are thin, and up to one after JPEG; it knows no
  grid, so that masks may be chosen by it and then judged by their block phase;
- *roughness*: neighbours that differ within such blocks. A boundary that somebody drew crosses a
  block
  once; damage crosses it many times;
- *ramps*: between two labels, values that stand for neither. Where two labels meet, the step
  between neighbouring pixels is smaller than the local range (a *soft contact*), and labels without
  a core lie
  between a smaller and a larger one wherever they occur;
- *turns*: where values rise and fall within a block's width, as ringing does and ramps do not;
- *block grid*: where thin traces begin and end, for blocks that lie anywhere; see `onsets.py`;
- *gaps*: grey levels that a lossy WebP never decodes to; see `webp_levels.py`.

What re-encoding says of the quality is in `jpeg_history.py`, what all masks of a source say
together in `verdict.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from histoprep.lossy.blocks import BLOCK_PX, GridCounts, count_grids, uniform_cells, whole_blocks
from histoprep.lossy.onsets import BlockGrid, CountedSteps, Steps, find_grid
from histoprep.lossy.webp_levels import count_gaps
from histoprep.native import MaskCounts

# The share of a label's pixels between a smaller and a larger label above which it stands for a
# ramp.
RAMP_SHARE = 0.9
_WINDOW = np.ones((5, 5), np.uint8)


@dataclass(frozen=True, slots=True)
class Signals:
    """What one mask of more than one label shows.

    `blocks` counts 8x8 blocks, `rough_pairs` the differing neighbours inside the mixed ones.
    `steps` are all differing neighbours, `rim_pixels` the pixels whose 5x5 neighbourhood is not of
    one label: together they say how dense boundaries are, on no grid.
    `contacts` are differing neighbours where the 5x5 neighbourhood spans at least three values,
    `soft_contacts` those whose step is smaller than that span. `ramp_ids` are labels without a core
    that lie between others nearly everywhere, `ramp_pixels` how many pixels they have.
    `grid` is the grid that thin traces end on, None where there are too few; of these, `turns` is
    the share of steps that go the other way than the one less than a block before, None for labels
    without an order. `gaps` are what `count_gaps` returns.
    """

    blocks: GridCounts
    rough_pairs: int
    contacts: int
    soft_contacts: int
    ramp_ids: tuple[int, ...]
    ramp_pixels: int
    steps: int = 0
    rim_pixels: int = 0
    grid: BlockGrid | None = None
    turns: float | None = None
    gaps: tuple[int, int] = (0, 0)

    @property
    def roughness(self) -> float:
        """Return differing neighbours per mixed 8x8 block: about 8 to 11 for a drawn boundary,
        several times as many after JPEG.
        """
        return self.rough_pairs / self.blocks.own if self.blocks.own else 0.0

    def without_values(self) -> Signals:
        """Return the signals that hold for labels without an order: those of blocks alone."""
        return replace(
            self,
            contacts=0,
            soft_contacts=0,
            ramp_ids=(),
            ramp_pixels=0,
            turns=None,
            gaps=(0, 0),
        )


def measure_signals(labels: np.ndarray) -> Signals | None:
    """Return the signals of a mask, uint8 or uint16 [height, width]; None when it is of one label
    or smaller than two blocks.
    """
    labels = np.ascontiguousarray(labels)
    if (labels == labels[0, 0]).all():
        return None
    low, high = cv2.erode(labels, _WINDOW), cv2.dilate(labels, _WINDOW)
    core = np.bincount(labels[low == high], minlength=int(labels.max()) + 1)
    pixels = np.bincount(labels.ravel())
    ids = np.flatnonzero(pixels)
    return signals_of(labels, low, high, LabelCounts(ids, pixels[ids], core[ids]))


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """The labels of a mask in order, and pixels and core pixels (survivors of a 5x5 erosion) of
    each.
    """

    ids: np.ndarray
    pixels: np.ndarray
    core_pixels: np.ndarray


def signals_of(
    labels: np.ndarray, low: np.ndarray, high: np.ndarray, counts: LabelCounts
) -> Signals | None:
    """Return the signals of a mask that is not uniform, given the extremes of each pixel's 5x5
    neighbourhood and its counts.
    """
    if min(labels.shape) < 2 * BLOCK_PX:
        return None
    blocks = count_grids(*uniform_cells(whole_blocks(labels)))
    across, down = _steps(labels)
    rough = _inside(across, down, labels.shape[1])
    steps, rim = len(across) + len(down), labels.size - int(counts.core_pixels.sum())
    grid = find_grid(*_directions(across, down, labels.shape))
    turns = _turns(labels, across) if grid else None
    if len(counts.ids) == 2:
        # Nothing lies between two labels; unless they follow each other, all their contacts are
        # hard.
        contacts = steps if counts.ids[1] - counts.ids[0] >= 2 else 0
        return Signals(blocks, rough, contacts, 0, (), 0, steps, rim, grid, turns)
    contacts, soft = _contacts(labels, high - low, across, down)
    chosen = _ramps(labels, _between(labels, low, high), counts)
    return Signals(
        blocks,
        rough,
        contacts,
        soft,
        tuple(counts.ids[chosen].tolist()),
        int(counts.pixels[chosen].sum()),
        steps,
        rim,
        grid,
        turns,
        count_gaps(counts.ids),
    )


def steps_of(labels: np.ndarray) -> tuple[Steps, Steps]:
    """Return where labels, [height, width], change along rows and along columns."""
    return _directions(*_steps(labels), labels.shape)


def _directions(
    across: np.ndarray, down: np.ndarray, shape: tuple[int, ...]
) -> tuple[Steps, Steps]:
    """Return the steps along rows and along columns."""
    height, width = shape
    turned = np.sort(down % width * height + down // width + 1)
    rows = Steps(*np.divmod(across + 1, width), height, width)
    return rows, Steps(*np.divmod(turned, height), width, height)


def signals_from(labels: np.ndarray, counts: MaskCounts) -> Signals | None:
    """Return the signals of a mask from what the compiled pass counted: those of `signals_of`."""
    if min(labels.shape) < 2 * BLOCK_PX:
        return None
    numbers = counts.numbers
    steps = numbers["across"] + numbers["down"]
    rim = labels.size - int(counts.core_pixels.sum())
    grid = _grid_from(labels, counts)
    near = numbers["near"]
    turns = numbers["turns"] / near if grid and near else None
    blocks = _blocks_from(numbers, *labels.shape)
    if len(counts.ids) == 2:
        contacts = steps if counts.ids[1] - counts.ids[0] >= 2 else 0
        return Signals(blocks, numbers["rough"], contacts, 0, (), 0, steps, rim, grid, turns)
    chosen = (counts.core_pixels == 0) & (counts.between >= RAMP_SHARE * counts.pixels)
    return Signals(
        blocks,
        numbers["rough"],
        numbers["contacts"],
        numbers["soft"],
        tuple(counts.ids[chosen].tolist()),
        int(counts.pixels[chosen].sum()),
        steps,
        rim,
        grid,
        turns,
        count_gaps(counts.ids),
    )


def _blocks_from(numbers: dict[str, int], height: int, width: int) -> GridCounts:
    rows, columns = height // BLOCK_PX, width // BLOCK_PX
    shifted = (
        (numbers["right_blocks"], rows * (columns - 1)),
        (numbers["down_blocks"], (rows - 1) * columns),
        (numbers["both_blocks"], (rows - 1) * (columns - 1)),
    )
    # In the same order of operations as `count_grids` has them.
    fewest = min((1 - (size - mixed) / size) * (rows * columns) for mixed, size in shifted if size)
    return GridCounts(numbers["own_blocks"], fewest)


def _grid_from(labels: np.ndarray, counts: MaskCounts) -> BlockGrid | None:
    directions: list[Steps] = []

    def steps(which: int) -> Callable[[], Steps]:
        def found() -> Steps:
            if not directions:
                directions.extend(steps_of(labels))
            return directions[which]

        return found

    return find_grid(
        *(
            CountedSteps(
                counts.numbers[name], counts.ends[which : which + 2], differs, steps(which // 2)
            )
            for which, name, differs in (
                (0, "row_ends", counts.column_differs),
                (2, "column_ends", counts.row_differs),
            )
        )
    )


def _between(labels: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the flat positions of pixels with a smaller and a larger label within 5x5."""
    inside = cv2.bitwise_and(
        cv2.compare(labels, low, cv2.CMP_GT), cv2.compare(labels, high, cv2.CMP_LT)
    )
    return np.flatnonzero(inside.view(bool))


def _steps(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat positions of pixels that differ from their right neighbour, and from the one
    below.
    """
    flat, width = labels.ravel(), labels.shape[1]
    across = np.flatnonzero(flat[1:] != flat[:-1])
    return across[(across + 1) % width != 0], np.flatnonzero(flat[width:] != flat[:-width])


def _inside(across: np.ndarray, down: np.ndarray, width: int) -> int:
    """Return how many differing neighbours lie in the same block."""
    right = np.count_nonzero((across % width + 1) % BLOCK_PX)
    return int(right + np.count_nonzero((down // width + 1) % BLOCK_PX))


def _turns(labels: np.ndarray, across: np.ndarray) -> float | None:
    """Return the share of steps along rows that go the other way than the one less than a block
    before; None without any.
    """
    flat = labels.ravel()
    rises = flat[across + 1] > flat[across]
    row = across // labels.shape[1]
    near = (row[1:] == row[:-1]) & (across[1:] - across[:-1] < BLOCK_PX)
    number = np.count_nonzero(near)
    return float(np.count_nonzero((rises[1:] != rises[:-1]) & near) / number) if number else None


def _contacts(
    labels: np.ndarray, span: np.ndarray, across: np.ndarray, down: np.ndarray
) -> tuple[int, int]:
    """Return how many differing neighbours have a span of two or more around them, and how many of
    their steps are smaller.
    """
    values, spans = labels.ravel().astype(np.int32), span.ravel()
    contacts = soft = 0
    for at, step in ((across, 1), (down, labels.shape[1])):
        around = spans[at]
        contacts += int(np.count_nonzero(around >= 2))
        soft += int(np.count_nonzero(np.abs(values[at] - values[at + step]) < around))
    return contacts, soft


def _ramps(labels: np.ndarray, between: np.ndarray, counts: LabelCounts) -> np.ndarray:
    """Return bool [labels]: which have no core and lie between others nearly everywhere."""
    inside = np.bincount(labels.ravel()[between], minlength=int(counts.ids[-1]) + 1)[counts.ids]
    result: np.ndarray = (counts.core_pixels == 0) & (inside >= RAMP_SHARE * counts.pixels)
    return result
