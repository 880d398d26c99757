"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Root = Annotated[Path, typer.Argument(help="Folder of the data set.", show_default="current folder")]
WorkspaceFolder = Annotated[Path | None, typer.Option("--workspace", help="Where results go. Default: ROOT.histoprep, beside ROOT.", show_default=False)]
MapName = Annotated[str | None, typer.Option("--map", help="Label map: a path, or the name of one in the current folder, in ROOT or packed with histoprep.", show_default=False)]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Worker processes. Default: one a core.", show_default=False)]
