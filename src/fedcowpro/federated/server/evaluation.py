"""Cross-site evaluation: each site scores a model on its own cases; and what the server notes of a round."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedcowpro.core.package import package_digest
from fedcowpro.federated.monitoring.alarms import AlarmWatch
from fedcowpro.federated.monitoring.rounds import RoundRecord, append_lines
from fedcowpro.federated.monitoring.scores import GLOBAL, OWN, SiteScores, from_text, keep_scores, metrics_lines
from fedcowpro.federated.server.audit_grid import AuditedGrid
from fedcowpro.federated.server.exchange import exchange
from fedcowpro.federated.server.run_folder import CompleteRound, RunFolder
from fedcowpro.federated.transport import messages as records

_log = logging.getLogger("fedcowpro.watch")


def announced(settings: str, run: str, participants: int) -> ConfigRecord:
    """What goes with every message of a run, for a site's policy to judge.

    Args:
        settings: the experiment as JSON.
        run: its name.
        participants: number of sites that the messages of a round go to.
    """
    found = {records.EXPERIMENT: settings, records.RUN: run, records.PACKAGE: package_digest()}
    return ConfigRecord({**found, records.PARTICIPANTS: participants})


def models_of(
    last: CompleteRound, new_site_layers: Mapping[str, Tensor], local: bool
) -> dict[str, Mapping[str, Tensor]]:
    """The models that come of a run by name: the global one; with local normalisation also each site's.

    Args:
        last: the last round.
        new_site_layers: layers of the global model for sites that were not in training.
        local: whether sites keep their normalisation layers.
    """
    models: dict[str, Mapping[str, Tensor]] = {GLOBAL: {**last.state, **new_site_layers}}
    if local:
        models |= {OWN: last.state, **{site: {**last.state, **own} for site, own in last.sites.items()}}
    return models


def note_round(grid: AuditedGrid, folder: RunFolder, record: RoundRecord, watch: AlarmWatch) -> None:
    """Note in the audit log whom a round averaged, and raise the alarms that it gives; its lines are written.

    Args:
        watch: follows the run; it has seen the rounds before.
    """
    # Names only: a site's words on its failure may have what no log should keep.
    averaged = ", ".join(site.site for site in record.sites)
    without = f"; without {', '.join(record.left_out)}" if record.left_out else ""
    grid.note("", "average", "averaged", record.round, f"{averaged}{without}")
    found = watch.new(record)
    append_lines(folder.metrics_file, [alarm.line() for alarm in found])
    for alarm in found:
        _log.warning("alarm in round %d: site '%s': %s", alarm.round, alarm.site, alarm.text)


class CrossSiteEvaluation:
    """Of one run.

    Args:
        grid: that notes what it passes on; it knows the sites' names.
        folder: of the run.
        settings: the record that goes with every message of the run.
        exchanged: names of the tensors that are sent to a site.
        timeout: seconds that sites have for scores.
    """

    def __init__(
        self,
        grid: AuditedGrid,
        folder: RunFolder,
        settings: ConfigRecord,
        exchanged: Iterable[str],
        timeout: float | None = None,
    ) -> None:
        self._grid, self._folder, self._settings = grid, folder, settings
        self._exchanged, self._timeout = sorted(exchanged), timeout

    def run(self, models: Mapping[str, Mapping[str, Tensor]], number: int) -> None:
        """Ask all sites for scores of each model and keep them; a site that refuses is named with its reason.

        Args:
            models: tensors by the model's name.
            number: of the round that the models come from.
        """
        for name, state in models.items():
            arrays = records.to_record({tensor: state[tensor] for tensor in self._exchanged})
            found = ask_for_scores(
                self._grid, self._grid.names, arrays, self._settings, number, name, timeout=self._timeout
            )
            keep_scores(self._folder.path, found)
            append_lines(self._folder.metrics_file, metrics_lines(found))


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
