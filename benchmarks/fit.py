"""Gates of masks that do not belong to their images: `python -m benchmarks.fit [--data DIR]
[--quick] [--write FILE]`.

Right pairs of image and mask are altered in known ways; the tiles table and what `histoprep audit`
makes of it (HP418 to HP421) say what was found. DIR holds the real tiles. Masks are altered from
fixed seeds. Tiles of the demo, which no threshold was chosen on, are altered in the same ways.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from histoprep import imageio
from histoprep.demo import layout, tissue
from histoprep.execution import Engine
from histoprep.fit.orientation import ORIENTATIONS, Orientation
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.misfits import Misfit, MisfitKind, find_misfits
from histoprep.tiles.table import TileTable

NUM_DRAWS, DRAWN = 10, 10
TURNS = ORIENTATIONS[1:]
# What a mask has to be moved by: to the right and down, in pixels.
MOVES = ((8, 0), (0, -8), (-8, 8), (11, -5), (16, -24), (-40, 0))
_TISSUES = (layout.GLASS, layout.DERMIS, layout.EPIDERMIS, layout.GLAND, layout.INFLAMMATION)
_SEED = 2026


@dataclass(frozen=True)
class Pair:
    """An image file and the mask that belongs to it."""

    image: Path
    labels: np.ndarray


@dataclass(frozen=True)
class Case:
    """Altered pairs in a folder of their own; `name` says what was done to them."""

    name: str
    pairs: list[tuple[Path, np.ndarray]]
    orientation: Orientation | None = None
    move_px: tuple[int, int] | None = None
    altered: frozenset[int] = frozenset()
    partner: tuple[int, ...] = ()


def real_sets(data: Path) -> dict[str, list[Pair]]:
    """Return the shared tiles by set."""
    colon = sorted((data / "ebhi_seg/labels").glob("*/*.png"))
    lung = sorted((data / "diffinfinite/inpainting").glob("*_mask.png"))
    generated = sorted((data / "diffinfinite/patches").glob("*/*_mask.png"))
    return {
        "colon": [
            Pair(data / "ebhi_seg/images" / p.parent.name / p.name, _labels(p)) for p in colon
        ],
        "lung": [Pair(p.with_name(p.name.replace("_mask.png", ".jpg")), _labels(p)) for p in lung],
        "generated": [
            Pair(p.with_name(p.name.replace("_mask.png", ".jpg")), _labels(p)) for p in generated
        ],
    }


def _labels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(np.uint8)


def made_set(folder: Path, number: int, side_px: int = 256) -> list[Pair]:
    """Return tiles of the demo's tissues, written below `folder`."""
    folder.mkdir()
    pairs = []
    for index in range(number):
        rng = np.random.default_rng([_SEED, index])
        coarse = rng.normal(size=(6, 6)).astype(np.float32)
        field = cv2.resize(coarse, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
        cuts = np.quantile(field, (0.35, 0.7))
        labels = rng.choice(_TISSUES, 3, replace=False).astype(np.uint8)[np.digitize(field, cuts)]
        image = tissue.paint(rng, labels, tissue.Stain.of_slide(rng))
        path = folder / f"{index:03}.jpg"
        path.write_bytes(imageio.encode_rgb_jpeg(image, 85))
        pairs.append(Pair(path, labels))
    return pairs


def moved(labels: np.ndarray, right: int, down: int) -> np.ndarray:
    """Return a mask that has to be moved by so much; the rest is label 0."""
    matrix = np.array([[1, 0, -right], [0, 1, -down]], np.float32)
    return cv2.warpAffine(labels, matrix, labels.shape[::-1], flags=cv2.INTER_NEAREST)


def scaled(labels: np.ndarray, factor: float) -> np.ndarray:
    """Return a mask at another magnification, from the same corner."""
    matrix = np.array([[factor, 0, 0], [0, factor, 0]], np.float32)
    return cv2.warpAffine(labels, matrix, labels.shape[::-1], flags=cv2.INTER_NEAREST)


def elastic(labels: np.ndarray) -> np.ndarray:
    """Return a mask drawn by an unsteady hand: displaced by some 3 px, in all directions."""
    rng = np.random.default_rng([_SEED, int(labels.sum())])
    height, width = labels.shape
    moves = [
        cv2.resize(
            rng.normal(0, 4, (height // 24, width // 24)).astype(np.float32), (width, height)
        )
        for _ in range(2)
    ]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    how = {"interpolation": cv2.INTER_NEAREST, "borderMode": cv2.BORDER_REPLICATE}
    return cv2.remap(labels, x + moves[0], y + moves[1], **how)


def patches(labels: np.ndarray) -> np.ndarray:
    """Return labels given by patches of 32 px: each has the label of its middle."""
    middles = labels[16::32, 16::32]
    return np.kron(middles, np.ones((32, 32), np.uint8))[: labels.shape[0], : labels.shape[1]]


_WINDOW = np.ones((11, 11), np.uint8)
RIGHT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "unaltered": lambda labels: labels,
    "elastic": elastic,
    "dilated by 5 px": lambda labels: cv2.dilate(labels, _WINDOW),
    "eroded by 5 px": lambda labels: cv2.erode(labels, _WINDOW),
    "patch-wise, 32 px": patches,
    "uniform": lambda labels: np.full_like(labels, labels[0, 0]),
    "unlabelled": np.zeros_like,
}


def cases(pairs: list[Pair]) -> Iterator[Case]:
    """Yield right and altered sets."""
    rng = np.random.default_rng(_SEED)
    images, masks = [pair.image for pair in pairs], [pair.labels for pair in pairs]
    number = len(pairs)

    def case(name: str, labels: list[np.ndarray], **facts: object) -> Case:
        return Case(name, list(zip(images, labels, strict=True)), **facts)  # type: ignore[arg-type]

    for name, change in RIGHT.items():
        yield case(f"right: {name}", [change(mask) for mask in masks])
    telling = [at for at, mask in enumerate(masks) if mask.min() != mask.max()]
    for _ in range(NUM_DRAWS):
        chosen = rng.choice(telling, DRAWN, replace=False)
        some = [(images[at], masks[at]) for at in chosen]
        yield Case(f"right: {DRAWN} tiles", some)
        for way in TURNS:
            turned = [(image, _harmed(mask, way)) for image, mask in some]
            yield Case(f"turned, {DRAWN} tiles", turned, way)
    for way in TURNS:
        yield case("turned, whole", [_harmed(mask, way) for mask in masks], orientation=way)
    for move in MOVES:
        yield case("moved, whole", [moved(mask, *move) for mask in masks], move_px=move)
    for factor in (0.5, 2.0):
        yield case(f"scaled by {factor:g}, whole", [scaled(mask, factor) for mask in masks])
    for steps in (1, 7):
        yield case("list rotated, whole", [masks[(at + steps) % number] for at in range(number)])
    tenth = rng.permutation(number)[: max(2, number // 10 // 2 * 2)]
    partner = np.arange(number)
    partner[tenth[::2]], partner[tenth[1::2]] = tenth[1::2], tenth[::2]
    yield case(
        "10 % swapped",
        [masks[at] for at in partner],
        altered=frozenset(tenth.tolist()),
        partner=tuple(partner.tolist()),
    )
    for name, change in (
        ("10 % turned", lambda mask: _harmed(mask, TURNS[int(mask.sum()) % len(TURNS)])),
        ("10 % moved by 24 px", lambda mask: moved(mask, 24, 0)),
    ):
        altered = [change(mask) if at in tenth else mask for at, mask in enumerate(masks)]
        yield case(name, altered, altered=frozenset(tenth.tolist()))


def _harmed(labels: np.ndarray, way: Orientation) -> np.ndarray:
    return np.ascontiguousarray(way.inverse.apply(labels))


@dataclass(frozen=True)
class Outcome:
    """A case and what was found in it."""

    case: Case
    found: tuple[Misfit, ...]

    @property
    def is_right(self) -> bool:
        """Return whether what was done to all masks was found, and measured to 2 px."""
        case = self.case
        if case.orientation is not None:
            return [misfit.orientation for misfit in self.found] == [case.orientation]
        if case.move_px is not None:
            return any(
                misfit.kind is MisfitKind.SHIFTED
                and max(abs(np.subtract(misfit.move_px, case.move_px))) <= 2
                for misfit in self.found
            )
        wanted = MisfitKind.SCALED if case.name.startswith("scaled") else MisfitKind.OTHER_TILES
        return [misfit.kind for misfit in self.found] == [wanted]


def outcome(case: Case, folder: Path) -> tuple[Outcome, float, float]:
    """Return what was found in a case, and the processor seconds of the tiles table and of looking
    again.
    """
    root = folder / "set"
    root.mkdir(parents=True)
    for index, (image, labels) in enumerate(case.pairs):
        os.link(image, root / f"{index:04}{image.suffix}")
        stored = imageio.encode_mask_png(np.ascontiguousarray(labels))
        (root / f"{index:04}_mask.png").write_bytes(stored)
    workspace, engine = Workspace.of(root), InProcess(1)
    before = time.process_time()
    TileTable(workspace).build(engine)
    between = time.process_time()
    found = find_misfits(workspace, engine)
    after = time.process_time()
    shutil.rmtree(folder)
    return Outcome(case, found), between - before, after - between


class InProcess(Engine):
    """Runs tasks in this process: there are hundreds of small data sets."""

    @contextlib.contextmanager
    def executor(self, num_workers: int | None = None) -> Iterator[Executor]:
        """Yield an executor that is done when a task is submitted."""
        yield _AtOnce()


class _AtOnce(Executor):
    def submit(self, fn: Any, /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **options))
        return future


def table(name: str, rows: list[Outcome]) -> Iterator[str]:
    """Yield the lines of the table of one set."""
    by_name: dict[str, list[Outcome]] = {}
    for row in rows:
        by_name.setdefault(row.case.name, []).append(row)
    for what, group in by_name.items():
        if what.startswith("right"):
            alarms = sum(bool(row.found) for row in group)
            detail = ", ".join(str(misfit.kind) for row in group for misfit in row.found)
            yield f"| {name} | {what} | {alarms} of {len(group)} false alarms | {detail or '-'} |"
        elif group[0].case.altered:
            yield from _of_single(name, what, group[0])
        else:
            right = sum(row.is_right for row in group)
            yield f"| {name} | {what} | {right} of {len(group)} found | {_said(group)} |"


def _of_single(name: str, what: str, row: Outcome) -> Iterator[str]:
    altered = row.case.altered
    listed = {int(Path(mask.mask_path).name[:4]) for misfit in row.found for mask in misfit.masks}
    named = (
        [
            row.case.partner[int(Path(mask.fitting_mask).name[:4])]
            == int(Path(mask.mask_path).name[:4])
            for misfit in row.found
            for mask in misfit.masks
            if mask.fitting_mask is not None
        ]
        if row.case.partner
        else []
    )
    words = f"{sum(named)} with the mask that fits" if row.case.partner else "-"
    yield (
        f"| {name} | {what} | {len(listed & altered)} of {len(altered)} found,"
        f" {len(listed - altered)} others | {words} |"
    )


def _said(group: list[Outcome]) -> str:
    moves = [row for row in group if row.case.move_px is not None]
    if not moves:
        wrong = [str(misfit.kind) for row in group if not row.is_right for misfit in row.found]
        return f"otherwise: {', '.join(wrong)}" if wrong else "-"
    return "; ".join(
        f"{row.case.move_px}: "
        + (", ".join(str(misfit.move_px) for misfit in row.found) if row.found else "nothing")
        for row in moves
    )


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the demo's tiles alone, and few")
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("HISTOPREP_DATA", "none")),
        help="folder of real tiles",
    )  # fmt: skip
    parser.add_argument("--write", type=Path, help="write the page to this file")
    chosen = parser.parse_args()
    lines = ["# Masks and images: fit", "", _COMMAND, "", _CAPTION, ""]
    lines += ["| set | what was done | result | detail |", "|---|---|---|---|"]
    costs = []
    print(*lines, sep="\n")
    with tempfile.TemporaryDirectory(dir=chosen.write and chosen.write.parent) as scratch:
        sets = {} if chosen.quick or not chosen.data.is_dir() else real_sets(chosen.data)
        sets["demo"] = made_set(Path(scratch, "demo"), 14 if chosen.quick else 60)
        for name, pairs in sets.items():
            copies = [
                Pair(_copied(pair.image, Path(scratch, name), at), pair.labels)
                for at, pair in enumerate(pairs)
            ]
            began = time.perf_counter()
            rows, measuring, searching = [], 0.0, 0.0
            for case in cases(copies):
                row, measured, searched = outcome(case, Path(scratch, f"{name}-case"))
                rows.append(row)
                measuring, searching = measuring + measured, searching + searched
            for line in table(f"{name}, {len(pairs)}", rows):
                print(line, flush=True)
                lines.append(line)
            costs.append(f"| {name} | {measuring:.1f} | {searching:.1f} |")
            print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    lines += ["", "Processor seconds, all cases of a set together:", ""]
    lines += ["| set | tiles table | looking again |", "|---|---|---|", *costs]
    if chosen.write:
        chosen.write.write_text("\n".join(lines) + "\n")
    return 0


def _copied(image: Path, folder: Path, at: int) -> Path:
    """Return a copy of an image beside the sets, so that these can be links to it."""
    folder.mkdir(exist_ok=True)
    copy = folder / f"copy{at:04}{image.suffix}"
    copy.write_bytes(image.read_bytes())
    return copy


_COMMAND = "Written by `python -m benchmarks.fit --data DIR --write FILE`."
_CAPTION = (
    "Each set is altered whole, in draws of 10 tiles, and by a tenth. Thresholds were chosen on"
    " draws of other seeds of colon, lung and generated tiles and on synthetic tiles of the tests;"
    " none was chosen on the tiles of the demo. A move counts as found when it is measured to 2 px"
    " in both directions."
)


if __name__ == "__main__":
    sys.exit(main())
