"""The generated parts of README.md and docs/: `python tests/documentation.py --write` renews them,
a test holds them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from histoprep.catalogue import RULES
from histoprep.cli import COMMANDS
from histoprep.errors import ExitCode
from histoprep.imageio.encodings import as_markdown
from trainer.cli import COMMANDS as TRAINER_COMMANDS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
ENCODINGS = ROOT / "docs" / "mask-encodings.md"
SPEED = ROOT / "benchmarks" / "results.md"
_BLOCK = re.compile(r"(<!-- generated: (.+?) -->\n)(.*?)(<!-- end generated -->)", re.DOTALL)
_EXIT_MEANINGS = {
    ExitCode.OK: "nothing at or above `--fail-on`",
    ExitCode.FINDINGS: "findings",
    ExitCode.USAGE: "an option or configuration that makes no sense",
    ExitCode.INCOMPLETE: (
        "finished, but some inputs could not be used or looked at; they are listed"
    ),
    ExitCode.OUTPUT: "the system refused to let us write",
    ExitCode.LOCKED: "another process writes to the same workspace",
    ExitCode.INTEGRITY: "a file of ours is damaged or of another version",
    ExitCode.INTERNAL: "a bug",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C; finished work was kept",
    ExitCode.TERMINATED: "stopped by SIGTERM; finished work was kept",
}


def findings_table() -> str:
    """Return the catalogue as a table."""
    rows = [
        f"| {rule.code} | {rule.name} | {rule.severity} | {rule.definition} |"
        for rule in RULES.values()
    ]
    return (
        "\n".join(["| code | name | severity | what it means |", "|---|---|---|---|", *rows]) + "\n"
    )


def commands_table() -> str:
    """Return the commands and what each does."""
    rows = [f"| `histoprep {name}` | {summary} |" for name, (_, _, summary) in COMMANDS.items()]
    rows += [
        f"| `trainer {name}` | {summary} |" for name, (_, _, summary) in TRAINER_COMMANDS.items()
    ]
    return "\n".join(["| command | what it does |", "|---|---|", *rows]) + "\n"


def exit_codes_table() -> str:
    """Return the exit codes and what they mean."""
    rows = [f"| {int(code)} | {_EXIT_MEANINGS[code]} |" for code in ExitCode]
    return "\n".join(["| code | meaning |", "|---|---|", *rows]) + "\n"


def speed_table() -> str:
    """Return the table that the benchmark wrote last."""
    return SPEED.read_text("utf-8") if SPEED.exists() else "Not measured yet.\n"


PARTS = {
    "findings": findings_table,
    "commands": commands_table,
    "exit codes": exit_codes_table,
    "speed": speed_table,
}


def renewed(text: str) -> str:
    """Return `text` with every generated block made anew."""
    parts = {**PARTS, "encodings": as_markdown}
    return _BLOCK.sub(lambda match: f"{match[1]}\n{parts[match[2]]()}\n{match[4]}", text)


def commands_in(text: str) -> list[str]:
    """Return the commands of all console blocks, without their prompts."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [
        line.removeprefix("$ ")
        for block in blocks
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/documentation.py --write")
    for page in (README, ENCODINGS):
        page.write_text(renewed(page.read_text("utf-8")), "utf-8")
