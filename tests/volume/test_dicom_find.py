"""What a folder of DICOM files holds: told by content, split where a series mixes volumes, without the patient."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dicom_files import NAME, NUMBER, uid, write_enhanced, write_series
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.volume.dicom import (
    FoundSeries,
    Series,
    find,
    find_series,
    load_or_make_key,
    pseudonym,
    read_image,
)
from fedcowpro.volume.dicom import library as library_module
from fedcowpro.volume.dicom.redaction import identifiers_of, redact
from fedcowpro.volume.dicom.series import Identity

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

pydicom = pytest.importorskip("pydicom")

RNG = np.random.default_rng(6)
SPACING = (4.0, 1.1, 0.9)
VOXELS = RNG.integers(-900, 1200, (5, 8, 9)).astype(np.float32)
SECRETS = (*NAME.split("^"), NUMBER, "74656", "19010203", "20010203", uid("x").rpartition(".")[0])  # and any UID


def test_only_dicom_files_count_whatever_they_are_called(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a" / "b", VOXELS, SPACING)
    files[0].rename(tmp_path / "a" / "b" / "photo.jpg")
    (tmp_path / "a" / "notes.dcm").write_text("no DICOM " * 50)
    (tmp_path / "a" / "zeros").write_bytes(bytes(1000))
    (tmp_path / "a" / "int32.raw").write_bytes(np.array([8, 70_000, *range(90)], "<i4").tobytes())
    (tmp_path / "empty.dcm").touch()
    meta = pydicom.dcmread(files[1])
    meta.SOPClassUID = meta.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    for name in ("Rows", "Columns", "PixelData"):
        del meta[name]
    meta.save_as(tmp_path / "DICOMDIR")
    found = find(tmp_path)
    assert [one.size for one in found.series] == [(9, 8, 5)]
    assert (found.notes, found.damaged, found.segmentations) == ((), (), ())


def test_several_series_are_several_volumes(tmp_path: Path) -> None:
    write_series(tmp_path, VOXELS, SPACING, series="1", prefix="b")
    write_series(tmp_path, VOXELS[:4] + 1, SPACING, series="2", modality="mr", prefix="a")
    write_series(tmp_path / "more", VOXELS[:3] + 2, SPACING, series="1", patient=("Other^One", "2"))
    second, first, third = find_series(tmp_path)  # in the order of their files
    for series, voxels, modality in (
        (first, VOXELS, "ct"),
        (second, VOXELS[:4] + 1, "mr"),
        (third, VOXELS[:3] + 2, "ct"),
    ):
        assert (series.modality, series.number) == (modality, 0)
        np.testing.assert_array_equal(series.read().voxels, voxels)
    with pytest.raises(FedCoWProError, match="holds 3 DICOM volumes") as caught:
        read_image(tmp_path)
    assert "\n    MR, 4 slices of 9 x 8, 0.9 x 1.1 x 4 mm; first file " in caught.value.got
    assert str(second.files[0]) in caught.value.got


def test_one_uid_of_two_patients_gives_two_volumes(tmp_path: Path) -> None:
    same = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2"}
    for number in "12":
        write_series(tmp_path / number, VOXELS, SPACING, patient=("Anonymous", number), tags=same)
    one, other = find_series(tmp_path)
    assert one.uid == other.uid
    assert pseudonym(bytes(32), one) != pseudonym(bytes(32), other)


def test_no_modality_is_left_open(tmp_path: Path) -> None:
    write_series(tmp_path, VOXELS, SPACING, tags={"Modality": "OT"})
    series = find_series(tmp_path)[0]
    assert series.modality is None
    assert "modality unknown" in series.describe()


MIXED = {
    "echo time": ({"EchoTime": "2.3"}, {"EchoTime": "4.6"}, ["echo time 2.30", "echo time 4.60"]),
    "phase of fat": (
        {"ImageType": ["DERIVED", "PRIMARY", "IP"]},
        {"ImageType": ["DERIVED", "PRIMARY", "OP"]},
        ["image type DERIVED\\PRIMARY\\IP", "image type DERIVED\\PRIMARY\\OP"],
    ),
    "b value": ({"DiffusionBValue": 800.0}, {"DiffusionBValue": 50.0}, ["b value 50.0", "b value 800.0"]),
    "temporal position": (
        {"TemporalPositionIdentifier": 10},
        {"TemporalPositionIdentifier": 9},
        ["phase 9", "phase 10"],
    ),
    "acquisition": ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}, ["acquisition 1", "acquisition 2"]),
    "time": ({"AcquisitionTime": "101500"}, {"AcquisitionTime": "101700"}, ["", ""]),
}


@pytest.mark.parametrize("kind", MIXED)
def test_acquisitions_in_one_series_are_parted(tmp_path: Path, kind: str) -> None:
    tags, other_tags, kinds = MIXED[kind]
    write_series(tmp_path, VOXELS, SPACING, modality="mr", tags=tags, prefix="a", series="1")
    edit = _instance("b")
    write_series(tmp_path, VOXELS + 5, SPACING, modality="mr", tags=other_tags, prefix="b", series="1", edit=edit)
    series = find_series(tmp_path)
    assert [one.kind for one in series] == kinds
    assert [one.number for one in series] == [1, 2]
    by_prefix = {one.files[0].name[0]: one.read().voxels for one in series}
    np.testing.assert_array_equal(by_prefix["a"], VOXELS)
    np.testing.assert_array_equal(by_prefix["b"], VOXELS + 5)
    assert not any("1015" in one.describe() for one in series)  # a time of day is nobody's business


def _instance(text: str) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, index: int) -> None:
        dataset.SOPInstanceUID = f"1.2.3.{ord(text)}.{index}"

    return edit


def test_half_of_two_echoes_is_not_one_volume(tmp_path: Path) -> None:
    """Every other slice of each echo arrived: together they would look like one whole volume."""
    voxels = np.concatenate([VOXELS, VOXELS + 1])
    tags = [{"EchoTime": "2.3"}, {"EchoTime": "4.6"}]
    write_series(
        tmp_path, voxels, SPACING, edit=lambda dataset, i: setattr(dataset, "EchoTime", tags[i % 2]["EchoTime"])
    )
    assert [one.size for one in find_series(tmp_path)] == [(9, 8, 5), (9, 8, 5)]


def test_a_volume_in_two_acquisitions_stays_whole(tmp_path: Path) -> None:
    """Upper and lower half differ, and a copy makes one position be there twice."""
    voxels = np.concatenate([VOXELS, VOXELS + 1])

    def edit(dataset: Dataset, index: int) -> None:
        dataset.AcquisitionNumber = index // 5
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", f"PART{index // 5}"]

    files = write_series(tmp_path, voxels, SPACING, edit=edit)
    np.testing.assert_array_equal(read_image(tmp_path).voxels, voxels)
    (tmp_path / "copy").write_bytes(files[2].read_bytes())
    with pytest.warns(UserWarning, match="more than once"):
        np.testing.assert_array_equal(read_image(tmp_path).voxels, voxels)


@pytest.mark.parametrize(
    ("tag", "kind", "values"),
    [
        (0x0019100C, "IS", ("0", "800")),
        (0x20011003, "FL", (0.0, 800.0)),
        (0x00431039, "IS", (["1000000000", "8"], ["1000000800", "8"])),
    ],
)
@pytest.mark.parametrize("implicit", [False, True])
def test_diffusion_weightings_of_vendors(
    tmp_path: Path, tag: int, kind: str, values: tuple[Any, ...], implicit: bool
) -> None:
    for number, value in enumerate(values):
        edit = _both(_instance(str(number)), lambda dataset, _, value=value: dataset.add_new(tag, kind, value))
        for file in write_series(tmp_path, VOXELS + number, SPACING, modality="mr", prefix=str(number), edit=edit):
            if implicit:
                dataset = pydicom.dcmread(file)
                dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
                dataset.save_as(file, implicit_vr=True, little_endian=True)
    series = find_series(tmp_path)
    assert [int(one.read().voxels.min() - VOXELS.min()) for one in series] == [0, 1]
    assert [one.kind.split(".")[0] for one in series] == ["b value 0", "b value 800"]


def _both(*edits: Callable[[Dataset, int], None]) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, index: int) -> None:
        for one in edits:
            one(dataset, index)

    return edit


def test_a_trait_that_differs_from_slice_to_slice_parts_nothing(tmp_path: Path) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        dataset.EchoTime, dataset.AcquisitionNumber, dataset.TriggerTime = 2 + index, index, index * 10
        dataset.AcquisitionTime = f"1015{index:02d}"

    write_series(tmp_path, VOXELS, SPACING, edit=edit)
    np.testing.assert_array_equal(read_image(tmp_path).voxels, VOXELS)


def test_other_sizes_are_parted(tmp_path: Path) -> None:
    write_series(tmp_path, VOXELS, SPACING, prefix="a")
    write_series(tmp_path, VOXELS[:, :6, :6], SPACING, prefix="b")
    assert [(one.size, one.kind) for one in find_series(tmp_path)] == [((6, 6, 5), "6 x 6"), ((9, 8, 5), "9 x 8")]


def _left_out(folder: Path) -> str:
    found = find(folder)
    assert found.series == ()
    with pytest.raises(FedCoWProError, match="holds no DICOM volume") as caught:
        read_image(folder)
    assert found.notes[0] in caught.value.got
    return " ".join(found.notes)


LEFT_OUT = {
    "scout": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localiser"),
    "mosaic": ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic"),
    "pet": ({"Modality": "PT"}, "modality PT"),
    "colour": ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}, "colour image"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour image"),
    "no place": ({"ImagePositionPatient": None}, "no position"),
    "no spacing": ({"PixelSpacing": None}, "no position, orientation or pixel spacing"),
    "slanted pixels": ({"ImageOrientationPatient": [1, 0, 0, 0.5, 0.8, 0]}, "no position, orientation"),
    "no uid": ({"SeriesInstanceUID": None}, "no SeriesInstanceUID"),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_is_no_volume_is_left_out_with_a_note(tmp_path: Path, kind: str) -> None:
    tags, message = LEFT_OUT[kind]
    files = write_series(tmp_path, VOXELS, SPACING, tags=tags)
    assert (
        _left_out(tmp_path) == f"left out {min(files)} and 4 more: " + message + _left_out(tmp_path).split(message)[1]
    )


def test_a_localiser_of_several_directions_is_left_out(tmp_path: Path) -> None:
    for number, axes in enumerate(("LPS", "LIA", "PIR")):
        write_series(tmp_path, VOXELS[:, :5, :5], SPACING, axes=axes, prefix=str(number), series="1")
    assert "localiser (one series with stacks in different directions)" in _left_out(tmp_path)


def test_a_scout_in_the_series_does_not_harm_it(tmp_path: Path) -> None:
    write_series(tmp_path, VOXELS, SPACING, prefix="a")
    scout = write_series(tmp_path, VOXELS[:1, :1], SPACING, axes="LIP", prefix="b")
    found = find(tmp_path)
    assert found.notes == (f"left out {scout[0]}: fewer than 3 parallel slices",)
    np.testing.assert_array_equal(read_image(tmp_path).voxels, VOXELS)


def test_reports_are_passed_over(tmp_path: Path) -> None:
    files = write_series(tmp_path, VOXELS, SPACING)
    report = pydicom.dcmread(files[0], stop_before_pixels=True)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.22"
    report.Modality = "SR"
    del report.Rows, report.Columns
    report.save_as(tmp_path / "report")
    assert find(tmp_path) == find(tmp_path)
    assert (len(find_series(tmp_path)), find(tmp_path).notes) == (1, ())


def test_a_damaged_file_is_noted_and_makes_reading_fail(tmp_path: Path) -> None:
    files = write_series(tmp_path, VOXELS, SPACING)
    files[-1].write_bytes(files[-1].read_bytes()[:700])
    found = find(tmp_path)
    assert found.damaged == (files[-1],)
    assert found.notes == (f"left out {files[-1]}: damaged or incomplete DICOM file",)
    assert found.series[0].size == (9, 8, 4)
    with pytest.raises(FedCoWProError, match=rf"{files[-1].name}: damaged"):
        read_image(tmp_path)


def _everything_said(folder: Path) -> str:
    """All that finding and reading says in words: descriptions, notes, warnings, errors and what caused them."""
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = find(folder)
        said += [repr(found), str(found), *found.notes]
        for series in found.series:
            said += [repr(series), str(series), series.name, series.describe(), repr(series.identity)]
            said += [str(series.modality), f"{series}", pseudonym(b"k" * 32, series)]
            try:
                volume = series.read()
                said += [volume.name, repr(volume)]
            except FedCoWProError as error:
                said += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
        try:
            read_image(folder)
        except FedCoWProError as error:
            said += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
    return "\n".join([*said, *(str(one.message) for one in caught)])


def _two_volumes(folder: Path) -> None:
    write_series(folder, VOXELS, SPACING, prefix="a")
    write_enhanced(folder / "enhanced", [VOXELS, VOXELS + 1], SPACING)


def _gap(folder: Path) -> None:
    write_series(folder, VOXELS, SPACING)[2].unlink()


def _differing(folder: Path) -> None:
    write_series(folder, VOXELS, SPACING, prefix="a")
    write_series(folder, VOXELS + 1, SPACING, prefix="b")


def _cut(folder: Path) -> None:
    for cut, file in zip((300, 500, 700, 900, -50), write_series(folder, VOXELS, SPACING), strict=True):
        file.write_bytes(file.read_bytes()[:cut])


def _invalid_values(folder: Path) -> None:
    """Values that pydicom warns of, quoting them: too long, with forbidden letters, of another type."""

    def edit(dataset: Dataset, index: int) -> None:
        before = pydicom.config.settings.writing_validation_mode
        pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
        dataset.PatientID = f"{NUMBER}\\{NAME}" + "x" * 80
        dataset.PatientName = f"{NAME}=" * 5
        dataset.StudyID, dataset.AccessionNumber = NAME * 3, NAME * 4
        dataset.SpecificCharacterSet = f"{NAME}"
        dataset.add_new("AcquisitionNumber", "LO", f"{NAME} {index}")
        pydicom.config.settings.writing_validation_mode = before

    write_series(folder, VOXELS, SPACING, edit=edit)


@pytest.mark.parametrize("make", [_two_volumes, _gap, _differing, _cut, _invalid_values])
def test_the_patient_is_never_shown(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Neither what the headers say nor what folders and files are named by."""
    folder = tmp_path / f"{NAME.replace('^', '_').upper()} {NUMBER}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make(folder)
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        file.rename(file.with_name(f"{NAME.split('^')[1].lower()}{number:03d}"))
    said = _everything_said(folder)
    assert len(said) > 200
    for secret in SECRETS:
        assert secret.lower() not in said.lower()


