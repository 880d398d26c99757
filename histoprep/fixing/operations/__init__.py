"""The operations of `histoprep fix`, each in a file of its own, in the order in which they change a
file. A new one is a file here and a line in `OPERATIONS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from histoprep.errors import UsageError
from histoprep.fixing.operations.base import Operation
from histoprep.fixing.operations.extension import Extension
from histoprep.fixing.operations.fit import Fit
from histoprep.fixing.operations.metadata import Metadata
from histoprep.fixing.operations.orientation import OrientationTag
from histoprep.fixing.operations.plain import PlainLabels
from histoprep.fixing.operations.repaired import PlaceRepaired
from histoprep.fixing.operations.specks import Specks

OPERATIONS: tuple[Operation, ...] = (
    PlaceRepaired(),
    PlainLabels(),
    Fit(),
    Specks(),
    OrientationTag(),
    Metadata(),
    Extension(),
)
"""All operations, in the order in which they are done."""


def operation_called(name: str) -> Operation:
    """Return the operation of that name; raises KeyError."""
    return _BY_NAME[name]


def choose_operations(
    only: Iterable[str] = (), also: Iterable[str] = (), without: Iterable[str] = ()
) -> dict[str, str]:
    """Return the chosen operations in the order in which they are done, each with its value.

    Entries are names of operations or codes of findings (`specks`, `HP408`), of `only` and `also`
    perhaps with a value (`specks=32`). A code stands for every operation that acts upon it.

    Args:
        only: The operations; empty for those that are done by default.
        also: Further ones.
        without: Those of them that are left out.

    Raises:
        UsageError: There is no such operation, it has no value, or none is left.
    """
    chosen = (
        _values(only)
        if (only := list(only))
        else {operation.name: "" for operation in OPERATIONS if operation.is_default}
    )
    # A value that was named counts more than none.
    for name, value in _values(also).items():
        chosen[name] = value or chosen.get(name, "")
    for entry in without:
        for operation in _named(entry):
            chosen.pop(operation.name, None)
    if not chosen:
        raise UsageError("no operation is left to be done", hint="histoprep fix --list names them")
    return {
        operation.name: chosen[operation.name]
        for operation in OPERATIONS
        if operation.name in chosen
    }


def _values(entries: Iterable[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        for operation in _named(name):
            if equals and not operation.value:
                raise UsageError(f"the operation {operation.name} takes no value", seen=entry)
            values[operation.name] = value or values.get(operation.name, "")
    return values


def _named(entry: str) -> Sequence[Operation]:
    found = [
        operation
        for operation in OPERATIONS
        if entry.lower() == operation.name or entry.upper() in operation.codes
    ]
    if not found:
        known = [
            *(operation.name for operation in OPERATIONS),
            *sorted({code for operation in OPERATIONS for code in operation.codes}),
        ]
        raise UsageError("there is no such operation", seen=entry, expected=", ".join(known))
    return found


_BY_NAME = {operation.name: operation for operation in OPERATIONS}
