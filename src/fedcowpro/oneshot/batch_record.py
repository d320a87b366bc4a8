"""What a run of `segment` leaves beside its masks: a record per query, a table, and one record of the run.

OUT/<query>_mask.json   what the mask was made of and what is in it; lets the same command skip the query
OUT/summary.csv         a row per query and organ
OUT/segment.json        settings, digests, versions, and what became of each query
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcowpro.config import Modality
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import digest_of, write_atomic
from fedcowpro.core.notes import inform
from fedcowpro.core.versions import versions
from fedcowpro.oneshot.doubts import by_doubt
from fedcowpro.volume import measure
from fedcowpro.volume.measure import Measured

RUN_FILE, TABLE_FILE = "segment.json", "summary.csv"
COLUMNS = ("query", "organ", "name", *measure.COLUMNS, "confidence", "modality", "status", "doubts")


@dataclass(frozen=True)
class OrganFound(Measured):
    """What was found of one organ.

    Attributes:
        confidence: 0..1; nan = not found.
        doubts: what looks wrong with the mask, in sentences (see `oneshot.doubts`).
    """

    confidence: float
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Segmented:
    """What was written for one query.

    Attributes:
        organs: by label value.
        kept: whether it was there: of an earlier run with the same settings, or changed since.
        changed: whether somebody changed the mask since it was written.
        notes: what the user should know of it, as slices that were left out.
    """

    query: Path
    mask: Path
    modality: Modality
    organs: Mapping[int, OrganFound]
    kept: bool = False
    changed: bool = False
    notes: tuple[str, ...] = ()

    def by_doubt(self) -> tuple[float, int]:
        """A key that sorts the most doubtful results first."""
        organs = self.organs.values()
        return by_doubt((found.confidence for found in organs), (found.doubts for found in organs))

    @property
    def voxels(self) -> dict[int, int]:
        """Voxels per label value."""
        return {organ: found.voxels for organ, found in self.organs.items()}

    @property
    def millilitres(self) -> dict[int, float]:
        """Millilitres per label value."""
        return {organ: found.millilitres for organ, found in self.organs.items()}


def settings_digest(settings: Mapping[str, Any]) -> str:
    """16 hex digits of JSON values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def write_record(result: Segmented, settings: str) -> None:
    """Write the record beside a mask."""
    organs = {
        str(organ): {**vars(found), "confidence": _number(found.confidence)} for organ, found in result.organs.items()
    }
    record = {
        "settings_digest": settings,
        "query": os.path.abspath(result.query),
        "query_digest": digest_of(result.query),
        "mask_digest": digest_of(result.mask),
        "modality": result.modality,
        "organs": organs,
        "notes": list(result.notes),
    }
    _write_json(_record_of(result.mask), record)


