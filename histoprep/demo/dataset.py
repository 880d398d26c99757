"""A procedural data set that looks like H&E, with defects planted in known places.

`make_demo` is what the README runs and what tests audit; `make_clean_demo` gives the same without
defects, on which an audit has nothing to say. How tiles look is in `tissue.py`, where
tissues lie in `layout.py`. The same options give the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histoprep import checksums, durable, imageio
from histoprep.demo.layout import DERMIS, RECIPES, TissueRecipe, lay_out
from histoprep.demo.tissue import Stain, paint
from histoprep.errors import IntegrityError, OutputError, UsageError
from histoprep.schemas.workspace import SUFFIX

if TYPE_CHECKING:
    from histoprep.console import Meter

MARKER = "demo.json"
UNMAPPED_VALUE = 200
GROUP_PATTERN = r"slide\d+"
_MIN_TILES = 48
_MIN_TILE_PX = 64
_CLEAN_SLIDES = 8
_FAULTY_SLIDES = 7
# A verdict on a lossy source needs 30 masks with boundaries, so that slide is larger: 36 of 96
# tiles.
_LOSSY_SHARE = 3 / 8
# JPEG overshoots by a third of a step: from higher labels it would reach values above 54, a defect
# of its own.
_LOSSY_RECIPES = tuple(recipe for recipe in RECIPES if max(recipe.labels) <= DERMIS)
_NUM_ORPHANS = 5
_NOTE = "scanner_notes.txt"


@dataclass(frozen=True, slots=True)
class Planted:
    """One defect: the code that the audit should report, the file it should name, and what was done
    to it.
    """

    code: str
    path: str
    what: str


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What is in a demo data set: its options, its slides (the groups) and the planted defects, in
    order of code and path.

    Unlabelled tiles are in `planted` too (HP102, HP406), though they are no faults.
    """

    folder: Path
    num_tiles: int
    tile_px: int
    seed: int
    slides: tuple[str, ...]
    planted: tuple[Planted, ...]

    def paths(self, code: str) -> list[str]:
        """Return the files with the defect `code`, sorted."""
        return [finding.path for finding in self.planted if finding.code == code]


@dataclass(frozen=True, slots=True)
class _Tile:
    """One tile to be made; `fault` is the code of its defect, or empty."""

    index: int
    slide: int
    number: int
    recipe: TissueRecipe
    fault: str = ""

    @property
    def name(self) -> str:
        return f"{_slide_name(self.slide)}_{self.number:04d}"


_FAULTS = {
    "HP102": (".jpg", "no mask: nobody labelled this tile"),
    "HP202": (".jpg", "cut off after 60 % of its bytes"),
    "HP203": (".jpg", "a PNG that is called .jpg"),
    "HP401": ("_mask.png", "16 rows fewer than its image"),
    "HP403": ("_mask.png", "went through JPEG quality 90 before it became a PNG"),
    "HP406": ("_mask.png", "every pixel is 0: nobody labelled this tile"),
    "HP412": ("_mask.png", "16 bits a pixel for values below 256"),
    "HP501": ("_mask.png", f"a region has the value {UNMAPPED_VALUE}, which no label map lists"),
    "HP601": (".jpg", "the same bytes under another name"),
}
# One tile each, the first of slides 1 to 6.
_SINGLE_FAULTS = ("HP202", "HP401", "HP501", "HP412", "HP203", "HP601")


