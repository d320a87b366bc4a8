"""A ready predictor from a checkpoint: weights, the inference settings of its card, and how to prepare volumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from fedcowpro.config import HeadConfig, InferConfig, Modality, PrepareConfig, parse
from fedcowpro.core.device import CPU
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
        return Loaded(OneShotPredictor(model.to(self.predictor.device), self.predictor.config), self.seed, self.prepare)


def default_model() -> Path:
    """The checkpoint that comes with the package: the ImageNet encoder, adapted to phantoms (docs/python.md)."""
    return Path(str(files("fedcowpro.model"))) / "pretrained" / "default.safetensors"


# Settings of inference that were taken out, with the value at which they did nothing.
_REMOVED = {"gammas": [1.0], "axial_smoothing": 0.0, "location_prior": 0.0, "coordinates": 0.0}
# Names of earlier versions, in cards that were written then.
_OLD_PAIRING = {"bag": "all-slices", "chunk": "same-part"}
# Settings that need the truth or give overlapping masks, with the value that a user's masks are made with.
_EVALUATION_ONLY = {"pairing": "all-slices", "exclusive": True}


def load_predictor(
    path: Path | None,
    overrides: Mapping[str, Any] | None = None,
    head: str | None = None,
    *,
    evaluation: bool = False,
    device: torch.device = CPU,
) -> Loaded:
    """Load a checkpoint (its `.safetensors` file, or a run folder).

    Args:
        path: file or folder; None = the model that comes with the package.
        overrides: fields of `InferConfig` to use instead of the card's.
        head: kind of head to compare features with instead of the one that was trained; it has no weights of its own.
        evaluation: whether settings that only an evaluation can honour are allowed (`pairing: same-part`,
            `exclusive: false`). Elsewhere they are refused among the overrides, and those of the card do not count.
        device: where it computes.

    Raises:
        FedCoWProError: unreadable or altered files, or invalid settings.
    """
    path = default_model() if path is None else path
    model, card = load_model(path)
    if head is not None:
        other = parse(HeadConfig, {**model.config.head.model_dump(), "kind": head}, "settings of the head")
        model.config = model.config.model_copy(update={"head": other})
    stored = _stored_settings(card.get("inference", {}), path)
    if not evaluation:
        for name, value in _EVALUATION_ONLY.items():
            if (overrides or {}).get(name, value) != value:
                raise FedCoWProError(
                    f"inference setting {name}: {(overrides or {})[name]}",
                    f"{value}, with which masks are made",
                    "leave it out; 'fedcowpro evaluate' has it for comparison with the literature",
                )
        stored |= _EVALUATION_ONLY
    settings = {**stored, **(overrides or {})}
    config = parse(InferConfig, settings, "inference settings")
    prepare: dict[Modality, PrepareConfig] = {}
    modalities: tuple[Modality, ...] = ("ct", "mr")
    for modality in modalities:
        # A modality that no training site had takes the defaults, with slices of the size that all sites had.
        size = {"size": card["data"]["size"]} if "size" in card.get("data", {}) else {}
        stored = card.get("prepare", {}).get(modality, {"modality": modality, **size})
        prepare[modality] = parse(PrepareConfig, stored, f"card of {path}, 'prepare'")
    return Loaded(OneShotPredictor(model.to(device), config), int(card.get("seed", 0)), prepare, card)


def _stored_settings(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A card's settings of inference, of an older version too where what was taken out did nothing."""
    for name, idle in _REMOVED.items():
        if settings.get(name, idle) != idle:
            raise FedCoWProError(
                f"card of {path}: inference.{name}: {settings[name]}",
                "settings of this version",
                f"take '{name}' out of the card, or use the version that made the model; see CHANGELOG.md",
            )
    kept = {name: value for name, value in settings.items() if name not in _REMOVED}
    if "pairing" in kept:
        kept["pairing"] = _OLD_PAIRING.get(kept["pairing"], kept["pairing"])
    return kept
