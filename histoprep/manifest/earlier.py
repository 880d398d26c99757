"""The split of an earlier manifest, which a new one keeps: tiles that were in test stay there."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histoprep.durable import write_bytes
from histoprep.errors import IntegrityError, UsageError
from histoprep.manifest.given import IncludedTiles
from histoprep.phrases import first_of
from histoprep.schemas.manifest import FOLD, Manifest, open_manifest
from histoprep.split.units import NO_SPLIT, SPLITS, name_keys

_RESHUFFLE = "--reshuffle splits all tiles anew"
_TOLERANCE = 1e-6
# How the command line asks for each method of a recipe.
_OPTIONS = {
    "auto": "--split-method auto --ignore-folder-split",
    "hash": "--split-method hash",
    "folder": "the split of folders, without --ignore-folder-split",
    "table": "the split of the table of pairs, without --ignore-folder-split",
    "file": "--split-file",
    "test": "--test",
}


@dataclass(frozen=True, slots=True)
class EarlierSplit:
    """The split of a manifest, by tile, and by image where a tile has another name now.

    Attributes:
        path: The manifest.
        recipe: How its split was made.
        tile_keys: Keys of its tile ids (uint64 [n], ascending), seeded.
        tile_codes: Their split codes and folds, or `NO_SPLIT` (int8 [n, 2]).
        image_keys: Keys of its images (uint64 [n], ascending), seeded.
        image_codes: Their split codes and folds, or `NO_SPLIT` (int8 [n, 2]).
    """

    path: Path
    recipe: Mapping[str, Any]
    tile_keys: np.ndarray
    tile_codes: np.ndarray
    image_keys: np.ndarray
    image_codes: np.ndarray

    @classmethod
    def of(cls, manifest: Manifest, seed: int) -> EarlierSplit:
        """Return the split of a manifest, its names seeded by `seed`."""
        tiles, images, codes = [], [], []
        fold = (FOLD.name,) if manifest.num_folds else ()
        for batch in manifest.iter_batches(("tile_id", "image_digest", "split", *fold)):
            tiles.append(name_keys(batch["tile_id"].to_pylist(), seed, "tile"))
            images.append(name_keys(batch["image_digest"].to_pylist(), seed, "image"))
            split = pc.index_in(batch["split"], pa.array(SPLITS)).to_numpy()
            folds = np.full(len(split), NO_SPLIT)
            if fold:
                folds = pc.fill_null(batch[FOLD.name], NO_SPLIT).to_numpy()
            codes.append(np.stack([split, folds], axis=1).astype(np.int8))
        return cls(
            manifest.path, manifest.recipe, *_ordered(tiles, codes), *_ordered(images, codes)
        )

    def lookup(self, tiles: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Return the split code and the fold (int8 [n, 2]) of tiles by their keys, or else by those
        of their images (uint64 [n], 0 for none); `NO_SPLIT` for those that were not there.
        """
        found = _find(self.tile_keys, self.tile_codes, tiles)
        by_image = _find(self.image_keys, self.image_codes, images)
        return np.where(found[:, :1] == NO_SPLIT, by_image, found)

    @property
    def fractions(self) -> dict[str, Fraction]:
        """Return the shares that its split was made for."""
        shares = {name: Fraction(str(value)) for name, value in self.recipe["fractions"].items()}
        total = sum(shares.values())
        return {name: shares[name] / total for name in SPLITS if name in shares}

    def check(self, method: str, fractions: Mapping[str, Fraction] | None, seed: int) -> None:
        """Raise UsageError when the split was made otherwise than the new one is to be.

        Args:
            method: How the new split is made, as in a recipe.
            fractions: The shares that are asked for, or None.
            seed: Of the new split.
        """
        if seed != self.recipe["seed"]:
            raise self._made_otherwise(
                seen=f"--seed {seed}", expected=f"--seed {self.recipe['seed']}"
            )
        if self.recipe["method"] != method:
            raise self._made_otherwise(seen=_OPTIONS[method], expected=self._option)
        if fractions is None or method not in ("auto", "hash"):
            return
        wanted, made = (
            np.array([float(shares.get(name, 0)) for name in SPLITS])
            for shares in (fractions, self.fractions)
        )
        if (np.abs(wanted - made) > _TOLERANCE).any():
            raise self._made_otherwise(
                seen=f"--split {_in_words(fractions)}",
                expected=f"--split {_in_words(self.fractions)}",
            )

    @property
    def _option(self) -> str:
        """Return the option that makes a split as this one was made."""
        names = self.recipe.get("split_file") or ",".join(self.recipe.get("test", ()))
        option = _OPTIONS[str(self.recipe["method"])]
        return f"{option} {shlex.quote(str(names))}" if names else option

    def _made_otherwise(self, seen: str, expected: str) -> UsageError:
        return UsageError(
            "the manifest whose split is kept was split otherwise",
            path=self.path,
            seen=seen,
            expected=expected,
            hint=f"say what is expected, so that its tiles stay; or {_RESHUFFLE}",
        )


