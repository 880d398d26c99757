"""What a mask was before JPEG, where values alone do not say: a search among the labelings that
JPEG turns into what is there. Pure.

JPEG keeps of each 8x8 block the multiple of a known step that is nearest to each coefficient. Of
all labelings whose coefficients round to those that were kept, likely ones lie near what is seen
and have short boundaries, across block borders too. Such labelings are drawn by Gibbs sampling, and
each pixel takes the label it has most often: the choice with the fewest wrong pixels to be expected
(marginal posterior mode; Marroquin, Mitter and Poggio 1987, JASA 82(397)).

A block that shows one label may have held a sliver of another, which left no trace; it stays as it
is and counts as a neighbour only.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from histoprep.lossy.blocks import BLOCK_PX, as_blocks

# Draws, and how many of the first ones do not count; beginning hot, so that whole boundaries can
# move.
SWEEPS, _UNCOUNTED, _HOT = 16, 7, 3.0
# More blocks than this a mask take too long: 3 ms each.
MAX_BLOCKS = 6000
# Costs: of a coefficient beyond its interval, squared; of a pixel among other labels only; of a
# squared
# difference to what is seen, for the steps of quality 75.
_BEYOND_COST, _BOUNDARY_COST, _DISTANCE_COST = 2.0, 8.0, 0.3
_REACH_PX, _SIGMA_PX = 2, 1.2
_PIXELS = BLOCK_PX * BLOCK_PX
# Table K.1 of ITU-T T.81, as encoders use it for quality 50.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


def _cosines() -> np.ndarray:
    """Return the coefficients of each single pixel, [pixels, coefficients]: ITU-T T.81, A.3.3,
    orthonormal.
    """
    place = np.arange(BLOCK_PX)
    wave = np.cos((2 * place[None] + 1) * place[:, None] * np.pi / 16) / 2
    wave[0] = np.sqrt(1 / 8)
    result: np.ndarray = (
        np.einsum("ui,vj->ijuv", wave, wave).reshape(_PIXELS, _PIXELS).astype(np.float32)
    )
    return result


_WAVES = _cosines()


def quantisation_steps(quality: int) -> np.ndarray:
    """Return the steps that libjpeg rounds luminance coefficients to at `quality` from 50 to 100,
    float32 [64].
    """
    result: np.ndarray = (
        np.clip((_LUMINANCE * (200 - 2 * quality) + 50) // 100, 1, 255).astype(np.float32).ravel()
    )
    return result


def kept_coefficients(seen: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the coefficients that blocks, uint8 [blocks, 8, 8], were probably decoded from,
    float32 [blocks, 64].

    Decoding cut off what was below 0 or above 255; such pixels are put back where the other ones
    say they were, which finds not all: next to a step of 255, one coefficient in fifteen stays
    wrong.
    """
    values = seen.reshape(-1, _PIXELS).astype(np.float32)
    guess = values
    for _ in range(8):
        # The mean is stored less 128, so that its multiples are those of the difference.
        coefficients = (guess - 128) @ _WAVES
        coefficients = np.round(coefficients / steps) * steps
        decoded = coefficients @ _WAVES.T + 128
        guess = np.clip(decoded, values - 0.5, values + 0.5)
        guess = np.where(
            (values == 0) & (decoded < 0) | (values == 255) & (decoded > 255), decoded, guess
        )
    coefficients[:, 0] += 128 * BLOCK_PX
    result: np.ndarray = coefficients
    return result


@dataclass(slots=True)
class _Search:
    """Labels with a frame of `_REACH_PX`, flat; for each block searched its first pixel there, its
    labels to choose from and its coefficients.
    """

    labels: np.ndarray
    width: int
    corner: np.ndarray
    choices: np.ndarray
    excess: np.ndarray
    half_steps: np.ndarray
    distance_cost: float


