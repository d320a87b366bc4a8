"""A volume among DICOM files: which slices it has, and whose it is, which stays hidden."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fedcowpro.config import Modality
from fedcowpro.volume.dicom.reading import Where, read_slices
from fedcowpro.volume.dicom.redaction import redact, redacting
from fedcowpro.volume.volume import Volume


@dataclass(frozen=True, repr=False)
class Identity:
    """What leads to a patient. It enters pseudonyms and nothing else, and is never shown."""

    patient: str
    study: str

    def __repr__(self) -> str:
        return "Identity(hidden)"


@dataclass(frozen=True, repr=False)
class Series:
    """One volume of a DICOM series. Small, immutable and picklable; an `ImageSource`.

    Attributes:
        slices: file and frame (from 0) of each slice, in order of position along the normal.
        uid: SeriesInstanceUID.
        modality: None where the files do not say CT or MR.
        size: columns, rows, slices.
        spacing: mm between columns, rows, slices.
        number: which volume of the series, from 1; 0 = it is the only one.
        kind: what tells it from the other volumes of the series, for people.
        identity: for pseudonyms.
        identifiers: what names patients; not said in messages, though folders may be named by it.
    """

    slices: tuple[Where, ...]
    uid: str
    modality: Modality | None
    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    number: int = 0
    kind: str = ""
    identity: Identity = field(default=Identity("", ""))
    identifiers: frozenset[str] = frozenset()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in order of position."""
        return tuple(dict.fromkeys(file for file, _ in self.slices))

    @property
    def name(self) -> str:
        """How messages call it: the file, or the folder and what is in it."""
        files = self.files
        place = files[0] if len(files) == 1 and not self.number else f"{files[0].parent} ({self.describe()})"
        return redact(str(place), self.identifiers)

    def describe(self) -> str:
        """Modality, size and spacing in words, without anything that leads to a patient."""
        columns, rows, slices = self.size
        parts = [
            self.modality.upper() if self.modality else "modality unknown",
            f"{slices} slices of {columns} x {rows}",
            " x ".join(f"{length:.3g}" for length in self.spacing) + " mm",
        ]
        if self.number:
            parts.append(f"volume {self.number} of its series" + (f": {self.kind}" if self.kind else ""))
        return ", ".join(parts)

    def read(self) -> Volume:
        """The image: CT in Hounsfield units, MR in the scanner's units.

        Raises:
            FedCoWProError: damaged files, colour, no pixels, no decoder for the compression, missing slices, uneven
                distances, different slices at one position; as `image_volume`.
        """
        with redacting(self.identifiers):
            return read_slices(self.slices, self.name, self.modality)

    def __repr__(self) -> str:
        return f"Series({self.describe()})"
