"""Five folds over 16 MR and 16 CT volumes: every case is a query once, and what trains never saw it.

    FEDCOWPRO_REAL_DATA=DATA python experiments/five_folds.py run WORK [--seeds 0 1 2] [--workers 2]
    python experiments/five_folds.py table docs/results/five-folds.csv docs/results/finetuned.csv [--figure FILE.svg]

`run` goes on where it was interrupted, and writes WORK/five-folds.csv after each fold, which took 65 minutes beside
other work. `table` prints the tables of docs/results.md, the same text from the same scores, byte for byte, and draws
every case of every comparison.

The design was fixed before the first fold was run. In fold f of a modality, cases f, f+5, f+10 (and f+15) query; one
case of each of the next two folds is an example, alone; the others train, unlabelled, at two sites in turn. Settings
are those of experiments/shared/real.yaml, the same for all arms; those of inference were chosen earlier, on 12 of these
cases with other roles.

**Primary comparisons** (PRIMARY; whole-volume Dice, mean over organs, examples and seeds, paired by case; Holm over
the six). All else is exploratory. The comparison of self-training takes its scores from docs/results/finetuned.csv:
four examples a modality, which were not chosen by folds, 15 queries each.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from fedcowpro.core.files import write_atomic
from fedcowpro.evaluation.metrics import METRICS
from fedcowpro.evaluation.protocol import COLUMNS, read_results
from fedcowpro.evaluation.statistics.cells import collect
from fedcowpro.evaluation.statistics.compare import Comparison, compare
from fedcowpro.evaluation.statistics.hypotheses import holm
from fedcowpro.study.run import run_study
from fedcowpro.study.table import read_table

FOLDS = 5
HERE = Path(__file__).parent
TRAINING_SITES = ("mr-a", "mr-b", "ct-a", "ct-b")
ALONE = "a site alone"


@dataclass(frozen=True)
class Primary:
    """`first` is claimed to be better than `second`, on sites whose examples are of the same modality or not."""

    claim: str
    first: str
    second: str
    foreign: bool = False


PRIMARY = (
    Primary("Training, federated, against none", "federated", "untrained"),
    Primary("Federated against the mean of the four sites alone, with as many steps a site", "federated", ALONE),
    Primary("Federated against all volumes at one place, with as many steps in all", "federated", "pooled"),
    Primary("Fused Dice loss (FedCoWPro) against none (FedAvg-CoWPro)", "federated", "no Dice terms"),
    Primary("Fine-tuned and self-trained against prototypes", "self-trained", "prototypes"),
    Primary(
        "Example of the other modality: with random convolutions against without",
        "federated, random convolutions", "federated", foreign=True,
    ),
)  # fmt: skip
ARMS: dict[str, Any] = {
    "untrained": {"regime": "untrained"},
    "federated": {},
    **{f"{site} alone": {"regime": "single-site", "site": site} for site in TRAINING_SITES},
    "pooled": {"regime": "pooled", "config": {"federation.local_steps": 40}},
    "no Dice terms": {"config": {"loss": {"spatial_dice": 0, "edge_dice": 0}}},
    "federated, random convolutions": {"config": {"augment.random_convolution": 0.5}},
}
FOREIGN_ARMS = ("untrained", "federated", "federated, random convolutions")


def fold_of(cases: Sequence[Any], fold: int) -> tuple[list[Any], list[Any], list[Any]]:
    """Queries, two examples (each alone) and training cases of fold 0..4."""
    queries = list(cases[fold::FOLDS])
    examples = [cases[(fold + 1) % FOLDS], cases[FOLDS + (fold + 2) % FOLDS]]
    return queries, examples, [case for case in cases if case not in (*queries, *examples)]


def study_of(pools: dict[str, Any], fold: int, seeds: Sequence[int], foreign: bool) -> dict[str, Any]:
    """A fold as a study file; `foreign`: with examples of the other modality."""
    parts = {name: fold_of(pool["cases"], fold) for name, pool in pools.items()}
    sites = {
        f"{name}-{letter}": [{"pool": name, "cases": training[start::2]}]
        for name, (_, _, training) in parts.items()
        for start, letter in enumerate("ab")
    }
    evaluation = {}
    for name, (queries, examples, _) in parts.items():
        if foreign:
            other = next(one for one in parts if one != name)
            evaluation[f"{name}-by-{other}"] = {
                "pool": name, "support_pool": other, "support": parts[other][1][0], "query": queries,
            }  # fmt: skip
        else:
            for number, example in enumerate(examples, 1):
                evaluation[f"{name}-{number}"] = {"pool": name, "support": example, "query": queries}
    return {
        "name": f"fold-{fold + 1}{'-foreign' if foreign else ''}",
        "question": "How good are masks on volumes that nothing was trained on?",
        "pools": pools,
        "train": {"sites": sites},
        "evaluation": evaluation,
        "base": str(HERE / "shared" / "real.yaml"),
        "arms": {name: ARMS[name] for name in (FOREIGN_ARMS if foreign else ARMS)},
        "compare": "untrained",
        "seeds": list(seeds),
    }


def run(work: Path, seeds: Sequence[int], workers: int | None) -> None:
    """All folds of a seed before the next seed."""
    pools = yaml.safe_load((HERE / "shared" / "real-pools.yaml").read_text(encoding="utf-8"))
    work.mkdir(parents=True, exist_ok=True)
    for count in range(1, len(seeds) + 1):
        for fold in range(FOLDS):
            for foreign in (False, True):
                study = study_of(pools, fold, seeds[:count], foreign)
                file = work / f"{study['name']}.yaml"
                write_atomic(file, yaml.safe_dump(study, sort_keys=False))
                print(f"seed {seeds[count - 1]}, {study['name']}", flush=True)
                run_study(file, work / study["name"], workers=workers, store=work / "store")
                gather(work)


def gather(work: Path) -> None:
    """WORK/five-folds.csv: one row a score, under the name of its arm; the four sites alone as their mean."""
    tables = [read_table(path.parent) for path in sorted(work.glob("fold-*/table.csv"))]
    rows = pd.concat([table[[*COLUMNS, "arm"]] for table in tables])
    rows["method"] = rows["arm"].where(~rows["arm"].str.endswith(" alone"), ALONE)
    rows["site"] = rows["site"].str.replace(r"-\d$", "", regex=True)
    rows["support_site"] = rows["site"]
    keys = [name for name in COLUMNS if name not in METRICS]
    # A mean over fewer than the four sites would favour those that were scored.
    expected = rows["method"].map(lambda method: len(TRAINING_SITES) if method == ALONE else 1)
    grouped = rows.groupby(keys, sort=True)
    rows = rows[grouped["arm"].transform("size") == expected]
    means = rows.groupby(keys, sort=True)[list(METRICS)].agg(lambda values: values.mean(skipna=False)).reset_index()
    text = means[list(COLUMNS)].to_csv(index=False, float_format="%.4f", na_rep="nan", lineterminator="\n")
    write_atomic(work / "five-folds.csv", text)


def read(scores: Sequence[Path]) -> pd.DataFrame:
    """The scores of several files."""
    return pd.concat([read_results(path) for path in scores])


def table(rows: pd.DataFrame) -> str:
    """The primary comparisons as Markdown."""
    primary = [_compared(rows, one, "whole-volume") for one in PRIMARY]
    adjusted = holm([found.pairs[0].p for found in primary if found is not None])
    values = iter(adjusted)
    lines = [
        "| comparison | whole volumes: first, second | difference (95 %) | cases better / worse | p, Holm over all | "
        "seeds | verdict | within the extent: first, second | difference (95 %) |",
        "| -- " * 9 + "|",
    ]
    for one, whole in zip(PRIMARY, primary, strict=True):
        if whole is None:
            lines.append(f"| {one.claim} | not measured |" + " |" * 7)
            continue
        p = next(values)
        pair, within = whole.pairs[0], _compared(rows, one, "gt-range")
        assert within is not None
        seeds = max(method.seeds for method in whole.methods)
        shown = "< 0.001" if p < 0.001 else f"{p:.3f}"
        lines.append(
            f"| {one.claim} | {_means(whole)} | {_difference(whole)} | {pair.wins} / {pair.losses} of {whole.cases} | "
            f"{shown} | {seeds} | {_verdict(whole, p)} | {_means(within)} | {_difference(within)} |"
        )
    return "\n".join(lines) + "\n\n" + "\n".join(_levels(rows)) + "\n"


def figure(rows: pd.DataFrame, file: Path) -> None:
    """The difference of every case, by comparison: a dot each, and the mean with its interval."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = [(one, found) for one in PRIMARY if (found := _compared(rows, one, "whole-volume")) is not None]
    drawing = Figure(figsize=(9, 0.9 * len(shown) + 1.2), layout="constrained")
    axes = drawing.subplots()
    axes.axvline(0, color="0.5", linewidth=1)
    for place, (one, found) in enumerate(shown):
        by_case = _differences(rows, one)
        spread = np.linspace(-0.18, 0.18, len(by_case))
        for modality, colour in (("mr", "#0072b2"), ("ct", "#d55e00")):
            mine = by_case.index.get_level_values("site").str.startswith(modality)
            axes.plot(by_case[mine], place + spread[mine], "o", color=colour, alpha=0.6, markersize=5, label=modality)
        pair = found.pairs[0]
        axes.plot([pair.interval.low, pair.interval.high], [place + 0.32] * 2, color="black", linewidth=2)
        axes.plot([pair.difference], [place + 0.32], "D", color="black", markersize=6)
    labels = [f"{one.first}\nagainst {one.second}{', other modality' if one.foreign else ''}" for one, _ in shown]
    axes.set_yticks(range(len(shown)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("difference of whole-volume Dice; black: mean and 95 % interval")
    handles = axes.get_legend_handles_labels()[0]
    axes.legend(handles[:2], ["MR query", "CT query"], loc="lower right", frameon=False)
    with mpl.rc_context({"svg.hashsalt": "five folds"}):
        drawing.savefig(file, metadata={"Date": None})


def _differences(rows: pd.DataFrame, one: Primary) -> pd.Series:
    """Of each case that is compared, in ascending order."""
    cells = collect(_of(rows, one, "whole-volume"), "dice", methods=[one.first, one.second])
    first, second = (cells.values[name].mean(axis=0) for name in (one.first, one.second))
    cases = pd.MultiIndex.from_tuples(cells.cases, names=["site", "case"])
    return pd.Series(first - second, cases).sort_values()


def _compared(rows: pd.DataFrame, one: Primary, protocol: str) -> Comparison | None:
    mine = _of(rows, one, protocol)
    if not {one.first, one.second} <= set(mine["method"]):
        return None
    return compare(mine, np.random.default_rng(0), protocol=protocol, methods=[one.first, one.second])


def _of(rows: pd.DataFrame, one: Primary, protocol: str) -> pd.DataFrame:
    mine = rows[(rows["site"].str.contains("-by-") == one.foreign) & (rows["protocol"] == protocol)]
    # Only two of the examples of fine-tuning have three seeds.
    return mine[mine["seed"] == 0] if one.second == "prototypes" else mine


def _means(found: Comparison) -> str:
    return ", ".join(f"{method.mean:.3f}" for method in found.methods)


def _difference(found: Comparison) -> str:
    pair = found.pairs[0]
    return f"{pair.difference:+.3f} ({pair.interval.low:+.3f} to {pair.interval.high:+.3f})"


def _verdict(found: Comparison, p: float) -> str:
    pair = found.pairs[0]
    if math.isnan(p) or p > 0.05 or pair.interval.low <= 0 <= pair.interval.high:
        return "not shown"
    return "**better**" if pair.difference > 0 else "**worse**"


def _levels(rows: pd.DataFrame) -> Iterator[str]:
    """Every arm's mean Dice by modality, over the cases of the folds: exploratory."""
    yield "| arm | example, query | cases | whole volumes | within the extent |"
    yield "| -- | -- | -- | -- | -- |"
    for (method, site), mine in rows.groupby(["method", "site"], sort=True):
        if method in ("prototypes", "self-trained"):
            continue
        query, _, example = str(site).partition("-by-")
        by_case = mine.groupby(["protocol", "case"])["dice"].mean().groupby("protocol").mean()
        yield (
            f"| {method} | {(example or query).upper()}, {query.upper()} | {mine['case'].nunique()} | "
            f"{by_case['whole-volume']:.3f} | {by_case['gt-range']:.3f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("work", type=Path)
    runner.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    runner.add_argument("--workers", type=int)
    tabler = commands.add_parser("table")
    tabler.add_argument("scores", type=Path, nargs="+")
    tabler.add_argument("--figure", type=Path, help="where to draw all cases, .svg")
    options = parser.parse_args()
    if options.command == "run":
        run(options.work, options.seeds, options.workers)
    else:
        rows = read(options.scores)
        print(table(rows), end="")
        if options.figure is not None:
            figure(rows, options.figure)


if __name__ == "__main__":
    main()
