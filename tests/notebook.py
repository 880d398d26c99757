"""The notebook of the documentation, executed: `python tests/notebook.py --write` renews it.

Cells run in one namespace, in a folder with the tiles of the demo; what the last expression of a
cell shows is kept as text and, where the result has it, as HTML.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
# Text between code, and code, in turn.
CELLS = (
    """# HistoPrep in a notebook

The commands are functions: a folder in, a result out. Results show themselves, and `to_pandas()`
gives their rows. `tiles` is a folder of 48 tiles with masks.""",
    """import histoprep

tiles = histoprep.scan("tiles")
tiles""",
    """## What is wrong with them

An audit reads nothing again that did not change.""",
    """report = histoprep.audit("tiles", label_map="label_map_5", group_by=r"slide\\d+")
report""",
    """report.to_pandas()[["severity", "code", "name", "path"]].head()""",
    """## What they hold""",
    """stats = histoprep.stats("tiles", "label_map_5")
stats""",
    """## A split without leaks, and shards""",
    """shares = {"train": 0.7, "val": 0.15, "test": 0.15}
manifest = histoprep.build_manifest("tiles", "label_map_5", split=shares)
manifest""",
    """manifest.to_pandas().groupby("split").size()""",
    """shards = histoprep.write_shards(manifest.path, "shards")
data = histoprep.open_tiles("shards")
data""",
    """image, mask = data.read(0)
image.shape, mask.shape, mask.dtype""",
    """## Looking at them

`histoprep browse tiles` opens all tiles in the web browser. What is dropped there is left out by
`build_manifest("tiles", drop_list="tiles.histoprep/decisions.csv")`.""",
)


def make_notebook() -> str:
    """Return the executed notebook as JSON text."""
    from histoprep.demo import make_clean_demo

    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        make_clean_demo(Path("tiles"), num_tiles=48, tile_px=64, seed=7)
        names: dict[str, Any] = {}
        cells = [
            _markdown(number, text) if _is_text(text) else _code(number, text, names)
            for number, text in enumerate(CELLS)
        ]
        content = {
            "cells": cells,
            "metadata": {
                "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python"},
            },
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        return text.replace(f"{os.path.realpath(scratch)}/", "")


def _is_text(text: str) -> bool:
    return text.startswith("#")


def _markdown(number: int, text: str) -> dict[str, Any]:
    return {
        "cell_type": "markdown",
        "id": f"cell-{number}",
        "metadata": {},
        "source": text.splitlines(keepends=True),
    }


def _code(number: int, text: str, names: dict[str, Any]) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "execution_count": number,
        "id": f"cell-{number}",
        "metadata": {},
        "outputs": [
            {
                "data": data,
                "execution_count": number,
                "metadata": {},
                "output_type": "execute_result",
            }
            for data in _run(text, names)
        ],
        "source": text.splitlines(keepends=True),
    }


def _run(text: str, names: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
    """Yield what the last expression of a cell shows, if it ends in one."""
    parsed = ast.parse(text)
    last = parsed.body[-1]
    is_shown = isinstance(last, ast.Expr)
    before = ast.Module(parsed.body[:-1] if is_shown else parsed.body, [])
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(before, "<cell>", "exec"), names)
        value = (
            eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
            if isinstance(last, ast.Expr)
            else None
        )
    assert printed.getvalue() == "", "functions print nothing"
    if value is not None:
        shown = {"text/plain": repr(value).splitlines(keepends=True)}
        page = getattr(value, "_repr_html_", None)
        html = page() if page is not None else None
        yield {**({"text/html": html.splitlines(keepends=True)} if html else {}), **shown}


if __name__ == "__main__" and "--write" in sys.argv:
    NOTEBOOK.write_text(make_notebook(), "utf-8")
