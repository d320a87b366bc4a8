"""The same app on Ray."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcowpro.config import ExperimentConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.federated.run import federate

pytest.importorskip("ray", reason="no Ray: pip install 'fedcowpro[simulation]'")
pytestmark = [pytest.mark.deployment, pytest.mark.skipif(sys.platform == "win32", reason="Ray on Windows is not tried")]


def test_ray_gives_the_same_weights_and_its_failures_are_errors(
    sites: dict[str, Path], experiment: Callable[..., ExperimentConfig], tmp_path: Path
) -> None:
    config = experiment(rounds=2, normalisation="local")
    far = federate(config, sites, tmp_path / "ray", progress=False, engine="ray")
    near = federate(config, sites, tmp_path / "near", progress=False)
    for name in ("model.safetensors", "model.json"):
        assert far.with_name(name).read_bytes() == near.with_name(name).read_bytes()
    broken = config.model_copy(update={"train": config.train.model_copy(update={"lr": 1e30, "clip_norm": None})})
    with pytest.raises(FedCoWProError, match=r"round 1: usable replies of 0 of 3 sites"):
        federate(broken, sites, tmp_path / "broken", progress=False, engine="ray")
    assert not (tmp_path / "broken" / "model.safetensors").exists()
