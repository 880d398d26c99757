"""The benchmark compares like with like: the lineage's way of computing is the same function, and
its operations are those published.
"""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_checks import Differences, loss_differences
from benchmarks.gpu_steps import LineageStep, OurStep, made_plain
from trainer.models.denoisers.footprint import count_flops
from trainer.models.denoisers.mask_unet import Config as MaskUNetConfig
from trainer.models.denoisers.reference_unet import Config, ReferenceUNet

torch.set_num_threads(1)


@torch.no_grad()
@pytest.mark.parametrize("mask_query", ["binary", "class"])
def test_the_plain_network_is_the_same_function(mask_query):
    torch.manual_seed(0)
    network = ReferenceUNet(Config(dim=16, mask_query=mask_query), 5).eval()
    x, t, mask = (
        torch.randn(2, 4, 8, 8),
        torch.tensor([3, 800]),
        torch.randint(0, 5, (2, 1, 64, 64)),
    )
    ours = network(x, t, mask)
    assert torch.allclose(made_plain(network)(x, t, mask), ours, atol=1e-5)


@pytest.mark.slow
def test_the_published_operations():
    with torch.device("meta"):
        network = ReferenceUNet(Config(), 5)
        plain = count_flops(made_plain(network), 512, 8, training=True)
        binary = ReferenceUNet(Config(), 5)
        ours = count_flops(binary, 512, 8, training=True)
        forward = count_flops(binary, 512, 8, training=False)
        mask_unet = count_flops(MaskUNetConfig().build(5, 4), 512, 8, training=True)
    # 595 GFLOP an image at 64 x 64 latents, forward and backward.
    assert plain / 1e9 == pytest.approx(595, rel=0.01)
    assert ours < 0.97 * plain
    assert ours == pytest.approx(3 * forward, rel=0.02)
    assert mask_unet < 0.93 * plain


def test_both_steps_learn():
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    batch = {
        "latents": torch.randn(2, 4, 8, 8),
        "mask": torch.zeros(2, 1, 64, 64, dtype=torch.uint8),
        "noise": torch.randn(2, 4, 8, 8),
    }
    ours = OurStep(ReferenceUNet(Config(dim=16), 5), cpu)
    losses = [float(ours({**batch, "u": torch.tensor([0.2, 0.8])})) for _ in range(12)]
    assert losses[-1] < losses[0]

    class Vae:
        def encode(self, images: torch.Tensor) -> Vae:
            self.latent_dist = self
            return self

        def sample(self) -> torch.Tensor:
            return 50 * batch["latents"]

    plain = LineageStep(
        made_plain(ReferenceUNet(Config(dim=16), 5)),
        Vae(),
        torch.linspace(0.99, 0.01, 1000),
    )
    before = [parameter.detach().clone() for parameter in plain.network.parameters()]
    assert bool(torch.isfinite(plain(torch.zeros(2, 3, 64, 64), batch["mask"])))
    assert any(
        not torch.equal(parameter, old)
        for parameter, old in zip(plain.network.parameters(), before, strict=True)
    )


@pytest.mark.slow
def test_a_device_is_compared_with_the_cpu():
    torch.manual_seed(0)
    network = MaskUNetConfig(dim=16).build(5, 4)
    found = loss_differences(network, torch.device("cpu"), 5)
    assert 0 < found.largest < 0.001
    assert found.resumed == 0
    assert found.is_alike
    assert not Differences(0.02, 0.0).is_alike
    assert not Differences(0.0, 0.02).is_alike


@pytest.mark.slow
def test_a_lease_ends_in_time_and_keeps_what_was_measured(tmp_path, monkeypatch):
    table = tmp_path / "gpu.md"
    words = ["gpu", "--device", "cpu", "--small", "--lease", "--seconds", "1", "--write", table]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    assert gpu.main() == 0
    rows = json.loads(table.with_suffix(".json").read_text())["rows"]
    assert "losses differ by at most" in rows[0]["note"]
    assert "(as expected)" in rows[0]["note"]
    assert rows[-1]["note"] == "no time was left"
    assert {row["what"].partition(",")[0] for row in rows} > {"train mask-unet", "encode"}
    assert len(table.read_text().splitlines()) == len(rows) + 4
