"""A manifest, or an index of shards, as Croissant JSON-LD.

Source of the format: MLCommons, Croissant Format Specification 1.0,
docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from histoprep.schemas.manifest import Manifest
from histoprep.schemas.shards import is_index

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_MANIFEST, _SHARDS = "manifest", "shards"
_PIECE = 1 << 20
# The columns of a manifest that say what a tile is; places and digests are for programs.
_COLUMNS = (
    "tile_id", "image_path", "mask_path", "group", "split", "fold", "pool", "classes", "label",
    "width_px", "height_px",
)  # fmt: skip
_CR_TERMS = (
    "citeAs", "column", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
    "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
    "references", "regex", "repeated", "replace", "samplingRate", "separator", "source",
    "subField", "transform",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CardText:
    """What a manifest does not know of its data set.

    Attributes:
        name: Its name.
        description: What it is, in a sentence or more.
        license: An SPDX identifier or an address; None when unknown.
        url: Where it can be had; None when nowhere.
        citation: How it is to be cited; None when unknown.
    """

    name: str
    description: str
    license: str | None = None
    url: str | None = None
    citation: str | None = None


def describe_croissant(manifest: Manifest, text: CardText, folder: Path) -> dict[str, Any]:
    """Return the description of the tiles of a manifest as JSON values.

    Args:
        manifest: A manifest, or an index of shards; its file is read once for the checksum.
        text: What it does not know itself.
        folder: The folder in which the description will lie; places are relative to it.
    """
    optional = {
        "license": text.license,
        "url": text.url,
        "citeAs": text.citation,
    }
    return {
        "@context": _context(),
        "@type": "sc:Dataset",
        "name": text.name,
        "description": text.description,
        "conformsTo": CONFORMS_TO,
        **{name: value for name, value in optional.items() if value is not None},
        "distribution": _distribution(manifest, folder),
        "recordSet": [_splits(manifest), _classes(manifest), _tiles(manifest)],
    }


def _context() -> dict[str, Any]:
    json = {"@type": "@json"}
    return {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "sc": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "dct": "http://purl.org/dc/terms/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "conformsTo": "dct:conformsTo",
        "data": {"@id": "cr:data", **json},
        "examples": {"@id": "cr:examples", **json},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "equivalentProperty": "cr:equivalentProperty",
        **{term: f"cr:{term}" for term in _CR_TERMS},
    }


def _distribution(manifest: Manifest, folder: Path) -> list[dict[str, Any]]:
    path = manifest.path
    files: list[dict[str, Any]] = [
        {
            "@type": "cr:FileObject",
            "@id": _MANIFEST,
            "name": _MANIFEST,
            "description": "a row for each tile",
            "contentUrl": place_of(path, folder),
            "encodingFormat": "application/x-parquet",
            "contentSize": f"{path.stat().st_size} B",
            "sha256": _sha256(path),
        }
    ]
    if is_index(manifest):
        files.append(
            {
                "@type": "cr:FileSet",
                "@id": _SHARDS,
                "name": _SHARDS,
                "description": "tar files of images and masks, in the layout of WebDataset",
                "encodingFormat": "application/x-tar",
                "includes": place_of(path.with_name("*.tar"), folder),
            }
        )
    return files


def place_of(path: Path, folder: Path) -> str:
    """Return the path of a file relative to a folder, or absolute where it lies elsewhere."""
    whole, around = path.absolute(), folder.absolute()
    return whole.relative_to(around).as_posix() if whole.is_relative_to(around) else str(whole)


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def _tiles(manifest: Manifest) -> dict[str, Any]:
    fields = []
    for field in manifest.opened.schema_arrow:
        if field.name not in _COLUMNS:
            continue
        repeated = pa.types.is_list(field.type)
        kind = field.type.value_type if repeated else field.type
        found: dict[str, Any] = {
            "@type": "cr:Field",
            "@id": f"tiles/{field.name}",
            "name": f"tiles/{field.name}",
            "description": (field.metadata or {}).get(b"meaning", b"").decode(),
            "dataType": "sc:Integer" if pa.types.is_integer(kind) else "sc:Text",
            "source": {"fileObject": {"@id": _MANIFEST}, "extract": {"column": field.name}},
        }
        if repeated:
            found["repeated"] = True
        if field.name in ("split", "classes"):
            key = "splits/name" if field.name == "split" else "classes/id"
            found["references"] = {"field": {"@id": key}}
        fields.append(found)
    return {
        "@type": "cr:RecordSet",
        "@id": "tiles",
        "name": "tiles",
        "description": f"{len(manifest):,} tiles",
        "key": {"@id": "tiles/tile_id"},
        "field": fields,
    }


def _splits(manifest: Manifest) -> dict[str, Any]:
    return {
        **_inline("splits", (("name", "sc:Text"),), [(s,) for s in manifest.certificate["splits"]]),
        "dataType": "cr:Split",
    }


def _classes(manifest: Manifest) -> dict[str, Any]:
    rows = [(cls.id, cls.name, cls.colour) for cls in manifest.label_map.classes]
    columns = (("id", "sc:Integer"), ("name", "sc:Text"), ("colour", "sc:Text"))
    return _inline("classes", columns, rows)


def _inline(
    name: str, columns: tuple[tuple[str, str], ...], rows: list[tuple[Any, ...]]
) -> dict[str, Any]:
    """Return a record set whose rows stand in the description; the first column is its key."""
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "key": {"@id": f"{name}/{columns[0][0]}"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": f"{name}/{column}",
                "dataType": kind,
            }
            for column, kind in columns
        ],
        "data": [
            {f"{name}/{column}": value for (column, _), value in zip(columns, row, strict=True)}
            for row in rows
        ],
    }
