"""A run folder keeps its last rounds, goes back to one of them, and belongs to one process at a time."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcowpro.config import ExperimentConfig, load
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.run import federate
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.model.checkpoint import load_checkpoint

Experiment = Callable[..., ExperimentConfig]
Sites = dict[str, Path]
Finished = Callable[[ExperimentConfig], Path]


def digest(out: Path) -> str:
    return str(load_checkpoint(out)[1]["weights_digest"])


def rounds_told(out: Path) -> set[int]:
    return {json.loads(line)["round"] for line in (out / "metrics.jsonl").read_text().splitlines()}


def test_the_last_three_rounds_are_kept(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    federate(experiment(rounds=5, local_steps=1), sites, tmp_path, progress=False)
    assert sorted(folder.name for folder in (tmp_path / "rounds").iterdir()) == [f"round_000{n}" for n in (3, 4, 5)]


@pytest.mark.parametrize("normalisation", ["averaged", "local"])
def test_a_run_goes_back_to_a_round_and_on_from_there(
    sites: Sites, experiment: Experiment, finished: Finished, tmp_path: Path, normalisation: str
) -> None:
    config = experiment(rounds=4, local_steps=1, normalisation=normalisation)
    shutil.copytree(finished(config), tmp_path, dirs_exist_ok=True)
    whole = digest(tmp_path)
    folder = RunFolder(tmp_path)
    folder.go_back(2, config)
    assert (folder.completed(), folder.kept_rounds()) == (2, [2])
    assert rounds_told(tmp_path) == {1, 2}
    assert not (tmp_path / "model.safetensors").exists()
    federate(config, sites, tmp_path, progress=False)
    assert digest(tmp_path) == whole  # a finished run, taken up after its second round
    federate(config, sites, tmp_path, progress=False, from_round=3)
    assert digest(tmp_path) == whole
    assert rounds_told(tmp_path) == {1, 2, 3, 4}


def test_a_round_that_is_not_there_is_refused_and_nothing_is_lost(
    sites: Sites, experiment: Experiment, finished: Finished, tmp_path: Path
) -> None:
    config = experiment(rounds=4, local_steps=1)
    shutil.copytree(finished(config), tmp_path, dirs_exist_ok=True)
    before = digest(tmp_path)
    for number in (1, 9):
        with pytest.raises(FedCoWProError, match=f"round {number} of the run.*\n.*that are there: 2, 3, 4"):
            federate(config, sites, tmp_path, progress=False, from_round=number)
    with pytest.raises(FedCoWProError, match="settings of digest"):
        RunFolder(tmp_path).go_back(2, experiment(rounds=4, local_steps=2))
    with pytest.raises(FedCoWProError, match="that are there: none"):
        federate(config, sites, tmp_path / "new", progress=False, from_round=1)
    assert digest(tmp_path) == before
    assert RunFolder(tmp_path).completed() == 4


def test_a_second_process_in_the_folder_is_refused(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(FedCoWProError, match=r"another process trains in .*\n.*one at a time"),
    ):
        federate(experiment(rounds=1), sites, tmp_path, progress=False)
    federate(experiment(rounds=1), sites, tmp_path, progress=False)


def test_stray_folders_are_no_rounds(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    for name in ("round_x", "round_", "round_9", "round_0003.bak", "round_-001"):
        (tmp_path / "rounds" / name).mkdir(parents=True)
    federate(experiment(rounds=1), sites, tmp_path, progress=False)
    assert RunFolder(tmp_path).kept_rounds() == [1]


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "config.yaml"])
def test_deeply_nested_files_end_with_a_sentence_or_are_passed_over(
    sites: Sites, experiment: Experiment, finished: Finished, tmp_path: Path, name: str
) -> None:
    config = experiment(rounds=1, local_steps=1)
    shutil.copytree(finished(config), tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text("[" * 100_000 + "\n")
    if name == "run.json":
        with pytest.raises(FedCoWProError, match="cannot be read"):
            federate(config, sites, tmp_path, progress=False)
    elif name == "metrics.jsonl":
        federate(config, sites, tmp_path, progress=False)
    else:
        with pytest.raises(FedCoWProError, match="is not YAML"):
            load(ExperimentConfig, tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("gap", [0.0, 0.3])
def test_ctrl_c_twice_shows_no_traceback_and_the_run_goes_on(
    sites: Sites, experiment: Experiment, tmp_path: Path, gap: float
) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(json.dumps(experiment(rounds=1000).model_dump(mode="json")))
    words = [sys.executable, "-m", "fedcowpro.cli", "federate", str(config), "--out", str(out)]
    words += [word for name, path in sites.items() for word in ("--site", f"{name}={path}")]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not RunFolder(out).completed() and time.monotonic() < end:
        time.sleep(0.1)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(gap)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)  # the latter where Python itself is already at its end
    assert "Traceback" not in said
    assert "Interrupted" in said
    assert RunFolder(out).completed() >= 1
