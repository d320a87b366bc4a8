"""The page in a browser: open, paint with a mouse, segment, correct, save; by keys alone; refusals; narrow windows."""

from __future__ import annotations

import io
import re
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'fedcowpro[dev]'")

from playwright.sync_api import Browser, Page, expect

import browsing
from browsing import Aim, corner_and_size, go_to, load, open_case, outline, save, segment
from fedcowpro.config import ModelConfig, PrepareConfig
from fedcowpro.data.phantom import make_phantom, write_phantom
from fedcowpro.model.segmenter import build_model
from fedcowpro.oneshot.predictor import OneShotPredictor
from fedcowpro.serve.engine import Engine
from fedcowpro.serve.folder import DataFolder
from fedcowpro.serve.guard import Policy
from fedcowpro.serve.jobs import Job
from fedcowpro.serve.limits import MEBIBYTE
from fedcowpro.serve.server import Server
from fedcowpro.serve.store import Project
from serve_pages import SMALL, Running

expect.set_options(timeout=browsing.TIMEOUT)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browsing.CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]

TOKEN = "a token for the tests of the page"
SIZE, DEPTH, LIVER = 96, 12, 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ward")
    for patient in (1, 2):
        write_phantom(make_phantom("ct", patient, size=SIZE, depth=DEPTH), folder / "ct", str(patient))
    return folder


