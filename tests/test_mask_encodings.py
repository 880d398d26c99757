"""Masks of every encoding through the whole chain: the true classes come out, or the file is
refused with its cause.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mask_encodings import (
    COLOURS,
    ENCODINGS,
    FEW,
    MaskEncoding,
    Outcome,
    anti_aliased,
    coloured,
    npy,
    npz,
    opencv,
    paletted,
    pillow,
    regions,
    tiff,
    tile_of,
    with_alpha,
    write_masks,
)
from mask_files import png_chunk
from PIL import Image

from histoprep import imageio
from histoprep.choices import PaletteReading, RgbReading
from histoprep.cli import main
from histoprep.errors import BrokenFileError, ExitCode, UsageError
from histoprep.mask_reading import Reading
from histoprep.schemas.workspace import Workspace
from histoprep.shards import open_tiles
from histoprep.tiles import TileOptions
from histoprep.tiles.measurer import Measurer

BY_NAME = {encoding.name: encoding for encoding in ENCODINGS}
READ = [encoding.name for encoding in ENCODINGS if encoding.outcome is Outcome.READ]
REFUSED = {
    encoding.name: cause
    for encoding in ENCODINGS
    for cause in {
        "truncated-jp2": ("HP208 shortened",),
        "nearly-whole-jp2": ("HP208 shortened",),
        "colour-jpeg": ("HP402 rgb",),
        "colour-once-jpeg": ("HP402 rgb",),
        "colour-anti-aliased": ("HP402 smeared-colours",),
        "labels-in-alpha": ("HP402 alpha",),
        "probability-tif": ("HP402 probability",),
        "probability-npy": ("HP402 probability",),
        "probability-png": ("HP402 probability",),
        "probability-of-two-plateaus-png": ("HP402 probability",),
        "probability-of-two-plateaus-tif": ("HP402 probability",),
        "scaled-float": ("HP402 scaled-float",),
        "negative-npy": ("HP416 negative-label",),
        "stack-tif": ("HP208 multi-page",),
        "stack-npy": ("HP208 multi-page",),
        "planes-npy": ("HP208 multi-page",),
        "two-array-npz": ("HP208 arrays",),
        "several-array-mat": ("HP208 arrays",),
        "object-npy": ("HP208 arrays",),
        "frames-gif": ("HP208 frames",),
    }.get(encoding.name, ())
}
STORED = {
    "palette": "palette",
    "rgb-equal": "equal-channels",
    "rgba-equal": "equal-channels",
    "grey-alpha": "equal-channels",
    "float": "float",
    "double": "float",
    "colour": "colours",
}


def measured(data: bytes, **reading: object) -> dict[str, object]:
    decided = TileOptions().with_reading(Reading(**reading))  # type: ignore[arg-type]
    return Measurer(decided).mask(data)


def labels_in(data: bytes, reading: Reading | None = None) -> np.ndarray:
    reading = reading or Reading()
    return imageio.decode_mask(data, imageio.read_header(data, reading), reading)


def run(*arguments: str | Path) -> int:
    workers = () if arguments[0] in ("collect", "verify") else ("--workers", "1")
    with pytest.raises(SystemExit) as done:
        main([*map(str, arguments), *workers])
    return int(done.value.code or 0)


@pytest.mark.parametrize("name", READ)
def test_the_labels_are_read_and_counted(name: str) -> None:
    encoding = BY_NAME[name]
    for seed in range(2):
        labels = regions(encoding.labels, seed)
        data, truth = encoding.encode(labels), encoding.as_read(labels)
        np.testing.assert_array_equal(labels_in(data), truth)
        facts = measured(data)
        ids, pixels = np.unique(truth, return_counts=True)
        assert list(facts["label_ids"]) == ids.tolist()  # type: ignore[call-overload]
        assert list(facts["label_pixels"]) == pixels.tolist()  # type: ignore[call-overload]
        assert facts["mask_lossy"] is None and facts.get("mask_error") is None
        start = next((start for start in STORED if name.startswith(start)), "")
        assert facts["mask_encoding"] == STORED.get(start, "grey")


def test_every_refused_encoding_is_in_the_list() -> None:
    assert set(REFUSED) == {
        encoding.name for encoding in ENCODINGS if encoding.outcome is Outcome.REFUSED
    }


@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_no_labels_is_refused_with_the_cause(name: str) -> None:
    encoding = BY_NAME[name]
    facts = measured(encoding.encode(regions(encoding.labels)))
    assert facts["mask_error"] == REFUSED[name]
    assert "label_ids" not in facts


@pytest.mark.parametrize(
    "name", [encoding.name for encoding in ENCODINGS if encoding.outcome is Outcome.REPORTED]
)
def test_lossy_files_are_read_and_known_as_lossy(name: str) -> None:
    encoding = BY_NAME[name]
    facts = measured(encoding.encode(regions(encoding.labels)))
    assert facts["mask_lossy"] == ("jpeg" if name == "jpeg" else "jpeg2000")
    assert facts["label_ids"] is not None


def label_map_of(encoding: MaskEncoding, truth: list[np.ndarray]) -> tuple[str, dict[int, int]]:
    """The text of a label map of the true labels, and the class of each: two classes and class 0,
    so that nothing is right by accident.
    """
    labels = sorted({int(label) for mask in truth for label in np.unique(mask)})
    classes = {label: (0, 2, 1)[place % 3] if place else 0 for place, label in enumerate(labels)}
    in_colour = encoding.name.startswith("colour")
    lines = [
        f'  "#{label:06x}": label {place}' if in_colour else f"  {label}: label {place}"
        for place, label in enumerate(labels)
    ]
    text = "sources:\n" + "\n".join(lines)
    text += "\nclasses:\n  0: Rest\n  1: First\n  2: Second\nmap:\n"
    text += "".join(f"  label {place}: {classes[label]}\n" for place, label in enumerate(labels))
    return text, classes


CHAIN = [
    "grey-8-png", "uint32-tif", "int64-tif", "palette-tif", "rgb-equal-16-png", "float16-tif",
    "colour-transparent-png", "colour-jp2", "palette-gif", "opencv-bmp", "big-endian-npy", "npz",
    "compressed-mat", "pyramid-tif", "instances-tif",
]  # fmt: skip


@pytest.mark.parametrize("name", CHAIN)
def test_the_whole_chain_gives_the_true_classes(tmp_path: Path, name: str) -> None:
    encoding, root = BY_NAME[name], tmp_path / "set"
    truth = write_masks(root, encoding)
    text, classes = label_map_of(encoding, truth)
    (root / "label_map_true.yml").write_text(text)
    expected = [np.vectorize(classes.__getitem__)(mask) for mask in truth]
    assert run("audit", root, "--exit-zero") == ExitCode.OK
    assert run("remap", root) == ExitCode.OK
    tree = tmp_path / "set.histoprep" / "masks-label_map_true" / "masks"
    for index, wanted in enumerate(expected):
        made = np.asarray(Image.open(tree / f"t{index}.png"))
        assert made.dtype == np.uint8
        np.testing.assert_array_equal(made, wanted)
    assert run("stats", root) == ExitCode.OK
    assert run("manifest", root, "--split", "0.5/0.5") == ExitCode.OK
    manifest = Workspace.of(root).folder / "manifest.parquet"
    assert run("shard", manifest, "--out", tmp_path / "packed") == ExitCode.OK
    assert run("verify", tmp_path / "packed") == ExitCode.OK
    for place in (manifest, tmp_path / "packed"):
        tiles = open_tiles(place)
        assert len(tiles.tile_ids) == len(expected)
        for row, tile_id in enumerate(tiles.tile_ids):
            np.testing.assert_array_equal(tiles.read(row).mask, expected[int(tile_id[-1])])


def test_what_was_decided_of_channels_palettes_and_pages_gives_that_reading() -> None:
    labels = regions((0, 1, 255))
    equal = pillow("PNG")(np.repeat(labels.astype(np.uint8)[..., None], 3, axis=2))
    np.testing.assert_array_equal(labels_in(equal), labels)
    by_colour = Reading(rgb=RgbReading.COLOUR)
    np.testing.assert_array_equal(labels_in(equal, by_colour), labels * 0x010101)
    few = regions(FEW)
    data = pillow("PNG")(paletted(few))
    colours = np.array([red << 16 | green << 8 | blue for red, green, blue in COLOURS.values()])
    np.testing.assert_array_equal(labels_in(data), few)
    np.testing.assert_array_equal(
        labels_in(data, Reading(palette=PaletteReading.COLOUR)), colours[few]
    )
    facts = measured(data, palette=PaletteReading.COLOUR)
    assert facts["mask_encoding"] == "palette-colours"
    stack = np.stack([few, few // 2, few * 0])
    for data in (tiff(stack.astype(np.uint8), photometric="minisblack"), npy(stack), npz(m=stack)):
        for page in (1, 2, 3):
            np.testing.assert_array_equal(labels_in(data, Reading(page=page)), stack[page - 1])
        with pytest.raises(BrokenFileError) as refused:
            labels_in(data, Reading(page=4))
        assert refused.value.verdict == "HP208 multi-page"
    planes = npy(np.moveaxis(stack, 0, -1)[..., [0, 1, 2, 2, 2, 2]])
    np.testing.assert_array_equal(labels_in(planes, Reading(page=2)), stack[1])
    # A file of one page is read, whatever page is wanted of others.
    np.testing.assert_array_equal(labels_in(tiff(few.astype(np.uint8)), Reading(page=7)), few)
    assert Reading.from_json(Reading(page=2).as_json()) == Reading(page=2)
    for page in ("0", "one"):
        with pytest.raises(UsageError, match="--page"):
            Reading.from_json({"page": page})


def test_white_beside_masks_in_colour_is_a_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tile that holds black and white alone could be grey, unless the others are in colour."""
    root = tmp_path / "set"
    palette = np.array([(0, 0, 0), (255, 255, 255), (255, 0, 0)], np.uint8)
    truth = [regions(labels, seed) for seed, labels in enumerate([(0, 1, 2), (0, 1), (0, 2), (0,)])]
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for index, labels in enumerate(truth):
        Image.fromarray(tile_of(labels, index)).save(root / "images" / f"t{index}.png")
        Image.fromarray(palette[labels]).save(root / "masks" / f"t{index}.png")
    (root / "label_map_c.yml").write_text(
        'sources:\n  "#000000": rest\n  "#ffffff": void\n  "#ff0000": tumour\n'
        "classes:\n  0: Rest\n  1: Tumour\n  2: Void\n"
        "map:\n  rest: Rest\n  tumour: Tumour\n  void: Void\n"
    )
    assert run("remap", root) == ExitCode.USAGE
    refused = capsys.readouterr().err
    assert "equal channels beside masks in colour" in refused and "masks/t1.png" in refused
    assert "--rgb colour" in refused
    assert run("audit", root, "--exit-zero") == ExitCode.OK
    assert "HP414 mixed-encodings (rgb): 1 of 4 masks" in capsys.readouterr().out
    assert run("audit", root, "--rgb", "colour", "--exit-zero") == ExitCode.OK
    assert "HP414" not in capsys.readouterr().out
    assert run("remap", root) == ExitCode.OK
    tree = tmp_path / "set.histoprep" / "masks-label_map_c" / "masks"
    for index, labels in enumerate(truth):
        made = np.asarray(Image.open(tree / f"t{index}.png"))
        np.testing.assert_array_equal(made, np.array([0, 2, 1])[labels])


