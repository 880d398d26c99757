"""Who is answered: requests of this machine's browser that know the token, and no other page.

The token comes in the address that the command prints (`?token=`) or in a header (`Authorization:
Bearer`), and is kept in a cookie that scripts cannot read. The host must be this server by number
or as localhost, so that no name of another site can be pointed here (DNS rebinding). Requests that
another page starts are refused by `Origin` and `Sec-Fetch-Site`.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_READING = ("GET", "HEAD")
_NAVIGATION = "navigate"


class Guard:
    """Passes on the requests that may be answered, and adds headers to every answer."""

    def __init__(self, application: Application, token: str, port: int) -> None:
        """Answer nothing yet.

        Args:
            application: What answers.
            token: What requests must know.
            port: The port of this server.
        """
        self._application = application
        self._token = token
        self._hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})
        self._cookie = f"histoprep-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = dict(_decoded(pair) for pair in scope["headers"])
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        refused = self._refusal(scope["method"], headers, query)
        if refused is not None:
            await _answer(send, *refused)
            return
        secured = self._with_headers(send, sets_cookie="token" in query)
        await self._application(scope, receive, secured)

    def _refusal(
        self, method: str, headers: dict[str, str], query: dict[str, list[str]]
    ) -> tuple[int, str] | None:
        """Return status and reason of a request that is not answered, None for others."""
        host = headers.get("host", "")
        if host not in self._hosts:
            return 403, "this server answers to 127.0.0.1 and localhost only"
        origin = headers.get("origin")
        if origin is not None and origin not in {f"http://{host}"}:
            return 403, "requests of other pages are refused"
        site = headers.get("sec-fetch-site", "none")
        is_visit = method in _READING and headers.get("sec-fetch-mode") == _NAVIGATION
        if site not in ("none", "same-origin") and not (is_visit and "token" in query):
            return 403, "requests of other pages are refused"
        if not self._knows_token(headers, query):
            return 401, "open the address that histoprep browse printed: it holds the token"
        if method not in _READING and not headers.get("content-type", "").startswith(
            "application/json"
        ):
            return 415, "only JSON can be sent"
        return None

    def _knows_token(self, headers: dict[str, str], query: dict[str, list[str]]) -> bool:
        offered = [*query.get("token", ())]
        scheme, _, rest = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            offered.append(rest.strip())
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            morsel = None
        if morsel is not None:
            offered.append(morsel.value)
        own = self._token.encode()
        return any(secrets.compare_digest(each.encode(), own) for each in offered)

    def _with_headers(self, send: Send, *, sets_cookie: bool) -> Send:
        async def secured(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                extra = [*HEADERS.items()]
                if sets_cookie:
                    extra.append(
                        (
                            "Set-Cookie",
                            f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict",
                        )
                    )
                message = {**message, "headers": [*message["headers"], *_encoded(extra)]}
            await send(message)

        return secured


async def _answer(send: Send, status: int, reason: str) -> None:
    body = f"{reason}\n".encode()
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        *HEADERS.items(),
    ]
    await send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": body})


def _decoded(pair: tuple[bytes, bytes]) -> tuple[str, str]:
    return pair[0].decode("latin-1"), pair[1].decode("latin-1")


def _encoded(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
