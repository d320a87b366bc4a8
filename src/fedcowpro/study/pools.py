"""Pools of a study: phantom patients are made, volumes are prepared, each case once for all arms."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from rich.console import Console

from fedcowpro.config import PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import Options
from fedcowpro.data.phantom.patients import Patient, make_patients
from fedcowpro.data.preparation.prepare import prepare
from fedcowpro.data.preparation.site import Site
from fedcowpro.study.read import expand_variables
from fedcowpro.study.spec import Pool, Study


def prepare_pools(study: Study, folder: Path, workers: int | None, progress: bool) -> dict[str, Site]:
    """Make the site folder of each pool, or take it as it is there: FOLDER/<name>-<digest of its settings>.

    Args:
        study: which pools, and how volumes become slices.
        folder: of all pools.
        workers: processes; None = one per core.
        progress: bars on standard error.

    Raises:
        FedCoWProError: an environment variable that is not set, or volumes that cannot be prepared.
    """
    # Before the first volume is read, because preparing may take long.
    sources = {
        name: Path(expand_variables(pool.source, os.environ))
        for name, pool in study.pools.items()
        if pool.source is not None
    }
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True, quiet=not progress, highlight=False)
    sites = {}
    for name, pool in study.pools.items():
        console.print(f"pool '{name}': {len(pool.case_ids)} cases")
        settings = pool.settings(study.prepare)
        home = folder / _key(name, pool, settings)
        try:
            sites[name] = _prepare(pool, settings, sources.get(name), home, workers, progress)
        except FedCoWProError as error:
            raise FedCoWProError(f"pool '{name}': {error.got}", error.expected, error.remedy) from error
    return sites


def _key(name: str, pool: Pool, settings: PrepareConfig) -> str:
    whole = hashlib.sha256(f"{pool.digest()} {settings.digest()}".encode()).hexdigest()
    return f"{name}-{whole[:16]}"


def _prepare(
    pool: Pool, settings: PrepareConfig, source: Path | None, folder: Path, workers: int | None, progress: bool
) -> Site:
    if source is None:
        source = folder / "raw"
        assert pool.phantom is not None
        numbers = [int(case) for case in pool.case_ids]
        make_patients([Patient(source, pool.phantom, one, settings.size, pool.depth) for one in numbers], progress)
    options = Options(pool.part, pool.images, pool.labels, key=partial(_secret, folder / "pseudonyms.key"))
    return prepare(
        source,
        folder / "site",
        settings,
        dataset=pool.dataset if pool.phantom is None else "folder",
        options=options,
        organs=pool.organ_names,
        cases=pool.case_ids,
        test_organs=pool.test_organs,
        workers=workers,
        progress=progress,
    )


def _secret(file: Path) -> bytes:
    from fedcowpro.volume.dicom import load_or_make_key

    return load_or_make_key(file)


def required_organs(study: Study, sites: Mapping[str, Site]) -> None:
    """Refuse evaluation organs that a prepared pool does not have; phantoms were checked before."""
    for name, evaluation in study.evaluation.items():
        known = sites[evaluation.pool].organs.values()
        if unknown := sorted(set(evaluation.organs) - set(known)):
            raise FedCoWProError(
                f"evaluation '{name}': pool '{evaluation.pool}' has no organ {', '.join(unknown)}",
                f"among: {', '.join(known)}",
                "correct the names, or name the pool's label values with organs",
            )
