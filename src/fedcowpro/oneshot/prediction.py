"""What `OneShotSegmenter.predict` gives back: arrays on the axes of the image that was asked about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import nibabel as nib
import numpy as np

from fedcowpro.oneshot.segmentation import Segmentation
from fedcowpro.volume.nifti import nifti_of, write_labels, write_probabilities
from fedcowpro.volume.volume import Volume


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """A segmented volume.

    Attributes:
        labels: uint8 on the image's own axes, 0 is background: as an array was given, or as in the file.
        probability: per organ float32 on the same axes, 0..1; None where it was not asked for.
        confidence: per organ how far to trust its mask, 0..1; nan where the organ was not found. It ranks masks; it is
            no measured accuracy (docs/python.md).
        slice_confidence: per organ and slice (from foot to head) its estimated Dice, 0..1; nan where it is not found.
        millilitres: per organ.
    """

    labels: np.ndarray
    probability: Mapping[int, np.ndarray] | None
    confidence: Mapping[int, float]
    slice_confidence: Mapping[int, np.ndarray]
    millilitres: Mapping[int, float]
    _found: Segmentation
    _image: Volume

    @classmethod
    def of(cls, found: Segmentation, image: Volume) -> Prediction:
        """Of a segmentation in the program's frame."""
        grid, voxel = image.grid, image.grid.millilitres
        probability = None
        if found.probability is not None:
            maps = zip(found.organs, found.probability, strict=True)
            probability = {organ: grid.to_native(one) for organ, one in maps}
        return cls(
            labels=grid.to_native(found.labels),
            probability=probability,
            confidence=dict(found.confidence),
            slice_confidence=dict(zip(found.organs, found.slice_confidence, strict=True)),
            millilitres={organ: int((found.labels == organ).sum()) * voxel for organ in found.organs},
            _found=found,
            _image=image,
        )

    @property
    def organs(self) -> tuple[int, ...]:
        """Label values of the annotated organs."""
        return self._found.organs

    def to_nibabel(self) -> nib.Nifti1Image:
        """The labels as an image with the axes and affine of the one that was given."""
        return nifti_of(self._found.labels, self._image.grid)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the labels as NIfTI (.nii or .nii.gz) on the image's grid.

        Raises:
            FedCoWProError: another file ending.
        """
        write_labels(Path(path), self._found.labels, self._image.grid)
        return Path(path)

    def save_probability(self, path: str | PathLike[str]) -> Path:
        """Write the probabilities as NIfTI, organs along the last axis in the order of `organs`.

        Raises:
            ValueError: they were not asked for.
            FedCoWProError: another file ending.
        """
        if self._found.probability is None:
            raise ValueError("predict(..., probabilities=True) keeps probabilities")
        write_probabilities(Path(path), self._found.probability, self._image.grid)
        return Path(path)

    def __repr__(self) -> str:
        organs = (
            f"{organ}: {self.millilitres[organ]:.0f} ml, confidence {self.confidence[organ]:.2f}"
            for organ in self.organs
        )
        return f"Prediction({', '.join(organs)})"
