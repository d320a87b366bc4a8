"""Site folders made of prepared cases of other site folders: hard links, nothing is computed again.

A study needs the same cases in many arrangements: two clients or twenty, modalities mixed or apart. Superpixels are
computed once per case, whatever the number of arrangements.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcowpro import __version__
from fedcowpro.config import PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.data.preparation.manifest import (
    CASE,
    CASES,
    IMAGE,
    LABELS,
    MANIFEST,
    ORGANS,
    SUPERPIXELS,
    VOLUMES,
    CaseFile,
    CaseRecord,
    Manifest,
    Role,
    read_json,
)
from fedcowpro.data.preparation.site import Site

_LABEL_VALUES = range(1, 256)


@dataclass(frozen=True)
class Part:
    """A case of an existing site: what it is called in the new site, and which part it plays there."""

    site: Site
    case: str
    id: str
    role: Role


def compose_site(out: Path, parts: Sequence[Part]) -> Site:
    """Make the site folder `out` from cases of other sites, in the given order.

    Arrays are hard links where the file system allows it, else copies. Organs are joined by their names: an organ
    has one label value in the new site, and label maps that used another are written anew. Slices that setting 2
    left out of a training case stay left out.

    Args:
        out: the new folder; it is there and whole or not there. One that holds this very site already is kept.
        parts: the cases; the ids must differ.

    Raises:
        FedCoWProError: no part, unfit or repeated ids, a case that its site lacks, a support or query case without
            labels, sites that were prepared differently (modality apart), more than 255 organs, or a folder `out`
            that holds something else.
    """
    _require_ids(parts)
    organs = _joined_organs(parts)
    manifest = Manifest(
        version=2,
        fedcowpro=__version__,
        dataset="+".join(sorted({part.site.manifest.dataset for part in parts})),
        settings=_common_settings(parts),
        cases=tuple(_record(part) for part in parts),
    )
    if out.exists():
        return _existing(out, manifest)
    partial = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / LABELS).mkdir(parents=True)
    (partial / VOLUMES).mkdir()
    for part in parts:
        _add_case(partial, part, organs)
    if organs:
        names = {str(value): name for name, value in organs.items()}
        write_atomic(partial / LABELS / ORGANS, json.dumps(names))
    write_atomic(partial / MANIFEST, manifest.model_dump_json())
    os.replace(partial, out)
    return Site.open(out)


def _require_ids(parts: Sequence[Part]) -> None:
    ids = [part.id for part in parts]
    odd = sorted(
        {name for name in ids if ids.count(name) > 1 or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name)}
    )
    if odd or not parts:
        raise FedCoWProError(
            f"{len(parts)} cases for a site, repeated or unfit ids: {', '.join(odd) or 'none'}",
            "at least one case; ids that differ, of letters, digits, '.', '_' and '-'",
            "name the cases of the new site anew",
        )


def _common_settings(parts: Sequence[Part]) -> PrepareConfig:
    """The settings of all parts; the modality is kept where all sites were prepared for one."""
    first, *others = dict.fromkeys(part.site.manifest.settings for part in parts)
    for other in others:
        changed = [
            name
            for name in PrepareConfig.model_fields
            if name != "modality" and getattr(first, name) != getattr(other, name)
        ]
        if changed:
            sites = sorted({str(part.site.path) for part in parts})
            raise FedCoWProError(
                f"{', '.join(sites)} were prepared with different settings ({', '.join(changed)})",
                "one way of preparing for all cases of a site, modality apart",
                "prepare them with the same settings",
            )
    return first.model_copy(update={"modality": None}) if others else first


def _joined_organs(parts: Sequence[Part]) -> dict[str, int]:
    """Organ name -> label value in the new site: the value of the first site that names it, where it is free."""
    organs: dict[str, int] = {}
    for site in dict.fromkeys(part.site for part in parts):
        for value, name in site.organs.items():
            if name in organs:
                continue
            free = [one for one in (value, *_LABEL_VALUES) if one not in organs.values()]
            if not free:
                raise FedCoWProError(
                    "more than 255 organs in one site", "at most 255 names", "leave organs out with 'organs'"
                )
            organs[name] = free[0]
    return organs


def _record(part: Part) -> CaseRecord:
    old = part.site.record(part.case)
    if part.role != "train" and not _labels(part).is_file():
        raise FedCoWProError(
            f"case '{part.case}' of {part.site.path} is a {part.role} case without labels",
            f"one of: {', '.join(part.site.labelled_cases) or '(no case has labels)'}",
            "choose another case, or prepare it with its label file",
        )
    left_out = old.left_out if part.role == "train" else ()
    return old.model_copy(update={"id": part.id, "role": part.role, "left_out": left_out})


def _labels(part: Part) -> Path:
    return part.site.path / LABELS / f"{part.case}.npy"


def _volume(part: Part) -> Path:
    return part.site.path / VOLUMES / f"{part.case}.npz"


def _add_case(folder: Path, part: Part, organs: Mapping[str, int]) -> None:
    source, target = part.site.path / CASES / part.case, folder / CASES / part.id
    target.mkdir(parents=True)
    for name in (IMAGE, SUPERPIXELS):
        _link(source / name, target / name)
    case = read_json(CaseFile, source / CASE).model_copy(update={"id": part.id})
    if case.label_values is not None:
        values = {old: organs[name] for old, name in part.site.organs.items()}
        moved = {old: values[old] for old in case.label_values if old in values and values[old] != old}
        if moved:
            table = np.arange(256, dtype=np.uint8)
            table[list(moved)] = list(moved.values())
            np.save(folder / LABELS / f"{part.id}.npy", table[np.load(_labels(part), mmap_mode="r")])
            with np.load(_volume(part)) as own:
                np.savez(folder / VOLUMES / f"{part.id}.npz", **{**own, "labels": table[own["labels"]]})
            inputs = hashlib.sha256(f"{case.inputs} {sorted(moved.items())}".encode()).hexdigest()
            new = tuple(sorted(moved.get(value, value) for value in case.label_values))
            case = case.model_copy(update={"label_values": new, "inputs": inputs})
        else:
            _link(_labels(part), folder / LABELS / f"{part.id}.npy")
            _link(_volume(part), folder / VOLUMES / f"{part.id}.npz")
    (target / CASE).write_text(case.model_dump_json(), encoding="utf-8")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _existing(out: Path, manifest: Manifest) -> Site:
    site = Site.open(out)
    if site.manifest != manifest:
        raise FedCoWProError(
            f"{out} holds a site of other cases, roles or settings",
            "a new folder, or the same site",
            "choose another folder, or delete that one",
        )
    return site
