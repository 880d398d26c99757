"""The whole text of everything that is said of a wrong label map, as `tests/golden/` has it.

`python tests/test_label_messages.py --write` writes the file again; read its difference then.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import test_labels as cases

from histoprep.labels import check_label_map, compose, find_label_map, load_label_map
from histoprep.labels.format import packed_folder
from histoprep.labels.model import LabelMap, LabelMapError, SourceLabel, TargetClass, identity_map

GOLDEN = Path(__file__).parent / "golden" / "label_map_messages.json"
GOOD = cases.GOOD
TWO = GOOD.replace("dermis, scar", "scar").replace("Tissue", "Skin")
TEXTS: dict[str, str | bytes] = {
    **{f"problem: {name}": GOOD.replace(*case[:2]) for name, case in cases.PROBLEMS.items()},
    **{
        f"number: {text}": f"sources:\n  5: a\n  {text}: x\n"
        for text in cases.NUMBERS
        if len(text) < 1000
    },
    **{
        f"number as class: {text}": f"sources:\n  0: a\nclasses:\n  {text}: A\nmap:\n  a: A\n"
        for text in cases.NUMBERS
        if len(text) < 1000
    },
    **{
        f"number in the map: {text}": GOOD.replace("2: 1", f"2: {text}")
        for text in cases.NUMBERS
        if len(text) < 1000
    },
    **{f"refused: {name}": case[0] for name, case in cases.REFUSED.items()},
    **{f"ambiguous: {name}": text for name, text in cases.AMBIGUOUS.items()},
    "several": GOOD.replace("  dermis: Tissue\n", "").replace("map:", "  300: Rare\nmap:"),
    "gap": GOOD.replace("  1: {name: T", "  3: {name: T").replace("  2: 1", "  2: 3"),
    "two gaps": GOOD.replace("  1: {name: T", "  9: {name: T").replace("  2: 1", "  2: 9"),
    "no such source list": "sources: nowhere.yml\nclasses:\n  0: A\nmap:\n  0: 0\n",
    "older format with map": cases._old("classes", a=0) + "map:\n  a: 0\n",
    "older format without table": "features:\n  other: x\n",
    "older format, label twice": cases.OLD["classes"] + "    a: 0\n    b: 1\n    a: 2\n",
    "older format, too large": cases._old("classes", a=0, b=256),
}
BLACK = "#000000"
ONE_LABEL, ONE_CLASS = (SourceLabel(0, "a"),), (TargetClass(0, "A", BLACK),)
CALLS: dict[str, Callable[[], object]] = {
    "label id": lambda: SourceLabel(-1, "a"),
    "label id too large": lambda: SourceLabel(1 << 32, "a"),
    "label name": lambda: SourceLabel(0, " a"),
    "class id": lambda: TargetClass(256, "A", BLACK),
    "class name": lambda: TargetClass(0, "", BLACK),
    "colour": lambda: TargetClass(0, "A", "red"),
    "radius": lambda: TargetClass(0, "A", BLACK, -1.0),
    "map without a label": lambda: LabelMap("m", (), ONE_CLASS, {}),
    "map without a class": lambda: LabelMap("m", ONE_LABEL, (), {}),
    "label to no class": lambda: LabelMap("m", ONE_LABEL, ONE_CLASS, {0: 1}),
    "label without class": lambda: LabelMap("m", ONE_LABEL, ONE_CLASS, {}),
    "class of no label": lambda: LabelMap("m", ONE_LABEL, ONE_CLASS, {0: 0, 1: 0}),
    "label twice": lambda: LabelMap("m", ONE_LABEL * 2, ONE_CLASS, {0: 0}),
    "class twice": lambda: LabelMap("m", ONE_LABEL, ONE_CLASS * 2, {0: 0}),
    "map name": lambda: LabelMap("a/b", ONE_LABEL, ONE_CLASS, {0: 0}),
    "foreign JSON": lambda: LabelMap.from_json("[]"),
    "no JSON": lambda: LabelMap.from_json("x" * 100),
    "no file": lambda: load_label_map(Path("nowhere") / "label_map.yml"),
    "compose a label that is missing": lambda: compose(identity_map([0, 1, 2]), identity_map([0])),
    "compose other names": lambda: compose(
        LabelMap("m", ONE_LABEL, ONE_CLASS, {0: 0}), identity_map([0])
    ),
    "packed map": lambda: find_label_map("label_map_7"),
}


def messages(folder: Path) -> dict[str, list[str]]:
    """Return what is said of each case: every problem of a file, and the error."""
    path = folder / "map.yml"
    found: dict[str, list[str]] = {}
    for name, text in TEXTS.items():
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        found[name] = [
            *(f"{problem.line}: {problem.forbids_use}: {problem}" for problem in problems_of(path)),
            error_of(lambda: load_label_map(path)),
        ]
    found |= {f"call: {name}": [error_of(call)] for name, call in CALLS.items()}
    return {
        name: [
            text.replace(str(folder), "FOLDER")
            .replace(str(packed_folder()), "PACKED")
            .replace(str(Path.cwd()), "HERE")
            for text in texts
        ]
        for name, texts in found.items()
    }


def problems_of(path: Path) -> list:
    try:
        return check_label_map(path)
    except LabelMapError:
        return []


def error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except LabelMapError as error:
        return str(error)
    return "no error"


def test_every_message_is_as_it_was(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text("utf-8"))
    found = messages(tmp_path)
    assert found.keys() == golden.keys()
    for name, texts in found.items():
        assert texts == golden[name], name


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/test_label_messages.py --write")
    with tempfile.TemporaryDirectory() as scratch:
        text = json.dumps(messages(Path(scratch)), indent=1, ensure_ascii=True)
    GOLDEN.write_text(f"{text}\n", "utf-8")
