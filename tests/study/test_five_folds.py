"""The design behind the results: who queries, who trains, and tables that are made again from the scores."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import yaml

from common import script
from fedcowpro.study.expand import expand
from fedcowpro.study.read import load_study

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folds() -> ModuleType:
    return script(ROOT / "experiments" / "five_folds.py")


def test_every_case_queries_once_and_never_where_it_trained(folds: ModuleType, tmp_path: Path) -> None:
    pools = yaml.safe_load((ROOT / "experiments" / "shared" / "real-pools.yaml").read_text(encoding="utf-8"))
    asked: dict[str, list[str]] = {"mr": [], "ct": []}
    for fold in range(folds.FOLDS):
        for part in folds.ARMS:
            file = tmp_path / "fold.yaml"
            file.write_text(yaml.safe_dump(folds.study_of(pools, fold, [0], part)), encoding="utf-8")
            for variant in expand(load_study(file)):
                for name, site in variant.evaluation.items():
                    used = {(site.pool, case) for case in site.query}
                    used |= {(site.support_pool or site.pool, case) for case in site.support}
                    trained = {(one.pool, one.case) for members in variant.sites.values() for one in members}
                    assert not used & trained
                    assert (part == "foreign") == (site.support_pool is not None)
                    if not part and variant.arm == "untrained" and name in ("mr-1", "ct-1"):
                        asked[site.pool] += site.query
    assert {name: sorted(cases, key=int) for name, cases in asked.items()} == {
        name: [str(case) for case in pool["cases"]] for name, pool in pools.items()
    }


def test_the_sites_alone_stand_as_their_mean_and_not_before_all_are_scored(folds: ModuleType, tmp_path: Path) -> None:
    header = f"arm,{','.join(folds.COLUMNS)}\n"

    def row(arm: str, case: int, dice: float) -> str:
        values = {
            "method": "fedcowpro", "seed": 0, "case": case, "site": "mr-2", "organ": "liver",
            "protocol": "whole-volume", "support_site": "mr-2", "support_case": 5, "support_slices": 3,
            **dict.fromkeys(folds.METRICS, 0.5), "dice": dice,
        }  # fmt: skip
        return ",".join([arm, *(str(values[name]) for name in folds.COLUMNS)]) + "\n"

    text = header + row("federated", 1, 0.9)
    text += "".join(row(f"{site} alone", 1, number / 10) for number, site in enumerate(folds.TRAINING_SITES))
    text += row("mr-a alone", 2, 0.9)
    (tmp_path / "fold-1").mkdir()
    (tmp_path / "fold-1" / "table.csv").write_text(text, encoding="utf-8")
    folds.gather(tmp_path)
    found = folds.read_results(tmp_path / "five-folds.csv")
    assert [(one.method, one.site, one.case, one.dice) for one in found.itertuples()] == [
        ("a site alone", "mr", "1", 0.15),
        ("a site of the other modality alone", "mr", "1", 0.25),
        ("a site of the same modality alone", "mr", "1", 0.05),
        ("federated", "mr", "1", 0.9),
    ]  # fmt: skip


def test_the_page_of_results_has_the_tables_of_its_scores(folds: ModuleType) -> None:
    kept = ROOT / "docs" / "results"
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for made in folds.table(folds.read([kept / "five-folds.csv", kept / "finetuned.csv"])).strip().split("\n\n"):
        assert made in page
