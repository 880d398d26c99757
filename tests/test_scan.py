"""Folders of real files, made in every way people lay them out, and what the scan says of them."""

from __future__ import annotations

import os
import random
import re
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histoprep.choices import Layout
from histoprep.errors import UsageError
from histoprep.names import to_name, to_text
from histoprep.scanning import detect_layout, keys, scan
from histoprep.scanning.formats import count_unread
from histoprep.scanning.listing import Issue, IssueKind, Pair, ScanOptions
from histoprep.scanning.name_rules import NameRules
from histoprep.scanning.walk import DirectoryListing, Walker
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.options import TableOptions, resolved


@pytest.fixture(params=["name by name", "in columns"], autouse=True)
def _both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large folders are read in another way than small ones; whatever is said here holds for
    both.
    """
    monkeypatch.setattr(keys, "PLAIN_FROM", 1 if request.param == "in columns" else sys.maxsize)


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        where = Path(os.path.join(root, path))
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(b"")
    return root


def listed(root: Path, **options: object) -> tuple[list[Pair], list[Issue]]:
    issues: list[Issue] = []
    chosen = ScanOptions(**options)  # type: ignore[arg-type]
    return list(scan(root, chosen, issues.append)), issues


def files(root: Path, **options: object) -> list[tuple[str, str | None, str | None]]:
    """(tile id, image, mask) of a folder in which nothing is odd."""
    pairs, issues = listed(root, **options)
    assert issues == []
    return [(pair.tile_id, pair.image_path, pair.mask_path) for pair in pairs]


def kinds_of(issues: list[Issue]) -> list[tuple[str, str]]:
    return [(issue.kind.value, issue.path) for issue in issues]


# --- layouts -------------------------------------------------------------------------------


def test_siblings(tmp_path: Path) -> None:
    make(
        tmp_path,
        "b.jpg",
        "b_mask.png",
        "a.jpg",
        "a_mask.png",
        "c.tif",
        "sub/d.webp",
        "sub/d_mask.png",
        "lonely_mask.png",
    )
    assert files(tmp_path) == [
        ("a", "a.jpg", "a_mask.png"),
        ("b", "b.jpg", "b_mask.png"),
        ("c", "c.tif", None),
        ("lonely", None, "lonely_mask.png"),
        ("sub/d", "sub/d.webp", "sub/d_mask.png"),
    ]


@pytest.mark.parametrize(
    ("images", "masks"),
    [("images", "masks"), ("Images", "Labels"), ("imgs", "annotations"), ("tiles", "gt")],
)
def test_folders_mirror_each_other(tmp_path: Path, images: str, masks: str) -> None:
    make(
        tmp_path,
        f"{images}/a.jpg",
        f"{masks}/a.png",
        f"{images}/s1/b.jpg",
        f"{masks}/s1/b_mask.png",
        f"{images}/s2/c.jpg",
        f"{masks}/s3/d.png",
    )
    assert files(tmp_path) == [
        (f"{images}/a", f"{images}/a.jpg", f"{masks}/a.png"),
        (f"{images}/s1/b", f"{images}/s1/b.jpg", f"{masks}/s1/b_mask.png"),
        (f"{images}/s2/c", f"{images}/s2/c.jpg", None),
        (f"{masks}/s3/d", None, f"{masks}/s3/d.png"),
    ]


def test_folders_may_be_named(tmp_path: Path) -> None:
    make(tmp_path, "HE/a.jpg", "truth/a.png")
    assert files(tmp_path, images="HE", masks="truth") == [("HE/a", "HE/a.jpg", "truth/a.png")]
    with pytest.raises(UsageError, match="--images and --masks"):
        listed(tmp_path, layout=Layout.FOLDERS)


@pytest.mark.parametrize(
    "options",
    [
        {"images": "HE", "masks": "truth"},
        {"images": "HE"},
        {"masks": "truth"},
        {"layout": Layout.FOLDERS},
    ],
)
def test_folders_that_are_nowhere_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    make(tmp_path, "train/a.jpg", "train/a_mask.png", "rest/b.jpg")
    with pytest.raises(UsageError) as caught:
        listed(tmp_path, **options)
    wanted = f"{options.get('images', 'images')}/ and {options.get('masks', 'masks')}/"
    assert caught.value.what == f"no folder holds {wanted} side by side"
    assert (caught.value.path, caught.value.seen) == (str(tmp_path), "rest, train")
    make(
        tmp_path,
        f"deep/down/{options.get('images', 'images')}/c.jpg",
        f"deep/down/{options.get('masks', 'masks')}/c.png",
    )
    assert len(files(tmp_path, **options)) == 3


def test_named_folders_of_splits_are_no_classes(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "train/HE/a.jpg", "train/truth/a.png")
    workspace = Workspace.of(root)
    assert (
        resolved(workspace, TableOptions(ScanOptions(images="HE", masks="truth"))).scan.layout
        is Layout.AUTO
    )
    assert resolved(workspace, TableOptions()).scan.layout is Layout.CLASS_FOLDERS


def test_folders_below_splits_and_siblings_mixed(tmp_path: Path) -> None:
    make(
        tmp_path,
        "train/images/a.jpg",
        "train/masks/a.png",
        "Test/b.jpg",
        "Test/b_mask.png",
        "other/c.jpg",
    )
    pairs, issues = listed(tmp_path)
    assert issues == []
    assert [(pair.tile_id, pair.split) for pair in pairs] == [
        ("Test/b", "test"),
        ("other/c", None),
        ("train/images/a", "train"),
    ]
    assert [pair.mask_path for pair in pairs] == ["Test/b_mask.png", None, "train/masks/a.png"]


def test_what_lies_beside_paired_folders_is_told(tmp_path: Path) -> None:
    make(
        tmp_path,
        "images/a.jpg",
        "masks/a.png",
        "overview.png",
        "notes.txt",
        "map.yml",
        "dataset.csv",
        "thumbs/a.png",
    )
    pairs, issues = listed(tmp_path)
    assert len(pairs) == 1
    assert sorted(kinds_of(issues)) == [
        ("unexpected", "notes.txt"),
        ("unexpected", "overview.png"),
        ("unread-folder", "thumbs/"),
    ]


def test_class_folders_with_and_without_split(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        make(
            tmp_path / "split", f"{split}/tumour/a{split}.png", f"{split}/stroma/deep/b{split}.png"
        )
    assert detect_layout(tmp_path / "split") is Layout.CLASS_FOLDERS
    pairs, issues = listed(tmp_path / "split", layout=Layout.CLASS_FOLDERS)
    assert issues == []
    assert {(pair.split, pair.label) for pair in pairs} == {
        (split, label) for split in ("train", "val", "test") for label in ("tumour", "stroma")
    }
    make(tmp_path / "plain", "tumour/a.png", "stroma/b.png", "loose.png")
    assert detect_layout(tmp_path / "plain") is Layout.AUTO
    pairs, _ = listed(tmp_path / "plain", layout=Layout.CLASS_FOLDERS)
    assert [(pair.tile_id, pair.split, pair.label) for pair in pairs] == [
        ("loose", None, None),
        ("stroma/b", None, "stroma"),
        ("tumour/a", None, "tumour"),
    ]


@pytest.mark.parametrize(
    ("paths", "layout"),
    [
        (["train/a.png", "test/b.png"], Layout.AUTO),
        (["train/images/a.png", "train/masks/a.png"], Layout.AUTO),
        (["train/x/a.png", "test/b.png"], Layout.AUTO),
        (["train/x/a.png", "train/.hidden.png"], Layout.CLASS_FOLDERS),
        (["a.png"], Layout.AUTO),
    ],
)
def test_layout_detection(tmp_path: Path, paths: list[str], layout: Layout) -> None:
    assert detect_layout(make(tmp_path, *paths)) is layout


def test_only_siblings_when_asked(tmp_path: Path) -> None:
    make(tmp_path, "images/a.jpg", "masks/a.png")
    pairs, _ = listed(tmp_path, layout=Layout.SIBLING)
    assert [pair.image_path for pair in pairs] == ["images/a.jpg", "masks/a.png"]


# --- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stem",
    [
        "a.b.c",
        "TCGA-01.tiff-",
        "with space",
        " lead",
        "x'y\"z",
        "=1+1",
        "a\nb",
        "Überschnitt",
        "切片",
        "😀",
        "%41",
        "a\\b",
        "a_mask_b",
        "..",
        "-",
    ],
)
def test_names_of_every_kind_pair(tmp_path: Path, stem: str) -> None:
    make(tmp_path, f"{stem}.jpg", f"{stem}_mask.png")
    hidden = stem.startswith(".")
    assert files(tmp_path) == ([] if hidden else [(stem, f"{stem}.jpg", f"{stem}_mask.png")])


def test_suffixes_of_either_case_pair(tmp_path: Path) -> None:
    make(tmp_path, "a.JPG", "a_MASK.PNG", "B.Tiff", "b_mask.png")
    assert files(tmp_path) == [("a", "a.JPG", "a_MASK.PNG"), ("B", "B.Tiff", "b_mask.png")]


def test_composed_and_decomposed_names_pair(tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "Gewebe-ä") for form in ("NFC", "NFD"))
    assert nfc != nfd
    make(tmp_path, f"{nfc}.jpg", f"{nfd}_mask.png")
    assert files(tmp_path) == [(nfc, f"{nfc}.jpg", f"{nfd}_mask.png")]


def test_a_mask_suffix_of_ones_own(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "a-Öl.png", "_mask.png")
    assert files(tmp_path, mask_suffix="-öl") == [
        ("_mask", "_mask.png", None),
        ("a", "a.jpg", "a-Öl.png"),
    ]


def test_a_name_that_is_only_the_suffix_is_an_image(tmp_path: Path) -> None:
    assert files(make(tmp_path, "_mask.png")) == [("_mask", "_mask.png", None)]


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(folder)
    for name in (b"a\xe4.jpg", b"a\xe4_mask.png", "\uef80.jpg".encode()):
        os.close(os.open(folder + b"/" + name, os.O_CREAT))
    pairs, issues = listed(tmp_path)
    assert issues == [] and len(pairs) == 2
    for pair in pairs:
        pair.tile_id.encode()
        assert os.path.isfile(os.path.join(tmp_path, to_name(pair.image_path or "")))
    assert (
        pairs[0].mask_path
        and os.fsencode(to_name(pairs[0].mask_path)) == b"\xff\xfe/a\xe4_mask.png"
    )


def test_an_unlabelled_folder_that_is_not_utf_8(tmp_path: Path) -> None:
    inside, outside = (
        Path(os.fsdecode(os.fsencode(tmp_path) + item)) for item in (b"/data/\xff", b"/\xfe")
    )
    for folder in (inside, outside):
        folder.mkdir(parents=True)
        make(folder, "a.jpg", "junk.txt")
    pairs, issues = listed(tmp_path / "data", unlabelled=(inside, outside))
    assert all(text.encode() for pair in pairs for text in (pair.tile_id, pair.image_path or ""))
    assert [to_name(pair.tile_id) for pair in pairs] == [f"{inside.name}/a", f"{outside.name}/a"]
    assert all(
        os.path.isfile(os.path.join(tmp_path / "data", to_name(pair.image_path or "")))
        for pair in pairs
    )
    assert (
        all(
            os.path.isfile(os.path.join(tmp_path / "data", to_name(issue.path))) for issue in issues
        )
        and len(issues) == 2
    )


# --- collisions ----------------------------------------------------------------------------


def test_two_images_of_one_key(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "a.png")
    pairs, issues = listed(tmp_path)
    assert [(pair.tile_id, pair.image_path) for pair in pairs] == [("a", "a.jpg")]
    assert kinds_of(issues) == [("duplicate-key", "a.jpg"), ("duplicate-key", "a.png")]


def test_two_images_share_a_mask(tmp_path: Path) -> None:
    make(tmp_path, "A.jpg", "a.jpg", "a_mask.png")
    pairs, issues = listed(tmp_path)
    assert [(pair.tile_id, pair.mask_path) for pair in pairs] == [("A", None), ("a", "a_mask.png")]
    assert kinds_of(issues) == [("ambiguous", "A.jpg"), ("ambiguous", "a.jpg")]


def test_two_masks_of_one_image(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "a_mask.png", "a_mask.tif")
    pairs, issues = listed(tmp_path)
    assert [(pair.tile_id, pair.mask_path) for pair in pairs] == [("a", "a_mask.png")]
    assert kinds_of(issues) == [("ambiguous", "a_mask.png"), ("ambiguous", "a_mask.tif")]
    pairs, _ = listed(make(tmp_path / "case", "a.jpg", "A_mask.png", "A_mask.tif"))
    assert [(pair.tile_id, pair.mask_path) for pair in pairs] == [("a", "A_mask.png")]
    make(tmp_path / "other", "images/b.jpg", "masks/b.png", "masks/b_mask.png")
    pairs, issues = listed(tmp_path / "other")
    assert len(pairs) == 1 and kinds_of(issues) == [
        ("ambiguous", "masks/b.png"),
        ("ambiguous", "masks/b_mask.png"),
    ]


def test_orphan_masks_of_one_key(tmp_path: Path) -> None:
    make(tmp_path, "images/z.jpg", "masks/a.png", "masks/a_mask.png", "masks/A.tif")
    pairs, issues = listed(tmp_path)
    ids = [pair.tile_id for pair in pairs]
    assert len(set(ids)) == len(ids) and "images/a" in ids and "images/A" in ids
    assert kinds_of(issues) == [
        ("duplicate-key", f"masks/{name}") for name in ("A.tif", "a.png", "a_mask.png")
    ]


def test_folders_that_differ_by_case_only(tmp_path: Path) -> None:
    _, issues = listed(make(tmp_path, "Slide/a.jpg", "slide/a.jpg"))
    assert kinds_of(issues) == [("duplicate-key", "slide")]


# --- things that are not files --------------------------------------------------------------


def test_links_pipes_and_loops(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "a.jpg", "sub/b.jpg", ".hidden/x.jpg")
    make(tmp_path, "outside/c.jpg", "data2/d.jpg")
    os.mkfifo(root / "pipe.png")
    for name, target in {
        "inside.jpg": root / "a.jpg",
        "out.jpg": tmp_path / "outside" / "c.jpg",
        "near.jpg": tmp_path / "data2" / "d.jpg",
        "folder": root / "sub",
        "up": root,
        "nothing.jpg": root / "gone.jpg",
        "loop.jpg": root / "loop.jpg",
        "outfolder": tmp_path / "outside",
    }.items():
        (root / name).symlink_to(target)
    pairs, issues = listed(root)
    assert [pair.image_path for pair in pairs] == ["a.jpg", "inside.jpg", "sub/b.jpg"]
    assert dict(map(reversed, kinds_of(issues))) == {
        **dict.fromkeys(("folder", "pipe.png", "up"), "unexpected"),
        **dict.fromkeys(("loop.jpg", "nothing.jpg"), "broken-link"),
        **dict.fromkeys(("near.jpg", "out.jpg", "outfolder"), "leaving-link"),
    }
    details = {issue.path: issue.detail for issue in issues}
    assert all(details.values())
    assert details["nothing.jpg"] == f"link to {root / 'gone.jpg'}, which is not there"
    assert details["loop.jpg"].startswith(f"link to {root / 'loop.jpg'}, Too many")


def test_links_into_a_store_that_is_not_there_are_broken_ones(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "a.jpg")
    (root / "a_mask.png").symlink_to(tmp_path / "store" / "x1" / "a.png")
    (root / "more").symlink_to("../store/more")
    for follow in (False, True):
        pairs, issues = listed(root, follow_links=follow)
        assert [pair.mask_path for pair in pairs] == [None]
        assert [(issue.kind.value, issue.path, issue.detail) for issue in issues] == [
            (
                "broken-link",
                name,
                f"link to {tmp_path / 'store' / target}, which is not there",
            )
            for name, target in (("a_mask.png", "x1/a.png"), ("more", "more"))
        ]


def test_links_that_leave_are_followed_when_wanted_and_each_folder_is_read_once(
    tmp_path: Path,
) -> None:
    root = make(tmp_path / "data", "a.jpg")
    store = make(tmp_path / "store", "more/b.jpg", "more/b_mask.png", "c.jpg", "c_mask.png")
    # A store may hold one file for two names.
    for name, target in {
        "d.jpg": store / "c.jpg",
        "d_mask.png": store / "c_mask.png",
        "e.jpg": store / "c.jpg",
        "first": store / "more",
        "second": store / "more",
        "up": tmp_path,
        "self": root,
    }.items():
        (root / name).symlink_to(target)
    (store / "more" / "back").symlink_to(root)
    (store / "more" / "inner").symlink_to(store)
    pairs, issues = listed(root, follow_links=True)
    assert [(pair.tile_id, pair.mask_path) for pair in pairs] == [
        ("a", None),
        ("d", "d_mask.png"),
        ("e", None),
        ("first/b", "first/b_mask.png"),
    ]
    assert sorted(kinds_of(issues)) == [
        ("unexpected", name) for name in ("first/back", "first/inner", "second", "self", "up")
    ]


def test_paired_folders_may_be_links_into_a_store(tmp_path: Path) -> None:
    make(tmp_path / "store", "1/a.jpg", "2/a.png")
    root = make(tmp_path / "data", "notes.txt")
    (root / "images").symlink_to(tmp_path / "store" / "1")
    (root / "masks").symlink_to(tmp_path / "store" / "2")
    pairs, _ = listed(root, follow_links=True)
    assert [pair[:3] for pair in pairs] == [("images/a", "images/a.jpg", "masks/a.png")]


def test_image_suffixes(tmp_path: Path) -> None:
    make(tmp_path, "a_he.png", "a_gt.png", "a_view.png", "b_HE.png", "c_gt.png", "_he.png")
    pairs, issues = listed(tmp_path, image_suffix="_he", mask_suffix="_gt")
    assert [pair[:3] for pair in pairs] == [
        ("a_he", "a_he.png", "a_gt.png"),
        ("b_HE", "b_HE.png", None),
        ("c", None, "c_gt.png"),
    ]
    assert kinds_of(issues) == [("other-name", "_he.png"), ("other-name", "a_view.png")]


def test_suffixes_with_an_extension_are_exact(tmp_path: Path) -> None:
    make(tmp_path / "one", "a.jpg", "a.png", "b.JPG", "b.Png", "c.tif")
    pairs, issues = listed(tmp_path / "one", image_suffix=".jpg", mask_suffix=".png")
    assert [pair[:3] for pair in pairs] == [("a", "a.jpg", "a.png"), ("b", "b.JPG", "b.Png")]
    assert kinds_of(issues) == [("other-name", "c.tif")]
    make(tmp_path / "two", "images/a.jpg", "masks/a_ids.png", "masks/a_colour.png", "masks/a.png")
    pairs, issues = listed(tmp_path / "two", mask_suffix="_ids.png")
    assert [pair[:3] for pair in pairs] == [("images/a", "images/a.jpg", "masks/a_ids.png")]
    assert kinds_of(issues) == [
        ("other-name", "masks/a.png"),
        ("other-name", "masks/a_colour.png"),
    ]
    make(tmp_path / "three", "img/a.jpg", "ann/a.jpg.png")
    pairs, _ = listed(tmp_path / "three", images="img", masks="ann", mask_suffix=".jpg.png")
    assert [pair[:3] for pair in pairs] == [("img/a", "img/a.jpg", "ann/a.jpg.png")]


def test_an_empty_mask_suffix_leaves_images_to_theirs(tmp_path: Path) -> None:
    make(tmp_path, "a_0000.png", "a.png")
    pairs, _ = listed(tmp_path, image_suffix="_0000", mask_suffix="")
    assert [pair[:3] for pair in pairs] == [("a_0000", "a_0000.png", "a.png")]


def test_patterns_of_names(tmp_path: Path) -> None:
    make(
        tmp_path,
        *(f"{kind}/{kind[:3]}_{index}.png" for kind in ("images", "masks") for index in "12"),
    )
    make(tmp_path, "masks/other.png", "masks/mas_9.png")
    pairs, issues = listed(
        tmp_path, image_pattern=r"^ima_(?P<key>\d+)", mask_pattern=r"^mas_(?P<key>\d+)"
    )
    assert [pair[:3] for pair in pairs] == [
        ("images/ima_1", "images/ima_1.png", "masks/mas_1.png"),
        ("images/ima_2", "images/ima_2.png", "masks/mas_2.png"),
        ("images/mas_9", None, "masks/mas_9.png"),
    ]
    assert kinds_of(issues) == [("other-name", "masks/other.png")]


def test_patterns_of_paths_pair_across_folders(tmp_path: Path) -> None:
    make(
        tmp_path,
        *("train/case1/he.jpg", "train/case1/truth.png", "test/case1/he.jpg"),
        *("test/case1/truth.png", "test/case2/he.jpg", "test/case2/.truth.png", "notes.txt"),
    )
    options = {
        "image_pattern": r"^(?P<key>.+)/he\.jpg$",
        "mask_pattern": r"^(?P<key>.+)/truth\.png$",
    }
    pairs, issues = listed(tmp_path, **options)
    assert [(pair[:3], pair.split) for pair in pairs] == [
        (("test/case1/he", "test/case1/he.jpg", "test/case1/truth.png"), "test"),
        (("test/case2/he", "test/case2/he.jpg", None), "test"),
        (("train/case1/he", "train/case1/he.jpg", "train/case1/truth.png"), "train"),
    ]
    assert kinds_of(issues) == [("unexpected", "notes.txt")]


def test_rivals_of_a_coarse_pattern_get_no_mask(tmp_path: Path) -> None:
    make(tmp_path, "x1a.png", "x1b.png", "m1.png", "x2a.png", "m2.png")
    pairs, issues = listed(tmp_path, image_pattern=r"x(?P<key>\d)", mask_pattern=r"m(?P<key>\d)")
    assert [pair[:3] for pair in pairs] == [
        ("x1a", "x1a.png", None),
        ("x1b", "x1b.png", None),
        ("x2a", "x2a.png", "m2.png"),
    ]
    assert kinds_of(issues) == [("ambiguous", "x1a.png"), ("ambiguous", "x1b.png")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_pattern": "("}, "--image-pattern is no regular expression"),
        ({"mask_pattern": "a(.*)"}, "--mask-pattern needs a group named key"),
        ({"image_pattern": "(?P<key>.)/x"}, "both patterns are needed"),
        ({"image_pattern": "(?P<key>.)", "image_suffix": "_a"}, "contradict each other"),
    ],
)
def test_patterns_that_cannot_be(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        listed(make(tmp_path, "a.png"), **options)


def test_a_star_stands_for_what_both_folders_share(tmp_path: Path) -> None:
    make(
        tmp_path,
        *("train_HE/a.png", "train_gt/a.png", "Val_HE/sub/b.png", "val_gt/sub/b.png"),
        *("test_HE/c.png", "extra_gt/d.png", "docs/e.txt"),
    )
    pairs, issues = listed(tmp_path, images="*_HE", masks="*_gt")
    assert [(pair.tile_id, pair.mask_path, pair.split) for pair in pairs] == [
        ("extra_gt/d", "extra_gt/d.png", None),
        ("test_HE/c", None, "test"),
        ("train_HE/a", "train_gt/a.png", "train"),
        ("Val_HE/sub/b", "val_gt/sub/b.png", "val"),
    ]
    assert kinds_of(issues) == [("other-folder", "docs/")]


def test_a_bare_star_leaves_folders_to_the_longer_name(tmp_path: Path) -> None:
    make(tmp_path, "train/a.png", "train_labels/a.png", "val/b.png", "val_labels/b.png")
    pairs, _ = listed(tmp_path, images="*", masks="*_labels")
    assert [(pair.image_path, pair.mask_path) for pair in pairs] == [
        ("train/a.png", "train_labels/a.png"),
        ("val/b.png", "val_labels/b.png"),
    ]


def test_numbered_masks_are_no_tiles(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "a_mask.png", "a_mask_1.png", "a_mask(2).png", "b_mask_1.png", "c.png")
    make(tmp_path, "b_mask.jpg", "slide_mask_7.png")
    pairs, issues = listed(tmp_path)
    assert [pair.tile_id for pair in pairs if pair.image_path] == [
        "a",
        "b_mask_1",
        "c",
        "slide_mask_7",
    ]
    assert kinds_of(issues) == [("second-mask", "a_mask(2).png"), ("second-mask", "a_mask_1.png")]


def test_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "masks/a.mat", "slide.SVS", "regions.geojson", "x.nii.gz", "notes.txt")
    _, issues = listed(tmp_path)
    assert dict(map(reversed, kinds_of(issues))) == {
        **dict.fromkeys(
            ("masks/a.mat", "slide.SVS", "regions.geojson", "x.nii.gz"), "unread-format"
        ),
        "notes.txt": "unexpected",
    }
    assert count_unread(issues) == {"mat": 1, "svs": 1, "geojson": 1, "nii.gz": 1}


def test_a_root_that_is_a_link_is_followed(tmp_path: Path) -> None:
    make(tmp_path / "real", "a.jpg", "a_mask.png")
    (tmp_path / "real" / "b.jpg").symlink_to(tmp_path / "real" / "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert [item[0] for item in files(tmp_path / "link")] == ["a", "b"]


def test_hidden_files_and_workspaces_are_passed_over(tmp_path: Path) -> None:
    make(
        tmp_path,
        ".hp-12.tmp",
        ".git/a.jpg",
        "set.histoprep/masks-five/a.png",
        "a.jpg",
        "label_map_5.yml",
        "other.YAML",
    )
    assert files(tmp_path) == [("a", "a.jpg", None)]
    system = (".DS_Store", "._a.jpg", "Thumbs.db", "__MACOSX/._a.jpg")
    pairs, issues = listed(make(tmp_path, *system, "no-suffix", "b.xyz"))
    assert [pair.image_path for pair in pairs] == ["a.jpg"]
    assert sorted(kinds_of(issues)) == [
        ("system-file", "."),
        ("system-file", "__MACOSX/"),
        ("unexpected", "b.xyz"),
        ("unexpected", "no-suffix"),
    ]
    assert "3 files of the system, such as .DS_Store; left alone" in {
        issue.detail for issue in issues
    }


def test_folders_that_are_not_read_are_named_with_what_is_in_them(tmp_path: Path) -> None:
    make(
        tmp_path,
        "images/a.jpg",
        "masks/a.png",
        "raw/s1/b.png",
        "raw/notes.txt",
        "spare/c.jpg",
        "spare/d.tif",
        "docs/x.pdf",
        "docs/.hidden/e.png",
    )
    make(tmp_path, "more/new/f.jpg")
    where = "beside the images and masks folders; not read"
    seen = {
        "docs/": ("other-folder", f"folder {where}"),
        "raw/": ("unread-folder", f"folder with images further below {where}"),
        "spare/": ("unread-folder", f"folder with 2 images {where}"),
    }
    # What is read as --unlabelled is not missing.
    pairs, issues = listed(tmp_path, unlabelled=(tmp_path / "more" / "new",))
    assert {issue.path: (issue.kind.value, issue.detail) for issue in issues} == seen | {
        "more/": ("other-folder", f"folder {where}")
    }
    assert {pair.image_path for pair in pairs} == {"images/a.jpg", "more/new/f.jpg"}
    # Who names the folders to read knows of the others.
    issues = listed(tmp_path, images="images")[1]
    assert {issue.kind.value for issue in issues} == {"other-folder"}
    assert [issue.detail for issue in issues if issue.path == "spare/"] == [
        f"folder with 2 images {where}"
    ]


def test_a_large_tree_that_is_not_read_is_not_walked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(
        tmp_path,
        "images/a.jpg",
        "masks/a.png",
        *(f"raw/{number:03}/b.txt" for number in range(200)),
        *(f"spare/{number}/c.png" for number in range(9)),
    )
    looks: list[str] = []
    scan_folder = Walker._scan_folder

    def counted(self: Walker, folder: str, into: DirectoryListing) -> None:
        looks.append(folder)
        scan_folder(self, folder, into)

    monkeypatch.setattr(Walker, "_scan_folder", counted)
    assert kinds_of(listed(tmp_path)[1]) == [("other-folder", "raw/"), ("unread-folder", "spare/")]
    assert len([look for look in looks if look.startswith("raw/")]) == 64
    assert [look for look in looks if look.startswith("spare/")] == ["spare/", "spare/0/"]


def test_deep_nesting(tmp_path: Path) -> None:
    here = os.getcwd()
    depth = 3000
    try:
        os.chdir(tmp_path)
        for level in range(depth):
            os.mkdir("d")
            if level in (0, 1500):
                os.close(os.open("d/a.jpg", os.O_CREAT))
            os.chdir("d")
    finally:
        os.chdir(here)
    pairs, issues = listed(tmp_path)
    assert [len(pair.tile_id) for pair in pairs] == [len("d/a"), len("d/" * 1501 + "a")]
    assert [issue.kind for issue in issues] == [IssueKind.UNREADABLE]
    assert "name too long" in issues[0].detail
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


_AS_NOBODY = """
import os, sys
from pathlib import Path
from typing import Any
from histoprep.scanning import ScanOptions, scan
from histoprep.errors import UsageError
os.setgid(65534); os.setuid(65534)
issues = []
try:
    pairs = list(scan(Path(sys.argv[1]), ScanOptions(), issues.append))
