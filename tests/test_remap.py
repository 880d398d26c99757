"""Remap: values against NumPy, every kind of input, what is refused, and trees that kills and full
disks cannot spoil.

`python -c "import test_remap; test_remap.survive_kills(...)"` is run by a test in a process of its
own.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from histoprep import checksums, durable, mask_tree, tables
from histoprep.checksums import STATES
from histoprep.choices import OnUnmapped
from histoprep.errors import (
    BrokenFileError,
    ExitCode,
    IncompleteError,
    IntegrityError,
    LockedError,
    OutputError,
    UnmappedLabelError,
    UsageError,
)
from histoprep.execution import Engine
from histoprep.labels import LabelMap, SourceLabel, TargetClass, load_label_map, lookup
from histoprep.labels.lookup import LabelLookup
from histoprep.remapping import (
    RemapOptions,
    RemapResult,
    collect_remap,
    plan_remap,
    run_remap,
    run_remap_part,
    unfinished_remaps,
)
from histoprep.scanning import ScanOptions
from histoprep.schemas import tiles
from histoprep.schemas.ledgers import REMAP as KIND
from histoprep.schemas.ledgers import ledger_files
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.table import TableOptions, TileTable

SHAPE = (40, 56)
CLASSES = ((0, "Unknown"), (1, "one"), (2, "two"), (7, "seven"))
MAPPING = {0: 0, 1: 2, 2: 2, 5: 1, 9: 7, 11: 1, 300: 7}


def label_map(
    name: str = "four",
    mapping: dict[int, int] | None = None,
    classes: tuple[tuple[int, str], ...] = CLASSES,
) -> LabelMap:
    mapping = MAPPING if mapping is None else mapping
    return LabelMap(
        name,
        tuple(SourceLabel(source, f"tissue {source}") for source in mapping),
        tuple(TargetClass(cls, text, "#808080") for cls, text in classes),
        mapping,
    )


class InProcess(Engine):
    """Runs tasks in this process, at once."""

    @contextmanager
    def executor(self, num_workers: int | None = None) -> Iterator[Executor]:
        yield _Inline()


class _Inline(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 (handed on, as executors do)
            future.set_exception(error)
        return future


def random_labels(seed: int, values: tuple[int, ...] = (0, 1, 2, 5, 9, 11)) -> np.ndarray:
    """Return blocky labels [40, 56]; a third of the seeds give only zeros."""
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        return np.zeros(SHAPE, np.uint8)
    return np.kron(rng.choice(values, (5, 7)), np.ones((8, 8), int)).astype(np.uint8)


def expected(labels: np.ndarray, mapping: dict[int, int] = MAPPING) -> np.ndarray:
    """Return the classes, one pixel at a time."""
    return np.array([[mapping[int(item)] for item in row] for row in labels], np.uint8)


def save_pair(root: Path, name: str, labels: np.ndarray) -> Path:
    folder = (root / name).parent
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SHAPE[::-1], (200, 120, 160)).save(root / f"{name}.jpg")
    path = root / f"{name}_mask.png"
    Image.fromarray(labels).save(path)
    return path


def make_set(root: Path, num_masks: int = 10) -> dict[str, np.ndarray]:
    """Write a data set with folders and return its labels by path."""
    made = {}
    for index in range(num_masks):
        labels = random_labels(index)
        path = save_pair(root, f"slide {index % 3}/tile.{index}", labels)
        made[path.relative_to(root).as_posix()] = labels
    return made


def scanned(root: Path, options: ScanOptions | None = None) -> Workspace:
    workspace = Workspace.of(root)
    with durable.locked(workspace.folder):
        TileTable(workspace, TableOptions(scan=options) if options else None).build(InProcess())
    return workspace


def remapped(
    workspace: Workspace,
    options: RemapOptions | None = None,
    made: LabelMap | None = None,
    engine: Engine | None = None,
) -> RemapResult:
    return run_remap(plan_remap(workspace, made or label_map(), options), engine or InProcess())


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder` but the lock and what this machine remembers of the files,
    by path.
    """
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", STATES)
    }


def read_mask(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.array(image)


def ledger_rows(result: RemapResult) -> list[dict[str, Any]]:
    return pq.read_table(result.ledger).to_pylist()


# Values


@st.composite
def maps_and_labels(draw: st.DrawFn) -> tuple[LabelMap, np.ndarray]:
    deep = draw(st.booleans())
    ids = draw(
        st.lists(st.integers(0, 65535 if deep else 255), min_size=1, max_size=12, unique=True)
    )
    class_ids = draw(st.lists(st.integers(0, 255), min_size=1, max_size=6, unique=True))
    mapping = {identifier: draw(st.sampled_from(class_ids)) for identifier in ids}
    shape = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    made = label_map(
        mapping=mapping,
        classes=tuple((identifier, f"class {identifier}") for identifier in class_ids),
    )
    return made, rng.choice(ids, shape).astype(np.uint16 if deep else np.uint8)


@settings(max_examples=200)
@given(maps_and_labels())
def test_classes_are_those_of_the_map(case: tuple[LabelMap, np.ndarray]) -> None:
    made, labels = case
    classes = LabelLookup.of(made, OnUnmapped.ERROR).apply(labels)
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes, np.vectorize(dict(made.mapping).get)(labels))


