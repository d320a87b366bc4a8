"""Seconds that `prepare` takes for one volume, by its shape.

    python benchmarks/prepare.py IMAGE LABEL [512x512x128 ...]

IMAGE and LABEL are NIfTI files of one case. For each shape (columns x rows x slices as they are stored) their voxels
are repeated or left out until they have it; the case is written, prepared by one process with each method of
superpixels, and its processor time is printed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from fedcowpro.config import PrepareConfig, SuperpixelConfig
from fedcowpro.data.preparation.prepare import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("label", type=Path)
    parser.add_argument("shapes", nargs="*", default=["512x512x128"])
    given = parser.parse_args()
    methods = ("merging", "felzenszwalb")
    print(f"{'shape':14}" + "".join(f"{method:>14}" for method in methods))
    for text in given.shapes:
        shape = tuple(int(n) for n in text.split("x"))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "raw").mkdir()
            for kind, file in (("image", given.image), ("label", given.label)):
                nib.save(_with_shape(nib.load(file), shape), folder / "raw" / f"{kind}_1.nii.gz")
            seconds = [_seconds(folder, method) for method in methods]
        print(f"{text:14}" + "".join(f"{value:12.1f} s" for value in seconds), flush=True)


def _with_shape(image: nib.Nifti1Image, shape: tuple[int, ...]) -> nib.Nifti1Image:
    """The same field of view in another number of voxels."""
    steps = [old / new for old, new in zip(image.shape, shape, strict=True)]
    index = [(np.arange(new) * step).astype(int) for new, step in zip(shape, steps, strict=True)]
    voxels = np.asanyarray(image.dataobj)[np.ix_(*index)].astype(np.int16)
    return nib.Nifti1Image(voxels, image.affine @ np.diag([*steps, 1.0]))


def _seconds(folder: Path, method: str) -> float:
    config = PrepareConfig(superpixels=SuperpixelConfig(method=method))
    started = time.process_time()
    prepare(folder / "raw", folder / method, config, organs={1: "liver"}, workers=1, progress=False)
    return time.process_time() - started


if __name__ == "__main__":
    main()
