"""The doctor: what it says of this machine, and that it sees what is planted in its way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from histoprep import imageio
from histoprep.doctor import Check, CheckStatus
from histoprep.doctor.decoders import check_decoders
from histoprep.doctor.installation import check_foreign, check_packages
from histoprep.doctor.machine import check_space, check_writing, existing
from histoprep.errors import BrokenFileError
from histoprep.image_formats import BUILT_IN, Holds

RUN = "from histoprep.cli import main; main()"


def run_doctor(
    *arguments: str, folder: Path, path: Path | None = None, python_path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Return the finished command, with a folder in front of PATH or of Python's path."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if path:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    if python_path:
        environment["PYTHONPATH"] = str(python_path)
    command = [sys.executable, "-c", RUN, "doctor", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def checks_of(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {item["name"]: item for item in json.loads(done.stdout)["checks"]}


def add_distribution(folder: Path, name: str) -> None:
    info = folder / f"{name}-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")


@pytest.mark.slow
def test_a_planted_card_a_missing_codec_and_a_foreign_package_are_failures_with_a_fix(
    tmp_path: Path,
) -> None:
    """One run for three plants, since each asks torch: a card torch cannot use, a codec that is not
    there, a package with our name.
    """
    tools, packages = tmp_path / "tools", tmp_path / "packages"
    tools.mkdir()
    (tools / "nvidia-smi").write_text("#!/bin/sh\necho 'Planted Card, 999.1'\n")
    (tools / "nvidia-smi").chmod(0o755)
    add_distribution(packages, "trainer")
    (packages / "trainer").mkdir()
    (packages / "trainer" / "__init__.py").write_text("")
    done = run_doctor(
        "--json", "--codec", "no/such/codec", folder=tmp_path, path=tools, python_path=packages
    )
    found = checks_of(done)
    assert done.returncode == 1, done.stderr
    assert {name for name, value in found.items() if value["status"] == "fail"} >= {
        "foreign packages",
        "gpu",
        "codec",
    }
    assert "Planted Card" in found["gpu"]["detail"]
    assert (
        "trainer 9.9" in found["foreign packages"]["detail"]
        and "pip uninstall trainer" in found["foreign packages"]["fix"]
    )
    assert all(value["fix"] for value in found.values() if value["status"] != "ok")
    assert json.loads(done.stdout)["failed"] == sum(
        value["status"] == "fail" for value in found.values()
    )


@pytest.mark.slow
def test_this_machine_passes_and_every_line_is_said(tmp_path: Path) -> None:
    done = run_doctor(folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    names = (
        "python",
        "packages",
        "extra train",
        "foreign packages",
        "label maps",
        "jpeg decoder",
        "png decoder",
        "tiff decoder",
        "webp decoder",
    )
    for name in (
        *names,
        "workspace",
        "free space",
        "memory",
        "processors",
        "torch",
        "gpu",
        "codec",
    ):
        assert f" {name}: " in done.stdout, name
    assert (
        list(tmp_path.iterdir()) == []
        and not tmp_path.with_name(tmp_path.name + ".histoprep").exists()
    ), "nothing is left behind"


@pytest.mark.slow
def test_a_real_codec_is_loaded_and_described(shared_data: Path, tmp_path: Path) -> None:
    found = checks_of(
        run_doctor(
            "--json", "--codec", str(shared_data / "taesd_diffusers" / "taesd"), folder=tmp_path
        )
    )
    assert found["codec"]["status"] == "ok"
    assert "4 channels, 1/8 of the side" in found["codec"]["detail"]


@pytest.mark.parametrize("place", ["/proc/here", "/sys/here"])
def test_a_place_that_cannot_be_written_to_fails(place: str) -> None:
    # These refuse files even to root.
    [check] = check_writing(Path(place))
    assert check.status is CheckStatus.FAIL
    assert check.detail.split(": ", 1)[1] and "--workspace" in check.fix


def test_a_place_that_can_be_written_to_is_left_as_it_was(tmp_path: Path) -> None:
    [check] = check_writing(tmp_path / "not" / "yet")
    assert check.status is CheckStatus.OK
    assert existing(tmp_path / "not" / "yet") == tmp_path and list(tmp_path.iterdir()) == []


def test_the_free_space_is_that_of_the_place(tmp_path: Path) -> None:
    [check] = check_space(tmp_path / "later")
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    assert float(check.detail.split(" GB")[0].replace(",", "")) == pytest.approx(
        free / 1e9, abs=0.5
    )


def test_decoders_of_this_machine_are_right() -> None:
    found = list(check_decoders())
    assert [item.name for item in found] == [f"{known.name} decoder" for known in BUILT_IN]
    assert all(item.status is CheckStatus.OK for item in found), found


@pytest.mark.parametrize("fault", ["other pixels", "takes what is cut"])
def test_a_decoder_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    honest = imageio.decode_rgb

    def shifted(data: bytes, header: imageio.Header | None = None) -> np.ndarray:
        return np.roll(honest(data, header), 1, axis=-1)

    def lenient(data: bytes, header: imageio.Header | None = None) -> np.ndarray:
        try:
            return honest(data, header)
        except BrokenFileError:
            return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr(imageio, "decode_rgb", shifted if fault == "other pixels" else lenient)
    failed = {check.name for check in check_decoders() if check.status is CheckStatus.FAIL}
    of_images = (known for known in BUILT_IN if known.holds is Holds.IMAGES_AND_MASKS)
    assert failed == {f"{known.name} decoder" for known in of_images}


def test_another_project_with_our_name_is_a_warning_while_ours_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [item.status for item in check_foreign()] == [CheckStatus.OK]
    add_distribution(tmp_path, "HistoPrep")
    monkeypatch.syspath_prepend(str(tmp_path))
    [check] = check_foreign()
    assert check.status is CheckStatus.WARN
    assert "histoprep 9.9" in check.detail and "pip uninstall histoprep" in check.fix


def test_missing_and_old_packages_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "histoprep_diffusion-7.7.dist-info"
    info.mkdir()
    needs = [
        "no-such-package>=1",
        "numpy>=2.0",
        "pillow>=99; extra == 'fast'",
        "histoprep-diffusion[fast]; extra == 'train'",
        "torch; extra == 'train'",
    ]
    lines = [
        "Metadata-Version: 2.1",
        "Name: histoprep-diffusion",
        "Version: 7.7",
        *(f"Requires-Dist: {need}" for need in needs),
    ]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found: dict[str, Check] = {
        check_package.name: check_package for check_package in check_packages()
    }
    assert (
        found["packages"].status is CheckStatus.FAIL
        and "no-such-package" in found["packages"].detail
        and "numpy" not in found["packages"].detail
    )
    assert found["extra fast"].status is CheckStatus.WARN and "< 99" in found["extra fast"].detail
    assert found["extra train"].status is CheckStatus.OK and "torch" in found["extra train"].detail
