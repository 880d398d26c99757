"""1,097 broken or odd files, as fuzzing found them: each gets a verdict, none costs the run
anything.
"""

from __future__ import annotations

import csv
import resource
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from histoprep.read_ahead import Request, read_file, stat_file
from histoprep.scanning import scan
from histoprep.scanning.listing import Issue, ScanOptions
from histoprep.schemas.tiles import measured_schema, to_table
from histoprep.tiles import TileOptions
from histoprep.tiles.measurer import Measurer

NUM_FILES = 1097
SUFFIXES = {"jpeg": "jpg", "png": "png", "tiff": "tif", "webp": "webp", "bmp": "png", "gif": "png"}


class Outcome(NamedTuple):
    """What we and Pillow 13 said of one file; `ours` is None for a file that is fine."""

    file: str
    kind: str
    what: str
    pillow: str
    ours: str | None
    detail: str


@pytest.fixture(scope="module")
def outcomes(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """Scan, read and measure every file of the set, both as an image and as a mask."""
    source = shared_data / "corrupt"
    with (source / "manifest.csv").open(newline="") as stream:
        pillow = {row[0]: ",".join(row[2:]) for row in list(csv.reader(stream))[1:]}
    root = tmp_path_factory.mktemp("corrupt")
    names: dict[str, str] = {}
    for number, file in enumerate(sorted(pillow)):
        name = f"{number:04}.{SUFFIXES[file.split('/')[1]]}"
        (root / name).write_bytes((source / file).read_bytes())
        names[name] = file
    issues: list[Issue] = []
    pairs = list(scan(root, ScanOptions(), issues.append))
    assert len(pairs) == len(pillow) == NUM_FILES and issues == []
    measurer = Measurer(TileOptions())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = []
    for pair in pairs:
        path = str(root / str(pair.image_path))
        data = read_file(Request(path, stat_file(path) or pytest.fail("vanished")), 1 << 30)
        file = names[str(pair.image_path)]
        for what, measure in (("image", measurer.image), ("mask", measurer.mask)):
            start = time.monotonic()
            facts = measure(data)
            assert time.monotonic() - start < 10, file
            to_table([facts], measured_schema()).validate(full=True)
            found.append(
                Outcome(
                    file,
                    file.split("/")[1],
                    what,
                    pillow[file],
                    facts.get(f"{what}_error"),
                    facts.get(f"{what}_error_detail", ""),
                )
            )
    # In KiB, beyond what other tests in this process needed before.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20
    return found


@pytest.mark.slow
def test_every_file_gets_a_verdict(outcomes: list[Outcome]) -> None:
    assert len(outcomes) == 2 * NUM_FILES
    for outcome in outcomes:
        codes = (
            ("HP201 ", "HP202 ", "HP205 ", "HP208 ", "HP402 ", "HP413 ")
            if outcome.what == "mask"
            else ("HP201 ", "HP202 ", "HP205 ", "HP208 ")
        )
        assert outcome.ours is None or (outcome.ours.startswith(codes) and outcome.detail), outcome
    table = Counter(
        (
            outcome.kind,
            outcome.what,
            outcome.pillow.partition("|")[0],
            "fine" if outcome.ours is None else outcome.ours,
        )
        for outcome in outcomes
    )
    print("\nkind   as     Pillow  ours")
    for (kind, what, theirs, ours), count in sorted(table.items()):
        print(f"{kind:6} {what:6} {theirs:7} {ours:22} {count:4}")


def test_what_pillow_refuses_is_never_fine(outcomes: list[Outcome]) -> None:
    assert [
        outcome for outcome in outcomes if outcome.pillow.startswith("err") and outcome.ours is None
    ] == []


def test_images_and_masks_are_judged_alike(outcomes: list[Outcome]) -> None:
    verdicts: dict[str, set[str | None]] = {}
    for outcome in outcomes:
        # What readers disagree on, and what is no label, can be read.
        verdicts.setdefault(outcome.file, set()).add(
            None if (outcome.ours or "").startswith(("HP402", "HP413")) else outcome.ours
        )
    assert {outcome.file for outcome in outcomes if outcome.ours == "HP413 min-is-white"} == {
        f"gofuzz/tiff/corpus/bw-{compression}.tiff"
        for compression in ("deflate", "packbits", "uncompressed")
    }
    assert {file: seen for file, seen in verdicts.items() if len(seen) > 1} == {}


def test_what_pillow_takes_is_refused_for_a_reason_only(outcomes: list[Outcome]) -> None:
    reasons = Counter(
        (outcome.kind, outcome.ours)
        for outcome in outcomes
        if outcome.pillow.startswith("ok") and outcome.ours and outcome.what == "image"
    )
    # Files that Pillow takes although bytes are missing or damaged: no end chunk, a wrong checksum,
    # scans that do not fill the image, a directory that is cut.
    damaged = {
        ("png", "HP201 truncated"): 6,
        ("png", "HP201 bad-checksum"): 1,
        ("jpeg", "HP202 missing-data"): 5,
        ("jpeg", "HP201 corrupt"): 1,
        ("jpeg", "HP201 bad-header"): 1,
        ("tiff", "HP201 truncated"): 12,
        ("gif", "HP201 truncated"): 5,
    }
    assert dict(reasons) == damaged
