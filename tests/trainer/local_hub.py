"""A server on this machine that answers the client of the Hugging Face hub as the hub does, as far
as making a repository and uploading files to it goes.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "aVerySecretOne" * 2


@dataclass
class LocalHub:
    """What was uploaded.

    Attributes:
        address: Of the server, for HF_ENDPOINT.
        visible: Repository -> whether everybody sees it.
        files: Repository -> path -> bytes.
        refuses: The status that uploads are answered with, if they are refused.
    """

    address: str = ""
    visible: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refuses: int | None = None
    objects: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def serving() -> Iterator[LocalHub]:
    """Serve a hub on a free port of this machine."""
    hub = LocalHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Write no log."""

        def _answer(self, value: Any, status: int = 200) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _is_known(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def do_PUT(self) -> None:
            hub.objects[self.path.rpartition("/")[2]] = self._body()
            self._answer({})

        def do_GET(self) -> None:
            name = self.path.partition("/api/models/")[2].partition("?")[0]
            if not self._is_known() or name not in hub.visible:
                self._answer({"error": "Repository not found"}, 404)
                return
            is_private = not hub.visible[name]
            self._answer({"id": name, "private": is_private, "tags": [], "siblings": []})

        def do_POST(self) -> None:
            body = self._body()
            if not self._is_known():
                self._answer({"error": "Invalid credentials in Authorization header"}, 401)
            elif self.path == "/api/repos/create":
                self._create(json.loads(body))
            elif self.path == "/api/validate-yaml":
                self._answer({"warnings": [], "errors": []})
            elif hub.refuses:
                self._answer({"error": "this hub takes no files"}, hub.refuses)
            elif "/preupload/" in self.path:
                self._answer({"files": [_mode(entry) for entry in json.loads(body)["files"]]})
            elif self.path.endswith("/objects/batch"):
                found = [_action(hub, entry) for entry in json.loads(body)["objects"]]
                self._answer({"transfer": "basic", "objects": found})
            elif (commit := re.fullmatch(r"/api/models/(.+)/commit/main", self.path)) is not None:
                _commit(hub, commit[1], body)
                self._answer({"commitUrl": f"{hub.address}/{commit[1]}/commit/1", "commitOid": "1"})
            else:
                self._answer({"error": self.path}, 404)

        def _create(self, wanted: dict[str, Any]) -> None:
            owner = wanted.get("organization") or "me"
            name = f"{owner}/{wanted['name']}"
            if name in hub.visible:
                self._answer({"error": "exists", "url": f"{hub.address}/{name}"}, 409)
                return
            is_private = wanted.get("private") or wanted.get("visibility") == "private"
            hub.visible[name] = not is_private
            self._answer({"url": f"{hub.address}/{name}", "name": name, "id": name})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _mode(entry: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if entry["path"].endswith((".safetensors", ".pt2")) else "regular"
    return {"path": entry["path"], "uploadMode": mode, "shouldIgnore": False}


def _action(hub: LocalHub, entry: dict[str, Any]) -> dict[str, Any]:
    place = {"href": f"{hub.address}/objects/{entry['oid']}"}
    return {**entry, "authenticated": True, "actions": {"upload": place}}


def _commit(hub: LocalHub, name: str, body: bytes) -> None:
    files = hub.files.setdefault(name, {})
    for line in body.splitlines():
        entry = json.loads(line)
        value = entry["value"]
        if entry["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif entry["key"] == "lfsFile":
            files[value["path"]] = hub.objects[value["oid"]]