@pytest.fixture(scope="module")
def server(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The ImageNet encoder without training, on slices of the phantoms' size."""
    predictor = OneShotPredictor(build_model(ModelConfig(), 0, project=False))
    engine = Engine(predictor, {kind: PrepareConfig(modality=kind, size=SIZE) for kind in ("ct", "mr")}, "untrained")
    root = tmp_path_factory.mktemp("private")
    return Server(engine, root, DataFolder(data), replace(SMALL, sessions=16))


@pytest.fixture(scope="module")
def url(server: Server) -> Iterator[str]:
    with Running(server) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browsing.browser() as made:
        yield made


@pytest.fixture
def page(chromium: Browser, url: str) -> Iterator[Page]:
    """The page in a new profile. It asks no other host for anything, and breaks none of its own rules."""
    context = chromium.new_context(base_url=url, viewport={"width": 1000, "height": 760})
    made, complaints, others = context.new_page(), [], []
    made.set_default_timeout(browsing.TIMEOUT)
    made.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on("request", lambda one: others.append(one.url) if not one.url.startswith((url, "data:", "blob:")) else None)
    load(made, url)
    yield made
    context.close()
    # The browser itself reports each answer with an error status.
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []
    assert others == []


def truth(data: Path, case: int) -> np.ndarray:
    """Liver as the page orders voxels."""
    stored = nib.as_closest_canonical(nib.load(data / "ct" / f"label_{case}.nii.gz"))
    return np.asanyarray(stored.dataobj).T == LIVER


def dice(one: np.ndarray, other: np.ndarray) -> float:
    size = one.sum() + other.sum()
    return float(2 * (one & other).sum() / size) if size else 1.0  # a slice that is rightly empty


def test_from_a_volume_to_a_corrected_mask(page: Page, data: Path, tmp_path: Path) -> None:
    open_case(page, "ct (folder)", "image_2")
    liver = truth(data, 2)
    first = int(liver.sum((1, 2)).argmax())
    go_to(page, first)
    aim = Aim.by_dots(page)
    for _ in range(50):  # the undoing of the dots is on its way
        if not (painted := page.request.get("/api/state").json()["volumes"][0]["painted"]):
            break
        page.wait_for_timeout(100)
    assert painted == []
    outline(page, aim, liver[first])
    expect(page.locator("#slice-state")).to_have_text(f"Slice {first + 1} of {DEPTH}: an example")
    drawn = browsing.labels(page)
    assert dice(drawn[first] == 1, liver[first]) > 0.9
    assert not drawn[np.arange(DEPTH) != first].any()
    page.locator("#label-list input[type=text]").fill("liver")
    page.locator("#label-list input[type=text]").blur()
    segment(page)
    expect(page.locator("#results tbody tr:not(.doubts)")).to_contain_text("liver")

    saved = save(page, "#save-nifti", tmp_path)
    assert saved.name == "image_2_mask.nii.gz"
    image, mask = nib.load(data / "ct" / "image_2.nii.gz"), nib.load(saved)
    assert mask.shape == image.shape
    np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
    before = np.asanyarray(nib.as_closest_canonical(mask).dataobj).T == 1
    np.testing.assert_array_equal(before[first], drawn[first] == 1)
    reached = [dice(before, liver)]
    corrected, found = {first}, before
    for _ in range(3):  # the slice with the most wrong pixels: wipe, outline, segment again
        wrong = (found != liver).sum((1, 2))
        worst = int(np.where(np.isin(np.arange(DEPTH), list(corrected)), -1, wrong).argmax())
        go_to(page, worst)
        wipe(page)
        outline(page, aim, liver[worst])
        segment(page)
        found = np.asanyarray(nib.as_closest_canonical(nib.load(save(page, "#save-nifti", tmp_path))).dataobj).T == 1
        assert dice(found[worst], liver[worst]) > 0.85
        reached.append(dice(found, liver))
        corrected.add(worst)
    # Twelve thick slices, a network without training: 0.43, 0.75, 0.79, 0.85 when this was written.
    assert np.all(np.array(reached) > (0.38, 0.68, 0.74, 0.8)), reached
    assert page.request.get("/api/state").json()["volumes"][0]["painted"] == sorted(corrected)


def wipe(page: Page) -> None:
    """Take the drawing off the middle of the slice, with the widest eraser."""
    page.click("[data-tool=erase]")
    page.locator("#radius").fill("40")
    corner, size = corner_and_size(page)
    page.mouse.move(*(corner + size * (0.25, 0.5)))
    page.mouse.down()
    page.mouse.move(*(corner + size * (0.75, 0.5)), steps=4)
    page.mouse.up()


def test_by_keys_alone(page: Page) -> None:
    """Open from the data folder, paint two dabs and a line, and segment; two volumes are open."""

    def press(*keys: str) -> None:
        for key in keys:
            page.keyboard.press(key)

    for _ in range(6):
        press("Tab")
        if page.evaluate("document.activeElement.id") == "browse-data":
            break
    press("Enter")
    page.wait_for_selector("#browse[open] li")
    press("Enter")  # the folder
    page.wait_for_selector("#browse-list >> text=image_2")
    expect(page.locator("#browse-list button").first).to_be_focused()
    press("Tab", "Tab", "Tab", "Enter")  # past "open all" and the first image
    expect(page.locator("#surface")).to_be_focused()
    expect(page.locator("#title")).to_have_text("image_2.nii.gz")
    press("PageDown", "ArrowLeft", "Space", "+", "Alt+ArrowLeft", "Shift+ArrowUp", "Shift+ArrowUp")
    expect(page.locator("#slice-state")).to_have_text(f"Slice {DEPTH // 2} of {DEPTH}: an example")
    drawn = browsing.labels(page)
    assert (drawn[DEPTH // 2 - 1] == 1).sum() > 150
    press("Control+z", "Control+z", "Control+z", "Control+y")
    assert (browsing.labels(page) == 1).sum() == 81  # the pixels within 5 of one
    press("s")
    expect(page.locator("#live")).to_have_text("The volumes are segmented.")
    press("[", "PageUp", "]")
    row = page.locator("#ends li").first
    first, last = (row.locator(f".{side}") for side in ("first", "last"))
    expect(first).to_have_attribute("aria-valuetext", f"slice {DEPTH // 2}")
    expect(last).to_have_attribute("aria-valuetext", f"slice {DEPTH // 2 + 1}")
    press("PageDown", "x")
    expect(page.locator("#slice-state")).not_to_contain_text("an example")
    press("?")
    expect(page.locator("#help")).to_be_visible()
    press("Escape", "v", "v")
    expect(page.locator("[data-view=render]")).to_have_attribute("aria-pressed", "true")


def test_every_open_volume_gets_a_mask_and_a_reload_keeps_all(page: Page, url: str, chromium: Browser) -> None:
    for case in ("image_1", "image_2"):
        open_case(page, "ct (folder)", case)
    page.locator("#radius").fill("8")
    corner, size = corner_and_size(page)
    page.mouse.click(*(corner + size * (0.42, 0.45)))
    segment(page)
    expect(page.locator("#volumes li")).to_contain_text(["segmented", "segmented"])
    page.locator("#volumes button.volume").first.click()
    expect(page.locator("#title")).to_have_text("image_1.nii.gz")
    assert browsing.labels(page, 0).any()
    load(page, url)
    expect(page.locator("#volumes li")).to_contain_text(["segmented", "1 painted"])
    strip = page.locator("#strip").bounding_box()
    assert strip is not None
    page.mouse.click(strip["x"] + strip["width"] * 0.99, strip["y"] + 15)
    expect(page.locator("#slice-state")).to_contain_text(f"Slice {DEPTH} of {DEPTH}: ")
    page.locator("#volumes button[aria-label^=Close]").first.click()
    expect(page.locator("#closing")).to_contain_text("image_1.nii.gz has masks")
    page.keyboard.press("Escape")
    expect(page.locator("#volumes li")).to_have_count(2)
    page.locator("#volumes button[aria-label^=Close]").first.click()
    page.click("#closing button[value=close]")
    expect(page.locator("#volumes li")).to_have_count(1)
    other = chromium.new_context(base_url=url).new_page()
    load(other, url)
    expect(other.locator("#volumes li")).to_have_count(0)
    other.context.close()


def test_the_page_asks_where_organs_end_and_leads_to_the_next_slice(page: Page, data: Path) -> None:
    """By mouse: two labels, their ends by a button, a click on the row and a handle; the mask is cut at once."""
    open_case(page, "ct (folder)", "image_2")
    page.click("#add-label")
    expect(page.locator("#label-list input[type=radio]").nth(1)).to_be_checked()
    page.locator("#radius").fill("10")
    corner, size = corner_and_size(page)
    page.mouse.click(*(corner + size * (0.58, 0.45)))
    page.locator("#label-list input[type=radio]").first.check()
    page.mouse.click(*(corner + size * (0.42, 0.45)))
    expect(page.locator("#ask")).to_be_hidden()
    segment(page)
    expect(page.locator("#ask")).to_contain_text("Where does organ 1 begin and end?")
    painted = DEPTH // 2
    go_to(page, painted - 2)
    page.click("#ask-first")
    expect(page.locator("#ask")).to_contain_text("where is the last slice of organ 1")
    row = page.locator("#ends li").first
    box = row.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * (painted + 2.5) / DEPTH, box["y"] + box["height"] / 2)
    expect(page.locator("#ask")).to_contain_text("organ 2")
    found = browsing.labels(page)
    assert not (found[: painted - 2] == 1).any()
    assert not (found[painted + 3 :] == 1).any()
    assert (found == 2).any()
    handle = row.locator(".last")
    grip = handle.bounding_box()
    assert grip is not None
    page.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + 12)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * (painted + 1.5) / DEPTH, grip["y"] + 12, steps=3)
    page.mouse.up()
    expect(handle).to_have_attribute("aria-valuetext", f"slice {painted + 2}")
    assert not (browsing.labels(page)[painted + 2 :] == 1).any()
    page.click("#ask-later")
    expect(page.locator("#ask")).to_be_hidden()
    expect(page.locator("#next-text")).to_contain_text("ml in doubt")
    wanted = int(page.locator("#next-text").inner_text().split(":")[0].removeprefix("Slice "))
    page.click("#next")
    expect(page.locator("#slice-state")).to_contain_text(f"Slice {wanted} of {DEPTH}")


