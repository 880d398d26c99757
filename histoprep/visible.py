"""Names and messages as text that a terminal, a CI log or a spreadsheet can be given: the one place
where signs are spelled out.
"""

from __future__ import annotations

import unicodedata

from histoprep.names import to_name

_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji need them


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
    text = as_named(text)
    return "".join(sign if sign in keep or not _hidden(sign) else _spelled(sign) for sign in text)


def as_named(text: str) -> str:
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


def harmless(text: str) -> str:
    """Return a printed text in which no line is a command to a CI runner.

    GitHub's runner takes a line that begins with `::`, after blanks, for a command, and `##[`
    anywhere in a line. Source: its documentation, "Workflow commands for GitHub Actions".
    """
    if "::" not in text and "##[" not in text:
        return text
    return "\n".join(_harmless_line(line) for line in text.split("\n")).replace("##[", "#\\x23[")


def _harmless_line(line: str) -> str:
    start = line.lstrip()
    return f"{line[: len(line) - len(start)]}\\x3a{start[1:]}" if start.startswith("::") else line
