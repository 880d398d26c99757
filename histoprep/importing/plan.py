"""Everything about an import that is decided before the first file is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histoprep.digests import digest_text, file_digest
from histoprep.errors import UsageError
from histoprep.importing.legend import label_map_of
from histoprep.importing.model import Collection
from histoprep.job_folder import JobFolder
from histoprep.labels import LabelMap
from histoprep.names import to_text
from histoprep.phrases import first_of, plural
from histoprep.schemas.ledgers import IMPORT


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How the tree is made.

    Attributes:
        out: Folder of the tree.
        copy: Whether images are copied; else they are linked.
        keep_instances: Whether the number of the annotation on top is kept, too.
        strict: Whether an image that is missing is an error before anything is written.
        stated: The options of the format, as the request shows them.
    """

    out: Path
    copy: bool = False
    keep_instances: bool = False
    strict: bool = False
    stated: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """Everything decided before the first file is written."""

    format: str
    source: Path
    options: ImportOptions
    collection: Collection
    label_map: LabelMap
    request: dict[str, Any]

    @property
    def job(self) -> JobFolder:
        """Return the folder of the tree as one that a job fills."""
        return IMPORT.job(self.options.out.absolute())


def plan_import(
    format_name: str, source: Path, collection: Collection, options: ImportOptions
) -> ImportPlan:
    """Return the plan of an import; nothing is written.

    Args:
        format_name: Name of the format.
        source: What was imported from.
        collection: What the format read of it.
        options: How the tree is made.

    Raises:
        UsageError: There is nothing to import, an image is missing (with `strict`), the tree would
            lie in the source or hold it, or the folder holds something else.
        OutputError: The folder cannot be listed.
    """
    if not collection.items:
        raise UsageError("there is nothing to import here", path=source)
    _refuse_place(options.out, source)
    missing = [(item.name, item.image) for item in collection.items if isinstance(item.image, str)]
    if options.strict and missing:
        raise UsageError(
            f"{plural(len(missing), 'image')} of {len(collection.items):,} cannot be used",
            path=source,
            seen=first_of([f"{name}: {reason}" for name, reason in missing], separator="; "),
            hint="name the folder that holds them with --images, or leave out --strict",
        )
    if len(missing) == len(collection.items):
        raise UsageError(
            f"none of the {plural(len(missing), 'image')} that the annotations name is there",
            path=source,
            seen=f"{missing[0][0]}: {missing[0][1]}",
            hint="name the folder that holds the images with --images",
        )
    label_map = label_map_of(collection.labels, _map_name(source), collection.ignored)
    request = {
        "format": format_name,
        "source": to_text(str(source.absolute())),
        "options": options.stated
        | {"copy": options.copy, "keep_instances": options.keep_instances},
        "annotations": _inputs_digest(collection),
        "labels": {str(label.id): to_text(label.name) for label in collection.labels},
    }
    plan = ImportPlan(format_name, source, options, collection, label_map, request)
    plan.job.refuse_foreign_files()
    plan.job.refuse_other_request(plan.job.read_request(), request)
    return plan


def _map_name(source: Path) -> str:
    name = "".join(
        character if character.isalnum() or character in " _-." else "_"
        for character in source.absolute().stem or "imported"
    )
    return name.strip(" .")[:60].strip(" .") or "imported"


def _refuse_place(out: Path, source: Path) -> None:
    real, held = out.resolve(), source.resolve()
    folder = held if held.is_dir() else held.parent
    if out.exists() and not out.is_dir():
        raise UsageError("the new tree needs a folder", path=out, seen="a file of that name")
    if held.is_dir() and real.is_relative_to(folder):
        raise UsageError(
            "the new tree would lie in the source",
            path=out,
            seen=f"it is inside {folder}",
            hint="name a folder outside of the source with --out",
        )
    if folder.is_relative_to(real):
        raise UsageError(
            "the new tree needs a folder of its own",
            path=out,
            seen=f"it holds {folder}",
            hint="name a new folder with --out",
        )


def _inputs_digest(collection: Collection) -> str:
    """Return a digest of the annotation files, and of what else the drawings depend on."""
    files = [file_digest(path) for path in collection.files]
    states = [item.state for item in collection.items if item.state]
    return digest_text("\n".join([*files, *states]))
