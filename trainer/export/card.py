"""The model card of an exported network: what it is, what it was trained on, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from histoprep.version import __version__
from trainer.config import RunConfig
from trainer.engine.checkpoint_files import STATE
from trainer.engine.checkpoints import CONFIG, find_checkpoint

_TASKS = {
    "ldm": "image-to-image",
    "segmenter": "image-segmentation",
    "diffmic": "image-classification",
}
_PIPELINE = """```python
import numpy as np
from diffusers import DiffusionPipeline

place = {place!r}
pipeline = DiffusionPipeline.from_pretrained(place, custom_pipeline=place, trust_remote_code=True)
mask = np.zeros((1, {size}, {size}), dtype=np.uint8)  # class ids, see below
image = pipeline(mask, names=["example"], seed=0).images[0]
```

It needs torch, diffusers, safetensors, pydantic, jaxtyping and xxhash. The same mask, name and
seed give the image of `trainer sample`."""
_PROGRAM = """```python
import torch

program = torch.export.load({name!r}).module()
images = torch.zeros(1, 3, {size}, {size})  # RGB in [-1, 1]
{call}
```"""


def card_of(run: Path, config: RunConfig, classes: Sequence[tuple[int, str]], usage: str) -> str:
    """Return a model card in Markdown with the front matter of the Hugging Face hub.

    Args:
        run: Run folder or checkpoint; of a run of stages, that of the last one.
        config: Its configuration.
        classes: Number and name of each class.
        usage: How the network is used, as `use_of_pipeline` and `use_of_program` say it.
    """
    checkpoint = find_checkpoint(run.absolute())
    folder = checkpoint.parents[1]
    home = folder if (folder / CONFIG).is_file() else folder.parent
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    best = state.get("best")
    front = {
        "library_name": "diffusers" if config.recipe == "ldm" else "pytorch",
        "pipeline_tag": _TASKS[config.recipe],
        "tags": ["histology", "computational-pathology", config.recipe],
    }
    size = config.data.image_size
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {home.name}",
        f"Trained with HistoPrep {__version__}, recipe {config.recipe}, {int(state['step']):,}"
        f" steps of {config.batch_size} images of {size} x {size} px."
        + (f" Best validation {best['metric']}: {best['value']:.4g}." if best else ""),
        "## Use",
        usage,
        "## Classes",
        "| id | class |\n|---|---|\n"
        + "\n".join(f"| {number} | {_cell(name)} |" for number, name in classes),
        "## Data",
        *_data(home),
        "## Limits",
        "Trained on the tissue, stains and scanners of its data only. Not for diagnosis."
        + (" Say where images are generated." if config.recipe == "ldm" else ""),
    ]
    return "\n\n".join(parts) + "\n"


def use_of_pipeline(size: int) -> str:
    """Return how a folder of diffusers is used, for masks of a size in pixels."""
    return _PIPELINE.format(place="FOLDER", size=size)


def use_of_program(name: str, size: int, call: str) -> str:
    """Return how a program of torch.export is used.

    Args:
        name: Its file.
        size: Side of its images in pixels.
        call: The lines that call `program` with `images`.
    """
    return _PROGRAM.format(name=name, size=size, call=call)


def _data(folder: Path) -> list[str]:
    place = folder / "certificate.json"
    if not place.is_file():
        return ["Not known: the weights were imported."]
    found: Mapping[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    certificate = found["certificate"]
    rows = "\n".join(
        f"| {name} | {split['tiles']:,} | {split['groups']:,} |"
        for name, split in certificate.get("splits", {}).items()
    )
    shared = ", ".join(
        f"{key.removeprefix('shared_')} {certificate[key]}"
        for key in ("shared_groups", "shared_duplicates", "shared_neighbours")
        if key in certificate
    )
    return [
        f"| split | tiles | groups |\n|---|---|---|\n{rows}",
        f"Shared between splits: {shared}. Digest of the manifest: `{found['digest']}`.",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
