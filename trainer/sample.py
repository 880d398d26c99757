"""Masks to a data set of images: in batches, resumable; an image does not depend on the others
sampled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoprep.durable import locked
from histoprep.errors import UsageError
from histoprep.labels import IGNORED_ID
from histoprep.schemas.synthetic import write_real
from histoprep.storage import is_address
from trainer.sampling.dataset import SyntheticDataset
from trainer.sampling.generator import Generator, KeptPixels, SamplingOptions
from trainer.sampling.keep import KeepRegions
from trainer.sampling.masks import MaskList
from trainer.sampling.tiling import Crop
from trainer.signals import saying

Advance = Callable[[int], object]


@dataclass(frozen=True)
class SampleResult:
    """What `sample_dataset` did: `num_made` images now, `num_there` were made before. `manifest`
    is the path of the manifest.
    """

    num_made: int
    num_there: int
    manifest: Path


def sample_dataset(
    generator: Generator,
    masks: MaskList,
    out: Path,
    options: SamplingOptions,
    *,
    batch_size: int = 8,
    keep: KeepRegions | None = None,
    crop: Crop | None = None,
    origin: Mapping[str, Any] | None = None,
    trained_on: str | None = None,
    limit: int | None = None,
    force: bool = False,
    verify: bool = False,
    advance: Advance = lambda _: None,
) -> SampleResult:
    """Sample one image for each mask and write images, masks, label map and manifest.

    An interrupted run resumes with the batches that are not complete; batches are cut the same way
    each
    time, so the images are those of an uninterrupted run.

    Args:
        generator: The model.
        masks: The masks, with ids, splits and, where there are any, the real images.
        out: The data set.
        options: Guidance, solver and seed.
        batch_size: Images sampled at once.
        keep: Which pixels of the real images stay.
        crop: The part of each image to make, as it is in the whole image.
        origin: What the model is; recorded in the request.
        trained_on: Manifest of the training, whose tiles may be the real ones of these masks.
        limit: Sample only this many images; the others can follow later.
        force: Replace images that were made with other options, or changed since.
        verify: Read all images that exist already and compare them with their digests.
        advance: Called with the number of images done.

    Raises:
        UsageError: For masks that the model cannot take, and a folder of another request.
        DivergedError: For images that are not finite.
        IntegrityError: For files that were changed since they were made.
        OutputError: When `out` cannot be written.
        LockedError: When another process writes to it.
    """
    check_masks(generator, masks, options, keep=keep is not None)
    if crop is not None:
        _check_crop(generator, masks, crop)
    part = (slice(None), slice(None)) if crop is None else crop.area()
    dataset = SyntheticDataset(
        out.resolve(),
        {
            **options.to_json(),
            **(origin or {}),
            "precision": generator.precision,
            "keep": keep.digest if keep else None,
            **({} if crop is None else {"crop": list(crop)}),
        },
    )
    chosen = range(min(len(masks), limit or len(masks)))
    num_made = num_done = most_pixels = 0
    # The lock is a file in the workspace, which may be somebody's.
    dataset.refuse_foreign_files()
    with (
        locked(dataset.workspace),
        saying(lambda: f"{num_done:,} of {len(chosen):,} images are kept"),
    ):
        dataset.start(force=force, verify=verify)
        # An address is no place on this machine.
        sources = [name for name in (masks.source, trained_on) if name and not is_address(name)]
        write_real(dataset.workspace, sources)
        for batch in batches_of(masks, chosen, batch_size):
            read = np.stack([_checked_mask(generator, masks, index) for index in batch])
            tile_ids = [masks.ids[index] for index in batch]
            parts = np.ascontiguousarray(read[:, *part])
            if not all(
                dataset.has(tile_id, mask) for tile_id, mask in zip(tile_ids, parts, strict=True)
            ):
                kept = _kept(masks, batch, keep)
                images = generator.generate(
                    read, tile_ids, options, kept, finite_only=True, crop=crop
                )
                dataset.write(tile_ids, images, parts)
                num_made += len(batch)
            num_done += len(batch)
            most_pixels = max(most_pixels, parts[0].size)
            advance(len(batch))
        splits = dict(zip(masks.ids, masks.splits, strict=True))
        manifest = dataset.finish(splits, masks.label_map, most_pixels=most_pixels)
    return SampleResult(num_made, len(chosen) - num_made, manifest)


def _check_crop(generator: Generator, masks: MaskList, crop: Crop) -> None:
    """Raise UsageError for a crop that is not in all images, or that the model cannot make."""
    seen = ", ".join(map(str, crop))
    if generator.halo is None:
        raise UsageError(
            "this denoiser makes whole images only",
            seen=f"a crop, {seen}",
            hint="leave out --crop; mask-unet can make crops",
        )
    factor = int(generator.codec.factor)
    bottom, right = crop.top + crop.height, crop.left + crop.width
    height, width = masks.sizes.min(axis=0).tolist()
    if (
        any(number % factor for number in crop)
        or min(crop) < 0
        or not (crop.height > 0 and crop.width > 0 and bottom <= height and right <= width)
    ):
        raise UsageError(
            "this crop cannot be made",
            seen=f"top, left, height, width: {seen}",
            expected=f"multiples of {factor} px inside {height} x {width} px",
        )


def check_masks(
    generator: Generator, masks: MaskList, options: SamplingOptions, *, keep: bool
) -> None:
    """Raise UsageError, before anything is made, for a guidance scale that is no number, and a
    solver, classes, sizes or images that do not fit.
    """
    if not math.isfinite(options.guidance_scale):
        raise UsageError(
            "the guidance scale is not a finite number",
            seen=options.guidance_scale,
            expected="a finite one, such as 2",
        )
    objective = generator.objective
    most = objective.max_guidance
    if objective.prediction_type == "mean_flow" and not 1 <= options.guidance_scale <= most:
        raise UsageError(
            "this model was not trained with such a guidance scale",
            seen=options.guidance_scale,
            expected=f"1 to {most:g}",
        )
    interval = options.guidance_interval
    if interval is not None and not 0 <= interval[0] <= interval[1]:
        raise UsageError(
            "this is no guidance interval",
            seen=", ".join(map(str, interval)),
            expected="two noise levels sigma / signal, the lesser first, such as 0.2,5",
        )
    if problem := options.solver.problem(generator.objective):
        raise UsageError("the solver does not fit the network", seen=problem)
    largest = max(cls.id for cls in masks.label_map.classes)
    if largest >= generator.num_classes:
        raise UsageError(
            "the masks have classes that the network does not know",
            seen=f"class {largest} ({masks.label_map.class_name(largest)})",
            expected=f"classes 0 to {generator.num_classes - 1}",
            hint="use masks of the label map that the network was trained with",
        )
    masks.check_sizes(generator.multiple_px)
    if keep and masks.read_image is None:
        raise UsageError(
            "keeping a region needs the real images",
            hint="give a manifest as --masks, or their folder with --images",
        )


def batches_of(masks: MaskList, chosen: range, batch_size: int) -> Iterator[list[int]]:
    """Yield the numbers of masks in batches of one size each, in order; the same batches for the
    same list and batch size.
    """
    waiting: dict[tuple[int, ...], list[int]] = {}
    for index in chosen:
        size = tuple(masks.sizes[index].tolist())
        waiting.setdefault(size, []).append(index)
        if len(waiting[size]) == batch_size:
            yield waiting.pop(size)
    yield from waiting.values()


def _checked_mask(generator: Generator, masks: MaskList, index: int) -> np.ndarray:
    mask = masks.read_mask(index)
    classes = mask[mask != IGNORED_ID] if masks.label_map.ignore else mask
    if int(classes.max(initial=0)) >= generator.num_classes or mask.shape != tuple(
        masks.sizes[index]
    ):
        raise UsageError(
            "the mask changed while sampling",
            path=masks.ids[index],
            seen=f"class ids up to {int(mask.max())}, {mask.shape[0]} x {mask.shape[1]} px",
            expected=(
                f"class ids below {generator.num_classes},"
                f" {' x '.join(map(str, masks.sizes[index]))} px"
            ),
        )
    return mask


def _kept(masks: MaskList, batch: list[int], keep: KeepRegions | None) -> KeptPixels | None:
    if keep is None or masks.read_image is None:
        return None
    regions = [keep.read(index) for index in batch]
    for index, region in zip(batch, regions, strict=True):
        if region.shape != tuple(masks.sizes[index]):
            seen, expected = (
                " x ".join(map(str, size)) for size in (region.shape, masks.sizes[index])
            )
            raise UsageError(
                "the region to keep has another size than the mask",
                path=masks.ids[index],
                seen=seen,
                expected=expected,
            )
    return KeptPixels(np.stack([masks.read_image(index) for index in batch]), np.stack(regions))
