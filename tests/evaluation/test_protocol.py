"""Support slices, chunks and ranges as the reference has them; the results table on disk."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common import SHARED
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.evaluation.protocol import COLUMNS, Row, chunk_of, gt_range, read_results, write_results
from fedcowpro.oneshot.slices import support_slices

GOLDEN = SHARED / "golden" / "eval_protocol.json"


def row(**changes: object) -> Row:
    values: dict[str, object] = {
        "method": "fedcowpro", "seed": 3, "site": "ct", "case": "007", "organ": "liver",
        "protocol": "gt-range", "dice": 0.1 + 0.2, "support_site": "a", "support_case": "001", "support_slices": "3",
    }  # fmt: skip
    return Row(**(values | changes))  # type: ignore[arg-type]


def test_support_slices_of_the_reference() -> None:
    assert support_slices(range(10, 24)) == [12, 17, 21]


def test_support_slices_of_other_numbers() -> None:
    assert support_slices(range(10, 20), n=1) == [15]
    assert support_slices(range(10, 20), n=5) == [11, 13, 15, 17, 19]
    assert support_slices([4, 9]) == [4, 9, 9]
    assert support_slices([4]) == [4, 4, 4]
    assert all(type(z) is int for z in support_slices(np.arange(5).tolist()))


def test_support_slices_refuse_nothing() -> None:
    with pytest.raises(FedCoWProError, match="without the organ"):
        support_slices([])
    with pytest.raises(FedCoWProError, match="at least 1"):
        support_slices([1], n=0)


def test_chunks_of_the_reference() -> None:
    expected = [0] * 9 + [1] * 4 + [2] * 9
    assert chunk_of(np.arange(6, 28), 10, 23).tolist() == expected
    assert chunk_of(np.array([4, 5, 6]), 5, 5).tolist() == [0, 0, 0]


def test_protocol_equals_the_golden_file() -> None:
    if not GOLDEN.exists():
        pytest.skip("shared/golden/eval_protocol.json is not beside this checkout")
    golden = json.loads(GOLDEN.read_text())
    example = golden["support_slice_example"]
    assert support_slices(example["zlist"]) == example["picked"]
    for key in ("part_assign_example", "part_assign_single_slice"):
        example = golden[key]
        assert chunk_of(example["z"], example["zmin"], example["zmax"]).tolist() == example["part"]
    for n, fractions in golden["pcts"].items():
        for length in range(1, 200):
            assert support_slices(range(length), int(n)) == [int(f * length) for f in fractions]


def test_three_chunks_equal_the_reference_formula_in_floating_point() -> None:
    for extent in range(1, 150):
        z = np.arange(-5, extent + 5)
        reference = np.clip(np.floor(z / (extent / 3)), 0, 2).astype(int)
        assert (chunk_of(z, 0, extent) == reference).all(), extent


def test_chunk_of_keeps_shape_and_refuses_an_inverted_range() -> None:
    assert chunk_of(12, 10, 23).shape == ()
    assert chunk_of(np.zeros((2, 3)), 10, 23).shape == (2, 3)
    with pytest.raises(FedCoWProError, match=r"9\.\.8"):
        chunk_of([1], 9, 8)


def test_gt_range() -> None:
    mask = np.zeros((9, 4, 4), bool)
    mask[2, 0, 0] = mask[6, 3, 3] = True
    assert gt_range(mask) == (2, 6)
    with pytest.raises(FedCoWProError, match="0 voxels"):
        gt_range(np.zeros((3, 2, 2), bool))
    with pytest.raises(FedCoWProError, match="shape"):
        gt_range(np.ones((2, 2), bool))


def test_results_survive_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.csv"
    values = np.random.default_rng(0).random(50).tolist()
    rows = [row(dice=value, case=f"{i:03d}") for i, value in enumerate(values)]
    options = {"quadrants": True, "margin": 3}
    rows.append(row(dice=math.nan, organ='kidney, "left"', case="NA", options=options))
    write_results(path, rows)
    table = read_results(path)
    assert list(table.columns) == [*COLUMNS, "quadrants", "margin"]
    assert table["dice"].tolist()[:-1] == values
    assert math.isnan(table["dice"].iloc[-1])
    assert table["case"].tolist() == [item.case for item in rows]
    assert table["organ"].iloc[-1] == 'kidney, "left"'
    assert table["seed"].dtype == np.int64
    assert table[["quadrants", "margin"]].iloc[[0, -1]].to_numpy().tolist() == [["", ""], ["True", "3"]]
    assert path.read_text().splitlines()[0].startswith("method,seed,site,case,organ,protocol,dice,")


def test_no_rows_give_an_empty_table(tmp_path: Path) -> None:
    write_results(tmp_path / "results.csv", [])
    assert read_results(tmp_path / "results.csv").empty


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.csv"
    write_results(path, [row()])
    before = path.read_bytes()
    with pytest.raises(FedCoWProError, match=r"line 2: dice is '1\.5'"):
        write_results(path, [row(dice=1.5)])

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_results(path, [row(), row()])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]


def test_an_option_cannot_take_the_name_of_a_column(tmp_path: Path) -> None:
    with pytest.raises(FedCoWProError, match="prediction option 'dice'"):
        write_results(tmp_path / "results.csv", [row(options={"dice": 1})])


@pytest.mark.parametrize(
    ("column", "value"),
    [("seed", "x"), ("seed", "-1"), ("seed", "1.5"), ("dice", "inf"), ("dice", "-0.1"), ("dice", ""),
     ("nsd", "2"), ("hd95", "-1"),
     ("protocol", "gt"), ("support_slices", "0"), ("support_slices", "some"), ("organ", " "), ("method", "")],
)  # fmt: skip
def test_bad_values_are_refused_with_line_and_column(tmp_path: Path, column: str, value: str) -> None:
    path = tmp_path / "results.csv"
    write_results(path, [row(), row()])
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[1, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(FedCoWProError, match=f"line 3: {column} is '{value}'"):
        read_results(path)


def test_missing_files_and_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FedCoWProError, match="no file"):
        read_results(tmp_path / "results.csv")
    (tmp_path / "results.csv").write_text("method,seed\nx,1\n")
    with pytest.raises(FedCoWProError, match="no column site, case"):
        read_results(tmp_path / "results.csv")
    (tmp_path / "results.csv").write_text("")
    with pytest.raises(FedCoWProError, match="CSV of results"):
        read_results(tmp_path / "results.csv")
    (tmp_path / "results.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FedCoWProError, match="readable"):
        read_results(tmp_path / "results.csv")
