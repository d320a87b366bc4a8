"""The demo on tiny volumes: everything is written, a second run changes nothing, an interrupted one goes on."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from common import TINY
from fedcowpro.config import ExperimentConfig, FederationConfig, InferConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.demo import run as demo
from fedcowpro.demo.hospitals import HOSPITALS
from fedcowpro.demo.run import Setup, run_demo, shipped_setup
from fedcowpro.evaluation.protocol import COLUMNS, PROTOCOLS, read_results

pytestmark = pytest.mark.slow
SETUP = Setup(
    ExperimentConfig(
        threads=1,
        model=TINY,
        federation=FederationConfig(rounds=2, local_steps=1),
        inference=InferConfig(keep_components=True),
    ),
    size=64,
    depth=12,
    train=1,
    query=1,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    assert run_demo(out, 3, SETUP, progress=False) == out / "report.html"
    return out


def test_results(finished: Path) -> None:
    results = read_results(finished / "results.csv")
    assert tuple(results.columns[: len(COLUMNS)]) == COLUMNS
    assert set(results["method"]) == {"untrained", "fedcowpro"}
    assert set(results["protocol"]) == set(PROTOCOLS)
    assert set(results["seed"]) == {3}
    for hospital in HOSPITALS:
        assert set(results[results["site"] == hospital.name]["organ"]) <= set(hospital.organs.values())
    assert set(results["site"]) == {hospital.name for hospital in HOSPITALS}


def test_masks_lie_on_the_grid_of_their_images(finished: Path) -> None:
    _, _, queries = SETUP.patients(3)
    for hospital in HOSPITALS:
        for number in queries:
            mask = nib.load(finished / "masks" / hospital.name / f"image_{number}_mask.nii.gz")
            image = nib.load(finished / "raw" / hospital.name / f"image_{number}.nii.gz")
            assert mask.shape == image.shape
            assert mask.get_data_dtype() == np.uint8
            np.testing.assert_array_equal(mask.affine, image.affine)


def test_report_needs_no_other_file(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", page)
    assert not re.search(r"url\((?!['\"]?data:)|@import|<script[^>]+src", page)
    for word in ("Before training", "After training", "Digest of weights", "Seconds: federate", "fedcowpro prepare"):
        assert word in page
    assert all(f"Site {hospital.name}" in page for hospital in HOSPITALS)


def test_second_run_keeps_everything(finished: Path) -> None:
    kept = ("results.csv", "run/model.safetensors", "sites/hospital-t1/manifest.json")
    before = {name: (finished / name).read_bytes() for name in kept}
    made = {file: file.stat().st_mtime_ns for file in (finished / "raw").rglob("*.nii.gz")}
    run_demo(finished, 3, SETUP, progress=False)
    assert {name: (finished / name).read_bytes() for name in kept} == before
    assert {file: file.stat().st_mtime_ns for file in (finished / "raw").rglob("*.nii.gz")} == made


def _interrupt_after(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    remaining: Iterator[int] = iter(range(calls))

    def limited(*arguments: Any, **options: Any) -> Any:
        if next(remaining, None) is None:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    return limited


@pytest.mark.parametrize(("stage", "calls"), [("prepare", 1), ("federate", 0), ("evaluate_episode", 2)])
def test_interrupted_run_goes_on(
    stage: str, calls: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished / "raw", out / "raw")
    (out / "raw" / "hospital-ct" / ".20.partial").mkdir()
    shutil.copy(finished / "demo.json", out)
    with monkeypatch.context() as patch:
        patch.setattr(demo, stage, _interrupt_after(getattr(demo, stage), calls))
        with pytest.raises(KeyboardInterrupt):
            run_demo(out, 3, SETUP, progress=False)
    assert not (out / "report.html").exists()
    run_demo(out, 3, SETUP, progress=False)
    assert (out / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


def test_other_folders_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(FedCoWProError, match="another seed"):
        run_demo(finished, 4, SETUP, progress=False)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FedCoWProError, match="holds no demo"):
        run_demo(tmp_path, 3, SETUP, progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_shipped_setup() -> None:
    setup = shipped_setup()
    assert setup.experiment.model.encoder == "lite0"
    numbers = [number for seed in (0, 1, 2) for part in setup.patients(seed) for number in np.atleast_1d(part)]
    assert len(set(numbers)) == len(numbers)
