import base64
import json
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.report import writer
from scene_completion_ros.report.writer import ReportWriter, pack_voxels
from tests.checkout import run_python
from tests.report.pages import WordButtons, embedded_frames, matches_of
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


def test_a_killed_process_leaves_pictures_and_a_page(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from scene_completion_ros.report.writer import ReportWriter;"
        "from tests.report.scenes import street; report = ReportWriter(sys.argv[1], 'test');"
        "[report.add_frame(street(stamp_ns=i)) for i in range(5)]; os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert run_python("-c", code, tmp_path).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "pictures").glob("*.jpg"))) == 5
    assert len(embedded_frames(tmp_path / "index.html")) == 4  # rewritten after 1, 2, 4 frames


def test_a_page_shows_as_many_frames_as_fit_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ReportWriter(tmp_path, "test", NAMES, COLOURS) as report:
        for i in range(5):
            report.add_frame(street(stamp_ns=(7 + i) * SECOND), photo(), camera=CAMERA)
        monkeypatch.setattr(writer, "LARGEST_PAGE", report.index.stat().st_size * 3 // 4)
        page = report.close(headlines={"rate": "2.5 Hz"})
    captions = [frame["caption"].split(" · ")[:2] for frame in embedded_frames(page)]
    assert captions == [["frame 1", "t = 0.0 s"], ["frame 3", "t = 2.0 s"], ["frame 5", "t = 4.0 s"]]
    text = page.read_text("utf-8")
    assert "Of 5 frames one of 2 is shown here" in text
    assert text.index("2.5 Hz") < text.index('id="frame"')


def test_a_report_replaces_the_earlier_one_and_no_file_of_others(tmp_path: Path) -> None:
    def written(frames: int) -> set[str]:
        with ReportWriter(tmp_path, "test", NAMES, COLOURS) as report:
            for i in range(frames):
                report.add_frame(street(stamp_ns=i), photo(), camera=CAMERA)
        return {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*")}

    first = written(1)
    written(2)
    notes = {"pictures/000001_my_notes.txt", "pictures/000099_album"}
    (tmp_path / "pictures" / "000001_my_notes.txt").touch()
    (tmp_path / "pictures" / "000099_album").mkdir()
    with (tmp_path / "frames" / "files.txt").open("a") as listed:
        listed.write("pictures/000001_my_notes.txt\n../" + tmp_path.name + "/pictures/000001_my_notes.txt\n")
    assert written(1) == first | notes
    (tmp_path / "pictures" / "000000.jpg").rename(tmp_path / "pictures" / "000007.jpg")
    with pytest.raises(SceneCompletionError, match="000007.jpg: is not of an earlier report, and in the way. Move it"):
        written(1)


def test_words_are_buttons_and_their_voxels_are_in_the_page(tmp_path: Path) -> None:
    voxels, matches = street(), words_of_street()
    with ReportWriter(tmp_path, "test", NAMES, COLOURS, words=WORDS) as report:
        report.add_frame(voxels, matches=matches)
        report.add_frame(voxels)  # was not answered
    answered, silent = embedded_frames(report.index)
    # The order of `pack_voxels` is that of `argwhere`, in which the scene has its voxels.
    assert np.array_equal(matches_of(answered, 3), [voxels.label == 1, voxels.label == 2, np.zeros(len(voxels), bool)])
    assert silent["matches"] is None
    buttons = WordButtons(report.index)
    assert buttons.words == {str(number): word for number, word in enumerate(WORDS[:2])}  # the third matches nowhere
    assert "b" not in buttons.tags


def test_text_is_text_wherever_it_stands(tmp_path: Path) -> None:
    hostile = """</script><script>alert(1)</script><img src=x onerror="alert(2)">'{colourings}"""
    with ReportWriter(tmp_path, hostile, (hostile, "b"), ((1, 2, 3), (4, 5, 6)), words=(hostile,)) as report:
        (found, *_) = words_of_street()
        report.add_frame(street(), timings_ms={hostile: 1.0}, matches=[replace(found, phrase=hostile)])
    assert WordButtons(report.index).words == {"0": hostile}
    assert "<img src=x" not in report.index.read_text("utf-8")
    assert report.index.read_text("utf-8").count("</script>") == 3  # settings, one frame, the viewer
