"""The generated parts of README.md and docs/: `python tests/documentation.py --write` renews them,
a test holds them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pyarrow as pa
from import_documentation import PARTS as IMPORT_PARTS
from layout_documentation import PARTS as LAYOUT_PARTS

from histoprep.catalogue import all_rules
from histoprep.cli import COMMANDS
from histoprep.errors import ExitCode
from histoprep.fixing import OPERATIONS
from histoprep.imageio.encodings import as_markdown
from histoprep.schemas.manifest import schema
from trainer.cli import COMMANDS as TRAINER_COMMANDS

RULES = all_rules()

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
# In the order in which their commands run.
PAGES = (
    README,
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            *(
                "index",
                "install",
                "tutorial",
                "commands",
                "findings",
                "browse",
                "label-maps",
                "mask-fit",
                "neighbours",
                "lossy-masks",
            ),
            *(
                "mask-encodings",
                "layouts",
                "importing",
                "training",
                "masks",
                "denoisers",
                "evaluation",
                "manifest",
                "shards",
                "exporting",
                "scale",
                "fixing",
                "verify",
                "speed",
            ),
            *(
                "comparison",
                "method",
                "adding-a-rule",
                "adding-a-format",
                "adding-a-denoiser",
                "api",
            ),
        )
    ),
)
SPEED = ROOT / "benchmarks" / "results.md"
AUDIT_SPEED = ROOT / "benchmarks" / "audit-results.md"
LOADERS = ROOT / "benchmarks" / "loaders-results.md"
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


def operations_table() -> str:
    """Return the operations of `histoprep fix`."""
    rows = [
        f"| `{operation.name}{operation.value and '='}{operation.value.replace('|', ' or ')}` |"
        f" {', '.join(operation.codes)} | {'yes' if operation.is_default else 'no'} |"
        f" {operation.does} |"
        for operation in OPERATIONS
    ]
    head = ["| operation | findings | by default | files are |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def exit_codes_table() -> str:
    """Return the exit codes and what they mean."""
    rows = [f"| {int(code)} | {_EXIT_MEANINGS[code]} |" for code in ExitCode]
    return "\n".join(["| code | meaning |", "|---|---|", *rows]) + "\n"


def speed_table() -> str:
    """Return the table that the benchmark wrote last."""
    return SPEED.read_text("utf-8") if SPEED.exists() else "Not measured yet.\n"


def audit_speed_table() -> str:
    """Return the table that the benchmark of the audit wrote last."""
    return AUDIT_SPEED.read_text("utf-8")


def loaders_tables() -> str:
    """Return what the benchmark of loaders measured last, from the machine on."""
    return LOADERS.read_text("utf-8").split("\n\n", 3)[3].replace("\n## ", "\n### ")


def manifest_columns_table() -> str:
    """Return the columns of a manifest, with type and meaning."""
    rows = [
        f"| `{field.name}` | {_type_name(field.type)} | {field.metadata[b'meaning'].decode()} |"
        for field in schema(num_classes=1)
    ]
    return "\n".join(["| column | type | meaning |", "|---|---|---|", *rows]) + "\n"


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"list of {kind.value_type}"
    return str(kind)


PARTS = {
    "findings": findings_table,
    "commands": commands_table,
    "operations": operations_table,
    "exit codes": exit_codes_table,
    "encodings": as_markdown,
    "speed": speed_table,
    "audit speed": audit_speed_table,
    "loaders": loaders_tables,
    "manifest columns": manifest_columns_table,
    **IMPORT_PARTS,
    **LAYOUT_PARTS,
}


def renewed(text: str) -> str:
    """Return `text` with every generated block written again."""
    return _BLOCK.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n{match[4]}", text)


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
    for page in PAGES:
        page.write_text(renewed(page.read_text("utf-8")), "utf-8")
