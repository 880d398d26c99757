"""One checkpoint as a folder that is whole or not there: tensors as safetensors, numbers as JSON, a
SHA-256 for every file.

The rules are R2, R8 and R9: written under a temporary name, synced, renamed, the folder synced. No
pickle anywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from histoprep.checksums import Damage
from histoprep.durable import sync_folder, temporary_beside
from histoprep.phrases import first_of
from trainer.errors import CheckpointError, DivergedError, OutputError

SUMS = "SHA256SUMS"
STATE = "state.json"
_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([\w.-]+)")
_PIECE_BYTES = 1 << 22
_FILE_MODE = 0o644


def write_checkpoint(
    folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    """Publish a checkpoint, durably.

    Nothing appears at `folder` before everything is on the device. An older folder of that name is
    replaced.

    Args:
        folder: The checkpoint.
        tensors: Each entry becomes a safetensors file of that name.
        state: Becomes state.json.

    Raises:
        OutputError: With the system's reason.
        DivergedError: When a weight is not finite; the old folder is left then.
    """
    temporary = temporary_beside(folder)
    try:
        temporary.mkdir(parents=True)
        # A file is read back for its digest while the next one is written.
        with ThreadPoolExecutor(1) as hashing:
            digests = {}
            for name, values in tensors.items():
                path = temporary / f"{name}.safetensors"
                _write_tensors(path, values)
                digests[path.name] = hashing.submit(_sha256, path)
            sums = {name: digest.result() for name, digest in digests.items()}
        sums[STATE] = _write_text(
            temporary / STATE, json.dumps(state, indent=2, sort_keys=True, allow_nan=False) + "\n"
        )
        _write_text(
            temporary / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sums.items())
        )
        sync_folder(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise OutputError.from_os_error(error, folder) from error
    except safetensors.SafetensorError as error:
        # The library keeps of the system's error only a text such as `No space left on device (os
        # error 28)`.
        number = re.search(r"(?:os error|code:) (\d+)", str(error))
        cause = OSError(int(number[1]), str(error)) if number else OSError(str(error))
        raise OutputError.from_os_error(cause, folder, "cannot write the checkpoint") from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary)


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise DivergedError unless all floating tensors are finite; one host sync."""
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if not floating:
        return
    # A sum is finite only when every summand is; it may overflow, so the names are looked for one
    # by one.
    if bool(
        torch.stack(
            [tensor.detach().double().sum().isfinite().cpu() for tensor in floating.values()]
        ).all()
    ):
        return
    bad = [name for name, tensor in floating.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise DivergedError(
            f"{what} are no longer finite; no checkpoint was written",
            seen=first_of(bad, limit=3),
            hint="lower optimiser.lr",
        )


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the state of a checkpoint after comparing every file with its SHA-256.

    Raises:
        CheckpointError: Its text says what is wrong.
    """
    sums = _read_sums(folder)
    damages = _damages(folder, sums)
    if damages:
        first, more = (
            damages[0],
            f"; also {', '.join(Path(damage.path).name for damage in damages[1:])}"
            if len(damages) > 1
            else "",
        )
        hint = "restore it from a copy, or name another checkpoint of the run"
        what = "the checkpoint is damaged: a file differs from its SHA-256"
        raise CheckpointError(
            what, path=first.path, seen=first.seen + more, expected=first.expected, hint=hint
        )
    if STATE not in sums:
        raise CheckpointError(
            "the checkpoint is incomplete", path=folder, seen=f"no {STATE} in {SUMS}"
        )
    try:
        return dict(json.loads((folder / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint cannot be read: {error}", path=folder / STATE
        ) from error


def checkpoint_damages(folder: Path) -> tuple[int, list[Damage]]:
    """Return how many files a checkpoint has, and those that differ from its SHA-256 or are not
    there.
    """
    try:
        sums = _read_sums(folder)
        return len(sums), _damages(folder, sums)
    except CheckpointError as error:
        return 0, [Damage(str(folder / SUMS), error.what, "one SHA-256 a file")]


def _read_sums(folder: Path) -> dict[str, str]:
    try:
        # Not splitlines: it takes a damaged line feed for another line break.
        lines = (folder / SUMS).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint cannot be read: {error}", path=folder / SUMS
        ) from error
    found = [_SUM_LINE.fullmatch(line) for line in lines[:-1]]
    if lines[-1] or not all(found):
        raise CheckpointError(
            "the checkpoint cannot be read: its list of SHA-256 is damaged", path=folder / SUMS
        )
    return {row[2]: row[1] for row in found if row}


def _damages(folder: Path, sums: Mapping[str, str]) -> list[Damage]:
    damages = []
    for name, expected in sums.items():
        path = folder / name
        try:
            seen = _sha256(path)
        except OSError as error:
            damages.append(
                Damage(
                    str(path),
                    error.strerror or str(error),
                    f"SHA-256 {expected}",
                    is_missing=isinstance(error, FileNotFoundError),
                )
            )
            continue
        if seen != expected:
            damages.append(Damage(str(path), f"SHA-256 {seen}", f"SHA-256 {expected}"))
    strange = sorted(path for path in folder.glob("*.safetensors") if path.name not in sums)
    return damages + [
        Damage(str(path), "a file without SHA-256", f"a line in {SUMS}") for path in strange
    ]


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Return the tensors `name` of a checkpoint, on the CPU.

    Raises:
        CheckpointError: When they cannot be read.
    """
    path = folder / f"{name}.safetensors"
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"the tensors cannot be read: {error}", path=path) from error


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    safetensors.torch.save_file(_apart(tensors), path)
    path.chmod(_FILE_MODE)
    _sync_file(path)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU, contiguous and none of them in the memory of another, which
    safetensors refuses; copied only where that takes a copy.
    """
    taken: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        own = tensor.detach().to("cpu").contiguous()
        storage = own.untyped_storage()
        if storage.data_ptr() in taken or storage.nbytes() != own.numel() * own.element_size():
            own = own.clone()
        taken.add(own.untyped_storage().data_ptr())
        apart[name] = own
    return apart


def _write_text(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    _sync_file(path)
    return hashlib.sha256(text.encode()).hexdigest()


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(_PIECE_BYTES):
            state.update(piece)
    return state.hexdigest()
