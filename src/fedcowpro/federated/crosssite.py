"""The server asks all sites for scores of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedcowpro.federated import records
from fedcowpro.federated.delivery import exchange
from fedcowpro.federated.scores import GLOBAL, OWN, SiteScores, from_text


def ask_for_scores(
    grid: Grid,
    sites: Mapping[int, str],
    arrays: ArrayRecord,
    settings: Mapping[str, Any],
    number: int,
    model: str = GLOBAL,
    *,
    timeout: float | None = None,
) -> list[SiteScores]:
    """Scores of one model at every site, in the order of the sites' names. A failure of a site ends nothing.

    Args:
        sites: name of each node.
        arrays: floating-point tensors of the model.
        settings: the record that goes with every message of the run.
        number: of the round that the model comes from.
        model: its name; 'own' asks each site to put in its own normalisation layers.
        timeout: seconds that sites have; None waits.
    """
    told = {**settings, records.ROUND: number, records.MODEL: model, records.OWN_LAYERS: model == OWN}
    content = RecordDict({records.ARRAYS: arrays, records.CONFIG: ConfigRecord(told)})
    messages = [Message(content, node, MessageType.EVALUATE) for node in sites]
    found = {name: SiteScores(number, model, name, (), "no reply") for name in sorted(sites.values())}
    for reply in exchange(grid, messages, timeout):
        site = sites.get(reply.metadata.src_node_id)
        if site is not None:
            found[site] = _read(reply, SiteScores(number, model, site, ()))
    return list(found.values())


def _read(reply: Message, empty: SiteScores) -> SiteScores:
    if reply.has_error():
        return SiteScores(empty.round, empty.model, empty.site, (), records.failure(reply))
    text = records.config_record(reply.content, records.SCORES).get(records.SCORES)
    try:
        return SiteScores(empty.round, empty.model, empty.site, from_text(str(text)))
    except ValueError:
        return SiteScores(empty.round, empty.model, empty.site, (), "the reply has no scores that can be read")
