"""A drive through a rendered world as a `PosedSequence` whose images and truth are computed on demand."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any

import numpy as np

from scene_completion_ros.evaluation.truth import VoxelTruth, stored_flags
from scene_completion_ros.geometry import Camera, RigidTransform, VoxelGrid
from scene_completion_ros.picture_files import decode_picture, to_rgb
from scene_completion_ros.report.pictures import encode_picture
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence, grid_entry
from scene_completion_training.arrays import Bytes, Floats
from scene_completion_worlds.street.camera_rig import StreetRig, mounted
from scene_completion_worlds.street.ground_truth import voxel_truth
from scene_completion_worlds.street.scene import Renderer, Scene, View, build_scene, scan, trace_view
from scene_completion_worlds.street.shading import Shader
from scene_completion_worlds.street.sky import Sky
from scene_completion_worlds.street.street_line import FRAME_RATE_HZ, drive_poses, longest_drive, stamps_ns
from scene_completion_worlds.street.town import TownPlan, profile_of, role_of_seed

BUILT_BEHIND_M, BUILT_AHEAD_M = 90.0, 230.0
STAGE_M = 80.0  # of driving, after which the town is built anew around the rig
JPEG_QUALITY = 92


class RenderedImage:
    """One image of a drive, a JPEG that is rendered on demand."""

    def __init__(self, render: Callable[[], bytes]) -> None:
        self._render = render

    def __call__(self) -> Bytes:
        """Decode: uint8 RGB [H, W, 3]."""
        return to_rgb(decode_picture(np.frombuffer(self._render(), np.uint8), "jpeg", where="rendered image"))

    def encoded(self) -> tuple[bytes, str]:
        """JPEG content and its suffix."""
        return self._render(), ".jpg"


class RenderedDrive(ABC):
    """Cameras that move through a rendered world. Frames in order are the quickest."""

    kind: str  # of world, in provenance and names
    assets: tuple[str, ...]  # besides the images; all but LiDAR belong to the first camera

    def __init__(
        self,
        seed: int,  # of the world, see `SEEDS_OF_ROLE`
        cameras: dict[str, Camera],  # the first is the one that truth belongs to
        rig_from_camera: dict[str, RigidTransform],
        poses: list[RigidTransform],  # of the rig in the world, for each frame
        stamps: list[int],
        grid: VoxelGrid,  # voxel grid of the ground truth, around the first camera
    ) -> None:
        self.seed, self.role = seed, role_of_seed(seed)
        self.cameras, self.rig_from_camera, self.reference = cameras, rig_from_camera, next(iter(cameras))
        self.poses, self.stamps, self.grid = poses, stamps, grid
        self.sensors: dict[str, RigidTransform] = {}  # places of what else the rig carries

    @abstractmethod
    def renderer_at(self, index: int) -> Renderer:
        """What renders the world around a frame."""

    @abstractmethod
    def grid_from_camera(self, index: int) -> RigidTransform:
        """Pose of the first camera's optical frame in the grid of the ground truth."""

    def scene_at(self, index: int) -> Scene:
        """The world around a frame."""
        return self.renderer_at(index).scene

    def world_from_camera(self, index: int, camera: str) -> RigidTransform:
        """Pose of a camera's optical frame at a frame."""
        return self.poses[index] @ self.rig_from_camera[camera]

    def image(self, index: int, camera: str) -> Bytes:
        """Render a frame: uint8 RGB [H, W, 3]."""
        seed = (self.seed, index, list(self.cameras).index(camera))
        return self.renderer_at(index).image(self.cameras[camera], self.world_from_camera(index, camera), seed)

    def view(self, index: int, camera: str | None = None) -> View:
        """Depth, labels and instances of a frame, by default of the first camera."""
        camera = camera or self.reference
        return trace_view(self.scene_at(index), self.cameras[camera], self.world_from_camera(index, camera))

    def truth(self, index: int) -> VoxelTruth:
        """Voxel ground truth around the first camera."""
        pose, camera = self.world_from_camera(index, self.reference), self.cameras[self.reference]
        return voxel_truth(self.scene_at(index), camera, pose, self.grid, self.grid_from_camera(index))

    def arrays(self, index: int, assets: Collection[str]) -> dict[str, Any]:
        """Compute assets of a frame: arrays by name."""
        found: dict[str, Any] = {}
        if not {"depth", "label", "instance"}.isdisjoint(assets):
            found |= vars(self.view(index))
        if "voxels" in assets:
            truth = self.truth(index)
            found |= {"voxel_label": truth.labels, "voxel_flags": stored_flags(truth), "ground_height": truth.ground}
        return found

    def provenance(self) -> dict[str, Any]:
        """Where the sequence comes from, and which grid its voxels lie on."""
        made = {"source": self.kind, "seed": self.seed, "role": self.role, "licence": "Apache-2.0"}
        return {**made, "voxel_grid": grid_entry(self.grid, self.reference)}

    def sequence(
        self, assets: tuple[str, ...] | None = None, quality: int = JPEG_QUALITY, *, progress: bool = False
    ) -> PosedSequence:
        """The drive as a posed sequence with these assets, by default all of `assets`; stderr shows the progress.

        "lidar" is float32 [N, 3], rig frame. "depth" is float32 [H, W], z-depth of the first camera, infinite in the
        sky. "label" is uint8 [H, W], "voxel_label" uint8 [X, Y, Z], the world's classes, "instance" int32 [H, W].
        "voxel_flags" is uint8 [X, Y, Z], bits of `evaluation.truth`, and "ground_height" float32 [X, Y], metres in the
        grid. Frames are computed on demand, and the last one is kept.
        """
        of_voxels = ("voxel_label", "voxel_flags", "ground_height")
        assets = self.assets if assets is None else assets
        names = [name for asset in assets for name in (of_voxels if asset == "voxels" else (asset,))]

        @lru_cache(maxsize=1)
        def content(index: int) -> dict[str, Any]:
            if progress:
                print(f"frame {index + 1} of {len(self.poses)}", file=sys.stderr)
            images = {name: encode_picture(self.image(index, name), ".jpg", quality=quality) for name in self.cameras}
            return images | self.arrays(index, assets)

        def part(index: int, name: str) -> Callable[[], Any]:
            return lambda: content(index)[name]

        frames = []
        for index, (stamp, pose) in enumerate(zip(self.stamps, self.poses, strict=True)):
            images = {camera: RenderedImage(part(index, camera)) for camera in self.cameras}
            frames.append(Frame(stamp, images, pose, {name: part(index, name) for name in names}))
        name, source = f"{self.kind.replace(' ', '_')}_{self.seed:04d}", f"exact poses of the {self.kind}"
        rig, others = (dict(self.cameras), dict(self.rig_from_camera)), dict(self.sensors)
        return PosedSequence(name, *rig, frames, source, provenance=self.provenance(), rig_from_sensor=others)


