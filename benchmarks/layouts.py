"""How many folders are understood: `python -m benchmarks.layouts [--only NAME ...] [--write FILE]`.

Makes every layout of `tests/layouts.py` and every encoding of `tests/mask_encodings.py`, runs
`histoprep audit` and `histoprep manifest` on it as a user would, follows the commands that they
print, at most two, and compares the tiles table with the truth. Leaves with 1 when a mask became
the image of a tile without an error, or fewer than nine of ten sets came to the right end.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from layouts import LAYOUTS  # noqa: E402
from layouts import Outcome as LayoutOutcome  # noqa: E402
from mask_encodings import ENCODINGS, write_masks  # noqa: E402
from mask_encodings import Outcome as EncodingOutcome  # noqa: E402

from benchmarks.measuring import machine  # noqa: E402

GOAL = 0.9
_MAX_COMMANDS = 2
_FLAGS = frozenset({"--follow-links", "--force", "--forget", "--copy"})
_COMMAND = re.compile(r"\bhistoprep (audit|manifest|import \w+|map init) ")


class End(StrEnum):
    """What became of a folder."""

    ALONE = "understood alone"
    PRINTED = "understood with a printed command"
    REFUSED = "refused with the cause"
    WRONG = "wrong tiles"
    STUCK = "no right tiles, though they could be read"
    MASK_AS_IMAGE = "a mask became an image"

    @property
    def is_understood(self) -> bool:
        """Return whether the manifest holds the right tiles."""
        return self in (End.ALONE, End.PRINTED)

    @property
    def is_right(self) -> bool:
        """Return whether a user is not led astray."""
        return self.is_understood or self is End.REFUSED


@dataclass(frozen=True)
class Truth:
    """What is in a folder that was made.

    Attributes:
        pairs: Mask by image, as paths below the folder; None where the tiles are those of a tree
            that a printed command makes.
        masks: Every file that is a mask.
        labels: Pixels of each label in the mask of an image, where they are compared.
        is_refusal_right: Whether the right end is that no tiles are made.
    """

    pairs: dict[str, str] | None
    masks: frozenset[str]
    labels: dict[str, dict[int, int]] = field(default_factory=dict)
    is_refusal_right: bool = False


@dataclass(frozen=True)
class Case:
    """A folder to be made."""

    name: str
    make: Callable[[Path], Truth]


@dataclass(frozen=True)
class Result:
    """The end of a case, the printed commands that were followed, and the last message."""

    case: str
    end: End
    commands: tuple[str, ...] = ()
    said: str = ""


def cases() -> Iterator[Case]:
    """Yield every layout, then every encoding."""
    for layout in LAYOUTS:

        def make(root: Path, layout=layout) -> Truth:  # type: ignore[no-untyped-def]
            pairs = layout.make(root)
            several = layout.outcome is LayoutOutcome.REFUSED
            tiles = set(pairs)
            files = {
                path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()
            }
            # The makers of tiles draw noise; label masks have few values.
            masks = set(pairs.values()) | {
                name for name in files - tiles if _is_label_like(root / name)
            }
            return Truth(None if several else pairs, frozenset(masks), is_refusal_right=several)

        yield Case(f"layout {layout.name}", make)
    for encoding in ENCODINGS:

        def make_masks(root: Path, encoding=encoding) -> Truth:  # type: ignore[no-untyped-def]
            truth = write_masks(root, encoding)
            pairs = {
                f"images/t{index}.png": f"masks/t{index}.{encoding.suffix}"
                for index in range(len(truth))
            }
            labels = {
                image: dict(
                    zip(
                        *(part.tolist() for part in np.unique(mask, return_counts=True)),
                        strict=True,
                    )
                )
                for image, mask in zip(pairs, truth, strict=True)
            }
            refused = encoding.outcome is not EncodingOutcome.READ
            return Truth(
                pairs,
                frozenset(pairs.values()),
                {} if encoding.outcome is EncodingOutcome.REPORTED else labels,
                is_refusal_right=refused,
            )

        yield Case(f"encoding {encoding.name}", make_masks)


def _is_label_like(path: Path) -> bool:
    from PIL import Image

    try:
        pixels = np.asarray(Image.open(path))
    except OSError:
        return False
    return len(np.unique(pixels.reshape(-1, *pixels.shape[2:]), axis=0)) < 1 << 8


class Trial:
    """One folder and the commands that are tried on it."""

    def __init__(self, case: Case, scratch: Path) -> None:
        """Prepare the folder in which the case is made again for each sequence of commands."""
        self._case, self._scratch = case, scratch
        self._root, self._map = scratch / "set", scratch / "labels.yml"

    def run(self) -> Result:
        """Return the first right end on the shortest sequence of printed commands, or else the end
        without any.
        """
        first, printed = self._try(())
        results = [first]
        waiting = [(command,) for command in printed]
        while waiting and not results[-1].end.is_understood:
            commands = waiting.pop(0)
            result, printed = self._try(commands)
            results.append(result)
            if len(commands) < _MAX_COMMANDS:
                waiting += [(*commands, command) for command in printed if command not in commands]
        best = next((result for result in results if result.end.is_understood), first)
        worst = next((r for r in results if r.end is End.MASK_AS_IMAGE), None)
        return worst or best

    def _try(self, commands: tuple[str, ...]) -> tuple[Result, list[str]]:
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._root.mkdir(parents=True)
        truth = self._case.make(self._root)
        root = self._root
        said = ""
        exit_code = 0
        if not commands:
            exit_code, said = self._histoprep(["audit", str(root)])
        for command in commands:
            words = shlex.split(command)[1:]
            if words[0] == "import":
                exit_code, said = self._histoprep(words)
                root = Path(words[words.index("--out") + 1]) if exit_code == 0 else root
            elif words[0] == "map":
                place = words.index("--out") if "--out" in words else len(words)
                words[place : place + 2] = ["--out", str(self._map)]
                exit_code, said = self._histoprep(words)
            else:
                exit_code, said = self._histoprep(words)
        options = ["--map", str(self._map)] if self._map.exists() else []
        built, more = self._histoprep(["manifest", str(root), "--split", "1/0/0", *options])
        end = self._end(truth, root, built, refused=exit_code not in (0, 1) or built != 0)
        if end is End.ALONE and commands:
            end = End.PRINTED
        last = next((line for line in (said + more).splitlines() if "error" in line.lower()), "")
        return Result(self._case.name, end, commands, last), list(_commands(said + more))

    def _end(self, truth: Truth, root: Path, built: int, *, refused: bool) -> End:
        if built != 0:
            return End.REFUSED if truth.is_refusal_right else End.STUCK
        workspace = root.with_name(f"{root.name}.histoprep")
        manifest = pq.read_table(
            workspace / "manifest.parquet", columns=["image_path", "mask_path"]
        ).to_pylist()
        if root != self._root:
            masked = [row for row in manifest if row["mask_path"]]
            return End.ALONE if masked and len(masked) == len(manifest) else End.WRONG
        if any(row["image_path"] in truth.masks for row in manifest):
            return End.MASK_AS_IMAGE
        if truth.pairs is None:
            return End.WRONG
        found = {row["image_path"]: row["mask_path"] for row in manifest if row["mask_path"]}
        if found != truth.pairs:
            return End.WRONG
        return End.ALONE if self._labels(workspace, truth) else End.WRONG

    @staticmethod
    def _labels(workspace: Path, truth: Truth) -> bool:
        rows = pq.read_table(
            workspace / "tiles.parquet", columns=["image_path", "label_ids", "label_pixels"]
        ).to_pylist()
        return all(
            dict(zip(row["label_ids"], row["label_pixels"], strict=True))
            == truth.labels[row["image_path"]]
            for row in rows
            if row["image_path"] in truth.labels
        )

    def _histoprep(self, words: list[str]) -> tuple[int, str]:
        self._scratch.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "histoprep", *words],
            # Printed commands may write beside the data.
            cwd=self._scratch,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


def _commands(text: str) -> Iterator[str]:
    """Yield the commands in a text, each once, without the prose after them."""
    seen = set()
    for match in _COMMAND.finditer(text):
        words = ["histoprep", *match[1].split()]
        takes_place = True
        try:
            rest = iter(shlex.split(text[match.end() :].partition("\n")[0]))
            for word in rest:
                if takes_place and not word.startswith("--"):
                    words.append(word)
                    takes_place = False
                elif word.startswith("--") and word.rstrip(".,;") in _FLAGS:
                    words.append(word.rstrip(".,;"))
                elif word.startswith("--"):
                    words += [word, next(rest, "")]
                else:
                    break
        except ValueError:
            continue
        words[-1] = words[-1].rstrip(".,;")
        command = shlex.join(words)
        if command not in seen and not any(word.isupper() for word in words[2:3]):
            seen.add(command)
            yield command


def main() -> int:
    """Run the cases and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layouts", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="names of cases, or parts of them")
    parser.add_argument("--write", type=Path, help="write the table to this file")
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    wanted = [
        case
        for case in cases()
        if not chosen.only or any(part in case.name for part in chosen.only)
    ]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(chosen.jobs) as pool:
        trials = [Trial(case, Path(scratch, str(at))) for at, case in enumerate(wanted)]
        results = []
        for result in pool.map(Trial.run, trials):
            results.append(result)
            print(
                f"{result.case}: {result.end} {result.commands or ''} {result.said[:120]}",
                file=sys.stderr,
                flush=True,
            )
            # Commands name the scratch folder, which nobody has.
    text = _table(results, scratch)
    if chosen.write:
        chosen.write.write_text(text, "utf-8")
    print(text)
    right = sum(result.end.is_right for result in results)
    astray = any(result.end is End.MASK_AS_IMAGE for result in results)
    return int(astray or right < GOAL * len(results))


def _table(results: list[Result], scratch: str) -> str:
    kinds = sorted({result.case.split()[0] for result in results}, reverse=True)
    lines = [
        f"{machine()}; {len(results)} folders",
        "",
        "| end | " + " | ".join(f"{kind}s" for kind in kinds) + " |",
        "|---" + "|--:" * len(kinds) + "|",
    ]
    for end in End:
        numbers = [sum(r.end is end and r.case.startswith(kind) for r in results) for kind in kinds]
        lines.append(f"| {end} | " + " | ".join(map(str, numbers)) + " |")
    lines += ["", "| folder | end | printed command |", "|---|---|---|"]
    place = re.compile(re.escape(scratch) + r"/\d+/")
    for result in results:
        commands = "; ".join(f"`{place.sub('', command)}`" for command in result.commands)
        lines.append(f"| {result.case} | {result.end} | {commands} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
