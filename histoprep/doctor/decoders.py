"""Decoders: does each format come back right, and is a broken file refused?"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import numpy as np

from histoprep import imageio
from histoprep.doctor.check import Check, CheckStatus
from histoprep.errors import BrokenFileError
from histoprep.image_formats import image_formats
from histoprep.imageio.decoders import decoder_of
from histoprep.imageio.decoders.base import Decoder, Sample

_FIX = "in the folder of the source: pip install --force-reinstall -c constraints.txt ."


def check_decoders() -> Iterator[Check]:
    """Yield one line a format: files that we know are decoded, and the same files cut short."""
    for image_format in image_formats():
        name = f"{image_format.name} decoder"
        decoder = decoder_of(image_format.name)
        fault = _fault_of(decoder)
        if fault:
            yield Check(name, CheckStatus.FAIL, fault, _FIX)
        else:
            package = f"{decoder.package} {version(decoder.package)}"
            yield Check(name, CheckStatus.OK, f"{package}; pixels are right, a cut file is refused")


def _fault_of(decoder: Decoder) -> str | None:
    try:
        return next(filter(None, map(_sample_fault, decoder.samples())), None)
    except Exception as error:  # noqa: BLE001 (a decoder can fail in any way; which one is the finding)
        return f"{type(error).__name__}: {error}"


def _sample_fault(sample: Sample) -> str | None:
    pixels = _decoded(sample, sample.data).astype(int)
    if pixels.shape != sample.pixels.shape:
        return f"an image of shape {sample.pixels.shape} came back as {pixels.shape}"
    wrong = int(np.abs(pixels - sample.pixels).max())
    if wrong > sample.tolerance:
        what = "a mask came back with other labels" if sample.is_mask else "an image came back"
        return f"{what}, {wrong} of 255 off"
    try:
        _decoded(sample, sample.data[: len(sample.data) // 2])
    except BrokenFileError:
        return None
    return "a file cut in half was taken for a whole one"


def _decoded(sample: Sample, data: bytes) -> np.ndarray:
    if sample.is_mask:
        return imageio.decode_mask(data, imageio.read_header(data))
    return imageio.decode_rgb(data)
