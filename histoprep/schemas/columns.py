"""Columns that say what they mean."""

from __future__ import annotations

import pyarrow as pa


def column(name: str, kind: pa.DataType, meaning: str, *, nullable: bool = True) -> pa.Field:
    """Return a column with its meaning as metadata.

    Args:
        name: Name of the column.
        kind: Type of its values.
        meaning: What a value says, with units and what null stands for.
        nullable: Whether values may be null.
    """
    return pa.field(name, kind, nullable=nullable, metadata={"meaning": meaning})
