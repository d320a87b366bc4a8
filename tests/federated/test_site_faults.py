"""Sites that come, go, are late, lie about themselves or say too much; updates of odd size; a full disk."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedcowpro.config import ExperimentConfig, FederationConfig
from fedcowpro.core.device import reproducible
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.monitoring.rounds import RoundRecord, append_round, read_rounds
from fedcowpro.federated.run import federate
from fedcowpro.federated.server import exchange as exchange_module
from fedcowpro.federated.server.client_registry import ClientRegistry
from fedcowpro.federated.server.exchange import exchange
from fedcowpro.federated.server.in_process_grid import InProcessGrid
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.federated.server.server_app import serve
from fedcowpro.federated.server.update_limits import limit_updates
from fedcowpro.federated.site import client_app
from fedcowpro.federated.transport import messages as records
from fedcowpro.federated.transport.site_errors import SiteError, sanitised, without_paths
from fedcowpro.model.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

Experiment = Callable[..., ExperimentConfig]
Sites = dict[str, Path]
Finished = Callable[[ExperimentConfig], Path]


class FarGrid:
    """Sites behind a network, as the server sees them: they may be away, answer late, or be answered for."""

    def __init__(self, sites: Sites) -> None:
        self.inner = InProcessGrid(client_app.app, {name: self._node(name, path) for name, path in sites.items()})
        self.names = dict(zip(self.inner.get_node_ids(), sorted(sites), strict=True))
        self.away: dict[str, Iterable[int]] = {}
        self.registered: dict[str, str] = {}
        self.activated: dict[str, str] = {}
        self.spoil: Callable[[str, Message], Message | None] = lambda site, reply: reply
        self.asked: list[str] = []
        self.looks = 0

    @staticmethod
    def _node(name: str, path: Path) -> dict[str, str]:
        return {"site-name": name, "site-path": str(path)}

    def get_nodes(self) -> list[Any]:
        self.looks += 1
        return [
            SimpleNamespace(
                node_id=node, name=self.registered.get(site, ""), last_activated_at=self.activated.get(site, "")
            )
            for node, site in self.names.items()
            if self.looks not in self.away.get(site, ())
        ]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        self.waiting = {f"{number}": message for number, message in enumerate(messages)}
        self.asked += [f"{m.metadata.message_type} {self.names[m.metadata.dst_node_id]}" for m in self.waiting.values()]
        return list(self.waiting)

    def pull_messages(self, keys: Iterable[str]) -> list[Message]:
        found = []
        for key in keys:
            message = self.waiting[key]
            reply = next(iter(self.inner.send_and_receive([message])))
            spoilt = self.spoil(self.names[message.metadata.dst_node_id], reply)
            if spoilt is not None:
                spoilt.metadata.__dict__["_reply_to_message_id"] = key  # as engines do
                found.append(spoilt)
        return found


def run(grid: FarGrid, config: ExperimentConfig, sites: Sites, out: Path) -> list[RoundRecord]:
    entries = [{"name": name} for name in sorted(sites)]
    config = ExperimentConfig.model_validate({**config.model_dump(), "sites": entries})
    with reproducible(1):
        serve(grid, config, RunFolder(out), True)  # type: ignore[arg-type]
    return read_rounds(out / "metrics.jsonl")


def test_engines_far_and_near_give_the_same_weights(
    sites: Sites, experiment: Experiment, finished: Finished, tmp_path: Path
) -> None:
    run(FarGrid(sites), experiment(), sites, tmp_path / "far")
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "far" / name).read_bytes() == (finished(experiment()) / name).read_bytes()


def test_a_site_may_come_late_and_go(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    grid = FarGrid(sites)
    grid.away = {"gamma": (1, 2), "beta": (4,)}  # looks: before the first round, then one for each
    config = experiment(rounds=4, min_sites=2, join_timeout=1e-6)
    found = run(grid, config, sites, tmp_path)
    gone = [{"gamma": "not connected"}, {}, {"beta": "not connected"}, {}]
    assert [record.left_out for record in found] == gone
    assert [len(record.sites) for record in found] == [2, 3, 2, 3]
    assert sorted(json.loads((tmp_path / "run.json").read_text())["sites"]) == sorted(sites)
    assert load_checkpoint(tmp_path)[1]["data"]["sites"] == 3


def test_a_site_that_was_late_may_be_away_when_the_run_resumes(
    sites: Sites, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = experiment(rounds=3, min_sites=2, join_timeout=1e-6)
    grid = FarGrid(sites)
    grid.away = {"gamma": (1, 2)}
    real = RunFolder.commit

    def commit(self: RunFolder, number: int, *rest: Any) -> None:
        if number == 3:
            raise KeyboardInterrupt
        real(self, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "commit", commit)
        with pytest.raises(KeyboardInterrupt):
            run(grid, config, sites, tmp_path)
    grid = FarGrid(sites)
    grid.away = {"alpha": range(1, 9)}
    found = run(grid, config, sites, tmp_path)
    assert [record.left_out for record in found][1:] == [{}, {"alpha": "not connected"}]


def test_too_few_sites_end_the_run_before_it_starts(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    grid = FarGrid(sites)
    grid.away = {"gamma": range(1000)}
    with pytest.raises(FedCoWProError, match=r"2 of 3 sites are ready; site 'gamma': not connected"):
        run(grid, experiment(join_timeout=1e-6), sites, tmp_path)
    assert not (tmp_path / "run.json").exists()


def of_facts(change: Callable[[RecordDict], None]) -> Callable[[str, Message], Message]:
    def spoil(site: str, reply: Message) -> Message:
        if site == "beta" and records.FACTS in reply.content:
            change(reply.content)
        return reply

    return spoil


UNFIT = {
    "version": (lambda c: c["versions"].update({"fedcowpro": "0.0.9"}), "another version: fedcowpro 0.0.9, here"),
    "no version": (lambda c: c.pop("versions"), "another version: fedcowpro None"),
    "facts": (lambda c: c["facts"].update({"more": 1}), "not one of this program: .more. is 1"),
    "name": (lambda c: c["facts"].update({"name": "alpha"}), "site 'alpha': another node has this name"),
    "stranger": (lambda c: c["facts"].update({"name": "delta"}), "site 'delta': not one of the expected sites"),
    "slices": (lambda c: c["facts"].update({"train_slices": -5}), "'train_slices' is -5"),
    "type": (lambda c: c["facts"].update({"train_slices": "many"}), "'train_slices' is 'many'"),
    "list": (lambda c: c["facts"].update({"cases": [1, 2]}), r"'cases' is \[1, 2\]"),
    "text": (lambda c: c["facts"].update({"size": "64"}), "'size' is '64'"),
    "no JSON": (lambda c: c["facts"].update({"settings": "{not json"}), "'settings' is '{not json'"),
    "modality": (lambda c: c["facts"].update({"modality": "<b>x\x1b[2J</b>"}), r"'modality' is"),
    "number": (lambda c: c["facts"].update({"name": 7}), "'name' is 7"),
    "dots": (lambda c: c["facts"].update({"name": ".."}), r"'name' is '\.\.'"),
    "long": (lambda c: c["facts"].update({"digest": "a" * 10**6}), r"'digest' is 'a+\.\.\."),
    "lists of versions": (lambda c: c["versions"].update({"fedcowpro": [1, 2]}), "another version"),
    "size": (
        lambda c: c["facts"].update({"size": 96}),
        "beta': its slices have 96 pixels a side, those of most sites have 64",
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_site_that_does_not_fit_is_left_out_with_the_reason(
    sites: Sites, experiment: Experiment, tmp_path: Path, kind: str
) -> None:
    change, words = UNFIT[kind]
    grid = FarGrid(sites)
    grid.spoil = of_facts(change)
    with pytest.raises(FedCoWProError, match=words):
        run(grid, experiment(join_timeout=1e-6), sites, tmp_path / "all")
    found = run(grid, experiment(rounds=1, join_timeout=1e-6, min_sites=2), sites, tmp_path / "some")
    assert [site.site for site in found[0].sites] == ["alpha", "gamma"]
    assert list(found[0].left_out) == ["beta"]


def test_a_site_is_who_its_key_says(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    grid = FarGrid(sites)
    grid.registered = {"alpha": "alpha", "beta": "gamma", "gamma": "gamma"}
    with pytest.raises(FedCoWProError, match="its key is registered for 'gamma', it calls itself 'beta'"):
        run(grid, experiment(), sites, tmp_path)


def test_a_site_that_comes_back_is_asked_again(sites: Sites) -> None:
    grid, registry = FarGrid(sites), ClientRegistry(sorted(sites))
    config = FederationConfig()
    registry.gather(grid, config)  # type: ignore[arg-type]
    registry.update(grid)  # type: ignore[arg-type]
    assert len(grid.asked) == 3
    grid.activated["beta"] = "later"
    registry.update(grid)  # type: ignore[arg-type]
    assert grid.asked[3:] == ["query beta"]
    grid.activated["beta"] = "still later"
    grid.spoil = of_facts(lambda content: content["facts"].update({"digest": "0" * 32}))
    registry.update(grid)  # type: ignore[arg-type]
    assert registry.absent() == {"beta": "its data are not as they were when the run started"}


class Clock:
    """Time that passes where somebody sleeps, and nowhere else."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_late_and_dead_nodes_are_named(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(exchange_module, "time", clock)
    grid = FarGrid(sites)

    def spoil(site: str, reply: Message) -> Message | None:
        if site == "alpha":
            return None  # never answers
        if site == "beta":  # the server answers for it, under its own number
            answer = Message(Error(5, "node is gone"), reply_to=Message(RecordDict(), 1, "query"))
            assert answer.metadata.src_node_id == 1
            return answer
        return reply

    grid.spoil = spoil
    messages = [Message(RecordDict(), node, "query") for node in grid.names]
    replies = list(exchange(grid, messages, timeout=30))  # type: ignore[arg-type]
    assert clock.now == pytest.approx(30)  # until the deadline, and no longer
    found = {grid.names[one.metadata.src_node_id]: records.failure(one) if one.has_error() else "" for one in replies}
    assert found == {"beta": "node is gone", "gamma": "", "alpha": "no reply within 30 s"}