class StreetDrive(RenderedDrive):
    """A rig in the town of a seed, of which only the stretch around it is built: memory grows with no drive."""

    kind, assets = "street world", ("lidar", "depth", "label", "voxels")

    def __init__(
        self,
        seed: int,
        frames: int,
        rig: StreetRig,  # cameras, LiDAR and grid; they are mounted as the seed has it
        supersampling: int = 2,
        rate_hz: float = FRAME_RATE_HZ,
    ) -> None:
        self.rig = mounted(rig, seed)
        self.plan = TownPlan(seed, longest_drive(profile_of(seed), frames, rate_hz), hilly=rig.level)
        poses = drive_poses(self.plan.line, self.plan.profile, frames, seed, rate_hz)
        cameras, places = dict(self.rig.cameras), dict(self.rig.rig_from_camera)
        super().__init__(seed, cameras, places, poses, stamps_ns(frames, rate_hz), rig.grid)
        self.sensors["velodyne"] = self.rig.rig_from_lidar
        self._sky = Sky(self.plan.daylight)
        self._supersampling = supersampling
        self._built: tuple[int, Renderer] | None = None

    def renderer_at(self, index: int) -> Renderer:
        """What renders the stretch around a frame."""
        s, _ = self.plan.line.nearest(self.poses[index].translation[None, :2])
        stage = int(s[0] // STAGE_M)
        if self._built is None or self._built[0] != stage:
            start, end = stage * STAGE_M - BUILT_BEHIND_M, (stage + 1) * STAGE_M + BUILT_AHEAD_M
            scene = build_scene(self.plan.build(start, end))
            self._built = stage, Renderer(scene, Shader(scene, self._sky).colour, self._supersampling)
        return self._built[1]

    def grid_from_camera(self, index: int) -> RigidTransform:
        """The same for all frames."""
        return self.rig.grid_from_camera

    def lidar(self, index: int) -> Floats:
        """LiDAR points of a frame in the rig frame, float32 [N, 3]."""
        world_from_lidar = self.poses[index] @ self.rig.rig_from_lidar
        points, _ = scan(self.scene_at(index), self.rig.lidar, world_from_lidar, (self.seed, index))
        return np.asarray(self.rig.rig_from_lidar.apply(points), np.float32)

    def arrays(self, index: int, assets: Collection[str]) -> dict[str, Any]:
        """Compute assets of a frame, LiDAR among them."""
        return super().arrays(index, assets) | ({"lidar": self.lidar(index)} if "lidar" in assets else {})

    def provenance(self) -> dict[str, Any]:
        """With the kind of street, and with the pose in the grid that a varied rig has."""
        made = {**super().provenance(), "street": self.plan.profile.kind.value}
        if self.rig.level:
            made["voxel_grid"]["grid_from_camera"] = self.rig.grid_from_camera.matrix.tolist()
        return made
