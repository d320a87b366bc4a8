"""A case as a dataset's adapter hands it over: where its image and labels are, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fedcowpro.config import Modality
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.read import read_labels, read_volume
from fedcowpro.volume.volume import Volume


class ImageSource(Protocol):
    """An image somewhere on disk. Small, immutable and picklable: a worker process opens the files."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the voxels depend on."""

    def read(self) -> Volume:
        """The image; raises FedCoWProError where it cannot be used."""


class LabelSource(Protocol):
    """A label map somewhere on disk."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the labels depend on."""

    def read(self, like: Volume) -> Volume:
        """uint8 labels on the grid of the image `like`; raises FedCoWProError where they cannot be used."""


@dataclass(frozen=True)
class Scan:
    """One case of a dataset.

    Attributes:
        id: its name in a site folder: letters, digits, '.', '_', '-'; never a patient's name or number.
        image: where the image is.
        labels: where its label map is; None = unlabelled.
        modality: None = to be told from the voxels.
        unknown: label value of voxels that nobody has looked at, neither organ nor background; None = there are none.
        superpixels: the dataset's own, whole numbers on the image's grid; None = to be computed.
    """

    id: str
    image: ImageSource
    labels: LabelSource | None = None
    modality: Modality | None = None
    superpixels: LabelSource | None = None
    unknown: int | None = None


@dataclass(frozen=True)
class ImageFile:
    """A volume in one file: NIfTI, NRRD or MetaImage."""

    path: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def read(self) -> Volume:
        """The image."""
        return read_volume(self.path)


@dataclass(frozen=True)
class LabelFile:
    """A label map in one file on the image's grid.

    Attributes:
        path: NIfTI, NRRD or MetaImage.
        known: values that the dataset defines; another one is an error. None = any value.
    """

    path: Path
    known: frozenset[int] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def read(self, like: Volume) -> Volume:
        """The label map."""
        labels = read_labels(self.path, like)
        if self.known is not None:
            require_known(labels.voxels, self.known, str(self.path))
        return labels


def require_known(labels: np.ndarray, known: frozenset[int], name: str) -> None:
    """Refuse label values that a dataset does not define."""
    unknown = sorted(set(np.unique(labels).tolist()) - known - {0})
    if unknown:
        raise FedCoWProError(
            f"{name}: label value(s) {', '.join(map(str, unknown))}",
            f"values of this dataset: {', '.join(map(str, sorted(known)))}",
            "check that this is the dataset named by --dataset, or use --dataset folder with your own --organs",
        )
