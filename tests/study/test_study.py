"""Studies that are run: each training once, interruptions and failures without harm."""

from __future__ import annotations

import copy
import hashlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from fedcowpro.config import ExperimentConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import load_episodes
from fedcowpro.evaluation.protocol import read_results
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.model.checkpoint import load_checkpoint
from fedcowpro.reports.show import show
from fedcowpro.study.engine import run_jobs
from fedcowpro.study.lock import locked
from fedcowpro.study.plan import Plan, StudyJob
from fedcowpro.study.progress import StudyProgress
from fedcowpro.study.run import run_study
from fedcowpro.study.table import read_table

pytestmark = pytest.mark.slow

ROUNDS = 12
STUDY: dict[str, Any] = {
    "name": "small",
    "question": "Does a study do what its file says?",
    "prepare": {"size": 64, "superpixels": {"min_size": 40, "min_area": 20}},
    "pools": {
        "ct": {"source": "${EXAMPLE_DATA}/ct", "dataset": "folder", "modality": "ct", "cases": [1, 2, 3],
               "organs": {1: "liver", 4: "spleen"}},
        "t2": {"source": "${EXAMPLE_DATA}/t2", "dataset": "folder", "modality": "mr", "cases": [1, 2],
               "organs": {1: "spleen", 4: "liver"}},
        "t1": {"phantom": "t1", "patients": 1, "depth": 8, "seed": 5},
    },
    "train": {"sites": {"a": [{"pool": "ct"}], "b": [{"pool": "t2"}, {"pool": "t1", "cases": 5}]}},
    "evaluation": {"ct": {"pool": "ct", "support": 2, "query": [3]}},
    "base": {
        "model": {"encoder": "tiny", "channels": 8},
        "train": {"batch": 1},
        "federation": {"rounds": ROUNDS, "local_steps": 1},
    },
    "arms": {
        "three slices": {},
        "one slice": {"inference": {"support_slices": 1}},
        "untrained": {"regime": "untrained"},
    },
    "seeds": [0, 3],
    "compare": "untrained",
}  # fmt: skip
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a study with changed fields."""
    os.environ["EXAMPLE_DATA"] = str(phantoms)
    root = tmp_path_factory.mktemp("studies")

    def go(out: str, workers: int = 1, progress: bool = False, store: Path | None = None, **changes: Any) -> Path:
        file = root / f"{out}.yaml"
        file.write_text(yaml.safe_dump({**copy.deepcopy(STUDY), **changes}, sort_keys=False))
        run_study(file, root / out, workers=workers, store=store, progress=progress)
        return root / out

    return go


@pytest.fixture(scope="module")
def done(run: Run) -> Path:
    """The undisturbed study."""
    return run("undisturbed")


def times(folder: Path) -> dict[str, int]:
    """When each result was written."""
    kept = [*folder.glob("results/*.csv"), *folder.glob("runs/*/model.safetensors")]
    return {path.name + path.parent.name: path.stat().st_mtime_ns for path in kept}


def test_the_table_has_every_arm_seed_organ_and_protocol(done: Path) -> None:
    table = read_table(done)
    assert list(dict.fromkeys(table["arm"])) == ["three slices", "one slice", "untrained"]
    assert list(table.columns[:3]) == ["arm", "method", "seed"]
    groups = table.groupby(["arm", "seed"])
    assert len(groups) == 6
    for (arm, _), rows in groups:
        assert {(row.site, row.case, row.organ, row.protocol) for row in rows.itertuples()} == {
            ("ct", "3", organ, protocol) for organ in ("liver", "spleen") for protocol in ("gt-range", "whole-volume")
        }
        assert set(rows["method"]) == {"untrained" if arm == "untrained" else "fedcowpro"}
        assert set(rows["support_slices"]) == {"1" if arm == "one slice" else "3"}
        assert set(rows["support_case"]) == {"2"}
    # Seeds train differently, and the training changes something.
    means = table.pivot_table(index="arm", columns="seed", values="dice", sort=False)
    assert means.loc["three slices", 0] != means.loc["three slices", 3]
    assert means.loc["three slices", 0] != means.loc["untrained", 0]


def test_arms_that_differ_in_inference_only_train_once(done: Path) -> None:
    record = json.loads((done / "study.json").read_text())
    arms = record["arms"]
    for seed in ("0", "3"):
        three, one = (arms[name]["seeds"][seed] for name in ("three slices", "one slice"))
        assert three["folder"] == one["folder"]
        assert three["results"] != one["results"]
        assert load_checkpoint(done / three["folder"])[1]["seed"] == int(seed)
        assert arms["untrained"]["seeds"][seed]["folder"] is None
    assert len(list((done / "runs").iterdir())) == 2
    assert arms["three slices"]["train"] == {"a": ["ct.1"], "b": ["t2.1", "t2.2", "t1.5"]}
    site = Site.open(done / arms["one slice"]["evaluation"]["ct"]["folder"])
    assert [(case.id, case.role) for case in site.cases] == [("2", "support"), ("3", "query")]
    episodes = load_episodes((done / one["results"]).with_suffix(".episodes.json"))
    episodes.require_sites({"ct": site})
    assert arms["one slice"]["settings"]["inference"]["support_slices"] == 1
    assert record["versions"]["fedcowpro"]
    assert record["failed"] == []
    assert record["seconds"] > 0


def test_progress_in_a_log_says_what_is_done_and_left(
    done: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plans: list[Plan] = []
    kept = StudyProgress.__init__

    def keep(self: StudyProgress, plan: Plan, visible: bool) -> None:
        plans.append(plan)
        kept(self, plan, visible)

    with monkeypatch.context() as patch:
        patch.setattr(StudyProgress, "__init__", keep)
        run("undisturbed")  # everything is done
    (plan,) = plans
    clock = iter([0.0, 10.0, 30.0, 60.0])
    monkeypatch.setattr("fedcowpro.study.progress.time.monotonic", lambda: next(clock))
    capfd.readouterr()
    completed = {job.key: 0 for job in plan.jobs.values() if job.trains}
    monkeypatch.setattr(RunFolder, "completed", lambda self: completed[self.path.name])
    with StudyProgress(plan, True) as bar:
        bar.update([], 0)
        bar.update([], 0)
        first, second = completed
        completed[first] = ROUNDS
        bar.update([], 1)
        completed[second] = ROUNDS
        bar.update([], 6)
    # Two trainings of 12 rounds and 2 sites, six evaluations of 20 steps each: 168 in all, then 44 of them done.
    assert capfd.readouterr().err.splitlines() == [
        "runs 0/2, evaluations 0/6: 0%, 0:00:10 passed",
        "runs 1/2, evaluations 1/6: 26%, 0:00:30 passed, 0:01:25 left",
        "runs 2/2, evaluations 6/6: 100%, 0:01:00 passed, 0:00:00 left",
    ]


def test_costs_are_those_of_the_trainings(done: Path) -> None:
    costs = pd.read_csv(done / "costs.csv")
    assert list(costs["arms"]) == ["three slices; one slice"] * 2
    assert list(costs["seed"]) == [0, 3]
    assert set(costs["clients"]) == {2}
    assert set(costs["cases"]) == {4}
    assert set(costs["rounds"]) == set(costs["measured_rounds"]) == {ROUNDS}
    weights = load_checkpoint(next((done / "runs").iterdir()))[0]
    size = sum(tensor.numel() * 4 for tensor in weights.values() if tensor.is_floating_point())
    for column in ("bytes_down", "bytes_up"):  # twelve rounds, two sites, and a little around the numbers
        assert (costs[column] / (2 * ROUNDS)).between(size, 3 * size).all()
    assert (costs["seconds_per_round"] * ROUNDS - costs["seconds"]).abs().max() < 0.01
    if sys.platform != "win32":
        assert (costs["peak_rss_mb"] >= costs["start_rss_mb"]).all()


def test_a_row_of_the_table_is_traced_to_its_training(done: Path) -> None:
    text = show(done)
    lines = [line.split("  ") for line in text.splitlines()]
    facts = {line[0]: "  ".join(line[1:]).strip() for line in lines if line[0]}
    assert facts["study"] == "small: Does a study do what its file says?"
    assert facts["trials"].startswith("6 of 6 scored")
    assert (facts["seeds"], facts["compared with"]) == ("0, 3", "untrained")
    assert facts["table.csv"] == f"SHA-256 {hashlib.sha256((done / 'table.csv').read_bytes()).hexdigest()}"
    rows = [[cell.strip() for cell in re.split(" {2,}", line.strip())] for line in text.splitlines()]
    _, seed, settings, weights, run, results = next(row for row in rows if row[:2] == ["one slice", "3"])
    # What the study says of a training is what the training says of itself, and its scores are the table's.
    assert f"settings    digest {settings}" in show(Path(run))
    assert load_checkpoint(Path(run))[1]["weights_digest"].startswith(weights)
    mine = read_table(done).query("arm == 'one slice' and seed == 3").drop(columns="arm").reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, read_results(Path(results)))
    site = Site.open(
        done / json.loads((done / "study.json").read_text())["arms"]["untrained"]["evaluation"]["ct"]["folder"]
    )
    assert ["ct", site.labelled_digest, "2", "3"] in rows
    differs = text.partition("settings of 'one slice' that differ from these\n")[2]
    assert differs.splitlines()[0].strip() == "inference.support_slices: 1"
    assert next(row[2:5] for row in rows if row[:2] == ["untrained", seed]) == ["-", "untrained", "-"]


def test_a_second_call_trains_and_scores_nothing(done: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before, table = times(done), (done / "table.csv").read_text()
    monkeypatch.setattr(BaseProcess, "start", None)  # no process could start
    assert run("undisturbed") == done
    assert times(done) == before
    assert (done / "table.csv").read_text() == table


def test_a_study_that_was_stopped_and_killed_ends_in_the_same_numbers(
    done: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = done.parent
    out = root / "killed"

    def stop(*_: object) -> None:
        if list(out.glob("runs/*/rounds/round_*")):
            signal.raise_signal(signal.SIGINT)

    # Where the tests run in the background, the shell may have switched Ctrl-C off.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(StudyProgress, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            run("killed", progress=True)
    signal.signal(signal.SIGINT, handler)
    assert "the same command goes on" in capfd.readouterr().err
    assert len(list(out.glob("results/*.csv"))) < len(list(done.glob("results/*.csv")))

    code = "import sys; from pathlib import Path; from fedcowpro.study.run import run_study\n"
    code += "run_study(*map(Path, sys.argv[1:3]), workers=1, progress=False)"
    process = subprocess.Popen([sys.executable, "-c", code, str(done) + ".yaml", str(out)])
    while not any(5 <= RunFolder(folder).completed() < ROUNDS for folder in out.glob("runs/*")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert any(not (folder / "model.safetensors").exists() for folder in out.glob("runs/*"))
    run("killed", workers=2)
    assert (out / "table.csv").read_text() == (done / "table.csv").read_text()
    assert pd.read_csv(out / "costs.csv")["measured_rounds"].min() < ROUNDS
    pd.testing.assert_frame_equal(read_table(out), read_table(done))


def test_studies_with_a_common_store_train_nothing_twice(done: Path, run: Run) -> None:
    before = times(done)
    out = run("sharing", store=done, name="sharing", arms={"one": STUDY["arms"]["one slice"]}, compare="one")
    assert times(done) == before
    assert sorted(path.name for path in out.iterdir()) == [".lock", "costs.csv", "study.json", "table.csv"]
    own, whole = read_table(out), read_table(done)
    same = whole[whole["arm"] == "one slice"].drop(columns="arm").reset_index(drop=True)
    pd.testing.assert_frame_equal(own.drop(columns="arm"), same)
    trial = json.loads((out / "study.json").read_text())["arms"]["one"]["seeds"]["3"]
    assert load_checkpoint(out / trial["folder"])[1]["seed"] == 3
    assert (out / trial["results"]).is_file()


def test_every_case_of_a_site_supports_in_turn(done: Path, run: Run) -> None:
    evaluation = {"ct": {**STUDY["evaluation"]["ct"], "every_support": True}}
    options = {"arms": {"one": {"regime": "untrained"}}, "compare": "one", "protocols": ["whole-volume"]}
    out = run("in turn", store=done, name="turns", evaluation=evaluation, seeds=[0], **options)
    table = read_table(out)
    pairs = {(row.support_case, row.case) for row in table.itertuples()}
    assert pairs == {("2", "3"), ("3", "2")}
    fixed = read_table(run("fixed", store=done, name="fixed", seeds=[0], **options))
    pd.testing.assert_frame_equal(table[table["support_case"] == "2"].reset_index(drop=True), fixed)


def test_examples_may_come_from_another_pool(run: Run) -> None:
    """Its case may have the number of a query's, and its organs other values."""
    site = {"pool": "ct", "support": 1, "query": [1, 3], "support_pool": "t2"}
    options = {"arms": {"one": {"regime": "untrained"}}, "compare": "one", "seeds": [0]}
    out = run("foreign", evaluation={"ct-by-t2": site}, train={"sites": {"a": [{"pool": "ct", "cases": 2}]}}, **options)
    table = read_table(out)
    found = {(row.case, row.modality, row.support_case, row.organ) for row in table.itertuples()}
    assert found == {(case, "ct", "t2.1", organ) for case in ("1", "3") for organ in ("liver", "spleen")}


