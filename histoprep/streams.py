"""Class streams: which tile stands at training position n, as a pure function of (seed, n).

A stream holds the tiles of one class, or those without any. Positions are cut into blocks; within a
block every stream has as many places as its probability asks for, to within one, in a seeded order.
How many draws of a stream lie before a block is then a closed formula, the n-th draw of a stream is
its tile number n under a seeded permutation, and a new permutation begins when all its tiles were
drawn. So any position can be asked for at once: nothing has to be stored or counted from the start,
and the order does not depend on ranks, workers or batch size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep.errors import UsageError
from histoprep.labels import LabelMap
from histoprep.permutation import keys_of, permute

UNCONDITIONAL = "unconditional"
MAX_POSITION = 2**46
# Probabilities are multiples of 2^-32, exactly, so that counts never drift.
_UNIT_BITS = 32
_LEAST_BLOCK, _LARGEST_BLOCK = 256, 1 << 16
# Positions placed at once: what fits in the cache of a processor.
_PIECE = 1 << 15
_ORDER, _TILES = 1, 2


@dataclass(frozen=True, eq=False)
class Stream:
    """The tiles of one class (`class_id` None: those of the unconditional pool) and how likely a
    position draws one of them.

    `rows` are row numbers of the table, int64, ascending. A probability of 0 means that the stream
    is never drawn from.
    """

    name: str
    class_id: int | None
    rows: np.ndarray
    probability: float


@dataclass(frozen=True, eq=False)
class Streams:
    """Streams whose probabilities sum to 1, and `warnings` that tell the user what is not as
    asked.
    """

    streams: tuple[Stream, ...]
    warnings: tuple[str, ...] = ()
    _units: np.ndarray = field(init=False, repr=False)
    _block: int = field(init=False, repr=False)
    _rows: np.ndarray = field(init=False, repr=False)
    _last: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = field(
        init=False, repr=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        """Fix the probabilities to multiples of 2^-32; raise UsageError for streams that cannot be
        drawn from.
        """
        _check(self.streams)
        cuts = [round(Fraction(cut) * (1 << _UNIT_BITS)) for cut in self.cutoffs.tolist()]
        units = np.diff(np.array([0, *cuts], np.int64))
        smallest = int(units[units > 0].min())
        # At least one place of every stream in a block on average: then no stream ever has less
        # than none.
        block = max(_LEAST_BLOCK, 1 << (-(-(1 << _UNIT_BITS) // smallest) - 1).bit_length())
        if block > _LARGEST_BLOCK:
            seen = f"probability {smallest / (1 << _UNIT_BITS):g}"
            raise UsageError(
                "a stream is too unlikely", seen=seen, expected=f"0, or at least 1/{_LARGEST_BLOCK}"
            )
        object.__setattr__(self, "_units", units)
        object.__setattr__(self, "_block", block)
        object.__setattr__(self, "_rows", np.concatenate([stream.rows for stream in self.streams]))

    @property
    def cutoffs(self) -> np.ndarray:
        """Return the running sums of the probabilities, float64 [streams]; the last is 1."""
        sums = np.cumsum([stream.probability for stream in self.streams])
        drawn = np.flatnonzero([stream.probability > 0 for stream in self.streams])
        sums[drawn[-1] :] = 1.0
        result: np.ndarray = np.minimum(sums, 1.0)
        return result

    def place(self, positions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the index of the stream and the row of the tile at each position: int64 [n] and
        int64 [n].

        Positions are integers in [0, 2^46), in any order. Of each stream every tile comes once
        before any comes again. Raises UsageError for a position out of range.
        """
        requested = np.atleast_1d(np.asarray(positions, np.int64))
        if len(requested) and (requested.min() < 0 or requested.max() >= MAX_POSITION):
            raise UsageError(
                "no such training position",
                seen=f"{requested.min()} to {requested.max()}",
                expected=f"0 to {MAX_POSITION - 1}",
            )
        blocks = requested // self._block
        if len(requested) and blocks.min() == blocks.max():
            stream, row = self._remembered(int(blocks[0]), seed)
            return stream[requested % self._block], row[requested % self._block]
        pieces = [
            self._place(requested[start : start + _PIECE], seed)
            for start in range(0, len(requested), _PIECE)
        ]
        empty = np.zeros(0, np.int64)
        return np.concatenate([empty, *(piece for piece, _ in pieces)]), np.concatenate(
            [empty, *(piece for _, piece in pieces)]
        )

    def _remembered(self, block: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return stream and row of every position of a block, kept since the next ones asked for
        are in it too.
        """
        found = self._last.get((block, seed))
        if found is None:
            found = self._place(np.arange(self._block) + block * self._block, seed)
            self._last.clear()
            self._last[block, seed] = found
        return found

    def _place(self, positions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        stream, draw = self._draws(positions, seed)
        sizes = np.array([len(stream.rows) for stream in self.streams], np.int64)
        starts = np.cumsum(sizes) - sizes
        here = sizes[stream]
        passes, number = np.divmod(draw, here)
        tile = permute(number, here, keys_of(seed, _TILES, stream, passes))
        return stream, self._rows[starts[stream] + tile]

    def _draws(self, positions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the stream of each position and how many draws of that stream come before it."""
        if len(self.streams) == 1:
            return np.zeros(len(positions), np.int64), positions
        blocks, within = np.divmod(positions, self._block)
        distinct, places = np.unique(blocks, return_inverse=True)
        stream, draw = self._fill(seed, distinct)
        at = places * self._block + within
        return stream[at], draw[at]

    def _fill(self, seed: int, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return stream and draw number of every position of the blocks, one block after the other:
        int64 [blocks * block].
        """
        before, after = self._draws_before(blocks), self._draws_before(blocks + 1)
        counts = after - before
        num_streams, size = len(self.streams), self._block
        in_turn = np.repeat(np.tile(np.arange(num_streams), len(blocks)), counts.ravel())
        shuffled = np.argsort(
            keys_of(seed, _ORDER, (blocks[:, None] * size + np.arange(size)).ravel()).reshape(
                -1, size
            ),
            axis=1,
            kind="stable",
        )
        stream = np.empty_like(in_turn)
        stream[(shuffled + np.arange(len(blocks))[:, None] * size).ravel()] = in_turn
        # Positions by stream, in order; draws of a stream in this block follow those before it.
        by_stream = np.argsort(stream.astype(np.int16), kind="stable")
        firsts = (
            before
            - (np.cumsum(counts, axis=0) - counts)
            - (np.cumsum(counts.sum(axis=0)) - counts.sum(axis=0))
        )
        draw = np.empty_like(stream)
        draw[by_stream] = np.arange(len(stream))
        return stream, draw + firsts[np.repeat(np.arange(len(blocks)), size), stream]

    def _draws_before(self, blocks: np.ndarray) -> np.ndarray:
        """Return how many draws of each stream lie before each block: int64 [blocks, streams].

        Running sums over streams are rounded down, so they are exact to below one draw and end with
        the number of positions.
        """
        whole, rest = np.divmod(np.cumsum(self._units) * self._block, 1 << _UNIT_BITS)
        number = blocks[:, None]
        # rest < 2^32 and number < 2^38: multiplied in two steps, for 64 bits.
        high, low = np.divmod(number, 1 << 16)
        carried = (rest * high + ((rest * low) >> 16)) >> (_UNIT_BITS - 16)
        return np.diff(whole * number + carried, axis=1, prepend=0)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what is only remembered."""
        return {**self.__dict__, "_last": {}}


def _check(streams: tuple[Stream, ...]) -> None:
    for stream in streams:
        if not 0 <= stream.probability <= 1:
            raise UsageError(
                f"unusable probability of stream {stream.name}",
                seen=stream.probability,
                expected="0 to 1",
            )
        if stream.probability and not len(stream.rows):
            raise UsageError(
                f"stream {stream.name} has no tiles and cannot be drawn from",
                seen=f"probability {stream.probability:g}",
            )
    total = math.fsum(stream.probability for stream in streams)
    if abs(total - 1) > 1e-9:
        raise UsageError(
            "the probabilities of the streams do not sum to 1",
            seen=f"{len(streams)} streams, sum {total:g}",
        )


def single_stream(rows: np.ndarray) -> Streams:
    """Return one stream of all `rows`: every tile once a pass, in a new order each; raises
    UsageError when there are none.
    """
    ordered = np.sort(np.asarray(rows, np.int64))
    if not len(ordered):
        raise UsageError(
            "there are no tiles to train on", hint="look at the split column of the manifest"
        )
    return Streams((Stream("all", None, ordered, 1.0),))


def class_streams(
    table: pa.Table,
    label_map: LabelMap,
    *,
    split: str,
    unconditional: float,
    weights: Mapping[int, float] | None = None,
) -> Streams:
    """Return the streams of a split: the unconditional pool first, then each class but 0 by id.

    `table` has the manifest's columns split, pool and classes; a tile belongs to the stream of
    every class that is core-present in it. The unconditional stream has the probability
    `unconditional`, in [0, 1]; the classes share the rest evenly, or by `weights` (class id ->
    weight, 1 where none is given). A stream without tiles gives its probability to the others in
    proportion, with a warning; without any class but 0 the unconditional stream has all of it, with
    a warning, too. Raises UsageError when nothing can be drawn or an argument makes no sense.
    """
    if not 0 <= unconditional <= 1:
        raise UsageError(
            "unusable probability of the unconditional stream",
            seen=unconditional,
            expected="0 to 1",
        )
    class_ids = [cls.id for cls in label_map.classes if cls.id != 0]
    given = _weights(weights or {}, class_ids)
    in_split = pc.equal(table["split"], split)
    rows: dict[int | None, np.ndarray] = {
        None: _rows(pc.and_(in_split, pc.equal(table["pool"], UNCONDITIONAL)))
    }
    conditional = _rows(pc.and_(in_split, pc.not_equal(table["pool"], UNCONDITIONAL)))
    rows |= _rows_of_classes(table["classes"], conditional, class_ids)
    requested = {None: float(unconditional)} | {
        class_id: (1 - unconditional) * given[class_id] for class_id in class_ids
    }
    warnings = _lonely(conditional, [rows[class_id] for class_id in class_ids], split)
    shares, empty = _redistribute(requested, {row: len(rows[row]) for row in rows}, split)
    names = {None: UNCONDITIONAL} | {
        class_id: label_map.class_name(class_id) for class_id in class_ids
    }
    warnings += [
        f"stream {names[number]} has no tile in {split}; its share of {requested[number]:.4g} goes"
        " to the others, in proportion"
        for number in empty
    ]
    if not class_ids and unconditional < 1:
        warnings.append(
            f"there is no class but 0, so stream {UNCONDITIONAL} has everything instead of"
            f" {unconditional:.4g}"
        )
    return Streams(
        tuple(Stream(names[row], row, rows[row], shares[row]) for row in rows), tuple(warnings)
    )


def _weights(weights: Mapping[int, float], class_ids: list[int]) -> dict[int, float]:
    """Return the share of each class among the classes."""
    unknown = sorted(set(weights) - set(class_ids))
    if unknown:
        raise UsageError(
            f"a weight for class {unknown[0]}, which has no stream",
            seen=unknown,
            expected=f"some of {class_ids}",
        )
    wrong = [
        class_id
        for class_id, weight in weights.items()
        if not (math.isfinite(weight) and weight >= 0)
    ]
    if wrong:
        raise UsageError(
            f"unusable weight of class {wrong[0]}",
            seen=weights[wrong[0]],
            expected="a number of at least 0",
        )
    full = {class_id: float(weights.get(class_id, 1.0)) for class_id in class_ids}
    total = sum(full.values())
    if class_ids and not total:
        raise UsageError(
            "every class has the weight 0",
            hint="give one of them a weight, or the unconditional stream the probability 1",
        )
    return {class_id: weight / total for class_id, weight in full.items()}


def _rows(chosen: pa.ChunkedArray) -> np.ndarray:
    return np.flatnonzero(pc.fill_null(chosen, False).to_numpy()).astype(np.int64)


def _rows_of_classes(
    classes: pa.ChunkedArray, candidates: np.ndarray, class_ids: list[int]
) -> dict[int | None, np.ndarray]:
    """Return the rows among `candidates` in which each class is listed."""
    listed = classes.take(pa.array(candidates))
    owner = np.repeat(candidates, pc.fill_null(pc.list_value_length(listed), 0).to_numpy())
    values = pc.list_flatten(listed).to_numpy()
    return {class_id: np.unique(owner[values == class_id]) for class_id in class_ids}


def _lonely(conditional: np.ndarray, of_classes: list[np.ndarray], split: str) -> list[str]:
    """Return the warning about conditional tiles that no stream draws, if there are any."""
    drawn = np.unique(np.concatenate(of_classes)) if of_classes else np.zeros(0, np.int64)
    lonely = len(conditional) - len(drawn)
    return (
        [
            f"{lonely:,} of {len(conditional):,} conditional tiles of {split} have no core-present"
            " class, so no stream draws them"
        ]
        if lonely
        else []
    )


def _redistribute(
    requested: Mapping[int | None, float], sizes: Mapping[int | None, int], split: str
) -> tuple[dict[int | None, float], list[int | None]]:
    """Return the probabilities after empty streams gave theirs away, and those empty streams."""
    empty = [class_id for class_id, share in requested.items() if share and not sizes[class_id]]
    left = math.fsum(share for class_id, share in requested.items() if class_id not in empty)
    if not left:
        seen = ", ".join(
            f"{'unconditional' if class_id is None else f'class {class_id}'}: {size} tiles"
            for class_id, size in sizes.items()
        )
        raise UsageError(
            f"no stream of {split} has both tiles and a share",
            seen=seen,
            hint="another split, unconditional share or weights",
        )
    if not empty and len(requested) > 1:
        return dict(requested), []
    return {
        class_id: 0.0 if class_id in empty else share / left
        for class_id, share in requested.items()
    }, empty
