"""How much the classes of a mask explain of the optical density of an image."""

from __future__ import annotations

import numpy as np

# Smallest side of the pyramid: below, too few cells are left to say anything.
_MIN_SIDE = 4
# Differences of neighbours that count as independent: each cell gives two, and sizes overlap.
_INDEPENDENT = 0.375
# Evidence of one size of cells counts by its logarithm beyond this: one clear tile must not outvote
# ten.
DAMPED = 5.0
_RIDGE = 1e-4
_ALMOST_ALL = 0.9999


def differences(planes: np.ndarray) -> list[np.ndarray]:
    """Return the differences of neighbouring cells, float32 [planes, pairs], first of the cells as
    they are, then of cells twice as large, and so on.

    Args:
        planes: float32 [planes, rows, columns].
    """
    found = []
    while min(planes.shape[1:]) >= _MIN_SIDE:
        number, rows, columns = planes.shape
        split = rows * (columns - 1)
        pairs = np.empty((number, split + (rows - 1) * columns), np.float32)
        across = pairs[:, :split].reshape(number, rows, columns - 1)
        down = pairs[:, split:].reshape(number, rows - 1, columns)
        np.subtract(planes[:, :, 1:], planes[:, :, :-1], out=across)
        np.subtract(planes[:, 1:], planes[:, :-1], out=down)
        found.append(pairs)
        planes = halve(planes)
    return found


def halve(planes: np.ndarray) -> np.ndarray:
    """Return means of 2 x 2 cells; an odd row or column at the end is left out."""
    rows, columns = planes.shape[1] // 2 * 2, planes.shape[2] // 2 * 2
    tall = planes[:, 0:rows:2, :columns] + planes[:, 1:rows:2, :columns]
    result: np.ndarray = (tall[:, :, ::2] + tall[:, :, 1::2]) * np.float32(0.25)
    return result


def evidence_for(densities: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return how much a mask speaks for each of several densities, float64 [densities], in nats
    above what chance would give, damped for each size of cells.

    With R2 the share of the differences of the density that those of the classes explain, of `m`
    independent ones, a normal likelihood gains -m/2 ln(1 - R2); by chance, half a nat a class.

    Args:
        densities: float32 [densities, rows, columns].
        shares: float32 [classes, rows, columns].
    """
    planes = np.concatenate((densities, shares))
    return damped(gains_of(planes, len(densities)))


def damped(gains: np.ndarray) -> np.ndarray:
    """Return the sums of gains [sizes, densities] over the sizes; of a gain g above 0 counts
    d ln(1 + g / d) with d = `DAMPED`.
    """
    above = DAMPED * np.log1p(np.maximum(gains, 0) / DAMPED)
    result: np.ndarray = (above + np.minimum(gains, 0)).sum(axis=0)
    return result


def gains_of(planes: np.ndarray, number: int) -> np.ndarray:
    """Return the gain of each size of cells, float64 [sizes, densities], in nats above chance.

    Args:
        planes: float32 [planes, rows, columns]: densities, then the shares of classes.
        number: How many of them are densities.
    """
    levels = differences(planes)
    # One array for all sizes: calls cost more than numbers here.
    products = np.array([pairs[number:] @ pairs.T for pairs in levels], np.float64)
    energy = np.array([np.einsum("ij,ij->i", pairs[:number], pairs[:number]) for pairs in levels])
    mixed, gram = products[:, :, :number], products[:, :, number:]
    explained = (mixed * _solve(gram, mixed)).sum(axis=1) / np.maximum(energy, 1e-12)
    independent = _INDEPENDENT * np.array([[pairs.shape[1]] for pairs in levels])
    gain: np.ndarray = -independent / 2 * np.log1p(-np.clip(explained, 0, _ALMOST_ALL))
    return gain - (len(planes) - number) / 2


def _solve(gram: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    """Return gram^-1 mixed of each size; a little is added to the diagonal, so that classes that
    vanish at a size do no harm.
    """
    ridge = _RIDGE * np.maximum(np.trace(gram, axis1=1, axis2=2) / gram.shape[1], 1e-9)
    gram = gram + ridge[:, None, None] * np.eye(gram.shape[1])
    if gram.shape[1] == 1:
        quotient: np.ndarray = mixed / gram
        return quotient
    result: np.ndarray = np.linalg.solve(gram, mixed)
    return result


def explained_share(density: np.ndarray, shares: np.ndarray) -> float:
    """Return R2, in [0, 1]: the share of the variance of the density over all cells that the
    classes explain, by least squares with a constant.

    Args:
        density: float32 [rows, columns].
        shares: float32 [classes, rows, columns].
    """
    rows = np.concatenate((density[None], shares)).reshape(len(shares) + 1, -1)
    centred = rows.astype(np.float64)
    centred -= centred.mean(axis=1, keepdims=True)
    products = centred @ centred.T
    energy, mixed, gram = products[0, 0], products[1:, 0], products[1:, 1:]
    if len(mixed) == 1:
        explained = mixed[0] ** 2 / gram[0, 0] if gram[0, 0] else 0.0
    else:
        explained = float(mixed @ _weights(gram, mixed))
    return float(min(1.0, max(0.0, explained / energy))) if energy else 0.0


def _weights(gram: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    weights: np.ndarray
    try:
        weights = np.linalg.solve(gram, mixed)
    except np.linalg.LinAlgError:  # A class that no cell shows.
        weights = np.linalg.lstsq(gram, mixed, rcond=None)[0]
    return weights
