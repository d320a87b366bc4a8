"""The demonstration: phantom patients of four hospitals go through every stage, from raw volumes to a report.

OUT/demo.json             settings and seconds of each stage
OUT/raw/<site>/           phantom volumes and label maps (NIfTI)
OUT/sites/<site>/         prepared site folders
OUT/run/                  the federation and its model
OUT/masks/<site>/         label maps of the held-out cases, as `segment` writes them
OUT/results.csv           scores of the held-out cases, before and after training
OUT/report.html           the page to look at
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import pandas as pd
import yaml
from rich.console import Console

from fedcowpro import __version__
from fedcowpro.config import ExperimentConfig, PrepareConfig, parse
from fedcowpro.core.device import choose_device
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.core.progress import ProgressBar
from fedcowpro.data.phantom.patients import Patient, make_patients
from fedcowpro.data.preparation.prepare import prepare
from fedcowpro.data.preparation.site import Site
from fedcowpro.demo.hospitals import HOSPITALS
from fedcowpro.demo.report import EpisodeMasks, commands, facts, overlays, story, summary
from fedcowpro.evaluation.episodes import plan_episodes
from fedcowpro.evaluation.protocol import PROTOCOLS, Row, read_results, write_results
from fedcowpro.evaluation.run import evaluate_episode
from fedcowpro.evaluation.summary import AFTER, BEFORE
from fedcowpro.federated.run import federate
from fedcowpro.model.checkpoint import load_checkpoint
from fedcowpro.oneshot.batch import ByExample, load_support, segment_files
from fedcowpro.oneshot.loading import Loaded, load_predictor
from fedcowpro.reports.demo_report.report import write_report

_RECORD = "demo.json"


@dataclass(frozen=True)
class Setup:
    """How much the demo makes.

    Attributes:
        experiment: the federation; its seed and sites are replaced.
        size: height and width of a slice in pixels.
        depth: slices of a volume.
        train, query: patients per site for training and for scoring; one more is the annotated example.
    """

    experiment: ExperimentConfig
    size: int = 256
    depth: int = 24
    train: int = 3
    query: int = 2

    def patients(self, seed: int) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
        """Numbers of the training patients, of the example and of those to score; no two seeds share one."""
        first = seed * (self.train + 1 + self.query)
        example = first + self.train
        return tuple(range(first, example)), example, tuple(range(example + 1, example + 1 + self.query))


def shipped_setup() -> Setup:
    """The setup of `fedcowpro demo`."""
    text = (files("fedcowpro.demo") / "demo.yaml").read_text(encoding="utf-8")
    return Setup(parse(ExperimentConfig, yaml.safe_load(text), "demo.yaml"))


def run_demo(out: Path, seed: int, setup: Setup | None = None, progress: bool = True, device: str = "auto") -> Path:
    """Run or complete the demo in `out`; stages that are finished are kept.

    Args:
        out: folder for everything, new, empty or of an earlier demo with the same seed.
        seed: of the phantom patients and of the training, from 0.
        setup: what to make; default the shipped one.
        progress: stage names and bars on standard error.
        device: what computes (see `OneShotSegmenter`).

    Returns:
        The report, OUT/report.html.

    Raises:
        FedCoWProError: `out` holds something else, or a demo with another seed or of another version.
        KeyboardInterrupt: passed on; the same call goes on from there.
    """
    demo = _Demo(Path(out), seed, setup or shipped_setup(), progress, device)
    try:
        return demo.run()
    except KeyboardInterrupt:
        demo.console.print(f"Interrupted. The same command goes on from here; {out} keeps what is finished.")
        raise


class _Demo:
    """One run over all stages."""

    def __init__(self, out: Path, seed: int, setup: Setup, progress: bool, device: str) -> None:
        experiment = parse(ExperimentConfig, {**setup.experiment.model_dump(), "seed": seed, "device": device}, "demo")
        self.out, self.seed, self.setup, self.experiment = out, seed, setup, experiment
        self.progress = progress
        self.console = Console(stderr=True, quiet=not progress, highlight=False)
        self.train, self.example, self.queries = setup.patients(seed)
        self.sites = {hospital.name: out / "sites" / hospital.name for hospital in HOSPITALS}
        self.stages: dict[str, float] = {}

    def run(self) -> Path:
        """All stages in order."""
        self._start()
        self._make()
        self._prepare()
        with self._stage("federate", "the hospitals train one network together, without labels", resumable=True):
            federate(self.experiment, self.sites, self.out / "run", progress=self.progress)
        loaded = load_predictor(self.out / "run", device=choose_device(self.experiment.device))
        with self._stage("segment", "one annotated example per hospital segments its held-out patients"):
            self._segment(loaded)
        with self._stage("evaluate", "Dice of the held-out patients, before and after training"):
            predictions = self._evaluate(loaded)
        results = read_results(self.out / "results.csv")
        with self._stage("report", "tables, curves and pictures"):
            report = self._report(results, predictions)
        Console(highlight=False).print(summary(results))
        return report

    def _start(self) -> None:
        """Begin in a new folder, or go on in that of the same demo."""
        settings = {**asdict(self.setup), "experiment": self.experiment.digest(), "seed": self.seed}
        text = json.dumps([__version__, settings], sort_keys=True)
        self._digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        record = self.out / _RECORD
        if record.is_file():
            try:
                before = json.loads(record.read_text(encoding="utf-8"))
                same, self.stages = before["settings_digest"] == self._digest, dict(before["seconds"])
            except (ValueError, KeyError, TypeError):
                same = False
            if not same:
                raise FedCoWProError(
                    f"{self.out} holds a demo with another seed, of another version, or a damaged {_RECORD}",
                    "a new folder, or the demo that was begun there",
                    "choose another --out, or delete that folder",
                )
        elif self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise FedCoWProError(
                f"{self.out} is not empty and holds no demo", "a new or empty folder", "choose another --out"
            )
        self.out.mkdir(parents=True, exist_ok=True)
        self._save()

    def _save(self) -> None:
        record = {"settings_digest": self._digest, "seed": self.seed, "seconds": self.stages}
        write_atomic(self.out / _RECORD, (json.dumps(record, indent=2) + "\n").encode())

    @contextmanager
    def _stage(self, name: str, what: str, resumable: bool = False) -> Iterator[None]:
        """Announce a stage and keep its seconds; a resumable one adds up over interruptions."""
        self.console.print(f"[bold]{name}[/bold]: {what}")
        before = self.stages.get(name, 0.0) if resumable else 0.0
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = round(before + time.perf_counter() - started, 1)
            self._save()

    def _make(self) -> None:
        size, depth = self.setup.size, self.setup.depth
        patients = [
            Patient(self.out / "raw" / hospital.name, hospital.kind, number, size, depth)
            for hospital in HOSPITALS
            for number in (*self.train, self.example, *self.queries)
        ]
        with self._stage("phantoms", f"{len(patients)} synthetic patients at four hospitals", resumable=True):
            make_patients(patients, self.progress)

    def _prepare(self) -> None:
        with self._stage("prepare", "slices and superpixel pseudo-labels; labels are kept apart", resumable=True):
            for hospital in HOSPITALS:
                self.console.print(f"  {hospital.name}")
                prepare(
                    self.out / "raw" / hospital.name,
                    self.sites[hospital.name],
                    PrepareConfig(modality=hospital.modality, size=self.setup.size),
                    organs=hospital.organs,
                    support=str(self.example),
                    query=[str(number) for number in self.queries],
                    progress=self.progress,
                )

    def _segment(self, loaded: Loaded) -> None:
        with ProgressBar(self.progress, self.console) as bar:
            task = bar.add_task("segmenting", total=len(HOSPITALS) * len(self.queries))
            for hospital in HOSPITALS:
                raw = self.out / "raw" / hospital.name
                pair = (raw / f"image_{self.example}.nii.gz", raw / f"label_{self.example}.nii.gz")
                support = load_support(loaded.predictor, [pair], loaded.prepare, hospital.modality)
                segment_files(
                    ByExample(loaded.predictor, support, loaded.prepare),
                    [raw / f"image_{number}.nii.gz" for number in self.queries],
                    self.out / "masks" / hospital.name,
                    modality=hospital.modality,
                    on_query=lambda _: bar.advance(task),
                )

    def _evaluate(self, loaded: Loaded) -> list[EpisodeMasks]:
        """Write the scores; returns the predictions for the first held-out patient of each site."""
        rows: list[Row] = []
        predictions: list[EpisodeMasks] = []
        sites = {name: Site.open(folder) for name, folder in self.sites.items()}
        plan = plan_episodes(sites, slices=loaded.predictor.config.support_slices)
        with ProgressBar(self.progress, self.console) as bar:
            task = bar.add_task("scoring", total=2 * len(HOSPITALS) * len(self.queries))
            for method, candidate in ((BEFORE, loaded.untrained()), (AFTER, loaded)):
                for episode in plan.episodes:
                    shown = EpisodeMasks(method, episode.site, episode)
                    rows += evaluate_episode(
                        candidate.predictor,
                        sites,
                        episode,
                        method=method,
                        seed=self.seed,
                        protocols=PROTOCOLS,
                        on_case=lambda _: bar.advance(task),
                        on_prediction=shown.add,
                    )
                    predictions.append(shown)
        write_results(self.out / "results.csv", rows)
        return predictions

    def _report(self, results: pd.DataFrame, predictions: list[EpisodeMasks]) -> Path:
        report, setup = self.out / "report.html", self.setup
        run = self.out / "run"
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        write_report(
            report,
            title="FedCoWPro demo: four hospitals, one network",
            results=results,
            rounds=[record for record in map(json.loads, lines) if record["kind"] == "site"],
            overlays=overlays(predictions, self.sites),
            facts=facts(load_checkpoint(run)[1], {name: s for name, s in self.stages.items() if name != "report"})
            | commands(self.out, self.seed, self.train, self.example, self.queries, setup.size, setup.depth),
            story=story(self.experiment, len(self.train), len(self.queries)),
        )
        return report
