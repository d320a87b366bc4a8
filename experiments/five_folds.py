"""Five folds over 16 MR and 16 CT volumes: every case is a query once, and what trains never saw it.

    FEDCOWPRO_REAL_DATA=DATA python experiments/five_folds.py run WORK [--seeds 0 1 2] [--workers 2]
    python experiments/five_folds.py table docs/results/five-folds.csv docs/results/finetuned.csv [--figure FILE.svg]

`run` goes on where it was interrupted, and writes WORK/five-folds.csv after each study of a fold. `table` prints the
tables of docs/results.md, the same text from the same scores, byte for byte, and draws every case of every comparison.

The design was fixed before the first fold was run. In fold f of a modality, cases f, f+5, f+10 (and f+15) query; one
case of each of the next two folds is an example, alone; the others train, unlabelled, at two sites in turn. Settings
are those of experiments/shared/real.yaml, the same for all arms; those of inference were chosen earlier, on 12 of these
cases with other roles.

**Primary comparisons** (PRIMARY; whole-volume Dice, mean over organs, examples and seeds, paired by case; Holm over
the six). All else is exploratory; what is asked there (REGIMES: sites that differ, small sites, unequal sites, longer
training) was written down before it was run, too, but for the first two, which take other means of runs that were
there. The comparison of self-training takes its scores from
docs/results/finetuned.csv: four examples a modality, which were not chosen by folds, 15 queries each.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import stats

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
ONE_VOLUME_SITES = ("mr-1", "mr-2", "ct-1", "ct-2")
# Means over sites that trained alone: over all four, or over the two of the query's modality or of the other one.
ALONE, SAME, OTHER = "a site alone", "a site of the same modality alone", "a site of the other modality alone"
EXPECTED = {ALONE: 4, SAME: 2, OTHER: 2}


@dataclass(frozen=True)
class Claim:
    """`first` is claimed to be better than `second`, on sites whose examples are of the same modality or not."""

    claim: str
    first: str
    second: str
    foreign: bool = False


PRIMARY = (
    Claim("Training, federated, against none", "federated", "untrained"),
    Claim("Federated against the mean of the four sites alone, with as many steps a site", "federated", ALONE),
    Claim("Federated against all volumes at one place, with as many steps in all", "federated", "pooled"),
    Claim("Fused Dice loss (FedCoWPro) against none (FedAvg-CoWPro)", "federated", "no Dice terms"),
    Claim("Fine-tuned and self-trained against prototypes", "self-trained", "prototypes"),
    Claim(
        "Example of the other modality: with random convolutions against without",
        "federated, random convolutions", "federated", foreign=True,
    ),
)  # fmt: skip
REGIMES = (
    Claim("Four sites, against a site that has volumes of the query's modality", "federated", SAME),
    Claim("Four sites, against a site that has volumes of the other modality only", "federated", OTHER),
    Claim(
        "Twenty sites of one volume, against such a site of the query's modality alone",
        "federated, one volume a site", f"{SAME}, one volume",
    ),
    Claim(
        "Two large sites and four of one volume, against such a small site of the query's modality alone",
        "federated, unequal sites", f"{SAME}, one volume",
    ),
    Claim("Four times the rounds: federated against none", "federated, long", "untrained"),
    Claim("Four times the rounds: federated against the mean of the four sites alone", "federated, long",
          f"{ALONE}, long"),
    Claim("Four times the rounds: federated against all volumes at one place", "federated, long", "pooled, long"),
)  # fmt: skip
_POOLED = {"federation.local_steps": 40}
_LONG = {"federation.rounds": 24}
# The arms of each study of a fold. An arm "X alone..." is scored as a part of the means over sites.
ARMS: dict[str, dict[str, Any]] = {
    "": {
        "untrained": {"regime": "untrained"},
        "federated": {},
        **{f"{site} alone": {"regime": "single-site", "site": site} for site in TRAINING_SITES},
        "pooled": {"regime": "pooled", "config": _POOLED},
        "no Dice terms": {"config": {"loss": {"spatial_dice": 0, "edge_dice": 0}}},
        "federated, random convolutions": {"config": {"augment.random_convolution": 0.5}},
    },
    "foreign": {
        "untrained": {"regime": "untrained"},
        "federated": {},
        "federated, random convolutions": {"config": {"augment.random_convolution": 0.5}},
    },
    "small": {
        "untrained": {"regime": "untrained"},
        "federated, one volume a site": {"train": "one volume a site"},
        "federated, unequal sites": {"train": "unequal sites"},
        **{
            f"{site} alone, one volume": {"regime": "single-site", "site": site, "train": "one volume a site"}
            for site in ONE_VOLUME_SITES
        },
    },
    "long": {
        "untrained": {"regime": "untrained"},
        "federated, long": {"config": _LONG},
        **{f"{site} alone, long": {"regime": "single-site", "site": site, "config": _LONG} for site in TRAINING_SITES},
        "pooled, long": {"regime": "pooled", "config": _POOLED | _LONG},
    },
}


def read_pools() -> dict[str, Any]:
    """The volumes of each modality."""
    pools: dict[str, Any] = yaml.safe_load((HERE / "shared" / "real-pools.yaml").read_text(encoding="utf-8"))
    return pools


def fold_of(cases: Sequence[Any], fold: int) -> tuple[list[Any], list[Any], list[Any]]:
    """Queries, two examples (each alone) and training cases of fold 0..4."""
    queries = list(cases[fold::FOLDS])
    examples = [cases[(fold + 1) % FOLDS], cases[FOLDS + (fold + 2) % FOLDS]]
    return queries, examples, [case for case in cases if case not in (*queries, *examples)]


def layouts(training: dict[str, list[Any]]) -> dict[str, Any]:
    """The training cases of all pools at sites: two a pool in turn, one a volume, or two of one volume and the rest."""
    ways: dict[str, dict[str, list[dict[str, Any]]]] = {"two a pool": {}, "one volume a site": {}, "unequal sites": {}}

    def add(way: str, site: str, pool: str, cases: list[Any]) -> None:
        ways[way][site] = [{"pool": pool, "cases": cases}]

    for name, cases in training.items():
        for start, letter in enumerate("ab"):
            add("two a pool", f"{name}-{letter}", name, cases[start::2])
        for number, case in enumerate(cases, 1):
            add("one volume a site", f"{name}-{number}", name, [case])
            if number <= 2:
                add("unequal sites", f"{name}-{number}", name, [case])
        add("unequal sites", f"{name}-large", name, cases[2:])
    return {way: {"sites": sites} for way, sites in ways.items()}


def study_of(pools: dict[str, Any], fold: int, seeds: Sequence[int], part: str) -> dict[str, Any]:
    """A fold as a study file: of the arms of `part`; "foreign" has examples of the other modality."""
    parts = {name: fold_of(pool["cases"], fold) for name, pool in pools.items()}
    trained_at = layouts({name: training for name, (_, _, training) in parts.items()})
    evaluation = {}
    for name, (queries, examples, _) in parts.items():
        if part == "foreign":
            other = next(one for one in parts if one != name)
            evaluation[f"{name}-by-{other}"] = {
                "pool": name, "support_pool": other, "support": parts[other][1][0], "query": queries,
            }  # fmt: skip
        else:
            for number, example in enumerate(examples, 1):
                evaluation[f"{name}-{number}"] = {"pool": name, "support": example, "query": queries}
    return {
        "name": f"fold-{fold + 1}{f'-{part}' if part else ''}",
        "question": "How good are masks on volumes that nothing was trained on?",
        "pools": pools,
        "train": trained_at["two a pool"],
        "evaluation": evaluation,
        "base": str(HERE / "shared" / "real.yaml"),
        "arms": {
            name: arm | {"train": trained_at[arm["train"]]} if "train" in arm else arm
            for name, arm in ARMS[part].items()
        },
        "compare": "untrained",
        "seeds": list(seeds),
    }


def run(work: Path, seeds: Sequence[int], workers: int | None, parts: Sequence[str] = tuple(ARMS)) -> None:
    """All folds of a seed, part by part, before the next seed."""
    pools = read_pools()
    work.mkdir(parents=True, exist_ok=True)
    for count in range(1, len(seeds) + 1):
        for part in parts:
            for fold in range(FOLDS):
                study = study_of(pools, fold, seeds[:count], part)
                file = work / f"{study['name']}.yaml"
                write_atomic(file, yaml.safe_dump(study, sort_keys=False))
                print(f"seed {seeds[count - 1]}, {study['name']}", flush=True)
                run_study(file, work / study["name"], workers=workers, store=work / "store")
                gather(work)


def gather(work: Path) -> None:
    """WORK/five-folds.csv: one row a score, under the name of its arm; the sites alone as their means."""
    tables = [read_table(path.parent) for path in sorted(work.glob("fold-*/table.csv"))]
    rows = pd.concat([table[[*COLUMNS, "arm"]] for table in tables])
    rows["site"] = rows["site"].str.replace(r"-\d$", "", regex=True)
    rows["support_site"] = rows["site"]
    rows["method"] = [methods_of(arm, site) for arm, site in zip(rows["arm"], rows["site"], strict=True)]
    named = {name for one in (*PRIMARY, *REGIMES) for name in (one.first, one.second)}
    rows = rows.explode("method")
    rows = rows[rows["method"].isin(named)].drop_duplicates([name for name in rows if name not in METRICS])
    keys = [name for name in COLUMNS if name not in METRICS]
    # A mean over fewer than all of its sites would favour those that were scored.
    expected = rows["method"].map(lambda method: EXPECTED.get(method.partition(",")[0], 1))
    rows = rows[rows.groupby(keys, sort=True)["arm"].transform("size") == expected]
    means = rows.groupby(keys, sort=True)[list(METRICS)].agg(lambda values: values.mean(skipna=False)).reset_index()
    text = means[list(COLUMNS)].to_csv(index=False, float_format="%.4f", na_rep="nan", lineterminator="\n")
    write_atomic(work / "five-folds.csv", text)


def methods_of(arm: str, site: str) -> list[str]:
    """The methods to which an arm's scores on an evaluation site (mr, ct) belong."""
    alone = re.fullmatch(r"(\w+)-\w+ alone(.*)", arm)
    if alone is None:
        return [arm]
    return [ALONE + alone[2], (SAME if alone[1] == site else OTHER) + alone[2]]


