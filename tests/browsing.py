"""A running `histoprep browse`, in a process of its own, and requests to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

START_S = 60


@dataclass(frozen=True)
class Answer:
    """What the server answered; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Browser:
    """A server that runs: its process, port and token."""

    process: subprocess.Popen[str]
    address: str
    port: int
    token: str

    def ask(
        self,
        path: str,
        pairs: Any = (),
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        token: str | None = "",
    ) -> Answer:
        """Return the answer to a request; with the token unless another one, or None, is named."""
        query = [*(pairs.items() if isinstance(pairs, dict) else pairs)]
        if token is not None:
            query.append(("token", token or self.token))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            sent = None if body is None else json.dumps(body)
            own = {} if body is None else {"Content-Type": "application/json"}
            connection.request(
                method,
                f"{path}?{urlencode(query)}" if query else path,
                body=sent,
                headers={**own, **(headers or {})},
            )
            got = connection.getresponse()
            return Answer(
                got.status,
                {name.lower(): value for name, value in got.getheaders()},
                got.read(),
            )
        finally:
            connection.close()

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the JSON value below api/."""
        answer = self.ask(f"/api/{path}", parameters)
        assert answer.status == 200, answer.body
        return answer.json()

    def post(self, path: str, **body: Any) -> Any:
        """Send JSON below api/ and return the JSON value that comes back."""
        answer = self.ask(f"/api/{path}", method="POST", body=body)
        assert answer.status == 200, answer.body
        return answer.json()

    def names(self, **parameters: Any) -> list[str]:
        """Return the names of the tiles of a query."""
        pairs = [
            (name, each)
            for name, value in parameters.items()
            for each in (value if isinstance(value, list) else [value])
        ]
        answer = self.ask("/api/tiles", [*pairs, ("limit", "500")])
        assert answer.status == 200, answer.body
        return [tile["name"] for tile in answer.json()["tiles"]]


@contextmanager
def browsing(*arguments: str | Path) -> Iterator[Browser]:
    """Yield a server that answers until the block ends."""
    command = [sys.executable, "-m", "histoprep", "browse", *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        address = process.stdout.readline().strip()
        seen = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", address)
        assert seen, f"{address} {process.stderr.read()}"
        yield Browser(process, address, int(seen[1]), seen[2])
    finally:
        process.terminate()
        process.wait(START_S)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
