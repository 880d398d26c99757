"""Gates of tiles that touch, overlap or are copies: `python -m benchmarks.neighbours [--data DIR]
[--quick] [--large] [--write FILE]`.

Real images are cut into tiles, saved as JPEG and audited; which tiles touch and overlap is known
from where they were cut. Copies are damaged in known ways. `--large` adds how long 100,000 tiles
take.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.fit import InProcess
from histoprep.auditing.duplicates import COLUMNS, compare, find_candidates, find_near_pairs
from histoprep.neighbours.borders import find_touching, measure_borders
from histoprep.neighbours.landmarks import NUM_BYTES, Landmarks, find_landmarks
from histoprep.neighbours.overlaps import find_overlapping
from histoprep.neighbours.placement import turned
from histoprep.schemas.workspace import Workspace
from histoprep.tiles import TileOptions
from histoprep.tiles.neighbourhood import find_neighbours
from histoprep.tiles.options import TableOptions
from histoprep.tiles.table import TileTable

QUALITIES = (95, 85, 75)
STRIDES = (1 / 4, 1 / 2, 3 / 4, 7 / 8)
_SEED = 17
_MADE_AT_ONCE = 5000


@dataclass(frozen=True)
class Field:
    """An image that tiles are cut from, BGR, and the case (patient or slide) that its name says."""

    image: np.ndarray
    case: str


Fields = list[Field]


@dataclass(frozen=True)
class Tile:
    """A tile and where it was cut; `row` and `column` in pixels."""

    field: int
    row: int
    column: int
    image: np.ndarray


def read_fields(data: Path) -> dict[str, Fields]:
    """Return the shared images, BGR, by set; of the colon tiles every second one was used to choose
    thresholds on.
    """
    colon = sorted((data / "ebhi_seg/images").glob("*/*.png"))
    lung = sorted((data / "diffinfinite/inpainting").glob("*.jpg"))
    generated = sorted((data / "diffinfinite/patches").glob("*/*.jpg"))
    sets = {
        "colon, chosen on": colon[::2],
        "colon, held out": colon[1::2],
        "lung": lung,
        "generated": generated,
    }
    return {
        name: [Field(cv2.imread(str(path)), _case_of(path)) for path in paths]
        for name, paths in sets.items()
    }


def _case_of(path: Path) -> str:
    """Return seven digits of a colon tile's name, the slide of a lung tile, or all of a name."""
    digits = re.search(r"[0-9]{7}", path.stem) if path.stem.startswith("GT") else None
    return digits[0] if digits else path.stem.partition(".tiff")[0]


def cut(fields: Fields, side_px: int, stride_px: int) -> list[Tile]:
    """Return the tiles of all fields."""
    return [
        Tile(number, row, column, field.image[row : row + side_px, column : column + side_px])
        for number, field in enumerate(fields)
        for row in range(0, field.image.shape[0] - side_px + 1, stride_px)
        for column in range(0, field.image.shape[1] - side_px + 1, stride_px)
    ]


