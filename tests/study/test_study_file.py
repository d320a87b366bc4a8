"""Study files: what they mean, and what is said about mistakes in them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedcowpro.config import parse
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.study.expand import Variant, expand
from fedcowpro.study.layout import shares
from fedcowpro.study.pools import prepare_pools
from fedcowpro.study.read import expand_variables, load_study
from fedcowpro.study.spec import Study

SHIPPED = sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml"))
BASE: dict[str, Any] = {
    "name": "example",
    "question": "Which is better?",
    "pools": {
        "ct": {"phantom": "ct", "patients": 12},
        "mr": {"source": "${EXAMPLE_DATA}/mr", "dataset": "folder", "modality": "mr", "cases": [*range(1, 13)]},
    },
    "train": {"sites": {"a": [{"pool": "ct", "cases": [0, 1]}], "b": [{"pool": "mr", "cases": ["1", "2"]}]}},
    "evaluation": {"ct": {"pool": "ct", "support": 9, "query": [10, 11], "organs": ["liver"]}},
    "base": {"model": {"encoder": "tiny"}, "seed": 77, "sites": [{"name": "x"}]},
}


def study(**changes: Any) -> Study:
    return parse(Study, {**copy.deepcopy(BASE), **changes}, "example.yaml")


def arms(**changes: Any) -> dict[str, Variant]:
    return {variant.arm: variant for variant in expand(study(**changes))}


def counts(layout: Mapping[str, Any]) -> dict[str, list[str]]:
    """Pools of each client's cases."""
    (variant,) = expand(study(train={"spread": layout}))
    return {site: [member.pool for member in members] for site, members in variant.sites.items()}


def test_an_arm_changes_what_it_names_and_nothing_else() -> None:
    found = arms(
        base={"loss": {"spatial_dice": 2.0, "edge_dice": 3.0}, "train": {"lr": 0.25}},
        arms={"same": {}, "other": {"config": {"loss.edge_dice": 0, "federation": {"rounds": 4}}}},
    )
    same, other = found["same"].config, found["other"].config
    assert (same.loss.spatial_dice, same.loss.edge_dice, same.train.lr) == (2.0, 3.0, 0.25)
    assert (other.loss.spatial_dice, other.loss.edge_dice, other.train.lr, other.federation.rounds) == (2.0, 0, 0.25, 4)
    assert same.threads == other.threads == 1
    assert not same.sites


def test_a_grid_is_crossed_with_the_arms_and_names_itself() -> None:
    grid = {"train.lr": [0.1, 0.2], "model.frozen_norm": [True]}
    assert list(arms(grid=grid)) == ["lr=0.1, frozen_norm=true", "lr=0.2, frozen_norm=true"]
    crossed = arms(grid=grid, arms={"one": {"inference": {"support_slices": 1}}, "all": {"regime": "pooled"}})
    assert list(crossed)[::2] == ["one, lr=0.1, frozen_norm=true", "all, lr=0.1, frozen_norm=true"]
    last = crossed["one, lr=0.2, frozen_norm=true"].config
    assert (last.train.lr, last.inference.support_slices, last.model.encoder) == (0.2, 1, "tiny")


def test_regimes_say_who_trains() -> None:
    found = arms(
        arms={
            "together": {}, "pooled": {"regime": "pooled"}, "alone": {"regime": "single-site", "site": "b"},
            "before": {"regime": "untrained"},
        }
    )  # fmt: skip
    assert list(found["together"].sites) == ["a", "b"]
    assert [member.id for member in found["pooled"].sites["pooled"]] == ["ct.0", "ct.1", "mr.1", "mr.2"]
    assert found["alone"].sites == {"b": found["together"].sites["b"]}
    assert found["before"].sites == {}


def test_an_arm_has_its_own_support_and_the_same_queries() -> None:
    found = arms(arms={"first": {}, "other": {"evaluate": {"ct": {"support": [7, 8]}}}})
    assert found["first"].evaluation["ct"].support == ("9",)
    assert found["other"].evaluation["ct"].support == ("7", "8")
    assert found["other"].evaluation["ct"].query == ("10", "11")
    # A case that supports in any arm trains in none.
    every = arms(
        train={"sites": {"a": [{"pool": "ct"}]}}, arms={"first": {}, "other": {"evaluate": {"ct": {"support": 8}}}}
    )
    assert [member.case for member in every["first"].sites["a"]] == [str(number) for number in range(8)]


def test_clients_share_a_number_of_cases() -> None:
    apart = counts({"pools": ["ct", "mr"], "clients": 4, "total": 16})
    assert apart == {"client-01": ["ct"] * 4, "client-02": ["mr"] * 4, "client-03": ["ct"] * 4, "client-04": ["mr"] * 4}
    mixed = counts({"pools": ["ct", "mr"], "clients": 4, "total": 16, "mix": True})
    assert all(pools == ["ct", "mr"] * 2 for pools in mixed.values())
    unequal = counts({"pools": ["ct", "mr"], "clients": 4, "total": 18, "sizes": "unequal"})
    assert [len(pools) for pools in unequal.values()] == [3, 3, 6, 6]
    both = counts({"pools": ["ct", "mr"], "clients": 4, "total": 18, "sizes": "unequal", "mix": True})
    assert sorted(len(pools) for pools in both.values()) == [3, 3, 6, 6]
    assert len(counts({"pools": ["ct", "mr"], "clients": 6, "per_client": 3})) == 6


