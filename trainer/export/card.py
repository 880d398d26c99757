"""The model card of an exported network: what it is, what it was trained on, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from histoprep.labels import LabelMap
from histoprep.version import __version__
from trainer.config import RunConfig
from trainer.engine.checkpoint_files import STATE
from trainer.engine.checkpoints import find_checkpoint

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
scores = program(images)  # {output}
```"""


def card_of(run: Path, config: RunConfig, label_map: LabelMap, *, program: str = "") -> str:
    """Return a model card in Markdown with the front matter of the Hugging Face hub.

    Args:
        run: Run folder or checkpoint.
        config: Its configuration.
        label_map: Its classes.
        program: What an exported program returns; empty for a folder of diffusers.
    """
    checkpoint = find_checkpoint(run.absolute())
    folder = checkpoint.parents[1]
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    best = state.get("best")
    front = {
        "library_name": "pytorch" if program else "diffusers",
        "pipeline_tag": "image-segmentation" if program else "image-to-image",
        "tags": ["histology", "computational-pathology", config.recipe],
    }
    size = config.data.image_size
    usage = (
        _PROGRAM.format(name="model.pt2", size=size, output=program)
        if program
        else _PIPELINE.format(place="FOLDER", size=size)
    )
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {folder.name}",
        f"Trained with HistoPrep {__version__}, recipe {config.recipe}, {int(state['step']):,}"
        f" steps of {config.batch_size} images of {size} x {size} px."
        + (f" Best validation {best['metric']}: {best['value']:.4g}." if best else ""),
        "## Use",
        usage,
        "## Classes",
        "| id | class |\n|---|---|\n"
        + "\n".join(f"| {cls.id} | {_cell(cls.name)} |" for cls in label_map.classes),
        "## Data",
        *_data(folder),
        "## Limits",
        "Trained on the tissue, stains and scanners of its data only. Not for diagnosis. Say where"
        " images are generated.",
    ]
    return "\n\n".join(parts) + "\n"


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
