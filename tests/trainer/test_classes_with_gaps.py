"""Label maps whose class ids have gaps (HP506): masks hold ids, so the network must know the
largest.
"""

from __future__ import annotations

from pathlib import Path

import torch

from histoprep.labels import identity_map
from trainer.config_layers import load_config
from trainer.recipes.ldm_denoiser import build_denoiser


def test_the_network_takes_every_class_id_of_a_map_with_gaps(tmp_path: Path) -> None:
    config = load_config(
        preset="ldm-tiny",
        manifest=str(tmp_path / "m.parquet"),
        out=str(tmp_path / "run"),
        codec="codec",
    )
    network = build_denoiser(config, identity_map([0, 4, 7, 9]), 4)
    mask = torch.tensor([0, 4, 7, 9], dtype=torch.uint8).repeat_interleave(16).repeat(1, 1, 64, 1)
    with torch.no_grad():
        made = network(
            torch.randn(1, 4, 8, 8), torch.zeros(1), mask, torch.zeros(1, dtype=torch.bool)
        )
    assert made.shape == (1, 4, 8, 8)
