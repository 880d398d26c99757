"""Is what we wrote still what we wrote: files, tables and trees of every kind, each recognised by
what is in it, every byte read.

The kinds of the toolkit are here; those of the trainer are in `trainer/verify.py`, which builds on
this. Data sets themselves are the user's: whether they still are what a manifest says, `histoprep
manifest check --digests` tells.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from histoprep import checksums, tables
from histoprep.checksums import CHECKSUMS, OWN_FILES, Damage
from histoprep.durable import is_temporary
from histoprep.errors import IntegrityError, UsageError
from histoprep.job_folder import PARTS, SUCCESS
from histoprep.names import to_text
from histoprep.phrases import first_of
from histoprep.schemas.ledgers import (
    EXPORT,
    FIX,
    IMPORT,
    LEDGER,
    REMAP,
    REPAIR,
    TreeKind,
    fix_command,
    ledger_files,
)
from histoprep.schemas.scan_options import read_scan_options
from histoprep.schemas.workspace import THUMBNAILS
from histoprep.shards.layout import INDEX, shard_files

KINDS = (
    "workspace",
    "tree of masks (remap, repair, import, fix, export)",
    "folder of shards",
    "table (tiles, manifest, stats, ...)",
    "file or folder listed in checksums.json",
)
TRAINER_KINDS = ("run", "checkpoint", "latent set", "synthetic data set")
_TREES = {kind.name: kind for kind in (REMAP, REPAIR, IMPORT, FIX, EXPORT)}
_SUB_WORKSPACES = ("quick", "sample")
_NUM_SHOWN = 5


@dataclass
class Verified:
    """What a path was recognised as, how many files of it were read, which are damaged, how many
    folders in it are not finished, and what else there is to say.
    """

    path: Path
    kind: str
    num_files: int = 0
    damages: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_unfinished: int = 0

    def note_unfinished(self, path: Path, command: str) -> None:
        """Note that a folder is not finished, and the command that finishes it."""
        self.num_unfinished += 1
        self.notes.append(f"{path} is not finished: {command}")

    def add(self, other: Verified) -> None:
        """Take in what was found of a part, such as a tree in a workspace."""
        self.num_files += other.num_files
        self.damages += other.damages
        self.notes += other.notes
        self.num_unfinished += other.num_unfinished


def verify(path: Path) -> Verified:
    """Return what became of a file or tree of ours since it was written; every byte is read.

    Raises UsageError for a path that is not there, that none of our commands wrote, or that is the
    trainer's to verify.
    """
    verify_kind = find_kind(path)
    if verify_kind is None:
        raise unknown_kind(path, (*KINDS, *(f"{kind} (trainer verify)" for kind in TRAINER_KINDS)))
    return verify_kind(path)


def unknown_kind(path: Path, kinds: Iterable[str]) -> UsageError:
    """Return the error for a path of no known kind."""
    what = (
        "not written by histoprep or trainer, or by an earlier version"
        if path.exists()
        else "there is no such file or folder"
    )
    return UsageError(what, path=path, expected="; ".join(kinds))


def find_kind(path: Path) -> Callable[[Path], Verified] | None:
    """Return the function that verifies a path, by what is in it; None for a kind that is not ours.
    Raises UsageError for one of the trainer.
    """
    if path.is_file():
        return _kind_of_file(path)
    if not path.is_dir():
        return None
    refuse_trainer_kind(path)
    if tree_kind(path):
        return verify_tree
    if is_shards(path):
        return verify_shard_folder
    if is_workspace(path):
        return verify_workspace
    beside = path.with_name(path.name + ".histoprep") if path.name else path
    if is_workspace(beside):
        refuse_trainer_kind(beside)
        return lambda _: verify_workspace(beside)
    return verify_listed_folder if (path / CHECKSUMS).is_file() else None


def refuse_trainer_kind(path: Path) -> None:
    """Raise UsageError, which names the right command, for a folder of the trainer."""
    kind = trainer_kind(path)
    if kind is not None:
        raise UsageError(
            f"this is a {kind}, which the trainer wrote", path=path, hint=f"trainer verify {path}"
        )


def trainer_kind(path: Path) -> str | None:
    """Return which of `TRAINER_KINDS` a folder is, None for none."""
    if (path / "SHA256SUMS").is_file():
        return "checkpoint"
    if (path / "latents.json").is_file() or (path / "journal.jsonl").is_file():
        return "latent set"
    if (path / "config.yml").is_file():
        return "run"
    beside = (
        path
        if path.name.endswith(".histoprep")
        else path.with_name(path.name + ".histoprep")
        if path.name
        else path
    )
    return "synthetic data set" if (beside / "sampling.json").is_file() else None


def tree_kind(path: Path) -> str | None:
    """Return remap, repair, import, fix or export for a tree of new files, finished or begun; None
    for anything else.
    """
    is_tree = (path / "ledger.parquet").is_file() or (path / PARTS).is_dir()
    return next((name for name in _TREES if is_tree and (path / f"{name}.json").is_file()), None)


def is_shards(path: Path) -> bool:
    """Return whether a folder is one of shards, finished or begun."""
    return (path / "shard.json").is_file() or (
        (path / "index.parquet").is_file() and any(path.glob("*.tar"))
    )


def is_workspace(path: Path) -> bool:
    """Return whether a folder holds results about a data set."""
    return path.is_dir() and any(
        (path / name).is_file()
        for name in (
            "tiles.parquet",
            "scan-options.json",
            "manifest.parquet",
            "listing-issues.parquet",
        )
    )


def _kind_of_file(path: Path) -> Callable[[Path], Verified] | None:
    if path.name == CHECKSUMS:
        return lambda _: verify_listed_folder(path.parent)
    try:
        if tables.looks_like_parquet(path):
            return verify_table_file
    except OSError as error:
        raise UsageError(f"cannot read this file: {error.strerror or error}", path=path) from error
    if path.name == "scan-options.json":
        return verify_sealed_file
    home = _home_of(path)
    if home is None:
        return None
    return lambda _: _verify_listed(
        path, home, "file listed in checksums.json", [path.relative_to(home).as_posix()]
    )


def _home_of(path: Path) -> Path | None:
    """Return the folder whose checksums list a file, None for none."""
    for home in path.absolute().parents:
        try:
            if path.absolute().relative_to(home).as_posix() in checksums.read_checksums(home):
                return home
        except IntegrityError:
            return home
    return None


def verify_table_file(path: Path) -> Verified:
    """Verify one table, and of a manifest also that its certificate holds."""
    verified = Verified(path, "table", 1)
    try:
        header = tables.read_header(path)
    except IntegrityError as error:
        verified.damages.append(damage_of(error, path))
        return verified
    if not header:
        raise unknown_kind(path, KINDS)
    verified.kind = f"{header['kind']} table"
    if header["kind"] == "manifest":
        _check_manifest(path, verified)
    return verified


def _check_manifest(path: Path, verified: Verified) -> None:
    from histoprep.manifest.check import validate_manifest

    for problem in validate_manifest(path, files=False):
        verified.damages += [
            Damage(
                str(path),
                f"{problem.code} {problem.rule.name}: {name}: {detail}",
                "a valid manifest",
            )
            for name, detail in zip(problem.paths, problem.details, strict=True)
        ]
    verified.notes.append(
        "whether the files of the data set are those of the manifest: histoprep manifest check"
        f" --digests {path}"
    )


def verify_sealed_file(path: Path) -> Verified:
    """Verify the file with the options of the last audit."""
    verified = Verified(path, "options of the last audit", 1)
    try:
        read_scan_options(path)
    except IntegrityError as error:
        verified.damages.append(damage_of(error, path))
    return verified


def verify_listed_folder(path: Path) -> Verified:
    """Verify what the checksums of a folder list."""
    verified = _verify_listed(path, path, "folder with checksums")
    note_others(verified, path, listed_names(path))
    return verified


def _verify_listed(
    path: Path, home: Path, kind: str, names: Iterable[str] | None = None
) -> Verified:
    verified = Verified(path, kind)
    try:
        chosen = list(checksums.read_checksums(home) if names is None else names)
        verified.damages = checksums.damaged_files(home, names=chosen)
        verified.num_files = len(chosen)
    except IntegrityError as error:
        verified.damages.append(damage_of(error, home / CHECKSUMS))
    return verified


def listed_names(folder: Path) -> set[str]:
    """Return the files that the checksums of a folder list, none where they are damaged."""
    try:
        return set(checksums.read_checksums(folder))
    except IntegrityError:
        return set()


def verify_tree(path: Path) -> Verified:
    """Verify a tree of masks: its notes, its ledger, and every mask against it."""
    kind = _TREES[tree_kind(path) or REMAP.name]
    verified = _verify_listed(path, path, f"tree of masks by histoprep {kind.name}")
    if not (path / SUCCESS).is_file():
        verified.note_unfinished(path, _finishing(path, kind))
        return verified
    names = listed_names(path) | {LEDGER}
    verified.num_files += 1
    try:
        tables.read_header(path / LEDGER)
        expected = list(ledger_files(path, kind))
        verified.damages += checksums.check_files(path, expected, whole=True)
        verified.num_files += len(expected)
        names.update(file.name for file in expected)
    except (IntegrityError, FileNotFoundError) as error:
        verified.damages.append(damage_of(error, path / LEDGER))
    note_others(verified, path, names)
    return verified


def _finishing(path: Path, kind: TreeKind) -> str:
    """Return what finishes a tree: a command where the tree says all of it."""
    with contextlib.suppress(IntegrityError):
        request = kind.job(path).read_request()
        if kind is FIX and request is not None:
            return fix_command(request, path)
    return f"the same histoprep {kind.name} command goes on with it"


def verify_shard_folder(path: Path) -> Verified:
    """Verify a folder of shards: its notes, its index, every shard as a file and every member of
    it.
    """
    from histoprep.shards.verify import verify_shards

    verified = _verify_listed(path, path, "folder of shards")
    if not (path / SUCCESS).is_file():
        verified.note_unfinished(path, "histoprep shard --resume goes on with it")
        return verified
    verified.num_files += 1
    names = listed_names(path) | {INDEX}
    try:
        expected = list(shard_files(tables.read_header(path / INDEX)["shards"]))
        verified.damages += checksums.check_files(path, expected, whole=True)
        verified.num_files += len(expected)
        names.update(file.name for file in expected)
    except (IntegrityError, FileNotFoundError, KeyError) as error:
        verified.damages.append(damage_of(error, path / INDEX))
    if not verified.damages:
        for problem in verify_shards(path):
            verified.damages += [
                Damage(
                    str(path / name),
                    f"{problem.code} {problem.rule.name}: {detail}",
                    "what the index says",
                )
                for name, detail in zip(problem.paths, problem.details, strict=True)
            ]
    note_others(verified, path, names)
    return verified


def verify_workspace(path: Path) -> Verified:
    """Verify what is known of a data set: tables, options, reports, and the trees, shards and
    smaller workspaces inside.
    """
    verified = _verify_listed(path, path, "workspace")
    # Results may be deleted as they are no longer wanted.
    gone = [damage for damage in verified.damages if damage.is_missing]
    verified.damages = [damage for damage in verified.damages if not damage.is_missing]
    verified.notes += [f"{file.path} is missing" for file in gone]
    names = listed_names(path)
    for table in sorted(path.glob("*.parquet")):
        verified.add(verify_table_file(table))
        names.add(table.name)
    if (path / "scan-options.json").is_file():
        verified.add(verify_sealed_file(path / "scan-options.json"))
        names.add("scan-options.json")
    for folder in sorted(file for file in path.iterdir() if file.is_dir()):
        covered = _verify_inside(verified, folder)
        names.update(file.relative_to(path).as_posix() for file in walk(folder) if covered)
    note_others(verified, path, names)
    return verified


def _verify_inside(verified: Verified, folder: Path) -> bool:
    """Verify a folder in a workspace and return whether it was of a known kind."""
    if trainer_kind(folder) or (
        folder.name == "latents" and any(trainer_kind(path) for path in folder.iterdir())
    ):
        verified.notes.append(f"{folder} is the trainer's: trainer verify {folder}")
        return True
    if folder.name == "parts":
        verified.add(_verify_listed(folder, folder, "parts"))
        for part in sorted(folder.glob("*.parquet")):
            verified.add(verify_table_file(part))
        return True
    kind = (
        verify_workspace
        if folder.name in _SUB_WORKSPACES and is_workspace(folder)
        else find_kind(folder)
    )
    if kind is not None:
        verified.add(kind(folder))
    return kind is not None


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, without unfinished ones, those that are about folders, and
    thumbnails, which can be made again.
    """
    for parent, folders, names in os.walk(folder):
        if THUMBNAILS in folders:
            folders.remove(THUMBNAILS)
        yield from (
            Path(parent, name) for name in names if name not in OWN_FILES and not is_temporary(name)
        )


