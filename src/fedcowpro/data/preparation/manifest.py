"""The files of a site folder: names, contents, and reading them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from fedcowpro.config import Config, Modality, PrepareConfig
from fedcowpro.core.errors import FedCoWProError

Role = Literal["train", "support", "query"]
Areas = tuple[tuple[int, ...], ...]
MANIFEST = "manifest.json"
CASES, LABELS, VOLUMES = "cases", "labels", "volumes"
IMAGE, SUPERPIXELS, CASE = "image.npy", "superpixels.npy", "case.json"
ORGANS = "organs.json"
STAMP = "stamp.txt"
FileT = TypeVar("FileT", bound=Config)


class CaseFile(Config):
    """`case.json`: one prepared volume.

    `guessed` is the modality by the raw values, whatever was asked for. `inputs` is a digest of everything the folder
    was made from: settings, image, labels, organs. `source` is a digest of the image's files. `areas` are pixels, per
    slice, of segment 1, 2, ... `cropped_labels` is the share of labelled voxels that the crop cuts,
    `unknown` the number of voxels that the data set declares unknown.
    """

    id: str
    modality: Modality
    guessed: Modality
    depth: int
    spacing: tuple[float, float, float]
    placement: dict[str, Any]
    source: str
    inputs: str
    label_values: tuple[int, ...] | None
    cropped_labels: float | None
    unknown: int = 0
    areas: Areas


class CaseRecord(Config):
    """A case in the manifest: spacing in mm (depth, height, width) and pixels of each segment per slice.

    `modality` is how it was prepared, `guessed` what its raw values look like.
    `left_out` are slices of a training case that training does not see (setting 2: they show a test organ).
    """

    id: str
    modality: Modality
    guessed: Modality
    depth: int
    spacing: tuple[float, float, float]
    role: Role
    source: str
    areas: Areas
    left_out: tuple[int, ...] = ()


class Manifest(Config):
    """`manifest.json`, written last: a folder without it is not finished."""

    version: Literal[2]
    fedcowpro: str
    dataset: str
    settings: PrepareConfig
    cases: tuple[CaseRecord, ...]


def read_json(model: type[FileT], file: Path) -> FileT:
    """Read one of the site's JSON files.

    Raises:
        FedCoWProError: missing, not JSON, or not of this model.
    """
    try:
        return model.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        detail = error.errors()[0] if isinstance(error, ValidationError) else error
        text = f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" if isinstance(detail, dict) else str(detail)
        raise damaged(file, text) from error


def damaged(file: Path, detail: str) -> FedCoWProError:
    """The error for a file that cannot be used; `detail` says why."""
    return FedCoWProError(
        f"{file} is damaged or of another version ({detail})",
        "a whole site folder",
        "delete the site folder and prepare it again",
    )
