"""What a codec can keep of real tiles: the bound of whatever is decoded with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histoprep.labels import LabelMap
from trainer.data.transforms import NUM_VIEWS, apply_view, to_float, to_uint8
from trainer.evaluation.distances import measure_distances
from trainer.evaluation.faithfulness import ReadTiles, measure_faithfulness
from trainer.evaluation.features import SeenTile, Sight, open_sight
from trainer.evaluation.measured import Measured, json_number
from trainer.evaluation.sides import HELD_OUT, TRAIN, ComparedTiles, limit_side
from trainer.metrics.reconstruction import SSIM_WINDOW_PX, psnr, ssim
from trainer.models.codec import Codec
from trainer.segmentation.quick import FeatureTile, QuickOptions, segment_maps, train_decoder

NAME = "ceiling.json"
"""Where the ceiling is kept, in a latent set or a run."""
LEAST_SHARE = 0.6
"""A class is told apart after the codec when this share of its recognition is left."""
_LEAST_RECALL, _LEAST_TILES = 0.3, 5
_FINISHED, _CONFIG = "finished.json", "config.yml"
_QUICK = QuickOptions(steps=150)


@dataclass(frozen=True, eq=False)
class Ceiling:
    """What is left of real tiles after a codec.

    `psnr_db` and `ssim` are means over tiles, NaN where undefined. `kid` is the distance of
    reconstructions to real tiles, `faithfulness` what a segmenter reads in them over what it reads
    in the tiles; both None without labelled tiles of two groups. `classes` holds, by name, in how
    many `tiles` it is, its `recall` in real tiles and `share`, that of reconstructions over it.
    """

    tiles: int
    psnr_db: float
    ssim: float
    kid: Measured | None
    faithfulness: Measured | None
    classes: Mapping[str, Mapping[str, float | None]]

    @property
    def lost(self) -> tuple[str, ...]:
        """Return the classes that real tiles show and reconstructions hardly do; classes of fewer
        than five tiles are not judged.
        """
        return tuple(
            name
            for name, row in self.classes.items()
            if (row["tiles"] or 0) >= _LEAST_TILES
            and (row["recall"] or 0) >= _LEAST_RECALL
            and (row["share"] or 0) < LEAST_SHARE
        )

    @property
    def verdict(self) -> str:
        """Return in a sentence whether a generator with this codec can show the classes."""
        if self.faithfulness is None:
            return f"The codec keeps {self.psnr_db:.1f} dB; classes were not measured."
        if self.lost:
            shares = ", ".join(
                f"{name} ({self.classes[name]['share'] or 0:.0%})" for name in self.lost
            )
            return (
                f"The codec is too weak: of the recognition of real tiles it leaves less than"
                f" {LEAST_SHARE:.0%} for {shares}. No generator can show these classes with it."
            )
        least = min(
            (row["share"] or 0.0 for row in self.classes.values() if row["share"] is not None),
            default=float("nan"),
        )
        kept = "" if np.isnan(least) else f", and at least {min(least, 1.0):.0%} of each class"
        return f"The codec keeps classes apart: {self.faithfulness.value:.0%} of mean IoU{kept}."

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; what is undefined is null."""
        return {
            "tiles": self.tiles,
            "psnr_db": json_number(self.psnr_db),
            "ssim": json_number(self.ssim),
            "kid": self.kid.to_json() if self.kid else None,
            "faithfulness": self.faithfulness.to_json() if self.faithfulness else None,
            "classes": {name: dict(row) for name, row in self.classes.items()},
            "lost": list(self.lost),
            "verdict": self.verdict,
        }


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


def measure_ceiling(
    real: ComparedTiles, codec: Codec, *, num_tiles: int = 64, seed: int = 0, device: str = "cpu"
) -> Ceiling:
    """Return what a codec keeps of real tiles.

    A segmenter learns from at most `num_tiles` tiles of training groups and reads as many of
    held-out groups, before and after the codec; without held-out tiles the groups are halved.

    Args:
        real: The real tiles.
        codec: The codec.
        num_tiles: The most tiles of each kind.
        seed: Seed of the choice and of the segmenter.
        device: Where to compute.

    Raises:
        UsageError: When the packaged weights are not installed.
    """
    sight = open_sight(device=device)
    codec = codec.to(sight.device)
    train, held_out = (limit_side(side, num_tiles, seed) for side in _cut(real, seed))
    reads = _Reads(sight, codec, held_out)
    label_map = real.label_map
    if label_map is None or not reads.masks or not len(train):
        return Ceiling(len(held_out), *reads.quality(), None, None, {})
    learned = _Learned(sight, train)
    if not learned.tiles:
        return Ceiling(len(held_out), *reads.quality(), None, None, {})
    decoder = train_decoder(learned.tiles, label_map.num_classes, seed, _QUICK)
    before, after = (
        ReadTiles.of(
            reads.masks,
            [segment_maps(decoder, seen.maps, seen.size)[0] for seen in tiles],
            reads.groups,
            label_map.num_classes,
        )
        for tiles in (reads.before, reads.after)
    )
    groups = np.array([*learned.groups, *reads.groups])
    kid = measure_distances(
        np.stack([*learned.vectors, *(seen.vector for seen in reads.before)]),
        np.stack([seen.vector for seen in reads.after]),
        np.unique(groups, return_inverse=True)[1],
        np.unique(reads.groups, return_inverse=True)[1],
        seed=seed,
    )["kid"]
    return Ceiling(
        len(held_out),
        *reads.quality(),
        kid,
        measure_faithfulness(after, before, label_map, seed=seed),
        _class_rows(before, after, label_map),
    )


