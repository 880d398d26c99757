"""Data sets whose masks are stored in one encoding each, made with the encoders that people use,
and the labels that must be read in them.

`ENCODINGS` names them; `write_masks` makes a data set `images/t0.png`, `masks/t0.SUFFIX`, ... of
one and returns the true labels. Needs numpy, OpenCV, Pillow, scipy and tifffile alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import scipy.io
import tifffile
from PIL import Image, ImageDraw

SIDE_PX = 96
COLOURS = {
    0: (0, 0, 0),
    1: (255, 0, 0),
    2: (0, 128, 255),
    3: (160, 32, 240),
    4: (255, 215, 0),
}
"""Label to colour, for masks that are coded by colour."""
FEW = (0, 1, 2, 3, 4)


class Outcome(StrEnum):
    """What the tool must make of an encoding."""

    READ = "read"
    REPORTED = "read, and reported as lossy"
    REFUSED = "refused with the cause"


Encode = Callable[[np.ndarray], bytes]
Read = Callable[[np.ndarray], np.ndarray]


def _same(labels: np.ndarray) -> np.ndarray:
    return labels


class MaskEncoding(NamedTuple):
    """One way to store labels.

    `encode` makes a file of labels, int64 [height, width], that hold values of `labels`; `as_read`
    gives the ids that must be read in it.
    """

    name: str
    suffix: str
    encode: Encode
    labels: Sequence[int] = FEW
    as_read: Read = _same
    outcome: Outcome = Outcome.READ


def write_masks(root: Path, encoding: MaskEncoding, number: int = 4) -> list[np.ndarray]:
    """Write a data set of `number` tiles below `root` and return the labels to be read in each
    mask, int64 [height, width].
    """
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    truth = []
    for index in range(number):
        labels = regions(encoding.labels, index)
        Image.fromarray(tile_of(labels, index)).save(root / "images" / f"t{index}.png")
        (root / "masks" / f"t{index}.{encoding.suffix}").write_bytes(encoding.encode(labels))
        truth.append(encoding.as_read(labels))
    return truth


def regions(labels: Sequence[int], seed: int = 0, side_px: int = SIDE_PX) -> np.ndarray:
    """Return int64 [side, side]: the first label with an ellipse of each other one, in cells of a
    grid, so that none is hidden.
    """
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:side_px, :side_px]
    mask = np.full((side_px, side_px), labels[0], np.int64)
    rows = int(np.ceil(np.sqrt(max(len(labels) - 1, 1))))
    cell = side_px / rows
    for place, label in enumerate(labels[1:]):
        centre_y, centre_x = (np.array(divmod(place, rows)) + 0.5) * cell
        radius_y, radius_x = draw.uniform(0.3, 0.45, 2) * cell
        mask[((y - centre_y) / radius_y) ** 2 + ((x - centre_x) / radius_x) ** 2 < 1] = label
    return mask


def tile_of(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return a stained tile, uint8 RGB, in which what is not the first label is darker."""
    draw = np.random.default_rng(seed)
    tile = draw.normal([205, 150, 195], 14, (*labels.shape, 3)).clip(60, 255).astype(np.uint8)
    tile[labels != labels[0, 0]] -= 60
    return tile


def coloured(labels: np.ndarray) -> np.ndarray:
    """Return labels 0 to 4 as uint8 RGB, in `COLOURS`."""
    return np.array([COLOURS[label] for label in FEW], np.uint8)[labels]


def colour_ids(labels: np.ndarray) -> np.ndarray:
    """Return labels 0 to 4 as the ids 0xRRGGBB of their `COLOURS`."""
    result: np.ndarray = coloured(labels).astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return result


def pillow(kind: str, **options: Any) -> Callable[[np.ndarray | Image.Image], bytes]:
    """Return the function that saves an image with Pillow."""

    def save(image: np.ndarray | Image.Image) -> bytes:
        stream = io.BytesIO()
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
            stream, kind, **options
        )
        return stream.getvalue()

    return save


