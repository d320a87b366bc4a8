"""The command line: a mistake ends with one message and code 2, and the whole way works from volumes to masks."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import typer
from PIL import Image

from fedcowpro import __version__
from fedcowpro.cli import app, main
from fedcowpro.data.preparation.site import Site
from fedcowpro.evaluation.protocol import COLUMNS, read_results

ORGANS = "1=liver,2=right kidney,3=left kidney,4=spleen"
EXPERIMENT = """
threads: 1
model: {encoder: tiny, channels: 8}
train: {batch: 2}
federation: {rounds: 2, local_steps: 2}
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, standard output and standard error of a command."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def refused(result: tuple[int, str, str], *parts: str) -> None:
    """One message that says got, expected and remedy; code 2; no traceback."""
    code, _, err = result
    assert code == 2, err
    assert err.count("error:") == err.count("expected:") == err.count("remedy:") == 1, err
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------- volumes that cannot be used


def rewrite(path: Path, change: Callable[[np.ndarray, np.ndarray], nib.Nifti1Image]) -> None:
    stored = nib.load(path)
    nib.save(change(np.asanyarray(stored.dataobj), stored.affine), path)


def with_value(value: float) -> Callable[[Path], None]:
    def change(voxels: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
        voxels = voxels.astype(np.float32)
        voxels[3, 3, 3] = value
        return nib.Nifti1Image(voxels, affine)

    return lambda path: rewrite(path, change)


def series(path: Path) -> None:
    rewrite(path, lambda voxels, affine: nib.Nifti1Image(np.stack([voxels, voxels], -1), affine))


def complex_voxels(path: Path) -> None:
    rewrite(path, lambda voxels, affine: nib.Nifti1Image(voxels.astype(np.complex64), affine))


def rgb(path: Path) -> None:
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    rewrite(path, lambda voxels, affine: nib.Nifti1Image(np.zeros(voxels.shape, kind), affine))


def no_affine(path: Path) -> None:
    rewrite(path, lambda voxels, _: nib.Nifti1Image(voxels, None))


def singular_affine(path: Path) -> None:
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[280:296] = bytes(16)  # srow_x
    path.write_bytes(gzip.compress(bytes(raw)))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def no_nifti(path: Path) -> None:
    path.write_bytes(gzip.compress(b"plain text " * 100))


def two_slices(path: Path) -> None:
    rewrite(path, lambda voxels, affine: nib.Nifti1Image(voxels[..., :2], affine))


def constant(path: Path) -> None:
    rewrite(path, lambda voxels, affine: nib.Nifti1Image(np.full_like(voxels, 3), affine))


BAD_IMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "4-D series": (series, "4-D"),
    "complex": (complex_voxels, "complex"),
    "RGB": (rgb, "RGB"),
    "NaN": (with_value(np.nan), "NaN or infinite"),
    "infinite": (with_value(np.inf), "NaN or infinite"),
    "no affine": (no_affine, "no orientation"),
    "singular affine": (singular_affine, "singular"),
    "truncated": (truncated, "not a whole gzip file"),
    "no NIfTI": (no_nifti, "no NIfTI header"),
    "two slices": (two_slices, "2 axial slice(s)"),
    "constant": (constant, "every voxel is 3"),
    "missing": (Path.unlink, "no file"),
}


def fractional(path: Path) -> None:
    rewrite(path, lambda voxels, affine: nib.Nifti1Image(voxels * np.float32(0.5), affine))


def negative(path: Path) -> None:
    rewrite(path, lambda voxels, affine: nib.Nifti1Image(voxels.astype(np.int16) - 1, affine))


def other_shape(path: Path) -> None:
    rewrite(path, lambda voxels, affine: nib.Nifti1Image(voxels[:-1], affine))


def other_affine(path: Path) -> None:
    shift = np.zeros((4, 4))
    shift[0, 3] = 5  # mm
    rewrite(path, lambda voxels, affine: nib.Nifti1Image(voxels, affine + shift))


def empty(path: Path) -> None:
    rewrite(path, lambda voxels, affine: nib.Nifti1Image(np.zeros_like(voxels), affine))


BAD_MASKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "fractional": (fractional, "that are no label, for example"),
    "negative": (negative, "that are no label, for example"),
    "other shape": (other_shape, "shape"),
    "other affine": (other_affine, "affine differs"),
    "empty": (empty, "the mask is empty"),
    "truncated": (truncated, "not a whole gzip file"),
    "missing": (Path.unlink, "no file"),
}


@pytest.fixture
def raw(phantoms: Path, tmp_path: Path) -> Path:
    """A raw CT folder of one's own, two patients."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for case in ("1", "2"):
        for kind in ("image", "label"):
            shutil.copy(phantoms / "ct" / f"{kind}_{case}.nii.gz", folder)
    return folder


def segment(raw: Path, model: Path, out: Path) -> list[object]:
    return [
        "segment", "--model", model, "--support", raw / "image_1.nii.gz", "--support-mask", raw / "label_1.nii.gz",
        "--query", raw / "image_2.nii.gz", "--out", out,
    ]  # fmt: skip


@pytest.mark.slow
def test_segment_over_a_folder(run: Run, raw: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """One broken file: the others are done, the code says so; the next call does what is left."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for case in ("2", "3"):
        shutil.copy(raw / "image_2.nii.gz", scans / f"scan_{case}.nii.gz")
    (scans / "broken.nii.gz").write_bytes(b"no volume")
    command = [*segment(raw, tiny_checkpoint, out)[:7], "--query", scans, "--out", out, "--preview"]
    command += ["--organs", "1=liver,4=spleen"]
    code, printed, err = run(*command)
    assert code == 3, err
    assert "broken.nii.gz" in err
    assert "2 of 3 queries" in printed
    made = {path: path.stat().st_mtime_ns for path in out.glob("*_mask.nii.gz")}
    assert [path.name for path in sorted(made)] == ["scan_2_mask.nii.gz", "scan_3_mask.nii.gz"]
    with Image.open(out / "scan_2_preview.png") as picture:
        assert picture.size == (960, 276)
        assert np.asarray(picture).std() > 10
    table = pd.read_csv(out / "summary.csv")
    assert list(table["status"]) == ["made"] * 4 + ["failed"]
    assert set(table["name"].dropna()) == {"liver", "spleen"}
    assert (table["slices"].dropna() > 0).all()
    record = json.loads((out / "segment.json").read_text())
    assert [query["status"] for query in record["queries"]] == ["made", "made", "failed"]
    assert {"model_digest", "support_digests", "inference", "prepare"} <= record["settings"].keys()
    assert {"fedcowpro", "torch"} <= record["versions"].keys()

    (scans / "broken.nii.gz").unlink()
    shutil.copy(raw / "image_1.nii.gz", scans / "scan_2.nii.gz")  # another image under the same name
    code, printed, _ = run(*command)
    assert code == 0
    assert "scan_3_mask.nii.gz  (kept" in printed
    again = {path: path.stat().st_mtime_ns for path in made}
    assert [path.name for path in made if again[path] != made[path]] == ["scan_2_mask.nii.gz"]
    code, printed, err = run(*command, "--threshold", "0.6")
    assert code == 2
    assert "made with other options" in err
    table = pd.read_csv(out / "summary.csv")
    assert sorted(table["status"]) == ["failed"] + ["kept"] * 2 + ["made"] * 2  # masks of before and their rows stay
    code, printed, _ = run(*command, "--overwrite", "--threshold", "0.6")
    assert code == 0
    assert "(kept" not in printed
    table = pd.read_csv(out / "summary.csv")
    assert list(table["status"]) == ["failed"] + ["made"] * 4


def test_segment_keeps_folders_where_files_have_one_name(
    run: Run, raw: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for patient, case in (("p1", 1), ("p2", 2)):
        (tmp_path / "scans" / patient).mkdir(parents=True)
        shutil.copy(raw / f"image_{case}.nii.gz", tmp_path / "scans" / patient / "ct.nii.gz")
    out = tmp_path / "out"
    command = [*segment(raw, tiny_checkpoint, out)[:7], "--query", tmp_path / "scans" / "*" / "ct.nii.gz", "--out", out]
    code, printed, err = run(*command)
    assert code == 0, err
    assert "p1/ct" in printed
    record = json.loads((out / "segment.json").read_text())
    assert [query["mask"] for query in record["queries"]] == ["p1/ct_mask.nii.gz", "p2/ct_mask.nii.gz"]
    assert all((out / query["mask"]).is_file() for query in record["queries"])
    _, printed, _ = run(*command)
    assert printed.count("(kept") == 2


def test_segment_with_the_model_of_the_package(run: Run, raw: Path, tmp_path: Path) -> None:
    command = segment(raw, tmp_path, tmp_path / "out")
    code, printed, err = run("segment", *command[3:])
    assert code == 0, err
    assert "1 of 1 queries" in printed


def prepare(raw: Path, out: Path, *more: object) -> list[object]:
    return ["prepare", raw, "--modality", "ct", "--size", 64, "--workers", 1, "--out", out, "--organs", ORGANS, *more]


@pytest.mark.parametrize("which", ["support", "query"])
@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_segment_refuses_bad_images(
    run: Run, raw: Path, tiny_checkpoint: Path, tmp_path: Path, kind: str, which: str
) -> None:
    spoil, message = BAD_IMAGES[kind]
    name = f"image_{1 if which == 'support' else 2}.nii.gz"
    spoil(raw / name)
    refused(run(*segment(raw, tiny_checkpoint, tmp_path / "out")), name, message)
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("kind", sorted(BAD_IMAGES.keys() - {"missing"}))
def test_prepare_refuses_bad_images(run: Run, raw: Path, tmp_path: Path, kind: str) -> None:
    spoil, message = BAD_IMAGES[kind]
    spoil(raw / "image_1.nii.gz")
    refused(run(*prepare(raw, tmp_path / "site")), "image_1.nii.gz", message)
    assert files(tmp_path / "site") == []


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_segment_refuses_bad_masks(run: Run, raw: Path, tiny_checkpoint: Path, tmp_path: Path, kind: str) -> None:
    spoil, message = BAD_MASKS[kind]
    spoil(raw / "label_1.nii.gz")
    refused(run(*segment(raw, tiny_checkpoint, tmp_path / "out")), "label_1.nii.gz", message)
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("kind", sorted(BAD_MASKS.keys() - {"missing"}))
def test_prepare_refuses_bad_labels(run: Run, raw: Path, tmp_path: Path, kind: str) -> None:
    spoil, message = BAD_MASKS[kind]
    spoil(raw / "label_1.nii.gz")
    refused(run(*prepare(raw, tmp_path / "site", "--support", "1")), "label_1.nii.gz", message)
    # An empty mask is seen once its case is prepared; the site stays unfinished.
    assert not (tmp_path / "site" / "manifest.json").exists()
    assert not [name for name in files(tmp_path / "site") if ".tmp" in name]
    if kind != "empty":
        assert files(tmp_path / "site") == []


# ---------------------------------------------------------------- other mistakes


def spoiled_models(tmp_path: Path, good: Path) -> dict[str, Path]:
    """Paths of models that cannot be used."""
    pickled, cardless, altered = tmp_path / "model.pt", tmp_path / "cardless", tmp_path / "altered"
    torch.save({"weight": torch.zeros(2)}, pickled)
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(pickle.dumps({"a": 1}))
    for folder in (cardless, altered):
        shutil.copytree(good, folder)
    (cardless / "model.json").unlink()
    content = (altered / "model.safetensors").read_bytes()
    (altered / "model.safetensors").write_bytes(content[:-4] + b"\1\2\3\4")
    return {"pickle": pickled, "pickle in disguise": plain, "cardless": cardless, "altered": altered,
            "missing": tmp_path / "nothing"}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pickle", "pickles (.pt, .pth) can run code"),
        ("pickle in disguise", "damaged or of another format"),
        ("cardless", "model.json"),
        ("altered", "has weights of digest"),
        ("missing", "no readable file"),
    ],
)
@pytest.mark.parametrize("command", ["segment", "evaluate"])
def test_unusable_models_are_refused(
    run: Run, raw: Path, phantoms: Path, ct_site: Site, tiny_checkpoint: Path, tmp_path: Path,
    command: str, kind: str, message: str,
) -> None:  # fmt: skip
    model, out = spoiled_models(tmp_path, tiny_checkpoint)[kind], tmp_path / "out"
    if command == "segment":
        result = run(*segment(raw, model, out))
    else:
        result = run("evaluate", "--model", model, "--site", ct_site.path, "--out", out)
    refused(result, message)
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {encoder: tiny}", "field 'modle'"),
        ("train: {learning_rate: 1}", "field 'train.learning_rate'"),
        ("train: {lr: -1}", "field 'train.lr'"),
        ("train: {lr: fast}", "field 'train.lr'"),
        ("model: {encoder: vgg}", "field 'model.encoder'"),
        ("federation: {rounds: 0}", "field 'federation.rounds'"),
        ("sites: [{name: a}, {name: a}]", "names must differ"),
        ("train: [1, 2", "is not YAML"),
        ("- 1", "field '(whole)'"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_bad_experiments_are_refused(run: Run, ct_site: Site, tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "experiment.yaml"
    config.write_text(text)
    site = f"a={ct_site.path}"
    refused(run("federate", config, "--out", tmp_path / "run", "--site", site), "experiment.yaml", message)
    assert not (tmp_path / "run").exists()


def test_federate_says_what_is_missing(run: Run, ct_site: Site, tmp_path: Path) -> None:
    config, out, site = tmp_path / "e.yaml", tmp_path / "run", ct_site.path
    refused(run("federate", config, "--out", out), "no file", "e.yaml")
    config.write_text(EXPERIMENT)
    refused(run("federate", config, "--out", out), "no site")
    refused(run("federate", config, "--out", out, "--site", f"a={tmp_path / 'nowhere'}"), "no folder")
    refused(run("federate", config, "--out", out, "--site", f"a={tmp_path}"), "is not a site folder")
    refused(run("federate", config, "--out", out, "--site", site, "--site", site), "'ct' twice")
    refused(run("federate", config, "--out", out, "--site", f"a b={site}"), "field 'sites.0.name'")
    refused(run("federate", config, "--out", out, "--site", site, "--rounds", 0), "federation.rounds")
    config.write_text(EXPERIMENT + "sites: [{name: a}, {name: b}]")
    refused(run("federate", config, "--out", out), "no folder for site(s) a, b")
    config.write_text("model: {encoder: resnet18, weights: nowhere.pth}")
    refused(run("federate", config, "--out", out, "--site", f"a={site}"), "cannot read weights")
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--modality", "pet"], "field 'modality'"),
        (["--organs", "liver"], "--organs: 'liver'"),
        (["--organs", "1=liver,1=spleen"], "each value once"),
        (["--organs", "300=liver"], "label values in 1..255"),
        (["--window", "275,-125"], "window"),
        (["--window", "1"], "field 'window"),
        (["--window", "a,b"], "--window a,b"),
        (["--percentile", "30"], "field 'percentile'"),
        (["--spacing", "0"], "field 'spacing'"),
        (["--size", "100"], "field 'size'"),
        (["--workers", "0"], "workers: 0"),
        (["--images", "*_*.nii.gz"], "exactly one '*'"),
        (["--images", "scan_*.nii.gz"], "matches 'scan_*.nii.gz'"),
        (["--cases", "1,9"], "no image for 9"),
        (["--support", "9"], "no image for 9"),
        (["--support", "1", "--query", "1"], "named more than once"),
    ],
)
def test_bad_options_of_prepare(run: Run, raw: Path, tmp_path: Path, options: list[str], message: str) -> None:
    refused(run("prepare", raw, *(["--modality", "ct"] if "--modality" not in options else []),
                "--out", tmp_path / "site", *options), message)  # fmt: skip
    assert files(tmp_path / "site") == []


def test_prepare_leaves_foreign_folders_alone(run: Run, raw: Path, tmp_path: Path) -> None:
    before = files(raw)
    refused(run(*prepare(raw, raw)), "not empty and is not a site folder")
    assert files(raw) == before
    refused(run(*prepare(tmp_path / "nowhere", tmp_path / "site")), "no folder")


def test_bad_options_of_segment(run: Run, raw: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    command = segment(raw, tiny_checkpoint, tmp_path / "out")
    refused(run(*command, "--support", raw / "image_2.nii.gz"), "2 --support and 1 --support-mask")
    refused(run(*command, "--modality", "pet"), "--modality pet")
    refused(run(*command, "--support-slices", "many"), "support_slices")
    refused(run(*command, "--support-slices", "0"), "support_slices")
    (raw / "image_2.nii").write_bytes(gzip.decompress((raw / "image_2.nii.gz").read_bytes()))
    refused(run(*command, "--query", raw / "image_2.nii"), "would both be written")
    refused(run(*command, raw / "other.nii.gz"), "no file")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--support", "9"], "support 9"),
        (["--queries", "1"], "support 1, queries ['1']"),
        (["--organs", "liver,heart"], "no organ ['heart']"),
        (["--protocol", "half-volume"], "protocol ['half-volume']"),
        (["--support-slices", "none"], "support_slices"),
        (["--pairing", "twin"], "field 'pairing'"),
        (["--scales", "1,big"], "--scales 1,big"),
        (["--scales", "8"], "scales: between 0.25 and 4"),
        (["--head", "unet"], "field 'kind'"),
        (["--site", "other=nowhere"], "no folder"),
    ],
)
def test_bad_options_of_evaluate(
    run: Run, ct_site: Site, tiny_checkpoint: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    out = tmp_path / "results.csv"
    out.write_text("earlier results")
    site = f"ct={ct_site.path}"
    refused(run("evaluate", "--model", tiny_checkpoint, "--site", site, "--out", out, *options), message)
    assert out.read_text() == "earlier results"
    assert files(tmp_path) == ["results.csv"]


def test_outputs_that_cannot_be_written(
    run: Run, raw: Path, ct_site: Site, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("mine")
    refused(run(*segment(raw, tiny_checkpoint, occupied)), "file")
    refused(run(*segment(raw, tiny_checkpoint, occupied / "below")), "file")
    refused(run(*prepare(raw, occupied / "below")), "file")
    site = ct_site.path
    refused(run("evaluate", "--model", tiny_checkpoint, "--site", site, "--out", raw), "raw")
    config = tmp_path / "e.yaml"
    config.write_text(EXPERIMENT)
    refused(run("federate", config, "--site", site, "--out", occupied), "file")
    assert occupied.read_text() == "mine"


def test_wrong_usage_has_code_2_and_no_traceback(run: Run) -> None:
    for arguments in (["segment"], ["prepare", "x", "--modality"], ["nonsense"], ["evaluate", "--seed", "1"]):
        code, _, err = run(*arguments)
        assert code == 2
        assert err
        assert "Traceback" not in err


def test_help_and_version(run: Run) -> None:
    assert run("--version")[:2] == (0, f"fedcowpro {__version__}\n")
    for command in SURFACE.keys() - {
        *("datasets", "devices", "show", "card", "serve", "federation"),
        *("audit", "digest", "policy", "watch"),
    }:
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "--out" in out


# ---------------------------------------------------------------- the whole way


@pytest.mark.slow
def test_from_volumes_to_masks(run: Run, phantoms: Path, tmp_path: Path) -> None:
    """prepare, federate, evaluate, segment, as a new user types them."""
    sites = {"ct": tmp_path / "site ct", "mr": tmp_path / "site mr"}
    common = ["--size", 64, "--workers", 1, "--organs", ORGANS, "--support", "1", "--query", "2"]
    code, out, err = run("prepare", phantoms / "ct", "--modality", "ct", "--out", sites["ct"], *common)
    assert code == 0, err
    assert "3 cases of 'alpnet' (CT), 10 slices to train on, 3 cases with labels" in out
    code, _, err = run("prepare", phantoms / "t2", "--modality", "mr", "--out", sites["mr"], *common[:-4])
    assert code == 0, err

    config, folder = tmp_path / "experiment.yaml", tmp_path / "run"
    config.write_text(EXPERIMENT)
    named = [part for name, path in sites.items() for part in ("--site", f"{name}={path}")]
    code, out, err = run("federate", config, "--out", folder, *named, "--seed", 3)
    assert code == 0, err
    assert "model.safetensors" in out
    weights = (folder / "model.safetensors").read_bytes()
    code, _, err = run("federate", config, "--out", folder, *named, "--seed", 3)
    assert code == 0, err
    assert "finished" in err
    assert (folder / "model.safetensors").read_bytes() == weights
    refused(run("federate", config, "--out", folder, *named, "--seed", 4), "settings of digest")

    table = tmp_path / "tables" / "results.csv"
    code, out, err = run("evaluate", "--model", folder, *named, "--out", table, "--untrained")
    assert code == 0, err
    results = read_results(table)
    assert list(results.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert set(results["method"]) == {"untrained", "fedcowpro"}
    assert set(results["site"]) == {"ct", "mr"}
    assert set(results["seed"]) == {3}
    assert set(results["support_slices"]) == {"3"}
    assert len(results) == 2 * 2 * 1 * 4 * 2  # methods, sites, queries, organs, protocols
    assert "untrained" in out

    masks = tmp_path / "masks"
    code, out, err = run(
        "segment", "--model", folder / "model.safetensors",
        "--support", phantoms / "ct" / "image_1.nii.gz", "--support-mask", phantoms / "ct" / "label_1.nii.gz",
        "--query", phantoms / "ct" / "image_2.nii.gz", phantoms / "ct" / "image_3.nii.gz",
        "--out", masks, "--probabilities",
    )  # fmt: skip
    assert code == 0, err
    made = [f"image_{case}_{kind}.nii.gz" for case in "23" for kind in ("mask", "probabilities")]
    records = [f"image_{case}_mask.json" for case in "23"] + ["segment.json", "summary.csv"]
    assert files(masks) == sorted([*made, *records])
    assert out.count(" ml") >= 8
    for case in "23":
        image, mask = (nib.load(p) for p in (phantoms / "ct" / f"image_{case}.nii.gz",
                                             masks / f"image_{case}_mask.nii.gz"))  # fmt: skip
        assert mask.shape == image.shape
        assert mask.get_data_dtype() == np.uint8
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)


def test_sites_may_be_named_in_the_file_or_by_their_folder(run: Run, ct_site: Site, tmp_path: Path) -> None:
    path = ct_site.path
    config = tmp_path / "e.yaml"
    text = EXPERIMENT.replace("rounds: 2, local_steps: 2", "rounds: 1, local_steps: 1")
    cases: list[tuple[str, list[object], str]] = [
        (f"sites: [{{name: a, path: {path}}}]", [], "a"),
        ("sites: [{name: a}]", ["--site", f"b={path}"], "b"),  # given sites replace those of the file
        ("", ["--site", path], path.name),
    ]
    for number, (sites, options, name) in enumerate(cases):
        config.write_text(text + sites)
        code, _, err = run("federate", config, "--out", tmp_path / str(number), *options)
        assert code == 0, err
        lines = (tmp_path / str(number) / "metrics.jsonl").read_text().splitlines()
        assert {json.loads(line).get("site") for line in lines} - {None} == {name}


def test_paths_with_brackets_are_printed_whole(run: Run, raw: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """What is in brackets is no markup, and long paths are not broken."""
    out = tmp_path / "masks [bold] of a ward with quite a long name, longer than a line of the terminal"
    code, printed, err = run(*segment(raw, tiny_checkpoint, out))
    assert code == 0, err
    assert str(out / "image_2_mask.nii.gz") in printed
    site = tmp_path / "site [red] with a long name as well, to be sure that it does not fit on one line"
    code, printed, err = run(*prepare(raw, site))
    assert code == 0, err
    assert f"{site}: 2 cases" in printed
    table = tmp_path / "table [x] with a long name as well, to be sure that it does not fit on one line.csv"
    code, printed, err = run("evaluate", "--model", tiny_checkpoint, "--site", site, "--out", table)
    assert code == 0, err
    assert f"{table}: 8 rows" in printed


def test_datasets_are_listed_in_lines_that_can_be_copied(run: Run) -> None:
    code, printed, _ = run("datasets")
    assert code == 0
    for line in (
        "btcv: BTCV",
        "  on disk  RawData/Training/img/img0001.nii.gz with RawData/Training/label/label0001.nii.gz",
    ):
        assert line in printed
    code, printed, _ = run("datasets", "amos22")
    assert (code, printed.count("licence")) == (0, 1)
    refused(run("datasets", "amos"), "dataset 'amos'", "chaos, btcv")


def test_the_working_folder_may_be_the_site(
    run: Run, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    monkeypatch.chdir(tmp_path / "site")
    code, printed, err = run(*prepare(raw, Path(".")))
    assert code == 0, err
    assert "2 cases of 'alpnet' (CT), " in printed
    assert len(Site.open(tmp_path / "site").cases) == 2


def test_cases_are_listed_without_preparing(run: Run, raw: Path, tmp_path: Path) -> None:
    code, printed, _ = run("prepare", raw, "--out", tmp_path / "site", "--list")
    assert code == 0
    assert [line.split() for line in printed.splitlines()] == [
        [case, "?", "labels", str(raw / f"image_{case}.nii.gz")] for case in ("1", "2")
    ]
    assert not (tmp_path / "site").exists()


# ---------------------------------------------------------------- the surface

SURFACE = {
    "prepare": "source --out more --dataset --part --modality --images --labels --organs --cases --support --query "
    "--split --setting --test-organs --window --percentile --spacing --size --superpixels --reuse-superpixels --key "
    "--workers --list --quiet -q",
    "datasets": "name --json",
    "inspect": "site --out --quiet -q",
    "federate": "config --out --site more --seed --rounds --device --track --engine --federation --evaluate --policy "
    "--from-round --watch --quiet -q",
    "federation": "",
    "finetune": "--support --support-mask --out --unlabelled --model --minutes --steps --organs --painted --modality "
    "--seed --device --quiet -q",
    "segment": "--query --out more --support --support-mask --model --modality --spacing --probabilities --preview "
    "--format --overwrite --again --painted --extent --query-extent --finetune --minutes --organs --support-slices "
    "--keep-components --refine "
    "--threshold --set --device --quiet -q --json",
    "evaluate": "--model --site --out more --episodes --support --every-support --cross --queries --organs --protocol "
    "--support-slices --pairing --keep-components --refine --threshold --scales --head --set --grid --tolerance "
    "--method --untrained --teach --steps --seed --device --quiet -q --json",
    "serve": "--data --model --host --port --token-file --allow-host --certificate --key --max-upload --max-volume "
    "--max-memory --idle --project --forget --device",
    "study": "file --out --workers --store --device --quiet -q",
    "compare": "sources --out --reference --protocol --margin --infinite-hd95 --interval --seed --site",
    "show": "path",
    "card": "model --results --data-licence",
    "demo": "--out --seed --device --quiet -q",
    "devices": "--json",
    "audit": "log --round --kind --site --decision --head --totals --json",
    "digest": "experiment --app",
    "policy": "file experiment --sites --new --peer",
    "watch": "run --json --once --pause",
}


def test_the_surface_is_as_documented() -> None:
    """Names of commands and options are a promise to scripts: change them only with a line in CHANGELOG.md."""
    group = typer.main.get_command(app)
    found = {
        name: " ".join(option for parameter in command.params for option in parameter.opts)
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }
    assert found == SURFACE


def test_too_little_memory_on_a_gpu_is_said_in_our_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("fedcowpro.core.device.list_devices", full)
    code, _, err = run("devices")
    assert code == 2
    assert "not enough memory" in err
    assert "--device cpu" in err
