"""Thumbnails of the tiles that findings name, decoded in a worker process like everything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histoprep import imageio
from histoprep.checks import Evidence
from histoprep.checks.neighbours import crossing_pairs
from histoprep.errors import BrokenFileError
from histoprep.execution import Engine, Marker, run_tasks
from histoprep.findings import Finding, Mark
from histoprep.fit.remedy import Remedy
from histoprep.labels import IGNORED, IGNORED_ID, UNMAPPED, LabelMap, TargetClass
from histoprep.mask_reading import UNDECIDED, Reading
from histoprep.neighbours.placement import turned
from histoprep.remote import file_bytes
from histoprep.report import wanted_thumbnails
from histoprep.report.thumbnails import Thumbnail, make_seam, make_thumbnail, unlisted
from histoprep.schemas.repaired import open_repaired
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.listing import absolute_path

if TYPE_CHECKING:
    from histoprep.auditing.marks import Box

_TIME_LIMIT_S = 60.0
_IGNORED = TargetClass(IGNORED_ID, "ignored", "#ffffff")
# Larger files would only slow the report down.
_MAX_PIXELS = 64_000_000


class Seam(NamedTuple):
    """How an image lies beside another, `first`: turned, with its upper left corner at `corner`
    (down, right) of that.
    """

    first: str
    orientation: int
    corner: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ThumbnailTask:
    """Draws some tiles: (path the finding names, what is marked, image path, path of the mask to
    draw).
    """

    root: str
    tiles: tuple[tuple[str, Mark, str | None, str | None], ...]
    label_map: LabelMap
    is_identity: bool
    marker: Path
    left_out: tuple[int, ...] = ()
    reading: Reading = UNDECIDED
    min_area_px: int = 0
    remedies: Mapping[str, tuple[str, Remedy]] = field(default_factory=dict)
    seams: Mapping[str, Seam] = field(default_factory=dict)

    def run(self) -> dict[tuple[str, Mark], Thumbnail]:
        """Return the thumbnails that could be drawn, by path and mark."""
        marker = Marker(self.marker, _TIME_LIMIT_S)
        drawn: dict[tuple[str, Mark], Thumbnail] = {}
        classes = (*self.label_map.classes, *((_IGNORED,) if self.label_map.ignore else ()))
        for index, (path, mark, image_path, mask_path) in enumerate(self.tiles):
            marker.at(index)
            if index not in self.left_out:
                image, labels = self._image(image_path), self._labels(mask_path)
                if image is not None or labels is not None:
                    shown = None if labels is None else self._shown(labels)
                    thumbnail = make_thumbnail(
                        image, shown, classes, marks=self._marks(labels, mark)
                    )
                    fitting = self._fitting(path) if mark is Mark.FIT else None
                    if fitting is not None:
                        uri = make_thumbnail(image, fitting, classes).overlay_data_uri
                        thumbnail = replace(thumbnail, fitting_data_uri=uri)
                    if mark is Mark.SEAM:
                        thumbnail = self._seam(path, image) or thumbnail
                    drawn[path, mark] = thumbnail
        marker.close()
        return drawn

    def num_done(self, index: int | None) -> int:
        """Return how many thumbnails are done at item `index`; all of them for None."""
        return len(self.tiles) if index is None else index

    def without(self, index: int, reason: str) -> ThumbnailTask:
        """Return the task that leaves one thumbnail out."""
        return replace(self, left_out=(*self.left_out, index))

    def _read(
        self, path: str | None, reading: Reading = UNDECIDED
    ) -> tuple[bytes, imageio.Header] | None:
        if path is None:
            return None
        try:
            data = file_bytes(absolute_path(self.root, path))
            header = imageio.read_header(data, reading)
        except (OSError, BrokenFileError):
            return None
        return (data, header) if header.num_pixels <= _MAX_PIXELS else None

    def _image(self, path: str | None) -> np.ndarray | None:
        found = self._read(path)
        try:
            return imageio.decode_rgb(*found) if found else None
        except BrokenFileError:
            return None

    def _labels(self, path: str | None) -> np.ndarray | None:
        found = self._read(path, self.reading)
        try:
            labels = imageio.decode_mask(*found, self.reading) if found else None
        except BrokenFileError:
            return None
        return (
            labels if labels is not None and labels.ndim == 2 and labels.dtype.kind == "u" else None
        )

    def _fitting(self, path: str) -> np.ndarray | None:
        """Return classes to draw of the mask that fits the image of a mask."""
        mask_path, remedy = self.remedies.get(path, (None, Remedy()))
        labels = self._labels(mask_path)
        return None if labels is None else self._shown(remedy.apply(labels))

    def _seam(self, path: str, image: np.ndarray | None) -> Thumbnail | None:
        """Return the image and the one that it touches or overlaps, as they lie."""
        seam = self.seams.get(path)
        first = self._image(seam.first) if seam else None
        if seam is None or first is None or image is None:
            return None
        return make_seam(first, turned(image, seam.orientation), seam.corner)

    def _marks(self, labels: np.ndarray | None, mark: Mark) -> list[Box]:
        if labels is None or mark in (Mark.NONE, Mark.FIT, Mark.SEAM):
            return []
        from histoprep.auditing.marks import find_marks

        label_map = None if self.is_identity else self.label_map
        try:
            return find_marks(labels, mark, self.min_area_px, label_map)
        except BrokenFileError:
            return []

    def _shown(self, labels: np.ndarray) -> np.ndarray:
        """Return classes to draw; labels that the map does not list as negative numbers."""
        # Thumbnails are drawn of 31 bits: labels that differ above them share a colour.
        values = (labels.astype(np.int64) & np.iinfo(np.int32).max).astype(np.int32)
        if self.is_identity:
            return values
        classes = self.label_map.apply_to_ids(labels)
        shown = np.where(classes == IGNORED, np.int32(IGNORED_ID), classes)
        return np.where(classes == UNMAPPED, unlisted(values), shown)


def make_thumbnails(
    workspace: Workspace, evidence: Evidence, found: Iterable[Finding], engine: Engine
) -> dict[tuple[str, Mark], Thumbnail]:
    """Return thumbnails for the paths that the report shows, as far as they can be decoded."""
    wanted = wanted_thumbnails(found)
    overview = evidence.overview
    paths = {path for path, _ in wanted}
    chosen = overview[overview.image_path.isin(paths) | overview.mask_path.isin(paths)]
    marks: dict[str, list[Mark]] = {}
    for path, mark in wanted:
        marks.setdefault(path, []).append(mark)
    repaired = _repaired(workspace, evidence, chosen.mask_path)
    tiles: list[tuple[str, Mark, str | None, str | None]] = []
    for image_path, mask_path in zip(chosen.image_path, chosen.mask_path, strict=True):
        image, mask = (path if isinstance(path, str) else None for path in (image_path, mask_path))
        tiles += [
            (path, mark, image, _drawn(mask, mark, repaired))
            for path in (image, mask)
            if path is not None
            for mark in marks.get(path, ())
        ]
    if not tiles:
        return {}
    label_map = evidence.label_map or evidence.raw_map
    task = ThumbnailTask(
        str(workspace.root),
        tuple(tiles),
        label_map,
        evidence.label_map is None,
        workspace.parts / "thumbnails.at",
        reading=evidence.readings.reading,
        min_area_px=evidence.options.min_area_px,
        seams=_seams(evidence, {path for path, mark in wanted if mark is Mark.SEAM}),
        remedies=_remedies(evidence, {path for path, mark in wanted if mark is Mark.FIT}),
    )
    return next(run_tasks([task], replace(engine, num_workers=1)))


def _repaired(workspace: Workspace, evidence: Evidence, masks: Iterable[object]) -> dict[str, str]:
    """Return the repaired masks of those masks that rules judged by them."""
    damaged = [mask for mask in masks if isinstance(mask, str) and mask in evidence.repaired]
    found = open_repaired(workspace.folder) if damaged else None
    return found.paths_of(damaged) if found else {}


def _drawn(mask: str | None, mark: Mark, repaired: Mapping[str, str]) -> str | None:
    """Return the file to draw: the repaired mask, which rules judge, but for its fit."""
    return mask if mask is None or mark is Mark.FIT else repaired.get(mask, mask)


def _seams(evidence: Evidence, paths: set[str]) -> dict[str, Seam]:
    """Return how images that have a neighbour in another split or group lie beside it."""
    if not paths:
        return {}
    seams: dict[str, Seam] = {}
    for column in ("group", "split"):
        for pair in crossing_pairs(evidence, column).to_dict("records"):
            if pair["image_b"] in paths:
                corner = pair["down_px"], pair["right_px"]
                seams[pair["image_b"]] = Seam(pair["image_a"], pair["orientation"], corner)
    return seams


def _remedies(evidence: Evidence, paths: set[str]) -> dict[str, tuple[str, Remedy]]:
    """Return the mask that fits the image of each of some masks, and what has to be done to it."""
    return {
        mask.mask_path: remedy
        for misfit in evidence.misfits
        for mask in misfit.masks
        if mask.mask_path in paths and (remedy := misfit.remedy_of(mask)) is not None
    }
