"""One label, whoever reads it: our labels against those of Pillow, OpenCV, tifffile and rasterio,
and the table that says what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import oxipng
import pytest
from audit_cases import DataSet
from mask_files import (
    blobs,
    by_tifffile,
    grey_palette_png,
    greys,
    others_read,
    png_bytes,
    png_chunk,
    saved,
    tiff_bytes,
)
from PIL import Image

from histoprep import imageio
from histoprep.catalogue import all_rules
from histoprep.choices import DepthReading, MinIsWhiteReading, PaletteReading
from histoprep.errors import BrokenFileError, UsageError
from histoprep.imageio.encodings import ENCODINGS, Outcome, as_markdown
from histoprep.mask_reading import UNDECIDED, Reading

RULES = all_rules()

DOCUMENT = Path(__file__).parents[1] / "docs" / "mask-encodings.md"
# Findings that say that readers may return something else.
NAMING = ("HP208", "HP402", "HP413", "HP414", "HP415", "HP416")


@dataclass(frozen=True)
class MaskFile:
    """One file, the suffix it has, and the bits of a value."""

    data: bytes
    suffix: str
    bits: int


def _labels_of(bits: int) -> tuple[tuple[int, ...], ...]:
    top = (1 << min(bits, 16)) - 1
    return (0, 1), (0, 1, top // 3, top), (0, top)


def _files() -> dict[str, MaskFile]:
    """Files of every container, depth, photometric interpretation, palette and sign that there
    is.
    """
    files: dict[str, MaskFile] = {}

    def add(name: str, data: bytes, bits: int, suffix: str = "tif") -> None:
        files[name.replace(" ", "_")] = MaskFile(data, suffix, bits)

    for bits in (1, 2, 3, 4, 5, 7, 8, 9, 12, 14, 16, 24, 32):
        for number, labels in enumerate(_labels_of(bits)):
            truth = blobs(labels)
            for photometric, name in enumerate(("min-is-white", "min-is-black")):
                add(f"tiff {bits} {name} {number}", tiff_bytes(truth, bits, photometric), bits)
            if bits in (1, 2, 4, 8, 16):
                add(f"png {bits} {number}", png_bytes(truth, bits), bits, "png")
    for bits in (8, 16, 32):
        add(f"signed {bits}", tiff_bytes(blobs((0, 1, 100)), bits, sample_format=2), bits)
        add(f"signed {bits} negative", tiff_bytes(blobs((0, 1, -1)), bits, sample_format=2), bits)
        add(
            f"signed {bits} min-is-white", tiff_bytes(blobs((0, 1)), bits, 0, sample_format=2), bits
        )
    for bits in (1, 2, 4, 8):
        count, truth = 1 << bits, blobs(tuple(range(min(1 << bits, 4))))
        palettes = {
            "own greys": range(count),
            "other greys": [(7 * i + 3) % 256 for i in range(count)],
            "reversed": range(count - 1, -1, -1),
        }
        for name, levels in palettes.items():
            add(
                f"png palette {bits} {name}",
                png_bytes(truth, bits, greys(list(levels))),
                bits,
                "png",
            )
            add(
                f"tiff palette {bits} {name}",
                tiff_bytes(truth, bits, 3, colour_map=[level * 257 for level in levels] * 3),
                bits,
            )
        colours = bytes((40 * i + channel) % 256 for i in range(count) for channel in (1, 90, 200))
        add(f"png palette {bits} colours", png_bytes(truth, bits, colours), bits, "png")
        add(
            f"png palette {bits} transparent",
            png_bytes(truth, bits, greys(range(count)), b"\0"),
            bits,
            "png",
        )
        if bits > 1:
            add(f"png palette {bits} short", png_bytes(truth, bits, greys([0, 1])), bits, "png")
    add("tiff palette 16", tiff_bytes(blobs((0, 1)), 16, 3, colour_map=[0] * (3 << 16)), 16)
    for name, array in {
        "bool": blobs((0, 1)).astype(bool),
        "8": blobs((0, 1, 2)).astype(np.uint8),
        "16": blobs((0, 300)).astype(np.uint16),
    }.items():
        for photometric in ("minisblack", "miniswhite"):
            add(
                f"tifffile {name} {photometric}",
                by_tifffile(array, photometric=photometric),
                1 if name == "bool" else int(name),
            )
    add("big-endian 16", tiff_bytes(blobs((0, 1, 300)), 16, order=">"), 16)
    for compression in ("group3", "group4", "packbits", "tiff_lzw", "tiff_adobe_deflate"):
        add(
            f"pillow 1 bit {compression}",
            saved(Image.fromarray(blobs((0, 1)).astype(bool)), "TIFF", compression=compression),
            1,
        )
    for bits, photometric in ((1, 0), (1, 1), (4, 1), (8, 1)):
        add(
            f"tiff {bits} {photometric} from the lowest bit",
            tiff_bytes(blobs((0, 1)), bits, photometric, fill_order=2),
            bits,
        )
    for orientation in (1, 3, 6):
        exif = Image.Exif()
        exif[274] = orientation
        add(
            f"png orientation {orientation}",
            saved(blobs((0, 1), 1).astype(np.uint8), exif=exif),
            8,
            "png",
        )
        turned = by_tifffile(
            blobs((0, 1), 1).astype(np.uint8),
            photometric="minisblack",
            extratags=[(274, 3, 1, orientation, True)],
        )
        add(f"tiff orientation {orientation}", turned, 8)
    for bands in (2, 3):
        data = np.dstack([blobs((0, number + 1)) for number in range(bands)]).astype(np.uint8)
        add(
            f"tiff of {bands} bands",
            by_tifffile(data, photometric="minisblack", planarconfig="contig"),
            8,
        )
    for name, chunk in {
        "sBIT": b"\3",
        "gAMA": bytes([0, 0, 200, 0]),
        "bKGD": b"\0\0",
        "tRNS": b"\0\1",
    }.items():
        plain = png_bytes(blobs((0, 1, 2)), 8)
        add(f"png with {name}", plain[:33] + png_chunk(name.encode(), chunk) + plain[33:], 8, "png")
    add(
        "optimised",
        oxipng.optimize_from_memory(saved(blobs((2, 3, 4)).astype(np.uint8)), level=6),
        8,
        "png",
    )
    return files


FILES = _files()


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The codes that the audit finds for each file, each in a folder of its own."""
    data = DataSet(tmp_path_factory.mktemp("encodings") / "data")
    for name, file in FILES.items():
        data.image(f"{name}/t.jpg")
        data.write(f"{name}/t_mask.{file.suffix}", file.data)
    codes: dict[str, set[str]] = {name: set() for name in FILES}
    for finding in data.audit().findings:
        for path in finding.paths:
            if path.endswith((".png", ".tif")):
                codes[path.split("/")[0]].add(finding.code)
    return codes


