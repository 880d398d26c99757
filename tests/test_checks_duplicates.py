"""HP6: copies of images, across formats, and what is no copy."""

from __future__ import annotations

from pathlib import Path

import coloured_tissue as made
import numpy as np
import pandas as pd
import pytest
from audit_cases import DataSet, Found, by_code, findings_of_rows, image_bytes, stripes, tissue
from tile_rows import tile_row

from histoprep import imageio
from histoprep.auditing.duplicates import MAX_BITS_APART
from histoprep.neighbours.placement import turned

TRIGGERS = ("HP601", "HP602", "HP603", "HP604")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = DataSet(tmp_path_factory.mktemp("duplicates") / "data")
    for seed in range(1, 12):
        data.pair(f"unique{seed:02}", pixels=tissue(seed, 256))
    base = imageio.encode_rgb_jpeg(tissue(50, 256), 92)
    data.write("a.jpg", base)
    data.write("a_copy.jpg", base)
    data.write("a_again.jpg", base)
    data.write("b.jpg", imageio.encode_rgb_jpeg(tissue(51, 256), 92))
    # The same pixels without loss, and with other metadata.
    data.image("b_decoded.png", imageio.decode_rgb((data.root / "b.jpg").read_bytes()))
    data.write(
        "b_decoded2.png",
        image_bytes(
            imageio.decode_rgb((data.root / "b.jpg").read_bytes()), "PNG", compress_level=2
        ),
    )
    data.write("c.png", image_bytes(tissue(52, 256), "PNG", compress_level=1))
    data.write("c_smaller.png", image_bytes(tissue(52, 256), "PNG", compress_level=9))
    # Nearly the same: saved again with loss, a little brighter.
    data.write("d.jpg", imageio.encode_rgb_jpeg(tissue(53, 256), 92))
    data.write(
        "d_recompressed.jpg",
        imageio.encode_rgb_jpeg(imageio.decode_rgb((data.root / "d.jpg").read_bytes()), 60),
    )
    data.write(
        "d_worse.jpg",
        imageio.encode_rgb_jpeg(imageio.decode_rgb((data.root / "d.jpg").read_bytes()), 45),
    )
    data.write("e.png", image_bytes(tissue(54, 256), "PNG"))
    data.write(
        "e_brighter.png",
        image_bytes(np.clip(tissue(54, 256).astype(int) + 6, 0, 255).astype(np.uint8), "PNG"),
    )
    # One hash and another image: the same slopes from left to right, other heights.
    for index in range(2):
        slopes = np.repeat(np.repeat([[30, 0] * 4 + [30]], 8, axis=0), 29, axis=1)[:, :256]
        heights = np.random.default_rng(70 + index).uniform(20, 200, (8, 1))
        data.image(
            f"twin{index}.png",
            np.repeat((slopes + heights).repeat(32, axis=0)[..., None], 3, axis=2).astype(np.uint8),
        )
    # Glass everywhere is alike and no copy.
    rng = np.random.default_rng(1)
    for index in range(3):
        data.image(
            f"glass{index}.png",
            np.clip(rng.normal(240, 1.5, (256, 256, 3)), 0, 255).astype(np.uint8),
        )
    for stem, labels in (
        ("a", (0, 1)),
        ("a_copy", (0, 1)),
        ("a_again", (0, 2)),
        ("c", (1, 2)),
        ("c_smaller", (2, 1)),
    ):
        data.mask(f"{stem}_mask.png", stripes(*labels))
    return data.root


@pytest.fixture(scope="module")
def found(root: Path) -> Found:
    return by_code(DataSet(root).audit().findings)


def test_equal_bytes(found: Found) -> None:
    assert found["HP601"] == {
        "a_copy.jpg": "same bytes as a.jpg",
        "a_again.jpg": "same bytes as a.jpg",
    }


def test_equal_pixels_across_formats(found: Found) -> None:
    assert found["HP602"].keys() == {"b_decoded.png", "b_decoded2.png", "c_smaller.png"}
    assert found["HP602"]["c_smaller.png"] == "same pixels as c.png"


def test_nearly_equal_pixels(found: Found) -> None:
    assert found["HP603"].keys() == {"d_recompressed.jpg", "d_worse.jpg", "e_brighter.png"}


def test_a_hash_alone_proves_nothing(root: Path, found: Found) -> None:
    tiles = pd.read_parquet(root.with_name("data.histoprep") / "tiles.parquet").set_index("tile_id")
    assert (
        int(tiles.image_hash["twin0"]) ^ int(tiles.image_hash["twin1"])
    ).bit_count() <= MAX_BITS_APART
    assert not [
        path
        for key, paths in found.items()
        for path in paths
        if key.startswith("HP6") and path.startswith("twin")
    ]


def test_copies_with_other_masks(found: Found) -> None:
    assert found["HP604"] == {
        "a_again_mask.png": "differs from a_mask.png, yet a_again.jpg shows the same as a.jpg",
        "c_smaller_mask.png": "differs from c_mask.png, yet c_smaller.png shows the same as c.png",
    }


