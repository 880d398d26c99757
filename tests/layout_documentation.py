"""The table of docs/layouts.md: each layout of `layouts.py`, made and read."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from layouts import CHOICE, KNOWN, LAYOUTS, NO_MASKS, PUBLISHED, REFUSED, UNDERSTOOD, Layout

from histoprep.errors import UsageError
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.options import TableOptions, settle

_SAME = re.compile(r"\(the same: (.*)\)$")
_PLACE = re.compile(r"\S*/set\b")


def known_table() -> str:
    """Return the layouts that need no evidence, as Markdown."""
    return _table(("layout", "an image", "its mask"), [*KNOWN, *NO_MASKS], lambda _: ())


def understood_table() -> str:
    """Return the layouts that are understood from evidence, with the options that say the same."""
    layouts = [*UNDERSTOOD, *PUBLISHED]
    return _table(("layout", "an image", "its mask", "`histoprep audit` with"), layouts, _options)


def choice_table() -> str:
    """Return the layouts that can be read in several ways, with the commands that are printed."""
    return _table(("layout", "an image", "a mask", "printed"), CHOICE, _commands)


def refused_table() -> str:
    """Return the layouts in which nothing pairs by itself."""
    return _table(("layout", "an image", "a mask"), REFUSED, lambda _: ())


def _table(
    head: tuple[str, ...], layouts: list[Layout], more: Callable[[Path], tuple[str, ...]]
) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for layout in layouts:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder, "set")
            root.mkdir()
            pairs = layout.make(root)
            example = next(iter(pairs.items()), None) or _some_files(root)
            cells = (layout.name, *map(_code, example), *map(_code, more(root)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _some_files(root: Path) -> tuple[str, str]:
    """Return two files of a tree without known pairs: a short name, which images have, and a long
    one; "" for the mask where all are images.
    """
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    masks = [name for name in names if re.search(r"mask|class|q\.", name)]
    images = [name for name in names if name not in masks]
    return images[0], masks[0] if masks else ""


def _options(root: Path) -> tuple[str]:
    match = _SAME.search(settle(Workspace.of(root), TableOptions()).understood)
    assert match
    return (match[1],)


def _commands(root: Path) -> tuple[str]:
    try:
        settle(Workspace.of(root), TableOptions())
    except UsageError as error:
        commands = [detail.partition("  # ")[0] for detail in error.details]
        return ("\n".join(_PLACE.sub("ROOT", command) for command in commands),)
    raise AssertionError(f"{root} is no choice")


def _code(text: str) -> str:
    shown = text.replace("|", "\\|")
    return "<br>".join(f"`{line}`" for line in shown.split("\n")) if text else ""


def number_of_layouts() -> str:
    """Return how many layouts there are, in a sentence."""
    return f"The tests make and read {len(LAYOUTS)} layouts."


PARTS = {
    "known layouts": known_table,
    "understood layouts": understood_table,
    "layouts to choose from": choice_table,
    "layouts that do not pair": refused_table,
    "number of layouts": number_of_layouts,
}
