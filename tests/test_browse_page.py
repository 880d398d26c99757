"""The page of `histoprep browse` in a real browser: every feature used, nothing complained of,
nothing asked for elsewhere.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browse_set import bad_names, make_set
from browsing import Browser, browsing
from PIL import Image

from benchmarks.browse import make_set as make_large_set
from histoprep.schemas.decisions import read_dropped
from histoprep.schemas.synthetic import write_real
from histoprep.shards.write import write_shards
from histoprep.visible import visible

pytest.importorskip("uvicorn")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
WIDTHS = (1400, 800, 390)
WAIT_MS = 30_000


@pytest.fixture(name="root", scope="module")
def _root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_set(tmp_path_factory.mktemp("page") / "set")
    # A "generated" image of one tile, as trainer sample lays them out.
    for folder in ("images", "masks"):
        (root.with_name("run") / folder).mkdir(parents=True)
    for number in (12, 13):
        name = f"slide{number % 3}_{number}"
        Image.new("RGB", (128, 128), "#00ff00").save(root.parent / "run/images" / f"{name}.png")
        shutil.copy(root / f"{name}_mask.png", root.parent / "run/masks" / f"{name}.png")
    return root


@pytest.fixture(name="server", scope="module")
def _server(root: Path) -> Iterator[Browser]:
    with browsing(root) as server:
        yield server


@pytest.fixture(name="chromium", scope="module")
def _chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


class Page:
    """A page that notes what it complains of and asks for."""

    def __init__(self, chromium: Any, server: Browser, width: int = 1400) -> None:
        self.tab = chromium.new_page(viewport={"width": width, "height": 900})
        self.tab.set_default_timeout(WAIT_MS)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.server = server
        self.tab.goto(server.address)
        self.ready()

    def ready(self, view: str = "tiles") -> None:
        """Wait until a view is there and its tiles are."""
        self.tab.wait_for_selector(f"body[data-ready^='{view}']")
        if view == "tiles":
            self.tab.wait_for_selector(".card[data-filled], #nothing:not([hidden])")

    def count(self) -> str:
        """Return how many tiles the page says there are."""
        return str(self.tab.inner_text("#count"))

    def wait_count(self, text: str) -> None:
        """Wait until the page says so many tiles."""
        self.tab.wait_for_function(
            "text => document.querySelector('#count').textContent === text", arg=text
        )
        self.tab.wait_for_selector(".card[data-filled]")

    def names(self) -> list[str]:
        """Return the names of the tiles in sight, in order."""
        script = """() => [...document.querySelectorAll('.card[data-filled]')]
            .sort((a, b) => a.dataset.index - b.dataset.index)
            .map((card) => card.querySelector('.name').textContent)"""
        found: list[str] = self.tab.evaluate(script)
        return found

    def show(self, filters: str) -> None:
        """Open the tiles of the filters of an address."""
        self.tab.evaluate("text => { location.hash = text; }", filters)
        self.tab.wait_for_function(
            "text => document.body.dataset.ready === `tiles #${text}`", arg=filters
        )
        self.ready()

    def in_sight(self) -> list[int]:
        """Return the places, in the order, of the tiles that can be seen."""
        script = """() => {
            const grid = document.querySelector('#grid').getBoundingClientRect();
            return [...document.querySelectorAll('.card')].filter((card) => {
                const box = card.getBoundingClientRect();
                return box.bottom > grid.top + 1 && box.top < grid.bottom - 1;
            }).map((card) => Number(card.dataset.index)).sort((a, b) => a - b);
        }"""
        found: list[int] = self.tab.evaluate(script)
        return found

    def open_first(self) -> None:
        """Open the first tile at full size."""
        self.tab.click(".card[data-index='0'] .tile")
        self.tab.wait_for_selector("#viewer[open][data-loaded]")


@pytest.fixture(name="page")
def _page(chromium: Any, server: Browser) -> Iterator[Page]:
    page = Page(chromium, server)
    yield page
    # Whatever a test did: no complaint, and nothing from elsewhere.
    assert page.complaints == []
    own = f"http://127.0.0.1:{server.port}/"
    assert all(url.startswith((own, "blob:", "data:")) for url in page.requests)
    page.tab.close()


def test_the_token_leaves_the_address(page: Page) -> None:
    assert "token" not in page.tab.url
    page.tab.reload()
    page.ready()
    assert page.count() == f"{30 + len(bad_names())} tiles"


def test_names_are_text_however_hostile(page: Page) -> None:
    page.show("group=slide9")
    assert sorted(page.names()) == sorted(visible(f"slide9_{name}") for name in bad_names())
    assert page.tab.title() == "set: HistoPrep"
    made = "() => document.querySelectorAll('.card script, .card b, [onmouseover]').length"
    assert page.tab.evaluate(made) == 0
    page.open_first()
    assert page.tab.inner_text("#viewer h2") in page.names()
    page.tab.keyboard.press("Escape")
    page.tab.click("nav [data-view=classes]")
    page.ready("classes")
    assert "<b>Dermis</b>" in page.tab.inner_text("#view-classes")


def test_filters_by_click_and_their_removal(page: Page) -> None:
    finding = page.tab.locator(".box", has_text="HP501").locator("input")
    finding.check()
    page.wait_count(f"1 tile of {30 + len(bad_names())}")
    assert page.names() == ["slide2_05"]
    page.tab.click("#chips button")
    page.wait_count(f"{30 + len(bad_names())} tiles")
    page.tab.fill("#text", "SLIDE0")
    page.wait_count(f"10 tiles of {30 + len(bad_names())}")
    page.tab.select_option("#class", label="Scar")
    page.wait_count(f"5 tiles of {30 + len(bad_names())}")
    page.tab.fill("#min_share", "40")
    page.tab.press("#min_share", "Enter")
    wanted = page.server.names(**{"text": "slide0", "class": 2, "min_share": 0.4})
    page.tab.wait_for_function(
        "number => document.querySelector('#count').textContent.startsWith(number)",
        arg=f"{len(wanted)} tile",
    )
    page.tab.wait_for_selector(".card[data-filled]")
    assert page.names() == wanted
    page.tab.click("#clear")
    page.wait_count(f"{30 + len(bad_names())} tiles")
    page.tab.fill("#text", "nothing of this name")
    page.tab.wait_for_selector("#nothing:not([hidden])")
    page.tab.go_back()
    page.wait_count(f"{30 + len(bad_names())} tiles")


def test_tiles_are_sorted_by_any_column(page: Page) -> None:
    for name in ("tile_id", "focus", "image_bytes", "split"):
        page.tab.select_option("#sort", name)
        page.tab.wait_for_function("name => location.hash.includes(name)", arg=name)
        page.tab.wait_for_function("() => document.body.dataset.ready.endsWith(location.hash)")
        page.tab.wait_for_selector(".card[data-filled]")
        assert page.names()[:8] == page.server.names(sort=name)[:8]
    page.tab.click("#order")
    page.tab.wait_for_function("() => document.body.dataset.ready.includes('order=desc')")
    page.tab.wait_for_selector(".card[data-filled]")
    assert page.names()[:8] == page.server.names(sort="split", order="desc")[:8]


def colours(page: Page, selector: str) -> set[tuple[int, ...]]:
    """Return the colours, with opacity, of a canvas."""
    script = """selector => {
        const canvas = document.querySelector(selector);
        if (!canvas.width) return [];
        const copy = new OffscreenCanvas(canvas.width, canvas.height)
            .getContext('2d', { willReadFrequently: true });
        copy.drawImage(canvas, 0, 0);
        const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
        const found = new Set();
        for (let at = 0; at < data.length; at += 4) found.add([...data.slice(at, at + 4)].join());
        return [...found];
    }"""
    return {tuple(map(int, text.split(","))) for text in page.tab.evaluate(script, selector)}


CANVAS = ".card[data-index='0'] canvas"


def wait_painted(page: Page, condition: str) -> None:
    """Wait until the pixels of the first overlay fulfil a condition on `alphas`, a set."""
    page.tab.wait_for_function(
        f"""() => {{
        const canvas = document.querySelector("{CANVAS}");
        if (!canvas) return false;
        const alphas = new Set();
        if (canvas.width) {{
            const copy = new OffscreenCanvas(canvas.width, canvas.height)
                .getContext('2d', {{ willReadFrequently: true }});
            copy.drawImage(canvas, 0, 0);
            const {{ data }} = copy.getImageData(0, 0, canvas.width, canvas.height);
            for (let at = 3; at < data.length; at += 4) alphas.add(data[at]);
        }}
        return {condition};
    }}"""
    )


def test_the_mask_has_opacity_outlines_and_single_classes(page: Page) -> None:
    page.show("text=slide0_12")
    wait_painted(page, "alphas.has(255) && alphas.size > 1")
    seen = colours(page, CANVAS)
    # Reading a canvas back rounds where it is not opaque.
    wanted = np.array([0x64, 0x8F, 0xFF])
    assert all(np.abs(wanted - colour[:3]).max() <= 2 for colour in seen if colour[3])
    page.tab.uncheck("#outlines")
    wait_painted(page, "!alphas.has(255)")
    page.tab.fill("#opacity", "80")
    wait_painted(page, "alphas.has(204)")
    page.tab.click("#legend button:has-text('Scar')")
    wait_painted(page, "alphas.size === 1 && alphas.has(0)")
    page.tab.click("#legend button:has-text('show all')")
    wait_painted(page, "alphas.has(204)")
    page.tab.dblclick("#legend button:has-text('Dermis')")
    wait_painted(page, "alphas.size === 1 && alphas.has(0)")
    page.tab.click("#legend button:has-text('show all')")
    page.tab.keyboard.press("m")
    wait_painted(page, "alphas.size === 0")


def test_full_size_shows_values_zooms_and_marks_the_place(page: Page, root: Path) -> None:
    page.show("text=slide1_04")
    page.open_first()
    assert page.tab.locator("#viewer .mark[aria-pressed=true]").count() == 1
    canvas = page.tab.locator("#viewer canvas").first
    marked = colours(page, "#viewer canvas")
    assert (0xFF, 0xE6, 0x00, 255) in marked, "the speck has a frame"
    box = canvas.bounding_box()
    side = min(box["width"], box["height"])
    left = box["x"] + (box["width"] - side) / 2
    top = box["y"] + (box["height"] - side) / 2
    page.tab.mouse.move(left + side * 91.5 / 128, top + side * 81.5 / 128)
    page.tab.wait_for_function("() => document.querySelector('.readout').textContent.includes('x')")
    said = page.tab.inner_text(".readout")
    assert "x 91, y 81" in said
    assert "label 3 skin: <b>Dermis</b>" in said
    with Image.open(root / "slide1_04.png") as image:
        red, green, blue = np.array(image)[81, 91].tolist()
    assert f"RGB {red} {green} {blue}" in said
    page.tab.mouse.wheel(0, -400)
    page.tab.mouse.move(left + side * 91.5 / 128, top + side * 81.5 / 128)
    assert "x 91, y 81" in page.tab.inner_text(".readout"), "zooming keeps the place"
    page.tab.mouse.down()
    page.tab.mouse.move(left + side * 70 / 128, top + side * 81.5 / 128)
    page.tab.mouse.up()
    page.tab.keyboard.press("0")
    page.tab.mouse.move(left + side * 10.5 / 128, top + side * 20.5 / 128)
    page.tab.wait_for_function(
        "() => document.querySelector('.readout').textContent.includes('x 10, y 20')"
    )
    page.tab.click("#viewer .mark")
    page.tab.wait_for_selector("#viewer .mark[aria-pressed=false]")
    assert (0xFF, 0xE6, 0x00, 255) not in colours(page, "#viewer canvas")


def test_neighbours_lie_at_the_sides_and_can_be_opened(page: Page) -> None:
    page.show("text=slide1_10")
    page.open_first()
    page.tab.click("#viewer .near.right .neighbour")
    page.tab.wait_for_function(
        "() => document.querySelector('#viewer h2').textContent === 'slide2_11'"
    )
    page.tab.wait_for_selector("#viewer .near.left .neighbour")


def test_everything_by_keyboard(page: Page, root: Path) -> None:
    decisions = root.with_name("set.histoprep") / "decisions.csv"
    page.show("group=slide0&sort=tile_id")
    first, second, third = page.names()[:3]
    page.tab.keyboard.press("j")
    page.tab.keyboard.press("x")
    page.tab.wait_for_selector(".card[data-index='1'].dropped")
    assert list(read_dropped(decisions)) == [second]
    page.tab.keyboard.press("k")
    page.tab.keyboard.press("t")
    page.tab.wait_for_selector("#ask[open]")
    page.tab.keyboard.type("odd x")
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_selector(".card[data-index='0'] .chip:has-text('odd x')")
    assert page.server.names(tag="odd x") == [first]
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_selector("#viewer[open][data-loaded]")
    page.tab.keyboard.press("j")
    page.tab.keyboard.press("j")
    page.tab.wait_for_function(
        "name => document.querySelector('#viewer h2').textContent === name", arg=third
    )
    page.tab.keyboard.press("x")
    page.tab.wait_for_function(
        "() => document.querySelector('#viewer-drop').textContent === 'Keep'"
    )
    page.tab.keyboard.press("Escape")
    page.tab.wait_for_selector("#viewer:not([open])", state="attached")
    assert page.tab.inner_text("#decided") == "2 tiles dropped, 1 tag"
    for text in ("1 tile dropped, 1 tag", "1 tile dropped", "0 tiles dropped"):
        page.tab.keyboard.press("u")
        page.tab.wait_for_function(
            "text => document.querySelector('#decided').textContent === text", arg=text
        )
    page.tab.keyboard.press("?")
    assert "take the last decision back" in page.tab.inner_text("#ask")
    page.tab.keyboard.press("Escape")
    page.tab.keyboard.press("/")
    page.tab.keyboard.type("jxt")
    page.tab.wait_for_selector("#nothing:not([hidden])")
    assert page.server.get("decisions")["dropped"] == 0


@pytest.mark.slow
def test_as_many_tiles_as_there_are_can_be_scrolled(chromium: Any, tmp_path: Path) -> None:
    num_rows = 300_000
    with browsing(make_large_set(tmp_path / "large", num_rows, None).root) as server:
        page = Page(chromium, server)
        assert page.count() == "300,000 tiles"
        assert page.in_sight()[0] == 0
        columns = page.tab.evaluate(
            """() => { const top = (card) => card.getBoundingClientRect().top;
            const cards = [...document.querySelectorAll('.card')];
            return cards.filter((card) => top(card) === top(cards[0])).length; }"""
        )
        page.tab.mouse.move(800, 500)
        page.tab.mouse.wheel(0, 600)
        page.tab.wait_for_function("() => document.querySelector('#grid').scrollTop === 600")
        height = page.tab.evaluate("() => document.querySelector('.card').offsetHeight + 8")
        assert page.in_sight()[0] // columns == 600 // height, "a step moves as far as the hand"
        for share in (0.5, 1):
            page.tab.evaluate(
                """share => { const grid = document.querySelector('#grid');
                grid.scrollTop = share * (grid.scrollHeight - grid.clientHeight); }""",
                share,
            )
            page.tab.wait_for_function(
                """least => [...document.querySelectorAll('.card')].every((card) =>
                card.dataset.filled && Number(card.dataset.index) >= least)""",
                arg=share * num_rows - 1000,
            )
            assert page.in_sight()[-1] <= min(num_rows - 1, share * num_rows + 1000)
        assert page.in_sight()[-1] == num_rows - 1
        assert page.tab.evaluate("() => document.querySelectorAll('.card').length") < 100
        page.tab.keyboard.press("j")
        place = "document.activeElement.closest('.card').dataset.index"
        assert int(page.tab.evaluate(place)) >= num_rows - 100
        assert page.complaints == []
        page.tab.close()


def test_a_whole_slide_is_dropped_and_taken_back(page: Page) -> None:
    page.tab.click("nav [data-view=groups]")
    page.ready("groups")
    page.tab.click("#view-groups button:has-text('slide2')")
    page.wait_count(f"10 tiles of {30 + len(bad_names())}")
    page.tab.click(".actions summary")
    page.tab.click("#drop-all")
    page.tab.click("#ask .main")
    page.tab.wait_for_function(
        "() => document.querySelector('#decided').textContent === '10 tiles dropped'"
    )
    assert sorted(page.server.names(state="dropped")) == sorted(page.server.names(group="slide2"))
    page.tab.click("#undo")
    page.tab.wait_for_function(
        "() => document.querySelector('#decided').textContent === '0 tiles dropped'"
    )


def test_tables_filter_on_a_click(page: Page) -> None:
    page.tab.click("nav [data-view=findings]")
    page.ready("findings")
    page.tab.wait_for_selector("#view-findings .strip img")
    page.tab.click("#view-findings button:has-text('HP408')")
    page.wait_count(f"1 tile of {30 + len(bad_names())}")
    page.tab.click("nav [data-view=classes]")
    page.ready("classes")
    page.tab.click("#view-classes th button:has-text('Scar')")
    wanted = page.server.names(**{"class": 2, "sort": "share", "order": "desc"})
    page.wait_count(f"{len(wanted)} tiles of {30 + len(bad_names())}")
    page.tab.wait_for_selector(".card[data-filled]")
    assert page.names()[:8] == wanted[:8]
    page.tab.click("nav [data-view=classes]")
    page.ready("classes")
    assert page.tab.get_attribute("nav [data-view=classes]", "aria-current") == "page"
    page.tab.click("[aria-label='Class by class'] tr:has-text('Scar') td:nth-child(2) button")
    both = page.server.names(**{"class": 2, "also": 0})
    assert 0 < len(both) < len(page.server.names())
    page.wait_count(f"{len(both)} tiles of {30 + len(bad_names())}")
    assert "also Unknown" in page.tab.inner_text("#chips")


def test_examples_open_at_full_size(page: Page) -> None:
    page.tab.click("nav [data-view=findings]")
    page.ready("findings")
    page.tab.click("#view-findings tr:has-text('HP408') .example")
    page.tab.wait_for_selector("#viewer[open][data-loaded]")
    assert page.tab.inner_text("#viewer h2") == "slide1_04"


def test_names_that_are_too_long_end_as_they_are(page: Page) -> None:
    page.show("group=slide9")
    script = """() => [...document.querySelectorAll('.card .name')].map((name) => {
        const box = name.getBoundingClientRect();
        const text = name.firstElementChild.getBoundingClientRect();
        return [text.width > box.width + 1, text.right - box.right];
    })"""
    found = page.tab.evaluate(script)
    assert any(is_long for is_long, _ in found)
    assert all(beyond < 1 for _, beyond in found), "the end is in sight"


def test_a_zoomed_image_is_moved_and_read_by_keys(page: Page, root: Path) -> None:
    page.show("text=slide1_04")
    page.open_first()
    for key in ("+", "+", "+", "ArrowRight", "ArrowUp", "Shift+ArrowDown", "Shift+ArrowLeft"):
        page.tab.keyboard.press(key)
    said = page.tab.inner_text(".readout")
    # A tenth of 128 px at 1.25^3, and a pixel back.
    at = 64 + 12.8 / 1.25**3 - 1, 64 - 12.8 / 1.25**3 + 1
    assert said.startswith(f"x {int(at[0])}, y {int(at[1])} ")
    with Image.open(root / "slide1_04.png") as image:
        red, green, blue = np.array(image)[int(at[1]), int(at[0])].tolist()
    assert f"RGB {red} {green} {blue}" in said


def test_points_are_selected_and_opened_by_keys(page: Page) -> None:
    page.tab.click("nav [data-view=points]")
    page.ready("points")
    page.tab.wait_for_selector("#view-points[data-drawn]")
    page.tab.focus("#points-by")
    reached = "() => document.activeElement.tagName === 'CANVAS'"
    for _ in range(30):
        page.tab.keyboard.press("Tab")
        if page.tab.evaluate(reached):
            break
    assert page.tab.evaluate(reached)
    shown = int(page.tab.inner_text("#points-count").split()[0])
    # Around the frame, from its left end on.
    for number, key in enumerate(("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown", "ArrowLeft")):
        for _ in range(24):
            page.tab.keyboard.press(f"Shift+{key}")
        if number:
            page.tab.keyboard.press("Space")
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_function("() => location.hash.includes('selection=')")
    page.ready()
    assert int(page.count().split()[0]) == shown


def test_points_are_coloured_and_selected_with_a_line(page: Page) -> None:
    page.tab.click("nav [data-view=points]")
    page.ready("points")
    for source in ("measures", "classes", "colours"):
        page.tab.select_option("#points-source", source)
        page.tab.wait_for_selector(f"#view-points[data-drawn^='{source}']")
    for by in ("split", "group", "decision", "class"):
        page.tab.select_option("#points-by", by)
        page.tab.wait_for_selector(f"#view-points[data-drawn*='{by}']")
    assert "mean of" in page.tab.inner_text("#points-axes")
    place = page.tab.locator("#view-points canvas")
    box = place.bounding_box()
    left, top = box["x"] + 3, box["y"] + 3
    right, bottom = left + box["width"] - 6, top + box["height"] - 6
    shown = int(page.tab.inner_text("#points-count").split()[0])
    page.tab.mouse.move(left, top)
    page.tab.mouse.down()
    for corner in ((right, top), (right, bottom), (left, bottom), (left, top)):
        page.tab.mouse.move(*corner)
    page.tab.mouse.up()
    page.tab.wait_for_function("() => location.hash.includes('selection=')")
    page.ready()
    found = int(page.count().split()[0])
    assert found == shown
    assert "selected by hand" in page.tab.inner_text("#chips")


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_page(chromium: Any, server: Browser, width: int) -> None:
    page = Page(chromium, server, width)
    for view in ("tiles", "findings", "classes", "groups", "points"):
        page.tab.click(f"nav [data-view={view}]")
        page.ready(view)
        wide = page.tab.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert wide == [width, width], view
    page.show("text=slide1_04")
    if width < 820:
        page.tab.click("#show-filters")
        assert page.tab.is_visible("#text")
        page.tab.click("#show-filters")
    page.open_first()
    for selector in ("#viewer-close", "#viewer-drop", "#viewer canvas"):
        box = page.tab.locator(selector).first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width + 1, selector
    page.tab.click("#viewer-close")
    assert page.complaints == []
    page.tab.close()


def test_two_fingers_zoom(chromium: Any, server: Browser) -> None:
    page = Page(chromium, server, 390)
    page.show("text=slide1_04")
    page.open_first()
    box = page.tab.locator("#viewer canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = page.tab.context.new_cdp_session(page.tab)

    def touch(kind: str, apart: float) -> None:
        points = [] if kind == "touchEnd" else [{"x": x - apart, "y": y}, {"x": x + apart, "y": y}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    # Drawn anew at the same size, the canvas shows a part of the tile, enlarged.
    before = colours(page, "#viewer canvas")
    touch("touchStart", 20)
    for apart in (30, 50, 80, 120):
        touch("touchMove", apart)
    touch("touchEnd", 0)
    page.tab.wait_for_function(
        "() => document.querySelector('.readout').textContent.startsWith('x ')"
    )
    said = page.tab.inner_text(".readout")
    assert abs(int(said.split()[1].rstrip(",")) - 64) < 40, said
    assert colours(page, "#viewer canvas") != before
    assert page.complaints == []
    page.tab.close()


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "light"), (1400, "dark")])
def test_no_serious_barrier(chromium: Any, server: Browser, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = Page(chromium, server, width)
    page.tab.emulate_media(color_scheme=scheme)
    found = []
    for view in ("tiles", "findings", "classes", "groups", "points", "viewer", "keys", "tag"):
        if view == "viewer":
            page.show("text=slide1_04")
            page.open_first()
        elif view in ("keys", "tag"):
            page.tab.keyboard.press("Escape")
            page.tab.keyboard.press("?" if view == "keys" else "t")
            page.tab.wait_for_selector("#ask[open]")
        else:
            page.tab.click(f"nav [data-view={view}]")
            page.ready(view)
        for rule in axe.run(page.tab).response["violations"]:
            if rule["impact"] in ("serious", "critical"):
                nodes = [node["html"][:160] for node in rule["nodes"][:3]]
                found.append(f"{view}: {rule['id']}: {nodes}")
    assert found == []
    page.tab.close()


def test_generated_tiles_stand_beside_real_ones(chromium: Any, root: Path) -> None:
    with browsing(root.with_name("run"), "--beside", root) as server:
        page = Page(chromium, server)
        page.tab.wait_for_selector(".card[data-filled] img")
        shown = page.tab.evaluate(
            """() => [...document.querySelectorAll('.card[data-index="0"] .image')]
                .map((image) => [image.title, image.firstElementChild?.tagName])"""
        )
        assert shown == [["run", "IMG"], ["set", "IMG"], ["mask", "CANVAS"]]
        page.open_first()
        titles = page.tab.locator("#viewer figcaption").all_inner_texts()
        assert titles == ["run", "set", "mask"]
        page.tab.click("#viewer [aria-label='Zoom in']")
        page.tab.keyboard.press("Escape")
        page.tab.uncheck("#beside")
        page.tab.wait_for_function(
            """() => document.querySelectorAll('.card[data-index="0"] .image').length === 1"""
        )
        assert page.complaints == []
        assert all(re.match(r"(http://127\.0\.0\.1|blob:|data:)", url) for url in page.requests)
        page.tab.close()


def test_the_real_tiles_of_a_synthetic_set_are_found(chromium: Any, root: Path) -> None:
    workspace = root.with_name("run.histoprep")
    workspace.mkdir(exist_ok=True)
    write_real(workspace, [root.with_name("set.histoprep") / "manifest.parquet"])
    try:
        with browsing(root.with_name("run")) as server:
            page = Page(chromium, server)
            page.tab.wait_for_selector(".card[data-filled] img")
            page.open_first()
            titles = page.tab.locator("#viewer figcaption").all_inner_texts()
            assert titles == ["run", "set", "mask"]
            assert page.complaints == []
            page.tab.close()
    finally:
        (workspace / "real.json").unlink()


def test_shards_show_findings_and_quality(chromium: Any, root: Path) -> None:
    workspace = root.with_name("set.histoprep")
    write_shards(workspace / "manifest.parquet", root.with_name("shards"))
    with browsing(root.with_name("shards")) as server:
        page = Page(chromium, server)
        assert page.tab.is_hidden("#notes")
        page.tab.click("nav [data-view=findings]")
        page.ready("findings")
        page.tab.click("#view-findings button:has-text('HP408')")
        page.wait_count(f"1 tile of {len(page.server.names())}")
        assert page.names() == ["slide1_04"]
        page.tab.select_option("#sort", "focus")
        page.tab.wait_for_function("() => location.hash.includes('focus')")
        assert page.complaints == []
        page.tab.close()


def test_another_page_cannot_read_or_decide(
    chromium: Any, server: Browser, page: Page, tmp_path: Path
) -> None:
    # The page fixture signed this browser in, so that its cookie is there.
    foreign = chromium.new_page()
    (tmp_path / "evil.html").write_text("<title>evil</title>")
    foreign.goto((tmp_path / "evil.html").as_uri())
    script = """async (address) => {
        const results = [];
        for (const [path, options] of [
            ['api/tiles', {}], ['api/tiles', { mode: 'no-cors' }],
            ['api/decisions', { method: 'POST', body: '{"action":"drop","rows":[0]}',
                mode: 'no-cors', headers: { 'Content-Type': 'text/plain' } }],
        ]) {
            try {
                const answer = await fetch(address + path, { credentials: 'include', ...options });
                results.push(answer.type === 'opaque' ? 'opaque' : await answer.text());
            } catch (error) { results.push('refused'); }
        }
        return results;
    }"""
    results = foreign.evaluate(script, f"http://127.0.0.1:{server.port}/")
    assert set(results) <= {"refused", "opaque"}
    assert server.get("decisions")["dropped"] == 0
    foreign.close()
    assert page.count()