def audited(images: list[np.ndarray], quality: int, folder: Path) -> Workspace:
    """Return a workspace with the tiles table of images, saved under numbers."""
    root = folder / "set"
    shutil.rmtree(folder, ignore_errors=True)
    root.mkdir(parents=True)
    for number, image in enumerate(images):
        cv2.imwrite(str(root / f"{number:06}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    workspace = Workspace.of(root)
    options = TableOptions(tiles=TileOptions(neighbours=True))
    TileTable(workspace, options).build(InProcess(1))
    return workspace


def pairs_of(workspace: Workspace, kind: str) -> dict[tuple[int, int], dict[str, object]]:
    """Return the pairs that were found, by the numbers of their tiles."""
    found = find_neighbours(workspace, InProcess(1)).pairs
    return {
        (int(row["image_a"][:6]), int(row["image_b"][:6])): row
        for row in found[found.kind == kind].to_dict("records")
    }


def true_pairs(tiles: list[Tile], step_px: int) -> set[tuple[int, int]]:
    """Return the pairs of tiles that lie a step apart in a row or a column."""
    at = {(tile.field, tile.row, tile.column): number for number, tile in enumerate(tiles)}
    return {
        (number, at[other])
        for (field, row, column), number in at.items()
        for other in ((field, row, column + step_px), (field, row + step_px, column))
        if other in at
    }


def telling(tiles: list[Tile], pairs: set[tuple[int, int]], step_px: int) -> int:
    """Return in how many pairs both borders are above the contrast floor."""
    grey = [cv2.cvtColor(tile.image, cv2.COLOR_BGR2GRAY) for tile in tiles]
    known = [measure_borders(image) for image in grey]
    number = 0
    for first, second in pairs:
        sides = (1, 0) if tiles[second].column > tiles[first].column else (3, 2)
        own, other = known[first], known[second]
        number += (
            own is not None
            and other is not None
            and bool(own[sides[0]].any() and other[sides[1]].any())
        )
    return number


def touching_rows(name: str, fields: Fields, side_px: int, folder: Path) -> Iterator[str]:
    """Yield what was found of tiles that touch, a line a JPEG quality."""
    tiles = cut(fields, side_px, side_px)
    expected = true_pairs(tiles, side_px)
    seen = telling(tiles, expected, side_px)
    compared = 2 * len(tiles) ** 2
    for quality in QUALITIES:
        workspace = audited([tile.image for tile in tiles], quality, folder)
        found = set(pairs_of(workspace, "touching"))
        right, wrong = len(found & expected), 0
        for first, second in found - expected:
            a, b = tiles[first].field, tiles[second].field
            wrong += a == b or fields[a].case != fields[b].case
        yield (
            f"| {name} | {side_px} | {quality} | {len(tiles):,} | {percent(right, len(expected))} |"
            f" {percent(min(right, seen), seen)} | {wrong} of {compared / 1e6:.1f} million |"
        )


def overlap_rows(name: str, fields: Fields, side_px: int, folder: Path) -> Iterator[str]:
    """Yield what was found of tiles that overlap, a line a stride."""
    for stride in STRIDES:
        step = round(side_px * stride)
        tiles = cut(fields, side_px, step)
        expected = true_pairs(tiles, step)
        workspace = audited([tile.image for tile in tiles], 85, folder)
        found = pairs_of(workspace, "overlapping")
        right = sum(pair in found for pair in expected)
        wrong = 0
        for (first, second), row in found.items():
            a, b = tiles[first], tiles[second]
            lies = (row["orientation"], row["right_px"], row["down_px"])
            if a.field != b.field:
                wrong += fields[a.field].case != fields[b.field].case
            else:
                wrong += lies != (0, b.column - a.column, b.row - a.row)
        left_out = find_neighbours(workspace, InProcess(1)).num_left_out
        yield (
            f"| {name} | {side_px} | {step} | {len(tiles):,} | {percent(right, len(expected))} |"
            f" {wrong} of {len(found):,} | {left_out:,} |"
        )


def silent_rows(sets: dict[str, Fields], folder: Path) -> Iterator[str]:
    """Yield how many pairs are named in sets in which none is known."""
    rng = np.random.default_rng(_SEED)
    fields = sets["lung"] + sets["colon, held out"][:200]
    base = [field.image[:128, :128].copy() for field in fields]
    framed = [image.copy() for image in base]
    for image in framed:
        cv2.rectangle(image, (0, 0), (127, 127), (0, 0, 0), 4)
    padded = [image.copy() for image in base]
    for image in padded:
        image[:, int(rng.integers(40, 100)) :] = 255
    glass = [
        np.clip(rng.normal(236, 2, (128, 128, 3)), 0, 255).astype(np.uint8) for _ in range(200)
    ]
    cases = {
        "generated tiles, whole": [field.image for field in sets["generated"]],
        "framed": framed,
        "padded": padded,
        "glass": glass,
    }
    for what, images in cases.items():
        workspace = audited(images, 85, folder)
        pairs = pairs_of(workspace, "touching") | pairs_of(workspace, "overlapping")
        cases = [str(at) for at in range(len(images))]
        if what in ("framed", "padded"):
            cases = [field.case for field in fields]
        found = sum(cases[first] != cases[second] for first, second in pairs)
        yield f"| {what} | {len(images)} | {found} |"


Damage = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image through JPEG of quality 40 to 80."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 80))])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def brightness(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image that is brighter or darker by up to a fifth."""
    factor = rng.choice([rng.uniform(0.8, 0.95), rng.uniform(1.05, 1.2)])
    return np.clip(image * factor, 0, 255).astype(np.uint8)


def stain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image each of whose channels has another optical density."""
    density = -np.log(np.maximum(image, 1) / 255.0)
    return (255 * np.exp(-density * rng.uniform(0.8, 1.25, 3))).clip(0, 255).astype(np.uint8)


def resized(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image that was shrunk and enlarged again."""
    side = round(len(image) * rng.uniform(0.5, 0.9))
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)


def noisy(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image with noise of 3 to 8 grey levels."""
    noise = rng.normal(0, rng.uniform(3, 8), image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def copies_rows(fields: Fields, folder: Path, number: int) -> Iterator[str]:
    """Yield how many damaged copies are found among real tiles, a line a damage; the tiles are 144
    px of images of 224.
    """
    rng = np.random.default_rng(_SEED)
    side, wide = 144, fields[:640]
    base = [field.image[:side, :side] for field in wide]
    same: dict[str, Damage] = {
        "exact": lambda image, rng: image,
        "JPEG 40-80": jpeg,
        "brightness": brightness,
        "stain": stain,
        "resize": resized,
        "noise": noisy,
        "flip or turn": lambda image, rng: turned(image, int(rng.integers(1, 8))),
    }
    planted: list[tuple[str, int, np.ndarray]] = []
    order = iter(rng.permutation(len(base)).tolist())
    for what, damage in same.items():
        for _ in range(number):
            at = next(order)
            planted.append((what, at, damage(base[at], rng)))
    for what, reach in (("shift of 4 to 16 px", (4, 17)), ("half overlap", (72, 73))):
        for _ in range(number):
            at = next(order)
            down, right = int(rng.integers(*reach)), int(rng.integers(*reach))
            if what == "half overlap":
                down = 0
            planted.append((what, at, wide[at].image[down : down + side, right : right + side]))
    images = [*base, *(np.ascontiguousarray(image) for _, _, image in planted)]
    began = time.process_time()
    workspace = audited(images, 95, folder)
    found = find_copies(workspace)
    seconds = time.process_time() - began
    expected = {(at, len(base) + place): what for place, (what, at, _) in enumerate(planted)}
    for what in (*same, "shift of 4 to 16 px", "half overlap"):
        own = [pair for pair, kind in expected.items() if kind == what]
        yield f"| {what} | {percent(sum(pair in found for pair in own), len(own))} of {len(own)} |"
    sources = [*range(len(base)), *(at for _, at, _ in planted)]
    others = [(wide[sources[a]].case, wide[sources[b]].case) for a, b in found - expected.keys()]
    yield f"| pairs of two cases | {sum(a != b for a, b in others)} |"
    yield f"| further pairs of one case | {sum(a == b for a, b in others)} |"
    yield f"| processor seconds, {len(images)} tiles | {seconds:.0f} |"


def find_copies(workspace: Workspace) -> set[tuple[int, int]]:
    """Return the pairs that are copies by any evidence, by the numbers of their tiles."""
    table = pq.read_table(workspace.tiles, columns=[*COLUMNS, "image_path", "mask_path"])
    tiles = table.to_pandas()
    found = set(pairs_of(workspace, "overlapping"))
    by_digest = tiles.groupby("image_digest").image_path.agg(list)
    found |= {(int(paths[0][:6]), int(other[:6])) for paths in by_digest for other in paths[1:]}
    candidates = find_candidates([table], lambda rows: table.take(pa.array(rows)))
    pairs = compare(workspace.root, candidates.pairs, workspace.parts, InProcess(1)).to_pylist()
    found |= {(int(row["image_a"][:6]), int(row["image_b"][:6])) for row in pairs}
    return {(min(pair), max(pair)) for pair in found}


def cost_rows(fields: Fields) -> Iterator[str]:
    """Yield what the features cost for a tile, beside the decoding of a JPEG."""
    import simplejpeg

    from histoprep import imageio

    for side in (512, 256, 128):
        image = fields[0].image[:side, :side]
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), 90, colorspace="BGR")
        header = imageio.read_header(data)
        grey = imageio.decode_luminance(data, header)
        steps: dict[str, Callable[[], object]] = {
            "1/8": lambda data=data, header=header: imageio.decode_luminance_eighth(data, header),
            "whole": lambda data=data, header=header: imageio.decode_luminance(data, header),
            "borders": lambda grey=grey: measure_borders(grey),
            "landmarks": lambda grey=grey: find_landmarks(grey),
        }
        times = {name: _median_ms(step) for name, step in steps.items()}
        yield f"| {side} | " + " | ".join(f"{value:.2f}" for value in times.values()) + " |"


def _median_ms(step: Callable[[], object], times: int = 60) -> float:
    seen = []
    for _ in range(times):
        began = time.process_time()
        step()
        seen.append(time.process_time() - began)
    return float(np.median(seen)) * 1000


def large_rows(fields: Fields, sizes: tuple[int, ...]) -> Iterator[str]:
    """Yield how long many tiles take: borders and landmarks of real tiles, with a little noise."""
    rng = np.random.default_rng(_SEED)
    tiles = [tile.image for tile in cut(fields, 112, 56)]
    grey = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in tiles]
    known = [own for own in map(measure_borders, grey) if own is not None]
    borders = np.stack(known).reshape(-1, 128)
    landmarks = np.concatenate([find_landmarks(image) for image in grey])
    for number in sizes:
        whole = np.zeros((number, 4, 128), np.int8)
        places = np.zeros((48 * number, NUM_BYTES), np.uint8)
        # A few at a time, so that making them takes no memory to speak of.
        for start in range(0, number, _MADE_AT_ONCE):
            count = min(_MADE_AT_ONCE, number - start)
            made = borders[rng.integers(len(borders), size=(count, 4))].astype(np.float32)
            made[..., :112] += rng.normal(0, 12, (count, 4, 112))
            whole[start : start + count] = np.clip(made, -127, 127).astype(np.int8)
            own = landmarks[rng.integers(len(landmarks), size=48 * count)]
            numbers = own[:, 3:].view(np.int8) + rng.normal(0, 12, (len(own), NUM_BYTES - 3))
            own[:, 3:] = np.clip(numbers, -127, 127).astype(np.int8).view(np.uint8)
            places[48 * start : 48 * (start + count)] = own
        size = np.full(number, 112)
        began, clock = time.process_time(), time.perf_counter()
        find_touching(whole, size, size)
        touching = time.process_time() - began
        began = time.process_time()
        find_overlapping(Landmarks.from_bytes(places), np.repeat(np.arange(number), 48))
        overlapping = time.process_time() - began
        minutes = (time.perf_counter() - clock) / 60
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        yield f"| {number:,} | {touching:.0f} | {overlapping:.0f} | {minutes:.1f} | {peak:,.0f} |"


def near_rows(sizes: tuple[int, ...]) -> Iterator[str]:
    """Yield how long the search of near duplicates among perceptual hashes takes: random ones, and
    those of 1,000 scenes with four of 64 bits changed, as of sets that hold little else.
    """
    rng = np.random.default_rng(_SEED)
    for number in sizes:
        alike = rng.integers(0, 1 << 62, 1000, np.uint64)[rng.integers(1000, size=number)]
        for _ in range(4):
            alike ^= np.uint64(1) << rng.integers(0, 64, number).astype(np.uint64)
        times = []
        for hashes in (rng.integers(0, 1 << 62, number, np.uint64), alike):
            began = time.process_time()
            _, unseen = find_near_pairs(hashes)
            times.append(time.process_time() - began)
        yield f"| {number:,} | {times[0]:.2f} | {times[1]:.2f} | {unseen:,} |"


def percent(part: int, whole: int) -> str:
    """Return a share in percent."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbours", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few fields")
    parser.add_argument("--large", action="store_true", help="also 100,000 tiles")
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("HISTOPREP_DATA", "none")),
        help="folder of real tiles",
    )  # fmt: skip
    parser.add_argument("--write", type=Path, help="write the page to this file")
    chosen = parser.parse_args()
    sets = read_fields(chosen.data)
    if chosen.quick:
        sets = {name: fields[:12] for name, fields in sets.items()}
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)
        # After every line: a run that is stopped has measured something, too.
        if chosen.write:
            chosen.write.write_text("\n".join(lines) + "\n")

    with tempfile.TemporaryDirectory() as scratch:
        for line in _page(sets, Path(scratch, "case"), quick=chosen.quick, large=chosen.large):
            say(line)
    return 0


