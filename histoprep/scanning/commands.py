"""The commands that advice about a layout names, as they are typed."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

from histoprep.scanning.listing import ScanOptions


def options_words(options: Mapping[str, str]) -> str:
    """Return options of the scan as they are typed: `--images HE --masks truth`."""
    return " ".join(
        f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in options.items()
    )


def scan_words(options: ScanOptions) -> list[str]:
    """Return the words of a command line that make these options of a scan."""
    words: list[str] = []
    defaults = ScanOptions()
    for option in fields(ScanOptions):
        value, usual = getattr(options, option.name), getattr(defaults, option.name)
        if value == usual or option.name == "is_inferred":
            continue
        name = f"--{option.name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(name)
        else:
            for entry in value if isinstance(value, tuple) else (value,):
                words += [name, str(entry)]
    return words


def audit_command(root: Path | str, options: Mapping[str, str]) -> str:
    """Return the command that audits a folder with these options of the scan."""
    return f"histoprep audit {shlex.quote(str(root))} {options_words(options)}".rstrip()


def pairs_command(root: Path | str, table: Path | str) -> str:
    """Return the command that audits a folder with a table of its pairs."""
    return f"histoprep audit {shlex.quote(str(root))} --pairs {shlex.quote(str(table))}"


def combine_command(root: Path | str, by: str, mask_pattern: str | None = None) -> str:
    """Return the command that makes one mask of the mask files of an image.

    Args:
        root: Folder of the images and masks.
        by: What each file is for, `class` or `instance`.
        mask_pattern: Which files are masks, where their names do not say so.
    """
    named = f" --mask-pattern {shlex.quote(mask_pattern)}" if mask_pattern else ""
    out = shlex.quote(f"{root}-combined")
    return f"histoprep import combine {shlex.quote(str(root))} --by {by}{named} --out {out}"


# Which import reads files of an extension.
_IMPORTS = {"mat": "mat", "npy": "npy-stack", "npz": "npy-stack", "geojson": "qupath"}


def import_commands(root: Path | str, extensions: Iterable[str]) -> list[str]:
    """Return the commands that make a data set of files of these extensions, for those that tell
    which of them it takes.
    """
    formats = dict.fromkeys(_IMPORTS[name] for name in extensions if name in _IMPORTS)
    out = shlex.quote(f"{root}-imported")
    return [f"histoprep import {name} {shlex.quote(str(root))} --out {out}" for name in formats]
