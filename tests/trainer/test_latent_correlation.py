"""The flow shift for latents: correlation of neighbours, and what noise in common regions does."""

from __future__ import annotations

import pytest
import torch

from trainer.data.latent_correlation import fit_flow_shift, measure_correlation


def correlated(share: float, count: int = 64, side: int = 48) -> torch.Tensor:
    """Fields of unit variance whose correlation falls as share^distance, along both axes."""
    field = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    for axis in (-1, -2):
        parts = list(field.unbind(axis))
        for index in range(1, side):
            parts[index] = share * parts[index - 1] + (1 - share**2) ** 0.5 * parts[index]
        field = torch.stack(parts, axis)
    return field


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_the_correlation_is_that_of_the_field(share: float) -> None:
    field = correlated(share)
    scale = torch.tensor([0.1, 1.0, 9.0]).view(1, 3, 1, 1)
    assert measure_correlation(field * scale + 5) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_the_shift_evens_out_what_regions_have_in_common(share: float) -> None:
    """Power of the mean over a crop, signal against noise: larger by the square of the shift."""
    field = correlated(share, count=4000, side=40)
    inner = field[:, :, 12:28, 12:28]
    gain = float(inner.mean((2, 3)).var() * 16 * 16)
    # The mean over a crop that is not endless has a little less of it.
    assert 0.6 * fit_flow_shift(share) ** 2 < gain < fit_flow_shift(share) ** 2
    assert fit_flow_shift(0.0) == fit_flow_shift(-0.2) == 1
