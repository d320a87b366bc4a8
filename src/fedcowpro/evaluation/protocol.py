"""The evaluation protocol: which slices support which, which slices are scored, and the table of results.

Two protocols are reported side by side:

- ``gt-range`` scores only the slices between the first and the last slice of the query's true organ, and
  assigns support slices by that range. It is the literature's protocol (SSL-ALPNet, CoWPro) and uses the
  answer twice.
- ``whole-volume`` scores every slice and uses nothing of the query's labels.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import write_atomic
from fedcowpro.evaluation.metrics import METRICS

PROTOCOLS = ("gt-range", "whole-volume")
Teaching = Literal["fine-tuned", "self-trained", "supervised"]
TEACHINGS: tuple[Teaching, ...] = ("fine-tuned", "self-trained", "supervised")
"""What a network that is scored beside prototypes learns from; see `fine_tuned`."""
COLUMNS = (
    "method", "seed", "site", "case", "organ", "protocol", *METRICS, "support_site", "support_case", "support_slices",
)  # fmt: skip


def chunk_of(z: npt.ArrayLike, zmin: int, zmax: int, n: int = 3) -> npt.NDArray[np.int64]:
    """Part 0..n-1 of the organ's extent that slice(s) `z` fall into; each part has its own support slice.

    floor((z - zmin) / ((zmax - zmin) / n)), clipped to 0..n-1, so slices outside the range take the nearest
    part; all 0 for an organ on one slice (SSL-ALPNet, Ouyang et al. 2020).

    Args:
        z: slice number or array of them, any shape.
        zmin: first slice of the organ.
        zmax: last slice of the organ, inclusive.
        n: number of parts, at least 1.

    Returns:
        int64 array of z's shape.

    Raises:
        FedCoWProError: zmax < zmin, or n < 1.
    """
    if zmax < zmin or n < 1:
        raise FedCoWProError(
            f"slices {zmin}..{zmax} in {n} parts",
            "a first slice not after the last, at least one part",
            "check them",
        )
    offset = np.asarray(z, dtype=np.int64) - zmin
    if zmax == zmin:
        return np.zeros_like(offset)
    # In integers, because (zmax - zmin) / n rounds and can put a slice on a boundary into the part before.
    return np.clip(offset * n // (zmax - zmin), 0, n - 1)


def gt_range(mask: npt.ArrayLike) -> tuple[int, int]:
    """First and last slice, both inclusive, with any element of a boolean mask (depth, height, width).

    Raises:
        FedCoWProError: the mask is not 3-D or empty.
    """
    array = np.asarray(mask, dtype=bool)
    if array.ndim != 3 or not array.any():
        raise FedCoWProError(
            f"a mask of shape {array.shape} with {int(array.sum())} voxels",
            "a mask (depth, height, width) that is not empty",
            "leave this organ out for this case",
        )
    slices = np.flatnonzero(array.any(axis=(1, 2)))
    return int(slices[0]), int(slices[-1])


@dataclass(frozen=True)
class Row:
    """The scores of one prediction; see `metrics.METRICS` for what they mean, NaN = not defined.

    `support_slices` is how many annotated slices were used, or "all"; where several annotated cases support, their
    sites, ids and numbers are joined by "+". `options` become further columns, one per key.
    """

    method: str
    seed: int
    site: str
    case: str
    organ: str
    protocol: str
    dice: float
    support_site: str
    support_case: str
    support_slices: str
    iou: float = math.nan
    precision: float = math.nan
    recall: float = math.nan
    relative_volume_error: float = math.nan
    hd95: float = math.nan
    nsd: float = math.nan
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)


def write_results(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV: `COLUMNS`, then one column per prediction option (empty where a row lacks it).

    An existing file is replaced as a whole. Numbers are written with all digits, so reading returns it exactly.

    Raises:
        FedCoWProError: a row that `read_results` would refuse, or an option named like a fixed column.
    """
    text = _as_csv(rows)
    _parse(text, f"results for {path}")
    write_atomic(path, text)


def table_of(rows: Sequence[Row]) -> pd.DataFrame:
    """The table that `read_results` makes of the file that `write_results` writes."""
    return _parse(_as_csv(rows), "results")


def _as_csv(rows: Sequence[Row]) -> str:
    options = list(dict.fromkeys(key for row in rows for key in row.options))
    if taken := sorted(set(options) & set(COLUMNS)):
        raise FedCoWProError(f"prediction option '{taken[0]}'", "a name that no column has", "rename the option")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS, *options])
    for row in rows:
        writer.writerow([*(getattr(row, column) for column in COLUMNS), *(row.options.get(key, "") for key in options)])
    return buffer.getvalue()


def read_results(path: Path) -> pd.DataFrame:
    """Read a results CSV: text columns stay text (case "007" keeps its zeros), seed is int64, metrics are float64.

    Raises:
        FedCoWProError: missing file, missing columns, or a value that is out of range; the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FedCoWProError(f"no file {path}", "a CSV of results", "run the evaluation first") from error
    except (OSError, UnicodeDecodeError) as error:
        raise FedCoWProError(f"{path}: {error}", "a readable CSV of results", "check the file") from error
    return _parse(text, str(path))


def _parse(text: str, where: str) -> pd.DataFrame:
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, index_col=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise FedCoWProError(f"{where}: {error}", "a CSV of results", "run the evaluation again") from error
    if missing := [column for column in COLUMNS if column not in table.columns]:
        raise FedCoWProError(
            f"{where}: no column {', '.join(missing)}",
            f"columns {', '.join(COLUMNS)}",
            "run the evaluation again",
        )
    seed = pd.to_numeric(table["seed"], errors="coerce")
    _refuse(table, "seed", ~(seed.ge(0) & seed.mod(1).eq(0)), "a whole number from 0 on", where)
    values = {}
    for name, metric in METRICS.items():
        value, undefined = pd.to_numeric(table[name], errors="coerce"), table[name].str.lower() == "nan"
        low, high = metric.bounds
        _refuse(table, name, ~(value.between(low, high) | undefined), f"a number in {low:g}..{high:g} or nan", where)
        values[name] = value.where(~undefined, math.nan).astype(np.float64)
    _refuse(table, "protocol", ~table["protocol"].isin(PROTOCOLS), f"one of {', '.join(PROTOCOLS)}", where)
    known = table["support_slices"].str.fullmatch(r"([1-9]\d*|all)(\+([1-9]\d*|all))*")
    _refuse(
        table, "support_slices", ~known, "a number of slices or all, joined by + where several cases support", where
    )
    for column in ("method", "site", "case", "organ"):
        _refuse(table, column, table[column].str.strip() == "", "a name", where)
    return table.assign(seed=seed.astype(np.int64), **values)


def _refuse(table: pd.DataFrame, column: str, bad: pd.Series, expected: str, where: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise FedCoWProError(
            f"{where}, line {row + 2}: {column} is '{table[column].iloc[row]}'", expected, "correct or rerun"
        )