def test_the_number_of_clients_does_not_change_the_cases() -> None:
    def used(clients: int, **rest: Any) -> set[str]:
        (variant,) = expand(study(train={"spread": {"pools": ["ct", "mr"], "clients": clients, "total": 12, **rest}}))
        return {member.id for members in variant.sites.values() for member in members}

    assert used(2) == used(4) == used(12) == used(3, mix=True) == used(4, sizes="unequal")


@pytest.mark.parametrize("total", [3, 7, 20])
@pytest.mark.parametrize("weights", [[1, 1, 1], [1, 2, 3], [1, 100, 1]])
def test_shares_are_whole_and_complete(total: int, weights: list[int]) -> None:
    sizes = shares(total, weights)
    assert sum(sizes) == total
    assert min(sizes) >= 1
    ranked = sorted(range(3), key=lambda i: weights[i])
    assert [sizes[i] for i in ranked] == sorted(sizes) or len(set(weights)) == 1


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field of the file": ({"arm": {}}, "field 'arm'"),
    "unknown field of an arm": ({"arms": {"x": {"confg": {}}}}, "field 'arms.x.confg'"),
    "unknown setting": ({"arms": {"x": {"config": {"loss.spacial": 1}}}}, "arm 'x': field 'loss.spacial'"),
    "an old name of a pool's field": (
        {"pools": {"ct": {"phantom": "ct", "patients": [1], "unseen": ["liver"]}}},
        "'unseen' is called 'test_organs' now",
    ),
    "setting out of range": ({"arms": {"x": {"config": {"train": {"lr": -1}}}}}, "arm 'x': field 'train.lr'"),
    "unknown inference": ({"arms": {"x": {"inference": {"shots": 1}}}}, "field 'inference.shots'"),
    "a field twice": ({"arms": {"x": {"config": {"train.lr": 1, "train": {"lr": 2}}}}}, "field 'train.lr' twice"),
    "a field of the study": ({"arms": {"x": {"config": {"seed": 1}}}}, "field 'seed'"),
    "a seed in the grid": ({"grid": {"seed": [1, 2]}}, "field 'seed'"),
    "unknown pool": ({"train": {"sites": {"a": [{"pool": "pet"}]}}}, "train: no pool 'pet'"),
    "unknown pool of an arm": (
        {"arms": {"x": {"train": {"spread": {"pools": ["pet"], "clients": 2, "total": 2}}}}},
        "arm 'x', train: no pool 'pet'",
    ),
    "a case that is not there": (
        {"train": {"sites": {"a": [{"pool": "ct", "cases": [40]}]}}},
        "site 'a': pool 'ct' has no case '40'",
    ),
    "a query that is not there": (
        {"evaluation": {"e": {"pool": "mr", "support": 1, "query": [99]}}},
        "evaluation 'e': pool 'mr' has no case '99'",
    ),
    "a query that trains": (
        {"train": {"sites": {"a": [{"pool": "ct", "cases": [10]}]}}},
        "site 'a' trains on case '10'",
    ),
    "a support that trains elsewhere": (
        {"arms": {"x": {"evaluate": {"ct": {"support": 1}}}}},
        "train: site 'a' trains on case '1'",
    ),
    "a case at two sites": (
        {"train": {"sites": {"a": [{"pool": "ct", "cases": [1]}], "b": [{"pool": "ct", "cases": [1]}]}}},
        "at 'a' and at 'b'",
    ),
    "a support that is scored": (
        {"evaluation": {"e": {"pool": "ct", "support": 9, "query": [9]}}},
        "evaluation 'e': 9 twice",
    ),
    "examples of an unknown pool": (
        {"evaluation": {"e": {"pool": "ct", "support": 9, "query": [8], "support_pool": "pet"}}},
        "no pool 'pet'",
    ),
    "turns with a pool of examples": (
        {"evaluation": {"e": {"pool": "ct", "support": 9, "query": [8], "support_pool": "mr", "every_support": True}}},
        "not with a support_pool",
    ),
    "an example of another pool that trains": (
        {
            "train": {"sites": {"a": [{"pool": "mr", "cases": [1]}]}},
            "evaluation": {"e": {"pool": "ct", "support": 1, "query": [1], "support_pool": "mr"}},
        },
        "site 'a' trains on case '1' of pool 'mr'",
    ),
    "unknown organ": (
        {"evaluation": {"e": {"pool": "ct", "support": 9, "query": [8], "organs": ["livr"]}}},
        "pool 'ct' has no organ livr",
    ),
    "unknown site of an arm": (
        {"arms": {"x": {"regime": "single-site", "site": "c"}}},
        "arm 'x': no training site 'c'",
    ),
    "single-site without a site": ({"arms": {"x": {"regime": "single-site"}}}, "arms.x.*needed there"),
    "unknown evaluation site": ({"arms": {"x": {"evaluate": {"mr": {"support": 1}}}}}, "no evaluation site 'mr'"),
    "unknown reference": ({"arms": {"x": {}}, "compare": "y"}, "compare: no arm 'y'"),
    "values of the grid that are alike": ({"grid": {"train.lr": [0.1, 0.1]}}, "arm 'lr=0.1' twice"),
    "seeds repeated": ({"seeds": [1, 2, 1]}, r"seeds: each once, got \[1, 2, 1\]"),
    "too many cases": (
        {"train": {"spread": {"pools": ["ct"], "clients": 2, "total": 10}}},
        "10 training cases of pool 'ct'",
    ),
    "more clients than cases": (
        {"train": {"spread": {"pools": ["ct"], "clients": 4, "total": 2}}},
        "2 cases for 4 clients",
    ),
    "too few to mix": (
        {"train": {"spread": {"pools": ["ct", "mr"], "clients": 4, "total": 4, "mix": True}}},
        "would lack cases",
    ),
    "pools that do not divide clients": (
        {"train": {"spread": {"pools": ["ct", "mr"], "clients": 3, "total": 6}}},
        "3 clients for 2 pools",
    ),
    "two kinds of pool": (
        {"pools": {"ct": {"phantom": "ct", "patients": 2, "source": "x"}}},
        "pools.ct.*either phantom or source",
    ),
    "a source without cases": ({"pools": {"ct": {"source": "x"}}}, "pools.ct.*cases: needed"),
    "a phantom with a dataset": (
        {"pools": {"ct": {"phantom": "ct", "patients": 2, "dataset": "folder"}}},
        "pools.ct.*dataset: not for a pool of this kind",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_named(name: str) -> None:
    changes, message = WRONG[name]
    with pytest.raises(FedCoWProError, match=message):
        expand(study(**changes))


def test_files_are_read_with_what_they_point_at(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "base.yaml").write_text(yaml.safe_dump({"model": {"encoder": "tiny"}, "train": {"lr": 0.125}}))
    (shared / "pools.yaml").write_text(yaml.safe_dump(BASE["pools"]))
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**BASE, "base": "shared/base.yaml", "pools": "shared/pools.yaml"}))
    (variant,) = expand(load_study(file))
    assert variant.config.train.lr == 0.125
    file.write_text(yaml.safe_dump({**BASE, "base": "shared/none.yaml"}))
    with pytest.raises(FedCoWProError, match=r"none\.yaml"):
        load_study(file)


