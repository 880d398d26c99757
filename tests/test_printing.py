"""Whatever a file is called: nothing that is printed moves a cursor, forges a line or is a command
to a CI runner.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histoprep import console
from histoprep.cli import run
from histoprep.errors import ExitCode, UsageError
from histoprep.visible import harmless, visible

NAMES = [
    "\n::error file=x::forged",
    "\r::add-mask::x",
    " ##[error]forged",
    "\x1b[2J\x1b[31mred",
    "\u202egnp.exe",
    "a\u2028b",
    "tab\there",
    "\x07bell",
    "\x9b31m",
    "=1+1",
    "::stop-commands::pause",
]


def check(text: str) -> None:
    """Fail when a terminal or a runner would do something with the text."""
    for line in text.split("\n"):
        odd = [
            sign for sign in line if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp", "Cf")
        ]
        assert not odd, (odd, line)
        assert not line.lstrip().startswith("::"), line
        assert "##[" not in line, line


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return tiles with such names, of which some are broken, orphans or called in two ways."""
    data = tmp_path / "data"
    data.mkdir()
    for index, name in enumerate(NAMES):
        pixels = np.random.default_rng(index).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        mask = np.zeros((32, 32), np.uint8)
        mask[4:20, 4:20] = index % 4
        Image.fromarray(pixels).save(data / f"{name}.png")
        Image.fromarray(mask).save(data / f"{name}_mask.png")
        Image.fromarray(mask).save(data / f"orphan{name}_mask.png")
        (data / f"broken{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        (data / f"other{name}.txt").write_text("x")
    return data


def test_names_in_everything_that_commands_print(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    space = root.with_name("data.histoprep")
    commands = [
        *(
            ["audit", str(root), "--format", name, "--fail-on", "never"]
            for name in ("text", "markdown", "json", "sarif", "junit")
        ),
        ["stats", str(root)],
        ["stats", str(root), "--format", "csv"],
        ["manifest", str(root), "--group-by", "[^0-9]+"],
        ["manifest", "show", str(space / "manifest.parquet")],
        ["remap", str(root), "--map", "label_map_5"],
        ["shard", str(space / "manifest.parquet")],
        ["shard", "verify", str(space / "shards")],
        ["shard", "info", str(space / "shards")],
    ]
    for command in commands:
        assert run([*command]) in (ExitCode.OK, ExitCode.INCOMPLETE), command
        check("".join(capfd.readouterr()))
    for name in NAMES:
        (root / f"{name}.png").unlink()
    assert run(["manifest", "check", str(space / "manifest.parquet")]) == ExitCode.FINDINGS
    check("".join(capfd.readouterr()))
    assert (
        run(["shard", str(space / "manifest.parquet"), "--out", str(space / "again")])
        != ExitCode.OK
    )
    check("".join(capfd.readouterr()))


@pytest.mark.parametrize("name", NAMES)
def test_names_in_errors(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    commands = [
        ["audit", str(tmp_path / name)],
        ["audit", str(tmp_path), f"--{name}"],
        ["audit", str(tmp_path), "--tile-size", name],
        ["audit", str(tmp_path), "--group-by", f"({name}"],
        ["remap", str(tmp_path), "--map", name],
        ["manifest", "show", str(tmp_path / name)],
        ["explain", name],
        [name],
    ]
    for command in commands:
        assert run(command) == ExitCode.USAGE, command
        text = "".join(capfd.readouterr())
        assert text
        check(text)


@pytest.mark.parametrize("name", NAMES)
def test_every_way_to_print(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for show in (console.out, console.note, console.warn, console.error, console.block):
        if show not in (console.error, console.block) or "\n" not in name:
            show(name)
    console.table([name, "b"], [(name, 1)], title=name)
    console.error(
        str(UsageError(name, path=name, seen=name, expected=name, hint=name, details=[name, name]))
    )
    captured = capsys.readouterr()
    check(captured.out)
    check(captured.err)


def test_a_report_for_the_runner_stays_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The control of `harmless`: where commands are wanted, they are there."""
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "lonely_mask.png")
    assert (
        run(
            [
                "audit",
                str(tmp_path),
                "--workspace",
                str(tmp_path.with_name("ws")),
                "--format",
                "github",
            ]
        )
        == ExitCode.FINDINGS
    )
    assert any(line.startswith("::error ") for line in capfd.readouterr().out.split("\n"))


def test_what_is_harmless_stays_as_it_is() -> None:
    for text in ("std::vector", "a\nb", "# heading", "10:20::30", "é ü 中"):
        assert harmless(visible(text, keep="\n")) == text
    assert harmless("x\n  ::error::y") == "x\n  \\x3a:error::y"
    assert harmless("##[group]a") == "#\\x23[group]a"
