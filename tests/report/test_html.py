import dataclasses
import xml.etree.ElementTree as ElementTree
import zlib

import numpy as np
import pytest

from scene_completion_ros.report.html import LIDAR_RESOLUTION, pack_lidar, pack_matches, pack_voxels
from scene_completion_ros.report.latency_plot import latency_svg
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches
from tests.report.scenes import street


def test_voxels_come_back_from_their_bytes() -> None:
    voxels = street()
    planes = np.frombuffer(zlib.decompress(pack_voxels(voxels)), np.uint8).reshape(7, -1).astype(np.int64)
    flat = np.cumsum(planes[0] + (planes[1] << 8) + (planes[2] << 16) + (planes[3] << 24))
    index = np.stack(np.unravel_index(flat, voxels.grid.shape), axis=-1)
    assert np.array_equal(index, voxels.index)  # argwhere's order is that of the flat index
    assert np.array_equal(planes[4], voxels.label)
    assert np.array_equal(planes[5], voxels.state[tuple(voxels.index.T)])
    assert planes[6] / 255.0 == pytest.approx(voxels.probability, abs=0.5 / 255 + 1e-6)


def test_matches_come_back_in_steps_of_a_tenth_and_in_the_order_of_the_voxels() -> None:
    voxels = street()
    turned = dataclasses.replace(voxels, **{n: getattr(voxels, n)[::-1] for n in ("index", "probability", "label")})
    probability = np.array([0.499, 0.5, 0.59, 0.61, 0.75, 0.91, 1.0, np.nan], dtype=np.float32)
    car, tree = np.arange(8, dtype=np.int32), np.array([3], dtype=np.int32)
    for given, last in ((voxels, 0), (turned, len(voxels) - 1)):
        found = [
            PhraseMatches("car", abs(car - last), probability, probability),
            PhraseMatches("tree", abs(tree - last), probability[:1], np.array([0.85], np.float32)),
        ]
        packed = pack_matches(found, given)
        planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(2, -1)
        assert planes[0, :9].tolist() == [0, 1, 1, 2, 3, 5, 5, 0, 0]
        assert np.argwhere(planes[1]).tolist() == [[3]] and planes[1, 3] == 4


def test_lidar_comes_back_within_its_resolution_and_dense_scans_are_thinned() -> None:
    voxels = street()
    points = np.array([[0.5, -3.0, 1.0], [11.9, 3.9, -1.9], [5.0, 9.0, 0.0], [np.nan, 0.0, 0.0]], dtype=np.float32)
    planes = np.frombuffer(zlib.decompress(pack_lidar(points, voxels)), np.uint8).reshape(3, 2, -1).astype(np.int64)
    found = (planes[:, 0] + 256 * planes[:, 1] + 0.5) * LIDAR_RESOLUTION
    assert found.T + np.array(voxels.grid.origin) == pytest.approx(points[:2], abs=0.51 * LIDAR_RESOLUTION)
    dense = np.random.default_rng(0).uniform([0, -4, -2], [12, 4, 2], (100_001, 3)).astype(np.float32)
    assert 30_000 < len(zlib.decompress(pack_lidar(dense, voxels))) // 6 <= 40_000


@pytest.mark.parametrize("count", [1, 2, 5000])
def test_any_number_of_frames_is_drawn(count: int) -> None:
    timings = [{"total": 1.0} for _ in range(count)]
    timings[count // 2]["total"] = 500.0
    (line,) = ElementTree.fromstring(latency_svg(timings)).findall("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert len(points) <= 500
    assert min(row for _, row in points) < 60  # the one slow frame is not thinned away
    assert "No latency" in latency_svg([{}, {}])