def read(scores: Sequence[Path]) -> pd.DataFrame:
    """The scores of several files."""
    return pd.concat([read_results(path) for path in scores])


_COLUMNS = "comparison | whole volumes: first, second | difference (95 %) | in MR, in CT | cases better / worse | seeds"
_WITHIN = "difference within the extent (95 %)"


def table(rows: pd.DataFrame) -> str:
    """The primary comparisons, the regimes and the levels of all arms as Markdown."""
    primary = [_compared(rows, one, "whole-volume") for one in PRIMARY]
    adjusted = iter(holm([found.pairs[0].p for found in primary if found is not None]))
    lines = [f"| {_COLUMNS} | 95 % with folds as units | p, Holm over all | verdict | {_WITHIN} |", "| -- " * 10 + "|"]
    for one, whole in zip(PRIMARY, primary, strict=True):
        if whole is None:
            lines.append(f"| {one.claim} | not measured |" + " |" * 8)
            continue
        p = next(adjusted)
        shown = "< 0.001" if p < 0.001 else f"{p:.3f}"
        lines.append(
            f"{_compared_row(rows, one, whole)} {_by_fold(rows, one)} | {shown} | {_verdict(whole, p)} | "
            f"{_within(rows, one)} |"
        )
    regimes = [f"| {_COLUMNS} | {_WITHIN} |", "| -- " * 7 + "|"]
    for one in REGIMES:
        whole = _compared(rows, one, "whole-volume")
        regimes.append(
            f"| {one.claim} | not measured |" + " |" * 5
            if whole is None
            else f"{_compared_row(rows, one, whole)} {_within(rows, one)} |"
        )
    return "\n\n".join("\n".join(part) for part in (lines, regimes, list(_levels(rows)))) + "\n"


