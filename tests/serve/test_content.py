"""Files of unknown origin: told apart by content, refused before memory goes, whatever their names say."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from serve_pages import Page, Serving


@pytest.fixture
def image(phantoms: Path) -> bytes:
    return (phantoms / "ct" / "image_1.nii.gz").read_bytes()


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def header(shape: tuple[int, ...], kind: type = nib.Nifti1Header, dtype: type = np.int16) -> bytes:
    made = kind()
    made.set_data_dtype(dtype)
    made.set_data_shape(shape)
    made["magic"] = made.single_magic if hasattr(made, "single_magic") else made["magic"]
    return made.binaryblock + b"\0" * 4


def refused(answer, status: int, got: str) -> None:  # type: ignore[no-untyped-def]
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert got in error["got"]
    assert error["expected"]
    assert error["remedy"]


@pytest.mark.parametrize("name", ["case.nii.gz", "photo.png", "../../etc/passwd", "", "x" * 900])
def test_the_name_does_not_count(page: Page, image: bytes, name: str) -> None:
    answer = page.upload(image, name=name)
    assert answer.status_code == 200, answer.text
    assert "/" not in answer.json()["name"]
    assert len(answer.json()["name"]) <= 120
    assert page.upload(gzip.decompress(image), name="plain").json()["size"] == [64, 64, 10]


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n" + bytes(600), b"<html>", b"", b"MZ" * 400, b"%PDF-1.7", bytes(10_000)]
)
def test_other_types_are_refused(page: Page, content: bytes) -> None:
    refused(page.upload(content), 415, "another type")
    refused(page.upload(gzip.compress(content)), 415, "another type")
    refused(page.upload(zipped({"case.nii.gz": content})), 415, "another type")
    assert page.get("/api/state").json()["volumes"] == []


@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
def test_a_claim_of_10_gb_costs_no_memory(serving: Serving, kind: type) -> None:
    """A gzip stream of zeros, 1000 times smaller than what its header claims."""
    page = Page(serving())
    start = header((2048, 1024, 2560), kind)
    body = gzip.compress(start + bytes(3 << 20))
    page.get("/api/state")
    tracemalloc.start()
    try:
        answer = page.upload(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    refused(answer, 413, "20 GB")  # as the 4 bytes per voxel in which it would be held
    assert peak < 8 << 20


def test_a_stream_that_is_longer_than_it_says_is_cut_off(serving: Serving) -> None:
    """A bomb: the header claims a small volume, 200 MB of zeros follow."""
    server = serving()
    page = Page(server)
    body = gzip.compress(header((64, 64, 10)) + bytes(200 << 20), 1)
    assert len(body) < server.limits.upload
    tracemalloc.start()
    try:
        answer = page.upload(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    refused(answer, 413, "more bytes than its header")
    assert peak < 16 << 20
    assert not [one for one in server.root.rglob("*") if one.is_file()]


def test_damaged_files(page: Page, image: bytes) -> None:
    refused(page.upload(image[: len(image) // 2]), 400, "not a whole gzip file")
    refused(page.upload(gzip.compress(gzip.decompress(image)[:20_000])), 400, "fewer voxels")
    refused(page.upload(zipped({"a": image})[:-40]), 400, "damaged zip")
    for shape in ((0, 5, 5), (-3, 5, 5)):
        broken = bytearray(header((5, 5, 5)))
        struct.pack_into("<3h", broken, 42, *shape)
        assert page.upload(bytes(broken)).status_code == 400
    wild = bytearray(header((5, 5, 5)))
    struct.pack_into("<f", wild, 108, float("nan"))  # where the voxels begin
    assert page.upload(bytes(wild)).status_code == 400


def test_an_archive_stays_in_its_folder(serving: Serving, image: bytes) -> None:
    server = serving()
    page = Page(server)
    answer = page.upload(zipped({"../../../evil.nii.gz": image, "readme.txt": b"hello"}))
    assert answer.json()["size"] == [64, 64, 10]
    inside = {one.resolve() for one in server.root.rglob("*")}
    assert not list(server.root.parent.rglob("*evil*"))
    assert all(one.is_relative_to(server.root) for one in inside)


def test_archives_that_unpack_to_much_are_refused(serving: Serving, image: bytes) -> None:
    page = Page(serving())
    refused(page.upload(zipped({"a": bytes(100 << 20)})), 413, "100 MB")
    refused(page.upload(zipped({f"{n}": b"" for n in range(300)})), 413, "300 files")
    refused(page.upload(zipped({"a": zipped({"b": image})})), 415, "another type")
    refused(page.upload(zipped({"a": image, "b": image})), 400, "2 NIfTI volumes")
    lies = bytearray(zipped({"a": bytes(30 << 20)}))
    small = (1000).to_bytes(4, "little")
    central = lies.rindex(b"PK\x01\x02")
    lies[central + 24 : central + 28] = lies[22:26] = small
    assert page.upload(bytes(lies)).status_code in (400, 413)
    locked = bytearray(zipped({"a": image}))
    locked[6] |= 1
    locked[locked.rindex(b"PK\x01\x02") + 8] |= 1
    refused(page.upload(bytes(locked)), 415, "encrypted")


def test_uploads_end_at_their_limit(serving: Serving, image: bytes) -> None:
    page = Page(serving(upload=len(image) + 10))
    refused(page.upload(image, b"x" * 11), 413, "")
    assert page.upload(image).status_code == 200
    key = page.post("/api/uploads").json()["id"]
    assert page.put(f"/api/uploads/{key}/0", content=b"x").status_code == 200
    assert page.put(f"/api/uploads/{key}/0", content=b"x").status_code == 409
    assert page.put(f"/api/uploads/{key}/999", content=b"x").status_code == 413
    assert page.put(f"/api/uploads/{key}/..%2f1", content=b"x").status_code in (404, 422)
    assert page.delete(f"/api/uploads/{key}").status_code == 200
    assert page.put(f"/api/uploads/{key}/1", content=b"x").status_code == 404


class TestDicom:
    """Extra `dicom`."""

    @pytest.fixture
    def series(self, tmp_path: Path) -> list[bytes]:
        pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
        from dicom_files import write_series
        from fedcowpro.data.phantom import make_phantom

        phantom = make_phantom("ct", 1, 64, 10)
        return [file.read_bytes() for file in write_series(tmp_path / "series", phantom.image, phantom.spacing)]

    def test_a_series_as_files_or_as_an_archive(self, page: Page, series: list[bytes]) -> None:
        for contents in (series, [zipped({f"d/{n}": one for n, one in enumerate(series)} | {"x.txt": b"-"})]):
            answer = page.upload(*contents, name="study").json()
            assert answer["size"] == [64, 64, 10]
            assert answer["dicom"]
            assert answer["modality"] == "ct"

    def test_several_series_are_offered(self, page: Page, series: list[bytes], tmp_path: Path) -> None:
        from dicom_files import write_series
        from fedcowpro.data.phantom import make_phantom

        phantom = make_phantom("t2", 1, 64, 10)
        more = write_series(tmp_path / "more", phantom.image[:7], phantom.spacing, modality="mr", series="2")
        key = page.post("/api/uploads").json()["id"]
        for number, one in enumerate([*series, *(file.read_bytes() for file in more)]):
            assert page.put(f"/api/uploads/{key}/{number}", content=one).status_code == 200
        choices = page.post(f"/api/uploads/{key}/open", json={"name": "both"}).json()["choices"]
        assert len(choices) == 2
        chosen = next(n for n, text in enumerate(choices) if text.startswith("MR"))
        answer = page.post(f"/api/uploads/{key}/open", json={"name": "both", "series": chosen}).json()
        assert answer["size"] == [64, 64, 7]

    def test_claims_of_headers_are_added_up_before_pixels_are_read(
        self, page: Page, tmp_path: Path, series: list[bytes]
    ) -> None:
        import pydicom

        def changed(**tags: object) -> bytes:
            dataset = pydicom.dcmread(io.BytesIO(series[0]))
            for name, value in tags.items():
                setattr(dataset, name, value)
            out = io.BytesIO()
            dataset.save_as(out)
            return out.getvalue()

        tracemalloc.start()
        try:
            refused(page.upload(changed(NumberOfFrames=2**31 - 1)), 413, "frames")
            refused(page.upload(changed(NumberOfFrames=10_000, Rows=60_000, Columns=60_000)), 413, "GB")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 16 << 20

    def test_a_deflated_file_is_refused_unread(self, page: Page, series: list[bytes]) -> None:
        import pydicom

        dataset = pydicom.dcmread(io.BytesIO(series[0]))
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        out = io.BytesIO()
        dataset.save_as(out)
        refused(page.upload(out.getvalue()), 415, "deflated")

    def test_no_name_of_a_patient_leaves_in_a_message(self, page: Page, series: list[bytes]) -> None:
        from dicom_files import NAME, NUMBER

        answers = [page.upload(*series, name="s"), page.upload(*series[:2]), page.upload(series[0][:-500])]
        for answer in answers:
            assert NAME not in answer.text
            assert NUMBER not in answer.text
