"""What can end a training run, on top of histoprep's tree of errors; each has its exit code."""

from __future__ import annotations

from histoprep.errors import (
    ExitCode,
    Explained,
    HistoprepError,
    IncompleteError,
    IntegrityError,
    Interrupted,
    LockedError,
    OutputError,
    Terminated,
    UsageError,
)

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "DivergedError",
    "ExitCode",
    "Explained",
    "HistoprepError",
    "IncompleteError",
    "IntegrityError",
    "Interrupted",
    "LatentSetError",
    "LockedError",
    "LostProcessError",
    "OutputError",
    "Terminated",
    "UsageError",
]


class ConfigError(UsageError):
    """A configuration has an unknown key, a wrong value or contradicts itself or the run folder."""


class DataError(IncompleteError):
    """A tile that training needs cannot be read, or the data cannot feed the model that was chosen
    for.
    """


class CheckpointError(IntegrityError):
    """No checkpoint here can be used: missing, damaged, of another model or of another version."""


class LatentSetError(IntegrityError):
    """A latent set does not belong to the manifest or codec it is used with (HP907), or is
    damaged.
    """


class DeviceError(HistoprepError):
    """The device, its memory or the process group is not what the run needs."""

    exit_code = ExitCode.OUTPUT


class LostProcessError(DeviceError):
    """Another process of a run on several devices has ended."""


class DivergedError(HistoprepError):
    """The loss or the weights are no longer finite: the run ended with a bad result, as a finding
    does.
    """

    exit_code = ExitCode.FINDINGS
