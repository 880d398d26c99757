"""A real S3 server on this machine, and a door before it that is slow, refuses or cuts short."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SECRET = "a-secret-that-nobody-may-print"
_WAIT_S = 60


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """Start moto's server and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=stream,
            stderr=stream,
        )
    try:
        until = time.monotonic() + _WAIT_S
        while time.monotonic() < until:
            with socket.socket() as asking:
                if asking.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def credentials(server: str) -> dict[str, str]:
    """Return the variables by which libraries find a server and its keys."""
    return {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }


def make_bucket(server: str, bucket: str) -> None:
    """Make an empty bucket."""
    request = urllib.request.Request(f"{server}/{bucket}", method="PUT")
    with urllib.request.urlopen(request):
        pass


def open_store(address: str) -> Any:
    """Return obstore's store at an address; the variables are those of this process."""
    from obstore.store import from_url

    return from_url(address, client_options={"allow_http": True})


def upload(folder: Path, address: str) -> None:
    """Put all files of a folder below an address, and give the files the times of the objects."""
    import obstore

    store = open_store(address)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            obstore.put(store, path.relative_to(folder).as_posix(), path.read_bytes())
    for batch in obstore.list(store):
        for meta in batch:
            seconds = int(meta["last_modified"].timestamp())
            os.utime(folder / meta["path"], (seconds, seconds))


Fault = Callable[["Door", str], str | None]


@dataclass
class Door:
    """Passes requests on; `fault` returns for the path of a GET what happens to it: `refuse`,
    `cut`, `break` (500 for ever) or None. `gets` are the objects that were read. With `answers`
    each is asked of the server once, where its own speed is not what is measured.
    """

    server: str
    delay_s: float = 0.0
    fault: Fault = lambda door, path: None
    gets: list[str] = field(default_factory=list)
    answers: dict[str, tuple[int, list[tuple[str, str]], bytes]] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open_again(self) -> None:
        """Pass everything on, and forget what was read."""
        self.delay_s, self.fault = 0.0, lambda door, path: None
        self.gets.clear()

    def note(self, path: str) -> str | None:
        """Count a read and return what happens to it."""
        with self._lock:
            self.gets.append(path)
            return self.fault(self, path)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    door: Door

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        fault = None
        if "list-type" not in query:
            time.sleep(self.door.delay_s)
            fault = self.door.note(path)
        if fault in ("refuse", "break"):
            self.send_response(503 if fault == "refuse" else 500)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._pass_on(fault)

    def do_PUT(self) -> None:
        self._pass_on(None)

    do_DELETE = do_POST = do_PUT

    def _pass_on(self, fault: str | None) -> None:
        known = self.door.answers if self.command == "GET" else None
        answer = (known or {}).get(self.path) or self._ask()
        if known is not None:
            known[self.path] = answer
        status, headers, body = answer
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(body)

    def _ask(self) -> tuple[int, list[tuple[str, str]], bytes]:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        host = self.door.server.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=30)
        connection.request(self.command, self.path, sent, dict(self.headers))
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@contextmanager
def door_before(server: str) -> Iterator[tuple[Door, str]]:
    """Yield a door before a server and its address."""
    door = Door(server)
    handler = type("Handler", (_Handler,), {"door": door})
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield door, f"http://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        thread.join()
