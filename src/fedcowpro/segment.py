"""From files to files: one or more annotated volumes segment other volumes, each on its own grid."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fedcowpro.config import Modality, PrepareConfig
from fedcowpro.errors import FedCoWProError
from fedcowpro.infer import OneShotPredictor
from fedcowpro.interactive import (
    Annotation,
    Segmentation,
    Support,
    encode_example,
    encode_volume,
    join_examples,
    segment_encoded,
)
from fedcowpro.volume.nifti import write_labels, write_probabilities
from fedcowpro.volume.preprocess import guess_modality
from fedcowpro.volume.read import ENDINGS, is_series, read_labels, read_volume, require_volume
from fedcowpro.volume.volume import Volume

MaskFormat = Literal["nifti", "dicom-seg"]
_ENDING = {"nifti": ".nii.gz", "dicom-seg": ".dcm"}


@dataclass(frozen=True)
class Segmented:
    """What was written for one query: the mask's file, voxels and millilitres per label value."""

    query: Path
    mask: Path
    modality: Modality
    voxels: Mapping[int, int]
    millilitres: Mapping[int, float]


def load_support(
    predictor: OneShotPredictor,
    pairs: Sequence[tuple[Path, Path]],
    prepare: Mapping[Modality, PrepareConfig],
    modality: Modality | None = None,
    organs: Collection[int] = (),
) -> Support:
    """Encode the annotated slices of (image, mask) files and build their prototypes.

    Args:
        pairs: image and label map on the same grid; every whole number 1..255 in a mask is an organ, the same in
            all masks.
        prepare: settings per modality.
        modality: of the supports; None guesses from the values.
        organs: label values to take; other ones become background. Empty = all.

    Raises:
        FedCoWProError: no pair, unusable files, an image and mask that do not match, an empty mask.
    """
    if not pairs:
        raise FedCoWProError("no support", "one annotated volume at least", "give --support and --support-mask")
    examples = []
    for image_path, mask_path in pairs:
        volume = read_volume(image_path)
        annotation = Annotation.whole(read_labels(mask_path, volume).voxels, str(mask_path))
        config = prepare[modality or guess_modality(volume)]
        examples.append(encode_example(predictor, volume, annotation, config, organs=organs))
    return join_examples(predictor, examples)


def segment_files(
    predictor: OneShotPredictor,
    support: Support,
    queries: Sequence[Path],
    out: Path,
    prepare: Mapping[Modality, PrepareConfig],
    *,
    modality: Modality | None = None,
    probabilities: bool = False,
    file_format: MaskFormat = "nifti",
    organs: Mapping[int, str] | None = None,
    on_query: Callable[[Segmented], None] | None = None,
) -> list[Segmented]:
    """Write OUT/<query>_mask.nii.gz for each query: label values of the support, on the query's own grid.

    Args:
        queries: image files, or folders with one DICOM series each.
        out: folder, made where missing.
        prepare: settings per modality.
        modality: of the queries; None guesses each from its values.
        probabilities: write OUT/<query>_probabilities.nii.gz too, float32, one last axis entry per organ.
        file_format: 'nifti', or 'dicom-seg' for OUT/<query>_mask.dcm, an object of the query's own study.
        organs: label value -> name, for DICOM-SEG; None = 'label 1', ...
        on_query: called after each query.

    Raises:
        FedCoWProError: before anything is written: missing files, files that are no volumes, two queries whose
            results would have one name, DICOM-SEG of a query that is no DICOM series; at its turn: a query with
            unusable voxels. Finished results stay.
    """
    targets: dict[str, Path] = {}
    for query in queries:
        require_volume(query)
        stem = _stem(query)
        if stem in targets:
            raise FedCoWProError(
                f"{targets[stem]} and {query} would both be written to {out / stem}_mask{_ENDING[file_format]}",
                "queries with different file names",
                "rename one of them, or use two output folders",
            )
        if file_format == "dicom-seg" and not is_series(query):
            raise FedCoWProError(
                f"DICOM-SEG of {query}", "a DICOM series as query", "give its folder, or write NIfTI masks"
            )
        targets[stem] = query
    names = {value: f"label {value}" for value in support.organs} | dict(organs or {})
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for stem, query in targets.items():
        volume = read_volume(query)
        kind = modality or guess_modality(volume)
        found = segment_volume(predictor, support, volume, prepare[kind], probabilities)
        label_map, scores = found.labels, found.probability
        mask_path = out / f"{stem}_mask{_ENDING[file_format]}"
        if scores is not None:
            write_probabilities(out / f"{stem}_probabilities.nii.gz", scores, volume.grid)
        if file_format == "nifti":
            write_labels(mask_path, label_map, volume.grid)
        else:
            _write_dicom_seg(mask_path, label_map, query, {value: names[value] for value in support.organs})
        counts = {organ: int((label_map == organ).sum()) for organ in support.organs}
        millilitres = {organ: count * float(np.prod(volume.spacing)) / 1000 for organ, count in counts.items()}
        results.append(Segmented(query, mask_path, kind, counts, millilitres))
        if on_query is not None:
            on_query(results[-1])
    return results


def _write_dicom_seg(path: Path, labels: np.ndarray, query: Path, organs: Mapping[int, str]) -> None:
    from fedcowpro.volume.dicom import find_series
    from fedcowpro.volume.dicom_seg import write_segmentation

    (series,) = find_series(query)  # `read_volume` has refused a folder with another number
    write_segmentation(path, labels, series, organs)


def segment_volume(
    predictor: OneShotPredictor,
    support: Support,
    volume: Volume,
    config: PrepareConfig,
    probabilities: bool = False,
) -> Segmentation:
    """Encode a volume as the support was and segment it (see `segment_encoded`)."""
    encoded = encode_volume(predictor, volume, config, pixel=support.pixel, size=support.size)
    return segment_encoded(predictor, support, encoded, probabilities=probabilities)


def _stem(path: Path) -> str:
    name = path.name
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return path.resolve().name if path.is_dir() else path.stem
