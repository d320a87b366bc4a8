"""Study files: YAML to `Study`, and the environment variables in it."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from fedcowpro.config import parse
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.study.spec import Study


def load_study(path: Path) -> Study:
    """Read a study file. `base` and `pools` may be paths of YAML files, relative to it.

    Raises:
        FedCoWProError: missing file, broken YAML, a key that stands twice, unknown or invalid fields.
    """
    data = _read(path)
    for name in ("base", "pools"):
        if isinstance(data, dict) and isinstance(data.get(name), str):
            data = {**data, name: _read(path.parent / data[name])}
    return parse(Study, data if data is not None else {}, str(path))


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error: the first of two arms would be lost silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"'{twice[0]}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as error:
        raise FedCoWProError(f"no file {path}", "a YAML file", "check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FedCoWProError(f"{path}: {error}", "a YAML file", "correct the line named above") from error


def expand_variables(text: str, environment: Mapping[str, str]) -> str:
    """Replace each ${NAME}.

    Raises:
        FedCoWProError: an unset or empty variable.
    """

    def value(match: re.Match[str]) -> str:
        if not environment.get(match[1]):
            raise FedCoWProError(
                f"'{text}': the environment variable {match[1]} is not set",
                "the folder that the study reads its volumes from",
                f"for example: export {match[1]}=/path/to/the/data",
            )
        return environment[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)