except UsageError as error:
    print("usage", error.what)
else:
    print([one.image_path for one in pairs], [(one.kind.value, one.path) for one in issues])
"""


def as_nobody(root: Path) -> str:
    if os.geteuid() != 0:
        pytest.skip("needs root to become nobody")
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY, str(root)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    if "PermissionError" in done.stderr and "setgid" in done.stderr:
        pytest.skip("cannot drop privileges here")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "locked/b.jpg", "open/c.jpg")
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    (tmp_path / "locked").chmod(0o700)
    assert as_nobody(tmp_path) == "['a.jpg', 'open/c.jpg'] [('unreadable', 'locked/')]"
    tmp_path.chmod(0o711)
    assert as_nobody(tmp_path) == "usage the folder cannot be listed: Permission denied"


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        listed(tmp_path / "nowhere")


# --- unlabelled roots ------------------------------------------------------------------------


def test_unlabelled_roots_inside_and_outside(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "a.jpg", "a_mask.png", "more/deep/b.jpg", "extra/own.jpg")
    make(tmp_path / "extra", "own.jpg", "c.jpg", "sub/d.jpg", "c_mask.png", "note.txt")
    make(tmp_path / "again" / "extra", "e.jpg")
    roots = (
        root / "more",
        root / "more" / "deep",
        tmp_path / "extra",
        tmp_path / "again" / "extra",
        tmp_path / "extra",
    )
    pairs, issues = listed(root, unlabelled=roots)
    assert len({pair.tile_id for pair in pairs}) == len(pairs)
    found = {pair.tile_id: (pair.image_path, pair.unlabelled) for pair in pairs}
    assert found["a"] == ("a.jpg", False) and found["extra/own"] == ("extra/own.jpg", False)
    assert found["more/deep/b"] == ("more/deep/b.jpg", True)
    outside = {
        path for path, unlabelled in found.values() if unlabelled and path and path.startswith("/")
    }
    assert outside == {
        f"{tmp_path}/extra/own.jpg",
        f"{tmp_path}/extra/c.jpg",
        f"{tmp_path}/extra/sub/d.jpg",
        f"{tmp_path}/again/extra/e.jpg",
    }
    assert kinds_of(issues) == [
        ("unexpected", f"{tmp_path}/extra/note.txt"),
        ("unexpected", f"{tmp_path}/extra/c_mask.png"),
    ]


def test_unlabelled_roots_have_no_class(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "train/x/a.jpg")
    make(tmp_path / "more", "b.jpg")
    pairs, _ = listed(root, layout=Layout.CLASS_FOLDERS, unlabelled=(tmp_path / "more",))
    assert [(pair.label, pair.unlabelled) for pair in pairs] == [("x", False), (None, True)]


def test_unlabelled_roots_that_cannot_be(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "a.jpg")
    with pytest.raises(UsageError, match="contains the data set"):
        listed(root, unlabelled=(tmp_path,))
    with pytest.raises(UsageError, match="contains the data set"):
        listed(root, unlabelled=(root,))
    with pytest.raises(UsageError, match="not a folder"):
        listed(root, unlabelled=(root / "a.jpg",))


# --- groups, labels, dataset.csv ------------------------------------------------------------


@pytest.mark.parametrize("how", [r"(x)?s", "patient", "folder"])
def test_a_way_that_finds_no_group_is_refused_with_those_that_do(tmp_path: Path, how: str) -> None:
    make(tmp_path, *(f"case{i}_{j}.jpg" for i in range(4) for j in range(4)))
    with pytest.raises(UsageError, match="finds no group for any tile") as caught:
        listed(tmp_path, group_by=how)
    assert caught.value.what == f"--group-by {how} finds no group for any tile"
    assert caught.value.seen == "tile case0_0"
    command = shlex.split(str(caught.value.hint).split(" or ")[0])
    assert command[:4] == ["histoprep", "audit", str(tmp_path), "--group-by"]
    pairs, _ = listed(tmp_path, group_by=command[4])
    assert {pair.group for pair in pairs} == {f"case{i}" for i in range(4)}


@pytest.mark.parametrize(
    ("how", "groups"),
    [
        (r"^(?:.*/)?([^_]+)_", ["s1", "s2", None]),
        (r"s\d", ["s1", "s2", None]),
        ("folder", ["in", "in", "in/deep"]),
        ("csv:case", ["one", None, "three"]),
    ],
)
def test_groups(tmp_path: Path, how: str, groups: list[str | None]) -> None:
    make(tmp_path, "in/s1_0.jpg", "in/s2_0.jpg", "in/deep/plain.jpg", "in/orphan_mask.png")
    (tmp_path / "dataset.csv").write_text("image,case\ns1_0.jpg,one\nin/s2_0.jpg,\nplain,three\n")
    pairs, issues = listed(tmp_path, group_by=how)
    images = [pair for pair in pairs if pair.image_path]
    assert [image.group for image in images] == groups
    assert kinds_of(issues) == [
        ("unparsed", image.image_path) for image in images if image.group is None
    ]


def test_labels_by_pattern(tmp_path: Path) -> None:
    pairs, _ = listed(make(tmp_path, "x/tumour-1.jpg"), label_by=r"/(\w+)-")
    assert pairs[0].label == "tumour"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group_by": "("}, "regular expression"),
        ({"group_by": "csv:case"}, "table"),
        ({"label_by": "["}, "--label-by"),
    ],
)
def test_senseless_options(tmp_path: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        listed(make(tmp_path, "a.jpg"), **options)


def test_declared_labels_and_images_that_are_missing(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "dataset.csv").write_text("a.jpg,0 4\nb.jpg,\ngone.jpg,1\n")
    pairs, issues = listed(tmp_path)
    assert [pair.declared_labels for pair in pairs] == [("0", "4"), (), None]
    assert kinds_of(issues) == [("csv-missing", "gone.jpg")]


def test_a_table_of_another_name_is_expected(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    (tmp_path / "cases.csv").write_text("image,labels\na,1\n")
    pairs, issues = listed(tmp_path, csv=tmp_path / "cases.csv")
    assert pairs[0].declared_labels == ("1",) and issues == []


# --- columns -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd", ["slide_0.PNG", "ä.jpg", "\udcff.jpg"], ids=["two of one key", "not ASCII", "not UTF-8"]
)
def test_only_large_folders_of_plain_names_are_read_in_columns(
    monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    monkeypatch.undo()
    names = [
        f"slide_{index}{ending}" for index in range(300) for ending in (".jpg", "_mask.png")
    ] + ["dataset.csv"]
    found = keys.sort_names(names, None, NameRules.of(ScanOptions()))
    assert isinstance(found.images, keys.PlainNames) and isinstance(found.masks, keys.PlainNames)
    assert (len(found.images), len(found.masks), found.others) == (300, 300, ["dataset.csv"])
    for other in ([*names, odd], names[:100]):
        found = keys.sort_names(other, None, NameRules.of(ScanOptions()))
        assert isinstance(found.images, keys.KeyedNames) and isinstance(
            found.masks, keys.KeyedNames
        )


def test_a_large_folder_is_paired_without_pandas(tmp_path: Path) -> None:
    make(
        tmp_path,
        *(
            f"{folder}/{index}{ending}"
            for folder in "ab"
            for index in range(300)
            for ending in (".jpg", "_mask.png")
        ),
    )
    code = (
        "import sys; from pathlib import Path; from histoprep.scanning import ScanOptions, scan\n"
        "print(len(list(scan(Path(sys.argv[1]), ScanOptions(), print))), 'pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["600", "False"]


# --- laws ------------------------------------------------------------------------------------

NAMES = st.lists(
    st.tuples(
        st.sampled_from(["", "x/", "x/y/", "images/", "masks/", "images/s/", "masks/s/", "train/"]),
        st.sampled_from(["a", "A", "b", "ä", "a\u0308", "c.d", "ß"]),
        st.sampled_from(["", "_mask", "_MASK"]),
        st.sampled_from([".jpg", ".PNG", ".tif", ".txt", ""]),
    ),
    max_size=30,
    unique=True,
)


@settings(max_examples=120)
@given(names=NAMES, seed=st.integers(0, 1000))
def test_order_of_creation_does_not_matter_and_no_file_is_lost(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, str, str, str]], seed: int
) -> None:
    paths = ["".join(name) for name in names]
    shuffled = random.Random(seed).sample(paths, len(paths))
    first, second = (make(tmp_path_factory.mktemp("made"), *some) for some in (paths, shuffled))
    pairs, issues = listed(first)
    assert (pairs, issues) == listed(second)
    ids = [pair.tile_id for pair in pairs]
    assert len(set(ids)) == len(ids)
    used = [path for pair in pairs for path in (pair.image_path, pair.mask_path) if path]
    assert len(set(used)) == len(used)
    # Every file is in a pair, or something was said about it or about the folder it is in.
    mentioned = {issue.path for issue in issues}
    for path in paths:
        assert path in used or any(
            path == item or path.startswith(item.rstrip("/") + "/") for item in mentioned
        ), path


def test_many_files_cost_little(
    tmp_path: Path, benchmark_time: Callable[[Callable[[], object]], float]
) -> None:
    for index in range(5000):
        for name in (f"slide_{index:06}.jpg", f"slide_{index:06}_mask.png"):
            os.close(os.open(tmp_path / name, os.O_CREAT | os.O_WRONLY))
    naive = benchmark_time(
        lambda: sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    )
    ours = benchmark_time(lambda: listed(tmp_path))
    assert len(files(tmp_path)) == 5000
    assert ours < naive


@pytest.fixture
def benchmark_time() -> Callable[[Callable[[], object]], float]:
    import time

    def measure(work: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return min(times)

    return measure


def test_text_of_prefixes_is_made_once() -> None:
    assert to_text(to_text("\udcff")) != to_text("\udcff")
