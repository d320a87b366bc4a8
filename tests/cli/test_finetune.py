"""Fine-tuning from the shell: a model for the organs of an example, and masks without any example."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fedcowpro.cli import main
from fedcowpro.data.phantom import write_site
from fedcowpro.oneshot import fine_tuning
from fedcowpro.training.finetuning import FineTuning
from fedcowpro.training.recipe import Recipe
from fedcowpro.volume.read import read_labels, read_volume

pytestmark = pytest.mark.slow

RECIPE = Recipe(window=(64, 64), widths=(16, 8, 8, 8), batch=2, steps=(8, 4), spacing=4.0)
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fine_tuning, "Recipe", lambda distortion: RECIPE)
        yield


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code and what was printed."""

    def call(*arguments: object) -> tuple[int, str]:
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scans")
    write_site(root, "ct", (1, 2, 3), size=64, depth=8)
    return root


@pytest.fixture(scope="module")
def learnt(small: None, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished model; read or copy it, change nothing."""
    model = tmp_path_factory.mktemp("learnt") / "organs.safetensors"
    with suppress(SystemExit):
        main([str(word) for word in learn(scans, model)])
    assert model.is_file()
    return model


def example(scans: Path) -> list[object]:
    return ["--support", scans / "image_1.nii.gz", "--support-mask", scans / "label_1.nii.gz"]


def learn(scans: Path, out: Path, *more: object) -> list[object]:
    command = ["finetune", *example(scans), "--unlabelled", scans / "image_2.nii.gz", "--out", out]
    return [*command, "--steps", 12, "--organs", "1=liver,4=spleen", *more]


def test_a_model_that_needs_no_example(run: Run, scans: Path, learnt: Path, tmp_path: Path) -> None:
    model, out = learnt, tmp_path / "masks"
    card = json.loads(model.with_suffix(".json").read_text())
    assert card["organs"] == {"1": "liver", "4": "spleen"}
    assert card["unlabelled"] == {"ct": 1, "mr": 0}
    assert "not a medical device" in card["use"]
    assert "image_" not in model.with_suffix(".json").read_text()
    code, said = run("segment", "--model", model, "--query", scans / "image_3.nii.gz", "--out", out)
    assert code == 0, said
    mask = read_labels(out / "image_3_mask.nii.gz", read_volume(scans / "image_3.nii.gz"))
    assert set(mask.voxels.ravel()) <= {0, 1, 4}
    assert "liver" in (out / "summary.csv").read_text()
    code, said = run("segment", "--model", model, "--query", scans / "image_3.nii.gz", "--out", out)
    assert "kept" in said


def test_ctrl_c_keeps_a_model_and_the_same_command_goes_on(
    run: Run, scans: Path, learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "part.safetensors"
    step = FineTuning._train_step

    def interrupted(tuning: FineTuning) -> float:
        if tuning.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(tuning)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, "_train_step", interrupted)
        code, said = run(*learn(scans, part))
    assert code == 0, said
    assert "interrupted after 4 of 12 steps" in said
    assert json.loads(part.with_suffix(".json").read_text())["steps"]["done"] == 4
    code, said = run(*learn(scans, part))
    assert "interrupted" not in said
    digests = [json.loads(path.with_suffix(".json").read_text())["weights_digest"] for path in (learnt, part)]
    assert digests[0] == digests[1]
    assert not part.with_suffix(".resume").exists()


def test_segment_writes_no_mask_of_a_network_that_is_not_finished(
    run: Run, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedcowpro.training.finetuning._LABELLING", 1e6)
    step = FineTuning._train_step

    def interrupted(tuning: FineTuning) -> None:
        if tuning.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        step(tuning)

    query, out = scans / "image_3.nii.gz", tmp_path / "masks"
    command = ["segment", "--finetune", *example(scans), "--query", query, "--out", out, "--minutes", 1]
    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, "_train_step", interrupted)
        code, said = run(*command)
    assert code == 130
    assert "interrupted" in said
    assert not list(out.glob("*_mask*"))
    code, said = run(*command)
    assert code == 0, said
    assert (out / "image_3_mask.nii.gz").is_file()


def test_a_query_that_cannot_be_used_does_not_keep_the_others_from_their_masks(
    run: Run, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedcowpro.training.finetuning._LABELLING", 1e6)
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes((scans / "image_2.nii.gz").read_bytes()[:2000])
    queries = [scans / "image_3.nii.gz", broken, scans / "label_2.nii.gz"]
    command = ["segment", "--finetune", *example(scans), "--out", tmp_path / "masks", "--minutes", 1]
    code, said = run(*command, *(word for query in queries for word in ("--query", query)))
    assert code == 3, said
    assert "label map" in said
    assert [path.name for path in (tmp_path / "masks").glob("*_mask.nii.gz")] == ["image_3_mask.nii.gz"]
    more = [*command, "--query", scans / "image_3.nii.gz", "--query", scans / "image_2.nii.gz"]
    code, said = run(*more)
    assert code == 2
    code, said = run(*more, "--overwrite")
    assert code == 0, said


def test_segment_can_fine_tune_first(run: Run, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedcowpro.training.finetuning._LABELLING", 1e6)  # the least number of steps, whatever the time
    query = scans / "image_3.nii.gz"
    code, said = run("segment", "--finetune", *example(scans), "--query", query, "--out", tmp_path, "--minutes", 1)
    assert code == 0, said
    assert (tmp_path / "image_3_mask.nii.gz").is_file()
    assert (tmp_path / "organs.safetensors").is_file()


def test_a_finished_model_is_neither_made_again_nor_overwritten(run: Run, scans: Path, learnt: Path) -> None:
    out = learnt
    before = out.read_bytes(), out.stat().st_mtime_ns
    code, said = run(*learn(scans, out))
    assert code == 0, said
    code, said = run(*learn(scans, out, "--seed", 5))
    assert code == 2
    assert "made of another example" in said
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before


def test_a_card_of_something_else_is_not_written_over(run: Run, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "organs.json").write_text("mine")
    code, said = run(*learn(scans, tmp_path / "organs.safetensors"))
    assert code == 2
    assert "organs.json" in said
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_organs_that_no_example_shows_are_told(run: Run, scans: Path, tmp_path: Path) -> None:
    code, said = run(*learn(scans, tmp_path / "organs.safetensors", "--organs", "1=liver,77=gallbladder"))
    assert code == 0, said
    assert "gallbladder" in said


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (["--out", "organs.pt"], ".safetensors"),
        (["--minutes", "0"], "0.0 minutes"),
        (["--minutes", "inf"], "inf minutes"),
        (["--steps", "0"], "0 steps"),
        (["--painted", "some"], "--painted"),
        (["--support", "other.nii.gz"], "--support-mask"),
    ],
)
def test_mistakes_are_refused(run: Run, scans: Path, tmp_path: Path, change: list[str], part: str) -> None:
    command = ["finetune", *example(scans), "--out", tmp_path / "organs.safetensors", *change]
    code, said = run(*command)
    assert code == 2
    assert part in said
    assert not list(tmp_path.iterdir())


def test_what_a_network_cannot_honour_is_refused(run: Run, scans: Path, learnt: Path, tmp_path: Path) -> None:
    query = scans / "image_3.nii.gz"
    command = ["segment", "--model", learnt, "--query", query, "--out", tmp_path / "masks"]
    for more in (
        [*example(scans)],
        ["--refine", "3"],
        ["--organs", "1=liver,2=kidney"],
        ["--finetune"],
        ["--painted", "all"],
        ["--minutes", "3"],
    ):
        code, said = run(*command, *more)
        assert code == 2, (more, said)
    code, said = run("segment", "--query", query, "--out", tmp_path / "masks")
    assert code == 2
    assert "--support" in said
    assert not (tmp_path / "masks").exists()
