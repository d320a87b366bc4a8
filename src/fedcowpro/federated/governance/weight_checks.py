"""Whether a site takes the weights that came: such as a training makes, and those that a run may begin with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from fedcowpro.config import ExperimentConfig
from fedcowpro.config.policy import PACKAGE, SitePolicy
from fedcowpro.federated.governance.policy import SHOWN, Announcement, RefusedError
from fedcowpro.federated.governance.tally import Tally
from fedcowpro.federated.monitoring.rounds import STATISTICS
from fedcowpro.federated.transport.encoding import initial_model
from fedcowpro.model.checkpoint import state_digest


def check_weights(
    policy: SitePolicy,
    said: Announcement,
    config: ExperimentConfig,
    weights: Mapping[str, Tensor],
    log: Callable[[], Tally],
) -> float:
    """Whether received weights are such as a training makes, and those that the site expects at the start of a run.

    Args:
        weights: floating-point tensors.
        log: counts the lines of the site's audit log; it is asked only where earlier weights matter.

    Returns:
        The L2 norm of the weights, without running statistics.

    Raises:
        RefusedError: NaN, infinite or huge values, a norm far from the last one of this run (unless noise is
            announced, which moves it), or another beginning than the policy names.
    """
    if odd := [name for name, tensor in sorted(weights.items()) if not bool(tensor.isfinite().all())]:
        raise RefusedError(f"{len(odd)} received tensors have NaN or infinite values, '{odd[0]}' among them")
    if odd := [name for name, tensor in weights.items() if name.endswith("running_var") and bool((tensor < 0).any())]:
        raise RefusedError(f"{len(odd)} received variances are negative, '{odd[0]}' among them")
    learnt = {name: tensor for name, tensor in weights.items() if not name.endswith(STATISTICS)}
    if odd := [
        name for name, tensor in learnt.items() if tensor.numel() and float(tensor.abs().max()) > policy.max_weight
    ]:
        raise RefusedError(
            f"{len(odd)} received tensors have values above {policy.max_weight:g}, '{odd[0]}' among them"
        )
    norm = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in learnt.values()))
    compared = math.isfinite(policy.max_norm_ratio) and config.federation.privacy.mechanism == "none"
    if not compared and not policy.initial_weights:
        return norm
    last = log().norms.get(said.run)
    if compared and last is not None and not last / policy.max_norm_ratio <= norm <= last * policy.max_norm_ratio:
        raise RefusedError(
            f"the norm of the received weights is {norm:.4g}, the last one of this run was {last:.4g}; allowed is "
            f"a factor of {policy.max_norm_ratio:g}"
        )
    if policy.initial_weights and said.kind == "train":
        if said.round == 1:
            _check_beginning(policy, config, weights)
        elif last is None:
            raise RefusedError(
                f"the run's first weights, which this site checks, did not come before round {said.round}"
            )
    return norm


def _check_beginning(policy: SitePolicy, config: ExperimentConfig, weights: Mapping[str, Tensor]) -> None:
    found, allowed = state_digest(weights), set(policy.initial_weights)
    if PACKAGE in allowed:
        allowed.add(initial_model(config.model.model_copy(update={"weights": None}), config.seed)[1])
    if found in allowed:
        return
    raise RefusedError(f"the run begins with weights {found[:SHOWN]}, which are not among those that the site allows")
