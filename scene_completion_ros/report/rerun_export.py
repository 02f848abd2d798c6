"""Recordings for the Rerun viewer; ``rerun-sdk`` is an optional dependency (extra ``rerun``)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.voxels.colours import voxel_colours
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels


class RerunRecording:
    """A ``.rrd`` file that frames are written to as they come.

    Raises:
        ModuleNotFoundError: ``rerun-sdk`` is not installed.
        SceneCompletionError: It is too old.
    """

    def __init__(self, path: str | Path) -> None:
        self._rerun: Any = import_module("rerun")
        if not hasattr(self._rerun, "RecordingStream") or not hasattr(self._rerun.RecordingStream, "set_time"):
            raise SceneCompletionError(
                "the installed rerun-sdk is too old",
                where="--rerun",
                cure="Install version 0.23 or later: pip install --upgrade rerun-sdk",
            )
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self._rerun.RecordingStream("scene_completion")
        self._stream.save(str(path))
        self._stream.log("grid", self._rerun.ViewCoordinates.FLU, static=True)
        self._classes_logged = False

    def add_frame(
        self,
        voxels: SemanticVoxels,
        image: NDArray[np.uint8] | None = None,
        depth: NDArray[np.float32] | None = None,
        *,
        camera: Camera | None = None,
        lidar_grid: NDArray[np.float32] | None = None,
    ) -> None:
        """Write one frame; arguments as those of ``ReportWriter.add_frame``."""
        rerun = self._rerun
        self._stream.set_time("stamp", timestamp=np.datetime64(voxels.stamp_ns, "ns"))
        points = voxels.points_grid()
        half = np.full_like(points, 0.5 * voxels.grid.voxel_size)
        colours = voxel_colours(voxels.label, points[:, 2], voxels.class_colours)
        labels = None
        if len(voxels.class_names) > 1:
            labels = voxels.label
            if not self._classes_logged:
                classes = zip(range(len(voxels.class_names)), voxels.class_names, voxels.class_colours, strict=True)
                self._stream.log("grid", rerun.AnnotationContext(list(classes)), static=True)
                self._classes_logged = True
        boxes = rerun.Boxes3D(
            centers=points, half_sizes=half, colors=colours, class_ids=labels, show_labels=False, fill_mode="solid"
        )
        self._stream.log("grid/voxels", boxes)
        if lidar_grid is not None:
            self._stream.log("grid/lidar", rerun.Points3D(lidar_grid, radii=0.03, colors=[0, 0, 0]))
        pose = voxels.grid_from_camera
        self._stream.log("grid/camera", rerun.Transform3D(translation=pose.translation, mat3x3=pose.rotation))
        if camera is not None:
            pinhole = rerun.Pinhole(
                image_from_camera=np.asarray(camera.matrix, dtype=np.float64),
                width=camera.width,
                height=camera.height,
                camera_xyz=rerun.ViewCoordinates.RDF,
                image_plane_distance=2.0,
            )
            self._stream.log("grid/camera/depth", pinhole)
        if depth is not None:
            self._stream.log("grid/camera/depth", rerun.DepthImage(depth, meter=1.0))
        if image is not None:
            self._stream.log("image", rerun.Image(image).compress(jpeg_quality=85))

    def close(self) -> None:
        """Write what is still buffered."""
        self._stream.flush()
        self._stream.disconnect()
