"""The server of the browser: addresses -> answers of a `Session`, on this machine alone."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from histoprep.browse.pixels import UnreadableError
from histoprep.browse.query import parse_query
from histoprep.browse.security import Guard
from histoprep.browse.session import Session
from histoprep.errors import HistoprepError, OutputError, UsageError
from histoprep.schemas.decisions import Action

T = TypeVar("T")
PAGE = Path(__file__).parent / "page"
# Colours and words are those of the report of an audit.
_REPORT = PAGE.parents[1] / "report"
HOST = "127.0.0.1"
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_FRESH = {"Cache-Control": "no-store"}
# Thumbnails change only with the files of a tile.
_KEPT = {"Cache-Control": "private, max-age=300"}
_MAX_BODY_BYTES = 32 << 20
_PAGING = ("offset", "limit", "token")
_POINTS = ("source", "by")
# More threads than cores would only take memory.
_THREADS = anyio.CapacityLimiter(8)


@dataclass
class Listening:
    """A socket that waits for the browser, and the address to open."""

    socket: socket.socket
    token: str

    @property
    def port(self) -> int:
        """Return the port."""
        return int(self.socket.getsockname()[1])

    @property
    def address(self) -> str:
        """Return the address with the token."""
        return f"http://{HOST}:{self.port}/?token={self.token}"


def listen(port: int) -> Listening:
    """Return a socket on this machine's own address, with a new token.

    Args:
        port: The port; 0 for one that is free.

    Raises:
        OutputError: The port is taken, or may not be used.
    """
    # With the protocol named, asyncio sends small answers at once rather than after 40 ms.
    waiting = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    waiting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        waiting.bind((HOST, port))
        waiting.listen(128)
    except OSError as error:
        waiting.close()
        raise OutputError(
            f"the server cannot listen: {error.strerror or error}",
            seen=f"port {port}",
            hint="leave --port out, which takes a free one",
        ) from error
    return Listening(waiting, secrets.token_urlsafe(24))


def serve(session: Session, listening: Listening) -> None:
    """Answer until a signal stops it."""
    import uvicorn

    application = Guard(make_application(session), listening.token, listening.port)
    config = uvicorn.Config(
        application,
        log_level="error",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listening.socket])


def make_application(session: Session) -> Any:
    """Return the ASGI application, which answers anybody: `Guard` goes before it."""

    def image(make: Callable[[int, int], bytes], kind: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            number, row = _whole(request, "set", 0), _row(request)
            data = await _in_thread(make, number, row)
            return Response(data, media_type=kind, headers=_KEPT)

        return answer

    def value(make: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            return _json(await _in_thread(make, request))

        return answer

    def tiles(request: Request) -> Any:
        query = parse_query(_filters(request))
        return session.page(query, _whole(request, "offset", 0), _whole(request, "limit", 100))

    def place(request: Request) -> Any:
        named = request.query_params
        query = parse_query(pair for pair in _filters(request) if pair[0] not in _POINTS)
        return session.points(query, str(named.get("source", "")), str(named.get("by", "class")))

    async def decide(request: Request) -> Response:
        body = await _body(request)
        return _json(await _in_thread(_decide, session, body))

    async def select(request: Request) -> Response:
        body = await _body(request)
        rows = await _in_thread(_rows_of, session, body)
        return _json({"selection": session.select(rows), "num_tiles": len(set(rows))})

    async def undo(request: Request) -> Response:
        return _json(await _in_thread(session.undo))

    routes = [
        Route("/", _page_file),
        Route("/page/{name}", _page_file),
        Route("/api/set", value(lambda _: session.describe())),
        Route("/api/tiles", value(tiles)),
        Route("/api/tiles/{row}", value(lambda request: session.details(_row(request)))),
        Route("/api/points", value(place)),
        Route("/api/classes", value(lambda _: session.classes())),
        Route(
            "/api/groups",
            value(lambda request: session.groups(request.query_params.get("by", "group"))),
        ),
        Route("/api/thumbnail/{row}", image(session.thumbnail, "image/jpeg")),
        Route("/api/overlay/{row}", image(session.overlay, "image/png")),
        Route("/api/image/{row}", image(session.image, "image/png")),
        Route("/api/mask/{row}", image(session.mask, "image/png")),
        Route(
            "/api/labels/{row}",
            value(lambda request: session.labels(_whole(request, "set", 0), _row(request))),
        ),
        Route(
            "/api/marks/{row}",
            value(
                lambda request: session.marks(
                    _row(request), request.query_params.get("finding", "")
                )
            ),
        ),
        Route("/api/decisions", value(lambda _: session.decisions())),
        Route("/api/decisions", decide, methods=["POST"]),
        Route("/api/undo", undo, methods=["POST"]),
        Route("/api/selections", select, methods=["POST"]),
    ]
    handlers = {
        HistoprepError: _error,
        UnreadableError: _unreadable,
    }
    return Starlette(routes=routes, exception_handlers=handlers)


async def _in_thread(work: Callable[..., T], *arguments: Any) -> T:
    return await anyio.to_thread.run_sync(work, *arguments, limiter=_THREADS)


async def _page_file(request: Request) -> Response:
    name = str(request.path_params.get("name", "index.html"))
    # Names are compared with those that are there, so that no path leads elsewhere.
    known = {path.name: path for path in PAGE.iterdir() if path.suffix in _KINDS}
    known["report.css"] = _REPORT / "report.css"
    if name not in known:
        return _json({"error": "there is no such page"}, 404)
    kind = _KINDS[known[name].suffix]
    return Response(known[name].read_bytes(), media_type=f"{kind}; charset=utf-8", headers=_FRESH)


async def _error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HistoprepError)
    status = 400 if isinstance(error, UsageError) else 500
    facts = {
        "error": error.what,
        "seen": error.seen,
        "expected": error.expected,
        "hint": error.hint,
    }
    return _json({name: str(fact) for name, fact in facts.items() if fact is not None}, status)


async def _unreadable(request: Request, error: Exception) -> Response:
    # Part of every data set, and no failure of the page: browsers complain of other statuses.
    return Response(status_code=204, headers={**_FRESH, "Histoprep-Reason": quote(str(error))})


def _json(content: Any, status: int = 200) -> Response:
    return JSONResponse(content, status, headers=_FRESH)


def _filters(request: Request) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = request.query_params.multi_items()
    return [pair for pair in pairs if pair[0] not in _PAGING]


def _row(request: Request) -> int:
    text = str(request.path_params["row"])
    return _as_whole("the row", text)


def _whole(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    return default if text is None else _as_whole(name, str(text))


def _as_whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise UsageError(f"{name} is no whole number", seen=text[:60])
    return int(text)


async def _body(request: Request) -> dict[str, Any]:
    """Return the JSON object that was sent; raises UsageError for anything else."""
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > _MAX_BODY_BYTES:
            raise UsageError("too much was sent", expected=f"at most {_MAX_BODY_BYTES:,} bytes")
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise UsageError("no JSON object was sent")
    return body


def _decide(session: Session, body: dict[str, Any]) -> dict[str, Any]:
    known = (Action.DROP, Action.KEEP, Action.TAG, Action.UNTAG)
    action, tag = body.get("action"), body.get("tag", "")
    if action not in known or not isinstance(tag, str):
        raise UsageError("no such decision", seen=str(action)[:60], expected=", ".join(known))
    return session.decide(Action(action), _rows_of(session, body), tag)


def _rows_of(session: Session, body: dict[str, Any]) -> list[int]:
    """Return the rows that a request names: as a list, or as the parameters of a query."""
    rows, query = body.get("rows"), body.get("query")
    if isinstance(rows, list) and all(type(row) is int for row in rows):
        return rows
    if isinstance(query, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
        for pair in query
    ):
        chosen: list[int] = session.all_rows(parse_query(map(tuple, query))).tolist()
        return chosen
    raise UsageError("no tiles are named", expected="rows: [numbers], or query: [[name, value]]")