def _compared_row(rows: pd.DataFrame, one: Claim, whole: Comparison) -> str:
    pair, seeds = whole.pairs[0], max(method.seeds for method in whole.methods)
    cases = f"{pair.wins} / {pair.losses} of {whole.cases}"
    means = ", ".join(f"{method.mean:.3f}" for method in whole.methods)
    found = _differences(rows, one)
    query = found.index.get_level_values("site").str[:2]
    sides = ", ".join(f"{found[query == modality].mean():+.3f}" for modality in ("mr", "ct"))
    return f"| {one.claim} | {means} | {_difference(whole)} | {sides} | {cases} | {seeds} |"


def _by_fold(rows: pd.DataFrame, one: Claim) -> str:
    """Student's interval of the mean over folds: the cases of a fold share their networks, those of two folds none."""
    if one.second == "prototypes":  # a network for each example
        return ""
    folds = {
        (name, str(case)): fold
        for name, pool in read_pools().items()
        for fold in range(FOLDS)
        for case in fold_of(pool["cases"], fold)[0]
    }
    found = _differences(rows, one)
    means = found.groupby([folds[str(site)[:2], str(case)] for site, case in found.index]).mean()
    if len(means) < FOLDS:
        return "too few folds"
    interval = stats.t.interval(0.95, FOLDS - 1, means.mean(), stats.sem(means))
    return f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def _within(rows: pd.DataFrame, one: Claim) -> str:
    within = _compared(rows, one, "gt-range")
    assert within is not None
    return _difference(within)


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
    axes.legend(handles[:2], ["MR query", "CT query"], loc="upper right", frameon=False)
    with mpl.rc_context({"svg.hashsalt": "five folds"}):
        drawing.savefig(file, metadata={"Date": None})


