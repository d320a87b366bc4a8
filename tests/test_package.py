"""What the package hands out, and that masks need neither Flower nor anything else of the extra `federated`."""

from __future__ import annotations

import subprocess
import sys
import typing
from pathlib import Path

import pytest

import fedcowpro
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.extras import FEDERATED, explained
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.protocol import COLUMNS, read_results

# As on a machine without these packages: they can neither be imported nor looked up.
WITHOUT = f"""
import sys
from importlib import metadata

BLOCKED = {FEDERATED!r}
real = metadata.version

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

def version(name):
    if name in BLOCKED:
        raise metadata.PackageNotFoundError(name)
    return real(name)

sys.meta_path.insert(0, Absent())
metadata.version = version
"""


def without_flower(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_everything_but_federated_training_works_without_flower(
    tiny_checkpoint: Path, phantoms: Path, ct_site: Site, tmp_path: Path
) -> None:
    code = """
import threading, urllib.request
from pathlib import Path
from fedcowpro import FedCoWProError, OneShotSegmenter, evaluate, prepare
from fedcowpro.cli import main
from fedcowpro.core.versions import versions

def run(*words):
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        return end.code
    return 0

model, raw, site, out = map(Path, sys.argv[1:])
assert "flwr" not in versions()
image, mask, other = raw / "ct" / "image_1.nii.gz", raw / "ct" / "label_1.nii.gz", raw / "ct" / "image_2.nii.gz"
found = OneShotSegmenter.load(model).set_support(image, mask).predict(other)
assert found.labels.shape == (64, 64, 10)
again = OneShotSegmenter.load(model)
again.fit([other], steps=1, progress=False)
assert run("segment", "--model", model, "--support", image, "--support-mask", mask, "--query", other,
           "--out", out / "masks", "--set", "support_slices=1") == 0
prepare(raw / "t2", out / "site", support="1", query=["2"], workers=1, progress=False)
assert run("prepare", raw / "ct", "--out", out / "ct", "--size", "64", "--workers", "1") == 0
assert len(evaluate(model, {"ct": site}, protocols=["gt-range"])) > 0
assert run("evaluate", "--model", model, "--site", site, "--out", out / "scores.csv") == 0
assert run("inspect", site, "--out", out / "site.html") == 0
assert run("compare", out / "scores.csv", "--out", out / "page.html") == 0
assert run("card", model) == 0
assert run("show", model) == 0
from fedcowpro.serve.app import create_app  # noqa
import fedcowpro.serve.run, fedcowpro.reports.show, fedcowpro.training.adapt  # noqa
assert not any(name.split(".")[0] in BLOCKED for name in sys.modules)
(out / "config.yaml").write_text("federation: {rounds: 1}\\n")
for words in (("federate", out / "config.yaml", "--out", out / "run", "--site", f"ct={site}"),
              ("federation", "init", out / "fed", "--host", "a", "--site", "b"),
              ("demo", "--out", out / "demo")):
    assert run(*words) == 2, words
try:
    import fedcowpro
    fedcowpro.federate
except FedCoWProError as error:
    assert "fedcowpro[federated]" in error.remedy
else:
    raise AssertionError
"""
    said = without_flower(code, tiny_checkpoint, phantoms, ct_site.path, tmp_path)
    assert said.count("no package 'flwr'") + said.count("no package 'cryptography'") == 3
    assert said.count("pip install 'fedcowpro[federated]'") == 3


def test_other_missing_packages_are_no_matter_of_the_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match="nonsense"), explained():
        import nonsense  # type: ignore[import-not-found]  # noqa: F401
    with pytest.raises(FedCoWProError, match="'flwr'"), explained():
        raise ModuleNotFoundError("No module named 'flwr.app'", name="flwr.app")


def test_the_package_hands_out_what_users_need() -> None:
    names = {"FedCoWProError", "OneShotSegmenter", "evaluate", "federate", "prepare"}
    assert set(fedcowpro.__all__) == names
    assert names <= set(dir(fedcowpro))
    for name in names:
        assert callable(getattr(fedcowpro, name))
    with pytest.raises(AttributeError, match="nonsense"):
        fedcowpro.nonsense  # noqa: B018
    assert typing.get_type_hints(fedcowpro.FedCoWProError.__init__)["got"] is str
    assert (Path(fedcowpro.__file__).parent / "py.typed").is_file()


def test_evaluate_returns_the_table_that_it_writes(tiny_checkpoint: Path, ct_site: Site, tmp_path: Path) -> None:
    file, seen = tmp_path / "scores.csv", []
    table = fedcowpro.evaluate(
        tiny_checkpoint,
        {"ct": ct_site.path},
        out=file,
        settings={"support_slices": 1},
        organs=["liver"],
        untrained=True,
        on_case=lambda *told: seen.append(told),
    )
    assert table.equals(read_results(file))
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert set(table["organ"]) == {"liver"}
    assert seen == [("untrained", "ct", "3"), ("fedcowpro", "ct", "3")]
    again = fedcowpro.evaluate(
        tiny_checkpoint, {"ct": ct_site.path}, episodes=tmp_path / "scores.episodes.json", method="fedcowpro"
    )
    assert set(again["support_slices"]) == {"1"}
    for wrong in ({"support": ["1"]}, {"settings": {"support_slices": 2}}, {"cross": True}):
        with pytest.raises(FedCoWProError, match="beside options that choose episodes"):
            fedcowpro.evaluate(
                tiny_checkpoint,
                {"ct": ct_site.path},
                episodes=tmp_path / "scores.episodes.json",
                **wrong,  # type: ignore[arg-type]
            )
    with pytest.raises(FedCoWProError, match="protocol"):
        fedcowpro.evaluate(tiny_checkpoint, {"ct": ct_site.path}, protocols=["thirds"])
