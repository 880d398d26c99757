"""What a check of the doctor gives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CheckStatus(StrEnum):
    """How it stands: fine, worth knowing, or in the way of the work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line: `name` of what was looked at, `detail` of what was seen, `fix` is what to do, empty
    when there is nothing to do.
    """

    name: str
    status: CheckStatus
    detail: str
    fix: str = ""
