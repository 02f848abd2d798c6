"""Opens a report in a headless browser: no error on its console, and voxels on the canvas, the right way round."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from scene_completion_ros.report.writer import ReportWriter
from tests.voxels.samples import COLOURS, SEEN, STREET, TIMES, WORDS, street, words_of_street

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SIZE = (800, 600)
FULL_SCENE = "#scene{position:fixed!important;inset:0;height:100vh!important;z-index:9}"


class Opened(NamedTuple):
    dom: str
    picture: np.ndarray  # RGB [H, W, 3]
    console: list[str]


def open_page(page: Path, folder: Path) -> Opened:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser found (looked for {', '.join(BROWSERS)})")
    screenshot = folder / "screenshot.png"
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--use-angle=swiftshader",  # a software renderer: needs no graphics card
        "--enable-unsafe-swiftshader",
        "--disable-background-networking",
        "--no-first-run",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={SIZE[0]},{SIZE[1]}",
        "--virtual-time-budget=10000",
        f"--screenshot={screenshot}",
        "--dump-dom",
        page.resolve().as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert screenshot.exists(), done.stderr[-2000:]
    picture = cv2.imread(str(screenshot))[..., ::-1]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Opened(done.stdout, picture, console)


def centre_of(picture: np.ndarray, channel: int) -> tuple[float, float]:
    """Mean row and column of the pixels in which one colour channel stands out."""
    values = picture.astype(int)
    others = np.delete(values, channel, axis=-1).max(axis=-1)
    rows, columns = np.nonzero(values[..., channel] > others + 60)
    assert len(rows) > 200
    return float(rows.mean()), float(columns.mean())


@pytest.fixture
def page(tmp_path: Path) -> Path:
    lidar = np.random.default_rng(0).uniform([0, -4, -2], [12, 4, 2], (500, 3)).astype(np.float32)
    with ReportWriter(tmp_path / "report", "Test drive", STREET, COLOURS) as report:
        for i in range(2):
            report.add_frame(street(stamp_ns=i), *SEEN, TIMES, lidar_grid=lidar)
    return report.index


def with_additions(page: Path, name: str, style: str, script: str = "") -> Path:
    text = page.read_text("utf-8").replace("</head>", f"<style>{style}</style></head>")
    changed = page.with_name(name)
    changed.write_text(text.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    return changed


def test_the_page_opens_without_an_error_and_draws_the_voxels(page: Path, tmp_path: Path) -> None:
    # The camera's frustum is drawn in red as well, but thinly; the wall is red, the hedge green.
    opened = open_page(with_additions(page, "scene.html", FULL_SCENE), tmp_path)
    assert opened.console == []
    assert "data-gl-error" not in opened.dom
    drawn = re.search(r'data-drawn="(\d+)"', opened.dom)
    assert drawn, "the viewer did not draw a frame"
    assert int(drawn.group(1)) == len(street())
    assert opened.picture.std() > 20
    wall = centre_of(opened.picture, 0)
    assert wall[1] < 0.45 * opened.picture.shape[1]  # left of the middle: not mirrored
    road = np.abs(opened.picture.astype(int) - COLOURS[0]).max(axis=-1) < 25
    assert np.nonzero(road)[0].mean() > wall[0]  # the road is below: not upside down


def test_slider_and_view_from_above_work(page: Path, tmp_path: Path) -> None:
    script = (
        "setTimeout(() => { const slider = document.getElementById('frame'); slider.value = 0;"
        "slider.dispatchEvent(new Event('input')); document.getElementById('show-surface').click();"
        "document.querySelector('[data-viewpoint=top]').click(); }, 500);"
    )
    opened = open_page(with_additions(page, "above.html", FULL_SCENE, script), tmp_path)
    assert opened.console == []
    assert "frame 1 ·" in opened.dom
    voxels = street()
    completed = int((voxels.state == 4).sum())
    assert f'data-drawn="{completed}"' in opened.dom
    row, column = centre_of(opened.picture, 1)  # the hedge, 9.5 m ahead of 12, 2 m to the left of 4
    assert row < 0.45 * opened.picture.shape[0]
    assert column < 0.48 * opened.picture.shape[1]


def test_words_are_counted_and_offered_only_where_they_match(tmp_path: Path) -> None:
    with ReportWriter(tmp_path / "report", "Test drive", STREET, COLOURS, words=WORDS) as report:
        report.add_frame(street(), *SEEN, TIMES, matches=words_of_street())
        report.add_frame(street(stamp_ns=1), *SEEN, TIMES)
    script = """setTimeout(() => {
      const log = [], word = (number) => document.querySelector(`[data-word="${number}"]`);
      const lit = () => [...document.querySelectorAll("[data-word][aria-pressed=true]")];
      const say = () => log.push([document.getElementById("matching").textContent,
        lit().map((button) => button.textContent)]);
      const show = (number) => {
        document.getElementById("frame").value = number;
        document.getElementById("frame").dispatchEvent(new Event("input"));
      };
      log.push([word(0).disabled, word(1).disabled, word(2)]);  // it opens in mid-drive: at the frame without an answer
      show(0);
      setTimeout(() => {
        say();
        word(0).click(); say();
        word(1).click(); say();
        word(1).click(); document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" })); say();
        word(1).click(); document.getElementById("no-word").click(); say();
        log.push([0, 1].map((number) => word(number).tabIndex));
        word(0).click();
        show(1);
        setTimeout(() => { say(); document.body.dataset.log = JSON.stringify(log); }, 500);
      }, 500);
    }, 500);"""
    opened = open_page(with_additions(report.index, "words.html", "", script), tmp_path)
    assert opened.console == []
    found = re.search(r'data-log="([^"]*)"', opened.dom)
    assert found, "the script did not reach its end"
    log = json.loads(html.unescape(found.group(1)))
    voxels = street()
    wall, hedge = (int((voxels.label == label).sum()) for label in (1, 2))
    none = ["Words light up the voxels that match them.", []]
    assert log == [
        [True, True, None],
        none,
        [f"wall: {wall:,} of {len(voxels):,} voxels match", ["wall"]],
        [f"wall, <b>hedge</b> & co: {wall + hedge:,} of {len(voxels):,} voxels match", ["wall", "<b>hedge</b> & co"]],
        none,
        none,
        [0, 0],  # the keyboard reaches the buttons
        ["The words were not answered for this frame.", ["wall"]],
    ]
