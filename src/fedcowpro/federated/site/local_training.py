"""What a site does in a round, as plain functions that know nothing of Flower."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fedcowpro.config import ExperimentConfig
from fedcowpro.core.device import CPU
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.episodes.sampler import EpisodeSampler
from fedcowpro.data.preparation.site import Site
from fedcowpro.model.segmenter import Segmenter, build_model
from fedcowpro.training.loop import FitReport, fit

_PARTS = {"project": "projection", "adapter": "adapter"}  # of the model, by the names of its modules
_NORMALISATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class SiteFacts:
    """What a site tells the server about its training data: counts, no names of cases; `size` in pixels.

    `modality` is 'ct', 'mr' or 'ct+mr'. `settings` is how its volumes were prepared (`PrepareConfig` as JSON), so
    that queries can be prepared alike.
    """

    name: str
    modality: str
    cases: int
    train_slices: int
    size: int
    digest: str
    settings: str


@dataclass(frozen=True)
class LocalUpdate:
    """A site's result of a round: `shared` goes to the server, `local` stays at the site.

    `abstains`: the site had nothing to learn from, and its tensors are those that it got.
    """

    shared: dict[str, Tensor]
    local: dict[str, Tensor]
    train_slices: int
    report: FitReport
    abstains: bool = False


def describe_site(name: str, path: Path) -> SiteFacts:
    """Open a site folder and count.

    Raises:
        FedCoWProError: no readable site folder, or no slice to train on.
    """
    site = Site.open(path)
    if site.n_train_slices < 1:
        raise FedCoWProError(
            f"site '{name}' ({path}) has no slice to train on",
            "at least one training case with superpixels",
            "prepare more cases, or leave the site out",
        )
    return SiteFacts(
        name=name,
        modality="+".join(site.modalities),
        cases=len(site.with_role("train")),
        train_slices=site.n_train_slices,
        size=site.size,
        digest=site.digest,
        settings=site.manifest.settings.model_dump_json(),
    )


def local_update(
    config: ExperimentConfig,
    name: str,
    site: Site,
    received: Mapping[str, Tensor],
    local: Mapping[str, Tensor],
    round_number: int,
    device: torch.device = CPU,
) -> LocalUpdate:
    """Train the global model at one site for one round.

    The optimiser starts afresh in every round: its moments belong to weights that averaging has replaced. The
    learning rate follows one schedule over all rounds.

    Args:
        received: the server's floating-point tensors, all of them.
        local: the site's own tensors of earlier rounds, which go before the server's; empty in the first.
        round_number: from 1.
        device: where it trains; the result lies on the CPU.

    Raises:
        FedCoWProError: the server's tensors are not this architecture's, or training diverged.
    """
    federation = config.federation
    model = received_model(config, name, received, local).to(device)
    hold_still(model, federation.trainable)
    kept = normalisation_names(model) if federation.normalisation == "local" else set()
    penalties = {}
    if federation.proximal:
        penalties["proximal"] = proximal_term(model, learnt_names(model) - kept, federation.proximal)
    generator = site_generator(config.seed, name, round_number)
    # Layers that draw from torch's global generator (dropout) are tied to the same seed.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        report = fit(
            model,
            EpisodeSampler(site, config.augment, config.episodes, device),
            config.train,
            config.loss,
            steps=federation.local_steps,
            first_step=(round_number - 1) * federation.local_steps,
            total_steps=federation.rounds * federation.local_steps,
            generator=generator,
            penalties=penalties,
        )
    state = {tensor_name: tensor.detach().to(CPU, copy=True) for tensor_name, tensor in model.state_dict().items()}
    bad = sorted(tensor_name for tensor_name, tensor in state.items() if not tensor.isfinite().all())
    if bad:
        raise FedCoWProError(
            f"site '{name}': '{bad[0]}' is NaN or infinite after training",
            "finite weights",
            "lower train.lr, or switch on train.clip_norm",
        )
    shared = (learnt_names(model) if federation.privacy.active else trained_names(model)) - kept
    return LocalUpdate(
        shared={tensor_name: state[tensor_name] for tensor_name in sorted(shared)},
        local={tensor_name: state[tensor_name] for tensor_name in sorted(kept)},
        train_slices=site.n_train_slices,
        report=report,
    )


def received_model(
    config: ExperimentConfig, name: str, received: Mapping[str, Tensor], local: Mapping[str, Tensor] | None = None
) -> Segmenter:
    """The segmenter with the server's floating-point tensors; those of the site itself (`local`) go before them.

    Raises:
        FedCoWProError: the server's tensors are not this architecture's.
    """
    model = build_model(config.model, config.seed, pretrained=False)
    own = model.state_dict()
    if set(received) != exchanged_names(model):
        odd = sorted(set(received) ^ exchanged_names(model))
        raise FedCoWProError(
            f"site '{name}': the server's weights differ in {len(odd)} names, '{odd[0]}' among them",
            f"the weights of a '{config.model.encoder}' segmenter",
            "use the same version of fedcowpro at the server and at all sites",
        )
    try:
        model.load_state_dict({**own, **received, **(local or {})})
    except RuntimeError as error:
        raise FedCoWProError(
            f"site '{name}': {error}", "weights of this architecture", "use the same version everywhere"
        ) from error
    return model


def exchanged_names(model: nn.Module) -> set[str]:
    """Floating-point tensors. Counters (integers) stay at home: an average of counts means nothing."""
    return {name for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def trained_names(model: nn.Module) -> set[str]:
    """Of the exchanged tensors those that a training may change: all but frozen running statistics."""
    moving = isinstance(model, Segmenter) and not model.config.frozen_norm
    return exchanged_names(model) if moving else learnt_names(model)


def learnt_names(model: nn.Module) -> set[str]:
    """Parameters that the optimiser changes; running statistics are not among them."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def hold_still(model: nn.Module, trainable: Collection[str]) -> None:
    """Let nothing but these parts of the model learn (`federation.trainable`); without any, all of it does."""
    if not trainable:
        return
    normalisation = normalisation_names(model)
    for name, parameter in model.named_parameters():
        part = "normalisation" if name in normalisation else _PARTS.get(name.partition(".")[0], "")
        parameter.requires_grad_(part in trainable)


def proximal_term(model: nn.Module, names: set[str], mu: float) -> Callable[[Segmenter], Tensor]:
    """FedProx's term mu/2 sum (w - w_global)^2 (Li et al. 2020, arXiv 1812.06127).

    Args:
        model: with the weights as the server sent them; they are copied.
        names: of the parameters that are pulled back to these weights.
        mu: 0 or more.

    Returns:
        The term, a scalar, as a function of the model in training.
    """
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if name in names}

    def term(moved: Segmenter) -> Tensor:
        parameters = dict(moved.named_parameters())
        squares = [(parameters[name] - value).square().sum() for name, value in start.items()]
        return mu / 2 * torch.stack(squares).sum()

    return term


def normalisation_names(model: nn.Module) -> set[str]:
    """Parameters and buffers of the normalisation layers (FedBN, Li et al. 2021, arXiv 2102.07623)."""
    prefixes = [name for name, module in model.named_modules() if isinstance(module, _NORMALISATION)]
    return {name for name in model.state_dict() if name.rpartition(".")[0] in prefixes}


def site_generator(seed: int, name: str, round_number: int) -> torch.Generator:
    """A generator that depends on its arguments only: order of sites and interruptions do not matter."""
    digest = hashlib.sha256(f"{seed}/{name}/{round_number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
