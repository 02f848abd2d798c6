"""Opens a report in a headless browser: no error on its console, and voxels on the canvas, the right way round."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from scene_completion_ros.report.writer import ReportWriter
from tests.voxels.samples import COLOURS, SEEN, STREET, WORDS, street, words_of_street

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SOFTWARE_RENDERER = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # needs no graphics card
LIMIT_MS = 300_000.0  # for a browser that hangs
FULL_SCENE = "#scene{position:fixed!important;inset:0;height:100vh!important;z-index:9}"
NEXT_PICTURE = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser found (looked for {', '.join(BROWSERS)})")
    expect.set_options(timeout=LIMIT_MS)
    with sync_playwright() as playwright:
        arguments = [*SOFTWARE_RENDERER, "--no-sandbox"]
        started = playwright.chromium.launch(executable_path=found, args=arguments, timeout=LIMIT_MS)
        yield started
        started.close()


def opened(browser: Browser, report: ReportWriter) -> tuple[Page, list[str]]:
    """The page of a report in which a frame is drawn, and its console."""
    page = browser.new_page(viewport={"width": 800, "height": 600})
    page.set_default_timeout(LIMIT_MS)
    console: list[str] = []
    page.on("console", lambda message: console.append(message.text))
    page.on("pageerror", lambda error: console.append(str(error)))
    page.goto(report.index.resolve().as_uri())
    page.wait_for_function("document.body.dataset.drawn || document.body.dataset.glError")
    return page, console


def picture(page: Page) -> np.ndarray:
    """RGB [H, W, 3] of the scene alone."""
    page.add_style_tag(content=FULL_SCENE)
    page.evaluate(NEXT_PICTURE)
    decoded = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(decoded)[..., ::-1].astype(int)


def centre_of(picture: np.ndarray, channel: int) -> tuple[float, float]:
    """Mean row and column of the pixels in which one colour channel stands out."""
    others = np.delete(picture, channel, axis=-1).max(axis=-1)
    rows, columns = np.nonzero(picture[..., channel] > others + 60)
    assert len(rows) > 200
    return float(rows.mean()), float(columns.mean())


@pytest.fixture
def report(tmp_path: Path) -> ReportWriter:
    lidar = np.random.default_rng(0).uniform([0, -4, -2], [12, 4, 2], (500, 3)).astype(np.float32)
    with ReportWriter(tmp_path / "report", "Test drive", STREET, COLOURS) as writer:
        for i in range(2):
            writer.add_frame(street(stamp_ns=i), *SEEN, lidar_grid=lidar)
    return writer


def test_the_page_opens_without_an_error_and_draws_the_voxels(browser: Browser, report: ReportWriter) -> None:
    # The camera's frustum is drawn in red as well, but thinly; the wall is red, the hedge green.
    page, console = opened(browser, report)
    expect(page.locator("body")).to_have_attribute("data-drawn", str(len(street())))
    shown = picture(page)
    assert shown.std() > 20
    wall = centre_of(shown, 0)
    assert wall[1] < 0.45 * shown.shape[1]  # left of the middle: not mirrored
    road = np.abs(shown - COLOURS[0]).max(axis=-1) < 25
    assert np.nonzero(road)[0].mean() > wall[0]  # the road is below: not upside down
    assert console == []


def test_slider_and_view_from_above_work(browser: Browser, report: ReportWriter) -> None:
    page, console = opened(browser, report)
    page.locator("#frame").fill("0")
    expect(page.locator("#caption")).to_contain_text("frame 1 ·")
    page.locator("#show-surface").click()
    page.locator("[data-viewpoint=top]").click()
    completed = int((street().state == 4).sum())
    expect(page.locator("body")).to_have_attribute("data-drawn", str(completed))
    shown = picture(page)
    row, column = centre_of(shown, 1)  # the hedge, 9.5 m ahead of 12, 2 m to the left of 4
    assert row < 0.45 * shown.shape[0]
    assert column < 0.48 * shown.shape[1]
    assert console == []


def test_words_are_counted_and_offered_only_where_they_match(browser: Browser, tmp_path: Path) -> None:
    with ReportWriter(tmp_path / "report", "Test drive", STREET, COLOURS, words=WORDS) as report:
        report.add_frame(street(), *SEEN, matches=words_of_street())
        report.add_frame(street(stamp_ns=1), *SEEN)
    page, console = opened(browser, report)
    words = [page.locator(f'[data-word="{number}"]') for number in range(2)]
    matching, lit = page.locator("#matching"), page.locator("[data-word][aria-pressed=true]")

    def expected(text: str, *names: str) -> None:
        expect(matching).to_have_text(text)
        expect(lit).to_have_text(list(names))

    for word in words:
        expect(word).to_be_disabled()  # it opens in mid-drive: at the frame without an answer
    assert page.locator('[data-word="2"]').count() == 0
    page.locator("#frame").fill("0")
    for word in words:
        expect(word).to_be_enabled()
        expect(word).to_have_js_property("tabIndex", 0)  # the keyboard reaches the buttons
    none = "Words light up the voxels that match them."
    expected(none)
    voxels = street()
    wall, hedge = (int((voxels.label == label).sum()) for label in (1, 2))
    words[0].click()
    expected(f"wall: {wall:,} of {len(voxels):,} voxels match", "wall")
    words[1].click()
    both = f"wall, <b>hedge</b> & co: {wall + hedge:,} of {len(voxels):,} voxels match"
    expected(both, "wall", "<b>hedge</b> & co")
    page.keyboard.press("Escape")
    expected(none)
    words[1].click()
    page.locator("#no-word").click()
    expected(none)
    words[0].click()
    page.locator("#frame").fill("1")
    expected("The words were not answered for this frame.", "wall")
    assert console == []