def test_broken_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    for text, message in (("arms: [", "study.yaml"), ("arms:\n  x: {}\n  x: {}\n", "'x' stands twice"), ("", "name")):
        file.write_text(text)
        with pytest.raises(FedCoWProError, match=message):
            load_study(file)
    with pytest.raises(FedCoWProError, match="no file"):
        load_study(tmp_path / "none.yaml")


def test_environment_variables_are_needed_before_anything_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EXAMPLE_DATA", raising=False)
    with pytest.raises(FedCoWProError, match="EXAMPLE_DATA is not set"):
        prepare_pools(study(), tmp_path / "pools", 1, False)
    assert not (tmp_path / "pools").exists()
    assert expand_variables("${A}/x/${B}", {"A": "/a", "B": "b"}) == "/a/x/b"


def test_the_example_of_the_documentation_is_a_study(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    file = tmp_path / "head.yaml"
    file.write_text(text.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    found = load_study(file)
    variants = expand(found)
    assert [variant.arm for variant in variants] == [
        f"{head}, lr={rate}" for head in ("cowpro", "panet") for rate in (0.001, 0.0005)
    ]
    assert variants[-1].config.model.head.kind == "panet"
    assert found.evaluation["mr"].every_support
    assert {name: len(cases) for name, cases in variants[0].sites.items()} == {"north": 2, "south": 1}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_studies_are_whole(file: Path) -> None:
    found = load_study(file)
    variants = expand(found)
    assert found.name == file.stem
    assert found.question.endswith("?")
    assert len(variants) > 1
    assert found.compare is not None
    assert len(found.seeds) == 3
    # The one of few parameters is about their number: `tiny` has 80 where lite0 has 16,160.
    assert all(variant.config.model.encoder != "tiny" for variant in variants) or file.stem == "privacy-few-phantom"


def test_each_shipped_study_has_both_kinds_of_data() -> None:
    stems = [file.stem for file in SHIPPED]
    phantom, real = ({s.removesuffix(end) for s in stems if s.endswith(end)} for end in ("-phantom", "-real"))
    assert phantom - real == {"privacy", "privacy-few"}  # noise is a matter of the mechanism, not of the pictures
    assert real < phantom
    assert len(real) >= 7
    assert len(stems) == len(phantom) + len(real)
