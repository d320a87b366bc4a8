"""What an adapter of a dataset is: it recognises a download folder and lists its cases. It opens no volume."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.notes import inform
from fedcowpro.data.datasets.scan import Scan


@dataclass(frozen=True)
class About:
    """What a user must know of a dataset.

    Attributes:
        name: as in `--dataset NAME`.
        title: in words, with modality.
        licence: of the data.
        home: where to get it.
        layout: what is expected below the folder that the user points at, one pattern a line.
        organs: label value -> name; empty where the files say it themselves.
        parts: names for `--part` where a dataset holds several kinds of image; empty = one kind.
        patterns: whether it takes `--images` and `--labels`.
    """

    name: str
    title: str
    licence: str
    home: str
    layout: tuple[str, ...]
    organs: Mapping[int, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    patterns: bool = False


@dataclass(frozen=True)
class Options:
    """What the user may say besides the folder. An adapter that has no use for an option refuses it.

    Attributes:
        part: one of the dataset's parts; None = all.
        images: file pattern with one `*`, the case's id.
        labels: the same for label maps; '' = ignore labels.
        reuse_superpixels: take the dataset's own superpixels instead of computing them.
        key: gives the site's secret for pseudonyms of DICOM cases; called only where there are some.
    """

    part: str | None = None
    images: str | None = None
    labels: str | None = None
    reuse_superpixels: bool = False
    key: Callable[[], bytes] | None = None

    def asked(self) -> tuple[object, ...]:
        """All that changes the result, comparable; the key is left out, because it must not leave its file."""
        return self.part, self.images, self.labels, self.reuse_superpixels


@dataclass(frozen=True)
class FoundScans:
    """The cases of a folder in natural order (2 before 10), with different ids.

    Attributes:
        organs: label value -> name; None = the folder does not say.
        notes: what the user should know: files that were left out and why.
        identifiers: what names patients, lower case; messages about these cases do not say it.
    """

    scans: tuple[Scan, ...]
    organs: Mapping[int, str] | None = None
    notes: tuple[str, ...] = ()
    identifiers: frozenset[str] = field(default=frozenset(), repr=False)


class Adapter(Protocol):
    """One dataset. Stateless."""

    @property
    def about(self) -> About:
        """The description."""

    def recognises(self, source: Path) -> bool:
        """Whether the folder looks like this dataset; quick, reads names only (or one small JSON)."""

    def find(self, source: Path, options: Options) -> FoundScans:
        """List the cases.

        Raises:
            FedCoWProError: nothing of the layout is there, a mask is missing that must be there, a mask without
                image, an option that does not apply. It names the file and the remedy.
        """


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key in which runs of digits count as numbers."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"([0-9]+)", text) if part]


def match(folder: Path, pattern: str, *, folders: bool = False) -> dict[str, Path]:
    """Case id -> path of the files (or folders) that match a pattern with one `*`, in natural order.

    Raises:
        FedCoWProError: not exactly one `*`, or a pattern that leaves the folder.
    """
    if pattern.count("*") != 1 or re.search(r"[?\[\]]|\.\.|^/", pattern):
        raise FedCoWProError(
            f"pattern '{pattern}'",
            "a file name with exactly one '*', the case's id",
            "for example 'image_*.nii.gz' or '*/ct.nii.gz'",
        )
    before, after = pattern.split("*")
    wanted = Path.is_dir if folders else Path.is_file
    matches = list(folder.glob(pattern))
    for path in matches:
        if not folders and not path.exists():
            inform(f"{path}: left out, a link to a file that is not there", stacklevel=2)
    found = ((path, path.relative_to(folder).as_posix()) for path in matches if wanted(path))
    cases = {name[len(before) : len(name) - len(after)]: path for path, name in found if not path.name.startswith(".")}
    return {case: cases[case] for case in sorted(cases, key=natural) if case}


def refuse_options(about: About, options: Options, *allowed: str) -> None:
    """Refuse what was given although the dataset has no use for it, and an unknown part.

    Args:
        allowed: names of the options (of `part`, `images`, `labels`, `reuse_superpixels`) that the adapter uses.
    """
    given = {
        "part": options.part is not None,
        "images": options.images is not None,
        "labels": bool(options.labels),  # '' ignores labels, which every dataset can
        "reuse_superpixels": options.reuse_superpixels,
    }
    for name, present in given.items():
        if present and name not in allowed:
            raise FedCoWProError(
                f"--{name.replace('_', '-')} with the dataset '{about.name}'",
                "no such option there: its layout is fixed",
                "leave it out, or use --dataset folder with your own patterns",
            )
    if options.part is not None and options.part not in about.parts:
        raise FedCoWProError(f"--part {options.part}", f"one of: {', '.join(about.parts)}", "correct it, or take all")


def nothing_found(about: About, source: Path, missing: str) -> FedCoWProError:
    """The error for a folder that lacks the dataset's layout; `missing` is what was looked for first."""
    seen = sorted(path.name for path in source.iterdir())[:5]
    return FedCoWProError(
        f"{source} has no {missing} (seen: {', '.join(seen) or 'nothing'})",
        f"the layout of '{about.name}': {'; '.join(about.layout)}",
        "point at the folder that holds it (not at the archive, nor at a folder inside), or see 'fedcowpro datasets'",
    )


def unmatched(images: Iterable[str], labels: Iterable[str]) -> list[str]:
    """Ids of label maps without an image, in natural order."""
    return sorted(set(labels) - set(images), key=natural)
