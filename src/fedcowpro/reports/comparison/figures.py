"""How numbers are written on the page: as many digits as they carry, a real minus sign."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedcowpro.evaluation.metrics import METRICS
from fedcowpro.evaluation.statistics.intervals import Interval
from fedcowpro.reports.toolkit.numbers import MISSING, number

_SMALLEST_P = 0.001


def digits(metric: str) -> int:
    """Decimals of a metric's values: 3 for shares, 1 for mm."""
    return 1 if METRICS[metric].unit == "mm" else 3


def signed(value: float, places: int = 3) -> str:
    """A difference with its sign."""
    if not math.isfinite(value):
        return MISSING
    rounded = round(value, places)
    sign = "+" if rounded > 0 else "\N{MINUS SIGN}" if rounded < 0 else ""
    return f"{sign}{abs(rounded):.{places}f}"


def interval(found: Interval, places: int = 3, sign: bool = False, points: Sequence[float] = ()) -> str:
    """'0.412 to 0.498'; where cases are too few for an interval, the cases: '0.412 and 0.498'; else a dash."""
    write = signed if sign else number
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return " and ".join(write(point, places) for point in sorted(points)) if len(points) > 1 else MISSING
    return f"{write(found.low, places)} to {write(found.high, places)}"


def p_text(p: float, alpha: float = 0.05) -> str:
    """'0.032', '<0.001'; more digits where rounding would move it across alpha."""
    if not math.isfinite(p):
        return MISSING
    if p < _SMALLEST_P:
        return f"<{_SMALLEST_P:g}"
    places = next(places for places in range(3, 18) if places == 17 or (round(p, places) <= alpha) == (p <= alpha))
    return f"{p:.{places}f}"


def p_phrase(name: str, p: float, alpha: float = 0.05) -> str:
    """'adjusted p = 0.032' or 'adjusted p < 0.001'."""
    text = p_text(p, alpha)
    return f"{name} < {text[1:]}" if text.startswith("<") else f"{name} = {text}"


def percent(share: float) -> str:
    """A share as a percentage; '<1%' and '>99%' where rounding would say none or all."""
    if not math.isfinite(share):
        return MISSING
    if 0 < share < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"