def note_others(verified: Verified, folder: Path, names: set[str]) -> None:
    """Note the files in a folder that nothing was known of."""
    others = sorted(
        to_text(name)
        for path in walk(folder)
        if (name := path.relative_to(folder).as_posix()) not in names and to_text(name) not in names
    )
    if others:
        others_listed = first_of(others, limit=_NUM_SHOWN)
        verified.notes.append(
            f"{len(others):,} files of {folder} have no checksum (yours, or of an earlier version):"
            f" {others_listed}"
        )


def damage_of(error: Exception, path: Path) -> Damage:
    """Return the damage that an error found in the file at `path`, unless it names another one."""
    if not isinstance(error, IntegrityError):
        return Damage(
            str(path),
            "no such file",
            "a file that was written",
            is_missing=isinstance(error, FileNotFoundError),
        )
    seen = error.what if error.seen is None else f"{error.what}: {error.seen}"
    return Damage(error.path or str(path), seen, str(error.expected or "what was written"))


def require_verified(*found: Verified) -> None:
    """Raise IntegrityError that names the first damaged files, unless all is as it was written."""
    damages = [damage for each in found for damage in each.damages]
    hint = (
        "restore it from a copy, or run the command that made it again; histoprep verify and"
        " trainer verify name all damaged files"
    )
    checksums.raise_damage(damages, "this file was changed since it was written", hint)
