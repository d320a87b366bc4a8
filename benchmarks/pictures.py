"""Pictures of the page for the documentation, with synthetic patients.

    python benchmarks/pictures.py FOLDER

Needs chromium and the extra `dev`. Writes serve.png (wide window), serve-narrow.png (480 pixels) and serve-table.png
(all open volumes). A liver is painted on one slice of the first patient with the mouse, and its ends are said.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import browsing
from fedcowpro.data.phantom import make_phantom, write_phantom
from fedcowpro.oneshot.loading import load_predictor
from fedcowpro.serve.engine import Engine
from fedcowpro.serve.folder import DataFolder
from fedcowpro.serve.server import Server
from serve_pages import Running


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, private = Path(folder) / "scans", Path(folder) / "private"
        private.mkdir()
        for patient in (1, 2, 3):
            write_phantom(make_phantom("ct", patient, size=160, depth=24), data, f"patient{patient}")
        loaded = load_predictor(None)
        server = Server(Engine(loaded.predictor, loaded.prepare, "built in"), private, DataFolder(data))
        with Running(server) as port, browsing.browser() as chromium:
            url = f"http://127.0.0.1:{port}"
            page = chromium.new_page(base_url=url, viewport={"width": 1200, "height": 860})
            page.set_default_timeout(4 * browsing.TIMEOUT)
            browsing.load(page, url)
            for patient in (1, 2, 3):
                browsing.open_case(page, f"image_patient{patient}")
            page.locator("#volumes li button").first.click()
            browsing.expect(page.locator("#title")).to_have_text("image_patient1.nii.gz")
            stored = nib.as_closest_canonical(nib.load(data / "label_patient1.nii.gz"))
            liver = np.asanyarray(stored.dataobj).T == 1
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
            page.wait_for_timeout(500)
            page.screenshot(path=out / "serve.png")
            page.click("[data-view=table]")
            page.wait_for_timeout(1500)
            page.screenshot(path=out / "serve-table.png")
            page.click("[data-view=slice]")
            page.set_viewport_size({"width": 480, "height": 900})
            page.locator("#views").scroll_into_view_if_needed()
            page.evaluate("document.getElementById('stage').scrollIntoView()")
            page.wait_for_timeout(800)
            page.screenshot(path=out / "serve-narrow.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