def test_a_job_can_be_cancelled(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def endless(self: object, volumes: object, job: Job) -> None:
        step = 0
        while True:
            step += 1
            job.report("reading the slices", step, 1000)
            begun.set()
            threading.Event().wait(0.05)

    monkeypatch.setattr(Engine, "segment", endless)
    open_case(page, "ct (folder)", "image_1")
    page.keyboard.press("Space")
    expect(page.locator("#segment")).to_be_enabled()
    page.click("#segment")
    expect(page.locator("#job-text")).to_contain_text("of 1000")
    assert begun.is_set()
    expect(page.locator("#segment")).to_be_disabled()
    page.click("[data-view=planes]")  # the page answers meanwhile
    expect(page.locator("[data-view=planes]")).to_have_attribute("aria-pressed", "true")
    page.click("#cancel")
    expect(page.locator("#live")).to_have_text("Cancelled.")
    expect(page.locator("#job")).to_be_hidden()
    expect(page.locator("#segment")).to_be_enabled()


def test_uploads(page: Page, data: Path) -> None:
    """A refused one says why and what to do; a good one opens, chosen or dropped."""
    page.set_input_files("#files", {"name": "photo.nii.gz", "mimeType": "image/png", "buffer": b"\x89PNG" + bytes(900)})
    alert = page.locator("#alert")
    expect(alert).to_contain_text("content of another type")
    expect(alert).to_contain_text("What to do: convert it")
    page.click("#alert-close")
    expect(alert).to_be_hidden()
    big = bytes(SMALL.upload + MEBIBYTE)
    page.set_input_files("#files", {"name": "big.nii.gz", "mimeType": "application/gzip", "buffer": big})
    expect(alert).to_contain_text("5 MB")
    page.set_input_files("#files", data / "ct" / "image_2.nii.gz")
    expect(page.locator("#volumes li")).to_have_count(1)
    expect(alert).to_be_hidden()
    page.evaluate(
        """async () => {
            const { volumes } = await (await fetch("/api/state")).json();
            const answer = await fetch("/api/volumes/" + volumes[0].id + "/image");
            const files = new DataTransfer();
            files.items.add(new File([await answer.arrayBuffer()], "dropped.nii"));
            dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
        }"""
    )
    expect(page.locator("#volumes li")).to_have_count(2)
    expect(page.locator("#title")).to_have_text("dropped.nii")
    a_label_comes_and_goes(page)


def a_label_comes_and_goes(page: Page) -> None:
    page.click("#add-label")
    expect(page.locator("#label-list input[type=radio]").nth(1)).to_be_checked()
    page.keyboard.press("Escape")
    page.locator("#surface").focus()
    page.keyboard.press("Space")
    assert set(np.unique(browsing.labels(page, 1))) == {0, 2}
    page.locator("#label-list .remove").nth(1).click()
    expect(page.locator("#alert")).to_contain_text("label 2")
    expect(page.locator("#label-list li")).to_have_count(2)
    page.locator("#label-list .remove").nth(0).click()
    expect(page.locator("#label-list li")).to_have_count(1)


def test_narrow_windows_names_for_screen_readers_and_contrast(page: Page) -> None:
    page.set_viewport_size({"width": 480, "height": 800})
    open_case(page, "ct (folder)", "image_1")
    assert page.evaluate("document.documentElement.scrollWidth") <= 480
    page.set_viewport_size({"width": 320, "height": 800})
    page.click("#add-label")
    for button in ("#save-dicom", "#save-rtstruct", "#save-all"):
        page.locator(button).evaluate("one => (one.hidden = false)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    for width, height in ((320, 800), (1440, 900), (1000, 760)):
        page.set_viewport_size({"width": width, "height": height})
        for button in ("#segment", "#save-nifti"):
            box = page.locator(button).bounding_box()
            assert box is not None
            assert 0 <= box["y"] <= height - box["height"]
            assert 0 <= box["x"] <= width - box["width"]
    page.set_viewport_size({"width": 320, "height": 800})
    nameless = page.evaluate(
        """() => {
            const kinds = "button, select, input:not([hidden]), dialog, [role=application], [role=slider]";
            const all = document.querySelectorAll(kinds);
            return [...all].filter((one) => {
                const label = one.getAttribute("aria-label") || one.labels?.[0]?.textContent || one.textContent;
                const by = document.getElementById(one.getAttribute("aria-labelledby"))?.textContent;
                return !(label?.trim() || by?.trim());
            }).map((one) => one.outerHTML);
        }"""
    )
    assert nameless == []
    headings = page.get_by_role("heading", level=2).all_inner_texts()
    assert [" ".join(text.split()) for text in headings] == ["1 Open", "2 Paint", "3 Segment", "4 Correct", "5 Save"]
    assert "Not a medical device" in page.inner_text("header")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # else colours change by and by
        page.hover("[data-tool=pen]")
        found = page.evaluate(CONTRAST)
        assert len(found) > 30
        assert {text: ratio for text, ratio in found if ratio < 4.5} == {}  # as WCAG AA asks, of what is enabled
    the_pens_cover_the_right_pixels(page)


def the_pens_cover_the_right_pixels(page: Page) -> None:
    """The pixels that a stroke and a filled outline cover."""
    found = page.evaluate(
        """async () => {
            const { stroke, fill } = await import("/static/paint.js");
            const [line, dot, area] = [new Uint8Array(400), new Uint8Array(400), new Uint8Array(400)];
            stroke(line, 20, 20, [-3, 10], [30, 10], 2, 3);
            stroke(dot, 20, 20, [4, 5], [4, 5], 0, 1);
            fill(area, 20, 20, [[2.5, 2.5], [12.5, 2.5], [12.5, 30], [2.5, 30]], 7);
            return [line, dot, area].map((one) => [...one]);
        }"""
    )
    line, dot, area = (np.array(one).reshape(20, 20) for one in found)
    rows = np.abs(np.arange(20) - 10) <= 2
    np.testing.assert_array_equal(line, np.where(rows[:, None], 3, 0) * np.ones((1, 20), int))
    np.testing.assert_array_equal(np.argwhere(dot), [[5, 4]])
    expected = np.zeros((20, 20), int)
    expected[3:, 3:13] = 7
    np.testing.assert_array_equal(area, expected)


def test_axe_finds_nothing_serious(page: Page) -> None:
    """Light, dark and forced colours; the empty page, a segmented volume that is asked about, the table, dialogs."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def look(where: str) -> None:
        page.wait_for_timeout(300)  # colours change by and by
        found = axe.run(page).response["violations"]
        serious = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
        assert serious == [], where

    look("empty")
    page.click("#browse-data")
    page.wait_for_selector("#browse[open] li")
    look("data folder")
    page.keyboard.press("Escape")
    open_case(page, "ct (folder)", "image_1")
    open_case(page, "ct (folder)", "image_2")
    page.keyboard.press("Space")
    segment(page)
    expect(page.locator("#ask")).to_be_visible()
    for scheme, colours in (("light", "none"), ("dark", "none"), ("light", "active"), ("dark", "active")):
        page.emulate_media(color_scheme=scheme, forced_colors=colours, reduced_motion="reduce")
        look(f"{scheme}, forced colours {colours}")
    for button in ("#save-dicom", "#save-rtstruct"):
        page.locator(button).evaluate("one => (one.hidden = false)")
    page.click("[data-view=table]")
    page.locator("#overview tbody tr").first.wait_for()
    for scheme, colours in (("light", "none"), ("light", "active"), ("dark", "none")):
        page.emulate_media(color_scheme=scheme, forced_colors=colours, reduced_motion="reduce")
        look(f"table, {scheme}, forced colours {colours}")
    page.click("#show-help")
    expect(page.locator("#slicer-address")).to_have_value(re.compile(r"^http://127\.0\.0\.1:\d+/slicer/[0-9a-f]{64}$"))
    look("help")
    page.keyboard.press("Escape")
    page.locator("#volumes button[aria-label^=Close]").first.click()
    look("closing")
    page.keyboard.press("Escape")
    page.click("[data-view=planes]")
    page.wait_for_timeout(500)
    look("three planes")


def test_pressed_buttons_are_told_in_forced_colours(page: Page) -> None:
    page.emulate_media(forced_colors="active")
    pen, erase = (
        page.locator(f"[data-tool={tool}]").evaluate("one => getComputedStyle(one).backgroundColor")
        for tool in ("pen", "erase")
    )
    assert pen != erase


def test_twenty_volumes_in_few_clicks(server: Server, chromium: Browser, tmp_path: Path) -> None:
    """Open all, example from a mask that is there, segment, correct the two most doubtful, segment again, save all.

    The browser counts every button of the mouse that goes down, the two strokes of the corrections among them.
    """
    data, count = tmp_path / "data", 20
    for patient in range(1, count + 1):
        write_phantom(make_phantom("ct", patient, size=48, depth=6), data, str(patient))
        if patient > 1:
            (data / f"label_{patient}.nii.gz").unlink()
    (tmp_path / "private").mkdir()
    engine = replace(server.engine, prepare={kind: PrepareConfig(modality=kind, size=64) for kind in ("ct", "mr")})
    ward = Server(engine, tmp_path / "private", DataFolder(data), replace(SMALL, volumes=32))
    with Running(ward) as port:
        where = f"http://127.0.0.1:{port}"
        page = chromium.new_context(base_url=where, viewport={"width": 1440, "height": 900}).new_page()
        page.set_default_timeout(browsing.TIMEOUT)
        load(page, where)
        page.evaluate("clicks = 0; addEventListener('pointerdown', () => (clicks += 1), true)")
        page.click("#browse-data")
        page.click("#browse-list >> text=Open all of this folder")
        rows = page.locator("#overview tbody tr")
        expect(rows).to_have_count(count)
        page.click("#overview >> text=Its mask as example")
        expect(page.locator("#live")).to_contain_text("is an example")
        segment(page)
        sure = "all => all.map((row) => [...row.querySelectorAll('td > small')].map((one) => Number(one.textContent)))"
        least = [min(row) for row in rows.evaluate_all(sure) if row]
        assert len(least) >= count - 1
        assert least[: count - 1] == sorted(least[: count - 1])
        doubtful = [rows.nth(row).locator("button.volume").inner_text().split("\n")[0] for row in (0, 1)]
        for name in doubtful:
            rows.locator("button.volume", has_text=name).click()
            expect(page.locator("#title")).to_have_text(name)
            corner, size = corner_and_size(page)
            page.mouse.move(*(corner + size * (0.45, 0.3)))
            page.mouse.down()
            page.mouse.move(*(corner + size * (0.55, 0.7)), steps=4)  # over more than one organ: it changes something
            page.mouse.up()
            expect(page.locator("#slice-state")).to_contain_text("an example")
            if name == doubtful[0]:
                page.click("[data-view=table]")
        segment(page)
        path = save(page, "#save-all", tmp_path)
        assert page.evaluate("clicks") <= 12  # eleven when this was written
        with zipfile.ZipFile(path) as archive:
            table = pd.read_csv(io.BytesIO(archive.read("volumes.csv")))
            assert len(archive.namelist()) >= count
        assert set(table.loc[table["painted"] > 0, "volume"]) == {"image_1.nii.gz", *doubtful}
        page.context.close()
    ward.close()


def test_the_view_is_set_and_painting_follows_it(page: Page) -> None:
    """Zoom and pan move the image and not what is painted; windows, outline, hidden labels, grey values, clear."""
    open_case(page, "ct (folder)", "image_1")
    page.click("#zoom-in")
    page.click("#zoom-in")
    corner, size = corner_and_size(page)
    middle = corner + size / 2
    page.mouse.move(*middle)
    page.mouse.down(button="middle")
    page.mouse.move(*(middle + np.array((60, 30))))
    page.mouse.up(button="middle")
    page.locator("#radius").fill("0")
    page.mouse.click(*(middle + np.array((60, 30))))
    dot = np.argwhere(browsing.labels(page)[DEPTH // 2]).mean(0)
    assert np.abs(dot - (SIZE - 1) / 2).max() <= 1  # what was in the middle is now where the mouse is
    page.click("#zoom-fit")
    picture = page.locator("#plane").screenshot()
    page.select_option("#preset", "Bone")
    expect(page.locator("#high-text")).to_have_text("1050 HU")
    page.wait_for_timeout(200)
    assert page.locator("#plane").screenshot() != picture
    page.mouse.move(*middle)
    page.mouse.down(button="right")
    page.mouse.move(*(middle + np.array((0, 40))))
    page.mouse.up(button="right")
    expect(page.locator("#high-text")).not_to_have_text("1050 HU")
    page.locator("#radius").fill("30")
    page.locator("#only").check()
    page.locator("#only-from").fill("-150")
    page.locator("#only-to").fill("3000")
    page.locator("#only-to").blur()
    page.mouse.click(*(middle + size * (0, 0.3)))
    drawn = browsing.labels(page)[DEPTH // 2] == 1
    info = page.request.get("/api/state").json()["volumes"][0]
    image = nib.Nifti1Image.from_bytes(page.request.get(f"/api/volumes/{info['id']}/image").body())
    values = np.asanyarray(image.dataobj).T[DEPTH // 2]
    assert drawn.sum() > 100
    assert (values[drawn] >= -150).sum() >= drawn.sum() - 2  # all but the dot of before
    filled = page.locator("#plane").screenshot()
    for press in ("#outline", ".eye"):
        page.locator(press).first.click()
        page.wait_for_timeout(200)
        shown = page.locator("#plane").screenshot()
        assert shown != filled
        filled = shown
    page.click("#clear")
    assert not browsing.labels(page).any()
    expect(page.locator("#slice-state")).to_contain_text("an example")


def test_strokes_while_the_server_is_away_are_sent_later(page: Page) -> None:
    """In the middle of a stroke the connection goes; the stroke goes on, and arrives when the connection is back."""
    open_case(page, "ct (folder)", "image_1")
    corner, size = corner_and_size(page)
    page.mouse.move(*(corner + size * (0.4, 0.5)))
    page.mouse.down()
    page.mouse.move(*(corner + size * (0.45, 0.5)), steps=3)
    page.wait_for_timeout(900)
    halfway = browsing.labels(page)
    assert halfway.any()  # a second of a stroke that is not at its end
    page.context.set_offline(True)
    page.mouse.move(*(corner + size * (0.6, 0.5)), steps=5)
    page.mouse.up()
    expect(page.locator("#saved")).to_contain_text("1 change is kept here and sent later")
    page.context.set_offline(False)
    expect(page.locator("#saved")).to_have_text("All is saved.")
    assert (browsing.labels(page) > 0).sum() > (halfway > 0).sum()


def test_a_second_tab_looks_until_it_takes_over(page: Page, url: str) -> None:
    open_case(page, "ct (folder)", "image_1")
    page.keyboard.press("Space")
    expect(page.locator("#saved")).to_have_text("All is saved.")
    second = page.context.new_page()
    load(second, url)
    expect(second.locator("#reading")).to_be_visible()
    drawn = browsing.labels(second)
    second.locator("#surface").focus()
    for key in ("PageUp", "Space", "s"):
        second.keyboard.press(key)
    np.testing.assert_array_equal(browsing.labels(second), drawn)
    second.click("#take")
    second.wait_for_selector("body[data-ready=yes]")
    expect(second.locator("#reading")).to_be_hidden()
    page.locator("#surface").focus()
    page.keyboard.press("PageUp")
    page.keyboard.press("Space")
    expect(page.locator("#reading")).to_be_visible()
    np.testing.assert_array_equal(browsing.labels(second), drawn)
    second.close()


def test_a_closed_tab_and_another_browser_find_the_work(server: Server, chromium: Browser, tmp_path: Path) -> None:
    """The tab goes in the middle of a stroke; all but its last second is there, with ends, names and the pen."""
    project = Project(tmp_path / "project")
    (tmp_path / "private").mkdir()
    kept = Server(server.engine, tmp_path / "private", server.data, SMALL, Policy(), project)
    with Running(kept) as port:
        where = f"http://127.0.0.1:{port}"
        page = chromium.new_context(base_url=where).new_page()
        load(page, where)
        open_case(page, "ct (folder)", "image_1")
        page.locator("#label-list input[type=text]").fill("liver")
        page.locator("#label-list input[type=text]").blur()
        page.locator("#radius").fill("7")
        go_to(page, 3)
        page.locator("#surface").focus()
        page.keyboard.press("[")
        corner, size = corner_and_size(page)
        page.mouse.move(*(corner + size * (0.4, 0.5)))
        page.mouse.down()
        page.mouse.move(*(corner + size * (0.5, 0.5)), steps=3)
        page.wait_for_timeout(1000)
        page.close()
        page = chromium.new_context(base_url=where).new_page()
        load(page, where)
        expect(page.locator("#title")).to_have_text("image_1.nii.gz")
        expect(page.locator("#slice-state")).to_have_text(f"Slice 4 of {DEPTH}: an example")
        expect(page.locator("#label-list input[type=text]")).to_have_value("liver")
        expect(page.locator("#radius-text")).to_contain_text("7 pixels")
        expect(page.locator("#ends .first")).to_have_attribute("aria-valuetext", "slice 4")
        assert (browsing.labels(page)[3] == 1).sum() > 200
        page.context.close()
    kept.close()


CONTRAST = """() => {
    const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
    const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = (rgb) => rgb.slice(0, 3).map((v) => linear(v / 255))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (one) => {
        for (; one; one = one.parentElement) {
            const colour = parse(getComputedStyle(one).backgroundColor);
            if (colour.length < 4 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const out = [];
    for (const one of document.querySelectorAll("body *")) {
        const texts = [...one.childNodes].filter((node) => node.nodeType === 3);
        const own = texts.map((node) => node.textContent.trim()).join("");
        if (!own || !one.checkVisibility() || one.closest(":disabled, .sr, script, dialog:not([open])")) continue;
        const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
        out.push([own, (a + 0.05) / (b + 0.05)]);
    }
    return out;
}"""


def test_a_token_opens_the_page_and_leaves_the_address(server: Server, chromium: Browser, tmp_path: Path) -> None:
    guarded = Server(server.engine, tmp_path, server.data, SMALL, Policy(token=TOKEN))
    with Running(guarded) as port:
        page = chromium.new_context().new_page()
        load(page, f"http://127.0.0.1:{port}/#token={TOKEN}")
        assert page.url == f"http://127.0.0.1:{port}/"
        page.context.close()
        page = chromium.new_context().new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#alert")).to_contain_text("no token, or a wrong one")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("body[data-ready=yes]")
        page.context.close()
