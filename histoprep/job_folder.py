"""A folder that one job fills: its request, what does not belong there, its parts, its seal.

Masks, shards, latents and synthetic tiles are many files that one command writes into a folder of
its own, and all of them follow the same rules. The request is written down before anything else, so
that the same command resumes and another one is refused; a folder with files that the command did
not write is refused, too. What is done waits in `.hp-parts` until everything is. The seal,
`_SUCCESS.json` unless the format has another, is written last, and removed before anything that it
vouches for may change: with it the folder is complete.

Requests and seals are listed in the checksums of the folder, so that a changed one is an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histoprep import checksums, durable
from histoprep.errors import IntegrityError, OutputError, UsageError
from histoprep.names import to_text
from histoprep.phrases import first_of

SUCCESS = "_SUCCESS.json"
PARTS = ".hp-parts"
OTHER_OUT = "choose another --out"
_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class JobFolder:
    """A folder that one job fills.

    Attributes:
        path: The folder; it need not exist yet.
        request_name: Name of the file with the request, a JSON object.
        written_by: The command that fills the folder, such as `histoprep remap`.
        content: What it holds, in the plural, such as `masks`.
        remake: What to do about a damaged request or seal.
        seal_name: Name of the file that makes the folder complete.
        results: The folder of the results, where it is not that of request and seal.
    """

    path: Path
    request_name: str
    written_by: str
    content: str
    remake: str
    seal_name: str = SUCCESS
    results: Path | None = None

    @property
    def parts(self) -> Path:
        """Return the folder of what is done while the job is not."""
        return self.path / PARTS

    @property
    def is_begun(self) -> bool:
        """Return whether a job has written its request here."""
        return (self.path / self.request_name).exists()

    def read_request(self) -> dict[str, Any] | None:
        """Return the request of the job that fills the folder, None before there is one.

        Raises:
            IntegrityError: It was changed since it was written.
        """
        return self._read(self.request_name)

    def read_seal(self) -> dict[str, Any] | None:
        """Return the content of the seal, None without one.

        Raises:
            IntegrityError: It was changed since it was written.
        """
        return self._read(self.seal_name)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            content = checksums.read_json(self.path / name, hint=self.remake)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not isinstance(content, dict):
            raise IntegrityError(
                "damaged file: not a JSON object", path=self.path / name, hint=self.remake
            )
        return content

    def refuse_foreign_files(self, *, begun: bool | None = None) -> None:
        """Refuse a folder with files that the job did not write; nothing is written.

        Args:
            begun: Whether a job has been begun here, where the existence of the request does not
                tell.

        Raises:
            UsageError: There are such files.
            OutputError: The folder cannot be listed.
        """
        place = self.results or self.path
        with output_errors(place):
            names = os.listdir(place) if place.exists() else []
        foreign = [name for name in names if not _is_about_the_folder(name)]
        if foreign and not (self.is_begun if begun is None else begun):
            raise UsageError(
                f"this folder is not empty and {self.written_by} did not make it",
                path=place,
                seen=first_of(sorted(map(to_text, foreign))),
                hint="name a new or empty folder with --out",
            )

    def refuse_other_request(
        self,
        earlier: Mapping[str, Any] | None,
        requested: Mapping[str, Any],
        *,
        words: Mapping[str, str] = _NOTHING,
        hint: str = OTHER_OUT,
    ) -> None:
        """Refuse to continue what another request has begun.

        Args:
            earlier: The request of the job that fills the folder, None without one.
            requested: The request of this job, as JSON values.
            words: What the entries of a request are called in messages.
            hint: What to do instead.

        Raises:
            UsageError: They differ; it names the entries and both values of each.
        """
        differing = [] if earlier is None else differing_keys(earlier, requested)
        if earlier is None or not differing:
            return
        named = [words.get(name, name.replace("_", " ")) for name in differing]
        before, now = (
            [_shown(request.get(name)) for name in differing] for request in (earlier, requested)
        )
        seen = [
            f"{name} {value}" + (", with another content" if value == other else "")
            for name, value, other in zip(named, before, now, strict=True)
        ]
        expected = [f"{name} {value}" for name, value in zip(named, now, strict=True)]
        raise UsageError(
            f"this folder holds {self.content} that were made with other settings:"
            f" {', '.join(named)}",
            path=self.results or self.path,
            seen="; ".join(seen),
            expected="; ".join(expected),
            hint=hint,
        )

    def begin(
        self,
        request: Mapping[str, Any],
        *,
        removed: Collection[str] = (),
        unsealed: Collection[str] = (),
    ) -> None:
        """Remove the seal, make the folder of parts, and write the request.

        Args:
            request: The request, as JSON values.
            removed: Further files that go with the seal.
            unsealed: Files that this job will replace; they stay, and are no longer checked.

        Raises:
            OutputError: The folder cannot be written.
        """
        with output_errors(self.path):
            self.parts.mkdir(parents=True, exist_ok=True)
        self.unseal(removed=removed, unsealed=unsealed)
        checksums.publish_json(self.path, self.request_name, request)

    def unseal(self, *, removed: Collection[str] = (), unsealed: Collection[str] = ()) -> None:
        """Remove the seal durably, before anything that it vouches for changes.

        Args:
            removed: Further files that go with it.
            unsealed: Files that stay, and are no longer checked from here on.

        Raises:
            OutputError: The folder cannot be written.
        """
        with output_errors(self.path):
            gone = (self.seal_name, *removed)
            checksums.forget_files(self.path, {*gone, *unsealed}.__contains__)
            for name in gone:
                (self.path / name).unlink(missing_ok=True)
            durable.sync_folder(self.path)

    def is_whole(
        self,
        expected: Iterable[checksums.Expected],
        *,
        notes: Iterable[str],
        own: Collection[str] = (),
        verifies: bool = False,
    ) -> bool:
        """Return whether all files of a complete folder are there, and list what a run that was
        killed at its very end, or an earlier version, did not.

        Args:
            expected: The files that its ledger promises.
            notes: Names of other files whose checksums are compared.
            own: Names of further files to list beside seal and request, where they are there.
            verifies: Whether files are read that were compared before and look unchanged.

        Raises:
            IntegrityError: Files were changed since they were written.
        """
        damages = checksums.check_files(self.path, expected, whole=verifies)
        damages += checksums.damaged_files(self.path, names=notes)
        if any(damage.is_missing for damage in damages):
            return False
        what = f"{len(damages):,} files are not those that {self.written_by} wrote"
        checksums.raise_damage(damages, what, self.remake)
        names = (self.seal_name, self.request_name, *own)
        checksums.list_files(self.path, [name for name in names if (self.path / name).is_file()])
        self.tidy()
        return True

    def seal(self, facts: Mapping[str, Any]) -> None:
        """Write the seal, the last file of a complete folder, and remove the parts.

        Raises:
            OutputError: The folder cannot be written.
        """
        checksums.publish_json(self.path, self.seal_name, facts)
        with output_errors(self.path):
            if self.parts.exists():
                shutil.rmtree(self.parts)

    def tidy(self) -> None:
        """Remove the parts and the unfinished files of a job that was stopped at its very end."""
        for name in filter(durable.is_temporary, os.listdir(self.path)):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.parts, ignore_errors=True)


def differing_keys(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return the keys, sorted, whose values differ between two requests."""
    return sorted(key for key in {*first, *second} if first.get(key) != second.get(key))


@contextlib.contextmanager
def output_errors(folder: Path) -> Iterator[None]:
    """Turn what the system says of a file in `folder` into an OutputError with its path."""
    try:
        yield
    except OSError as error:
        raise OutputError.from_os_error(error, error.filename or folder) from error


def own_names(job: JobFolder, names: Iterable[str]) -> frozenset[str]:
    """Return the names in a job's folder that are no results: its notes, and further `names`."""
    return checksums.OWN_FILES | {PARTS, job.request_name, job.seal_name, *names}


def _is_about_the_folder(name: str) -> bool:
    return name in checksums.OWN_FILES or name == PARTS or durable.is_temporary(name)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value["name"]) if "name" in value else json.dumps(value, sort_keys=True)
    return "none" if value is None else str(value)
