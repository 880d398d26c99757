"""BMP, by Pillow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histoprep.image_formats import BMP
from histoprep.imageio.decoders.base import Sample
from histoprep.imageio.decoders.pillow import PillowDecoder, encoded, indexed_header, pillow_open
from histoprep.imageio.decoders.png import CORNERS
from histoprep.imageio.header import Header


class BmpDecoder(PillowDecoder):
    """Grey, indices of a palette, or colours; never compressed with loss."""

    def read_header(self, data: bytes) -> Header:
        """Return the header."""
        with pillow_open(data, BMP.name) as image:
            return indexed_header(image, BMP.name)

    def samples(self) -> Sequence[Sample]:
        """Return four colours, and a mask of all 8-bit labels."""
        labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
        return [Sample(encoded(CORNERS, "BMP"), CORNERS), Sample(encoded(labels, "BMP"), labels)]


DECODER = BmpDecoder()
