"""Prepare a folder of volumes as a site folder, once, in parallel, and interruptibly.

A case is written to a temporary folder and renamed, so it is there and whole or not there; the manifest comes
last. A second run keeps the cases whose image, labels, organs and settings are the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from rich.console import Console

from fedcowpro import __version__
from fedcowpro.config import PrepareConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.core.progress import ProgressBar
from fedcowpro.data.datasets.base import Options
from fedcowpro.data.datasets.registry import adapter_for
from fedcowpro.data.preparation.case import CaseJob, job_for, kept_case, require_shown
from fedcowpro.data.preparation.finish import remove_others, slices_that_show, stamp_of, unchanged, write_organs
from fedcowpro.data.preparation.manifest import CASE, CASES, MANIFEST, STAMP, CaseFile, CaseRecord, Manifest, read_json
from fedcowpro.data.preparation.pool import outcomes, workers_for
from fedcowpro.data.preparation.site import Site
from fedcowpro.data.preparation.sources import choose_sources
from fedcowpro.volume.dicom import redact, redacting_errors

_RECORDED = {"id", "modality", "guessed", "depth", "spacing", "source", "areas"}


def prepare(
    source: str | PathLike[str],
    out: str | PathLike[str],
    config: PrepareConfig | None = None,
    *,
    dataset: str | None = None,
    options: Options | None = None,
    organs: Mapping[int, str] | None = None,
    cases: Sequence[str] | None = None,
    support: str | None = None,
    query: Sequence[str] = (),
    test_organs: Sequence[str] = (),
    workers: int | None = None,
    progress: bool = True,
) -> Site:
    """Make (or complete) the site folder `out` from the volumes in `source`.

    Args:
        source: folder of raw volumes; only read.
        out: the site folder; made where it is missing.
        config: how slices are made; None = the defaults.
        dataset: name of the adapter; None = the first that recognises the folder, or 'folder' where `options` name
            the images' pattern.
        options: what the adapter should know besides the folder.
        organs: label value (1..255) -> name; other values become background. None takes the dataset's names, and
            where it has none calls the values found 'label-1', ...
        cases: ids to take, in this order; None = all in natural order.
        support: id of the annotated case; held out of training.
        query: ids of the cases to evaluate on; held out of training.
        test_organs: names of test organs; slices of training cases that show one are left out of training (the
            literature's setting 2; the only use of a training case's labels).
        workers: processes; None = one per core, at most one per case.
        progress: draw a progress bar on standard error.

    Raises:
        FedCoWProError: a folder that no adapter recognises, a file that cannot be used, an empty support mask, ids
            or patterns that match nothing, or a folder `out` that holds something else or was made with other
            settings.
    """
    source, out = Path(source), Path(out)
    config, options = config or PrepareConfig(), options or Options()
    if workers is not None and workers < 1:
        raise FedCoWProError(f"workers: {workers}", "at least 1", "leave it out to use every core")
    if organs is not None and not all(0 < value < 256 for value in organs):
        raise FedCoWProError(f"organs: values {sorted(organs)}", "label values in 1..255", "0 is always background")
    adapter = adapter_for(source, dataset, patterns=bool(options.images or options.labels))
    asked = (adapter.about.name, options.asked(), organs, cases, support, query, test_organs, config.digest())
    stamp = stamp_of(source, asked, besides=out)
    if (site := unchanged(out, stamp)) is not None:
        return site

    found = adapter.find(source, options)
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    with redacting_errors(found.identifiers):
        sources = choose_sources(found, cases, support, query, config.modality)
        if organs is not None and not any(entry.scan.labels for entry in sources):
            warnings.warn(f"organs are named, but no case has labels in {source}", stacklevel=2)
        organs = found.organs if organs is None else organs
        _require_usable(out, config)

        jobs = [job_for(entry.scan, out, config, organs, must_show=entry.role == "support") for entry in sources]
        kept = {job.scan.id: kept_case(job) for job in jobs}
        for job in jobs:
            if (case := kept[job.scan.id]) is not None:
                require_shown(job, case.label_values or ())
        # The support first: where its mask is empty, this is said before the others are worked on.
        waiting = sorted((job for job in jobs if kept[job.scan.id] is None), key=lambda job: not job.must_show)
        if waiting:
            (out / MANIFEST).unlink(missing_ok=True)
            _run(waiting, workers_for(workers, len(waiting)), progress, found.identifiers)
        done = [kept[job.scan.id] or read_json(CaseFile, job.folder / CASE) for job in jobs]
        names = write_organs(out, done, organs)
        left_out = slices_that_show(out, names, test_organs, sources)
        records = [
            CaseRecord(**case.model_dump(include=_RECORDED), role=entry.role, left_out=left_out.get(case.id, ()))
            for case, entry in zip(done, sources, strict=True)
        ]
        manifest = Manifest(
            version=2, fedcowpro=__version__, dataset=adapter.about.name, settings=config, cases=tuple(records)
        )
        (out / STAMP).unlink(missing_ok=True)  # that of an older manifest must not vouch for this one
        write_atomic(out / MANIFEST, manifest.model_dump_json())
        remove_others(out, {case.id for case in done})
        write_atomic(out / STAMP, stamp)
    return Site.open(out)


def _run(jobs: list[CaseJob], workers: int, progress: bool, identifiers: frozenset[str]) -> None:
    console = Console(stderr=True)
    try:
        with ProgressBar(progress, console) as bar:
            task = bar.add_task("preparing", total=len(jobs))
            results = outcomes(jobs, workers, lambda done: bar.update(task, completed=done))
            for result in results:
                if isinstance(result, tuple):
                    raise FedCoWProError(*result)
                for message in result:
                    warnings.warn(redact(message, identifiers), stacklevel=3)
    except KeyboardInterrupt:
        console.print("Interrupted. Finished volumes are kept: run the same command again to go on.")
        raise


def _require_usable(out: Path, config: PrepareConfig) -> None:
    """Refuse a folder that is something else or was made with other settings."""
    if out.exists() and not out.is_dir():
        raise FedCoWProError(f"{out} is a file", "a folder for the site", "choose another --out")
    if (out / MANIFEST).is_file():
        old = read_json(Manifest, out / MANIFEST).settings
        if old != config:
            changed = [name for name in PrepareConfig.model_fields if getattr(old, name) != getattr(config, name)]
            raise FedCoWProError(
                f"{out} was prepared with other settings ({', '.join(changed)})",
                "the same settings in one site folder",
                "choose another --out, or delete that folder",
            )
    elif out.is_dir() and any(out.iterdir()) and not (out / CASES).is_dir():
        raise FedCoWProError(
            f"{out} is not empty and is not a site folder",
            "a new or empty folder, or a site folder",
            "choose another --out",
        )
