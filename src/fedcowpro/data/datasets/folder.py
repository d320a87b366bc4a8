"""Any folder of volumes: files paired by patterns or by themselves, and DICOM series under pseudonyms."""

from __future__ import annotations

from pathlib import Path

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import About, FoundScans, Options, match, refuse_options, unmatched
from fedcowpro.data.datasets.dicom_cases import dicom_scans, holds_dicom, labels_at, secret_of, the_series
from fedcowpro.data.datasets.pairing import case_id, is_label_map, pair, stem
from fedcowpro.data.datasets.pairs import listed, safe
from fedcowpro.data.datasets.scan import ImageFile, LabelFile, Scan
from fedcowpro.volume.dicom import pseudonym, redact, redacting_errors
from fedcowpro.volume.read import ENDINGS, ending_of

ABOUT = About(
    name="folder",
    title="your own volumes, CT or MR: NIfTI, NRRD, MetaImage, DICOM",
    licence="yours",
    home="your archive",
    patterns=True,
    layout=(
        "any names, told by --images and --labels: --images '*/ct.nii.gz' --labels '*/seg.nii.gz' (* is the case's id)",
        "the * may also stand for folders with a DICOM series each: --images '*/DICOM'",
        "without --images: every volume here and one folder down is a case, but label maps (seg, mask, label, gt, roi "
        "... in the name), which go to the image on the same grid",
        "without --images: every DICOM series below is a case under a pseudonym; DICOM segmentations are its labels",
    ),
)


class Folder:
    """The adapter that takes what no other knows."""

    about = ABOUT

    def recognises(self, source: Path) -> bool:
        """Whether a volume or DICOM series is there."""
        return bool(_volumes(source)) or holds_dicom(source)

    def find(self, source: Path, options: Options) -> FoundScans:
        """List the cases: by the patterns, or as the files' names, grids and DICOM headers say."""
        refuse_options(ABOUT, options, "images", "labels")
        return _by_pattern(source, options) if options.images else _by_themselves(source, options)


def _by_pattern(source: Path, options: Options) -> FoundScans:
    assert options.images is not None
    labels = _matches(source, options.labels) if options.labels else {}
    images = {case: path for case, path in _matches(source, options.images).items() if path not in labels.values()}
    if not images:
        raise FedCoWProError(
            f"no file in {source} matches '{options.images}' (seen: {_seen(source)})",
            "images named by that pattern",
            "correct the pattern; its '*' is the case's id",
        )
    without: list[str] = []
    scans, identifiers, renamed = [], frozenset[str](), 0
    for case, path in images.items():
        series, left = the_series(path) if path.is_dir() else (None, ())
        without += left
        identifiers |= series.identifiers if series is not None else frozenset()
        with redacting_errors(identifiers):
            given = labels_at(labels[case]) if case in labels else None
        if series is not None:
            # A folder named by the patient it holds: its name must not enter the site.
            named = redact(case, series.identifiers) != case
            renamed += named
            name = pseudonym(secret_of(source, options.key), series) if named else safe(case)
            scans.append(Scan(name, series, given, series.modality))
        else:
            scans.append(Scan(safe(case), ImageFile(path), given))
    lone = [f"{labels[case]}: left out, because no image has its id" for case in unmatched(images, labels)]
    notes = [redact(note, identifiers) for note in [*without, *lone]]
    if renamed:
        notes.append(
            f"folders named by their patients: {renamed}; these cases go by pseudonyms, and --list says which is which"
        )
    if renamed < sum(path.is_dir() for path in images.values()):
        notes.append(
            "ids of cases are names of folders here and go into the site: rename folders that say who the patient is "
            "in other words than the DICOM files, or leave --images out to have pseudonyms"
        )
    return listed(scans, None, notes, identifiers)


def _by_themselves(source: Path, options: Options) -> FoundScans:
    every = _volumes(source)
    volumes = [path for path in every if path.exists()]
    by_pattern = _matches(source, options.labels) if options.labels else {}
    maps = [path for path in volumes if is_label_map(path.relative_to(source)) and path not in by_pattern.values()]
    images = _named([path for path in volumes if path not in maps and path not in by_pattern.values()], source)
    paired: dict[str, Path] = {}
    notes: list[str] = []
    if options.labels is None:
        paired, notes = pair(images, maps, source)
    elif by_pattern:
        paired = {case: path for case, path in by_pattern.items() if case in images}
        lone = unmatched(images, by_pattern)
        notes = [f"{by_pattern[case]}: left out, because no image has the id '{case}'" for case in lone]
    notes += [f"{path}: left out, a link to a file that is not there" for path in every if not path.exists()]
    scans = [
        Scan(case, ImageFile(path), LabelFile(paired[case]) if case in paired else None)
        for case, path in images.items()
    ]
    organs, identifiers = None, frozenset[str]()
    if holds_dicom(source):
        series = dicom_scans(source, options.key, labelled=options.labels is None)
        organs, identifiers = series.organs, series.identifiers
        notes += series.notes
        if series.scans and scans:
            notes.append(f"{source} holds volumes in files and as DICOM: take care that none is there in both forms")
        scans += series.scans
    if not scans:
        raise FedCoWProError(
            f"{source} holds no image (seen: {_seen(source)}){''.join(f'; {note}' for note in notes)}",
            f"volumes ({', '.join(ENDINGS)}) or DICOM series",
            "check the path, or name the files with --images; names with seg, mask, label ... count as label maps",
        )
    return listed(scans, None if paired else organs, notes, identifiers)


def _volumes(source: Path) -> list[Path]:
    """Volumes in the folder and one folder down."""
    found = (path for pattern in ("*", "*/*") for path in source.glob(pattern) if ending_of(path))
    return sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(source).parts))


def _named(images: list[Path], source: Path) -> dict[str, Path]:
    """Case -> image; images whose short names would be the same go by their whole names."""
    short = [case_id(path.relative_to(source)) for path in images]
    return {
        case if short.count(case) == 1 else safe(f"{path.parent.relative_to(source).as_posix()}-{stem(path)}"): path
        for case, path in zip(short, images, strict=True)
    }


def _matches(source: Path, pattern: str) -> dict[str, Path]:
    """Case -> file, or folder where no file matches."""
    return match(source, pattern) or match(source, pattern, folders=True)


def _seen(source: Path) -> str:
    return ", ".join(sorted(path.name for path in source.iterdir())[:5]) or "nothing"


ADAPTER = Folder()
