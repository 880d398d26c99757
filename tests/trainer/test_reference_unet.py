"""The reference network against a slow one written from its description alone, its counts, and what
its binary queries can tell apart.
"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trainer.models.denoisers.masks import check_masks, class_fractions
from trainer.models.denoisers.reference_unet import Config, ReferenceUNet

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]
HEADS, WIDTH = 4, 32


# The slow network: plain functions over a state dict in float64, explicit softmax matrices, no
# module of ours.


def _conv(state: dict[str, Tensor], name: str, x: Tensor, **more: int) -> Tensor:
    return functional.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **more)


def _linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def _mlp(state: dict[str, Tensor], name: str, first: int, x: Tensor) -> Tensor:
    return _linear(state, f"{name}.{first + 2}", _gelu(_linear(state, f"{name}.{first}", x)))


def _time_embedding(t: Tensor, dim: int) -> Tensor:
    rows = []
    for value in t.tolist():
        angles = [value * 10_000 ** (-i / (dim / 2 - 1)) for i in range(dim // 2)]
        rows.append([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    return torch.tensor(rows, dtype=torch.float64)


def _standardised(weight: Tensor) -> Tensor:
    made = torch.empty_like(weight)
    for index, item in enumerate(weight):
        made[index] = (item - item.mean()) / torch.sqrt(((item - item.mean()) ** 2).mean() + 1e-5)
    return made


def _group_norm(state: dict[str, Tensor], name: str, x: Tensor, groups: int) -> Tensor:
    made = torch.empty_like(x)
    size = x.shape[1] // groups
    for group in range(groups):
        part = x[:, group * size : (group + 1) * size]
        mean = part.mean((1, 2, 3), keepdim=True)
        variance = ((part - mean) ** 2).mean((1, 2, 3), keepdim=True)
        made[:, group * size : (group + 1) * size] = (part - mean) / torch.sqrt(variance + 1e-5)
    return made * state[f"{name}.weight"].view(1, -1, 1, 1) + state[f"{name}.bias"].view(
        1, -1, 1, 1
    )


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _half_block(
    state: dict[str, Tensor],
    name: str,
    x: Tensor,
    groups: int,
    scale_shift: tuple[Tensor, Tensor] | None,
) -> Tensor:
    x = functional.conv2d(
        x, _standardised(state[f"{name}.proj.weight"]), state[f"{name}.proj.bias"], padding=1
    )
    x = _group_norm(state, f"{name}.norm", x, groups)
    if scale_shift is not None:
        x = x * (scale_shift[0] + 1) + scale_shift[1]
    return _silu(x)


def _block(
    state: dict[str, Tensor], name: str, x: Tensor, t: Tensor, c: Tensor, groups: int
) -> Tensor:
    both = _linear(state, f"{name}.mlp.1", _silu(torch.cat((t, c), 1)))
    out = both.shape[1] // 2
    scale_shift = (both[:, :out, None, None], both[:, out:, None, None])
    y = _half_block(
        state,
        f"{name}.block2",
        _half_block(state, f"{name}.block1", x, groups, scale_shift),
        groups,
        None,
    )
    return y + (_conv(state, f"{name}.res_conv", x) if f"{name}.res_conv.weight" in state else x)


def _query_input(
    state: dict[str, Tensor],
    mask: Tensor,
    height: int,
    width: int,
    dim: int,
    mode: str,
    drop: Tensor,
) -> Tensor:
    """What the query convolution reads, [batch, dim, height, width], pixel by pixel."""
    table = state["classes_emb.weight"]
    factor = mask.shape[-1] // width
    made = torch.zeros(len(mask), dim, height, width, dtype=torch.float64)
    for b in range(len(mask)):
        for i in range(height):
            for j in range(width):
                square = mask[
                    b, 0, i * factor : (i + 1) * factor, j * factor : (j + 1) * factor
                ].long()
                if drop[b]:
                    continue
                if mode == "binary":
                    made[b, :, i, j] = float(square.max() > 0)
                else:
                    row = table[square.flatten()].mean(0)
                    made[b, :, i, j] = row.repeat(dim // len(row))
    return made


def _attention(
    state: dict[str, Tensor], name: str, x: Tensor, mask: Tensor, mode: str, drop: Tensor
) -> Tensor:
    batch, dim, height, width = x.shape
    mean = x.mean(1, keepdim=True)
    normed = (
        (x - mean)
        / torch.sqrt(((x - mean) ** 2).mean(1, keepdim=True) + 1e-5)
        * state[f"{name}.fn.norm.g"]
    )
    kv = _conv(state, f"{name}.fn.fn.to_kv", normed).reshape(batch, 2, HEADS, WIDTH, height * width)
    q = _conv(
        state, f"{name}.fn.fn.to_q", _query_input(state, mask, height, width, dim, mode, drop)
    ).reshape(batch, HEADS, WIDTH, height * width)
    out = torch.empty_like(q)
    for b in range(batch):
        for head in range(HEADS):
            scores = q[b, head].T @ kv[b, 0, head] / math.sqrt(WIDTH)
            weights = torch.exp(scores - scores.max(1, keepdim=True).values)
            out[b, head] = kv[b, 1, head] @ (weights / weights.sum(1, keepdim=True)).T
    return x + _conv(
        state, f"{name}.fn.fn.to_out", out.reshape(batch, HEADS * WIDTH, height, width)
    )


def slow_network(
    state: dict[str, Tensor],
    config: Config,
    x: Tensor,
    t: Tensor,
    mask: Tensor,
    drop: Tensor,
) -> Tensor:
    """Section 1 of the description, in float64."""
    state = {name: value.double() for name, value in state.items()}
    dim, groups, mode, blocks = (
        config.dim,
        config.resnet_block_groups,
        config.mask_query,
        config.block_per_layer,
    )
    table = state["classes_emb.weight"]
    embedded = torch.zeros(len(x), dim, dtype=torch.float64)
    for b in range(len(x)):
        ids = mask[b].flatten().long()
        if not drop[b]:
            embedded[b] = (
                table[ids].mean(0) if config.class_embedding == "fraction" else table[ids.max()]
            )
    c = _mlp(state, "classes_mlp", 0, embedded)
    time = _mlp(state, "time_mlp", 1, _time_embedding(t, dim))
    x = r = _conv(state, "init_conv", x.double(), padding=3)
    skips = []
    num_stages = len(config.dim_mults)
    for stage in range(num_stages):
        for index in range(blocks):
            x = _block(state, f"downs.{stage}.{index}", x, time, c, groups)
            if index < blocks - 1:
                skips.append(x)
        x = _attention(state, f"downs.{stage}.{blocks}", x, mask, mode, drop)
        skips.append(x)
        last = stage == num_stages - 1
        x = (
            _conv(state, f"downs.{stage}.{blocks + 1}", x, padding=1)
            if last
            else _conv(state, f"downs.{stage}.{blocks + 1}", x, stride=2, padding=1)
        )
    x = _block(state, "mid_block1", x, time, c, groups)
    x = _attention(state, "mid_attn", x, mask, mode, drop)
    x = _block(state, "mid_block2", x, time, c, groups)
    for stage in range(num_stages):
        for index in range(blocks):
            x = _block(
                state, f"ups.{stage}.{index}", torch.cat((x, skips.pop()), 1), time, c, groups
            )
        x = _attention(state, f"ups.{stage}.{blocks}", x, mask, mode, drop)
        if stage == num_stages - 1:
            x = _conv(state, f"ups.{stage}.{blocks + 1}", x, padding=1)
        else:
            x = _conv(
                state,
                f"ups.{stage}.{blocks + 1}.1",
                x.repeat_interleave(2, 2).repeat_interleave(2, 3),
                padding=1,
            )
    x = _block(state, "final_res_block", torch.cat((x, r), 1), time, c, groups)
    return _conv(state, "final_conv", x)


def _random_network(config: Config, num_classes: int = 5, seed: int = 0) -> ReferenceUNet:
    """A network whose every parameter is random, gains and biases too, as after training."""
    torch.manual_seed(seed)
    network = ReferenceUNet(config, num_classes).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith((".g", "norm.weight")):
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.2)
            elif "to_q" in name or "to_kv" in name:
                # Sharp attention: a wrong query must show.
                parameter.mul_(3)
    return network


def _batch(
    num_classes: int, height: int = 8, width: int = 12
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(3, 4, height, width, generator=generator)
    t = torch.tensor([0, 513, 999])
    mask = torch.randint(
        0, num_classes, (3, 1, 8 * height, 8 * width), generator=generator, dtype=torch.uint8
    )
    # Squares of four latents that are labelled in part.
    mask[0, :, :, 20:] = 0
    mask[2, :, 20:] = 3
    return x, t, mask, torch.tensor([False, True, False])


def _relative_error(ours: Tensor, slow: Tensor) -> float:
    return float((ours.double() - slow).norm() / slow.norm())


@torch.no_grad()
@pytest.mark.parametrize("mask_query", ["binary", "class"])
@pytest.mark.parametrize("class_embedding", ["fraction", "max"])
def test_it_is_the_described_function(mask_query, class_embedding):
    config = Config(dim=16, mask_query=mask_query, class_embedding=class_embedding)
    network = _random_network(config)
    x, t, mask, drop = _batch(5)
    slow = slow_network(network.state_dict(), config, x, t, mask, drop)
    assert _relative_error(network(x, t, mask, drop), slow) < 1e-5
    assert (
        _relative_error(
            network(x, t, mask.long()),
            slow_network(network.state_dict(), config, x, t, mask, torch.zeros(3, dtype=bool)),
        )
        < 1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("mask_query", ["binary", "class"])
def test_in_float64_it_is_the_described_function_to_the_last_digits(mask_query):
    config = Config(dim=16, mask_query=mask_query)
    network = _random_network(config).double()
    x, t, mask, drop = _batch(5)
    assert (
        _relative_error(
            network(x.double(), t, mask, drop),
            slow_network(network.state_dict(), config, x, t, mask, drop),
        )
        < 1e-11
    )


@torch.no_grad()
def test_other_depths_widths_and_blocks_are_the_described_function():
    config = Config(
        dim=24,
        dim_mults=(1, 3),
        resnet_block_groups=4,
        block_per_layer=3,
        mask_query="class",
    )
    network = _random_network(config, 7)
    x, t, mask, drop = _batch(7)
    assert (
        _relative_error(
            network(x, t, mask, drop), slow_network(network.state_dict(), config, x, t, mask, drop)
        )
        < 1e-5
    )


@torch.no_grad()
def test_the_comparison_sees_small_deviations():
    config = Config(dim=16)
    network = _random_network(config)
    x, t, mask, drop = _batch(5)
    slow = slow_network(network.state_dict(), config, x, t, mask, drop)
    network.mid_attn.fn.norm.g.mul_(1.001)
    assert _relative_error(network(x, t, mask, drop), slow) > 1e-5


@pytest.mark.parametrize(("num_classes", "expected"), [(5, 172_101_124), (10, 172_102_404)])
def test_parameter_counts(num_classes, expected):
    with torch.device("meta"):
        network = ReferenceUNet(Config(), num_classes)
        other = ReferenceUNet(Config(mask_query="class", class_embedding="max"), num_classes)
    assert sum(p.numel() for p in network.parameters()) == expected
    assert {n: p.shape for n, p in network.named_parameters()} == {
        n: p.shape for n, p in other.named_parameters()
    }


def test_parameter_counts_by_part():
    with torch.device("meta"):
        network = ReferenceUNet(Config(), 11)
    assert {
        name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()
    } == {
        "init_conv": 50_432,
        "time_mlp": 1_312_768,
        "classes_emb": 2_816,
        "classes_mlp": 1_312_768,
        "downs": 30_953_216,
        "mid_block1": 23_076_864,
        "mid_attn": 526_336,
        "mid_block2": 23_076_864,
        "ups": 88_838_144,
        "final_res_block": 2_951_424,
        "final_conv": 1_028,
    }


@torch.no_grad()
def test_binary_queries_take_two_values_and_know_no_class():
    network = _random_network(Config(dim=16))
    attention = network.mid_attn.fn.fn
    _, _, mask, _ = _batch(5)
    features = torch.randn(3, 64, 2, 3)
    query = network.condition(mask, (8, 12)).queries[-1]
    found = attention(features, query)
    for image in found:
        assert len(np.unique(image.flatten(1).T.numpy(), axis=0)) <= 2
    swapped = torch.where(mask == 2, 3, mask)
    assert torch.equal(network.condition(swapped, (8, 12)).queries[-1], query)


@torch.no_grad()
def test_class_queries_tell_classes_apart_where_the_class_is():
    network = _random_network(Config(dim=16, mask_query="class"))
    mask = torch.full((1, 1, 64, 64), 2)
    other = mask.clone()
    other[..., :32] = 3
    features = torch.randn(1, 16, 8, 8)
    attention = network.downs[0][2].fn.fn
    first, second = (
        attention(features, network.condition(item, (8, 8)).queries[0]) for item in (mask, other)
    )
    assert torch.allclose(first[..., 4:], second[..., 4:], atol=1e-6)
    assert float((first[..., :4] - second[..., :4]).abs().min(1).values.max()) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("mask_query", ["binary", "class"])
def test_the_null_is_the_same_for_every_mask_and_belongs_to_no_class(mask_query):
    network = _random_network(Config(dim=16, mask_query=mask_query))
    x, t, mask, _ = _batch(5)
    drop = torch.ones(3, dtype=torch.bool)
    null = network(x, t, mask, drop)
    assert torch.equal(null, network(x, t, torch.zeros_like(mask), drop))
    for class_id in range(5):
        assert not torch.allclose(null, network(x, t, torch.full_like(mask, class_id)), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("mask_query", ["binary", "class"])
@pytest.mark.parametrize("class_embedding", ["fraction", "max"])
@pytest.mark.parametrize("null_class", [0, 3])
def test_a_class_can_be_the_null_of_published_weights(mask_query, class_embedding, null_class):
    network = _random_network(
        Config(
            dim=16, mask_query=mask_query, class_embedding=class_embedding, null_class=null_class
        )
    )
    x, t, mask, drop = _batch(5)
    expected = torch.where(
        drop[:, None, None, None],
        network(x, t, torch.full_like(mask, null_class)),
        network(x, t, mask),
    )
    assert torch.allclose(network(x, t, mask, drop), expected, atol=1e-5)


@torch.no_grad()
def test_low_precision_is_the_same_function():
    network = _random_network(Config(dim=16, mask_query="class"))
    x, t, mask, drop = _batch(5)
    exact = network(x, t, mask, drop).double()
    with torch.autocast("cpu", torch.bfloat16):
        assert _relative_error(network(x, t, mask, drop), exact) < 0.05
    assert _relative_error(network.to(torch.bfloat16)(x.bfloat16(), t, mask, drop), exact) < 0.1


@pytest.mark.parametrize("mask_query", ["binary", "class"])
@pytest.mark.slow
def test_one_graph_and_every_parameter_learns(mask_query):
    command = [sys.executable, str(Path(__file__).with_name("one_graph.py")), mask_query]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout == ""


def test_fractions_are_shares_of_pixels():
    rng = np.random.default_rng(3)
    mask = rng.integers(0, 5, (2, 1, 16, 24))
    found = class_fractions(torch.from_numpy(mask), 5, 8).numpy()
    for b, k, i, j in np.ndindex(2, 5, 2, 3):
        assert found[b, k, i, j] == pytest.approx(
            (mask[b, 0, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] == k).mean()
        )


@pytest.mark.parametrize(
    ("size", "mask", "words"),
    [
        ((8, 8), torch.zeros(1, 1, 60, 64), "n \\* 8"),
        ((6, 8), torch.zeros(1, 1, 48, 64), "multiples of 4"),
        ((8, 8), torch.full((1, 1, 64, 64), 5), "0 to 4"),
        ((8, 8), torch.full((1, 1, 64, 64), -1), "0 to 4"),
    ],
)
def test_what_does_not_fit_is_refused(size, mask, words):
    network = ReferenceUNet(Config(dim=16), 5)
    with pytest.raises(ValueError, match=words):
        network(torch.zeros(1, 4, *size), torch.zeros(1), mask.long())


def test_masks_without_a_channel_are_refused():
    with pytest.raises(ValueError, match="batch, 1"):
        check_masks(torch.zeros(1, 64, 64).long(), (8, 8), num_classes=5, stride=1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"dim": 5}, "multiple of 2"),
        ({"dim": 2}, "greater than or equal to 4"),
        ({"dim_mults": ()}, "at least 1 item"),
        ({"dim_mults": (1, 0)}, "greater than or equal to 1"),
        ({"mask_query": "klass"}, "'binary' or 'class'"),
        ({"class_embedding": "mean"}, "'fraction' or 'max'"),
        ({"null_class": 5}, "no class id: 0 to 4 expected"),
        ({"resnet_block_groups": 3}, "must divide dim"),
        ({"block_per_layer": 0}, "greater than or equal to 1"),
        ({"width": 64}, "not permitted"),
    ],
)
def test_networks_that_cannot_be_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Config(**{"dim": 16, **wrong}).build(num_classes=5, channels=4)
