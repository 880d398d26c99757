"""What is written: a data set of images and masks with its label map and manifest, whole at any
moment, marked as synthetic.

`OUT/images/ID.png`, `OUT/masks/ID.png`, `OUT/label_map.yml`; beside it, where histoprep looks for
it, `OUT.histoprep/manifest.parquet`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from histoprep import checksums, imageio
from histoprep.checksums import Checksum
from histoprep.digests import file_digest
from histoprep.durable import publish_in_batch, sync_file_system, write_text
from histoprep.errors import IntegrityError, OutputError, UsageError
from histoprep.job_folder import JobFolder, output_errors
from histoprep.labels import LabelMap, format_label_map
from histoprep.names import to_name, to_text
from trainer.sampling.digest_journal import JOURNAL, append_digests, check_images, read_digests
from trainer.sampling.masks import classes_as_sources, read_labels

REQUEST, LABEL_MAP = "sampling.json", "label_map.yml"
MAKE_AGAIN = "restore it from a copy, or make it again: the same command with --force"
_THREADS = 8
_SPLITS = "split.csv"
# What every workspace of a data set holds sooner or later.
_OF_DATA_SETS = ("manifest.parquet", "tiles.parquet")


@dataclass(frozen=True)
class SyntheticDataset:
    """A folder of synthetic tiles. `request` is everything its images depend on; another request
    for the same folder is refused.
    """

    root: Path
    request: Mapping[str, Any]

    @property
    def workspace(self) -> Path:
        """Return the folder beside the data set that holds what is made from it."""
        return self.root.with_name(self.root.name + ".histoprep")

    @property
    def job(self) -> JobFolder:
        """Return the data set as a folder that `trainer sample` fills, request in the workspace."""
        return JobFolder(
            self.workspace, REQUEST, "trainer sample", "images", MAKE_AGAIN, results=self.root
        )

    def start(self, *, force: bool = False, verify: bool = False) -> None:
        """Record the request, or raise UsageError when the folder was made by another one and
        `force` does not allow replacing it.

        A folder that holds anything else is refused whatever `force` says.

        Raises:
            IntegrityError: For files that were changed since they were made, unless `force` lets
                them be made again; with `verify` every file that is there is read.
        """
        if force:
            # Perhaps damaged; what it lists is written again.
            (self.workspace / checksums.CHECKSUMS).unlink(missing_ok=True)
        known = self.job.read_request()
        wanted = json.loads(json.dumps(dict(self.request)))
        if not force:
            hint = "choose another --out, or --force to replace them"
            self.job.refuse_other_request(known, wanted, hint=hint)
        self.refuse_foreign_files()
        if known is not None and known != wanted:
            for name in ("images", "masks"):
                for path in (self.root / name).rglob("*.png"):
                    path.unlink()
            (self.workspace / JOURNAL).unlink(missing_ok=True)
        with output_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        checksums.publish_json(self.workspace, REQUEST, wanted)
        self._check_images(force=force, verify=verify)
        checksums.forget_files(self.workspace, lambda name: name == JOURNAL)

    def _check_images(self, *, force: bool, verify: bool) -> None:
        """Raise IntegrityError for images and masks that were changed since, or delete them with
        `force`; those that are gone are made again.
        """
        try:
            expected = read_digests(self.workspace)
        except IntegrityError:
            if not force:
                raise
            (self.workspace / JOURNAL).unlink()
            for name in ("images", "masks"):
                for path in (self.root / name).rglob("*.png"):
                    path.unlink()
            return
        damages = [
            damage
            for damage in check_images(self.root, self.workspace, expected, whole=verify)
            if not damage.is_missing
        ]
        if not force:
            checksums.raise_damage(
                damages, "an image or mask was changed since it was made", MAKE_AGAIN
            )
        for damage in damages:
            Path(to_name(damage.path)).unlink()

    def refuse_foreign_files(self) -> None:
        """Raise UsageError, with nothing written, when files that were not made here are in the
        data set's folder or its workspace.
        """
        self.job.refuse_foreign_files()
        if self.job.is_begun:
            return
        theirs = [name for name in _OF_DATA_SETS if (self.workspace / name).exists()]
        if theirs:
            raise UsageError(
                "this is the workspace of another data set",
                path=self.workspace,
                seen=", ".join(theirs),
                hint="name a new or empty folder with --out",
            )

    def has(self, tile_id: str, mask: np.ndarray) -> bool:
        """Return whether the image of a tile is there and was made for this mask; both files
        appear whole or not at all.
        """
        image_path, mask_path = self._paths(tile_id)
        return (
            image_path.is_file()
            and mask_path.is_file()
            and np.array_equal(read_labels(mask_path), mask)
        )

    def write(self, tile_ids: Sequence[str], images: np.ndarray, masks: np.ndarray) -> None:
        """Publish a batch of pairs, durably.

        Args:
            tile_ids: Their tile ids.
            images: uint8 [batch, height, width, 3].
            masks: Class ids, uint8 [batch, height, width].

        Raises:
            OutputError: When they cannot be written.
        """
        paths = [self._paths(tile_id) for tile_id in tile_ids]
        # Compression lets go of the interpreter's lock, and takes as long as a GPU for the
        # images.
        with ThreadPoolExecutor(_THREADS) as threads:
            encoded = list(threads.map(self._encode, images, masks))
        try:
            for (image_path, mask_path), (image, mask) in zip(paths, encoded, strict=True):
                # An image of another mask must not stand beside the new one.
                image_path.unlink(missing_ok=True)
                for path, data in ((mask_path, mask), (image_path, image)):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    publish_in_batch(path, data)
            sync_file_system(self.root)
            names = [
                to_text(path.relative_to(self.root).as_posix()) for pair in paths for path in pair
            ]
            append_digests(
                self.workspace,
                dict(
                    zip(
                        names, (Checksum.of(data) for pair in encoded for data in pair), strict=True
                    )
                ),
            )
        except OSError as error:
            raise OutputError.from_os_error(error, error.filename or self.root) from error

    def finish(
        self, splits: Mapping[str, str], label_map: LabelMap, *, most_pixels: int = 0
    ) -> Path:
        """Write label map and manifest, each tile in the split of its mask, and return the
        manifest's path.

        Args:
            splits: Split of each tile id.
            label_map: The classes of the masks.
            most_pixels: Pixels of the largest image; it is read again however large it is.
        """
        from histoprep.manifest.build import ManifestOptions, build_manifest
        from histoprep.schemas.workspace import Workspace
        from histoprep.tiles.table import ensure_tiles

        own = classes_as_sources(label_map)
        text = format_label_map(own)
        write_text(self.root / LABEL_MAP, text)
        self._record_splits(splits)
        self._record_digests({LABEL_MAP: Checksum.of(text.encode())})
        workspace = Workspace.of(self.root)
        tiles = ensure_tiles(workspace, least_max_pixels=most_pixels)
        options = ManifestOptions(method="file", split_file=self.workspace / _SPLITS)
        return build_manifest(tiles, own, options, workspace.manifest).path

    def _record_splits(self, splits: Mapping[str, str]) -> None:
        """Write the split of every image, with those of earlier runs: other masks may have been
        asked for then.
        """
        place = self.workspace / _SPLITS
        rows = (
            dict(csv.reader(checksums.read_file(place, hint=MAKE_AGAIN).decode().splitlines()[1:]))
            if place.is_file()
            else {}
        )
        rows |= {f"images/{tile_id}": split for tile_id, split in splits.items()}
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([("tile_id", "split"), *rows.items()])
        checksums.publish_file(self.workspace, _SPLITS, stream.getvalue())

    def _record_digests(self, more: Mapping[str, Checksum]) -> None:
        """Add what the journal does not have yet, and list the journal itself."""
        known = read_digests(self.workspace)
        # Of an earlier version, or of a run that was killed before it could note them.
        found = (path for name in ("images", "masks") for path in (self.root / name).rglob("*.png"))
        names = [
            name
            for path in found
            if (name := to_text(path.relative_to(self.root).as_posix())) not in known
        ]
        try:
            fresh = {
                name: Checksum(
                    Path(self.root, to_name(name)).stat().st_size,
                    file_digest(Path(self.root, to_name(name))),
                )
                for name in names
            }
            append_digests(
                self.workspace,
                {
                    **fresh,
                    **{name: digest for name, digest in more.items() if known.get(name) != digest},
                },
            )
            check_images(self.root, self.workspace, read_digests(self.workspace), whole=False)
            checksums.list_files(self.workspace, [JOURNAL])
        except OSError as error:
            raise OutputError.from_os_error(error, error.filename or self.workspace) from error

    def _paths(self, tile_id: str) -> tuple[Path, Path]:
        parts = PurePosixPath(tile_id).parts
        if not parts or ".." in parts or tile_id.startswith("/"):
            raise UsageError(
                "a tile id cannot become a file name",
                seen=repr(tile_id),
                expected="a relative path",
            )
        image, mask = (self.root.joinpath(name, *parts) for name in ("images", "masks"))
        return image.with_name(image.name + ".png"), mask.with_name(mask.name + ".png")

    def _encode(self, image: np.ndarray, mask: np.ndarray) -> tuple[bytes, bytes]:
        return imageio.encode_rgb_png(image, imageio.SYNTHETIC_MARK), imageio.encode_mask_png(
            mask, imageio.SYNTHETIC_MARK
        )