def _differences(rows: pd.DataFrame, one: Claim) -> pd.Series:
    """Of each case that is compared, in ascending order."""
    cells = collect(_of(rows, one, "whole-volume"), "dice", methods=[one.first, one.second])
    first, second = (cells.values[name].mean(axis=0) for name in (one.first, one.second))
    cases = pd.MultiIndex.from_tuples(cells.cases, names=["site", "case"])
    return pd.Series(first - second, cases).sort_values()


def _compared(rows: pd.DataFrame, one: Claim, protocol: str) -> Comparison | None:
    mine = _of(rows, one, protocol)
    if not {one.first, one.second} <= set(mine["method"]):
        return None
    return compare(mine, np.random.default_rng(0), protocol=protocol, methods=[one.first, one.second])


def _of(rows: pd.DataFrame, one: Claim, protocol: str) -> pd.DataFrame:
    mine = rows[(rows["site"].str.contains("-by-") == one.foreign) & (rows["protocol"] == protocol)]
    # Prototypes that are not trained have one seed; that of a fine-tuning stands beside it in docs/results.md.
    return mine[mine["seed"] == 0] if one.second == "prototypes" else mine


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
        if str(method).startswith(("prototypes", "self-trained")):
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
    runner.add_argument("--parts", nargs="+", choices=list(ARMS), default=list(ARMS), help="'' = primary comparisons")
    tabler = commands.add_parser("table")
    tabler.add_argument("scores", type=Path, nargs="+")
    tabler.add_argument("--figure", type=Path, help="where to draw all cases, .svg")
    options = parser.parse_args()
    if options.command == "run":
        run(options.work, options.seeds, options.workers, options.parts)
    else:
        rows = read(options.scores)
        print(table(rows), end="")
        if options.figure is not None:
            figure(rows, options.figure)


if __name__ == "__main__":
    main()
