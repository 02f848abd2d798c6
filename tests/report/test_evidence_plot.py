from xml.etree import ElementTree

import pytest

from scene_completion_ros.inference.motion_scale import Scale
from scene_completion_ros.inference.scene_query import Evidence
from scene_completion_ros.report.plots import evidence_summary, evidence_svg

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


def test_the_line_is_interrupted_where_nothing_is_known() -> None:
    drawn = ElementTree.fromstring(evidence_svg([KNOWN, KNOWN, UNKNOWN, DOUBTED]))
    lines = [
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        for line in drawn.findall("polyline")
    ]
    assert [[column for column, _ in line] for line in lines] == [[120.0, 360.0], [840.0]]
    (one,) = {row for _, row in lines[1]}
    assert one == pytest.approx(float(drawn.find("line").attrib["y1"]), abs=0.06)  # type: ignore[union-attr]
    assert all(row < one for _, row in lines[0])  # a larger factor is higher up
    assert [len(band.attrib["points"].split()) for band in drawn.findall("polygon")] == [4, 2]
    assert evidence_svg([UNKNOWN, ASIDE]) == evidence_svg([]) == ""
    long = ElementTree.fromstring(evidence_svg([KNOWN] * 5000)).find("polyline")
    assert long is not None and len(long.attrib["points"].split()) <= 960
