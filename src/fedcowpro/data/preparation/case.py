"""One case of a site folder, from its files to its place on disk: whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedcowpro.config import PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import collecting, inform
from fedcowpro.data.datasets.scan import Scan
from fedcowpro.data.preparation.manifest import CASE, CASES, IMAGE, LABELS, SUPERPIXELS, VOLUMES, CaseFile, read_json
from fedcowpro.data.superpixels.superpixels import segment_areas, superpixels
from fedcowpro.volume.checks import UNKNOWN, mark_unknown, require_nonempty
from fedcowpro.volume.preprocess import Placement, grey_levels, guess_modality, modality_of, normalise
from fedcowpro.volume.read import reading
from fedcowpro.volume.volume import Volume

# Notes on the way, or the three parts of the error that ended the case.
Outcome = list[str] | tuple[str, str, str]


@dataclass(frozen=True)
class CaseJob:
    """All that a worker needs for one case.

    Attributes:
        values: the label values to keep; None = all.
        inputs: digest of all that the case is made from.
        must_show: whether at least one label must be left, as in a support.
    """

    scan: Scan
    out: Path
    config: PrepareConfig
    values: frozenset[int] | None
    image_digest: str
    inputs: str
    must_show: bool

    @property
    def folder(self) -> Path:
        """Where the finished case lies."""
        return self.out / CASES / self.scan.id

    @property
    def labels(self) -> Path:
        """Where its labels lie, apart from the case."""
        return self.out / LABELS / f"{self.scan.id}.npy"

    @property
    def volume(self) -> Path:
        """Where a labelled case lies on its own grid, for evaluation."""
        return self.out / VOLUMES / f"{self.scan.id}.npz"


def job_for(
    scan: Scan, out: Path, config: PrepareConfig, organs: Mapping[int, str] | None, *, must_show: bool
) -> CaseJob:
    """The job of one case; its files are read once to tell whether they changed."""
    config = config.model_copy(update={"modality": config.modality or scan.modality})
    image = _digest(scan.image.files)
    values = None if organs is None else sorted(organs)
    labels = _digest(scan.labels.files) if scan.labels is not None else None
    inputs = [config.digest(), image, labels, values]
    if scan.unknown is not None:
        inputs.append(f"unknown {scan.unknown}")
    if scan.superpixels is not None:
        inputs.append(_digest(scan.superpixels.files))
    digest = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    return CaseJob(scan, out, config, None if values is None else frozenset(values), image, digest, must_show)


def kept_case(job: CaseJob) -> CaseFile | None:
    """The finished case of an earlier run, if it was made from the same inputs."""
    if not (job.folder / CASE).is_file():
        return None
    try:
        case = read_json(CaseFile, job.folder / CASE)
    except FedCoWProError:
        return None
    labelled = job.scan.labels is not None
    labels_fit = job.labels.is_file() == job.volume.is_file() == labelled
    return case if case.inputs == job.inputs and labels_fit else None


def require_shown(job: CaseJob, values: Sequence[int]) -> None:
    """Refuse a case that must show an organ and shows none of the `values` that were kept."""
    if job.must_show and job.scan.labels is not None:
        require_nonempty(np.array(values), job.scan.labels.files[0])


def make_case(job: CaseJob, tell: Callable[[float], None]) -> list[str]:
    """Prepare one case and put it in place; the result is the notes on the way.

    `tell` is told after every slice how much of the case is done, 0..1.
    """
    with collecting() as notes:
        with reading(job.scan.image.files[0]):
            volume = job.scan.image.read()
        guessed = guess_modality(volume)
        modality = modality_of(volume, job.config.modality)
        grey, placement = grey_levels(volume, job.config.model_copy(update={"modality": modality}))
        labels = values = cropped = own_grid = None
        unknown = 0
        if job.scan.labels is not None:
            native = mark_unknown(job.scan.labels.read(volume), job.scan.unknown)
            hidden = {UNKNOWN} if job.scan.unknown is not None else set()
            if job.values is not None:
                kept = list(job.values | hidden)
                native = replace(native, voxels=np.where(np.isin(native.voxels, kept), native.voxels, 0))
            own_grid = _own_grid(volume, native)
            labels = placement.to_prepared_labels(native.voxels)
            values = tuple(int(value) for value in np.unique(labels) if value and value not in hidden)
            if hidden and (unknown := int((native.voxels == UNKNOWN).sum())) > 0:
                inform(
                    f"{native.name}: {unknown} voxels ({unknown / native.voxels.size:.1%}) are declared unknown: they "
                    "are neither background nor scored",
                    stacklevel=2,
                )
                native = replace(native, voxels=np.where(native.voxels == UNKNOWN, 0, native.voxels))
            cropped = _cropped(native, placement)
            require_shown(job, values)
        if job.scan.superpixels is None:
            segments = np.zeros(grey.shape, np.uint16)
            for z, plane in enumerate(grey):
                segments[z] = superpixels(plane, job.config.superpixels, modality)
                tell((z + 1) / len(grey))
        else:
            segments = _given_superpixels(job.scan.superpixels.read(volume), placement)
    case = CaseFile(
        id=job.scan.id,
        modality=modality,
        guessed=guessed,
        depth=len(grey),
        spacing=placement.spacing_prepared,
        placement=placement.to_json(),
        source=job.image_digest,
        inputs=job.inputs,
        unknown=unknown,
        label_values=values,
        cropped_labels=cropped,
        areas=tuple(tuple(int(n) for n in segment_areas(plane)) for plane in segments),
    )
    try:
        _put_in_place(job, case, normalise(grey).astype(np.float16), segments, labels, own_grid)
    except OSError:  # a full disk: nothing half-written stays
        shutil.rmtree(_partial(job.folder), ignore_errors=True)
        for file in (job.labels, job.volume):
            _partial(file).unlink(missing_ok=True)
        raise
    return notes


def _cropped(labels: Volume, placement: Placement) -> float:
    """Share of the labelled voxels that the crop cuts off, with a warning where there are some."""
    share = placement.lost_fraction(labels.voxels)
    if share > 0:
        inform(
            f"{labels.name}: {share:.2%} of the labelled voxels lie outside the central "
            f"{placement.size} x {placement.size} pixels and are cut off",
            stacklevel=2,
        )
    return share


def _given_superpixels(segments: Volume, placement: Placement) -> np.ndarray:
    """The dataset's own superpixels on the prepared grid, every id used: uint16 (depth, size, size)."""
    if not placement.keeps_pixels:
        raise FedCoWProError(
            f"{segments.name}: superpixels of slices that are resampled",
            "slices that keep the file's pixels",
            "leave --reuse-superpixels out, or ask for the file's own spacing and a size that holds the slices",
        )
    cropped = placement.to_prepared_image(segments.voxels, fill=0).astype(np.int32)
    out = np.zeros(cropped.shape, np.uint16)
    for plane, given in zip(out, cropped, strict=True):
        ids = np.unique(given[given > 0])
        plane[:] = np.where(given > 0, np.searchsorted(ids, given) + 1, 0)
    return out


