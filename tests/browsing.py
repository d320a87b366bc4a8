"""A headless Chromium with a real mouse and real keys, for tests and screenshots of the page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, expect, sync_playwright
from skimage.measure import find_contours

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
FLAGS = (
    "--headless --no-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader --disable-background-networking "
    "--disable-component-update --disable-sync --no-first-run --disable-quic"
)

TIMEOUT = 60_000  # ms; a busy machine draws slowly


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium with an empty profile."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield chromium
        chromium.close()


def load(page: Page, url: str) -> None:
    """Load the page and wait until it is ready."""
    page.goto(url)
    page.wait_for_selector("body[data-ready=yes]")


def open_case(page: Page, *steps: str) -> None:
    """Through the data folder's dialog, from name to name."""
    count = page.locator("#volumes li").count()
    page.click("#browse-data")
    for step in steps:
        page.click(f"#browse-list >> text={step}")
    expect(page.locator("#volumes li")).to_have_count(count + 1, timeout=TIMEOUT)
    expect(page.locator("#surface")).to_be_focused(timeout=TIMEOUT)


def go_to(page: Page, z: int) -> None:
    """Show a slice, as the slider does."""
    page.locator("#slice").fill(str(z))


def segment(page: Page) -> None:
    """Press the button and wait for the end."""
    page.evaluate("document.getElementById('live').textContent = ''")  # that of the time before
    page.click("#segment")
    expect(page.locator("#live")).to_have_text("The volumes are segmented.", timeout=TIMEOUT)
    expect(page.locator("#job")).to_be_hidden(timeout=TIMEOUT)


def labels(page: Page, number: int = 0) -> np.ndarray:
    """What the server has of an open volume, uint8 (depth, height, width) as the page orders it."""
    page.wait_for_timeout(600)  # strokes are sent a little later
    info = page.request.get("/api/state").json()["volumes"][number]
    width, height, depth = info["size"]
    content = page.request.get(f"/api/volumes/{info['id']}/labels").body()
    return np.frombuffer(content, np.uint8).reshape(depth, height, width)


def corner_and_size(page: Page) -> tuple[np.ndarray, np.ndarray]:
    """Where the image is on the screen now; pressing a button may scroll the page."""
    box = page.locator("#surface").bounding_box()
    assert box is not None
    return np.array([box["x"], box["y"]]), np.array([box["width"], box["height"]])


@dataclass(frozen=True)
class Aim:
    """From pixels of a slice (x, y, as the page orders them) to places on the image, found with two dots.

    Attributes:
        scale: CSS pixels per pixel of the slice.
        start: place of pixel (0, 0), from the image's upper left corner.
    """

    scale: np.ndarray
    start: np.ndarray

    @classmethod
    def by_dots(cls, page: Page) -> Aim:
        """Paint two dots, ask the server where they came to lie, and undo them."""
        page.click("[data-tool=pen]")
        page.locator("#radius").fill("0")
        places, pixels = [], []
        for way in (-1, 1):
            corner, size = corner_and_size(page)
            places.append(size / 2 + way * 0.3 * size.min())
            page.mouse.click(*(corner + places[-1]))
            pixels.append(np.argwhere(labels(page) == 1).mean(0)[:0:-1])
            page.click("#undo")
        scale = (places[1] - places[0]) / (pixels[1] - pixels[0])
        return cls(scale, places[0] - scale * pixels[0])


def outline(page: Page, aim: Aim, mask: np.ndarray) -> None:
    """Draw round each part of a mask (height, width), as the page orders it, with the filled pen and the mouse."""
    page.click("[data-tool=fill]")
    corner, _ = corner_and_size(page)
    for contour in find_contours(np.pad(mask, 1).astype(float), 0.5):
        if len(contour) < 6:
            continue
        points = corner + aim.start + aim.scale * (contour[:: max(1, len(contour) // 40), ::-1] - 1)
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()


def save(page: Page, button: str, folder: Path) -> Path:
    """Press a button that saves; the file that comes."""
    with page.expect_download() as coming:
        page.click(button)
    path = folder / coming.value.suggested_filename
    coming.value.save_as(path)
    return path
