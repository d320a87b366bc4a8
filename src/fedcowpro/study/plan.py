"""What has to be trained and scored. Keys are digests of all that a training or an evaluation depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcowpro import __version__
from fedcowpro.config import Config, ExperimentConfig, InferConfig
from fedcowpro.data.preparation.compose import Part, compose_site
from fedcowpro.data.preparation.manifest import Role
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.protocol import Teaching
from fedcowpro.study.expand import Variant
from fedcowpro.study.layout import Member, supports
from fedcowpro.study.spec import Evaluation, Study

COST = "cost.json"  # in a run folder: what the training took


class Scored(Config):
    """A site to score on; no organs = all of it. `every_support`: each case supports the others in turn."""

    path: Path
    organs: tuple[str, ...]
    every_support: bool = False


class Scoring(Config):
    """One evaluation of a model: its table of scores goes to `out`; networks that it trains go to `networks`.

    `seed` is theirs: an untrained model is the same for all seeds.
    """

    key: str
    inference: InferConfig
    teaching: Teaching | None = None
    teaching_steps: int | None = None
    seed: int
    networks: Path
    sites: dict[str, Scored]
    protocols: tuple[str, ...]
    out: Path


class StudyJob(Config):
    """A model and all its evaluations: what a worker process does.

    `sites` are those of the training; without any, the encoder is scored as it is before training. `log` takes what
    the worker prints.
    """

    key: str
    config: ExperimentConfig
    sites: dict[str, Path]
    folder: Path
    log: Path
    scorings: tuple[Scoring, ...]

    @property
    def trains(self) -> bool:
        """Whether there is something to train."""
        return bool(self.sites)


@dataclass(frozen=True)
class Trial:
    """An arm with one seed, and where its model and its scores come from."""

    variant: Variant
    seed: int
    job: str
    scoring: str


@dataclass(frozen=True)
class Plan:
    """All trials of a study, and the jobs behind them: fewer, where trials share."""

    trials: tuple[Trial, ...]
    jobs: Mapping[str, StudyJob]

    def scorings(self) -> dict[str, Scoring]:
        """All evaluations by their keys."""
        return {scoring.key: scoring for job in self.jobs.values() for scoring in job.scorings}


def make_plan(study: Study, variants: Sequence[Variant], pools: Mapping[str, Site], store: Path) -> Plan:
    """Compose the sites of all arms below `store` and list the jobs, all arms of a seed before the next seed.

    Raises:
        FedCoWProError: pools that cannot be at one site, because they were prepared differently.
    """
    composer = _Composer(pools, store / "sites")
    trials: list[Trial] = []
    jobs: dict[str, StudyJob] = {}
    for seed in study.seeds:
        for variant in variants:
            config = variant.config.model_copy(update={"seed": seed})
            trained = {name: composer.training(members) for name, members in sorted(variant.sites.items())}
            digest = _training_digest(config, trained)
            scoring = _scoring(study, variant, config, composer, digest, store)
            job = jobs.get(digest)
            if job is None:
                sites = {name: site.path for name, site in trained.items()}
                job = StudyJob(
                    key=digest, config=_without_inference(config), sites=sites, folder=store / "runs" / digest,
                    log=store / "logs" / f"{digest}.log", scorings=(),
                )  # fmt: skip
            if scoring.key not in [known.key for known in job.scorings]:
                job = job.model_copy(update={"scorings": (*job.scorings, scoring)})
            jobs[digest] = job
            trials.append(Trial(variant, seed, digest, scoring.key))
    return Plan(tuple(trials), jobs)


class _Composer:
    """Makes site folders of cases of pools, named by what they are made of."""

    def __init__(self, pools: Mapping[str, Site], folder: Path) -> None:
        self._pools, self._folder = pools, folder
        self._made: dict[str, Site] = {}

    def training(self, members: Sequence[Member]) -> Site:
        return self._compose([Part(self._pools[one.pool], one.case, one.id, "train") for one in members])

    def evaluation(self, asked: Evaluation) -> Site:
        roles: dict[str, Role] = {**dict.fromkeys(asked.training, "train"), **dict.fromkeys(asked.query, "query")}
        # Cases of two pools may have the same number.
        examples = [
            Part(self._pools[one.pool], one.case, one.case if one.pool == asked.pool else one.id, "support")
            for one in supports(asked)
        ]
        others = [Part(self._pools[asked.pool], case, case, role) for case, role in roles.items()]
        return self._compose([*examples, *others])

    def _compose(self, parts: Sequence[Part]) -> Site:
        key = _digest([__version__, [(part.site.digest, part.case, part.id, part.role) for part in parts]])
        if key not in self._made:
            self._made[key] = compose_site(self._folder / key, parts)
        return self._made[key]


def _without_inference(config: ExperimentConfig) -> ExperimentConfig:
    """Inference does not change a training: runs that differ in nothing else are one."""
    return config.model_copy(update={"inference": InferConfig()})


def _training_digest(config: ExperimentConfig, sites: Mapping[str, Site]) -> str:
    weights = config.model.weights
    if sites:
        settings = _without_inference(config).model_dump(mode="json")
        given = hashlib.sha256(weights.read_bytes()).hexdigest() if weights is not None else None
        return _digest([__version__, settings, given, [(name, site.digest) for name, site in sites.items()]])
    # Untrained encoders may be the same for all seeds (those that come with weights): scored once then.
    from fedcowpro.model.checkpoint import state_digest
    from fedcowpro.model.segmenter import build_model

    model = build_model(config.model, config.seed, project=False)
    settings = config.model.model_copy(update={"weights": None}).model_dump(mode="json")
    return _digest([__version__, "untrained", settings, state_digest(model.state_dict())])


def _scoring(
    study: Study, variant: Variant, config: ExperimentConfig, composer: _Composer, training: str, store: Path
) -> Scoring:
    sites = {}
    names = []
    for name, evaluation in variant.evaluation.items():
        site = composer.evaluation(evaluation)
        sites[name] = Scored(path=site.path, organs=evaluation.organs, every_support=evaluation.every_support)
        in_turn = ("in turn",) if evaluation.every_support else ()
        roles = [(case.id, case.role) for case in site.cases] if variant.teaching else []
        names.append((name, site.labelled_digest, evaluation.organs, *in_turn, *roles))
    inference = config.inference.model_dump(mode="json")
    taught = [variant.teaching, variant.teaching_steps, config.seed] if variant.teaching else []
    digest = _digest([__version__, training, inference, names, study.protocols, *taught])
    return Scoring(
        key=digest, inference=config.inference, sites=sites, protocols=study.protocols, teaching=variant.teaching,
        teaching_steps=variant.teaching_steps, seed=config.seed, networks=store / "networks",
        out=store / "results" / f"{digest}.csv",
    )  # fmt: skip


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
