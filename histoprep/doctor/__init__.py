"""Is this machine fit for the work? Each check gives one line: what was looked at, how it stands,
and what to do about it.

`installation` looks at packages, `decoders` at what reads images, `machine` at disk, memory and
processors, `training` at torch, the GPU and the codec, in a process of their own: the toolkit
itself never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from histoprep.doctor.check import Check, CheckStatus
from histoprep.doctor.decoders import check_decoders
from histoprep.doctor.installation import (
    check_foreign,
    check_label_maps,
    check_packages,
    check_python,
)
from histoprep.doctor.machine import check_memory, check_processors, check_space, check_writing
from histoprep.doctor.training import check_training

__all__ = ["Check", "CheckStatus", "examine"]


def examine(workspace: Path, codec: str | None = None) -> Iterator[Check]:
    """Yield the result of every check, in order, as they are made; a check that fails in an
    unforeseen way is a failed one.

    `workspace` is where results would go; a file is written there, or in the nearest folder above
    that exists, and deleted. `codec` is a codec's folder, a run or a hub id to try, None for none.
    """
    checks: list[Callable[[], Iterator[Check]]] = [
        check_python,
        check_packages,
        check_foreign,
        check_label_maps,
        check_decoders,
        lambda: check_writing(workspace),
        lambda: check_space(workspace),
        check_memory,
        check_processors,
        lambda: check_training(codec),
    ]
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 (the doctor must not die of what it finds)
            yield Check(
                "doctor",
                CheckStatus.FAIL,
                f"a check ended with {type(error).__name__}: {error}",
                "please report this as a bug",
            )
