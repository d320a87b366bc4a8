"""Tiny site folders and settings for runs of a few seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import ORGANS, SMALL
from fedcowpro import __version__
from fedcowpro.config import (
    ExperimentConfig,
    FederationConfig,
    ModelConfig,
    PrepareConfig,
    SuperpixelConfig,
    TrainConfig,
)
from fedcowpro.data.phantom import write_site as write_phantoms
from fedcowpro.data.preparation.manifest import CaseRecord, Manifest
from fedcowpro.data.preparation.prepare import prepare
from fedcowpro.federated.run import federate

SITE_SLICES = {"alpha": 4, "beta": 6, "gamma": 5}


def write_site(path: Path, slices: int, seed: int, size: int = 64, role: str = "train") -> Path:
    """A site folder with one case: two bright squares per slice, each a superpixel of 24 x 24 pixels."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 0.3, (slices, size, size)).astype(np.float16)
    segments = np.zeros((slices, size, size), np.uint16)
    for z in range(slices):
        for number, left in enumerate((4, 36), start=1):
            top = int(rng.integers(2, size - 26))
            segments[z, top : top + 24, left : left + 24] = number
            image[z, top : top + 24, left : left + 24] += 2.0 * number
    folder = path / "cases" / "case-1"
    folder.mkdir(parents=True)
    np.save(folder / "image.npy", image)
    np.save(folder / "superpixels.npy", segments)
    settings = PrepareConfig(modality="ct", size=size, superpixels=SuperpixelConfig(min_area=50))
    case = CaseRecord(
        id="case-1", modality="ct", guessed="ct", depth=slices, spacing=(5.0, 1.0, 1.0), role=role,
        source=f"seed {seed}",
        areas=((576, 576),) * slices,
    )  # fmt: skip
    manifest = Manifest(version=2, fedcowpro=__version__, dataset="folder", settings=settings, cases=(case,))
    (path / "manifest.json").write_text(manifest.model_dump_json())
    return path


@pytest.fixture
def make_site(tmp_path: Path) -> Callable[..., Path]:
    return lambda name, slices=4, seed=0, **rest: write_site(tmp_path / "data" / name, slices, seed, **rest)


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sites")
    return {
        name: write_site(root / name, slices, seed) for seed, (name, slices) in enumerate(SITE_SLICES.items(), start=1)
    }


@pytest.fixture
def experiment() -> Callable[..., ExperimentConfig]:
    """Settings of a small federation; arguments go to its `federation` part."""

    def make(seed: int = 0, **federation: object) -> ExperimentConfig:
        return ExperimentConfig(
            seed=seed,
            threads=1,
            model=ModelConfig(encoder="tiny", channels=8),
            train=TrainConfig(batch=2),
            federation=FederationConfig.model_validate({"rounds": 3, "local_steps": 2, **federation}),
        )

    return make


@pytest.fixture(scope="session")
def finished(sites: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[ExperimentConfig], Path]:
    """The folder of a finished run over `sites`, one for each group of settings; read or copy it, change nothing."""
    done: dict[str, Path] = {}

    def run(config: ExperimentConfig) -> Path:
        if (key := config.digest()) not in done:
            out = tmp_path_factory.mktemp("finished") / "run"
            federate(config, sites, out, progress=False)
            done[key] = out
        return done[key]

    return run


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Prepared sites: `north` and `south` with three queries, `west` with two; one case supports, one trains."""
    root = tmp_path_factory.mktemp("phantoms")
    ids = ["11", "12", "13", "14", "15"]
    write_phantoms(root / "raw", "ct", tuple(map(int, ids)), size=64, depth=6)
    config = PrepareConfig(modality="ct", size=64, superpixels=SMALL)
    options: dict[str, Any] = {"organs": ORGANS, "support": ids[0], "query": ids[2:]}
    prepare(root / "raw", root / "north", config, **options, workers=1, progress=False)
    for name in ("south", "west"):
        shutil.copytree(root / "north", root / name)
    manifest = root / "west" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["cases"][-1]["role"] = "train"
    manifest.write_text(json.dumps(content))
    return {name: root / name for name in ("north", "south", "west")}