def test_what_readers_disagree_on_is_named_and_what_is_not_named_all_read_alike(
    named: dict[str, set[str]],
) -> None:
    disagreeing, agreeing = [], []
    for name, file in FILES.items():
        readings = others_read(file.data, file.bits)
        first = next(iter(readings.values()), None)
        alike = (
            bool(readings)
            and first is not None
            and all(
                value is not None and np.array_equal(value, first) for value in readings.values()
            )
        )
        (agreeing if alike else disagreeing).append(name)
        if not alike:
            assert named[name] & set(NAMING), f"{name}: readers disagree, and the audit is silent"
        if not named[name] & set(NAMING):
            ours = imageio.decode_mask(file.data, imageio.read_header(file.data))
            assert len(readings) >= (4 if file.suffix == "tif" else 3), (
                f"{name}: only {list(readings)} read it"
            )
            for reader, theirs in readings.items():
                np.testing.assert_array_equal(ours, theirs, err_msg=f"{name}: {reader}")
    # Both happen: the comparison is no empty one.
    assert len(disagreeing) > 40 and len(agreeing) > 20


def test_no_reading_is_taken_silently_that_another_reader_does_not_share(
    named: dict[str, set[str]],
) -> None:
    # Decoded without a decision: then stored values, which tifffile and rasterio return, are the
    # labels.
    for name, file in FILES.items():
        try:
            ours = imageio.decode_mask(file.data, imageio.read_header(file.data))
        except BrokenFileError as refused:
            assert refused.verdict.split()[0] in named[name], name
            continue
        if ours.ndim == 2 and ours.dtype.kind == "u" and ours.dtype.itemsize <= 2:
            for reader, theirs in others_read(file.data, file.bits).items():
                if reader in ("tifffile", "rasterio") and theirs is not None:
                    np.testing.assert_array_equal(ours, theirs, err_msg=f"{name}: {reader}")


