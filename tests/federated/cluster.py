"""A federation of real processes on 127.0.0.1: SuperLink, proxy and SuperNodes, started by the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from fedcowpro.config import ExperimentConfig
from fedcowpro.federated.deployment.layout import Coordinator, FederationFile
from fedcowpro.federated.deployment.programs import end
from fedcowpro.federated.deployment.provision import init_federation
from fedcowpro.federated.deployment.site import free_port

HERE = Path(__file__).parent
PATIENCE = 600.0  # seconds, of a machine that is busy with other things


class Cluster:
    """`sites` take part; `missing` are in the federation and never come."""

    def __init__(self, root: Path, sites: Mapping[str, Path], missing: tuple[str, ...] = ()) -> None:
        self.root, self.sites = root, dict(sites)
        self.federation, self.faults = root / "federation", root / "faults"
        self.faults.mkdir(parents=True)
        names = (*self.sites, *missing)
        self.settings = FederationFile(
            hosts=("127.0.0.1",), listen="127.0.0.1", port=free_port(), superlink_port=free_port(), sites=names
        )
        init_federation(self.federation, self.settings)
        self.coordinator = Coordinator(self.federation)
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def start(self) -> None:
        self.serve()
        for site in self.sites:
            bundle = str(self.coordinator.bundle(site))
            self._start(site, ["join", bundle, "--site-folder", str(self.sites[site]), "--run"])
        for site in self.sites:
            self.wait(lambda site=site: "SuperNode ID" in self.log(site), f"site {site}")  # type: ignore[misc]

    def serve(self) -> None:
        self._start("server", ["serve", str(self.federation)])
        self.wait(lambda: "sites reach" in self.log("server"), "server")

    def stop(self) -> None:
        end(list(self._processes.values()))

    def log(self, name: str) -> str:
        file = self.root / f"{name}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def wait(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert time.monotonic() < deadline, f"{what}: {self.log('server')[-3000:]}"
            time.sleep(0.2)

    def misbehave(self) -> None:
        """From now on the federation's app has a sites' part that does what faults.json says."""
        file = self.coordinator.app / "pyproject.toml"
        text = file.read_text().replace("fedcowpro.federated.site.client_app:app", "faulty_site:app")
        assert "faulty_site:app" in text
        file.write_text(text)

    def federate(
        self, config: ExperimentConfig, out: Path, *sites: str, options: tuple[str, ...] = ()
    ) -> subprocess.Popen[str]:
        """The user's command, started."""
        file = self.root / f"{out.name}.yaml"
        file.write_text(json.dumps(config.model_dump(mode="json")))
        words = ["federate", str(file), "--engine", "deploy", "--federation", str(self.federation), "--out", str(out)]
        chosen = [word for site in sites for word in ("--site", site)]
        return self._start(f"federate-{out.name}", [*words, *chosen, *options], group=())

    @staticmethod
    def words(*given: str) -> list[str]:
        return [sys.executable, "-m", "fedcowpro.cli", *given]

    def kill(self, *words: str) -> None:
        """kill -9 of the one process whose command line has all these words."""
        found = [pid for pid, line in command_lines().items() if all(word in line for word in words)]
        assert len(found) == 1, (words, found)
        os.kill(found[0], signal.SIGKILL)

    def _start(self, name: str, words: list[str], group: tuple[str, ...] = ("federation",)) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        more = {"PYTHONPATH": path, "FEDCOWPRO_TEST_FAULTS": str(self.faults), "OMP_NUM_THREADS": "1"}
        more |= {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1", "COLUMNS": "500"}
        with (self.root / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                self.words(*group, *words),
                env={**os.environ, **more}, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            )  # fmt: skip
        self._processes[name] = process
        return process


def command_lines() -> dict[int, str]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found
