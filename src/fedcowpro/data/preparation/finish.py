"""What makes prepared cases a finished site: organs' names, slices to leave out, the stamp of what it came from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from fedcowpro import __version__
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.data.preparation.manifest import CASE, CASES, LABELS, ORGANS, STAMP, VOLUMES, CaseFile
from fedcowpro.data.preparation.site import Site
from fedcowpro.data.preparation.sources import Source


def stamp_of(source: Path, asked: object, besides: Path) -> str:
    """A digest of names, sizes and times of all files below `source`, and of what was asked for.

    Equal stamps mean that nothing has to be read, which matters for thousands of DICOM files. The site folder
    `besides` and its key may lie below `source` and do not count.
    """
    digest = hashlib.sha256(f"{__version__} {asked!r}".encode())
    base, own = os.path.realpath(source), os.path.realpath(besides)
    for folder, folders, files in os.walk(base):
        folders[:] = sorted(name for name in folders if os.path.join(folder, name) != own)
        for name in sorted(files):
            path = os.path.join(folder, name)
            if path != f"{own}.key":
                facts = os.stat(path) if os.path.exists(path) else os.lstat(path)
                digest.update(
                    f"{os.path.relpath(path, base)} {facts.st_size} {facts.st_mtime_ns}\n".encode(
                        errors="surrogateescape"
                    )
                )
    return digest.hexdigest()


def unchanged(out: Path, stamp: str) -> Site | None:
    """The finished site, if it was made from files and options of that stamp and is whole."""
    file = out / STAMP
    if not file.is_file() or file.read_text(encoding="utf-8") != stamp:
        return None
    try:
        return Site.open(out)
    except FedCoWProError:
        return None


def write_organs(out: Path, cases: Sequence[CaseFile], organs: Mapping[int, str] | None) -> dict[int, str]:
    """Write the organs' names, or remove the file where no case has labels; returns label value -> name."""
    found = [case.label_values for case in cases if case.label_values is not None]
    if not found:
        (out / LABELS / ORGANS).unlink(missing_ok=True)
        return {}
    if organs is None:
        organs = {value: f"label-{value}" for value in sorted({value for values in found for value in values})}
        names = [*organs.values()]
        warnings.warn(
            f"labels without names: called {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}; name them with "
            f'--organs, as in "{min(organs, default=1)}=liver" (others become background)',
            stacklevel=3,
        )
    write_atomic(out / LABELS / ORGANS, json.dumps({str(value): name for value, name in organs.items()}))
    return dict(organs)


def slices_that_show(
    out: Path, organs: Mapping[int, str], test_organs: Sequence[str], sources: Sequence[Source]
) -> dict[str, tuple[int, ...]]:
    """Training case -> its slices that show one of the organs named in `test_organs`.

    Raises:
        FedCoWProError: an organ that the site has no name for, a training case without labels.
    """
    if not test_organs:
        return {}
    values = [value for value, name in organs.items() if name in test_organs]
    unknown = sorted(set(test_organs) - set(organs.values()))
    if unknown:
        raise FedCoWProError(
            f"test organs: {', '.join(unknown)}",
            f"among: {', '.join(organs.values()) or 'none, because no case has labels'}",
            "correct --test-organs, or name the label values with --organs",
        )
    left_out = {}
    for scan in (entry.scan for entry in sources if entry.role == "train"):
        if scan.labels is None:
            raise FedCoWProError(
                f"training case '{scan.id}' has no labels",
                "labels for every training case: setting 2 leaves out the slices that show a test organ",
                "leave the case out with --cases, or use setting 1",
            )
        labels = np.load(out / LABELS / f"{scan.id}.npy", mmap_mode="r")
        left_out[scan.id] = tuple(z for z, plane in enumerate(labels) if np.isin(plane, values).any())
    return left_out


def remove_others(out: Path, cases: Collection[str]) -> None:
    """Remove what earlier runs made and the site no longer has: cases, their labels, unfinished ones.

    Other folders that someone put there stay. A finished case that goes is said.
    """
    gone = []
    for folder in sorted((out / CASES).iterdir()):
        unfinished = folder.name.startswith(".") and folder.name.endswith(".tmp")
        if folder.name not in cases and (unfinished or (folder / CASE).is_file()):
            shutil.rmtree(folder)
            gone += [] if unfinished else [folder.name]
    for file in [*(out / LABELS).glob("*.npy"), *(out / VOLUMES).glob("*.npz")]:
        if file.stem not in cases:
            file.unlink()
    if gone:
        some = ", ".join(gone[:5]) + (f" and {len(gone) - 5} more" if len(gone) > 5 else "")
        warnings.warn(f"{out}: cases that are no longer chosen were removed: {some}", stacklevel=3)
