"""Folders of images and masks as people have them: each maker writes a small tree of real files and
returns which mask belongs to which image.

A layout is understood when an audit of the tree, without options or with the options that it
prints itself, pairs exactly these files. Makers write below an empty folder that they are given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

Pairs = dict[str, str]
SIDE_PX = 48
NUM_TILES = 8


class Outcome(StrEnum):
    """What the audit of a layout must come to."""

    KNOWN = "known"
    """Pairs by names that need no evidence; the audit says nothing of the layout."""
    UNDERSTOOD = "understood"
    """Pairs without options, and says which options say the same."""
    CHOICE = "choice"
    """Several readings are possible: refused, each of them printed as a command."""
    REFUSED = "refused"
    """No pairs, and an error or a finding that says why; the masks never become tiles."""
    NO_MASKS = "no-masks"
    """Images alone: nothing is taken for a mask."""


@dataclass(frozen=True)
class Layout:
    """One way in which files lie.

    Attributes:
        name: Name of the layout, unique.
        make: Writes the tree below a folder and returns its true pairs: image path to mask path,
            relative to that folder, in POSIX form.
        outcome: What an audit without options must come to.
        says: For a choice or a refusal, what the printed text must contain.
    """

    name: str
    make: Callable[[Path], Pairs]
    outcome: Outcome
    says: tuple[str, ...] = ()


# --- files -----------------------------------------------------------------------------------


@cache
def tissue(seed: int, side_px: int = SIDE_PX) -> np.ndarray:
    """Return an image like a stained section, uint8 [side, side, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side_px, :side_px]
    waves = [
        200 + 20 * np.sin(x / 9 + seed),
        140 + 30 * np.cos(y / 7 + seed),
        190 + 15 * np.sin((x + y) / 11),
    ]
    image = np.stack(waves, -1) + rng.normal(0, 12, (side_px, side_px, 3))
    for _ in range(8):
        row, column, radius = (
            rng.integers(0, side_px),
            rng.integers(0, side_px),
            rng.integers(2, 6),
        )
        nucleus = (y - row) ** 2 + (x - column) ** 2 < radius**2
        image[nucleus] = rng.normal([90, 50, 130], 10, (nucleus.sum(), 3))
    return image.clip(0, 255).astype(np.uint8)