def test_the_reader_of_a_decision_gets_that_reading() -> None:
    palette = grey_palette_png(blobs((2, 3, 4)))
    header = imageio.read_header(palette)
    np.testing.assert_array_equal(
        imageio.decode_mask(palette, header, Reading(palette=PaletteReading.GREY)), blobs((2, 3, 4))
    )
    np.testing.assert_array_equal(
        imageio.decode_mask(palette, header, Reading(palette=PaletteReading.INDEX)),
        blobs((0, 1, 2)),
    )
    for bits in (1, 2, 4, 8, 16):
        white = tiff_bytes(blobs((0, 1)), bits, 0)
        header, top = imageio.read_header(white), (1 << bits) - 1
        stored, inverted = (
            imageio.decode_mask(white, header, Reading(min_is_white=item))
            for item in MinIsWhiteReading
        )
        np.testing.assert_array_equal(stored, blobs((0, 1)))
        np.testing.assert_array_equal(inverted, top - blobs((0, 1)))
    for bits, wanted, factor in (
        (1, "8", 255),
        (2, "8", 85),
        (4, "8", 17),
        (8, "16", 257),
        (1, "16", 65_535),
        (16, "8", 1),
    ):
        grey = png_bytes(blobs((0, 1)), bits)
        scaled = imageio.decode_mask(
            grey, imageio.read_header(grey), Reading(depth=DepthReading(wanted))
        )
        np.testing.assert_array_equal(scaled, blobs((0, 1)) * factor)


def test_decisions_come_together() -> None:
    one_bit = tiff_bytes(blobs((0, 1)), 1, 0)
    reading = Reading(min_is_white=MinIsWhiteReading.INVERTED, depth=DepthReading.TO_8)
    np.testing.assert_array_equal(
        imageio.decode_mask(one_bit, imageio.read_header(one_bit), reading),
        255 - 255 * blobs((0, 1)),
    )


def test_an_index_beyond_its_palette_is_a_label_where_none_is_wrapped_and_the_user_says_so() -> (
    None
):
    index = Reading(palette=PaletteReading.INDEX)
    whole = png_bytes(blobs((0, 1, 255)), 8, greys([0, 1]))
    np.testing.assert_array_equal(
        imageio.decode_mask(whole, imageio.read_header(whole), index), blobs((0, 1, 255))
    )
    wrapped = png_bytes(blobs((0, 1, 15)), 4, greys([0, 1]))
    for data, reading in (
        (whole, UNDECIDED),
        (whole, Reading(palette=PaletteReading.GREY)),
        (wrapped, UNDECIDED),
        (wrapped, index),
    ):
        with pytest.raises(BrokenFileError) as refused:
            imageio.decode_mask(data, imageio.read_header(data), reading)
        assert (
            refused.value.verdict == "HP415 index-beyond-palette"
            and "of 2 colours" in refused.value.detail
        )


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_negative_labels_are_refused_at_every_depth(bits: int) -> None:
    data = tiff_bytes(blobs((0, 1, -1)), bits, sample_format=2)
    with pytest.raises(BrokenFileError) as refused:
        imageio.decode_mask(data, imageio.read_header(data))
    pixels = int((blobs((0, 1, -1)) == -1).sum())
    assert (
        refused.value.verdict == "HP416 negative-label"
        and f"-1 ({pixels:,} pixels)" in refused.value.detail
    )
    unsigned = tiff_bytes(blobs((0, 1, 200)), bits)
    np.testing.assert_array_equal(
        imageio.decode_mask(unsigned, imageio.read_header(unsigned)), blobs((0, 1, 200))
    )


def test_unsigned_32_bits_above_the_half_are_not_negative() -> None:
    data = tiff_bytes(blobs((0, 1, (1 << 32) - 1)), 32)
    stored = imageio.decode_stored(data, imageio.read_header(data))
    assert stored.max() == (1 << 32) - 1 and stored.min() == 0


def test_what_was_decided_survives_json() -> None:
    reading = Reading(PaletteReading.GREY, MinIsWhiteReading.STORED, DepthReading.TO_16)
    assert Reading.from_json(reading.as_json()) == reading and Reading.from_json({}) == UNDECIDED
    assert UNDECIDED.updated(reading) == reading.updated(UNDECIDED) == reading
    assert reading.updated(Reading(depth=DepthReading.STORED)).depth is DepthReading.STORED
    with pytest.raises(UsageError, match="--palette"):
        Reading.from_json({"palette": "gray"})


def test_the_document_shows_the_table_and_every_option_and_code_of_it_exists() -> None:
    assert as_markdown() in DOCUMENT.read_text("utf-8"), "run: make docs"
    for row in ENCODINGS:
        assert row.outcome is Outcome.LABEL or row.code, row
        assert not row.code or row.code.split()[0] in RULES
