"""HP3: the image itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from histoprep import rule_ids
from histoprep.checks import Chunk, Evidence, flag, rows_of, true
from histoprep.checks.commands import exclude, fix
from histoprep.checks.registry import row_rule, table_rule
from histoprep.choices import Severity
from histoprep.findings import Finding, FixSafety, Rule, Scope, finding
from histoprep.image_formats import Compression, Holds, image_formats, titles
from histoprep.phrases import plural

if TYPE_CHECKING:
    import pandas as pd

    from histoprep.tiles.exif_fit import ExifFit


WRONG_SIZE = Rule(
    "HP301",
    "wrong-size",
    Severity.ERROR,
    Scope.TILE,
    definition=(
        "The image size differs from --tile-size or, if that is not set, from the most common size."
    ),
    cause="Tiles from the edge of a slide were not padded, or two exports were mixed.",
    suggestion=(
        "Crop or pad them, train with an option that crops, or say with --tile-size which size is"
        f" right. To leave these tiles out: {exclude('HP301')}"
    ),
)
WRONG_MODE = Rule(
    "HP302",
    "wrong-mode",
    Severity.ERROR,
    Scope.TILE,
    definition="The image is not 8-bit RGB.",
    cause="It was saved as grayscale or CMYK, with transparency, with 16 bits or with a palette.",
    suggestion=(
        "No command can make up colours: convert it to 8-bit RGB at the source. To leave these"
        f" tiles out: {exclude('HP302')}"
    ),
)
BLANK_IMAGE = Rule(
    "HP303",
    "blank-image",
    Severity.WARNING,
    Scope.TILE,
    definition="The image is nearly constant, or glass covers more than 95 % of it.",
    cause="Tiles were extracted without a tissue mask.",
    suggestion=(
        f"A model would learn to generate glass. To leave these tiles out: {exclude('HP303')}"
    ),
)
BLURRY_IMAGE = Rule(
    "HP304",
    "blurry-image",
    Severity.INFO,
    Scope.TILE,
    definition="The focus score is far below those of the other tiles of its source.",
    cause="The scanner missed the focus there, or the tissue is folded.",
    suggestion=f"Check the examples. To leave these tiles out: {exclude('HP304')}",
)
COMPRESSION_DRIFT = Rule(
    "HP308",
    "compression-drift",
    Severity.WARNING,
    Scope.SOURCE,
    definition=(
        "JPEG quality or subsampling differs between sources, or predicts the image-level class."
    ),
    cause=(
        "Sources were exported with different settings; a model can learn the settings "
        "instead of the tissue."
    ),
    suggestion=(
        "No command can help: export all sources from the slides again, with the same settings."
    ),
)
EXIF_ORIENTATION = Rule(
    "HP309",
    "exif-orientation",
    Severity.WARNING,
    Scope.TILE,
    definition=(
        "The orientation tag is 2 to 8: some readers rotate or flip the image, but not its mask."
    ),
    cause="The image was edited in a photo application.",
    suggestion=(
        "Look at some of them beside their masks. If masks fit the pixels as stored, which is how"
        f" histoprep reads them: {fix('--only orientation=drop')}; or, if they fit the turned"
        f" image: {fix('--only orientation=apply')}"
    ),
    fix_safety=FixSafety.SAFE,
)

# Standard deviation of 8-bit luminance at 1/8 size below which a tile shows nothing.
BLANK_CONTRAST = 2.0
MAX_BACKGROUND_SHARE = 0.95
# A tile is blurry this many robust standard deviations below the log focus of its source.
BLUR_DEVIATIONS = 4.0
# And so much less than usual: in a source of much alike tiles small differences are no blur.
BLUR_MAX_SHARE = 0.5
BLUR_MIN_TILES = 30
MAD_TO_DEVIATION = 1.4826
# Below one squared grey value the focus score is rounding noise.
MIN_FOCUS = 1.0
# A size is the right one when at least this share of the images has it.
DOMINANT_SHARE = 0.5
# Settings that differ by less than this are the same camera and software at work.
DRIFT_QUALITY_STEPS = 3
CLASS_ASSOCIATION = 0.5
CLASS_MIN_TILES = 30
_MODE_SUBCODES = {
    "L": "grayscale", "1": "grayscale", "LA": "alpha", "RGBA": "alpha", "PA": "alpha",
    "CMYK": "cmyk", "P": "palette",
    "I;16": "sixteen-bit", "I;16B": "sixteen-bit", "I;16L": "sixteen-bit", "I": "sixteen-bit",
    "RGB": "sixteen-bit", "F": "float",
}  # fmt: skip
_OF_ONE_CHANNEL = frozenset({"grayscale", "sixteen-bit", "float", "palette"})
_ONE_CHANNEL = (
    "If these are photographs, save them as 8-bit RGB at the source. If they are masks or"
    " probability maps, they do not belong among the images: name their images in a table"
    f" (--pairs), or put them into a folder outside. To leave them out: {exclude('HP302')}"
)


@table_rule(WRONG_SIZE)
def wrong_size(evidence: Evidence) -> Iterator[Finding]:
    """Yield images that are not of the declared size or, without one, of the size that at least
    half of them have.

    Where no size is that common none is right or wrong: one finding says so of all images.
    """
    images = evidence.images[["image_path", "width_px", "height_px"]]
    images = rows_of(images, images.width_px.notna())
    if images.empty:
        return
    if evidence.options.tile_size_px:
        (width, height), expected = evidence.options.tile_size_px, "declared"
    else:
        sizes = images.groupby(["width_px", "height_px"]).size()
        width, height = sizes.index[int(sizes.to_numpy().argmax())]
        expected = "most tiles"
        if sizes.max() < DOMINANT_SHARE * len(images):
            yield from _no_common_size(images, len(sizes))
            return
    chosen = (images.width_px != width) | (images.height_px != height)
    detail = f"{{width_px}}x{{height_px}}, {expected} {width}x{height}"
    yield from flag(
        WRONG_SIZE, images, chosen, "image_path", detail, denominator=len(images), unit="images"
    )


def _no_common_size(images: pd.DataFrame, num_sizes: int) -> Iterator[Finding]:
    yield from flag(
        WRONG_SIZE, images, images.width_px.notna(), "image_path", "{width_px}x{height_px}",
        denominator=len(images), unit="images",
        subcode="no-common-size",
        cause=f"There are {num_sizes:,} sizes, and none is that of half of the images.",
        suggestion=(
            "No command can help: cut all tiles to one size, or say with --tile-size of histoprep"
            " audit which one is right."
        ),
    )  # fmt: skip


@row_rule(WRONG_MODE)
def wrong_mode(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield images that are not 8-bit RGB, by the kind of mode."""
    tiles = chunk.tiles
    wrong = tiles.image_mode.notna() & ((tiles.image_mode != "RGB") | (tiles.image_bit_depth != 8))
    # A mask among the images is no image of a wrong mode.
    is_mask = tiles.image_error.str.startswith(rule_ids.LABEL_LIKE_IMAGE.code).fillna(False)
    is_mask |= tiles.image_path.isin(evidence.companion_paths)
    modes = tiles.image_mode.where(wrong & ~is_mask)
    for mode in modes.dropna().unique():
        subcode, detail = (
            _MODE_SUBCODES.get(mode, "other"),
            "{image_mode}, {image_bit_depth} bits a channel",
        )
        yield from flag(
            WRONG_MODE,
            tiles,
            modes == mode,
            "image_path",
            detail,
            denominator=evidence.amounts.images,
            unit="images",
            subcode=subcode,
            suggestion=_ONE_CHANNEL if subcode in _OF_ONE_CHANNEL else "",
        )


