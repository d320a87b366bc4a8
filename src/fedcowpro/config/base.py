"""The base of all settings, and how they come from YAML."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from fedcowpro.core.errors import FedCoWProError

ModelT = TypeVar("ModelT", bound="Config")


class Config(BaseModel):
    """Base of all settings: immutable, no unknown keys, with a digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


def load(cls: type[ModelT], path: Path) -> ModelT:
    """Read a YAML file as `cls`.

    Raises:
        FedCoWProError: missing file, broken YAML, unknown or invalid fields.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FedCoWProError(f"no file {path}", "a YAML configuration", "check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
