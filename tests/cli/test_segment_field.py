"""`segment` in the shell on files from the field: options, hints, and names that a console cannot write."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from fedcowpro.cli import main


class Shell:
    """Runs commands with one annotated example; gives code, standard output and standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str], model: Path, phantoms: Path) -> None:
        self._capsys, self._ct = capsys, phantoms / "ct"
        self._model = model

    def command(self, *more: object, mask: Path | None = None) -> list[str]:
        mask = mask or self._ct / "label_1.nii.gz"
        own = ("segment", "--model", self._model, "--support", self._ct / "image_1.nii.gz", "--support-mask", mask)
        return [os.fspath(one) if isinstance(one, Path) else str(one) for one in (*own, *more)]

    def __call__(self, *more: object, mask: Path | None = None) -> tuple[int, str, str]:
        self._capsys.readouterr()
        try:
            main(self.command(*more, mask=mask))
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        printed = self._capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out, printed.err


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, phantoms: Path) -> Shell:
    return Shell(capsys, tiny_checkpoint, phantoms)


@pytest.fixture
def query(phantoms: Path) -> Path:
    return phantoms / "ct" / "image_2.nii.gz"


def test_the_old_name_of_overwrite_is_told_the_new_one(shell: Shell, query: Path, tmp_path: Path) -> None:
    code, _, err = shell("--query", query, "--out", tmp_path / "out", "--again")
    assert code == 2
    assert "use --overwrite" in err
    assert not (tmp_path / "out").exists()


def test_an_organ_in_one_slice_is_said_and_can_be_told(
    shell: Shell, phantoms: Path, query: Path, tmp_path: Path
) -> None:
    stored = nib.load(phantoms / "ct" / "label_1.nii.gz")
    labels = np.asanyarray(stored.dataobj).copy()
    axis = int(np.flatnonzero(nib.io_orientation(stored.affine)[:, 0] == 2)[0])
    others = [slice(None)] * 3
    others[axis] = np.arange(labels.shape[axis]) != 5
    labels[tuple(others)] = 0
    mask = tmp_path / "one.nii.gz"
    nib.save(nib.Nifti1Image(labels, stored.affine), mask)
    made = {}
    for painted in (None, "labelled", "all"):
        given = [] if painted is None else ["--painted", painted]
        code, _, err = shell("--query", query, "--out", tmp_path / str(painted), *given, mask=mask)
        assert code == 0
        assert ("labels in one slice of 10" in err) == (painted is None)
        made[painted] = np.asanyarray(nib.load(tmp_path / str(painted) / "image_2_mask.nii.gz").dataobj)
    np.testing.assert_array_equal(made[None], made["labelled"])
    assert (made["all"] != made["labelled"]).any()
    code, _, err = shell("--query", query, "--out", tmp_path / "out", "--painted", "some", mask=mask)
    assert code == 2
    assert "all or labelled" in err


def test_another_patients_result_stays(shell: Shell, phantoms: Path, tmp_path: Path) -> None:
    for patient, case in (("p1", "2"), ("p2", "3")):
        (tmp_path / patient).mkdir()
        shutil.copy(phantoms / "ct" / f"image_{case}.nii.gz", tmp_path / patient / "ct.nii.gz")
    out = tmp_path / "out"
    assert shell("--query", tmp_path / "p1" / "ct.nii.gz", "--out", out)[0] == 0
    before = (out / "ct_mask.nii.gz").read_bytes()
    for more in ([], ["--overwrite"]):
        code, _, err = shell("--query", tmp_path / "p2" / "ct.nii.gz", "--out", out, *more)
        assert code == 2
        assert "another query" in err
        assert "give another --out" in err
    assert (out / "ct_mask.nii.gz").read_bytes() == before
    assert shell("--query", tmp_path / "p1" / "ct.nii.gz", "--out", out, "--overwrite")[0] == 0


def test_rows_of_earlier_calls_stay(shell: Shell, phantoms: Path, tmp_path: Path) -> None:
    for case in ("2", "3"):
        assert shell("--query", phantoms / "ct" / f"image_{case}.nii.gz", "--out", tmp_path)[0] == 0
    assert {Path(name).name for name in pd.read_csv(tmp_path / "summary.csv")["query"]} == {
        "image_2.nii.gz", "image_3.nii.gz",
    }  # fmt: skip
    listed = json.loads((tmp_path / "segment.json").read_text())["queries"]
    assert [Path(one["query"]).name for one in listed] == ["image_2.nii.gz", "image_3.nii.gz"]


def test_a_folder_of_all_sorts(shell: Shell, query: Path, tmp_path: Path) -> None:
    """Endings in upper case are taken; a link that leads nowhere fails alone; other files are named."""
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(query, scans / "P2.NII.GZ")
    (scans / "p3.nii.gz").symlink_to("../.git/annex/objects/nowhere")
    (scans / "odd.xyz").touch()
    code, printed, err = shell("--query", scans, "--out", tmp_path / "out")
    assert code == 3
    assert "P2_mask.nii.gz" in printed
    assert "p3.nii.gz: a link to a file that is not there" in err
    assert "passed over odd.xyz" in err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are a matter of Linux")
def test_names_that_the_console_cannot_write(shell: Shell, query: Path, tmp_path: Path) -> None:
    """Escaped where they are printed, as they are in files."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    shutil.copy(query, scans / "\u60a3\u8005.nii.gz")
    shutil.copy(query, os.path.join(os.fsencode(scans), b"M\xfcller.nii.gz"))
    command = [sys.executable, "-m", "fedcowpro.cli", *shell.command("--query", scans, "--out", out)]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "cp1252"}, check=False)
    assert done.returncode == 0, done.stderr
    code, kept, _ = shell("--query", scans, "--out", out)
    assert code == 0
    for state, printed in (("", done.stdout.decode("ascii")), ("kept; ", kept)):
        assert ("\\u60a3\\u8005" if not state else "\u60a3\u8005") + f"_mask.nii.gz  ({state}" in printed
        assert rf"M\udcfcller_mask.nii.gz  ({state}" in printed
    assert b"M\xfcller_mask.nii.gz" in os.listdir(os.fsencode(out))
    table = (out / "summary.csv").read_bytes()
    assert b"M\xfcller.nii.gz" in table
    assert "\u60a3\u8005.nii.gz".encode() in table


def test_doubts_are_printed_recorded_and_sorted_by(shell: Shell, query: Path, phantoms: Path, tmp_path: Path) -> None:
    other = phantoms / "t2" / "image_1.nii.gz"
    (tmp_path / "mr.nii.gz").symlink_to(other)
    wanted = ("--query", query, "--query", tmp_path / "mr.nii.gz", "--organs", "1=liver,4=spleen")
    _, out, _ = shell(*wanted, "--out", tmp_path / "out")
    assert "  look at the volume: the volume is MR, the example CT" in out
    table = pd.read_csv(tmp_path / "out" / "summary.csv", keep_default_na=False)
    rows = table[table["query"].str.endswith("mr.nii.gz")]
    assert rows["doubts"].str.contains("the volume is MR, the example CT").all()
    assert not table[table["query"] == str(query)]["doubts"].str.contains("MR").any()
    record = json.loads((tmp_path / "out" / "mr_mask.json").read_text())
    assert record["organs"]["1"]["doubts"] == rows["doubts"].iloc[0].split("; ")
    _, out, _ = shell(*wanted, "--out", tmp_path / "out", "--json")
    kept = json.loads(out)["queries"]
    assert [one["status"] for one in kept] == ["kept", "kept"]
    assert kept[1]["organs"][0]["doubts"] == record["organs"]["1"]["doubts"]
