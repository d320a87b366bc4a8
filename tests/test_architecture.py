"""Imports point one way, heavy libraries stay where they belong, and modules stay short (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "fedcowpro"
# The rooms from the ground up, and which others each may import (docs/architecture.md).
# "" is the package's own face, which hands out names of several rooms on request.
ALLOWED = {
    "": "core data oneshot evaluation federated",
    "core": "",
    "config": "core",
    "volume": "core config",
    "model": "core config",
    "data": "core config volume",
    "training": "core config volume data model",
    "oneshot": "core config volume data model training",
    "evaluation": "core config volume data model oneshot",
    "federated": "core config data model training oneshot evaluation",
    "study": "core config volume data model oneshot evaluation federated",
    "reports": "core config volume data model oneshot evaluation federated study",
    "serve": "core config volume data model oneshot",
    "demo": "core config volume data model oneshot evaluation federated reports",
    "cli": "core config volume data model training oneshot evaluation federated study reports serve demo",
}
LINES = 400


@cache
def modules() -> dict[str, Path]:
    """Dotted name without the package -> file."""
    found = {}
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(file: Path, lazy: bool = True) -> set[str]:
    """Full names of all imported modules; with `lazy` also those inside functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if lazy else iter(tree.body)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import in line {node.lineno}"
            inner = {f"{node.module}.{alias.name}".removeprefix("fedcowpro.") for alias in node.names}
            known = {f"fedcowpro.{name}" for name in inner & modules().keys()}
            names |= known if len(known) == len(inner) else known | {str(node.module)}
    return names


def own(file: Path, lazy: bool = True) -> set[str]:
    """Imported modules of this package, without its name."""
    names = {name for name in imports(file, lazy) if name.split(".")[0] == "fedcowpro"}
    return {name.removeprefix("fedcowpro").removeprefix(".") for name in names}


def group(module: str) -> str:
    """The entry of ALLOWED that a module belongs to."""
    fitting = [name for name in ALLOWED if module == name or module.startswith(f"{name}.")]
    assert fitting, f"module '{module}' has no place yet: give it one in docs/architecture.md and in ALLOWED"
    return max(fitting, key=len)


@pytest.mark.parametrize("module", modules())
def test_imports_point_one_way(module: str) -> None:
    place = group(module)
    allowed = {place, "", *ALLOWED[place].split()}
    for target in own(modules()[module]):
        fits = any(target == name or (name and target.startswith(f"{name}.")) for name in allowed)
        assert fits, f"{module} imports {target}; it may import {sorted(allowed - {''})}"


def test_no_two_modules_import_each_other() -> None:
    graph = {name: own(file, lazy=False) & modules().keys() - {name} for name, file in modules().items()}
    TopologicalSorter(graph).prepare()


def test_the_table_itself_points_one_way() -> None:
    groups = {name: {group(target) for target in allowed.split()} - {name} for name, allowed in ALLOWED.items()}
    TopologicalSorter(groups).prepare()


def test_the_test_sees_imports_inside_functions() -> None:
    assert "demo.run" in own(modules()["cli.models"])
    assert "demo.run" not in own(modules()["cli.models"], lazy=False)


def libraries(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)}


@pytest.mark.parametrize("module", modules())
def test_libraries_stay_where_they_belong(module: str) -> None:
    used = libraries(modules()[module])
    if group(module) != "federated":
        assert "flwr" not in used
    with_torch = (
        "model",
        "training",
        "oneshot",
        "federated",
        "core.allocator",
        "core.device",
        "core.threads",
        "data.episodes",
    )
    with_torch += ("evaluation.run", "evaluation.support", "demo", "cli", "study.worker")
    if not any(module == name or module.startswith(f"{name}.") for name in with_torch):
        assert "torch" not in used


@pytest.mark.slow
def test_importing_a_module_does_not_load_what_it_does_not_need() -> None:
    """In one new process, modules with few needs first: `--help` answers at once, workers start quickly."""
    steps = [
        ("cli", ("torch", "flwr", "pandas", "nibabel", "matplotlib")),
        ("data.preparation.prepare", ("torch", "flwr")),
        ("core.overlap", ("torch", "flwr")),
        ("evaluation.protocol", ("torch", "flwr")),
        ("reports.comparison.page", ("torch", "flwr")),
        ("training.loop", ("flwr",)),
        ("oneshot.batch", ("flwr",)),
        ("evaluation.run", ("flwr",)),
    ]
    code = "import importlib, sys\n"
    for module, unwanted in steps:
        code += f"importlib.import_module('fedcowpro.{module}')\n"
        code += f"print('{module}', [name for name in {unwanted!r} if name in sys.modules])\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{module} []" for module, _ in steps]


@pytest.mark.slow
def test_the_package_and_its_segmenter_are_light() -> None:
    code = """
import sys
import fedcowpro
heavy = ("torch", "numpy", "pydantic", "scipy", "pandas", "skimage", "matplotlib", "flwr", "rich", "typer")
print([name for name in heavy if name in sys.modules])
from fedcowpro import FedCoWProError
print([name for name in heavy if name in sys.modules])
from fedcowpro import OneShotSegmenter
print([name for name in ("pandas", "skimage", "matplotlib", "flwr", "typer") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]"] * 3


@pytest.mark.parametrize("module", modules())
def test_modules_are_short_and_say_what_they_are(module: str) -> None:
    text = modules()[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    if text.strip():
        assert ast.get_docstring(ast.parse(text))
