"""What the server does beside the rounds: it watches for alarms and asks for scores, and writes both down."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from flwr.app import ConfigRecord
from torch import Tensor

from fedcowpro.federated import records
from fedcowpro.federated.alarms import new_alarms
from fedcowpro.federated.audited import AuditedGrid
from fedcowpro.federated.crosssite import ask_for_scores
from fedcowpro.federated.folder import CompleteRound, RunFolder
from fedcowpro.federated.monitor import RoundRecord, append_lines, read_rounds
from fedcowpro.federated.scores import GLOBAL, OWN, keep_scores, metrics_lines
from fedcowpro.package import package_digest

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


def models_of(last: CompleteRound, unseen: Mapping[str, Tensor], local: bool) -> dict[str, Mapping[str, Tensor]]:
    """The models that come of a run by name: the global one; with local normalisation also each site's.

    Args:
        last: the last round.
        unseen: layers of the global model for sites that were not in training.
        local: whether sites keep their normalisation layers.
    """
    models: dict[str, Mapping[str, Tensor]] = {GLOBAL: {**last.state, **unseen}}
    if local:
        models |= {OWN: last.state, **{site: {**last.state, **own} for site, own in last.sites.items()}}
    return models


class Overseer:
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

    def look_at(self, record: RoundRecord) -> None:
        """Note in the audit log whom a round averaged, and raise the alarms that it gives; its lines are written."""
        # Names only: a site's words on its failure may have what no log should keep.
        averaged = ", ".join(site.site for site in record.sites)
        without = f"; without {', '.join(record.left_out)}" if record.left_out else ""
        self._grid.note("", "average", "averaged", record.round, f"{averaged}{without}")
        found = new_alarms(read_rounds(self._folder.metrics_file))
        append_lines(self._folder.metrics_file, [alarm.line() for alarm in found])
        for alarm in found:
            _log.warning("alarm in round %d: site '%s': %s", alarm.round, alarm.site, alarm.text)

    def evaluate(self, models: Mapping[str, Mapping[str, Tensor]], number: int) -> None:
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
