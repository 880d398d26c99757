"""HP417: labels that number objects are called so, and classes never are."""

from __future__ import annotations

import shlex
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from mask_encodings import instances, pillow, regions, tiff, tile_of
from PIL import Image

from histoprep.cli import main
from histoprep.errors import ExitCode
from histoprep.schemas.tiles import SCHEMA, to_table
from histoprep.tiles import TileOptions
from histoprep.tiles.instances import COLUMNS, InstanceIds, LabelUse
from histoprep.tiles.measurer import Measurer

_SCHEMA = pa.schema([SCHEMA.field(name) for name in COLUMNS])


def use_of(masks: list[np.ndarray]) -> InstanceIds | None:
    """What the measured masks say of their labels, in two pieces."""
    measurer = Measurer(TileOptions())
    rows = [measurer.mask(tiff(mask.astype(np.uint32))) for mask in masks]
    use = LabelUse()
    for piece in (rows[:1], rows[1:]):
        use.add(to_table([{name: row.get(name) for name in COLUMNS} for row in piece], _SCHEMA))
    return use.instances()


def nuclei(seed: int, number: int, side_px: int = 128) -> np.ndarray:
    """A mask of up to `number` round objects with ids 1, 2, ... in order of rows."""
    draw = np.random.default_rng(seed)
    drawn = np.zeros((side_px, side_px), np.uint8)
    for x, y in draw.integers(6, side_px - 6, (number, 2)).tolist():
        cv2.circle(drawn, (x, y), int(draw.integers(2, 5)), 1, -1)
    return instances(drawn)


def slide_tiles(side_px: int = 64) -> list[np.ndarray]:
    """Tiles of one mask of a slide, whose ids go on from tile to tile."""
    slide = nuclei(1, 900, 8 * side_px)
    return [
        slide[y : y + side_px, x : x + side_px]
        for y in range(0, len(slide), side_px)
        for x in range(0, len(slide), side_px)
    ]


@pytest.mark.parametrize(
    "masks",
    [
        [nuclei(seed, 60) for seed in range(3)],
        [nuclei(seed, 8 + seed) for seed in range(8)],
        slide_tiles(),
        [np.zeros((64, 64), int), *[nuclei(seed, 60) for seed in range(3)]],
        [np.where(nuclei(seed, 60) > 0, nuclei(seed, 60) + 70_000, 0) for seed in range(3)],
    ],
    ids=["many", "numbered from 1", "of a slide", "beside empty ones", "above 65,535"],
)
def test_ids_of_objects_are_known(masks: list[np.ndarray]) -> None:
    found = use_of(masks)
    assert found is not None
    ids = np.unique(np.concatenate([np.unique(mask) for mask in masks]))
    assert (found.num_ids, found.highest) == (len(ids) - 1, ids[-1])
    assert found.most == max(len(np.unique(mask)) - 1 for mask in masks)


def scattered(seed: int, labels: int) -> np.ndarray:
    """Classes: several regions of each label."""
    draw = np.random.default_rng(seed)
    mask = np.zeros((128, 128), np.int32)
    for label in draw.permutation(np.repeat(np.arange(1, labels + 1), 3)).tolist():
        x, y = draw.integers(0, 128, 2).tolist()
        cv2.circle(mask, (x, y), int(draw.integers(4, 12)), label, -1)
    return mask


@pytest.mark.parametrize(
    "masks",
    [
        [regions(range(5), seed) for seed in range(10)],
        [regions(range(1 + seed % 4), seed) for seed in range(10)],
        [regions((0, 7 + seed), seed) for seed in range(60)],
        [scattered(seed, 5) for seed in range(6)],
        [scattered(seed, 53) for seed in range(4)],
        [np.zeros((64, 64), int)],
        [],
    ],
    ids=["few", "one region each", "one class a tile", "regions", "53 classes", "empty", "none"],
)
def test_classes_are_not(masks: list[np.ndarray]) -> None:
    assert use_of(masks) is None


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as done:
        main([*map(str, arguments), "--workers", "1"])
    return int(done.value.code or 0)


def test_they_are_named_without_blame_and_the_printed_command_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "nuclei"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    masks = [nuclei(seed, 60) for seed in range(6)]
    for index, mask in enumerate(masks):
        Image.fromarray(tile_of(mask, index)).save(root / "images" / f"t{index}.png")
        data = pillow("PNG")(mask.astype(np.uint16))
        (root / "masks" / f"t{index}.png").write_bytes(data)
    assert run("audit", root) == ExitCode.OK
    shown = capsys.readouterr().out
    highest = max(int(mask.max()) for mask in masks)
    assert "warning HP417 instance-ids: 1 of 1 data sets" in shown
    assert f"{highest} ids up to {highest}" in shown and f"1-{highest}: nucleus" in shown
    for code in ("HP403", "HP404", "HP412", "HP804", "HP802", "lossy compression"):
        assert code not in shown
    assert "info    HP409 hairline-labels (instances)" in shown
    # Ids are no classes: nothing is made of them without a label map.
    assert run("manifest", root) == ExitCode.USAGE
    hint = next(line for line in capsys.readouterr().err.splitlines() if "try:" in line)
    command = shlex.split(hint.partition("try: histoprep ")[2].partition(" writes")[0])
    assert command[:2] == ["map", "init"]
    monkeypatch.chdir(tmp_path)
    assert run(*command) == ExitCode.OK
    assert run("manifest", root, "--map", "label_map.yml", "--split", "0.5/0.5") == ExitCode.OK
    assert run("remap", root, "--map", "label_map.yml") == ExitCode.OK
    tree = root.with_name("nuclei.histoprep") / "masks-label_map" / "masks"
    for index, mask in enumerate(masks):
        made = np.asarray(Image.open(tree / f"t{index}.png"))
        np.testing.assert_array_equal(made, (mask > 0).astype(np.uint8))
