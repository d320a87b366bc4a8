"""Run a study file from its pools to its tables; the same call completes what an earlier one began.

STORE/pools/                 prepared cases
STORE/sites/<digest>/        training and evaluation sites, composed of links to them
STORE/runs/<digest>/         trainings (layout: `fedcowpro.federated.server.run_folder`), with cost.json
STORE/results/<digest>.csv   evaluations, each with its episodes (<digest>.episodes.json)
STORE/logs/<digest>.log      what each job's process printed
STUDY/table.csv, costs.csv, study.json   (layout: `fedcowpro.study.table`)

The store is the study's own folder, or one that several studies share.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.versions import versions
from fedcowpro.study.engine import require_success, run_jobs
from fedcowpro.study.expand import expand
from fedcowpro.study.lock import locked
from fedcowpro.study.plan import Plan, StudyJob, make_plan
from fedcowpro.study.pools import prepare_pools, required_organs
from fedcowpro.study.progress import StudyProgress
from fedcowpro.study.read import load_study
from fedcowpro.study.spec import Study
from fedcowpro.study.table import read_record, record_of, write_costs, write_record, write_table


def run_study(
    file: Path,
    out: Path,
    *,
    workers: int | None = None,
    store: Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Path:
    """Run or complete a study.

    Each training and each evaluation is done once, whatever the number of arms that share it, and is kept under a
    digest of all that it depends on; results do not depend on `workers`. A study that was killed goes on: trainings
    from their last complete round.

    Args:
        file: the study file.
        out: folder for everything, new, empty or of this study.
        workers: processes at a time, each with one thread; None = one per core.
        store: folder of prepared volumes, trainings and evaluations that several studies share, one at a time: while
            another study works there, this one says so and waits; None = `out`.
        device: replaces that of the study's configuration (see `OneShotSegmenter`).
        progress: bars on standard error.

    Returns:
        The table of scores, OUT/table.csv.

    Raises:
        FedCoWProError: an invalid study, volumes that cannot be prepared, a folder that holds something else or in
            which another process works; or, after all others have ended, runs that failed, with their logs.
        KeyboardInterrupt: passed on after a word on how to resume.
    """
    if workers is not None and workers < 1:
        raise FedCoWProError(f"workers: {workers}", "at least 1", "leave it out to use every core")
    started, study, out = time.monotonic(), load_study(Path(file)), Path(out).absolute()
    store = Path(store or out).absolute()
    if device is not None:
        study = study.model_copy(update={"base": {**study.base, "device": device}})
    variants = expand(study)
    _require_usable(out, study)
    if store != out:
        _require_folder(store, "--store")
    for folder in (out, store):
        folder.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True, quiet=not progress, highlight=False, soft_wrap=True)
    try:
        with locked(out), nullcontext() if store == out else locked(store, wait=True):
            sites = prepare_pools(study, store / "pools", workers, progress)
            required_organs(study, sites)
            plan = make_plan(study, variants, sites, store)
            return _Running(study, plan, out, store, started, progress).run(_workers(workers))
    except KeyboardInterrupt:
        console.print(f"Interrupted. Finished rounds and evaluations are safe in {store}; the same command goes on.")
        raise


class _Running:
    """One session of a study."""

    def __init__(self, study: Study, plan: Plan, out: Path, store: Path, started: float, progress: bool) -> None:
        self.plan, self.out, self.store, self.started, self.progress = plan, out, store, started, progress
        before = read_record(out) or {}
        self.seconds_before = float(before.get("seconds", 0.0))
        self.record: dict[str, Any] = record_of(study, plan, out)
        self.record |= {
            "versions": versions(),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "failed": [],
        }
        self.scored = -1

    def run(self, workers: int) -> Path:
        """Do what is not done yet."""
        waiting = [job for job in self.plan.jobs.values() if not _is_done(job)]
        (self.store / "results").mkdir(exist_ok=True)
        with StudyProgress(self.plan, self.progress) as bar:

            def look(active: Sequence[StudyJob]) -> None:
                self._note()
                bar.update(active, self.scored)

            look([])
            try:
                failures = run_jobs(waiting, workers, self.store / "logs", on_look=look)
                self.record["failed"] = [self._name(one.job) for one in failures]
            finally:
                table = self._note(last=True)
        require_success(failures, len(self.plan.jobs), self._name)
        return table

    def _note(self, last: bool = False) -> Path:
        """Rewrite the tables and the record where an evaluation was added."""
        scored = sum(scoring.out.is_file() for scoring in self.plan.scorings().values())
        if last or scored != self.scored:
            self.scored = scored
            self.record["seconds"] = round(self.seconds_before + time.monotonic() - self.started, 1)
            write_table(self.out, self.plan.trials, self.store / "results")
            write_costs(self.out, self.plan)
            write_record(self.out, self.record)
        return self.out / "table.csv"

    def _name(self, job: StudyJob) -> str:
        trials = [trial for trial in self.plan.trials if trial.job == job.key]
        arms = dict.fromkeys(trial.variant.arm for trial in trials)
        seeds = dict.fromkeys(str(trial.seed) for trial in trials)
        return f"arm {' / '.join(repr(arm) for arm in arms)}, seed {', '.join(seeds)}"


def _is_done(job: StudyJob) -> bool:
    """Whether nothing is left to do; a training is finished before it is scored."""
    return all(scoring.out.is_file() for scoring in job.scorings)


def _require_usable(out: Path, study: Study) -> None:
    """Refuse a folder that holds something else."""
    record = read_record(out)
    if record is not None:
        if record["name"] != study.name:
            raise FedCoWProError(
                f"{out} holds the study '{record['name']}'", f"a new folder, or that of '{study.name}'",
                "choose another --out",
            )  # fmt: skip
    else:
        _require_folder(out, "--out")


def _require_folder(folder: Path, option: str) -> None:
    """Refuse what no study has ever used."""
    if folder.exists() and not folder.is_dir():
        raise FedCoWProError(f"{folder} is a file", "a folder for studies", f"choose another {option}")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ".lock").is_file():
        raise FedCoWProError(
            f"{folder} is not empty and holds no study", "a new or empty folder, or one that a study has used",
            f"choose another {option}",
        )  # fmt: skip


def _workers(asked: int | None) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return asked or cores
