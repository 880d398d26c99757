"""Classifying images: what is computed once gives what computing it every time gives, and distinct
points give what all points do.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trainer.classification.table import Predictions, gather_predictions
from trainer.diffusion.label_diffusion import (
    interpolate_map,
    label_probabilities,
    local_shares,
    start_map,
)
from trainer.diffusion.label_schedule import alpha_bars, denoise_labels
from trainer.models.trunks import normalise_images
from trainer.recipes.diffmic_config import (
    Config,
    DenoiserSection,
    DiffusionSection,
    GuidanceSection,
)
from trainer.recipes.diffmic_inference import (
    build_classifier,
    build_denoiser,
    classify,
    guidance_vectors,
    load_pretrained,
    start_generator,
    uses_distinct_points,
)


def make_config(**diffusion) -> Config:
    return Config(
        manifest="none",
        out="none",
        guidance=GuidanceSection(trunk="small", num_regions=3, crop_px=16, attention_width=8),
        denoiser=DenoiserSection(
            image_trunk="small",
            region_trunk="small",
            feature_dim=16,
            kernel=diffusion.pop("kernel", 1),
            time_embedding="table",
            norm="batch",
        ),
        diffusion=DiffusionSection(num_train_timesteps=100, **diffusion),
    )


def networks(config: Config):
    torch.manual_seed(0)
    classifier, denoiser = build_classifier(config, 4).eval(), build_denoiser(config, 4).eval()
    for layer in denoiser.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return classifier, denoiser


def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(7)) * 2 - 1


@pytest.mark.parametrize("start", ["gaussian", "uniform_map", "guided", "gaussian_diagonal"])
def test_encoding_once_gives_the_bits_of_encoding_at_every_step(start):
    config = make_config(start=start, num_points=5, num_samples=1)
    classifier, denoiser = networks(config)
    calls = []
    denoiser.image_encoder.register_forward_hook(lambda *_: calls.append("image"))
    denoiser.region_encoder.register_forward_hook(lambda *_: calls.append("region"))
    found = classify(
        classifier, denoiser, images(), config.diffusion, start_generator(0, 0), shortcut=False
    )
    assert sorted(calls) == ["image", "region"]

    normalised = normalise_images(images())
    with torch.no_grad():
        guidance = classifier(normalised)
        shown = interpolate_map(*guidance_vectors(guidance, "probs"), local_shares(5))

        def uncached(noisy, timestep):
            return denoiser(
                normalised, guidance.crops, noisy, shown, torch.full((2, 1, 1), timestep)
            )

        first = start_map(start, shown, local_shares(5), start_generator(0, 0))
        path = list(denoise_labels(uncached, first, alpha_bars(100), 10))
    assert len(calls) == 2 + 2 * 10
    assert all(torch.equal(item, other) for item, other in zip(found.path, path, strict=True))
    torch.testing.assert_close(found.scores, path[-1].mean(dim=(-2, -1)))
    torch.testing.assert_close(found.path_means()[-1], found.samples[0])


@pytest.mark.parametrize("start", ["uniform_map", "gaussian_diagonal"])
@pytest.mark.parametrize("num_points", [1, 2, 6])
def test_distinct_points_give_the_scores_of_all_points(start, num_points):
    config = make_config(start=start, num_points=num_points, num_samples=3)
    classifier, denoiser = networks(config)
    fast, slow = (
        classify(
            classifier,
            denoiser,
            images(),
            config.diffusion,
            start_generator(1, 2),
            shortcut=shortcut,
        ).samples
        for shortcut in (True, False)
    )
    assert uses_distinct_points(denoiser, config.diffusion)
    # Rounding of one step is 1e-7; ten steps amplify it.
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changes", [{"start": "gaussian"}, {"start": "guided"}, {"start": "uniform_map", "kernel": 3}]
)
def test_the_shortcut_is_not_taken_where_it_would_be_wrong(changes):
    config = make_config(num_points=6, num_samples=2, **changes)
    classifier, denoiser = networks(config)
    assert not uses_distinct_points(denoiser, config.diffusion)
    fast, slow = (
        classify(
            classifier,
            denoiser,
            images(),
            config.diffusion,
            start_generator(1, 2),
            shortcut=shortcut,
        ).samples
        for shortcut in (True, False)
    )
    assert torch.equal(fast, slow)


def test_the_same_seed_gives_the_same_answer_and_samples_differ():
    config = make_config(num_points=4, num_samples=3)
    classifier, denoiser = networks(config)
    first, again, other = (
        classify(classifier, denoiser, images(), config.diffusion, start_generator(0, number))
        for number in (0, 0, 1)
    )
    assert torch.equal(first.samples, again.samples)
    assert not torch.equal(first.samples, other.samples)
    assert first.samples.shape == (3, 2, 4)
    assert not torch.equal(first.samples[0], first.samples[1])
    assert first.samples.abs().max() <= 1


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_steps_are_as_asked(steps):
    config = make_config(num_points=2, num_inference_steps=steps)
    assert (
        len(classify(*networks(config), images(), config.diffusion, start_generator(0, 0)).path)
        == steps
    )


def test_logits_guide_only_where_asked():
    config = make_config()
    guidance = networks(config)[0](normalise_images(images()))
    assert guidance_vectors(guidance, "logits")[0] is guidance.global_logits
    for vector in guidance_vectors(guidance, "probs"):
        torch.testing.assert_close(vector.sum(dim=1), torch.ones(2))


def test_weights_are_random_and_say_so():
    config = make_config()
    message = load_pretrained(config, *networks(config))
    assert message == dict.fromkeys(
        ("guidance.global", "guidance.local", "denoiser.image", "denoiser.region"), "random"
    )


def test_predictions_gather_batches_and_measure_spread():
    config = make_config(num_points=4, num_samples=3)
    classifier, denoiser = networks(config)
    batches = [
        classify(classifier, denoiser, images(), config.diffusion, start_generator(0, number))
        for number in range(2)
    ]
    gathered = gather_predictions(batches)
    assert gathered.samples.shape == (3, 4, 4)
    np.testing.assert_allclose(gathered.scores[2:], batches[1].scores.numpy(), atol=1e-6)
    winner = gathered.scores.argmax(axis=1)
    expected = [np.std(gathered.samples[:, image, winner[image]], ddof=1) for image in range(4)]
    np.testing.assert_allclose(gathered.uncertainty, expected)
    np.testing.assert_allclose(
        gathered.probabilities, label_probabilities(torch.from_numpy(gathered.scores)).numpy()
    )
    np.testing.assert_allclose(gathered.heads()["guidance_fused"].sum(axis=1), 1)


def test_one_sample_has_no_spread():
    nothing = np.zeros((2, 3))
    assert np.isnan(Predictions(np.zeros((1, 2, 3)), nothing, nothing, nothing).uncertainty).all()
