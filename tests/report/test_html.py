import dataclasses
import xml.etree.ElementTree as ElementTree
import zlib

import numpy as np
import pytest

from scene_completion_ros.report.plots import latency_svg
from scene_completion_ros.report.writer import LIDAR_RESOLUTION, PROBABILITIES, pack_lidar, pack_matches, pack_voxels
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
    assert np.array_equal(planes[6] * PROBABILITIES // 255, np.floor(voxels.probability * PROBABILITIES))


def test_matches_come_back_in_the_order_of_the_voxels() -> None:
    voxels = street()
    turned = dataclasses.replace(voxels, **{n: getattr(voxels, n)[::-1] for n in ("index", "probability", "label")})
    for given, last in ((voxels, 0), (turned, len(voxels) - 1)):
        found = [
            PhraseMatches(str(word), abs(np.array([word], np.int32) - last), *2 * [np.ones(1, np.float32)])
            for word in range(10)
        ]
        planes = np.frombuffer(zlib.decompress(pack_matches(found, given)), np.uint8).reshape(2, -1)
        assert planes[0, :11].tolist() == [1, 2, 4, 8, 16, 32, 64, 128, 0, 0, 0]
        assert planes[1, :11].tolist() == 8 * [0] + [1, 2, 0]


def test_lidar_comes_back_within_its_resolution_and_dense_scans_are_thinned() -> None:
    voxels = street()
    points = np.array([[0.5, -3.0, 1.0], [11.9, 3.9, -1.9], [5.0, 9.0, 0.0], [np.nan, 0.0, 0.0]], dtype=np.float32)
    planes = np.frombuffer(zlib.decompress(pack_lidar(points, voxels)), np.uint8).reshape(3, 2, -1).astype(np.int64)
    found = (planes[:, 0] + 256 * planes[:, 1] + 0.5) * LIDAR_RESOLUTION
    assert found.T + np.array(voxels.grid.origin) == pytest.approx(points[:2], abs=0.51 * LIDAR_RESOLUTION)
    dense = np.random.default_rng(0).uniform([0, -4, -2], [12, 4, 2], (100_001, 3)).astype(np.float32)
    assert 15_000 < len(zlib.decompress(pack_lidar(dense, voxels))) // 6 <= 20_000


@pytest.mark.parametrize("count", [1, 2, 5000])
def test_any_number_of_frames_is_drawn(count: int) -> None:
    timings = [{"total": 1.0} for _ in range(count)]
    timings[count // 2]["total"] = 500.0
    (line,) = ElementTree.fromstring(latency_svg(timings)).findall("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert len(points) <= 500
    assert min(row for _, row in points) < 60  # the one slow frame is not thinned away
    assert "No latency" in latency_svg([{}, {}])