def test_unknown_colours_are_unmapped_values_and_named_as_colours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    write_masks(root, BY_NAME["colour-rgb-png"], 2)
    head = 'sources:\n  "#000000": rest\n  "#ff0000": tumour\nclasses:\n  0: Rest\n  1: Tumour\n'
    (root / "label_map_c.yml").write_text(f"{head}map:\n  rest: Rest\n  tumour: Tumour\n")
    assert run("remap", root) == ExitCode.USAGE
    refused = capsys.readouterr().err
    assert "3 values that label_map_c does not list" in refused
    assert "#0080ff (" in refused and "in 2 tiles, such as masks/t0.png" in refused
    (root / "label_map_c.yml").write_text("sources:\n  0: rest\n  1: tumour\n")
    assert run("remap", root) == ExitCode.USAGE
    assert '"#000000": background' in capsys.readouterr().err


@pytest.mark.parametrize("alpha", [0, 7, 255])
def test_an_alpha_that_is_the_same_everywhere_says_nothing(alpha: int) -> None:
    few = regions(FEW)
    rgba = with_alpha(np.repeat(few.astype(np.uint8)[..., None], 3, axis=2), alpha)
    np.testing.assert_array_equal(labels_in(pillow("PNG")(rgba)), few)


@pytest.mark.parametrize("quality", [60, 90, 98])
@pytest.mark.parametrize("side_px", [96, 256])
def test_colours_that_jpeg_or_resizing_changed_are_never_labels(quality: int, side_px: int) -> None:
    few = regions(FEW, quality, side_px)
    whole = Image.fromarray(coloured(few))
    lossy = Image.open(io.BytesIO(pillow("JPEG", quality=quality)(whole))).copy()
    smooth = whole.resize((side_px * 2, side_px * 2), Image.Resampling.BILINEAR)
    for image in (lossy, smooth, Image.fromarray(anti_aliased(few))):
        error = measured(pillow("PNG")(image))["mask_error"]
        assert error in ("HP402 smeared-colours", "HP402 rgb")