def make_demo(
    folder: Path,
    *,
    num_tiles: int = 96,
    tile_px: int = 256,
    seed: int = 7,
    defects: bool = True,
    meter: Meter | None = None,
) -> DemoPlan:
    """Make the data set in `folder` and return what is in it; a complete one with the same options
    is kept.

    The folder appears whole or not at all. What we made is noted beside it, in
    `<folder>.histoprep/demo.json`. Raises UsageError when the folder holds anything else or the
    options are out of range, OutputError when the system refuses.
    """
    if num_tiles < _MIN_TILES or tile_px < _MIN_TILE_PX:
        seen, least = (
            f"{num_tiles} tiles of {tile_px} px",
            f"{_MIN_TILES} tiles of {_MIN_TILE_PX} px",
        )
        raise UsageError(
            "the demo would be too small to show anything", seen=seen, expected=f"at least {least}"
        )
    folder = folder.absolute()
    tiles = _plan(num_tiles, defects)
    plan = _describe(folder, tiles, num_tiles, tile_px, seed)
    options = {"num_tiles": num_tiles, "tile_px": tile_px, "seed": seed, "defects": defects}
    marker = folder.with_name(folder.name + SUFFIX) / MARKER
    if _complete(folder, marker, options):
        return plan
    temporary = durable.temporary_beside(folder)
    try:
        temporary.mkdir(parents=True)
        sizes = _write_files(temporary, tiles, plan, defects, meter)
        durable.sync_file_system(temporary)
        if folder.exists():
            _discard(folder)
        # Noted first: a folder that we made is never without its note.
        checksums.publish_json(
            marker.parent,
            marker.name,
            {**options, "files": sizes, "planted": [asdict(defect) for defect in plan.planted]},
        )
        temporary.rename(folder)
        durable.sync_folder(folder.parent)
    except OSError as error:
        raise OutputError.from_os_error(error, folder) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return plan


def make_clean_demo(
    folder: Path, *, num_tiles: int = 96, tile_px: int = 256, seed: int = 7
) -> DemoPlan:
    """Make a data set with nothing wrong in it and return what is in it; see `make_demo`."""
    return make_demo(folder, num_tiles=num_tiles, tile_px=tile_px, seed=seed, defects=False)


def _slide_name(slide: int) -> str:
    return f"slide{slide + 1:02d}"


def _plan(num_tiles: int, defects: bool) -> list[_Tile]:
    """Return the tiles of all slides. With defects the last slide is the lossy one, and larger."""
    lossy = round(_LOSSY_SHARE * num_tiles) if defects else 0
    slides = _FAULTY_SLIDES - 1 if defects else _CLEAN_SLIDES
    places = [
        (slide, number)
        for slide, part in enumerate(np.array_split(np.arange(num_tiles - lossy), slides))
        for number in range(len(part))
    ]
    places += [(slides, number) for number in range(lossy)]
    tiles = []
    for index, (slide, number) in enumerate(places):
        fault = (
            _fault(slide, number, lossy=slide == slides)
            if defects
            else ("HP406" if number % 12 == 11 else "")
        )
        # Every slide has the same mixture, so that no split can shift the shares.
        recipes = _LOSSY_RECIPES if fault == "HP403" else RECIPES
        tiles.append(_Tile(index, slide, number, recipes[number % len(recipes)], fault))
    return tiles


def _fault(slide: int, number: int, *, lossy: bool) -> str:
    if lossy:
        return "HP403"
    if number == 0:
        return _SINGLE_FAULTS[slide]
    if number % 5 in (2, 4):
        return "HP406"
    return "HP102" if number % 10 == 6 else ""


def _describe(
    folder: Path, tiles: list[_Tile], num_tiles: int, tile_px: int, seed: int
) -> DemoPlan:
    planted = [
        Planted(tile.fault, tile.name + _FAULTS[tile.fault][0], _FAULTS[tile.fault][1])
        for tile in tiles
        if tile.fault
    ]
    if any(tile.fault == "HP601" for tile in tiles):
        planted += [
            Planted("HP101", f"{_slide_name(slide)}_{9001 + slide}_mask.png", "its image was lost")
            for slide in range(_NUM_ORPHANS)
        ]
        planted.append(Planted("HP106", _NOTE, "neither image nor mask"))
    slides = tuple(dict.fromkeys(_slide_name(tile.slide) for tile in tiles))
    return DemoPlan(
        folder,
        num_tiles,
        tile_px,
        seed,
        slides,
        tuple(sorted(planted, key=lambda finding: (finding.code, finding.path))),
    )


