"""A prepared site folder: what a hospital's training and evaluation read.

Arrays are memory-mapped for the length of one read, so memory does not grow with the number of volumes. Only
`Site.labels` and `Site.organs` open the folder of labels.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from fedcowpro.config import Modality, PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.manifest import (
    CASE,
    CASES,
    IMAGE,
    LABELS,
    MANIFEST,
    ORGANS,
    SUPERPIXELS,
    VOLUMES,
    CaseFile,
    CaseRecord,
    Manifest,
    Role,
    damaged,
    read_json,
)
from fedcowpro.volume.accept import as_volume
from fedcowpro.volume.checks import UNKNOWN
from fedcowpro.volume.preprocess import Placement
from fedcowpro.volume.volume import Volume


class Site:
    """Read access to a site folder. Cases are named by their id. Open it with `Site.open`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._records = {case.id: case for case in manifest.cases}

    @classmethod
    def open(cls, path: Path) -> Site:
        """Open a site folder and check that every case is there and whole.

        Raises:
            FedCoWProError: no such folder, no site folder, not finished, damaged, or of another version.
        """
        path = Path(path)
        if not path.is_dir():
            raise FedCoWProError(
                f"no folder {path}", "a site folder", "check the path, or make it with 'fedcowpro prepare'"
            )
        if not (path / MANIFEST).is_file():
            if (path / CASES).is_dir():
                raise FedCoWProError(
                    f"{path} has no {MANIFEST}: its preparation was not finished",
                    "a finished site folder",
                    "run the same 'fedcowpro prepare' again; finished volumes are kept",
                )
            raise FedCoWProError(
                f"{path} is not a site folder (no {MANIFEST})",
                "a folder made by 'fedcowpro prepare'",
                "check the path, or prepare the volumes first",
            )
        site = cls(path, read_json(Manifest, path / MANIFEST))
        for case in site.cases:
            site._image(case.id)
            site._superpixels(case.id)
        return site

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities of its cases: 'ct', 'mr' or both, in this order."""
        return tuple(sorted({case.modality for case in self.cases}))

    @property
    def size(self) -> int:
        """Height and width of a slice in pixels."""
        return self.manifest.settings.size

    def settings(self, modality: Modality) -> PrepareConfig:
        """How volumes of a modality were prepared."""
        return self.manifest.settings.model_copy(update={"modality": modality})

    @property
    def cases(self) -> tuple[CaseRecord, ...]:
        """All cases in the order in which they were prepared."""
        return self.manifest.cases

    @property
    def digest(self) -> str:
        """16 hex digits of the manifest: equal for sites of equal cases, settings and roles."""
        return self.manifest.digest()

    @cached_property
    def labelled_digest(self) -> str:
        """16 hex digits of images, labels, spacing and organs of all labelled cases: what scores depend on.

        Superpixels, roles and unlabelled cases do not change it.
        """
        digest = hashlib.sha256(json.dumps(self.organs, sort_keys=True).encode())
        for case in sorted(self.labelled_cases):
            digest.update(json.dumps([case, self.spacing(case)]).encode())
            digest.update(self._image(case).tobytes())
            digest.update(self.labels(case).tobytes())
            if (unknown := self.unknown(case)).any():
                digest.update(unknown.tobytes())
        return digest.hexdigest()[:16]

    @property
    def organs(self) -> dict[int, str]:
        """Label value -> organ name; empty where no case has labels.

        Raises:
            FedCoWProError: the file of names is damaged.
        """
        file = self.path / LABELS / ORGANS
        if not file.is_file():
            return {}
        try:
            return {int(value): str(name) for value, name in json.loads(file.read_text(encoding="utf-8")).items()}
        except (ValueError, AttributeError) as error:
            raise damaged(file, str(error)) from error

    @property
    def labelled_cases(self) -> tuple[str, ...]:
        """Ids of the cases that have labels."""
        return tuple(case.id for case in self.cases if (self.path / LABELS / f"{case.id}.npy").is_file())

    @cached_property
    def _train_slices(self) -> list[tuple[str, int, tuple[int, ...]]]:
        least = self.manifest.settings.superpixels.min_area
        usable = (
            (case.id, z, tuple(i for i, area in enumerate(areas, 1) if area >= least))
            for case in self.cases
            if case.role == "train"
            for z, areas in enumerate(case.areas)
            if z not in case.left_out
        )
        return [entry for entry in usable if entry[2]]

    def train_slices(self) -> list[tuple[str, int, tuple[int, ...]]]:
        """(case id, slice, ids of segments of at least `min_area` pixels), for every training slice with one.

        Read from the manifest; no array is opened.
        """
        return list(self._train_slices)

    @property
    def n_train_slices(self) -> int:
        """Number of slices that training draws from."""
        return len(self._train_slices)

    def with_role(self, role: Role) -> tuple[str, ...]:
        """Ids of the cases of a role, in order."""
        return tuple(case.id for case in self.cases if case.role == role)

    def record(self, case: str) -> CaseRecord:
        """The manifest's entry of a case.

        Raises:
            FedCoWProError: the site has no such case.
        """
        if case not in self._records:
            raise FedCoWProError(
                f"{self.path} has no case '{case}'",
                f"one of: {', '.join(self._records)}",
                "correct the id, or prepare the site with that case",
            )
        return self._records[case]

    def image(self, case: str) -> np.ndarray:
        """Normalised volume, float32 (depth, size, size)."""
        return np.array(self._image(case), np.float32)

    def image_slice(self, case: str, z: int) -> np.ndarray:
        """Normalised slice, float32 (size, size).

        Raises:
            FedCoWProError: no such case or slice, or a damaged file.
        """
        self._require_slice(case, z)
        return np.array(self._image(case)[z], np.float32)

    def superpixel_slice(self, case: str, z: int) -> np.ndarray:
        """Segments of a slice, uint16 (size, size); 0 = outside the body.

        Raises:
            FedCoWProError: no such case or slice, or a damaged file.
        """
        self._require_slice(case, z)
        return np.array(self._superpixels(case)[z])

    def labels(self, case: str) -> np.ndarray:
        """Label map on the prepared grid, uint8 (depth, size, size).

        Raises:
            FedCoWProError: the case has no labels, or they are damaged.
        """
        record = self.record(case)
        file = self.path / LABELS / f"{case}.npy"
        if not file.is_file():
            raise FedCoWProError(
                f"case '{case}' of {self.path} has no labels",
                f"one of: {', '.join(self.labelled_cases) or '(no case has labels)'}",
                "prepare the site with this case's label file",
            )
        labels = np.array(self._mapped(file, np.uint8, record.depth))
        if UNKNOWN not in self.organs:
            labels[labels == UNKNOWN] = 0
        return labels

    def unknown(self, case: str) -> np.ndarray:
        """Which voxels of a labelled case nobody has looked at, bool (depth, size, size); `labels` are 0 there.

        Raises:
            FedCoWProError: as `labels`.
        """
        shape = self.labels(case).shape
        if UNKNOWN in self.organs:
            return np.zeros(shape, bool)
        return np.asarray(self._mapped(self.path / LABELS / f"{case}.npy", np.uint8, shape[0]) == UNKNOWN)

    def volume(self, case: str) -> tuple[Volume, np.ndarray]:
        """A labelled case on its own grid, as a user would give it: the image, and its labels, uint8 of its shape.

        Labels of `UNKNOWN` are voxels that the data set declares unknown, where that is no organ's value.

        Raises:
            FedCoWProError: the case has no labels, was prepared by an older version, or is damaged.
        """
        record, file = self.record(case), self.path / VOLUMES / f"{case}.npz"
        self.labels(case)
        try:
            with np.load(file) as own:
                image, labels, spacing = own["image"].astype(np.float32), own["labels"], own["spacing"].tolist()
            if image.ndim != 3 or len(image) != record.depth or labels.shape != image.shape or labels.dtype != np.uint8:
                raise ValueError(f"image {image.shape}, labels {labels.dtype} {labels.shape}")
            return as_volume(image, spacing, f"case '{case}' of {self.path}", "zyx"), labels
        except FileNotFoundError as error:
            raise FedCoWProError(
                f"{file} is not there: the site was prepared by an older version",
                "labelled cases on their own grid, too",
                "run the same 'fedcowpro prepare' again",
            ) from error
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise damaged(file, str(error)) from error

    def spacing(self, case: str) -> tuple[float, float, float]:
        """mm of a prepared voxel, (depth, height, width)."""
        return self.record(case).spacing

    def place(self, case: str) -> Placement:
        """How the prepared slices lie in the volume they come from."""
        self.record(case)
        file = self.path / CASES / case / CASE
        try:
            return Placement.from_json(read_json(CaseFile, file).placement)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(file, f"placement: {error}") from error

    def _require_slice(self, case: str, z: int) -> None:
        depth = self.record(case).depth
        if not 0 <= z < depth:
            raise FedCoWProError(
                f"slice {z} of case '{case}'", f"a slice in 0..{depth - 1}", "correct the slice number"
            )

    def _image(self, case: str) -> np.ndarray:
        return self._mapped(self.path / CASES / case / IMAGE, np.float16, self.record(case).depth)

    def _superpixels(self, case: str) -> np.ndarray:
        return self._mapped(self.path / CASES / case / SUPERPIXELS, np.uint16, self.record(case).depth)

    def _mapped(self, file: Path, dtype: type[np.generic], depth: int) -> np.ndarray:
        """The file as a memory map, which closes when the last view of it goes."""
        try:
            array = np.load(file, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise damaged(file, str(error)) from error
        shape = (depth, self.size, self.size)
        if array.dtype != dtype or array.shape != shape:
            raise damaged(file, f"{array.dtype} {array.shape} instead of {np.dtype(dtype)} {shape}")
        return array
