"""Corrected copies of data sets in odd places: names that are taken, tables that name files in
other ways, masks that nobody may rewrite, files that cannot be read.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from pathlib import Path

import lossy_masks
import numpy as np
import pytest
from audit_cases import DataSet, image_bytes, stripes, tissue
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from scipy import ndimage
from test_fix import ledger_of, pixels_of, run

from histoprep import audit, imageio
from histoprep.choices import LinkKind
from histoprep.errors import ExitCode
from histoprep.execution import Engine
from histoprep.fixing import FixOptions, choose_operations, plan_fix, run_fix
from histoprep.fixing.names_in_tables import Names, Renamed
from histoprep.fixing.operations.specks import fill_specks
from histoprep.schemas.workspace import Workspace
from histoprep.tiles.table import TileTable


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return DataSet(tmp_path / "set")


def fix(data: DataSet, *arguments: str | Path, expected: int = ExitCode.OK) -> Path:
    """Return the folder of the corrected copy."""
    out = data.root.with_name("out")
    assert run("fix", data.root, "--out", out, "--workers", "1", *arguments) == expected
    return out


def jpeg(seed: int) -> bytes:
    return image_bytes(tissue(seed), "JPEG", quality=90)


# --- names -------------------------------------------------------------------------------------


def test_a_name_that_is_taken_stays(data: DataSet, capsys: pytest.CaptureFixture[str]) -> None:
    data.write("images/a.png", jpeg(1))
    data.write("images/b.bmp", jpeg(2))
    data.write("images/b.JPG", jpeg(3))
    data.mask("masks/a.png")
    data.mask("masks/b.png")
    out = fix(data)
    assert (out / "images" / "a.jpg").exists()
    # Of two files of one key the first is the tile, and the other one comes along.
    assert ledger_of(out)["images/b.bmp"]["role"] == "other"
    data.write("images/c.bmp", jpeg(4))
    data.write("images/c.jpg", jpeg(5))
    data.mask("masks/c.png")
    again = data.root.with_name("again")
    assert run("fix", data.root, "--out", again, "--workers", "1") == ExitCode.OK
    names = {path.name for path in (again / "images").iterdir()}
    assert names == {"a.jpg", "b.JPG", "b.bmp", "c.bmp", "c.jpg"}
    [reason] = ledger_of(again)["images/c.bmp"]["left"]  # type: ignore[misc]
    assert "extension: there is a file images/c.jpg already" in reason
    assert "such as images/c.bmp" in capsys.readouterr().err


def test_two_files_never_get_one_name(data: DataSet, tmp_path: Path) -> None:
    data.write("a.bmp", image_bytes(tissue(1), "PNG"))
    data.write("a.tif", image_bytes(stripes(0, 1, 2, dtype=np.uint16), "TIFF"))
    data.image("b.jpg")
    data.write("b.tif", image_bytes(stripes(0, 1, 2, dtype=np.uint16), "TIFF"))
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("image,mask\na.bmp,a.tif\nb.jpg,b.tif\n")
    run("audit", data.root, "--pairs", pairs, "--workers", "1", "--exit-zero")
    out = fix(data)
    assert {path.name for path in out.glob("[ab].*")} == {"a.bmp", "a.tif", "b.jpg", "b.png"}
    rows = ledger_of(out)
    for name in ("a.bmp", "a.tif"):
        assert "another one would get this name" in str(rows[name]["left"])


def test_a_name_that_means_a_mask_stays_one(data: DataSet) -> None:
    """Where the extension says which file is the mask, it is not changed."""
    for index in range(4):
        data.image(f"t{index}.jpg")
        data.write(f"t{index}.tif", image_bytes(stripes(0, 1, 2, dtype=np.uint16), "TIFF"))
    options = ["--mask-suffix", ".tif", "--image-suffix", ".jpg", "--layout", "sibling"]
    run("audit", data.root, *options, "--workers", "1")
    out = fix(data)
    assert sorted(path.suffix for path in out.glob("t*")) == [".jpg"] * 4 + [".tif"] * 4
    [reason] = ledger_of(out)["t0.tif"]["left"]  # type: ignore[misc]
    assert "plain: it would be read as something else" in reason


def test_siblings_and_capital_suffixes(data: DataSet) -> None:
    data.image("a.jpg")
    data.write("a_mask.PNG", imageio.encode_mask_png(stripes(0, 1, 2, dtype=np.uint16)))
    data.image("b.jpg")
    data.write("b_mask.TIF", image_bytes(stripes(0, 1, 2, dtype=np.uint16), "TIFF"))
    data.write("notes/more.md", b"text")
    data.write(".hidden", b"")
    out = fix(data)
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.*") if path.is_file()} >= {
        *("a.jpg", "a_mask.PNG", "b.jpg", "b_mask.png", "notes/more.md"),
    }
    assert not (out / ".hidden").exists()
    assert pixels_of(out / "a_mask.PNG").dtype == np.uint8


def test_names_of_any_bytes(data: DataSet) -> None:
    name = os.fsdecode(b"images/t\xe4.png")
    data.write(name, jpeg(1))
    data.mask(os.fsdecode(b"masks/t\xe4.png"))
    data.image("images/fine.jpg")
    data.mask("masks/fine.png")
    out = fix(data)
    assert (out / os.fsdecode(b"images/t\xe4.jpg")).read_bytes() == jpeg(1)


# --- tables ------------------------------------------------------------------------------------


def test_tables_of_every_kind_get_the_new_names(data: DataSet) -> None:
    for folder in ("s1", "s2"):
        data.write(f"images/{folder}/x.png", jpeg(ord(folder[1])))
        data.mask(f"masks/{folder}/x.png")
    data.write("images/s1/y.png", jpeg(9))
    data.image("images/s2/y.png", tissue(10))
    data.mask("masks/s1/y.png")
    data.mask("masks/s2/y.png")
    texts = {
        "pairs.csv": ("image;mask\nimages/s1/x.png;masks/s1/x.png\n", "images/s1/x.jpg;masks/s1/x"),
        "lists/a.txt": ("s1/x.png 1 2\n/mnt/images/s2/x.png 3\n", "s1/x.jpg 1 2\n/mnt/images/s2"),
        "t.tsv": ('mask_file\timage\n"x.png"\t"x.png"\n', 'mask_file\timage\n"x.png"\t"x.jpg"'),
        "old.csv": ("image\r\ny.png\r\n", "y.png"),
    }
    for name, (text, _) in texts.items():
        data.write(name, text.encode())
    data.write("wide.csv", "image,n\nx.png,ä\n".encode("utf-16"))
    data.write("coco.json", json.dumps({"images": [{"file_name": "s1/x.png"}]}).encode())
    out = fix(data)
    for name, (text, expected) in texts.items():
        new = (out / name).read_bytes().decode()
        assert expected in new
        assert len(new) == len(text)
    assert (out / "wide.csv").read_bytes() == "image,n\nx.jpg,ä\n".encode("utf-16")
    rows = ledger_of(out)
    assert rows["pairs.csv"]["changed_names"] == 1
    assert rows["lists/a.txt"]["changed_names"] == 2
    assert "1 name of several files" in str(rows["old.csv"]["left"])
    assert "1 name of renamed files" in str(rows["coco.json"]["left"])
    assert (out / "coco.json").samefile(data.root / "coco.json")


def test_a_table_of_pairs_elsewhere_is_copied_with_new_names(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["image,mask,group"]
    for index in range(4):
        data.write(f"he/i{index}.png", jpeg(index) if index else image_bytes(tissue(0), "PNG"))
        data.mask(f"gt/m{index}.png")
        rows.append(f"he/i{index}.png,gt/m{index}.png,s{index % 2}")
    table = tmp_path / "elsewhere" / "pairs.csv"
    table.parent.mkdir()
    table.write_text("\n".join(rows))
    before = table.read_bytes()
    run("audit", data.root, "--pairs", table, "--workers", "1", "--exit-zero")
    capsys.readouterr()
    out = fix(data)
    assert table.read_bytes() == before
    assert f"--pairs {out / 'pairs.csv'}" in capsys.readouterr().err
    assert (out / "pairs.csv").read_text() == before.decode().replace("png,gt", "jpg,gt").replace(
        "i0.jpg", "i0.png"
    )


@given(
    st.lists(
        st.text(alphabet=st.sampled_from('ab,;"\n\r \t./x'), max_size=12), min_size=1, max_size=6
    )
)
def test_other_text_of_a_table_stays_what_it_is(cells: list[str]) -> None:
    names = Names.of([Renamed("image", "images/zz.png", "images/zz.jpg")])
    for separator in ",;\t|":
        text = separator.join(cells)
        assert names.rewrite_table(text, separator).text == text


# --- masks -------------------------------------------------------------------------------------


def test_ids_above_255_need_sixteen_bits_in_their_folder(data: DataSet) -> None:
    for index, top in enumerate((300, 2, 2)):
        data.image(f"images/wide/t{index}.jpg")
        labels = stripes(0, 1, top, dtype=np.int32)
        data.write(f"masks/wide/t{index}.tif", image_bytes(labels, "TIFF"))
        data.image(f"images/small/t{index}.jpg")
        small = image_bytes(stripes(0, 1, 2, dtype=np.int32), "TIFF")
        data.write(f"masks/small/t{index}.tif", small)
    out = fix(data)
    assert {pixels_of(path).dtype for path in out.glob("masks/wide/*.png")} == {np.dtype("uint16")}
    assert {pixels_of(path).dtype for path in out.glob("masks/small/*.png")} == {np.dtype("uint8")}
    assert pixels_of(out / "masks/wide/t0.png").max() == 300


@pytest.mark.parametrize(
    ("chosen", "bits"),
    [(["--specks", "20"], 8), (["--only", "specks=20"], 16), (["--only", "plain"], 8)],
)
def test_specks_of_masks_that_are_too_wide(chosen: list[str], bits: int, data: DataSet) -> None:
    mask = stripes(0, 1, 2, dtype=np.uint16)
    speckled = mask.copy()
    speckled[4:6, 4:6] = 2
    for index in range(3):
        data.image(f"images/t{index}.jpg")
        data.write(f"masks/t{index}.png", image_bytes(speckled, "PNG"))
    out = fix(data, *chosen)
    written = pixels_of(out / "masks/t0.png")
    assert written.dtype.itemsize * 8 == bits
    np.testing.assert_array_equal(written, speckled if "plain" in chosen else mask)
    row = ledger_of(out)["masks/t0.png"]
    assert row["changed_pixels"] == (0 if "plain" in chosen else 4)
    assert sum(row["output_label_pixels"]) == mask.size  # type: ignore[arg-type]


def test_no_region_of_a_sixteenth_of_its_mask_is_a_speck(data: DataSet) -> None:
    mask = stripes(0, 1, 2)
    for index in range(3):
        data.image(f"images/t{index}.jpg")
        data.mask(f"masks/t{index}.png", mask)
    out = fix(data, "--specks", str(mask.size // 16 + 1))
    np.testing.assert_array_equal(pixels_of(out / "masks/t0.png"), mask)
    assert "no specks of so small a mask" in str(ledger_of(out)["masks/t0.png"]["left"])


def test_masks_of_palettes_are_plain_where_their_labels_are_sure(data: DataSet) -> None:
    for index in range(3):
        data.image(f"images/t{index}.jpg")
        mask = Image.fromarray(stripes(0, 1, 2), "P")
        mask.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
        data.write(f"masks/t{index}.png", image_bytes(mask, "PNG"))
    assert codes_of_plain(data.root)["HP402"] == 3
    out = fix(data)
    assert "HP402" not in codes_of_plain(out)
    np.testing.assert_array_equal(pixels_of(out / "masks/t0.png"), stripes(0, 1, 2))


def codes_of_plain(root: Path) -> dict[str, int]:
    found = audit(root, workers=1).findings
    return {each.code: each.count for each in found}


def test_a_question_that_nobody_decided_stays_one(data: DataSet) -> None:
    """1 bit beside 8: a label of 1 may be 1 or 255."""
    for index in range(4):
        data.image(f"images/t{index}.jpg")
        bits = Image.fromarray(stripes(0, 255)).convert("1")
        data.write(
            f"masks/t{index}.png",
            image_bytes(bits, "PNG") if index else imageio.encode_mask_png(stripes(0, 1, 255)),
        )
    before = codes_of_plain(data.root)
    assert "HP414" in before
    out = fix(data)
    assert codes_of_plain(out) == before
    assert "HP414" in str(ledger_of(out)["masks/t1.png"]["left"])
    run("audit", data.root, "--depth", "8", "--exit-zero", "--workers", "1")
    decided = data.root.with_name("decided")
    assert run("fix", data.root, "--out", decided, "--workers", "1") == ExitCode.OK
    np.testing.assert_array_equal(pixels_of(decided / "masks/t1.png"), stripes(0, 255))
    assert "HP414" not in codes_of_plain(decided)


def test_colours_are_left_to_a_label_map(data: DataSet) -> None:
    colours = np.zeros((96, 96, 3), np.uint8)
    colours[:48] = (255, 0, 0)
    colours[48:] = (0, 0, 255)
    for index in range(3):
        data.image(f"images/t{index}.jpg")
        data.write(f"masks/t{index}.png", image_bytes(colours, "PNG"))
    out = fix(data)
    assert "a label map must number" in str(ledger_of(out)["masks/t0.png"]["left"])
    assert (out / "masks/t0.png").samefile(data.root / "masks/t0.png")


@pytest.mark.slow
def test_repaired_masks_are_put_in_place(data: DataSet, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(31):
        data.image(f"images/t{index:02}.jpg", tissue(index, lossy_masks.regions(0).shape[0]))
        lossy = lossy_masks.jpeg(lossy_masks.regions(index), 90)
        data.mask(f"masks/t{index:02}.png", lossy)
    run("audit", data.root, "--workers", "1", "--exit-zero")
    out = fix(data, "--specks", "9")
    # Without a repair nothing is done to false labels, and that is said.
    assert not [row for row in ledger_of(out).values() if row["operations"]]
    assert "histoprep repair first" in capsys.readouterr().err
    assert run("repair", data.root, "--workers", "1") == ExitCode.OK
    repaired = data.root.with_name("set.histoprep") / "repaired"
    fixed = data.root.with_name("fixed")
    assert run("fix", data.root, "--out", fixed, "--workers", "1") == ExitCode.OK
    row = ledger_of(fixed)["masks/t03.png"]
    assert row["operations"] == ["repaired"]
    assert row["how"] == "hard link"
    assert row["source_digest"] != row["output_digest"]
    assert len(row["output_label_ids"]) < len(row["label_ids"])  # type: ignore[arg-type]
    for path in (fixed / "masks").iterdir():
        assert path.samefile(repaired / "masks" / path.name)
    assert "HP403" in codes_of_plain(data.root)
    assert "HP403" not in codes_of_plain(fixed)
    # The same bytes, whichever way they came.
    assert run("verify", fixed) == ExitCode.OK


def test_pixels_without_a_label_are_no_specks() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[:, 10:] = 1
    labels[:, 9:11] = 255
    labels[3, 3] = labels[5, 9] = 2
    filled = fill_specks(labels, 8, ignored=255)
    assert (filled == 255).sum() == (labels == 255).sum()
    # Of the two specks, the one within the line has 255 and nothing else around it.
    assert (filled[3, 3], filled[5, 9]) == (0, 0)


@settings(max_examples=60)
@given(
    arrays.arrays(
        np.uint8,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=14),
        elements=st.integers(0, 3),
    ),
    st.integers(1, 12),
)
def test_no_speck_is_left_and_nothing_else_changes(labels: np.ndarray, least: int) -> None:
    filled = fill_specks(labels, least)
    regions = [ndimage.label(filled == label, np.ones((3, 3)))[0] for label in np.unique(filled)]
    sizes = [size for region in regions for size in np.bincount(region.ravel())[1:]]
    assert len(sizes) == 1 or min(sizes) >= least
    # A region that was large enough, and touched no speck, is what it was.
    for label in np.unique(labels):
        own, count = ndimage.label(labels == label, np.ones((3, 3)))
        for number in range(1, count + 1):
            if (own == number).sum() >= least:
                assert (filled[own == number] == label).all()
    assert (fill_specks(filled, least) == filled).all()


def test_a_speck_gets_the_label_that_most_of_its_neighbours_have() -> None:
    labels = np.array([[0, 0, 0, 1, 1], [0, 0, 2, 1, 1], [0, 0, 0, 1, 1]], np.uint8)
    assert fill_specks(labels, 2)[1, 2] == 0
    even = np.array([[3, 3, 1, 1], [3, 2, 2, 1], [3, 3, 1, 1]], np.uint8)
    assert (fill_specks(even, 3) == np.array([[3, 3, 1, 1], [3, 1, 1, 1], [3, 3, 1, 1]])).all()


# --- files -------------------------------------------------------------------------------------


def test_damaged_files_come_along(data: DataSet) -> None:
    data.pairs(3)
    data.write("cut.jpg", jpeg(5)[:900])
    data.mask("cut_mask.png")
    data.write("empty.jpg", b"")
    data.mask("orphan_mask.png")
    before = codes_of_plain(data.root)
    out = fix(data)
    assert codes_of_plain(out) == before
    assert (out / "cut.jpg").samefile(data.root / "cut.jpg")


def test_a_file_that_changes_meanwhile_is_listed_and_done_next_time(data: DataSet) -> None:
    data.pairs(3)
    data.write("fine00.png", jpeg(7))
    (data.root / "fine00.jpg").unlink()
    audit(data.root, workers=1)
    out = data.root.with_name("out")
    workspace = Workspace.of(data.root)
    options = FixOptions(out, choose_operations(), LinkKind.COPY)
    plan = plan_fix(workspace, options)
    before = {name: (data.root / name).read_bytes() for name in ("fine00.png", "fine01.jpg")}
    for name, content in before.items():
        (data.root / name).write_bytes(content + b"more")
    counts = run_fix(plan).counts
    assert sorted(path for path, _ in counts.failed) == ["fine00.png", "fine01.jpg"]
    assert all(reason.startswith("HP206 changed") for _, reason in counts.failed)
    assert not (out / "fine01.jpg").exists()
    for name, content in before.items():
        (data.root / name).write_bytes(content)
    assert run("fix", data.root, "--out", out, "--link", "copy", "--workers", "1") == ExitCode.OK
    assert (out / "fine00.jpg").read_bytes() == before["fine00.png"]


def test_a_file_that_changed_since_is_not_taken_for_the_one_that_was_audited(
    data: DataSet, tmp_path: Path
) -> None:
    data.pairs(3)
    data.write("fine00.jpg", jpeg(1))
    out = fix(data)
    (out / "fine01.jpg").unlink()
    (out / "fine01.jpg").write_bytes(b"edited")
    assert run("fix", data.root, "--out", out, "--workers", "1") == ExitCode.INTEGRITY
    assert run("verify", out) == ExitCode.INTEGRITY


def test_links_of_the_data_set_become_files_and_others_are_named(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    data.pairs(2)
    (data.root / "again.jpg").symlink_to(data.root / "fine00.jpg")
    (data.root / "broken").symlink_to("nowhere")
    out = fix(data)
    assert (out / "again.jpg").samefile(data.root / "fine00.jpg")
    assert not (out / "again.jpg").is_symlink()
    assert not (out / "broken").is_symlink()
    assert "1 link or special file of no tile, such as broken" in capsys.readouterr().err


def test_images_of_another_folder_stay_where_they_are(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.pairs(3)
    more = DataSet(tmp_path / "more")
    more.image("m0.jpg", tissue(50))
    run("audit", data.root, "--unlabelled", more.root, "--workers", "1")
    capsys.readouterr()
    out = fix(data)
    printed = capsys.readouterr().err
    assert f"{more.root} lies outside of the data set" in printed
    assert f"--unlabelled {more.root}" in printed
    assert not list(out.rglob("m0.jpg"))


def test_a_file_with_a_name_of_ours_is_refused(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    data.pairs(2)
    data.write("ledger.parquet", b"mine")
    fix(data, expected=ExitCode.USAGE)
    assert "name that histoprep fix writes itself" in capsys.readouterr().err


def test_an_import_can_be_fixed(tmp_path: Path) -> None:
    from import_samples import make_coco

    sample = make_coco(tmp_path / "source")
    assert run("import", *sample.arguments, "--out", tmp_path / "set") == ExitCode.OK
    out = tmp_path / "out"
    assert run("fix", tmp_path / "set", "--out", out, "--workers", "1") == ExitCode.OK
    assert not (out / "import.json").exists()
    assert (out / "label_map.yml").exists()
    assert codes_of_plain(out) == codes_of_plain(tmp_path / "set")


def test_declared_labels_that_are_gone_are_said(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = stripes(0, 1)
    labels[4:7, 4:7] = 2
    data.pair("a", labels)
    data.pair("b")
    data.write("dataset.csv", b"image,labels\na.jpg,1 2\nb.jpg,1 2\n")
    fix(data, "--specks", "64")
    assert "1 mask with other labels than before" in capsys.readouterr().err


def test_orientation_is_refused_where_sizes_show_the_other_way(data: DataSet) -> None:
    exif = Image.Exif()
    exif[274] = 6
    wide = tissue(1)[:64]
    data.write("a.jpg", image_bytes(wide, "JPEG", exif=exif))
    data.mask("a_mask.png", stripes(0, 1, 2)[:64])
    data.write("b.jpg", image_bytes(tissue(2)[:64], "JPEG", exif=exif))
    data.mask("b_mask.png", stripes(0, 1, 2)[:64].T.copy())
    out = fix(data, "--also", "orientation")
    rows = ledger_of(out)
    assert "orientation=drop" in str(rows["a.jpg"]["left"])
    assert rows["b.jpg"]["output_path"] == "b.png"
    assert pixels_of(out / "b.png").shape[:2] == (96, 64)
    assert codes_of_plain(out).keys() >= {"HP309"}
    other = data.root.with_name("dropped")
    chosen = ["--only", "orientation=drop", "--workers", "1"]
    assert run("fix", data.root, "--out", other, *chosen) == ExitCode.OK
    assert "orientation=apply" in str(ledger_of(other)["b.jpg"]["left"])
    assert codes_of_plain(other)["HP309"] == 1


def test_a_mask_with_an_orientation_is_read_by_all_afterwards(data: DataSet) -> None:
    exif = Image.Exif()
    exif[274] = 3
    data.pairs(2)
    data.image("a.jpg")
    mask = stripes(0, 1, 2)
    data.write("a_mask.png", image_bytes(mask, "PNG", exif=exif))
    assert "HP413" in codes_of_plain(data.root)
    for how, expected in {"apply": mask[::-1, ::-1], "drop": mask}.items():
        out = data.root.with_name(how)
        chosen = ["--only", f"orientation={how}", "--workers", "1"]
        assert run("fix", data.root, "--out", out, *chosen) == ExitCode.OK
        assert "HP413" not in codes_of_plain(out)
        np.testing.assert_array_equal(pixels_of(out / "a_mask.png"), expected)


# --- the data set afterwards -------------------------------------------------------------------


def is_current(root: Path) -> bool:
    """Return whether the tiles table holds without reading a file."""
    return TileTable(Workspace.of(root)).build(Engine(1)).up_to_date


def test_links_do_not_make_the_data_set_seem_changed(data: DataSet) -> None:
    """A hard link changes what the system says of a file, and nobody has to read it again."""
    data.pairs(4)
    data.write("fine00.png", jpeg(7))
    (data.root / "fine00.jpg").unlink()
    data.write("fine01_mask.png", imageio.encode_mask_png(stripes(0, 1, 2, dtype=np.uint16)))
    audit(data.root, workers=1)
    out = fix(data)
    assert (out / "fine02.jpg").stat().st_nlink == 2
    assert is_current(data.root)
    # A change of a file that is linked is seen all the same, and with it that of the copy.
    (data.root / "fine02.jpg").write_bytes(jpeg(9))
    assert not is_current(data.root)
    assert run("verify", out) == ExitCode.INTEGRITY


def test_a_change_that_hides_its_time_is_seen(data: DataSet) -> None:
    """A file of the same size and time is not taken for the one that was audited."""
    data.pairs(3)
    first, second = image_bytes(tissue(1), "BMP"), image_bytes(tissue(2), "BMP")
    assert len(first) == len(second)
    data.write("a.bmp", first)
    data.mask("a_mask.png")
    data.write("extra.bin", b"x" * 10)
    audit(data.root, workers=1)
    out = data.root.with_name("out")
    begun_ns = time.time_ns()
    options = FixOptions(out, choose_operations(), begun_ns=begun_ns)
    plan = plan_fix(Workspace.of(data.root), options)
    path = data.root / "a.bmp"
    before = path.stat()
    time.sleep(0.02)
    path.write_bytes(second)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    result = run_fix(plan)
    assert [name for name, _ in result.counts.failed] == ["a.bmp"]
    assert not is_current(data.root)


# --- a data set that changed since -------------------------------------------------------------


def make_tiles(data: DataSet, *numbers: int) -> None:
    """Write images that get another extension, each with a mask and a line of a table."""
    for number in numbers:
        data.write(f"images/s{number % 2}_{number}.png", jpeg(number))
        data.mask(f"masks/s{number % 2}_{number}.png")


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_tree_follows_files_that_left_and_came(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiles(data, 0, 1, 2, 3)
    data.write("notes.csv", b"image,note\n")
    out = fix(data)
    for path in ("images/s0_2.png", "masks/s0_2.png", "notes.csv"):
        (data.root / path).unlink()
    make_tiles(data, 5)
    capsys.readouterr()
    fix(data, "--dry-run")
    assert "3 files of an earlier run would be removed" in capsys.readouterr().err
    assert (out / "images/s0_2.jpg").exists()
    fix(data)
    assert "removed 3 files of an earlier run" in capsys.readouterr().err
    assert names_in(out / "images") == {"s0_0.jpg", "s1_1.jpg", "s1_3.jpg", "s1_5.jpg"}
    assert names_in(out / "masks") == {"s0_0.png", "s1_1.png", "s1_3.png", "s1_5.png"}
    assert not (out / "notes.csv").exists()
    assert run("verify", out) == ExitCode.OK
    assert "files read: OK" in capsys.readouterr().out
    fix(data)
    assert "nothing had changed" in capsys.readouterr().err


def test_an_interrupted_tree_follows_files_that_left(data: DataSet) -> None:
    """The names of a run that never ended are known from its parts."""
    make_tiles(data, 0, 1, 2, 3)
    out = fix(data)
    finished = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (data.root / "images/s0_2.png").rename(data.root.with_name("kept.png"))
    (data.root / "masks/s0_2.png").rename(data.root.with_name("kept-mask.png"))
    (out / "images/foreign.jpg").write_bytes(jpeg(9))
    fix(data, expected=ExitCode.INTEGRITY)
    data.root.with_name("kept.png").rename(data.root / "images/s0_2.png")
    data.root.with_name("kept-mask.png").rename(data.root / "masks/s0_2.png")
    (out / "images/foreign.jpg").unlink()
    fix(data)
    assert finished.keys() == {path.name for path in out.rglob("*") if path.is_file()}
    assert finished["ledger.parquet"] == (out / "ledger.parquet").read_bytes()


def test_a_tile_that_fix_did_not_write_is_named_with_a_command_that_works(
    data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiles(data, 0, 1, 2, 3)
    out = fix(data, "--link", "copy", "--specks", "9")
    (out / "images/own.jpg").write_bytes(jpeg(9))
    make_tiles(data, 5)
    capsys.readouterr()
    fix(data, "--link", "copy", "--specks", "9", expected=ExitCode.INTEGRITY)
    said = capsys.readouterr().err
    assert "histoprep fix did not write images/own.jpg: move what is not wanted out" in said
    command = shlex.split(said.rpartition("make a new tree: ")[2].splitlines()[0])
    assert run("verify", out) == ExitCode.INCOMPLETE
    noted, state = capsys.readouterr()[::-1]
    assert state.strip().endswith("not finished")
    finishing = shlex.split(noted.partition("is not finished: ")[2].splitlines()[0])
    assert run(*command[1:], "--workers", "1") == ExitCode.OK
    assert names_in(data.root.with_name("out-2") / "images") == {
        f"s{number % 2}_{number}.jpg" for number in (0, 1, 2, 3, 5)
    }
    (out / "images/own.jpg").unlink()
    assert run(*finishing[1:], "--workers", "1") == ExitCode.OK
    assert run("verify", out) == ExitCode.OK