def open_earlier(path: Path) -> Manifest:
    """Return the manifest whose split is to be kept.

    Raises:
        UsageError: There is none.
        IntegrityError: It is damaged.
    """
    try:
        return open_manifest(path)
    except IntegrityError as error:
        raise IntegrityError(
            "the manifest whose split is to be kept cannot be read",
            path=path,
            seen=error.what,
            hint=f"restore it; or {_RESHUFFLE}",
        ) from error


def _ordered(keys: list[np.ndarray], codes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if not keys:
        return np.zeros(0, np.uint64), np.zeros((0, 2), np.int8)
    order = np.argsort(whole := np.concatenate(keys), kind="stable")
    return whole[order], np.concatenate(codes)[order]


def _find(keys: np.ndarray, codes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the codes (int8 [n, 2]) of each wanted key; `NO_SPLIT` for 0 and for those not among
    `keys`.
    """
    if not len(keys):
        return np.full((len(wanted), 2), NO_SPLIT, dtype=np.int8)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    is_found = (keys[at] == wanted) & (wanted != 0)
    return np.where(is_found[:, None], codes[at], np.int8(NO_SPLIT))


def _in_words(fractions: Mapping[str, Fraction]) -> str:
    return ",".join(f"{name}={float(fractions[name]):g}" for name in SPLITS if name in fractions)


def lost_folds_warning(target: Path, folds: str | None) -> str | None:
    """Return a warning when the manifest at `target` has folds, and a new split in its place would
    have none; None also where nobody can tell, since that manifest is damaged.
    """
    if folds is not None or not target.exists():
        return None
    try:
        before = open_manifest(target).recipe.get("folds")
    except IntegrityError:
        return None
    if before is None:
        return None
    number = len(before["names"])
    how = str(number) if before["by"] == "number" else shlex.quote(str(before["by"]))
    return f"the manifest before had {number} folds, and --reshuffle makes none: --folds {how}"


def write_moved(
    path: Path, source: IncludedTiles, kept: np.ndarray, splits: np.ndarray
) -> tuple[int, str]:
    """Write the tiles whose split is not the kept one to a table (tile_id, from, to); return how
    many there are, and the first in words.

    Where none moved, a table of before stays: it names those that moved last. One of a split that
    is not kept at all is removed.

    Args:
        path: The table.
        source: The tiles.
        kept: The split code that each had, or `NO_SPLIT` (int8 [n]).
        splits: The split code that each has now (int8 [n]).
    """
    moved = np.flatnonzero((kept != NO_SPLIT) & (kept != splits))
    if not len(moved):
        if (kept == NO_SPLIT).all():
            path.unlink(missing_ok=True)
        return 0, ""
    names = [row["tile_id"] for row in source.describe(moved)]
    before, after = ([SPLITS[code] for code in codes[moved].tolist()] for codes in (kept, splits))
    rows = list(zip(names, before, after, strict=True))

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("tile_id", "from", "to"), *rows])
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))
    return len(rows), first_of([f"{name} ({old} to {new})" for name, old, new in rows])
