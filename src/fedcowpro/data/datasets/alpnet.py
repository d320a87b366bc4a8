"""Folders that the preparation of SSL-ALPNet, and so of CoWPro, writes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import About, FoundScans, Options, nothing_found, refuse_options, unmatched
from fedcowpro.data.datasets.pairs import files, inward, left_out, listed, safe
from fedcowpro.data.datasets.scan import ImageFile, LabelFile, Scan
from fedcowpro.volume.checks import label_volume
from fedcowpro.volume.parse import grid_of, open_nifti, voxels_of
from fedcowpro.volume.volume import Volume

ABOUT = About(
    name="alpnet",
    title="SSL-ALPNet's and CoWPro's prepared folders (CHAOS T2, SABS), CT or MR",
    licence="that of the dataset",
    home="https://github.com/cheng-01037/Self-supervised-Fewshot-Medical-Image-Segmentation",
    layout=(
        "image_1.nii.gz with label_1.nii.gz (label maps may be absent)",
        "superpix-MIDDLE_1.nii.gz, taken with --reuse-superpixels; fgmask_1.nii.gz is not needed",
        "organs are not in the files: name them with --organs 1=liver,2=spleen",
    ),
)
_ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class SuperpixelFile:
    """Superpixels of an image in a NIfTI file on its grid; 0 = outside the body."""

    path: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def read(self, like: Volume) -> Volume:
        """uint16 (depth, height, width).

        Raises:
            FedCoWProError: as `nifti.read_labels`, but for whole numbers up to 65535.
        """
        image = open_nifti(self.path)
        grid, values = grid_of(image, self.path), voxels_of(image, self.path)
        if (
            not np.isfinite(values).all()
            or (values != np.round(values)).any()
            or not 0 <= values.min() <= values.max() <= 65535
        ):
            raise FedCoWProError(
                f"{self.path}: values from {values.min():g} to {values.max():g}, not all whole numbers in 0..65535",
                "superpixels: 0 outside the body, else the segment's number",
                "leave --reuse-superpixels out, or make the file again",
            )
        body = label_volume((values > 0).astype(np.uint8), grid, like, str(self.path))  # checks the grid
        return replace(body, voxels=grid.to_internal(values.astype(np.uint16)))


class Alpnet:
    """The adapter. A case's id is what follows `image_`."""

    about = ABOUT

    def recognises(self, source: Path) -> bool:
        """Whether files named image_... are there."""
        return any(files(base, "image_*", _ENDINGS) for base in inward(source))

    def find(self, source: Path, options: Options) -> FoundScans:
        """List the cases, with the labels that are there."""
        refuse_options(ABOUT, options, "reuse_superpixels")
        base = next((base for base in inward(source) if files(base, "image_*", _ENDINGS)), None)
        if base is None:
            raise nothing_found(ABOUT, source, "image_*.nii.gz")
        images, labels, segments, masks = (
            files(base, f"{kind}_*", _ENDINGS) for kind in ("image", "label", "superpix-MIDDLE", "fgmask")
        )
        lone = [labels[case].name for case in unmatched(images, labels)]
        notes = [f"{base}: left out because their images are missing: {', '.join(lone)}"] if lone else []
        bare = [case for case in images if case not in segments]
        if options.reuse_superpixels and bare:
            raise FedCoWProError(
                f"{images[bare[0]]} has no superpixels",
                str(base / f"superpix-MIDDLE_{bare[0]}.nii.gz"),
                "complete the folder, or leave --reuse-superpixels out to have them computed",
            )
        scans = [
            Scan(
                safe(case),
                ImageFile(path),
                LabelFile(labels[case]) if case in labels and options.labels != "" else None,
                superpixels=SuperpixelFile(segments[case]) if options.reuse_superpixels else None,
            )
            for case, path in images.items()
        ]
        taken = {path for kind in (images, labels, segments, masks) for path in kind.values()}
        return listed(scans, None, [*notes, *left_out([base], taken)])


ADAPTER = Alpnet()
