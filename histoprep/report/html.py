"""The audit as one HTML file that asks for nothing: no script, no font, no thumbnail from outside.

Every name goes through `visible` and then through the template's escaping. The
Content-Security-Policy allows one style sheet, by its digest, and data thumbnails.
"""

from __future__ import annotations

import os
import re
import sys
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.util import cache_from_source
from itertools import groupby
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

from histoprep.choices import Severity
from histoprep.findings import Finding, FixSafety
from histoprep.phrases import plural
from histoprep.report import (
    THUMBNAILS_PER_FINDING,
    Report,
    Status,
    charts,
    count_severities,
    examples,
    last_line,
    leaks_unknown,
    names_files,
    verdict_counts,
)
from histoprep.report.thumbnails import LegendEntry, Thumbnail
from histoprep.report.wording import amount, number, percent, steps_of
from histoprep.visible import visible

if TYPE_CHECKING:
    from jinja2 import BytecodeCache, Template
    from jinja2.bccache import Bucket

_HERE = Path(__file__).parent
# A mask with grey levels has a class a level.
_MAX_LEGEND = 16
_FIX_NOTES = {
    FixSafety.SAFE: "safe to run",
    FixSafety.UNSAFE: "may lose data, keep a copy",
    FixSafety.NONE: "",
}
_COMMANDS = "map (?:check|diff|compose|show)|audit|remap|stats|manifest|collect|rules|explain"
_CODE = re.compile(rf"(`[^`]+`|(?<!\w)--[a-z][a-z-]+|\bhistoprep (?:{_COMMANDS})\b)")


def render(report: Report) -> str:
    """Return the page."""
    css = (_HERE / "report.css").read_text(encoding="utf-8")
    digest = b64encode(sha256(css.encode()).digest()).decode("ascii")
    return _template().render(
        report=report,
        css=Markup(css),
        policy=(
            f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none';"
            " form-action 'none'"
        ),
        name=PurePath(report.root).name or report.root,
        verdict=_verdict(report),
        last_line=last_line(report),
        figures=_figures(report),
        cards=[
            _card(report, finding, index) for index, finding in enumerate(report.findings, start=1)
        ],
        pixel_rows=_pixel_rows(report),
        tile_rows=_tile_rows(report),
        options=[(str(name), _option(value)) for name, value in report.options.items()],
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=_compiled_templates(),
    )
    environment.filters |= {"visible": visible, "number": number, "percent": percent}
    environment.globals |= {
        name: getattr(charts, name) for name in ("swatch", "bar", "stacked_bar", "log_axis")
    } | {"plural": plural}
    return environment.get_template("report.html.j2")


def _compiled_templates() -> BytecodeCache:
    """Return where the compiled template is kept: beside this module's own, as Python keeps it."""
    from jinja2 import FileSystemBytecodeCache

    class CompiledTemplates(FileSystemBytecodeCache):
        def dump_bytecode(self, bucket: Bucket) -> None:
            if not sys.dont_write_bytecode:
                # Where nothing can be written, it is compiled each time.
                with suppress(OSError):
                    super().dump_bytecode(bucket)

    return CompiledTemplates(str(Path(cache_from_source(__file__)).parent), "%s.jinja")


def _verdict(report: Report) -> dict[str, str]:
    counts = count_severities(report.findings)
    summary = f"{verdict_counts(report)}, {plural(counts[Severity.INFO], 'info')}"
    sentence = {
        Status.PASSED: f"No new finding of severity {report.fail_on} or above.",
        Status.FAILED: f"There are new findings of severity {report.fail_on} or above.",
        Status.INCOMPLETE: "Some files could not be looked at, so the verdict is unknown.",
    }[report.status]
    sampled = (
        f" Only {percent(report.summary.looked_at)} of the tiles were looked at."
        if report.summary.looked_at < 1
        else ""
    )
    # Green would say that all is well.
    reserved = report.status is Status.PASSED and leaks_unknown(report)
    leaks = (
        " Leaks between slides or cases were not looked for, since no groups are known (HP710)."
        if leaks_unknown(report)
        else ""
    )
    return {
        "status": str(report.status),
        "look": "reserved" if reserved else str(report.status),
        "counts": summary,
        "sentence": sentence + sampled + leaks,
    }


