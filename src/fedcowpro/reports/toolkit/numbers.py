"""How values are written: as many digits as they carry, a dash where there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "–"


def number(value: float, digits: int = 3) -> str:
    """A number with fixed digits, or a dash where it is not defined."""
    return f"{value:.{digits}f}" if math.isfinite(value) else MISSING


def listed(names: Sequence[str], last: str = "and") -> str:
    """'a, b and c'."""
    return f"{', '.join(names[:-1])} {last} {names[-1]}" if len(names) > 1 else "".join(names)


def count(n: int, noun: str) -> str:
    """'1 case', '2 cases'."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def shown(value: object) -> str:
    """A recorded value as text; a dash where there is none."""
    return MISSING if value is None or value == "" or value != value else str(value)