def test_thin_structures_in_colours_of_their_own_are_labels() -> None:
    drawn = regions(FEW, 3, 256)
    drawn[40, :], drawn[:, 77], drawn[120:122, :] = 1, 2, 4
    drawn[200:203, 9], drawn[7, 7] = 3, 4
    np.testing.assert_array_equal(
        measured(pillow("PNG")(coloured(drawn)))["label_pixels"],
        [int((drawn == label).sum()) for label in (0, 2, 3, 1, 4)],
    )


def header_only(shape: tuple[int, ...], dtype: str) -> bytes:
    """A .npy file that promises an array and holds none of it."""
    whole = npy(np.zeros(1, dtype))
    text = f"{{'descr': '{np.dtype(dtype).str}', 'fortran_order': False, 'shape': {shape}, }}"
    return whole[:8] + len(text.ljust(118)).to_bytes(2, "little") + text.ljust(118).encode()


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (header_only((1 << 40, 1 << 20), "<u8"), "HP201 truncated"),
        (header_only((96, 96), "<u8"), "HP201 truncated"),
        (npy(regions(FEW)) + b"more", "HP201 corrupt"),
        (npy(np.zeros(5)), "HP208 arrays"),
        (npy(np.zeros((0, 9), np.uint8)), "HP208 arrays"),
        (npy(np.array(["a"])), "HP208 arrays"),
        (npy(np.zeros((4, 4), complex)), "HP208 arrays"),
        (b"\x93NUMPY\x09\x00" + bytes(80), "HP201 bad-header"),
        (b"PK\x03\x04" + bytes(99), "HP201 corrupt"),
        (b"MATLAB 5.0 MAT-file" + bytes(200), "HP201 corrupt"),
        (b"MATLAB 7.3 MAT-file" + bytes(600), "HP208 arrays"),
        (b"\xff\x4f\xff\x51" + bytes(40), "HP201 truncated"),
        (b"BM" + bytes(60), "HP201 corrupt"),
        (b"GIF89a" + bytes(4), "HP201 corrupt"),
    ],
    ids=range(14),
)
def test_files_that_promise_too_much_are_refused_before_anything_is_made(
    data: bytes, verdict: str
) -> None:
    assert measured(data)["mask_error"] in (verdict, "HP201 bad-header", "HP201 truncated")
    assert str(measured(data)["mask_error"]).split()[0] == verdict.split(maxsplit=1)[0]


