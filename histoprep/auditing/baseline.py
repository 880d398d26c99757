"""Findings that were accepted: a file that lists them, so that only new ones fail."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import compress
from pathlib import Path

from histoprep.durable import write_json
from histoprep.errors import UsageError
from histoprep.findings import Finding

_FORMAT = "histoprep-baseline"
_VERSION = 1

Accepted = frozenset[tuple[str, str, str]]


def write_baseline(path: Path, found: Iterable[Finding]) -> int:
    """Accept everything in `found` and return how many entries were written."""
    groups: dict[str, list[str]] = {}
    for entry in found:
        groups.setdefault(f"{entry.code} {entry.subcode}".strip(), []).extend(entry.paths)
    accepted = {key: sorted(set(paths)) for key, paths in groups.items()}
    write_json(path, {"format": _FORMAT, "version": _VERSION, "accepted": accepted})
    return sum(len(paths) for paths in accepted.values())


def read_baseline(path: Path) -> Accepted:
    """Return (code, subcode, path) of everything accepted; raises UsageError when the file is no
    baseline.
    """
    if path.exists() and not path.is_file():
        raise UsageError(
            "the baseline is no regular file",
            path=path,
            hint="write one with --write-baseline FILE",
        )
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["format"] != _FORMAT or content["version"] != _VERSION:
            raise ValueError(f"{content['format']} version {content['version']}")
        entries = [(key.partition(" "), paths) for key, paths in content["accepted"].items()]
        return frozenset(
            (code, subcode, path) for (code, _, subcode), paths in entries for path in paths
        )
    except OSError as error:
        raise UsageError(
            f"the baseline cannot be read: {error.strerror}",
            path=path,
            hint="write one with --write-baseline FILE",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            "the file is no baseline",
            path=path,
            seen=str(error)[:200],
            expected=f"{_FORMAT} version {_VERSION}",
        ) from error


def apply_baseline(found: Iterable[Finding], accepted: Accepted) -> list[Finding]:
    """Return the findings with the accepted entries of each set apart, marked as known."""
    if not accepted:
        return list(found)
    result = []
    for problem in found:
        is_known = [(problem.code, problem.subcode, path) in accepted for path in problem.paths]
        result += [
            part
            for part in (
                _part(problem, is_known, known=False),
                _part(problem, is_known, known=True),
            )
            if part.count
        ]
    return result


def _part(whole: Finding, is_known: list[bool], *, known: bool) -> Finding:
    kept = [flag is known for flag in is_known]
    paths, details = (tuple(compress(values, kept)) for values in (whole.paths, whole.details))
    return replace(whole, count=len(paths), paths=paths, details=details, known=known)
