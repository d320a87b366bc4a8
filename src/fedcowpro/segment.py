"""From files to files: one or more annotated volumes segment other volumes, each on its own grid."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fedcowpro.config import Modality, PrepareConfig
from fedcowpro.errors import FedCoWProError
from fedcowpro.guidance import Anatomy, Atlas, Place, is_wanted, place_of
from fedcowpro.infer import Bank, Group, OneShotPredictor, join, pick_slices, slices_of
from fedcowpro.postprocess import count_parts, keep_components, location_map
from fedcowpro.volume.checks import require_nonempty
from fedcowpro.volume.nifti import write_labels, write_probabilities
from fedcowpro.volume.preprocess import BORDER, guess_modality, preprocess
from fedcowpro.volume.read import ENDINGS, is_series, read_labels, read_volume, require_volume
from fedcowpro.volume.volume import Volume

MaskFormat = Literal["nifti", "dicom-seg"]
_ENDING = {"nifti": ".nii.gz", "dicom-seg": ".dcm"}
_SLICES_AT_ONCE = 16  # bounds the memory of probabilities on a large native grid


@dataclass(frozen=True)
class Segmented:
    """What was written for one query: the mask's file, voxels and millilitres per label value."""

    query: Path
    mask: Path
    modality: Modality
    voxels: Mapping[int, int]
    millilitres: Mapping[int, float]


@dataclass(frozen=True)
class Support:
    """Annotated volumes, ready to segment others.

    Attributes:
        organs: label values that the masks show.
        masks: per organ its mask in the used slices (n, size, size).
        pixel: mm per pixel of the first support's slices, which queries follow.
        atlas: where the volumes have the organs; without volumes where no guide is wanted.
    """

    organs: tuple[int, ...]
    bank: Bank
    masks: Mapping[int, np.ndarray]
    pixel: float
    size: int
    atlas: Atlas


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
    encoded, labels, found, start = [], [], [], 0
    slices: dict[int, list[int]] = {}
    pixel = 0.0
    volumes: list[Anatomy] = []
    places: list[dict[int, Place]] = []
    for image_path, mask_path in pairs:
        volume = read_volume(image_path)
        native = read_labels(mask_path, volume).voxels
        if organs:
            native = np.where(np.isin(native, list(organs)), native, np.uint8(0))
        require_nonempty(native, mask_path)
        config = prepare[modality or guess_modality(volume)]
        prepared, placement = preprocess(volume, config)
        mask = placement.to_prepared_labels(native)
        require_nonempty(mask, mask_path)
        pixel = pixel or placement.pixel
        picked = {
            int(organ): pick_slices(slices_of(mask, int(organ)), predictor.config.support_slices)
            for organ in np.unique(mask[mask > 0])
        }
        used = sorted({z for zs in picked.values() for z in zs})
        for organ, zs in picked.items():
            slices.setdefault(organ, []).extend(start + used.index(z) for z in zs)
        encoded.append(predictor.encode(prepared[used]))
        labels.append(mask[used])
        if is_wanted(predictor.config):
            volumes.append(predictor.anatomy(prepared, volume.spacing[0]))
            places.append({organ: place_of(mask[zs] == organ, zs, volumes[-1]) for organ, zs in picked.items()})
        found.append(config.size)
        start += len(used)
    joined = np.concatenate(labels)
    groups = [Group(organ, tuple(zs)) for organ, zs in sorted(slices.items())]
    masks = {group.organ: joined[sorted(set(group.slices))] == group.organ for group in groups}
    bank = predictor.bank(join(encoded), joined, groups)
    shown = tuple(tuple(of_volume.get(group.organ) for of_volume in places) for group in groups)
    atlas = Atlas(tuple(volumes), shown, predictor.config)
    return Support(tuple(group.organ for group in groups), bank, masks, pixel, found[0], atlas)


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
        label_map, scores = segment_volume(predictor, support, volume, prepare[kind], probabilities)
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
) -> tuple[np.ndarray, np.ndarray | None]:
    """Label map uint8 (depth, height, width) of a volume and, on request, float32 (organ, depth, height, width).

    Where organs compete, the likelier wins; below the threshold is background.
    """
    config = config.model_copy(update={"spacing": _pixel(volume, config, support), "size": support.size})
    prepared, placement = preprocess(volume, config)
    encoded = predictor.encode(prepared)
    guide = None
    if support.atlas.volumes:
        guide = support.atlas.guide(predictor.anatomy(prepared, volume.spacing[0], encoded))
    shape = volume.voxels.shape
    label_map = np.zeros(shape, np.uint8)
    scores = np.zeros((len(support.organs), *shape), np.float32) if probabilities else None
    for start in range(0, len(prepared), _SLICES_AT_ONCE):
        part = slice(start, min(start + _SLICES_AT_ONCE, len(prepared)))
        choice = np.repeat(np.arange(len(support.organs))[:, None], part.stop - start, axis=1)
        numbers = range(start, part.stop)
        prior = guide.log_odds(numbers) if guide is not None else None
        soft = predictor.probabilities(encoded.select(numbers), support.bank, choice, prior)
        native = placement.to_native_scores(soft)
        best = native.argmax(0)
        label_map[part] = np.where(
            native.max(0) > predictor.config.threshold, np.array(support.organs, np.uint8)[best], 0
        )
        if scores is not None:
            scores[:, part] = native
    if predictor.config.keep_components:
        for organ in support.organs:
            mask, example = label_map == organ, support.masks[organ]
            location = placement.to_native_scores(location_map(example)[None, None])[0, 0]
            label_map[mask & ~keep_components(mask, location, count_parts(example))] = 0
    return label_map, scores


def _pixel(volume: Volume, config: PrepareConfig, support: Support) -> float:
    """mm per pixel: the support's, so that organs keep their size, unless that would cut off more than a border."""
    if config.spacing is not None:
        return config.spacing
    _, height, width = volume.voxels.shape
    extent = max(height * volume.spacing[1], width * volume.spacing[2])
    return max(support.pixel, extent * (1 - 2 * BORDER) / support.size)


def _stem(path: Path) -> str:
    name = path.name
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return path.resolve().name if path.is_dir() else path.stem
