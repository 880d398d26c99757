"""Options that are printed were tried on the names: they give what they are printed for."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from layouts import LAYOUTS, classes, save, tissue

from histoprep.choices import Layout
from histoprep.names import to_text
from histoprep.scanning import scan
from histoprep.scanning.advice import explain_nothing_paired, pairing_command
from histoprep.scanning.joined_names import joined_readings
from histoprep.scanning.layouts import FolderNames
from histoprep.scanning.listing import Issue, ScanOptions
from histoprep.scanning.trial import gives_pairs, pair_names

OPTIONS = [
    ScanOptions(),
    ScanOptions(mask_suffix="_gt"),
    ScanOptions(images="images", masks="masks"),
    ScanOptions(image_pattern=r"(?P<key>\d+)\.", mask_pattern=r"mask.*?(?P<key>\d+)"),
    ScanOptions(mask_pattern=r"^(?P<key>(.*/)?)masks/(?P<key2>.+)\.", image_pattern="/(?P<key>.+)"),
    ScanOptions(layout=Layout.SIBLING),
]


@pytest.mark.parametrize("layout", [*LAYOUTS[::6]], ids=lambda layout: layout.name)
def test_names_alone_pair_as_a_scan_of_the_files_does(layout: Any, tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    layout.make(root)
    files = [
        to_text(str(path.relative_to(root))) for path in sorted(root.rglob("*")) if path.is_file()
    ]
    for options in OPTIONS:
        found: list[Issue] = []
        try:
            pairs = list(scan(root, options, found.append))
        except Exception:  # noqa: BLE001 - options that the scan refuses pair nothing
            pairs = []
        assert pair_names(files, options) == {
            (pair.image_path, pair.mask_path)
            for pair in pairs
            if pair.image_path and pair.mask_path
        }


def test_what_is_stated_is_all_that_is_paired() -> None:
    files = ["a.png", "a_mask.png", "b.png", "b_mask.png"]
    both = [("a.png", "a_mask.png"), ("b.png", "b_mask.png")]
    assert gives_pairs(both, files, ScanOptions())
    assert not gives_pairs(both[:1], files, ScanOptions())
    assert gives_pairs(both[:1], files, ScanOptions(), is_complete=False)
    assert not gives_pairs([("a.png", "b_mask.png")], files, ScanOptions(), is_complete=False)


def test_a_command_says_what_is_kept_otherwise_and_stays_away_where_it_would_not_help() -> None:
    root = Path("/data/set")
    images, masks = ["i/1.png", "i/2.png", "i/3.png"], ["m/1.png", "m/2.png", "m/3.png"]
    plain = pairing_command(root, images, masks)
    assert plain == ("histoprep audit /data/set --images i --masks m", 3)
    kept = ScanOptions(image_suffix="_he", layout=Layout.SIBLING)
    command, number = pairing_command(root, images, masks, kept) or ("", 0)
    words = shlex.split(command)
    assert number == 3 and words[words.index("--image-suffix") + 1] == ""
    assert words[words.index("--layout") + 1] == "auto"
    # A table of pairs is kept, and a pattern that nothing takes back.
    assert pairing_command(root, images, masks, ScanOptions(pairs=Path("pairs.csv"))) is None
    kept = ScanOptions(image_pattern="never(?P<key>x)")
    assert pairing_command(root, images, masks, kept) is None
    assert "--pairs" in explain_nothing_paired(root, images, masks, kept)[1]


def test_a_command_keeps_the_pairs_that_there_are() -> None:
    root = Path("/data/set")
    images, others = ["a.png", "b.png", "c.png", "d.png"], [("d.png", "d_mask.png")]
    masks = ["a_lab.png", "b_lab.png", "c_lab.png"]
    assert pairing_command(root, images, masks)
    assert pairing_command(root, images, masks, None, others) is None


def test_joined_names_are_told_apart_where_concatenations_are_equal() -> None:
    folders = [
        FolderNames.of("images/1/", ["11.png", "1.png"]),
        FolderNames.of("images/11/", ["1.png", "2.png"]),
        FolderNames.of("masks/", ["1_11.png", "1_1.png", "11_1.png", "11_2.png"]),
    ]
    best = joined_readings(folders)[0]
    assert len(best.pairs) == 4
    files = [folder.path + name for folder in folders for name in folder.names]
    assert gives_pairs(best.pairs, files, ScanOptions(**best.options()))


def test_names_in_large_folders_are_looked_up() -> None:
    """Folders of which only some names are known."""
    names = {f"{i}.png" for i in range(50)}
    flat = {f"{folder}_{name}" for folder in "AB" for name in names}
    folders = [
        FolderNames(f"images/{folder}/", ("3.png", "4.png"), False, names.__contains__)
        for folder in "AB"
    ]
    folders.append(
        FolderNames("masks/", ("A_7.png", "A_3.png", "B_9.png"), False, flat.__contains__)
    )
    found = {reading.pairs for reading in joined_readings(folders)}
    numbers = ("A/3", "A/7", "B/9")
    assert (
        tuple((f"images/{name}.png", f"masks/{name.replace('/', '_')}.png") for name in numbers)
        in found
    )


def test_the_finding_offers_a_command_for_folders_named_in_masks(tmp_path: Path) -> None:
    root = tmp_path / "set"
    images, masks = [], []
    for folder in ("A", "B"):
        for i in range(3):
            images.append(f"images/{folder}/{i}.png")
            masks.append(f"masks/{folder}_{i}.png")
            save(tissue(i), root / images[-1])
            save(classes(i), root / masks[-1])
    command, number = pairing_command(root, images, masks) or ("", 0)
    assert number == 6
    words = shlex.split(command)
    options = ScanOptions(image_pattern=words[4], mask_pattern=words[6])
    pairs = list(scan(root, options, lambda issue: None))
    assert [(pair.image_path, pair.mask_path) for pair in pairs] == list(
        zip(images, masks, strict=True)
    )
