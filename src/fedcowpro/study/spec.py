"""The study file as frozen models: pools of cases, layouts of training sites, evaluation, arms, seeds.

A study names all of its cases, so that it is checked whole before the first volume is read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from fedcowpro.config import Config, Modality, PrepareConfig, SuperpixelConfig, parse
from fedcowpro.data.phantom import ORGANS, Kind
from fedcowpro.evaluation.protocol import PROTOCOLS, Teaching

Regime = Literal["federated", "pooled", "single-site", "untrained"]
Protocol = Literal["gt-range", "whole-volume"]
_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"
_SETTINGS = ("window", "percentile", "spacing", "size", "superpixels")


def _text(value: object) -> object:
    """YAML reads the id 12 as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _several(value: object) -> object:
    """One id may stand for a list of one."""
    return value if isinstance(value, list | tuple) else (value,)


Name = Annotated[str, Field(pattern=_NAME)]
CaseId = Annotated[str, BeforeValidator(_text), Field(pattern=_NAME)]
CaseIds = Annotated[tuple[CaseId, ...], BeforeValidator(_several), Field(min_length=1)]


class Pool(Config):
    """Cases that are prepared once and used by all arms: phantom patients, or volumes of a folder."""

    phantom: Kind | None = Field(None, description="kind of the patients to make")
    patients: int | None = Field(None, ge=1, description="phantom: how many")
    seed: int = Field(0, ge=0, description="phantom: number of the first patient; numbers are the case ids")
    depth: int = Field(12, ge=4, description="phantom: slices of a volume")
    source: str | None = Field(None, description="folder of volumes; ${NAME} is an environment variable")
    dataset: str | None = Field(None, description="source: name of the adapter; None = by its layout")
    part: str | None = Field(None, description="source: part of the dataset")
    images: str | None = Field(None, description="source: file pattern")
    labels: str | None = Field(None, description="source: file pattern of label maps")
    cases: CaseIds | None = Field(None, description="source: ids")
    modality: Modality | None = None
    organs: dict[int, str] | None = Field(None, description="label value -> name; None = as the source says")
    test_organs: tuple[str, ...] = Field(
        (), description="training slices that show one of them are left out (setting 2)"
    )
    window: tuple[float, float] | None = None
    percentile: float | None = None
    spacing: float | None = None
    size: int | None = None
    superpixels: SuperpixelConfig | None = None

    @model_validator(mode="after")
    def _of_one_kind(self) -> Pool:
        if (self.phantom is None) == (self.source is None):
            raise ValueError("either phantom or source")
        if self.phantom is not None:
            needed, others = "patients", ["dataset", "part", "images", "labels", "cases", "modality"]
        else:
            needed, others = "cases", ["patients", "seed", "depth"]
        if getattr(self, needed) is None:
            raise ValueError(f"{needed}: needed for a pool of this kind")
        if odd := [name for name in others if name in self.model_fields_set]:
            raise ValueError(f"{odd[0]}: not for a pool of this kind")
        return self

    def settings(self, common: PrepareConfig) -> PrepareConfig:
        """How its volumes are prepared: the study's settings, with the pool's own in their place."""
        own = {name: getattr(self, name) for name in _SETTINGS if getattr(self, name) is not None}
        modality: Modality | None = self.modality
        if self.phantom is not None:
            modality = "ct" if self.phantom == "ct" else "mr"
        return parse(PrepareConfig, {**common.model_dump(), **own, "modality": modality}, "settings of a pool")

    @property
    def case_ids(self) -> tuple[str, ...]:
        """Ids of its cases."""
        if self.cases is not None:
            return self.cases
        return tuple(str(self.seed + number) for number in range(self.patients or 0))

    @property
    def organ_names(self) -> dict[int, str] | None:
        """Label value -> name; None where only the source can tell."""
        if self.phantom is not None and self.organs is None:
            return ORGANS["pelvis" if self.phantom == "brachy" else "abdomen"]
        return self.organs


class Share(Config):
    """What a training site gets of a pool; no cases = all that no evaluation uses."""

    pool: str
    cases: CaseIds | None = None


class Spread(Config):
    """Training sites by rule: so many clients, so many cases.

    Pools give equal numbers of cases. `mix`: every client has cases of every pool; otherwise client 1 has cases of
    the first pool, client 2 of the second, and so on in turn. `unequal`: within a pool, the clients' numbers of cases
    are as 1 : 2 : 3 ...
    """

    pools: tuple[str, ...] = Field(min_length=1)
    clients: int = Field(ge=1)
    total: int | None = Field(None, ge=1, description="cases at all clients together")
    per_client: int | None = Field(None, ge=1, description="mean number of cases at a client")
    mix: bool = False
    sizes: Literal["equal", "unequal"] = "equal"

    @model_validator(mode="after")
    def _has_a_number(self) -> Spread:
        if (self.total is None) == (self.per_client is None):
            raise ValueError("either total or per_client")
        return self

    @property
    def count(self) -> int:
        """Cases at all clients together."""
        return self.total or self.clients * (self.per_client or 0)


class Layout(Config):
    """The training sites: named one by one, or by rule."""

    sites: dict[Name, tuple[Share, ...]] | None = Field(None, min_length=1)
    spread: Spread | None = None

    @model_validator(mode="after")
    def _of_one_kind(self) -> Layout:
        if (self.sites is None) == (self.spread is None):
            raise ValueError("either sites or spread")
        return self


class Evaluation(Config):
    """An evaluation site: annotated cases, together one example, and the cases that are segmented like it.

    `every_support`: each of these cases alone is the example for all the others, in turn. `training`: cases that arms
    with `teaching` learn from, too. `support_pool`: where the example comes from, such as a CT for MR queries.
    """

    pool: str
    support: CaseIds
    support_pool: str | None = Field(None, description="None = `pool`")
    query: CaseIds
    training: Annotated[tuple[CaseId, ...], BeforeValidator(_several)] = ()
    every_support: bool = False
    organs: tuple[str, ...] = Field((), description="names; none = all that the pool has")

    @model_validator(mode="after")
    def _takes_turns_in_its_pool(self) -> Evaluation:
        if self.every_support and self.support_pool is not None:
            raise ValueError("every_support: not with a support_pool")
        return self


class OtherEvaluation(Config):
    """What an arm changes of an evaluation site. Queries are fixed: arms are compared case by case."""

    support: CaseIds


class Arm(Config):
    """One way of doing it; whatever is not said is as in `base`, `train` and `evaluation` of the study."""

    config: dict[str, Any] = Field({}, description="fields of ExperimentConfig, dotted or nested")
    inference: dict[str, Any] = Field({}, description="fields of InferConfig")
    train: Layout | None = None
    evaluate: dict[str, OtherEvaluation] = Field({})
    regime: Regime = "federated"
    site: str | None = Field(None, description="single-site: which")
    teaching: Teaching | None = Field(
        None, description="score networks that learn each example in place of prototypes (see evaluate --teach)"
    )
    teaching_steps: int | None = Field(None, ge=1, description="of their training")

    @model_validator(mode="after")
    def _site_where_one_is_meant(self) -> Arm:
        if (self.site is not None) != (self.regime == "single-site"):
            raise ValueError("site: for the regime 'single-site', and needed there")
        return self


class Study(Config):
    """A question, and what is compared to answer it."""

    name: Name
    question: str = Field(min_length=1)
    prepare: PrepareConfig = PrepareConfig()
    pools: dict[Name, Pool] = Field(min_length=1)
    train: Layout
    evaluation: dict[Name, Evaluation] = Field(min_length=1)
    base: dict[str, Any] = Field({})
    arms: dict[Annotated[str, Field(min_length=1)], Arm] = Field({})
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field({})
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    protocols: tuple[Protocol, ...] = Field(("gt-range", "whole-volume"), min_length=1)
    compare: str | None = Field(None, description="the reference arm")

    @model_validator(mode="after")
    def _is_consistent(self) -> Study:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: each once, got {list(self.seeds)}")
        if len(set(self.protocols)) < len(self.protocols):
            raise ValueError(f"protocols: each once, of {', '.join(PROTOCOLS)}")
        if self.prepare.modality is not None:
            raise ValueError("prepare.modality: a matter of each pool")
        return self
