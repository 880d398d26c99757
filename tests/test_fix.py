"""`histoprep fix`: the corrected copy has none of the faults that were acted upon, every other file
and every pixel as before, and the data set stays what it was.
"""

from __future__ import annotations

import io
import os
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fix_samples import PROFILE, labels, make_faulty, tissue, with_specks
from PIL import Image

from histoprep import audit, cli, tables
from histoprep.errors import ExitCode
from histoprep.fixing import OPERATIONS, choose_operations
from histoprep.schemas.ledgers import FIX, open_ledger

ACTED_UPON = {"HP203", "HP207", "HP309", "HP402", "HP408", "HP412"}


def run(*arguments: str | Path) -> int:
    return cli.run([str(argument) for argument in arguments])


def every_file(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def results(folder: Path) -> dict[str, bytes]:
    """Return the files of a tree without what is about this machine."""
    return {
        name: data
        for name, (data, _) in every_file(folder).items()
        if name not in (".lock", ".hp-states")
    }


def ledger_of(out: Path) -> dict[str, dict[str, object]]:
    rows: dict[str, dict[str, object]] = {}
    for batch in tables.read_batches(open_ledger(out / "ledger.parquet", FIX.ledger, FIX)):
        rows |= {row["path"]: row for row in batch.to_pylist()}
    return rows


def codes_of(root: Path) -> dict[str, int]:
    return {
        finding.code: finding.count
        for finding in audit(root, group_by="csv:slide", workers=1).findings
    }


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def tiles_of(workspace: Path) -> list[tuple[object, ...]]:
    """Return tile id, group and labels of each tile."""
    table = pq.read_table(workspace / "tiles.parquet").to_pylist()
    return [
        (row["tile_id"], row["group"], row["split"], row["label"], row["declared_labels"])
        for row in table
    ]


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a faulty data set `set`, audited, and its corrected copy `out`."""
    top = tmp_path_factory.mktemp("fix")
    make_faulty(top / "set")
    assert run("audit", top / "set", "--group-by", "csv:slide", "--exit-zero") == ExitCode.OK
    before = every_file(top / "set")
    chosen = ["--specks", "64", "--also", "orientation"]
    assert run("fix", top / "set", "--out", top / "out", *chosen, "--workers", "1") == ExitCode.OK
    assert every_file(top / "set") == before, "the data set was changed"
    return top


def test_the_tree_audits_clean_of_exactly_what_was_acted_upon(fixed: Path) -> None:
    before, after = codes_of(fixed / "set"), codes_of(fixed / "out")
    assert before.keys() >= ACTED_UPON
    assert {code: before[code] for code in before.keys() - ACTED_UPON} == {
        code: after[code] for code in after
    }


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_an_operation_alone_acts_upon_its_findings_alone(
    operation: object, fixed: Path, tmp_path: Path
) -> None:
    name, codes = operation.name, set(operation.codes)  # type: ignore[attr-defined]
    out = tmp_path / "out"
    assert run("fix", fixed / "set", "--out", out, "--only", name, "--workers", "1") == ExitCode.OK
    before, after = codes_of(fixed / "set"), codes_of(out)
    acted = {code for code in codes if before.get(code)}
    if name == "orientation":
        # What is written anew has no metadata either.
        acted.add("HP207")
        assert after["HP207"] == before["HP207"] - 1
        after.pop("HP207")
    assert {code: number for code, number in before.items() if code not in acted} == after
    changed = [row for row in ledger_of(out).values() if row["operations"]]
    # Of what is in no finding nothing is changed.
    assert bool(changed) == bool(acted)
    assert len(changed) >= sum(before[code] for code in acted - {"HP207"})


def test_pixels_and_labels_are_the_same(fixed: Path) -> None:
    for number, (name, row) in enumerate(sorted(ledger_of(fixed / "out").items())):
        if row["role"] not in ("image", "mask"):
            continue
        old, new = fixed / "set" / name, fixed / "out" / str(row["output_path"])
        before, after = pixels_of(old), pixels_of(new)
        if row["operations"] == ["orientation"]:
            before = np.rot90(before, -1)
        elif "specks" in row["operations"]:  # type: ignore[operator]
            before = labels(9)
            assert (pixels_of(old) == with_specks(9)).all()
        elif "channels" in name and row["role"] == "mask":
            before = before[..., 0]
        np.testing.assert_array_equal(before, after, err_msg=f"{number} {name}")
        if row["role"] == "mask":
            assert after.dtype == np.uint8
            assert Image.open(new).format == "PNG"


def test_a_jpeg_is_not_encoded_again_to_lose_its_metadata(fixed: Path) -> None:
    old = (fixed / "set" / "images" / "s3_exif.jpg").read_bytes()
    new = (fixed / "out" / "images" / "s3_exif.jpg").read_bytes()
    # From the first table on, which is where pixels begin, every byte is the same.
    assert old[old.index(b"\xff\xdb") :] == new[new.index(b"\xff\xdb") :]
    assert b"Dr Doe" in old
    assert b"Dr Doe" not in new
    assert Image.open(io.BytesIO(new)).info["icc_profile"] == PROFILE


@pytest.mark.parametrize("name", ["s2_text.png", "s1_turned.png"])
def test_the_colour_profile_stays(name: str, fixed: Path) -> None:
    with Image.open(fixed / "out" / "images" / name) as image:
        assert image.info["icc_profile"] == PROFILE
        assert not image.getexif()
        assert "Patient" not in image.info


def test_metadata_goes_and_the_orientation_stays_where_nobody_chose(
    fixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("fix", fixed / "set", "--out", out, "--workers", "1") == ExitCode.OK
    with Image.open(out / "images" / "s1_turned.jpg") as image:
        assert dict(image.getexif()) == {274: 6}
    assert codes_of(out)["HP309"] == 1
    assert "HP207" not in codes_of(out)


def test_a_dropped_orientation_leaves_the_pixels(fixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    chosen = ["--only", "HP309=drop", "--workers", "1"]
    assert run("fix", fixed / "set", "--out", out, *chosen) == ExitCode.OK
    old, new = (top / "images" / "s1_turned.jpg" for top in (fixed / "set", out))
    np.testing.assert_array_equal(pixels_of(old), pixels_of(new))
    with Image.open(new) as image:
        assert dict(image.getexif()) == {274: 1, 315: "Dr Doe"}
    assert "HP309" not in codes_of(out)


def test_tiles_groups_and_tables_still_hold(fixed: Path) -> None:
    audit(fixed / "out", group_by="csv:slide", workers=1)
    assert tiles_of(fixed / "out.histoprep") == tiles_of(fixed / "set.histoprep")
    assert {row[1] for row in tiles_of(fixed / "set.histoprep")} == {"s1", "s2", "s3"}
    old, new = ((fixed / name / "dataset.csv").read_bytes() for name in ("set", "out"))
    replaced = old.replace(b"s1_misnamed.png", b"s1_misnamed.jpg")
    assert new == replaced.replace(b"s1_turned.jpg", b"s1_turned.png")
    assert ledger_of(fixed / "out")["dataset.csv"]["changed_names"] == 2
    assert (fixed / "out" / "label_map.yml").samefile(fixed / "set" / "label_map.yml")


def test_a_file_that_does_not_change_is_linked(fixed: Path) -> None:
    rows = ledger_of(fixed / "out")
    assert len(rows) == 2 * 13 + 2
    linked = [row for row in rows.values() if row["how"] == "hard link"]
    for row in linked:
        assert row["operations"] in ([], ["extension"])
        old, new = fixed / "set" / str(row["path"]), fixed / "out" / str(row["output_path"])
        assert old.samefile(new)
        assert row["source_digest"] == row["output_digest"]
    assert len(linked) == 2 * 13 + 1 - 4 - 5


@pytest.mark.parametrize("link", ["symbolic", "copy"])
def test_other_ways_into_the_tree(link: str, fixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    chosen = ["--link", link, "--only", "extension", "--workers", "1"]
    assert run("fix", fixed / "set", "--out", out, *chosen) == ExitCode.OK
    for row in ledger_of(out).values():
        new = out / str(row["output_path"])
        assert new.is_symlink() == (link == "symbolic" and row["role"] != "table")
        assert (
            new.read_bytes() == (fixed / "set" / str(row["path"])).read_bytes()
            or row["changed_names"]
        )
        assert not os.path.samefile(new, fixed / "set" / str(row["path"])) or new.is_symlink()


def test_the_printed_audit_reads_the_tree_as_the_data_set_was_read(
    fixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    chosen = ["--link", "symbolic", "--workers", "1"]
    assert run("fix", fixed / "set", "--out", out, *chosen) == ExitCode.OK
    [printed] = [line for line in capsys.readouterr().err.splitlines() if "next: " in line]
    words = shlex.split(printed.partition("next: ")[2])
    assert words[:3] == ["histoprep", "audit", str(out)]
    assert "--follow-links" in words
    assert run(*words[1:], "--exit-zero", "--workers", "1") == ExitCode.OK
    assert tiles_of(tmp_path / "out.histoprep") == tiles_of(fixed / "set.histoprep")


def test_a_trial_says_what_would_be_done_and_writes_nothing(
    fixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    chosen = ["--specks", "64", "--also", "orientation", "--workers", "1"]
    assert run("fix", fixed / "set", "--out", out, *chosen, "--dry-run") == ExitCode.OK
    tried, said = capsys.readouterr()
    assert "nothing was written" in tried
    assert "dataset.csv: 2 names of renamed files would be changed" in said
    assert "28 files would be" in tried
    assert list(tmp_path.iterdir()) == []
    assert run("fix", fixed / "set", "--out", out, *chosen) == ExitCode.OK
    done = capsys.readouterr().out
    # The same counts and examples.
    assert tried.splitlines()[:-1] == done.splitlines()[:-1]


def test_the_same_command_again_changes_nothing_and_another_is_refused(
    fixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = fixed / "out"
    before = results(out)
    chosen = ["--specks", "64", "--also", "orientation", "--workers", "1"]
    assert run("fix", fixed / "set", "--out", out, *chosen) == ExitCode.OK
    assert "nothing had changed" in capsys.readouterr().err
    assert results(out) == before
    assert run("verify", out) == ExitCode.OK
    assert run("fix", fixed / "set", "--out", out, "--workers", "1") == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "made with other settings: operations" in said
    assert "seen: operations extension,metadata,orientation,plain,repaired,specks=64" in said
    assert f"{out}-2 --only extension,metadata,plain,repaired" in said
    assert results(out) == before


def test_bytes_do_not_depend_on_workers(fixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    chosen = ["--specks", "64", "--also", "orientation", "--workers", "2"]
    assert run("fix", fixed / "set", "--out", out, *chosen) == ExitCode.OK
    assert results(out) == results(fixed / "out")


def test_a_fixed_tree_can_be_fixed_again(fixed: Path, tmp_path: Path) -> None:
    audit(fixed / "out", group_by="csv:slide", workers=1)
    again = tmp_path / "again"
    assert run("fix", fixed / "out", "--out", again, "--workers", "1") == ExitCode.OK
    rows = ledger_of(again)
    assert rows.keys() == {str(row["output_path"]) for row in ledger_of(fixed / "out").values()}
    assert not [row for row in rows.values() if row["operations"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "sharpen"], "no such operation"),
        (["--only", "HP999"], "no such operation"),
        (["--only", "metadata=5"], "takes no value"),
        (["--also", "specks=-3"], "number of pixels"),
        (["--also", "orientation=left"], "apply or drop"),
        (["--only", "specks", "--without", "specks"], "no operation is left"),
    ],
)
def test_wrong_choices_are_refused_before_anything_is_written(
    arguments: list[str],
    words: str,
    fixed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert run("fix", fixed / "set", "--out", out, *arguments) == ExitCode.USAGE
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_tree_inside_of_the_data_set_is_refused(
    fixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in (fixed / "set" / "fixed", fixed, fixed / "set"):
        assert run("fix", fixed / "set", "--out", out) == ExitCode.USAGE
    assert "corrected copies" in capsys.readouterr().err


def test_without_a_folder_the_command_with_one_is_printed(
    fixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fix", fixed / "set") == ExitCode.USAGE
    printed = capsys.readouterr().err
    assert f"histoprep fix {fixed / 'set'} --out {fixed / 'set'}-fixed --dry-run" in printed


def test_operations_are_chosen_by_name_and_by_code() -> None:
    assert list(choose_operations()) == ["repaired", "plain", "metadata", "extension"]
    assert choose_operations(["HP408=9", "metadata"]) == {"specks": "9", "metadata": ""}
    assert choose_operations([], ["specks=5"], ["HP403", "plain"]) == {
        "specks": "5",
        "metadata": "",
        "extension": "",
    }
    assert list(choose_operations(["HP413"])) == ["plain", "orientation"]


def test_the_list_of_operations_names_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fix", "--list") == ExitCode.OK
    printed = capsys.readouterr().out
    for operation in OPERATIONS:
        assert operation.name in printed
        assert operation.codes[0] in printed


def test_images_of_the_sample_differ() -> None:
    assert len({tissue(number).tobytes() for number in range(13)}) == 13
