"""Mask files of every encoding, made from the specifications, and what other programs read in
them.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import rasterio
import tifffile
from PIL import Image

SIDE_PX = 96
_SHORT, _LONG = 3, 4
_PACKS = {_SHORT: ("H", 2), _LONG: ("I", 4)}


def blobs(labels: Sequence[int], seed: int = 0, side_px: int = SIDE_PX) -> np.ndarray:
    """Return a mask, int64 [side, side]: the first label with a round region of each of the others,
    none of them small or hidden.
    """
    y, x = np.mgrid[:side_px, :side_px]
    mask = np.full((side_px, side_px), labels[0], np.int64)
    step = side_px // max(len(labels) - 1, 1)
    for index, label in enumerate(labels[1:]):
        centre = step * index + step // 2 + seed % 3
        mask[
            ((x - centre) / (step * 0.35)) ** 2 + ((y - side_px / 2) / (side_px * 0.3)) ** 2 < 1
        ] = label
    return mask


def packed(values: np.ndarray, bits: int, order: str = ">") -> bytes:
    """Return the rows of an image in `bits` a value, each row filled up to whole bytes; negative
    values as two's complement.
    """
    raw = values.astype(np.int64) & ((1 << bits) - 1)
    if bits in (16, 32):
        return raw.astype(f"{order}u{bits // 8}").tobytes()
    planes = (raw[..., None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(planes.reshape(len(raw), -1).astype(np.uint8), axis=1).tobytes()


def tiff_bytes(
    values: np.ndarray, bits: int, photometric: int = 1, *, order: str = "<", **tags: Any
) -> bytes:
    """Return a TIFF without compression: `photometric` 0 min-is-white, 1 min-is-black, 3 palette
    (`colour_map`).

    Further tags: sample_format, colour_map, compression, subfile, fill_order.
    """
    height, width = values.shape
    pixels = packed(values, bits, order)
    if tags.get("fill_order") == 2:
        pixels = pixels.translate(bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256)))
    numbers = {
        "subfile": 254,
        "compression": 259,
        "fill_order": 266,
        "sample_format": 339,
        "colour_map": 320,
    }
    entries: dict[int, tuple[int, Sequence[int]]] = {
        256: (_LONG, [width]), 257: (_LONG, [height]), 258: (_SHORT, [bits]), 259: (_SHORT, [1]),
        262: (_SHORT, [photometric]),
        277: (_SHORT, [1]), 278: (_LONG, [height]), 279: (_LONG, [len(pixels)]),
    }  # fmt: skip
    for name, value in tags.items():
        entries[numbers[name]] = _SHORT, value if isinstance(value, (list, tuple)) else [value]
    start = 8 + 2 + 12 * (len(entries) + 1) + 4
    beyond = b""
    places = {}
    for tag, (kind, content) in sorted(entries.items()):
        if len(content) * _PACKS[kind][1] > 4:
            places[tag] = start + len(beyond)
            beyond += struct.pack(f"{order}{len(content)}{_PACKS[kind][0]}", *content)
    entries[273] = _LONG, [start + len(beyond)]
    folder = b""
    for tag, (kind, content) in sorted(entries.items()):
        value = (
            struct.pack(order + "I", places[tag])
            if tag in places
            else struct.pack(f"{order}{len(content)}{_PACKS[kind][0]}", *content)
        )
        folder += struct.pack(order + "HHI", tag, kind, len(content)) + value.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries))
    return head + folder + bytes(4) + beyond + pixels


def png_bytes(
    values: np.ndarray, bits: int, palette: bytes = b"", transparency: bytes = b""
) -> bytes:
    """Return a PNG: grey, or of indices with a `palette` of RGB triples."""
    height, width = values.shape
    rows = packed(values, bits)
    length = len(rows) // height
    lines = b"".join(b"\0" + rows[start : start + length] for start in range(0, len(rows), length))
    header = struct.pack(">IIBBBBB", width, height, bits, 3 if palette else 0, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", palette),
        (b"tRNS", transparency),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(kind, body) for kind, body in chunks if body or kind == b"IEND"
    )


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def greys(values: Sequence[int]) -> bytes:
    """Return a palette of grey levels."""
    return bytes(level for value in values for level in (value,) * 3)


def grey_palette_png(truth: np.ndarray) -> bytes:
    """Return what lossless optimisers make of an 8-bit grey mask: indices, whose labels are the
    grey levels of the palette.
    """
    values, index = np.unique(truth, return_inverse=True)
    return png_bytes(index.reshape(truth.shape), 8, greys(values.tolist()))


def saved(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return an image as Pillow writes it."""
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        stream, kind, **options
    )
    return stream.getvalue()


def by_tifffile(array: np.ndarray, **options: Any) -> bytes:
    """Return an array as tifffile writes it."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def others_read(data: bytes, bits: int) -> dict[str, np.ndarray | None]:
    """Return what each reader makes of a mask: labels, int64 [height, width], or None for colours;
    readers that refuse it are left out.
    """
    found: dict[str, np.ndarray | None] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, read in _READERS.items():
            if name == "OpenCV grey" and bits > 8:
                # Narrowed on demand: no reading of the file.
                continue
            try:
                pixels = read(data)
            except Exception:  # noqa: BLE001 (a reader may refuse in any way)
                continue
            if pixels is not None:
                found[name] = _as_labels(np.asarray(pixels))
    return found


def _as_labels(pixels: np.ndarray) -> np.ndarray | None:
    if pixels.ndim == 3 and (pixels[..., :3] == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    return pixels.astype(np.int64) if pixels.ndim == 2 and pixels.dtype.kind in "biu" else None


def _by_rasterio(data: bytes) -> np.ndarray:
    with rasterio.MemoryFile(data) as file, file.open() as opened:
        return opened.read(1) if opened.count == 1 else np.moveaxis(opened.read(), 0, -1)


_READERS: dict[str, Any] = {
    "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data))),
    "OpenCV": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED),
    "OpenCV grey": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE),
    "tifffile": lambda data: tifffile.imread(io.BytesIO(data)),
    "rasterio": _by_rasterio,
}
