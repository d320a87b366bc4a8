"""The statistics behind the page's numbers: every call with the same settings and the same seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.metrics import METRICS
from fedcowpro.evaluation.statistics.cells import Cells, collect
from fedcowpro.evaluation.statistics.compare import Comparison, compare
from fedcowpro.evaluation.statistics.intervals import RESAMPLES, Interval, Method
from fedcowpro.evaluation.statistics.pairs import Equivalence, PairResult
from fedcowpro.reports.comparison.comparable import MODALITY

ALPHA = 0.05
MAIN = "dice"
_KINDS = {"ct": "CT", "mr": "MR"}


@dataclass(frozen=True)
class Difference:
    """A method against the reference: `PairResult` turned round, so that positive means the method is higher.

    Attributes:
        method: its name.
        difference: mean of method - reference.
        interval: of the difference.
        pair: as the statistics gave it, the reference first.
    """

    method: str
    difference: float
    interval: Interval
    pair: PairResult

    @property
    def wins(self) -> int:
        """Cases in which the method is better."""
        return self.pair.losses

    @property
    def losses(self) -> int:
        """Cases in which the reference is better."""
        return self.pair.wins

    @property
    def rank_biserial(self) -> float:
        """Positive when the method is higher."""
        return -self.pair.rank_biserial + 0.0

    @property
    def dz(self) -> float:
        """Positive when the method is higher."""
        return -self.pair.dz + 0.0

    @property
    def points(self) -> tuple[float, ...]:
        """Method - reference of the cases where they are too few for an interval."""
        return tuple(-point for point in self.pair.points)

    @property
    def leaves_out_zero(self) -> bool:
        """Whether there is an interval and 0 is not in it."""
        return math.isfinite(self.interval.low) and 0 not in self.interval

    @property
    def equivalence(self) -> Equivalence | None:
        """With the interval of method - reference."""
        found = self.pair.equivalence
        return None if found is None else Equivalence(found.margin, _turned(found.interval), found.equivalent)


@dataclass(frozen=True)
class ComparisonSettings:
    """How scores are compared.

    Attributes:
        reference: the method that the others are compared with.
        margin: largest difference of Dice that counts as comparable.
        seed: of the resamples; each comparison starts anew from it, so that every number can be had alone.
        resamples: number of bootstrap samples.
        infinite: what an infinite distance counts as, in mm; None = it is left infinite and medians are shown.
        interval: how intervals are made.
    """

    reference: str | None
    margin: float
    seed: int
    resamples: int = RESAMPLES
    infinite: float | None = None
    interval: Method = "studentised"

    def compare(self, rows: pd.DataFrame, metric: str = MAIN) -> Comparison | None:
        """A comparison of all methods that have a score in `rows`, which are of one protocol.

        None where no case and organ has a score of each, or where infinite values have no stand-in.
        """
        rows = self._scored(rows, metric)
        stand_in = self.stand_in(metric)
        if rows.empty or (stand_in is None and np.isinf(rows[metric]).any()):
            return None
        reference = self.reference if self.reference in set(rows["method"]) else None
        try:
            return compare(
                rows,
                np.random.default_rng(self.seed),
                metric=metric,
                reference=reference,
                alpha=ALPHA,
                margin=self.margin if metric == MAIN else None,
                infinite=stand_in,
                resamples=self.resamples,
                interval=self.interval,
            )
        except FedCoWProError:
            if self._have_common(rows, metric):
                raise
            return None

    def cells(self, rows: pd.DataFrame, metric: str, signed: bool = False) -> Cells | None:
        """The cases and organs that all methods in `rows` have; infinite values stay unless they have a stand-in.

        Errors around 0 lose their sign unless they are asked for `signed`.
        """
        rows = self._scored(rows, metric)
        if rows.empty or not self._have_common(rows, metric):
            return None
        stand_in = math.inf if self.stand_in(metric) is None else self.stand_in(metric)
        return collect(rows, metric, magnitude=not signed and METRICS[metric].better == "zero", infinite=stand_in)

    def stand_in(self, metric: str) -> float | None:
        """What an infinite value of a metric counts as: only distances have one."""
        return self.infinite if METRICS[metric].unit == "mm" else None

    def _scored(self, rows: pd.DataFrame, metric: str) -> pd.DataFrame:
        """Rows of the methods that have any value; supports of two sites are two supports."""
        having = rows.groupby("method", sort=False)[metric].apply(lambda values: bool(values.notna().any()))
        kept = rows[rows["method"].isin(having.index[having])]
        return kept.assign(support_case=kept["support_site"] + "/" + kept["support_case"])

    @staticmethod
    def _have_common(rows: pd.DataFrame, metric: str) -> bool:
        keys = ["site", "case", "organ"]
        bad = rows[metric].isna().groupby([rows["method"], rows["seed"], *(rows[key] for key in keys)]).any()
        good = bad[~bad].reset_index().groupby(keys).size()
        return bool((good == len(rows[["method", "seed"]].drop_duplicates())).any())


def against(comparison: Comparison, reference: str | None) -> list[Difference]:
    """The pairs with the reference, in the order of the methods."""
    return [
        Difference(pair.second, -pair.difference + 0.0, _turned(pair.interval), pair)
        for pair in comparison.pairs
        if reference is not None and pair.first == reference
    ]


def strata(rows: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """(site, modality, rows), sorted; a site with two modalities comes twice."""
    groups = rows.groupby(["site", MODALITY], sort=True)
    return [(str(site), modality_name(str(kind)), part) for (site, kind), part in groups]


def stratum_name(site: str, modality: str, everything: Sequence[tuple[str, str, pd.DataFrame]]) -> str:
    """The site's name, with the modality where it has two."""
    several = sum(name == site for name, _, _ in everything) > 1
    return f"{site} ({modality or 'modality not known'})" if several else site


def modality_name(kind: str) -> str:
    """'CT' for 'ct'."""
    return _KINDS.get(kind, kind)


def _turned(interval: Interval) -> Interval:
    return Interval(-interval.high + 0.0, -interval.low + 0.0, interval.confidence, interval.method)
