"""The pipeline of an exported model: masks to images, with the pixels that `trainer sample`
makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from PIL import Image

from trainer.data.latent_scaling import LatentScaling
from trainer.diffusion.objectives import Objective
from trainer.diffusion.samplers import Solver
from trainer.diffusion.schedule import NoiseSchedule
from trainer.models.codec import Codec
from trainer.sampling.generator import Generator, SamplingOptions


class HistoPrepPipeline(DiffusionPipeline):
    """Images of tissue for masks of class ids.

    Args:
        vae: The codec.
        unet: The denoiser.
        objective: What it predicts, and the noise schedule.
        scaling: Scaling between latents of the codec and of the denoiser, by channel.
        image_range: Range of the images that the codec takes, signed or unit.
        sampling: Guidance and solver to sample with unless they are given.
        scheduler: One of diffusers that takes the same steps, for loops of your own; None where
            diffusers has none. The pipeline itself samples by `sampling`.
    """

    _optional_components = ["scheduler"]  # noqa: RUF012 (as the base class has it)

    def __init__(
        self,
        vae: Any,
        unet: Any,
        objective: dict[str, Any] | None = None,
        scaling: dict[str, Any] | None = None,
        image_range: str | None = None,
        sampling: dict[str, Any] | None = None,
        scheduler: Any = None,
    ) -> None:
        # diffusers takes arguments without a default for networks; model_index.json has them all.
        super().__init__()
        self._codec: Codec | None = None
        itself: Any = self  # untyped in diffusers
        itself.register_modules(vae=vae, unet=unet, scheduler=scheduler)
        itself.register_to_config(
            objective=objective, scaling=scaling, image_range=image_range, sampling=sampling
        )

    @torch.no_grad()
    def __call__(
        self,
        masks: np.ndarray,
        names: Sequence[str] | None = None,
        *,
        seed: int = 0,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        precision: str = "fp32",
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Return an image for each mask.

        Args:
            masks: Class ids, uint8 [batch, height, width]; 255 is unlabelled where no class has
                that id.
            names: Tile ids, which with the seed determine the noise; None for 0, 1, ...
            seed: Another seed gives other images.
            guidance_scale: How strongly the mask is followed; None for that of the run.
            num_inference_steps: Steps of the solver; None for those of the run.
            precision: fp32, bf16 or fp16.
            output_type: pil, or np for uint8 [batch, height, width, 3].
        """
        masks = np.asarray(masks)
        if masks.ndim != 3:
            raise ValueError(f"masks have shape {masks.shape}; (batch, height, width) expected")
        sampling = dict(self.config["sampling"])
        solver = Solver(**{**sampling["solver"], **_given(num_inference_steps=num_inference_steps)})
        interval = sampling["guidance_interval"]
        options = SamplingOptions(
            sampling["guidance_scale"] if guidance_scale is None else guidance_scale,
            solver,
            seed,
            None if interval is None else tuple(interval),
        )
        keys = [str(number) for number in range(len(masks))] if names is None else list(names)
        images = self._generator(precision).generate(masks, keys, options)
        return ImagePipelineOutput(
            images=images if output_type == "np" else [Image.fromarray(image) for image in images]
        )

    def _generator(self, precision: str) -> Generator:
        objective = dict(self.config["objective"])
        network = self.unet.network.eval()
        if self._codec is None:
            # Made once: it takes a digest of the weights. A codec of ours is wrapped.
            vae = getattr(self.vae, "network", self.vae)
            self._codec = Codec(vae, "vae", self.config["image_range"])
        return Generator(
            network,
            Objective(**{**objective, "schedule": NoiseSchedule(**objective["schedule"])}),
            self._codec,
            LatentScaling.from_json(dict(self.config["scaling"])),
            network.num_classes,
            network.stride,
            self.device,
            precision,
            network.halo,
        )


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
