"""Checkpoints: whole or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcowpro.config import ModelConfig
from fedcowpro.core import files
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.model import checkpoint
from fedcowpro.model.segmenter import build_model

CONFIG = ModelConfig(encoder="tiny", channels=8)
CARD: dict[str, Any] = {"model": CONFIG.model_dump(mode="json"), "seed": 3, "round": 2}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "model.safetensors"
    checkpoint.save_checkpoint(path, build_model(CONFIG, 3).state_dict(), CARD)
    return path


def test_round_trip(saved: Path) -> None:
    state, card = checkpoint.load_checkpoint(saved)
    original = build_model(CONFIG, 3).state_dict()
    assert all(torch.equal(state[name], original[name]) for name in original)
    assert state["encoder.layers.1.num_batches_tracked"].dtype == torch.int64
    assert card["round"] == 2
    assert set(card["versions"]) == {"fedcowpro", "python", "torch", "numpy", "flwr"}
    assert card["weights_digest"] == checkpoint.state_digest(original)
    model, _ = checkpoint.load_model(saved.parent)
    assert not model.training
    assert checkpoint.state_digest(model.state_dict()) == card["weights_digest"]
    assert sorted(path.name for path in saved.parent.iterdir()) == ["model.json", "model.safetensors"]


def test_digest_sees_names_types_shapes_and_values() -> None:
    states = [
        {"a": torch.zeros(4)},
        {"b": torch.zeros(4)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4, dtype=torch.int32)},
        {"a": torch.tensor([0.0, 0.0, 0.0, 1.0])},
        {"a": torch.tensor(0)},
        {"a": torch.zeros(2), "b": torch.zeros(2)},
    ]
    assert len({checkpoint.state_digest(state) for state in states}) == len(states)
    square = torch.arange(4.0).reshape(2, 2)
    assert checkpoint.state_digest({"a": square, "b": square}) == checkpoint.state_digest(
        {"b": square.T.contiguous().T, "a": square}
    )


def test_pickle_is_refused(saved: Path) -> None:
    torch.save({"a": torch.zeros(1)}, saved)
    with pytest.raises(FedCoWProError, match=r"another format.*\n.*pickles"):
        checkpoint.load_checkpoint(saved)


def test_damage_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[:-10])
    with pytest.raises(FedCoWProError, match="damaged"):
        checkpoint.load_checkpoint(saved)
    saved.write_bytes(whole[:-4] + b"\x01\x02\x03\x04")
    with pytest.raises(FedCoWProError, match="has weights of digest"):
        checkpoint.load_checkpoint(saved)


def test_missing_or_foreign_parts_are_refused(saved: Path) -> None:
    card = saved.with_suffix(".json")
    text = card.read_text()
    for broken, message in (("{", "cannot be read"), ("[]", "of format 'None'"), ('{"format": "x"}', "of format 'x'")):
        card.write_text(broken)
        with pytest.raises(FedCoWProError, match=message):
            checkpoint.load_checkpoint(saved)
    card.unlink()
    with pytest.raises(FedCoWProError, match="cannot be read"):
        checkpoint.load_checkpoint(saved)
    with pytest.raises(FedCoWProError, match="no readable file"):
        checkpoint.load_checkpoint(saved.with_name("other.safetensors"))
    other = json.loads(text)
    other["model"]["channels"] = 16
    card.write_text(json.dumps(other))
    with pytest.raises(FedCoWProError, match="size mismatch"):
        checkpoint.load_model(saved)
    other["model"] = {"encoder": "huge"}
    card.write_text(json.dumps(other))
    with pytest.raises(FedCoWProError, match="field 'encoder'"):
        checkpoint.load_model(saved)


def test_failed_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def fail(*args: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        checkpoint.save_tensors(saved, {"a": torch.zeros(1)})
    assert saved.read_bytes() == before
