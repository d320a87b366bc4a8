"""The attack bench: it succeeds where the answer is known, and sees what a server sees."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from common import script
from fedcowpro.data.episodes.sampler import EpisodeSampler
from fedcowpro.data.preparation.site import Site
from fedcowpro.federated.site.local_training import local_update, site_generator

FILE = Path(__file__).parents[2] / "benchmarks" / "attacks.py"


@pytest.fixture(scope="module")
def attacks() -> ModuleType:
    return script(FILE)


@pytest.fixture(scope="module")
def sites(attacks: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("attacked")
    return {f"site{n}": attacks.phantom_site(root, f"site{n}", [n]) for n in range(3)}


def test_a_dense_layer_gives_its_input_away(attacks: ModuleType) -> None:
    truth = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    start = torch.full_like(truth, 0.5)
    found = attacks.control(truth, start, 300)
    assert attacks.quality(truth[0].numpy(), found[0].numpy())[0] > 0.95
    noisy = start + 0.01 * torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(1))
    assert attacks.quality(truth[0].numpy(), noisy[0].numpy())[0] < 0.3


def test_areas_of_memorised_and_random_scores(attacks: ModuleType) -> None:
    rng = np.random.default_rng(0)
    draws = [{str(case): list(rng.normal(size=40)) for case in range(8)} for _ in range(2)]
    area, low, high = attacks.auc(*draws)
    assert low < 0.5 < high
    assert abs(area - 0.5) < 0.1
    memorised = {case: [value + 20 for value in values] for case, values in draws[0].items()}
    assert attacks.auc(memorised, draws[1]) == (1.0, 1.0, 1.0)


def test_the_attacker_sees_the_update_and_its_truth_is_the_slice_trained_on(
    attacks: ModuleType, sites: dict[str, Path]
) -> None:
    training, federation, _ = attacks.SETTINGS["one step, SGD: the gradient itself"]
    config = attacks.experiment("tiny", 0, training, federation)
    site, model = Site.open(sites["site0"]), attacks.initial(config).train()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    update = attacks.seen(config, {"site0": sites["site0"]})["site0"]
    trained = local_update(config, "site0", site, start, {}, 1).shared
    for name, change in update.items():
        np.testing.assert_array_equal(change, (trained[name] - start[name]).numpy())

    image, mask, views = attacks.drawn(config, "site0", site)
    sampler = EpisodeSampler(site, config.augment, config.episodes)
    batch = sampler.sample(1, site_generator(config.seed, "site0", 1), 0.0)
    shown, _ = attacks.apply_views(torch.cat((image, image)), torch.cat((mask, mask)), views)
    torch.testing.assert_close(shown[:1, None], batch.support)
    loss = attacks.loss_of(model, config.loss, image, mask, views)
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    seen = torch.cat([-torch.from_numpy(update[name]).flatten() for name, _ in model.named_parameters()])
    cosine = torch.cosine_similarity(seen, torch.cat([slope.flatten() for slope in slopes]), dim=0)
    assert cosine > 0.999


def test_defences_are_those_of_a_run(attacks: ModuleType, sites: dict[str, Path]) -> None:
    def update(name: str, among: dict[str, Path]) -> dict[str, np.ndarray]:
        training, federation, _ = attacks.SETTINGS[name]
        return next(iter(attacks.seen(attacks.experiment("tiny", 0, training, federation), among).values()))

    one = {"site0": sites["site0"]}
    plain, noised = update("one step, SGD: the gradient itself", one), update("the same, local noise 1", one)
    half = update("the same, float16", one)
    name = max(plain, key=lambda key: plain[key].size)
    assert noised[name].std() == pytest.approx(0.01, rel=0.1)
    np.testing.assert_allclose(half[name], plain[name].astype(np.float16), atol=1e-7)
    assert not np.array_equal(half[name], plain[name])
    summed = update("secure sum of 4 sites, one SGD step", sites)
    parts = [update("one step, SGD: the gradient itself", {site: path})[name] for site, path in sites.items()]
    np.testing.assert_allclose(summed[name], sum(parts), atol=1e-6)
