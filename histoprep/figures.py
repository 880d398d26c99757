"""Figures that show what users wrote: names of data sets, classes and files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def plain_text(style: Mapping[str, object]) -> Iterator[None]:
    """Draw in matplotlib's `style`, and take every text as it is.

    `$` begins no mathematics, and a character that the font lacks becomes a box without a warning.
    """
    from matplotlib import rc_context

    with rc_context({**style, "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield
