"""A folder of NIfTI files becomes a site folder: whole, resumable, and only from what was asked for."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedcowpro.data.datasets.scan as scan_module
import fedcowpro.data.preparation.case as case_module
import fedcowpro.data.preparation.prepare as prepare_module
from fedcowpro.config import PrepareConfig, SuperpixelConfig
from fedcowpro.core.errors import FedCoWProError
from fedcowpro.data.datasets.base import Options
from fedcowpro.data.preparation.prepare import prepare
from fedcowpro.data.preparation.site import Site
from fedcowpro.data.superpixels.superpixels import segment_areas
from fedcowpro.volume.nifti import read_image
from fedcowpro.volume.preprocess import preprocess

CONFIG = PrepareConfig(modality="ct", size=64, superpixels=SuperpixelConfig(min_size=40, min_area=20))
AFFINE = np.diag([-1.5, -1.5, 4.0, 1.0])  # stored as left, posterior, superior
ORGANS = {1: "liver", 3: "spleen"}


def write_case(
    folder: Path, case: str, seed: int, labels: bool = True, shape: tuple[int, int, int] = (60, 64, 4)
) -> None:
    """A soft-tissue body with two organs, values 1 and 3, and a label value 2 that is not asked for."""
    rng = np.random.default_rng(seed)
    x, y = (np.arange(n)[:, None] / n - 0.5 for n in shape[:2])
    image = np.where((x / 0.4) ** 2 + (y.T / 0.4) ** 2 < 1, 40.0, -1000.0)[..., None].repeat(shape[2], 2)
    drawn = np.zeros(shape, np.uint8)
    for value, centre in ((1, -0.15), (2, 0.0), (3, 0.15)):
        drawn[((x - centre) ** 2 + y.T**2 < 0.005)] = value
    image += 30.0 * drawn + rng.normal(0, 5, shape)
    nib.save(nib.Nifti1Image(image.astype(np.int16), AFFINE), folder / f"image_{case}.nii.gz")
    if labels:
        nib.save(nib.Nifti1Image(drawn, AFFINE), folder / f"label_{case}.nii.gz")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for seed, case in enumerate(("1", "2", "10")):
        write_case(folder, case, seed)
    return folder


def run(raw: Path, name: str = "site", **options: object) -> Site:
    settings = {"organs": ORGANS, "workers": 1, "progress": False} | options
    patterns = {key: settings.pop(key) for key in ("images", "labels") if key in settings}
    if patterns:
        settings |= {"dataset": "folder", "options": Options(**patterns)}
    return prepare(raw, raw.parent / name, CONFIG, **settings)  # type: ignore[arg-type]


def contents(site: Path) -> dict[str, bytes]:
    return {str(file.relative_to(site)): file.read_bytes() for file in site.rglob("*") if file.is_file()}


def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that are read from now on."""
    seen: list[str] = []
    monkeypatch.setattr(scan_module, "read_volume", lambda path: seen.append(path.name) or read_image(path))
    return seen


def test_site_holds_what_was_asked_for(raw: Path) -> None:
    site = run(raw, support="2", query=["10"])
    assert [(case.id, case.role) for case in site.cases] == [
        ("1", "train"),
        ("2", "support"),
        ("10", "query"),
    ]
    assert site.organs == ORGANS
    assert site.spacing("1") == (4.0, 1.5, 1.5)
    image, place = preprocess(read_image(raw / "image_1.nii.gz"), CONFIG)
    np.testing.assert_allclose(site.image("1"), image, rtol=1e-3, atol=1e-3)  # float16 on disk
    assert site.place("1") == place
    labels = np.asanyarray(nib.load(raw / "label_10.nii.gz").dataobj).transpose(2, 1, 0)
    np.testing.assert_array_equal(site.labels("10")[:, :, 2:62], np.where(labels == 2, 0, labels))
    for case in site.cases:
        for z, areas in enumerate(case.areas):
            np.testing.assert_array_equal(areas, segment_areas(site.superpixel_slice(case.id, z)))
    assert {case for case, _, _ in site.train_slices()} == {"1"}
    assert site.n_train_slices == 4
    assert not [name for name in contents(site.path) if "tmp" in name]


