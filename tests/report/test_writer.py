"""What the page of a report holds, and its files."""

import base64
import re
import signal
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.inference.evidence import Evidence
from scene_completion_ros.inference.motion_scale import Scale
from scene_completion_ros.report import writer
from scene_completion_ros.report.summaries import evidence_summary
from scene_completion_ros.report.writer import (
    LIDAR_RESOLUTION,
    PROBABILITIES,
    ReportWriter,
    pack_lidar,
    pack_matches,
    pack_voxels,
)
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches
from tests.checkout import run_python
from tests.report.pages import embedded_frames, lidar_of, matches_of, word_buttons
from tests.voxels.samples import COLOURS, SEEN, STREET, WORDS, street, words_of_street


def test_voxels_come_back_from_their_bytes() -> None:
    voxels = street()
    planes = np.frombuffer(zlib.decompress(pack_voxels(voxels)), np.uint8).reshape(7, -1).astype(np.int64)
    flat = np.cumsum(planes[0] + (planes[1] << 8) + (planes[2] << 16) + (planes[3] << 24))
    index = np.stack(np.unravel_index(flat, voxels.grid.shape), axis=-1)
    assert np.array_equal(index, voxels.index)  # argwhere's order is that of the flat index
    assert np.array_equal(planes[4], voxels.label)
    assert np.array_equal(planes[5], voxels.state[tuple(voxels.index.T)])
    assert np.array_equal(planes[6] * PROBABILITIES // 255, np.floor(voxels.probability * PROBABILITIES))


def test_matches_come_back_in_the_order_of_the_voxels() -> None:
    voxels = street()
    turned = replace(voxels, **{n: getattr(voxels, n)[::-1] for n in ("index", "probability", "label")})
    for given, last in ((voxels, 0), (turned, len(voxels) - 1)):
        found = [
            PhraseMatches(str(word), abs(np.array([word], np.int32) - last), *2 * [np.ones(1, np.float32)])
            for word in range(10)
        ]
        packed = {"matches": base64.b64encode(pack_matches(found, given)), "count": len(given)}
        assert matches_of(packed, 10)[:, :11].tolist() == np.eye(10, 11).tolist()


def test_lidar_comes_back_within_its_resolution_and_dense_scans_are_thinned() -> None:
    voxels = street()
    points = np.array([[0.5, -3.0, 1.0], [11.9, 3.9, -1.9], [5.0, 9.0, 0.0], [np.nan, 0.0, 0.0]], dtype=np.float32)
    packed = {"lidar": base64.b64encode(pack_lidar(points, voxels)), "grid": {"origin": voxels.grid.origin}}
    assert lidar_of(packed) == pytest.approx(points[:2], abs=0.51 * LIDAR_RESOLUTION)
    dense = np.random.default_rng(0).uniform([0, -4, -2], [12, 4, 2], (100_001, 3)).astype(np.float32)
    assert 15_000 < len(zlib.decompress(pack_lidar(dense, voxels))) // 6 <= 20_000


KNOWN = Evidence(Scale(1.25, 0.04, 80, 1.5, "")).summary()
DOUBTED = Evidence(Scale(1.0, 0.1, 12, 1.5, "only 12 corners were found again")).summary()
UNKNOWN = Evidence(Scale(why="no odometry: no transform at 17 ns")).summary()
ASIDE = Evidence().summary()


def test_frames_are_summed_up() -> None:
    other = Evidence(Scale(why="no odometry: no transform at 18 ns")).summary()
    found = evidence_summary([UNKNOWN, other, DOUBTED, KNOWN, KNOWN])
    assert (found["frames"], found["factor_median"], found["deviation_median"]) == (3, 1.25, 0.04)
    assert found["not_measured"] == {"no odometry: no transform at … ns": 2, "only … corners were found again": 1}
    assert found["by_frame"] == [None, None, [1.0, 0.1], [1.25, 0.04], [1.25, 0.04]]
    assert evidence_summary([UNKNOWN])["factor_median"] is None
    assert evidence_summary([ASIDE, ASIDE]) == evidence_summary([]) == {}


def test_the_page_carries_everything_itself(tmp_path: Path) -> None:
    voxels = street()
    with ReportWriter(tmp_path, "A <street> & more", STREET, COLOURS) as report:
        report.add_frame(voxels, *SEEN)
        latency_ms = {"encode": {"p50": 12.52, "p95": 30.01}, "end_to_end": None}
        statistics = {"frames": {"in": 1, "out": 1}, "rate_hz": 9.8123456, "latency_ms": latency_ms}
        assert "<th>medians [m]</th>" not in report.close(statistics).read_text("utf-8")
        report.close({**statistics, "bodies": {"car, to 25.6 m": {"things": 2, "overhang": 3.04}}})
    text = report.index.read_text("utf-8")
    (frame,) = embedded_frames(report.index)
    assert base64.b64decode(frame["voxels"]) == pack_voxels(voxels)
    assert all(base64.b64decode(frame[name])[:2] == b"\xff\xd8" for name in ("camera_jpg", "depth_jpg"))
    assert frame["count"] == len(voxels)
    # The view opens to the left (y > 0) and to the right, and the camera looks along x.
    assert frame["viewpoint"]["heading"] == pytest.approx(0.0, abs=1e-9)
    assert frame["viewpoint"]["corners"][0] == pytest.approx([2.0, 1.6, 0.8])
    assert "A &lt;street&gt; &amp; more" in text
    assert "9.812" in text
    assert '<td>encode</td><td class="number">12.5</td><td class="number">30.0</td>' in text
    assert "<th>medians [m]</th><th>things</th><th>overhang</th>" in text
    assert '<td>car, to 25.6 m</td><td class="number">2</td><td class="number">3.0</td>' in text
    assert all(name in text for name in STREET)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)""", text)
    assert not re.findall(r"https?://|@import|url\(|\bfetch\(|XMLHttpRequest|WebSocket", text)


def test_a_killed_process_leaves_pictures_and_a_page(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from scene_completion_ros.report.writer import ReportWriter;"
        "from tests.voxels.samples import *; report = ReportWriter(sys.argv[1], 'test', STREET, COLOURS);"
        "[report.add_frame(street(stamp_ns=i), *SEEN) for i in range(5)];"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert run_python("-c", code, tmp_path).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "frames").glob("*_camera.jpg"))) == 5
    assert len(embedded_frames(tmp_path / "index.html")) == 4  # rewritten after 1, 2, 4 frames


def test_a_page_shows_as_many_frames_as_fit_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ReportWriter(tmp_path, "test", STREET, COLOURS) as report:
        for i in range(5):
            report.add_frame(street(stamp_ns=(7 + i) * 10**9), *SEEN)
        monkeypatch.setattr(writer, "LARGEST_PAGE", report.index.stat().st_size * 3 // 4)
        page = report.close(headlines={"rate": "2.5 Hz"})
    captions = [frame["caption"].split(" · ")[:2] for frame in embedded_frames(page)]
    assert captions == [["frame 1", "t = 0.0 s"], ["frame 3", "t = 2.0 s"], ["frame 5", "t = 4.0 s"]]
    text = page.read_text("utf-8")
    assert "Of 5 frames one of 2 is shown here" in text
    assert text.index("2.5 Hz") < text.index('id="frame"')


def test_a_report_is_written_over_nothing_and_not_without_frames_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ReportWriter(tmp_path, "test", STREET, COLOURS):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SceneCompletionError, match="is not empty. Move it away, or name another folder"):
        ReportWriter(tmp_path, "test", STREET, COLOURS)


def test_words_are_buttons_and_their_voxels_are_in_the_page(tmp_path: Path) -> None:
    voxels, matches = street(), words_of_street()
    with ReportWriter(tmp_path, "test", STREET, COLOURS, words=WORDS) as report:
        report.add_frame(voxels, *SEEN, matches=matches)
        report.add_frame(voxels, *SEEN)  # was not answered
    answered, silent = embedded_frames(report.index)
    # The order of `pack_voxels` is that of `argwhere`, in which the scene has its voxels.
    assert np.array_equal(matches_of(answered, 3), [voxels.label == 1, voxels.label == 2, np.zeros(len(voxels), bool)])
    assert silent["matches"] is None
    assert word_buttons(report.index) == {"0": WORDS[0], "1": WORDS[1]}  # the third matches nowhere


def test_text_is_text_wherever_it_stands(tmp_path: Path) -> None:
    hostile = """</script><script>alert(1)</script><img src=x onerror="alert(2)">'{colourings}"""
    with ReportWriter(tmp_path, hostile, (hostile, "b"), ((1, 2, 3), (4, 5, 6)), words=(hostile,)) as report:
        (found, *_) = words_of_street()
        report.add_frame(street(), *SEEN, matches=[replace(found, phrase=hostile)])
        report.close({"latency_ms": {hostile: {"p50": 1.0}}})
    assert word_buttons(report.index) == {"0": hostile}
    assert "<img src=x" not in report.index.read_text("utf-8")
    assert report.index.read_text("utf-8").count("</script>") == 3  # settings, one frame, the viewer
