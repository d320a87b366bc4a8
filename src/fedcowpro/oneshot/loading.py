"""A ready predictor from a checkpoint: weights, the inference settings of its card, and how to prepare volumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from fedcowpro.config import HeadConfig, InferConfig, Modality, PrepareConfig, parse
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.model.checkpoint import load_model
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.predictor import OneShotPredictor


@dataclass(frozen=True)
class Loaded:
    """A predictor with what its checkpoint's card says.

    Attributes:
        predictor: ready to encode and compare.
        seed: of the training.
        prepare: settings per modality, those of the training sites where the card has them.
        card: of the checkpoint.
    """

    predictor: OneShotPredictor
    seed: int
    prepare: Mapping[Modality, PrepareConfig]
    card: Mapping[str, Any] = field(default_factory=dict)

    def untrained(self) -> Loaded:
        """The same encoder before any training of ours, without projection, with the same inference settings.

        Raises:
            FedCoWProError: a ResNet, whose weight file the card does not name.
        """
        config = self.predictor.model.config
        if config.encoder.startswith("resnet"):
            raise FedCoWProError(
                f"the untrained features of '{config.encoder}'", "an encoder that brings its own weights (lite0)",
                "leave out --untrained: the file that the training started from is not part of the model",
            )  # fmt: skip
        model = build_model(config, self.seed, project=False)
        return Loaded(OneShotPredictor(model, self.predictor.config), self.seed, self.prepare)


def default_model() -> Path:
    """The checkpoint that comes with the package: the ImageNet encoder, adapted to phantoms (docs/python.md)."""
    return Path(str(files("fedcowpro.model"))) / "pretrained" / "default.safetensors"


def load_predictor(path: Path | None, overrides: Mapping[str, Any] | None = None, head: str | None = None) -> Loaded:
    """Load a checkpoint (its `.safetensors` file, or a run folder).

    Args:
        path: file or folder; None = the model that comes with the package.
        overrides: fields of `InferConfig` to use instead of the card's.
        head: kind of head to compare features with instead of the one that was trained; it has no weights of its own.

    Raises:
        FedCoWProError: unreadable or altered files, or invalid settings.
    """
    path = default_model() if path is None else path
    model, card = load_model(path)
    if head is not None:
        other = parse(HeadConfig, {**model.config.head.model_dump(), "kind": head}, "settings of the head")
        model.config = model.config.model_copy(update={"head": other})
    settings = {**card.get("inference", {}), **(overrides or {})}
    config = parse(InferConfig, settings, "inference settings")
    prepare: dict[Modality, PrepareConfig] = {}
    modalities: tuple[Modality, ...] = ("ct", "mr")
    for modality in modalities:
        # A modality that no training site had takes the defaults, with slices of the size that all sites had.
        size = {"size": card["data"]["size"]} if "size" in card.get("data", {}) else {}
        stored = card.get("prepare", {}).get(modality, {"modality": modality, **size})
        prepare[modality] = parse(PrepareConfig, stored, f"card of {path}, 'prepare'")
    return Loaded(OneShotPredictor(model, config), int(card.get("seed", 0)), prepare, card)
