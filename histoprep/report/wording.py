"""Numbers and names as people read them."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from histoprep.visible import as_named

if TYPE_CHECKING:
    from histoprep.findings import Finding


_ANOTHER = re.compile(r"; (?=or\b)")
# A sentence, or what stands in brackets, may follow; then it is no command to paste.
_COMMAND = re.compile(r"(?:^|(?<=: )|(?<=^or ))((?:histoprep|trainer) [^;]*[^;.)])$")


def steps_of(advice: str) -> list[tuple[str, str]]:
    """Return the ways that an advice offers, each as its words and the command that it ends in.

    All of it and "" where words stand behind a command, or there is none.
    """
    steps = []
    for way in _ANOTHER.split(advice):
        found = _COMMAND.search(way)
        if found is None:
            return [(advice, "")]
        words = way[: found.start()].strip()
        steps.append(("" if words == "or" else words, found[1]))
    return steps


def number(value: int) -> str:
    """Return 1234567 as "1,234,567"."""
    return f"{value:,}"


def percent(share: float) -> str:
    """Return a share in [0, 1] with digits enough to tell it from 0 and from 1: "63.2 %", "0.0031
    %".
    """
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
    """Return "5 of 246,755 masks (0.002 %)"; the plain count when nothing is known to compare
    with.
    """
    if not finding.denominator:
        return number(finding.count)
    return (
        f"{number(finding.count)} of"
        f" {number(finding.denominator)} {finding.unit} ({percent(finding.share)})"
    )


def uri(path: str) -> str:
    """Return the percent-encoded URI of a path: relative as it is, absolute with `file://`.

    The exact bytes of the name survive, those that are no UTF-8 included; the path may be one of a
    table (see `names.to_text`) or one of Python's.
    """
    path = as_named(path)
    try:
        raw = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = path.encode("utf-8", "surrogatepass")
    encoded = quote(raw, safe="/")
    return f"file://{encoded}" if path.startswith("/") else encoded
