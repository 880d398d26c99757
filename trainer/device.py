"""Where networks run outside of training: the device that `--device` names."""

from __future__ import annotations

import os

import torch

from trainer.errors import UsageError

_EXPECTED = "auto, cpu, cuda or cuda:N"


def free_memory_bytes(device: torch.device) -> int:
    """Return the free memory of a device, in bytes; of a system that does not tell, 4 GiB."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 4 << 30


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is a GPU if there is one.

    Raises:
        UsageError: For one that is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError("no such device", seen=name, expected=_EXPECTED) from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError("this device is not supported", seen=name, expected=_EXPECTED)
    num_gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        what = f"there is no GPU {device.index} here" if num_gpus else "there is no CUDA here"
        raise UsageError(
            what,
            seen=f"{name}; torch {torch.__version__} finds {num_gpus} GPUs",
            hint="--device cpu",
        )
    return device
