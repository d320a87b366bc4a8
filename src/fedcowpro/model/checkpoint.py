"""Weights as safetensors with a JSON card beside them; nothing in either file can run code when it is read.

`NAME.safetensors` holds the tensors, `NAME.json` the card: architecture, seed, configuration digest, round,
versions, counts of the data (no names of cases or sites) and a digest that ties the two files together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, uint8

from fedcowpro.config import ModelConfig
from fedcowpro.config.base import parse_card
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.core.text import from_json
from fedcowpro.core.versions import versions
from fedcowpro.model.segmenter import Segmenter, build_model

FORMAT = "fedcowpro-model/1"
FILE_NAME = "model.safetensors"


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted names with dtype, shape and bytes of each tensor, as 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(uint8).numpy().data)
    return digest.hexdigest()


def save_checkpoint(
    path: Path, state: Mapping[str, Tensor], card: Mapping[str, Any], kind: str = FORMAT
) -> dict[str, Any]:
    """Write weights to `path` and the card beside it, each whole or not at all.

    Args:
        path: the `.safetensors` file.
        state: tensors by name; they share no memory.
        card: JSON values with at least `model` (a `ModelConfig` as a dict) and `seed`.
        kind: its `format`.

    Returns:
        The card as written: with `format`, `versions` and `weights_digest` added.
    """
    full = {"format": kind, **card, "versions": versions(), "weights_digest": state_digest(state)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, state)
    write_atomic(_card_path(path), (json.dumps(full, indent=2, sort_keys=True) + "\n").encode())
    return full


def read_card(path: Path) -> dict[str, Any] | None:
    """The card of a checkpoint (file or folder) where there is one that can be read; weights are not opened."""
    try:
        card = from_json(_card_path(path / FILE_NAME if path.is_dir() else path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) else None


def load_checkpoint(path: Path, kind: str = FORMAT) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights and card; `path` is the `.safetensors` file or a folder with `model.safetensors`.

    Args:
        kind: the card's `format`.

    Raises:
        FedCoWProError: missing, damaged, of another format (a pickle, say), or not the weights of the card.
    """
    path = path / FILE_NAME if path.is_dir() else path
    state = load_tensors(path)
    card_path = _card_path(path)
    try:
        card = from_json(card_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FedCoWProError(
            f"the card {card_path} cannot be read: {error}",
            "the JSON card that was saved with the weights",
            f"copy it to the folder of {path.name}",
        ) from error
    if not isinstance(card, dict) or card.get("format") != kind:
        said = card.get("format") if isinstance(card, dict) else None
        raise FedCoWProError(
            f"{card_path} is a card of format '{said}'", f"'format': '{kind}'", "choose another checkpoint"
        )
    if card.get("weights_digest") != (found := state_digest(state)):
        raise FedCoWProError(
            f"{path} has weights of digest {found[:16]}",
            f"{str(card.get('weights_digest'))[:16]}, as its card says",
            "the files were altered or mixed up: copy both again from their origin",
        )
    return state, card


def load_model(path: Path) -> tuple[Segmenter, dict[str, Any]]:
    """The segmenter of a checkpoint, in evaluation mode, and its card.

    Raises:
        FedCoWProError: see `load_checkpoint`; or the weights do not fit the card's architecture.
    """
    state, card = load_checkpoint(path)
    config = parse_card(ModelConfig, card.get("model"), f"card of {path}, 'model'")
    model = build_model(config, int(card.get("seed", 0)), pretrained=False)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise FedCoWProError(
            f"{path}: {error}",
            f"the weights of a '{config.encoder}' segmenter",
            "use the version that wrote it",
        ) from error
    return model.eval(), card


def save_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors as one safetensors file, whole or not at all."""
    write_atomic(path, safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in state.items()}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        FedCoWProError: missing or damaged file, or another format.
    """
    try:
        return safetensors.torch.load(path.read_bytes())
    except OSError as error:
        raise FedCoWProError(f"no readable file {path}", "a .safetensors checkpoint", "check the path") from error
    except SafetensorError as error:
        raise FedCoWProError(
            f"{path} is damaged or of another format ({error})",
            "a .safetensors file; pickles (.pt, .pth) can run code and are not read",
            "copy the file again, or convert the weights with the safetensors package",
        ) from error


def _card_path(path: Path) -> Path:
    return path.with_suffix(".json")
