"""The scanner: slice profile, point spread, texture, coil shading and noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedcowpro.data.phantom.contrast import draw_contrast
from fedcowpro.data.phantom.fields import Volume, grain, smooth_field
from fedcowpro.data.phantom.tissues import Tissue

SUBSLICES = 3
_PROFILE = (0.27, 0.46, 0.27)


def _collect(values: Volume, tissue: NDArray[np.uint8], fold: int) -> Volume:
    """Grey values averaged over the slice profile and over ``fold`` x ``fold`` pixels."""
    depth, height, width = tissue.shape
    slices = np.zeros((depth // SUBSLICES, height, width), np.float32)
    for part, weight in enumerate(_PROFILE):
        slices += np.float32(weight) * values[tissue[part::SUBSLICES]]
    if fold > 1:
        slices = slices.reshape(len(slices), height // fold, fold, width // fold, fold).mean((2, 4))
    return slices


def acquire(
    tissue: NDArray[np.uint8],
    kind: str,
    fold: int,
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
) -> Volume:
    """Image a tissue map.

    Args:
        tissue: uint8 (depth * SUBSLICES, height * fold, width * fold) of ``Tissue``.
        kind: "ct", "t1", "t2" or "brachy".
        fold: how many rendered pixels make one image pixel, per axis.
        spacing: (depth, height, width) of the image in mm.
        rng: source of contrast, texture, shading and noise.

    Returns:
        float32 (depth, height, width): HU in [-1024, 3071] for CT, non-negative scanner units for MR.
    """
    mean, spread = draw_contrast(kind, rng)
    image, texture = _collect(mean, tissue, fold), _collect(spread, tissue, fold)
    pixel = spacing[1]
    fine = grain(rng, image.shape, (0.3, 0.9 / min(pixel, 1.8), 0.9 / min(pixel, 1.8)))
    coarse = grain(rng, image.shape, (4 / spacing[0], 2.8 / pixel, 2.8 / pixel))
    image += texture * (0.6 * fine + 0.8 * coarse)
    blur = rng.uniform(0.75, 1.05) / min(pixel, 1.8) if kind == "ct" else rng.uniform(0.85, 1.25) / min(pixel, 1.8)
    image = ndimage.gaussian_filter(image, (0, blur, blur), mode="nearest", truncate=3.0)
    if kind == "ct":
        return _ct_noise(image, rng)
    parenchyma = float(mean[Tissue.MUSCLE] + mean[Tissue.MARROW]) / 2
    return _mr_noise(image * _coil_shading(image.shape, spacing, rng), parenchyma * rng.uniform(0.03, 0.09), rng)


def _ct_noise(image: Volume, rng: np.random.Generator) -> Volume:
    """Quantum noise, slightly correlated, stronger in the middle of the body."""
    height, width = image.shape[1:]
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    centre = (0.7 + 0.5 * np.exp(-1.5 * (x * x + y * y))).astype(np.float32)
    sigma = rng.uniform(0.45, 0.7)
    noise = grain(rng, image.shape, (0.0, sigma, sigma))
    return np.clip(image + rng.uniform(9, 18) * centre * noise, -1024, 3071).astype(np.float32)


def _coil_shading(shape: tuple[int, int, int], spacing: tuple[float, float, float], rng: np.random.Generator) -> Volume:
    """Smooth gain: brighter near the coils in front and behind, and a random remainder."""
    field = rng.uniform(0.14, 0.30) * smooth_field(rng, shape, spacing, (160.0, 120.0, 120.0))
    y = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :, None]
    x = np.linspace(-1, 1, shape[2], dtype=np.float32)[None, None, :]
    return np.exp(field + rng.uniform(0.0, 0.9) * (y * y + 0.6 * x * x - 0.3)).astype(np.float32)


def _mr_noise(image: Volume, sigma: float, rng: np.random.Generator) -> Volume:
    """Rician noise: the magnitude of a complex signal with Gaussian noise in both channels."""
    real = image + np.float32(sigma) * grain(rng, image.shape, (0.0, 0.45, 0.45))
    imaginary = np.float32(sigma) * grain(rng, image.shape, (0.0, 0.45, 0.45))
    return np.sqrt(real * real + imaginary * imaginary)
