"""Networks that learn the example are scored beside prototypes, on the same questions."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.preparation.compose import Part, compose_site
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation import fine_tuned
from fedcowpro.evaluation.evaluate import evaluate
from fedcowpro.evaluation.protocol import TEACHINGS, read_results


@pytest.fixture
def taught_with(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Number of annotated and of unlabelled volumes of each training."""
    seen = []
    whole = fine_tuned.fine_tune

    def counted(loaded, examples, **options):  # type: ignore[no-untyped-def]
        seen.append((len(examples), len(options["prepared"])))
        return whole(loaded, examples, **options)

    monkeypatch.setattr(fine_tuned, "fine_tune", counted)
    return seen


@pytest.mark.slow
def test_every_teaching_is_scored_beside_prototypes_and_trained_once(
    ct_site: Site, tmp_path: Path, taught_with: list[tuple[int, int]]
) -> None:
    out = tmp_path / "scores.csv"
    given = {"model": None, "sites": {"ct": ct_site.path}, "out": out, "teachings": TEACHINGS, "steps": 3}
    table = evaluate(**given)  # type: ignore[arg-type]
    assert taught_with == [(1, 0), (1, 2), (1, 0)]  # the example; with the training case and the query; case 2's labels
    assert set(table["method"]) == {"fedcowpro", *TEACHINGS}
    asked = table.groupby("method")[["case", "organ", "protocol"]].apply(lambda rows: sorted(map(tuple, rows.values)))
    assert all(questions == asked["fedcowpro"] for questions in asked)
    assert dict(zip(table["method"], table["teaching_steps"], strict=True)) == {
        "fedcowpro": "", "fine-tuned": "3", "self-trained": "2+1+1", "supervised": "3",
    }  # fmt: skip
    assert len(list((tmp_path / "scores.networks").glob("*.safetensors"))) == 3
    again = evaluate(**given)  # type: ignore[arg-type]
    assert len(taught_with) == 3
    assert again.equals(table)
    assert read_results(out).equals(table)


@pytest.mark.slow
def test_a_network_of_another_example_is_not_taken(
    ct_site: Site, tmp_path: Path, taught_with: list[tuple[int, int]]
) -> None:
    for support, query in (("1", "3"), ("3", "1")):
        evaluate(
            None, {"ct": ct_site.path}, out=tmp_path / "scores.csv", teachings=["fine-tuned"], steps=1,
            support=[support], queries=[query],
        )  # fmt: skip
    assert len(taught_with) == 2


def test_unknown_teachings_and_sites_without_training_cases_are_refused(ct_site: Site, tmp_path: Path) -> None:
    with pytest.raises(FedCoWProError, match="teaching"):
        evaluate(None, {"ct": ct_site.path}, teachings=["finetuned"])
    with pytest.raises(FedCoWProError, match="name of its own"):
        evaluate(None, {"ct": ct_site.path}, teachings=["fine-tuned"], method="fine-tuned")
    alone = tmp_path / "alone"

    compose_site(alone, [Part(ct_site, "1", "1", "support"), Part(ct_site, "3", "3", "query")])
    with pytest.raises(FedCoWProError, match="no training case with labels"):
        evaluate(None, {"ct": alone}, teachings=["supervised"], steps=1)
