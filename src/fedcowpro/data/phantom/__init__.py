"""Procedural patients: abdomen as CT, T1 and T2 MR, pelvis as brachytherapy-like T2 MR, with labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.phantom.abdomen import paint_abdomen
from fedcowpro.data.phantom.body import Body, random_body
from fedcowpro.data.phantom.canvas import Canvas
from fedcowpro.data.phantom.fields import Volume
from fedcowpro.data.phantom.imaging import SUBSLICES, acquire
from fedcowpro.data.phantom.organs import LABELS as ABDOMEN_LABELS
from fedcowpro.data.phantom.pelvis import LABELS as PELVIS_LABELS
from fedcowpro.data.phantom.pelvis import paint_pelvis
from fedcowpro.data.phantom.tissues import Tissue

__all__ = ["ORGANS", "Kind", "Phantom", "make_phantom", "write_phantom", "write_site"]

Kind = Literal["ct", "t1", "t2", "brachy"]
ORGANS: dict[str, dict[int, str]] = {"abdomen": ABDOMEN_LABELS, "pelvis": PELVIS_LABELS}

_THICKNESS = {"ct": (4.0, 5.0), "t1": (5.5, 8.0), "t2": (6.0, 8.0), "brachy": (3.0, 4.0)}  # mm
_FULL_DETAIL = 192  # smaller images are rendered with twice the pixels and averaged


@dataclass(frozen=True)
class Phantom:
    """One procedural patient.

    Attributes:
        image: float32 (depth, height, width) growing to Superior, Posterior, Left; HU for CT, scanner units for MR.
        labels: uint8, same shape; 0 is background, the others are keys of ``organs``.
        spacing: (depth, height, width) in mm.
        organs: name of every label.
        kind: "ct", "t1", "t2" or "brachy".
        modality: "ct" or "mr".
    """

    image: Volume
    labels: NDArray[np.uint8]
    spacing: tuple[float, float, float]
    organs: dict[int, str]
    kind: Kind
    modality: Literal["ct", "mr"]


def make_phantom(kind: Kind, seed: int, size: int = 256, depth: int | None = None) -> Phantom:
    """Make one patient; the same arguments give the same bits, another seed another patient.

    Args:
        kind: "ct", "t1", "t2" (abdomen) or "brachy" (pelvis).
        seed: non-negative; the patients of two kinds differ even for the same seed.
        size: height and width in pixels, at least 32.
        depth: number of slices, at least 4; None takes a slice thickness usual for the kind. The anatomy covered
            does not depend on it.

    Raises:
        FedCoWProError: unknown kind, negative seed, or too small a grid.
    """
    if kind not in get_args(Kind):
        raise FedCoWProError(f"phantom kind {kind!r}", f"one of {', '.join(get_args(Kind))}", "choose one of these")
    if seed < 0 or size < 32 or (depth is not None and depth < 4):
        raise FedCoWProError(
            f"phantom with seed {seed}, size {size}, depth {depth}",
            "seed >= 0, size >= 32 and depth >= 4",
            "use a larger number",
        )
    rng = np.random.default_rng((get_args(Kind).index(kind), seed))
    pelvis = kind == "brachy"
    body = random_body(rng, 1.16 if pelvis else 1.0)
    bottom, top = (-62.0, 78.0) if pelvis else (-112.0, 132.0)
    bottom, top = (edge * body.stature + rng.uniform(-8, 8) for edge in (bottom, top))
    thickness = rng.uniform(*_THICKNESS[kind])
    slices = depth or round((top - bottom) / thickness)
    field = rng.uniform(250, 320) if pelvis else 2 * body.outer_width() * rng.uniform(0.98, 1.15)
    spacing = ((top - bottom) / slices, field / size, field / size)

    fold = 1 if size >= _FULL_DETAIL else 2
    fine = (spacing[0] / SUBSLICES, spacing[1] / fold, spacing[2] / fold)
    shape = (slices * SUBSLICES, size * fold, size * fold)
    corner = (fine[1] - field) / 2
    origin = (bottom + fine[0] / 2, corner + rng.uniform(-6, 10), corner + rng.uniform(-6, 6))
    canvas = Canvas(rng, shape, fine, origin, warp_mm=4.0)
    (paint_pelvis if pelvis else paint_abdomen)(canvas, body, rng)
    if kind == "ct":
        _paint_table(canvas, body)
    image = acquire(canvas.tissue, kind, fold, spacing, rng)
    labels = canvas.label[SUBSLICES // 2 :: SUBSLICES, fold // 2 :: fold, fold // 2 :: fold]
    organs = ORGANS["pelvis" if pelvis else "abdomen"]
    return Phantom(image, np.ascontiguousarray(labels), spacing, dict(organs), kind, "ct" if kind == "ct" else "mr")


def _paint_table(canvas: Canvas, body: Body) -> None:
    """The thin curved shell of the CT table behind the patient."""
    sag = canvas.y - 1.12 * body.half_depth - 0.8 * body.fat - 14 + canvas.x**2 / 900
    canvas.paint((slice(None),) * 3, np.abs(sag) < 1.6, Tissue.TABLE, over=(Tissue.AIR,))


def write_phantom(phantom: Phantom, folder: str | Path, case_id: str) -> tuple[Path, Path]:
    """Write ``image_<case_id>.nii.gz`` and ``label_<case_id>.nii.gz`` with voxel axes Left, Anterior, Superior.

    Args:
        phantom: the patient; CT is stored as int16 HU, MR as int16 scanner units, labels as uint8.
        folder: made if absent.
        case_id: goes into the file names.

    Returns:
        Paths of the image and of the labels.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    depth_mm, height_mm, width_mm = phantom.spacing
    affine = np.diag([-width_mm, height_mm, depth_mm, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(phantom.image.shape[::-1]) - 1) / 2)
    paths = []
    for name, array in (("image", np.rint(phantom.image).astype(np.int16)), ("label", phantom.labels)):
        # (depth, height, width) is (S, P, L): reorder to (L, P, S), then turn P round to A.
        voxels = np.ascontiguousarray(array.transpose(2, 1, 0)[:, ::-1])
        paths.append(target / f"{name}_{case_id}.nii.gz")
        nib.save(nib.Nifti1Image(voxels, affine), paths[-1])
    return paths[0], paths[1]


def write_site(folder: str | Path, kind: Kind, seeds: Iterable[int], size: int = 256, depth: int | None = None) -> Path:
    """Write one raw site folder of ``image_<seed>`` and ``label_<seed>`` files, one pair for each seed; returns it."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        write_phantom(make_phantom(kind, seed, size, depth), target, str(seed))
    return target