def _page(sets: dict[str, Fields], folder: Path, *, quick: bool, large: bool) -> Iterator[str]:
    yield from ("# Neighbours, overlaps and copies", "", _COMMAND, "", _CAPTION, "")
    yield from ("## Tiles that touch", "")
    yield "| set | side, px | JPEG | tiles | found | found of those with contrast | false |"
    yield "|---|---|---|---|---|---|---|"
    for name, side in (
        ("lung", 128), ("lung", 250), ("colon, chosen on", 112), ("colon, held out", 112),
        ("generated", 128), ("generated", 256),
    ):  # fmt: skip
        yield from touching_rows(name, sets[name], side, folder)
    yield from ("", "Sets in which nothing touches:", "", "| set | tiles | pairs named |")
    yield "|---|---|---|"
    yield from silent_rows(sets, folder)
    yield from ("", "## Tiles that overlap, JPEG 85", "")
    yield "| set | side, px | stride, px | tiles | found | false or misplaced | not compared |"
    yield "|---|---|---|---|---|---|---|"
    halves = {"lung, chosen on": sets["lung"][::2], "lung, held out": sets["lung"][1::2]}
    parts = halves | {
        "generated": sets["generated"][50:70],
        "colon, held out": sets["colon, held out"][:120],
    }
    for name, side in (
        *((name, side) for name in halves for side in (256, 250, 224, 200)),
        ("lung, held out", 128), ("generated", 250), ("colon, held out", 112),
    ):  # fmt: skip
        yield from overlap_rows(name, parts[name], side, folder)
    yield from ("", "## Damaged copies among 640 real tiles of 144 px", "")
    yield from ("| damage | found |", "|---|---|")
    fields = [*sets["colon, held out"], *sets["colon, chosen on"]]
    yield from copies_rows(fields, folder, 1 if quick else 53)
    yield from ("", "## Cost", "", "Milliseconds of one core for a JPEG tile:", "")
    yield "| side, px | decoding 1/8 | decoding whole luminance | borders | landmarks |"
    yield "|---|---|---|---|---|"
    yield from cost_rows(sets["lung"])
    if large:
        yield from (
            "",
            "Processor seconds, of all cores together, to match the features of many tiles:",
            "",
        )
        yield "| tiles | borders | landmarks | minutes | peak memory of the process, MB |"
        yield "|---|---|---|---|---|"
        yield from large_rows(sets["colon, held out"], (10_000, 30_000, 100_000))
        yield from ("", "Processor seconds to find near duplicates among perceptual hashes:", "")
        yield "| tiles | unlike ones | 1,000 scenes | pairs of those that were not looked at |"
        yield "|---|---|---|---|"
        yield from near_rows((10_000, 100_000, 1_000_000))


_COMMAND = "Written by `python -m benchmarks.neighbours --data DIR --large --write FILE`."
_CAPTION = (
    "Tiles are cut from real images without regard to what is in them, saved as JPEG and audited."
    " Thresholds were chosen on every second colon image, on the lung and the generated images, and"
    " on painted tissue of the tests; none on the colon images that are held out. The strip along"
    " borders in which most landmarks lie was chosen on every second lung image, 120 colon"
    " images and the first 20 generated ones. A pair of two fields of one case is not counted as"
    " false: some fields of the colon set do overlap."
)


if __name__ == "__main__":
    sys.exit(main())
