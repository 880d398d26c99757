"""The HTML report is one file that asks for nothing, runs nothing and can be read."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from report_sample import HOSTILE, make_report

from histoprep.catalogue import all_rules
from histoprep.findings import Mark, finding
from histoprep.report import Report, last_line, render
from histoprep.report.thumbnails import LegendEntry, make_thumbnail
from histoprep.visible import visible


@pytest.fixture(name="report")
def _report() -> Report:
    return make_report()


class Page(HTMLParser):
    """What a browser would do with a page: the tags it opens, what they refer to, the text it
    shows.
    """

    VOID = frozenset({"meta", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.style = ""
        self.stack: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] == "style":
            self.style += data
        else:
            self.text.append(data)

    def values(self, name: str) -> list[str]:
        return [
            value or ""
            for _, attributes in self.tags
            for key, value in attributes.items()
            if key == name
        ]


ALLOWED_TAGS = """
    html head meta link title style body header main footer section p b h1 h2 h3 h4 div span bdi
    dl dt dd ul li table thead tbody tr th td a code pre details summary figure figcaption img
    svg symbol use path circle rect line text
"""


def test_html_asks_for_nothing_and_runs_nothing(report: Report) -> None:
    page = Page(render(report, "html"))
    assert not page.stack, "a tag was left open"
    assert {tag for tag, _ in page.tags} <= set(ALLOWED_TAGS.split())
    attributes = {key for _, attributes in page.tags for key in attributes}
    assert not [
        key
        for key in attributes
        if key.startswith("on") or key in {"style", "srcset", "action", "xlink:href"}
    ]
    targets = page.values("src") + page.values("href")
    assert targets
    assert all(target.startswith(("data:", "#", "./")) for target in targets)
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_html_allows_its_own_style_and_nothing_else(report: Report) -> None:
    page = Page(render(report, "html"))
    (policy,) = (
        attributes["content"]
        for tag, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    wanted = {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert policy
    assert dict(part.strip().split(" ", 1) for part in policy.split(";")) == wanted
    first = next(
        index for index, (tag, _) in enumerate(page.tags) if tag in {"style", "link", "img"}
    )
    assert page.tags[first - 1][0] in {
        "meta",
        "title",
    }, "the policy must stand before what it rules"


def test_html_shows_every_name_as_text(report: Report) -> None:
    page = Page(render(report, "html"))
    text = "\n".join(page.text)
    for name in HOSTILE:
        assert visible(name) in text
    for row in report.classes:
        assert row.name in text
    assert "/data/<tiles> & 100%\\u202e" in text
    for figure in (
        "246,755",
        "156,024",
        "63.2 %",
        "and 1,234 more in",
        "Failed",
        "5 errors, 1 warning (+1 known), 1 info",
    ):
        assert figure in text
    assert last_line(report) in text


def test_html_links_lead_somewhere(report: Report) -> None:
    page = Page(render(report, "html"))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in page.values("href") if target.startswith("#")} <= set(ids)
    assert set(page.values("aria-labelledby")) <= set(ids)


def test_html_links_to_the_files_from_where_the_page_is(report: Report, tmp_path: Path) -> None:
    names = ["a b/c%20#?.png", "javascript:alert(1)", "no-utf8-\udcff.png"]
    (tmp_path / "data" / "a b").mkdir(parents=True)
    for name in names:
        (tmp_path / "data" / name).touch()
    found = finding(
        all_rules()["HP103"], [(name, "") for name in names], denominator=3, unit="files"
    )
    for folder in (tmp_path, tmp_path / "data", tmp_path / "elsewhere" / "far"):
        page = Page(
            render(
                replace(
                    report,
                    root=str(tmp_path / "data"),
                    findings=[found],
                    thumbnails={},
                    page_folder=str(folder),
                ),
                "html",
            )
        )
        links = [link for link in page.values("href") if link[0] not in "#d"]
        assert len(links) == 3 and all(link.startswith("./") for link in links)
        folder.mkdir(parents=True, exist_ok=True)
        assert all((folder / os.fsdecode(unquote_to_bytes(link))).is_file() for link in links)


def test_html_shows_equal_rows_once(report: Report) -> None:
    details = ["x", "x", "y", "x", "x", "x"]
    found = finding(
        all_rules()["HP103"],
        [(f"{number}.png", detail) for number, detail in enumerate(details)],
        denominator=6,
        unit="files",
    )
    page = Page(render(replace(report, findings=[found], thumbnails={}), "html"))
    cells = [
        attributes.get("rowspan", "1")
        for tag, attributes in page.tags
        if tag == "td" and attributes.get("class") == "detail"
    ]
    assert cells == ["2", "1", "3"]
    assert [piece for piece in page.text if piece in ("x", "y")] == ["x", "y", "x"]


def test_html_shows_an_enlarged_part_where_something_is_marked(report: Report) -> None:
    labels = np.zeros((64, 64), np.int32)
    labels[10:12, 40:43] = 1
    drawn = make_thumbnail(None, labels, report.classes, marks=[(10, 40, 12, 43)])
    found = finding(all_rules()["HP408"], [("m.png", "1 region")], denominator=1, unit="masks")
    page = Page(
        render(
            replace(report, findings=[found], thumbnails={("m.png", Mark.SPECKS): drawn}), "html"
        )
    )
    alts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert alts == ["Mask of m.png", "Enlarged part of the mask of m.png"]
    assert "32 x 32 pixels at x 25, y 0 enlarged" in page.text


def test_html_opens_what_needs_a_decision(report: Report) -> None:
    page = Page(render(report, "html"))
    cards = [attributes for tag, attributes in page.tags if tag == "details"]
    assert ["open" in card for card in cards] == [True] * 5 + [False, False, True]


def test_html_draws_thumbnails_with_words_for_them(report: Report) -> None:
    page = Page(render(report, "html"))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 4  # image and overlay, mask alone, image alone
    assert all(attributes["alt"] for attributes in images)
    assert sum("no image" in piece for piece in page.text) >= 1
    assert "no mask" in page.text


def luminance(colour: str) -> float:
    """Return relative luminance (WCAG 2.2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_html_text_can_be_read_in_light_and_dark() -> None:
    css = files("histoprep.report").joinpath("report.css").read_text(encoding="utf-8")
    modes = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", css, re.S)[:2]
    ]
    assert len(modes) == 2
    for mode in modes:
        for ink in ("ink", "muted", "accent", "error", "warning", "info", "passed"):
            grounds = ["paper", "surface", "sunken"] + [f"{ink}-wash"] * (f"{ink}-wash" in mode)
            for ground in grounds:
                bright, dim = sorted((luminance(mode[ink]), luminance(mode[ground])), reverse=True)
                assert (bright + 0.05) / (dim + 0.05) >= 4.5, (ink, ground)


def test_a_legend_names_the_largest_classes(report: Report) -> None:
    path, thumbnail = next(iter(report.thumbnails.items()))
    many = tuple(
        LegendEntry(f"kind {number:02}", "#112233", (number + 1) / 820) for number in range(40)
    )
    page = Page(render(replace(report, thumbnails={path: replace(thumbnail, legend=many)}), "html"))
    named = [word for word in page.text if word.startswith("kind ")]
    assert named == [f"kind {number:02}" for number in range(39, 23, -1)]
    assert "and 24 more" in page.text