def _write_files(
    folder: Path, tiles: list[_Tile], plan: DemoPlan, defects: bool, meter: Meter | None
) -> dict[str, int]:
    """Write every file and return its size by name."""
    sizes: dict[str, int] = {}

    def write(files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            (folder / name).write_bytes(data)
            sizes[name] = len(data)

    stains = [
        Stain.of_slide(np.random.default_rng([plan.seed, 1, slide]))
        for slide in range(len(plan.slides))
    ]
    for tile in tiles:
        write(_tile_files(tile, stains[tile.slide], plan))
        if meter:
            meter.advance()
    if defects:
        write(_stray_files(plan))
    return sizes


def _tile_files(tile: _Tile, stain: Stain, plan: DemoPlan) -> dict[str, bytes]:
    rng = np.random.default_rng([plan.seed, 0, tile.index])
    labels = lay_out(rng, plan.tile_px, tile.recipe)
    pixels = paint(rng, labels, stain)
    image = imageio.encode_rgb_jpeg(pixels, quality=90, subsampling="4:2:0")
    image_name, mask_name = tile.name + ".jpg", tile.name + "_mask.png"
    match tile.fault:
        case "HP102":
            return {image_name: image}
        case "HP202":
            image = image[: len(image) * 6 // 10]
        case "HP203":
            image = imageio.encode_rgb_png(pixels)
        case "HP401":
            labels = labels[:-16]
        case "HP403":
            labels = _through_jpeg(labels)
        case "HP406":
            labels = np.zeros_like(labels)
        case "HP412":
            labels = labels.astype(np.uint16)
        case "HP501":
            labels = np.where(labels == labels[0, 0], np.uint8(UNMAPPED_VALUE), labels)
    mask = imageio.encode_mask_png(np.ascontiguousarray(labels))
    files = {image_name: image, mask_name: mask}
    if tile.fault == "HP601":
        twin = f"{_slide_name(tile.slide)}_8000"
        files |= {twin + ".jpg": image, twin + "_mask.png": mask}
    return files


def _through_jpeg(labels: np.ndarray) -> np.ndarray:
    # Equal channels have no colour, so this is what a grey JPEG of quality 90 does.
    grey = np.repeat(labels[..., None], 3, axis=2)
    return imageio.decode_rgb(imageio.encode_rgb_jpeg(grey, quality=90))[..., 0]


def _stray_files(plan: DemoPlan) -> dict[str, bytes]:
    files = {_NOTE: b"Scanned at 20x. Slide 3 was wiped and scanned again.\n"}
    for number, path in enumerate(plan.paths("HP101")):
        rng = np.random.default_rng([plan.seed, 2, number])
        files[path] = imageio.encode_mask_png(lay_out(rng, plan.tile_px, RECIPES[number]))
    return files


def _complete(folder: Path, marker: Path, options: Mapping[str, object]) -> bool:
    """Return whether `folder` holds the whole demo of `options`; raise UsageError when it holds
    what we did not make.
    """
    found = (
        {path.name: path.lstat().st_size if path.is_file() else -1 for path in folder.iterdir()}
        if folder.is_dir()
        else {}
    )
    if not found and not (folder.exists() and not folder.is_dir()):
        return False
    noted = _read_marker(marker)
    files = noted.get("files", {})
    if (
        not isinstance(files, dict)
        or not set(found) <= set(files)
        or -1 in found.values()
        or not folder.is_dir()
    ):
        raise UsageError(
            "this folder is not empty and the demo did not make it",
            path=folder,
            hint="name a new or empty folder",
        )
    return found == files and {name: noted.get(name) for name in options} == dict(options)


def _read_marker(marker: Path) -> dict[str, object]:
    try:
        noted = json.loads(marker.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"cannot read the note of an earlier demo: {error}",
            path=marker,
            hint="name another folder",
        ) from error
    return noted if isinstance(noted, dict) else {}


def _discard(folder: Path) -> None:
    # Renamed first: a killed run leaves the old folder whole or not at all under its name.
    gone = durable.temporary_beside(folder)
    folder.rename(gone)
    shutil.rmtree(gone)
