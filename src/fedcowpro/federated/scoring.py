"""A site scores a model on its own held-out cases, and lets nothing but means over enough cases leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from torch import Tensor

from fedcowpro.config import ExperimentConfig
from fedcowpro.data.site import Site
from fedcowpro.evaluate.episodes import plan_episodes
from fedcowpro.evaluate.run import evaluate_episode
from fedcowpro.federated.policy import RefusedError
from fedcowpro.federated.scores import FEWEST, OrganScore
from fedcowpro.federated.task import received_model
from fedcowpro.infer import OneShotPredictor


def score_site(
    config: ExperimentConfig,
    name: str,
    site: Site,
    weights: Mapping[str, Tensor],
    min_cases: int,
    own: Mapping[str, Tensor] | None = None,
) -> tuple[OrganScore, ...]:
    """Mean Dice per organ and protocol over the site's cases of role 'query', with those of role 'support' as examples.

    Args:
        weights: floating-point tensors of the model, all of them.
        min_cases: fewest cases behind a number.
        own: tensors of the site itself that go before these.

    Raises:
        RefusedError: too few held-out cases with labels; nothing is said about them.
        FedCoWProError: weights of another architecture.
    """
    labelled = set(site.labelled_cases)
    examples = [case for case in site.with_role("support") if case in labelled]
    queries = [case for case in site.with_role("query") if case in labelled]
    fewest = max(min_cases, FEWEST)
    if not examples or len(queries) < fewest:
        raise RefusedError(
            f"scores need an annotated example and {fewest} other annotated cases that are held out of training; "
            "the site has fewer"
        )
    predictor = OneShotPredictor(received_model(config, name, weights, own), config.inference)
    planned = plan_episodes(
        {name: site}, supports=examples, queries=queries, slices=config.inference.support_slices
    ).episodes
    dice: dict[tuple[str, str], list[float]] = {}
    for episode in planned:
        for row in evaluate_episode(predictor, {name: site}, episode, method=name, seed=config.seed):
            if row.dice == row.dice:
                dice.setdefault((row.organ, row.protocol), []).append(row.dice)
    scores = tuple(_score(organ, protocol, values, fewest) for (organ, protocol), values in sorted(dice.items()))
    if all(score.mean is None for score in scores):
        raise RefusedError(f"no organ is in {fewest} of the held-out cases")
    return scores


def _score(organ: str, protocol: str, values: Sequence[float], fewest: int) -> OrganScore:
    known = {"organ": organ, "protocol": protocol}
    if len(values) < fewest:
        return OrganScore.model_validate(known)
    return OrganScore.model_validate({**known, "cases": len(values), "mean": mean(values), "sd": stdev(values)})