@row_rule(BLANK_IMAGE)
def blank(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield tiles that show nothing."""
    tiles = chunk.tiles
    chosen = (tiles.contrast < BLANK_CONTRAST) | (tiles.background_share > MAX_BACKGROUND_SHARE)
    detail = "{background_share:.0%} glass, contrast {contrast:.1f} of 255"
    yield from flag(
        BLANK_IMAGE,
        tiles,
        chosen,
        "image_path",
        detail,
        denominator=evidence.amounts.images,
        unit="images",
    )


@table_rule(BLURRY_IMAGE)
def blurry(evidence: Evidence) -> Iterator[Finding]:
    """Yield tiles whose log focus is far below the median of their source, in robust standard
    deviations, and less than half of it.

    Blank tiles are no measure of focus and are left out; a source needs `BLUR_MIN_TILES` others.
    """
    import pandas as pd

    images = evidence.images
    shows_tissue = (images.contrast >= BLANK_CONTRAST) & (
        images.background_share.fillna(0) <= MAX_BACKGROUND_SHARE
    )
    images = images[["image_path", "focus", "source"]]
    images = rows_of(images, shows_tissue & images.focus.notna())
    log_focus = pd.Series(
        np.log(images.focus.astype(float).clip(lower=MIN_FOCUS).to_numpy()), index=images.index
    )
    by_source = log_focus.groupby(images.source)
    median = by_source.transform("median")
    deviation = MAD_TO_DEVIATION * (log_focus - median).abs().groupby(images.source).transform(
        "median"
    )
    chosen = (
        (log_focus < median - BLUR_DEVIATIONS * deviation)
        & (log_focus < median + np.log(BLUR_MAX_SHARE))
        & (deviation > 0)
        & (by_source.transform("size") >= BLUR_MIN_TILES)
    )
    shown = images.assign(usual=np.exp(median))
    detail = "focus {focus:.0f}, median of its source {usual:.0f}"
    yield from flag(
        BLURRY_IMAGE, shown, chosen, "image_path", detail, denominator=len(images), unit="images"
    )


@table_rule(COMPRESSION_DRIFT)
def compression_drift(evidence: Evidence) -> Iterator[Finding]:
    """Yield sources whose JPEG settings differ from most, and settings that give the class away."""
    images = rows_of(evidence.images, evidence.images.image_format.notna())
    quality = (
        "JPEG quality "
        + images.jpeg_quality.astype("string")
        + ", "
        + images.jpeg_subsampling.fillna("no chroma")
    )
    other = images.image_format.map(_format_words()).astype("string")
    settings = quality.fillna(other)
    yield from _drifted_sources(images, settings)
    yield from _telling_settings(images, settings)


def _format_words() -> dict[str, str]:
    """Return what each format is called beside JPEG settings: lossless ones alike."""
    formats = image_formats()
    lossless = [
        image_format
        for image_format in formats
        if image_format.compression is Compression.LOSSLESS
        and image_format.holds is Holds.IMAGES_AND_MASKS
    ]
    words = {image_format.name: image_format.title for image_format in formats}
    return words | dict.fromkeys((image_format.name for image_format in lossless), titles(lossless))


def _drifted_sources(images: pd.DataFrame, settings: pd.Series) -> Iterator[Finding]:
    """Yield the sources whose most common settings are not those of most sources (of most images
    when that is even).
    """
    import pandas as pd

    usual = pd.DataFrame({
        "source": images.source, "settings": settings,
        "quality": images.jpeg_quality.astype("Float64"), "chroma": images.jpeg_subsampling,
    })  # fmt: skip
    groups = usual.groupby(["source", "settings"], as_index=False)
    sizes = groups.agg(
        size=("settings", "size"), quality=("quality", "first"), chroma=("chroma", "first")
    )
    by_source = (
        sizes.sort_values(["size", "settings"], ascending=[False, True])
        .drop_duplicates("source")
        .sort_values("source")
    )
    if len(by_source) < 2:
        return
    rank = (
        by_source.groupby("settings")
        .agg(sources=("size", "size"), images=("size", "sum"))
        .sort_values(["sources", "images"], ascending=False)
    )
    common = by_source[by_source.settings == rank.index[0]].iloc[0]
    near = (
        (by_source.quality - common.quality).abs() < DRIFT_QUALITY_STEPS
        if pd.notna(common.quality)
        else by_source.quality.isna() & False
    )
    same_chroma = by_source.chroma.fillna("") == (common.chroma if pd.notna(common.chroma) else "")
    alike = true(by_source.settings == common.settings) | true(near & same_chroma)
    detail = f"{{settings}}; most sources {common.settings}"
    yield from flag(
        COMPRESSION_DRIFT,
        by_source,
        ~alike,
        "source",
        detail,
        denominator=len(by_source),
        unit="sources",
        subcode="between-sources",
    )


def _telling_settings(images: pd.DataFrame, settings: pd.Series) -> Iterator[Finding]:
    import pandas as pd

    labelled = images.label.notna()
    if labelled.sum() < CLASS_MIN_TILES:
        return
    table = pd.crosstab(images.label[labelled], settings[labelled])
    strength = cramers_v(table.to_numpy())
    if strength > CLASS_ASSOCIATION:
        usual, share = table.idxmax(axis=1), table.max(axis=1) / table.sum(axis=1)
        items = [
            (str(label), f"mostly {usual[label]} ({share[label]:.0%})") for label in table.index
        ]
        cause = (
            f"File settings tell the class (Cramer's V {strength:.2f}, 1 is certainty): classes"
            " were exported separately."
        )
        yield finding(
            COMPRESSION_DRIFT,
            items,
            denominator=len(table),
            unit="classes",
            subcode="predicts-class",
            cause=cause,
        )


def cramers_v(table: np.ndarray) -> float:
    """Return the association of two categories in [0, 1] from their counts [rows, columns], free of
    the bias of small samples.

    V = sqrt(phi^2 / (min(rows, columns) - 1)) with phi^2 = chi^2 / n, each corrected for what
    independent categories would give. Source: W. Bergsma, J. Korean Stat. Soc. 42 (2013) 323,
    equations 5 to 7.
    """
    total = table.sum()
    if total < 2 or min(table.shape) < 2:
        return 0.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / total
    phi_squared = ((table - expected) ** 2 / np.where(expected > 0, expected, 1)).sum() / total
    rows, columns = table.shape
    by_chance = (rows - 1) * (columns - 1) / (total - 1)
    corrected = [size - (size - 1) ** 2 / (total - 1) for size in (rows, columns)]
    smaller = min(corrected) - 1
    return float(np.sqrt(max(0.0, phi_squared - by_chance) / smaller)) if smaller > 0 else 0.0


@row_rule(EXIF_ORIENTATION)
def turned(chunk: Chunk, evidence: Evidence) -> Iterator[Finding]:
    """Yield images that some readers turn by their EXIF orientation."""
    tiles = chunk.tiles
    # Readers ignore what the standard does not define.
    chosen = tiles.exif_orientation.between(2, 8)
    yield from flag(
        EXIF_ORIENTATION,
        tiles,
        chosen,
        "image_path",
        "orientation {exif_orientation}",
        denominator=evidence.amounts.images,
        unit="images",
        suggestion=_orientation_advice(evidence.exif_fit),
    )


def _orientation_advice(fit_of_masks: ExifFit) -> str:
    """Return which of both ways masks call for; "" where it is not known."""
    is_turned = fit_of_masks.fits_turned
    if is_turned is None:
        return ""
    number = plural(fit_of_masks.num_tiles, "tile")
    if is_turned:
        return (
            f"The masks fit the images as readers turn them (by {number}), and histoprep reads"
            f" pixels as stored. A copy with turned pixels: {fix('--only orientation=apply')}"
        )
    return (
        f"The masks fit the pixels as stored (by {number}), which is how histoprep reads them. A"
        f" copy without the tag, for other readers: {fix('--only orientation=drop')}"
    )
