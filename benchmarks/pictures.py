"""Pictures of the page for the documentation, with synthetic patients.

    python benchmarks/pictures.py FOLDER

Needs chromium and the extra `dev`. Writes serve.png (wide window) and serve-narrow.png (480 pixels): a liver is painted
on one slice of a patient with the mouse, and its ends are said; and serve-folder-1.png to serve-folder-5.png, the steps
from a folder of twenty patients to their corrected masks. Pictures have 256 colours, so that they are small.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import browsing
from browsing import expect
from fedcowpro.data.phantom import make_phantom, write_phantom
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.serve.engine import Engine
from fedcowpro.serve.folder import DataFolder
from fedcowpro.serve.server import Server
from fedcowpro.volume.nifti import read_image, write_labels
from fedcowpro.volume.read import read_labels
from serve_pages import Running

PATIENTS = 20
ORGANS = {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}


def main(out: Path) -> None:
    browsing.TIMEOUT *= 15  # twenty volumes on a busy machine
    expect.set_options(timeout=browsing.TIMEOUT)
    loaded = load_predictor(None)
    engine = Engine(loaded.predictor, loaded.prepare, "built in")
    with tempfile.TemporaryDirectory() as folder, browsing.browser() as chromium:
        data = Path(folder) / "scans"
        for patient in range(1, PATIENTS + 1):
            name = f"patient{patient:02d}"
            write_phantom(make_phantom("ct", patient, size=160, depth=24), data, name)
        (data.parent / "truth").mkdir()
        for path in data.glob("label_*"):
            path.rename(data.parent / "truth" / path.name)
        for step in (one_patient, a_folder):
            private = Path(folder) / step.__name__
            private.mkdir()
            with Running(Server(engine, private, DataFolder(data))) as port:
                step(chromium, f"http://127.0.0.1:{port}", data, out)


def one_patient(chromium: Browser, url: str, data: Path, out: Path) -> None:
    page = new_page(chromium, url)
    for patient in (1, 2, 3):
        browsing.open_case(page, f"image_patient{patient:02d}")
    page.locator("#volumes li button").first.click()
    expect(page.locator("#title")).to_have_text("image_patient01.nii.gz")
    liver = truth(data, "patient01") == 1
    largest = int(liver.sum((1, 2)).argmax())
    browsing.go_to(page, largest)
    aim = browsing.Aim.by_dots(page)
    browsing.outline(page, aim, liver[largest])
    page.locator("#label-list input[type=text]").fill("liver")
    page.locator("#label-list input[type=text]").blur()
    page.locator("#surface").focus()
    for z, key in zip(np.flatnonzero(liver.any((1, 2)))[[0, -1]], "[]", strict=True):
        browsing.go_to(page, int(z))
        page.keyboard.press(key)
    browsing.segment(page)
    page.locator("#radius").fill("5")
    page.click("[data-tool=pen]")
    browsing.go_to(page, largest + 3)
    page.mouse.move(1, 1)
    page.evaluate("scrollTo(0, 0)")
    shoot(page, out / "serve.png")
    page.set_viewport_size({"width": 480, "height": 900})
    page.locator("#views").scroll_into_view_if_needed()
    page.evaluate("document.getElementById('stage').scrollIntoView()")
    shoot(page, out / "serve-narrow.png")


def a_folder(chromium: Browser, url: str, data: Path, out: Path) -> None:
    """The first patient alone has masks, whose file names the organs."""
    image = read_image(data / "image_patient01.nii.gz")
    labels = read_labels(data.parent / "truth" / "label_patient01.nii.gz", image).voxels
    labels = np.where(labels <= max(ORGANS), labels, 0).astype(np.uint8)
    write_labels(data / "label_patient01.nii.gz", labels, image.grid, ORGANS)
    page = new_page(chromium, url)
    page.click("#browse-data")
    page.wait_for_selector("#browse-list li")
    shoot(page, out / "serve-folder-1.png")
    page.click("#browse-list >> text=Open all of this folder")
    expect(page.locator("#overview tbody tr")).to_have_count(PATIENTS)
    page.wait_for_timeout(1500)  # the pictures come one by one
    shoot(page, out / "serve-folder-2.png")
    page.click("#overview >> text=Its mask as example")
    expect(page.locator("#live")).to_contain_text("is an example")
    browsing.segment(page)
    page.wait_for_timeout(3000)
    shoot(page, out / "serve-folder-3.png")
    names = page.locator("#overview tbody tr button.volume").evaluate_all(
        "all => all.slice(0, 2).map((one) => one.firstChild.textContent)"
    )
    for name in names:
        page.locator("#overview button.volume", has_text=name).click()
        expect(page.locator("#title")).to_have_text(name)
        correct(page, truth(data, name.removeprefix("image_").removesuffix(".nii.gz")))
        if name == names[0]:
            shoot(page, out / "serve-folder-4.png")
        page.click("[data-view=table]")
    browsing.segment(page)
    page.wait_for_timeout(3000)
    shoot(page, out / "serve-folder-5.png")


def correct(page: Page, organs: np.ndarray) -> None:
    """Draw the organ, on the slice, that has most wrong pixels."""
    infos = page.request.get("/api/state").json()["volumes"]
    found = browsing.labels(page, [one["name"] for one in infos].index(page.locator("#title").inner_text()))
    wrong = np.array([((found == value) & (organs != value)).sum((1, 2)) for value in ORGANS])
    wrong += np.array([((found != value) & (organs == value)).sum((1, 2)) for value in ORGANS])
    wrong[np.array([(organs == value).sum((1, 2)) < 200 for value in ORGANS])] = 0
    value, z = (int(one) for one in np.unravel_index(wrong.argmax(), wrong.shape))
    value += 1
    browsing.go_to(page, z)
    page.locator(f"#label-list input[type=radio] >> nth={value - 1}").check()
    page.wait_for_timeout(500)
    _, size = browsing.corner_and_size(page)
    pixels = np.array(organs[z].shape[::-1])
    scale = (size / pixels).min()  # x grows to the left, y up
    browsing.outline(page, browsing.Aim(np.full(2, -scale), size / 2 + scale * (pixels - 1) / 2), organs[z] == value)


def new_page(chromium: Browser, url: str) -> Page:
    page = chromium.new_page(base_url=url, viewport={"width": 1200, "height": 860})
    page.set_default_timeout(browsing.TIMEOUT)
    browsing.load(page, url)
    return page


def truth(data: Path, name: str) -> np.ndarray:
    """Labels (depth, height, width) as the page orders voxels."""
    stored = nib.as_closest_canonical(nib.load(data.parent / "truth" / f"label_{name}.nii.gz"))
    return np.asanyarray(stored.dataobj).T


def shoot(page: Page, path: Path) -> None:
    page.wait_for_timeout(800)
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, 2, dither=Image.Dither.NONE).save(
            path, optimize=True
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
