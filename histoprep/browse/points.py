"""Tiles as points in two dimensions: features -> principal components.

What scanners, stains and slides have in common lies together, so that clusters by slide, or copies
in another split, are seen at a glance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from histoprep.browse.columns import Columns

MAX_POINTS = 20_000
# Each has to be decoded where it has no thumbnail yet.
MAX_COLOUR_POINTS = 2_000
MEASURES = ("focus", "luminance", "contrast", "background_share", "jpeg_quality")
COLOUR_NAMES = tuple(f"{what} of {channel}" for what in ("mean", "spread") for channel in "RGB")
# Farther values would leave all others in one spot.
_FARTHEST = 4.0
_WHITE = 255.0


@dataclass(frozen=True)
class Projection:
    """Points in two dimensions.

    Attributes:
        places: float32 [n, 2], nearly all in [-1, 1].
        explained: Share of the variance that each axis holds.
        names: The two features that each axis goes with most, in words.
    """

    places: np.ndarray
    explained: tuple[float, float]
    names: tuple[str, str]


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of the rows, evenly spread, the same ones every time."""
    if len(rows) <= most:
        return rows
    chosen: np.ndarray = rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
    return chosen


def measured_features(columns: Columns, rows: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return what the audit measured of images, float32 [n, features], and the names."""
    names = [
        name
        for name in MEASURES
        if name in columns.numbers and np.isfinite(columns.numbers[name]).any()
    ]
    picked = [columns.numbers[name][rows] for name in names]
    # Sharpness is a variance, and spreads over orders of magnitude.
    scaled = [
        np.log1p(np.maximum(column, 0)) if name == "focus" else column
        for name, column in zip(names, picked, strict=True)
    ]
    values = np.stack(scaled, axis=1) if scaled else np.zeros((len(rows), 0), np.float32)
    return values.astype(np.float32), tuple(names)


def class_features(columns: Columns, rows: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return square roots of the shares of classes, float32 [n, classes], and the names."""
    shares = columns.shares
    whole = (shares.share_column(place, len(columns)) for place in range(len(shares.classes)))
    values = [np.sqrt(column[rows]) for column in whole]
    stacked = np.stack(values, axis=1) if values else np.zeros((len(rows), 0), np.float32)
    return stacked, tuple(cls.name for cls in shares.classes)


def colour_features(image: np.ndarray) -> np.ndarray:
    """Return mean and spread of the optical density of each channel, float32 [6].

    Args:
        image: uint8 RGB [height, width, 3].
    """
    density = -np.log((image.reshape(-1, 3).astype(np.float32) + 1) / (_WHITE + 1))
    return np.concatenate([density.mean(axis=0), density.std(axis=0)]).astype(np.float32)


def project(values: np.ndarray, names: tuple[str, ...]) -> Projection:
    """Return the first two principal components of standardised features.

    Features are brought to mean 0 and standard deviation 1 and cut off at 4; missing ones are 0. An
    axis points to where its largest weight is positive, so that the same tiles give the same
    points.

    Args:
        values: float32 [n, features], NaN for missing.
        names: Names of the features.
    """
    varying, labels = _standardised(values, names)
    count = len(values)
    if varying.shape[1] == 0 or count < 2:
        return Projection(np.zeros((count, 2), np.float32), (0.0, 0.0), ("", ""))
    strength, axes = np.linalg.eigh(varying.T @ varying / count)
    first = axes[:, ::-1][:, :2]
    first = first * np.where(np.take_along_axis(first, _largest(first), 0) < 0, -1, 1)
    places = np.zeros((count, 2), np.float32)
    places[:, : first.shape[1]] = varying @ first
    reach = np.quantile(np.abs(places), 0.995, axis=0)
    # Points that lie further out stand at the edge.
    places = np.clip(places, -reach, reach)
    shares = [*(strength[::-1][:2] / strength.sum()), 0.0][:2]
    words = [*(_words(first[:, axis], labels) for axis in range(first.shape[1])), ""][:2]
    return Projection(
        (places / np.where(reach > 0, reach, 1)).astype(np.float32),
        (float(shares[0]), float(shares[1])),
        (words[0], words[1]),
    )


def _standardised(values: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, list[str]]:
    """Return the features that vary, standardised, float64, and their names."""
    columns, labels = [], []
    for place, name in enumerate(names):
        column = values[:, place].astype(np.float64)
        known = column[np.isfinite(column)]
        if len(known) and known.std() > 1e-9 * max(1.0, abs(known.mean())):
            scaled = (column - known.mean()) / known.std()
            columns.append(
                np.clip(np.nan_to_num(scaled, posinf=0, neginf=0), -_FARTHEST, _FARTHEST)
            )
            labels.append(name)
    return np.stack(columns, axis=1) if columns else np.zeros((len(values), 0)), labels


def _largest(axes: np.ndarray) -> np.ndarray:
    largest: np.ndarray = np.abs(axes).argmax(axis=0)[None]
    return largest


def _words(axis: np.ndarray, names: list[str]) -> str:
    order = np.argsort(-np.abs(axis))[:2]
    return ", ".join(f"{'-' if axis[at] < 0 else '+'} {names[at]}" for at in order)


def dominant_classes(columns: Columns, rows: np.ndarray) -> np.ndarray:
    """Return the place of the class of most pixels of each tile, int32 [n], -1 without a mask."""
    best = np.zeros(len(rows), np.float32)
    found = np.full(len(rows), -1, np.int32)
    for place in range(len(columns.shares.classes)):
        own = columns.shares.share_column(place, len(columns))[rows]
        found[own > best] = place
        best = np.maximum(best, own)
    return found


def to_json(rows: np.ndarray, codes: np.ndarray, projection: Projection) -> dict[str, Any]:
    """Return points as lists: rows, places in thousandths, and codes of their colour."""
    places = np.rint(1000 * projection.places).astype(int)
    return {
        "rows": rows.tolist(),
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "codes": codes.tolist(),
        "explained": projection.explained,
        "axes": projection.names,
    }
