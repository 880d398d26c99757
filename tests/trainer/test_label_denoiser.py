"""The label denoiser: parameters, which points depend on which, and what may be computed once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.diffusion.label_diffusion import interpolate_map, local_shares, point_layout, start_map
from trainer.models.label_denoiser import LabelDenoiser, PointConv, PointNorm, RowNorm
from trainer.models.resnet import ResNet18Trunk, SmallTrunk
from trainer.models.vit import VisionTransformerTrunk

torch.set_num_threads(1)

VARIANTS = [
    (kernel, time, norm)
    for kernel in (1, 3)
    for time in ("table", "sinusoidal")
    for norm in ("batch", "group")
]


def build(
    kernel=1, time_embedding="table", norm="batch", num_regions=4, num_classes=3
) -> LabelDenoiser:
    torch.manual_seed(0)
    made = LabelDenoiser(
        lambda: SmallTrunk(4),
        lambda: SmallTrunk(4),
        num_classes=num_classes,
        num_regions=num_regions,
        feature_dim=32,
        num_train_timesteps=100,
        kernel=kernel,
        time_embedding=time_embedding,
        norm=norm,
    ).eval()
    for layer in made.modules():  # Norms that do nothing would hide mistakes.
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return made


def inputs(num_points=6, batch=2, num_regions=4, num_classes=3) -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(1)
    return {
        "images": torch.randn(batch, 3, 32, 32, generator=noise),
        "crops": torch.randn(batch, num_regions, 3, 16, 16, generator=noise),
        "noisy": torch.randn(batch, num_classes, num_points, num_points, generator=noise),
        "guidance": torch.randn(batch, num_classes, num_points, num_points, generator=noise),
        "timesteps": torch.randint(0, 100, (batch, num_points, num_points), generator=noise),
    }


def changed_points(before: torch.Tensor, after: torch.Tensor) -> set[tuple[int, int]]:
    return {tuple(point) for point in (before != after).any(dim=(0, 1)).nonzero().tolist()}


@pytest.mark.parametrize(("kernel", "time_embedding", "norm"), VARIANTS)
def test_a_point_reaches_its_receptive_field_and_no_further(kernel, time_embedding, norm):
    denoiser, given = build(kernel, time_embedding, norm), inputs(num_points=9)
    reach = 0 if kernel == 1 else 3
    near = {
        (row, column)
        for row in range(4 - reach, 5 + reach)
        for column in range(4 - reach, 5 + reach)
    }
    with torch.no_grad():
        before = denoiser(**given)
        assert before.shape == (2, 3, 9, 9)
        for name in ("noisy", "guidance", "timesteps"):
            other = {**given, name: given[name].clone()}
            other[name][..., 4, 4] = (other[name][..., 4, 4] + 37) % 100
            changed = changed_points(before, denoiser(**other))
            # A changed time reaches one convolution less: the gain comes after it.
            expected = (
                near
                if name != "timesteps" or not reach
                else {(r, c) for r, c in near if max(abs(r - 4), abs(c - 4)) < reach}
            )
            assert changed == expected, name


def test_parameters_of_the_published_head():
    feature_dim, classes, timesteps = 6144, 4, 1000
    with torch.device("meta"):
        denoiser = LabelDenoiser(
            VisionTransformerTrunk,
            ResNet18Trunk,
            num_classes=classes,
            num_regions=6,
            feature_dim=feature_dim,
        )
    head = sum(
        parameter.numel()
        for part in (denoiser.layers, denoiser.head)
        for parameter in part.parameters()
    )
    f = feature_dim
    assert (
        head
        == 2 * classes * f
        + 2 * f**2
        + f * classes
        + classes
        + 3 * f
        + 3 * (timesteps + 1) * f
        + 6 * f
        == 94_076_932
    )
    assert denoiser.mixing.numel() == f * 7
    # The published total, but for the position of a class token (384) that is never made.
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == 132_502_852 - 384


@pytest.mark.parametrize("num_regions", [1, 4, 6])
@pytest.mark.parametrize("num_points", [1, 3, 6])
def test_regions_and_points_are_independent_numbers(num_regions, num_points):
    given = inputs(num_points=num_points, num_regions=num_regions)
    assert build(num_regions=num_regions)(**given).shape == (2, 3, num_points, num_points)


def test_mixing_weights_are_shares():
    denoiser = build()
    torch.testing.assert_close(denoiser.mixing_weights(), torch.full((32, 5), 0.2))
    nn.init.normal_(denoiser.mixing)
    assert (denoiser.mixing_weights() >= 0).all()
    torch.testing.assert_close(denoiser.mixing_weights().sum(dim=-1), torch.ones(32))


def test_features_are_the_weighted_sum_of_image_and_regions():
    denoiser, given = build(), inputs()
    nn.init.normal_(denoiser.mixing)
    with torch.no_grad():
        image = denoiser.image_encoder(given["images"])
        regions = [denoiser.region_encoder(given["crops"][:, region]) for region in range(4)]
        expected = sum(
            source * share
            for source, share in zip([image, *regions], denoiser.mixing_weights().T, strict=True)
        )
        torch.testing.assert_close(denoiser.encode(given["images"], given["crops"]), expected)


@pytest.mark.parametrize(("time_embedding", "norm"), [("table", "batch"), ("sinusoidal", "group")])
def test_six_points_say_what_thirty_six_do(time_embedding, norm):
    denoiser, given = build(1, time_embedding, norm), inputs()
    shares = local_shares(6)
    first, second = given["noisy"][:, :, 0, 0], given["noisy"][:, :, 3, 3]
    guidance = interpolate_map(first, second, shares)
    start = start_map("uniform_map", guidance, shares, torch.Generator().manual_seed(0))
    when = torch.full((2, 1, 1), 40)
    with torch.no_grad():
        features = denoiser.encode(given["images"], given["crops"])
        whole = denoiser.predict(start, guidance, when, features)
        few_shares, weights = point_layout(6, distinct=True)
        few = denoiser.predict(
            start[:, :, :1], interpolate_map(first, second, few_shares), when, features
        )
    steps = [whole.diagonal(offset=k, dim1=-2, dim2=-1) for k in range(6)]
    assert all(torch.allclose(step, step[..., :1].expand_as(step), atol=1e-6) for step in steps)
    torch.testing.assert_close(
        (few * weights).sum(dim=(-2, -1)), whole.mean(dim=(-2, -1)), atol=1e-6, rtol=0
    )


def test_interacting_points_do_not_allow_the_shortcut():
    # The positive control of the test above.
    denoiser, given = build(kernel=3), inputs()
    guidance = interpolate_map(
        given["noisy"][:, :, 0, 0], given["noisy"][:, :, 3, 3], local_shares(6)
    )
    with torch.no_grad():
        whole = denoiser(
            given["images"], given["crops"], guidance, guidance, torch.full((2, 1, 1), 40)
        )
    assert denoiser.points_interact
    assert not torch.allclose(whole[..., 0, 0], whole[..., 3, 3], atol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_batch_of_one_trains(norm):
    build(norm=norm).train()(**inputs(batch=1)).sum().backward()


def test_a_single_row_is_normalised_as_in_evaluation():
    norm, row = RowNorm(4), torch.randn(1, 4)
    trained = norm.train()(row)
    assert torch.equal(trained, norm.eval()(row))
    assert norm.num_batches_tracked == 0
    several = torch.randn(5, 4)
    torch.testing.assert_close(norm.train()(several).mean(dim=0), torch.zeros(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kernel", [1, 3])
def test_point_convolutions_are_convolutions(kernel):
    layer, maps = PointConv(5, 7, kernel, padding=kernel // 2), torch.randn(2, 5, 4, 3)
    expected = nn.functional.conv2d(maps, layer.weight, layer.bias, padding=kernel // 2)
    torch.testing.assert_close(layer(maps), expected)


def test_point_norm_looks_at_no_neighbour():
    norm, maps = PointNorm(2, 8), torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(norm(maps)[:, :, 1, 2], norm(maps[:, :, 1:2, 2:3])[:, :, 0, 0])


def test_training_reaches_every_parameter():
    denoiser = build().train()
    denoiser(**inputs()).square().sum().backward()
    assert [name for name, parameter in denoiser.named_parameters() if parameter.grad is None] == []


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="kernel 2"):
        build(kernel=2)
