"""Which files of a folder are cases, and which part each case plays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedcowpro.data.manifest import Role
from fedcowpro.errors import FedCoWProError


@dataclass(frozen=True)
class Source:
    """The files of one case."""

    id: str
    image: Path
    labels: Path | None
    role: Role


def find_sources(
    folder: Path,
    images: str,
    labels: str | None,
    cases: Sequence[str] | None,
    support: str | None,
    query: Sequence[str],
) -> list[Source]:
    """Match image and label files by the `*` of their patterns.

    Args:
        folder: where the patterns are looked up.
        images: file pattern with one `*`, which is the case's id; may name subfolders.
        labels: the same for label maps; None = no labels.
        cases: ids to take, in this order; None = all, in natural order (2 before 10).
        support: id of the support case; it and the queries are held out of training.
        query: ids of the query cases.

    Raises:
        FedCoWProError: no such folder, no image, an unknown or doubled id, a held-out case without labels.
    """
    if not folder.is_dir():
        raise FedCoWProError(f"no folder {folder}", "a folder of NIfTI volumes", "check the path")
    label_files = _match(folder, labels) if labels is not None else {}
    taken = set(label_files.values())
    image_files = {case: file for case, file in _match(folder, images).items() if file not in taken}
    if not image_files:
        seen = sorted(file.name for file in folder.iterdir())[:5]
        raise FedCoWProError(
            f"no file in {folder} matches '{images}' (seen: {', '.join(seen) or 'nothing'})",
            "images named by that pattern",
            "correct the pattern; its '*' is the case's id",
        )
    chosen = sorted(image_files, key=_natural) if cases is None else list(cases)
    _require_known("cases", chosen, image_files)
    held_out = [*([support] if support is not None else []), *query]
    _require_known("support and query", held_out, {case: image_files[case] for case in chosen})
    for case in held_out:
        if case not in label_files:
            raise FedCoWProError(
                f"case '{case}' is a support or query case without labels in {folder}",
                f"a file named by '{labels}'",
                "add its label file or take another case",
            )
    return [Source(case, image_files[case], label_files.get(case), _role(case, support, query)) for case in chosen]


def _match(folder: Path, pattern: str) -> dict[str, Path]:
    """Case id -> file."""
    if pattern.count("*") != 1 or re.search(r"[?\[\]]|\.\.|^/", pattern):
        raise FedCoWProError(
            f"pattern '{pattern}'",
            "a file name with exactly one '*', the case's id",
            "for example 'image_*.nii.gz' or '*/ct.nii.gz'",
        )
    before, after = pattern.split("*")
    found = ((file, file.relative_to(folder).as_posix()) for file in folder.glob(pattern) if file.is_file())
    cases = ((name[len(before) : len(name) - len(after)], file) for file, name in found)
    return {case: file for case, file in cases if case and not file.name.startswith(".")}


def _require_known(what: str, ids: list[str], known: dict[str, Path]) -> None:
    unknown = [case for case in ids if case not in known]
    if unknown:
        raise FedCoWProError(
            f"{what}: no image for {', '.join(unknown)}",
            f"among: {', '.join(sorted(known, key=_natural))}",
            "correct the ids or the image pattern",
        )
    doubled = sorted({case for case in ids if ids.count(case) > 1})
    if doubled:
        raise FedCoWProError(
            f"{what}: {', '.join(doubled)} named more than once", "each case once", "drop the repetition"
        )


def _role(case: str, support: str | None, query: Sequence[str]) -> Role:
    if case == support:
        return "support"
    return "query" if case in query else "train"


def _natural(case: str) -> list[tuple[int, int, str]]:
    """Sort key in which runs of digits count as numbers."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"([0-9]+)", case) if part]
