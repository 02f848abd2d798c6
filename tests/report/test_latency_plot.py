import xml.etree.ElementTree as ElementTree

import pytest

from scene_completion_ros.report.latency_plot import latency_percentiles, latency_svg


def test_percentiles_are_those_of_every_stage() -> None:
    table = latency_percentiles([{"encode": float(i), "total": 2.0 * i} for i in range(101)])
    assert list(table) == ["encode", "total"]
    assert table["encode"]["p50"] == 50.0
    assert table["total"]["p95"] == 190.0
    assert table["total"]["max"] == 200.0
    assert latency_percentiles([{"encode": 4.0}, {}])["encode"]["mean"] == 4.0  # a frame without it does not count


@pytest.mark.parametrize("count", [1, 2, 5000])
def test_any_number_of_frames_is_drawn(count: int) -> None:
    timings = [{"total": 1.0} for _ in range(count)]
    timings[count // 2]["total"] = 500.0
    (line,) = ElementTree.fromstring(latency_svg(timings)).findall("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert len(points) <= 500
    assert min(row for _, row in points) < 60  # the one slow frame is not thinned away
    assert "No latency" in latency_svg([{}, {}])
