"""The speed corpus is what speed.md's figures were measured on, and the same every time."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from corpus import Corpus, cut, make_corpus  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Corpus]:
    folder = tmp_path_factory.mktemp("corpus") / "pairs"
    return folder, make_corpus(folder, 300, tile_px=64, workers=2)


def digests(folder: Path, pattern: str) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob(pattern)
    }


@pytest.mark.slow
def test_shares_labels_and_formats_are_as_described(made):
    folder, corpus = made
    images, masks = sorted(folder.glob("*.jpg")), sorted(folder.glob("*_mask.png"))
    assert [path.stem for path in images] == [path.name.removesuffix("_mask.png") for path in masks]
    assert len(images) == 300 and corpus.zero_masks == 189
    kinds = [np.unique(np.asarray(Image.open(path))) for path in masks]
    assert sum(ids.tolist() == [0] for ids in kinds) == 189
    labelled = [ids for ids in kinds if ids.tolist() != [0]]
    assert all(1 <= len(ids) <= 4 and ids.min() >= 1 and ids.max() <= 54 for ids in labelled)
    assert {len(ids) for ids in labelled} == {1, 2, 3, 4} and len(
        set(np.concatenate(labelled))
    ) > 45
    for path in images[:20]:
        with Image.open(path) as image:
            assert image.size == (64, 64) and image.mode == "RGB"
            assert image.layer[0][1:3] == (2, 2) and image.layer[1][1:3] == (1, 1), "4:2:0"
            assert image.quantization[0][0] == 8, "the first luminance step of quality 75"


def test_images_all_differ_and_zero_masks_are_one_file(made):
    folder, corpus = made
    assert len(set(digests(folder, "*.jpg").values())) == 300
    counts = sorted(path.stat().st_size for path in folder.glob("*_mask.png"))
    assert counts[0] == corpus.zero_mask_bytes
    assert len(set(digests(folder, "*_mask.png").values())) <= 300 - 189 + 1


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers_and_a_finished_corpus_is_kept(made, tmp_path):
    folder, corpus = made
    again = make_corpus(tmp_path / "again", 300, tile_px=64, workers=1)
    assert again == corpus
    assert digests(tmp_path / "again", "*") == digests(folder, "*")
    stamp = folder.stat().st_mtime_ns
    assert make_corpus(folder, 300, tile_px=64) == corpus
    assert folder.stat().st_mtime_ns == stamp
    with pytest.raises(FileExistsError):
        make_corpus(folder, 301, tile_px=64)


@pytest.mark.parametrize("tile_px", [64, 128, 296])
def test_no_crop_occurs_twice(tile_px):
    size_px = 3 * round(tile_px / 2)
    row, column = np.mgrid[0:size_px, 0:size_px].astype(np.uint16)
    # The place of a pixel, written into the image.
    base = np.stack([row & 255, row >> 8, column & 255, column >> 8], axis=-1).astype(np.uint8)
    seen = set()
    for turn_and_place in range(500):
        image, _ = cut(base, tile_px, 64 * turn_and_place)
        corner = tuple(image[0, 0]), tuple(image[0, 1]), tuple(image[1, 0])
        assert image.shape == (tile_px, tile_px, 3) and corner not in seen
        seen.add(corner)


def test_the_command_prints_mean_sizes(tmp_path):
    command = [
        sys.executable,
        str(BENCHMARKS / "corpus.py"),
        str(tmp_path / "c"),
        "--pairs",
        "20",
        "--tile-px",
        "64",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (
        "20 pairs of 64 px" in done.stdout
        and "images: mean" in done.stdout
        and "13 zero" in done.stdout
    )
