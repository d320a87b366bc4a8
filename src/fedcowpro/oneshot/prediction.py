"""What `OneShotSegmenter.predict` gives back: arrays on the axes of the image that was asked about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.oneshot.doubts import by_doubt
from fedcowpro.oneshot.organ_names import ByOrgan
from fedcowpro.oneshot.segmentation import Segmentation
from fedcowpro.volume.find import output_names
from fedcowpro.volume.nifti import nifti_of, write_labels, write_probabilities
from fedcowpro.volume.volume import Volume

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """A segmented volume.

    What is given per organ is found by its label value or, where it has one, by its name.

    Attributes:
        name: path of the image, or what messages call it.
        names: organ names by label value, those that are known.
        labels: uint8 on the image's own axes, 0 is background: as an array was given, or as in the file.
        probability: per organ float32 on the same axes, 0..1; None where it was not asked for.
        confidence: per organ how far to trust its mask, 0..1; nan where the organ was not found. It ranks masks; it is
            no measured accuracy (docs/python.md).
        slice_confidence: per organ and slice (from foot to head) its estimated Dice, 0..1; nan where it is not found.
        millilitres: per organ.
        doubts: per organ what looks wrong with its mask, in sentences; see docs/python.md.
    """

    name: str
    names: Mapping[int, str]
    labels: np.ndarray
    probability: ByOrgan[np.ndarray] | None
    confidence: ByOrgan[float]
    slice_confidence: ByOrgan[np.ndarray]
    millilitres: ByOrgan[float]
    doubts: ByOrgan[tuple[str, ...]]
    _found: Segmentation
    _image: Volume

    @classmethod
    def of(cls, found: Segmentation, image: Volume, names: Mapping[int, str] | None = None) -> Prediction:
        """Of a segmentation in the program's frame; names by label value."""
        grid, voxel = image.grid, image.grid.millilitres
        known = {organ: name for organ, name in (names or {}).items() if name and organ in found.organs}
        probability = None
        if found.probability is not None:
            maps = zip(found.organs, found.probability, strict=True)
            probability = ByOrgan({organ: grid.to_native(one) for organ, one in maps}, known)
        return cls(
            name=image.name,
            names=known,
            labels=grid.to_native(found.labels),
            probability=probability,
            confidence=ByOrgan(found.confidence, known),
            slice_confidence=ByOrgan(dict(zip(found.organs, found.slice_confidence, strict=True)), known),
            millilitres=ByOrgan({organ: int((found.labels == organ).sum()) * voxel for organ in found.organs}, known),
            doubts=ByOrgan({organ: found.doubts.get(organ, ()) for organ in found.organs}, known),
            _found=found,
            _image=image,
        )

    @property
    def organs(self) -> tuple[int, ...]:
        """Label values of the annotated organs."""
        return self._found.organs

    def table(self) -> pd.DataFrame:
        """A row per organ: image, label value, name, millilitres, voxels, slices, confidence, doubts."""
        return Predictions([self]).table()

    def to_nibabel(self) -> nib.Nifti1Image:
        """The labels as an image with the axes and affine of the one that was given; names are in its header."""
        return nifti_of(self._found.labels, self._image.grid, self.names)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the labels as NIfTI (.nii or .nii.gz) on the image's grid, names in its header.

        Raises:
            FedCoWProError: another file ending.
        """
        write_labels(Path(path), self._found.labels, self._image.grid, self.names)
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
            f"{self.names.get(organ, organ)}: {self.millilitres[organ]:.0f} ml, confidence {self.confidence[organ]:.2f}"
            for organ in self.organs
        )
        return f"Prediction({', '.join(organs)})"

    def _rows(self) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        for organ in self.organs:
            mask = self._found.labels == organ
            rows.append({
                "image": self.name,
                "organ": organ,
                "name": self.names.get(organ, ""),
                "millilitres": self.millilitres[organ],
                "voxels": int(mask.sum()),
                "slices": int(mask.any(axis=(1, 2)).sum()),
                "confidence": self.confidence[organ],
                "doubts": "; ".join(self.doubts[organ]),
            })  # fmt: skip
        return rows


class Predictions(list[Prediction]):
    """Segmented volumes, in the order in which they were given."""

    def table(self) -> pd.DataFrame:
        """A row per volume and organ (see `Prediction.table`), the most doubtful volume first (see `by_doubt`)."""
        import pandas as pd

        ranked = sorted(self, key=lambda one: by_doubt(one.confidence.values(), one.doubts.values()))
        return pd.DataFrame([row for one in ranked for row in one._rows()])

    def save(self, folder: str | PathLike[str]) -> list[Path]:
        """Write FOLDER/<image>_mask.nii.gz of each; images of one name keep the folders that they lie in.

        Raises:
            FedCoWProError: two images of one name that lie in no different folders, as arrays do; nothing is written.
        """
        stems = output_names([Path(one.name) for one in self])
        if len(set(stems)) < len(stems):
            twice = next(stem for stem in stems if stems.count(stem) > 1)
            raise FedCoWProError(
                f"several images called {twice}", "a name for each mask", "save them one by one, with Prediction.save"
            )
        return [
            one.save(Path(folder) / stem.parent / f"{stem.name}_mask.nii.gz")
            for one, stem in zip(self, stems, strict=True)
        ]
