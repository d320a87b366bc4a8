"""Files of any content and name: a mask on the file's own grid, or the user's error; nothing half-written or lost.

100 examples of each, 25 in `make test-fast`; FEDCOWPRO_FUZZ=2000 asks for more.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faulty_dicom import COLUMNS, EXPLICIT, FAULTS, ROWS, SLICES, SYNTAXES, write_faulty
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.core.files import digest_of
from fedcowpro.oneshot.batch import segment_files
from fedcowpro.oneshot.extent import Extents
from fedcowpro.oneshot.segmentation import Segmentation
from fedcowpro.volume.find import find_volumes
from fedcowpro.volume.volume import Volume

EXAMPLES = int(os.environ.get("FEDCOWPRO_FUZZ", "100"))
many = settings(max_examples=EXAMPLES, deadline=None)
VOXELS = np.arange(COLUMNS * ROWS * SLICES, dtype=np.int16).reshape(COLUMNS, ROWS, SLICES)


class Bright:
    """In place of a network: what is brighter than the mean is the organ."""

    organs = (1,)

    def __init__(self) -> None:
        self.seen: list[tuple[Volume, np.ndarray]] = []

    def segment(
        self, volume: Volume, modality: str, *, extents: Extents | None = None, probabilities: bool = False
    ) -> Segmentation:
        labels = (volume.voxels > volume.voxels.mean(dtype=np.float64)).astype(np.uint8)
        self.seen.append((volume, labels))
        return Segmentation((1,), labels, None, {1: 0.5}, np.zeros((1, len(labels)), np.float32))


def segment(given: Sequence[Path], out: Path, **options: Any) -> tuple[dict[Path, Path], dict[Path, str]]:
    """Queries with their masks, which are looked at, and those without, with the reason."""
    bright, errors = Bright(), dict[Path, str]()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            results = segment_files(
                bright, find_volumes(given), out, settings="0", resume=False,
                on_error=lambda path, error: errors.update({path: str(error)}), **options,
            )  # fmt: skip
        except FedCoWProError as error:
            assert not out.exists() or not any(out.iterdir())
            return {}, dict.fromkeys(given, str(error))
    assert len(results) == len(bright.seen)
    for result, (volume, labels) in zip(results, bright.seen, strict=True):
        assert volume.voxels.shape == volume.grid.internal_shape
        assert np.isfinite(volume.voxels).all()
        mask = nib.load(result.mask)
        assert mask.shape == volume.grid.shape
        assert np.allclose(mask.affine, volume.grid.affine, rtol=1e-5, atol=1e-4 * np.abs(volume.grid.affine).max())
        np.testing.assert_array_equal(np.asanyarray(mask.dataobj), volume.grid.to_native(labels))
    expected = {path for result in results for path in (result.mask, result.mask.with_name(record_name(result.mask)))}
    assert {path for path in out.rglob("*") if path.is_file()} == expected
    return {result.query: result.mask for result in results}, errors


def record_name(mask: Path) -> str:
    return mask.name.removesuffix(".nii.gz") + ".json"


# ---------------------------------------------------------------- NIfTI


def nifti(voxels: np.ndarray = VOXELS) -> bytes:
    affine = np.diag([3.0, 3.0, 5.0, 1.0])
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    return bytes(image.to_bytes())


@many
@given(
    changes=st.lists(st.tuples(st.integers(0, 347), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    cut=st.one_of(st.none(), st.integers(0, 1200)),
)
def test_nifti_headers(changes: list[tuple[int, bytes]], cut: int | None) -> None:
    raw = bytearray(nifti())
    for offset, content in changes:
        raw[offset : offset + len(content)] = content
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "v.nii").write_bytes(bytes(raw)[:cut])
        found, errors = segment([Path(folder) / "v.nii"], Path(folder) / "out")
        assert len(found) + len(errors) == 1


# ---------------------------------------------------------------- DICOM


@many
@given(
    faults=st.lists(st.tuples(st.sampled_from([None, 0, 2]), FAULTS), max_size=4),
    syntax=st.one_of(st.just(EXPLICIT), SYNTAXES),
    cut=st.one_of(st.none(), st.tuples(st.integers(0, SLICES - 1), st.integers(0, 900))),
)
def test_dicom_headers(
    faults: list[tuple[int | None, tuple[str, str, Any]]], syntax: bytes, cut: tuple[int, int] | None
) -> None:
    """Attributes that are missing, of another type, odd or of a wrong length, in one slice or in all; files cut off."""
    pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
    with tempfile.TemporaryDirectory() as folder:
        series = Path(folder) / "series"
        series.mkdir()
        for number, raw in enumerate(write_faulty(faults, syntax)):
            (series / f"{number}.dcm").write_bytes(raw[: cut[1]] if cut and cut[0] == number else raw)
        found, errors = segment([series], Path(folder) / "out")
        assert len(found) + len(errors) == 1
        assert "Zebedee" not in "".join(errors.values())
        if not faults and cut is None and syntax == EXPLICIT:
            assert found


@pytest.fixture(scope="module")
def enhanced(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A multi-frame file."""
    from dicom_files import write_enhanced

    path = tmp_path_factory.mktemp("enhanced") / "1"
    write_enhanced(path, [VOXELS.transpose(2, 1, 0).astype(np.float32)], (5.0, 3.0, 3.0))
    return path.read_bytes()


