"""A worker process: `python -m fedcowpro.study.worker`. It reads a `Job` as a line of JSON, does it, writes a code.

Libraries load once, in seconds; each job then has a process of its own, a fork that starts at once and whose memory
is the job's alone. Workers end when the other end of their input closes, so that none outlives a study that was
killed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import torch

from fedcowpro import __version__
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import Episodes, plan_episodes
from fedcowpro.evaluation.protocol import Row, write_results
from fedcowpro.evaluation.run import evaluate_episode
from fedcowpro.evaluation.summary import AFTER, BEFORE
from fedcowpro.federated.run import federate
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.site.local_training import reproducible
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.study.engine import FORKS
from fedcowpro.study.plan import COST, Job, Scoring


def main() -> None:
    """Do the jobs on standard input, one a line, until it ends."""
    # torch loads half of its modules with the first optimiser: here once, not in every fork.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else is printed is no answer
    for line in iter(sys.stdin.readline, ""):
        job = Job.model_validate_json(line)
        code = _in_child(job) if FORKS else attempt(job)
        try:
            os.write(answers, f"{code}\n".encode())
        except BrokenPipeError:  # nobody waits for it any more
            break
        if not FORKS:
            break


def attempt(job: Job) -> int:
    """Do a job, with what it prints in its log: 0 = done, 2 = a user's mistake, 1 = a fault of the program."""
    with job.log.open("w", encoding="utf-8", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        try:
            work(job)
        except FedCoWProError as error:
            print(f"error: {error}", file=log)
            return 2
        except Exception:
            traceback.print_exc(file=log)
            return 1
    return 0


def _in_child(job: Job) -> int:
    """`attempt` in a process of its own; its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        os._exit(attempt(job))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def work(job: Job) -> None:
    """Train the model, unless it is finished, and write each table of scores that is missing."""
    if job.trains:
        train(job)
    with reproducible(job.config.threads):
        for scoring in job.scorings:
            if not scoring.out.is_file():
                write_results(scoring.out, score(job, scoring))


def train(job: Job) -> None:
    """Run the federation, or the rest of it, and note what it cost."""
    before, memory = RunFolder(job.folder).completed(), _peak_megabytes()
    started, cpu = time.perf_counter(), time.process_time()
    federate(job.config, job.sites, job.folder, progress=False)
    cost: dict[str, Any] = {
        "measured_rounds": job.config.federation.rounds - before,
        "seconds": round(time.perf_counter() - started, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "start_rss_mb": memory,
        "peak_rss_mb": _peak_megabytes(),
    }
    if not (job.folder / COST).is_file():
        write_atomic(job.folder / COST, (json.dumps(cost) + "\n").encode())


def score(job: Job, scoring: Scoring) -> list[Row]:
    """Scores on all evaluation sites; the episodes that were asked are kept beside them."""
    rows: list[Row] = []
    sites = {name: Site.open(asked.path) for name, asked in scoring.sites.items()}
    slices = scoring.inference.support_slices
    parts = [
        plan_episodes(
            {name: sites[name]}, organs=asked.organs, slices=slices, every_support=asked.every_support
        ).episodes
        for name, asked in scoring.sites.items()
    ]
    episodes = Episodes(
        version=1,
        fedcowpro=__version__,
        digests={name: site.labelled_digest for name, site in sites.items()},
        episodes=tuple(episode for part in parts for episode in part),
    )
    episodes.save(scoring.out.with_suffix(".episodes.json"))
    for episode in episodes.episodes:
        rows += evaluate_episode(
            _predictor(job, scoring, episode.site),
            sites,
            episode,
            method=AFTER if job.trains else BEFORE,
            seed=job.config.seed,
            protocols=scoring.protocols,
        )
    return rows


def _predictor(job: Job, scoring: Scoring, site: str) -> OneShotPredictor:
    if not job.trains:
        return OneShotPredictor(build_model(job.config.model, job.config.seed, project=False), scoring.inference)
    # With local normalisation a training site has a model of its own, for the evaluation site of its name.
    own = job.folder / "sites" / f"{site}.safetensors"
    return load_predictor(
        own if own.is_file() else job.folder, scoring.inference.model_dump(), evaluation=True
    ).predictor


def _peak_megabytes() -> float | None:
    """Largest resident memory of this process so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
