"""Clipping, noise and the accountant, against formulas worked out another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from fedcowpro.config import PrivacyConfig
from fedcowpro.federated.privacy.accountant import privacy_facts, spent
from fedcowpro.federated.privacy.clip import clip_factor, update_norm
from fedcowpro.federated.privacy.noise import gaussian, noise_key
from fedcowpro.federated.privacy.site import protect

BEFORE = {"a": np.ones((3, 4), np.float32), "b": np.zeros(5, np.float32)}
AFTER = {"a": np.full((3, 4), 3, np.float32), "b": np.ones(5, np.float32)}


def exact_epsilon(multiplier: float, rounds: int, delta: float) -> float:
    """Of `rounds` Gaussian releases (Balle & Wang 2018, arXiv 1805.06530, theorem 8): they are one with mu."""
    mu = math.sqrt(rounds) / multiplier

    def excess(epsilon: float) -> float:
        second = math.exp(epsilon + stats.norm.logcdf(-mu / 2 - epsilon / mu))
        return float(stats.norm.cdf(mu / 2 - epsilon / mu) - second - delta)

    return float(optimize.brentq(excess, 0, 1000))


@pytest.mark.parametrize(("multiplier", "rounds"), [(1.0, 1), (5.0, 1), (1.0, 10), (0.5, 3), (20.0, 100)])
def test_epsilon_is_a_tight_upper_bound(multiplier: float, rounds: int) -> None:
    cost = spent(PrivacyConfig(mechanism="central", noise_multiplier=multiplier), [1.0] * rounds)
    assert cost is not None
    exact = exact_epsilon(multiplier, rounds, 1e-5)
    assert exact < cost.epsilon_rdp < 1.2 * exact
    assert exact < cost.epsilon < 1.0001 * exact


def test_local_noise_counts_half() -> None:
    local = spent(PrivacyConfig(mechanism="local", noise_multiplier=2.0), [1.0] * 3)
    central = spent(PrivacyConfig(mechanism="central", noise_multiplier=1.0), [1.0] * 3)
    assert local is not None
    assert central is not None
    assert local.epsilon == central.epsilon


def test_no_noise_is_no_guarantee() -> None:
    cost = spent(PrivacyConfig(mechanism="central", noise_multiplier=0), [1.0])
    assert cost is not None
    assert cost.epsilon == math.inf
    assert cost.facts()["epsilon"] is None
    assert "no differential privacy" in cost.sentence()
    assert spent(PrivacyConfig(), [1.0]) is None
    assert privacy_facts(PrivacyConfig(), [1.0]) == {}


def sampled_delta(rate: float, multiplier: float, epsilon: float) -> float:
    """Delta of one release that a site is in with this chance, by integrals over its outcome, the worse way round."""
    outcome, step = np.linspace(-15, 16, 20_001, retstep=True)
    without = stats.norm.pdf(outcome, 0, multiplier)
    mixed = (1 - rate) * without + rate * stats.norm.pdf(outcome, 1, multiplier)
    ways = ((mixed, without), (without, mixed))
    return float(max(np.maximum(0, one - math.exp(epsilon) * other).sum() for one, other in ways) * step)


@pytest.mark.parametrize(("rate", "multiplier"), [(0.5, 1.0), (0.1, 0.8), (0.9, 1.5)])
def test_sampling_is_counted_as_the_integral_says(rate: float, multiplier: float) -> None:
    cost = spent(PrivacyConfig(mechanism="central", noise_multiplier=multiplier), [rate])
    assert cost is not None
    assert cost.epsilon_pld is not None
    exact = optimize.brentq(lambda epsilon: sampled_delta(rate, multiplier, epsilon) - 1e-5, 0.01, 20, xtol=1e-5)
    assert exact - 1e-4 < cost.epsilon_pld < exact + 0.01
    assert cost.epsilon == cost.epsilon_pld < cost.epsilon_rdp
    assert cost.sampling == rate


def test_a_release_of_all_among_sampled_ones_costs_more() -> None:
    config = PrivacyConfig(mechanism="central", noise_multiplier=2.0)
    sampled, mixed, whole = (spent(config, rates) for rates in ([0.5] * 12, [0.5] * 10 + [1.0] * 2, [1.0] * 12))
    assert sampled is not None
    assert mixed is not None
    assert whole is not None
    assert sampled.epsilon < mixed.epsilon < whole.epsilon
    assert (sampled.sampling, mixed.sampling) == (0.5, 1.0)
    assert "chance 0.5" in sampled.sentence()


def test_where_the_loss_is_huge_there_is_one_accountant() -> None:
    cost = spent(PrivacyConfig(mechanism="central", noise_multiplier=0.01), [1.0] * 4)
    assert cost is not None
    assert cost.epsilon == cost.epsilon_rdp > (math.sqrt(4) / 0.01) ** 2 / 2  # the mean of the loss
    assert cost.facts()["epsilon_pld"] is None
    assert "too large for PLD" in cost.sentence()


def test_noise_is_gaussian_and_depends_on_key_and_name_only() -> None:
    key = noise_key("seed", 0, "site", 1)
    one = gaussian(key, "weight", (200, 501))
    assert stats.kstest(one.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(one.ravel()[:-1], one.ravel()[1:])[0, 1]) < 0.02
    np.testing.assert_array_equal(one, gaussian(key, "weight", (200, 501)))
    assert not np.array_equal(one, gaussian(key, "bias", (200, 501)))
    assert noise_key("os", 0) != noise_key("os", 0)
    assert noise_key("seed", 0, 1) == noise_key("seed", 0, 1) != noise_key("seed", 1, 1)


def test_an_update_is_clipped_as_a_whole() -> None:
    norm = update_norm(BEFORE, AFTER)
    assert norm == pytest.approx(math.sqrt(12 * 4 + 5))
    own = protect(PrivacyConfig(mechanism="central"), BEFORE, AFTER, 1.0, 0, "x", 1)
    assert math.sqrt(sum(np.square(value).sum() for value in own.values())) == pytest.approx(1.0)
    assert own["a"].ravel()[0] == pytest.approx(2 / norm)
    assert clip_factor(0.5, 1.0) == 1.0


def test_local_noise_has_its_deviation() -> None:
    config = PrivacyConfig(mechanism="local", noise_multiplier=0.5, randomness="seed")
    before = {"a": np.zeros(20000, np.float32)}
    own = protect(config, before, before, 3.0, 0, "x", 1)
    assert own["a"].std() == pytest.approx(1.5, rel=0.03)
    again = protect(config, before, before, 3.0, 0, "x", 1)
    np.testing.assert_array_equal(own["a"], again["a"])
    real = config.model_copy(update={"randomness": "os"})
    assert not np.array_equal(own["a"], protect(real, before, before, 3.0, 0, "x", 1)["a"])
