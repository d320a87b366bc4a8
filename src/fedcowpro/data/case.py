"""One case of a site folder, from its files to its place on disk: whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcowpro.config import PrepareConfig
from fedcowpro.data.manifest import CASE, CASES, IMAGE, LABELS, SUPERPIXELS, CaseFile, read_json
from fedcowpro.data.sources import Source
from fedcowpro.data.superpixels import segment_areas, superpixels
from fedcowpro.errors import FedCoWProError
from fedcowpro.volume.nifti import read_image, read_labels
from fedcowpro.volume.preprocess import grey_levels, normalise

# Warnings on the way, or the three parts of the error that ended the case.
Outcome = list[str] | tuple[str, str, str]


@dataclass(frozen=True)
class Job:
    """All that a worker needs for one case; `values` are the label values to keep, None = all."""

    source: Source
    out: Path
    config: PrepareConfig
    values: frozenset[int] | None
    image_digest: str
    inputs: str

    @property
    def folder(self) -> Path:
        """Where the finished case lies."""
        return self.out / CASES / self.source.id

    @property
    def labels(self) -> Path:
        """Where its labels lie, apart from the case."""
        return self.out / LABELS / f"{self.source.id}.npy"


def job_for(source: Source, out: Path, config: PrepareConfig, organs: Mapping[int, str] | None) -> Job:
    """The job of one case; its files are read once to tell whether they changed."""
    image = _file_digest(source.image)
    values = None if organs is None else sorted(organs)
    labels = _file_digest(source.labels) if source.labels is not None else None
    inputs = json.dumps([config.digest(), image, labels, values])
    return Job(
        source,
        out,
        config,
        None if values is None else frozenset(values),
        image,
        hashlib.sha256(inputs.encode()).hexdigest(),
    )


def kept_case(job: Job) -> CaseFile | None:
    """The finished case of an earlier run, if it was made from the same inputs."""
    if not (job.folder / CASE).is_file():
        return None
    try:
        case = read_json(CaseFile, job.folder / CASE)
    except FedCoWProError:
        return None
    labels_fit = job.labels.is_file() == (job.source.labels is not None)
    return case if case.inputs == job.inputs and labels_fit else None


def make_case(job: Job) -> list[str]:
    """Prepare one case and put it in place; the result is the warnings on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        volume = read_image(job.source.image)
        grey, placement = grey_levels(volume, job.config)
        labels = values = cropped = None
        if job.source.labels is not None:
            native = read_labels(job.source.labels, volume).voxels
            if job.values is not None:
                native = np.where(np.isin(native, list(job.values)), native, np.uint8(0))
            labels = placement.to_prepared_labels(native)
            values = tuple(int(value) for value in np.unique(labels) if value)
            cropped = placement.lost_fraction(native)
            if cropped > 0:
                warnings.warn(
                    f"{job.source.labels}: {cropped:.2%} of the labelled voxels lie outside the central "
                    f"{job.config.size} x {job.config.size} pixels and are cut off",
                    stacklevel=1,
                )
        segments = np.stack([superpixels(plane, job.config.superpixels, job.config.modality) for plane in grey])
    case = CaseFile(
        id=job.source.id,
        depth=len(grey),
        spacing=placement.spacing_prepared,
        placement=placement.to_json(),
        source=job.image_digest,
        inputs=job.inputs,
        label_values=values,
        cropped_labels=cropped,
        areas=tuple(tuple(int(n) for n in segment_areas(plane)) for plane in segments),
    )
    _put_in_place(job, case, normalise(grey).astype(np.float16), segments, labels)
    return [str(entry.message) for entry in caught]


def _put_in_place(job: Job, case: CaseFile, image: np.ndarray, segments: np.ndarray, labels: np.ndarray | None) -> None:
    partial = job.out / CASES / f".{job.source.id}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    np.save(partial / IMAGE, image)
    np.save(partial / SUPERPIXELS, segments)
    (partial / CASE).write_text(case.model_dump_json(), encoding="utf-8")
    shutil.rmtree(job.folder, ignore_errors=True)
    if labels is None:
        job.labels.unlink(missing_ok=True)
    else:
        job.labels.parent.mkdir(exist_ok=True)
        partial_labels = job.labels.with_name(f".{job.source.id}.tmp.npy")
        np.save(partial_labels, labels)
        os.replace(partial_labels, job.labels)
    os.replace(partial, job.folder)


def attempt(job: Job) -> Outcome:
    """`make_case` for a worker process: the user's mistakes come back as plain text, whole."""
    try:
        return make_case(job)
    except FedCoWProError as error:
        return error.got, error.expected, error.remedy


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