def test_a_message_that_the_engine_refuses_is_a_failed_site(sites: Sites) -> None:
    grid = FarGrid(sites)
    real = grid.push_messages
    grid.push_messages = lambda messages: [None, *real(messages)[1:]]  # type: ignore[method-assign,list-item]
    messages = [Message(RecordDict(), node, "query") for node in grid.names]
    replies = list(exchange(grid, messages))  # type: ignore[arg-type]
    assert [one.has_error() for one in replies] == [True, False, False]
    assert records.failure(replies[0]) == "the message could not be delivered"


BEFORE = {"w": np.zeros(4, np.float32), "norm.running_var": np.ones(4, np.float32), "count": np.zeros((), np.int64)}


def moved(by: float, statistics: float = 0.1) -> dict[str, np.ndarray]:
    after = {"w": BEFORE["w"] + np.float32(by / 2), "norm.running_var": BEFORE["norm.running_var"]}
    after["norm.running_var"] = after["norm.running_var"] + np.float32(statistics / 2)
    return {**after, "count": np.ones((), np.int64)}


def test_no_limit_changes_nothing() -> None:
    replies = {"a": moved(1), "b": moved(1e6)}
    kept, notes = limit_updates(BEFORE, replies, FederationConfig(update_limits="off"), 1.0)
    assert (kept, notes) == (replies, {})


