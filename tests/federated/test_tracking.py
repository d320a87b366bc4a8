"""Tracks for TensorBoard and MLflow: written by real runs and read back by the programs' own readers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcowpro.config import ExperimentConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.monitoring.rounds import RoundRecord, SiteRecord, read_rounds
from fedcowpro.federated.run import federate
from fedcowpro.federated.server import tracking
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.site import local_training as task
from fedcowpro.model.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

Experiment = Callable[..., ExperimentConfig]
Sites = dict[str, Path]
Points = dict[str, list[tuple[int, float]]]
BOTH: tuple[tracking.Track, ...] = ("tensorboard", "mlflow")


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in BOTH:
        pytest.importorskip(package, reason=f"{package} comes with the extra 'tracking'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def event_points(run: Path) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), purge_orphaned_data=False).Reload()
    assert found.Tags()["tensors"] == ["settings/text_summary"]
    return {tag: [(point.step, point.value) for point in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def mlflow_run(run: Path) -> tuple[Any, Points]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient((run / "mlruns").as_uri())
    found = client.search_runs([client.get_experiment_by_name("fedcowpro").experiment_id])
    assert len(found) == 1
    names = found[0].data.metrics
    points = {name: client.get_metric_history(found[0].info.run_id, name) for name in names}
    return found[0], {name: [(p.step, p.value) for p in history] for name, history in points.items()}


def expected(run: Path) -> Points:
    points: Points = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        found = json.loads(line)
        where = found.get("site")
        for name, value in {**found, **{f"loss_{k}": v for k, v in found.get("losses", {}).items()}}.items():
            if name in ("kind", "round", "site", "losses", "train_slices", "steps", "bytes_model") or value is None:
                continue
            value = len(value) if name in ("left_out", "clipped", "unsound") else float(value)
            points.setdefault(f"{name}/{where}" if where else f"round/{name}", []).append((found["round"], value))
    return points


def record(number: int, loss: float = 0.5) -> RoundRecord:
    site = SiteRecord("alpha", 1.0, 4, 2, {"total": loss, "odd": float("nan")}, 0.1, 1.0, None, 2.0, 10, 20)
    return RoundRecord(number, (site,), {"beta": "FileNotFoundError: /data/patient-7"})


def test_an_interrupted_run_has_whole_tracks_without_doubled_points(
    sites: Sites, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = task.fit, iter(range(1, 100))

    def fit(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 5:  # in round 2
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(task, "fit", fit)
        with pytest.raises(KeyboardInterrupt):
            federate(experiment(), sites, run, progress=False, track=BOTH)
    assert mlflow_run(run)[0].info.status == "FAILED"
    federate(experiment(), sites, run, progress=False, track=BOTH)
    federate(experiment(), sites, run, progress=False, track=BOTH)  # finished: adds nothing

    wanted = expected(run)
    assert [step for step, _ in wanted["round/loss"]] == [1, 2, 3]
    assert len(wanted) == 9 + 3 * (7 + 5)
    drawn = event_points(run)
    assert drawn.keys() == wanted.keys()
    for name, points in wanted.items():
        np.testing.assert_allclose(drawn[name], points, rtol=1e-6, err_msg=name)  # TensorBoard keeps 32 bits
    track, points = mlflow_run(run)
    assert points == wanted
    assert track.info.status == "FINISHED"
    assert (track.data.params["train.batch"], track.data.params["federation.rounds"]) == ("2", "3")
    assert track.data.params["config_digest"] == RunFolder(run).record()["config_digest"]
    written = [file for name in ("tensorboard", "mlruns") for file in (run / name).rglob("*") if file.is_file()]
    assert len([file for file in written if "tfevents" in file.name]) == 2
    for file in written:
        assert socket.gethostname() not in file.name
        content = file.read_bytes()
        assert not any(text.encode() in content for text in ("case-1", *map(str, sites.values())))
    assert b"federation.rounds" in min(written, key=lambda file: ("tfevents" not in file.name, file.name)).read_bytes()


def test_a_finished_run_gets_its_track_afterwards(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    checkpoint = federate(experiment(rounds=2), sites, tmp_path, progress=False)
    assert not (tmp_path / "tensorboard").exists()
    before = checkpoint.stat().st_mtime_ns
    federate(experiment(rounds=2), sites, tmp_path, progress=False, track=["tensorboard"])
    assert [step for step, _ in event_points(tmp_path)["round/loss"]] == [1, 2]
    assert checkpoint.stat().st_mtime_ns == before
    assert not (tmp_path / "mlruns").exists()


def test_a_torn_track_is_completed(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    for name in BOTH:
        (sink,) = tracking.open_sinks([name])
        sink.start(tmp_path, {"seed": 0})
        sink.round(record(1))
        sink.round(record(2, loss=0.25))
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    (loss,) = (tmp_path / "mlruns").glob("*/*/metrics/loss_total/alpha")
    loss.write_text(loss.read_text().splitlines(keepends=True)[0])
    for name in BOTH:
        (sink,) = tracking.open_sinks([name])
        sink.start(tmp_path, {"seed": 1})
        for number in (1, 2):
            sink.round(record(number, loss=0.5 / number))
        sink.close(True)
    track, points = mlflow_run(tmp_path)
    assert points["loss_total/alpha"] == event_points(tmp_path)["loss_total/alpha"] == [(1, 0.5), (2, 0.25)]
    assert points["seconds/alpha"] == [(1, 2.0), (2, 2.0)]
    assert track.data.params == {"seed": "0"}  # what a run began with stays


def test_only_finite_numbers_are_told() -> None:
    told = tracking.numbers(record(1))
    assert told["loss_total/alpha"] == 0.5
    assert told["round/left_out"] == told["round/sites"] == 1
    assert not any("odd" in name or "cosine" in name or "beta" in name for name in told)


def test_rounds_are_read_as_they_were_written(tmp_path: Path) -> None:
    from fedcowpro.federated.monitoring.rounds import append_round

    file = tmp_path / "metrics.jsonl"
    assert read_rounds(file) == []
    for number in (1, 2):
        append_round(file, record(number))
    assert repr(read_rounds(file)) == repr([record(1), record(2)])


@pytest.mark.parametrize("name", BOTH)
def test_a_missing_package_is_told_before_anything_is_written(
    name: tracking.Track, sites: Sites, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(FedCoWProError, match=r"no package.*\n.*\n.*fedcowpro\[tracking\]"):
        federate(experiment(), sites, tmp_path / "run", progress=False, track=[name])
    with pytest.raises(FedCoWProError, match="track 'wandb'"):
        federate(experiment(), sites, tmp_path / "run", track=["wandb"])  # type: ignore[list-item]
    assert not (tmp_path / "run").exists()


def test_a_failing_track_costs_no_training(
    sites: Sites, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: object, *_: object) -> None:
        raise OSError("disk full")

    plain = federate(experiment(rounds=2), sites, tmp_path / "plain", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(tracking.TensorBoard, "round", fails)
        with pytest.warns(UserWarning, match="TensorBoard lacks points.*disk full") as told:
            tracked = federate(experiment(rounds=2), sites, tmp_path / "run", progress=False, track=["tensorboard"])
    assert len([warning for warning in told if "lacks points" in str(warning.message)]) == 1
    digests = [load_checkpoint(checkpoint)[1]["weights_digest"] for checkpoint in (plain, tracked)]
    assert digests[0] == digests[1]
    monkeypatch.setattr(tracking.TensorBoard, "start", fails)
    with pytest.raises(FedCoWProError, match="TensorBoard cannot start: disk full"):
        federate(experiment(rounds=2), sites, tmp_path / "run", progress=False, track=["tensorboard"])


def test_mlflow_reports_nothing(tmp_path: Path) -> None:
    """Outside of tests and CI, where MLflow would report."""
    (tmp_path / "run.json").write_text("{}")
    code = (
        "import socket, sys\n"
        "from pathlib import Path\n"
        "def refuse(*args, **kwargs): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from fedcowpro.federated.server.tracking import open_sinks\n"
        "(sink,) = open_sinks(['mlflow'])\n"
        "sink.start(Path(sys.argv[1]), {'seed': 0})\n"
        "sink.close(True)\n"
        "import mlflow.telemetry\n"
        "from mlflow.telemetry.utils import _IS_IN_CI_ENV_OR_TESTING, is_telemetry_disabled\n"
        "assert not _IS_IN_CI_ENV_OR_TESTING and is_telemetry_disabled()\n"
        "assert mlflow.telemetry.get_telemetry_client() is None\n"
    )
    plain = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH", "TMPDIR")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=plain, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mlruns").is_dir()
