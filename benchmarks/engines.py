"""Seconds per round with each engine, against the bare local training; the server's memory against the number of sites.

    python benchmarks/engines.py [--engines process,ray,flower,deploy] [--sites 4] [--rounds 4] [--encoder lite0]
    python benchmarks/engines.py --memory 1,2,5,10,20 [--plot memory.png]

All sites have the same synthetic patients under different names. The local training is what the sites themselves
measure (the sum of their `fit`), in the same run, so the ratio of a round to it hardly depends on what else the machine
does. Equal weights have equal digests. The first round, in which processes start, stands by itself. On several cores
Ray and SuperNodes train sites at the same time: their ratio may be below 1. For `deploy` SuperLink, proxy and
SuperNodes run as processes on this machine (nginx is needed); `flower` is the same with `fast: false`, Flower's own
way. `beside` is what a warm round takes beside the training: beside the longest one of a site, where they train at the
same time. `cores` are seconds of a core that all its processes spend on a warm round, training included: what is more
than with `process` is the engine's, and it hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import yaml
from ratios import peak_memory, ratio

from fedcowpro.config import ExperimentConfig, FederationConfig, ModelConfig, PrepareConfig, TrainConfig
from fedcowpro.data.phantom import write_site
from fedcowpro.data.preparation.prepare import prepare
from fedcowpro.federated.deployment.layout import FederationFile
from fedcowpro.federated.deployment.programs import end, until_stopped
from fedcowpro.federated.deployment.provision import init_federation
from fedcowpro.federated.deployment.site import free_port
from fedcowpro.federated.deployment.submit import federate_deployed
from fedcowpro.federated.monitoring.rounds import read_rounds
from fedcowpro.federated.run import federate
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.model.segmenter import build_model

ENGINES = ("process", "ray", "flower", "deploy")
MEMORY = 1.1  # of the last number of sites to the first
LIMITS = {"process": 1.5, "ray": 3.0, "flower": 50.0, "deploy": 8.0}  # of a warm round to its training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4, help="at least 2: the first is reported by itself")
    parser.add_argument("--steps", type=int, default=5, help="local steps of 4 episodes")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--encoder", default="lite0")
    parser.add_argument("--memory", help="numbers of sites, as 1,2,5,10,20: peak memory of a run in one process")
    parser.add_argument("--plot", type=Path, help="picture of --memory")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(Path(options.child[0]), int(options.child[1]))
        return
    with until_stopped(), tempfile.TemporaryDirectory(prefix="engines-") as folder:
        root = Path(folder)
        counts = [int(text) for text in options.memory.split(",")] if options.memory else []
        sites = _sites(root, max([options.sites, *counts]), options.size)
        config = _config(options)
        parameters = sum(one.numel() for one in build_model(config.model, 0, pretrained=False).parameters())
        print(f"{options.encoder}: {parameters / 1e6:.1f} million parameters; {os.cpu_count()} cores")
        if counts:
            _memory(root, config, counts, options.plot)
            return
        chosen = dict(list(sites.items())[: options.sites])
        numbers = f"{'first round':>13}{'warm round':>12}{'training':>10}{'beside':>9}{'ratio':>8}{'cores':>9}"
        print(f"{'engine':10}{numbers}{'MB a message':>14}  digest")
        for engine in options.engines.split(","):
            print(_row(engine, _timed(engine, config, chosen, root), options.encoder), flush=True)


def _config(options: argparse.Namespace) -> ExperimentConfig:
    return ExperimentConfig(
        threads=1,
        model=ModelConfig(encoder=options.encoder),
        train=TrainConfig(batch=4),
        federation=FederationConfig(rounds=options.rounds, local_steps=options.steps, join_timeout=600),
    )


def _sites(root: Path, count: int, size: int) -> dict[str, Path]:
    """One site folder under many names."""
    write_site(root / "raw", "ct", (1, 2), size=size, depth=12)
    prepare(root / "raw", root / "site", PrepareConfig(modality="ct", size=size), workers=1, progress=False)
    return {f"site{number:02d}": root / "site" for number in range(count)}


def _timed(
    engine: str, config: ExperimentConfig, sites: dict[str, Path], root: Path
) -> tuple[list[float], float, Path]:
    """Seconds of each round, core seconds of a warm one, and the run folder."""
    out = root / f"run-{engine}"
    folder, seen, stop = RunFolder(out), [time.monotonic()], threading.Event()
    started = threading.Event()
    spent: list[float] = []

    def watch() -> None:
        while not stop.wait(0.02):
            if not started.is_set() and (out / "run.json").exists():
                seen[0] = time.monotonic()
                started.set()
            done = folder.completed()
            if done > len(seen) - 1:
                spent.append(_core_seconds(root))
            seen.extend([time.monotonic()] * (done - len(seen) + 1))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        if engine in ("flower", "deploy"):
            with _served(root / f"federation-{engine}", sites, engine == "deploy") as federation:
                federate_deployed(config, federation, out, say=lambda text: print(text, file=sys.stderr))
        else:
            federate(config, sites, out, progress=False, engine=engine)  # type: ignore[arg-type]
        time.sleep(0.1)
    finally:
        stop.set()
        watcher.join()
    return [after - before for before, after in pairwise(seen)], (spent[-1] - spent[0]) / (len(spent) - 1), out


def _core_seconds(root: Path) -> float:
    """Of this process, and of those whose command line or whose ancestors' has this folder."""
    own, lines = {os.getpid()}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
            numbers = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        lines[int(folder.name)] = (int(numbers[1]), sum(map(int, numbers[11:15])))
        if str(root).encode() in line:
            own.add(int(folder.name))
    while more := {pid for pid, (parent, _) in lines.items() if parent in own and pid not in own}:
        own |= more
    return sum(lines[pid][1] for pid in own if pid in lines) / os.sysconf("SC_CLK_TCK")


