"""Organs by label value and by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, TypeVar

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.checks import UNKNOWN

T = TypeVar("T")
Organs = Sequence[int] | Sequence[str] | Mapping[str, int] | Mapping[int, str]


class ByOrgan(dict[int, T]):
    """Values by label value, which are found by the organ's name too: `millilitres[1]` or `millilitres["liver"]`."""

    def __init__(self, values: Mapping[int, T], names: Mapping[int, str]) -> None:
        super().__init__(values)
        self._values_of = {name: value for value, name in names.items()}

    def __missing__(self, key: object) -> T:
        value = self._values_of.get(key) if isinstance(key, str) else None
        if value is None or value not in self:
            there = [repr(one) for one in (*self, *(name for name, of in self._values_of.items() if of in self))]
            raise KeyError(f"{key!r}; there are {', '.join(there)}")
        return self[value]


def names_of(organs: Organs | None) -> dict[int, str]:
    """Label values that are asked for, each with its name or ''; none where all are.

    Args:
        organs: label values; or names, of the labels 1, 2, ... in their order; or names with their values, either way
            round.

    Raises:
        FedCoWProError: a value outside 1..255, or twice; an empty name, or one that comes twice.
    """
    if organs is None:
        return {}
    pairs: list[tuple[Any, Any]]
    if isinstance(organs, Mapping):
        pairs = [(value, name) if isinstance(name, str) else (name, value) for value, name in organs.items()]
    else:
        given = [organs] if isinstance(organs, str) else organs
        pairs = [(number, one) if isinstance(one, str) else (one, "") for number, one in enumerate(given, 1)]
    named = [str(name).strip() for _, name in pairs if isinstance(name, str) and name != ""]
    whole = all(_is_value(value) and isinstance(name, str) for value, name in pairs)
    if not whole or len({value for value, _ in pairs}) < len(pairs) or len(set(named)) < len(named) or "" in named:
        raise FedCoWProError(
            f"organs={organs!r}", f"label values 1..{UNKNOWN}, names, or both, each once",
            "as in organs=[1, 2], organs=['liver', 'spleen'] or organs={'liver': 1, 'spleen': 2}",
        )  # fmt: skip
    return {int(value): name.strip() for value, name in pairs}


def _is_value(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 1 <= int(value) <= UNKNOWN