@cache
def classes(seed: int, side_px: int = SIDE_PX, num_classes: int = 3) -> np.ndarray:
    """Return a class map, uint8 [side, side]: 0 with regions of 1..num_classes."""
    rng = np.random.default_rng(1000 + seed)
    y, x = np.mgrid[:side_px, :side_px]
    labels = np.zeros((side_px, side_px), np.uint8)
    for label in range(1, num_classes + 1):
        row, column = rng.integers(side_px // 4, 3 * side_px // 4, 2)
        radius = rng.integers(side_px // 8, side_px // 4)
        angle = np.arctan2(y - row, x - column)
        reach = radius * (1 + 0.25 * np.sin(3 * angle + seed) + 0.1 * np.sin(7 * angle))
        labels[(y - row) ** 2 + (x - column) ** 2 < reach**2] = label
    return labels


def binary(seed: int) -> np.ndarray:
    """Return a mask of 0 and 255, uint8 [side, side]."""
    return ((classes(seed) > 0) * 255).astype(np.uint8)


def instances(seed: int) -> np.ndarray:
    """Return a map of instance ids, uint16 [side, side]."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((SIDE_PX, SIDE_PX)), (7, 7), 0)
    _, ids = cv2.connectedComponents((noise > 0.52).astype(np.uint8))
    return ids.astype(np.uint16)


COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 160, 60], [40, 60, 255]], np.uint8)


def coloured(seed: int) -> np.ndarray:
    """Return a class map as colours, uint8 [side, side, 3]."""
    return COLOURS[classes(seed)]


def overlay(seed: int) -> np.ndarray:
    """Return an image with its labels drawn over it, uint8 [side, side, 3]."""
    return (tissue(seed) * 0.6 + coloured(seed) * 0.4).astype(np.uint8)


def save(pixels: np.ndarray, path: Path, *, palette: bool = False) -> None:
    """Write an image file; with `palette`, of indices and colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(COLOURS.tobytes())
    options = {"quality": 95} if path.suffix.lower() in {".jpg", ".jpeg"} else {}
    image.save(path, **options)


def save_array(pixels: np.ndarray, path: Path) -> None:
    """Write a NumPy file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, pixels)


def save_palette(pixels: np.ndarray, path: Path) -> None:
    """Write a class map with a palette of colours."""
    save(pixels, path, palette=True)


Draw = Callable[[int], np.ndarray]
Save = Callable[[np.ndarray, Path], None]


@dataclass(frozen=True)
class Also:
    """Further files of every tile: the path as a template, and what is in them."""

    path: str
    draw: Draw
    save: Save = save


def pairs_of(
    image: str,
    mask: str,
    *,
    ids: Sequence[object] = tuple(range(NUM_TILES)),
    groups: Iterable[str] = ("",),
    draw: Draw = classes,
    save_mask: Save = save,
    also: Sequence[Also] = (),
    alone: Sequence[str] = (),
    files: Sequence[str] = (),
) -> Callable[[Path], Pairs]:
    """Return a maker of tiles and masks whose paths are templates of `{i}` and `{group}`.

    Args:
        image: Path of an image.
        mask: Path of its mask.
        ids: What `{i}` stands for, an entry a tile.
        groups: What `{group}` stands for; each has all ids.
        draw: Draws a mask from a seed.
        save_mask: Writes it.
        also: Further files of every tile, which belong to no pair.
        alone: Paths of images without a mask.
        files: Paths of text files.
    """

    def make(root: Path) -> Pairs:
        found = {}
        keys = [(group, i) for group in groups for i in ids]
        for seed, (group, i) in enumerate(keys):
            names = {"i": i, "group": group, "seed": seed}
            where = image.format(**names), mask.format(**names)
            save(tissue(seed), root / where[0])
            save_mask(draw(seed), root / where[1])
            for more in also:
                more.save(more.draw(seed), root / more.path.format(**names))
            found[where[0]] = where[1]
        for seed, path in enumerate(alone):
            save(tissue(500 + seed), root / path)
        for path in files:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text("{}" if path.endswith("json") else "text\n")
        return found

    return make


def images_alone(*paths: str) -> Callable[[Path], Pairs]:
    """Return a maker of images without masks."""

    def make(root: Path) -> Pairs:
        for seed, path in enumerate(paths):
            save(tissue(seed), root / path)
        return {}

    return make


def many_masks(
    image: str, mask: str, *, draw: Draw = binary, per_image: int = 3
) -> Callable[[Path], Pairs]:
    """Return a maker of several mask files an image, whose template has `{k}` for the mask."""

    def make(root: Path) -> Pairs:
        for i in range(NUM_TILES):
            save(tissue(i), root / image.format(i=i))
            for k in range(per_image):
                save(draw(10 * i + k), root / mask.format(i=i, k=k, class_="tsl"[k % 3] * 4))
        return {}

    return make


def stored_elsewhere(root: Path) -> Pairs:
    """Write folders that are links to a store beside the data set."""
    store = root.parent / f"{root.name}-store"
    found = pairs_of("images/t{i}.png", "masks/t{i}.png")(store)
    for name in ("images", "masks"):
        (root / name).symlink_to(store / name)
    return found


def cityscapes(root: Path) -> Pairs:
    """Write images of two cities with the four files that each has as ground truth."""
    found = {}
    for seed, (split, city) in enumerate(
        [("train", "aachen"), ("train", "bochum"), ("val", "lindau"), ("val", "munster")] * 3
    ):
        stem = f"{city}_{seed:06}_000019"
        image = f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png"
        truth = f"gtFine/{split}/{city}/{stem}_gtFine"
        save(tissue(seed), root / image)
        save(classes(seed), root / f"{truth}_labelIds.png")
        save(coloured(seed), root / f"{truth}_color.png")
        save(instances(seed), root / f"{truth}_instanceIds.png")
        (root / f"{truth}_polygons.json").write_text(json.dumps({"objects": []}))
        found[image] = f"{truth}_labelIds.png"
    return found


def dsb2018(root: Path) -> Pairs:
    """Write one folder an image, with a file of every nucleus."""
    for i in range(6):
        name = f"{i:02}f4c3a9b1d7"
        save(tissue(i), root / f"{name}/images/{name}.png")
        for k in range(4):
            save(binary(10 * i + k), root / f"{name}/masks/{k}e8{i}d5b6a2c{k}{i}.png")
    return {}


def half_grey_without_scheme(root: Path) -> Pairs:
    """Write tiles and class maps in one folder whose names have nothing in common."""
    for i in range(NUM_TILES):
        save(tissue(i), root / f"{i * 7919 % 1009:04x}a.png")
        save(classes(i), root / f"{i * 104729 % 4093 + 5000:04x}q.png")
    return {}


def of_systems(root: Path) -> Pairs:
    """Write a data set with what macOS, Windows and a network station put beside files."""
    found = pairs_of("images/t{i}.png", "masks/t{i}.png")(root)
    for name in ("__MACOSX/images/._t0.png", "masks/._t1.png", "images/.DS_Store", "Thumbs.db"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\0\5\x16\7")
    for i in range(3):
        save(tissue(50 + i), root / f"images/@eaDir/t{i}.png/SYNOPHOTO_THUMB_M.jpg")
    return found


def same_stems_two_stains(root: Path) -> Pairs:
    """Write two folders of photographs of the same fields: no masks at all."""
    for i in range(NUM_TILES):
        save(tissue(i), root / f"HE/t{i}.png")
        save(tissue(100 + i)[..., ::-1], root / f"IHC/t{i}.png")
    return {}


QUPATH = "CMU-1 [d=1,x={i}024,y=0,w=64,h=64]"

_TWO_FOLDERS = [
    ("images-masks", "images/t{i}.png", "masks/t{i}.png"),
    ("images-masks-suffixed", "images/t{i}.jpg", "masks/t{i}_mask.png"),
    ("split-images-masks", "{split}/images/t{i}.png", "{split}/masks/t{i}.png"),
    ("images-split", "images/{split}/t{i}.png", "labels/{split}/t{i}.png"),
]

CLASS_NAMES = ("necrosis", "stroma", "tumour")


def mask_a_class(image: str, mask: str, *, rare: bool = False) -> Callable[[Path], Pairs]:
    """Return a maker of a mask file for each class of an image, whose template has `{name}`; with
    `rare`, classes that few images have.
    """

    def make(root: Path) -> Pairs:
        for i in range(NUM_TILES):
            save(tissue(i), root / image.format(i=i))
            labels = classes(i)
            for label, name in enumerate(CLASS_NAMES, start=1):
                if not rare or i % label == 0:
                    path = root / mask.format(i=i, name=name)
                    save(((labels == label) * 255).astype(np.uint8), path)
        return {}

    return make


KNOWN = [
    Layout("siblings-mask", pairs_of("t{i}.jpg", "t{i}_mask.png"), Outcome.KNOWN),
    *(
        Layout(
            name,
            pairs_of(
                image.replace("{split}", "{group}"),
                mask.replace("{split}", "{group}"),
                groups=("train", "val") if "{split}" in image else ("",),
            ),
            Outcome.KNOWN,
        )
        for name, image, mask in _TWO_FOLDERS
    ),
    Layout("files-of-systems", of_systems, Outcome.KNOWN),
    Layout(
        "kvasir-jpeg-masks",
        pairs_of("images/cju{i}k8.png", "masks/cju{i}k8.png", draw=binary),
        Outcome.KNOWN,
    ),
    Layout(
        "ade20k",
        pairs_of(
            "images/{group}/ADE_{i:08}.jpg",
            "annotations/{group}/ADE_{i:08}.png",
            groups=("training", "validation"),
        ),
        Outcome.KNOWN,
    ),
]

UNDERSTOOD = [
    Layout(name, make, Outcome.UNDERSTOOD)
    for name, make in {
        # Two folders of any names.
        "train-images-train-masks": pairs_of("train_images/t{i}.png", "train_masks/t{i}.png"),
        "splits-in-folder-names": pairs_of(
            "{group}_images/t{i}.png", "{group}_masks/t{i}.png", groups=("train", "val", "test")
        ),
        "any-two-names": pairs_of("Original/{i}.png", "Ground Truth/{i}.png", draw=binary),
        "names-without-meaning": pairs_of("a/{i}.png", "b/{i}.png"),
        "split-any-two-names": pairs_of(
            "{group}/HE/t{i}.png", "{group}/truth/t{i}.png", groups=("train", "val", "test")
        ),
        "any-two-names-split": pairs_of(
            "HE/{group}/t{i}.png", "truth/{group}/t{i}.png", groups=("train", "val")
        ),
        "mmseg": pairs_of(
            "img_dir/{group}/t{i}.jpg", "ann_dir/{group}/t{i}.png", groups=("train", "val")
        ),
        "mmseg-data-set-in-folder": pairs_of(
            "data/my_set/img_dir/{group}/t{i}.jpg",
            "data/my_set/ann_dir/{group}/t{i}.png",
            groups=("train", "val"),
        ),
        "voc": pairs_of(
            "VOC2012/JPEGImages/2007_{i:06}.jpg",
            "VOC2012/SegmentationClass/2007_{i:06}.png",
            save_mask=save_palette,
            also=[Also("VOC2012/SegmentationObject/2007_{i:06}.png", instances)],
            alone=[f"VOC2012/JPEGImages/2008_{i:06}.jpg" for i in range(20)],
            files=["VOC2012/ImageSets/Segmentation/train.txt", "VOC2012/Annotations/2007_1.xml"],
        ),
        "nnu-net": pairs_of("imagesTr/case_{i:03}_0000.png", "labelsTr/case_{i:03}.png"),
        "nnu-net-with-test-images": pairs_of(
            "imagesTr/case_{i:03}_0000.png",
            "labelsTr/case_{i:03}.png",
            alone=[f"imagesTs/case_{i:03}_0000.png" for i in range(100, 104)],
            files=["dataset.json"],
        ),
        "loveda": pairs_of(
            "Train/{group}/images_png/{i}.png",
            "Train/{group}/masks_png/{i}.png",
            groups=("Rural", "Urban"),
        ),
        "camvid-folders": pairs_of(
            "{group}/0016E5_{i:05}.png", "{group}_labels/0016E5_{i:05}_L.png",
            groups=("train", "val", "test"), draw=coloured,
        ),
        "segnet-camvid": pairs_of(
            "{group}/0016E5_{i:05}.png", "{group}annot/0016E5_{i:05}.png",
            groups=("train", "val", "test"),
        ),
        "tnbc": pairs_of(
            "Slide_{group}/{group}_{i}.png", "GT_{group}/{group}_{i}.png",
            groups=("01", "02", "03"), draw=binary,
        ),
        "cityscapes": cityscapes,
        "isic-folders": pairs_of(
            "ISIC-2017_Training_Data/ISIC_{i:07}.jpg",
            "ISIC-2017_Training_Part1_GroundTruth/ISIC_{i:07}_segmentation.png",
            draw=binary,
        ),
        "images-masks-with-prefixes": pairs_of("images/img_{i}.png", "masks/mask_{i}.png"),
        "images-masks-with-other-suffixes": pairs_of(
            "images/{i:03}_HE.png", "masks/{i:03}_truth.png"
        ),
        "supervisely-extension-kept": pairs_of("img/x{i}.jpg", "masks_machine/x{i}.jpg.png"),
        "data-set-folders-supervisely": pairs_of(
            "{group}/img/x{i}.png", "{group}/masks_human/x{i}.png.png", groups=("ds1", "ds2")
        ),
        "qupath-labelled-folders": pairs_of(
            "tiles/" + QUPATH + ".jpg", "labels/" + QUPATH + "-labelled.png",
            save_mask=save_palette,
        ),
        "label-studio": pairs_of(
            "images/{i}.png",
            "masks/task-{i}-annotation-{seed}1-by-1-tag-tumor-0.png",
            ids=tuple(range(11, 19)),
            draw=binary,
        ),
        # Siblings.
        "isic": pairs_of("ISIC_{i:07}.jpg", "ISIC_{i:07}_segmentation.png", draw=binary),
        "glas-anno": pairs_of("train_{i}.png", "train_{i}_anno.png", draw=instances),
        "camvid-siblings": pairs_of("0016E5_{i:05}.png", "0016E5_{i:05}_L.png", draw=coloured),
        "siblings-labelled": pairs_of(QUPATH + ".png", QUPATH + "-labelled.png"),
        "siblings-gt": pairs_of("p{i}.png", "p{i}_GT.png"),
        "siblings-dot-label": pairs_of("p{i}.png", "p{i}.label.png"),
        "siblings-capital-mask": pairs_of("p{i}.jpg", "p{i}Mask.png"),
        "histoqc": pairs_of(
            "TCGA-{i}/TCGA-{i}_thumb.png", "TCGA-{i}/TCGA-{i}_mask_use.png",
            draw=binary, also=[Also("TCGA-{i}/TCGA-{i}_overlay.png", overlay)],
        ),
        "qupath-same-stem": pairs_of(
            QUPATH + ".jpg", QUPATH + ".png", save_mask=save_palette
        ),
        "same-stem-siblings": pairs_of("t{i}.tif", "t{i}.png"),
        "supervisely-siblings": pairs_of("x{i}.jpg", "x{i}.jpg.png"),
        "siblings-image-suffix": pairs_of("t{i}_image.png", "t{i}_label.png"),
        "siblings-both-prefixes": pairs_of("img_{i}.png", "mask_{i}.png"),
        "siblings-mask-prefix": pairs_of("{i}.png", "mask_{i}.png"),
        "siblings-nnu-net": pairs_of("case_{i:03}_0000.png", "case_{i:03}.png"),
        "siblings-in-splits": pairs_of(
            "{group}/t{i}.png", "{group}/t{i}_seg.png", groups=("train", "test")
        ),
        # One folder a sample.
        "folder-a-sample": pairs_of("case{i}/image.png", "case{i}/mask.png"),
        "folder-a-sample-jpeg": pairs_of("case{i}/he.jpg", "case{i}/truth.png"),
        "folder-a-sample-named": pairs_of("s{i}/s{i}_he.png", "s{i}/s{i}_annotation.png"),
        "split-folder-a-sample": pairs_of(
            "{group}/case{i}/image.png", "{group}/case{i}/label.png", groups=("train", "test")
        ),
    }.items()
]  # fmt: skip

PUBLISHED = [
    Layout(name, make, Outcome.UNDERSTOOD)
    for name, make in {
        "oxford-pets": pairs_of(
            "images/Abyssinian_{i}.jpg", "annotations/trimaps/Abyssinian_{i}.png",
            alone=[f"images/beagle_{i}.jpg" for i in range(3)],
            files=["annotations/xmls/Abyssinian_1.xml", "annotations/list.txt"],
        ),
        "ham10000": lambda root: {
            **pairs_of(
                "HAM10000_images_part_1/ISIC_{i:07}.jpg",
                "HAM10000_segmentations/ISIC_{i:07}_segmentation.png", ids=tuple(range(6)),
                draw=binary,
            )(root),
            **pairs_of(
                "HAM10000_images_part_2/ISIC_{i:07}.jpg",
                "HAM10000_segmentations/ISIC_{i:07}_segmentation.png", ids=tuple(range(6, 12)),
                draw=binary,
            )(root),
        },
        "janowczyk-nuclei": pairs_of("{i}63_500_f0_original.tif", "{i}63_500_f0_mask.png"),
        "carvana": pairs_of("train/a{i}_01.jpg", "train_masks/a{i}_01_mask.png", draw=binary),
        "isic-2018": pairs_of(
            "ISIC2018_Task1-2_Training_Input/ISIC_{i:07}.jpg",
            "ISIC2018_Task1_Training_GroundTruth/ISIC_{i:07}_segmentation.png", draw=binary,
            files=["ISIC2018_Task1-2_Training_Input/LICENSE.txt"],
        ),
        "panoptils": pairs_of(
            "rgbs/TCGA-{i}.png", "masks/TCGA-{i}.png", draw=coloured,
            also=[Also("vis/TCGA-{i}.png", overlay)],
        ),
        "coco-stuff": pairs_of(
            "images/train2017/{i:012}.jpg", "stuffthingmaps/train2017/{i:012}.png"
        ),
        "monuseg-like": pairs_of("Tissue Images/TCGA-{i}.tif", "Label maps/TCGA-{i}.png",
                                 draw=instances, files=["Annotations/TCGA-1.xml"]),
        "stare": pairs_of("stare-images/im{i:04}.png", "labels-ah/im{i:04}.ah.png", draw=binary),
        "masks-below-images": pairs_of("t{i}.png", "masks/t{i}.png"),
        "masks-below-images-in-splits": pairs_of(
            "{group}/t{i}.png", "{group}/annotated/t{i}.png", groups=("train", "val")
        ),
        "masks-below-the-images-folder": pairs_of("images/t{i}.png", "images/labels/t{i}.png"),
        "folders-of-other-depths": pairs_of("raw/t{i}.png", "derived/final/v2/t{i}.png"),
        "a-mask-in-every-folder": pairs_of("P{i}/IMG_{seed}711.jpg", "P{i}/label.png"),
        "numbers-without-separators": pairs_of("images/img{i}.png", "masks/mask{i}.png"),
        "prefix-and-suffix": pairs_of("img_{i}_he.png", "gt_{i}_lab.png"),
        "upper-case": pairs_of("TRAIN_IMG/{i}.PNG", "TRAIN_GT/{i}.PNG"),
        "spaces": pairs_of("slide {i} image.png", "slide {i} label map.png"),
        "brackets": pairs_of("a ({i}).png", "a ({i}) [mask].png"),
        "images-of-two-formats": lambda root: {
            **pairs_of("a{i}.jpg", "a{i}_gt.png")(root),
            **pairs_of("b{i}.png", "b{i}_gt.png")(root),
        },
        "jpeg-masks": pairs_of("photo/{i}.jpg", "seg/{i}.jpg", draw=binary),
        "palette-masks": pairs_of("x/{i}.png", "y/{i}.png", save_mask=save_palette),
        "coloured-masks": pairs_of("x/{i}.png", "y/{i}.png", draw=coloured),
        "zero-masks-mostly": pairs_of(
            "x/{i}.png", "y/{i}.png", draw=lambda seed: classes(seed) * (seed % 3 == 0)
        ),
        "few-masks-of-many-images": pairs_of(
            "HE/t{i}.png", "truth/t{i}.png", ids=(3, 17),
            alone=[f"HE/t{i}.png" for i in range(40, 90)],
        ),
        "one-sample": pairs_of("image.png", "mask.png", ids=(0,)),
        "unicode": pairs_of("Bilder/F\u00e4rbung {i}.png", "Masken/F\u00e4rbung {i} Maske.png"),
        "arrays-in-a-folder": pairs_of(
            "HE/t{i}.png", "lab/t{i}.npy", save_mask=save_array
        ),
        "one-pair": pairs_of("left/a.png", "right/a.png", ids=(0,)),
        "drive-like": pairs_of(
            "{group}/photos/{i}_training.tif", "{group}/1st_manual/{i}_manual1.png",
            ids=tuple(range(21, 27)), draw=binary, groups=("training", "test"),
        ),
        "slides-with-own-folders": pairs_of("s{i}/HE/x_{i}.png", "s{i}/GT/x_{i}.png"),
        "tiles-of-slides-in-folders": pairs_of(
            "tiles/{group}/{i}_{i}.png", "tilemasks/{group}/{i}_{i}.png", groups=("s1", "s2", "s3")
        ),
        # Numbers that one program pads with zeros.
        "zeros-before-numbers": lambda root: {
            image: mask
            for i in (1, 2, 3, 7, 10, 11, 100)
            for image, mask in pairs_of(
                f"images/{i}.png", f"masks/{i:03}.png", ids=(i,)
            )(root).items()
        },
        "zeros-before-several-numbers": lambda root: {
            image: mask
            for i in range(8)
            for image, mask in pairs_of(
                f"HE/slideB_x{i * 224}_y{i}.png", f"gt/slideB_x{i * 224:06}_y{i:04}_lab.png",
                ids=(i,),
            )(root).items()
        },
        "zeros-before-numbers-of-siblings": lambda root: {
            image: mask
            for i in range(1, 9)
            for image, mask in pairs_of(f"img{i:04}.png", f"mask{i}.png", ids=(i,))(root).items()
        },
        # Folders that are named in the files of the other side.
        "flat-masks-of-folders": pairs_of(
            "images/{group}/{i}.png", "masks/{group}_{i}.png", groups=("A", "B")
        ),
        "flat-masks-of-folders-without-a-folder-of-images": pairs_of(
            "{group}/{i}.png", "masks/{group}_{i}.png", groups=("A", "B", "C")
        ),
        "flat-images-of-folders": pairs_of(
            "images/{group}_{i}.png", "masks/{group}/{i}.png", groups=("A", "B")
        ),
        "flat-masks-of-numbered-folders": pairs_of(
            "images/{group}/{i}.png", "masks/{group}_{i}_mask.png",
            ids=(0, 1, 10, 11, 100), groups=("1", "11", "111"),
        ),
        "flat-masks-of-long-names": pairs_of(
            "HE/{group}/tile_{i}.jpg", "gt/{group}-tile_{i}.png",
            groups=("slide_1", "slide_2_b", "other slide"),
        ),
        "flat-masks-of-nested-folders": lambda root: {
            image: mask
            for patient in ("P1", "P2")
            for region in ("r1", "r2")
            for image, mask in pairs_of(
                f"images/{patient}/{region}/{{i}}.png", f"masks/{patient}_{region}_{{i}}.png"
            )(root).items()
        },
        "flat-masks-in-splits": pairs_of(
            "{group}/images/s1/{i}.png", "{group}/masks/s1_{i}.png", groups=("train", "val")
        ),
        "class-then-two-folders": pairs_of(
            "{group}/raw/{i}.png", "{group}/seg/{i}.png", groups=("adenoma", "normal", "serrated")
        ),
        # Paths that differ in several parts, or by what each sample's folders are called.
        "two-folders-with-suffixed-slides": pairs_of(
            "tiles/{group}/{i}_0.png", "masks/{group}_mask/{i}_0.png", groups=("W1", "W2")
        ),
        "ph2": pairs_of(
            "PH2/IMD{i:03}/IMD{i:03}_Dermoscopic_Image/IMD{i:03}.bmp",
            "PH2/IMD{i:03}/IMD{i:03}_lesion/IMD{i:03}_lesion.bmp",
            draw=binary,
        ),
        "sites-with-folders-of-two-levels": pairs_of(
            "data/{group}/raw/HE/{i}.png", "data/{group}/annotated/labels/{i}.png",
            groups=("site1", "site2"),
        ),
        # Of several images beside a mask, the one that is no drawing and has its size.
        "histoqc-with-further-files": pairs_of(
            "TCGA-0{i}.svs/TCGA-0{i}.svs_thumb.png", "TCGA-0{i}.svs/TCGA-0{i}.svs_mask_use.png",
            draw=binary,
            also=[
                Also("TCGA-0{i}.svs/TCGA-0{i}.svs_fuse.png", overlay),
                Also("TCGA-0{i}.svs/TCGA-0{i}.svs_spur.png", lambda seed: binary(seed + 50)),
                Also("TCGA-0{i}.svs/TCGA-0{i}.svs_zoom.png", lambda seed: tissue(seed, 24)),
            ],
        ),
        "few-masks-beside-many-images": pairs_of(
            "s/{i}.png", "s/{i}_ann.png", ids=(3, 17, 30),
            alone=[f"s/{i}.png" for i in range(40, 77)],
        ),
    }.items()
]  # fmt: skip

CHOICE = [
    Layout(
        "two-annotators",
        pairs_of(
            "Image_{i:02}L.jpg", "Image_{i:02}L_1stHO.png", draw=binary,
            also=[Also("Image_{i:02}L_2ndHO.png", lambda seed: binary(seed + 50))],
        ),
        Outcome.CHOICE,
        ("_1stHO", "_2ndHO"),
    ),
    Layout(
        "two-mask-folders",
        pairs_of(
            "HE/t{i}.png", "reader1/t{i}.png",
            also=[Also("reader2/t{i}.png", lambda seed: classes(seed + 50))],
        ),
        Outcome.CHOICE,
        ("reader1", "reader2"),
    ),
]  # fmt: skip

CHOICE.append(
    Layout(
        "one-mask-for-an-image-and-its-normalised-copy",
        pairs_of(
            "{i}_he.png",
            "{i}_truth.png",
            also=[Also("{i}_normalised.png", lambda seed: tissue(seed + 70))],
        ),
        Outcome.CHOICE,
        ("--image-suffix _he", "--image-suffix _normalised"),
    )
)
CHOICE.append(
    Layout(
        "a-suffix-an-annotator",
        lambda root: {
            image: mask
            for i, name in enumerate(("JS", "KM", "AB", "JS", "KM", "AB", "JS", "KM"))
            for image, mask in pairs_of(f"t{i}.png", f"t{i}_{name}.png", ids=(i,))(root).items()
        },
        Outcome.CHOICE,
        (r"--mask-pattern '^(?P<key>.+)(_AB|_JS|_KM)\.[^.]+$'  # 8 pairs",),
    )
)
CHOICE.append(
    Layout(
        "one-mask-for-two-stains",
        pairs_of(
            "HE/t{i}.png",
            "seg/t{i}.png",
            also=[Also("IHC/t{i}.png", lambda seed: tissue(seed + 70))],
        ),
        Outcome.CHOICE,
        ("--images HE", "--images IHC"),
    )
)

REFUSED = [
    Layout(
        "busi", many_masks("benign/b ({i}).png", "benign/b ({i})_mask_{k}.png"), Outcome.REFUSED
    ),
    Layout("dsb2018", dsb2018, Outcome.REFUSED, ("combine", "--by instance")),
    Layout(
        "mask-a-class",
        many_masks("images/t{i}.png", "masks/t{i}_class_{class_}.png"),
        Outcome.REFUSED,
        ("combine", "--by class"),
    ),
    Layout(
        "segpc",
        many_masks("x/{i}06.png", "y/{i}06_{k}.png", draw=binary),
        Outcome.REFUSED,
        ("combine", "--by instance"),
    ),
    Layout(
        "nuinsseg",
        pairs_of(
            "human liver/tissue images/l_{i}.png",
            "human liver/label masks/l_{i}.png",
            draw=instances,
            also=[
                Also("human liver/mask binary/l_{i}.png", binary),
                Also("human liver/overlay/l_{i}.png", overlay),
            ],
        ),
        Outcome.REFUSED,
        ("label masks", "mask binary"),
    ),
    *(
        Layout(name, make, Outcome.REFUSED, ("combine", "--by class", "necrosis, stroma, tumour"))
        for name, make in {
            "a-folder-a-class": mask_a_class("images/t{i}.png", "masks_{name}/t{i}.png"),
            "a-folder-a-class-in-one": mask_a_class("images/t{i}.png", "masks/{name}/t{i}.png"),
            "a-folder-a-class-suffixed": mask_a_class("HE/{i}.jpg", "{name}_gt/{i}_m.png"),
            "a-class-in-front": mask_a_class("{i}.png", "{name}_{i}.png"),
            "classes-that-few-images-have": mask_a_class(
                "HE/t{i}.png", "seg/{name}/t{i}.png", rare=True
            ),
            "classes-that-few-images-have-in-suffixes": mask_a_class(
                "HE/t{i}.png", "seg/t{i}-{name}.png", rare=True
            ),
        }.items()
    ),
    Layout(
        "a-folder-an-image-of-classes",
        mask_a_class("images/t{i}.png", "masks/t{i}/{name}.png"),
        Outcome.REFUSED,
        ("combine", "--by class"),
    ),
    Layout(
        "a-folder-an-image-of-objects",
        many_masks("images/t{i}.png", "masks/t{i}/{i}{k}.png"),
        Outcome.REFUSED,
        ("combine", "--by instance"),
    ),
    Layout(
        "label-studio-of-several-tags",
        many_masks("images/{i}.png", "masks/task-{i}-annotation-1{i}-by-2-tag-{class_}-0.png"),
        Outcome.REFUSED,
        ("masks of 3 classes", "combine", "--by class", "llll|ssss|tttt"),
    ),
    Layout(
        "photographs-called-masks",
        images_alone(*(f"{name}/t{i}.png" for name in ("raw", "annotated") for i in range(6))),
        Outcome.REFUSED,
        ("HP109 label-like-image (same-name)", "--exclude HP109"),
    ),
    Layout(
        "photographs-called-like-masks",
        images_alone(*(f"t{i}{end}.png" for end in ("", "_label") for i in range(6))),
        Outcome.REFUSED,
        ("HP109 label-like-image (series)", "--exclude HP109"),
    ),
    Layout("no-scheme", half_grey_without_scheme, Outcome.REFUSED, ("HP109", "--pairs")),
]

NO_MASKS = [
    Layout(
        "class-folders",
        images_alone(*(f"{name}/{i}.png" for name in ("Benign", "Invasive") for i in range(6))),
        Outcome.NO_MASKS,
    ),
    Layout("images-alone", images_alone(*(f"t{i}.png" for i in range(6))), Outcome.NO_MASKS),
    Layout(
        "tile-grid",
        images_alone(*(f"slide1_{x}_{y}.png" for x in range(4) for y in range(4))),
        Outcome.NO_MASKS,
    ),
    Layout("two-stains", same_stems_two_stains, Outcome.NO_MASKS),
    Layout(
        "classes-with-the-same-names",
        images_alone(
            *(
                f"{split}/{name}/{i}.jpg"
                for split in ("train", "test")
                for name in ("0", "1")
                for i in range(4)
            )
        ),
        Outcome.NO_MASKS,
    ),
    Layout(
        "magnifications",
        images_alone(*(f"b{i}_{zoom}x.png" for i in range(5) for zoom in (40, 100, 200))),
        Outcome.NO_MASKS,
    ),
    Layout(
        "yolo",
        lambda root: (
            pairs_of(
                "images/train/t{i}.jpg",
                "labels/train/t{i}.txt",
                save_mask=lambda pixels, path: (
                    path.parent.mkdir(parents=True, exist_ok=True),
                    path.write_text("0 1 1 1 1"),
                ),
            )(root)
            and {}
        ),
        Outcome.NO_MASKS,
    ),
]

LINKED = Layout("links-to-a-store", stored_elsewhere, Outcome.REFUSED, ("--follow-links",))

LAYOUTS = [*KNOWN, *UNDERSTOOD, *PUBLISHED, *CHOICE, *REFUSED, *NO_MASKS, LINKED]
