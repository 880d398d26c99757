"""COCO panoptic: a PNG an image whose colours are ids of segments, and a JSON file that says what
each id is.

The id of a pixel is R + 256 G + 65,536 B; 0 is what nobody labelled. Segments cannot overlap.

Source of the format: https://cocodataset.org/#format-data, panoptic segmentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from histoprep.errors import UsageError
from histoprep.imageio import decode_rgb, read_header
from histoprep.importing.canvas import label_instances
from histoprep.importing.formats import Search, as_image
from histoprep.importing.formats.coco import colour_in
from histoprep.importing.images import ImageIndex, files_below, safe_names
from histoprep.importing.legend import number_labels
from histoprep.importing.masks import is_lossy, refuse_other_size, state_of
from histoprep.importing.model import Collection, Drawing, ImageSize, Item
from histoprep.importing.reading import Node
from histoprep.phrases import first_of


@dataclass(frozen=True, slots=True)
class _Image:
    node: Node
    name: str
    size: ImageSize | None
    png: str
    segments: Mapping[int, int]


def read(source: Path, search: Search, *, masks: Path | None = None) -> Collection:
    """Return the images of a panoptic file.

    Args:
        source: The JSON file, or a folder with one.
        search: Where images are looked for.
        masks: Folder of the PNG files; by default the one that is called like the JSON file.

    Raises:
        UsageError: It is no such file; AnnotationError names the place.
    """
    node = _panoptic_file(source, search)
    labels, numbers = number_labels(_categories(node))
    images = _images(node, numbers)
    folder = _mask_folder(node.file, masks)
    pngs = ImageIndex(folder, files_below(folder, skip=search.skip))
    index = search.index(source)
    if folder.resolve() != index.folder.resolve():
        inside = [path for path in index.paths if path.is_relative_to(folder)]
        index = ImageIndex(index.folder, [path for path in index.paths if path not in {*inside}])
    names = safe_names(image.name for image in images)
    items = []
    for name, image in zip(names, images, strict=True):
        png = pngs.find(image.png)
        found = index.find(image.name, beside=node.file.absolute().parent)
        missing = png if isinstance(png, str) else None
        items.append(
            Item(
                name,
                f"{node.file.name}, {image.node.place}",
                f"{image.png}: {missing}" if missing else as_image(found),
                partial(_draw, png, image),
                image.size,
                state="" if missing else state_of(Path(png)),
            )
        )
    return Collection(labels, tuple(items), (node.file,))


def _panoptic_file(source: Path, search: Search) -> Node:
    nodes = [Node.of_json(path) for path in search.files(source, ".json")]
    chosen = [node for node in nodes if _is_panoptic(node)]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise UsageError(
            "there are several panoptic files here",
            path=source,
            seen=first_of([node.file.name for node in chosen]),
            hint="import them one after the other into a folder each",
        )
    raise UsageError(
        "this is no panoptic file",
        path=nodes[0].file,
        expected="an object with 'images', 'categories' and 'annotations' with 'segments_info'",
        hint=f"histoprep import coco {source} --out DIR, where annotations are outlines",
    )


def _is_panoptic(node: Node) -> bool:
    value = node.value
    if not isinstance(value, dict) or not {"annotations", "categories"} <= value.keys():
        return False
    first = value["annotations"][:1] if isinstance(value["annotations"], list) else []
    return bool(first) and isinstance(first[0], dict) and "segments_info" in first[0]


def _categories(node: Node) -> list[tuple[int | None, str, str | None]]:
    return [
        (category.entry("id").whole(least=0), category.entry("name").text(), colour_in(category))
        for category in node.entry("categories").items()
    ]


def _images(node: Node, numbers: Mapping[int, int]) -> list[_Image]:
    listed = node.find("images")
    known = {
        str(node.entry("id").value): node for node in ([] if listed is None else listed.items())
    }
    images = []
    for place, annotation in enumerate(node.entry("annotations").items()):
        key = str(annotation.entry("image_id").value)
        named = annotation.at(f"annotation of image {key}")
        png = named.entry("file_name").text()
        image = known.get(key)
        if image is None and listed is not None:
            raise named.fault(
                "its image is not among the images",
                seen=f"image_id {key}, annotation {place}",
                expected=f"one of {first_of(list(known), limit=5)}",
            )
        segments = {
            segment.entry("id").whole(least=1): _label(segment, numbers)
            for segment in named.entry("segments_info").items()
        }
        images.append(
            _Image(
                named,
                png if image is None else image.entry("file_name").text(),
                None if image is None else _size(image),
                png,
                segments,
            )
        )
    return images


def _label(segment: Node, numbers: Mapping[int, int]) -> int:
    category = segment.entry("category_id").whole()
    if category not in numbers:
        raise segment.fault(
            "its category is not among the categories",
            seen=f"category_id {category}",
            expected=f"one of {first_of(sorted(numbers))}",
        )
    return numbers[category]


def _size(image: Node) -> ImageSize | None:
    height, width = image.find("height"), image.find("width")
    if height is None or width is None:
        return None
    return ImageSize(height.whole(least=1), width.whole(least=1))


def _mask_folder(file: Path, masks: Path | None) -> Path:
    folder = masks or file.absolute().with_suffix("")
    if not folder.is_dir():
        raise UsageError(
            "there is no folder with the PNG files",
            path=folder,
            hint="name it with --masks",
        )
    return folder.absolute()


def _draw(png: Path | str, image: _Image, size: ImageSize) -> Drawing:
    path = Path(png)
    data = path.read_bytes()
    header = read_header(data)
    refuse_other_size(path, header, size)
    if is_lossy(header):
        raise UsageError("ids of segments went through lossy compression", path=path)
    colours = decode_rgb(data, header).astype(np.uint32)
    ids = colours[..., 0] | colours[..., 1] << 8 | colours[..., 2] << 16
    return label_instances(ids, image.segments, f"segment of {path.name}")