def _row(engine: str, timed: tuple[list[float], float, Path], encoder: str) -> str:
    rounds, cores, out = timed
    records = read_rounds(out / "metrics.jsonl")
    training = [sum(site.seconds for site in record.sites) for record in records]
    warm, bare = sum(rounds[1:]) / len(rounds[1:]), sum(training[1:]) / len(training[1:])
    longest = [max(site.seconds for site in record.sites) for record in records[1:]]  # they train at the same time
    beside = warm - (bare if engine == "process" else sum(longest) / len(longest))
    what, other = f"engine {engine}, {encoder}, a warm round", f"the training of its {len(records[0].sites)} sites"
    ratio(what, warm, other, bare, LIMITS[engine], "s")
    sent = records[0].sites[0].bytes_down / 1e6
    weights = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()[:12]
    numbers = f"{rounds[0]:11.1f} s{warm:10.2f} s{bare:8.2f} s{beside:7.2f} s{warm / bare:8.3f}{cores:7.2f} s"
    return f"{engine:10}{numbers}{sent:14.1f}  {weights}"


@contextmanager
def _served(root: Path, sites: dict[str, Path], fast: bool) -> Iterator[Path]:
    """Server and sites as processes."""
    settings = FederationFile(
        hosts=("127.0.0.1",), listen="127.0.0.1", port=free_port(), superlink_port=free_port(), sites=tuple(sites),
        fast=fast,
    )  # fmt: skip
    init_federation(root, settings)
    running: list[subprocess.Popen[str]] = []

    def launch(name: str, *words: str) -> None:
        command = [sys.executable, "-m", "fedcowpro.cli", "federation", *words]
        with (root / f"{name}.log").open("w") as log:
            running.append(
                subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True)
            )

    try:
        launch("server", "serve", str(root))
        while "sites reach" not in (root / "server.log").read_text():
            time.sleep(0.2)
        for name, path in sites.items():
            launch(
                name, "join", str(root / "bundles" / name), "--site-folder", str(path), "--run", "--node", "threads=1"
            )
        yield root
    finally:
        end(running)


def _memory(root: Path, config: ExperimentConfig, counts: list[int], plot: Path | None) -> None:
    """Peak memory of one round in one process, for each number of sites in a process of its own."""
    file = root / "config.yaml"
    federation = config.federation.model_copy(update={"rounds": 1})
    file.write_text(yaml.safe_dump(config.model_copy(update={"federation": federation}).model_dump(mode="json")))
    peaks = []
    for count in counts:
        command = [sys.executable, __file__, "--child", str(root), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{count:3d} sites: {peaks[-1]:.0f} MiB", flush=True)
    ratio(
        f"a federation in one process, memory, {counts[-1]} sites",
        peaks[-1],
        f"with {counts[0]}",
        peaks[0],
        MEMORY,
        "MiB",
    )
    if plot is not None:
        _draw(counts, peaks, plot)


def _child(root: Path, count: int) -> None:
    config = ExperimentConfig.model_validate(yaml.safe_load((root / "config.yaml").read_text()))
    sites = {f"site{number:02d}": root / "site" for number in range(count)}
    federate(config, sites, root / f"memory-{count}", progress=False)
    print(peak_memory())


def _draw(counts: list[int], peaks: list[float], plot: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.4), layout="constrained")
    axes.plot(counts, peaks, marker="o")
    axes.set(xlabel="sites", ylabel="peak memory (MiB)", ylim=(0, 1.25 * max(peaks)))
    axes.set_title("Server and sites in one process: memory does not grow with the number of sites", fontsize=9)
    axes.set_xticks(counts)
    axes.grid(alpha=0.3)
    figure.savefig(plot, dpi=120)


if __name__ == "__main__":
    main()
