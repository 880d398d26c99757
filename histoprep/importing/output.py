"""One image of an import -> its files in the tree, and its row of the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoprep import durable
from histoprep.choices import LinkKind
from histoprep.digests import digest
from histoprep.errors import BrokenFileError, HistoprepError, UsageError
from histoprep.imageio import encode_mask_png, read_header
from histoprep.importing.model import (
    MAX_LABEL,
    AnnotationCounts,
    Drawing,
    ImageFile,
    ImageSize,
    Item,
    MadeImage,
)
from histoprep.job_folder import output_errors
from histoprep.links import COPY, place_file
from histoprep.names import to_text
from histoprep.schemas.ledgers import IMPORT
from histoprep.visible import visible

IMAGES, MASKS, INSTANCES = "images", "masks", ".instances"
WRITTEN, FAILED = "written", "failed"
NO_SIZE = ImageSize(0, 0)
MADE = "written"


@dataclass(frozen=True, slots=True)
class ImportedTile:
    """An image that was read and its labels, or why it cannot be used.

    Attributes:
        item: What the source says of it.
        data: The bytes of the image file.
        size: Its size.
        drawing: Its labels; None for an image without a mask.
        fault: Why the image cannot be used; empty otherwise.
    """

    item: Item
    data: bytes = b""
    size: ImageSize = NO_SIZE
    drawing: Drawing | None = None
    fault: str = ""


def render(item: Item) -> ImportedTile:
    """Return an image and its labels; what is wrong with them becomes a fault."""
    if isinstance(item.image, str):
        return ImportedTile(item, fault=item.image)
    try:
        data, size = _image_bytes(item.image)
        _refuse_size(item, size)
        drawing = item.draw(size)
    except BrokenFileError as error:
        return ImportedTile(item, fault=f"{error.verdict}: {error.detail}")
    except HistoprepError as error:
        return ImportedTile(item, fault=_in_line(error))
    except OSError as error:
        return ImportedTile(item, fault=f"cannot read {error.filename}: {error.strerror or error}")
    return ImportedTile(item, data, size, drawing)


def write_tile(
    out: Path, tile: ImportedTile, *, copy: bool, keep_instances: bool
) -> dict[str, Any]:
    """Write the files of one image and return its row of the ledger.

    Args:
        out: Folder of the tree; the folders of the files are there.
        tile: The image and its labels.
        copy: Whether a file is copied; else it is linked.
        keep_instances: Whether the number of the annotation on top is written, too.

    Raises:
        OutputError: The system refuses to write.
    """
    item, drawing = tile.item, tile.drawing
    row: dict[str, Any] = dict.fromkeys(IMPORT.ledger_schema.names) | {
        "name": to_text(item.name),
        "source": visible(item.source),
        "status": FAILED,
    }
    fault = tile.fault or (_instances_fault(drawing) if keep_instances else "")
    if fault or isinstance(item.image, str):
        return row | {"reason": fault}
    row |= {"width_px": tile.size.width_px, "height_px": tile.size.height_px}
    if drawing is not None:
        row |= _described(drawing)
        row |= _put(out, "output", f"{MASKS}/{item.name}.png", _encode(drawing.labels))
        if keep_instances and drawing.instances is not None:
            numbers = encode_mask_png(drawing.instances.astype(np.uint16))
            row |= _put(out, "instances", f"{INSTANCES}/{item.name}.png", numbers)
    return row | _place_image(out, item.image, item.name, tile.data, copy) | {"status": WRITTEN}


def _in_line(error: HistoprepError) -> str:
    known = {"seen": error.seen, "expected": error.expected}
    rest = "; ".join(f"{name} {value}" for name, value in known.items() if value is not None)
    where = f" ({error.path})" if error.path else ""
    return f"{error.what}{where}" + (f": {rest}" if rest else "")


def _image_bytes(image: ImageFile | MadeImage) -> tuple[bytes, ImageSize]:
    if isinstance(image, MadeImage):
        data = image.encode()
    else:
        try:
            data = image.path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"cannot read the image: {error.strerror or error}", path=image.path
            ) from error
    header = read_header(data)
    return data, ImageSize(header.height_px, header.width_px)


def _refuse_size(item: Item, size: ImageSize) -> None:
    if item.size is not None and item.size != size:
        turned = item.size == ImageSize(size.width_px, size.height_px)
        raise UsageError(
            "the image has another size than the annotations say"
            + (", turned by a quarter: was it turned by its EXIF orientation?" if turned else ""),
            seen=str(size),
            expected=str(item.size),
        )


def _described(drawing: Drawing) -> dict[str, Any]:
    labels, pixels = np.unique(drawing.labels, return_counts=True)
    counts = drawing.counts
    kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(counts.skipped.items()))
    return {
        **{name: getattr(counts, name) for name in AnnotationCounts.NUMBERS},
        "skipped": counts.skipped.total(),
        "skipped_kinds": kinds or None,
        "label_ids": labels.tolist(),
        "label_pixels": pixels.tolist(),
    }


def _instances_fault(drawing: Drawing | None) -> str:
    if drawing is None or drawing.instances is not None:
        return ""
    return f"more than {MAX_LABEL:,} annotations, whose numbers do not fit 16 bits"


def _encode(labels: np.ndarray) -> bytes:
    return encode_mask_png(labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16))


def _put(out: Path, output: str, name: str, data: bytes) -> dict[str, Any]:
    """Publish a file of the tree and return its columns of the ledger."""
    with output_errors(out / name):
        durable.publish_in_batch(out / name, data)
    return _columns(output, name, data)


def _columns(output: str, name: str, data: bytes) -> dict[str, Any]:
    return {
        f"{output}_path": to_text(name),
        f"{output}_digest": digest(data),
        f"{output}_bytes": len(data),
    }


def _place_image(
    out: Path, image: ImageFile | MadeImage, name: str, data: bytes, copy: bool
) -> dict[str, Any]:
    if isinstance(image, MadeImage):
        path = f"{IMAGES}/{name}{image.suffix}"
        return _put(out, "image", path, data) | {"image_how": MADE}
    path = f"{IMAGES}/{name}{image.path.suffix}"
    if copy:
        columns, how = _put(out, "image", path, data), COPY
    else:
        columns = _columns("image", path, data)
        how = place_file(image.path, out / path, LinkKind.HARD)
    source = to_text(str(image.path.absolute()))
    return columns | {"image_how": how, "image_source": source}
