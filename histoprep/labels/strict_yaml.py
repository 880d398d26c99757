"""Label-map files as text blocks: YAML without the parts that change what was written.

YAML reads `010` as 8, `no` as False and `1_000` as 1000, keeps the last of two equal
keys, and lets aliases grow a small file into a huge one. Here every scalar stays the
text it is, and aliases, anchors, tags, merges, lists and second documents are refused.
Repeated keys are kept, so that the reader of a table can say which lines collide.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histoprep.errors import LabelMapError

if TYPE_CHECKING:
    import yaml

MAX_FILE_BYTES = 1 << 20
MAX_DEPTH = 8
MAX_NAME_LENGTH = 200
_MAX_DIGITS = 10
_MAX_NUMBER = 999_999_999

DECIMAL = re.compile(r"0|[1-9][0-9]*")
NUMBER_LIKE = re.compile(
    r"""[-+]?(
        0[xX][0-9a-fA-F_]* | 0[oO][0-7_]* | 0[bB][01_]*
        | ([0-9][0-9_]*(\.[0-9_]*)? | \.[0-9][0-9_]*)([eE][-+]?[0-9]+)?
    )""",
    re.VERBOSE,
)
_YAML_WORDS = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"])


@dataclass(frozen=True, slots=True)
class Text:
    """A scalar exactly as written, without its quotes; `line` counts from 1."""

    value: str
    line: int


@dataclass(frozen=True, slots=True)
class YamlList:
    """The scalars of a list, in the order of the file."""

    items: tuple[Text, ...]
    line: int


@dataclass(frozen=True, slots=True)
class YamlTable:
    """A `key: value` table in the order of the file; a key may occur twice."""

    items: tuple[tuple[Text, Text | YamlTable | YamlList], ...]
    line: int


def fault(
    path: Path,
    line: int | None,
    what: str,
    *,
    seen: object = None,
    expected: object = None,
    hint: str | None = None,
) -> LabelMapError:
    """Return the error about one line of a label-map file."""
    where = str(path) if line is None else f"{path}:{line}"
    return LabelMapError(what, path=where, seen=seen, expected=expected, hint=hint)


def read_block(path: Path, lists: frozenset[str] = frozenset()) -> YamlTable:
    """Return the table that a label-map file holds; entries at its top named in `lists` may be
    lists.

    Raises LabelMapError when it cannot be read, is larger than `MAX_FILE_BYTES`, is no
    UTF-8 text (a byte-order mark is allowed) or uses YAML that we refuse.
    """
    return parse_block(_read_bytes(path), path, lists)


def parse_block(data: bytes, path: Path, lists: frozenset[str] = frozenset()) -> YamlTable:
    """Return the table that `data` spells; `path` is for messages only. Raises LabelMapError."""
    import yaml

    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise fault(
            path,
            line,
            "not UTF-8 text",
            seen=f"byte 0x{data[error.start]:02x}",
            hint="save the file as UTF-8",
        ) from error
    _refuse_bare_colour(text, path)
    try:
        return _document(yaml.parse(text, Loader=yaml.BaseLoader), path, lists)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise fault(
            path,
            line,
            "a character that no text file should hold",
            seen=f"code {error.character!r}",
            hint="delete it",
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"not valid YAML: {error.problem or error.context}"
        raise fault(
            path,
            mark.line + 1 if mark else None,
            what,
            hint=_syntax_hint(str(error.problem), text, mark.line if mark else 0),
        ) from error


def _refuse_bare_colour(text: str, path: Path) -> None:
    """Raise LabelMapError for a line `#ff0000: name`, which YAML takes for a comment."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*#[0-9a-fA-F]{6}\s*:\s", line):
            raise fault(
                path,
                number,
                "this line is a comment: a bare # begins one",
                seen=repr(line.strip()[:60]),
                hint='put the colour in quotes, "#ff0000": name; or write # and a blank for a'
                " comment",
            )


def _read_bytes(path: Path) -> bytes:
    try:
        # A pipe would block for ever on open: look first, and never wait for a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise fault(
                path,
                None,
                "a label map must be a regular file",
                seen="a folder" if path.is_dir() else "a special file",
            )
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise fault(path, None, f"cannot read the label map: {reason}") from error
    if len(data) > MAX_FILE_BYTES:
        raise fault(
            path,
            None,
            "too large for a label map",
            seen=f"more than {MAX_FILE_BYTES:,} bytes",
            expected=f"at most {MAX_FILE_BYTES:,} bytes",
        )
    return data


