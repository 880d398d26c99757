"""A folder that one job fills: what it refuses, and that its seal stands only while it is true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from histoprep import checksums
from histoprep.errors import IntegrityError, OutputError, UsageError
from histoprep.job_folder import PARTS, SUCCESS, JobFolder, differing_keys, own_names
from histoprep.names import to_text

REQUEST = {"root": "/data", "label_map": {"name": "five", "classes": 5}, "rules": ["HP403"]}


def job(path: Path) -> JobFolder:
    return JobFolder(path, "remap.json", "histoprep remap", "masks", "write them again")


def complete(path: Path) -> JobFolder:
    folder = job(path)
    folder.begin(REQUEST)
    (path / "result").write_text("1")
    folder.seal({"written": 1})
    return folder


def test_from_the_request_to_the_seal(tmp_path: Path) -> None:
    folder = job(tmp_path / "out")
    assert (folder.is_begun, folder.read_request(), folder.read_seal()) == (False, None, None)
    folder.begin(REQUEST)
    assert (folder.is_begun, folder.read_request(), folder.read_seal()) == (True, REQUEST, None)
    assert folder.parts.is_dir()
    folder.seal({"written": 7})
    assert folder.read_seal() == {"written": 7}
    assert not folder.parts.exists()
    assert checksums.read_checksums(folder.path).keys() == {"remap.json", SUCCESS}
    assert {path.name for path in folder.path.iterdir()} <= own_names(folder, ())


def test_beginning_again_removes_the_seal_before_anything_else_changes(tmp_path: Path) -> None:
    folder = complete(tmp_path)
    checksums.list_files(tmp_path, ["result"])
    folder.begin(REQUEST, unsealed=("result",))
    assert folder.read_seal() is None
    assert (tmp_path / "result").exists()
    assert checksums.read_checksums(tmp_path).keys() == {"remap.json"}
    complete(tmp_path).begin(REQUEST, removed=("result",))
    assert not (tmp_path / "result").exists()


@pytest.mark.parametrize("name", ["remap.json", SUCCESS])
def test_a_changed_note_is_an_error_with_a_hint(tmp_path: Path, name: str) -> None:
    folder = complete(tmp_path)
    note = tmp_path / name
    note.write_text(note.read_text().replace("1", "2").replace("5", "6"))
    with pytest.raises(IntegrityError, match="changed since it was written") as caught:
        folder.read_request() if name == "remap.json" else folder.read_seal()
    assert (caught.value.path, caught.value.hint) == (str(note), "write them again")


def test_a_request_that_is_no_object_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "remap.json").write_text("[1, 2]")
    with pytest.raises(IntegrityError, match="not a JSON object") as caught:
        job(tmp_path).read_request()
    assert caught.value.hint == "write them again"


@pytest.mark.parametrize(
    "name", ["thesis.txt", "index.parquet", "a/b", ".hidden", "_SUCCESS.json", "\udcff.png"]
)
def test_foreign_files_are_refused_and_stay(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text("mine")
    with pytest.raises(UsageError, match="histoprep remap did not make it") as caught:
        job(tmp_path).refuse_foreign_files()
    assert to_text(name.split("/", maxsplit=1)[0]) in str(caught.value.seen)
    assert place.read_text() == "mine"


def test_what_a_killed_job_leaves_is_not_foreign(tmp_path: Path) -> None:
    job(tmp_path / "missing").refuse_foreign_files()
    for name in (".lock", ".hp-states", "checksums.json", ".hp-0123456789ab.tmp"):
        (tmp_path / name).write_text("{}")
    (tmp_path / PARTS).mkdir()
    job(tmp_path).refuse_foreign_files()
    (tmp_path / "mask.png").write_text("")
    with pytest.raises(UsageError):
        job(tmp_path).refuse_foreign_files()
    # With a request whatever is there is the job's.
    (tmp_path / "remap.json").write_text("{}")
    job(tmp_path).refuse_foreign_files()


def test_another_request_is_refused_by_the_names_of_what_differs(tmp_path: Path) -> None:
    folder = complete(tmp_path)
    folder.refuse_other_request(None, REQUEST)
    folder.refuse_other_request(REQUEST, json.loads(json.dumps(REQUEST)))
    other = {**REQUEST, "label_map": {"name": "five", "classes": 6}, "palette": "grey"}
    with pytest.raises(UsageError) as caught:
        folder.refuse_other_request(REQUEST, other, words={"label_map": "label map"}, hint="no")
    error = caught.value
    assert (
        error.what
        == "this folder holds masks that were made with other settings: label map, palette"
    )
    assert error.seen == "label map five, with another content; palette none"
    assert (error.expected, error.hint) == ("label map five; palette grey", "no")


def test_keys_differ_by_value_and_by_being_there() -> None:
    assert differing_keys({"a": 1, "b": 2, "c": 3}, {"b": 2, "c": 4, "d": 5}) == ["a", "c", "d"]


def test_a_file_in_the_way_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match=r"Not a directory|File exists"):
        job(tmp_path / "out").begin(REQUEST)
