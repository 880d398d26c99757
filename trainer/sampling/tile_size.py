"""Whether an image is computed in one pass, or in tiles of which size: what memory allows."""

from __future__ import annotations

from histoprep.errors import UsageError
from trainer.models.denoisers.footprint import copy_shapes, count_activation_bytes
from trainer.sampling.generator import Generator

_TILES_PX = (4096, 2048, 1024, 512, 256)
# Guidance calls the network on two samples at once.
_SAMPLES_OF_IMAGE = 2
_SHARE_OF_FREE = 0.5
# What a decoder holds at once at the resolution of pixels, in maps of float32.
_DECODER_MAPS = 6


def choose_tile_px(
    generator: Generator, size_px: tuple[int, int], batch_size: int, free_bytes: int
) -> int | None:
    """Return the side of the tiles for images of a size, or None for one pass.

    A pass is reckoned to take what training would keep of it, which is more than sampling needs, or
    what the decoder takes, and half of the free memory is used at most. Where even the smallest
    tile takes more, it is chosen all the same.

    Args:
        generator: The model; without a halo there is nothing but one pass.
        size_px: Height and width of the largest image.
        batch_size: Images sampled at once; tiles are computed one by one.
        free_bytes: Free memory of the device.
    """
    if generator.halo is None:
        return None
    budget = _SHARE_OF_FREE * free_bytes
    per_pixel = _bytes_per_pixel(generator)
    if per_pixel * size_px[0] * size_px[1] * batch_size <= budget:
        return None
    halo_px = 2 * generator.halo * int(generator.codec.factor)
    multiples = [side for side in _TILES_PX if side % generator.multiple_px == 0]
    fitting = (side for side in multiples if per_pixel * (side + halo_px) ** 2 <= budget)
    smallest = multiples[-1] if multiples else generator.multiple_px
    return next(fitting, smallest)


def check_tile_px(generator: Generator, tile_px: int) -> int:
    """Return the side of tiles that was asked for.

    Raises:
        UsageError: When the model cannot compute tiles, or not of this size.
    """
    if generator.halo is None:
        raise UsageError(
            "this denoiser needs the whole image at once",
            seen=f"--tile-size {tile_px}",
            hint="leave out --tile-size; mask-unet works in tiles",
        )
    if tile_px % generator.multiple_px:
        raise UsageError(
            "tiles cannot have this size",
            seen=f"--tile-size {tile_px}",
            expected=f"a multiple of {generator.multiple_px}",
        )
    return tile_px


def _bytes_per_pixel(generator: Generator) -> float:
    shapes = copy_shapes(generator.denoiser)
    side = 4 * generator.multiple_px
    single, double = (
        count_activation_bytes(shapes, count, side, int(generator.codec.factor)) for count in (1, 2)
    )
    network = _SAMPLES_OF_IMAGE * (double - single) / side**2
    return max(network, 4.0 * _DECODER_MAPS * int(generator.codec.decoder_width))
