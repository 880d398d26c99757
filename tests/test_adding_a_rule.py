"""docs/adding-a-rule.md: a rule of another package is one like every other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from audit_cases import DataSet
from extending import Installed, install_example


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install_example("adding-a-rule.md", tmp_path_factory.mktemp("lab"))


@pytest.fixture
def dark(tmp_path: Path) -> Path:
    data = DataSet(tmp_path / "dark")
    data.image("night.png", np.full((96, 96, 3), 9, np.uint8))
    data.image("day.png")
    return data.root


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    data = DataSet(tmp_path / "clean")
    data.image("day.png")
    return data.root


def codes(package: Installed, root: Path, *arguments: str) -> dict[str, list[str]]:
    """Return the paths of each code in the JSON report."""
    output = root.with_suffix(".json")
    done = package.histoprep(
        "audit", str(root), "--format", "json", "--output", str(output), "--exit-zero", *arguments
    )
    assert done.returncode == 0, done.stderr
    findings = json.loads(output.read_text("utf-8"))["findings"]
    return {
        finding["code"]: [example["path"] for example in finding["examples"]]
        for finding in findings
    }


@pytest.mark.slow
def test_it_is_listed_and_explained_among_the_others(package: Installed) -> None:
    listed = json.loads(package.histoprep("rules", "--json").stdout)
    [own] = [rule for rule in listed if rule["code"] == "LAB301"]
    assert (own["name"], own["severity"]) == ("dark-image", "warning")
    assert "exposure too short" in package.histoprep("explain", "dark-image").stdout


@pytest.mark.slow
def test_it_is_found_where_it_is_and_only_there(
    package: Installed, dark: Path, clean: Path
) -> None:
    assert codes(package, dark)["LAB301"] == ["night.png"]
    assert "LAB301" not in codes(package, clean)


@pytest.mark.slow
def test_it_is_selected_ignored_and_graded_by_code_and_name(package: Installed, dark: Path) -> None:
    assert set(codes(package, dark, "--select", "LAB")) == {"LAB301"}
    assert "LAB301" not in codes(package, dark, "--ignore", "dark-image")
    done = package.histoprep("audit", str(dark), "--select", "LAB301")
    assert done.returncode == 0
    done = package.histoprep("audit", str(dark), "--select", "LAB301", "--severity", "LAB301=error")
    assert done.returncode == 1


@pytest.mark.slow
def test_another_version_of_the_rule_audits_again(tmp_path: Path, dark: Path) -> None:
    (tmp_path / "lab").mkdir()
    package = install_example("adding-a-rule.md", tmp_path / "lab")
    assert "LAB301" in package.histoprep("audit", str(dark)).stdout
    module = package.folder / "lab_rules.py"
    module.write_text(module.read_text().replace("MIN_LUMINANCE = 30", "MIN_LUMINANCE = 5"))
    assert "LAB301" not in package.histoprep("audit", str(dark)).stdout


def test_a_package_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    package = install_example("adding-a-rule.md", tmp_path)
    (tmp_path / "lab_rules.py").write_text("import no_such_module")
    done = package.histoprep("rules")
    assert done.returncode == 2
    assert "lab-rules" in done.stderr and "no_such_module" in done.stderr


def test_a_package_cannot_take_a_code_of_histoprep(tmp_path: Path) -> None:
    package = install_example("adding-a-rule.md", tmp_path)
    module = tmp_path / "lab_rules.py"
    module.write_text(module.read_text().replace('"LAB301"', '"HP401"'))
    done = package.histoprep("rules")
    assert done.returncode == 2
    assert "HP401 dark-image" in done.stderr and "HP401 size-mismatch" in done.stderr
