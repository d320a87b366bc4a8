"""Splits of the literature are what the literature says, and a user's own file is read or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.registry import adapters
from fedcowpro.data.splits import SHIPPED, load_fold

CHAOS = [1, 2, 3, 5, 8, 10, 13, 15, 19, 20, 21, 22, 31, 32, 33, 34, 36, 37, 38, 39]
BTCV = [*range(1, 11), *range(21, 41)]
IDS = {
    "chaos-t2": [f"t2-{i}" for i in CHAOS],
    "btcv": [f"{i:04d}" for i in BTCV],
    "alpnet-chaos-t2": [str(i) for i in CHAOS],
    "alpnet-sabs": [str(i) for i in range(30)],
}


@pytest.mark.parametrize("name", SHIPPED)
def test_folds_are_those_of_ssl_alpnet(name: str) -> None:
    """Queries are a fifth of the sorted scans, the support is the next one (wrapping), the rest trains."""
    ids, fifth = IDS[name], len(IDS[name]) // 5
    seen: list[str] = []
    for number in range(5):
        split, fold = load_fold(f"{name}:{number}")
        assert len(split.folds) == 5
        assert list(fold.query) == ids[fifth * number : fifth * (number + 1)]
        assert fold.support == ids[fifth * (number + 1) % len(ids)]
        assert sorted(fold.cases) == sorted(ids)
        assert len(set(fold.cases)) == len(ids)
        seen += fold.query
    assert seen == ids
    assert split.dataset == name.split("-")[0]
    adapter = {"alpnet-chaos-t2": "chaos", "alpnet-sabs": "btcv"}.get(name)  # whose numbering these folders keep
    assert split.organs == (dict(adapters()[adapter].about.organs) if adapter else None)


def write(folder: Path, folds: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(f"about: ours\nfolds:\n{folds}")
    return file


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = write(tmp_path, '  - {support: "7", query: ["8", "9"], train: ["1"]}\n')
    split, fold = load_fold(f"{file}:0")
    assert (split.dataset, fold.cases) == (None, ("1", "7", "8", "9"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chaos-t2", "NAME:FOLD or FILE"),
        ("chaos-t2:x", "NAME:FOLD or FILE"),
        ("chaos-t3:0", "no split 'chaos-t3'"),
        ("chaos-t2:5", r"a fold in 0\.\.4"),
        ("nowhere.yaml:0", "no file nowhere"),
    ],
)
def test_mistakes_are_said(text: str, message: str) -> None:
    with pytest.raises(FedCoWProError, match=message):
        load_fold(text)


def test_a_case_has_one_part(tmp_path: Path) -> None:
    file = write(tmp_path, '  - {support: "7", query: ["7"], train: ["1"]}\n')
    with pytest.raises(FedCoWProError, match="7: a case is support, query or training"):
        load_fold(f"{file}:0")


def test_ids_are_not_guessed_from_numbers(tmp_path: Path) -> None:
    file = write(tmp_path, '  - {support: "7", query: [0010], train: ["1"]}\n')
    with pytest.raises(FedCoWProError, match=r"folds\.0\.query\.0.*write ids in quotes"):
        load_fold(f"{file}:0")