def tiff(array: np.ndarray, **options: Any) -> bytes:
    """Return an array as tifffile writes it."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def opencv(suffix: str, image: np.ndarray, *options: int) -> bytes:
    """Return an image, channels as BGR, as OpenCV writes it."""
    return bytes(cv2.imencode(suffix, image, list(options))[1])


def npy(array: np.ndarray) -> bytes:
    """Return an array as numpy.save writes it."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    """Return arrays as numpy.savez_compressed writes them."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def mat(arrays: dict[str, Any], **options: Any) -> bytes:
    """Return arrays as scipy.io.savemat writes them."""
    stream = io.BytesIO()
    scipy.io.savemat(stream, arrays, **options)
    return stream.getvalue()


def grey(labels: np.ndarray) -> Image.Image:
    """Return labels as an 8-bit grey image."""
    return Image.fromarray(labels.astype(np.uint8))


def paletted(labels: np.ndarray) -> Image.Image:
    """Return labels as indices into a palette of `COLOURS`."""
    image = Image.fromarray(labels.astype(np.uint8), "P")
    image.putpalette([level for label in FEW for level in COLOURS[label]])
    return image


def with_alpha(rgb: np.ndarray, alpha: int | np.ndarray = 255) -> np.ndarray:
    """Return uint8 [height, width, 4]."""
    plane = np.broadcast_to(np.asarray(alpha, np.uint8), rgb.shape[:2])
    return np.dstack([rgb, plane])


def anti_aliased(labels: np.ndarray) -> np.ndarray:
    """Return what a drawing program makes of regions in colour: edges are blends of two colours."""
    side = 4 * labels.shape[0]
    large = cv2.resize(coloured(labels), (side, side), interpolation=cv2.INTER_NEAREST)
    for label in FEW[1:]:
        _smooth_edges(large, labels, label)
    return np.asarray(
        Image.fromarray(large).resize(labels.shape[::-1], Image.Resampling.LANCZOS), np.uint8
    )


