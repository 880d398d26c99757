"""What a denoiser is for everything around it: training, memory estimate, sampling, import."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

from jaxtyping import Bool, Float, Integer, Num
from torch import Tensor, nn

from trainer.section import Section


class Denoiser(nn.Module, ABC):
    """A network on noisy latents that knows a mask of classes.

    Attributes:
        num_classes: Class ids 0 .. num_classes - 1 may occur in masks.
        channels: Channels of the latents, in and out.
        stride: Height and width of the latents must be multiples of it; any such size works.
        halo: How many latents around a tile its prediction depends on at most, a multiple of
            `stride`, so that large images can be computed in tiles; None for a prediction that
            depends on the whole image.
        takes_interval: Whether it can predict averages over intervals of times (mean_flow).
        first_class: Parameters whose class tables do not begin at 0, and where they do: what a run
            that continues another one with other classes needs to know.
    """

    first_class: Mapping[str, int] = MappingProxyType({})
    num_classes: int
    channels: int
    stride: int
    halo: int | None = None
    takes_interval: bool = False

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        t: Num[Tensor, " batch *interval"],
        mask: Integer[Tensor, "batch 1 height_px width_px"],
        drop: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the prediction for noisy latents; what it means is the objective's matter.

        Args:
            x: Noisy latents, float [batch, channels, h, w].
            t: Timesteps [batch], whole or fractional, from 0 up to num_train_timesteps - 1. A
                network that `takes_interval` also takes [batch, 3]: the time, the end of an
                interval of times below it, and the guidance scale.
            mask: Class ids at the resolution of the image, uint8 or int64 [batch, 1, H, W], with H
                and W the same whole multiple of h and w. A network that wants them at the
                resolution of the latents averages them with `masks.class_fractions`.
            drop: Samples that get the guidance null (no condition at all) instead of their mask,
                bool [batch]; None for no sample. The null must not be what some mask means.

        Returns:
            Prediction, float [batch, channels, h, w].

        Raises:
            ValueError: For shapes that do not fit, and, on the CPU, for unknown class ids.
        """


class DenoiserConfig(Section, ABC):
    """The options of a denoiser: what `model` holds in the configuration of a run.

    A denoiser's own `Config` declares `name: Literal["its-name"] = "its-name"` and its options with
    their defaults; pydantic validators refuse options that do not go together.
    """

    name: str

    @abstractmethod
    def build(self, num_classes: int, channels: int) -> Denoiser:
        """Return the network with random weights.

        Args:
            num_classes: Number of class ids in the masks.
            channels: Channels of the latents.

        Raises:
            ValueError: When the options do not fit these numbers.
        """
