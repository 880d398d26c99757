"""The examples of docs/importing.md: a source that a maker of the tests makes, the command as it is
typed, and what it prints.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import import_samples
from import_samples import Sample

from histoprep import cli

_NUM_LINES = 9
# Title -> (maker, name of its folder).
EXAMPLES: dict[str, tuple[Callable[[Path], Sample], str]] = {
    "coco": (import_samples.make_coco, "fields"),
    "panoptic": (import_samples.make_panoptic, "fields"),
    "labelme": (import_samples.make_labelme, "fields"),
    "cvat": (import_samples.make_cvat, "task"),
    "qupath": (import_samples.make_qupath, "export"),
    "qupath tiles": (import_samples.make_qupath_tiles, "export"),
    "npy-stack": (import_samples.make_npy_stack, "pannuke"),
    "mat": (import_samples.make_mat_lizard, "lizard"),
    "side-by-side": (import_samples.make_side_by_side, "pairs"),
    "combine class": (import_samples.make_by_class, "fields"),
    "combine instance": (import_samples.make_by_instance, "stage1_train"),
}


def example(title: str) -> str:
    """Return tree, command and output of an example, as Markdown."""
    make, folder = EXAMPLES[title]
    with _in_a_folder_of_its_own():
        sample = make(Path(folder))
        shown = tree(Path(folder))
        words = ["import", *sample.arguments, "--out", "tiles"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = cli.run(words)
        assert code == 0, printed.getvalue()
    lines = "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
    command = f"$ histoprep {' '.join(words)}"
    return f"```text\n{shown}\n```\n\n```console\n{command}\n{lines}\n```\n"


def tree(folder: Path) -> str:
    """Return the files below a folder, the first ones where there are many."""
    names = sorted(path.as_posix() for path in folder.rglob("*") if path.is_file())
    more = len(names) - _NUM_LINES
    return "\n".join([*names[:_NUM_LINES], *([f"... and {more} more"] if more > 0 else [])])


@contextlib.contextmanager
def _in_a_folder_of_its_own() -> Iterator[None]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


PARTS = {f"import {title}": partial(example, title) for title in EXAMPLES}
