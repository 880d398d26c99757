"""The HTML report in a real browser: no console error, no request, nothing wider than the page."""

from __future__ import annotations

import re
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_sample import make_report

from histoprep.report import Status, render

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
    " --disable-default-apps --disable-extensions --disable-domain-reliability --hide-scrollbars"
    " --enable-logging=stderr"
)


# What the browser itself calls home for, whatever the page; a page would use other hosts of that
# vendor.
OWN_HOSTS = frozenset(
    {"update.googleapis.com", "clients2.google.com", "accounts.google.com", "redirector.gvt1.com"}
)


class Listener(socketserver.ThreadingTCPServer):
    """A proxy that answers nothing and remembers what it was asked for."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), _Ask)

    def hosts(self) -> set[str]:
        """Return the hosts that were asked for."""
        found = (re.match(r"\w+ (?:\w+://)?([^/:\s]+)", line) for line in self.requests)
        return {match[1] for match in found if match}


class _Ask(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline().decode("latin-1").strip()
        assert isinstance(self.server, Listener)
        self.server.requests.append(line)


@contextmanager
def listening() -> Iterator[Listener]:
    """Yield a listener that serves until the block ends."""
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(name="listener")
def _listener() -> Iterator[Listener]:
    with listening() as server:
        yield server


@pytest.fixture(name="own_hosts", scope="module")
def _own_hosts(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the hosts that this browser asks for while it shows an empty page."""
    folder = tmp_path_factory.mktemp("empty")
    with listening() as server:
        browse(write_page(folder, "<p>empty</p>"), folder, "--dump-dom", listener=server)
    return server.hosts() | OWN_HOSTS


def browse(
    page: Path, folder: Path, *options: str, listener: Listener | None = None
) -> subprocess.CompletedProcess[str]:
    """Return the finished browser; every host name goes to the listener, if there is one."""
    proxy = (
        [
            f"--proxy-server=127.0.0.1:{listener.server_address[1]}",
            "--proxy-bypass-list=<-loopback>",
        ]
        if listener
        else []
    )
    command = [
        str(CHROMIUM),
        *FLAGS.split(),
        f"--user-data-dir={folder / 'profile'}",
        *proxy,
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def console(run: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what the page wrote to the console, refusals of the policy included."""
    return [line for line in run.stderr.splitlines() if "CONSOLE" in line]


def write_page(folder: Path, text: str) -> Path:
    """Return the path of a page with this text."""
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def without_policy(text: str) -> str:
    """Return the page without its Content-Security-Policy: the broken variant of the controls."""
    bare, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert count == 1
    return bare


@pytest.mark.slow
def test_the_page_is_silent_and_asks_for_nothing(
    tmp_path: Path, listener: Listener, own_hosts: set[str]
) -> None:
    run = browse(
        write_page(tmp_path, render(make_report(), "html")),
        tmp_path,
        "--dump-dom",
        listener=listener,
    )
    assert "HP101" in run.stdout
    assert console(run) == []
    assert listener.hosts() <= own_hosts


def test_the_listener_would_have_heard_a_request(
    tmp_path: Path, listener: Listener, own_hosts: set[str]
) -> None:
    broken = without_policy(render(make_report(), "html")).replace(
        "</main>", '<img src="http://evil.invalid/x.png"></main>'
    )
    browse(write_page(tmp_path, broken), tmp_path, "--dump-dom", listener=listener)
    assert "evil.invalid" in listener.hosts() - own_hosts


def test_the_policy_stops_scripts_and_requests_that_got_in(
    tmp_path: Path, listener: Listener, own_hosts: set[str]
) -> None:
    bad = (
        '<img src="http://evil.invalid/x.png"><script>document.title = "owned"</script><p'
        ' style="color: red">x</p></main>'
    )
    page = write_page(tmp_path, render(make_report(), "html").replace("</main>", bad))
    run = browse(page, tmp_path, "--dump-dom", listener=listener)
    assert "<title>owned" not in run.stdout
    assert len(console(run)) >= 3, "the console must report what the policy refused"
    assert listener.hosts() <= own_hosts


@pytest.mark.parametrize("width", [1280, 800, 500])
def test_nothing_is_wider_than_the_page(tmp_path: Path, width: int) -> None:
    # Only this variant may run a script; it says how wide the content is.
    probe = (
        '<script>document.title = "width " + document.documentElement.scrollWidth + " of " +'
        " innerWidth</script></body>"
    )
    page = write_page(
        tmp_path, without_policy(render(make_report(), "html")).replace("</body>", probe)
    )
    run = browse(page, tmp_path, f"--window-size={width},1000", "--dump-dom")
    seen = re.search(r"<title>width (\d+) of (\d+)</title>", run.stdout)
    assert seen, "the probe did not run"
    assert (int(seen[1]), int(seen[2])) == (width, width)


def image(page: Path, folder: Path, *options: str) -> np.ndarray:
    """Return the screenshot of a page, RGB."""
    target = folder / "shot.png"
    browse(page, folder, "--window-size=1280,1600", f"--screenshot={target}", *options)
    with Image.open(target) as shot:
        return np.array(shot.convert("RGB"))


@pytest.mark.slow
def test_light_and_dark_are_drawn(tmp_path: Path) -> None:
    page = write_page(tmp_path, render(make_report(), "html"))
    light, dark = (
        image(page, tmp_path),
        image(page, tmp_path, "--blink-settings=preferredColorScheme=0"),
    )
    assert light.shape == dark.shape == (1600, 1280, 3)
    assert tuple(light[2, 2]) == (0xF8, 0xF7, 0xF4)
    assert tuple(dark[2, 2]) == (0x14, 0x16, 0x1A)


@pytest.mark.parametrize(
    ("status", "wash"),
    [(Status.PASSED, "#e7f3ec"), (Status.FAILED, "#fbeceb"), (Status.INCOMPLETE, "#fbf1df")],
)
def test_the_verdict_is_seen_at_once(tmp_path: Path, status: Status, wash: str) -> None:
    top = image(
        write_page(tmp_path, render(replace(make_report(), status=status), "html")), tmp_path
    )[:400]
    colour = [int(wash[place : place + 2], 16) for place in (1, 3, 5)]
    assert (top == colour).all(axis=-1).sum() > 5_000