def search_blocks(
    labels: np.ndarray,
    seen: np.ndarray,
    where: tuple[np.ndarray, np.ndarray],
    choices: np.ndarray,
    quality: int,
) -> np.ndarray:
    """Return better labels of some blocks, uint8 [blocks, 8, 8]; the same input gives the same
    labels.

    `labels` is a first repair of the whole mask, uint8 of whole blocks, `seen` [blocks, 8, 8] what
    came out of JPEG in the blocks at `where` (rows, columns), and `choices` the labels each may
    have, int16 [blocks, choices], -1 for none.
    """
    framed = np.pad(labels, _REACH_PX, mode="edge").astype(np.int16)
    width = framed.shape[1]
    steps = quantisation_steps(quality)
    excess = as_blocks(labels)[where].reshape(-1, _PIXELS).astype(
        np.float32
    ) @ _WAVES - kept_coefficients(seen, steps)
    corner = (where[0] * BLOCK_PX + _REACH_PX) * width + where[1] * BLOCK_PX + _REACH_PX
    state = _Search(
        framed.ravel(),
        width,
        corner,
        choices,
        excess,
        steps / 2,
        _DISTANCE_COST * 50 / max(200 - 2 * quality, 1),
    )
    rng = np.random.default_rng(0)
    votes = np.zeros((len(seen), _PIXELS, choices.shape[1]), np.float32)
    for sweep in range(SWEEPS):
        _sweep(
            state,
            max(1.0, _HOT - (_HOT - 1) * sweep / _UNCOUNTED),
            rng,
            votes if sweep >= _UNCOUNTED else None,
        )
    best = votes.argmax(axis=2)
    return (
        np.take_along_axis(choices, best, axis=1).astype(np.uint8).reshape(-1, BLOCK_PX, BLOCK_PX)
    )


def _sweep(state: _Search, heat: float, rng: np.random.Generator, votes: np.ndarray | None) -> None:
    """Draw every pixel near a boundary anew; pixels at the same place of their blocks are never
    neighbours and are drawn at once.
    """
    square = np.ones((2 * _REACH_PX + 1, 2 * _REACH_PX + 1), np.uint8)
    whole = state.labels.reshape(-1, state.width)
    near_boundary = (cv2.erode(whole, square) != cv2.dilate(whole, square)).ravel()
    offsets, weights = _neighbours(state.width)
    for pixel in rng.permutation(_PIXELS):
        at = state.corner + pixel // BLOCK_PX * state.width + pixel % BLOCK_PX
        chosen = np.flatnonzero(near_boundary[at])
        if votes is not None:
            still = np.flatnonzero(~near_boundary[at])
            votes[still, pixel] += state.choices[still] == state.labels[at[still], None]
        if len(chosen):
            cost = _costs(state, chosen, at[chosen], pixel, offsets, weights)
            if votes is not None:
                share = np.exp(-cost)
                votes[chosen, pixel] += share / share.sum(axis=1, keepdims=True)
            # The largest of -cost plus Gumbel noise is a draw from exp(-cost).
            drawn = (rng.gumbel(size=cost.shape) - cost / heat).argmax(axis=1)
            new = state.choices[chosen, drawn]
            state.excess[chosen] += (new - state.labels[at[chosen]])[:, None] * _WAVES[pixel]
            state.labels[at[chosen]] = new


def _neighbours(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return flat offsets and weights of the pixels around one; weights add up to one."""
    place = np.arange(-_REACH_PX, _REACH_PX + 1)
    distance = place[:, None] ** 2 + place**2
    inside = (distance > 0) & (distance <= _REACH_PX**2 + 1)
    weights = np.exp(-distance[inside] / (2 * _SIGMA_PX**2))
    return (place[:, None] * width + place)[inside], (weights / weights.sum()).astype(np.float32)


def _costs(
    state: _Search,
    chosen: np.ndarray,
    at: np.ndarray,
    pixel: int,
    offsets: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """Return what each choice would cost at one pixel of the chosen blocks, float32 [blocks,
    choices], the cheapest 0.
    """
    choices, around = state.choices[chosen], state.labels[at[:, None] + offsets]
    alike = np.stack([(around == choice[:, None]) @ weights for choice in choices.T], axis=1)
    change = (choices - state.labels[at][:, None]).astype(np.float32)
    excess = state.excess[chosen][:, None] + change[..., None] * _WAVES[pixel]
    beyond = np.maximum(np.abs(excess) - state.half_steps, 0)
    cost = (
        _BEYOND_COST * (beyond**2).sum(axis=2)
        + state.distance_cost * (excess**2).sum(axis=2)
        - _BOUNDARY_COST * alike
    )
    cost[choices < 0] = np.inf
    return np.asarray(cost - cost.min(axis=1, keepdims=True), np.float32)
