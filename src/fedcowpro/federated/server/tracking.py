"""Curves of a run for TensorBoard and MLflow, beside RUN/metrics.jsonl, which is always there.

A sink is told the settings and, under the sites' names, numbers; no ids of cases, no paths, no texts of errors. Both
sinks write below the run folder. Nothing goes to another host unless the user sets MLFLOW_TRACKING_URI himself;
MLflow's own reports of its use are switched off.
"""

from __future__ import annotations

import math
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from fedcowpro.config import ExperimentConfig
from fedcowpro.config.base import Setting, flat_settings
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.versions import versions
from fedcowpro.federated.monitoring.rounds import RoundRecord, read_rounds, round_totals
from fedcowpro.federated.server.run_folder import RunFolder

Track = Literal["tensorboard", "mlflow"]
EXPERIMENT, RUN_TAG = "fedcowpro", "fedcowpro_run"
_BATCH = 100  # MLflow takes at most 100 parameters and 1000 metrics at once


class Sink(Protocol):
    """Where numbers of rounds go, in the order start, round, ..., round, close."""

    def start(self, run: Path, settings: Mapping[str, Setting]) -> None:
        """Begin a track, or go on with the one that this run has already."""

    def round(self, record: RoundRecord) -> None:
        """Add a complete round. It may have been told before; each point is kept once."""

    def close(self, ok: bool) -> None:
        """End the track; `ok` is whether the run came to its end."""


def numbers(record: RoundRecord) -> dict[str, float]:
    """A round as finite numbers: `round/<quantity>` of all sites, `<quantity>/<site>` of each."""
    found: dict[str, float | None] = {f"round/{name}": value for name, value in round_totals(record).items()}
    found |= {f"round/{name}": len(getattr(record, name)) for name in ("left_out", "clipped", "unsound")}
    for site in record.sites:
        values = {f"loss_{name}": value for name, value in site.losses.items()} | {
            name: getattr(site, name)
            for name in ("pseudo_dice", "weight", "update_norm", "update_cosine", "seconds", "bytes_down", "bytes_up")
        }
        found |= {f"{name}/{site.site}": value for name, value in values.items()}
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def open_sinks(names: Sequence[str]) -> list[Sink]:
    """A sink for each name; nothing is written yet.

    Raises:
        FedCoWProError: an unknown name, or its package is not installed.
    """
    kinds: dict[str, Callable[[], Sink]] = {"tensorboard": TensorBoard, "mlflow": MLflow}
    if unknown := [name for name in names if name not in kinds]:
        raise FedCoWProError(f"track '{unknown[0]}'", f"one of {', '.join(kinds)}", "correct the name")
    return [kinds[name]() for name in dict.fromkeys(names)]


@contextmanager
def tracking(
    sinks: Sequence[Sink], folder: RunFolder, config: ExperimentConfig
) -> Iterator[Callable[[RoundRecord], None]]:
    """Start the sinks with what the run has behind it; gives the function that tells them a complete round.

    A sink that fails later is left out with a warning, for it must not cost a training; when the run is resumed, or
    called again after its end, the points that a track lacks are added.

    Raises:
        FedCoWProError: a sink cannot start.
    """
    settings = flat_settings(config.model_dump(mode="json")) | flat_settings({"versions": versions()})
    settings["config_digest"] = config.model_copy(update={"sites": ()}).digest()
    active: list[Sink] = []

    def tell(record: RoundRecord) -> None:
        for sink in list(active):
            if not _worked(sink, partial(sink.round, record)):
                active.remove(sink)

    finished = False
    try:
        for sink in sinks:
            _start(sink, folder.path, settings)
            active.append(sink)
        for record in read_rounds(folder.metrics_file) if sinks else ():
            tell(record)
        yield tell
        finished = True
    finally:
        for sink in active:
            _worked(sink, partial(sink.close, finished))


