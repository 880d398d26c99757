"""Folders and files that may not be read or written, for a user who is subject to permissions (root
is not).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from audit_cases import DataSet

from faults.running import Stage, Zygote, every_file, results
from histoprep.errors import ExitCode

# Root without the capabilities that make permissions void: a user like any other where files of
# root are concerned.
_NO_OVERRIDE = "-dac_override,-dac_read_search"
_LIKE_A_USER = ("setpriv", "--bounding-set", _NO_OVERRIDE, "--inh-caps", _NO_OVERRIDE)


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Yield a zygote whose runs and workers are subject to permissions."""
    prefix = _LIKE_A_USER if os.geteuid() == 0 else ()
    if prefix and (
        not shutil.which("setpriv")
        or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("root cannot be made subject to permissions here (setpriv)")
    started = Zygote(tmp_path_factory.mktemp("user"), prefix)
    yield started
    started.close()


@pytest.fixture
def own(demo: Path, tmp_path: Path) -> Iterator[Stage]:
    """Yield a copy of the data set, half of it in a folder, whose modes a test may change."""
    root = tmp_path / "own"
    shutil.copytree(demo, root)
    (root / "more").mkdir()
    for path in sorted(root.glob("slide0[4-9]*")):
        path.rename(root / "more" / path.name)
    stage = Stage(root, tmp_path / "workspace")
    yield stage
    for path in [root, *root.rglob("*"), stage.workspace]:
        if path.exists():
            path.chmod(0o755)


def audit(stage: Stage, *more: str) -> list[str]:
    return ["audit", str(stage.data), "--workspace", str(stage.workspace), "--workers", "1", *more]


def paths(stage: Stage, subcode: str) -> set[str]:
    rows = pq.read_table(stage.workspace / "findings.parquet").to_pylist()
    return {row["path"] for row in rows if row["code"] == "HP201" and row["subcode"] == subcode}


def test_permissions_are_felt_control(user: Zygote, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0)
    prefix = _LIKE_A_USER if os.geteuid() == 0 else ()
    assert (
        subprocess.run([*prefix, "cat", secret], check=False, capture_output=True).returncode != 0
    )


def test_a_read_only_data_set_is_audited_elsewhere(user: Zygote, own: Stage) -> None:
    for path in [own.data, *own.data.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = every_file(own.data)
    assert user.run(audit(own)).code == ExitCode.FINDINGS
    assert every_file(own.data) == before


def test_a_workspace_that_cannot_be_made_is_exit_4(user: Zygote, own: Stage) -> None:
    parent = own.data.parent
    parent.chmod(0o555)
    try:
        outcome = user.run(["audit", str(own.data)])
    finally:
        parent.chmod(0o755)
    assert outcome.code == ExitCode.OUTPUT
    assert (
        f"{own.data}.histoprep" in outcome.stderr
        and "Permission denied" in outcome.stderr
        and "--workspace" in outcome.stderr
    )


@pytest.mark.parametrize("command", ["audit", "stats", "manifest", "remap"])
def test_a_read_only_workspace_is_exit_4(command: str, user: Zygote, own: Stage) -> None:
    assert user.run(audit(own)).code == ExitCode.FINDINGS
    own.workspace.chmod(0o555)
    before = _but_lock(own.workspace)
    more = {
        "remap": ["--map", "label_map_5", "--on-unmapped", "unknown"],
        "audit": ["--min-area", "99"],
    }.get(command, [])
    outcome = user.run([command, str(own.data), "--workspace", str(own.workspace), *more])
    assert outcome.code == ExitCode.OUTPUT, outcome.stderr
    assert str(own.workspace) in outcome.stderr and "Permission denied" in outcome.stderr
    assert _but_lock(own.workspace) == before


def _but_lock(folder: Path) -> dict[str, str]:
    return {name: value for name, value in every_file(folder).items() if name != ".lock"}


def test_unreadable_files_are_findings_until_they_can_be_read(user: Zygote, own: Stage) -> None:
    assert user.run(audit(own)).code == ExitCode.FINDINGS
    expected = results(own.workspace)
    own.reset()
    image, mask = (
        sorted(own.data.glob("*.jpg"))[2],
        sorted((own.data / "more").glob("*_mask.png"))[1],
    )
    for path in (image, mask):
        path.chmod(0)
    outcome = user.run(audit(own))
    assert outcome.code == ExitCode.INCOMPLETE, outcome.stderr
    assert paths(own, "permission") == {str(path.relative_to(own.data)) for path in (image, mask)}
    for path in (image, mask):
        path.chmod(0o644)
    # Neither size nor time of the files has changed.
    assert user.run(audit(own)).code == ExitCode.FINDINGS
    assert results(own.workspace) == expected


def test_an_unreadable_folder_is_a_finding_until_it_can_be_read(user: Zygote, own: Stage) -> None:
    assert user.run(audit(own)).code == ExitCode.FINDINGS
    expected = results(own.workspace)
    own.reset()
    (own.data / "more").chmod(0)
    outcome = user.run(audit(own))
    assert outcome.code == ExitCode.INCOMPLETE, outcome.stderr
    assert paths(own, "folder") == {"more/"}
    (own.data / "more").chmod(0o755)
    assert user.run(audit(own)).code == ExitCode.FINDINGS
    assert results(own.workspace) == expected


@pytest.fixture
def clean(tmp_path: Path) -> Iterator[Stage]:
    """Yield a data set without a fault, with folders whose modes a test may change."""
    data = DataSet(tmp_path / "clean")
    data.pairs(4)
    for number in range(12):
        data.pair(f"slide{number:02}/tile")
    yield Stage(data.root, tmp_path / "workspace")
    for path in data.root.iterdir():
        path.chmod(0o755)


@pytest.mark.parametrize("command", ["repair", "remap", "manifest", "stats"])
def test_no_command_passes_over_an_unreadable_folder(
    command: str, user: Zygote, clean: Stage
) -> None:
    more = {"remap": ["--map", "label_map_5", "--force"]}.get(command, [])
    arguments = [
        command,
        str(clean.data),
        "--workspace",
        str(clean.workspace),
        "--workers",
        "1",
        *more,
    ]
    (clean.data / "slide03").chmod(0)
    outcome = user.run(arguments)
    assert outcome.code == ExitCode.INCOMPLETE, outcome.stderr
    output = " ".join(outcome.stderr.split())
    assert (
        "warning: slide03/: folder cannot be listed: Permission denied; what is in it is left out"
        in output
        and "lists all folders" not in output
    )
    for path in clean.data.glob("slide*"):
        path.chmod(0)
    output = " ".join(user.run(arguments).stderr.split())
    assert (
        output.count("folder cannot be listed") == 10
        and "and 2 more; histoprep audit lists all folders" in output
    )
    for path in clean.data.glob("slide*"):
        path.chmod(0o755)
    outcome = user.run(arguments)
    assert outcome.code == ExitCode.OK and "cannot be listed" not in outcome.stderr, outcome.stderr


def test_a_folder_that_can_be_listed_and_not_entered(user: Zygote, own: Stage) -> None:
    (own.data / "more").chmod(0o444)
    outcome = user.run(audit(own))
    assert outcome.code == ExitCode.INCOMPLETE, outcome.stderr + outcome.stdout
    assert "Traceback" not in outcome.stderr


def test_an_unreadable_split_folder_is_a_finding(user: Zygote, own: Stage) -> None:
    (own.data / "more").rename(own.data / "train")
    (own.data / "train").chmod(0)
    outcome = user.run(audit(own))
    assert outcome.code == ExitCode.INCOMPLETE, outcome.stderr
    assert paths(own, "folder") == {"train/"}


def test_an_unreadable_root_is_said_plainly(user: Zygote, own: Stage) -> None:
    own.data.chmod(0)
    outcome = user.run(audit(own))
    assert outcome.code in (ExitCode.USAGE, ExitCode.INCOMPLETE), outcome.stderr
    assert str(own.data) in outcome.stderr and "cannot write" not in outcome.stderr
    assert "not readable" in outcome.stderr or "Permission denied" in outcome.stderr
