"""Options of local training reach a site's round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fedcowpro.config import ExperimentConfig
from fedcowpro.data.episodes.sampler import EpisodeSampler
from fedcowpro.data.preparation.site import Site
from fedcowpro.federated.site.local_training import LocalUpdate, local_update
from fedcowpro.model.segmenter import build_model


def test_episodes_loss_and_training_options_reach_a_round(
    experiment: Callable[..., ExperimentConfig], sites: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, int]] = []
    draw = EpisodeSampler.sample

    def sample(self: EpisodeSampler, batch: int, generator: torch.Generator, progress: float = 1.0) -> object:
        found = draw(self, batch, generator, progress)
        seen.append((progress, len(found.support)))
        return found

    monkeypatch.setattr(EpisodeSampler, "sample", sample)
    plain = experiment()
    weights = {
        name: tensor
        for name, tensor in build_model(plain.model, 0).state_dict().items()
        if tensor.dtype.is_floating_point
    }

    def trained(**parts: dict[str, object]) -> LocalUpdate:
        config = ExperimentConfig.model_validate({**plain.model_dump(), **parts})
        return local_update(config, "alpha", Site.open(sites["alpha"]), weights, {}, 2)

    before = trained()
    assert seen == [(2 / 6, 2), (3 / 6, 2)]  # the second of three rounds of two steps
    assert "tversky" not in before.report.losses
    views, tversky = trained(episodes={"support_views": 2}), trained(loss={"tversky": 1.0})
    assert [count for _, count in seen[2:4]] == [4, 4]
    assert "tversky" in tversky.report.losses
    for other in (views, tversky):
        assert any(not torch.equal(tensor, other.shared[name]) for name, tensor in before.shared.items())