class TensorBoard:
    """Scalars of each round in RUN/tensorboard; view with `tensorboard --logdir RUN/tensorboard`."""

    def __init__(self) -> None:
        self._reader = _library("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
        self._make_writer = _library("torch.utils.tensorboard").SummaryWriter
        self._writer: Any = None

    def start(self, run: Path, settings: Mapping[str, Setting]) -> None:
        self._folder = run / "tensorboard"
        self._folder.mkdir(exist_ok=True)
        self._hide_host()
        found = self._reader(str(self._folder), size_guidance={"scalars": 1}).Reload()
        self._last = {name: found.Scalars(name)[-1].step for name in found.Tags()["scalars"]}
        if not found.Tags()["tensors"]:
            rows = [f"| {name} | {value} |" for name, value in settings.items()]
            self._open().add_text("settings", "\n".join(["| setting | value |", "|---|---|", *rows]))

    def round(self, record: RoundRecord) -> None:
        fresh = {name: value for name, value in numbers(record).items() if record.round > self._last.get(name, 0)}
        for name, value in fresh.items():
            self._open().add_scalar(name, value, record.round)
        self._last |= dict.fromkeys(fresh, record.round)
        if fresh:
            self._writer.flush()

    def close(self, ok: bool) -> None:
        if self._writer is not None:
            self._writer.close()
            self._hide_host()

    def _open(self) -> Any:
        # A new file after an interruption: the end of the one before may be torn.
        self._writer = self._writer or self._make_writer(str(self._folder))
        return self._writer

    def _hide_host(self) -> None:
        """Take the host's name out of the files' names, where TensorBoard puts it."""
        host = f".{socket.gethostname()}."
        for file in self._folder.glob("*.tfevents.*"):
            file.rename(file.with_name(file.name.replace(host, ".fedcowpro.", 1)))


class MLflow:
    """A run of the experiment "fedcowpro" in RUN/mlruns, or where MLFLOW_TRACKING_URI points."""

    def __init__(self) -> None:
        # Before the import, which would start a thread that reports; MLflow looks again at each event.
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        self._entities, self._make_client = _library("mlflow.entities"), _library("mlflow.tracking.client").MlflowClient

    def start(self, run: Path, settings: Mapping[str, Setting]) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            # From 3.17 on MLflow wants to be told that plain files are meant; its other stores need a database.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (run / "mlruns").resolve().as_uri()
        self._client = client = self._make_client(tracking_uri=uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        number = experiment.experiment_id if experiment is not None else client.create_experiment(EXPERIMENT)
        key = RunFolder(run).key()
        found = client.search_runs([number], f"tags.{RUN_TAG} = '{key}'")
        track = found[0] if found else client.create_run(number, tags={RUN_TAG: key}, run_name=key)
        self._id, self._last = track.info.run_id, {}
        for name in track.data.metrics:
            self._last[name] = max(point.step for point in client.get_metric_history(self._id, name))
        client.update_run(self._id, status="RUNNING")
        lacking = {name: value for name, value in settings.items() if name not in track.data.params}
        self._log("params", [self._entities.Param(name, str(value)) for name, value in lacking.items()])

    def round(self, record: RoundRecord) -> None:
        now, step = int(1000 * time.time()), record.round
        fresh = {name: value for name, value in numbers(record).items() if step > self._last.get(name, 0)}
        self._log("metrics", [self._entities.Metric(name, value, now, step) for name, value in fresh.items()])
        self._last |= dict.fromkeys(fresh, step)

    def close(self, ok: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if ok else "FAILED")

    def _log(self, kind: str, items: Sequence[Any]) -> None:
        for start in range(0, len(items), _BATCH):
            self._client.log_batch(self._id, **{kind: items[start : start + _BATCH]})


def _library(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        remedy = "pip install 'fedcowpro[tracking]', or leave that track out; metrics.jsonl has the same numbers"
        raise FedCoWProError(f"no package '{package}'", f"it is needed for the track '{package}'", remedy) from error


def _start(sink: Sink, run: Path, settings: Mapping[str, Setting]) -> None:
    try:
        sink.start(run, settings)
    except Exception as error:
        raise FedCoWProError(
            f"the track of {type(sink).__name__} cannot start: {error}",
            "a track that can be written",
            "see to it (for MLflow: MLFLOW_TRACKING_URI), or leave that track out",
        ) from error


def _worked(sink: Sink, call: Callable[[], None]) -> bool:
    """Whether `call` went well; any error of a sink becomes a warning."""
    try:
        call()
    except Exception as error:
        warnings.warn(f"the track of {type(sink).__name__} lacks points from here on: {error}", stacklevel=3)
        return False
    return True
