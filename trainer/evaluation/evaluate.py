"""`trainer evaluate`: everything that is measured of a set of generated tiles, in order."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from histoprep.labels import LabelMap
from trainer.errors import DataError
from trainer.evaluation.ceiling import reconstruct
from trainer.evaluation.copies import CopySearch, search_copies
from trainer.evaluation.distances import measure_distances
from trainer.evaluation.downstream import measure_downstream
from trainer.evaluation.faithfulness import ReadTiles, measure_faithfulness, measure_shares
from trainer.evaluation.features import Sight, open_sight
from trainer.evaluation.looks import EvaluateOptions, Look, look_at_all
from trainer.evaluation.measured import Measured, json_number
from trainer.evaluation.mismatch import (
    EvaluationFinding,
    SetFacts,
    find_in_sides,
    find_mismatches,
    look_at_files,
)
from trainer.evaluation.shown import Shown, choose_shown
from trainer.evaluation.sides import (
    HELD_OUT,
    TRAIN,
    limit_side,
    mask_source,
    real_side,
    synthetic_side,
)
from trainer.evaluation.spread import measure_spread
from trainer.evaluation.verdict import EvaluationVerdict, judge
from trainer.metrics.segmentation import mean_iou
from trainer.recipes.codecs import load_codec
from trainer.reporter import NULL_REPORTER, Reporter

_NUM_RECONSTRUCTED = 64


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that was measured; `counts` are tiles and groups by set, `measures` by name."""

    counts: Mapping[str, Any]
    features: str
    measures: Mapping[str, Measured]
    copies: CopySearch
    copied: Sequence[tuple[str, str, float]]
    downstream: Mapping[str, Any] | None
    files: Mapping[str, SetFacts]
    findings: Sequence[EvaluationFinding]
    verdict: EvaluationVerdict
    label_map: LabelMap | None
    shown: Sequence[Shown]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return what evaluation.json holds; measures that were not made are null."""
        names = ("kid", "fd", "faithfulness", "shares", "spread")
        measured = {
            name: self.measures[name].to_json() if name in self.measures else None for name in names
        }
        found = [
            {"tile_id": tile, "copy_of": source, "ratio": ratio}
            for tile, source, ratio in self.copied
        ]
        return {
            "schema_version": "1.0",
            **self.counts,
            "features": self.features,
            **measured,
            "copies": {
                **self.copies.measured.to_json(),
                "verdict": self.copies.verdict,
                "found": found,
            },
            "downstream": self.downstream,
            "files": {name: facts.to_json() for name, facts in self.files.items()},
            "findings": [
                {"name": finding.name, "text": finding.text, "advice": finding.advice}
                for finding in self.findings
            ],
            "verdict": {"word": self.verdict.word, "sentences": list(self.verdict.sentences)},
            "seconds": round(self.seconds, 1),
        }


def evaluate_tiles(
    real: str,
    synthetic: str,
    options: EvaluateOptions | None = None,
    *,
    root: str | None = None,
    reporter: Reporter = NULL_REPORTER,
) -> Evaluation:
    """Return what generated tiles are worth, measured against real ones.

    Args:
        real: Manifest or shards of the real tiles.
        synthetic: Generated tiles; see `synthetic_side`.
        options: How to evaluate.
        root: Folder of the real tiles, if they moved.
        reporter: Where notes and progress go.

    Raises:
        UsageError: When there are no such tiles, features, segmenter or codec.
        DataError: When there are too few tiles, or one cannot be read.
    """
    started = time.monotonic()
    options = options or EvaluateOptions()
    every = real_side(real, root=root)
    generated = limit_side(synthetic_side(synthetic, every), options.limit, options.seed)
    findings = find_in_sides(every, generated)
    train = limit_side(every.take(every.rows_of(TRAIN)), options.limit, options.seed)
    held_out = limit_side(every.take(every.rows_of(*HELD_OUT)), options.limit, options.seed)
    if not len(train) + len(held_out):
        raise DataError("the manifest has no tile of a split", path=real)
    sight = open_sight(options.features, device=options.device)
    total = len(train) + len(held_out) + len(generated)
    with reporter.progress("evaluate", total, "tiles") as meter:
        looks = look_at_all(sight, options, (train, held_out, generated), meter.advance)
    return _measure(sight, options, looks, findings, started)


def _measure(
    sight: Sight,
    options: EvaluateOptions,
    looks: tuple[Look, Look, Look],
    findings: list[EvaluationFinding],
    started: float,
) -> Evaluation:
    train, held_out, generated = looks
    real_groups = np.unique([*train.side.groups, *held_out.side.groups], return_inverse=True)[1]
    generated_groups = generated.side.group_numbers()
    seen = [*train.seen, *held_out.seen]
    subsets = {
        "train": np.arange(len(train.seen)),
        "held_out": np.arange(len(train.seen), len(seen)),
    }
    measures = measure_distances(
        np.stack([tile.vector for tile in seen]),
        generated.vectors,
        real_groups,
        generated_groups,
        seed=options.seed,
        subsets={name: rows for name, rows in subsets.items() if len(rows)},
    )
    label_map = train.side.label_map or held_out.side.label_map
    if label_map is not None:
        measures |= _measure_masks(sight, options, looks, label_map, real_groups, findings)
    copies = search_copies(
        generated.thumbnails,
        train.thumbnails if train.seen else np.empty((0, 1, 1, 3)),
        held_out.thumbnails if held_out.seen else np.empty((0, 1, 1, 3)),
        np.array(generated.side.groups, dtype=str),
        np.array(held_out.side.groups, dtype=str),
        lambda row: train.side.read(row).image,
        seed=options.seed,
    )
    copied = [
        (generated.side.ids[row], train.side.ids[source], ratio)
        for row, source, ratio in copies.found
    ]
    downstream = _downstream(options, looks, label_map, findings) if options.downstream else None
    files = {"real": _files_of(train, held_out), "synthetic": look_at_files(generated.side)}
    findings += find_mismatches(files["real"], files["synthetic"])
    return Evaluation(
        _counts(looks),
        sight.name,
        measures,
        copies,
        copied,
        downstream,
        files,
        findings,
        judge(measures, copies),
        label_map,
        choose_shown(looks, copied, label_map),
        time.monotonic() - started,
    )


def _measure_masks(
    sight: Sight,
    options: EvaluateOptions,
    looks: tuple[Look, Look, Look],
    label_map: LabelMap,
    real_groups: np.ndarray,
    findings: list[EvaluationFinding],
) -> dict[str, Measured]:
    """Return faithfulness, shares and spread, where both sides have masks that were read."""
    train, held_out, generated = looks
    num_classes = label_map.num_classes
    read, real = generated.read_tiles(num_classes), held_out.read_tiles(num_classes)
    if not len(read.counts) or not len(real.counts):
        missing = "generated tiles" if not len(read.counts) else "held-out real tiles"
        findings.append(
            EvaluationFinding(
                "masks not measured",
                f"there are no {missing} with masks that the segmenter could read",
                "give a manifest of the generated tiles, and real tiles in all splits",
            )
        )
        return {}
    every, same = real, _same_masks(held_out, generated)
    real = held_out.read_tiles(num_classes, same) if same else real
    found = measure_faithfulness(read, real, label_map, every=every, seed=options.seed)
    if options.codec is not None:
        rows = same or list(range(len(held_out.seen)))
        found = _with_ceiling(sight, options.codec, held_out, rows, found, label_map)
    return {
        "faithfulness": found,
        "shares": measure_shares(read, real, label_map, seed=options.seed),
        "spread": measure_spread(
            [tile.regions for tile in generated.seen],
            [tile.regions for tile in (*train.seen, *held_out.seen)],
            generated.side.group_numbers(),
            real_groups,
            label_map,
            seed=options.seed,
        ),
    }


def _same_masks(held_out: Look, generated: Look) -> list[int]:
    """Return the held-out tiles whose masks the generated tiles have, where that is so for all of
    them; both are then read on the same masks.
    """
    rows = {name: index for index, name in enumerate(held_out.side.ids)}
    sources = [mask_source(name, rows) for name in generated.side.ids]
    return [] if None in sources else sorted({rows[str(source)] for source in sources})


def _with_ceiling(
    sight: Sight,
    codec_name: str,
    held_out: Look,
    rows: Sequence[int],
    found: Measured,
    label_map: LabelMap,
) -> Measured:
    """Return faithfulness with the ceiling: that of at most 64 real tiles after the codec."""
    codec = load_codec(codec_name).to(sight.device)
    steps = np.linspace(0, len(rows) - 1, min(_NUM_RECONSTRUCTED, len(rows)))
    masks, predicted = [], []
    for row in sorted({int(rows[int(step)]) for step in steps.round()}):
        mask = held_out.masks[row]
        if mask is None or held_out.segment is None:
            continue
        decoded = reconstruct(codec, held_out.side.read(row).image, sight.device)
        masks.append(mask[: decoded.shape[0], : decoded.shape[1]])
        predicted.append(held_out.segment(decoded, sight.see(decoded)))
    decoded_tiles = ReadTiles.of(masks, predicted, [""] * len(masks), label_map.num_classes)
    classes = np.array([cls.name in found.more["classes"] for cls in label_map.classes])
    ceiling = float(mean_iou(decoded_tiles.counts.sum(axis=0), classes))
    lower = found.more["real_miou"] or float("nan")
    more = {**found.more, "ceiling": json_number(ceiling / lower)}
    return replace(found, more=more)


def _downstream(
    options: EvaluateOptions,
    looks: tuple[Look, Look, Look],
    label_map: LabelMap | None,
    findings: list[EvaluationFinding],
) -> dict[str, Any] | None:
    """Return `measure_downstream`, of generated tiles whose masks are of training groups."""
    train, held_out, generated = looks
    test_groups = set(held_out.side.groups)
    usable = [
        tile
        for tile, row in zip(
            generated.labelled,
            (row for row, mask in enumerate(generated.masks) if mask is not None),
            strict=True,
        )
        if generated.side.splits[row] == TRAIN and generated.side.groups[row] not in test_groups
    ]
    if label_map is None or not usable or not train.labelled or not held_out.labelled:
        findings.append(
            EvaluationFinding(
                "downstream not measured",
                "no generated tile was made for a mask of the training split; training on masks of"
                " test groups would leak"
                if not usable
                else "real tiles of the training and a held-out split with masks are needed",
                "trainer sample --split train --out FOLDER",
            )
        )
        return None
    rows = [row for row, mask in enumerate(held_out.masks) if mask is not None]
    return measure_downstream(
        train.labelled,
        usable,
        held_out.labelled,
        held_out.side.group_numbers()[rows],
        label_map.num_classes,
        options=options.quick,
    )


def _files_of(train: Look, held_out: Look) -> SetFacts:
    return look_at_files((train if train.seen else held_out).side)


def _counts(looks: tuple[Look, Look, Look]) -> dict[str, Any]:
    train, held_out, generated = looks
    return {
        "real": {
            "train": {"tiles": len(train.seen), "groups": len(set(train.side.groups))},
            "held_out": {"tiles": len(held_out.seen), "groups": len(set(held_out.side.groups))},
        },
        "synthetic": {"tiles": len(generated.seen), "groups": len(set(generated.side.groups))},
    }
