"""Advice as users take it: its commands are parsed by the real programs."""

from __future__ import annotations

import re
import shlex
from typing import Any

import typer

import histoprep.cli
import trainer.cli
from histoprep.catalogue import all_rules
from histoprep.cli.options import separated
from histoprep.command_style import Group
from histoprep.fixing import choose_operations

PROGRAMS = {
    "histoprep": histoprep.cli._LINE._command(),
    "trainer": trainer.cli._LINE._command(),
}
# Commands stand at the beginning, or behind a colon, a semicolon or a comma.
_START = re.compile(r"(?:^|(?<=[:;,] )|(?<=or ))(?=(?:histoprep|trainer) )")
_END = re.compile(r"[;,] or\b.*$|[;,] $| \(\d.*$| \([^()]*: \d.*$", re.DOTALL)
_NONE = re.compile(r"\bno command (can|is needed)\b", re.IGNORECASE)


def commands_in(advice: str) -> list[str]:
    """Return the commands of an advice, without what stands behind them."""
    pieces = _START.split(advice)[1:]
    return [_END.sub("", piece).strip() for piece in pieces]


def problems_of(advice: str) -> list[str]:
    """Return what is wrong with an advice: it neither ends in commands nor says that none can help,
    or a command does not exist.
    """
    commands = commands_in(advice)
    if not commands and not _NONE.search(advice):
        return ["it has no command, and does not say that none can help"]
    wrong = [f"{command}: {fault}" for command in commands if (fault := fault_of(command))]
    if re.search(r"\b(delete|remove)\b", advice, re.IGNORECASE):
        wrong.append("it advises to delete something")
    return wrong


def fault_of(command: str) -> str:
    """Return what the program says against a command line, "" for nothing."""
    try:
        name, *words = shlex.split(command)
        _parse(PROGRAMS[name], words)
    except Exception as error:  # noqa: BLE001 (any reason is a fault)
        return f"{type(error).__name__}: {error}"
    return ""


def _parse(command: Any, words: list[str]) -> None:
    """Raise what the program would raise for these words; the command itself is not run."""
    if words[-1:] == ["--help"]:
        words = words[:-1]
        for word in words:
            command = command.get_command(None, word)
        assert command is not None, f"no command {words}"
        return
    while isinstance(command, Group):
        found = command.get_command(typer.Context(command), words[0]) if words else None
        if found is None:
            assert command.default, f"no command {words[:1]}"
            command = command.commands[command.default]
        else:
            command, words = found, words[1:]
    context = command.make_context("command", words)
    _check_values(context.params)


def _check_values(values: dict[str, Any]) -> None:
    """Check values that only the commands themselves look at."""
    rules = all_rules()
    for code in separated(values.get("exclude")):
        assert rules[code].scope == "tile", f"{code} names no tiles"
    if "without" in values:
        chosen = (separated(values[name]) for name in ("only", "also", "without"))
        choose_operations(*chosen)
        assert values["out"] is not None, "no folder"
