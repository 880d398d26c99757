"""Sheets to look at: images beside their masks and the real ones, and one mask under several
guidance scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from histoprep.labels import LabelMap
from trainer.engine.images import colour_mask, sheet
from trainer.sampling.generator import Generator, SamplingOptions
from trainer.sampling.masks import MaskList


def guidance_sheet(
    generator: Generator,
    masks: MaskList,
    chosen: Sequence[int],
    scales: Sequence[float],
    options: SamplingOptions,
) -> np.ndarray:
    """Return one row a mask: the mask, then its image under each guidance scale, from the same
    noise; uint8 [height, width, 3].
    """
    return sheet(
        [
            [
                *_shown(masks, index),
                *(
                    _made(generator, masks, index, replace(options, guidance_scale=scale))
                    for scale in scales
                ),
            ]
            for index in chosen
        ]
    )


def comparison_sheet(
    generator: Generator, masks: MaskList, chosen: Sequence[int], options: SamplingOptions
) -> np.ndarray:
    """Return one row a mask: the mask, the real image where there is one, and the generated one;
    uint8 [height, width, 3].
    """
    return sheet(
        [[*_shown(masks, index), _made(generator, masks, index, options)] for index in chosen]
    )


def class_colours(label_map: LabelMap) -> dict[int, tuple[int, ...]]:
    """Return the colour of each class id as (red, green, blue), 0 to 255."""
    return {cls.id: tuple(bytes.fromhex(cls.colour.removeprefix("#"))) for cls in label_map.classes}


def _shown(masks: MaskList, index: int) -> list[np.ndarray]:
    images = [colour_mask(masks.read_mask(index), class_colours(masks.label_map))]
    return images + ([masks.read_image(index)] if masks.read_image else [])


def _made(
    generator: Generator, masks: MaskList, index: int, options: SamplingOptions
) -> np.ndarray:
    images: np.ndarray = generator.generate(
        masks.read_mask(index)[None], [masks.ids[index]], options, finite_only=True
    )[0]
    return images
