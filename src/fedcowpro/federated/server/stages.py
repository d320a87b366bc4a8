"""The stages of a run: rounds without labels, and, where the settings have `teaching`, rounds that learn organs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fedcowpro.config import ExperimentConfig
from fedcowpro.federated.server.run_folder import RunFolder
from fedcowpro.model.checkpoint import load_checkpoint
from fedcowpro.model.segmenter import build_model
from fedcowpro.model.unet import build_unet
from fedcowpro.oneshot.organ_model import FORMAT, organ_facts

_ENCODER = "encoder."


def stages_of(config: ExperimentConfig, folder: RunFolder) -> list[tuple[ExperimentConfig, RunFolder]]:
    """Settings and folder of each stage, in order."""
    stages = [(config.first_stage, folder)]
    if config.teaching is not None:
        stages.append((config.second_stage, RunFolder(folder.path / "teaching", FORMAT)))
    return stages


def go_back(stages: Sequence[tuple[ExperimentConfig, RunFolder]], number: int) -> None:
    """Go back to a round of the stage that a run is in: the last one that has a complete round.

    Raises:
        FedCoWProError: see `RunFolder.go_back`.
    """
    begun = [stage for stage in stages if stage[1].completed()]
    config, folder = (begun or stages[:1])[-1]
    folder.go_back(number, config)


def initial_network(config: ExperimentConfig, folder: RunFolder) -> nn.Module:
    """The network with which a stage begins: of the second, the encoder is the first stage's result.

    Args:
        config, folder: of the stage.

    Raises:
        FedCoWProError: weights or the result of the first stage that cannot be read.
    """
    if config.teaching is None:
        return build_model(config.model, config.seed)
    state, _ = load_checkpoint(folder.path.parent)
    encoder = {name.removeprefix(_ENCODER): value for name, value in state.items() if name.startswith(_ENCODER)}
    return build_unet(len(config.teaching.organs), encoder, config.seed)


def organ_card(config: ExperimentConfig, card: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's card: of the second one, whose network is an `OrganModel`, with its organs."""
    teaching = config.teaching
    if teaching is None:
        return dict(card)
    return {
        **card,
        **organ_facts(teaching.organs),
        "teaching": teaching.model_dump(mode="json"),
        "use": "Research only; not a medical device.",
    }
