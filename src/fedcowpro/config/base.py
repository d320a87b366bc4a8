"""The base of all settings, and how they come from YAML."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedcowpro.core.errors import FedCoWProError

ModelT = TypeVar("ModelT", bound="Config")
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda|cuda:\d+|mps)$", description="what computes")]

_GONE = "was removed: docs/results-studies.md has what it was worth"
_ENCODINGS = "was removed with the encodings in 8 bits and of the largest entries"
# Settings of earlier versions: class -> field, or (field, value) -> what has become of it.
OLD_NAMES: dict[str, dict[str | tuple[str, str], str]] = {
    "AugmentConfig": {"pseudo_correlation": _GONE, "invert": _GONE, "curve": _GONE},
    "EpisodeConfig": {"shots": "is called 'support_views' now", "merge": _GONE},
    "FederationConfig": {
        "unseen": "is called 'new_site_layers' now",
        "uplink": f"{_ENCODINGS}; set 'precision' to float32 or float16, for both ways",
        "downlink": f"{_ENCODINGS}; set 'precision' to float32 or float16, for both ways",
        "topk_share": f"{_ENCODINGS}; leave it out",
    },
    "InferConfig": {
        ("pairing", "bag"): "is called 'all-slices' now",
        ("pairing", "chunk"): "is called 'same-part' now",
    },
    "ModelConfig": {"stride": f"{_GONE}; features have stride 8"},
    "Pool": {"unseen": "is called 'test_organs' now"},
    "PrivacyConfig": dict.fromkeys(
        ("adaptive", "quantile", "clip_rate"), "was removed with adaptive clipping: leave it out, and set 'clip' itself"
    ),
    "PrivacyPolicy": {"compression": f"{_ENCODINGS}; leave it out"},
    "TrainConfig": {"ema": _GONE, ("schedule", "one-cycle"): "is called 'warmup-cosine' now"},
}
# Fields of a checkpoint's model that leave its forward pass as it is where they have these values.
_WITHOUT_EFFECT: dict[str, object] = {"stride": 8}


class Config(BaseModel):
    """Base of all settings: immutable, no unknown keys, with a digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _names_of_earlier_versions(cls, data: Any) -> Any:
        for old, fate in OLD_NAMES.get(cls.__name__, {}).items() if isinstance(data, Mapping) else ():
            if isinstance(old, str) and old in data:
                raise ValueError(f"'{old}' {fate}")
            if isinstance(old, tuple) and data.get(old[0]) == old[1]:
                raise ValueError(f"{old[0]}: '{old[1]}' {fate}")
        return data

    def digest(self) -> str:
        """SHA-256 of the settings as canonical JSON (sorted keys), first 16 hex digits."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse(cls: type[ModelT], data: object, where: str) -> ModelT:
    """Validate `data` as `cls`; `where` names the origin in the error."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "(whole)"
        raise FedCoWProError(
            f"{where}: field '{field}': {first['msg']} (value {first.get('input')!r:.80})",
            f"a valid {cls.__name__}",
            "correct the field; docs/configuration.md lists all of them with their ranges",
        ) from error


def parse_card(cls: type[ModelT], data: object, where: str) -> ModelT:
    """As `parse`, for the card of a checkpoint: removed fields pass where they left the forward pass as it is."""
    if isinstance(data, Mapping):
        data = {name: value for name, value in data.items() if (name, value) not in _WITHOUT_EFFECT.items()}
    return parse(cls, data, where)


def load(cls: type[ModelT], path: Path) -> ModelT:
    """Read a YAML file as `cls`.

    Raises:
        FedCoWProError: missing file, broken YAML, unknown or invalid fields.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FedCoWProError(f"no file {path}", "a YAML configuration", "check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise FedCoWProError(
            f"{path} is not YAML: {error}", "a YAML configuration", "correct the line named above"
        ) from error
    return parse(cls, data if data is not None else {}, str(path))


Setting = str | int | float | bool


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Setting]:
    """Nested settings under dotted names, for tables and trackers; without the sites and the path of a weight file.

    Args:
        settings: as from YAML or JSON. Lists become text, None becomes "none".
    """
    flat: dict[str, Setting] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": item for inner, item in flat_settings(value).items()}
        elif name == "weights":
            flat[name] = "none" if value is None else "a local file"
        elif name != "sites":
            parts = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            flat[name] = "none" if parts is None else parts
    return flat
