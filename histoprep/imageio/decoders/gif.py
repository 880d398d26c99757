"""GIF, by Pillow: masks of one frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histoprep.errors import BrokenFileError
from histoprep.image_formats import GIF
from histoprep.imageio.decoders.base import Sample
from histoprep.imageio.decoders.pillow import PillowDecoder, encoded, indexed_header, pillow_open
from histoprep.imageio.header import Header
from histoprep.rule_ids import UNREADABLE_FILE, UNSUPPORTED_ENCODING

_TRAILER = b";"


class GifDecoder(PillowDecoder):
    """Indices of a palette, or grey where the palette holds each grey at its own index."""

    def read_header(self, data: bytes) -> Header:
        """Return the header; raises BrokenFileError for several frames."""
        if not data.rstrip(b"\0").endswith(_TRAILER):
            raise BrokenFileError(UNREADABLE_FILE.verdict("truncated"), "its end marker is missing")
        with pillow_open(data, GIF.name) as image:
            num_frames = int(getattr(image, "n_frames", 1))
            if num_frames > 1:
                raise BrokenFileError(
                    UNSUPPORTED_ENCODING.verdict("frames"),
                    f"{num_frames} frames, which are drawn over each other: save the one that holds"
                    " the labels as PNG",
                )
            return indexed_header(image, GIF.name)

    def samples(self) -> Sequence[Sample]:
        """Return a mask of all 8-bit labels."""
        labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
        return [Sample(encoded(labels, "GIF"), labels)]


DECODER = GifDecoder()