def ceiling_lines(ceiling: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (measure, value, what real tiles give) of `Ceiling.to_json`, as text."""
    lines = []
    kid, faithful = ceiling["kid"], ceiling["faithfulness"]
    if kid and kid["value"] is not None:
        floor = f"{kid['floor_low']:.2f} to {kid['floor_high']:.2f}"
        lines.append(("KID of reconstructions", f"{kid['value']:.2f}", floor))
    if faithful and faithful["value"] is not None:
        lines.append(("mean IoU, share of real", f"{faithful['value']:.2f}", "1.00"))
    lines += [
        (f"recall of {name}, share of real", f"{row['share']:.2f}", f"{row['recall']:.2f} in real")
        for name, row in ceiling["classes"].items()
        if row["share"] is not None
    ]
    return lines


def unfinished_codec(name: str) -> str | None:
    """Return that a codec is a run whose training has not ended, in words, or None."""
    run = Path(name)
    homes = [place for place in (run, *run.absolute().parents[:2]) if (place / _CONFIG).is_file()]
    if not homes or (homes[0] / _FINISHED).is_file():
        return None
    return (
        f"the codec {homes[0]} is unfinished: its training was stopped; the same trainer fit"
        " resumes it"
    )


class _Reads:
    """Held-out tiles before and after the codec, cut to whole latents."""

    def __init__(self, sight: Sight, codec: Codec, side: ComparedTiles) -> None:
        self.before: list[SeenTile] = []
        self.after: list[SeenTile] = []
        self.masks: list[np.ndarray] = []
        self.groups: list[str] = []
        self.psnr: list[float] = []
        self.ssim: list[float] = []
        for row in range(len(side)):
            image, mask = side.read(row)
            decoded = reconstruct(codec, image, sight.device)
            height, width = decoded.shape[:2]
            original = np.ascontiguousarray(image[:height, :width])
            pair = [torch.from_numpy(to_float(part))[None] for part in (original, decoded)]
            self.psnr.append(float(psnr(*pair)))
            if min(height, width) >= SSIM_WINDOW_PX:
                self.ssim.append(float(ssim(*pair)))
            if mask is not None:
                self.before.append(sight.see(original))
                self.after.append(sight.see(decoded))
                self.masks.append(np.ascontiguousarray(mask[:height, :width]))
                self.groups.append(side.groups[row])

    def quality(self) -> tuple[float, float]:
        """Return mean PSNR in dB and mean SSIM; NaN without any."""
        found = [
            float(np.mean(values)) if values else float("nan") for values in (self.psnr, self.ssim)
        ]
        return found[0], found[1]


def _cut(real: ComparedTiles, seed: int) -> tuple[ComparedTiles, ComparedTiles]:
    train, held_out = real.take(real.rows_of(TRAIN)), real.take(real.rows_of(*HELD_OUT))
    if len(held_out) and len(train):
        return train, held_out
    numbers = real.group_numbers()
    order = np.random.default_rng(seed).permutation(numbers.max() + 1)
    is_first = np.isin(numbers, order[: len(order) // 2])
    return real.take(np.flatnonzero(is_first)), real.take(np.flatnonzero(~is_first))


class _Learned:
    """Labelled training tiles, each as it is and under another symmetry, and their features."""

    def __init__(self, sight: Sight, side: ComparedTiles) -> None:
        self.tiles: list[FeatureTile] = []
        self.vectors: list[np.ndarray] = []
        self.groups: list[str] = []
        for row in range(len(side)):
            image, mask = side.read(row)
            if mask is None:
                continue
            seen = sight.see(image)
            self.vectors.append(seen.vector)
            self.groups.append(side.groups[row])
            view = 1 + row % (NUM_VIEWS - 1)
            turned, labels = (
                np.ascontiguousarray(apply_view(array, view)) for array in (image, mask)
            )
            self.tiles += [
                FeatureTile(seen.maps, mask),
                FeatureTile(sight.see(turned).maps, labels),
            ]


def _class_rows(
    before: ReadTiles, after: ReadTiles, label_map: LabelMap
) -> dict[str, dict[str, float | None]]:
    rows: dict[str, dict[str, float | None]] = {}
    totals = [tiles.counts.sum(axis=0) for tiles in (before, after)]
    for cls in label_map.classes:
        pixels = int(totals[0][cls.id].sum())
        if not cls.id or not pixels:
            continue
        recalls = [total[cls.id, cls.id] / pixels for total in totals]
        rows[cls.name] = {
            "tiles": int((before.counts[:, cls.id].sum(axis=1) > 0).sum()),
            "recall": float(recalls[0]),
            "share": float(recalls[1] / recalls[0]) if recalls[0] else None,
        }
    return rows
