"""Figures take what users wrote as it is: dollars are no mathematics, and what the font lacks is no
warning.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from audit_cases import DataSet
from PIL import Image

from histoprep import cli
from histoprep.errors import ExitCode
from histoprep.figures import plain_text
from histoprep.repairing.sheet import SheetRow, draw_sheet
from histoprep.schemas.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

ODD = "cost $x_{1$ & <b> 病理"
STYLE = {"font.family": "DejaVu Sans", "font.size": 9.0}


def drawn(text: str) -> np.ndarray:
    """Return the pixels of a text."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure, stream = Figure(figsize=(3, 1)), io.BytesIO()
    FigureCanvasAgg(figure)
    figure.text(0.1, 0.5, text)
    figure.savefig(stream, format="png")
    return np.asarray(Image.open(stream))


def test_dollars_are_drawn_and_begin_no_mathematics() -> None:
    from matplotlib import rc_context

    with rc_context(STYLE):
        mathematics, escaped = drawn("$x$"), drawn(r"\$x\$")
    with plain_text(STYLE):
        plain, odd = drawn("$x$"), drawn(ODD)
    assert np.array_equal(plain, escaped)
    assert not np.array_equal(plain, mathematics)
    assert (odd < 128).sum() > (plain < 128).sum()


def test_every_figure_of_the_toolkit_takes_any_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataSet(tmp_path / ODD)
    data.pairs(3)
    label_map = tmp_path / f"{ODD}.yml"
    names = "{0: 'un $x_{1$ known', 1: '$a_{1$ <b>', 2: '病理 $'}"
    label_map.write_text(
        f"sources: {names}\nclasses: {names}\nmap: {{0: 0, 1: 1, 2: 2}}\n", encoding="utf-8"
    )
    workspace = tmp_path / f"{ODD}.histoprep"
    for command in (
        ("audit", data.root, "--map", label_map),
        ("stats", data.root, "--map", label_map),
        ("manifest", data.root, "--map", label_map),
        ("shard", "preview", workspace / "manifest.parquet", "--out", tmp_path / "preview.png"),
    ):
        assert cli.run([str(item) for item in command]) in (ExitCode.OK, ExitCode.FINDINGS), command
    for image in (Workspace.of(data.root).stats_plot, tmp_path / "preview.png"):
        with Image.open(image) as opened:
            assert opened.size[0] > 900
    assert "Glyph" not in capsys.readouterr().err


def test_a_contact_sheet_takes_any_name() -> None:
    before = np.zeros((64, 64), np.uint8)
    with Image.open(
        io.BytesIO(draw_sheet([SheetRow(f"{ODD}.png", ODD, before, before + 1)], ODD, {}))
    ) as image:
        assert image.size[0] > 900
