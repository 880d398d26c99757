"""What remap, and all that comes after it, makes of masks whose labels depend on the reader: the
true classes, or nothing until somebody decides.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import oxipng
import pytest
import tifffile
from mask_files import blobs, by_tifffile, grey_palette_png, greys, png_bytes, saved, tiff_bytes
from PIL import Image

from histoprep import tables
from histoprep.cli import main
from histoprep.errors import ExitCode
from histoprep.execution import Engine
from histoprep.mask_reading import Reading
from histoprep.schemas.workspace import Workspace
from histoprep.shards import open_tiles
from histoprep.tiles import TileOptions
from histoprep.tiles.table import TableOptions, TileTable

Truth = list[np.ndarray]
Encode = Callable[[np.ndarray, int], bytes]


def _labels(*sets: tuple[int, ...]) -> Truth:
    return [blobs(labels, index) for index, labels in enumerate(sets)]


def _grey(truth: np.ndarray, _: int = 0) -> bytes:
    return saved(truth.astype(np.uint8))


def _with_overview(truth: np.ndarray, _: int) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(truth.astype(np.uint8))
        writer.write(truth[::2, ::2].astype(np.uint8), subfiletype=1)
    return stream.getvalue()


def _as_imagemagick_crops(truth: np.ndarray, _: int) -> bytes:
    """Each file in the fewest bits that hold its grey levels."""
    for bits in (1, 2, 4):
        step = 255 // ((1 << bits) - 1)
        if not (truth % step).any():
            return png_bytes(truth // step, bits)
    return _grey(truth)


def _narrowed_where_lossless(truth: np.ndarray, _: int) -> bytes:
    return _grey(truth // 257) if not (truth % 257).any() else saved(truth.astype(np.uint16))


def _short_palette(truth: np.ndarray, _: int) -> bytes:
    image = Image.fromarray(truth.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    return saved(image)


def _optimised(truth: np.ndarray, _: int) -> bytes:
    return oxipng.optimize_from_memory(_grey(truth), level=6)


SEVEN = _labels((0, 3), (0, 5), (1, 4), (0, 2, 5), (2, 3, 4), (0, 1), (0, 10, 200))
BINARY, FOUR = _labels(*[(0, 1)] * 4), _labels(*[(0, 1, 2, 3)] * 4)
VOID = _labels((0, 255), (0, 1, 2, 255), (0, 1), (0, 255))
# Name: what the masks are, how each is written, its suffix, and what remap leaves with without and
# with the true decision.
CASES: dict[str, tuple[Truth, Encode, str, ExitCode, str]] = {
    "palettes of grey levels": (SEVEN, lambda truth, _: grey_palette_png(truth), "png",
        ExitCode.USAGE, "--palette grey"),
    "oxipng": (SEVEN, _optimised, "png", ExitCode.USAGE, "--palette grey --depth 8"),
    "palettes for viewing": (FOUR, lambda truth, _: png_bytes(truth, 2, greys([0, 85, 170, 255])),
        "png", ExitCode.USAGE, "--palette index"),
    "every other a palette": (
        _labels(*[(0, 2, 3, 5)] * 4), lambda truth,
        i: grey_palette_png(truth) if i % 2 else _grey(truth), "png", ExitCode.USAGE,
        "--palette grey",
    ),
    "boolean TIFF": (BINARY, lambda truth, _: by_tifffile(truth.astype(bool)), "tif", ExitCode.OK,
        ""),
    "boolean TIFF, 1 for white": (BINARY, lambda truth,
        _: by_tifffile(truth.astype(bool), photometric="minisblack"), "tif", ExitCode.OK, ""),
    "8 bits, 0 for white": (FOUR, lambda truth,
        _: by_tifffile(truth.astype(np.uint8), photometric="miniswhite"), "tif", ExitCode.OK, ""),
    "16 bits, 0 for white": (FOUR, lambda truth,
        _: by_tifffile(truth.astype(np.uint16), photometric="miniswhite"), "tif", ExitCode.OK, ""),
    "fax": (BINARY, lambda truth, _: tiff_bytes(1 - truth, 1, 0), "tif", ExitCode.USAGE,
        "--min-is-white inverted"),
    "unknown program, 0 for white": (FOUR, lambda truth, _: tiff_bytes(truth, 8, 0), "tif",
        ExitCode.USAGE, "--min-is-white stored"),
    "signed 8 bits": (_labels(*[(0, 1, 2, -1)] * 4), lambda truth,
        _: tiff_bytes(truth, 8, sample_format=2), "tif", ExitCode.INCOMPLETE, ""),
    "signed 16 bits": (_labels(*[(0, 1, 2, -1)] * 4), lambda truth,
        _: tiff_bytes(truth, 16, sample_format=2), "tif", ExitCode.INCOMPLETE, ""),
    "signed, none negative": (FOUR, lambda truth, _: tiff_bytes(truth, 8, sample_format=2), "tif",
        ExitCode.OK, ""),
    "void wrapped by a short palette": (_labels(*[(0, 1, 2, 255)] * 4), _short_palette, "png",
        ExitCode.INCOMPLETE, ""),
    "overview as second page": (FOUR, _with_overview, "tif", ExitCode.OK, ""),
    "fewest bits": (VOID, _as_imagemagick_crops, "png", ExitCode.USAGE, "--depth 8"),
    "1 bit by another export": (_labels((0, 1, 2), (0, 1), (0, 2)), lambda truth,
        i: png_bytes(truth, 1) if i == 1 else _grey(truth), "png",
                                ExitCode.USAGE, "--depth stored"),
    "8 bits where lossless": (_labels((0, 257), (0, 1, 300), (0, 2)), _narrowed_where_lossless,
        "png", ExitCode.USAGE, "--depth 16"),
    "12 bits": (FOUR, lambda truth, _: tiff_bytes(truth, 12), "tif", ExitCode.INCOMPLETE, ""),
    "labels of R": (_labels(*[(0, 1, 2, 5)] * 4), lambda truth, _: _grey(-truth % 256), "png",
        ExitCode.USAGE, ""),
}  # fmt: skip


def make(folder: Path, truth: Truth, encode: Encode, suffix: str) -> Path:
    """Write a data set with a label map of its true labels to classes of other numbers, and return
    its root.
    """
    root = folder / "set"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for index, labels in enumerate(truth):
        rgb = (
            np.random.default_rng(index)
            .normal([205, 150, 195], 14, (*labels.shape, 3))
            .clip(0, 255)
            .astype(np.uint8)
        )
        rgb[labels != labels[0, 0]] //= 2
        (root / "images" / f"t{index}.png").write_bytes(saved(rgb))
        (root / "masks" / f"t{index}.{suffix}").write_bytes(encode(labels, index))
    classes = _classes(truth)
    sources = ", ".join(f"{label}: tissue {label}" for label in classes)
    targets = ", ".join(f"{number}: class {number}" for number in sorted(classes.values()))
    mapped = ", ".join(f"tissue {label}: class {number}" for label, number in classes.items())
    (root / "label_map_true.yml").write_text(
        f"sources: {{{sources}}}\nclasses: {{{targets}}}\nmap: {{{mapped}}}\n"
    )
    return root


def _classes(truth: Truth) -> dict[int, int]:
    """The class of each true label that a map can list: its labels backwards, so that nothing is
    right by accident.
    """
    labels = sorted({int(label) for item in truth for label in np.unique(item)} - {-1})
    return {label: number for number, label in enumerate([labels[0], *labels[:0:-1]])}


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as done:
        main([*map(str, arguments), *(["--workers", "1"] if arguments[0] != "collect" else [])])
    return int(done.value.code or 0)


def check_tree(root: Path, truth: Truth) -> None:
    """Every mask of the remapped tree holds the true classes."""
    classes = _classes(truth)
    tree = root.with_name("set.histoprep") / "masks-label_map_true" / "masks"
    for index, labels in enumerate(truth):
        made = np.asarray(Image.open(tree / f"t{index}.png"))
        np.testing.assert_array_equal(made, np.vectorize(classes.__getitem__)(labels))


@pytest.mark.parametrize("case", CASES)
def test_with_a_map_of_the_true_labels_remap_is_right_or_leaves_with_a_cause(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, encode, suffix, expected, decision = CASES[case]
    root = make(tmp_path, truth, encode, suffix)
    assert run("remap", root) == expected
    said = capsys.readouterr().err
    tree = root.with_name("set.histoprep") / "masks-label_map_true"
    if expected is ExitCode.OK:
        check_tree(root, truth)
    elif expected is ExitCode.USAGE:
        assert not tree.exists()
        assert "HP413" in said or "HP414" in said or "R's writePNG" in said
    else:
        assert not list(tree.glob("masks/*")) and said.count("not remapped: masks/t") == len(truth)
    if decision:
        assert all(
            option in said
            for option in decision.split()
            if option.startswith("--palette") or option.startswith("--min")
        )
        assert run("remap", root, *decision.split()) == ExitCode.OK
        check_tree(root, truth)


@pytest.mark.slow
def test_a_decision_is_recorded_and_later_commands_follow_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, encode, suffix, _, _ = CASES["palettes of grey levels"]
    root = make(tmp_path, truth, encode, suffix)
    workspace = root.with_name("set.histoprep")
    for command in ("manifest", "remap"):
        assert run(command, root) == ExitCode.USAGE
        assert "HP413" in capsys.readouterr().err
    assert run("stats", root) == ExitCode.OK
    assert "--palette" in capsys.readouterr().err
    assert run("remap", root, "--palette", "grey") == ExitCode.OK
    tree = workspace / "masks-label_map_true"
    assert json.loads((tree / "remap.json").read_text("utf-8"))["reading"] == {"palette": "grey"}
    assert tables.open_table(tree / "ledger.parquet", kind="remap-ledger", schema_version="1.0")[1][
        "reading"
    ] == {"palette": "grey"}
    # An audit that says nothing keeps the decision, and says so.
    capsys.readouterr()
    run("audit", root)
    assert "--palette grey" in capsys.readouterr().err
    assert run("manifest", root, "--split", "0.5/0.5") == ExitCode.OK
    assert run("shard", workspace / "manifest.parquet", "--out", tmp_path / "packed") == ExitCode.OK
    classes = _classes(truth)
    for place in (workspace / "manifest.parquet", tmp_path / "packed"):
        tiles = open_tiles(place)
        for row, name in enumerate(tiles.tile_ids):
            expected = np.vectorize(classes.__getitem__)(truth[int(name[-1])])
            np.testing.assert_array_equal(tiles.read(row).mask, expected)
    # Another decision is another tree; none at all is open again.
    assert run("remap", root, "--palette", "index") == ExitCode.USAGE
    assert "made with other settings: reading" in capsys.readouterr().err
    run("audit", root, "--forget")
    assert run("remap", root, "--force") == ExitCode.USAGE
    assert "HP413" in capsys.readouterr().err


def test_a_decision_against_palettes_that_contradict_each_other_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, encode, suffix, _, _ = CASES["palettes of grey levels"]
    root = make(tmp_path, truth, encode, suffix)
    # The wrong labels leave most classes empty, so that they are not taken unless forced.
    assert run("remap", root, "--palette", "index") == ExitCode.USAGE
    assert "classes stay empty" in capsys.readouterr().err
    assert run("remap", root, "--palette", "index", "--force") == ExitCode.OK
    assert "other colours for an index" in capsys.readouterr().err


def test_jobs_of_an_array_cannot_decide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, encode, suffix, _, _ = CASES["fewest bits"]
    root = make(tmp_path, truth, encode, suffix)
    assert run("audit", root, "--exit-zero") == ExitCode.OK
    for arguments in ((), ("--depth", "8")):
        assert run("remap", root, "--part", "1/2", *arguments) == ExitCode.USAGE
    assert "histoprep audit" in capsys.readouterr().err
    assert run("audit", root, "--depth", "8", "--exit-zero") == ExitCode.OK
    assert [run("remap", root, "--part", f"{number}/2") for number in (1, 2)] == [ExitCode.OK] * 2
    assert run("collect", root) == ExitCode.OK
    check_tree(root, truth)


def test_an_option_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make(tmp_path, BINARY, _grey, "png")
    assert run("remap", root, "--palette", "gray") == ExitCode.USAGE
    assert "not one of 'index', 'grey'" in capsys.readouterr().err


def test_a_decision_reads_only_the_masks_that_it_is_about(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    truth = blobs((0, 3, 255))
    masks = {
        "grey": _grey(truth),
        "palette": grey_palette_png(truth),
        "bit": png_bytes(blobs((0, 1)), 1),
        "white": tiff_bytes(blobs((0, 1)), 8, 0),
    }
    for index, (name, data) in enumerate(masks.items()):
        (root / "images" / f"{name}.png").write_bytes(
            saved(np.random.default_rng(index).integers(0, 255, (*truth.shape, 3)).astype(np.uint8))
        )
        (root / "masks" / f"{name}.{'tif' if name == 'white' else 'png'}").write_bytes(data)
    workspace = Workspace.of(root)

    def labels(**decided: str) -> tuple[dict[str, list[int] | None], int]:
        options = TableOptions(
            tiles=TileOptions().with_reading(
                Reading.from_json(
                    {name.replace("_", "-"): value for name, value in decided.items()}
                )
            )
        )
        made = TileTable(workspace, options).build(Engine(1))
        rows = tables.read_table(
            tables.open_table(workspace.tiles, kind="tiles", schema_version="1.0")[0],
            ["tile_id", "label_ids"],
        ).to_pylist()
        fresh = TileTable(workspace, replace(options, reuse=False)).build(Engine(1)).path
        again = tables.read_table(
            tables.open_table(fresh, kind="tiles", schema_version="1.0")[0],
            ["tile_id", "label_ids"],
        ).to_pylist()
        assert rows == again
        return {row["tile_id"].split("/")[1]: row["label_ids"] for row in rows}, made.num_reused

    every = {"grey": [0, 3, 255], "palette": None, "bit": [0, 1], "white": None}
    assert labels() == (every, 0)
    assert labels(palette="grey") == (every | {"palette": [0, 3, 255]}, 3)
    assert labels(palette="index") == (every | {"palette": [0, 1, 2]}, 3)
    assert labels(palette="index", depth="8") == (
        every | {"palette": [0, 1, 2], "bit": [0, 255]},
        3,
    )
    assert labels(depth="8", min_is_white="inverted") == (
        every | {"bit": [0, 255], "white": [254, 255]},
        2,
    )
    assert labels(depth="stored") == (every, 2)
    assert labels() == (every, 4)
