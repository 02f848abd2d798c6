"""The report of a whole recording: every completed frame with the recording's LiDAR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.report.lidar import LidarOfBag
from scene_completion_ros.report.writer import ReportWriter
from scene_completion_ros.voxels.phrase_matches import PhraseMatches
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels


class DriveReport:
    """Draws frames as they are completed. Use it as a context manager.

    Args:
        bag: The recording whose LiDAR is drawn, where it has one.
        words: Phrases that the frames were asked about; the page then has a button for each.
    """

    def __init__(
        self,
        bag: str | Path,
        folder: str | Path,
        class_names: Sequence[str] = ("unlabelled",),
        class_colours: Sequence[tuple[int, int, int]] = ((128, 128, 128),),
        *,
        words: Sequence[str] = (),
    ) -> None:
        self._lidar = LidarOfBag(bag)
        title = f"Completed voxels of {Path(bag).resolve().name}"
        # The report; its ``notes`` are shown on the page, its ``close`` takes the statistics.
        self.page = ReportWriter(folder, title, class_names, class_colours, words=words)
        self._stack = ExitStack()

    def __enter__(self) -> DriveReport:
        with ExitStack() as stack:
            stack.enter_context(self._lidar)
            stack.enter_context(self.page)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def add(
        self,
        voxels: SemanticVoxels,
        frame_id: str,
        image: NDArray[np.uint8],
        depth: NDArray[np.float32],
        depth_camera: Camera,
        timings_ms: Mapping[str, float],
        matches: Sequence[PhraseMatches] = (),
    ) -> None:
        """Draw one frame.

        Args:
            frame_id: Optical frame of the image; the LiDAR is brought there by the recorded transforms.
            image: RGB image [H, W, 3].
            depth: Depth along the optical axis in metres [h, w].
            depth_camera: Camera of the depth.
            timings_ms: Milliseconds by stage; ``total`` is drawn as a line above the others.
            matches: What each word matches among the voxels; none where there was no answer.
        """
        lidar = self._lidar.points_grid(frame_id, voxels.stamp_ns, voxels.grid_from_camera)
        self.page.add_frame(
            voxels, image, depth, camera=depth_camera, lidar_grid=lidar, timings_ms=timings_ms, matches=matches
        )
