"""Is what the trainer wrote still what it wrote: runs, checkpoints, latent sets and synthetic data
sets, every byte read.
"""

from __future__ import annotations

from pathlib import Path

from histoprep import verify as toolkit
from histoprep.checksums import CHECKSUMS
from histoprep.errors import IntegrityError, UsageError
from histoprep.verify import Verified
from trainer.data.latent_journal import JOURNAL
from trainer.data.latents import DATA, LatentSet
from trainer.engine.checkpoint_files import SUMS, checkpoint_damages
from trainer.engine.checkpoints import list_checkpoints
from trainer.sampling.dataset import REQUEST
from trainer.sampling.digest_journal import check_images, read_digests

KINDS = (
    "run (of fit or import)",
    "checkpoint",
    "latent set",
    "synthetic data set",
    "table (predictions, ...)",
    "file or folder listed in checksums.json",
)
_TOOLKIT_KINDS = ("workspace", "tree of masks", "folder of shards")


def verify(path: Path) -> Verified:
    """Return what became of a file or folder of the trainer since it was written; every byte is
    read.

    Raises:
        UsageError: For a path that is not there, that the trainer did not write, or that is the
            toolkit's to verify.
    """
    kind = toolkit.trainer_kind(path) if path.is_dir() else None
    if kind is not None:
        return {
            "checkpoint": _verify_checkpoint,
            "latent set": _verify_latents,
            "run": _verify_run,
            "synthetic data set": _verify_synthetic,
        }[kind](path)
    if path.is_dir():
        _refuse_toolkit_kind(path)
        if (path / CHECKSUMS).is_file():
            return toolkit.verify_listed_folder(path)
        if path.name in ("checkpoints", "latents"):
            return _verify_many(path)
    verify_file = toolkit.find_kind(path) if path.is_file() else None
    if verify_file is None and (path.parent / SUMS).is_file():
        return _verify_checkpoint(path.parent)
    if verify_file is None:
        raise toolkit.unknown_kind(
            path, (*KINDS, *(f"{kind} (histoprep verify)" for kind in _TOOLKIT_KINDS))
        )
    return verify_file(path)


def require_whole(*places: str | Path | None) -> None:
    """Read what a command is about to use, and raise IntegrityError, naming the files, unless all
    of it is as it was written.

    Places that are not there yet, addresses and folders of other kinds (the user's own masks, a
    codec of diffusers) are passed over.
    """
    verified = []
    for place in places:
        path = Path(place or "")
        if place and path.exists():
            try:
                verified.append(verify(path))
            except UsageError:
                kind = (
                    toolkit.find_kind(path) if path.is_file() or toolkit.is_shards(path) else None
                )
                verified += [kind(path)] if kind else []
    toolkit.require_verified(*verified)


def _refuse_toolkit_kind(path: Path) -> None:
    checks = (toolkit.tree_kind, toolkit.is_shards, toolkit.is_workspace)
    kind = next(
        (
            name
            for name, check in zip(
                ("tree of masks", "folder of shards", "workspace"), checks, strict=True
            )
            if check(path)
        ),
        None,
    )
    if kind is not None:
        raise UsageError(
            f"this is a {kind}, which histoprep wrote", path=path, hint=f"histoprep verify {path}"
        )


def _verify_many(path: Path) -> Verified:
    """Verify the checkpoints or latent sets in a folder."""
    verified = Verified(path, f"folder of {path.name}")
    for file in sorted(path.iterdir()):
        if file.is_dir() and toolkit.trainer_kind(file):
            verified.add(verify(file))
    return verified


def _verify_checkpoint(path: Path) -> Verified:
    count, damages = checkpoint_damages(path)
    return Verified(path, "checkpoint", count, damages)


def _verify_run(path: Path) -> Verified:
    """Verify what steers a run, its logs and results, and every checkpoint of its stages."""
    verified = toolkit.verify_listed_folder(path)
    verified.kind, verified.notes = "run", []
    names = toolkit.listed_names(path)
    stages = [
        path,
        *sorted(file for file in path.iterdir() if file.is_dir() and file.name != "checkpoints"),
    ]
    for stage in stages:
        if stage != path and (stage / CHECKSUMS).is_file():
            inside = toolkit.verify_listed_folder(stage)
            inside.notes = []
            verified.add(inside)
            names.update(f"{stage.name}/{name}" for name in toolkit.listed_names(stage))
        for checkpoint in (
            checkpoint
            for kind in ("last", "best")
            for checkpoint in list_checkpoints(stage / "checkpoints", kind)
        ):
            verified.add(_verify_checkpoint(checkpoint))
            names.update(file.relative_to(path).as_posix() for file in toolkit.walk(checkpoint))
    if not (path / CHECKSUMS).is_file():
        verified.notes.append(
            f"{path} has no checksums: an earlier version wrote it; the same trainer fit lists them"
        )
    toolkit.note_others(verified, path, names)
    return verified


def _verify_latents(path: Path) -> Verified:
    verified = toolkit.verify_listed_folder(path)
    verified.kind, verified.notes = "latent set", []
    if not (path / "latents.json").is_file():
        verified.note_unfinished(path, "trainer encode resumes it")
        return verified
    try:
        LatentSet.open(path).check_files(whole=True)
        verified.num_files += len(DATA)
    except (IntegrityError, OSError) as error:
        place = Path(error.path) if isinstance(error, IntegrityError) and error.path else path
        if all(damage.path != str(place) for damage in verified.damages):
            verified.damages.append(toolkit.damage_of(error, place))
    toolkit.note_others(verified, path, {*toolkit.listed_names(path), *DATA, JOURNAL})
    return verified


def _verify_synthetic(path: Path) -> Verified:
    workspace = (
        path if path.name.endswith(".histoprep") else path.with_name(path.name + ".histoprep")
    )
    root = workspace.with_name(workspace.name.removesuffix(".histoprep"))
    verified = toolkit.verify_workspace(workspace)
    verified.path, verified.kind = root, "synthetic data set"
    try:
        expected = read_digests(workspace)
        verified.damages += check_images(root, workspace, expected, whole=True)
        verified.num_files += len(expected)
        toolkit.note_others(verified, root, set(expected))
    except IntegrityError as error:
        damage = toolkit.damage_of(error, workspace / REQUEST)
        if all(other.path != damage.path for other in verified.damages):
            verified.damages.append(damage)
    return verified