def _syntax_hint(problem: str, text: str, line: int) -> str | None:
    lines = text.splitlines()
    if "\\t" in problem:
        return "indent with blanks, not with tabs"
    # The parser notices a value cut short by '#' only on the line after it.
    if any(re.search(r":\s+#", text) for text in lines[max(line - 1, 0) : line + 1]):
        return "put colours in quotes: a bare # begins a comment"
    return None


def _document(events: Iterator[yaml.Event], path: Path, lists: frozenset[str]) -> YamlTable:
    import yaml

    root: YamlTable | None = None
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            if root is not None:
                raise fault(
                    path,
                    _line(event),
                    "a second document begins here",
                    expected="one document",
                    hint="remove the line ---",
                )
            if event.version or event.tags:
                raise fault(
                    path,
                    _line(event),
                    "YAML directives are not allowed",
                    hint="remove the lines that begin with %",
                )
        elif isinstance(event, yaml.NodeEvent):
            node = _node(event, events, path, 0, lists)
            if isinstance(node, Text):
                raise fault(
                    path,
                    node.line,
                    "not a label map",
                    seen=node.value[:60] or "an empty file",
                    expected="a table of `key: value` lines",
                )
            root = node
    if root is None:
        raise fault(path, None, "the file is empty", expected="sources, classes and map")
    return root


def _node(
    event: yaml.Event,
    events: Iterator[yaml.Event],
    path: Path,
    depth: int,
    lists: frozenset[str] = frozenset(),
) -> Text | YamlTable:
    import yaml

    _refuse_decoration(event, path)
    if isinstance(event, yaml.ScalarEvent):
        return Text(event.value, _line(event))
    if isinstance(event, yaml.SequenceStartEvent):
        raise fault(
            path,
            _line(event),
            "a list is not allowed here",
            expected="a table of `key: value` lines",
        )
    if depth == MAX_DEPTH:
        raise fault(
            path,
            _line(event),
            "tables within tables go too deep",
            expected=f"at most {MAX_DEPTH} levels",
        )
    items: list[tuple[Text, Text | YamlTable | YamlList]] = []
    for inner in events:
        if isinstance(inner, yaml.MappingEndEvent):
            break
        if isinstance(inner, yaml.SequenceStartEvent):
            raise fault(
                path,
                _line(inner),
                "a list in brackets cannot be a key",
                hint='list values without brackets, 3, 7, 9: name; a colour is "#ff0000": name',
            )
        key = _node(inner, events, path, depth + 1)
        if isinstance(key, YamlTable):
            raise fault(path, key.line, "a table cannot be a key")
        if key.value == "<<":
            raise fault(
                path, key.line, "merge keys (<<) are not allowed", hint="write the lines out"
            )
        value = next(events)
        if isinstance(value, yaml.SequenceStartEvent) and key.value in lists:
            items.append((key, _listing(value, events, path)))
        else:
            items.append((key, _node(value, events, path, depth + 1)))
    return YamlTable(tuple(items), _line(event))


def _listing(event: yaml.Event, events: Iterator[yaml.Event], path: Path) -> YamlList:
    """Return the list that begins with `event`; raises LabelMapError when it holds more than
    scalars.
    """
    import yaml

    _refuse_decoration(event, path)
    items: list[Text] = []
    for inner in events:
        if isinstance(inner, yaml.SequenceEndEvent):
            break
        _refuse_decoration(inner, path)
        if not isinstance(inner, yaml.ScalarEvent):
            raise fault(
                path, _line(inner), "a list holds values alone", expected="[255] or [0, 255]"
            )
        items.append(Text(inner.value, _line(inner)))
    return YamlList(tuple(items), _line(event))


def _refuse_decoration(event: yaml.Event, path: Path) -> None:
    import yaml

    anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
    if isinstance(event, yaml.AliasEvent):
        raise fault(
            path,
            _line(event),
            "aliases are not allowed",
            seen=f"*{anchor}",
            hint="write the value out",
        )
    if anchor is not None:
        raise fault(
            path, _line(event), "anchors are not allowed", seen=f"&{anchor}", hint="remove it"
        )
    if tag is not None:
        raise fault(
            path,
            _line(event),
            "tags are not allowed",
            seen=tag,
            hint="remove it: every value is read as text",
        )


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def as_text(node: Text | YamlTable | YamlList, path: Path, what: str) -> Text:
    """Return `node` when it is a scalar; raise LabelMapError, naming it as `what`, otherwise."""
    if not isinstance(node, Text):
        kind = "table" if isinstance(node, YamlTable) else "list"
        raise fault(path, node.line, f"{what} cannot be a {kind}", expected="one value")
    return node