def test_too_many_pixels_are_not_decoded() -> None:
    few = regions(FEW)
    options = TileOptions(max_pixels=1000)
    for name in ("int64-npy", "npz", "compressed-mat", "grey-jp2", "grey-bmp", "palette-gif",
                 "int64-tif"):  # fmt: skip
        facts = Measurer(options).mask(BY_NAME[name].encode(few))
        assert facts["mask_error"] == "HP205 huge-image", name


@pytest.mark.parametrize(
    "name",
    [
        "grey-jp2",
        "grey-j2k",
        "colour-jp2",
        "grey-16-jp2",
        "npz",
        "mat",
        "compressed-mat",
        "grey-bmp",
        "palette-gif",
        "uint8-npy",
    ],
)
def test_cut_files_are_refused(name: str) -> None:
    encoding = BY_NAME[name]
    whole = encoding.encode(regions(encoding.labels))
    for length in np.linspace(12, len(whole) - 1, 9).astype(int).tolist():
        facts = measured(whole[:length])
        assert facts["mask_error"] is not None, length
        assert "label_ids" not in facts


def test_reversible_jpeg_2000_is_lossless_however_it_is_laid_out() -> None:
    few = regions(FEW, 0, 256).astype(np.uint8)
    for options in (
        {"num_resolutions": 3},
        {"codeblock_size": (32, 32)},
        {"tile_size": (64, 64)},
        {"progression": "RPCL"},
        {"quality_layers": [20, 5, 0]},
    ):
        data = pillow("JPEG2000", **options)(Image.fromarray(few * 40))
        assert measured(data)["mask_lossy"] is None, options
    data = pillow("JPEG2000", irreversible=True)(Image.fromarray(few * 40))
    assert measured(data)["mask_lossy"] == "jpeg2000"