@pytest.mark.parametrize(
    ("name", "number", "text", "hidden"),
    [
        ("Quux^Zebedee", "PID-7", "a/QUUX_Zebedee/7.dcm", "a/***_***/7.dcm"),
        ("Quux^Zebedee", "PID-74656", "a/74656/QuuxZebedee01: gap", "a/***/***01: gap"),
        ("Quux^Zebedee", "PID-74656", "pid-74656.dcm, zebedeequux", "***.dcm, ***"),
        ("Müller^Änne", "", "MULLER/Anne_Müller", "***/***_***"),
        ("Li^Wu", "42", "li/wu/slices of 42 in Line", "***/***/slices of 42 in Line"),
        ("", "", "as it is", "as it is"),
        ("", "123", "IMG-123", "IMG-123"),
    ],
)
def test_names_and_numbers_are_hidden_in_texts(name: str, number: str, text: str, hidden: str) -> None:
    header = pydicom.Dataset()
    header.PatientName, header.PatientID = name, number
    assert redact(text, identifiers_of(header)) == hidden


def test_pseudonyms_are_stable_keyed_and_all_different(tmp_path: Path) -> None:
    write_series(tmp_path / "a", VOXELS, SPACING, series="1")
    write_series(tmp_path / "b", VOXELS, SPACING, series="2")
    write_series(tmp_path / "c", VOXELS, SPACING, series="1", patient=(NAME, "other"))
    write_enhanced(tmp_path / "d" / "file", [VOXELS, VOXELS + 1], SPACING)
    key, other = bytes(range(32)), bytes(range(1, 33))
    series = find_series(tmp_path)
    names = [pseudonym(key, one) for one in series]
    assert len(set(names)) == len(series) == 5
    assert all(re.fullmatch(r"p-[a-z2-7]{12}", name) for name in names)
    (tmp_path / "a").rename(tmp_path / "z")
    assert {pseudonym(key, one) for one in find_series(tmp_path)} == set(names)
    assert not {pseudonym(other, one) for one in series} & set(names)
    with pytest.raises(FedCoWProError, match="a key of 5 bytes"):
        pseudonym(b"short", series[0])


