"""Small data sets of real files and of words, for tests of what the audit says of them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from advice import problems_of
from PIL import Image
from tile_rows import write_tiles

from histoprep import audit, imageio, tables
from histoprep.auditing import AuditOptions
from histoprep.auditing.evidence import gather, run_rules
from histoprep.auditing.sources import Sources
from histoprep.checks import CheckOptions
from histoprep.choices import Severity
from histoprep.execution import Engine
from histoprep.findings import Finding, in_order
from histoprep.report import Report
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import TileOptions
from histoprep.tiles.table import TableOptions

SIDE_PX = 96
Found = dict[str, dict[str, str]]


def tissue(seed: int, side_px: int = SIDE_PX) -> np.ndarray:
    """Return RGB [side, side, 3] uint8 of no tissue in particular, unlike that of any other
    seed.
    """
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(
        rng.uniform(40, 200, (9, 9, 3)).astype(np.float32),
        (side_px, side_px),
        interpolation=cv2.INTER_CUBIC,
    )
    return np.clip(coarse + rng.normal(0, 12, (side_px, side_px, 3)), 0, 255).astype(np.uint8)


def stripes(*labels: int, side_px: int = SIDE_PX, dtype: type = np.uint8) -> np.ndarray:
    """Return a mask [side, side] of upright stripes, one a label, none of them thin."""
    column = np.repeat(labels, -(-side_px // len(labels)))[:side_px]
    return np.ascontiguousarray(np.broadcast_to(column.astype(dtype), (side_px, side_px)))


def image_bytes(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image as Pillow writes it."""
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(
        stream, kind, **options
    )
    return stream.getvalue()


class DataSet:
    """A folder to be filled with tiles and audited."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._next_seed = 0

    def write(self, name: str, data: bytes) -> None:
        """Write one file, with its folders."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def image(
        self,
        name: str,
        pixels: np.ndarray | None = None,
        quality: int = 90,
        subsampling: str = "4:2:0",
    ) -> None:
        """Write an image, JPEG unless its name ends with .png; by default one that was never
        seen.
        """
        if pixels is None:
            self._next_seed += 1
            pixels = tissue(self._next_seed)
        encoded = (
            imageio.encode_rgb_png(pixels)
            if name.endswith(".png")
            else imageio.encode_rgb_jpeg(pixels, quality, subsampling)
        )
        self.write(name, encoded)

    def mask(self, name: str, labels: np.ndarray | None = None) -> None:
        """Write a class map as PNG; by default one with nothing wrong in it."""
        self.write(name, imageio.encode_mask_png(stripes(0, 1, 2) if labels is None else labels))

    def pair(
        self,
        stem: str,
        labels: np.ndarray | None = None,
        pixels: np.ndarray | None = None,
        **options: Any,
    ) -> None:
        """Write an image and its mask beside it."""
        self.image(f"{stem}.jpg", pixels, **options)
        self.mask(f"{stem}_mask.png", labels)

    def pairs(self, number: int, prefix: str = "fine") -> None:
        """Write several clean pairs."""
        for index in range(number):
            self.pair(f"{prefix}{index:02}")

    def audit(
        self,
        *,
        tile_options: TileOptions | None = None,
        scan: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Report:
        """Return the report on the folder, made with one worker."""
        from histoprep.scanning import ScanOptions

        label_map = options.pop("label_map", None)
        table = TableOptions(
            ScanOptions(**(scan or {})),
            tile_options or TileOptions(),
            sample=options.pop("sample", None),
        )
        report = audit(
            self.root,
            workers=1,
            label_map=label_map,
            options=AuditOptions(table=table, **options),
        )
        check_advice(report.findings)
        return report


def check_advice(found: Iterable[Finding]) -> None:
    """Hold the advice of findings to what `advice.py` says."""
    for item in found:
        assert not problems_of(item.suggestion), (item.code, item.subcode, item.suggestion)


def by_code(found: Iterable[Finding]) -> Found:
    """Return path and detail of everything found, by code and subcode; each may stand there only
    once.
    """
    sorted_out: Found = {}
    for item in found:
        assert item.count == len(item.paths) == len(item.details) > 0
        assert not item.denominator or item.count <= item.denominator, item.code
        listed = list(zip(item.paths, item.details, strict=True))
        assert listed == in_order(listed)
        key = f"{item.code} {item.subcode}".strip() + (f" in {item.where}" if item.where else "")
        assert key not in sorted_out
        sorted_out[key] = dict(zip(item.paths, item.details, strict=True))
        assert len(sorted_out[key]) == item.count, f"{key} names a path twice"
    return sorted_out


def faults(found: Iterable[Finding]) -> Found:
    """Return what `by_code` does, infos left out."""
    return by_code(finding for finding in found if finding.severity is not Severity.INFO)


def findings_of_rows(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    *,
    label_map: Path | None = None,
    issues: Iterable[tuple[str, str, str]] = (),
    expected: Mapping[str, Any] | None = None,
    options: CheckOptions | None = None,
) -> list[Finding]:
    """Return the findings about a tiles table made of words; no file is read."""
    workspace = Workspace(folder / "data", folder / "data.histoprep")
    workspace.root.mkdir(parents=True, exist_ok=True)
    write_tiles(workspace.tiles, [dict(row) for row in rows], workspace.root)
    schema = pa.schema([("kind", pa.string()), ("path", pa.string()), ("detail", pa.string())])
    listed = pa.Table.from_pylist(
        [dict(zip(schema.names, issue, strict=True)) for issue in issues], schema=schema
    )
    tables.write_table(
        workspace.listing_issues,
        [listed],
        schema,
        kind="listing-issues",
        schema_version="1.0",
        metadata={},
    )
    sources = Sources.of(label_map, expected, **asdict(options or CheckOptions()))
    found = run_rules(workspace, gather(workspace, sources, Engine(1)))
    check_advice(found)
    return found


SKIN_MAP = """\
name: two
sources:
  0: unknown
  1: dermis
  2: dermis, scar
  3: tumour
classes:
  0: {name: Unknown, colour: "#999999"}
  1: {name: Tissue, colour: "#d55e00"}
  2: {name: Tumour, colour: "#000000"}
map:
  unknown: Unknown
  dermis: Tissue
  dermis, scar: Tissue
  tumour: Tumour
"""


def write_map(folder: Path, text: str = SKIN_MAP) -> Path:
    """Write a label map and return its path."""
    path = folder / "two.yml"
    path.write_text(text)
    return path
