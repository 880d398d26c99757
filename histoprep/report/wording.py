"""Numbers and names as people read them."""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING
from urllib.parse import quote

from histoprep.names import to_name

if TYPE_CHECKING:
    from histoprep.findings import Finding

_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji need them


def number(value: int) -> str:
    """Return 1234567 as "1,234,567"."""
    return f"{value:,}"


def plural(value: int, noun: str) -> str:
    """Return "1 mask" or "2 masks"."""
    return f"{number(value)} {noun}{'' if value == 1 else 's'}"


def percent(share: float) -> str:
    """Return a share in [0, 1] with digits enough to tell it from 0 and from 1: "63.2 %", "0.0031 %"."""
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    if value > 99.9:
        return "> 99.9 %"
    if value >= 10:
        return f"{value:.1f} %"
    if value < 0.0001:
        return "< 0.0001 %"
    # Two digits that count, in plain notation however small the share is.
    digits = 1 - math.floor(math.log10(value))
    text = f"{value:.{digits}f}"
    return f"{text if value >= 1 else text.rstrip('0')} %"


def amount(finding: Finding) -> str:
    """Return "5 of 246,755 masks (0.002 %)"; the plain count when nothing is known to compare with."""
    if not finding.denominator:
        return number(finding.count)
    return f"{number(finding.count)} of {number(finding.denominator)} {finding.unit} ({percent(finding.share)})"


def visible(text: str, keep: str = "") -> str:
    r"""Return text in which what a reader cannot see is spelled out.

    Control characters, line breaks, direction overrides, zero-width characters
    and bytes that are no UTF-8, also as `names.to_text` stores them, become `\x1b`, `\n`,
    `\u202e`, `\xff`. So a name cannot move the cursor, reorder a line or break an
    encoder. Characters of `keep` stay as they are. A name that is not from a table and holds
    U+EF80 to U+EFFF is read as if it were.
    """
    if text.isascii() and text.isprintable():
        return text
    text = _as_named(text)
    return "".join(sign if sign in keep or not _hidden(sign) else _spelled(sign) for sign in text)


def _as_named(text: str) -> str:
    """Return a stored name as Python's file functions give it; other text stays as it is."""
    try:
        return to_name(text)
    except UnicodeEncodeError:
        # A lone surrogate is in no name of a file.
        return text


def _hidden(sign: str) -> bool:
    category = unicodedata.category(sign)
    if category == "Cf":
        return sign not in _JOINERS
    return category in {"Cc", "Cs", "Zl", "Zp"} or ord(sign) & 0xFFFE == 0xFFFE


def _spelled(sign: str) -> str:
    value = ord(sign)
    if 0xDC80 <= value <= 0xDCFF:  # how Python carries a byte that is no UTF-8
        return f"\\x{value - 0xDC00:02x}"
    return sign.encode("unicode_escape", "surrogatepass").decode("ascii")


def uri(path: str) -> str:
    """Return the percent-encoded URI of a path: relative as it is, absolute with `file://`.

    The exact bytes of the name survive, those that are no UTF-8 included; the path may be one of a
    table (see `names.to_text`) or one of Python's.
    """
    path = _as_named(path)
    try:
        raw = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = path.encode("utf-8", "surrogatepass")
    encoded = quote(raw, safe="/")
    return f"file://{encoded}" if path.startswith("/") else encoded