def test_updates_beyond_a_limit_are_left_out_or_scaled_down() -> None:
    replies = {"a": moved(1), "b": moved(1.2), "c": moved(30), "d": moved(1.1, statistics=50)}
    kept, notes = limit_updates(BEFORE, replies, FederationConfig(norm_factor=3))
    assert list(kept) == ["a", "b"]
    assert notes["c"] == "rejected: norm of the update 30 above 3.45 (3 times the round's median)"
    assert "running statistics 50 above 0.3" in notes["d"]
    kept, notes = limit_updates(
        BEFORE, replies, FederationConfig(max_update_norm=2, norm_rule="clip", update_limits="off")
    )
    assert list(kept) == list(replies)
    assert list(notes) == ["c"]
    change = kept["c"]["w"] - BEFORE["w"]
    assert np.linalg.norm(change) == pytest.approx(2, rel=1e-5)
    assert kept["c"]["w"].dtype == np.float32
    assert kept["c"]["norm.running_var"] == pytest.approx(1 + 0.05 * 2 / 30)
    assert kept["c"]["count"] == 1


def test_two_sites_have_no_median_to_go_by() -> None:
    kept, notes = limit_updates(BEFORE, {"a": moved(1), "b": moved(100)}, FederationConfig(norm_factor=2))
    assert (len(kept), notes) == (2, {})


