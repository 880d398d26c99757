"""Which row of a table means a file, and which slide a tile is of."""

from __future__ import annotations

import pytest

from histoprep.name_index import NameIndex, SlideIndex, is_slide


@pytest.mark.parametrize(
    ("names", "path", "found"),
    [
        (["a.png"], "images/a.png", "a.png"),
        (["a"], "images/a.png", "a"),
        (["images/a.png", "other/a.png"], "images/a.png", "images/a.png"),
        (["./images/a.png"], "images/a.png", "./images/a.png"),
        (["data/images/a.png"], "images/a.png", "data/images/a.png"),
        (["images\\a.png"], "images/a.png", "images\\a.png"),
        (["C:\\me\\images\\a.png"], "images/a.png", "C:\\me\\images\\a.png"),
        (["C:/me/a.png", "C:/me/b.png"], "images/a.png", "C:/me/a.png"),
        (["/mnt/d/train/a.png", "/mnt/d/test/b.png"], "train/a.png", "/mnt/d/train/a.png"),
        (["/mnt/d/train/a.png", "/mnt/d/test/b.png"], "test/a.png", None),
        (["\\\\nas\\d\\x\\a.png", "\\\\nas\\d\\y\\a.png"], "y/a.png", "\\\\nas\\d\\y\\a.png"),
        (["s3://b/x/a.png", "s3://b/y/a.png"], "x/a.png", "s3://b/x/a.png"),
        (["/m/x/a.png", "/m/y/a.png"], "a.png", None),
        (["/m/x/1/a.png", "/m/y/1/a.png"], "1/a.png", None),
        (["train/a.png"], "test/a.png", None),
        (["a.png"], "images/b.png", None),
        (["a.jpg"], "a.png", None),
        (["x.y"], "d/x.y.png", "x.y"),
        (["/m/ä.png"], "d/a\u0308.png", "/m/ä.png"),
        ([], "a.png", None),
    ],
)
def test_names(names: list[str], path: str, found: str | None) -> None:
    assert NameIndex(names).find(path) == found


@pytest.mark.parametrize(
    ("names", "path", "found"),
    [
        (["s1", "s10"], "tiles/s1_x0_y0.png", "s1"),
        (["s1", "s10"], "tiles/s10_x0.png", "s10"),
        (["s1"], "s10_x0.png", None),
        (["s1.svs"], "s1/0_0.png", "s1.svs"),
        (["/mnt/wsi/S1.ndpi"], "S1-12-7.png", "/mnt/wsi/S1.ndpi"),
        (["D:\\wsi\\s1.tif"], "s1.png", "D:\\wsi\\s1.tif"),
        (["s1", "s1_a"], "s1_a_0.png", "s1_a"),
        (["s1", "s2"], "s1/s2_0.png", None),
        (["s1", "s2"], "s1/s1_0.png", "s1"),
        (["s1"], "tumor_s1_0.png", "s1"),
        (["s1"], "level0/s1 (2)/a.png", "s1"),
        (
            ["TCGA-05-4244-01Z-00-DX1.d4ff32cd.svs", "TCGA-05-4244"],
            "TCGA-05-4244-01Z-00-DX1.d4ff32cd_12_7.png",
            "TCGA-05-4244-01Z-00-DX1.d4ff32cd.svs",
        ),
        (["TCGA-05-4244"], "TCGA-05-4244-01Z-00-DX1/12_7.png", "TCGA-05-4244"),
        (["-s1-"], "-s1-/a.png", "-s1-"),
        ([], "a.png", None),
    ],
)
def test_slides(names: list[str], path: str, found: str | None) -> None:
    assert SlideIndex(names).find(path) == found


def test_suffixes_of_slides() -> None:
    assert all(map(is_slide, ("a.svs", "b.NDPI", "c.ome.tif")))
    assert not any(map(is_slide, ("a.tif", "a.png", "svs", "a.svs.png")))
