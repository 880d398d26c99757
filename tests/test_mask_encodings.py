"""Masks of every encoding through the whole chain: the true classes come out, or the file is
refused with its cause.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mask_encodings import (
    ENCODINGS,
    MaskEncoding,
    Outcome,
    regions,
    write_masks,
)
from PIL import Image

from histoprep import imageio
from histoprep.cli import main
from histoprep.errors import ExitCode
from histoprep.mask_reading import Reading
from histoprep.schemas.workspace import Workspace
from histoprep.shards import open_tiles
from histoprep.tiles import TileOptions
from histoprep.tiles.measurer import Measurer

BY_NAME = {encoding.name: encoding for encoding in ENCODINGS}
READ = [encoding.name for encoding in ENCODINGS if encoding.outcome is Outcome.READ]
REFUSED = {
    encoding.name: cause
    for encoding in ENCODINGS
    for cause in {
        "colour-jpeg": ("HP402 rgb",),
        "colour-once-jpeg": ("HP402 rgb",),
        "colour-anti-aliased": ("HP402 smeared-colours",),
        "labels-in-alpha": ("HP402 alpha",),
        "probability-tif": ("HP402 probability",),
        "probability-npy": ("HP402 probability",),
        "probability-png": ("HP402 probability",),
        "scaled-float": ("HP402 scaled-float",),
        "negative-npy": ("HP416 negative-label",),
        "stack-tif": ("HP208 multi-page",),
        "stack-npy": ("HP208 multi-page",),
        "planes-npy": ("HP208 multi-page",),
        "two-array-npz": ("HP208 arrays",),
        "several-array-mat": ("HP208 arrays",),
        "object-npy": ("HP208 arrays",),
        "frames-gif": ("HP208 frames",),
    }.get(encoding.name, ())
}
STORED = {
    "palette": "palette",
    "rgb-equal": "equal-channels",
    "rgba-equal": "equal-channels",
    "grey-alpha": "equal-channels",
    "float": "float",
    "double": "float",
    "colour": "colours",
}


def measured(data: bytes, **reading: object) -> dict[str, object]:
    decided = TileOptions().with_reading(Reading(**reading))  # type: ignore[arg-type]
    return Measurer(decided).mask(data)


def labels_in(data: bytes, reading: Reading | None = None) -> np.ndarray:
    reading = reading or Reading()
    return imageio.decode_mask(data, imageio.read_header(data, reading), reading)


def run(*arguments: str | Path) -> int:
    workers = () if arguments[0] in ("collect", "verify") else ("--workers", "1")
    with pytest.raises(SystemExit) as done:
        main([*map(str, arguments), *workers])
    return int(done.value.code or 0)


@pytest.mark.parametrize("name", READ)
def test_the_labels_are_read_and_counted(name: str) -> None:
    encoding = BY_NAME[name]
    for seed in range(2):
        labels = regions(encoding.labels, seed)
        data, truth = encoding.encode(labels), encoding.as_read(labels)
        np.testing.assert_array_equal(labels_in(data), truth)
        facts = measured(data)
        ids, pixels = np.unique(truth, return_counts=True)
        assert list(facts["label_ids"]) == ids.tolist()  # type: ignore[call-overload]
        assert list(facts["label_pixels"]) == pixels.tolist()  # type: ignore[call-overload]
        assert facts["mask_lossy"] is None and facts.get("mask_error") is None
        start = next((start for start in STORED if name.startswith(start)), "")
        assert facts["mask_encoding"] == STORED.get(start, "grey")


def test_every_refused_encoding_is_in_the_list() -> None:
    assert set(REFUSED) == {
        encoding.name for encoding in ENCODINGS if encoding.outcome is Outcome.REFUSED
    }


@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_no_labels_is_refused_with_the_cause(name: str) -> None:
    encoding = BY_NAME[name]
    facts = measured(encoding.encode(regions(encoding.labels)))
    assert facts["mask_error"] == REFUSED[name]
    assert "label_ids" not in facts


@pytest.mark.parametrize(
    "name", [encoding.name for encoding in ENCODINGS if encoding.outcome is Outcome.REPORTED]
)
def test_lossy_files_are_read_and_known_as_lossy(name: str) -> None:
    encoding = BY_NAME[name]
    facts = measured(encoding.encode(regions(encoding.labels)))
    assert facts["mask_lossy"] == ("jpeg" if name == "jpeg" else "jpeg2000")
    assert facts["label_ids"] is not None


def label_map_of(encoding: MaskEncoding, truth: list[np.ndarray]) -> tuple[str, dict[int, int]]:
    """The text of a label map of the true labels, and the class of each: two classes and class 0,
    so that nothing is right by accident.
    """
    labels = sorted({int(label) for mask in truth for label in np.unique(mask)})
    classes = {label: (0, 2, 1)[place % 3] if place else 0 for place, label in enumerate(labels)}
    in_colour = encoding.name.startswith("colour")
    lines = [
        f'  "#{label:06x}": label {place}' if in_colour else f"  {label}: label {place}"
        for place, label in enumerate(labels)
    ]
    text = "sources:\n" + "\n".join(lines)
    text += "\nclasses:\n  0: Rest\n  1: First\n  2: Second\nmap:\n"
    text += "".join(f"  label {place}: {classes[label]}\n" for place, label in enumerate(labels))
    return text, classes


CHAIN = [
    "grey-8-png", "uint32-tif", "int64-tif", "palette-tif", "rgb-equal-16-png", "float16-tif",
    "colour-transparent-png", "colour-jp2", "palette-gif", "opencv-bmp", "big-endian-npy", "npz",
    "compressed-mat", "pyramid-tif", "instances-tif",
]  # fmt: skip


@pytest.mark.parametrize("name", CHAIN)
def test_the_whole_chain_gives_the_true_classes(tmp_path: Path, name: str) -> None:
    encoding, root = BY_NAME[name], tmp_path / "set"
    truth = write_masks(root, encoding)
    text, classes = label_map_of(encoding, truth)
    (root / "label_map_true.yml").write_text(text)
    expected = [np.vectorize(classes.__getitem__)(mask) for mask in truth]
    assert run("audit", root, "--exit-zero") == ExitCode.OK
    assert run("remap", root) == ExitCode.OK
    tree = tmp_path / "set.histoprep" / "masks-label_map_true" / "masks"
    for index, wanted in enumerate(expected):
        made = np.asarray(Image.open(tree / f"t{index}.png"))
        assert made.dtype == np.uint8
        np.testing.assert_array_equal(made, wanted)
    assert run("stats", root) == ExitCode.OK
    assert run("manifest", root, "--split", "0.5/0.5") == ExitCode.OK
    manifest = Workspace.of(root).folder / "manifest.parquet"
    assert run("shard", manifest, "--out", tmp_path / "packed") == ExitCode.OK
    assert run("verify", tmp_path / "packed") == ExitCode.OK
    for place in (manifest, tmp_path / "packed"):
        tiles = open_tiles(place)
        assert len(tiles.tile_ids) == len(expected)
        for row, tile_id in enumerate(tiles.tile_ids):
            np.testing.assert_array_equal(tiles.read(row).mask, expected[int(tile_id[-1])])
