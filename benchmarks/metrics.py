"""HD95 and surface Dice against MONAI and surface-distance: times and values within one run.

    python benchmarks/metrics.py [--size 256] [--repeats 3]
    python benchmarks/metrics.py --oracles tests/oracles/surface.npz

The second form writes the values of both libraries on small random masks, with which the tests compare. Both libraries
are in the extra `bench`.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import surface_distance
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from ratios import median_seconds, ratio
from scipy import ndimage

from fedcowpro.evaluation.surface import surface_metrics

Mask = np.ndarray
Spacing = tuple[float, float, float]
TOLERANCE = 3.0
LIMIT = 1.0  # of our time to theirs
SPACINGS = ((1.0, 1.0, 1.0), (7.7, 1.25, 1.25), (3.0, 0.8, 1.4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--oracles", type=Path, help="write the libraries' values to this file and stop")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", DeprecationWarning)  # surface-distance uses names that SciPy is giving up
    if options.oracles:
        np.savez_compressed(options.oracles, **oracles())  # type: ignore[arg-type]
        return
    for name, radius in (("liver-sized", 0.32), ("kidney-sized", 0.12)):
        compare(name, *pair(options.size, radius), options.repeats)


def pair(size: int, radius: float) -> tuple[Mask, Mask]:
    """An ellipsoid with a wavy surface as truth; a shifted, flatter one as prediction."""
    z, y, x = np.ogrid[:size, :size, :size]
    middle, r = size / 2, radius * size
    wave = 1 + 0.06 * np.sin(x / 5) * np.cos(y / 7)
    truth = ((z - middle) / (0.8 * r)) ** 2 + ((y - middle) / r) ** 2 + ((x - middle) / r) ** 2 < wave
    near = ((z - middle - 3) / (0.75 * r)) ** 2 + ((y - middle + 2) / r) ** 2 + ((x - middle) / (1.05 * r)) ** 2 < 1
    return near, truth


def compare(name: str, prediction: Mask, truth: Mask, repeats: int) -> None:
    spacing = (2.5, 1.0, 1.0)
    runs: dict[str, Callable[[], tuple[float, float]]] = {
        "fedcowpro, area": lambda: ours(prediction, truth, spacing, "area"),
        "surface-distance": lambda: deepmind(prediction, truth, spacing, TOLERANCE),
        "fedcowpro, voxels": lambda: ours(prediction, truth, spacing, "voxels"),
        "MONAI": lambda: monai(prediction, truth, spacing, TOLERANCE),
    }
    seconds = {run: median_seconds(action, repeats).cpu for run, action in runs.items()}
    for run, action in runs.items():
        hd95, nsd = action()
        print(f"{name}, {run}: {seconds[run]:.2f} s, HD95 {hd95:.3f} mm, NSD {nsd:.4f} at {TOLERANCE:g} mm")
    for one, other in (("area", "surface-distance"), ("voxels", "MONAI")):
        what = f"HD95 and surface Dice by {one}, {name}, {truth.shape[0]}³ voxels"
        ratio(what, seconds[f"fedcowpro, {one}"], other, seconds[other], LIMIT)


def ours(prediction: Mask, truth: Mask, spacing: Spacing, definition: str) -> tuple[float, float]:
    found = surface_metrics(prediction, truth, spacing, TOLERANCE, definition)  # type: ignore[arg-type]
    return found.hd95, found.nsd


def monai(prediction: Mask, truth: Mask, spacing: Spacing, tolerance: float) -> tuple[float, float]:
    """HD95 and NSD with MONAI's default surface; its two calls do the same work twice."""
    a, b = (torch.from_numpy(mask)[None, None] for mask in (prediction, truth))
    hd95 = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
    nsd = compute_surface_dice(a, b, [tolerance], include_background=True, spacing=spacing)
    return float(hd95), float(nsd)


def deepmind(prediction: Mask, truth: Mask, spacing: Spacing, tolerance: float) -> tuple[float, float]:
    distances = surface_distance.compute_surface_distances(truth, prediction, spacing)
    hd95 = surface_distance.compute_robust_hausdorff(distances, 95)
    return float(hd95), float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance))


def oracles() -> dict[str, np.ndarray]:
    """Random blobs and noise, some at the volume's border, with both libraries' values."""
    rng = np.random.default_rng(7)
    masks, spacings, tolerances, values = [], [], [], []
    for i in range(24):
        # Odd pairs are noise: they reach every kind of corner.
        blur, level = ((2.0, 0.02), (0.0, 1.0))[i % 2]
        both = [ndimage.gaussian_filter(rng.standard_normal((10, 14, 12)), blur) > level for _ in range(2)]
        if i % 3 == 0:  # the second follows the first closely, as a good prediction does
            both[1] = both[0] ^ (ndimage.binary_dilation(both[0]) & (rng.random(both[0].shape) < 0.2))
        spacing, tolerance = SPACINGS[i // 2 % 3], float(rng.uniform(0.5, 5))
        masks.append(both)
        spacings.append(spacing)
        tolerances.append(tolerance)
        values.append([*deepmind(*both, spacing, tolerance), *monai(*both, spacing, tolerance)])
    versions = {name: version(name) for name in ("monai", "surface-distance")}
    return {
        "masks": np.packbits(np.array(masks), axis=-1),
        "shape": np.array([10, 14, 12]),
        "spacing": np.array(spacings),
        "tolerance": np.array(tolerances),
        "surface_distance": np.array(values)[:, :2],
        "monai": np.array(values)[:, 2:],
        "versions": np.array([f"{name} {number}" for name, number in versions.items()]),
    }


if __name__ == "__main__":
    main()
