"""What a codec can keep of real tiles: the bound of whatever is decoded with it."""

from __future__ import annotations

import numpy as np
import torch

from trainer.data.transforms import to_float, to_uint8
from trainer.models.codec import Codec


def reconstruct(codec: Codec, image: np.ndarray, device: torch.device) -> np.ndarray:
    """Return an image after the codec: uint8 RGB [height, width, 3], cut to whole latents.

    Args:
        codec: The codec, on `device`.
        image: uint8 RGB [height, width, 3].
        device: Where the codec is.
    """
    height, width = (side // codec.factor * codec.factor for side in image.shape[:2])
    pixels = torch.from_numpy(to_float(np.ascontiguousarray(image[:height, :width])))[None]
    decoded = codec.decode(codec.encode(pixels.to(device)).mean)
    return to_uint8(decoded[0].float().cpu().numpy())