def read_record(query: Path, mask: Path, settings: str) -> Segmented | None:
    """A finished result of the same query and settings, whose mask is as it was written; None = there is none."""
    try:
        record = json.loads(_record_of(mask).read_text(encoding="utf-8"))
        if record["settings_digest"] != settings or record["mask_digest"] != digest_of(mask):
            return None
        if record["query_digest"] != digest_of(query):
            return None
        organs = {
            int(organ): OrganFound(
                **{**found, "confidence": _nan(found["confidence"]), "doubts": tuple(found["doubts"])}
            )
            for organ, found in record["organs"].items()
        }
        notes = tuple(record.get("notes", ()))
        return Segmented(query, mask, record["modality"], organs, kept=True, notes=notes)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def was_changed(mask: Path) -> bool:
    """Whether a mask is not as it was written: somebody's work."""
    try:
        record = json.loads(_record_of(mask).read_text(encoding="utf-8"))
        return mask.exists() and bool(record["mask_digest"] != digest_of(mask))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def require_own(query: Path, mask: Path, settings: str, *, overwrite: bool) -> None:
    """Refuse to replace a mask of another query, one that nothing is known of, or one of other settings.

    The record counts where the mask is not there, too: it may be that of the same name in another format.

    Args:
        settings: digest of those that are to be used.
        overwrite: whether a file that no record names, and one that was made with other settings, may be replaced.

    Raises:
        FedCoWProError: the record beside the mask names another query or other settings, or there is no record.
    """
    if not mask.exists() and not _record_of(mask).exists():
        return
    try:
        record = json.loads(_record_of(mask).read_text(encoding="utf-8"))
        place, digest = record.get("query"), record["query_digest"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        if overwrite or not mask.exists():
            return
        raise FedCoWProError(
            f"{mask} is there already, and no record says what it was made of",
            "a name that is free, or the result of the same query",
            "give another --out; --overwrite replaces it",
        ) from None
    if place != os.path.abspath(query) and digest != digest_of(query):
        raise FedCoWProError(
            f"{mask} is the result of another query{f', {place}' if place else ''}, not of {query}",
            "a result of each query",
            "give another --out, or both queries in one command: then their folders are kept",
        )
    if mask.exists() and not overwrite and not was_changed(mask) and record.get("settings_digest") != settings:
        raise FedCoWProError(
            f"{mask} is there already, made with other options, another example or another version",
            "the same as before, or another folder",
            "give another --out; --overwrite replaces it",
        )


def write_run(
    out: Path,
    results: Sequence[Segmented],
    failures: Mapping[Path, str],
    settings: Mapping[str, Any],
    names: Mapping[int, str],
    command: str,
) -> None:
    """Write the table and the record of a run; what earlier runs into the folder left of other masks stays.

    Args:
        failures: what was wrong with the queries that have no mask.
        settings: what the masks depend on besides the queries.
        names: organ names by label value.
        command: what the user typed.
    """
    mine = {str(result.query) for result in results}
    failed = {str(query) for query in failures}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    earlier = (row for row in _earlier_rows(out / TABLE_FILE) if row[0] not in mine)
    # A mask of before stays where a query fails now, and so do its rows.
    table.writerows(row for row in earlier if not (row[0] in failed and row[COLUMNS.index("status")] == "failed"))
    for result in results:
        for organ, found in result.organs.items():
            state = f"{found.confidence:.3f}", result.modality, _status(result), "; ".join(found.doubts)
            table.writerow([result.query, organ, names.get(organ, ""), *measure.cells(found), *state])
    for query in failures:
        table.writerow([query, *[""] * (len(COLUMNS) - 3), "failed", ""])
    write_atomic(out / TABLE_FILE, text.getvalue())
    digest = settings_digest(settings)
    queries: list[dict[str, Any]] = [
        {
            "query": str(result.query),
            "settings_digest": digest,
            "query_digest": digest_of(result.query),
            "mask": str(result.mask.relative_to(out)),
            "status": _status(result),
            **({"notes": list(result.notes)} if result.notes else {}),
        }
        for result in results
    ]
    queries += [{"query": str(query), "status": "failed", "why": why} for query, why in failures.items()]
    others = (one for one in _earlier_queries(out / RUN_FILE) if one["query"] not in mine)
    queries = [one for one in others if one["query"] not in failed or one["status"] != "failed"] + queries
    record = {
        "command": command,
        "settings_digest": digest,
        "settings": dict(settings),
        "versions": versions(),
        "queries": queries,
    }
    _write_json(out / RUN_FILE, record)


def _earlier_rows(file: Path) -> list[list[str]]:
    """The rows of an earlier table; one that cannot be read or has other columns is put aside under another name."""
    try:
        rows = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8", errors="surrogateescape"))))
    except FileNotFoundError:
        return []
    except (OSError, csv.Error):
        rows = [[]]
    if rows and tuple(rows[0]) == COLUMNS and all(len(row) == len(COLUMNS) for row in rows):
        return rows[1:]
    if file.stat().st_size:
        names = (file.with_name(f"{file.stem}-earlier{number}{file.suffix}") for number in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        file.rename(aside)
        inform(f"{file} has other columns than this version writes; it is now {aside.name}", stacklevel=3)
    return []


def _status(result: Segmented) -> str:
    return "changed" if result.changed else "kept" if result.kept else "made"


def _earlier_queries(file: Path) -> list[dict[str, Any]]:
    """The queries of an earlier record of a run, none where it cannot be read."""
    try:
        return [dict(one) for one in json.loads(file.read_text(encoding="utf-8"))["queries"] if "query" in one]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _record_of(mask: Path) -> Path:
    return mask.with_name(f"{mask.name.rpartition('_mask.')[0]}_mask.json")


def _write_json(path: Path, value: object) -> None:
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def _number(value: float) -> float | None:
    return None if value != value else round(value, 6)


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
