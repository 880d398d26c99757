"""The bytes of one pair -> the measured columns of its row; pure but for a memory of what was
seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from histoprep import imageio, rule_ids
from histoprep.digests import digest
from histoprep.errors import BrokenFileError
from histoprep.fit.measure import mask_shares, measure_fit, tile_grid
from histoprep.imageio.header import Header
from histoprep.lossy import Signals
from histoprep.lossy.jpeg_history import FixedPoint
from histoprep.lossy.observations import find_fixed
from histoprep.lossy.onsets import BlockGrid
from histoprep.mask_reading import UNDECIDED, MaskEncoding
from histoprep.neighbours.borders import measure_borders
from histoprep.neighbours.landmarks import find_landmarks
from histoprep.neighbours.placement import SmallImage
from histoprep.scanning.content import content_of
from histoprep.tiles import TileOptions
from histoprep.tiles.measure import (
    compact_labels,
    describe_colours,
    gradient_hash,
    is_gradual,
    measure_luminance,
    measure_mask,
)

Facts = dict[str, Any]
# Not columns: what `fit_of` compares.
_GRID, _SHARES = "image grid", "mask shares"
# Modes of photographs; only a sign of masks among the images makes us look at their pixels.
_PHOTOGRAPHS = ("RGB", "RGBA", "CMYK", "YCbCr")


class Measurer:
    """Turns bytes into the measured columns; identical bytes are decoded once.

    The memory of what was measured is by digest and bounded; it holds facts, and of images and
    masks of more than one label a few hundred cells.
    """

    def __init__(
        self, options: TileOptions, num_remembered: int = 4096, *, keeps_cells: bool = False
    ) -> None:
        self.options = options
        # Of images that may overlap others, by digest, where these are kept.
        self.cells: dict[str, SmallImage] = {}
        self._keeps_cells = keeps_cells
        self._reading = options.mask_reading
        self.num_remembered = num_remembered
        self._images: dict[str, Facts] = {}
        self._alone: dict[str, Facts] = {}
        self._masks: dict[str, Facts] = {}

    def image(self, data: bytes | BrokenFileError, *, is_alone: bool = False) -> Facts:
        """Return the image columns of a file's bytes, or of the error that stands for them.

        Args:
            data: The bytes of the file, or why there are none.
            is_alone: Whether it has no mask although it could; then it must not look like one.
        """
        if is_alone:
            return self._measured("image", data, self._alone, self._measure_image_alone)
        return self._measured("image", data, self._images, self._measure_image)

    def mask(self, data: bytes | BrokenFileError) -> Facts:
        """Return the mask columns of a file's bytes, or of the error that stands for them."""
        return self._measured("mask", data, self._masks, self._measure_mask)

    def _measured(
        self,
        what: str,
        data: bytes | BrokenFileError,
        known: dict[str, Facts],
        measure: Callable[[bytes, Facts], None],
    ) -> Facts:
        if isinstance(data, BrokenFileError):
            return _failure(what, data)
        key = digest(data)
        facts = known.get(key)
        if facts is None:
            facts = {f"{what}_digest": key}
            try:
                measure(data, facts)
            except BrokenFileError as error:
                facts.update(_failure(what, error))
            if len(known) >= self.num_remembered:
                known.pop(next(iter(known)))
            known[key] = facts
        return facts

    def _header(self, data: bytes, what: str, facts: Facts) -> Header:
        header = imageio.read_header(data, UNDECIDED if what == "image" else self._reading)
        prefix = "" if what == "image" else "mask_"
        facts.update(
            {
                f"{what}_format": header.format,
                f"{what}_mode": header.mode,
                f"{what}_bit_depth": header.bit_depth,
                f"{what}_pages": header.num_pages if header.num_pages > 1 else None,
                f"{prefix}width_px": header.width_px,
                f"{prefix}height_px": header.height_px,
                f"{what}_metadata": header.metadata or None,
            }
        )
        if header.num_pixels > self.options.max_pixels:
            size = f"{header.width_px}x{header.height_px}"
            raise BrokenFileError(
                str(rule_ids.HUGE_IMAGE),
                f"{size} pixels, more than --max-pixels {self.options.max_pixels:,}",
            )
        return header

    def _measure_image(self, data: bytes, facts: Facts) -> None:
        header = self._header(data, "image", facts)
        facts["jpeg_quality"] = header.jpeg_quality
        facts["jpeg_subsampling"] = header.jpeg_subsampling
        facts["exif_orientation"] = header.orientation
        if self.options.headers_only:
            return
        if self.options.neighbours:
            whole = imageio.decode_luminance(data, header)
            grey = imageio.shrink_to_eighth(whole)
            facts.update(_neighbour_facts(whole))
            if self._keeps_cells and facts["landmarks"] is not None:
                self.cells[facts["image_digest"]] = SmallImage.of(whole)
        else:
            grey = imageio.decode_luminance_eighth(data, header)
        measured = measure_luminance(grey)
        facts["focus"] = measured.focus
        facts["luminance"] = measured.mean
        facts["contrast"] = measured.contrast
        facts["background_share"] = measured.background_share
        compared = imageio.decode_compared_luminance(data, header, grey)
        facts["image_hash"] = gradient_hash(compared)
        facts["luminance_digest"] = digest(compared.tobytes())
        facts[_GRID] = tile_grid(compared, header.height_px, header.width_px)

    def _measure_image_alone(self, data: bytes, facts: Facts) -> None:
        self._measure_image(data, facts)
        is_photograph = facts["image_mode"] in _PHOTOGRAPHS and not self.options.seeks_labels
        if self.options.headers_only or is_photograph:
            return
        content = content_of(data)
        if content.is_labels:
            raise BrokenFileError(
                rule_ids.LABEL_LIKE_IMAGE.verdict(content.name.lower()),
                f"looks like a label mask ({content})",
            )

    def _measure_mask(self, data: bytes, facts: Facts) -> None:
        header = self._header(data, "mask", facts)
        facts["mask_label_map"] = header.label_map
        # Of some formats only the pixels tell.
        facts["mask_lossy"] = header.lossy
        facts["mask_jpeg_quality"] = header.jpeg_quality
        if self.options.headers_only:
            return
        stored = imageio.decode_stored(data, header)
        facts["mask_lossy"] = lossy = imageio.find_loss(data, header, stored)
        facts.update(_encoding_facts(stored, header))
        try:
            labels, encoding = imageio.labels_of(stored, header, self._reading)
        except BrokenFileError:
            facts.update(_colour_facts(stored))
            raise
        facts["mask_encoding"] = encoding.value
        self._measure_labels(labels, encoding, lossy, facts)

    def _measure_labels(
        self, labels: np.ndarray, encoding: MaskEncoding, lossy: str | None, facts: Facts
    ) -> None:
        ids, compact = compact_labels(labels)
        measured = measure_mask(compact, self.options.min_area_px)
        if is_gradual(compact, measured):
            number = len(measured.ids)
            raise BrokenFileError(
                rule_ids.MASK_WRONG_MODE.verdict("probability"),
                f"{number:,} values that change gradually: probabilities, distances or an image, no"
                " labels; decide on a class for each pixel, such as by a threshold, then save label"
                " ids",
            )
        facts["mask_cell_px"] = measured.cell_px
        facts["label_ids"] = measured.ids if ids is None else ids[measured.ids]
        facts["label_pixels"] = measured.pixels
        facts["label_core_pixels"] = measured.core_pixels
        facts["label_radius_px"] = measured.radius_px
        facts["label_regions"] = measured.regions
        facts["label_specks"] = measured.specks
        facts[_SHARES] = mask_shares(compact, measured.ids, measured.pixels)
        if measured.lossy:
            # Colours have no order, so that nothing lies between two of them.
            by_value = not encoding.is_coloured
            signals = measured.lossy if by_value else measured.lossy.without_values()
            facts.update(_signal_facts(signals))
            if lossy is None and by_value and (fixed_point := find_fixed(compact, signals)):
                facts.update(_fixed_facts(fixed_point))


