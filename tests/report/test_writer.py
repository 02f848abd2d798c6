from __future__ import annotations

import base64
import dataclasses
import json
import re
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_ros.errors import GridError
from scene_completion_ros.report.html import pack_voxels
from scene_completion_ros.report.writer import ReportWriter
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels
from tests.checkout import run_python
from tests.report.animations import decoded
from tests.report.pages import WordButtons, embedded_frames, steps_of_matches
from tests.report.scenes import CAMERA, COLOURS, NAMES, WORDS, photo, street, words_of_street

SECOND = 1_000_000_000


def test_the_page_carries_everything_itself(tmp_path: Path) -> None:
    voxels = street()
    with ReportWriter(tmp_path, "A <street> & more", NAMES, COLOURS) as report:
        report.add_frame(voxels, photo(), camera=CAMERA, timings_ms={"encode": 12.5, "total": 30.0})
        report.close({"frames": {"in": 1, "out": 1}, "rate_hz": 9.8123456})
    text = report.index.read_text("utf-8")
    (frame,) = embedded_frames(report.index)
    assert base64.b64decode(frame["voxels"]) == pack_voxels(voxels)
    assert base64.b64decode(frame["camera_jpg"])[:2] == b"\xff\xd8"
    assert frame["count"] == len(voxels)
    assert "A &lt;street&gt; &amp; more" in text
    assert "9.812" in text
    assert all(name in text for name in NAMES)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)""", text)
    assert not re.findall(r"https?://|@import|url\(|\bfetch\(|XMLHttpRequest|WebSocket", text)


def test_image_depth_camera_and_timings_stand_in_the_frame(tmp_path: Path) -> None:
    report = ReportWriter(tmp_path, "test", NAMES, COLOURS)
    depth = np.full((40, 80), 7.0, np.float32)
    report.add_frame(street(), photo(), depth, camera=CAMERA, timings_ms={"total": 41.5})
    frame = json.loads((tmp_path / "frames" / "000000.json").read_text())
    assert frame["timings_ms"] == {"total": 41.5}
    assert frame["depth_name"] == "depth"
    assert (tmp_path / "frames" / "000000_camera.jpg").exists()
    # The view opens to the left (y > 0) and to the right, and the camera looks along x.
    assert frame["viewpoint"]["heading"] == pytest.approx(0.0, abs=1e-9)
    assert frame["viewpoint"]["corners"][0] == pytest.approx([2.0, 1.6, 0.8])


def test_voxels_alone_are_enough(tmp_path: Path) -> None:
    with ReportWriter(tmp_path, "test") as report:
        report.add_frame(street(classes=False))
    (frame,) = embedded_frames(report.index)
    assert frame["camera_jpg"] is None
    assert frame["depth_jpg"] is None
    assert frame["lidar"] is None
    assert frame["birds_eye_png"]


def test_a_killed_process_leaves_pictures_and_a_page(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from scene_completion_ros.report.writer import ReportWriter;"
        "from tests.report.scenes import street; report = ReportWriter(sys.argv[1], 'test');"
        "[report.add_frame(street(stamp_ns=i)) for i in range(5)]; os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert run_python("-c", code, tmp_path).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "pictures").glob("*.jpg"))) == 5
    assert len(embedded_frames(tmp_path / "index.html")) == 4  # rewritten after 1, 2, 4 frames


def test_a_long_drive_shows_evenly_spaced_frames(tmp_path: Path) -> None:
    with ReportWriter(tmp_path, "test", most_frames=3) as report:
        for i in range(8):
            report.add_frame(street(stamp_ns=i * SECOND))
    assert len(report) == 8
    assert [frame["stamp_ns"] // SECOND for frame in embedded_frames(report.index)] == [0, 3, 6]
    assert "one of 3" in report.index.read_text("utf-8")
    assert len(list((tmp_path / "pictures").glob("*.jpg"))) == 8


def test_an_older_report_does_not_shine_through(tmp_path: Path) -> None:
    with ReportWriter(tmp_path, "old") as old:
        for _ in range(3):
            old.add_frame(street(), photo())
    (tmp_path / "pictures" / "holiday.jpg").write_bytes(b"keep")
    with ReportWriter(tmp_path, "new") as new:
        new.add_frame(street())
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["000000.jpg", "holiday.jpg"]
    assert embedded_frames(new.index)[0]["camera_jpg"] is None


@pytest.mark.parametrize("classes", [True, False])
def test_the_drive_is_an_animation_beside_the_page_and_at_its_top(tmp_path: Path, classes: bool) -> None:
    names, colours = (NAMES, COLOURS) if classes else (("unlabelled",), ((128, 128, 128),))
    with ReportWriter(tmp_path, "test", names, colours) as report:
        for i in range(5):
            report.add_frame(street(classes=classes, stamp_ns=i * SECOND // 10), photo(), camera=CAMERA)
    data = (tmp_path / "drive.webp").read_bytes()
    assert decoded(data).durations_ms == [100] * 5
    text = report.index.read_text("utf-8")
    (embedded,) = re.findall(r'<img [^>]*src="data:image/webp;base64,([^"]*)"', text)
    assert base64.b64decode(embedded) == data
    assert "5 of 5 frames, as fast as driven" in text
    assert text.index(embedded) < text.index('id="frame"')
    assert not list(tmp_path.glob("*.part"))


def test_without_a_frame_there_is_no_animation_not_even_an_older_one(tmp_path: Path) -> None:
    with ReportWriter(tmp_path, "old") as old:
        old.add_frame(street())
    assert old.animation.exists()
    with ReportWriter(tmp_path, "new") as new:
        pass
    assert not new.animation.exists()
    page = new.index.read_text("utf-8")
    assert "<img" not in page and "No frame was completed" in page


def test_lidar_is_in_the_pictures_but_hides_no_voxel_of_the_animation(tmp_path: Path) -> None:
    scan = np.random.default_rng(0).uniform([0, -4, -2], [12, 4, 2], (5000, 3)).astype(np.float32)
    reports = []
    for name, lidar in (("with", scan), ("without", None)):
        with ReportWriter(tmp_path / name, "test") as report:
            report.add_frame(street(), photo(), camera=CAMERA, lidar_grid=lidar)
        reports.append(report)
    first, second = reports
    assert first.animation.read_bytes() == second.animation.read_bytes()
    views = [cv2.imread(str(report.folder / "frames" / "000000_birds_eye.png")) for report in reports]
    assert (views[0] == 0).all(axis=-1).sum() > (views[1] == 0).all(axis=-1).sum() + 1000


def test_what_a_second_student_was_found_to_be_has_a_section_of_its_own(tmp_path: Path) -> None:
    with ReportWriter(tmp_path, "test") as report:
        report.add_frame(street())
        report.close({"frames_out": 1, "shadow": {}})
        assert "Shadow" not in report.index.read_text("utf-8")
        report.close({"frames_out": 1, "shadow": {"outcome": "the shadow <is> better", "images skipped": "3"}})
    page = report.index.read_text("utf-8")
    section, further = page.split("<h2>Shadow student</h2>")[1].split("<h2>Statistics</h2>")
    assert "the shadow &lt;is&gt; better" in section and "images skipped" in section
    assert "images skipped" not in further.split("</table>")[0] and "frames out" in further


def test_text_cannot_end_the_script(tmp_path: Path) -> None:
    with ReportWriter(tmp_path, "</script><b>", ("</script>", "b"), ((1, 2, 3), (4, 5, 6))) as report:
        report.add_frame(street(), timings_ms={"</script>": 1.0})
    text = report.index.read_text("utf-8")
    assert text.count("</script>") == 3  # settings, one frame, the viewer


def test_words_are_buttons_and_their_voxels_are_in_the_page(tmp_path: Path) -> None:
    voxels, matches = street(), words_of_street()
    with ReportWriter(tmp_path, "test", NAMES, COLOURS, words=WORDS) as report:
        report.add_frame(voxels, matches=matches)
        report.add_frame(voxels)  # was not answered
    answered, silent = embedded_frames(report.index)
    # The order of `pack_voxels` is that of `argwhere`, in which the scene has its voxels.
    assert np.array_equal(
        steps_of_matches(answered) > 0, [voxels.label == 1, voxels.label == 2, np.zeros(len(voxels), bool)]
    )
    assert silent["matches"] is None
    buttons = WordButtons(report.index)
    assert buttons.words == {str(number): word for number, word in enumerate(WORDS)}
    assert "b" not in buttons.tags


def test_a_word_is_text_wherever_it_stands(tmp_path: Path) -> None:
    hostile = """</script><script>alert(1)</script><img src=x onerror="alert(2)">'{colourings}"""
    with ReportWriter(tmp_path, "test", words=(hostile,)) as report:
        report.add_frame(street())
    assert WordButtons(report.index).words == {"0": hostile}
    assert "<img src=x" not in report.index.read_text("utf-8")
    assert report.index.read_text("utf-8").count("</script>") == 3  # settings, one frame, the viewer


def test_matches_of_other_words_or_voxels_are_refused(tmp_path: Path) -> None:
    for words, voxels in ((NAMES, street()), ((), street()), (WORDS, without_most(street()))):
        report = ReportWriter(tmp_path, "test", words=words)
        with pytest.raises(GridError, match="matches: are of"):
            report.add_frame(voxels, matches=words_of_street())
        assert len(report) == 0


def without_most(voxels: SemanticVoxels) -> SemanticVoxels:
    kept = {name: getattr(voxels, name)[:9] for name in ("index", "probability", "label", "confidence")}
    return dataclasses.replace(voxels, **kept)
