"""What training needs: torch, a GPU, a codec. All of it is asked in another process, since the
toolkit never imports torch.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from histoprep.doctor.check import Check, CheckStatus
from histoprep.extras import install_command

_TIME_LIMIT_S = 180
_INSTALL = install_command("train")
_ASK_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
count = torch.cuda.device_count() if cuda else 0
names = [torch.cuda.get_device_name(index) for index in range(count)]
memory = [torch.cuda.get_device_properties(index).total_memory for index in range(len(names))]
if cuda:
    assert float(torch.ones(64, 64, device="cuda").sum()) == 4096.0
assert abs(float(torch.full((64, 64), 0.5).matmul(torch.full((64, 64), 0.5)).sum()) - 64**3 / 4) < 1
facts = {"version": torch.__version__, "built_for": torch.version.cuda}
facts |= {"names": names, "memory": memory}
print(json.dumps({**facts, "threads": torch.get_num_threads()}))
"""
_ASK_DIFFUSERS = """
import json
from diffusers import AutoencoderKL, AutoencoderTiny, __version__
print(json.dumps({"version": __version__}))
"""
_ASK_CODEC = """
import json, sys
from trainer.errors import HistoprepError
from trainer.recipes.codecs import load_codec
try:
    codec = load_codec(sys.argv[1])
    print(json.dumps({"digest": codec.digest, "channels": codec.channels, "factor": codec.factor}))
except HistoprepError as error:
    print(json.dumps({"error": str(error).replace(chr(10), ";")}))
"""


class _NoAnswerError(Exception):
    """The other process ended without an answer; the message is the end of what it said."""


def check_training(codec: str | None) -> Iterator[Check]:
    """Yield torch, GPU and codec; `codec` is a folder, a run or a hub id that is loaded, None for
    none.
    """
    cards = _cards()
    if find_spec("torch") is None:
        yield Check(
            "torch", CheckStatus.WARN, "not installed: no training, no generated tiles", _INSTALL
        )
        yield Check(
            "gpu",
            CheckStatus.OK if cards else CheckStatus.WARN,
            cards or "nvidia-smi is not there",
            "" if cards else "small presets train on a CPU",
        )
        return
    try:
        facts = _ask(_ASK_TORCH)
    except _NoAnswerError as error:
        yield Check(
            "torch",
            CheckStatus.FAIL,
            f"it cannot be used: {error}",
            f"make a new environment; {_INSTALL}",
        )
        return
    yield Check("torch", CheckStatus.OK, f"{facts['version']}, {facts['threads']} threads")
    yield _gpu(facts, cards)
    yield from _codec(codec)


def _gpu(facts: Mapping[str, Any], cards: str) -> Check:
    if facts["names"]:
        listed = ", ".join(
            f"{name} {memory / 2**30:.0f} GiB"
            for name, memory in zip(facts["names"], facts["memory"], strict=True)
        )
        return Check("gpu", CheckStatus.OK, f"{listed}, CUDA {facts['built_for']}")
    if cards and not facts["built_for"]:
        fix = "install a torch that is built for CUDA; the one that is installed is for CPUs alone"
        return Check(
            "gpu",
            CheckStatus.FAIL,
            f"{cards}: there, but torch {facts['version']} cannot use it",
            fix,
        )
    if cards:
        fix = "the driver may be too old for this CUDA, or CUDA_VISIBLE_DEVICES hides the card"
        return Check(
            "gpu",
            CheckStatus.FAIL,
            f"{cards}: there, but torch (CUDA {facts['built_for']}) does not see it",
            fix,
        )
    return Check(
        "gpu",
        CheckStatus.WARN,
        "none was found: training runs on the CPU",
        "small presets (codec-tiny, mask-unet-tiny) train there in minutes",
    )


def _codec(codec: str | None) -> Iterator[Check]:
    try:
        facts = _ask(_ASK_DIFFUSERS)
    except _NoAnswerError as error:
        yield Check("codec", CheckStatus.FAIL, f"diffusers cannot be used: {error}", _INSTALL)
        return
    if codec is None:
        fix = "try yours with --codec FOLDER; trainer fit --preset codec-tiny trains one"
        yield Check(
            "codec",
            CheckStatus.OK,
            f"diffusers {facts['version']} with AutoencoderKL and AutoencoderTiny; no codec was"
            " named",
            fix,
        )
        return
    try:
        found = _ask(_ASK_CODEC, codec)
    except _NoAnswerError as error:
        found = {"error": str(error)}
    if "error" in found:
        yield Check(
            "codec",
            CheckStatus.FAIL,
            f"{codec}: {found['error']}",
            "name a folder in the layout of diffusers, a run of the recipe codec, or a hub id",
        )
    else:
        size = f"{found['channels']} channels, 1/{found['factor']} of the side"
        yield Check("codec", CheckStatus.OK, f"{codec}: {size}, digest {found['digest'][:12]}")


def _cards() -> str:
    """Return the NVIDIA cards that the driver names, empty when there are none or no driver."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    try:
        process = subprocess.run(
            [command, "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_TIME_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(process.stdout.split("\n")).strip("; ") if process.returncode == 0 else ""


def _ask(script: str, *arguments: str) -> dict[str, Any]:
    """Return the JSON that a script prints in a Python of its own; raises _NoAnswerError."""
    try:
        process = subprocess.run(
            [sys.executable, "-P", "-c", script, *arguments],
            capture_output=True,
            text=True,
            timeout=_TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _NoAnswerError(f"no answer within {_TIME_LIMIT_S} s") from error
    lines = process.stdout.strip().splitlines()
    if process.returncode or not lines:
        said = process.stderr.strip().splitlines() or [f"it ended with {process.returncode}"]
        raise _NoAnswerError(said[-1])
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer
