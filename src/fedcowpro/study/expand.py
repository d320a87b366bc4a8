"""From a study's arms, grid and seeds to the list of what is trained and scored, checked whole, without data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from fedcowpro.config import ExperimentConfig, parse
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.protocol import Teaching
from fedcowpro.study.layout import Member, Sites, require_cases, require_pool, supports, training_sites
from fedcowpro.study.spec import Arm, Evaluation, Regime, Study

# Set by the study itself, the same for all arms.
_RESERVED = {"seed": "seeds", "sites": "train", "threads": "nothing: each run has one thread, so that runs are alike"}
_ALONE = "base"  # the arm of a study that names none


@dataclass(frozen=True)
class Variant:
    """One arm, with everything that it takes over from the study; before seeds.

    Attributes:
        arm: its name, unique.
        config: complete settings with one thread, without seed and sites.
        sites: cases of each training site; empty for the regime 'untrained'.
        evaluation: the evaluation sites.
    """

    arm: str
    regime: Regime
    config: ExperimentConfig
    sites: Sites
    evaluation: Mapping[str, Evaluation]
    teaching: Teaching | None = None
    teaching_steps: int | None = None


def expand(study: Study) -> tuple[Variant, ...]:
    """All arms, each crossed with all points of the grid.

    Raises:
        FedCoWProError: unknown fields, pools, cases, sites or organs; a case that trains and is scored; a reference
            arm that does not exist; arms of the same name.
    """
    for name, evaluation in study.evaluation.items():
        _require_evaluation(study, evaluation, f"evaluation '{name}'")
    points = list(_points(study))
    arms = study.arms or ({} if study.grid else {_ALONE: Arm()})
    evaluations = {name: _evaluation(study, arm, name) for name, arm in arms.items()}
    everywhere = [study.evaluation, *evaluations.values()]
    held_out = {
        member
        for sites in everywhere
        for site in sites.values()
        for member in (*supports(site), *(Member(site.pool, case) for case in site.query))
    }
    variants: list[Variant] = []
    for name, arm in (arms or {"": Arm()}).items():
        layout, where = (study.train, "train") if arm.train is None else (arm.train, f"arm '{name}', train")
        sites = _under(arm, training_sites(layout, study.pools, held_out, where), name)
        for label, changes in points:
            full = ", ".join(part for part in (name, label) if part)
            config = _config(study, arm, changes, full)
            scored = evaluations.get(name, study.evaluation)
            variants.append(Variant(full, arm.regime, config, sites, scored, arm.teaching, arm.teaching_steps))
    _require_names(study, [variant.arm for variant in variants])
    return tuple(variants)


def _points(study: Study) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and changes of each point of the grid; one nameless point without a grid."""
    last = [field.rpartition(".")[2] for field in study.grid]
    shown = last if len(set(last)) == len(last) else list(study.grid)
    for values in itertools.product(*study.grid.values()):
        label = ", ".join(f"{name}={_shown(value)}" for name, value in zip(shown, values, strict=True))
        yield label, dict(zip(study.grid, values, strict=True))


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _config(study: Study, arm: Arm, grid: Mapping[str, Any], name: str) -> ExperimentConfig:
    where = f"study '{study.name}', arm '{name}'"
    own = nested(arm.config, where)
    point = nested(grid, where)
    for field in sorted((own.keys() | point.keys()) & _RESERVED.keys()):
        raise FedCoWProError(
            f"{where}: field '{field}'", f"the study's own: {_RESERVED[field]}", "take it out of config and grid"
        )
    base = {field: value for field, value in study.base.items() if field not in _RESERVED}
    data = merged(merged(merged(nested(base, "base"), own), {"inference": nested(arm.inference, where)}), point)
    from fedcowpro.core.device import choose_device

    config = parse(ExperimentConfig, {**data, "threads": 1}, where)
    # What auto means is kept: another device rounds in another way.
    return config.model_copy(update={"device": str(choose_device(config.device))})


def nested(changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """{'loss.edge_dice': 0} as {'loss': {'edge_dice': 0}}.

    Raises:
        FedCoWProError: one field given in both ways, or a field and a part of it.
    """
    out: dict[str, Any] = {}
    for field, value in changes.items():
        *path, last = str(field).split(".")
        given = nested(value, where) if isinstance(value, Mapping) else value
        for part in reversed([*path, last]):
            given = {part: given}
        for twice in _overlap(out, given):
            raise FedCoWProError(f"{where}: field '{twice}' twice", "each field once", "drop one of them")
        out = merged(out, given)
    return out


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the fields of `changes`, group by group; neither is altered."""
    out = deepcopy(dict(base))
    for field, value in changes.items():
        inner = out.get(field)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        out[field] = merged(inner, value) if both else deepcopy(value)  # type: ignore[arg-type]
    return out


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for field in one.keys() & other.keys():
        if isinstance(one[field], Mapping) and isinstance(other[field], Mapping):
            yield from (f"{field}.{inner}" for inner in _overlap(one[field], other[field]))
        else:
            yield field


def _under(arm: Arm, sites: Sites, name: str) -> Sites:
    """The training sites under the arm's regime."""
    if arm.regime == "untrained":
        return {}
    if arm.regime == "pooled":
        return {"pooled": tuple(member for members in sites.values() for member in members)}
    if arm.regime == "single-site":
        if arm.site is None or arm.site not in sites:
            raise FedCoWProError(
                f"arm '{name}': no training site '{arm.site}'", f"one of: {', '.join(sites)}", "correct site"
            )
        return {arm.site: sites[arm.site]}
    return sites


def _evaluation(study: Study, arm: Arm, name: str) -> dict[str, Evaluation]:
    """The evaluation sites of an arm."""
    sites = dict(study.evaluation)
    for site, other in arm.evaluate.items():
        where = f"arm '{name}', evaluate"
        if site not in sites:
            raise FedCoWProError(f"{where}: no evaluation site '{site}'", f"one of: {', '.join(sites)}", "correct it")
        sites[site] = sites[site].model_copy(update={"support": other.support})
        _require_evaluation(study, sites[site], f"{where} '{site}'")
    return sites


def _require_evaluation(study: Study, evaluation: Evaluation, where: str) -> None:
    for name in (evaluation.pool, evaluation.support_pool or evaluation.pool):
        require_pool(name, study.pools, where)
    others = [Member(evaluation.pool, case) for case in (*evaluation.query, *evaluation.training)]
    members = [*supports(evaluation), *others]
    require_cases(members, study.pools, where)
    if twice := sorted({member.case for member in members if members.count(member) > 1}):
        raise FedCoWProError(
            f"{where}: {', '.join(twice)} twice", "cases that support, teach or are scored, each once", "drop one"
        )
    known = study.pools[evaluation.pool].organ_names
    if known is not None and (unknown := sorted(set(evaluation.organs) - set(known.values()))):
        raise FedCoWProError(
            f"{where}: pool '{evaluation.pool}' has no organ {', '.join(unknown)}",
            f"among: {', '.join(known.values())}",
            "correct the names",
        )


def _require_names(study: Study, arms: list[str]) -> None:
    if twice := sorted({arm for arm in arms if arms.count(arm) > 1}):
        raise FedCoWProError(
            f"study '{study.name}': arm '{twice[0]}' twice", "arms and values of the grid that differ", "drop one"
        )
    if study.compare is not None and study.compare not in arms:
        raise FedCoWProError(
            f"study '{study.name}': compare: no arm '{study.compare}'", f"one of: {', '.join(arms)}", "correct compare"
        )