def _figures(report: Report) -> list[dict[str, str]]:
    summary = report.summary
    of_masks = (
        f"{percent(summary.num_zero_masks / summary.num_masks)} of masks"
        if summary.num_masks
        else ""
    )
    seconds = (
        f"{summary.seconds:,.1f} s" if summary.seconds < 600 else f"{summary.seconds / 60:,.0f} min"
    )
    rows = [
        (
            "Tiles",
            number(summary.num_tiles),
            f"{number(summary.num_reused)} from an earlier run" if summary.num_reused else "",
            "",
        ),
        ("Images", number(summary.num_images), "", ""),
        ("Masks", number(summary.num_masks), "", ""),
        ("Paired masks", number(summary.num_pairs), "", ""),
        (
            "Orphan masks",
            number(summary.num_orphans),
            "no image",
            "bad" if summary.num_orphans else "",
        ),
        ("Zero masks", number(summary.num_zero_masks), of_masks, ""),
        (
            "Unreadable",
            number(summary.num_unreadable),
            "files",
            "bad" if summary.num_unreadable else "",
        ),
        ("Time", seconds, "", ""),
    ]
    return [dict(zip(("name", "value", "note", "tone"), row, strict=True)) for row in rows]


def _card(report: Report, finding: Finding, index: int) -> dict[str, Any]:
    shown: list[dict[str, Any]] = [
        {
            "path": path,
            "detail": detail,
            "thumbnail": report.thumbnails.get((path, finding.rule.mark)),
            "link": _link(report, path) if names_files(finding) else "",
        }
        for path, detail in examples(finding)
    ]
    drawn = [row for row in shown if row["thumbnail"]][:THUMBNAILS_PER_FINDING]
    listed = [row for row in shown if row not in drawn]
    for row, num_rows in zip(listed, _equal_rows([row["detail"] for row in listed]), strict=True):
        row["rows"] = num_rows
    legend = _legend([row["thumbnail"] for row in drawn if isinstance(row["thumbnail"], Thumbnail)])
    return {
        "anchor": f"finding-{index}",
        "finding": finding,
        "amount": amount(finding),
        "cause": _with_code(finding.cause),
        "steps": [(_with_code(words), command) for words, command in steps_of(finding.suggestion)],
        "fix": _FIX_NOTES[finding.rule.fix_safety],
        "open": finding.severity is not Severity.INFO and not finding.known,
        "drawn": drawn,
        "listed": listed,
        "more": finding.count - len(shown),
        "legend": legend[:_MAX_LEGEND],
        "legend_more": len(legend[_MAX_LEGEND:]),
    }


def _link(report: Report, path: str) -> str:
    """Return the address of a file of the data set, relative to the page; "" for what is no name of
    a file.
    """
    file = os.path.join(report.root, path)
    try:
        place = os.fsencode(os.path.relpath(file, report.page_folder or report.workspace))
    except ValueError:
        return ""
    # Never a scheme, whatever the file is called.
    return f"./{quote(place)}"


def _equal_rows(details: Sequence[str]) -> list[int]:
    """Return how many rows, from each on, have the same text; 0 for those that an earlier one
    counts.
    """
    runs: list[int] = []
    for _, run in groupby(details):
        length = len(list(run))
        runs += [length, *[0] * (length - 1)]
    return runs


def _legend(thumbnails: Sequence[Thumbnail]) -> list[LegendEntry]:
    """Return every class of the thumbnails once, by the largest share it has in one of them."""
    largest: dict[str, LegendEntry] = {}
    for entry in sorted(
        (entry for image in thumbnails for entry in image.legend), key=lambda entry: -entry.share
    ):
        largest.setdefault(entry.name, entry)
    return list(largest.values())


def _with_code(text: str) -> Markup:
    parts = _CODE.split(visible(text))  # odd entries are the matches
    pieces = (
        (
            Markup("<code>{}</code>").format(part.strip("`"))
            if index % 2
            else Markup("{}").format(part)
        )
        for index, part in enumerate(parts)
    )
    return Markup("").join(pieces)


def _pixel_rows(report: Report) -> list[dict[str, Any]]:
    shares = charts.share_of(row.pixels for row in report.classes)
    return [
        {
            "row": row,
            "share": share,
            "bar": charts.bar(share, row.colour),
            "dot": charts.log_dot(share, row.colour),
        }
        for row, share in zip(report.classes, shares, strict=True)
    ]


def _tile_rows(report: Report) -> list[dict[str, Any]]:
    longest = max((row.tiles for row in report.classes), default=0) or 1
    return [
        {
            "row": row,
            "kept": percent(row.core_tiles / row.tiles) if row.tiles else "",
            "thin": row.tiles > 3 * row.core_tiles,
            "bar": charts.nested_bars(row.tiles / longest, row.core_tiles / longest, row.colour),
        }
        for row in report.classes
    ]


def _option(value: object) -> str:
    if value is None or value in ("", (), []):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(str(entry) for entry in value)
    return str(value)
