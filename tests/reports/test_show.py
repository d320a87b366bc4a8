"""`show`: what a run, a checkpoint and a table of results say of themselves, and that it can be done again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml

from common import TINY
from fedcowpro import __version__
from fedcowpro.cli import main
from fedcowpro.config import ExperimentConfig, FederationConfig, SiteConfig, TrainConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.episodes import Episode, Episodes, Example
from fedcowpro.evaluation.protocol import Row, write_results
from fedcowpro.federated.run import federate
from fedcowpro.federated.server.run_folder import CompleteRound, RunFolder
from fedcowpro.federated.site.local_training import SiteFacts
from fedcowpro.model.checkpoint import load_checkpoint, save_checkpoint
from fedcowpro.model.segmenter import build_model
from fedcowpro.reports.show import show

CONFIG = ExperimentConfig(
    seed=3,
    model=TINY,
    train=TrainConfig(batch=1),
    federation=FederationConfig(rounds=2, local_steps=1),
    sites=(SiteConfig(name="north", path=Path("sites/north")), SiteConfig(name="south")),
)
FACTS = [SiteFacts("north", "ct", 3, 30, 64, "d1" * 8, "{}"), SiteFacts("south", "mr", 2, 21, 64, "d2" * 8, "{}")]


def fields(text: str) -> dict[str, str]:
    """The lines of a summary that begin with a name."""
    return {
        name: value.strip()
        for name, value in (line.split("  ", 1) for line in text.splitlines() if line[0] != " " and "  " in line)
    }


def begun(path: Path, command: str | None = None) -> RunFolder:
    folder = RunFolder(path)
    folder.start(CONFIG, FACTS, resume=False, command=command)
    return folder


def a_table(path: Path) -> Path:
    rows = [Row("fedcowpro", 0, "north", case, "liver", "gt-range", 0.5, "north", "1", "3") for case in ("2", "3")]
    write_results(path, rows)
    return path


@pytest.mark.slow
def test_a_run_can_be_done_again_as_it_says(ct_site: Site, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"threads": 1})
    checkpoint = federate(config, {"north": ct_site.path}, tmp_path / "a run", progress=False)
    found = fields(show(tmp_path / "a run"))
    assert found["rounds"] == "2 of 2, finished"
    assert found["command"].startswith("federate(load(ExperimentConfig, Path(")
    assert str(ct_site.path) in found["command"]
    assert "MODEL_CARD.md" in found["also there"]
    program, *arguments = shlex.split(found["same again"])
    assert program == "fedcowpro"
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    again = Path(arguments[-1])
    digest = load_checkpoint(checkpoint)[1]["weights_digest"]
    assert digest in found["weights"]
    assert load_checkpoint(again)[1]["weights_digest"] == digest
    (tmp_path / "a run" / "MODEL_CARD.md").unlink()
    federate(config, {"north": ct_site.path}, tmp_path / "a run", progress=False)  # finished: only the card is written
    text = show(tmp_path / "a run")
    assert "MODEL_CARD.md" in fields(text)["also there"]
    assert yaml.safe_load(text.partition("config (")[2].partition("\n")[2])["seed"] == 3


def test_a_run_on_its_way_says_how_far_it_is(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", "fedcowpro federate first.yaml --out run")
    found = fields(show(folder.path))
    assert (found["rounds"], found["weights"]) == ("0 of 2, not finished", "none yet")
    assert found["command"] == "fedcowpro federate first.yaml --out run"
    assert found["same again"].endswith("--site south=FOLDER (in the folder that the sites' paths start from)")
    assert found["settings"] == f"digest {CONFIG.model_copy(update={'sites': ()}).digest()}"
    assert f"fedcowpro {__version__}" in found["versions"]
    state = build_model(TINY, 3).state_dict()
    folder.commit(1, state, {"model": TINY.model_dump(mode="json"), "seed": 3}, {})
    a_table(tmp_path / "run" / "inside.csv")
    a_table(tmp_path / "beside.csv")
    (tmp_path / "other.csv").write_text("a,b\n")
    text = show(folder.path)
    assert fields(text)["rounds"] == "1 of 2, not finished"
    assert "of round 1, checked" in fields(text)["weights"]
    lines = [line.split() for line in text.splitlines()]
    assert ["north", "ct", "3", "30", "64", "d1" * 8] in lines
    assert ["south", "mr", "2", "21", "64", "d2" * 8] in lines
    assert "inside.csv (no episode file)" in text
    assert "beside.csv (no episode file)" in text
    assert "other.csv" not in text
    record = json.loads((folder.path / "run.json").read_text())
    (folder.path / "run.json").write_text(json.dumps({**record, "format": "other"}))
    with pytest.raises(FedCoWProError, match="cannot be read"):
        show(folder.path)


def test_a_run_keeps_the_command_of_its_beginning(tmp_path: Path) -> None:
    folder = begun(tmp_path, "first")
    folder.start(CONFIG, FACTS, resume=True, command="second")
    assert folder.record()["command"] == "first"


def test_a_checkpoint_is_checked_and_names_its_run(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    card = {"model": TINY.model_dump(mode="json"), "seed": 3, "round": 2, "rounds": 2, "config_digest": "abc"}
    card["data"] = {"sites": 2, "modalities": {"ct": 1, "mr": 1}, "cases": 5, "train_slices": 51, "size": 64}
    folder.finish(CompleteRound(2, build_model(TINY, 3).state_dict(), {}), card)
    text = show(folder.model_file)
    found = fields(text)
    assert found["data"] == "5 cases and 51 slices of 2 sites (ct at 1, mr at 1)"
    assert (found["round"], found["seed"], found["settings"]) == ("2 of 2", "3", "digest abc")
    assert str(folder.path) in found["made by"]
    assert yaml.safe_load(text.partition("config (of its card)\n")[2])["model"]["encoder"] == "tiny"
    alone = tmp_path / "elsewhere" / "model.safetensors"
    save_checkpoint(alone, build_model(TINY, 3).state_dict(), {"model": {}, "seed": 1})
    assert fields(show(alone.parent))["data"] == "not recorded"
    assert "made by" not in fields(show(alone))
    folder.model_file.write_bytes(alone.read_bytes()[:-1])
    with pytest.raises(FedCoWProError, match="damaged"):
        show(folder.model_file)


def test_a_table_shows_its_episodes(tmp_path: Path) -> None:
    table = a_table(tmp_path / "results.csv")
    found = fields(show(table))
    assert found["results"].endswith("2 scores of 2 cases")
    assert (found["organs"], found["protocols"]) == ("liver", "gt-range")
    assert found["episodes"] == "no file results.episodes.json beside it"
    episode = Episode(
        site="north", support_slices=3, queries=("2", "3"), organs=("liver",),
        supports=(Example(site="north", case="1", slices={"liver": (4, 5, 6)}),),
    )  # fmt: skip
    Episodes(version=1, fedcowpro="0.1.0", digests={"north": "d1" * 8}, episodes=(episode,)).save(
        tmp_path / "results.episodes.json"
    )
    text = show(table)
    assert "d1" * 8 in text
    assert fields(text)["same again"].endswith("results.episodes.json --out NEW.csv --site north=FOLDER")


def test_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "other.csv").write_text("a,b\n")
    cases = {
        "": "none of these",
        "notes.txt": "none of these",
        "nowhere": "no file or folder",
        "other.csv": "no column",
    }
    for name, message in cases.items():
        with pytest.raises(FedCoWProError, match=message):
            show(tmp_path / name)
