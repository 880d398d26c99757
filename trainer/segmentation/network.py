"""A trained segmenter, opened from its run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from histoprep.labels import LabelMap
from trainer.data.transforms import to_float
from trainer.device import choose_device
from trainer.recipes.segmenter import Config, load_segmenter


@dataclass(frozen=True, eq=False)
class RunSegmenter:
    """The network of a run in evaluation mode, its classes and its configuration."""

    network: nn.Module
    label_map: LabelMap
    config: Config
    device: torch.device

    @torch.no_grad()
    def segment(self, image: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the mask of an image and the mean probability of its predicted classes.

        Args:
            image: uint8 RGB [height, width, 3], of any size.

        Returns:
            Class ids uint8 [height, width], and a probability in [0, 1].
        """
        pixels = torch.from_numpy(to_float(image))[None].to(self.device)
        highest, mask = self.network(pixels)[0].float().softmax(dim=0).max(dim=0)
        return mask.to(torch.uint8).cpu().numpy(), float(highest.mean())


def open_segmenter(run: Path, *, device: str = "auto") -> RunSegmenter:
    """Return the segmenter of a run; see `load_segmenter` for what is raised.

    Args:
        run: The run folder, or one of its checkpoints.
        device: Name of the device, or auto.
    """
    place = torch.device(choose_device(device))
    network, label_map, config = load_segmenter(run)
    return RunSegmenter(network.to(place), label_map, config, place)
