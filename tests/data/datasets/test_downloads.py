"""Every dataset's download folder is recognised without a name, listed, and read as the anatomy that was written."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import downloads
import numpy as np
import pytest
from downloads import Download, Patient

from fedcowpro.config import PrepareConfig, SuperpixelConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import Options
from fedcowpro.data.datasets.registry import adapter_for
from fedcowpro.data.preparation.prepare import prepare

Write = Callable[[Path, Patient], Download]
DATASETS: dict[str, tuple[str, Write, dict[str, int] | None]] = {
    "chaos": ("chaos", downloads.chaos, downloads.CHAOS),
    "btcv": ("btcv", downloads.btcv, downloads.BTCV),
    "flare22": ("flare22", downloads.flare22, downloads.FLARE),
    "amos22": ("amos22", downloads.amos22, downloads.AMOS),
    "mogambo": ("mogambo", downloads.mogambo, downloads.MOGAMBO),
    "msd": ("msd", downloads.msd, downloads.OWN),
    "msd, channels": ("msd", downloads.msd_channels, {"bladder": 1, "rectum": 2}),
    "nnunet": ("nnunet", downloads.nnunet, downloads.OWN),
    "nnunet 1": ("nnunet", downloads.nnunet_1, downloads.OWN),
    "alpnet": ("alpnet", downloads.alpnet, None),
}


@pytest.mark.parametrize("kind", DATASETS)
@pytest.mark.filterwarnings("error")
def test_a_download_is_recognised_listed_and_read(tmp_path: Path, patient: Patient, kind: str) -> None:
    name, write, numbers = DATASETS[kind]
    expected = write(tmp_path, patient)
    adapter = adapter_for(tmp_path, None)
    assert adapter.about.name == name
    found = pickle.loads(pickle.dumps(adapter.find(tmp_path, Options())))
    assert [scan.id for scan in found.scans] == list(expected)
    if numbers is None:
        assert found.organs is None
    else:
        named = {organ: value for value, organ in found.organs.items()}
        assert {organ: named.get(organ) for organ in numbers} == numbers
    for scan in found.scans:
        wanted = expected[scan.id]
        assert scan.modality == wanted.modality
        image = scan.image.read()
        np.testing.assert_allclose(image.voxels, wanted.image, atol=0.6)
        assert (scan.labels is None) == (wanted.labels is None)
        if scan.labels is not None:
            np.testing.assert_array_equal(scan.labels.read(image).voxels, wanted.labels)
            assert all(file.is_file() for file in scan.labels.files)
        assert all(file.is_file() for file in scan.image.files)


@pytest.mark.parametrize("kind", DATASETS)
def test_labels_may_be_ignored(tmp_path: Path, patient: Patient, kind: str) -> None:
    _, write, _ = DATASETS[kind]
    expected = write(tmp_path, patient)
    found = adapter_for(tmp_path, None).find(tmp_path, Options(labels=""))
    assert [(scan.id, scan.labels) for scan in found.scans] == [(case, None) for case in expected]


@pytest.mark.parametrize(
    ("kind", "inside"),
    [
        ("btcv", "RawData"),
        ("btcv", "RawData/Training"),
        ("flare22", "FLARE22Train"),
        ("flare22", "FLARE22_UnlabeledCase1-1000"),
        ("mogambo", "MOGaMB"),
        ("msd", "Task09_Spleen"),
        ("nnunet", "Dataset001_Abdomen"),
        ("chaos", "CHAOS_Train_Sets"),
        ("chaos", "CHAOS_Train_Sets/Train_Sets"),
        ("chaos", "CHAOS_Train_Sets/Train_Sets/CT"),
        ("chaos", "CHAOS_Test_Sets/Test_Sets/CT"),
    ],
)
def test_a_folder_inside_will_do(tmp_path: Path, patient: Patient, kind: str, inside: str) -> None:
    name, write, _ = DATASETS[kind]
    expected = write(tmp_path, patient)
    adapter = adapter_for(tmp_path / inside, None)
    assert adapter.about.name == name
    found = adapter.find(tmp_path / inside, Options())
    assert found.scans
    for scan in found.scans:
        assert (scan.labels is None) == (expected[scan.id].labels is None)
        assert all(file.is_relative_to(tmp_path / inside) for file in scan.image.files)


@pytest.mark.parametrize("kind", ["amos22", "alpnet", "btcv"])
def test_a_folder_above_will_do(tmp_path: Path, patient: Patient, kind: str) -> None:
    name, write, _ = DATASETS[kind]
    expected = write(tmp_path / "unpacked", patient)
    adapter = adapter_for(tmp_path, None)
    assert adapter.about.name == name
    assert [scan.id for scan in adapter.find(tmp_path, Options()).scans] == list(expected)


PARTS = [
    ("chaos", "ct", ["ct-1", "ct-3"]),
    ("chaos", "t1-out", ["t1-out-2"]),
    ("flare22", "labelled", ["FLARE22_Tr_0001"]),
    ("flare22", "unlabelled", ["Case_00007"]),
    ("amos22", "mr", ["0507", "0510"]),
    ("nnunet", "T1", ["case_7", "case_9", "case_11"]),
]


@pytest.mark.parametrize(("kind", "part", "ids"), PARTS)
def test_a_part_is_taken_alone(tmp_path: Path, patient: Patient, kind: str, part: str, ids: list[str]) -> None:
    DATASETS[kind][1](tmp_path, patient)
    adapter = adapter_for(tmp_path, None)
    found = adapter.find(tmp_path, Options(part=part))
    assert [scan.id for scan in found.scans] == ids
    with pytest.raises(FedCoWProError, match=r"--part brain\n  expected: one of: .*" + part):
        adapter.find(tmp_path, Options(part="brain"))


def test_ct_of_chaos_has_one_organ(tmp_path: Path, patient: Patient) -> None:
    downloads.chaos(tmp_path, patient)
    assert adapter_for(tmp_path, None).find(tmp_path, Options(part="ct")).organs == {1: "liver"}


def test_a_channel_is_chosen_by_name(tmp_path: Path, patient: Patient) -> None:
    expected = downloads.msd_channels(tmp_path, patient)["prostate_00"]
    adapter = adapter_for(tmp_path, None)
    (note,) = adapter.find(tmp_path, Options()).notes
    assert "2 channels (T2, ADC): 'T2' is taken" in note
    found = adapter.find(tmp_path, Options(part="ADC"))
    assert found.notes == ()
    image = found.scans[0].image.read()
    np.testing.assert_allclose(image.voxels, 4000 - expected.image, atol=1)
    np.testing.assert_array_equal(found.scans[0].labels.read(image).voxels, expected.labels)

    downloads.nnunet(tmp_path / "v2", patient)
    scan = adapter_for(tmp_path / "v2", None).find(tmp_path / "v2", Options(part="T1")).scans[1]
    np.testing.assert_allclose(scan.image.read().voxels, patient("t1", 1).image, atol=0.6)


def test_superpixels_of_alpnet_are_read_on_the_image(tmp_path: Path, patient: Patient) -> None:
    downloads.alpnet(tmp_path, patient)
    adapter = adapter_for(tmp_path, None)
    assert all(scan.superpixels is None for scan in adapter.find(tmp_path, Options()).scans)
    scan = adapter.find(tmp_path, Options(reuse_superpixels=True)).scans[0]
    segments = scan.superpixels.read(scan.image.read())
    np.testing.assert_array_equal(segments.voxels, downloads.segments_of(patient("t2", 1)))
    assert segments.voxels.dtype == np.uint16
    (tmp_path / "superpix-MIDDLE_10.nii.gz").unlink()
    with pytest.raises(FedCoWProError, match=r"image_10\.nii\.gz has no superpixels"):
        adapter.find(tmp_path, Options(reuse_superpixels=True))
    downloads.save(tmp_path / "superpix-MIDDLE_2.nii.gz", patient("ct", 1).image, patient("t2", 1).spacing)
    with pytest.raises(FedCoWProError, match=r"superpix-MIDDLE_2\.nii\.gz: .* whole numbers in 0\.\.65535"):
        scan.superpixels.read(scan.image.read())


def test_a_table_beside_amos_says_the_modality(tmp_path: Path, patient: Patient) -> None:
    downloads.amos22(tmp_path / "amos22", patient)
    find = adapter_for(tmp_path, None).find
    table = tmp_path / "labeled_data_meta_0000_0599.csv"
    table.write_text("amos_id,Patient's Sex,Manufacturer's Model Name\n4,M,Prisma\n507.0,F,Optima CT660\n510,F,other\n")
    assert [scan.modality for scan in find(tmp_path / "amos22", Options()).scans] == ["mr", "ct", "mr"]
    (tmp_path / "amos22" / "mine.csv").write_text("\ufeffAMOS ID;x\n")
    (tmp_path / "amos22" / "other.csv").write_text("amos id,Modality\namos_0004,CT\n")
    assert [scan.modality for scan in find(tmp_path / "amos22", Options()).scans] == ["ct", "ct", "mr"]
    table.write_bytes(b"amos_id\xff\n")
    (tmp_path / "amos22" / "other.csv").unlink()
    found = find(tmp_path / "amos22", Options())
    assert [scan.modality for scan in found.scans] == ["ct", "mr", "mr"]
    assert "modality goes by number" in found.notes[0]


def test_flare_is_known_by_its_other_layout(tmp_path: Path, patient: Patient) -> None:
    downloads.flare22(tmp_path / "a", patient)
    for kind in ("images", "labels"):
        shutil.move(tmp_path / "a/FLARE22Train" / kind, tmp_path / f"{kind}Tr")
    adapter = adapter_for(tmp_path, None)
    assert adapter.about.name == "flare22"
    assert [scan.id for scan in adapter.find(tmp_path, Options(part="labelled")).scans] == ["FLARE22_Tr_0001"]


def test_patterns_name_the_files_of_mogamb(tmp_path: Path, patient: Patient) -> None:
    expected = downloads.mogambo(tmp_path, patient)["P01"]
    home = tmp_path / "MOGaMB"
    (home / "7").mkdir()
    shutil.move(home / "images/P01.nii.gz", home / "7/T2 axial.nii.gz")
    shutil.move(home / "masks/P01.nii.gz", home / "7/oar.nii.gz")
    adapter = adapter_for(tmp_path, None)
    assert adapter.about.name == "mogambo"
    with pytest.raises(FedCoWProError, match=r"volumes seen: .*7/oar\.nii\.gz") as caught:
        adapter.find(tmp_path, Options())
    assert "'images/*.nii.gz' with 'masks/*.nii.gz'" in caught.value.expected
    assert "--images" in caught.value.remedy
    found = adapter.find(home, Options(images="*/T2 axial.nii.gz", labels="*/oar.nii.gz"))
    (scan,) = found.scans
    assert (scan.id, scan.modality) == ("7", "mr")
    np.testing.assert_array_equal(scan.labels.read(scan.image.read()).voxels, expected.labels)


def test_a_download_becomes_a_site(tmp_path: Path, patient: Patient) -> None:
    """All the way, by workers: CT and MR beside each other, labels of those that have some."""
    expected = downloads.chaos(tmp_path / "raw", patient)
    config = PrepareConfig(size=64, superpixels=SuperpixelConfig(min_size=40, min_area=20))
    site = prepare(tmp_path / "raw", tmp_path / "site", config, support="t2-2", workers=1, progress=False)
    assert [case.id for case in site.cases] == list(expected)
    assert site.modalities == ("ct", "mr")
    assert site.organs == {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}
    assert site.labelled_cases == tuple(case for case in expected if expected[case].labels is not None)
    np.testing.assert_array_equal(site.labels("t2-2")[:, 8:56, 8:56], expected["t2-2"].labels)
