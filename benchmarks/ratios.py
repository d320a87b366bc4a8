"""Times and ratios within one run, each with the limit that `make bench` holds it against."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

COLLECTED = "FEDCOWPRO_RATIOS"  # the file in which `all.py` finds them


def ratio(what: str, value: float, against: str, other: float, limit: float, unit: str = "CPU s") -> None:
    """Print `value` / `other`, which should be at most `limit`; both in `unit`."""
    row = {"what": what, "value": value, "against": against, "other": other, "unit": unit, "limit": limit}
    row["ratio"] = value / other
    print(f"{what}: {value:.3g} {unit}, {row['ratio']:.3g} x {against} (at most {limit:g})", flush=True)
    if COLLECTED in os.environ:
        with open(os.environ[COLLECTED], "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def peak_memory() -> float:
    """Largest resident set of this program so far, MiB (Linux).

    Not getrusage's: what the process that started this one had before counts there, too.
    """
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


class Seconds(NamedTuple):
    """Of a clock; and of the processor, of all threads: these hardly depend on what else the machine does."""

    clock: float
    cpu: float


def median_seconds(action: Callable[[], object], repeats: int = 3) -> Seconds:
    """Medians of several runs, after one that does not count."""
    action()
    times = []
    for _ in range(repeats):
        started, cpu = time.perf_counter(), time.process_time()
        action()
        times.append((time.perf_counter() - started, time.process_time() - cpu))
    return Seconds(*map(statistics.median, zip(*times, strict=True)))
