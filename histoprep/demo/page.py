"""The demo's page: what each stage found or made, in thumbnails, as one HTML file that asks for
nothing from outside.

It reads only what the stages wrote; a part whose stage did not run is left out. Safe in the manner
of `report.html`: every name is escaped, and the Content-Security-Policy allows one style sheet, by
its digest, and data thumbnails.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

import histoprep
from histoprep import checksums, report
from histoprep.demo import gallery
from histoprep.demo.curves import Curve, draw_curves, read_curves
from histoprep.demo.stages import CODEC_RUN, LATENTS, MODEL_RUN, SYNTHETIC, DemoOptions, DemoStage
from histoprep.errors import OutputError
from histoprep.phrases import plural
from histoprep.report import ClassRow, charts
from histoprep.report.wording import number, percent
from histoprep.schemas.manifest import Manifest, open_manifest
from histoprep.shards import open_tiles
from histoprep.visible import visible

if TYPE_CHECKING:
    from jinja2 import Template

PAGE = "demo.html"
_MOST_GENERATED = 12
_HERE = Path(__file__).parent
_REPORT_FOLDER = Path(report.__file__).parent
_CODEC_COLUMNS = {
    "pixel": ("pixel error, training", "first"),
    "val_pixel": ("pixel error, held out", "second"),
}
_MODEL_COLUMNS = {
    "loss": ("loss, training", "first"),
    "val_loss": ("loss with masks, held out", "second"),
    "val_loss_null": ("loss without masks, held out", "third"),
}


def write_page(options: DemoOptions, stages: Sequence[DemoStage], notes: Mapping[str, Any]) -> Path:
    """Write the page into the workspace and return its path; `notes` are those of the ledger.
    Raises OutputError.
    """
    path = options.workspace / PAGE
    try:
        checksums.publish_file(path.parent, path.name, render_page(options, stages, notes))
    except OSError as error:
        raise OutputError.from_os_error(error, path) from error
    return path


def render_page(options: DemoOptions, stages: Sequence[DemoStage], notes: Mapping[str, Any]) -> str:
    """Return the page's text."""
    work = options.workspace
    manifest = open_manifest(options.manifest)
    css = "".join(
        (folder / name).read_text("utf-8")
        for folder, name in ((_REPORT_FOLDER, "report.css"), (_HERE, "page.css"))
    )
    digest = b64encode(sha256(css.encode()).digest()).decode("ascii")
    summary = _read_json(work / "summary.json") or {}
    generated = gallery.generated_tiles(
        open_tiles(options.manifest), work / SYNTHETIC, _MOST_GENERATED
    )
    return _template().render(
        css=Markup(css),
        policy=(
            f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none';"
            " form-action 'none'"
        ),
        name=options.data.resolve().name,
        root=str(options.data.resolve()),
        version=histoprep.__version__,
        steps=_steps(stages, notes),
        figures=_figures(summary, manifest, work, len(generated)),
        findings=_findings(summary, options, manifest),
        last_line=summary.get("last_line", ""),
        repaired=gallery.sheet_uri(work / "repaired" / "contact-sheets" / "most-changed.png"),
        classes=_classes(_read_json(work / "stats.json")),
        split=_split(manifest),
        codec=_codec(work),
        model=_model(work),
        generated=generated,
        sheet=None if generated else _last_sheet(work / MODEL_RUN / "samples"),
        legend=manifest.label_map.classes,
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
    )
    environment.filters |= {"visible": visible, "number": number, "percent": percent}
    environment.globals |= {
        "swatch": charts.swatch,
        "bar": charts.bar,
        "stacked_bar": charts.stacked_bar,
        "plural": plural,
    }
    return environment.get_template("page.html.j2")


def _steps(stages: Sequence[DemoStage], notes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"stage": stage, "seconds": notes.get(stage.name, {}).get("seconds")} for stage in stages
    ]


