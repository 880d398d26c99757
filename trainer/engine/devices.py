"""Devices, precision and processes through Lightning Fabric, and which positions each process
takes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import xxhash
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from torch import Tensor

from trainer.config import RunConfig
from trainer.engine.joining import JoiningStrategy
from trainer.engine.launchers import count_processes
from trainer.errors import ConfigError, DeviceError
from trainer.reporter import NULL_REPORTER, Reporter

_MIXED = {"bf16": "bf16-mixed", "fp16": "16-mixed"}


class _MixedPrecision(MixedPrecision):
    """Autocast alone: inputs keep float32, since a timestep or noise level does not survive eight
    bits of mantissa.
    """

    def convert_input(self, data: Any) -> Any:
        """Return `data` as it is."""
        return data


def plan_fabric(config: RunConfig, reporter: Reporter = NULL_REPORTER) -> Fabric:
    """Return a Fabric to launch: one process a device, this one among them.

    Under torchrun or SLURM, or where someone starts them by hand, the processes are there;
    otherwise Fabric starts the command again for every further device.

    Raises:
        DeviceError: When there is no such device.
        ConfigError: When the batch cannot be divided, or another number of processes was started
            than the configuration says.
    """
    accelerator = (
        config.accelerator
        if config.accelerator != "auto"
        else "cuda"
        if torch.cuda.is_available()
        else "cpu"
    )
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "accelerator is cuda, but torch finds no GPU",
            seen=f"torch {torch.__version__}",
            hint="accelerator=cpu, or a CUDA build",
        )
    devices, num_nodes = count_processes(
        config, torch.cuda.device_count() if accelerator == "cuda" else 1
    )
    if accelerator == "cuda" and devices > torch.cuda.device_count():
        raise DeviceError(
            "there are fewer GPUs than devices", seen=torch.cuda.device_count(), expected=devices
        )
    num_ranks = devices * num_nodes
    if config.batch_size % (num_ranks * config.accumulate):
        expected = f"a multiple of devices ({num_ranks}) x accumulate ({config.accumulate})"
        raise ConfigError(
            "batch_size cannot be divided among devices and micro-steps",
            seen=config.batch_size,
            expected=expected,
        )
    plugin = (
        _MixedPrecision(_MIXED[config.precision], device=accelerator)  # type: ignore[arg-type]
        if config.precision in _MIXED
        else Precision()
    )
    strategy = JoiningStrategy(config.start_timeout_s, reporter) if num_ranks > 1 else "auto"
    return Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        plugins=[plugin],
    )


class RankPositions:
    """The positions that one rank takes from step `start` to step `end`, in order; sliced like an
    array, never stored.

    Step s has the positions s*batch_size to (s+1)*batch_size - 1; they are dealt out in runs of
    `micro` to micro-step 0 of every rank, then to micro-step 1, and so on. So the samples of a step
    do not depend on the number of ranks.
    """

    def __init__(
        self, start: int, end: int, *, batch_size: int, micro: int, rank: int, num_ranks: int
    ) -> None:
        self._first, self._batch_size, self._micro = start * batch_size, batch_size, micro
        self._rank, self._num_ranks = rank, num_ranks
        self._length = (end - start) * batch_size // num_ranks

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: slice) -> np.ndarray:
        """Return the positions of a slice, int64."""
        own = np.arange(*index.indices(self._length), dtype=np.int64)
        runs, within = np.divmod(own, self._micro)
        return self._first + (runs * self._num_ranks + self._rank) * self._micro + within


def seed_step(seed: int, stage: str, position: int) -> None:
    """Seed torch for dropout and the like, keyed by the first position of a micro-batch: no
    generator state has to be saved.
    """
    torch.manual_seed(xxhash.xxh3_64_intdigest(f"{seed}/{stage}/{position}".encode()) >> 1)


def move_batch(
    fabric: Fabric, batch: dict[str, Tensor], *, channels_last: bool
) -> dict[str, Tensor]:
    """Return a batch on the device, images in channels_last layout if requested."""
    moved: dict[str, Tensor] = fabric.to_device(batch)
    if not channels_last:
        return moved
    return {
        name: tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in moved.items()
    }


def sum_over_ranks(fabric: Fabric, tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks."""
    return tensor if fabric.world_size == 1 else fabric.all_reduce(tensor.clone(), reduce_op="sum")  # type: ignore[return-value]


def gather_ranks(fabric: Fabric, tensor: Tensor) -> Tensor:
    """Return the tensors of all ranks, [ranks, ...]."""
    return tensor[None] if fabric.world_size == 1 else fabric.all_gather(tensor)  # type: ignore[return-value]


def evaluating(fabric: Fabric, module: torch.nn.Module) -> AbstractContextManager[None]:
    """Return a context in which `module` is in eval mode, without gradients and in the precision of
    the run.
    """
    return _Evaluating(fabric, module)


class _Evaluating:
    def __init__(self, fabric: Fabric, module: torch.nn.Module) -> None:
        self._contexts = (torch.no_grad(), fabric.autocast())
        self._module, self._training = module, module.training

    def __enter__(self) -> None:
        self._module.eval()
        for context in self._contexts:
            context.__enter__()

    def __exit__(self, *error: object) -> None:
        for context in reversed(self._contexts):
            context.__exit__(*error)
        self._module.train(self._training)
