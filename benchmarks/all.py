"""What the program costs, as ratios within one run, each with its limit: `make bench`.

    python benchmarks/all.py [--out build/bench] [--only training,metrics] [--threads 2] [--overwrite]

Each part is a process of its own. A part that was finished with the same versions is not run again without
--overwrite. Writes performance.md and performance.json with versions and facts of the machine. Ends with code 1 and
names what is over its limit or did not run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ratios import COLLECTED

from fedcowpro.core.files import write_atomic
from fedcowpro.core.versions import versions

HERE = Path(__file__).parent
# Script and arguments of each part; {threads} is filled in.
PARTS = {
    "training": "devices.py --device cpu --threads {threads} --size 256 --steps 20",
    "masks": "interactive.py --threads {threads}",
    "metrics": "metrics.py --threads {threads} --repeats 1",
    "volumes": "memory.py --few 8 --many 40 --size 128 --depth 16 --steps 3",
    "sites": "engines.py --memory 1,10 --encoder tiny --size 128",
    "server": "scale.py --sites 100,1000",
    "traffic": "traffic.py --models lite0",
    "engines": "engines.py --engines process,deploy --encoder tiny --sites 2 --rounds 3",
}
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args()
    here = {"versions": versions(), "machine": machine(), "threads": options.threads}
    options.out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Row] = {}
    names = options.only.split(",")
    for number, name in enumerate(names, 1):
        file = options.out / f"{name}.json"
        part = json.loads(file.read_text()) if file.exists() and not options.overwrite else {}
        if any(part.get(fact) != value for fact, value in here.items()):
            print(f"[{number}/{len(names)}] {name} ...", flush=True)
            part = {**here, **run(PARTS[name].format(threads=options.threads), options.out / name)}
            if part["code"] == 0:
                write_atomic(file, json.dumps(part, indent=2).encode())
        print(f"[{number}/{len(names)}] {name}: {part['seconds']:.0f} s", flush=True)
        parts[name] = part
    write_atomic(options.out / "performance.json", json.dumps(parts, indent=2).encode())
    text = table(parts, here)
    write_atomic(options.out / "performance.md", text.encode())
    print(f"\n{text}")
    wrong = [f"{name} ended with code {part['code']}: see {options.out / name}.log"
             for name, part in parts.items() if part["code"]]  # fmt: skip
    wrong += [f"{row['what']}: {row['ratio']:.3g}, at most {row['limit']:g}" for row in rows(parts) if over(row)]
    if wrong:
        raise SystemExit("Over the limit:\n" + "\n".join(f"  {line}" for line in wrong))


def run(words: str, log: Path) -> Row:
    """Ratios, exit code and seconds of one script; what it prints goes to the log."""
    found = log.with_suffix(".jsonl")
    found.unlink(missing_ok=True)
    script, *arguments = words.split()
    started = time.monotonic()
    with log.with_suffix(".log").open("w") as output:
        command = [sys.executable, str(HERE / script), *arguments]
        environment = os.environ | {COLLECTED: str(found.resolve())}
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment).returncode
    lines = found.read_text().splitlines() if found.exists() else []
    return {"command": words, "code": code, "seconds": time.monotonic() - started, "rows": list(map(json.loads, lines))}


def rows(parts: dict[str, Row]) -> list[Row]:
    return [row for part in parts.values() for row in part["rows"]]


def over(row: Row) -> bool:
    return not row["ratio"] <= row["limit"]


def table(parts: dict[str, Row], here: Row) -> str:
    """Markdown."""
    lines = ["| what | cost | ratio | of | limit |", "| -- | -- | -- | -- | -- |"]
    for row in rows(parts):
        ratio = f"**{row['ratio']:.3g}, over the limit**" if over(row) else f"{row['ratio']:.3g}"
        lines.append(
            f"| {row['what']} | {row['value']:.3g} {row['unit']} | {ratio} | {row['against']} | {row['limit']:g} |"
        )
    facts = [*here["machine"].items(), ("threads", here["threads"]), *here["versions"].items()]
    seconds = ", ".join(f"{name} {part['seconds']:.0f}" for name, part in parts.items())
    return "\n".join(lines) + f"\n\n{', '.join(f'{a} {b}' for a, b in facts)}. Seconds: {seconds}.\n"


def machine() -> dict[str, Any]:
    """Facts of the machine that no name of it tells."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count(), "processor": model}


if __name__ == "__main__":
    main()
