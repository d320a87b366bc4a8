"""Checks array shapes and types in the library's signatures while tests run; data for several test modules."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

# The modules whose signatures name shapes; before anything of the library is imported. Users do not pay for it.
SHAPED = (
    "data.episodes",
    "model",
    "training.losses",
    "oneshot.predictor",
    "oneshot.postprocess",
    "evaluation.run",
    "evaluation.support",
)
install_import_hook([f"fedcowpro.{name}" for name in SHAPED], "beartype.beartype")

from common import ORGANS, SHARED, SMALL, TESTS, TINY, Arrays  # noqa: E402
from fedcowpro.config import PrepareConfig  # noqa: E402
from fedcowpro.data import phantom  # noqa: E402
from fedcowpro.data.preparation.prepare import prepare  # noqa: E402
from fedcowpro.data.preparation.site import Site  # noqa: E402
from fedcowpro.model.checkpoint import save_checkpoint  # noqa: E402
from fedcowpro.model.segmenter import build_model  # noqa: E402

# The same examples in every run: a failure says something of the change, not of the draw.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
torch.set_num_threads(1)  # small arrays: more threads only wait for each other
os.fsync = lambda _: None  # no test takes the power away; half of a small federation's time went to the disk


@lru_cache(maxsize=128)
def _make_phantom(kind: phantom.Kind, seed: int, size: int = 256, depth: int | None = None) -> phantom.Phantom:
    made = _draw_phantom(kind, seed, size, depth)
    made.image.flags.writeable = made.labels.flags.writeable = False
    return made


# Every patient is drawn once a process; many tests ask for the same ones.
_draw_phantom, phantom.make_phantom = phantom.make_phantom, _make_phantom


def pytest_collection_finish() -> None:
    """What was imported stays: looking through it for garbage again and again takes seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def oracle() -> Callable[[str], Arrays]:
    """Arrays of the reference implementation that came with the tests."""
    return lambda name: dict(np.load(TESTS / "oracles" / f"{name}.npz"))


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Arrays]:
    """The whole set of the reference's arrays, where it lies beside the checkout."""

    def read(name: str) -> Arrays:
        path = SHARED / "golden" / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"shared/golden/{path.name} is not beside this checkout")
        return dict(np.load(path))

    return read


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real volumes: FEDCOWPRO_REAL_DATA, or shared/data beside the checkout."""
    path = Path(os.environ.get("FEDCOWPRO_REAL_DATA", SHARED / "data"))
    if not path.is_dir():
        pytest.skip("no real volumes: set FEDCOWPRO_REAL_DATA to their folder")
    return path


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with raw sites `ct` (patients 1, 2, 3) and `t2` (1, 2); 64 x 64 pixels, 10 slices."""
    root = tmp_path_factory.mktemp("phantoms")
    phantom.write_site(root / "ct", "ct", (1, 2, 3), size=64, depth=10)
    phantom.write_site(root / "t2", "t2", (1, 2), size=64, depth=10)
    return root


@pytest.fixture(scope="session")
def ct_site(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A prepared site: case 1 supports, 2 trains, 3 is a query; all have labels. Read only."""
    config = PrepareConfig(modality="ct", size=64, superpixels=SMALL)
    out = tmp_path_factory.mktemp("prepared") / "ct"
    options = {"organs": ORGANS, "support": "1", "query": ["3"], "workers": 1, "progress": False}
    return prepare(phantoms / "ct", out, config, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a random tiny model for slices of 64 x 64 pixels."""
    folder = tmp_path_factory.mktemp("run")
    prepared = {kind: PrepareConfig(modality=kind, size=64).model_dump(mode="json") for kind in ("ct", "mr")}
    card = {"model": TINY.model_dump(mode="json"), "seed": 5, "prepare": prepared}
    save_checkpoint(folder / "model.safetensors", build_model(TINY, 5).state_dict(), card)
    return folder
