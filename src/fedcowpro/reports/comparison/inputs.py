"""All that the page rests on: comparable scores, trainings, and what had to be left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.protocol import PROTOCOLS
from fedcowpro.evaluation.summary import BEFORE
from fedcowpro.reports.comparison.comparable import (
    own_support,
    require_same_data,
    same_seeds,
    same_supports,
    settings_cautions,
    tolerance_of,
)
from fedcowpro.reports.comparison.naming import joined
from fedcowpro.reports.comparison.sites import with_modality
from fedcowpro.reports.comparison.sources import Source, open_source, with_distinct_labels
from fedcowpro.reports.comparison.trainings import Training
from fedcowpro.reports.toolkit.numbers import count, listed


@dataclass(frozen=True)
class Inputs:
    """What is compared.

    Attributes:
        sources: as given.
        rows: comparable scores, with the column `modality`; all with the support that the question means.
        methods: in order of appearance.
        reference: what the others are compared with; None with fewer than two methods.
        why: how the reference was chosen.
        protocol: in which the question is answered; None without scores.
        tolerance: of NSD in mm; None where it is not known.
        metrics_left_out: that cannot be compared.
        trainings: all runs.
        notes: what was left out, renamed or not checked.
        cautions: what a reader must know beside the answer.
    """

    sources: tuple[Source, ...]
    rows: pd.DataFrame
    methods: tuple[str, ...]
    reference: str | None
    why: str
    protocol: str | None
    tolerance: float | None
    metrics_left_out: tuple[str, ...]
    trainings: tuple[Training, ...]
    notes: tuple[str, ...]
    cautions: tuple[str, ...]

    @property
    def protocols(self) -> list[str]:
        """Those of the scores, that of the answer first."""
        found = set(self.rows["protocol"])
        return sorted(found, key=lambda protocol: (protocol != self.protocol, PROTOCOLS.index(protocol)))

    @property
    def questions(self) -> list[str]:
        """The studies' questions."""
        return [str(record["question"]) for source in self.sources if (record := source.record or {}).get("question")]


def gather(
    paths: Sequence[Path], *, reference: str | None, protocol: str | None, folders: Mapping[str, Path]
) -> Inputs:
    """Read all sources and keep what can be compared.

    Args:
        paths: tables of scores, run folders, study folders.
        reference: the method that the others are compared with; None = a study's own, else 'untrained', else the first.
        protocol: in which the question is answered; None = whole-volume where there is such a score.
        folders: site name -> site folder, for the modalities.

    Raises:
        FedCoWProError: no source, unreadable ones, scores that answer different questions, an unknown reference or
            protocol.
    """
    if not paths:
        raise FedCoWProError("nothing to compare", "tables, run folders or study folders", "name at least one")
    sources = tuple(open_source(Path(path)) for path in paths)
    table, trainings, notes = joined(sources)
    if table.empty and not any(len(training.rounds) for training in trainings):
        raise FedCoWProError(
            f"neither scores nor training records in {listed([str(path) for path in paths])}",
            "at least one of them",
            "run the study or the evaluation first",
        )
    with_scores = [source for source in sources if any(len(scores.rows) for scores in source.tables)]
    designed = [source.kind for source in with_scores] == ["study"]
    notes += require_same_data(sources, with_distinct_labels(sources))
    own, said = own_support(with_modality(table, sources, folders))
    rows, more = same_supports(own, designed)
    if designed:
        rows, of_seeds = same_seeds(rows)
        more += of_seeds
    tolerance, of_nsd = tolerance_of(rows)
    methods = tuple(dict.fromkeys(rows["method"].astype(str)))
    if lost := sorted(set(table["method"]) - set(methods)):
        raise FedCoWProError(
            f"{listed(lost)}: no score with the support that the other methods were given",
            "the same annotated cases and slices for all methods",
            "evaluate all methods with the same --episodes file, or leave that one out",
        )
    chosen, why = _reference(methods, reference, sources)
    return Inputs(
        sources=sources,
        rows=rows,
        methods=methods,
        reference=chosen,
        why=why,
        protocol=_protocol(rows, protocol),
        tolerance=tolerance,
        metrics_left_out=("nsd",) if of_nsd else (),
        trainings=tuple(trainings),
        notes=(*notes, *said, *of_nsd, *(more if not designed else ())),
        cautions=(*(more if designed else ()), *settings_cautions(rows, designed), *_unfinished(sources)),
    )


def _reference(methods: Sequence[str], given: str | None, sources: Sequence[Source]) -> tuple[str | None, str]:
    if given is not None:
        if given not in methods:
            raise FedCoWProError(
                f"reference '{given}'", f"one of {', '.join(methods) or '(no method)'}", "correct --reference"
            )
        return (given, "as asked for") if len(methods) > 1 else (None, "")
    if len(methods) < 2:
        return None, ""
    for source in sources:
        named = (source.record or {}).get("compare")
        if named in methods:
            return named, "as the study names it"
    if BEFORE in methods:
        return BEFORE, "the encoder before any training"
    return methods[0], "the first one named"


def _protocol(rows: pd.DataFrame, given: str | None) -> str | None:
    known = [protocol for protocol in reversed(PROTOCOLS) if (rows["protocol"] == protocol).any()]
    if given is not None and given not in known:
        raise FedCoWProError(f"protocol '{given}'", f"one of {', '.join(known) or '(no scores)'}", "correct --protocol")
    return given or (known[0] if known else None)


def _unfinished(sources: Sequence[Source]) -> list[str]:
    """What of a study is not scored yet, or failed."""
    said = []
    for source in sources:
        if source.kind != "study":
            continue
        name = (source.record or {}).get("name", source.path.name)
        pairs = {
            (str(method), int(seed))
            for scores in source.tables
            for method, seed in scores.rows[["method", "seed"]].drop_duplicates().itertuples(index=False)
        }
        asked = [(arm, int(seed)) for arm, entry in source.arms.items() for seed in entry.get("seeds", {})]
        if lacking := [f"'{arm}' seed {seed}" for arm, seed in asked if (arm, seed) not in pairs]:
            said.append(
                f"The study '{name}' is not complete: {count(len(lacking), 'trial')} of {len(asked)} without scores "
                f"({', '.join(lacking[:6])}{', ...' if len(lacking) > 6 else ''})."
            )
        if failed := (source.record or {}).get("failed"):
            said.append(f"Runs of the study '{name}' failed: {'; '.join(map(str, failed))}.")
    return said
