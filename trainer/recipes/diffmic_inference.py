"""Classifying images: the guidance classifier once, the encoders once, then the label map denoised
from several starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.diffusion.label_diffusion import (
    DIAGONAL_STARTS,
    draw_start,
    interpolate_map,
    point_layout,
    start_from,
)
from trainer.diffusion.label_schedule import alpha_bars, denoise_labels
from trainer.models.guidance_classifier import Guidance, GuidanceClassifier
from trainer.models.label_denoiser import LabelDenoiser
from trainer.models.trunks import build_trunk, load_trunk_weights, normalise_images
from trainer.recipes.diffmic_config import Config, DiffusionSection


@dataclass(frozen=True, slots=True)
class Classified:
    """What is said of B images: `samples` [S, B, C] are the mean denoised labels of each denoising,
    in [-1, 1] when clipped.
    """

    guidance: Guidance
    samples: Tensor
    path: tuple[Tensor, ...]
    """The map [B, C, h, w] of the first denoising after each step."""
    weights: Tensor
    """[h, w]: the share of each point of the map in the mean."""

    @property
    def scores(self) -> Tensor:
        """Return the scores [B, C]: the mean over denoisings."""
        return self.samples.mean(dim=0)

    def path_means(self) -> Tensor:
        """Return the mean labels [steps, B, C] after each step of the first denoising."""
        return torch.stack([(step * self.weights).sum(dim=(-2, -1)) for step in self.path])


def build_classifier(config: Config, num_classes: int) -> GuidanceClassifier:
    """Return the guidance classifier of a configuration with random weights."""
    settings = config.guidance
    return GuidanceClassifier(
        lambda: build_trunk(settings.trunk, frozen=settings.freeze),
        num_classes=num_classes,
        num_regions=settings.num_regions,
        crop_px=settings.crop_px,
        attention_width=settings.attention_width,
        top_share=settings.top_share,
        roi_saliency=settings.roi_saliency,
        red_crops=settings.red_crops,
    )


def build_denoiser(config: Config, num_classes: int) -> LabelDenoiser:
    """Return the label denoiser of a configuration with random weights."""
    settings = config.denoiser
    return LabelDenoiser(
        lambda: build_trunk(settings.image_trunk, frozen=settings.freeze),
        lambda: build_trunk(settings.region_trunk, frozen=settings.freeze),
        num_classes=num_classes,
        num_regions=config.guidance.num_regions,
        feature_dim=settings.feature_dim,
        num_train_timesteps=config.diffusion.num_train_timesteps,
        kernel=settings.kernel,
        time_embedding=settings.time_embedding,
        norm=settings.norm,
    )


def load_pretrained(
    config: Config, classifier: GuidanceClassifier | None, denoiser: LabelDenoiser | None
) -> dict[str, str]:
    """Fill the trunks from the files of the configuration; return where the weights of each came
    from ("random" without a file).
    """
    places: dict[str, tuple[torch.nn.Module, str | None]] = {}
    if classifier is not None:
        places |= {
            "guidance.global": (classifier.global_trunk, config.guidance.weights),
            "guidance.local": (classifier.local_trunk, config.guidance.weights),
        }
    if denoiser is not None:
        places["denoiser.image"] = (denoiser.image_encoder.trunk, config.denoiser.image_weights)
        places["denoiser.region"] = (denoiser.region_encoder.trunk, config.denoiser.region_weights)
    return {
        name: str(load_trunk_weights(trunk, source)) for name, (trunk, source) in places.items()
    }


def guidance_vectors(guidance: Guidance, kind: str) -> tuple[Tensor, Tensor]:
    """Return the global and local vectors [B, C] that the guidance map interpolates: logits as they
    are, or their softmax.
    """
    vectors = (guidance.global_logits, guidance.local_logits)
    return vectors if kind == "logits" else (vectors[0].softmax(dim=1), vectors[1].softmax(dim=1))


def uses_distinct_points(denoiser: LabelDenoiser, diffusion: DiffusionSection) -> bool:
    """Return whether N points give exactly the result of N x N: points do not interact and start
    equal wherever |i - j| is.
    """
    return not denoiser.points_interact and diffusion.start in DIAGONAL_STARTS


@torch.no_grad()
def classify(
    classifier: GuidanceClassifier,
    denoiser: LabelDenoiser,
    images: Tensor,
    diffusion: DiffusionSection,
    generator: torch.Generator,
    *,
    shortcut: bool = True,
) -> Classified:
    """Return the classification of images [B, 3, H, W] in [-1, 1]; both networks in evaluation mode
    on the device of the images.

    `generator` (of the CPU) gives the starts. `shortcut` evaluates only distinct points where that
    is exact.
    """
    distinct = shortcut and uses_distinct_points(denoiser, diffusion)
    draws = draw_starts(diffusion, len(images), classifier.num_classes, generator, distinct)
    return classify_from(classifier, denoiser, images, diffusion, draws, distinct=distinct)


def draw_starts(
    diffusion: DiffusionSection,
    num_images: int,
    num_classes: int,
    generator: torch.Generator,
    distinct: bool,
) -> Tensor:
    """Return what is drawn for the starts of all denoisings, float32 [samples, images, classes, h,
    w]; `distinct` as in `point_layout`.
    """
    shares, _ = point_layout(diffusion.num_points, distinct=distinct)
    size = (num_images, num_classes)
    return torch.stack(
        [draw_start(diffusion.start, size, shares, generator) for _ in range(diffusion.num_samples)]
    )


def classify_from(
    classifier: GuidanceClassifier,
    denoiser: LabelDenoiser,
    images: Tensor,
    diffusion: DiffusionSection,
    draws: Tensor,
    *,
    distinct: bool,
) -> Classified:
    """Return the classification of images [B, 3, H, W] in [-1, 1] for drawn starts: a function
    without randomness of its own, which torch.export can follow.

    Args:
        classifier: Of the guidance, in evaluation mode.
        denoiser: Of the labels, in evaluation mode.
        images: float32 [B, 3, H, W].
        diffusion: How labels are denoised.
        draws: As `draw_starts` returns them.
        distinct: As in `point_layout`.
    """
    normalised = normalise_images(images)
    guidance = classifier(normalised)
    features = denoiser.encode(normalised, guidance.crops)
    shares, weights = point_layout(diffusion.num_points, distinct=distinct)
    guidance_map = interpolate_map(*guidance_vectors(guidance, diffusion.guidance), shares)
    levels, weights = alpha_bars(diffusion.num_train_timesteps), weights.to(guidance_map)

    def predict(noisy: Tensor, timestep: int) -> Tensor:
        return denoiser.predict(
            noisy,
            guidance_map,
            torch.full((noisy.shape[0], 1, 1), timestep, device=noisy.device),
            features,
        )

    samples: list[Tensor] = []
    first_path: tuple[Tensor, ...] = ()
    for number, drawn in enumerate(draws):
        path = tuple(
            denoise_labels(
                predict,
                start_from(diffusion.start, drawn.to(guidance_map), guidance_map),
                levels,
                diffusion.num_inference_steps,
                prediction_type=diffusion.prediction_type,
                clip=diffusion.clip,
            )
        )
        first_path = path if number == 0 else first_path
        samples.append((path[-1] * weights).sum(dim=(-2, -1)))
    return Classified(guidance, torch.stack(samples), first_path, weights)


def start_generator(seed: int, number: int) -> torch.Generator:
    """Return the generator of the starts of batch `number`."""
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