def test_errors_come_back_from_workers(raw: Path) -> None:
    (raw / "image_10.nii.gz").write_bytes(b"broken")
    with pytest.raises(FedCoWProError, match=r"image_10\.nii\.gz: not a whole gzip file") as caught:
        run(raw, workers=2)
    assert caught.value.remedy == "convert the volume to NIfTI, for example with dcm2niix"


def test_workers_give_the_same_bytes_and_say_and_record_cropped_labels(raw: Path) -> None:
    write_case(raw, "2", 1, labels=False, shape=(90, 64, 4))
    drawn = np.zeros((90, 64, 4), np.uint8)
    drawn[:, 30] = 1
    nib.save(nib.Nifti1Image(drawn, AFFINE), raw / "label_2.nii.gz")
    config = CONFIG.model_copy(update={"spacing": 1.5})
    for workers in (1, 2):
        with pytest.warns(UserWarning, match=r"label_2\.nii\.gz: 28\.89% of the labelled voxels"):
            prepare(raw, raw.parent / str(workers), config, organs=ORGANS, workers=workers, progress=False)
    assert contents(raw.parent / "1") == contents(raw.parent / "2")
    case = json.loads((raw.parent / "2" / "cases" / "2" / "case.json").read_text())
    assert case["cropped_labels"] == pytest.approx(26 / 90)


def test_second_run_does_nothing(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = run(raw)
    before = {file: file.stat().st_mtime_ns for file in site.path.rglob("*.npy")}
    seen = made(monkeypatch)
    assert run(raw).digest == site.digest
    assert seen == []
    assert {file: file.stat().st_mtime_ns for file in site.path.rglob("*.npy")} == before


def test_only_what_changed_is_made_again(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(raw)
    seen = made(monkeypatch)
    write_case(raw, "2", seed=99)
    run(raw)
    assert seen == ["image_2.nii.gz"]
    run(raw, support="1")  # a role is no reason to work
    assert seen == ["image_2.nii.gz"]
    (raw / "label_10.nii.gz").unlink()
    assert run(raw).labelled_cases == ("1", "2")
    assert seen == ["image_2.nii.gz", "image_10.nii.gz"]
    nib.save(nib.Nifti1Image(np.ones((60, 64, 4), np.uint8), AFFINE), raw / "label_1.nii.gz")
    run(raw)
    assert seen[2:] == ["image_1.nii.gz"]
    organs = {1: "liver"}
    assert set(np.unique(run(raw, organs=organs).labels("1"))) == {0, 1}


def test_run_resumes_after_a_failure(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (raw / "image_10.nii.gz").read_bytes()
    (raw / "image_10.nii.gz").write_bytes(whole[:-40])
    with pytest.raises(FedCoWProError, match=r"image_10\.nii\.gz"):
        run(raw)
    with pytest.raises(FedCoWProError, match="not finished"):
        Site.open(raw.parent / "site")
    (raw / "image_10.nii.gz").write_bytes(whole)
    seen = made(monkeypatch)
    resumed = run(raw)
    assert seen == ["image_10.nii.gz"]
    assert contents(resumed.path) == contents(run(raw, "afresh").path)


def test_a_site_that_is_being_made_again_is_unfinished(raw: Path) -> None:
    run(raw)
    (raw / "image_2.nii.gz").write_bytes(b"broken")
    with pytest.raises(FedCoWProError, match=r"image_2\.nii\.gz"):
        run(raw)
    with pytest.raises(FedCoWProError, match="not finished"):
        Site.open(raw.parent / "site")


def test_interrupt_keeps_finished_cases(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(path: Path) -> object:
        if path.name == "image_2.nii.gz":
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr(scan_module, "read_volume", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(raw)
    assert "run the same command again" in capsys.readouterr().err
    assert [entry.name for entry in (raw.parent / "site" / "cases").iterdir()] == ["1"]


def test_killed_run_leaves_no_half_case(raw: Path) -> None:
    """Killed while it writes, at whatever moment: cases are whole, and the next run completes the site."""
    for seed in range(20, 40):
        write_case(raw, str(seed), seed)
    out = raw.parent / "killed"
    code = (
        "import sys; from pathlib import Path; from fedcowpro.config import PrepareConfig, SuperpixelConfig;"
        "from fedcowpro.data.preparation.prepare import prepare;"
        "config = PrepareConfig.model_validate_json(sys.argv[3]);"
        "prepare(Path(sys.argv[1]), Path(sys.argv[2]), config, organs={1: 'liver', 3: 'spleen'}, workers=1)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(raw), str(out), CONFIG.model_dump_json()], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("cases/[0-9]*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    for case in out.glob("cases/[0-9]*"):
        assert sorted(file.name for file in case.iterdir()) == ["case.json", "image.npy", "superpixels.npy"]
        assert np.load(case / "image.npy").shape == (4, 64, 64)
    assert len(run(raw, "killed").cases) == 23


def test_other_settings_need_another_folder(raw: Path) -> None:
    site = run(raw)
    before = contents(site.path)
    other = CONFIG.model_copy(update={"spacing": 2.0})
    with pytest.raises(FedCoWProError, match=r"other settings \(spacing\)"):
        prepare(raw, site.path, other, workers=1, progress=False)
    assert contents(site.path) == before


def test_foreign_folders_are_left_alone(raw: Path) -> None:
    with pytest.raises(FedCoWProError, match="not empty and is not a site folder"):
        prepare(raw, raw, CONFIG, progress=False)
    with pytest.raises(FedCoWProError, match="is a file"):
        prepare(raw, raw / "image_1.nii.gz", CONFIG, progress=False)


def test_cases_keep_the_order_given(raw: Path) -> None:
    assert [case.id for case in run(raw, cases=["10", "1"]).cases] == ["10", "1"]


def test_volumes_without_labels_are_training_cases(raw: Path) -> None:
    (raw / "label_2.nii.gz").unlink()
    site = run(raw, support="1")
    assert site.labelled_cases == ("1", "10")
    assert site.with_role("train") == ("2", "10")
    for file in raw.glob("label_*"):
        file.unlink()
    with pytest.warns(UserWarning, match="no case has labels"):
        bare = run(raw, "bare")
    assert bare.organs == {}
    assert not (bare.path / "labels").exists()


def test_labels_do_not_touch_what_training_reads(raw: Path) -> None:
    with_labels, without = run(raw, "with"), run(raw, "without", options=Options(labels=""), organs=None)
    assert with_labels.digest == without.digest
    for case in with_labels.cases:
        np.testing.assert_array_equal(with_labels.image(case.id), without.image(case.id))


def test_labels_without_names_are_numbered(raw: Path) -> None:
    with pytest.warns(UserWarning, match="label-1, label-2, label-3"):
        site = run(raw, organs=None)
    assert site.organs == {1: "label-1", 2: "label-2", 3: "label-3"}


def test_an_empty_support_mask_is_refused(raw: Path) -> None:
    with pytest.raises(FedCoWProError, match=r"label_1\.nii\.gz: the mask is empty"):
        run(raw, organs={7: "heart"}, support="1")
    assert run(raw, organs={7: "heart"}).organs == {7: "heart"}


def test_cases_may_lie_in_folders_of_their_own(raw: Path) -> None:
    for case in ("1", "2"):
        (raw / f"p{case}").mkdir()
        for kind in ("image", "label"):
            shutil.move(raw / f"{kind}_{case}.nii.gz", raw / f"p{case}" / f"{kind}.nii.gz")
    site = run(raw, images="*/image.nii.gz", labels="*/label.nii.gz", support="p2")
    assert [case.id for case in site.cases] == ["p1", "p2"]


def test_labels_and_hidden_files_are_not_taken_for_images(raw: Path) -> None:
    (raw / "._image_1.nii.gz").write_bytes(b"resource fork")
    (raw / "label_1.nii.gz").rename(raw / "image_1_seg.nii.gz")
    site = run(raw, images="*.nii.gz", labels="*_seg.nii.gz", cases=["image_1", "image_2"])
    assert site.labelled_cases == ("image_1",)
    with pytest.raises(FedCoWProError, match="no image for image_1_seg"):
        run(raw, images="*.nii.gz", labels="*_seg.nii.gz", cases=["image_1_seg"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"images": "scan_*.nii.gz"},
            r"matches 'scan_\*\.nii\.gz' \(seen: image_1\.nii\.gz, image_10\.nii\.gz, ",
        ),
        ({"images": "image_1.nii.gz"}, r"exactly one '\*'"),
        ({"images": "../*.nii.gz"}, r"exactly one '\*'"),
        ({"cases": ["1", "5"]}, "cases: no image for 5"),
        ({"cases": ["1", "1"]}, "1 named more than once"),
        ({"support": "5"}, "support and query: no image for 5"),
        ({"cases": ["1"], "query": ["2"]}, "support and query: no image for 2"),
        ({"support": "1", "query": ["2", "1"]}, "1 named more than once"),
        ({"support": "1", "labels": ""}, "case '1' is a support or query case without labels"),
        ({"query": ["2"], "labels": "seg_*.nii.gz"}, "case '2' is a support or query case without labels"),
        ({"organs": {0: "background"}}, "label values in 1..255"),
        ({"workers": 0}, "workers: 0"),
    ],
)
def test_mistakes_are_said(raw: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(FedCoWProError, match=message):
        run(raw, **options)
    assert not (raw.parent / "site").exists()


def test_setting_2_leaves_out_the_slices_that_show_a_test_organ(raw: Path) -> None:
    drawn = np.zeros((60, 64, 4), np.uint8)
    drawn[20:30, 20:30, 2:] = 3
    nib.save(nib.Nifti1Image(drawn, AFFINE), raw / "label_10.nii.gz")
    plain = run(raw, support="1")
    site = run(raw, support="1", test_organs=["spleen"])
    assert [case.left_out for case in site.cases] == [(), (0, 1, 2, 3), (2, 3)]
    assert {(case, z) for case, z, _ in site.train_slices()} == {("10", 0), ("10", 1)}
    assert site.digest != plain.digest
    assert run(raw, support="1").digest == plain.digest
    with pytest.raises(FedCoWProError, match="test organs: heart"):
        run(raw, test_organs=["heart"])
    (raw / "label_2.nii.gz").unlink()
    with pytest.raises(FedCoWProError, match="training case '2' has no labels"):
        run(raw, support="1", test_organs=["spleen"])


@settings(max_examples=10, deadline=None)
@given(st.permutations("xyz"), st.tuples(*[st.booleans()] * 3))
def test_the_order_and_direction_of_a_files_axes_do_not_matter(order: list[str], flipped: tuple[bool, ...]) -> None:
    """Any permutation and flip of axes gives the same prepared image, superpixels and labels."""
    with tempfile.TemporaryDirectory() as folder:
        plain, turned = Path(folder, "plain"), Path(folder, "turned")
        plain.mkdir()
        turned.mkdir()
        write_case(plain, "1", 0)
        change = np.array([["xyz".index(axis), -1 if flip else 1] for axis, flip in zip(order, flipped, strict=True)])
        for name in ("image_1.nii.gz", "label_1.nii.gz"):
            nib.save(nib.load(plain / name).as_reoriented(change), turned / name)
        one, two = (run(raw, f"site of {raw.name}") for raw in (plain, turned))
        np.testing.assert_array_equal(one.image("1"), two.image("1"))
        for z in range(4):
            np.testing.assert_array_equal(one.superpixel_slice("1", z), two.superpixel_slice("1", z))
        np.testing.assert_array_equal(one.labels("1"), two.labels("1"))


def test_a_folder_may_hold_both_modalities(raw: Path) -> None:
    image = nib.load(raw / "image_2.nii.gz")
    voxels = np.asanyarray(image.dataobj)
    nib.save(nib.Nifti1Image((voxels + 1000).astype(np.int16), image.affine), raw / "image_2.nii.gz")
    open_config = CONFIG.model_copy(update={"modality": None})
    site = prepare(raw, raw.parent / "site", open_config, organs=ORGANS, workers=1, progress=False)
    assert [case.modality for case in site.cases] == ["ct", "mr", "ct"]
    assert site.modalities == ("ct", "mr")
    forced = run(raw, "forced")
    assert forced.modalities == ("ct",)
    np.testing.assert_array_equal(site.image("1"), forced.image("1"))
    mr = prepare(
        raw, raw.parent / "mr", CONFIG.model_copy(update={"modality": "mr"}), cases=["2"], workers=1, progress=False
    )
    np.testing.assert_array_equal(site.image("2"), mr.image("2"))


def test_an_unchanged_source_is_not_even_read(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = run(raw)
    with monkeypatch.context() as patch:
        patch.setattr(case_module, "_digest", lambda files: pytest.fail("a file was read"))
        assert run(raw).digest == site.digest
        (raw / "image_1.nii.gz").touch()
        with pytest.raises(pytest.fail.Exception):
            run(raw)
    assert run(raw).digest == site.digest


def test_a_stamp_vouches_for_its_own_manifest_only(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended between manifest and stamp, the next run does not take the new roles for the old."""
    run(raw)
    write = prepare_module.write_atomic

    def fails_at_the_stamp(file: Path, text: str) -> None:
        if file.name == "stamp.txt":
            raise KeyboardInterrupt
        write(file, text)

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "write_atomic", fails_at_the_stamp)
        with pytest.raises(KeyboardInterrupt):
            run(raw, support="1")
    assert run(raw).with_role("support") == ()


def test_superpixels_of_the_dataset_may_be_reused(raw: Path) -> None:
    for case in ("1", "2", "10"):
        given = np.zeros((60, 64, 4), np.int16)
        given[10:30, 20:40], given[35:50, 20:40] = 7, 300
        nib.save(nib.Nifti1Image(given, AFFINE), raw / f"superpix-MIDDLE_{case}.nii.gz")
    site = run(raw, dataset="alpnet", options=Options(reuse_superpixels=True))
    expected = np.zeros((64, 64), int)
    expected[20:40, 12:32], expected[20:40, 37:52] = 1, 2
    np.testing.assert_array_equal(site.superpixel_slice("1", 0), expected)
    assert site.record("1").areas[0] == (400, 300)
    coarse = CONFIG.model_copy(update={"spacing": 2.0})
    with pytest.raises(FedCoWProError, match="superpixels of slices that are resampled"):
        prepare(raw, raw.parent / "coarse", coarse, options=Options(reuse_superpixels=True), workers=1, progress=False)


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(FedCoWProError, match="no folder"):
        prepare(tmp_path / "nowhere", tmp_path / "site", CONFIG)


def test_progress_names_volumes(raw: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedcowpro.core.progress._PAUSE", 0.0)  # of lines, for this is no terminal
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(raw, progress=True)
    captured = capsys.readouterr()
    assert "preparing: 3 of 3" in captured.err
    assert captured.out == ""


def test_progress_goes_on_within_a_volume(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    real = prepare_module.outcomes
    monkeypatch.setattr(
        prepare_module,
        "outcomes",
        lambda jobs, workers, tell: real(jobs, workers, lambda done: (told.append(done), tell(done))),
    )
    run(raw, progress=True)
    assert told == [n / 4 for n in range(1, 13)]  # three volumes of four slices


def test_cases_that_are_no_longer_chosen_are_removed(raw: Path) -> None:
    site = run(raw)
    (site.path / "cases" / ".7.tmp").mkdir()
    (site.path / "cases" / "notes").mkdir()
    (site.path / "labels" / ".7.tmp.npy").touch()
    with pytest.warns(UserWarning, match=r"no longer chosen were removed: 1, 2$"):
        run(raw, cases=["10"])
    assert {path.name for path in (site.path / "cases").iterdir()} == {"10", "notes"}
    assert {path.name for path in (site.path / "labels").iterdir()} == {"10.npy", "organs.json"}


def test_an_empty_support_mask_is_said_before_the_work(raw: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((60, 64, 4), np.uint8), AFFINE), raw / "label_10.nii.gz")
    with pytest.raises(FedCoWProError, match=r"label_10\.nii\.gz: the mask is empty"):
        run(raw, support="10")
    assert not (raw.parent / "site").exists()


def test_a_site_below_its_source_is_no_part_of_it(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(raw, raw / "site", CONFIG, organs=ORGANS, workers=1, progress=False)
    (raw / "site.key").touch()
    monkeypatch.setattr(case_module, "_digest", lambda files: pytest.fail("a file was read"))
    again = prepare(raw, raw / "site", CONFIG, organs=ORGANS, workers=1, progress=False)
    assert again.digest == first.digest


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc to look for processes in")
@pytest.mark.slow
def test_workers_end_with_a_killed_process(raw: Path) -> None:
    for seed in range(20, 60):
        write_case(raw, str(seed), seed)
    out = raw.parent / "killed"
    script = raw.parent / "script.py"  # a file, because workers import it
    script.write_text(
        "import sys; from pathlib import Path; from fedcowpro.config import PrepareConfig\n"
        "from fedcowpro.data.preparation.prepare import prepare\n"
        "if __name__ == '__main__':\n"
        "    config = PrepareConfig.model_validate_json(sys.argv[3])\n"
        "    prepare(Path(sys.argv[1]), Path(sys.argv[2]), config, organs={1: 'liver'}, workers=2)\n"
    )
    command = [sys.executable, str(script), str(raw), str(out), CONFIG.model_dump_json()]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not list(out.glob("cases/[0-9]*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    parents = {
        file.parent: file.read_text().rpartition(")")[2].split()[1] for file in Path("/proc").glob("[0-9]*/stat")
    }
    workers = [folder for folder, parent in parents.items() if parent == str(child.pid)]
    assert workers
    child.send_signal(signal.SIGKILL)
    child.wait()
    while any(worker.exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [worker for worker in workers if worker.exists()]
    for case in out.glob("cases/[0-9]*"):
        assert sorted(file.name for file in case.iterdir()) == ["case.json", "image.npy", "superpixels.npy"]


@pytest.mark.parametrize("writes", range(4))
def test_a_full_disk_leaves_no_half_case(raw: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Whichever file is the first that has no room; with room again the run goes on."""
    count = iter(range(100))

    def on_a_full_disk(write: Callable[..., None]) -> Callable[..., None]:
        def attempt(file: Path, *arrays: object, **named: object) -> None:
            if next(count) < writes:
                return write(file, *arrays, **named)
            Path(file).write_bytes(b"the first block")
            raise OSError(errno.ENOSPC, "No space left on device", str(file))

        return attempt

    with monkeypatch.context() as full:
        full.setattr(case_module.np, "save", on_a_full_disk(np.save))
        full.setattr(case_module.np, "savez", on_a_full_disk(np.savez))
        with pytest.raises(OSError, match="No space left"):
            run(raw)
    site = raw.parent / "site"
    assert [path for path in site.rglob("*") if ".tmp" in path.name] == []
    assert not (site / "site.json").exists()
    assert len(run(raw).cases) == 3


def test_links_that_lead_nowhere_are_left_out_and_said(raw: Path) -> None:
    (raw / "image_1.nii.gz").rename(raw / "ct.nii.gz")
    (raw / "scan.nii.gz").symlink_to("../.git/annex/nowhere.nii.gz")
    with pytest.warns(UserWarning, match=r"scan\.nii\.gz: left out, a link to a file that is not there"):
        site = prepare(raw, raw.parent / "site", CONFIG, dataset="folder", workers=1, progress=False)
    assert len(site.cases) == 3