def test_pseudonyms_do_not_run_fields_together() -> None:
    def name(patient: str, study: str) -> str:
        return pseudonym(bytes(32), Series((), "1", "ct", (1, 1, 1), (1, 1, 1), identity=Identity(patient, study)))

    assert name("ab", "c") != name("a", "bc")
    assert name("ab", "c") == name("ab", "c") == "p-zxwlg6iyl53t"


def test_the_key_is_made_once_and_kept_secret(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    key = load_or_make_key(path)
    assert len(key) == 32
    assert load_or_make_key(path) == key
    assert path.read_text().strip() == key.hex()
    assert load_or_make_key(tmp_path / "other") != key
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
        with pytest.warns(UserWarning, match="others can read this key"):
            load_or_make_key(path)


@pytest.mark.parametrize("text", ["", "abc", "0" * 63, "g" * 64, "0" * 128])
def test_a_damaged_key_is_refused_not_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(FedCoWProError, match="damaged key"):
        load_or_make_key(tmp_path / "key")
    assert (tmp_path / "key").read_text() == text


def test_a_key_made_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process makes the key between the look and the making."""
    path = tmp_path / "key"
    key = load_or_make_key(path)
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert load_or_make_key(path) == key


def not_installed(package: str) -> str:
    raise PackageNotFoundError(package)


def test_without_the_extra_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path, VOXELS, SPACING)
    series = find_series(tmp_path)[0]
    monkeypatch.setitem(sys.modules, "pydicom.pixels", None)
    with pytest.raises(FedCoWProError, match=r"package 'pydicom' 3.* has no usable 'pydicom\.pixels'"):
        series.read()  # as with pydicom 2
    for name in [name for name in sys.modules if name.split(".")[0] == "pydicom"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(library_module, "version", not_installed)
    actions: list[Callable[[], object]] = [lambda: find(tmp_path), lambda: read_image(tmp_path), series.read]
    for action in actions:
        with pytest.raises(FedCoWProError, match="no package 'pydicom'") as caught:
            action()
        assert caught.value.remedy == "pip install 'fedcowpro[dicom]'"


def test_found_is_empty_for_an_empty_folder(tmp_path: Path) -> None:
    assert find(tmp_path) == FoundSeries(())
