"""`histoprep browse`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histoprep import console
from histoprep.cli.label_maps import chosen_map
from histoprep.cli.options import MapName, Workers, WorkspaceFolder
from histoprep.cli.reading import read_tiles
from histoprep.errors import Interrupted, Terminated, UsageError
from histoprep.extras import install_command
from histoprep.labels import load_label_map
from histoprep.schemas.workspace import Workspace

if TYPE_CHECKING:
    from histoprep.browse.opening import TileSet


LATENTS = "latents"


def browse(
    target: Annotated[
        Path,
        typer.Argument(
            help="Folder of the data set, a manifest, the folder of shards, or a synthetic data"
            " set.",
            show_default="current folder",
        ),
    ] = Path(),
    *,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            "--beside",
            help="Another one to show its tiles of the same ids beside: real beside generated, or"
            " another run; repeatable.",
            show_default="the real tiles of a synthetic data set",
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="Numbers of an encoder for the map: a Parquet file with tile_id, or a folder of"
            " trainer encode.",
            show_default="latents in the workspace, if any",
        ),
    ] = None,
    map_name: MapName = None,
    workspace_folder: WorkspaceFolder = None,
    port: Annotated[
        int, typer.Option(help="Port of the server.", min=0, max=65535, show_default="a free one")
    ] = 0,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the web browser.")
    ] = False,
    sign: Annotated[
        str,
        typer.Option(
            help="Your name, to be noted with the time beside each decision.",
            show_default="neither is noted",
        ),
    ] = "",
    workers: Workers = None,
) -> None:
    """Look at a data set in the web browser: page through tiles by finding, class or slide, tag and
    drop tiles, compare generated tiles with real ones.

    Prints the address of the page, which is served on this machine alone until you press Ctrl+C.
    The data is never changed. Decisions are kept in decisions.csv in the workspace, and histoprep
    manifest --drop-list decisions.csv leaves out the dropped tiles.

    Examples:
        histoprep browse tiles --open
        histoprep browse tiles.histoprep/manifest.parquet
        histoprep browse synthetic --beside other-run
    """
    _check_installed()
    from histoprep.browse.decisions import NAME, Journal
    from histoprep.browse.features import open_features
    from histoprep.browse.opening import find_real
    from histoprep.browse.server import listen, serve
    from histoprep.browse.session import Session
    from histoprep.schemas.latents import SUMMARY

    tiles = _open(target, map_name, workspace_folder, workers)
    others = tuple(_open(path, map_name, None, workers) for path in beside or ())
    if not others:
        real, note = find_real(tiles)
        if real is not None:
            others = (real,)
            console.note(note)
        elif note:
            tiles = replace(tiles, notes=(*tiles.notes, note))
    encoded = features or tiles.workspace / LATENTS
    has_features = features is not None or (encoded / SUMMARY).is_file()
    known = open_features(encoded, tiles.columns.tile_ids) if has_features else None
    session = Session(tiles, Journal(tiles.workspace / NAME, sign), others, known)
    session.warm_up()
    listening = listen(port)
    for note in tiles.notes:
        console.note(note)
    console.note(f"{len(tiles):,} tiles; decisions go to {session.journal.path}; Ctrl+C ends")
    console.out(listening.address)
    if open_page:
        import webbrowser

        webbrowser.open(listening.address)
    try:
        serve(session, listening)
    except Terminated:
        raise
    except (Interrupted, KeyboardInterrupt):
        console.note("ended")


def _open(
    path: Path, map_name: str | None, workspace_folder: Path | None, workers: int | None
) -> TileSet:
    from histoprep.browse.opening import is_data_folder, open_folder, open_packed

    if not path.exists():
        raise UsageError(
            "there is no such file or folder", path=path, hint="name a folder of tiles"
        )
    if not is_data_folder(path):
        return open_packed(path, workspace_folder)
    workspace = Workspace.of(path, workspace_folder)
    if not workspace.tiles.is_file():
        read_tiles(workspace, workers=workers)
    map_path = chosen_map(map_name, workspace.root)
    return open_folder(workspace, load_label_map(map_path) if map_path else None)


def _check_installed() -> None:
    """Raise UsageError where the packages of the server are not installed."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"histoprep browse needs the package {error.name}, which is not installed",
            hint=install_command("browse"),
        ) from error