def _smooth_edges(large: np.ndarray, labels: np.ndarray, label: int) -> None:
    drawn = Image.fromarray(large)
    contours, _ = cv2.findContours(
        (labels == label).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    for contour in contours:
        if len(contour) > 2:
            points = [(4.0 * x + 2, 4.0 * y + 2) for x, y in contour[:, 0].tolist()]
            ImageDraw.Draw(drawn).polygon(points, fill=COLOURS[label])
    large[:] = np.asarray(drawn)


def probabilities(labels: np.ndarray) -> np.ndarray:
    """Return a probability map, float32 0 to 1, that is smooth everywhere."""
    noise = np.random.default_rng(int(labels.sum()) % 1000).normal(0, 1, labels.shape)
    smooth = cv2.GaussianBlur((labels > 0) + noise, (0, 0), 7)
    low, high = smooth.min(), smooth.max()
    return ((smooth - low) / (high - low)).astype(np.float32)


def plateaus(labels: np.ndarray) -> np.ndarray:
    """Return a probability map, float32 0 to 1, that is sure within regions and outside of them."""
    result: np.ndarray = cv2.GaussianBlur((labels > 0).astype(np.float32), (0, 0), 6)
    return result


def instances(labels: np.ndarray) -> np.ndarray:
    """Return instance ids, int64 1, 2, ... in raster order, of regions that do not touch."""
    return cv2.connectedComponents((labels > 0).astype(np.uint8))[1].astype(np.int64)


def _repeat(labels: np.ndarray, dtype: Any = np.uint8, channels: int = 3) -> np.ndarray:
    return np.repeat(labels.astype(dtype)[..., None], channels, axis=2)


def _bgr(labels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(coloured(labels)[..., ::-1])


def _alpha_of_background(labels: np.ndarray) -> np.ndarray:
    return with_alpha(coloured(labels), np.where(labels > 0, 255, 0))


def _only_alpha(labels: np.ndarray) -> np.ndarray:
    return with_alpha(np.zeros((*labels.shape, 3), np.uint8), 50 * labels)


def _stack(labels: np.ndarray) -> bytes:
    return tiff(np.stack([labels, labels // 2]).astype(np.uint8), photometric="minisblack")


def _pyramid(labels: np.ndarray) -> bytes:
    pages = [Image.fromarray(labels[::step, ::step].astype(np.uint8)) for step in (1, 2, 4)]
    return pillow("TIFF", save_all=True, append_images=pages[1:])(pages[0])


_WIDE = (0, 70_001, 70_002, 1_000_000, 16_777_216, 4_294_967_295)
_BIG = (0, 300, 40_000, 65_535)
_png, _bmp, _gif = pillow("PNG"), pillow("BMP"), pillow("GIF")
_jp2, _j2k = pillow("JPEG2000"), pillow("JPEG2000", no_jp2=True)
_lossy_jp2 = pillow("JPEG2000", irreversible=True, quality_mode="dB", quality_layers=[30])
_truncated_jp2 = pillow("JPEG2000", quality_mode="dB", quality_layers=[30])
_nearly_whole_jp2 = pillow("JPEG2000", quality_mode="dB", quality_layers=[55])
_MANY = range(61)

_READ = [
    MaskEncoding("grey-8-png", "png", lambda labels: _png(grey(labels))),
    MaskEncoding("grey-8-tif", "tif", lambda labels: tiff(labels.astype(np.uint8))),
    MaskEncoding(
        "grey-8-lzw-tif", "tif", lambda labels: pillow("TIFF", compression="tiff_lzw")(grey(labels))
    ),
    MaskEncoding("grey-1-png", "png", lambda labels: _png(grey(labels * 255).convert("1")), (0, 1)),
    MaskEncoding("bool-tif", "tif", lambda labels: tiff(labels.astype(bool)), (0, 1)),
    MaskEncoding("grey-2-png", "png", lambda labels: grey_png(labels, 2), (0, 1, 2, 3)),
    MaskEncoding("grey-4-png", "png", lambda labels: grey_png(labels, 4), (0, 3, 9, 15)),
    MaskEncoding("grey-16-png", "png", lambda labels: _png(labels.astype(np.uint16)), _BIG),
    MaskEncoding("grey-16-tif", "tif", lambda labels: tiff(labels.astype(np.uint16)), _BIG),
    MaskEncoding("int16-tif", "tif", lambda labels: tiff(labels.astype(np.int16))),
    MaskEncoding("int32-tif", "tif", lambda labels: tiff(labels.astype(np.int32)), _WIDE[:-1]),
    MaskEncoding(
        "int32-pillow-tif", "tif",
        lambda labels: pillow("TIFF")(Image.fromarray(labels.astype(np.int32))), _WIDE[:-1],
    ),
    MaskEncoding("uint32-tif", "tif", lambda labels: tiff(labels.astype(np.uint32)), _WIDE),
    MaskEncoding(
        "uint32-zlib-tif", "tif",
        lambda labels: tiff(labels.astype(np.uint32), compression="zlib"), _WIDE,
    ),
    MaskEncoding("int64-tif", "tif", lambda labels: tiff(labels.astype(np.int64)), _WIDE),
    MaskEncoding("uint64-tif", "tif", lambda labels: tiff(labels.astype(np.uint64)), _WIDE),
    MaskEncoding("palette-png", "png", lambda labels: _png(paletted(labels))),
    MaskEncoding("palette-tif", "tif", lambda labels: pillow("TIFF")(paletted(labels))),
    MaskEncoding("rgb-equal-png", "png", lambda labels: _png(_repeat(labels))),
    MaskEncoding("rgb-equal-tif", "tif", lambda labels: tiff(_repeat(labels), photometric="rgb")),
    MaskEncoding("rgba-equal-png", "png", lambda labels: _png(with_alpha(_repeat(labels)))),
    MaskEncoding("grey-alpha-png", "png", lambda labels: _png(grey(labels).convert("LA"))),
    MaskEncoding(
        "rgb-equal-16-png", "png", lambda labels: opencv(".png", _repeat(labels, np.uint16)), _BIG
    ),
    MaskEncoding(
        "rgb-equal-16-tif", "tif",
        lambda labels: tiff(_repeat(labels, np.uint16), photometric="rgb"), _BIG,
    ),
    MaskEncoding("float16-tif", "tif", lambda labels: tiff(labels.astype(np.float16))),
    MaskEncoding("float32-tif", "tif", lambda labels: tiff(labels.astype(np.float32))),
    MaskEncoding("float64-tif", "tif", lambda labels: tiff(labels.astype(np.float64)), _WIDE),
    MaskEncoding(
        "colour-rgb-png", "png", lambda labels: _png(coloured(labels)), as_read=colour_ids
    ),
    MaskEncoding(
        "colour-rgba-png", "png", lambda labels: _png(with_alpha(coloured(labels))),
        as_read=colour_ids,
    ),
    MaskEncoding(
        "colour-transparent-png", "png", lambda labels: _png(_alpha_of_background(labels)),
        as_read=colour_ids,
    ),
    MaskEncoding(
        "colour-rgb-tif", "tif", lambda labels: tiff(coloured(labels), photometric="rgb"),
        as_read=colour_ids,
    ),
    MaskEncoding("colour-bmp", "bmp", lambda labels: _bmp(coloured(labels)), as_read=colour_ids),
    MaskEncoding(
        "colour-jp2", "jp2", lambda labels: _jp2(coloured(labels)), as_read=colour_ids
    ),
    MaskEncoding(
        "colour-webp", "webp", lambda labels: pillow("WEBP", lossless=True)(coloured(labels)),
        as_read=colour_ids,
    ),
    MaskEncoding("colour-npy", "npy", lambda labels: npy(coloured(labels)), as_read=colour_ids),
    MaskEncoding("grey-bmp", "bmp", lambda labels: _bmp(grey(labels))),
    MaskEncoding("opencv-bmp", "bmp", lambda labels: opencv(".bmp", labels.astype(np.uint8))),
    MaskEncoding("palette-bmp", "bmp", lambda labels: _bmp(paletted(labels))),
    MaskEncoding("palette-gif", "gif", lambda labels: _gif(paletted(labels))),
    MaskEncoding("grey-jp2", "jp2", lambda labels: _jp2(grey(labels))),
    MaskEncoding("grey-16-jp2", "jp2", lambda labels: _jp2(labels.astype(np.uint16)), _BIG),
    MaskEncoding("grey-j2k", "j2k", lambda labels: _j2k(grey(labels))),
    MaskEncoding("uint8-npy", "npy", lambda labels: npy(labels.astype(np.uint8))),
    MaskEncoding("bool-npy", "npy", lambda labels: npy(labels.astype(bool)), (0, 1)),
    MaskEncoding("int64-npy", "npy", npy, _WIDE),
    MaskEncoding("int32-npy", "npy", lambda labels: npy(labels.astype(np.int32)), _WIDE[:-1]),
    MaskEncoding(
        "fortran-npy", "npy", lambda labels: npy(np.asfortranarray(labels.astype(np.uint16))), _BIG
    ),
    MaskEncoding("big-endian-npy", "npy", lambda labels: npy(labels.astype(">u4")), _WIDE),
    MaskEncoding("float-npy", "npy", lambda labels: npy(labels.astype(np.float32))),
    MaskEncoding("one-channel-npy", "npy", lambda labels: npy(labels.astype(np.uint8)[..., None])),
    MaskEncoding("npz", "npz", lambda labels: npz(labels=labels.astype(np.int32)), _WIDE[:-1]),
    MaskEncoding("mat", "mat", lambda labels: mat({"inst_map": labels.astype(np.int32)})),
    MaskEncoding(
        "compressed-mat", "mat",
        lambda labels: mat({"labels": labels.astype(np.uint16)}, do_compression=True), _BIG,
    ),
    MaskEncoding("double-mat", "mat", lambda labels: mat({"labels": labels.astype(np.float64)})),
    MaskEncoding("pyramid-tif", "tif", _pyramid),
    MaskEncoding(
        "instances-png", "png", lambda labels: _png(instances(labels).astype(np.uint16)), _MANY,
        instances,
    ),
    MaskEncoding(
        "instances-tif", "tif", lambda labels: tiff(instances(labels).astype(np.int32)), _MANY,
        instances,
    ),
    MaskEncoding("instances-npy", "npy", lambda labels: npy(instances(labels)), _MANY, instances),
]  # fmt: skip

_REPORTED = [
    MaskEncoding("jpeg", "jpg", lambda labels: pillow("JPEG", quality=80)(grey(labels * 40))),
    MaskEncoding("lossy-jp2", "jp2", lambda labels: _lossy_jp2(grey(labels * 40))),
]

_REFUSED = [
    MaskEncoding("truncated-jp2", "jp2", lambda labels: _truncated_jp2(grey(labels * 40))),
    MaskEncoding("nearly-whole-jp2", "jp2", lambda labels: _nearly_whole_jp2(grey(labels * 40))),
    MaskEncoding(
        "colour-jpeg", "jpg", lambda labels: pillow("JPEG", quality=85)(coloured(labels))
    ),
    MaskEncoding(
        "colour-once-jpeg", "png",
        lambda labels: _png(
            Image.open(io.BytesIO(pillow("JPEG", quality=85)(coloured(labels)))).copy()
        ),
    ),
    MaskEncoding("colour-anti-aliased", "png", lambda labels: _png(anti_aliased(labels))),
    MaskEncoding("labels-in-alpha", "png", lambda labels: _png(_only_alpha(labels))),
    MaskEncoding("probability-tif", "tif", lambda labels: tiff(probabilities(labels))),
    MaskEncoding("probability-npy", "npy", lambda labels: npy(probabilities(labels))),
    MaskEncoding(
        "probability-png", "png",
        lambda labels: _png((probabilities(labels) * 255).astype(np.uint8)),
    ),
    MaskEncoding(
        "probability-of-two-plateaus-png", "png",
        lambda labels: _png((plateaus(labels) * 255).astype(np.uint8)),
    ),
    MaskEncoding(
        "probability-of-two-plateaus-tif", "tif",
        lambda labels: tiff((plateaus(labels) * 60_000).astype(np.uint16)),
    ),
    MaskEncoding("scaled-float", "tif", lambda labels: tiff((labels / 255).astype(np.float32))),
    MaskEncoding("negative-npy", "npy", lambda labels: npy(np.where(labels == 1, -1, labels))),
    MaskEncoding("stack-tif", "tif", _stack),
    MaskEncoding("stack-npy", "npy", lambda labels: npy(np.stack([labels] * 5))),
    MaskEncoding("planes-npy", "npy", lambda labels: npy(np.eye(5, dtype=np.uint8)[labels])),
    MaskEncoding("two-array-npz", "npz", lambda labels: npz(inst=labels, type=labels > 0)),
    MaskEncoding(
        "several-array-mat", "mat",
        lambda labels: mat({"inst_map": labels, "class": labels[:, :1], "id": labels[:1]}),
    ),
    MaskEncoding("object-npy", "npy", lambda labels: npy(np.array({"masks": labels}, object))),
    MaskEncoding("frames-gif", "gif", lambda labels: pillow(
        "GIF", save_all=True, append_images=[paletted(labels // 2)])(paletted(labels))),
]  # fmt: skip


def grey_png(labels: np.ndarray, bits: int) -> bytes:
    """Return a grey PNG of few bits, as Pillow writes palettes of greys turned into grey."""
    from mask_files import png_bytes

    return png_bytes(labels, bits)


ENCODINGS: tuple[MaskEncoding, ...] = (
    *_READ,
    *(encoding._replace(outcome=Outcome.REPORTED) for encoding in _REPORTED),
    *(encoding._replace(outcome=Outcome.REFUSED) for encoding in _REFUSED),
)
