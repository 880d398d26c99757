"""`histoprep repair` in a user's hands: what it prints, writes and exits with."""

from __future__ import annotations

import re
from pathlib import Path

import lossy_masks as made
import pytest
from audit_cases import DataSet

from histoprep.cli import run
from histoprep.errors import ExitCode

NUM_MASKS = 31


def make_set(root: Path, quality: int | None) -> Path:
    data = DataSet(root)
    data.image("only.jpg")
    for index in range(NUM_MASKS):
        truth = made.regions(index)
        data.mask(
            f"slide/{index:02}_mask.png", truth if quality is None else made.jpeg(truth, quality)
        )
    return root


@pytest.mark.slow
def test_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_set(tmp_path / "set", 90)
    assert run(["repair", str(root), "--dry-run", "--workers", "1"]) == ExitCode.OK
    printed = capsys.readouterr()
    assert "31 masks would be repaired, 0 cannot be | nothing was written" in printed.out
    assert "jpeg-history" in printed.out
    assert not (tmp_path / "set.histoprep" / "repaired").exists()
    assert run(["repair", str(root), "--dry-run", "--diff", "--workers", "1"]) == ExitCode.OK
    assert (tmp_path / "set.histoprep" / "repair-preview.png").exists()
    assert "preview" in capsys.readouterr().err

    assert run(["repair", str(root), "--workers", "1"]) == ExitCode.OK
    printed = capsys.readouterr()
    out = tmp_path / "set.histoprep" / "repaired"
    assert "31 masks repaired, 0 not" in printed.out
    assert f"before and after: {out / 'contact-sheets' / 'most-changed.png'}" in printed.err
    assert run(["repair", str(root), "--workers", "1"]) == ExitCode.OK
    assert "nothing had changed" in capsys.readouterr().err
    # The files are what they were, and the audit says so; what is made from them is sound, so that
    # it fails no more.
    capsys.readouterr()
    assert run(["audit", str(root), "--workers", "1", "--select", "HP403"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith(
        "info    HP403 lossy-mask (jpeg-history): 31 of 31 masks"
    )


@pytest.mark.slow
def test_the_page_shows_repaired_masks(tmp_path: Path) -> None:
    root = make_set(tmp_path / "set", 90)
    assert run(["repair", str(root), "--workers", "1"]) == ExitCode.OK
    assert run(["audit", str(root), "--workers", "1"]) == ExitCode.FINDINGS
    page = (tmp_path / "set.histoprep" / "report.html").read_text()
    assert "HP408" in page, "specks that repair left are marked in what it left"
    shown = {
        int(label)
        for legend in re.findall('<ul class="legend".*?</ul>', page)
        for label in re.findall("<bdi>label ([0-9]+)", legend)
    }
    assert shown
    assert shown <= {int(label) for index in range(NUM_MASKS) for label in made.regions(index).flat}


def test_what_cannot_be_repaired_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_set(tmp_path / "set", 60)
    assert (
        run(["repair", str(root), "--out", str(tmp_path / "out"), "--workers", "1"])
        == ExitCode.INCOMPLETE
    )
    printed = capsys.readouterr()
    assert "not repaired: slide/00_mask.png: HP403 below-75: JPEG quality 60" in printed.err
    assert "and 21 more; all are in" in printed.err
    assert "0 masks repaired, 31 not" in printed.out
    assert run(["repair", str(root), "--dry-run", "--workers", "1"]) == ExitCode.INCOMPLETE


def test_a_clean_set_needs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_set(tmp_path / "set", None)
    assert (
        run(["repair", str(root), "--out", str(tmp_path / "out"), "--workers", "1"]) == ExitCode.OK
    )
    assert "0 masks to repair" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rule", "HP405"], "no such rule to repair"),
        (["--min-confidence", "2"], "is a share"),
        (["--out", "{root}/inside"], "must not mix"),
    ],
)
def test_wrong_use_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    root = make_set(tmp_path / "set", None)
    assert (
        run(
            [
                "repair",
                str(root),
                "--workers",
                "1",
                *(argument.format(root=root) for argument in arguments),
            ]
        )
        == ExitCode.USAGE
    )
    assert message in capsys.readouterr().err


def test_rules_are_case_blind_and_may_be_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_set(tmp_path / "set", 80)
    assert (
        run(["repair", str(root), "--rule", "hp403,HP404", "--dry-run", "--workers", "1"])
        == ExitCode.OK
    )
    assert "31 masks would be repaired" in capsys.readouterr().out
    assert run(["repair", str(root), "--rule", "HP404", "--workers", "1"]) == ExitCode.OK
    assert "0 masks to repair" in capsys.readouterr().out
