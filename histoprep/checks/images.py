"""HP3: the image itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from histoprep.catalogue import RULES
from histoprep.checks import Chunk, Evidence, flag, row_rule, table_rule
from histoprep.findings import Finding, finding

# Standard deviation of 8-bit luminance at 1/8 size below which a tile shows nothing.
BLANK_CONTRAST = 2.0
MAX_BACKGROUND_SHARE = 0.95
# A tile is blurry this many robust standard deviations below the log focus of its source.
BLUR_DEVIATIONS = 4.0
BLUR_MIN_TILES = 30
MAD_TO_DEVIATION = 1.4826
# Settings that differ by less than this are the same camera and software at work.
DRIFT_QUALITY_STEPS = 3
CLASS_ASSOCIATION = 0.5
CLASS_MIN_TILES = 30
_MODE_SUBCODES = {
    "L": "grayscale", "1": "grayscale", "LA": "alpha", "RGBA": "alpha", "PA": "alpha", "CMYK": "cmyk", "P": "palette",
    "I;16": "sixteen-bit", "I;16B": "sixteen-bit", "I": "sixteen-bit", "F": "float",
}  # fmt: skip


@table_rule("HP301")
def wrong_size(evidence: Evidence) -> Iterator[Finding]:
    """Yield images that are not of the declared size, or of the most common one."""
    images = evidence.images[evidence.images.width_px.notna()]
    if images.empty:
        return
    if evidence.options.tile_size_px:
        width, height = evidence.options.tile_size_px
        expected = "declared"
    else:
        width, height = images.groupby(["width_px", "height_px"]).size().idxmax()
        expected = "most tiles"
    chosen = (images.width_px != width) | (images.height_px != height)
    detail = f"{{width_px}}x{{height_px}}, {expected} {width}x{height}"
    yield from flag("HP301", images, chosen, "image_path", detail, denominator=len(images), unit="images")


@row_rule("HP302")
def wrong_mode(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield images that are not 8-bit RGB, by the kind of mode."""
    tiles = chunk.tiles
    subcodes = tiles.image_mode.map(lambda mode: _MODE_SUBCODES.get(mode, "other"), na_action="ignore")
    subcodes = subcodes.mask(tiles.image_bit_depth > 8, "sixteen-bit")
    wrong = tiles.image_mode.notna() & ((tiles.image_mode != "RGB") | (tiles.image_bit_depth != 8))
    for subcode in subcodes[wrong.fillna(False)].unique():
        chosen = wrong & (subcodes == subcode)
        detail = "{image_mode}, {image_bit_depth} bits a channel"
        yield from flag("HP302", tiles, chosen, "image_path", detail, denominator=evidence.amounts.images, unit="images", subcode=subcode)


@row_rule("HP303")
def blank(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield tiles that show nothing."""
    tiles = chunk.tiles
    chosen = (tiles.contrast < BLANK_CONTRAST) | (tiles.background_share > MAX_BACKGROUND_SHARE)
    detail = "{background_share:.0%} glass, contrast {contrast:.1f} of 255"
    yield from flag("HP303", tiles, chosen, "image_path", detail, denominator=evidence.amounts.images, unit="images")


@table_rule("HP304")
def blurry(evidence: Evidence) -> Iterator[Finding]:
    """Yield tiles whose log focus is far below the median of their source, in robust standard deviations.

    Blank tiles are no measure of focus and are left out; a source needs `BLUR_MIN_TILES` others.
    """
    images = evidence.images
    images = images[(images.contrast >= BLANK_CONTRAST) & (images.focus > 0)]
    log_focus = np.log(images.focus.astype(float))
    by_source = log_focus.groupby(images.source)
    median = by_source.transform("median")
    deviation = MAD_TO_DEVIATION * (log_focus - median).abs().groupby(images.source).transform("median")
    chosen = (log_focus < median - BLUR_DEVIATIONS * deviation) & (deviation > 0) & (by_source.transform("size") >= BLUR_MIN_TILES)
    shown = images.assign(usual=np.exp(median))
    yield from flag("HP304", shown, chosen, "image_path", "focus {focus:.0f}, its source {usual:.0f}", denominator=len(images), unit="images")


@table_rule("HP308")
def compression_drift(evidence: Evidence) -> Iterator[Finding]:
    """Yield sources whose JPEG settings differ from most, and settings that give the class away."""
    images = evidence.images[evidence.images.image_format.notna()]
    settings = images.image_format.astype(str).mask(
        images.jpeg_quality.notna(), "JPEG quality " + images.jpeg_quality.astype(str) + ", " + images.jpeg_subsampling.fillna("").astype(str)
    )
    yield from _drifted_sources(images, settings)
    yield from _telling_settings(images, settings)


def _drifted_sources(images: pd.DataFrame, settings: pd.Series) -> Iterator[Finding]:
    usual = pd.DataFrame({"source": images.source, "settings": settings, "quality": images.jpeg_quality, "chroma": images.jpeg_subsampling})
    by_source = usual.groupby("source").agg(lambda values: values.mode().iloc[0] if values.notna().any() else None).reset_index()
    if len(by_source) < 2:
        return
    common = by_source.loc[by_source.settings == by_source.settings.mode().iloc[0]].iloc[0]
    far = (by_source.quality.astype("Float64") - float(common.quality)).abs() >= DRIFT_QUALITY_STEPS if pd.notna(common.quality) else by_source.quality.notna()
    chosen = far.fillna(True) | (by_source.chroma.fillna("") != (common.chroma if pd.notna(common.chroma) else ""))
    detail = f"{{settings}}; most sources {common.settings}"
    yield from flag("HP308", by_source, chosen, "source", detail, denominator=len(by_source), unit="sources", subcode="between-sources")


def _telling_settings(images: pd.DataFrame, settings: pd.Series) -> Iterator[Finding]:
    labelled = images.label.notna()
    if labelled.sum() < CLASS_MIN_TILES:
        return
    table = pd.crosstab(images.label[labelled], settings[labelled])
    strength = cramers_v(table.to_numpy())
    if min(table.shape) > 1 and strength > CLASS_ASSOCIATION:
        items = [(str(label), f"mostly {row.idxmax()} ({row.max() / row.sum():.0%})") for label, row in table.iterrows()]
        cause = f"File settings tell the class (Cramer's V {strength:.2f}, 1 is certainty): classes were exported separately."
        yield finding(RULES["HP308"], items, denominator=len(table), unit="classes", subcode="predicts-class", cause=cause)


def cramers_v(table: np.ndarray) -> float:
    """Return the association of two categories in [0, 1] from their counts [rows, columns].

    V = sqrt(chi^2 / (n (min(rows, columns) - 1))). Source: H. Cramer, Mathematical Methods of Statistics, 1946.
    """
    total = table.sum()
    smaller = min(table.shape) - 1
    if not total or smaller < 1:
        return 0.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / total
    chi_squared = ((table - expected) ** 2 / np.where(expected > 0, expected, 1)).sum()
    return float(np.sqrt(chi_squared / (total * smaller)))


@row_rule("HP309")
def turned(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield images that some readers turn by their EXIF orientation."""
    tiles = chunk.tiles
    chosen = tiles.exif_orientation.notna() & (tiles.exif_orientation != 1)
    yield from flag("HP309", tiles, chosen, "image_path", "orientation {exif_orientation}", denominator=evidence.amounts.images, unit="images")
