"""CHAOS: abdominal CT with the liver, MR (T2 and T1 in and out of phase) with liver, kidneys and spleen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedcowpro.config import Modality
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import About, FoundScans, Options, natural, nothing_found, refuse_options
from fedcowpro.data.datasets.pairs import inward, left_out, listed, safe
from fedcowpro.data.datasets.png_masks import Band, DicomFolder, PngMasks
from fedcowpro.data.datasets.scan import Scan

ABOUT = About(
    name="chaos",
    title="CHAOS: 40 abdominal CT and 40 MR (T2-SPIR, T1-DUAL), half of them with labels",
    licence="CC BY-NC-SA 4.0",
    home="https://doi.org/10.5281/zenodo.3431873",
    layout=(
        "Train_Sets/CT/1/DICOM_anon/*.dcm with Train_Sets/CT/1/Ground/*.png",
        "Train_Sets/MR/1/T2SPIR/DICOM_anon/*.dcm with Train_Sets/MR/1/T2SPIR/Ground/*.png",
        "Train_Sets/MR/1/T1DUAL/DICOM_anon/InPhase/*.dcm and OutPhase/*.dcm with Train_Sets/MR/1/T1DUAL/Ground/*.png",
        "Test_Sets in the same way without Ground (unlabelled); one of the two may be absent",
    ),
    organs={1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"},
    parts=("ct", "t2", "t1-in", "t1-out"),
)
_CT_GREYS = (Band(1, 1, 1), Band(255, 255, 1))  # 1 where the file was saved again without scaling
_MR_GREYS = (Band(55, 70, 1), Band(110, 135, 2), Band(175, 200, 3), Band(240, 255, 4))


@dataclass(frozen=True)
class Part:
    """Where one kind of image lies below a patient's folder."""

    name: str
    room: str
    images: str
    masks: str

    @property
    def modality(self) -> Modality:
        """CT or MR."""
        return "ct" if self.room == "CT" else "mr"


PARTS = (
    Part("ct", "CT", "DICOM_anon", "Ground"),
    Part("t2", "MR", "T2SPIR/DICOM_anon", "T2SPIR/Ground"),
    Part("t1-in", "MR", "T1DUAL/DICOM_anon/InPhase", "T1DUAL/Ground"),
    Part("t1-out", "MR", "T1DUAL/DICOM_anon/OutPhase", "T1DUAL/Ground"),
)
_SETS = ("Train_Sets", "Test_Sets")


class Chaos:
    """The adapter. A case's id is its part and the patient's number: `ct-1`, `t2-1`, `t1-in-1`, `t1-out-1`.

    Masks belong to DICOM files in the natural order of both names, as the challenge pairs them.
    """

    about = ABOUT

    def recognises(self, source: Path) -> bool:
        """Whether patients' folders with DICOM_anon lie where they should."""
        return next(_patients(source), None) is not None

    def find(self, source: Path, options: Options) -> FoundScans:
        """List the cases of the part; those of the training sets have labels."""
        refuse_options(ABOUT, options, "part")
        scans: list[Scan] = []
        notes: list[str] = []
        for part, patient, is_test in _patients(source):
            if options.part in (None, part.name):
                folder, masks = patient / part.images, patient / part.masks
                case = safe(f"{part.name}-{patient.name}")
                image = DicomFolder(folder, _sorted(folder, ".dcm"))
                greys = _CT_GREYS if part.modality == "ct" else _MR_GREYS
                labels = None
                if options.labels != "" and not (is_test and not masks.is_dir()):
                    labels = PngMasks(case, image, _sorted(masks, ".png"), greys, part.modality)
                    _require_as_many(labels, masks)
                scans.append(Scan(case, image, labels, part.modality))
                notes += left_out([folder, masks], {*image.files, *_sorted(masks, ".png")})
        if not scans:
            part = next(part for part in PARTS if options.part in (None, part.name))
            raise nothing_found(ABOUT, source, f"Train_Sets/{part.room}/*/{part.images}")
        organs = ABOUT.organs if any(scan.modality == "mr" for scan in scans) else {1: ABOUT.organs[1]}
        return listed(scans, organs, list(dict.fromkeys(notes)))


def _patients(source: Path) -> Iterator[tuple[Part, Path, bool]]:
    """Part, patient's folder, and whether it is of a test set, for every volume."""
    for room, folder in _rooms(source):
        is_test = any("Test" in path.name for path in (folder, folder.parent))
        for part in PARTS:
            for found in sorted(folder.glob(f"*/{part.images}"), key=lambda path: natural(str(path))):
                patient = folder / found.relative_to(folder).parts[0]
                if part.room == room and not patient.name.startswith(".") and found.is_dir():
                    yield part, patient, is_test


def _rooms(source: Path) -> Iterator[tuple[str, Path]]:
    """The folders CT and MR of both sets. `source` may also be the folder above, one of the sets, or CT or MR."""
    if source.resolve().name in ("CT", "MR"):
        yield source.resolve().name, source
    bases = list(inward(source))
    sets = [found for base in bases for name in _SETS for found in (base / name, *base.glob(f"*/{name}"))]
    for folder in dict.fromkeys([*sets, *bases]):
        yield from ((room, folder / room) for room in ("CT", "MR") if (folder / room).is_dir())


def _sorted(folder: Path, ending: str) -> tuple[Path, ...]:
    there = folder.iterdir() if folder.is_dir() else ()
    names = (path for path in there if path.suffix.lower() == ending and path.name[0] != ".")
    return tuple(sorted(names, key=lambda path: natural(path.name)))


def _require_as_many(labels: PngMasks, folder: Path) -> None:
    """Refuse a case whose masks and DICOM files are not as many, because all pairs would be in doubt."""
    masks, images = len(labels.files), len(labels.image.files)
    if masks != images or not images:
        raise FedCoWProError(
            f"case {labels.case}: {masks} masks for {images} DICOM files in {labels.image.path}",
            f"one PNG file for each of them in {folder}",
            "complete the download, remove the patient's folder, or take images only with --labels ''",
        )


ADAPTER = Chaos()
