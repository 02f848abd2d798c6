"""A drive through a town as a `PosedSequence` whose images and ground truth are computed when asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ImageError
from scene_completion_ros.geometry.grids import DEFAULT_GRID, VoxelGrid
from scene_completion_ros.sequences.posed_sequence import ArrayLoader, Frame, PosedSequence
from training.street_world.camera_rig import FRAME_RATE_HZ, LEFT, StreetRig, drive_length, drive_poses, stamps_ns
from training.street_world.ground_truth import VoxelTruth, voxel_truth
from training.street_world.lidar import scan
from training.street_world.render import Renderer, View
from training.street_world.scene import build_scene
from training.street_world.seeds import role_of_seed
from training.street_world.town import make_town

ASSETS = ("lidar", "depth", "label", "voxels")
"""What a drive can hold beside its images; depth, label and voxels belong to the left camera."""


class RenderedImage:
    """One image of a drive, rendered when asked for, stored as JPEG.

    Args:
        drive: The drive.
        index: Frame number.
        camera: Camera name.
        quality: JPEG quality of `encoded`.
    """

    def __init__(self, drive: StreetDrive, index: int, camera: str, quality: int) -> None:
        self._drive, self._index, self._camera, self._quality = drive, index, camera, quality

    def __call__(self) -> NDArray[np.uint8]:
        """Render: uint8 RGB [H, W, 3]."""
        return self._drive.image(self._index, self._camera)

    def encoded(self) -> tuple[bytes, str]:
        """JPEG content and its suffix."""
        good, content = cv2.imencode(
            ".jpg", cv2.cvtColor(self(), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, self._quality]
        )
        if not good:
            raise ImageError("OpenCV could not encode a JPEG", where=f"frame {self._index}")
        return content.tobytes(), ".jpg"


class StreetDrive:
    """A rig driving through the town of a seed.

    Args:
        seed: Town; `seeds` says which seeds may be used for what.
        frames: Number of frames.
        rig: Cameras and LiDAR.
        grid: Voxel grid of the ground truth, around the left camera.
        supersampling: Rays along each side of a pixel.
        rate_hz: Frames a second, at about 8 m/s.
    """

    def __init__(
        self,
        seed: int,
        frames: int,
        rig: StreetRig,
        grid: VoxelGrid = DEFAULT_GRID,
        supersampling: int = 2,
        rate_hz: float = FRAME_RATE_HZ,
    ) -> None:
        self.seed, self.rig, self.grid = seed, rig, grid
        self.role = role_of_seed(seed)
        town = make_town(seed, drive_length(frames, rate_hz))
        self.scene = build_scene(town)
        self.poses = drive_poses(town.line, frames, seed, rate_hz)
        self.stamps = stamps_ns(frames, rate_hz)
        self._renderer = Renderer(self.scene, supersampling)
        self._truth: tuple[int, VoxelTruth] | None = None
        self.on_image: Callable[[int, str], None] | None = None  # told of every image before it is rendered

    def image(self, index: int, camera: str) -> NDArray[np.uint8]:
        """Render a frame: uint8 RGB [H, W, 3]."""
        if self.on_image is not None:
            self.on_image(index, camera)
        return self._renderer.image(self.rig.cameras[camera], self.poses[index] @ self.rig.rig_from_camera[camera])

    def view(self, index: int, camera: str = LEFT) -> View:
        """Depth and labels of a frame."""
        return self._renderer.view(self.rig.cameras[camera], self.poses[index] @ self.rig.rig_from_camera[camera])

    def lidar(self, index: int) -> NDArray[np.float32]:
        """LiDAR points of a frame in the rig frame, float32 [N, 3]."""
        world_from_lidar = self.poses[index] @ self.rig.rig_from_lidar
        points, _ = scan(self.scene, self.rig.lidar, world_from_lidar, (self.seed, index))
        return np.asarray(self.rig.rig_from_lidar.apply(points), np.float32)

    def truth(self, index: int) -> VoxelTruth:
        """Voxel ground truth around the left camera."""
        if self._truth is None or self._truth[0] != index:
            pose = self.poses[index] @ self.rig.rig_from_camera[LEFT]
            self._truth = (index, voxel_truth(self.scene, self.rig.cameras[LEFT], pose, self.grid))
        return self._truth[1]

    def sequence(self, assets: tuple[str, ...] = ASSETS, quality: int = 92) -> PosedSequence:
        """The drive as a posed sequence.

        Frames carry the assets "lidar" (float32 [N, 3], rig frame), "depth" (float32 [H, W], z-depth of the left
        camera, infinite in the sky), "label" (uint8 [H, W]), "voxel_label" (uint8 [X, Y, Z], `StreetClass`) and
        "voxel_flags" (uint8 [X, Y, Z], bits of `ground_truth`), as far as they are asked for.
        """
        frames = [
            Frame(
                stamp_ns=stamp,
                images={name: RenderedImage(self, index, name, quality) for name in self.rig.cameras},
                world_from_rig=self.poses[index],
                assets=self._asset_loaders(index, assets),
            )
            for index, stamp in enumerate(self.stamps)
        ]
        return PosedSequence(
            name=f"street_world_{self.seed:04d}",
            cameras=dict(self.rig.cameras),
            rig_from_camera=dict(self.rig.rig_from_camera),
            frames=frames,
            pose_source="exact poses of the street world",
            metric_scale=True,
            provenance={
                "source": "street world",
                "seed": self.seed,
                "role": self.role,
                "licence": "Apache-2.0",
                "voxel_grid": {
                    "origin": list(self.grid.origin),
                    "voxel_size": self.grid.voxel_size,
                    "shape": list(self.grid.shape),
                    "around": LEFT,
                },
            },
            rig_from_sensor={"velodyne": self.rig.rig_from_lidar},
        )

    def _asset_loaders(self, index: int, assets: tuple[str, ...]) -> dict[str, ArrayLoader]:
        loaders: dict[str, ArrayLoader] = {}
        if "lidar" in assets:
            loaders["lidar"] = partial(self.lidar, index)
        if "depth" in assets:
            loaders["depth"] = lambda: self.view(index).depth
        if "label" in assets:
            loaders["label"] = lambda: self.view(index).label
        if "voxels" in assets:
            loaders["voxel_label"] = lambda: self.truth(index).label
            loaders["voxel_flags"] = lambda: self.truth(index).flags
        return loaders
