"""One annotated case at one site teaches organs to a whole federation, and nothing but weights travels."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedcowpro.config import ExperimentConfig, parse
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.evaluate import evaluate
from fedcowpro.federated.monitoring.rounds import read_rounds
from fedcowpro.federated.run import federate
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.server.stages import initial_network
from fedcowpro.federated.server.update_limits import longest_update
from fedcowpro.federated.site import client_app, teaching
from fedcowpro.federated.site.local_training import exchanged_names, learnt_names
from fedcowpro.federated.transport import messages as records
from fedcowpro.model.checkpoint import load_checkpoint
from fedcowpro.oneshot.organ_model import FORMAT, OrganModel

pytestmark = pytest.mark.slow

Sites = dict[str, Path]
CONFIG: dict[str, Any] = {
    "threads": 1,
    "model": {"encoder": "lite0", "channels": None},
    "train": {"batch": 1},
    "federation": {"rounds": 1, "local_steps": 1, "weighting": "uniform"},
    "teaching": {"organs": ["liver", "spleen"], "rounds": 2, "example_rounds": 1, "local_steps": 2},
}


def config(**changes: Any) -> ExperimentConfig:
    return parse(ExperimentConfig, {**CONFIG, **changes}, "test")


def digest(model: Path) -> str:
    return str(load_checkpoint(model, FORMAT)[1]["weights_digest"])


@pytest.fixture(scope="module")
def sites(held_out: Sites, tmp_path_factory: pytest.TempPathFactory) -> Sites:
    """`north` holds the example; `south` has the same volumes and no label at all."""
    root = tmp_path_factory.mktemp("teaching")
    shutil.copytree(held_out["north"], root / "north")
    shutil.copytree(held_out["south"], root / "south")
    shutil.rmtree(root / "south" / "labels")
    return {name: root / name for name in ("north", "south")}


@pytest.fixture(scope="module")
def replies() -> list[tuple[str, Any]]:
    return []


@pytest.fixture(scope="module")
def taught(sites: Sites, replies: list[tuple[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of both stages; what sites sent is kept in `replies`."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        answer = client_app.train

        def kept(message: Any, context: Any) -> Any:
            reply = answer(message, context)
            replies.append((str(context.node_config["site-name"]), reply.content))
            return reply

        patch.setitem(client_app.app._registered_funcs, "train.default", kept)
        federate(config(), sites, out, progress=False)
    return out


def test_the_result_segments_its_organs_without_an_example(taught: Path, sites: Sites) -> None:
    model = OrganModel.load(taught / "teaching" / "model.safetensors")
    assert model.names == {1: "liver", 2: "spleen"}
    table = evaluate(taught / "teaching" / "model.safetensors", {"north": sites["north"]}, protocols=["whole-volume"])
    assert set(table["organ"]) == {"liver", "spleen"}
    assert set(table["teaching"]) == {"taught"}


def test_sites_without_an_example_abstain_at_first_and_then_learn(taught: Path) -> None:
    lines = [json.loads(line) for line in (taught / "teaching" / "metrics.jsonl").read_text().splitlines()]
    of_sites = [(line["round"], line["site"], line["weight"]) for line in lines if line["kind"] == "site"]
    assert not [line for line in lines if line["kind"] == "alarm"]
    assert of_sites == [(1, "north", 1.0), (2, "north", 0.5), (2, "south", 0.5)]


def test_no_honest_update_of_the_stage_is_near_its_bound(taught: Path) -> None:
    """The stage has an optimiser rate of its own, six times that of the first."""
    stage = config().second_stage
    net = initial_network(stage, RunFolder(taught / "teaching", FORMAT))
    before = records.to_numpy({name: net.state_dict()[name] for name in exchanged_names(net)})
    bound = longest_update(stage, before, learnt_names(net))
    rounds = read_rounds(taught / "teaching" / "metrics.jsonl")
    norms = [site.update_norm for record in rounds for site in record.sites]
    assert len(norms) == 3
    assert bound / 100 < max(norms) < bound
    assert longest_update(config(), before, learnt_names(net)) < bound


def test_sites_that_abstain_or_learn_little_do_not_shut_out_the_one_with_the_example(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """West and south abstain in the first round; in the second their weights hardly move, as without a sure label."""
    learn = teaching.learn_round

    def little(net: Any, examples: Any, *rest: Any, **options: Any) -> Any:
        received = {name: value.clone() for name, value in net.state_dict().items() if value.is_floating_point()}
        lesson = learn(net, examples, *rest, **options)
        if lesson is None or examples:
            return lesson
        near = {name: value + 1e-6 * (lesson.state[name] - value) for name, value in received.items()}
        return replace(lesson, state={**lesson.state, **near})

    monkeypatch.setattr(teaching, "learn_round", little)
    three = {**sites, "west": sites["south"]}
    federate(config(), three, tmp_path / "run", progress=False)
    found = read_rounds(tmp_path / "run" / "teaching" / "metrics.jsonl")
    assert [record.left_out for record in found] == [{}, {}]
    assert [len(record.sites) for record in found] == [1, 3]


def test_nothing_but_weights_and_known_numbers_leaves_a_site(taught: Path, replies: list[tuple[str, Any]]) -> None:
    second = replies[-4:]
    names = {site: set(content["arrays"]) for site, content in second}
    assert names["north"] == names["south"]
    assert all(name.startswith(("encoder.", "bottom.", "steps.", "out.")) for name in names["north"])
    allowed = {records.WEIGHT, "steps", "seconds", "pseudo-dice", records.ABSTAINS, "loss-total", "loss-organs"}
    for _, content in second:
        assert set(content) == {"arrays", "metrics"}
        assert set(content["metrics"]) <= allowed


def test_an_interrupted_stage_goes_on_to_the_same_weights(
    taught: Path, sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, calls = teaching.learn_round, iter(range(9))

    def interrupted(*given: Any, **options: Any) -> Any:
        if next(calls) == 3:  # in the second round, at the second site
            raise KeyboardInterrupt
        return learn(*given, **options)

    monkeypatch.setattr(teaching, "learn_round", interrupted)
    with pytest.raises(KeyboardInterrupt):
        federate(config(), sites, tmp_path, progress=False)
    assert [folder.name for folder in (tmp_path / "teaching" / "rounds").iterdir()] == ["round_0001"]
    first = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert digest(federate(config(), sites, tmp_path, progress=False)) == digest(
        taught / "teaching" / "model.safetensors"
    )
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == first


def test_a_federation_without_any_example_says_so(sites: Sites, tmp_path: Path) -> None:
    other = {**CONFIG["teaching"], "organs": ["pancreas"]}
    with pytest.raises(FedCoWProError, match="none of 2 sites has anything to learn from"):
        federate(config(teaching=other), sites, tmp_path, progress=False)


@pytest.mark.parametrize("permitted", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_policy_forbids_teaching_unless_it_permits_it(sites: Sites, tmp_path: Path, permitted: bool) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump({"packages": ["any"], "teaching": permitted}))
    listed = [{"name": "south", "policy": str(policy)}, {"name": "north"}]

    def run() -> Path:
        return federate(config(sites=listed), sites, tmp_path / "run", progress=False)

    if permitted:
        assert run().is_file()
    else:
        with pytest.raises(FedCoWProError, match=r"site 'south': refused by the site's policy: .*\(teaching\)"):
            run()
        assert (tmp_path / "run" / "model.safetensors").is_file()  # the first stage is whole


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"encoder": "tiny", "channels": 8}}, "lite0"),
        ({"federation": {"normalisation": "local"}}, "local normalisation"),
        ({"teaching": {"organs": ["liver", "liver"]}}, "each once"),
        ({"teaching": {"organs": ["liver"], "rounds": 1, "example_rounds": 2}}, "at most rounds"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(FedCoWProError, match=words):
        config(**changes)
