"""Files that steer later commands: what was written comes back, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from histoprep.errors import ExitCode, IntegrityError
from histoprep.sealed_json import read_sealed_json, write_sealed_json

CONTENT = {
    "group_by": r"slide\d+",
    "text": "é\udc80",
    "number": 1.5,
    "none": None,
    "list": [1, True],
}


def read(path: Path, **chosen: object) -> dict[str, object]:
    return read_sealed_json(
        path, **({"kind": "options", "version": 1, "hint": "do it again"} | chosen)
    )  # type: ignore[arg-type]


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    write_sealed_json(tmp_path / "a.json", CONTENT, kind="options", version=1)
    assert read(tmp_path / "a.json") == CONTENT


def test_any_flipped_bit_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed_json(path, {"scale": 1.6, "name": "x"}, kind="options", version=1)
    whole = path.read_bytes()
    unchanged = json.loads(whole)
    for index in range(len(whole)):
        for bit in (1, 64):
            path.write_bytes(whole[:index] + bytes([whole[index] ^ bit]) + whole[index + 1 :])
            try:
                same = json.loads(path.read_text("utf-8", "surrogateescape")) == unchanged
            except ValueError:
                same = False
            if same:  # white space only
                continue
            with pytest.raises(IntegrityError) as caught:
                read(path)
            assert caught.value.exit_code == ExitCode.INTEGRITY
            assert (caught.value.path, caught.value.hint) == (str(path), "do it again")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b"1",
        b"{}",
        b"\xff",
        b'{"kind": "options", "version": 1, "content": 3, "digest": ""}',
    ],
)
def test_what_is_no_such_file_is_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(IntegrityError):
        read(tmp_path / "a.json")


def test_another_kind_or_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed_json(path, CONTENT, kind="options", version=1)
    with pytest.raises(IntegrityError) as caught:
        read(path, version=2)
    assert (caught.value.seen, caught.value.expected) == ("options 1", "options 2")
    with pytest.raises(IntegrityError):
        read(path, kind="plan")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.json")
