"""The documents name commands, options and files that exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from fedcowpro import __version__
from fedcowpro.cli import app
from fedcowpro.config import ExperimentConfig, parse

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("docs/**/*.ipynb"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def commands(path: Path) -> list[list[str]]:
    """Command lines of the program in fenced blocks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip().startswith("fedcowpro ")]


def test_the_readme_walks_the_whole_way() -> None:
    assert {words[1] for words in commands(ROOT / "README.md")} >= {"prepare", "federate", "evaluate", "segment"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_exist(path: Path) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for words in commands(path):
        command = known[words[1]]
        if hasattr(command, "commands"):  # a group, as in `fedcowpro federation init`
            command = command.commands[words[2]]
        parameters = command.params
        options = {option for parameter in parameters for option in parameter.opts}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= options, words
        required = {parameter.opts[0] for parameter in parameters if parameter.required and parameter.opts[0][0] == "-"}
        assert required <= given, words
        for word in words:
            if word.startswith("configs/"):
                assert (ROOT / word).is_file()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_linked_files_exist(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (path.parent / link).exists(), link


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their code in order, as in a new folder; what it showed is not kept in the file."""
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 4
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    space: dict[str, object] = {}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{path.name}, code {number}", "exec"), space)
    assert len(list((tmp_path / "masks").glob("*_mask.nii.gz"))) == 2


def test_make_targets_of_the_readme_exist() -> None:
    targets = re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    rules = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {"demo", "test"} <= set(targets) <= set(rules)


def test_versions_agree() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"fedcowpro-{__version__}-py3" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_walk_through_has_the_settings_that_it_trains_with() -> None:
    text = (ROOT / "docs" / "federation.md").read_text(encoding="utf-8")
    settings = re.search(r"cat > config.yaml <<'END'\n(.*?)^END$", text, re.MULTILINE | re.DOTALL)
    assert settings is not None
    assert parse(ExperimentConfig, yaml.safe_load(settings[1]), "docs/federation.md").federation.rounds == 5
    assert text.index("config.yaml <<") < text.index("federate config.yaml")


@pytest.mark.slow
def test_the_documents_become_a_site_without_a_broken_link(tmp_path: Path) -> None:
    sphinx = pytest.importorskip("sphinx.cmd.build", reason="needs the extra 'docs'")
    assert sphinx.main(["-W", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path / "site")]) == 0
    pages = {page.stem for page in (tmp_path / "site").glob("*.html")}
    assert pages >= {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert "OneShotSegmenter" in (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