@pytest.mark.parametrize("scale", [1, 40, 85])
@pytest.mark.parametrize("seed", range(3))
def test_reversible_jpeg_2000_is_read_where_every_label_is_there(scale: int, seed: int) -> None:
    labels = (regions(FEW, seed, 128) * scale).astype(np.uint8)
    whole = len(pillow("JPEG2000")(Image.fromarray(labels)))
    options: list[dict[str, Any]] = [
        *({"quality_mode": "dB", "quality_layers": [quality]} for quality in (30, 45, 60, 80, 99)),
        *(
            {"quality_layers": [labels.size / (whole * share)]}
            for share in (0.5, 0.9, 0.97, 0.99, 1.2)
        ),
    ]
    files = [pillow("JPEG2000", **chosen)(Image.fromarray(labels)) for chosen in options]
    files += [opencv(".jp2", labels), opencv(".jp2", labels, 272, 1000)]
    refused = 0
    for data in files:
        facts = measured(data)
        refused += facts.get("mask_error") == "HP208 shortened"
        if facts.get("mask_error") is None:
            stored = np.asarray(Image.open(io.BytesIO(data)))
            np.testing.assert_array_equal(stored, labels)
    assert 4 <= refused < len(files)


def test_a_workspace_remembers_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "set"
    truth = write_masks(root, BY_NAME["stack-tif"], 3)
    assert run("audit", root, "--exit-zero") == ExitCode.OK
    assert f"histoprep audit {root} --page 1" in capsys.readouterr().out
    assert run("audit", root, "--page", "2", "--exit-zero") == ExitCode.OK
    (root / "label_map_t.yml").write_text("sources:\n  0: a\n  1: b\n  2: c\n")
    assert run("remap", root) == ExitCode.OK
    tree = tmp_path / "set.histoprep" / "masks-label_map_t"
    assert json.loads((tree / "remap.json").read_text("utf-8"))["reading"] == {"page": "2"}
    for index, labels in enumerate(truth):
        made = np.asarray(Image.open(tree / "masks" / f"t{index}.png"))
        np.testing.assert_array_equal(made, labels // 2)


def test_values_that_a_reader_would_cut_are_read_whole_or_refused() -> None:
    big = regions((0, 300, 40_000, 65_535))
    deep = np.dstack([big, np.full_like(big, 65_535)]).astype(">u2")
    lines = b"".join(b"\0" + row.tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", big.shape[1], big.shape[0], 16, 4, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")
    grey_alpha = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
    np.testing.assert_array_equal(labels_in(grey_alpha), big)
    colours = coloured(regions(FEW))
    for data, verdict in (
        (npy(colours / 255), "HP402 float"),
        (npy(colours.astype(np.int64) - 1), "HP402 rgb"),
        (npy(np.where(big, 1 << 40, 0)), "HP402 wide-integer"),
        (tiff(np.moveaxis(colours.astype(np.uint16) * 257, -1, 0), photometric="rgb",
              planarconfig="separate"), "HP208 values"),
        (pillow("PNG")(Image.fromarray(tile_of(big)).convert("L")), "HP402 probability"),
        (pillow("PNG")(tile_of(big)), "HP402 rgb"),
    ):  # fmt: skip
        assert measured(data)["mask_error"] == verdict