def test_arms_may_train_networks_on_the_example(run: Run) -> None:
    """From the encoder of the arm's own training, once for each seed."""
    lite0 = {"model": {"encoder": "lite0", "channels": None}}
    arms = {
        "prototypes": {"regime": "untrained", "config": lite0},
        "self-trained": {"regime": "untrained", "config": lite0, "teaching": "self-trained", "teaching_steps": 2},
    }
    sites = {"ct": {"pool": "ct", "support": 2, "query": [3], "training": [1]}}
    out = run("taught", arms=arms, compare="prototypes", evaluation=sites)
    table = read_table(out).set_index("arm")
    assert set(table.loc["self-trained", "unlabelled"]) == {"2"}
    assert set(table.loc["self-trained", "seed"]) == {0, 3}
    assert len(table.loc["self-trained"]) == len(table.loc["prototypes"])
    assert len(list((out / "networks").glob("*.safetensors"))) == 2
    assert times(out) == times(run("taught", arms=arms, compare="prototypes", evaluation=sites))


def test_a_failing_arm_stops_no_other(done: Path, run: Run) -> None:
    bad = {"config": {"train": {"lr": 1e30, "clip_norm": None, "schedule": "constant", "optimizer": "sgd"}}}
    arms = {"bad": bad, **STUDY["arms"], "late": {"regime": "single-site", "site": "b"}}
    with pytest.raises(FedCoWProError, match=r"1 of 4 runs failed:\n  arm 'bad', seed 0: .*(loss|NaN).*log: ") as error:
        run("undisturbed", arms=arms, seeds=[0])
    log = Path(str(error.value.got).rpartition("log: ")[2].rstrip(")"))
    assert "error:" in log.read_text()
    table = read_table(done)
    assert set(table["arm"]) == {*STUDY["arms"], "late"}
    assert set(table["seed"]) == {0}
    assert json.loads((done / "study.json").read_text())["failed"] == ["arm 'bad', seed 0"]


