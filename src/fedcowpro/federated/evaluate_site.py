"""A site's answer to the question for scores of a model."""

from __future__ import annotations

import json

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedcowpro.config import ExperimentConfig, parse
from fedcowpro.data.site import Site
from fedcowpro.errors import FedCoWProError
from fedcowpro.federated import records
from fedcowpro.federated.guard import approve_weights, policy_of
from fedcowpro.federated.node import site_of, working
from fedcowpro.federated.scores import to_text


def score(message: Message, context: Context) -> Message:
    """Score the weights that came on the site's own held-out cases; only means over enough cases go back.

    Raises:
        RefusedError: odd weights, or too few cases.
        FedCoWProError: no message of this program, or weights of another architecture.
    """
    # Imported here: a round of training needs no predictor.
    from fedcowpro.federated.scoring import score_site

    arrays = records.array_record(message.content, records.ARRAYS)
    settings = records.config_record(message.content, records.CONFIG)
    if arrays is None or records.EXPERIMENT not in settings:
        raise FedCoWProError(
            "the message lacks weights or settings", "an evaluation message of this program",
            "use the same version of fedcowpro at the server and at all sites",
        )  # fmt: skip
    config = parse(ExperimentConfig, json.loads(str(settings[records.EXPERIMENT])), "the server's settings")
    weights = records.to_tensors(arrays)
    approve_weights(message, context, config, weights)
    local = records.array_record(context.state, records.LOCAL)
    own = records.to_tensors(local) if local is not None and settings.get(records.OWN_LAYERS) else {}
    name, path = site_of(context)
    with working(context):
        scores = score_site(config, name, Site.open(path), weights, policy_of(context).min_cases, own)
    return Message(RecordDict({records.SCORES: ConfigRecord({records.SCORES: to_text(scores)})}), reply_to=message)
