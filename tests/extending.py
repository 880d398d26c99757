"""The examples of docs/adding-*.md, installed as a package of somebody else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from documentation import ROOT

_FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
RUN = "from histoprep.cli import main; main()"


@dataclass(frozen=True)
class Installed:
    """The folder that Python finds the package in."""

    folder: Path

    def histoprep(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a process that sees the package."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        return subprocess.run(
            [sys.executable, "-c", RUN, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


def install_example(page: str, folder: Path) -> Installed:
    """Write the files of a page and the metadata that an installer makes of its pyproject.toml."""
    files = dict(_FILE.findall((ROOT / "docs" / page).read_text("utf-8")))
    project = tomllib.loads(files.pop("pyproject.toml"))["project"]
    for name, text in files.items():
        (folder / name).write_text(text)
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return Installed(folder)
