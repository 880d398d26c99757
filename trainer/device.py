"""Where networks run outside of training: the device that `--device` names."""

from __future__ import annotations

import torch

from trainer.errors import UsageError

_EXPECTED = "auto, cpu, cuda or cuda:N"


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
