"""The quick tests with the oldest and with the newest packages that pyproject.toml allows: `make compat`.

    python tests/try_versions.py [--only oldest,middle,newest] [--overwrite] [PYTEST ARGUMENT ...]

uv makes an environment for each below build/compat, with a Python that it finds on this machine. What is not named
runs as oldest and newest. UV_TORCH_BACKEND=cpu takes PyTorch's builds for CPUs; those of the package index are several
GB. Ends with code 1 where a test fails or an environment cannot be made.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Python, and whether uv takes the lowest or the highest version of what pyproject.toml names.
TRIED = {"oldest": ("3.11", "lowest-direct"), "middle": ("3.12", "highest"), "newest": ("3.13", "highest")}
QUICK = [
    "-m",
    "not deployment and not browser and not slow",
    "-n",
    "2",
    "--dist",
    "worksteal",
    "-p",
    "no:cacheprovider",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="oldest,newest")
    parser.add_argument("--overwrite", action="store_true", help="make the environments anew")
    options, rest = parser.parse_known_args()
    failed = [name for name in options.only.split(",") if not passes(name, options.overwrite, rest)]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def passes(name: str, overwrite: bool, rest: list[str]) -> bool:
    """Whether the tests pass with these versions."""
    python, resolution = TRIED[name]
    folder = ROOT / "build" / "compat" / name
    there = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    uv = [sys.executable, "-m", "uv"]
    if overwrite or not there.exists():
        subprocess.run([*uv, "venv", "--clear", "--python", python, str(folder)], check=True)
    # An environment that is there is brought to what pyproject.toml says now.
    install = [*uv, "pip", "install", "--python", str(there), "--resolution", resolution, "--editable", f"{ROOT}[dev]"]
    if subprocess.run(install).returncode:
        return False
    print(f"{name}: Python {python}, {resolution}", flush=True)
    subprocess.run([*uv, "pip", "list", "--python", str(there)], check=True)
    tests = [str(there), "-m", "pytest", *(rest or QUICK)]
    return subprocess.run(tests, cwd=ROOT, env=os.environ | {"FEDCOWPRO_FUZZ": "25"}).returncode == 0


if __name__ == "__main__":
    main()
