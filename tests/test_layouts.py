"""Every layout of `layouts.py`: read as it was made, by itself or with the options that are
printed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import (
    CHOICE,
    LAYOUTS,
    PUBLISHED,
    REFUSED,
    UNDERSTOOD,
    Also,
    Layout,
    Outcome,
    classes,
    coloured,
    instances,
    overlay,
    pairs_of,
    save,
    tissue,
)

from histoprep.errors import UsageError
from histoprep.imageio import encode_rgb_jpeg
from histoprep.scanning import scan, understand
from histoprep.scanning.advice import (
    explain_nothing_paired,
    find_pairing,
    further_masks,
    suggest_pairing,
)
from histoprep.scanning.content import Content, content_of, content_of_pixels
from histoprep.scanning.layouts import FolderNames, readings
from histoprep.scanning.listing import Issue, Pair, ScanOptions
from histoprep.schemas.manifest import read_manifest
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.options import SettledOptions, TableOptions, settle


def run_histoprep(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "histoprep", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


ALONE = [
    layout
    for layout in LAYOUTS
    if layout.outcome in (Outcome.KNOWN, Outcome.UNDERSTOOD, Outcome.NO_MASKS)
]


def named(layouts: list[Layout]) -> Any:
    return pytest.mark.parametrize("layout", layouts, ids=lambda layout: layout.name)


def made(layout: Layout, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    root = tmp_path / "set"
    root.mkdir()
    return root, layout.make(root)


def settled(root: Path, options: ScanOptions | None = None) -> SettledOptions:
    return settle(Workspace.of(root), TableOptions(options or ScanOptions()))


def listed(root: Path, options: ScanOptions | None = None) -> tuple[list[Pair], list[Issue]]:
    issues: list[Issue] = []
    return list(scan(root, settled(root, options).used.scan, issues.append)), issues


def paired(pairs: list[Pair]) -> dict[str, str]:
    return {pair.image_path: pair.mask_path for pair in pairs if pair.image_path and pair.mask_path}


def options_in(text: str) -> ScanOptions:
    """Return the options of the scan in what was printed."""
    words = shlex.split(text)
    names = [word.removeprefix("--").replace("-", "_") for word in words[::2]]
    chosen: dict[str, Any] = dict(zip(names, words[1::2], strict=True))
    return ScanOptions(**chosen)


def same_options(understood: str) -> ScanOptions:
    match = re.search(r"\(the same: (.*)\)$", understood)
    assert match
    return options_in(match[1])


def test_names_are_unique() -> None:
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)


@named(ALONE)
def test_pairs_are_those_that_were_made(layout: Layout, tmp_path: Path) -> None:
    root, true_pairs = made(layout, tmp_path)
    pairs, _ = listed(root)
    assert paired(pairs) == true_pairs
    of_masks = set(true_pairs.values())
    assert not of_masks & {pair.image_path for pair in pairs}
    assert not [pair for pair in pairs if pair.image_path is None]
    assert bool(settled(root).understood) == (layout.outcome is Outcome.UNDERSTOOD)


@named([*UNDERSTOOD, *PUBLISHED])
def test_the_options_that_are_printed_say_the_same(layout: Layout, tmp_path: Path) -> None:
    root, true_pairs = made(layout, tmp_path)
    understood = settled(root)
    explicit = settled(root, same_options(understood.understood))
    assert explicit.understood == ""
    by_itself, with_options = (
        list(scan(root, chosen.used.scan, lambda issue: None)) for chosen in (understood, explicit)
    )
    assert by_itself == with_options
    assert paired(with_options) == true_pairs


@named(CHOICE)
def test_a_choice_is_printed_as_commands_that_work(layout: Layout, tmp_path: Path) -> None:
    root, true_pairs = made(layout, tmp_path)
    with pytest.raises(UsageError) as caught:
        settled(root)
    text = str(caught.value)
    assert all(words in text for words in layout.says)
    commands = [
        line.strip().partition("  # ")[0]
        for line in text.splitlines()
        if line.strip().startswith("histoprep audit")
    ]
    readings_of_commands = []
    for command in commands:
        program, name, folder, *words = shlex.split(command)
        assert (program, name, folder) == ("histoprep", "audit", str(root))
        readings_of_commands.append(paired(listed(root, options_in(shlex.join(words)))[0]))
    assert true_pairs in readings_of_commands
    if len(commands) == 2:
        first, second = readings_of_commands
        assert len(first) == len(second) == len(true_pairs)
        assert first.keys() == second.keys() or set(first.values()) == set(second.values())
    else:
        # Parts of the set, and all of it in one.
        assert readings_of_commands[0] == true_pairs
        assert all(part.items() < true_pairs.items() for part in readings_of_commands[1:])


@named(REFUSED)
@pytest.mark.slow
def test_what_cannot_be_paired_is_an_error_and_no_tile(layout: Layout, tmp_path: Path) -> None:
    root, _ = made(layout, tmp_path)
    done = run_histoprep("audit", str(root), "--workers", "1")
    printed = done.stdout + done.stderr
    assert done.returncode in (1, 2), printed
    assert all(words in printed for words in layout.says), printed
    assert "delete" not in printed
    manifest = run_histoprep("manifest", str(root), "--workers", "1")
    assert manifest.returncode == 2
    if found := re.search(r"histoprep (import combine .*?)\.?(  #|$)", printed, re.MULTILINE):
        done = run_histoprep(*shlex.split(found[1]))
        assert done.returncode == 0, done.stderr
        pairs, _ = listed(Path(f"{root}-combined"))
        assert len(paired(pairs)) == len(pairs) > 4


@pytest.mark.slow
def test_links_are_named_in_the_error_and_followed_by_the_command_in_it(tmp_path: Path) -> None:
    [layout] = [layout for layout in LAYOUTS if layout.name == "links-to-a-store"]
    root, true_pairs = made(layout, tmp_path)
    done = run_histoprep("audit", str(root), "--workers", "1")
    assert done.returncode == 2
    assert "2 links that leave the folder: images, masks" in done.stderr
    [command] = [line for line in done.stderr.splitlines() if "--follow-links" in line]
    words = shlex.split(command.partition("try: ")[2])
    done = run_histoprep(*words[1:], "--workers", "1", "--exit-zero")
    assert done.returncode == 0, done.stderr
    assert f"{len(true_pairs)} paired" in done.stdout


@pytest.mark.slow
def test_the_audit_says_what_was_understood_and_later_commands_know(tmp_path: Path) -> None:
    root = tmp_path / "set"
    pairs_of("train_images/t{i}.png", "train_masks/t{i}.png")(root)
    done = run_histoprep("audit", str(root), "--workers", "1")
    assert done.returncode == 0, done.stdout
    [line] = [line for line in done.stdout.splitlines() if line.startswith("layout understood")]
    assert "--images train_images --masks train_masks" in line
    assert "8 images, 8 masks: 8 paired" in done.stdout
    # Again, from what was kept.
    again = run_histoprep("audit", str(root), "--workers", "1")
    assert line in again.stdout
    assert "as before" not in again.stderr
    manifest = run_histoprep("manifest", str(root), "--workers", "1")
    assert manifest.returncode == 0
    assert line in manifest.stderr.replace("\n", " ") or "layout understood" in manifest.stderr


@pytest.mark.slow
def test_masks_that_come_later_are_understood_then(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for i in range(6):
        save(tissue(i), root / f"a/t{i}.png")
    assert run_histoprep("audit", str(root), "--workers", "1").returncode == 0
    for i in range(6):
        save(classes(i), root / f"b/t{i}.png")
    done = run_histoprep("audit", str(root), "--workers", "1")
    assert "--images a --masks b" in done.stdout
    # And folders that come after that are not passed over in silence.
    for i in range(6):
        save(tissue(i), root / f"c/u{i}.png")
    assert "unread-folder" in run_histoprep("audit", str(root), "--workers", "1").stdout


def test_what_was_requested_is_not_overruled(tmp_path: Path) -> None:
    root = tmp_path / "set"
    pairs_of(
        "HE/t{i}.png",
        "reader1/t{i}.png",
        also=[Also("reader2/t{i}.png", lambda seed: classes(seed + 50))],
    )(root)
    chosen = settled(root, ScanOptions(masks="reader2"))
    assert (chosen.used.scan.images, chosen.used.scan.masks) == ("HE", "reader2")
    assert chosen.requested.scan.images is None
    chosen = settled(root, ScanOptions(images="reader1", masks="HE"))
    assert (chosen.used.scan.images, chosen.used.scan.masks) == ("reader1", "HE")


def test_a_suffix_may_be_requested_without_the_extension_it_needs(tmp_path: Path) -> None:
    root = tmp_path / "set"
    true_pairs = pairs_of("t{i}.jpg", "t{i}.png")(root)
    assert paired(listed(root, ScanOptions(mask_suffix=""))[0]) == true_pairs


def test_names_alone_decide_only_where_nothing_can_be_seen(tmp_path: Path) -> None:
    for images, masks in (("photos", "masks_v2"), ("photos", "others")):
        root = tmp_path / masks
        for i in range(6):
            for folder in (images, masks):
                (root / folder).mkdir(parents=True, exist_ok=True)
                (root / folder / f"t{i}.png").write_bytes(b"")
        understood = settled(root).understood
        assert bool(understood) is (masks == "masks_v2")


def test_large_folders_are_looked_up_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histoprep.scanning.understanding._MAX_NAMES", 7)
    root = tmp_path / "set"
    true_pairs = pairs_of("train_images/t{i}.png", "train_masks/t{i}_gt.png", ids=tuple(range(60)))(
        root
    )
    assert paired(listed(root)[0]) == true_pairs


def test_few_of_many_pairs_are_enough_for_a_known_layout(tmp_path: Path) -> None:
    root = tmp_path / "set"
    pairs_of("images/{i}.png", "masks/{i}.png", ids=tuple(range(4)))(root)
    for i in range(10):
        save(tissue(i), root / f"images/more{i}.png")
        save(classes(i), root / f"masks/other{i}.png")
    assert settled(root).understood == ""


# --- readings of names -----------------------------------------------------------------------


def best(*paths: str) -> dict[str, str]:
    folders: dict[str, list[str]] = {}
    for path in paths:
        folder, slash, name = path.rpartition("/")
        folders.setdefault(folder + slash, []).append(name)
    found = readings([FolderNames.of(folder, names) for folder, names in folders.items()])
    return found[0].options() if found else {}


def test_readings_are_expressed_in_the_simplest_way() -> None:
    assert best("a/1.png", "a/2.png", "b/1_x.png", "b/2_x.png")["mask_suffix"] == "_x"
    assert best("1.jpg", "2.jpg", "1.png", "2.png") in (
        {"image_suffix": ".jpg", "mask_suffix": ".png"},
        {"image_suffix": ".png", "mask_suffix": ".jpg"},
    )
    assert best("x.png", "y.tif") == {}


def test_masks_of_several_extensions_are_a_pattern() -> None:
    found = find_pairing(
        ["i/1.jpg", "i/2.jpg", "i/3.jpg", "i/4.jpg"],
        ["m/1_ids.png", "m/2_ids.png", "m/3_ids.tif", "m/4_ids.tif", "m/1_view.png"],
    )
    assert found
    assert found.options()["mask_pattern"] == r"^(?P<key>.+)_ids\.(png|tif)$"


def test_advice_on_masks_among_images(tmp_path: Path) -> None:
    images = [f"p{i}.png" for i in range(4)]
    text = suggest_pairing(tmp_path, images, [f"p{i}.lab.png" for i in range(4)])
    assert f"histoprep audit {tmp_path} --mask-suffix .lab" in text
    assert "--pairs" in suggest_pairing(tmp_path, images, ["q.png", "z7.png"])


def test_advice_where_nothing_is_paired(tmp_path: Path) -> None:
    cause, suggestion = explain_nothing_paired(tmp_path, ["i/img_0.png"], ["m/seg-9.png"])
    assert "img_0 / seg-9" in cause
    assert "--pairs" in suggestion
    cause, suggestion = explain_nothing_paired(
        tmp_path, ["i/a.png", "i/b.png"], ["m/a_1.png", "m/a_2.png", "m/b_1.png"]
    )
    assert "several mask files" in cause
    assert f"histoprep import combine {tmp_path} --by instance --mask-pattern" in suggestion
    _, suggestion = explain_nothing_paired(
        tmp_path, ["i/img_1.png", "i/img_2.png"], ["m/ann_1.png", "m/ann_2.png"]
    )
    assert "--image-pattern" in suggestion
    assert "To pair 2 of them: histoprep audit" in suggestion


# --- what files look like --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_labels_and_photographs_are_told_apart(seed: int) -> None:
    assert content_of_pixels(tissue(seed)) is Content.IMAGE
    assert content_of_pixels(overlay(seed)) is Content.IMAGE
    assert content_of_pixels(classes(seed)) is Content.CLASSES
    assert content_of_pixels(coloured(seed)) is Content.COLOURS
    assert content_of_pixels(np.repeat(classes(seed)[..., None], 3, 2)) is Content.CLASSES
    assert content_of_pixels(instances(seed)).is_labels
    grey = tissue(seed).mean(2).astype(np.uint8)
    assert content_of_pixels(grey) is Content.IMAGE


def test_glass_is_no_label(tmp_path: Path) -> None:
    side = 128
    image = np.full((side, side, 3), 255, np.uint8)
    image[:40, :40] = tissue(1)[:40, :40]
    assert content_of_pixels(image) is Content.IMAGE
    for quality in (60, 90):
        assert content_of(encode_rgb_jpeg(image, quality, "4:2:0")) is Content.IMAGE


def test_what_cannot_be_decoded_is_unknown() -> None:
    assert content_of(b"") is Content.UNKNOWN
    assert content_of(b"no image") is Content.UNKNOWN
    assert content_of_pixels(np.zeros((0, 3), np.uint8)) is Content.UNKNOWN
    assert content_of_pixels(np.full((4, 4), 7)) is Content.BLANK


@pytest.mark.parametrize("quality", [70, 95])
def test_labels_saved_as_jpeg_are_labels(quality: int) -> None:
    mask = np.repeat(((classes(3, 128) > 0) * 255).astype(np.uint8)[..., None], 3, 2)
    assert content_of(encode_rgb_jpeg(mask, quality, "4:4:4")).is_labels


@pytest.mark.parametrize(
    "folder", ["ebhi_seg", "ebhi_seg/images", "ebhi_seg/defects", "diffinfinite"]
)
def test_nothing_is_read_into_real_folders(folder: str, shared_data: Path) -> None:
    workspace = Workspace.of(shared_data / folder, Path("/nowhere"))
    found = settle(workspace, TableOptions())
    assert found.understood == ""
    assert not found.used.tiles.seeks_labels


def test_real_images_and_labels_are_told_apart(shared_data: Path) -> None:
    for folder, is_labels in (("images", False), ("labels", True)):
        files = sorted((shared_data / "ebhi_seg" / folder).rglob("*.png"))[::30]
        seen = {content_of(file.read_bytes()) for file in files} - {Content.BLANK}
        assert {content.is_labels for content in seen} == {is_labels}


def test_real_tiles_in_a_layout_of_their_own(shared_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    true_pairs = {}
    for index, image in enumerate(
        sorted((shared_data / "ebhi_seg" / "images").rglob("*.png"))[::60]
    ):
        label = shared_data / "ebhi_seg" / "labels" / image.relative_to(image.parents[1])
        pair = f"HE/slide{index}.png", f"drawn by us/slide{index} regions.png"
        for source, name in zip((image, label), pair, strict=True):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(source)
        true_pairs[pair[0]] = pair[1]
    pairs, _ = listed(root, ScanOptions(follow_links=True))
    assert paired(pairs) == true_pairs


@pytest.mark.slow
def test_masks_of_another_reader_are_left_out_once_a_suffix_is_chosen(tmp_path: Path) -> None:
    layout = next(layout for layout in CHOICE if layout.name == "two-annotators")
    root, true_pairs = made(layout, tmp_path)
    done = run_histoprep("audit", str(root), "--mask-suffix", "_1stHO", "--workers", "1")
    assert done.returncode == 1 and "HP110 second-mask: 8 of 16 images" in done.stdout
    assert "HP109" not in done.stdout
    assert run_histoprep("manifest", str(root), "--workers", "1").returncode == 3
    rows = read_manifest(Workspace.of(root).manifest, ["image_path", "mask_path"]).to_pylist()
    assert {row["image_path"]: row["mask_path"] for row in rows} == true_pairs


@pytest.mark.parametrize(
    ("masks", "images", "found"),
    [
        (["a_2.png", "b.png"], ["a.jpg"], {"a_2.png"}),
        (["x/a-r2.png", "a-r2.png"], ["x/a.jpg"], {"x/a-r2.png"}),
        (["ab.png", "a.png"], ["a.jpg"], set()),
        (["a.b.c.png"], ["a.b.png"], {"a.b.c.png"}),
        (["d_e/a.png"], ["d.png"], set()),
        ([], ["a.jpg"], set()),
    ],
)
def test_further_masks_continue_the_name_of_an_image(
    masks: list[str], images: list[str], found: set[str]
) -> None:
    assert further_masks(masks, images) == found


# --- many files ---------------------------------------------------------------------------------


def linked(root: Path, paths: Iterable[tuple[str, str]]) -> None:
    """Make pairs of images and masks that are links to two files: names alone count."""
    root.mkdir()
    for name, pixels in (("image.png", tissue(1)), ("mask.png", classes(1))):
        save(pixels, root.with_name(name))
    for pair in paths:
        for path, name in zip(pair, ("image.png", "mask.png"), strict=True):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            os.link(root.with_name(name), root / path)


@pytest.mark.parametrize(
    "pair",
    [
        # Numbers alone, more of them in each folder than a short look lists.
        pytest.param(lambda at: (f"HE/{at}.png", f"truth/{at}.png"), id="numbers"),
        pytest.param(
            lambda at: (f"s{at // 700}/HE/{at}.png", f"s{at // 700}/truth/{at}.png"), id="slides"
        ),
        # The folder of masks lies behind hundreds of others.
        pytest.param(
            lambda at: (f"s{at // 6}/{at}.png", f"truth/s{at // 6}_{at}.png"), id="joined"
        ),
        pytest.param(
            lambda at: (f"s{at // 6}/{at}.png", f"s{at // 6}/{at}_truth.png"), id="suffix"
        ),
    ],
)
def test_layouts_of_many_files_are_understood(
    pair: Callable[[int], tuple[str, str]], tmp_path: Path
) -> None:
    number = 1500
    linked(tmp_path / "set", map(pair, range(number)))
    found = understand(tmp_path / "set", ScanOptions())
    pairs = {
        (tile.image_path, tile.mask_path)
        for tile in scan(tmp_path / "set", found.options, lambda _: None)
    }
    assert pairs == {pair(at) for at in range(number)}
