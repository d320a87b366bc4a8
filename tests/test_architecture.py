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
# Who may import whom, besides itself and the package's version; the longest fitting name on the left counts.
ALLOWED = {
    "": "oneshot",
    "errors": "",
    "config_base": "errors",
    "config_privacy": "config_base",
    "config_federation": "config_base config_privacy",
    "config_training": "config_base",
    "config": "errors config_base config_federation config_privacy config_training",
    "volume": "errors config",
    "data": "errors config volume",
    "nn": "errors config",
    "losses": "errors config nn",
    "checkpoint": "errors config nn",
    "allocator": "",
    "train": "errors allocator config nn losses data.episodes",
    "package": "",
    "audit": "errors",
    "config_policy": "config_base",
    "privacy": "errors config",
    "federated": "errors config config_policy package audit data nn checkpoint train model_card privacy evaluate infer",
    "evaluate.overlap": "errors",
    "evaluate.surface": "errors evaluate.overlap",
    "evaluate.metrics": "errors evaluate.overlap evaluate.surface",
    "evaluate.statistics": "errors evaluate.metrics",
    "evaluate.protocol": "errors evaluate.metrics",
    "postprocess": "errors config",
    "guidance": "errors config",
    "threads": "",
    "example_slices": "errors evaluate.protocol",
    "infer": "config data.appearance nn postprocess guidance threads",
    "confidence": "errors config volume example_slices infer evaluate.overlap",
    "interactive": "errors config volume postprocess guidance threads example_slices infer confidence",
    "adapt": "errors config nn train",
    "load": "errors config nn checkpoint infer",
    "segment_record": "config checkpoint",
    "preview": "checkpoint evaluate.overlays",
    "segment": "errors config volume infer interactive segment_record preview",
    "prediction": "volume interactive",
    "own_volumes": "errors config volume data nn adapt",
    "oneshot": "errors config volume checkpoint interactive load own_volumes prediction",
    "evaluate": "errors config volume data nn postprocess guidance example_slices infer load",
    "model_card": "errors checkpoint evaluate.metrics evaluate.protocol evaluate.statistics",
    "show": "errors checkpoint evaluate.episodes evaluate.protocol federated.folder model_card show_study show_text",
    "show_study": "checkpoint evaluate.episodes federated.folder study.table show_text",
    "show_text": "",
    "study": "errors config volume data nn checkpoint federated infer load evaluate",
    "compare": "errors data evaluate infer load study",
    "demo_data": "errors config volume data",
    "demo_page": "errors config data evaluate demo_data",
    "demo": "errors config volume data checkpoint federated infer load segment evaluate demo_data demo_page",
    "serve": "errors config volume infer interactive load",
    "cli": "errors config config_policy package audit volume data nn federated postprocess infer load segment "
    "segment_record serve evaluate study compare show model_card demo",
}
LINES = 260


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
    assert "demo" in own(modules()["cli.models"])
    assert "demo" not in own(modules()["cli.models"], lazy=False)


def libraries(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)}


@pytest.mark.parametrize("module", modules())
def test_libraries_stay_where_they_belong(module: str) -> None:
    used = libraries(modules()[module])
    if group(module) != "federated":
        assert "flwr" not in used
    with_torch = ("nn", "losses", "checkpoint", "train", "federated", "postprocess", "guidance", "infer", "load")
    with_torch += ("evaluate.run", "data.augment", "data.appearance", "data.episodes", "demo", "cli", "study.worker")
    with_torch += ("adapt", "threads", "evaluate.support")
    if not any(module == name or module.startswith(f"{name}.") for name in with_torch):
        assert "torch" not in used


def test_importing_a_module_does_not_load_what_it_does_not_need() -> None:
    """In one new process, modules with few needs first: `--help` answers at once, workers start quickly."""
    steps = [
        ("cli", ("torch", "flwr", "pandas", "nibabel", "matplotlib")),
        ("data.prepare", ("torch", "flwr")),
        ("evaluate.overlap", ("torch", "flwr")),
        ("evaluate.protocol", ("torch", "flwr")),
        ("compare.page", ("torch", "flwr")),
        ("train", ("flwr",)),
        ("segment", ("flwr",)),
        ("evaluate.run", ("flwr",)),
    ]
    code = "import importlib, sys\n"
    for module, unwanted in steps:
        code += f"importlib.import_module('fedcowpro.{module}')\n"
        code += f"print('{module}', [name for name in {unwanted!r} if name in sys.modules])\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{module} []" for module, _ in steps]


@pytest.mark.parametrize("module", modules())
def test_modules_are_short_and_say_what_they_are(module: str) -> None:
    text = modules()[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    if text.strip():
        assert ast.get_docstring(ast.parse(text))
