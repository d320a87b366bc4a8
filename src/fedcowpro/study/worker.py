"""What the process of a job does: it trains and scores, with what it prints in the job's log."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from filelock import FileLock

from fedcowpro import __version__
from fedcowpro.core.device import choose_device, reproducible
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.core.processes import end_with_parent
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import Episodes, plan_episodes
from fedcowpro.evaluation.fine_tuned import FineTuned
from fedcowpro.evaluation.protocol import Row, write_results
from fedcowpro.evaluation.run import evaluate_episode
from fedcowpro.evaluation.summary import AFTER, BEFORE
from fedcowpro.federated.run import federate
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.loading import Loaded, load_predictor
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.study.plan import COST, Scoring, StudyJob


def work(job: StudyJob) -> None:
    """Do a job: train the model, unless it is finished, and write each table of scores that is missing.

    What it prints goes to the job's log. It ends with the study, and begins when no other process does the same job:
    one whose study was killed takes a moment to notice.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the study, which then ends this process
    with job.log.open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout = sys.stderr
    try:
        with FileLock(job.log.with_suffix(".lock")):
            if job.trains:
                train(job)
            with reproducible(job.config.threads):
                for scoring in job.scorings:
                    if not scoring.out.is_file():
                        write_results(scoring.out, score(job, scoring))
    except FedCoWProError as error:
        sys.exit(f"error: {error}")


def train(job: StudyJob) -> None:
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


def score(job: StudyJob, scoring: Scoring) -> list[Row]:
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
            _method(job, scoring, episode.site),
            sites,
            episode,
            method=AFTER if job.trains else BEFORE,
            seed=job.config.seed,
            protocols=scoring.protocols,
        )
    return rows


def _method(job: StudyJob, scoring: Scoring, site: str) -> OneShotPredictor | FineTuned:
    loaded = _loaded(job, scoring, site)
    if scoring.teaching is None:
        return loaded.predictor
    return FineTuned(loaded, scoring.teaching, scoring.teaching_steps, scoring.seed, scoring.networks)


def _loaded(job: StudyJob, scoring: Scoring, site: str) -> Loaded:
    if not job.trains:
        model = build_model(job.config.model, job.config.seed, project=False).to(choose_device(job.config.device))
        return Loaded(OneShotPredictor(model, scoring.inference), job.config.seed, {})
    # With local normalisation a training site has a model of its own, for the evaluation site of its name.
    own = job.folder / "sites" / f"{site}.safetensors"
    device = choose_device(job.config.device)
    return load_predictor(
        own if own.is_file() else job.folder, scoring.inference.model_dump(), evaluation=True, device=device
    )


def _peak_megabytes() -> float | None:
    """Largest resident memory of this process so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10), 1)