@pytest.mark.parametrize("rule", ["reject", "clip"])
def test_an_outlying_site_is_in_the_record(sites: Sites, experiment: Experiment, tmp_path: Path, rule: str) -> None:
    grid = FarGrid(sites)

    def spoil(site: str, reply: Message) -> Message:
        if site == "beta" and records.METRICS in reply.content:
            arrays = records.to_tensors(reply.content["arrays"])
            arrays["project.weight"] += 100
            reply.content["arrays"] = records.to_record(arrays)
        return reply

    grid.spoil = spoil
    found = run(grid, experiment(rounds=2, min_sites=2, norm_factor=5, norm_rule=rule), sites, tmp_path)
    for record in found:
        named = record.clipped if rule == "clip" else record.left_out
        assert list(named) == ["beta"]
        assert ("clipped" if rule == "clip" else "rejected") in named["beta"]
        assert len(record.sites) == (3 if rule == "clip" else 2)
    if rule == "reject":
        with pytest.raises(FedCoWProError, match=r"usable replies of 2 of 3 sites; site 'beta': rejected"):
            run(grid, experiment(norm_factor=5), sites, tmp_path / "all")


def test_records_of_earlier_versions_are_read(tmp_path: Path) -> None:
    append_round(tmp_path / "m.jsonl", RoundRecord(1, (), {}, 0.5, {"a": "clipped"}))
    assert read_rounds(tmp_path / "m.jsonl")[0].clipped == {"a": "clipped"}
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    del lines[-1]["clipped"]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_rounds(tmp_path / "m.jsonl")[0].clipped == {}


PATHS = {
    "[Errno 2] No such file or directory: '/data/Jane Doe/scan 1.nii'": "[Errno 2] No such file or directory: <path>",
    "cannot read /srv/site/cases/7/image.npy: truncated": "cannot read <path>: truncated",
    "see ~/data/a.npy, please": "see <path>, please",
    r"C:\Users\jane\a.npy is damaged": "<path> is damaged",
    "site /hospital one/ct/cases/3: empty": "site <path>: empty",
    "loss is 3/4, lr 1e-3; and/or": "loss is 3/4, lr 1e-3; and/or",
    "float32 (1,), expected (2,)": "float32 (1,), expected (2,)",
}


@pytest.mark.parametrize("text", PATHS)
def test_paths_are_taken_out(text: str) -> None:
    assert without_paths(text, ("/hospital one/ct",)) == PATHS[text]


def test_no_error_of_a_site_names_a_path(sites: Sites, experiment: Experiment, tmp_path: Path) -> None:
    grid = InProcessGrid(client_app.app, {"a": {"site-name": "a", "site-path": str(tmp_path / "Jane Doe" / "ct")}})
    arrays = ArrayRecord({})
    settings = ConfigRecord({"experiment": experiment().model_dump_json(), "server-round": 1})
    for content, kind in ((RecordDict(), "query"), (RecordDict({"arrays": arrays, "config": settings}), "train")):
        reason = next(iter(grid.send_and_receive([Message(content, 2, kind)]))).error.reason
        assert reason
        assert "Jane" not in reason
        assert str(tmp_path) not in reason
        assert "<path>" in reason
    app = ClientApp()

    @app.query()
    @sanitised
    def broken(message: Message, context: Context) -> Message:
        raise PermissionError(13, "Permission denied", "/root/secret")

    context = Context(1, 2, {}, RecordDict(), {})
    with pytest.raises(SiteError, match=r"PermissionError: \[Errno 13\] Permission denied: <path>"):
        app(Message(RecordDict(), 2, "query"), context)


def test_a_carried_exception_is_worded_alike() -> None:
    message = Message(RecordDict(), 2, "query")
    carried = "<class 'fedcowpro.federated.transport.site_errors.SiteError'>:<'OSError: disk full'>"
    for reason in (carried, "SiteError: OSError: disk full"):
        assert records.failure(Message(Error(2, reason), reply_to=message)) == "OSError: disk full"


@pytest.mark.skipif(sys.platform != "linux", reason="the size of files is limited as Linux does it")
def test_a_full_disk_ends_a_run_that_can_go_on(
    sites: Sites, experiment: Experiment, finished: Finished, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(experiment(rounds=2).model_dump(mode="json")))
    out = tmp_path / "run"
    words = [sys.executable, "-m", "fedcowpro.cli", "federate", str(config), "--out", str(out)]
    words += [word for name, path in sites.items() for word in ("--site", f"{name}={path}")]
    size = 8_000  # bytes; the settings fit, the weights do not

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    done = subprocess.run(words, capture_output=True, text=True, timeout=300, preexec_fn=limit, check=False)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(out.rglob("*.safetensors"))
    resumed = federate(experiment(rounds=2), sites, out, progress=False)
    assert resumed.read_bytes() == (finished(experiment(rounds=2)) / "model.safetensors").read_bytes()
