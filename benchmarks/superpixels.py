"""Quality and speed of ways to make pseudo-labels, on annotated volumes.

    python benchmarks/superpixels.py FOLDER --modality mr --cases 1,20 --organs 1,2,3,4 [--every 2]

FOLDER has image_<id>.nii.gz and label_<id>.nii.gz. Per method and over the cases: milliseconds of processor time per
slice (for Felzenszwalb's method and merging with the body mask, for the others without), segments per slice, tenth,
fiftieth and ninetieth percentile of their areas, and, as means over organs and cases, the best Dice of a union of
segments in the whole volume, the best Dice of one segment per slice, boundary recall with its chance level, and the
undersegmentation error (reports.site_report.pseudo_labels). OpenCV takes part where it is installed with its extra
modules.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.segmentation import felzenszwalb, slic, watershed

from fedcowpro.config import Modality, PrepareConfig, SuperpixelConfig
from fedcowpro.data.superpixels.superpixels import FOREGROUND, body_mask, superpixels
from fedcowpro.reports.site_report.pseudo_labels import SliceCounts, count_slice, join
from fedcowpro.volume.nifti import read_image, read_labels
from fedcowpro.volume.preprocess import grey_levels

Segmenter = Callable[[np.ndarray, np.ndarray], np.ndarray]
TYPICAL = 500  # pixels per segment, where a method asks for a number of segments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--modality", choices=("ct", "mr"), required=True)
    parser.add_argument("--cases", required=True)
    parser.add_argument("--organs", required=True, help="label values, as 1,2,3")
    parser.add_argument("--every", type=int, default=1, help="take every n-th slice")
    given = parser.parse_args()
    organs = [int(value) for value in given.organs.split(",")]
    volumes = [_read(given.folder, case, given.modality, given.every) for case in given.cases.split(",")]
    print("method                     ms/slice  segments    area 10/50/90 %    union  single  recall (chance)   under")
    for name, segment in _methods(given.modality).items():
        _report(name, segment, volumes, FOREGROUND[given.modality], organs)


def _read(folder: Path, case: str, modality: Modality, every: int) -> tuple[np.ndarray, np.ndarray]:
    volume = read_image(folder / f"image_{case}.nii.gz")
    grey, placement = grey_levels(volume, PrepareConfig(modality=modality))
    labels = placement.to_prepared_labels(read_labels(folder / f"label_{case}.nii.gz", volume).voxels)
    return grey[::every], labels[::every]


def _methods(modality: Modality) -> dict[str, Segmenter]:
    found: dict[str, Segmenter] = {}

    def ours(name: str, **options: object) -> None:
        config = SuperpixelConfig.model_validate(options)
        found[name] = lambda grey, body: superpixels(grey, config, modality)

    ours("felzenszwalb (paper)")
    ours("felzenszwalb 10000/200", scale=10000.0, min_size=200)
    found["felzenszwalb, cropped"] = _within_body(
        lambda grey, body: felzenszwalb(grey, scale=1, sigma=1, min_size=400), margin=8
    )
    for scale in (500.0, 1500.0, 3000.0):
        ours(f"merging {scale:g}/200", method="merging", scale=scale)
    ours("merging 1500/400", method="merging", min_size=400)
    for compactness in (0.1, 1.0, 10.0):
        found[f"SLIC, masked, {compactness:g}"] = _within_body(
            lambda grey, body, c=compactness: slic(  # type: ignore[misc]
                grey / 2.55, body.sum() // TYPICAL + 2, c, sigma=1, mask=body, channel_axis=None
            )
        )
    for sigma in (2.0, 4.0):
        found[f"watershed, sigma {sigma:g}"] = _within_body(
            lambda grey, body, s=sigma: watershed(  # type: ignore[misc]
                ndimage.gaussian_gradient_magnitude(grey, s), mask=body
            )
        )
    found["watershed, compact 0.1"] = _within_body(
        lambda grey, body: watershed(
            ndimage.gaussian_gradient_magnitude(grey, 1.5), body.sum() // TYPICAL + 2, compactness=0.1, mask=body
        )
    )
    if importlib.util.find_spec("cv2") is not None:
        found |= _opencv()
    return found


def _opencv() -> dict[str, Segmenter]:
    import cv2

    cv2.setNumThreads(1)
    graph = cv2.ximgproc.segmentation.createGraphSegmentation(1.0, 1 / 255, 400)

    def linear(grey: np.ndarray, body: np.ndarray) -> np.ndarray:
        found = cv2.ximgproc.createSuperpixelSLIC(
            cv2.GaussianBlur(grey.astype(np.uint8), (0, 0), 1.0), cv2.ximgproc.SLIC, round(TYPICAL**0.5), 10.0
        )
        found.iterate(10)
        found.enforceLabelConnectivity(25)
        return found.getLabels()

    return {
        "OpenCV graph (as paper)": _within_body(lambda grey, body: graph.processImage(np.dstack([grey] * 3)), margin=8),
        "OpenCV SLIC": _within_body(linear),
    }


def _within_body(segment: Segmenter, margin: int = 0) -> Segmenter:
    """A method applied to the body's bounding box, with its segments cut to the body and numbered 1..n."""

    def cropped(grey: np.ndarray, body: np.ndarray) -> np.ndarray:
        rows, columns = (np.flatnonzero(body.any(axis=axis)) for axis in (1, 0))
        window = tuple(slice(max(used[0] - margin, 0), used[-1] + 1 + margin) for used in (rows, columns))
        raw = segment(np.ascontiguousarray(grey[window]), body[window])
        out = np.zeros(grey.shape, np.uint16)
        _, ids = np.unique(raw[body[window]], return_inverse=True)
        out[window][body[window]] = ids + 1
        return out

    return cropped


def _report(
    name: str, segment: Segmenter, volumes: list[tuple[np.ndarray, np.ndarray]], threshold: float, organs: list[int]
) -> None:
    seconds: list[float] = []
    cases: list[SliceCounts] = []
    singles, numbers = [], []
    for grey, labels in volumes:
        slices = []
        for plane, truth in zip(grey, labels, strict=True):
            body = body_mask(plane, threshold)
            if body.any():
                started = time.process_time()
                segments = segment(plane, body)
                seconds.append(time.process_time() - started)
                slices.append(count_slice(segments, truth, 255))
                numbers.append(int(segments.max()))
        cases.append(join(slices))
        singles += [np.nanmean([counts.best_single(organ) for counts in slices]) for organ in organs]
    areas = np.percentile(np.concatenate([case.areas for case in cases]), (10, 50, 90))
    print(
        f"{name:26s} {1e3 * statistics.median(seconds):8.1f} {statistics.median(numbers):9.0f}"
        f"    {' / '.join(f'{area:4.0f}' for area in areas):18s}"
        f" {_mean(cases, SliceCounts.best_union, organs):.3f}   {np.mean(singles):.3f}"
        f"   {_mean(cases, SliceCounts.boundary_recall, organs):.3f}  ({np.mean([case.chance for case in cases]):.3f})"
        f"    {np.mean([case.undersegmentation for case in cases]):.3f}",
        flush=True,
    )


def _mean(cases: list[SliceCounts], measure: Callable[[SliceCounts, int], float], organs: list[int]) -> float:
    return float(np.nanmean([measure(case, organ) for case in cases for organ in organs]))


if __name__ == "__main__":
    main()
