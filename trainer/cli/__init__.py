"""The trainer's command line: parse, call, print, exit code. `main` is the console script."""

from __future__ import annotations

import os

from histoprep.command_line import CommandLine
from histoprep.errors import HistoprepError
from histoprep.extras import install_command
from trainer.errors import DeviceError
from trainer.signals import stop_signals

# Command -> (module, attribute, short help); modules are imported when their command is called,
# torch only inside it.
COMMANDS = {
    "encode": ("encode", "encode", "Encode the tiles of a manifest once: a latent set."),
    "fit": ("fit", "fit", "Train a model; rerun the same command to resume."),
    "sample": ("sample", "sample", "Generate images for masks: a data set with a manifest."),
    "test": (
        "test",
        "test",
        "Measure a classifier, segmenter or model of masks: metrics with intervals, plots.",
    ),
    "predict": ("predict", "predict", "Classify or segment images: a table of scores, or masks."),
    "evaluate": (
        "evaluate",
        "evaluate",
        "Measure generated tiles against real ones: distances, masks, copies; one page.",
    ),
    "runs": ("runs", "runs", "Compare the runs in a folder: a table and a plot."),
    "export": ("export", "export", "Write a trained network for other programs, with a card."),
    "review": (
        "review",
        "review",
        "Rank masks by how they disagree with what all other slides teach.",
    ),
    "verify": (
        "verify",
        "verify",
        "Read what the trainer wrote again and compare it with its checksums.",
    ),
    "import": (
        "import_checkpoint",
        "import_checkpoint",
        "Convert a published checkpoint into a run folder.",
    ),
}

_LIBRARIES = (
    "torch",
    "lightning_fabric",
    "diffusers",
    "safetensors",
    "einops",
    "sklearn",
    "tensorboard",
)
_PARENT = os.getppid()


def is_first_process() -> bool:
    """Return whether this is the process that prints: with several devices the others run the same
    command beside it.
    """
    # Of torchrun, of Fabric, of SLURM.
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    rank = int(next((rank for rank in ranks if rank), 0))
    # A process whose starter is gone speaks for itself.
    return rank == 0 or os.getppid() != _PARENT


def _translate(error: Exception) -> HistoprepError | None:
    """Return the error of ours that a library's stands for, or None for a bug."""
    if type(error).__name__ == "OutOfMemoryError":
        hint = (
            "use a smaller batch_size, raise accumulate, or set precision=bf16; `trainer fit"
            " --dry-run` estimates the memory"
        )
        return DeviceError(f"the device has no memory left: {error}", hint=hint)
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and missing.partition(".")[0] in _LIBRARIES:
        return DeviceError(f"{missing} is not installed", hint=install_command("train"))
    return None


_HELP = """Train diffusion models on a data set that histoprep prepared, and sample from them.

Examples:
    trainer fit --manifest tiles.histoprep/manifest.parquet --preset mask-unet-tiny --out runs/mine
    trainer sample --checkpoint runs/mine --masks tiles.histoprep/manifest.parquet --out made
    trainer fit --help
"""
_LINE = CommandLine(
    "trainer", _HELP, __name__, COMMANDS, stop_signals, _translate, is_first_process
)
run, main = _LINE.run, _LINE.main