def test_folders_of_something_else_are_refused(done: Path, run: Run) -> None:
    with pytest.raises(FedCoWProError, match="holds the study 'small'"):
        run("undisturbed", name="another")
    other = done.parent / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    with pytest.raises(FedCoWProError, match="not empty"):
        run("other")
    with pytest.raises(FedCoWProError, match=r"(?s)not empty.*another --store"):
        run("new", store=other)
    with pytest.raises(FedCoWProError, match="at least 1"):
        run("undisturbed", workers=0)


def test_one_process_works_in_a_folder(done: Path, run: Run) -> None:
    with locked(done), pytest.raises(FedCoWProError, match="another process works in"):
        run("undisturbed")


def test_a_study_waits_for_the_one_that_works_in_their_store(
    done: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "import sys; from pathlib import Path; from fedcowpro.study.lock import locked\n"
    code += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code, str(done)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    said: list[str] = []
    thread = threading.Thread(target=run, args=("waiting",), kwargs={"store": done, "name": "waiting"})
    thread.start()
    while not any("this one waits" in text for text in said):
        said.append(capfd.readouterr().err)
        time.sleep(0.01)
    assert f"Another study works in {done}" in "".join(said)
    assert not (done.parent / "waiting" / "table.csv").exists()
    holder.stdin.close()
    holder.wait()
    thread.join()
    assert len(read_table(done.parent / "waiting").groupby(["arm", "seed"])) == 6


def test_a_job_that_is_killed_stops_no_other(tmp_path: Path) -> None:
    """A process that the system ends, for want of memory for example."""
    jobs = [
        StudyJob(
            key=key, config=ExperimentConfig(), sites={}, folder=tmp_path, log=tmp_path / f"{key}.log", scorings=()
        )
        for key in ("first", "second")
    ]
    killed: list[BaseProcess] = []

    def kill(_: object) -> None:
        if not killed:
            killed.extend(multiprocessing.active_children())
            killed[0].kill()

    (failure,) = run_jobs(jobs, 1, tmp_path, on_look=kill)
    assert failure.job == jobs[0]
    assert "ended by signal 9" in failure.reason
    assert jobs[1].log.is_file()
