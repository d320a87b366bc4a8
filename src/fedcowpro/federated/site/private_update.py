"""What a site sends under privacy instead of its tensors: clipped, noised, masked, as the settings say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord, RecordDict
from torch import Tensor

from fedcowpro.config import ExperimentConfig
from fedcowpro.federated.privacy.ring import pack, ring_of
from fedcowpro.federated.privacy.site import protect
from fedcowpro.federated.site.secure_aggregation import mask
from fedcowpro.federated.transport import messages as records

# Counts of work; losses and scores depend on the patients, and nothing bounds or noises them.
_HARMLESS = (records.WEIGHT, "steps", "seconds")


def private_content(
    config: ExperimentConfig,
    site: str,
    shared: Mapping[str, Tensor],
    received: Mapping[str, Tensor],
    metrics: MetricRecord,
    question: RecordDict,
    context: Context,
) -> RecordDict:
    """The reply of a site that clips its own update.

    Args:
        shared: the site's tensors after training.
        received: the tensors before.
        question: the server's message; with secure aggregation it has the sealed shares.

    Raises:
        FedCoWProError: an exchange of keys out of turn.
    """
    privacy, settings = config.federation.privacy, records.config_record(question, records.CONFIG)
    number = int(str(settings[records.ROUND]))
    before = {name: received[name].numpy() for name in shared}
    after = {name: tensor.numpy() for name, tensor in shared.items()}
    sent = MetricRecord({name: value for name, value in metrics.items() if name in _HARMLESS})
    if privacy.secure_aggregation:
        names = settings["names"]
        sites = len(names) if isinstance(names, list) else 0
        ring = ring_of(privacy, sites)
        limit = ring.clip_before_rounding(privacy.clip, sum(value.size for value in after.values()))
        own = protect(privacy, before, after, limit, config.seed, site, number)
        record = ArrayRecord({records.MASKED: Array(mask(ring.encode(pack(own)), settings, context))})
        return RecordDict({records.ARRAYS: record, records.METRICS: sent})
    own = protect(privacy, before, after, privacy.clip, config.seed, site, number)
    noised = {name: np.asarray(before[name] + value, before[name].dtype) for name, value in own.items()}
    record = ArrayRecord({name: Array(value) for name, value in noised.items()})
    return RecordDict({records.ARRAYS: record, records.METRICS: sent})
