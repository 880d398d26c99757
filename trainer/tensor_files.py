"""Tensors in files of others, read without running anything that stands in the file."""

from __future__ import annotations

import collections
import pickle
import re
import types
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import safetensors
import safetensors.torch
import torch

from trainer.errors import CheckpointError

_BOLD = re.compile(r"\x1b\[\d*m")
# All that a checkpoint needs to be built: tensors and containers.
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


@dataclass(frozen=True)
class TensorFile:
    """What a file holds.

    Attributes:
        content: Nested mappings of tensors, numbers and text.
        not_loaded: Names of the Python objects in it that were not loaded, such as `torch.optim.
            lr_scheduler.OneCycleLR`; an empty mapping stands in their place.
    """

    content: Any
    not_loaded: tuple[str, ...] = ()


def read_tensor_file(path: Path) -> TensorFile:
    """Read a checkpoint on the CPU; nothing in it is executed.

    A pickle may hold any program. This reader knows tensors and containers; every other object in
    the file becomes an empty mapping, and its name is kept.

    Args:
        path: A file of `torch.save`, or a `.safetensors`.

    Raises:
        CheckpointError: When it cannot be read, or is no such file.
    """
    try:
        with path.open("rb") as stream:
            stream.read(1)
    except OSError as error:
        raise CheckpointError(
            f"cannot read the checkpoint: {error.strerror or error}", path=path
        ) from error
    try:
        if path.suffix == ".safetensors":
            return TensorFile(safetensors.torch.load_file(path))
        with path.open("rb") as stream:
            return _read_pickle(stream)
    except Exception as error:
        # Given anything else than a checkpoint, torch raises whatever its reader stumbles over.
        raise CheckpointError(
            "the file is not a checkpoint, or is damaged", path=path, seen=_reason(error)
        ) from error


def _read_pickle(stream: BinaryIO) -> TensorFile:
    if _holds_program(stream):
        # torch would hand it to the loader of programs.
        raise RuntimeError("a TorchScript program instead of weights")
    names: dict[str, None] = {}

    class Unpickler(pickle.Unpickler):
        """Builds what is known; anything else becomes an inert mapping."""

        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in _KNOWN:
                return _KNOWN[module, name]
            kind = getattr(torch, name, None) if module == "torch" else None
            if isinstance(kind, torch.dtype):
                return kind
            names[f"{module}.{name}"] = None
            return _Inert

    reader = types.SimpleNamespace(
        __name__="trainer.tensor_files",
        Unpickler=Unpickler,
        load=lambda file, **options: Unpickler(file, **options).load(),
    )
    # It warns of a pickle's protocol; what cannot be read is an error anyway.
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        content = torch.load(stream, map_location="cpu", pickle_module=reader, weights_only=False)
    return TensorFile(content, tuple(names))


def _holds_program(stream: BinaryIO) -> bool:
    """Return whether a file is an archive of TorchScript."""
    try:
        with zipfile.ZipFile(stream) as archive:
            return any(name.endswith("constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False
    finally:
        stream.seek(0)


class _Inert(dict[Any, Any]):
    """Stands for an object that is not loaded: it takes everything and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __call__(self, *_: Any, **__: Any) -> _Inert:
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Take an entry of a list."""

    def extend(self, _: Any) -> None:
        """Take entries of a list."""


def _reason(error: Exception) -> str:
    """Return in one line why torch or safetensors cannot read a file."""
    if isinstance(error, EOFError):
        return "it is empty, or ends too early"
    if not isinstance(error, OSError | RuntimeError | safetensors.SafetensorError):
        return "bytes that make no sense as one"
    return _BOLD.sub("", str(error)).partition("\n")[0].partition(". ")[0].rstrip(". ")
