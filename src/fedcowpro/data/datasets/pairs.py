"""Image files and their label files, paired by case; every gap is said by name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedcowpro.config import Modality
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import FoundScans, match, natural, unmatched
from fedcowpro.data.datasets.scan import ImageFile, LabelFile, Scan

_DOCUMENTS = (".json", ".csv", ".txt", ".md", ".pdf", ".xlsx", ".html", ".yaml", ".yml")


@dataclass(frozen=True)
class Pairs:
    """Where a dataset keeps the images and the label maps of one set of cases.

    Attributes:
        images, labels: folders; labels may be absent where the set is unlabelled.
        image, label: names of files in them, with one `*` for the case and without ending.
        form: regular expression of what the `*` may be.
        endings: of both kinds of file; the first that is there is taken.
    """

    images: Path
    image: str
    labels: Path
    label: str
    form: str = ".+"
    endings: tuple[str, ...] = (".nii.gz", ".nii")

    @property
    def image_files(self) -> dict[str, Path]:
        """Case -> image."""
        return self._files(self.images, self.image)

    @property
    def label_files(self) -> dict[str, Path]:
        """Case -> label map."""
        return self._files(self.labels, self.label)

    @property
    def all_files(self) -> set[Path]:
        """Images and label maps."""
        return {*self.image_files.values(), *self.label_files.values()}

    def complete(self) -> dict[str, tuple[Path, Path]]:
        """Case -> image and label map, where every case has both.

        Raises:
            FedCoWProError: an image without label map, or a label map without image.
        """
        images, labels = self.image_files, self.label_files
        bare = [case for case in images if case not in labels]
        if bare:
            raise without_labels([images[case] for case in bare], self._expected(self.labels, self.label, bare[0]))
        lone = unmatched(images, labels)
        if lone:
            raise without_image(labels[lone[0]], self._expected(self.images, self.image, lone[0]))
        return {case: (image, labels[case]) for case, image in images.items()}

    def scans(
        self, known: frozenset[int] | None, modality: Modality | None, *, labelled: bool, prefix: str = ""
    ) -> list[Scan]:
        """The cases; with `labelled` each has labels, without they are left aside.

        Args:
            known: label values that the dataset defines.
            prefix: goes before the case in its id.

        Raises:
            FedCoWProError: as `complete`.
        """
        if not labelled:
            return [
                Scan(safe(prefix + case), ImageFile(image), None, modality) for case, image in self.image_files.items()
            ]
        return [
            Scan(safe(prefix + case), ImageFile(image), LabelFile(labels, known), modality)
            for case, (image, labels) in self.complete().items()
        ]

    def _files(self, folder: Path, pattern: str) -> dict[str, Path]:
        found = files(folder, pattern, self.endings)
        return {case: path for case, path in found.items() if re.fullmatch(self.form, case)}

    def _expected(self, folder: Path, pattern: str, case: str) -> Path:
        return folder / (pattern.replace("*", case) + self.endings[0])


def files(folder: Path, pattern: str, endings: Sequence[str]) -> dict[str, Path]:
    """Case -> file for a pattern without ending, in natural order; an earlier ending goes first."""
    found: dict[str, Path] = {}
    for ending in reversed(endings):
        found |= match(folder, pattern + ending)
    return {case: found[case] for case in sorted(found, key=natural)}


def without_labels(images: Sequence[Path], expected: Path | str) -> FedCoWProError:
    """The error for images that lack the label map which their dataset promises."""
    more = f", nor have {len(images) - 1} more" if len(images) > 1 else ""
    return FedCoWProError(
        f"{images[0]} has no label map{more}",
        str(expected),
        "complete the download, move the image elsewhere, or take images only with --labels ''",
    )


def without_image(labels: Path, expected: Path | str) -> FedCoWProError:
    """The error for a label map whose image is missing."""
    return FedCoWProError(
        f"{labels} has no image", str(expected), "complete the download, or move the label map elsewhere"
    )


def left_out(folders: Collection[Path], taken: Collection[Path]) -> tuple[str, ...]:
    """A note for each folder that holds files which are not used; hidden files and documents are no matter."""
    notes = []
    for folder in dict.fromkeys(folders):
        there = sorted(folder.iterdir()) if folder.is_dir() else []
        unused = (path for path in there if path.is_file() and path not in taken)
        names = [path.name for path in unused if path.name[0] != "." and path.suffix.lower() not in _DOCUMENTS]
        if names:
            some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            notes.append(f"{folder}: left out because they fit no name of this dataset: {some}")
    return tuple(notes)


def listed(
    scans: Sequence[Scan],
    organs: Mapping[int, str] | None,
    notes: Sequence[str] = (),
    identifiers: frozenset[str] = frozenset(),
) -> FoundScans:
    """The cases in natural order.

    Raises:
        FedCoWProError: two cases of one id.
    """
    by_id: dict[str, Scan] = {}
    for scan in scans:
        if scan.id in by_id:
            raise FedCoWProError(
                f"{_place(by_id[scan.id])} and {_place(scan)} are both case '{scan.id}'",
                "different names",
                "rename one of them, or prepare their folders as two sites",
            )
        by_id[scan.id] = scan
    return FoundScans(tuple(by_id[case] for case in sorted(by_id, key=natural)), organs, tuple(notes), identifiers)


def safe(text: str) -> str:
    """A case's id for use in file names: letters, digits, '.', '_' and '-'; it begins with a letter or digit."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-_") or "case"


def inward(source: Path, steps: int = 2) -> Iterator[Path]:
    """The folder, then the one folder inside it, and so on: what unpacking an archive adds on the way."""
    yield source
    inside = [path for path in source.iterdir() if path.is_dir() and path.name[0] not in "._"] if steps else []
    if len(inside) == 1:
        yield from inward(inside[0], steps - 1)


def _place(scan: Scan) -> str:
    return str(scan.image.files[0]) if scan.image.files else "a case without files"
