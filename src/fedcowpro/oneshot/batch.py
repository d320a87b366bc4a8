"""From files to files: one or more annotated volumes segment other volumes, each on its own grid."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from fedcowpro.config import Modality, PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import collecting, inform
from fedcowpro.oneshot.annotation import read_example
from fedcowpro.oneshot.batch_record import OrganFound, Segmented, read_record, require_own, was_changed, write_record
from fedcowpro.oneshot.encoded import encode_volume
from fedcowpro.oneshot.extent import Extent, Extents, read_extents
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.oneshot.segmentation import Segmentation, segment_encoded
from fedcowpro.oneshot.support import Support, encode_example, join_examples
from fedcowpro.volume.accept import Painted
from fedcowpro.volume.find import output_names
from fedcowpro.volume.measure import NOTHING, measure
from fedcowpro.volume.nifti import write_labels, write_probabilities
from fedcowpro.volume.preprocess import modality_of
from fedcowpro.volume.read import is_series, read_labels, read_volume, require_volume
from fedcowpro.volume.volume import Volume

if TYPE_CHECKING:
    from fedcowpro.volume.dicom import Series

MaskFormat = Literal["nifti", "dicom-seg", "rtstruct"]
Draw = Callable[[Path, np.ndarray, np.ndarray, Mapping[int, str]], None]
_ENDING = {"nifti": ".nii.gz", "dicom-seg": ".dcm", "rtstruct": ".dcm"}
_CALLED = {"dicom-seg": "DICOM-SEG", "rtstruct": "RTSTRUCT"}


class Segmenter(Protocol):
    """What makes masks: a comparison with examples (`ByExample`), or a network for its own organs (`OrganModel`)."""

    @property
    def organs(self) -> tuple[int, ...]:
        """Label values that it finds."""

    def segment(
        self, volume: Volume, modality: Modality, *, extents: Extents | None = None, probabilities: bool = False
    ) -> Segmentation:
        """Segment a volume on its own grid, each organ within its extent where that is known."""


@dataclass(frozen=True, eq=False)
class ByExample:
    """Segments like annotated volumes, whose encoding queries follow."""

    predictor: OneShotPredictor
    support: Support
    prepare: Mapping[Modality, PrepareConfig]

    @property
    def organs(self) -> tuple[int, ...]:
        """Label values of the annotations."""
        return self.support.organs

    def segment(
        self, volume: Volume, modality: Modality, *, extents: Extents | None = None, probabilities: bool = False
    ) -> Segmentation:
        """Encode a volume as the support was and segment it (see `segment_encoded`)."""
        encoded = encode_volume(
            self.predictor, volume, self.prepare[modality], pixel=self.support.pixel, size=self.support.size
        )
        return segment_encoded(self.predictor, self.support, encoded, extents=extents, probabilities=probabilities)


def load_support(
    predictor: OneShotPredictor,
    pairs: Sequence[tuple[Path, Path]],
    prepare: Mapping[Modality, PrepareConfig],
    modality: Modality | None = None,
    organs: Collection[int] = (),
    painted: Painted | None = None,
    extent: Mapping[int | str, Extent] | None = None,
) -> Support:
    """Encode the annotated slices of (image, mask) files and build their prototypes.

    Args:
        pairs: image and label map on the same grid; every whole number 1..255 in a mask is an organ, the same in
            all masks.
        prepare: settings per modality.
        modality: of the supports; None guesses from the values.
        organs: label values to take, as a mapping with their names; other ones become background. Empty = all.
        painted: see `known_slices`.
        extent: ends of organs in the one annotated volume, by label value or name (see `read_extents`).

    Raises:
        FedCoWProError: extents of several annotated volumes, no pair, unusable files, an image and mask that do not
            match, an empty mask.
    """
    if not pairs:
        raise FedCoWProError("no support", "one annotated volume at least", "give --support and --support-mask")
    if extent and len(pairs) > 1:
        raise FedCoWProError(
            f"an extent and {len(pairs)} annotated volumes", "one volume, whose slices it numbers",
            "use Python's add_support, or give whole masks",
        )  # fmt: skip
    names = organs if isinstance(organs, Mapping) else None
    examples = []
    for image_path, mask_path in pairs:
        volume, annotation = read_example(image_path, mask_path, painted=painted, extent=extent, names=names)
        annotation.require_organs(organs)
        config = prepare[modality_of(volume, modality)]
        examples.append(encode_example(predictor, volume, annotation, config, organs=organs))
    return join_examples(predictor, examples)


def segment_files(
    segmenter: Segmenter,
    queries: Sequence[Path],
    out: Path,
    *,
    modality: Modality | None = None,
    probabilities: bool = False,
    file_format: MaskFormat = "nifti",
    preview: Draw | None = None,
    organs: Mapping[int, str] | None = None,
    extent: Mapping[int | str, Extent] | None = None,
    settings: str | None = None,
    resume: bool = True,
    overwrite: bool = False,
    on_query: Callable[[Segmented], None] | None = None,
    on_error: Callable[[Path, FedCoWProError], None] | None = None,
) -> list[Segmented]:
    """Write OUT/<query>_mask.nii.gz for each query: label values of the segmenter, on the query's own grid.

    Where two queries have one name, results keep the folders of their queries (see `output_names`).

    Args:
        queries: image files, or folders with one DICOM series each.
        out: folder, made where missing.
        modality: of the queries; None guesses each from its values.
        probabilities: write OUT/<query>_probabilities.nii.gz too, float32, one last axis entry per organ.
        file_format: 'nifti', or 'dicom-seg' or 'rtstruct' for OUT/<query>_mask.dcm, an object of the query's own study.
        preview: draws OUT/<query>_preview.png from (file, image, label map, names); None = no picture.
        organs: label value -> name, for masks and pictures; one without is 'label 1', ... where it needs a name.
        extent: ends of organs in the one query, by label value or name (see `read_extents`).
        settings: digest of all that the masks depend on besides the queries. With it OUT/<query>_mask.json is written.
        resume: a query whose files an earlier call made with the same digest is not segmented again.
        overwrite: replace a mask that no record says anything of, and one that was made with other settings. A mask of
            another query, and one that was changed since it was written, is never replaced; the latter is a result.
        on_query: called after each query.
        on_error: called with a query that cannot be used and why, after which the others go on; None = raised.

    Raises:
        FedCoWProError: before anything is written: missing files, files that are no volumes, two queries of one
            folder whose results would have one name, DICOM-SEG of a query that is no DICOM series; at its turn: a
            query with unusable voxels. Finished results stay.
    """
    if extent and len(queries) != 1:
        raise FedCoWProError(
            f"an extent and {len(queries)} queries", "one query, whose slices it numbers", "segment them one by one"
        )
    options = _Options(out, modality, probabilities, file_format, preview, settings, extent or {})
    targets: dict[Path, Path] = {}
    for query, stem in zip(queries, output_names(queries), strict=True):
        try:
            options.require(query, stem)
        except FedCoWProError as error:
            if on_error is None:
                raise
            on_error(query, error)
            continue
        if stem in targets:
            raise FedCoWProError(
                f"{targets[stem]} and {query} would both be written to {options.mask(stem)}",
                "queries with different names in one folder",
                "rename one of them, or use two output folders",
            )
        targets[stem] = query
    names = {value: name for value, name in (organs or {}).items() if value in segmenter.organs}
    results = []
    for stem, query in targets.items():
        try:
            result = options.finished(stem, query) if resume else None
            if result is None:
                if settings is not None:
                    require_own(query, options.mask(stem), settings, overwrite=overwrite)
                if settings is not None and was_changed(options.mask(stem)):
                    result = _as_changed(query, options.mask(stem), modality)
                else:
                    result = _segment_file(segmenter, stem, query, options, names)
            for note in result.notes:
                inform(note, stacklevel=2)
        except FedCoWProError as error:
            if on_error is None:
                raise
            on_error(query, error)
            continue
        results.append(result)
        if on_query is not None:
            on_query(result)
    return results


@dataclass(frozen=True)
class _Options:
    """What is written for each query, and where."""

    out: Path
    modality: Modality | None
    probabilities: bool
    file_format: MaskFormat
    preview: Draw | None
    settings: str | None
    extent: Mapping[int | str, Extent]

    def mask(self, stem: Path) -> Path:
        return self.out / f"{stem}_mask{_ENDING[self.file_format]}"

    def scores(self, stem: Path) -> Path:
        return self.out / f"{stem}_probabilities.nii.gz"

    def picture(self, stem: Path) -> Path:
        return self.out / f"{stem}_preview.png"

    def require(self, query: Path, stem: Path) -> None:
        """Refuse early what cannot be segmented."""
        for file in (self.mask(stem), self.scores(stem) if self.probabilities else self.mask(stem)):
            _require_short(file)
        require_volume(query)
        if self.file_format != "nifti":
            if not is_series(query):
                raise FedCoWProError(
                    f"{_CALLED[self.file_format]} of {query}",
                    "a DICOM series as query",
                    "give its folder, or write NIfTI masks",
                )
            if self.file_format == "dicom-seg":
                _require_referable(query)

    def finished(self, stem: Path, query: Path) -> Segmented | None:
        """What an earlier run made, if all of it is there."""
        missing = (self.probabilities and not self.scores(stem).is_file()) or (
            self.preview and not self.picture(stem).is_file()
        )
        return None if missing or self.settings is None else read_record(query, self.mask(stem), self.settings)


def _segment_file(
    segmenter: Segmenter,
    stem: Path,
    query: Path,
    options: _Options,
    names: Mapping[int, str],
) -> Segmented:
    with collecting() as notes:
        volume = read_volume(query)
        kind = modality_of(volume, options.modality)
        extents = read_extents(options.extent, volume, names)
        found = segmenter.segment(volume, kind, extents=extents, probabilities=options.probabilities)
    mask = options.mask(stem)
    mask.parent.mkdir(parents=True, exist_ok=True)
    if found.probability is not None:
        write_probabilities(options.scores(stem), found.probability, volume.grid)
    if options.preview:
        options.preview(options.picture(stem), volume.voxels, found.labels, names)
    if options.file_format == "nifti":
        write_labels(mask, found.labels, volume.grid, names)
    else:
        from fedcowpro.volume.dicom.masks import write_masks

        (series,) = _series_of(query)  # `read_volume` has refused another number
        numbered = {value: f"label {value}" for value in segmenter.organs}
        write_masks(mask, found.labels, series, numbered | dict(names), options.file_format)
    result = Segmented(query, mask, kind, _count(found, volume), notes=tuple(notes))
    if options.settings is not None:
        write_record(result, options.settings)
    return result


def _as_changed(query: Path, mask: Path, modality: Modality | None) -> Segmented:
    """A mask that somebody changed since it was written, with what is in it now."""
    with collecting():
        volume = read_volume(query)
        kind = modality_of(volume, modality)
    labels = read_labels(mask, volume).voxels
    organs = tuple(int(value) for value in np.unique(labels) if value)
    unknown = np.full((len(organs), len(labels)), np.nan, np.float32)
    found = Segmentation(organs, labels, None, dict.fromkeys(organs, float("nan")), unknown)
    note = f"{mask} was changed since it was written and stays as it is; move it away to have it made again"
    return Segmented(query, mask, kind, _count(found, volume), kept=True, changed=True, notes=(note,))


def _count(found: Segmentation, volume: Volume) -> dict[int, OrganFound]:
    measured = measure(found.labels, volume)
    return {
        organ: OrganFound(
            **vars(measured.get(organ, NOTHING)),
            confidence=float(found.confidence[organ]),
            doubts=found.doubts.get(organ, ()),
        )
        for organ in found.organs
    }


def _require_short(file: Path) -> None:
    """Refuse a name that is too long for the disk, before the work."""
    there = next(folder for folder in file.absolute().parents if folder.is_dir())
    try:
        os.lstat(there / file.name)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise FedCoWProError(
                f"{file}: a name too long for the disk", "room for the name of the query and its ending",
                "give the query a shorter name",
            ) from None  # fmt: skip


def _require_referable(query: Path) -> None:
    """Refuse, before the work, a series that a segmentation cannot refer to."""
    from fedcowpro.volume.dicom.seg_writer import require_referable

    series = _series_of(query)
    if len(series) == 1:  # another number is refused by the reader, which says which there are
        require_referable(series[0])


def _series_of(query: Path) -> Sequence[Series]:
    from fedcowpro.volume.dicom import find
    from fedcowpro.volume.dicom.discover import find_in

    return (find(query) if query.is_dir() else find_in([query])).series
