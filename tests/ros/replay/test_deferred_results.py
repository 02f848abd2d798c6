"""Results come back from the disk as they were put there."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np

from scene_completion_ros.bags.reader import BagMessage, BagReader
from scene_completion_ros.ros.replay.deferred_results import DeferredResults
from scene_completion_ros.ros.replay.results import ReplayResult
from scene_completion_ros.voxels.cloud import MATCH_CLOUD_DTYPE, VOXEL_CLOUD_DTYPE
from tests.ros.replay.test_bag_replay import CAMERA, write_bag


def result_of(source: BagMessage, number: int) -> ReplayResult:
    voxels = np.zeros(5 * number, VOXEL_CLOUD_DTYPE)
    voxels["x"] = np.arange(5 * number)
    matches = np.zeros(number, MATCH_CLOUD_DTYPE) if number % 2 else None
    depth = np.array([[1.0 + number, np.inf, np.nan]], np.float32)
    return ReplayResult(number, number, "camera", source.message, voxels, depth, CAMERA, 1.0, {"total": 2.0}, matches)


def test_results_wait_on_the_disk(tmp_path: Path) -> None:
    write_bag(tmp_path / "drive", frames=3)
    with BagReader(tmp_path / "drive") as reader:
        sources = list(reader.messages(["/front/image_raw"]))
    kept = DeferredResults()
    for first in (0, 1):  # the second time in the place of the first
        given = [result_of(source, number) for number, source in enumerate(sources)][first:]
        for result, source in zip(given, sources[first:], strict=True):
            kept.put(result, source)
        for result, taken in zip(given, kept.take_all(), strict=True):
            for part in fields(ReplayResult):
                if part.name != "image_message":
                    np.testing.assert_equal(getattr(taken, part.name), getattr(result, part.name))
            np.testing.assert_array_equal(taken.image_rgb, result.image_rgb)
        assert not list(kept.take_all())
    kept.close()
