"""Cross-site evaluation: nothing but means over enough cases leaves a site, and what cannot be said is said so."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch
import yaml
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedcowpro.config import ExperimentConfig, InferConfig, SiteConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import plan_episodes
from fedcowpro.evaluation.run import evaluate_episode
from fedcowpro.federated.governance.policy import RefusedError
from fedcowpro.federated.monitoring.scores import OrganScore, SiteScores, from_text, keep_scores, read_scores, to_text
from fedcowpro.federated.run import federate
from fedcowpro.federated.server.evaluation import ask_for_scores
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.site.scoring import score_site
from fedcowpro.federated.transport import messages as records
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.oneshot.predictor import OneShotPredictor

pytestmark = pytest.mark.slow

Experiment = Callable[..., ExperimentConfig]
LIVER = OrganScore(organ="liver", protocol="whole-volume", cases=3, mean=0.5, sd=0.1)


@pytest.fixture
def settings(experiment: Experiment) -> Callable[..., ExperimentConfig]:
    """As `experiment`, with nothing after the comparison of features."""
    plain = InferConfig(refine=0, keep_components=False)
    return lambda **rest: experiment(**{"rounds": 1, **rest}).model_copy(update={"inference": plain})


def floats(config: ExperimentConfig) -> dict[str, torch.Tensor]:
    state = build_model(config.model, config.seed).state_dict()
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def test_scores_are_the_means_of_the_usual_evaluation(
    held_out: Mapping[str, Path], settings: Callable[..., ExperimentConfig]
) -> None:
    config, site = settings(), Site.open(held_out["north"])
    found = {(s.organ, s.protocol): s for s in score_site(config, "north", site, floats(config), 3)}
    predictor = OneShotPredictor(build_model(config.model, config.seed), config.inference)
    (episode,) = plan_episodes({"north": site}).episodes
    rows = evaluate_episode(predictor, {"north": site}, episode, method="m", seed=0)
    for (organ, protocol), score in found.items():
        dice = [row.dice for row in rows if (row.organ, row.protocol) == (organ, protocol) and row.dice == row.dice]
        if len(dice) < 3:
            assert (score.cases, score.mean, score.sd) == (None, None, None)
        else:
            assert (score.cases, score.mean, score.sd) == (3, pytest.approx(mean(dice)), pytest.approx(stdev(dice)))
    assert ("liver", "whole-volume") in found
    assert len(found) >= 4


def test_too_few_cases_say_nothing(held_out: Mapping[str, Path], settings: Callable[..., ExperimentConfig]) -> None:
    config = settings()
    for name, fewest in (("west", 3), ("north", 4)):
        with pytest.raises(RefusedError, match=f"{fewest} other annotated cases") as error:
            score_site(config, name, Site.open(held_out[name]), floats(config), fewest)
        assert "0." not in str(error.value)
    assert score_site(config, "west", Site.open(held_out["west"]), floats(config), 2)


def test_a_site_without_held_out_cases_refuses(
    sites: Mapping[str, Path], settings: Callable[..., ExperimentConfig]
) -> None:
    config = settings()
    with pytest.raises(RefusedError, match="held out of training"):
        score_site(config, "alpha", Site.open(sites["alpha"]), floats(config), 3)


def test_a_run_with_evaluation(
    held_out: Mapping[str, Path], settings: Callable[..., ExperimentConfig], tmp_path: Path
) -> None:
    """`north` refuses by its policy, `west` has too few cases, `south` answers; after each round, and at the end."""
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump({"min_cases": 4, "min_participants": 1}))
    site = SiteConfig(name="north", policy=tmp_path / "policy.yaml")
    config = settings(rounds=2, evaluate_every=2).model_copy(update={"sites": (site,)})
    out = tmp_path / "run"
    model = federate(config, held_out, out, progress=False)
    found = read_scores(out)
    assert [(one.round, one.model, one.site, bool(one.scores)) for one in found] == [
        (2, "global", "north", False), (2, "global", "south", True), (2, "global", "west", False),
    ]  # fmt: skip
    assert "4 other annotated cases" in found[0].reason
    assert "3 other annotated cases" in found[2].reason
    # The same numbers as with the finished model.
    loaded = load_predictor(model)
    south = {"south": Site.open(held_out["south"])}
    rows = evaluate_episode(loaded.predictor, south, plan_episodes(south).episodes[0], method="m", seed=0)
    liver = next(s for s in found[1].scores if (s.organ, s.protocol) == ("liver", "whole-volume"))
    assert liver.mean == pytest.approx(
        mean(row.dice for row in rows if (row.organ, row.protocol) == ("liver", "whole-volume"))
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    told = {line["site"]: line for line in lines if line["kind"] == "evaluation"}
    assert told["south"]["dice"] == found[1].dice
    assert told["north"]["dice"] is None
    with (out / "evaluation.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["reason"] for row in table if row["site"] == "north"} == {found[0].reason}
    ids = [case for path in held_out.values() for case in Site.open(path).labelled_cases]
    text = (out / "evaluation.json").read_text()
    assert not any(f'"{case}"' in text for case in ids)


def test_a_finished_run_is_scored_afterwards(
    held_out: Mapping[str, Path], settings: Callable[..., ExperimentConfig], tmp_path: Path
) -> None:
    model = federate(settings(), held_out, tmp_path, progress=False)
    before = model.read_bytes()
    assert read_scores(tmp_path) == []
    federate(settings(), held_out, tmp_path, progress=False, evaluate=True)
    assert [bool(one.scores) for one in read_scores(tmp_path)] == [True, True, False]
    assert model.read_bytes() == before


def test_local_layers_give_a_model_per_site(
    held_out: Mapping[str, Path], settings: Callable[..., ExperimentConfig], tmp_path: Path
) -> None:
    federate(settings(normalisation="local"), held_out, tmp_path, progress=False, evaluate=True)
    found = {(one.model, one.site): one for one in read_scores(tmp_path)}
    assert {model for model, _ in found} == {"global", "own", "north", "south", "west"}
    for site in ("north", "south"):  # what a site has at home is what the server has of it, in one process
        assert found["own", site].scores == found[site, site].scores
    assert found["north", "south"].scores != found["south", "south"].scores
    own = load_predictor(tmp_path / "sites" / "north.safetensors")
    south = {"south": Site.open(held_out["south"])}
    rows = evaluate_episode(own.predictor, south, plan_episodes(south).episodes[0], method="m", seed=0)
    liver = next(s for s in found["north", "south"].scores if (s.organ, s.protocol) == ("liver", "whole-volume"))
    assert liver.mean == pytest.approx(
        mean(row.dice for row in rows if (row.organ, row.protocol) == ("liver", "whole-volume"))
    )


def answers(*texts: str | None) -> list[SiteScores]:
    """What the server makes of answers; None is a site that fails."""
    app = ClientApp()

    @app.evaluate()
    def reply(message: Message, context: object) -> Message:
        text = texts[int(str(context.node_config["number"]))]  # type: ignore[attr-defined]
        if text is None:
            raise FedCoWProError("a broken disk", "another", "buy one")
        return Message(RecordDict({records.SCORES: ConfigRecord({records.SCORES: text})}), reply_to=message)

    grid = InProcessGrid(app, {f"site{number}": {"number": number} for number in range(len(texts))})
    names = dict(zip(grid.get_node_ids(), (f"site{number}" for number in range(len(texts))), strict=True))
    return ask_for_scores(grid, names, records.to_record({"w": torch.zeros(1)}), {}, 4)


def test_answers_are_checked() -> None:
    liar = json.dumps([{**LIVER.model_dump(), "mean": 1.5}])
    single = json.dumps([{**LIVER.model_dump(), "cases": 1}])
    more = json.dumps([{**LIVER.model_dump(), "cases_by_name": ["smith"]}])
    found = answers(to_text([LIVER]), None, "no json", liar, single, more)
    assert found[0] == SiteScores(4, "global", "site0", (LIVER,))
    assert "a broken disk" in found[1].reason
    assert {one.reason for one in found[2:]} == {"the reply has no scores that can be read"}


def test_scores_go_through_the_files(tmp_path: Path) -> None:
    hidden = OrganScore(organ="spleen", protocol="whole-volume")
    first = SiteScores(1, "global", "a", (LIVER, hidden))
    assert from_text(to_text(first.scores)) == first.scores
    keep_scores(tmp_path, [first, SiteScores(1, "global", "b", (), "no reply")])
    again = SiteScores(1, "global", "b", (LIVER,))
    keep_scores(tmp_path, [again])
    assert read_scores(tmp_path) == [first, again]
    assert again.dice == 0.5
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(FedCoWProError, match="scores of a run"):
        read_scores(tmp_path)
