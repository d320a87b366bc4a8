"""Which adapter takes a folder: other packages' first, then those of this one, by what lies there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets import registry
from fedcowpro.data.datasets.base import About, FoundScans, Options
from fedcowpro.data.datasets.registry import adapter_for, adapters
from fedcowpro.data.datasets.scan import ImageFile, Scan

REAL = {"chaos_ct": ("alpnet", 1), "chaos_mr_t2": ("alpnet", 16), "sabs_ct": ("alpnet", 16), "totalseg": ("folder", 2)}


class Hospital:
    """Another package's adapter."""

    def __init__(self, name: str = "hospital") -> None:
        self.about = About(name, "a hospital's export", "none", "the archive", ("export.txt with scan-1.nii.gz",))

    def recognises(self, source: Path) -> bool:
        return (source / "export.txt").is_file()

    def find(self, source: Path, options: Options) -> FoundScans:
        return FoundScans(tuple(Scan(path.name[:6], ImageFile(path), None, "ct") for path in source.glob("scan-*")))


@dataclass
class Entry:
    """As importlib.metadata gives them."""

    name: str
    load: Callable[[], object]
    value: str = "hospital.adapter:ADAPTER"


def add(monkeypatch: pytest.MonkeyPatch, *entries: Entry) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: {"fedcowpro.datasets": entries}[group])


def test_built_in_adapters_say_what_they_are() -> None:
    known = adapters()
    assert tuple(known)[-len(registry.BUILT_IN) :] == registry.BUILT_IN
    for name, adapter in known.items():
        about = adapter.about
        assert about.name == name
        assert about.title
        assert about.licence
        assert about.home
        assert about.layout
        assert all(0 < value < 256 for value in about.organs)
        assert len(set(about.organs.values())) == len(about.organs)


def test_another_packages_adapter_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("export.txt", "scan-1.nii.gz", "image_1.nii.gz"):
        (tmp_path / name).touch()
    assert adapter_for(tmp_path, None).about.name == "alpnet"
    add(monkeypatch, Entry("any", Hospital))
    adapter = adapter_for(tmp_path, None)
    assert adapter.about.name == "hospital"
    assert adapter_for(tmp_path, "hospital").about == adapter.about
    assert adapter_for(tmp_path, "alpnet").about.name == "alpnet"
    assert [scan.id for scan in adapter.find(tmp_path, Options()).scans] == ["scan-1"]


def test_adapters_that_cannot_be_had_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, Entry("broken", lambda: 1 / 0))
    with pytest.raises(FedCoWProError, match=r"'broken' \(hospital\.adapter:ADAPTER\) cannot be loaded: division"):
        adapters()
    add(monkeypatch, Entry("second", lambda: Hospital("btcv")))
    with pytest.raises(FedCoWProError, match="two dataset adapters are named 'btcv'"):
        adapters()


def test_folders_that_none_takes_are_told_the_layouts(tmp_path: Path) -> None:
    (tmp_path / "report.pdf").touch()
    with pytest.raises(FedCoWProError, match=r"looks like no known dataset \(seen: report\.pdf\)") as caught:
        adapter_for(tmp_path, None)
    assert all(f"{name}: " in caught.value.expected for name in registry.BUILT_IN)
    with pytest.raises(FedCoWProError, match="--dataset abdomen\n  expected: one of: chaos, btcv"):
        adapter_for(tmp_path, "abdomen")
    with pytest.raises(FedCoWProError, match="no folder"):
        adapter_for(tmp_path / "report.pdf", None)


@pytest.mark.parametrize("name", REAL)
def test_real_folders_are_recognised(real_data: Path, name: str) -> None:
    adapter = adapter_for(real_data / name, None)
    found = adapter.find(real_data / name, Options())
    assert (adapter.about.name, len(found.scans)) == REAL[name]
    assert all(scan.labels is not None for scan in found.scans)
    assert found.notes == ()
    scan = found.scans[-1]
    assert scan.labels is not None
    assert scan.labels.read(scan.image.read()).voxels.any()


def test_masks_of_the_real_mixed_folder_go_to_their_images(real_data: Path) -> None:
    folder = real_data / "totalseg"
    found = adapter_for(folder, None).find(folder, Options())
    pairs = {scan.image.files[0].name: scan.labels.files[0].name for scan in found.scans if scan.labels is not None}
    assert pairs == {"example_ct_sm.nii.gz": "example_seg.nii.gz", "example_mr_sm.nii.gz": "example_seg_mr.nii.gz"}


def test_patterns_go_to_an_adapter_that_takes_them(tmp_path: Path) -> None:
    """A folder that looks like SSL-ALPNet's is one's own where the files are named by patterns."""
    for name in ("image_1.nii.gz", "image_2.nii.gz"):
        (tmp_path / name).touch()
    assert adapter_for(tmp_path, None).about.name == "alpnet"
    assert adapter_for(tmp_path, None, patterns=True).about.name == "folder"
    assert adapter_for(tmp_path, "alpnet", patterns=True).about.name == "alpnet"
