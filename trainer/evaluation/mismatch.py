"""What the reader must know of both sets before any number: groups, masks, sizes, JPEG quality."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from histoprep import imageio
from histoprep.errors import BrokenFileError
from histoprep.phrases import plural
from trainer.evaluation.sides import HELD_OUT, TRAIN, ComparedTiles, mask_source

_MOST_FILES = 200
_FEW_GROUPS = 5
_QUALITY_TOLERANCE = 5


@dataclass(frozen=True, slots=True)
class SetFacts:
    """Of the files of a set: the number looked at, sizes (height x width, most frequent first),
    the share stored with loss, and the median JPEG quality, None without JPEG files.
    """

    files: int
    sizes: tuple[tuple[str, int], ...]
    lossy_share: float
    jpeg_quality: float | None

    def to_json(self) -> dict[str, object]:
        """Return JSON values."""
        return {
            "files": self.files,
            "sizes": dict(self.sizes),
            "lossy_share": self.lossy_share,
            "jpeg_quality": self.jpeg_quality,
        }


@dataclass(frozen=True, slots=True)
class EvaluationFinding:
    """Something about the comparison that the reader must know: a short `name`, what it is, and
    what to do.
    """

    name: str
    text: str
    advice: str


def look_at_files(side: ComparedTiles) -> SetFacts:
    """Return the facts of at most 200 files of a set, at even steps."""
    chosen = np.unique(np.linspace(0, len(side) - 1, min(_MOST_FILES, len(side))).round())
    sizes: Counter[str] = Counter()
    qualities: list[int] = []
    lossy = 0
    for row in chosen.astype(int).tolist():
        try:
            header = imageio.read_header(side.encoded(row))
        except BrokenFileError:
            continue
        sizes[f"{header.height_px} x {header.width_px}"] += 1
        lossy += header.jpeg_quality is not None or header.lossy is not None
        if header.jpeg_quality is not None:
            qualities.append(header.jpeg_quality)
    count = sum(sizes.values())
    return SetFacts(
        count,
        tuple(sizes.most_common(5)),
        lossy / count if count else 0.0,
        float(np.median(qualities)) if qualities else None,
    )


def find_mismatches(real: SetFacts, generated: SetFacts) -> list[EvaluationFinding]:
    """Return a finding for each difference of the files."""
    found = []
    if {size for size, _ in real.sizes} != {size for size, _ in generated.sizes}:
        found.append(
            EvaluationFinding(
                "size mismatch",
                f"real tiles are {_sizes(real)} px, generated ones {_sizes(generated)} px: features"
                " at another scale differ, whatever the tiles show",
                "cut both to one size, or generate at the size of the real tiles",
            )
        )
    loss = abs(real.lossy_share - generated.lossy_share)
    qualities = (real.jpeg_quality, generated.jpeg_quality)
    apart = (
        abs(qualities[0] - qualities[1])
        if qualities[0] is not None and qualities[1] is not None
        else 0.0
    )
    if loss > 0.05 or apart > _QUALITY_TOLERANCE:
        found.append(
            EvaluationFinding(
                "JPEG mismatch",
                f"real tiles are {_storage(real)}, generated ones {_storage(generated)}: the"
                " distances also measure compression",
                "compare with generated tiles saved at the quality of the real ones, or read the"
                " distances as upper bounds",
            )
        )
    return found


def _sizes(facts: SetFacts) -> str:
    return ", ".join(size for size, _ in facts.sizes[:3])


def _storage(facts: SetFacts) -> str:
    if not facts.lossy_share:
        return "stored without loss"
    quality = "" if facts.jpeg_quality is None else f" of quality {facts.jpeg_quality:.0f}"
    kind = "JPEG" if facts.jpeg_quality is not None else "stored with loss"
    return f"{kind}{quality} ({facts.lossy_share:.0%})"


def find_in_sides(real: ComparedTiles, generated: ComparedTiles) -> list[EvaluationFinding]:
    """Return what is to be known of groups and masks before any number is read."""
    found = []
    if not real.has_groups:
        found.append(
            EvaluationFinding(
                "groups unknown",
                "some real tiles have no group, and count as groups of their own: if they share"
                " slides, floors and intervals are too narrow",
                "histoprep manifest ROOT --group-by PATTERN",
            )
        )
    if not len(real.rows_of(*HELD_OUT)):
        found.append(
            EvaluationFinding(
                "no held-out tiles",
                "all real tiles are of the training split: masks and copies cannot be measured",
                "histoprep manifest ROOT --split 0.8/0.1/0.1",
            )
        )
    num_groups = len({real.groups[row] for row in real.rows_of(*HELD_OUT).tolist()})
    if 0 < num_groups < _FEW_GROUPS:
        found.append(
            EvaluationFinding(
                "few groups",
                f"the held-out real tiles are of {plural(num_groups, 'group')}: intervals that are"
                " drawn by group are too narrow",
                "give val and test more slides, cases or patients",
            )
        )
    by_name = dict(zip(real.ids, real.splits, strict=True))
    sources = [mask_source(name, by_name) for name in generated.ids]
    from_train = sum(by_name[source] == TRAIN for source in sources if source is not None)
    if from_train:
        found.append(
            EvaluationFinding(
                "training masks",
                f"{from_train:,} of {len(generated):,} generated tiles were made for masks of"
                " training tiles: their layout is that of a training tile, copied or not",
                "trainer sample --split test",
            )
        )
    return found