def fit_of(image: Facts, mask: Facts) -> Facts:
    """Return the columns of how well a mask fits its image, both measured; none where nothing can
    be told.
    """
    fit = measure_fit(image.get(_GRID), mask.get(_SHARES))
    if fit is None:
        return {}
    return {
        "fit_explained": fit.explained,
        "fit_evidence": fit.evidence,
        "fit_cell_px": fit.cell_px,
    }


def _neighbour_facts(grey: np.ndarray) -> Facts:
    """Return the columns by which tiles that touch or overlap are found."""
    borders, landmarks = measure_borders(grey), find_landmarks(grey)
    return {
        "borders": None if borders is None else borders.tobytes(),
        "landmarks": landmarks.tobytes() if len(landmarks) else None,
    }


def _colour_facts(stored: np.ndarray) -> Facts:
    """Return the columns of a mask that was decoded and holds no labels."""
    if stored.ndim == 2 and stored.dtype.kind in "iub":
        return {}
    colours, are_equal = describe_colours(stored)
    return {"mask_colours": colours, "mask_channels_equal": are_equal}


def _encoding_facts(stored: np.ndarray, header: Header) -> Facts:
    """Return what readers make of a mask where they disagree, and its colours where it has a
    palette.
    """
    facts: Facts = {}
    if (doubt := imageio.find_doubt(stored, header)) is not None:
        facts |= {
            "mask_doubt": doubt.kind,
            "mask_stored_ids": doubt.stored,
            "mask_shown_ids": doubt.shown,
        }
    if header.palette and (colours := imageio.palette_colours(stored, header)) is not None:
        facts["mask_stored_ids"], facts["mask_palette"] = colours
    return facts


def _signal_facts(signals: Signals) -> Facts:
    gaps, filled = signals.gaps
    return {
        **(_grid_facts(signals.grid) if signals.grid else {}),
        "mask_turns": signals.turns,
        "mask_webp_gaps": gaps,
        "mask_webp_filled": filled,
        "mask_mixed_blocks": signals.blocks.own,
        "mask_shifted_blocks": signals.blocks.shifted,
        "mask_steps": signals.steps,
        "mask_rim_pixels": signals.rim_pixels,
        "mask_rough_pairs": signals.rough_pairs,
        "mask_contacts": signals.contacts,
        "mask_soft_contacts": signals.soft_contacts,
        "mask_ramp_labels": len(signals.ramp_ids),
    }


def _grid_facts(grid: BlockGrid) -> Facts:
    return {
        "mask_grid_score": grid.score,
        "mask_own_score": grid.own_score,
        "mask_grid_px": grid.period_px,
        "mask_grid_row": grid.row,
        "mask_grid_column": grid.column,
        "mask_onsets": grid.onsets,
    }


def _fixed_facts(fixed_point: FixedPoint) -> Facts:
    return {
        **(_grid_facts(fixed_point.grid) if fixed_point.grid else {}),
        "mask_jpeg_quality": fixed_point.quality or None,
        "mask_fixed_blocks": fixed_point.fixed,
        "mask_tried_blocks": fixed_point.blocks,
        "mask_fixed_moved": fixed_point.is_moved,
    }


def _failure(what: str, error: BrokenFileError) -> Facts:
    return {f"{what}_error": error.verdict, f"{what}_error_detail": error.detail}
