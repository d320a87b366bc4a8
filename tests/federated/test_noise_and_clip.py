"""Clipping, noise and the accountant, against formulas worked out another way."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from scipy import optimize, stats

from fedcowpro.config import PrivacyConfig
from fedcowpro.core.errors import FedCoWProError
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
    cost = spent(PrivacyConfig(mechanism="central", noise_multiplier=multiplier), rounds)
    assert cost is not None
    exact = exact_epsilon(multiplier, rounds, 1e-5)
    assert exact < cost.epsilon < 1.2 * exact


def test_local_noise_counts_half() -> None:
    local = spent(PrivacyConfig(mechanism="local", noise_multiplier=2.0), 3)
    central = spent(PrivacyConfig(mechanism="central", noise_multiplier=1.0), 3)
    assert local is not None
    assert central is not None
    assert local.epsilon == central.epsilon


def test_no_noise_is_no_guarantee() -> None:
    cost = spent(PrivacyConfig(mechanism="central", noise_multiplier=0), 1)
    assert cost is not None
    assert cost.epsilon == math.inf
    assert cost.facts()["epsilon"] is None
    assert "no differential privacy" in cost.sentence()
    assert spent(PrivacyConfig(), 1) is None
    assert privacy_facts(PrivacyConfig(), 1) == {}


def test_without_the_accountant_no_run_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus.accountants.analysis", None)
    with pytest.raises(FedCoWProError, match="opacus"):
        spent(PrivacyConfig(mechanism="local"), 1)


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
