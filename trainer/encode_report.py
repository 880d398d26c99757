"""What a codec costs: reconstructions of a sample of tiles, their PSNR and SSIM, and a sheet to
look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from histoprep import checksums, imageio
from trainer.data.transforms import to_float, to_uint8, windows
from trainer.engine.images import difference, sheet
from trainer.metrics.reconstruction import SSIM_WINDOW_PX, psnr, ssim

if TYPE_CHECKING:
    from histoprep.shards import TileSource
    from trainer.data.latents import LatentSet
    from trainer.models.codec import Codec

TABLE, IMAGE = "reconstruction.json", "reconstruction.png"
_NUM_SHOWN = 6
_SHOWN_PX = 256


@dataclass(frozen=True)
class Reconstruction:
    """One tile through the codec: images uint8 [size, size, 3], PSNR in dB, SSIM (None below its
    window of 11 px).
    """

    tile_id: str
    original: np.ndarray
    decoded: np.ndarray
    psnr_db: float
    ssim: float | None


def report_codec(
    latents: LatentSet, tiles: TileSource, codec: Codec, *, num_tiles: int = 64, device: str = "cpu"
) -> dict[str, Any]:
    """Write reconstruction.json and reconstruction.png into the latent set and return the numbers;
    `ssim` is None for crops below 11 px.

    Tiles are taken at even steps through those with latents and decoded from the stored means,
    float16 and all. The sheet has an original, its reconstruction and four times their difference
    in each row, from the worst PSNR of the sample to the best; of larger tiles the middle, so that
    every pixel is seen.
    """
    results = sorted(
        _reconstruct(latents, tiles, codec, num_tiles, device), key=lambda tile: tile.psnr_db
    )
    examples = [
        results[int(index)]
        for index in np.unique(
            np.linspace(0, len(results) - 1, min(_NUM_SHOWN, len(results))).round()
        )
    ]
    pairs = [(_middle(row.original), _middle(row.decoded)) for row in examples]
    drawn = sheet(
        [[original, decoded, difference(original, decoded)] for original, decoded in pairs]
    )
    checksums.publish_file(
        latents.folder, IMAGE, imageio.encode_rgb_png(drawn, imageio.SYNTHETIC_MARK)
    )
    similar = [result.ssim for result in results if result.ssim is not None]
    numbers = {
        "num_tiles": len(results),
        "codec": latents.codec._asdict(),
        "psnr_db": _summary([result.psnr_db for result in results]),
        "ssim": _summary(similar) if similar else None,
        "shown": [row.tile_id for row in examples],
        "tiles": {
            result.tile_id: {"psnr_db": result.psnr_db, "ssim": result.ssim} for result in results
        },
    }
    checksums.publish_json(latents.folder, TABLE, numbers)
    return numbers


def _reconstruct(
    latents: LatentSet, tiles: TileSource, codec: Codec, num_tiles: int, device: str
) -> list[Reconstruction]:
    first, count = latents.match(tiles)
    usable = np.flatnonzero(count)
    chosen = usable[
        np.unique(np.linspace(0, len(usable) - 1, min(num_tiles, len(usable))).round().astype(int))
    ]
    codec = codec.to(device)
    results = []
    for row in chosen.tolist():
        image = tiles.read(row).image
        original = _first_window(image, latents.image_size, str(latents.summary["fit"]))
        mean, _ = latents.raw(int(first[row]))
        decoded = to_uint8(
            codec.decode(torch.from_numpy(mean)[None].to(device))[0].float().cpu().numpy()
        )
        pair = [torch.from_numpy(to_float(image))[None] for image in (original, decoded)]
        similarity = float(ssim(*pair)) if latents.image_size >= SSIM_WINDOW_PX else None
        results.append(
            Reconstruction(
                str(tiles.tile_ids[row]), original, decoded, float(psnr(*pair)), similarity
            )
        )
    return results


def _middle(image: np.ndarray) -> np.ndarray:
    top, left = (max(0, (side - _SHOWN_PX) // 2) for side in image.shape[:2])
    return image[top : top + _SHOWN_PX, left : left + _SHOWN_PX]


def _first_window(image: np.ndarray, size: int, fit: str) -> np.ndarray:
    height, width = image.shape[:2]
    top, left = (
        windows(height, width, size)[0]
        if fit == "tile"
        else ((height - size) // 2, (width - size) // 2)
    )
    return image[top : top + size, left : left + size]


def _summary(values: list[float]) -> dict[str, float]:
    return {
        "mean": float(np.mean(values)),
        "median": float(np.median(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
    }
