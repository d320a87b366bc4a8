"""Label maps among the volumes of a folder, and the image that each belongs to, told by names and grids."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from fedcowpro.data.datasets.pairs import safe
from fedcowpro.volume.checks import AFFINE_TOLERANCE, corner_offset
from fedcowpro.volume.itk import library, reader_of
from fedcowpro.volume.parse import header_of
from fedcowpro.volume.read import NIFTI, ending_of
from fedcowpro.volume.volume import Grid

_SETS = {"tr", "ts", "va"}
LABEL_WORDS = frozenset(
    _SETS
    | {"seg", "segs", "segmentation", "segmentations", "mask", "masks", "label", "labels", "gt", "ground", "truth"}
    | {"roi", "rois", "annotation", "annotations"}
)
IMAGE_WORDS = frozenset(_SETS | {"image", "images", "img", "imgs", "scan", "scans", "volume", "volumes", "vol"})
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Lattice:
    """Where a file's voxels lie, from its header: shape along the file's axes, affine to RAS+ mm."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    def same(self, other: Lattice) -> bool:
        """Whether the voxels of both lie in the same places, but for rounding and the order and direction of axes."""
        one, another = (Grid(grid.shape, grid.affine) for grid in (self, other))
        alike = one.internal_shape == another.internal_shape
        return alike and corner_offset(one, another) <= AFFINE_TOLERANCE * min(one.spacing)


def lattice_of(path: Path) -> Lattice | None:
    """The lattice of a volume; None where the header cannot be read or says something else than a 3-D volume.

    Raises:
        FedCoWProError: SimpleITK is needed and not installed.
    """
    read = _nifti_header if ending_of(path, NIFTI) else _itk_header
    if read is _itk_header:
        library()
    try:
        shape, affine = read(path)
    except Exception:  # libraries have no common error for a damaged header; reading the volume will name the damage
        return None
    return Lattice(shape, affine) if len(shape) == 3 else None


def is_label_map(path: PurePath) -> bool:
    """Whether a file's name, or the whole name of its folder, says label map; `path` is relative to the source."""
    folder = words(path.parent.name)
    return bool(words(stem(path)) & LABEL_WORDS - _SETS) or bool(folder - _SETS and folder <= LABEL_WORDS)


def case_id(path: PurePath) -> str:
    """A case's id from the image's path below the source: without ending and without words for 'image'."""
    name = re.sub(r"^(?:image|img|scan|volume|vol)(?:[ ._-]+|(?=[0-9]))(?=.)", "", stem(path), flags=re.IGNORECASE)
    folder = path.parent.name
    if not folder or words(folder) <= IMAGE_WORDS:
        return safe(name)
    return safe(folder if words(name) <= IMAGE_WORDS else f"{folder}-{name}")


def pair(images: Mapping[str, Path], labels: Sequence[Path], source: Path) -> tuple[dict[str, Path], list[str]]:
    """Give each label map to the image on the same grid; among several to the one most alike in name.

    Numbers in names must not contradict. A label map that fits several images equally, and one of several that fit an
    image equally, stay unpaired.

    Returns:
        Case -> label map, and a note for every label map that was left out.
    """
    lattices = {case: lattice_of(path) for case, path in images.items()}
    wanted: dict[str, list[tuple[float, Path]]] = {}
    notes = []
    for label in labels:
        lattice = lattice_of(label)
        fitting = [
            case
            for case, path in images.items()
            if lattice is not None
            and (own := lattices[case]) is not None
            and lattice.same(own)
            and not _contradict(path.relative_to(source), label.relative_to(source))
        ]
        likeness = {case: _alike(images[case].relative_to(source), label.relative_to(source)) for case in fitting}
        best = [case for case in fitting if likeness[case] == max(likeness.values())]
        if len(best) == 1:
            wanted.setdefault(best[0], []).append((likeness[best[0]], label))
        elif best:
            names = ", ".join(images[case].name for case in best)
            notes.append(f"{label}: left out, because it fits {names} equally well; pair them with patterns")
        else:
            notes.append(f"{label}: left out, because no image of a fitting name lies on its grid")
    paired = {}
    for case, given in wanted.items():
        most = max(score for score, _ in given)
        best_labels = [label for score, label in given if score == most]
        if len(best_labels) == 1:
            paired[case] = best_labels[0]
        rest = [label.name for _, label in given if len(best_labels) > 1 or label != best_labels[0]]
        if rest:
            how = "because several fit equally well" if len(best_labels) > 1 else f"beside {best_labels[0].name}"
            notes.append(f"{images[case]}: label maps left out, {how}: {', '.join(rest)}; name one with --labels")
    return paired, notes


def stem(path: PurePath) -> str:
    """A file's name without the ending of its format."""
    return path.name.removesuffix(ending_of(path))


def words(name: str) -> set[str]:
    """The words and numbers in a name, lower case, numbers without leading zeros; T1 and T2 are words."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # GroundTruth, imagesTr
    found = re.findall(r"t[12](?![0-9])|[a-z]+|[0-9]+", parted.lower())
    return {str(int(word)) if word.isdigit() else word for word in found}


def _essence(path: PurePath) -> set[str]:
    return {word for word in words(f"{path.parent} {stem(path)}") if word not in LABEL_WORDS | IMAGE_WORDS}


def _alike(one: PurePath, other: PurePath) -> float:
    """Share of words that both names have, 0..1."""
    mine, theirs = _essence(one), _essence(other)
    return len(mine & theirs) / len(mine | theirs) if mine | theirs else 1.0


def _contradict(one: PurePath, other: PurePath) -> bool:
    mine, theirs = ({word for word in _essence(path) if word.isdigit()} for path in (one, other))
    return bool(mine and theirs) and not mine & theirs


def _nifti_header(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as stream:
        header: Any = header_of(stream.read(544))
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape, np.asarray(header.get_best_affine(), np.float64)


def _itk_header(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    reader = reader_of(path)
    reader.ReadImageInformation()
    shape = tuple(int(n) for n in reader.GetSize())
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(3, 3) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    return shape, _LPS_TO_RAS @ affine