@pytest.fixture
def old_opencv(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An OpenCV that looks up bytes alone."""
    look_up = cv2.LUT

    def of_version_4(source: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        if source.dtype != np.uint8:
            raise cv2.error("no table for this depth")
        return look_up(source, *rest)

    monkeypatch.setattr(cv2, "LUT", of_version_4)
    lookup._pair_table.cache_clear()
    yield
    assert lookup._pair_table.cache_info().currsize
    lookup._pair_table.cache_clear()


@pytest.mark.parametrize("shape", [(6, 8), (5, 8), (5, 7), (1, 1)])
@pytest.mark.parametrize("opencv", ["old_opencv", None])
def test_any_size_and_opencv_gives_the_same_classes(
    request: pytest.FixtureRequest, opencv: str | None, shape: tuple[int, int]
) -> None:
    if opencv:
        request.getfixturevalue(opencv)
    labels = np.random.default_rng(0).choice([0, 1, 2, 5, 9, 11], shape).astype(np.uint8)
    np.testing.assert_array_equal(
        LabelLookup.of(label_map(), OnUnmapped.ERROR).apply(labels), expected(labels)
    )


def test_strided_labels_give_the_same_classes() -> None:
    labels = random_labels(1)
    np.testing.assert_array_equal(
        LabelLookup.of(label_map(), OnUnmapped.ERROR).apply(labels[::2, 1::3]),
        expected(labels[::2, 1::3]),
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_value_without_a_class_never_becomes_one(dtype: type) -> None:
    labels = np.full((9, 9), 1, dtype)
    labels[4, 4] = 77
    with pytest.raises(BrokenFileError, match="not in the tiles table"):
        LabelLookup.of(label_map(), OnUnmapped.ERROR).apply(labels)
    assert LabelLookup.of(label_map(), OnUnmapped.UNKNOWN).apply(labels)[4, 4] == 0


def test_all_256_classes_can_be_used() -> None:
    mapping = {number: 255 - number for number in range(256)}
    made = label_map(
        mapping=mapping, classes=tuple((number, f"class {number}") for number in range(256))
    )
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(
        LabelLookup.of(made, OnUnmapped.ERROR).apply(labels), 255 - labels
    )


def test_class_ids_beyond_eight_bits_are_refused() -> None:
    with pytest.raises(UsageError, match="HP505"):
        LabelLookup.of(
            label_map(mapping={0: 0, 1: 256}, classes=((0, "a"), (256, "b"))), OnUnmapped.ERROR
        )


# Every kind of input


def _save_bits(path: Path, labels: np.ndarray, bits: int) -> None:
    """Write a grey PNG of 1, 2 or 4 bits by hand; Pillow writes only the first kind."""
    import struct
    import zlib

    height, width = labels.shape
    per_byte = 8 // bits
    padded = np.zeros((height, -(-width // per_byte) * per_byte), np.uint8)
    padded[:, :width] = labels
    packed = sum(
        padded[:, shift::per_byte].astype(np.uint16) << (8 - bits * (shift + 1))
        for shift in range(per_byte)
    ).astype(np.uint8)
    lines = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def _save_palette(path: Path, labels: np.ndarray) -> None:
    image = Image.fromarray(labels, "P")
    image.putpalette(
        [value for index in range(256) for value in (index * 7 % 256, 255 - index, index * 3 % 256)]
    )
    image.save(path)


LOW = random_labels(1, (0, 1, 2))
BINARY = random_labels(2, (0, 1))
WIDE = random_labels(4).astype(np.uint16)
WIDER = np.where(WIDE == 9, np.uint16(300), WIDE)
FLAT = np.full(SHAPE, 5, np.uint8)
KINDS: dict[str, tuple[str, np.ndarray, Callable[[Path], Any]]] = {
    "8 bit": (".png", LOW, lambda path: Image.fromarray(LOW).save(path)),
    "16 bit, small values": (".png", WIDE, lambda path: Image.fromarray(WIDE).save(path)),
    "16 bit, large values": (".png", WIDER, lambda path: Image.fromarray(WIDER).save(path)),
    "palette with colours": (".png", LOW, lambda path: _save_palette(path, LOW)),
    "1 bit": (".png", BINARY, lambda path: Image.fromarray(BINARY.astype(bool)).save(path)),
    "2 bit": (".png", LOW, lambda path: _save_bits(path, LOW, 2)),
    "4 bit": (".png", LOW, lambda path: _save_bits(path, LOW, 4)),
    "TIFF": (".tif", LOW, lambda path: Image.fromarray(LOW).save(path, compression="tiff_lzw")),
    "TIFF of 16 bit": (".TIFF", WIDER, lambda path: Image.fromarray(WIDER).save(path)),
    "TIFF of 1 bit": (".tif", BINARY, lambda path: Image.fromarray(BINARY.astype(bool)).save(path)),
    "grey JPEG": (".jpg", FLAT, lambda path: Image.fromarray(FLAT).save(path, quality=95)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_class_map_becomes_8_bit_grey(tmp_path: Path, kind: str) -> None:
    suffix, labels, save = KINDS[kind]
    root = tmp_path / "set"
    save_pair(root, "x", FLAT)
    (root / "x_mask.png").unlink()
    save(root / f"x_mask{suffix}")
    # A lossy container is refused as such (HP403), not because its pixels cannot be read.
    result = remapped(scanned(root), RemapOptions(force=kind == "grey JPEG"))
    assert (result.num_written, result.failed) == (1, ())
    np.testing.assert_array_equal(read_mask(result.out / "x_mask.png"), expected(labels))


NOISE = np.random.default_rng(0).integers(0, 256, (*LOW.shape, 4), np.uint8)
REFUSED: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "photograph": (
        ".png",
        "HP402 rgb: ",
        lambda path: Image.fromarray(NOISE[..., :3]).save(path),
    ),
    "alpha": (
        ".png",
        "HP402 alpha: ",
        lambda path: Image.fromarray(NOISE // 128).save(path),
    ),
    "float": (
        ".tif",
        "HP402 float: values that are no whole numbers",
        lambda path: Image.fromarray(LOW.astype(np.float32) + 0.5).save(path),
    ),
    "flat float": (
        ".tif",
        "HP402 probability: values from 0.5 to 0.5",
        lambda path: Image.fromarray(np.full_like(LOW, 0.5, np.float32)).save(path),
    ),
    "cut": (
        ".png",
        "HP201 truncated",
        lambda path: path.write_bytes((path.with_name("y_mask.png")).read_bytes()[:-30]),
    ),
    "empty": (".png", "HP201 zero-bytes", lambda path: path.write_bytes(b"")),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_images_fail_with_the_cause_and_all_else_is_done(tmp_path: Path, kind: str) -> None:
    suffix, reason, save = REFUSED[kind]
    root = tmp_path / "set"
    save_pair(root, "x", FLAT).unlink()
    save_pair(root, "y", LOW)
    save_pair(root, "z", LOW)
    save(root / f"x_mask{suffix}")
    result = remapped(scanned(root))
    assert (result.num_written, result.num_failed) == (2, 1)
    assert result.failed[0].path == f"x_mask{suffix}"
    assert reason in result.failed[0].reason
    assert not (result.out / "x_mask.png").exists()
    assert [
        (row["mask_path"], row["status"], row["output_path"]) for row in ledger_rows(result)
    ] == [
        (f"x_mask{suffix}", "failed", None),
        ("y_mask.png", "written", "y_mask.png"),
        ("z_mask.png", "written", "z_mask.png"),
    ]


def test_odd_names_and_orphans_keep_their_paths(tmp_path: Path) -> None:
    root = tmp_path / "set"
    names = ["a.tiff-1", "b c", "d.e.f", "Füße/ß", "=cmd", "deep/er/still/x"]
    for name in names:
        save_pair(root, name, LOW)
    save_pair(root, "orphan", BINARY)
    save_pair(root, "other class", np.full(SHAPE, 5, np.uint8))
    (root / "orphan.jpg").unlink()
    raw = os.fsencode(root) + b"/raw\xff"
    for part in ("_mask.png", ".jpg"):
        os.rename(root / f"b c{part}", raw + os.fsencode(part))
    result = remapped(scanned(root))
    found = sorted(
        os.fsencode(path.relative_to(result.out)) for path in result.out.rglob("*_mask.png")
    )
    names.append("other class")
    wanted = [os.fsencode(f"{name}_mask.png") for name in names if name != "b c"]
    assert found == sorted([*wanted, b"orphan_mask.png", b"raw\xff_mask.png"])
    np.testing.assert_array_equal(read_mask(result.out / "orphan_mask.png"), expected(BINARY))


def test_only_our_note_is_in_the_new_masks(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    private = PngInfo()
    private.add_text("Patient", "Jane Doe")
    path = save_pair(tmp_path / "set", "x", LOW)
    Image.fromarray(LOW).save(path, pnginfo=private, dpi=(72, 72))
    result = remapped(scanned(tmp_path / "set"))
    with Image.open(result.out / "x_mask.png") as image:
        assert image.info == {"histoprep-label-map": f"four {label_map().digest}"}


# What is refused before anything is written


def test_unmapped_values_are_named_with_count_file_and_fix(tmp_path: Path) -> None:
    root = tmp_path / "set"
    make_set(root, 4)
    odd = random_labels(1)
    odd[3, :7] = 77
    odd[0, 0] = 78
    save_pair(root, "zz", odd)
    odd[0, 0] = 1
    save_pair(root, "zzz", odd)
    workspace = scanned(root)
    with pytest.raises(UnmappedLabelError) as caught:
        remapped(workspace)
    text = str(caught.value)
    assert "2 values that four does not list" in text
    assert "77 (14 pixels in 2 tiles, such as zz_mask.png)" in text
    assert "78 (1 pixel in 1 tile, such as zz_mask.png)" in text
    assert "7 source labels from 0 to 300" in text
    assert "--on-unmapped unknown" in text
    assert caught.value.exit_code == ExitCode.USAGE
    assert not workspace.masks("four").exists()


@pytest.mark.parametrize(
    ("first", "last", "wanted"),
    [("Unknown", "seven", 0), ("a", "UNKNOWN", 7), ("not labelled, ignore", "d", 0)],
)
def test_unmapped_values_can_become_unknown(
    tmp_path: Path, first: str, last: str, wanted: int
) -> None:
    classes = ((0, first), (1, "one"), (2, "two"), (7, last))
    odd = random_labels(1)
    odd[3, :7] = 77
    save_pair(tmp_path / "set", "x", odd)
    result = remapped(
        scanned(tmp_path / "set"),
        RemapOptions(on_unmapped=OnUnmapped.UNKNOWN),
        label_map(classes=classes),
    )
    np.testing.assert_array_equal(
        read_mask(result.out / "x_mask.png"), expected(odd, {**MAPPING, 77: wanted})
    )


def test_without_a_class_for_unknown_nothing_can_become_it(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 2)
    made = label_map(classes=((0, "stroma"), (1, "b"), (2, "c"), (7, "d")))
    with pytest.raises(UsageError, match="needs a class for unknown values, and four has none"):
        remapped(scanned(tmp_path / "set"), RemapOptions(on_unmapped=OnUnmapped.UNKNOWN), made)


def test_our_own_output_is_not_remapped_again(tmp_path: Path) -> None:
    root = tmp_path / "set"
    make_set(root, 6)
    first = remapped(scanned(root))
    again = tmp_path / "again"
    shutil.copytree(root, again)
    for path in first.out.rglob("*_mask.png"):
        shutil.copy(path, again / path.relative_to(first.out))
    workspace = scanned(again)
    with pytest.raises(UsageError, match="HP508 already-remapped") as caught:
        remapped(workspace, made=label_map("other", {0: 0, 1: 1, 2: 2, 7: 7}))
    assert f"remapped by four {label_map().digest}" in str(caught.value)
    assert not workspace.masks("other").exists()
    forced = remapped(
        workspace, RemapOptions(force=True), label_map("other", {0: 0, 1: 1, 2: 2, 7: 1})
    )
    before, after = (read_mask(item.out / "slide 1/tile.1_mask.png") for item in (first, forced))
    assert (before == 7).any()
    np.testing.assert_array_equal(after, np.where(before == 7, 1, before))


def _foreign_classes(root: Path, num_masks: int) -> None:
    """Write masks that hold the classes 0, 1, 2 and 3 of a map, without a note in them."""
    for index in range(num_masks):
        rng = np.random.default_rng(index)
        save_pair(
            root,
            f"t{index}",
            np.kron(rng.permutation([0, 1, 2, 3])[None], np.ones((8, 8), int)).astype(np.uint8),
        )


BROAD = label_map(
    "broad",
    {number: number % 4 for number in range(20)},
    ((0, "Unknown"), (1, "a"), (2, "b"), (3, "c")),
)


def test_values_that_look_like_classes_are_not_remapped(tmp_path: Path) -> None:
    _foreign_classes(tmp_path / "set", 24)
    workspace = scanned(tmp_path / "set")
    with pytest.raises(UsageError, match="HP508 already-remapped") as caught:
        remapped(workspace, made=BROAD)
    assert "only the values 0, 1, 2, 3 occur" in str(caught.value)
    assert remapped(workspace, RemapOptions(force=True), BROAD).num_written == 24


def test_few_masks_are_no_evidence_of_an_earlier_remap(tmp_path: Path) -> None:
    _foreign_classes(tmp_path / "set", 3)
    assert remapped(scanned(tmp_path / "set"), made=BROAD).num_written == 3


def test_classes_that_are_no_source_labels_convict_at_once(tmp_path: Path) -> None:
    save_pair(tmp_path / "set", "x", np.full(SHAPE, 7, np.uint8))
    with pytest.raises(UsageError, match="HP508"):
        remapped(scanned(tmp_path / "set"))


def test_two_masks_that_would_become_one_file_are_named(tmp_path: Path) -> None:
    root = tmp_path / "set"
    save_pair(root, "a/x", LOW)
    save_pair(root, "a/y", LOW)
    workspace = scanned(root)
    # The scan keeps one of two such masks (HP104); a table made otherwise may hold both.
    opened, header = tables.open_table(
        workspace.tiles, kind=tiles.KIND, schema_version=tiles.SCHEMA_VERSION
    )
    rows = tables.read_table(opened)
    rows = rows.set_column(
        rows.schema.get_field_index("mask_path"),
        "mask_path",
        pa.array(["a/x_mask.png", "a/x_mask.tif"]),
    )
    described = {name: header[name] for name in ("root", "options")}
    tables.write_table(
        workspace.tiles,
        [rows],
        tiles.SCHEMA,
        kind=tiles.KIND,
        schema_version=tiles.SCHEMA_VERSION,
        metadata=described,
    )
    with pytest.raises(UsageError, match="two masks would become the same file") as caught:
        remapped(workspace)
    assert "a/x_mask.png and a/x_mask.tif" in str(caught.value)
    assert not workspace.masks("four").exists()


@pytest.mark.parametrize(
    "where",
    ["set/masks", "set", "elsewhere/../set/deep/er", ".", "set.histoprep", "pool", "pool/new"],
)
def test_new_masks_never_mix_with_data_or_results(tmp_path: Path, where: str) -> None:
    make_set(tmp_path / "set", 2)
    (tmp_path / "pool").mkdir()
    Image.new("RGB", SHAPE[::-1]).save(tmp_path / "pool/u.jpg")
    workspace = scanned(tmp_path / "set", ScanOptions(unlabelled=(tmp_path / "pool",)))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError):
        remapped(workspace, RemapOptions(out=tmp_path / where))
    assert sorted(tmp_path.rglob("*")) == before


def test_new_masks_never_lie_around_the_data_set(tmp_path: Path) -> None:
    make_set(tmp_path / "project/set", 2)
    workspace = Workspace.of(tmp_path / "project/set", tmp_path / "work")
    with durable.locked(workspace.folder):
        TileTable(workspace).build(InProcess())
    with pytest.raises(UsageError, match="need a folder of their own"):
        remapped(workspace, RemapOptions(out=tmp_path / "project"))


def test_a_link_into_the_data_set_is_seen_through(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 2)
    (tmp_path / "link").symlink_to(tmp_path / "set")
    with pytest.raises(UsageError, match="must not mix"):
        remapped(scanned(tmp_path / "set"), RemapOptions(out=tmp_path / "link/new"))


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 2)
    out = tmp_path / "precious"
    out.mkdir()
    (out / "thesis.txt").write_text("all of it")
    for force in (False, True):
        with pytest.raises(UsageError, match="remap did not make it"):
            remapped(scanned(tmp_path / "set"), RemapOptions(out=out, force=force))
    assert tree(out) == {"thesis.txt": b"all of it"}


def test_a_missing_or_partial_table_is_refused(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 3)
    workspace = Workspace.of(tmp_path / "set")
    with pytest.raises(UsageError, match="no tiles table"):
        remapped(workspace)
    with durable.locked(workspace.folder):
        TileTable(workspace, TableOptions(sample=2)).build(InProcess())
    with pytest.raises(UsageError, match="sampling"):
        remapped(workspace)


def test_another_map_in_the_same_folder_needs_force(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 6)
    workspace, options = scanned(tmp_path / "set"), RemapOptions(out=tmp_path / "new")
    remapped(workspace, options)
    before = tree(options.out)
    other = label_map(mapping={**MAPPING, 1: 1})
    with pytest.raises(UsageError, match="other settings: label map"):
        remapped(workspace, options, other)
    with pytest.raises(UsageError, match="other settings: --on-unmapped"):
        remapped(workspace, replace(options, on_unmapped=OnUnmapped.UNKNOWN))
    make_set(tmp_path / "twin", 6)
    with pytest.raises(UsageError, match="other settings: data set"):
        remapped(scanned(tmp_path / "twin"), options)
    assert tree(options.out) == before
    forced = remapped(workspace, replace(options, force=True), other)
    fresh = remapped(workspace, RemapOptions(out=tmp_path / "fresh"), other)
    assert tree(forced.out) == tree(fresh.out)
    assert tree(forced.out) != before


# The tree, the ledger and the seal


def test_ledger_and_seal_tell_the_truth(tmp_path: Path) -> None:
    root = tmp_path / "set"
    labels = make_set(root, 12)
    (root / "slide 1/tile.4_mask.png").write_bytes(b"\x89PNG broken")
    workspace = scanned(root)
    result = remapped(workspace)
    rows = ledger_rows(result)
    assert [row["mask_path"] for row in rows] == pq.read_table(workspace.tiles)[
        "mask_path"
    ].to_pylist()
    assert {row["mask_path"] for row in rows} == set(labels)
    totals = np.zeros(len(CLASSES), int)
    for row in rows:
        source = (root / row["mask_path"]).read_bytes()
        assert row["source_digest"] == xxhash.xxh3_128_hexdigest(source)
        if row["mask_path"] == "slide 1/tile.4_mask.png":
            assert (row["status"], row["output_digest"], row["class_pixels"]) == (
                "failed",
                None,
                None,
            )
            continue
        written = (result.out / row["output_path"]).read_bytes()
        assert (row["output_digest"], row["output_bytes"]) == (
            xxhash.xxh3_128_hexdigest(written),
            len(written),
        )
        classes = expected(labels[row["mask_path"]])
        np.testing.assert_array_equal(read_mask(result.out / row["output_path"]), classes)
        counted = [int((classes == cls).sum()) for cls, _ in CLASSES]
        assert row["class_pixels"] == counted
        totals += counted
    assert result.class_pixels == tuple(totals)
    seal = json.loads((result.out / "_SUCCESS.json").read_text())
    assert (seal["written"], seal["failed"]) == (11, 1)
    assert seal["ledger_digest"] == xxhash.xxh3_128_hexdigest(result.ledger.read_bytes())
    assert load_label_map(result.out / "label_map.yml") == label_map()
    notes = [item for item in tree(result.out) if not item.endswith("_mask.png")]
    assert sorted(notes) == [
        "_SUCCESS.json",
        "checksums.json",
        "label_map.yml",
        "ledger.parquet",
        "remap.json",
    ]


def test_the_data_set_is_only_read(tmp_path: Path) -> None:
    root = tmp_path / "set"
    make_set(root, 5)
    workspace = scanned(root)
    before = {
        path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in root.rglob("*")
    }
    remapped(workspace)
    assert {
        path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in root.rglob("*")
    } == before


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_data_set_on_a_read_only_file_system(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        make_set(disk / "set", 5)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        workspace = Workspace.of(disk / "set", tmp_path / "work")
        with durable.locked(workspace.folder):
            TileTable(workspace).build(InProcess())
        assert remapped(workspace).num_written == 5
        with pytest.raises(OutputError) as caught:
            remapped(workspace, RemapOptions(out=disk / "new"))
        assert caught.value.exit_code == ExitCode.OUTPUT
        assert os.strerror(errno.EROFS) in str(caught.value)


def test_a_full_disk_is_named_and_the_run_goes_on_later(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 40)
    workspace = scanned(tmp_path / "set")
    whole = remapped(workspace, RemapOptions(out=tmp_path / "whole", partition_masks=4))
    stopped = 0
    with small_disk(tmp_path / "disk", "16k") as disk:
        options = RemapOptions(out=disk / "new", partition_masks=4)
        for kilobytes in (16, 40, 80, 120, 160, 200):
            subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(disk)], check=True)
            with pytest.raises(OutputError) as caught:
                remapped(workspace, options)
            assert os.strerror(errno.ENOSPC) in str(caught.value)
            assert str(disk) in str(caught.value)
            assert not (disk / "new/_SUCCESS.json").exists()
            stopped += 1
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert tree(remapped(workspace, options).out) == tree(whole.out)
    assert stopped == 6


def test_nothing_is_done_twice(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 7)
    workspace = scanned(tmp_path / "set")
    first = remapped(workspace)
    before = {path: path.stat().st_mtime_ns for path in first.out.rglob("*")}
    again = remapped(workspace)
    assert again == replace(first, up_to_date=True)
    assert {path: path.stat().st_mtime_ns for path in first.out.rglob("*")} == before


@pytest.mark.parametrize("damage", ["output", "ledger", "cut ledger", "seal", "request"])
def test_a_damaged_tree_is_made_whole(tmp_path: Path, damage: str) -> None:
    make_set(tmp_path / "set", 7)
    workspace = scanned(tmp_path / "set")
    out = remapped(workspace).out
    before = tree(out)
    names = {
        "ledger": "ledger.parquet",
        "cut ledger": "ledger.parquet",
        "seal": "_SUCCESS.json",
        "request": "remap.json",
    }
    victim = out / names.get(damage, "slide 0/tile.3_mask.png")
    if damage.startswith("cut"):
        victim.write_bytes(victim.read_bytes()[:-9])
    else:
        victim.unlink()
    if damage == "request":
        # Without it the folder is not known to be ours.
        with pytest.raises(UsageError, match="remap did not make it"):
            remapped(workspace)
        return
    result = remapped(workspace)
    assert (tree(out), result.up_to_date) == (before, False)


@pytest.mark.parametrize("damage", ["flipped", "cut", "seal", "request", "label map"])
def test_what_was_changed_in_a_tree_is_an_error_until_forced(tmp_path: Path, damage: str) -> None:
    make_set(tmp_path / "set", 7)
    workspace = scanned(tmp_path / "set")
    out = remapped(workspace).out
    before = tree(out)
    names = {"seal": "_SUCCESS.json", "request": "remap.json", "label map": "label_map.yml"}
    victim = out / names.get(damage, "slide 0/tile.3_mask.png")
    status, data = victim.stat(), bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data[:-9] if damage == "cut" else data)
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(IntegrityError) as caught:
        remapped(workspace)
    assert caught.value.path == str(victim) and "--force" in str(caught.value.hint)
    assert tree(out) != before
    assert remapped(workspace, RemapOptions(force=True)).num_written == 7
    assert tree(out) == before
    assert remapped(workspace).up_to_date


def test_a_mask_flipped_behind_our_back_is_found_by_verify(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 7)
    workspace = scanned(tmp_path / "set")
    out = remapped(workspace).out
    victim = out / "slide 0/tile.3_mask.png"
    data = victim.read_bytes()
    victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    # As if the storage had lied: nothing that it says of the file tells.
    checksums.remember_files(out, ledger_files(out, KIND))
    assert remapped(workspace).up_to_date
    with pytest.raises(IntegrityError) as caught:
        remapped(workspace, RemapOptions(verify=True))
    assert caught.value.path == str(victim)


def test_masks_flipped_while_a_run_was_stopped_are_made_again(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 12)
    workspace = scanned(tmp_path / "set")
    options = RemapOptions(partition_masks=3)
    whole = tree(remapped(workspace, replace(options, out=tmp_path / "whole")).out)
    plan = plan_remap(workspace, label_map(), options)
    run_remap_part(plan, 1, 1, InProcess())
    victim = min(plan.out.rglob("*_mask.png"))
    data = victim.read_bytes()
    victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    remapped(workspace, options)
    assert tree(plan.out) == whole


def test_parts_whose_files_are_gone_are_made_again(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 12)
    workspace = scanned(tmp_path / "set")
    options = RemapOptions(partition_masks=3)
    whole = tree(remapped(workspace, replace(options, out=tmp_path / "whole")).out)
    plan = plan_remap(workspace, label_map(), options)
    assert run_remap_part(plan, 1, 1, InProcess()) == 4
    written = {path: path.stat().st_mtime_ns for path in plan.out.rglob("*_mask.png")}
    min(written).unlink()
    remapped(workspace, options)
    assert tree(plan.out) == whole
    kept = [value for value, moment in written.items() if value.stat().st_mtime_ns == moment]
    # One partition of three was made again, the other three were not touched.
    assert len(kept) == 9


def test_parts_with_passing_faults_are_made_again(tmp_path: Path) -> None:
    root = tmp_path / "set"
    make_set(root, 6)
    plan = plan_remap(scanned(root), label_map(), RemapOptions(partition_masks=3))
    path = root / "slide 1/tile.4_mask.png"
    os.rename(path, tmp_path / "aside")
    run_remap_part(plan, 1, 1, InProcess())
    os.rename(tmp_path / "aside", path)
    assert run_remap(plan, InProcess()).num_written == 6


def test_a_tree_in_the_middle_of_a_change_has_no_seal(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 6)
    workspace = scanned(tmp_path / "set")
    options = RemapOptions(out=tmp_path / "new", partition_masks=2)
    remapped(workspace, options)
    other = label_map(mapping={**MAPPING, 1: 1})

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_remap(plan_remap(workspace, other, replace(options, force=True)), InProcess(), stop)
    assert not (options.out / "_SUCCESS.json").exists()
    # The tree is the other map's now, and going on with it needs no force.
    result = remapped(workspace, options, other)
    assert tree(result.out) == tree(
        remapped(workspace, RemapOptions(out=tmp_path / "fresh"), other).out
    )


def test_masks_that_left_the_data_set_leave_the_tree(tmp_path: Path) -> None:
    root = tmp_path / "set"
    labels = make_set(root, 9)
    save_pair(root, "alone/in here/x", LOW)
    first = remapped(scanned(root))
    (first.out / "notes.txt").write_text("mine")
    for name in ("alone/in here/x.jpg", "alone/in here/x_mask.png", "slide 0/tile.0_mask.png"):
        (root / name).unlink()
    # Once written, now broken: its old class mask must not stay either.
    (root / "slide 1/tile.1_mask.png").write_bytes(b"")
    result = remapped(scanned(root))
    assert (result.num_written, result.num_failed, result.num_stale_removed, result.unexpected) == (
        7,
        1,
        3,
        ("notes.txt",),
    )
    left = {
        label
        for label in labels
        if label not in ("slide 0/tile.0_mask.png", "slide 1/tile.1_mask.png")
    }
    assert {item for item in tree(result.out) if item.endswith("_mask.png")} == left
    assert not (result.out / "alone").exists()


def test_a_mask_that_changes_after_the_audit_is_listed_and_taken_up_later(tmp_path: Path) -> None:
    root = tmp_path / "set"
    make_set(root, 6)
    workspace = scanned(root)
    path = root / "slide 1/tile.4_mask.png"
    moment = path.stat()
    # The same size and time: only the digest can tell.
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(moment.st_atime_ns, moment.st_mtime_ns))
    (root / "slide 2/tile.5_mask.png").unlink()
    result = remapped(workspace)
    reasons = {item.path: item.reason for item in result.failed}
    assert reasons["slide 1/tile.4_mask.png"].startswith("HP206 changed")
    assert reasons["slide 2/tile.5_mask.png"].startswith("HP201 vanished")
    assert (result.num_written, result.num_failed) == (4, 2)
    save_pair(root, "slide 1/tile.4", LOW)
    save_pair(root, "slide 2/tile.5", LOW)
    assert remapped(scanned(root)).num_written == 6


def test_a_passing_fault_is_tried_again(tmp_path: Path) -> None:
    root = tmp_path / "set"
    make_set(root, 6)
    workspace = scanned(root)
    path = root / "slide 1/tile.4_mask.png"
    os.rename(path, tmp_path / "aside")
    assert remapped(workspace).num_failed == 1
    os.rename(tmp_path / "aside", path)
    result = remapped(workspace)
    assert (result.num_written, result.num_failed) == (6, 0)
    assert tree(result.out) == tree(remapped(workspace, RemapOptions(out=tmp_path / "fresh")).out)


def test_a_mask_that_ended_its_worker_is_listed(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 4)
    plan = plan_remap(scanned(tmp_path / "set"), label_map())
    (task,) = plan.tasks()
    mask_tree.begin(plan)
    task.without(2, "the decoder ended it").run()
    result = run_remap(replace(plan, num_refused=1), _Reuse())
    assert [item.reason for item in result.failed] == ["HP201 worker-died: the decoder ended it"]


class _Reuse(Engine):
    """Takes parts as they are, as `run_tasks` does with the part of a task that left a file out."""

    @contextmanager
    def executor(self, num_workers: int | None = None) -> Iterator[Executor]:
        yield _Parts()


class _Parts(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(args[0].part)
        return future


def test_files_that_vanish_meanwhile_keep_the_seal_off(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 8)
    workspace = scanned(tmp_path / "set")
    plan = plan_remap(workspace, label_map(), RemapOptions(partition_masks=2))

    def spoil(done: int, total: int) -> None:
        assert total == 8
        if done == 6:
            (plan.out / "slide 0/tile.0_mask.png").unlink()

    with pytest.raises(IntegrityError, match="1 of 8 new files are not in the folder"):
        run_remap(plan, InProcess(), spoil)
    assert not (plan.out / "_SUCCESS.json").exists()
    assert run_remap(plan, InProcess()).num_written == 8


def test_a_table_that_changes_after_planning_is_noticed(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 4)
    plan = plan_remap(scanned(tmp_path / "set"), label_map())
    save_pair(tmp_path / "set", "late", LOW)
    scanned(tmp_path / "set")
    with pytest.raises(IntegrityError, match="tiles table changed"):
        run_remap(plan, InProcess())


_HOLD = """
from pathlib import Path
from histoprep.durable import locked
with locked(Path({folder!r})):
    print("held", flush=True)
    input()
"""


def test_a_second_writer_is_sent_away(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 4)
    plan = plan_remap(scanned(tmp_path / "set"), label_map(), RemapOptions(out=tmp_path / "new"))
    for folder in (plan.workspace.folder, plan.out):
        script = _HOLD.format(folder=str(folder))
        holder = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=str(holder.pid)):
            run_remap(plan, InProcess())
        holder.communicate("\n")
    assert run_remap(plan, InProcess()).num_written == 4


# Any number of workers, machines and interruptions


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a data set of 90 masks, three of them broken."""
    root = tmp_path_factory.mktemp("many") / "set"
    make_set(root, 90)
    for index in (0, 41, 88):
        (root / f"slide {index % 3}/tile.{index}_mask.png").write_bytes(b"no mask")
    return scanned(root)


@pytest.fixture(scope="module")
def undisturbed(many: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the tree that every other run must give."""
    return tree(
        remapped(many, RemapOptions(out=tmp_path_factory.mktemp("undisturbed") / "new")).out
    )


@pytest.mark.parametrize(("workers", "size"), [(1, 1000), (2, 7), (3, 1), (0, 30)])
def test_workers_and_partitions_do_not_matter(
    many: Workspace, undisturbed: dict[str, bytes], tmp_path: Path, workers: int, size: int
) -> None:
    options = RemapOptions(out=tmp_path / "new", partition_masks=size)
    assert (
        tree(remapped(many, options, engine=Engine(workers) if workers else InProcess()).out)
        == undisturbed
    )


def test_job_arrays_give_the_same_tree(
    many: Workspace, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    plan = plan_remap(many, label_map(), RemapOptions(out=tmp_path / "new", partition_masks=8))
    for number in (3, 1):
        run_remap_part(plan, number, 3, InProcess())
    with pytest.raises(IncompleteError, match="4 partitions are not done") as caught:
        collect_remap(many, plan.out, partition_masks=8)
    assert "partitions 1, 4, 7, 10 missing" in str(caught.value)
    assert not (plan.out / "_SUCCESS.json").exists()
    run_remap_part(plan, 2, 3, InProcess())
    result = collect_remap(many, plan.out, partition_masks=8)
    assert (result.num_written, result.num_failed, tree(plan.out)) == (87, 3, undisturbed)
    assert collect_remap(many, plan.out).up_to_date
    assert run_remap_part(plan, 1, 3, InProcess()) == 0


def test_unfinished_remaps_are_found(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 4)
    plan = plan_remap(scanned(tmp_path / "set"), label_map())
    assert unfinished_remaps(plan.workspace) == []
    run_remap_part(plan, 1, 1, InProcess())
    assert unfinished_remaps(plan.workspace) == [plan.out]
    collect_remap(plan.workspace, plan.out)
    assert unfinished_remaps(plan.workspace) == []


def test_nothing_to_collect_is_said(tmp_path: Path) -> None:
    make_set(tmp_path / "set", 2)
    with pytest.raises(UsageError, match="no remap was begun here"):
        collect_remap(scanned(tmp_path / "set"), tmp_path / "nowhere")


def test_a_worker_that_dies_costs_nothing(
    many: Workspace, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    import multiprocessing

    killed = []

    def kill_one(done: int, total: int) -> None:
        if not killed and (children := multiprocessing.active_children()):
            os.kill(children[0].pid or 0, signal.SIGKILL)
            killed.append(done)

    plan = plan_remap(many, label_map(), RemapOptions(out=tmp_path / "new", partition_masks=3))
    run_remap(plan, Engine(2), kill_one)
    assert killed
    assert tree(plan.out) == undisturbed


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_tree(
    many: Workspace, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        options = RemapOptions(out=tmp_path / "new", partition_masks=10)
        assert (
            tree(remapped(many, options, engine=Engine(2, cluster.scheduler_address)).out)
            == undisturbed
        )


_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_remap import label_map
from histoprep.execution import Engine
from histoprep.remapping import RemapOptions, plan_remap, run_remap
from histoprep.schemas.workspace import Workspace
options = RemapOptions(out=Path({out!r}), partition_masks=5)
plan = plan_remap(Workspace(Path({root!r}), Path({folder!r})), label_map(), options)
print("planned", flush=True)
run_remap(plan, Engine(2))
"""


@pytest.mark.parametrize("after", [0, 1, 12, 30, 55, 80])
def test_a_killed_run_goes_on_where_it_was(
    many: Workspace, undisturbed: dict[str, bytes], tmp_path: Path, after: int
) -> None:
    out = tmp_path / "new"
    script = _RUN.format(
        tests=str(Path(__file__).parent), root=str(many.root), folder=str(many.folder), out=str(out)
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script], start_new_session=True, stdout=subprocess.PIPE
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"planned\n"
    while run.poll() is None and sum(1 for _ in out.rglob("*_mask.png")) < after:
        time.sleep(0.0005)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    run.stdout.close()
    # What is visible is whole, whenever the kill came.
    assert {
        name: data for name, data in tree(out).items() if name.endswith("_mask.png")
    }.items() <= undisturbed.items()
    assert tree(remapped(many, RemapOptions(out=out, partition_masks=5)).out) == undisturbed


def survive_kills(root: str, folder: str, scratch: str, *, broken: bool = False) -> int:
    """Kill a run before each of its calls that change the disk, let another run finish, and return
    the number of kills.

    Raises AssertionError when a file is visible in part, or the final tree is another one. `broken`
    publishes files in place, which must be caught.
    """
    # Imported once, not in every child; pyarrow imports pandas when it makes its first array.
    import pandas  # noqa: F401

    from histoprep import imageio  # noqa: F401

    workspace = Workspace(Path(root), Path(folder))
    reference = Path(scratch) / "reference"
    assert os.waitstatus_to_exitcode(_in_child(workspace, reference)) == 0
    wanted = tree(reference)
    out = Path(scratch) / "new"
    for kills in range(10_000):
        status = os.waitstatus_to_exitcode(
            _in_child(workspace, out, kill_at=kills + 1, broken=broken)
        )
        visible = tree(out) if out.exists() else {}
        masks = {name: data for name, data in visible.items() if name.endswith("_mask.png")}
        assert masks.items() <= wanted.items(), f"kill {kills + 1}: a file is visible in part"
        # With _SUCCESS.json everything is there but its own checksum, which the next run lists.
        made, expected = (
            {name: data for name, data in found.items() if not _is_note(name)}
            for found in (visible, wanted)
        )
        assert "_SUCCESS.json" not in visible or made == expected
        if status == 0:
            return kills
        assert status == -signal.SIGKILL, f"kill {kills + 1}: the run ended with {status}"
        assert os.waitstatus_to_exitcode(_in_child(workspace, out)) == 0, (
            f"kill {kills + 1}: the next run failed"
        )
        assert tree(out) == wanted, f"kill {kills + 1}: another tree"
        shutil.rmtree(out)
    raise AssertionError("it never ends")


def _is_note(name: str) -> bool:
    return name == "checksums.json" or name.startswith(".hp-")


def _in_child(workspace: Workspace, out: Path, *, kill_at: int = 0, broken: bool = False) -> int:
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        if broken:
            durable.publish_in_batch = _publish_in_place
        if kill_at:
            _kill_at(kill_at)
        run_remap(
            plan_remap(workspace, label_map(), RemapOptions(out=out, partition_masks=3)),
            InProcess(),
        )
    except BaseException:  # noqa: BLE001 (a child must never come back)
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _publish_in_place(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, data)
    os.close(descriptor)


def _kill_at(limit: int) -> None:
    """End this process in call number `limit` that changes the disk; half of a write is done
    then.
    """
    count = 0

    def counted(call: Callable[..., Any], half: bool = False) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == limit:
                if half:
                    call(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped

    for name in ("rename", "replace", "fsync", "unlink", "mkdir", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    os.write = counted(os.write, half=True)
    durable.sync_file_system = counted(durable.sync_file_system)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory where there is such a place: hundreds of syncs wait for no disk
    there.
    """
    with TemporaryDirectory(
        dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    ) as folder:
        yield Path(folder)


def _survive(
    num_masks: int, scratch: Path, broken: bool = False
) -> subprocess.CompletedProcess[str]:
    make_set(scratch / "set", num_masks)
    workspace = scanned(scratch / "set")
    call = (
        f"print(test_remap.survive_kills({str(workspace.root)!r}, {str(workspace.folder)!r},"
        f" {str(scratch)!r}, broken={broken}))"
    )
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_remap; {call}"
    )
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_kills_at_every_change_of_the_disk(scratch: Path) -> None:
    done = _survive(5, scratch)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 40


@pytest.mark.slow
def test_the_kills_would_catch_files_written_in_place(scratch: Path) -> None:
    done = _survive(3, scratch, broken=True)
    assert "a file is visible in part" in done.stderr