def _figures(
    summary: Mapping[str, Any], manifest: Manifest, work: Path, num_generated: int
) -> list[tuple[str, str, str]]:
    """Return (name, value, note) of what the page is about, in short."""
    counts, splits = summary.get("counts", {}), manifest.certificate["splits"]
    quality = (
        (_read_json(work / LATENTS / "reconstruction.json") or {}).get("psnr_db", {}).get("mean")
    )
    parts = " + ".join(f"{number(split['tiles'])} {name}" for name, split in splits.items())
    rows = [
        ("Tiles", number(len(manifest)), parts),
        ("Left out", number(sum(manifest.excluded.values())), "with the reason"),
        (
            "Errors found",
            number(counts.get("errors", 0)),
            f"{plural(counts.get('warnings', 0), 'warning')}",
        ),
        ("Shared groups", number(manifest.certificate["shared_groups"]), "between splits"),
        ("Codec", f"{quality:.1f} dB" if quality else "", "PSNR of reconstructions"),
        ("Generated", number(num_generated) if num_generated else "", "tiles for unseen masks"),
    ]
    return [row for row in rows if row[1]]


def _findings(
    summary: Mapping[str, Any], options: DemoOptions, manifest: Manifest
) -> list[dict[str, Any]]:
    listed = summary.get("findings", [])
    drawn = gallery.finding_thumbnails(
        listed, options.data, options.workspace / "tiles.parquet", manifest.label_map
    )
    # A tile that several findings name is drawn once.
    return [
        {
            **row,
            "example": next(iter(row["examples"]), None),
            "thumbnail": drawn.pop(_first_path(row), None),
        }
        for row in listed
    ]


def _first_path(finding: Mapping[str, Any]) -> str:
    return str(finding["examples"][0]["path"]) if finding["examples"] else ""


def _classes(stats: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    mapped = (stats or {}).get("mapped") or (stats or {}).get("raw")
    return list(mapped["classes"]) if mapped else []


def _split(manifest: Manifest) -> dict[str, Any]:
    """Return the certificate with a bar of tiles by class for each split."""
    certificate = manifest.certificate
    rows = [ClassRow(cls.id, cls.name, cls.colour, 0, 0, 0) for cls in manifest.label_map.classes]
    table = manifest.read(["split", "class_pixels"])
    pixels: dict[str, list[int]] = {}
    for split, of_tile in zip(
        table["split"].to_pylist(), table["class_pixels"].to_pylist(), strict=True
    ):
        pixels[split] = [
            a + b for a, b in zip(pixels.get(split, [0] * len(rows)), of_tile, strict=True)
        ]
    bars = {
        name: (
            charts.stacked_bar(dict(zip((row.id for row in rows), counts, strict=True)), rows)
            if any(counts)
            else Markup("")
        )
        for name, counts in pixels.items()
    }
    names = [name for name in ("train", "val", "test") if name in certificate["splits"]]
    return {
        **certificate,
        "rows": [(name, certificate["splits"][name], bars.get(name, "")) for name in names],
        "recipe": manifest.recipe,
    }


def _codec(work: Path) -> dict[str, Any] | None:
    numbers = _read_json(work / LATENTS / "reconstruction.json")
    if numbers is None:
        return None
    curves = read_curves(work / CODEC_RUN / "metrics.csv", _CODEC_COLUMNS)
    return {
        "numbers": numbers,
        "sheet": gallery.sheet_uri(work / LATENTS / "reconstruction.png"),
        **_chart(curves, "Error of the codec by step"),
    }


def _model(work: Path) -> dict[str, Any] | None:
    curves = read_curves(work / MODEL_RUN / "metrics.csv", _MODEL_COLUMNS)
    return _chart(curves, "Loss of the diffusion model by step") if curves else None


def _chart(curves: Sequence[Curve], what: str) -> dict[str, Any]:
    return {
        "chart": draw_curves(curves, what),
        "curves": [(curve, curve.points[0][1], curve.points[-1][1]) for curve in curves],
    }


def _last_sheet(folder: Path) -> str | None:
    sheets = sorted(folder.glob("*-mask-tile-generated.png"))
    return gallery.sheet_uri(sheets[-1]) if sheets else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
