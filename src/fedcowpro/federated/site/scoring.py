"""A site scores a model on its own held-out cases, and lets nothing but means over enough cases leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from torch import Tensor

from fedcowpro.config import ExperimentConfig, Modality, PrepareConfig, parse
from fedcowpro.core.device import CPU
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.text import from_json
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import plan_episodes
from fedcowpro.evaluation.fine_tuned import Trained
from fedcowpro.evaluation.run import evaluate_episode
from fedcowpro.federated.governance.enforcement import approve_weights, policy_of
from fedcowpro.federated.governance.policy import RefusedError
from fedcowpro.federated.monitoring.scores import FEWEST, OrganScore, to_text
from fedcowpro.federated.site.local_training import received_model
from fedcowpro.federated.site.node import site_of, working
from fedcowpro.federated.transport import messages as records
from fedcowpro.oneshot.organ_model import OrganModel
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.training.teaching import received_unet


def score_site(
    config: ExperimentConfig,
    name: str,
    site: Site,
    weights: Mapping[str, Tensor],
    min_cases: int,
    own: Mapping[str, Tensor] | None = None,
    device: torch.device = CPU,
) -> tuple[OrganScore, ...]:
    """Mean Dice per organ and protocol over the site's cases of role 'query', with those of role 'support' as examples.

    Args:
        weights: floating-point tensors of the model, all of them.
        min_cases: fewest cases behind a number.
        own: tensors of the site itself that go before these.
        device: where the model computes.

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
    method = _method(config, name, site, weights, own, device)
    planned = plan_episodes(
        {name: site}, supports=examples, queries=queries, slices=config.inference.support_slices
    ).episodes
    dice: dict[tuple[str, str], list[float]] = {}
    for episode in planned:
        for row in evaluate_episode(method, {name: site}, episode, method=name, seed=config.seed):
            if row.dice == row.dice:
                dice.setdefault((row.organ, row.protocol), []).append(row.dice)
    scores = tuple(_score(organ, protocol, values, fewest) for (organ, protocol), values in sorted(dice.items()))
    if all(score.mean is None for score in scores):
        raise RefusedError(f"no organ is in {fewest} of the held-out cases")
    return scores


def _method(
    config: ExperimentConfig,
    name: str,
    site: Site,
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor] | None,
    device: torch.device,
) -> OneShotPredictor | Trained:
    if config.teaching is None:
        return OneShotPredictor(received_model(config, name, weights, own).to(device), config.inference)
    organs = config.teaching.organs
    prepare: dict[Modality, PrepareConfig] = {"ct": site.settings("ct"), "mr": site.settings("mr")}
    net = received_unet(weights, len(organs)).to(device).eval()
    return Trained(OrganModel.of(net, organs, prepare))


def _score(organ: str, protocol: str, values: Sequence[float], fewest: int) -> OrganScore:
    known = {"organ": organ, "protocol": protocol}
    if len(values) < fewest:
        return OrganScore.model_validate(known)
    return OrganScore.model_validate({**known, "cases": len(values), "mean": mean(values), "sd": stdev(values)})


def score(message: Message, context: Context) -> Message:
    """Score the weights that came on the site's own held-out cases; only means over enough cases go back.

    Raises:
        RefusedError: odd weights, or too few cases.
        FedCoWProError: no message of this program, or weights of another architecture.
    """
    # Imported here: a round of training needs no predictor.
    from fedcowpro.federated.site.scoring import score_site

    arrays = records.array_record(message.content, records.ARRAYS)
    settings = records.config_record(message.content, records.CONFIG)
    if arrays is None or records.EXPERIMENT not in settings:
        raise FedCoWProError(
            "the message lacks weights or settings", "an evaluation message of this program",
            "use the same version of fedcowpro at the server and at all sites",
        )  # fmt: skip
    config = parse(ExperimentConfig, from_json(str(settings[records.EXPERIMENT])), "the server's settings")
    weights = records.to_tensors(arrays)
    approve_weights(message, context, config, weights)
    local = records.array_record(context.state, records.LOCAL)
    own = records.to_tensors(local) if local is not None and settings.get(records.OWN_LAYERS) else {}
    name, path = site_of(context)
    with working(context) as device:
        scores = score_site(config, name, Site.open(path), weights, policy_of(context).min_cases, own, device)
    return Message(RecordDict({records.SCORES: ConfigRecord({records.SCORES: to_text(scores)})}), reply_to=message)
