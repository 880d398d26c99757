"""The exception tree and the exit codes.

An error says that the command could not go on; something wrong in the user's
data is a `Finding` instead. Errors are raised anywhere and caught once, in the
command line, which prints the message and leaves with `exit_code`.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

from histoprep.visible import visible

ELSEWHERE = "choose another place for the results"
"""What a hint says about the place; the command line names the option that the command has."""
_REMEDIES = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or have your quota raised",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "make the file system writable",
    errno.EACCES: "get permission for it",
    errno.EPERM: "get permission for it",
    errno.ENOENT: "make the folder that is missing",
    errno.ENOTDIR: "move the file away that is in the place of a folder",
    errno.EEXIST: "move the file away that is in the place of a folder",
    errno.EISDIR: "move the folder away that is in the place of a file",
    errno.ENOTEMPTY: "move the folder away that is in the place of a file",
    errno.ENAMETOOLONG: "use shorter names of folders and files",
    errno.ELOOP: "remove the links that lead to each other",
    errno.EIO: "look for errors of the disk (dmesg)",
    errno.ESTALE: "mount the file system again",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENOMEM: "free memory",
}


class ExitCode(IntEnum):
    """What a process of ours returns; the numbers are part of the public interface."""

    OK = 0
    FINDINGS = 1
    USAGE = 2
    INCOMPLETE = 3
    OUTPUT = 4
    LOCKED = 5
    INTEGRITY = 6
    INTERNAL = 70
    INTERRUPTED = 130
    TERMINATED = 143


class Explained(BaseException):
    """What an error and a stop have in common: a message of several parts, and an exit code.

    `what` is one sentence, `details` a line each for several causes of it; `path` the file or
    folder it is about; `seen` and `expected` the two values that disagree; `hint` what the user can
    do.
    """

    exit_code = ExitCode.INTERNAL

    def __init__(
        self,
        what: str,
        *,
        path: str | Path | None = None,
        seen: object = None,
        expected: object = None,
        hint: str | None = None,
        details: Sequence[str] = (),
    ) -> None:
        super().__init__(what)
        self.what = what
        self.path = None if path is None else str(path)
        self.seen = seen
        self.expected = expected
        self.hint = hint
        self.details = tuple(details)

    def __str__(self) -> str:
        """Return the message over several lines: what, details, where, seen, expected, what to do;
        line breaks inside of these are spelled out.
        """
        rows = [
            ("at", self.path),
            ("seen", self.seen),
            ("expected", self.expected),
            ("try", self.hint),
        ]
        lines = [visible(self.what), *(f"    {visible(detail)}" for detail in self.details)]
        return "\n".join(
            [
                *lines,
                *(f"  {name}: {visible(str(value))}" for name, value in rows if value is not None),
            ]
        )

    def __reduce__(self):  # type: ignore[no-untyped-def]
        # Errors cross process borders; keyword-only fields need their own recipe.
        fields = (self.what, self.path, self.seen, self.expected, self.hint, self.details)
        return (_rebuild, (type(self), *fields))


def _rebuild(kind: type[Explained], what: str, path, seen, expected, hint, details) -> Explained:  # type: ignore[no-untyped-def]
    return kind(what, path=path, seen=seen, expected=expected, hint=hint, details=details)


class HistoprepError(Explained, Exception):
    """Base of every error that we raise on purpose."""


class UsageError(HistoprepError):
    """The command, an option or a configuration file does not make sense."""

    exit_code = ExitCode.USAGE


class LabelMapError(UsageError):
    """A label map cannot be read or contradicts itself."""


class UnmappedLabelError(UsageError):
    """Masks hold values that the label map does not list."""


class OutputError(HistoprepError):
    """The system refused to let us write (full, read-only, no permission, input/output error)."""

    exit_code = ExitCode.OUTPUT

    @classmethod
    def from_os_error(
        cls, error: OSError, path: str | Path, what: str = "cannot write"
    ) -> OutputError:
        """Return the error that names what was tried, the path, the system's own reason and what
        helps against that.
        """
        reason = error.strerror or str(error) or type(error).__name__
        remedies = [*filter(None, [_REMEDIES.get(error.errno or 0)]), ELSEWHERE]
        return cls(
            f"{what}: {reason}",
            path=path,
            hint=f"{', or '.join(remedies)}; then run the same command again",
        )


class IncompleteError(HistoprepError):
    """The command finished, but part of its input is missing or could not be used."""

    exit_code = ExitCode.INCOMPLETE


class LockedError(HistoprepError):
    """Another process holds the output folder."""

    exit_code = ExitCode.LOCKED


class IntegrityError(HistoprepError):
    """A file of ours is damaged, incomplete or of another schema."""

    exit_code = ExitCode.INTEGRITY


class Interrupted(Explained):
    """SIGINT or SIGTERM arrived.

    No error: no `except Exception`, of ours or of a library, can take it for an unreadable file or
    a failed import. No KeyboardInterrupt either: Click turns that into an exit without a message.
    """

    exit_code = ExitCode.INTERRUPTED


class Terminated(Interrupted):
    """SIGTERM, in particular."""

    exit_code = ExitCode.TERMINATED


class BrokenFileError(HistoprepError):
    """One image or mask cannot be used; becomes a finding about that file, never the end of a run.

    `verdict` is the code and subcode of the finding, such as `HP201 truncated`.
    """

    def __init__(self, verdict: str, detail: str) -> None:
        super().__init__(detail)
        self.verdict = verdict
        self.detail = detail

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (BrokenFileError, (self.verdict, self.detail))
