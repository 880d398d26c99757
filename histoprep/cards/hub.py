"""A manifest, or an index of shards, as the card of a data set on the Hugging Face Hub: README.md
with front matter.

Source of the front matter: huggingface.co/docs/hub/datasets-cards
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from histoprep.cards.croissant import CardText, place_of
from histoprep.schemas.manifest import Manifest
from histoprep.schemas.shards import is_index
from histoprep.split.units import SPLITS

MARK = "<!-- Written by histoprep card. -->"
# The lower ends of the sizes that the hub knows.
_SIZES = (
    (0, "n<1K"),
    (1_000, "1K<n<10K"),
    (10_000, "10K<n<100K"),
    (100_000, "100K<n<1M"),
    (1_000_000, "1M<n<10M"),
    (10_000_000, "10M<n<100M"),
    (100_000_000, "100M<n<1B"),
    (1_000_000_000, "n>1B"),
)


def describe_card(
    manifest: Manifest, text: CardText, findings: Sequence[tuple[str, str, int]], folder: Path
) -> str:
    """Return the text of README.md.

    Args:
        manifest: A manifest, or an index of shards.
        text: What it does not know itself.
        findings: What the last audit found and was accepted: code, severity and number of places.
        folder: The folder in which the card will lie; places are relative to it.
    """
    place = place_of(manifest.path, folder)
    values = _front_matter(manifest, text, place)
    front = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n".join(_body(manifest, text, findings)) + "\n"


def _front_matter(manifest: Manifest, text: CardText, place: str) -> dict[str, Any]:
    size = next(name for least, name in reversed(_SIZES) if len(manifest) >= least)
    tasks = ["image-segmentation"] if manifest.label_map.num_classes > 1 else []
    if any(split["labels"] for split in manifest.certificate["splits"].values()):
        tasks.append("image-classification")
    return {
        "pretty_name": text.name,
        "license": text.license or "unknown",
        **({"task_categories": tasks} if tasks else {}),
        "tags": ["histology", "pathology", "croissant"],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": _data_files(manifest, place)}],
    }


def _data_files(manifest: Manifest, place: str) -> str | list[dict[str, str]]:
    """Return the files of each split: tar files of shards, or the table of all tiles."""
    if not is_index(manifest):
        return place
    folder = place.rpartition("/")[0]
    prefix = f"{folder}/" if folder else ""
    return [
        {"split": _hub_name(split), "path": f"{prefix}{split}-*.tar"} for split in _splits(manifest)
    ]


def _hub_name(split: str) -> str:
    return "validation" if split == "val" else split


def _splits(manifest: Manifest) -> list[str]:
    return [split for split in SPLITS if split in manifest.certificate["splits"]]


def _body(
    manifest: Manifest, text: CardText, findings: Sequence[tuple[str, str, int]]
) -> Iterator[str]:
    yield from (MARK, "", f"# {text.name}", "", text.description, "")
    certificate = manifest.certificate
    splits = [(name, certificate["splits"][name]) for name in _splits(manifest)]
    yield from ("## Splits", "")
    columns = ("tiles", "conditional", "unconditional", "groups")
    yield from _table(
        ("split", *columns), [(name, *(split[key] for key in columns)) for name, split in splits]
    )
    yield from ("", *_proof(certificate), "", "## Classes", "")
    yield from _table(
        ("class", "name", "colour", *(f"tiles, {name}" for name, _ in splits)),
        [
            (cls.id, cls.name, cls.colour, *(split["classes"][str(cls.id)] for _, split in splits))
            for cls in manifest.label_map.classes
        ],
    )
    labels = splits[0][1]["labels"] if splits else {}
    if labels:
        yield from ("", "## Image labels", "")
        yield from _table(
            ("label", *(f"tiles, {name}" for name, _ in splits)),
            [(label, *(split["labels"][label] for _, split in splits)) for label in labels],
        )
    yield from ("", "## Left out", "")
    excluded = sorted(manifest.excluded.items())
    if excluded:
        yield from _table(("reason", "tiles"), excluded)
    else:
        yield "Nothing."
    yield from ("", "## Findings that were accepted", "")
    if findings:
        yield from _table(("rule", "severity", "places"), findings)
    else:
        yield "None, or no audit is known."
    if text.citation:
        yield from ("", "## Citation", "", text.citation)


def _proof(certificate: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was proven of the split, a line each."""
    checked = {
        "shared_groups": "groups in two splits",
        "shared_duplicates": "equal images in two splits",
        "shared_neighbours": "tiles that touch or overlap in two splits",
    }
    for key, words in checked.items():
        if key in certificate:
            number = certificate[key]
            yield f"- {words}: {'not looked for' if number is None else number}"
    worst = certificate.get("worst_class")
    if worst:
        yield (
            f"- largest deviation of a class from its share: {worst['points']:.2f} percentage"
            f" points ({worst['column']} in {worst['split']})"
        )


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield "| " + " | ".join(_cell(value) for value in row) + " |"


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
