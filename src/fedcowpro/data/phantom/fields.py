"""Smooth random fields: random cubic B-spline coefficients on a coarse lattice, evaluated by three matrix products."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Volume = NDArray[np.float32]


def _basis(rng: np.random.Generator, count: int, step: float, wavelength: float) -> Volume:
    """Weights ``(count, knots)`` of a cubic B-spline whose knots lie ``wavelength`` mm apart."""
    position = rng.random() + np.arange(count) * (step / wavelength)
    knot = position.astype(np.intp)
    t = position - knot
    weights = np.zeros((count, int(knot[-1]) + 4), np.float32)
    rows = np.arange(count)
    pieces = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for offset, piece in enumerate(pieces):
        weights[rows, knot + offset] = piece
    # Rows of unit length keep the variance of the field the same on and between the knots.
    return weights / np.linalg.norm(weights, axis=1, keepdims=True)


def smooth_field(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    wavelength: float | tuple[float, float, float],
) -> Volume:
    """A smooth Gaussian random field of zero mean and unit variance.

    Args:
        rng: source of the coefficients.
        shape: (depth, height, width) in voxels.
        spacing: (depth, height, width) in mm.
        wavelength: distance of the spline's knots in mm, one for all axes or one each.

    Returns:
        float32 (depth, height, width).
    """
    lengths = wavelength if isinstance(wavelength, tuple) else (wavelength,) * 3
    along_d, along_h, along_w = (
        _basis(rng, n, s, length) for n, s, length in zip(shape, spacing, lengths, strict=True)
    )
    knots = (along_d.shape[1], along_h.shape[1], along_w.shape[1])
    field = rng.standard_normal(knots, dtype=np.float32) @ along_w.T
    field = np.matmul(along_h, field)
    return (along_d @ field.reshape(knots[0], -1)).reshape(shape)


def refine(coarse: Volume, every: int, shape: tuple[int, int, int]) -> Volume:
    """Linear interpolation in the plane of ``field[:, ::every, ::every]`` back to ``shape`` (depth, height, width)."""
    for axis in (1, 2):
        position = np.minimum(np.arange(shape[axis]) / every, coarse.shape[axis] - 1)
        low = np.minimum(position.astype(np.intp), coarse.shape[axis] - 2)
        share = (position - low).astype(np.float32).reshape((1, -1, 1) if axis == 1 else (1, 1, -1))
        first = coarse.take(low, axis)
        coarse = first + share * (coarse.take(low + 1, axis) - first)
    return coarse


def grain(rng: np.random.Generator, shape: tuple[int, int, int], sigma: tuple[float, float, float]) -> Volume:
    """White noise blurred by ``sigma`` voxels (depth, height, width), scaled back to unit variance; float32."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    for axis, width in enumerate(sigma):
        if width > 0:
            noise = ndimage.gaussian_filter1d(noise, width, axis=axis, mode="wrap", truncate=3.0)
    return noise / noise.std()


def smooth_max(a: Volume, b: Volume, softness: float) -> Volume:
    """Maximum of two signed distances (the intersection of two bodies), its crease rounded over ``softness`` mm."""
    difference = np.maximum(softness - np.abs(a - b), 0) / softness
    return np.maximum(a, b) + difference * difference * np.float32(softness / 4)