def as_block(node: Text | YamlTable | YamlList, path: Path, what: str) -> YamlTable:
    """Return `node` when it is a table with lines; raise LabelMapError, naming it as `what`,
    otherwise.
    """
    if not isinstance(node, YamlTable):
        raise fault(
            path,
            node.line,
            f"{what} must be a table",
            seen=(node.value[:60] or "nothing") if isinstance(node, Text) else "a list",
            expected="indented `key: value` lines",
        )
    if not node.items:
        raise fault(path, node.line, f"{what} is empty", expected="at least one `key: value` line")
    return node


def whole_number(
    text: Text,
    path: Path,
    what: str,
    upper: int = _MAX_NUMBER,
    *,
    expected: str = "digits only, such as 7 or 12",
) -> int:
    """Return the number that `text` spells in plain decimal digits, at most `upper`.

    Raises LabelMapError with the reason for every other spelling, such as 010, 1_000, 0x10, 1e3, +1
    or no.
    """
    seen = repr(text.value[:60])
    if not DECIMAL.fullmatch(text.value):
        reason = number_fault(text.value)
        raise fault(
            path,
            text.line,
            f"{what} is not a plain number: {reason}",
            seen=seen,
            expected=expected,
        )
    if len(text.value) > _MAX_DIGITS or int(text.value) > upper:
        raise fault(path, text.line, f"{what} is too large", seen=seen, expected=f"at most {upper}")
    return int(text.value)


def number_fault(value: str) -> str:
    """Return why `value` is not accepted as a whole number."""
    reasons = (
        (not value, "it is empty"),
        (value != value.strip(), "it has blanks around it"),
        (value.lower() in _YAML_WORDS, "YAML takes this word for true, false or nothing"),
        (not NUMBER_LIKE.fullmatch(value), "it is not a number"),
        (value[:1] in "+-", "it has a sign"),
        ("_" in value, "it has an underscore, which YAML drops"),
        (value[:2].lower() in ("0x", "0o", "0b"), "it is not decimal"),
        ("." in value or "e" in value.lower(), "it is not whole"),
    )
    return next(
        (reason for applies, reason in reasons if applies),
        "it has a leading zero, which YAML takes for octal",
    )


def as_texts(node: Text | YamlTable | YamlList, path: Path, what: str) -> tuple[Text, ...]:
    """Return the scalars of a list, or `node` itself when it is a scalar; raise LabelMapError,
    naming it as `what`, otherwise.
    """
    return node.items if isinstance(node, YamlList) else (as_text(node, path, what),)


def reference(text: Text, path: Path, what: str) -> int | str:
    """Return the id or the name that `text` refers to: plain digits are always an id.

    Raises LabelMapError for what could be taken for a number and is not spelt as one.
    """
    if DECIMAL.fullmatch(text.value):
        return whole_number(text, path, what)
    if not text.value or text.value != text.value.strip() or NUMBER_LIKE.fullmatch(text.value):
        raise fault(
            path,
            text.line,
            f"{what} is neither a name nor a plain number: {number_fault(text.value)}",
            seen=repr(text.value[:60]),
        )
    return text.value


def name_fault(name: str, own_id: int) -> str | None:
    """Return why `name` cannot name the label or class `own_id`, or None when it can.

    A name that reads as a number would be confused with an id, unless it is its own.
    """
    if NUMBER_LIKE.fullmatch(name) and name != str(own_id):
        return "it reads as a number"
    return _text_fault(name)


def map_name_fault(name: str) -> str | None:
    """Return why `name` cannot name a label map, or None: it becomes part of a folder's name
    (masks-<name>).
    """
    if "/" in name or "\\" in name or name.startswith("."):
        return "it could not be part of a folder's name"
    return _text_fault(name)


def _text_fault(name: str) -> str | None:
    if not name:
        return "it is empty"
    if len(name) > MAX_NAME_LENGTH:
        return f"it is longer than {MAX_NAME_LENGTH} characters"
    if not name.isprintable():
        return "it holds a character that cannot be seen"
    return "it has blanks around it" if name != name.strip() else None


def quoted(value: str, *, flow: bool = False) -> str:
    """Return `value` as a YAML scalar that reads back as the same text: bare where that is safe.

    Inside braces (`flow`) a comma is not. The value must be printable.
    """
    bare = (
        r"[A-Za-z](?:[A-Za-z0-9_ /().-]*[A-Za-z0-9_)])?"
        if flow
        else r"[A-Za-z](?:[A-Za-z0-9_ ,/().-]*[A-Za-z0-9_)])?"
    )
    if re.fullmatch(bare, value) and value.lower() not in _YAML_WORDS:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