def _own_grid(volume: Volume, labels: Volume) -> dict[str, np.ndarray]:
    """A labelled volume as it is segmented for a user: before any resampling."""
    whole = volume.voxels.astype(np.int16)
    image = whole if np.array_equal(whole, volume.voxels) else volume.voxels
    return {"image": image, "labels": labels.voxels.astype(np.uint8), "spacing": np.array(volume.spacing)}


def _partial(target: Path) -> Path:
    """Where a case's folder or file is written before it takes its place."""
    ending = target.suffix if target.suffix in (".npy", ".npz") else ""
    return target.with_name(f".{target.name.removesuffix(ending)}.tmp{ending}")


def _put_in_place(
    job: CaseJob,
    case: CaseFile,
    image: np.ndarray,
    segments: np.ndarray,
    labels: np.ndarray | None,
    own_grid: dict[str, np.ndarray] | None,
) -> None:
    partial = _partial(job.folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    np.save(partial / IMAGE, image)
    np.save(partial / SUPERPIXELS, segments)
    (partial / CASE).write_text(case.model_dump_json(), encoding="utf-8")
    shutil.rmtree(job.folder, ignore_errors=True)
    if labels is None or own_grid is None:
        job.labels.unlink(missing_ok=True)
        job.volume.unlink(missing_ok=True)
    else:
        job.volume.parent.mkdir(exist_ok=True)
        partial_volume = _partial(job.volume)
        np.savez(partial_volume, **own_grid)  # type: ignore[arg-type]
        os.replace(partial_volume, job.volume)
        job.labels.parent.mkdir(exist_ok=True)
        partial_labels = _partial(job.labels)
        np.save(partial_labels, labels)
        os.replace(partial_labels, job.labels)
    os.replace(partial, job.folder)


def attempt(job: CaseJob, tell: Callable[[float], None]) -> Outcome:
    """`make_case` for a worker process: the user's mistakes come back as plain text, whole."""
    try:
        return make_case(job, tell)
    except FedCoWProError as error:
        return error.got, error.expected, error.remedy


def _digest(files: Sequence[Path]) -> str:
    """SHA-256 over the contents of files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