@many
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=6),
    cut=st.one_of(st.none(), st.floats(0, 1)),
)
def test_bytes_of_a_multi_frame_file(enhanced: bytes, changes: list[tuple[float, bytes]], cut: float | None) -> None:
    raw = bytearray(enhanced)
    for place, content in changes:
        start = 128 + int(place * (len(raw) - 128))
        raw[start : start + len(content)] = content
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "2.25.4711.17"
        path.write_bytes(bytes(raw if cut is None else raw[: int(cut * len(raw))]))
        found, errors = segment([path], Path(folder) / "out")
        assert len(found) + len(errors) == 1
        assert found or changes or cut is not None


# ---------------------------------------------------------------- names

LETTERS = st.characters(exclude_characters="/\0", exclude_categories=("Cs",))
STEMS = st.one_of(
    st.text(LETTERS, min_size=1, max_size=20),
    st.sampled_from(["2.25.4711.17", "a.v1.", "-x", "--out", "a b ", "...", "seg.nii", "[1]*?", "summary", "x_mask"]),
    st.sampled_from(["a", "A", "\u00e9", "e\u0301", "\u60a3\u8005", "%41", "a\nb", "'", '"', "$HOME", "~", "\\"]),
    st.sampled_from(["a" * 230, "a" * 243, "a" * 247, "\u60a3" * 80]),
    st.binary(min_size=1, max_size=9).map(lambda raw: os.fsdecode(raw.replace(b"/", b"_").replace(b"\0", b"_"))),
)  # fmt: skip
ENDINGS = st.sampled_from([".nii", ".nii.gz", ".NII", ".NII.GZ", ".Nii.Gz", "", ".17", ".nii.gz.nii", ".nrrd"])


@many
@given(names=st.lists(st.tuples(STEMS, ENDINGS), min_size=1, max_size=4, unique=True), folders=st.booleans())
def test_names(names: list[tuple[str, str]], folders: bool) -> None:
    """Every file of a folder has its own mask, or is named with a reason; a second and another call lose none."""
    with tempfile.TemporaryDirectory() as place:
        root, out = Path(place) / "in", Path(place) / "out"
        given: list[Path] = []
        for number, (stem, ending) in enumerate(names):
            folder = root / str(number) if folders else root
            folder.mkdir(parents=True, exist_ok=True)
            path = Path(f"{folder}/{stem}{ending}")
            if path.name in ("", ".", "..") or len(os.fsencode(path.name)) > 255:
                continue
            path.write_bytes(nifti(VOXELS + number))
            given.append(path)
        if not given:
            return
        found, errors = segment(given, out)
        assert {*found, *errors} == set(given)
        assert len(set(found.values())) == len(found)
        before = {mask: digest_of(mask) for mask in found.values()}
        again = {query: segment_alone(query, mask.parent) for query, mask in found.items()}
        assert again == {query: [mask] for query, mask in found.items()}
        for query, mask in found.items():
            assert segment_alone(other_content(query, Path(place) / "elsewhere"), mask.parent) == []
        assert {mask: digest_of(mask) for mask in before} == before


def segment_alone(query: Path, out: Path) -> list[Path]:
    """The mask of a query, into a folder that has results already."""
    ignore: Callable[[Path, FedCoWProError], None] = lambda *_: None  # noqa: E731
    return [result.mask for result in segment_files(Bright(), [query], out, settings="0", on_error=ignore)]


def other_content(path: Path, folder: Path) -> Path:
    """Another patient's volume under the same name elsewhere."""
    folder.mkdir(exist_ok=True)
    other = folder / path.name
    other.write_bytes(nifti(VOXELS[::-1] * 2))
    return other
