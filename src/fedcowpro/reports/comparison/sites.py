"""What is known of the sites behind the scores: modality of each case, folders and digests of a study's sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.manifest import MANIFEST, Manifest, read_json
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.protocol import COLUMNS
from fedcowpro.reports.comparison.comparable import MODALITY
from fedcowpro.reports.comparison.sources import Source

Case = tuple[str, str]


def with_modality(table: pd.DataFrame, sources: Sequence[Source], folders: Mapping[str, Path]) -> pd.DataFrame:
    """The table with the column `modality` ('ct', 'mr', or '' where it is not known).

    From the table itself, else from the site folders that were given, else from what lies in the study's or run's
    folder.

    Raises:
        FedCoWProError: a folder that was given is no site folder.
    """
    known: dict[Case, str] = {}
    for source in sources:
        known |= _of_run(source)
        for (_, name), folder in site_folders(source).items():
            # One that another version composed only leaves the modality open.
            with suppress(FedCoWProError):
                known |= {(name, case): kind for case, kind in _modalities(folder).items()}
    for name, folder in folders.items():
        known |= {(name, case): kind for case, kind in _modalities(folder).items()}
    cases = zip(table["site"].astype(str), table["case"].astype(str), strict=True)
    found = pd.Series([known.get(case, "") for case in cases], index=table.index, dtype=str)
    if MODALITY in table.columns:
        found = table[MODALITY].where(table[MODALITY] != "", found)
    others = [column for column in table.columns if column not in (*COLUMNS, MODALITY)]
    return table.assign(**{MODALITY: found.str.lower()})[[*COLUMNS, MODALITY, *others]]


def site_folders(source: Source) -> dict[tuple[str, str], Path]:
    """(arm, evaluation site) -> its folder below a study, where it is still there."""
    found = {}
    for arm, entry in source.arms.items():
        for name, site in entry.get("evaluation", {}).items():
            folder = source.path / site.get("folder", "")
            if "folder" in site and (folder / MANIFEST).is_file():
                found[arm, name] = folder
    return found


def digest_of(folder: Path) -> str:
    """The digest of a site's images and labels; says so where it cannot be read."""
    try:
        return Site.open(folder).labelled_digest
    except FedCoWProError:
        return "not readable"


def _of_run(source: Source) -> dict[Case, str]:
    """A training site of one modality, where a table of the run scores a site of its name."""
    known: dict[Case, str] = {}
    for training in source.trainings if source.kind == "run" else ():
        kinds = {name: site.get("modality", "") for name, site in training.record.get("sites", {}).items()}
        for scores in source.tables:
            for site, case in scores.rows[["site", "case"]].drop_duplicates().itertuples(index=False):
                if kinds.get(site) in ("ct", "mr"):
                    known[str(site), str(case)] = kinds[site]
    return known


def _modalities(folder: Path) -> dict[str, str]:
    return {case.id: case.modality for case in read_json(Manifest, folder / MANIFEST).cases}
