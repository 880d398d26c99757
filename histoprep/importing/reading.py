"""Values of an annotation file, each with the place where it stands.

Annotation files are other people's: whatever a reader takes from one is checked here, and what does
not fit becomes an error that names the file, the place, what was seen and what was expected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histoprep.errors import UsageError

_SHOWN = 80
_LARGEST = 2**53
MOST_PX = 1e6
"""Distance of a coordinate from the corner of an image that is still believed."""


class AnnotationError(UsageError):
    """An annotation file, or something in it, cannot be read as the format that it should be."""


@dataclass(frozen=True, slots=True)
class Node:
    """A value of an annotation file.

    Attributes:
        file: The annotation file.
        place: Where the value stands in it, such as `annotation 17, segmentation`.
        value: The value, as JSON has it.
    """

    file: Path
    place: str
    value: Any

    @classmethod
    def of_json(cls, file: Path) -> Node:
        """Return the content of a JSON file.

        Raises:
            AnnotationError: It cannot be read, or is no JSON.
        """
        return cls(file, "", parse_json(file, read_bytes(file)))

    def fault(
        self, what: str, *, seen: object = None, expected: str = "", hint: str = ""
    ) -> AnnotationError:
        """Return the error about this value; what it is, is shown unless `seen` is given."""
        return AnnotationError(
            f"{self.place}: {what}" if self.place else what,
            path=self.file,
            seen=_shown(self.value) if seen is None else seen,
            expected=expected or None,
            hint=hint or None,
        )

    def at(self, place: str) -> Node:
        """Return the same value, its place called `place`."""
        return Node(self.file, place, self.value)

    def find(self, key: str) -> Node | None:
        """Return an entry of an object; None where it is absent or null.

        Raises:
            AnnotationError: This is no object.
        """
        if not isinstance(self.value, dict):
            raise self.fault("not an object", expected=f"an object with {key!r}")
        value = self.value.get(key)
        return None if value is None else Node(self.file, self._inside(key), value)

    def entry(self, key: str) -> Node:
        """Return an entry of an object that has to be there.

        Raises:
            AnnotationError: There is none.
        """
        found = self.find(key)
        if found is None:
            raise self.fault(
                f"{key!r} is missing", seen=", ".join(map(repr, self.value)) or "an empty object"
            )
        return found

    def items(self) -> Iterator[Node]:
        """Yield the entries of a list.

        Raises:
            AnnotationError: This is no list.
        """
        if not isinstance(self.value, list):
            raise self.fault("not a list", expected="a list")
        for index, value in enumerate(self.value):
            yield Node(self.file, self._inside(str(index)), value)

    def text(self) -> str:
        """Return a string; raises AnnotationError for anything else, and for half a character."""
        if not isinstance(self.value, str):
            raise self.fault("not a text", expected="a text")
        if any("\ud800" <= character <= "\udfff" for character in self.value):
            raise self.fault("a text with half a character (a lone surrogate)")
        return self.value

    def whole(self, *, least: int | None = None) -> int:
        """Return a whole number, also one that is written as text or as 3.0.

        Raises:
            AnnotationError: It is no whole number, or below `least`.
        """
        number = _as_whole(self.value)
        if number is None or abs(number) > _LARGEST or (least is not None and number < least):
            limit = "" if least is None else f" of at least {least}"
            raise self.fault("not a usable number", expected=f"a whole number{limit}")
        return number

    def number(self) -> float:
        """Return a finite number; raises AnnotationError for anything else."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fault("not a number", expected="a number")
        if not _is_number(value):
            raise self.fault("not a finite number", expected="a finite number")
        return float(value)

    def numbers(self) -> list[float]:
        """Return a list of finite numbers; raises AnnotationError for anything else."""
        if isinstance(self.value, list) and all(map(_is_number, self.value)):
            return [float(value) for value in self.value]
        return [item.number() for item in self.items()]

    def coordinates(self, most: float = MOST_PX) -> list[float]:
        """Return a list of coordinates in pixels; raises AnnotationError for one that is beyond
        `most`, which lets libraries that draw ask for all memory.
        """
        numbers = self.numbers()
        if numbers and max(map(abs, numbers)) > most:
            raise self.fault(
                "a coordinate far beyond any image",
                seen=f"{max(numbers, key=abs):g}",
                expected=f"at most {most:,.0f} px from the corner of the image",
            )
        return numbers

    def point(self, most: float = MOST_PX) -> tuple[float, float]:
        """Return a point (x, y), without further coordinates; raises AnnotationError as
        `coordinates` does.
        """
        numbers = self.coordinates(most)
        if len(numbers) < 2:
            raise self.fault("not a point", expected="two numbers, x and y")
        return numbers[0], numbers[1]

    def _inside(self, key: str) -> str:
        return f"{self.place}, {key}" if self.place else key


def read_bytes(file: Path) -> bytes:
    """Return the bytes of an input file; raises AnnotationError where the system refuses."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise AnnotationError(
            f"cannot read this file: {error.strerror or error}", path=file
        ) from error


def parse_json(file: Path, data: bytes) -> Any:
    """Return the value in JSON bytes of a file.

    Raises:
        AnnotationError: They are no JSON; the message has line and column.
    """
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise AnnotationError(
            "this file is no JSON",
            path=file,
            seen=f"byte {data[error.start]:#04x} at {error.start}",
            expected="JSON in UTF-8",
        ) from error
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"this file is no JSON, or cut off: {error.msg}",
            path=file,
            seen=f"line {error.lineno}, column {error.colno}, of {len(data):,} bytes",
            expected="JSON",
        ) from error
    except (RecursionError, ValueError) as error:
        raise AnnotationError(
            f"this file is no usable JSON: {error}", path=file, seen=f"{len(data):,} bytes"
        ) from error


def _is_number(value: object) -> bool:
    # Whole numbers of any length are no problem for JSON, but for arrays.
    return (type(value) is int and abs(value) <= _LARGEST) or (
        type(value) is float and math.isfinite(value)
    )


def _as_whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