def test_the_comparison_is_kept(root: Path) -> None:
    path = root.with_name("data.histoprep") / "duplicates.parquet"
    DataSet(root).audit()
    before = path.stat().st_mtime_ns
    DataSet(root).audit(label_map="label_map_5")
    assert path.stat().st_mtime_ns == before
    pairs = pd.read_parquet(path)
    assert set(pairs.columns) == {
        "image_a",
        "image_b",
        "equal_pixels",
        "correlation",
        "equal_masks",
    }


def test_equal_bytes_in_a_table(tmp_path: Path) -> None:
    rows = [
        tile_row(name, image_digest=digest)
        for name, digest in (
            ("a", "1"),
            ("b", "2"),
            ("c", "1"),
            ("d", "1"),
            ("e", None),
            ("f", None),
        )
    ]
    assert by_code(findings_of_rows(tmp_path, rows))["HP601"] == {
        "c.jpg": "same bytes as a.jpg",
        "d.jpg": "same bytes as a.jpg",
    }


def test_small_tiles_of_noise_are_no_copies(tmp_path: Path) -> None:
    """At 1/8 size a tile of 16 px is four pixels, which agree by chance: 20,000 of 246,750 were
    called near duplicates, and some were joined.
    """
    data = DataSet(tmp_path / "data")
    for index in range(1500):
        draw = np.random.default_rng(index)
        data.image(f"t{index:04}.png", draw.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    base = tissue(7, 16)
    data.image("a.png", base)
    data.write("b.png", image_bytes(np.clip(base.astype(int) + 3, 0, 255).astype(np.uint8), "PNG"))
    data.write("c.png", image_bytes(base, "PNG", compress_level=1))
    found = by_code(data.audit().findings)
    assert {code: set(paths) for code, paths in found.items() if code.startswith("HP60")} == {
        "HP602": {"c.png"},
        "HP603": {"b.png"},
    }
    digests = pd.read_parquet(
        data.root.with_name("data.histoprep") / "tiles.parquet"
    ).luminance_digest
    assert digests.nunique() == len(digests) - 1


def test_a_search_that_was_cut_off_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histoprep.auditing.duplicates.MAX_COMPARISONS", 2)
    data = DataSet(tmp_path / "data")
    for level in (0, 1, 3, 6, 9):
        data.write(f"t{level}.png", image_bytes(tissue(7, 64), "PNG", compress_level=level))
    found = by_code(data.audit().findings)
    assert found["HP603 search-cut-off"] == {".": "2 more pairs of like images were not compared"}


WAYS = {
    1: "flipped left to right",
    2: "flipped upside down",
    3: "turned by 180 degrees",
    4: "transposed",
    5: "turned by 90 degrees clockwise",
    6: "turned by 90 degrees counter-clockwise",
    7: "transposed along the other diagonal",
}


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return what is said of tiles of which the other split has flipped, turned and moved ones."""
    data = DataSet(tmp_path_factory.mktemp("placed") / "data")
    for way in range(9):
        image, _ = made.tile(way, 192)
        data.pair(f"train/{way}_own", pixels=image[:144, :144])
        moved = image[16:160, 11:155] if way in (0, 8) else image[:144, :144]
        data.pair(f"test/{way}_other", pixels=np.ascontiguousarray(turned(moved, way % 8)))
    half, _ = made.tile(20, 224)
    data.pair("train/20_own", pixels=half[:144, :144])
    data.pair("test/20_half", pixels=half[:144, 72:216])
    for seed in range(30, 36):
        data.pair(f"train/{seed}_alone", pixels=made.tile(seed, 144)[0])
    return by_code(data.audit().findings)


def test_flipped_and_turned_copies_are_near_duplicates_and_say_how(placed: Found) -> None:
    said = placed["HP603 turned"]
    assert len(said) == len(WAYS)
    for way, words in WAYS.items():
        # A quarter turn is undone by the other one.
        back = WAYS[{5: 6, 6: 5}.get(way, way)]
        detail = said.get(f"train/{way}_own.jpg") or said[f"test/{way}_other.jpg"]
        assert f"once {back} (pixels correlate by" in detail or f"once {words} (" in detail
        assert detail.startswith("shows 100% of")


def test_moved_copies_and_half_overlaps_are_near_duplicates(placed: Found) -> None:
    said = placed["HP603 moved"]
    assert {path.partition("/")[2].partition("_")[0] for path in said} == {"0", "8", "20"}
    [half] = [detail for path, detail in said.items() if "/20_" in path]
    assert half.startswith("shows 50% of")


def test_turned_and_moved_copies_in_two_splits_are_an_error(placed: Found) -> None:
    assert placed["HP703 turned"].keys() == placed["HP603 turned"].keys()
    assert placed["HP703 moved"].keys() == placed["HP603 moved"].keys()
    assert all(
        detail.endswith(("train and test", "test and train"))
        for detail in placed["HP703 turned"].values()
    )
    assert not any(key.startswith("HP705") for key in placed)
