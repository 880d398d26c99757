"""Which tiles, and in which order: parameters of an address -> row numbers. Pure."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow.compute as pc

from histoprep.browse.columns import MISSING, ClassShares, Columns
from histoprep.browse.findings import TileFinding
from histoprep.errors import UsageError

CATEGORIES = ("group", "split", "pool", "label")
_CACHE_BYTES = 24 << 20
_NO_VALUE = ""


@dataclass(frozen=True)
class Query:
    """What the page shows; tiles fulfil all of it.

    Attributes:
        text: Is in the tile id, in any case.
        findings: Keys of findings, one of which names the tile.
        class_id: A class that the mask holds; its share lies within `share`.
        share: Smallest and largest share, in [0, 1].
        also: Further classes, all of which the mask holds.
        categories: Values by column, one of which the tile has; "" stands for none.
        ranges: Smallest and largest value by column, ends included; None for no limit.
        state: `dropped`, `kept`, or empty for both.
        tag: A tag that the tile has, or empty.
        selection: The number of a set of tiles that was selected by hand; None for all.
        sort: Column; empty for the order of the table, `share` for that of `class_id`.
        is_descending: Whether large values come first; missing values are always last.
    """

    text: str = ""
    findings: tuple[str, ...] = ()
    class_id: int | None = None
    share: tuple[float, float] = (0.0, 1.0)
    also: tuple[int, ...] = ()
    categories: tuple[tuple[str, tuple[str, ...]], ...] = ()
    ranges: tuple[tuple[str, float | None, float | None], ...] = ()
    state: str = ""
    tag: str = ""
    selection: int | None = None
    sort: str = ""
    is_descending: bool = False

    @property
    def needs_decisions(self) -> bool:
        """Return whether decisions change the answer."""
        return bool(self.state or self.tag)


class Marked(Protocol):
    """What decisions say of rows."""

    @property
    def version(self) -> int:
        """Return a number that grows with every change."""

    @property
    def dropped(self) -> np.ndarray:
        """Return which rows are dropped, bool [n]."""

    def tagged(self, tag: str) -> np.ndarray:
        """Return the rows that have a tag, integers."""


def parse_query(parameters: Iterable[tuple[str, str]]) -> Query:
    """Return the query of an address.

    Args:
        parameters: `text`, `finding`*, `class`, `min_share`, `max_share`, `also`*, `group`*,
            `split`*, `pool`*, `label`*, `min.COLUMN`, `max.COLUMN`, `state`, `tag`, `selection`,
            `sort`, `order` (asc or desc); * may occur several times. Empty values count as missing,
            but for the four categories.

    Raises:
        UsageError: There is no such parameter, or a value is no number.
    """
    single: dict[str, str] = {}
    findings: list[str] = []
    also: list[int] = []
    categories: dict[str, list[str]] = {}
    limits: dict[str, list[float | None]] = {}
    for name, value in parameters:
        if name in CATEGORIES:
            categories.setdefault(name, []).append(value)
        elif not value:
            continue
        elif name == "finding":
            findings.append(value)
        elif name == "also":
            also.append(_as_whole(name, value))
        elif name.startswith(("min.", "max.")):
            limits.setdefault(name[4:], [None, None])[name.startswith("max.")] = _number(
                name, value
            )
        elif name in _SINGLE:
            single[name] = value
        else:
            raise UsageError(
                "there is no such parameter",
                seen=name,
                expected=", ".join(
                    (*_SINGLE, "finding", "also", *CATEGORIES, "min.COLUMN", "max.COLUMN")
                ),
            )
    order, state = single.get("order", "asc"), single.get("state", "")
    _check_choice("order", order, ("asc", "desc"))
    _check_choice("state", state, ("", "dropped", "kept"))
    return Query(
        text=single.get("text", ""),
        findings=tuple(findings),
        class_id=_whole(single, "class"),
        share=(
            _number("min_share", single.get("min_share", "0")),
            _number("max_share", single.get("max_share", "1")),
        ),
        also=tuple(also),
        categories=tuple((name, tuple(values)) for name, values in sorted(categories.items())),
        ranges=tuple((name, low, high) for name, (low, high) in sorted(limits.items())),
        state=state,
        tag=single.get("tag", ""),
        selection=_whole(single, "selection"),
        sort=single.get("sort", ""),
        is_descending=order == "desc",
    )


_SINGLE = (
    *("text", "class", "min_share", "max_share", "state", "tag"),
    *("selection", "sort", "order"),
)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"no such value for {name}", seen=value, expected=" or ".join(choices))


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{name} is no number", seen=value[:60])
    return number


def _whole(values: Mapping[str, str], name: str) -> int | None:
    return _as_whole(name, values[name]) if name in values else None


def _as_whole(name: str, value: str) -> int:
    number = _number(name, value)
    if number != int(number):
        raise UsageError(f"{name} is no whole number", seen=value[:60])
    return int(number)


@dataclass
class QueryEngine:
    """Answers queries over the columns of a data set; answers are kept up to 24 MiB, and one is
    worked out at a time."""

    columns: Columns
    findings: Mapping[str, TileFinding]
    selections: Mapping[int, np.ndarray] = field(default_factory=dict)
    _known: OrderedDict[tuple[Query, int], np.ndarray] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def rows(self, query: Query, marked: Marked) -> np.ndarray:
        """Return the rows of a query in its order, int32 [n].

        Raises:
            UsageError: It names a finding, class, column or selection that there is not.
        """
        key = (query, marked.version if query.needs_decisions else -1)
        # Of a million tiles an answer takes some 20 MB while it is worked out.
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
            rows = self._sorted(self._matching(query, marked), query)
            self._known[key] = rows
            self._bytes += rows.nbytes
            while self._bytes > _CACHE_BYTES and len(self._known) > 1:
                self._bytes -= self._known.popitem(last=False)[1].nbytes
            return rows

    def _matching(self, query: Query, marked: Marked) -> np.ndarray:
        """Return the rows that fulfil all conditions, ascending."""
        columns, length = self.columns, len(self.columns)
        chosen = np.ones(length, bool)
        if query.selection is not None:
            chosen &= _mask_of(self._selection(query.selection), length)
        if query.findings:
            named = np.zeros(length, bool)
            for key in query.findings:
                named[self._finding(key).rows] = True
            chosen &= named
        if query.class_id is not None:
            chosen &= _holding(columns.shares, query.class_id, query.share, length)
        for class_id in query.also:
            chosen &= _holding(columns.shares, class_id, (0.0, 1.0), length)
        for name, values in query.categories:
            category = columns.categories[name]
            codes = [category.code_of(value) for value in values if value != _NO_VALUE]
            wanted = [code for code in codes if code is not None]
            wanted += [MISSING] if _NO_VALUE in values else []
            chosen &= np.isin(category.codes, wanted)
        for name, low, high in query.ranges:
            chosen &= _within(self._numbers(name), low, high)
        if query.state:
            chosen &= marked.dropped if query.state == "dropped" else ~marked.dropped
        if query.tag:
            chosen &= _mask_of(marked.tagged(query.tag), length)
        if query.text:
            found = pc.match_substring(columns.tile_ids, query.text, ignore_case=True)
            chosen &= found.to_numpy()
        return np.flatnonzero(chosen).astype(np.int32)

    def _sorted(self, rows: np.ndarray, query: Query) -> np.ndarray:
        if not query.sort:
            return rows[::-1] if query.is_descending else rows
        if query.sort == "share":
            position = None if query.class_id is None else self._position(query.class_id)
            if position is None:
                raise UsageError("tiles are sorted by the share of a class", expected="class=ID")
            rank = self.columns.shares.share_column(position, len(self.columns))
        else:
            try:
                rank = self.columns.rank(query.sort)
            except KeyError:
                raise self._no_column(query.sort) from None
        ordered: np.ndarray = rows[stable_order(rank[rows], is_descending=query.is_descending)]
        return ordered

    def _finding(self, key: str) -> TileFinding:
        if key not in self.findings:
            raise UsageError(
                "the last audit has no such finding",
                seen=key[:200],
                expected=", ".join(list(self.findings)[:10]) or None,
            )
        return self.findings[key]

    def _position(self, class_id: int) -> int:
        position = self.columns.shares.position(class_id)
        if position is None:
            raise _no_class(self.columns.shares, class_id)
        return position

    def _selection(self, number: int) -> np.ndarray:
        if number not in self.selections:
            raise UsageError(
                "this selection is gone: it lasts as long as the server", seen=str(number)
            )
        return self.selections[number]

    def _numbers(self, name: str) -> np.ndarray:
        if name not in self.columns.numbers:
            raise self._no_column(name)
        return self.columns.numbers[name]

    def _no_column(self, name: str) -> UsageError:
        return UsageError(
            "there is no such column",
            seen=name[:60],
            expected=", ".join(("tile_id", "share", *CATEGORIES, *self.columns.numbers)),
        )


def _no_class(shares: ClassShares, class_id: int) -> UsageError:
    listed = ", ".join(str(cls.id) for cls in shares.classes[:20])
    return UsageError("there is no such class", seen=str(class_id), expected=listed or None)


def _holding(
    shares: ClassShares, class_id: int, limits: tuple[float, float], length: int
) -> np.ndarray:
    position = shares.position(class_id)
    if position is None:
        raise _no_class(shares, class_id)
    low, high = limits
    own = shares.shares[position]
    # Shares are stored in single precision.
    fits = (own >= np.float32(low)) & (own <= np.float32(high))
    return _mask_of(shares.rows[position][fits], length)


def _within(column: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
    chosen: np.ndarray = ~np.isnan(column)
    if low is not None:
        chosen &= column >= np.float32(low)
    if high is not None:
        chosen &= column <= np.float32(high)
    return chosen


def stable_order(keys: np.ndarray, *, is_descending: bool = False) -> np.ndarray:
    """Return the order of numbers, NaN last, equal ones as they are.

    Two passes of radix sort over 16 bits each, three times as fast as a merge sort.

    Args:
        keys: float32 or non-negative int32 [n].
        is_descending: Whether the largest comes first.
    """
    is_float = keys.dtype.kind == "f"
    # Adding zero makes the negative one positive.
    bits = np.ascontiguousarray(keys + np.float32(0) if is_float else keys).view(np.uint32)
    if is_float:
        # The bits of positive numbers are in order; those of negative ones the other way round.
        bits = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    if is_descending:
        bits = ~bits
    if is_float:
        bits = np.where(np.isnan(keys), np.uint32(0xFFFFFFFF), bits)
    low = np.argsort(bits.astype(np.uint16), kind="stable")
    high = (bits >> 16).astype(np.uint16)[low]
    order: np.ndarray = low[np.argsort(high, kind="stable")]
    return order


def _mask_of(rows: np.ndarray, length: int) -> np.ndarray:
    mask = np.zeros(length, bool)
    mask[rows] = True
    return mask
