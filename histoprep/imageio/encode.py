"""Pixels -> bytes: what histoprep writes itself."""

from __future__ import annotations

import io
from collections.abc import Mapping

import cv2
import numpy as np
import simplejpeg
from PIL import Image, PngImagePlugin

from histoprep.imageio import png


def encode_mask_png(labels: np.ndarray, text: dict[str, str] | None = None) -> bytes:
    """Return labels, uint8 or uint16 [height, width], as a grey PNG of that depth."""
    if labels.dtype == np.uint8:
        return png.encode_grey(labels, text)
    stream = io.BytesIO()
    Image.fromarray(labels.astype(np.uint16)).save(stream, "PNG")
    return stream.getvalue()


def encode_rgb_jpeg(rgb: np.ndarray, quality: int = 90, subsampling: str = "4:2:0") -> bytes:
    """Return uint8 RGB [height, width, 3] as a JPEG without metadata."""
    sampling = subsampling.replace(":", "")
    result: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgb),
        quality=quality,
        colorspace="RGB",
        colorsubsampling=sampling,
        fastdct=False,
    )
    return result


def through_jpeg(grey: np.ndarray, quality: int) -> np.ndarray:
    """Return what a grey JPEG of `quality` makes of an image, uint8 [height, width]."""
    _, encoded = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))


def encode_rgb_png(rgb: np.ndarray, text: Mapping[str, str] | None = None) -> bytes:
    """Return uint8 RGB [height, width, 3] as a PNG without other metadata than `text`."""
    marks = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        marks.add_text(key, value)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(stream, "PNG", compress_level=6, pnginfo=marks)
    return stream.getvalue()


def encode_png(pixels: np.ndarray, profile: bytes | None = None) -> bytes:
    """Return an image as a PNG of the same depth, without other metadata than a colour profile.

    Args:
        pixels: uint8 [height, width] or [height, width, 3 or 4], or uint16 [height, width].
        profile: An ICC profile.
    """
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        stream, "PNG", compress_level=6, icc_profile=profile
    )
    return stream.getvalue()


def shrink_rgb(rgb: np.ndarray, longest_px: int) -> np.ndarray:
    """Return the image scaled down by area so that its longer side is at most `longest_px`."""
    height, width = rgb.shape[:2]
    factor = min(1.0, longest_px / max(height, width))
    if factor == 1.0:
        return rgb
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    result: np.ndarray = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return result
