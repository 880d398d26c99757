"""Several masks of an image: what combines them, and whether they are classes at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layouts import classes, mask_a_class, save, tissue

from histoprep.choices import CombineBy
from histoprep.errors import UsageError
from histoprep.imageio import encode_rgb_jpeg
from histoprep.scanning.advice import combine_advice
from histoprep.scanning.combining import combined
from histoprep.scanning.content import drawn_area
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.options import TableOptions, settle


def message(root: Path) -> str:
    with pytest.raises(UsageError) as caught:
        settle(Workspace.of(root), TableOptions())
    return str(caught.value)


def test_readers_are_no_classes(tmp_path: Path) -> None:
    """Masks that lie over each other: all readings are printed, the combination last."""
    for i in range(6):
        save(tissue(i), tmp_path / f"HE/t{i}.png")
        for reader in ("anna", "ben"):
            drawn = (classes(i) > 0) & (classes(i) < 2 + (reader == "ben"))
            save((drawn * 255).astype(np.uint8), tmp_path / f"seg/{reader}/t{i}.png")
    text = message(tmp_path)
    assert "masks of 2 kinds" in text and "have masks of 2 classes" not in text
    assert text.index("histoprep audit") < text.index("histoprep import combine")


def test_one_class_alone_is_read_as_it_is(tmp_path: Path) -> None:
    mask_a_class("HE/t{i}.png", "seg/{name}/t{i}.png")(tmp_path)
    for name in ("necrosis", "stroma"):
        for path in (tmp_path / "seg" / name).iterdir():
            path.unlink()
    assert "tumour" in settle(Workspace.of(tmp_path), TableOptions()).understood


@pytest.mark.parametrize(
    ("files", "by", "pattern", "expected"),
    [
        (
            ["images/a.png", "masks/t/a.png", "masks/s/a.png"],
            CombineBy.CLASS,
            "masks/(?P<class>[^/]+)/(?P<key>.+)",
            {"images/a.png": {("t", "masks/t/a.png"), ("s", "masks/s/a.png")}},
        ),
        # Names that return in several folders go with their folders.
        (
            ["i/1/a.png", "i/2/a.png", "m/t/1/a.png", "m/t/2/a.png"],
            CombineBy.CLASS,
            "m/(?P<class>[^/]+)/(?P<key>.+)",
            {"i/1/a.png": {("t", "m/t/1/a.png")}, "i/2/a.png": {("t", "m/t/2/a.png")}},
        ),
        (
            ["a.png", "a_mask_1.png", "a_mask_2.png"],
            CombineBy.INSTANCE,
            None,
            {"a.png": {("", "a_mask_1.png"), ("", "a_mask_2.png")}},
        ),
        (["images/a.png", "images/c.png", "masks/b_t.png"], CombineBy.CLASS, None, None),
        (["images/a.png", "masks/a.png"], CombineBy.CLASS, None, None),
    ],
)
def test_combinations_are_tried_on_names(
    files: list[str], by: CombineBy, pattern: str | None, expected: dict[str, set[str]] | None
) -> None:
    assert combined(files, by, pattern) == expected


def test_advice_names_a_command_only_where_it_takes_all_masks() -> None:
    root = Path("/data/set")
    masks = ["x_mask.png", "x_mask_1.png"]
    assert f"histoprep import combine {root} --by instance" in combine_advice(
        root, ["x.png"], masks
    )
    text = combine_advice(root, ["y.png", "z.png"], masks)
    assert "histoprep import combine /" not in text and "--mask-pattern" in text


def test_the_area_of_a_mask_of_two_values(tmp_path: Path) -> None:
    mask = ((classes(3) > 0) * 255).astype(np.uint8)
    for values in (mask, np.repeat(mask[..., np.newaxis], 3, 2), (mask > 0).astype(np.uint8)):
        save(values, tmp_path / "mask.png")
        area = drawn_area((tmp_path / "mask.png").read_bytes())
        np.testing.assert_array_equal(area, mask > 0)
    lossy = drawn_area(encode_rgb_jpeg(np.repeat(mask[..., np.newaxis], 3, 2), 95, "4:4:4"))
    assert lossy is not None and (lossy != (mask > 0)).mean() < 0.05
    save(np.zeros_like(mask), tmp_path / "mask.png")
    empty = drawn_area((tmp_path / "mask.png").read_bytes())
    assert empty is not None and not empty.any()
    save(classes(3), tmp_path / "mask.png")
    assert drawn_area((tmp_path / "mask.png").read_bytes()) is None
    assert drawn_area(b"no image") is None
