"""Prepare a folder of volumes as a site folder, once, in parallel, and interruptibly.

A case is written to a temporary folder and renamed, so it is there and whole or not there; the manifest comes
last. A second run keeps the cases whose image, labels, organs and settings are the same.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fedcowpro import __version__
from fedcowpro.config import PrepareConfig
from fedcowpro.data.case import Job, Outcome, attempt, job_for, kept_case
from fedcowpro.data.datasets.base import Options
from fedcowpro.data.datasets.registry import adapter_for
from fedcowpro.data.finish import slices_that_show, stamp_of, unchanged, write_organs, write_text
from fedcowpro.data.manifest import CASE, CASES, MANIFEST, STAMP, CaseFile, CaseRecord, Manifest, read_json
from fedcowpro.data.site import Site
from fedcowpro.data.sources import choose_sources
from fedcowpro.errors import FedCoWProError
from fedcowpro.volume.checks import require_nonempty

_RECORDED = {"id", "modality", "guessed", "depth", "spacing", "source", "areas"}
_END_ON_INTERRUPT = (signal.SIGINT, signal.SIG_DFL)  # instead of a traceback per worker
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def prepare(
    source: Path,
    out: Path,
    config: PrepareConfig | None = None,
    *,
    dataset: str | None = None,
    options: Options | None = None,
    organs: Mapping[int, str] | None = None,
    cases: Sequence[str] | None = None,
    support: str | None = None,
    query: Sequence[str] = (),
    unseen: Sequence[str] = (),
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
        unseen: names of test organs; slices of training cases that show one are left out of training (the
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
    asked = (adapter.about.name, options.asked(), organs, cases, support, query, unseen, config.digest())
    stamp = stamp_of(source, asked)
    if (site := unchanged(out, stamp)) is not None:
        return site

    found = adapter.find(source, options)
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    sources = choose_sources(found, cases, support, query, config.modality)
    if organs is not None and not any(entry.scan.labels for entry in sources):
        warnings.warn(f"organs are named, but no case has labels in {source}", stacklevel=2)
    organs = found.organs if organs is None else organs
    _require_usable(out, config)

    jobs = [job_for(entry.scan, out, config, organs) for entry in sources]
    kept = {job.scan.id: kept_case(job) for job in jobs}
    waiting = [job for job in jobs if kept[job.scan.id] is None]
    if waiting:
        (out / MANIFEST).unlink(missing_ok=True)
        _run(waiting, _workers(workers, len(waiting)), progress)
    done = [kept[job.scan.id] or read_json(CaseFile, job.folder / CASE) for job in jobs]
    for case, entry in zip(done, sources, strict=True):
        if entry.role == "support" and entry.scan.labels is not None:
            require_nonempty(np.array(case.label_values), entry.scan.labels.files[0])
    names = write_organs(out, done, organs)
    left_out = slices_that_show(out, names, unseen, sources)
    records = [
        CaseRecord(**case.model_dump(include=_RECORDED), role=entry.role, left_out=left_out.get(case.id, ()))
        for case, entry in zip(done, sources, strict=True)
    ]
    manifest = Manifest(
        version=2, fedcowpro=__version__, dataset=adapter.about.name, settings=config, cases=tuple(records)
    )
    (out / STAMP).unlink(missing_ok=True)  # that of an older manifest must not vouch for this one
    write_text(out / MANIFEST, manifest.model_dump_json())
    write_text(out / STAMP, stamp)
    return Site.open(out)


def _run(jobs: list[Job], workers: int, progress: bool) -> None:
    console = Console(stderr=True)
    columns = (
        TextColumn("preparing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("volumes"),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console, disable=not progress) as bar:
            task = bar.add_task("", total=len(jobs))
            for result in _results(jobs, workers):
                if isinstance(result, tuple):
                    raise FedCoWProError(*result)
                for message in result:
                    warnings.warn(message, stacklevel=3)
                bar.advance(task)
    except KeyboardInterrupt:
        console.print("Interrupted. Finished volumes are kept: run the same command again to go on.")
        raise


def _results(jobs: list[Job], workers: int) -> Iterator[Outcome]:
    """Outcomes in the order in which cases finish."""
    if workers == 1:
        yield from map(attempt, jobs)
        return
    # Spawned, because forking a process that runs threads (torch's, the progress bar's) can lock up.
    with (
        _environment(_ONE_THREAD),
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), signal.signal, _END_ON_INTERRUPT) as pool,
    ):
        futures = [pool.submit(attempt, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise FedCoWProError(
                "a worker process ended unexpectedly",
                "enough memory for the volumes in work at a time",
                "run again with fewer workers (finished volumes are kept); in a script of your own, call "
                "this under if __name__ == '__main__'",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes started within."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _workers(asked: int | None, jobs: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(asked or cores, jobs)


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
