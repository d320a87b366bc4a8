"""The documents' commands, run in their order as a reader would, on synthetic patients that bear the files' names.

A document may name any file that `Reader` lays out. What would take long is shortened: networks, steps and studies;
the commands stay as they are written.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent / "data" / "datasets"))

from fedcowpro.data.phantom import Kind, make_phantom, write_phantom
from fedcowpro.federated.deployment.programs import end
from fedcowpro.federated.deployment.site import free_port

ROOT = Path(__file__).parents[1]
PATIENCE = 600  # seconds, of a machine that is busy with other things
CHAOS = (1, 2, 3, 5, 8, 10, 13, 15, 19, 20, 21, 22, 31, 32, 33, 34, 36, 37, 38, 39)
# `make dist` and CI do these; an editor is no command of ours.
ELSEWHERE = {"pip", "make", "nano"}
SHORTER = {"finetune": ["--steps", "2"], "serve": ["--port", "0"]}
# Commands that stay in the foreground until Ctrl-C, and what they say when they are ready.
STAYING = {"serve": "http://", "federation serve": "sites reach", "federation join": "SuperNode ID"}
SMALL = {"size": 64, "superpixels": {"min_size": 40, "min_area": 20}}
FEW = {"rounds": 1, "local_steps": 1}
TINY = {"model": {"encoder": "tiny", "channels": 8}, "federation": FEW, "train": {"batch": 1}}


class Reader:
    """Somebody who types what a document says, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1", "COLUMNS": "300", "DATA": str(folder / "data"),
        }  # fmt: skip
        self.typed: list[str] = []
        self._staying: list[subprocess.Popen[str]] = []

    def follow(self, text: str) -> None:
        """The shell commands and Python code of a text's blocks."""
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
            if language == "bash":
                for line in lines(block):
                    self.type(line)
            elif language == "python":
                self._run([sys.executable, "-c", block], block)

    def type(self, line: str) -> None:
        """One command; it has to end with code 0, or to say that it is ready and to stay."""
        words = shlex.split(line, comments=True)
        if not words or words[0] in ELSEWHERE:
            return
        if words[0] != "fedcowpro":
            self._run(["bash", "-ec", line], line)
            return
        names = " ".join(words[1:3]) if words[1] == "federation" else words[1]
        self.typed.append(names)
        words += SHORTER.get(names, [])
        if names in STAYING:
            self._start(words, STAYING[names])
        else:
            self._run(words, line)

    def stop(self) -> None:
        end(self._staying)

    def _run(self, words: list[str], line: str) -> None:
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, text=True, timeout=PATIENCE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\nended with code {done.returncode}:\n{done.stdout[-3000:]}"

    def _start(self, words: list[str], ready: str) -> None:
        log, deadline = self.folder / f"staying-{len(self._staying)}.log", time.monotonic() + PATIENCE
        with log.open("w") as output:
            process = subprocess.Popen(
                words, cwd=self.folder, env=self.environment, text=True, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self._staying.append(process)
        while ready not in log.read_text(errors="replace"):
            said = log.read_text(errors="replace")[-3000:]
            assert process.poll() is None, f"{shlex.join(words)} ended:\n{said}"
            assert time.monotonic() < deadline, f"{shlex.join(words)} is not ready:\n{said}"
            time.sleep(0.2)


def lines(block: str) -> Iterator[str]:
    """Commands of a block: lines that a backslash joins are one, and so are those of a here-document."""
    rest = block.replace("\\\n", " ").splitlines()
    while rest:
        line = rest.pop(0)
        if here := re.search(r"<<'(\w+)'$", line):
            closing = rest.index(here[1])
            line, rest = "\n".join([line, *rest[: closing + 1]]), rest[closing + 1 :]
        yield line


def patient(folder: Path, image: str, kind: Kind, number: int, labels: str = "") -> None:
    """A synthetic patient under the names of a document."""
    made = write_phantom(make_phantom(kind, number, size=64, depth=10), folder / "new", "x")
    for written, name in zip(made, (image, labels), strict=True):
        if name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(written, folder / name)
    shutil.rmtree(folder / "new")


def shortened(text: str, **changes: Any) -> str:
    """Settings or a study as YAML, with other values."""
    return yaml.safe_dump({**yaml.safe_load(text), **changes}, sort_keys=False)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.slow
def test_the_readme_and_the_page_on_studies(reader: Reader) -> None:
    """Who has one scan: masks; who does research: sites, a federation, scores, a study, a comparison."""
    from downloads import CHAOS as NUMBERS
    from downloads import chaos_case

    from dicom_files import write_series

    folder = reader.folder
    patient(folder, "p1/ct.nii.gz", "ct", 1, "p1/all.nii.gz")
    drawn = nib.load(folder / "p1/all.nii.gz")
    liver = (np.asanyarray(drawn.dataobj) == 1).astype(np.uint8)
    nib.save(nib.Nifti1Image(liver, drawn.affine), folder / "p1/liver.nii.gz")
    for number, name in enumerate(("scans/p2", "scans/p3", "scans/new/p4", "more/p5"), 2):
        patient(folder, f"{name}.nii.gz", "ct", number)
    for number in (7, 8, 9, 10):
        case = f"scans/north/p{number}"
        patient(folder, f"{case}/ct.nii.gz", "ct", number, f"{case}/seg.nii.gz")
    several = [make_phantom("t2", number, size=64, depth=8) for number in range(4)]
    for place, number in enumerate(CHAOS):
        case = folder / "CHAOS" / "Train_Sets" / "MR" / str(number) / "T2SPIR"
        chaos_case(case / "DICOM_anon", case / "Ground", several[place % 4], NUMBERS)
    write_series(folder / "archive" / "1", several[0].image, several[0].spacing, modality="mr")
    (folder / "configs").mkdir()
    settings = (ROOT / "configs" / "real4.yaml").read_text(encoding="utf-8")
    (folder / "configs" / "real4.yaml").write_text(shortened(settings, **TINY))

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    reader.follow(readme)
    assert set(reader.typed) == {"segment", "finetune", "prepare", "inspect", "federate", "evaluate", "serve"}
    for made in ("masks/p2_mask.nii.gz", "masks-finetuned/p3_mask.nii.gz", "masks/p4_mask.nii.gz", "p2_mask.nii.gz"):
        assert nib.load(folder / made).shape == (64, 64, 10)

    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    study = folder / "experiments" / "losses-phantom.yaml"
    study.parent.mkdir()
    text = (ROOT / "experiments" / study.name).read_text(encoding="utf-8")
    pools = {kind: {"phantom": kind, "patients": 13, "depth": 6} for kind in ("ct", "t2")}
    study.write_text(shortened(text, base=TINY, prepare=SMALL, pools=pools, seeds=[0]))
    table = pd.read_csv(folder / "results.csv", dtype=str)
    for name, method in (("results-a", "untrained"), ("results-b", "fedcowpro")):
        table[table["method"] == method].to_csv(folder / f"{name}.csv", index=False)
    reader.typed.clear()
    reader.follow(page)
    assert reader.typed == ["study", "compare", "compare", "show", "card"]
    for made in ("losses.html", "page.md", "runs/first/MODEL_CARD.md"):
        assert (folder / made).stat().st_size > 1000

    (own,) = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    for number in range(1, 7):
        patient(folder, f"data/mr/image_{number}.nii.gz", "t2", number, f"data/mr/label_{number}.nii.gz")
    (folder / "head.yaml").write_text(shortened(own, base=TINY, prepare=SMALL, seeds=[0]))
    reader.type("fedcowpro study head.yaml --out studies/head --store studies/store")


@pytest.mark.deployment
@pytest.mark.skipif(sys.platform != "linux", reason="Linux only, as the other tests of a deployed federation")
@pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx: apt-get install nginx-light")
def test_the_walk_through_of_a_federation(reader: Reader) -> None:
    """A coordinator and two hospitals, as in four terminals; what stands there for north, south does, too."""
    folder = reader.folder
    for number in (1, 2):
        patient(folder, f"scans/p{number}/ct.nii.gz", "ct", number)
    text = (ROOT / "docs" / "federation.md").read_text(encoding="utf-8")
    walk = text[text.index("## Two hospitals and a coordinator") : text.index("## One example teaches all")]
    blocks = re.findall(r"^```bash\n(.*?)^```", walk, flags=re.MULTILINE | re.DOTALL)
    ports = f"--port {free_port()} --superlink-port {free_port()}"
    (own_key,) = re.findall(r"`(mv north.key \S+)`", walk)
    for line in (line for block in blocks for line in lines(block)):
        words = shlex.split(line, comments=True)
        if words[1:3] == ["federation", "init"]:
            reader.type(f"{line} {ports}")
            reader.type(own_key)
            reader.type(own_key.replace("north", "south"))
        elif "north" in line:
            reader.type(line)
            reader.type(line.replace("north", "south"))
        else:
            reader.type(line)
        if "> config.yaml" in line:
            short = {**TINY, "federation": {**FEW, "min_sites": 2}}
            (folder / "config.yaml").write_text(shortened((folder / "config.yaml").read_text(), **short))
    assert reader.typed.count("federation join") == 2
    assert reader.typed[-1] == "federate"
    reader.type("fedcowpro audit runs/first")
    reader.type("fedcowpro audit fed/bundles/north")
    assert (folder / "runs" / "first" / "model.safetensors").is_file()
