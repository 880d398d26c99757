"""Decoders: does each format come back right, and is a broken file refused?"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from histoprep import imageio
from histoprep.doctor.check import Check, Status
from histoprep.errors import BrokenFileError

_CORNERS = np.array(
    [[[200, 30, 60], [10, 220, 90]], [[40, 50, 230], [255, 255, 255]]], dtype=np.uint8
)
# `_CORNERS`, lossless.
_WEBP = "UklGRjYAAABXRUJQVlA4TCkAAAAvAUAAAB8gECCi/CvyYEMgQPTYUOqUkIB4Ypb/zQzzH39ISYF1iOh/BAA="
_TIFF = (
    "SUkqABgAAACAMgPDwFNwtCgZOZ/wuAgACgAAAQMAAQAAAAIAAAABAQMAAQAAAAIAAAACAQMAAwAAAJYAAAADAQMAAQAAAAUAAAAGAQMAAQAAAAIAAAARAQQAAQAAAAgA"
    "AAAVAQMAAQAAAAMAAAAWAQMAAQAAAAIAAAAXAQQAAQAAAA8AAAAcAQMAAQAAAAEAAAAAAAAACAAIAAgA"
)
_FIX = "in the folder of the source: pip install --force-reinstall -c constraints.txt ."
_JPEG_ERROR = 12  # of 255: two conversions and quality 95 on a smooth ramp


def check_decoders() -> Iterator[Check]:
    """Yield one line a format: an image that we know is decoded, and the same file cut short."""
    kinds: dict[str, tuple[str, Callable[[], str | None]]] = {
        "jpeg": ("simplejpeg", _jpeg_fault),
        "png": ("kornia-rs", _png_fault),
        "tiff": ("pillow", lambda: _lossless_fault(b64decode(_TIFF))),
        "webp": ("pillow", lambda: _lossless_fault(b64decode(_WEBP))),
    }
    for kind, (package, fault_of) in kinds.items():
        fault = _caught(fault_of)
        if fault:
            yield Check(f"{kind} decoder", Status.FAIL, fault, _FIX)
        else:
            yield Check(
                f"{kind} decoder",
                Status.OK,
                f"{_decoded_by(package)}; pixels are right, a cut file is refused",
            )


def _caught(fault_of: Callable[[], str | None]) -> str | None:
    try:
        return fault_of()
    except Exception as error:  # noqa: BLE001 (a decoder can fail in any way; which one is the finding)
        return f"{type(error).__name__}: {error}"


def _jpeg_fault() -> str | None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    image = np.stack(
        [np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 128, np.uint8)],
        axis=-1,
    )
    data = imageio.encode_rgb_jpeg(image, 95, "4:4:4")
    wrong = np.abs(imageio.decode_rgb(data).astype(int) - image).max()
    if wrong > _JPEG_ERROR:
        return f"a JPEG of quality 95 came back {wrong} of 255 off"
    return _accepts(data[: len(data) // 2])


def _png_fault() -> str | None:
    data = imageio.encode_rgb_png(_CORNERS)
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    mask = imageio.encode_mask_png(labels)
    if not np.array_equal(imageio.decode_mask(mask, imageio.read_header(mask)), labels):
        return "a mask came back with other labels"
    return _lossless_fault(data)


def _lossless_fault(data: bytes) -> str | None:
    if not np.array_equal(imageio.decode_rgb(data), _CORNERS):
        return "a lossless image came back with other pixels"
    return _accepts(data[: len(data) // 2])


def _accepts(cut: bytes) -> str | None:
    try:
        imageio.decode_rgb(cut)
    except BrokenFileError:
        return None
    return "a file cut in half was taken for a whole one"


def _decoded_by(package: str) -> str:
    """Return what decodes; PNG goes through Pillow where the quick decoder is missing."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"pillow {version('pillow')}"
