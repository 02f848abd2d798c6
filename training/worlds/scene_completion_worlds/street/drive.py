"""A drive through a rendered world as a `PosedSequence` whose images and truth are computed when asked for."""

import multiprocessing
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.truth import VoxelTruth, stored_flags
from scene_completion_ros.geometry import Camera, RigidTransform, VoxelGrid
from scene_completion_ros.picture_files import decode_picture, to_rgb
from scene_completion_ros.report.pictures import encode_picture
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence, grid_entry
from scene_completion_training.arrays import Bytes, Floats
from scene_completion_worlds.street.camera_rig import LEFT, StreetRig, mounted
from scene_completion_worlds.street.ground_truth import voxel_truth
from scene_completion_worlds.street.scene import Renderer, Scene, View, build_scene, scan, trace_view
from scene_completion_worlds.street.shading import Shader
from scene_completion_worlds.street.sky import Sky
from scene_completion_worlds.street.street_line import FRAME_RATE_HZ, drive_poses, longest_drive, stamps_ns
from scene_completion_worlds.street.town import TownPlan, profile_of, role_of_seed
from scene_completion_worlds.street.traffic import Moment

# What a drive through a town can hold beside its images; all but LiDAR belongs to the left camera.
ASSETS = ("lidar", "depth", "label", "voxels")
BUILT_BEHIND_M, BUILT_AHEAD_M = 90.0, 230.0
BUSY_BEHIND_M, BUSY_AHEAD_M = 20.0, 150.0  # where each frame builds a town of its own
STAGE_M = 80.0  # of driving, after which the town is built anew around the rig
BLOCK = 8  # frames in a row that one process computes: neighbours share a built town


@dataclass(frozen=True)
class FrameContent:
    """What is stored of one frame: a JPEG of every camera, and arrays by name, see `StreetDrive.sequence`."""

    images: dict[str, bytes]
    assets: dict[str, NDArray[Any]]


ContentOf = Callable[[int], FrameContent]


class RenderedImage:
    """One image of a drive, rendered when asked for, stored as JPEG."""

    def __init__(self, content: Callable[[], FrameContent], camera: str) -> None:
        self._content, self._camera = content, camera

    def __call__(self) -> Bytes:
        """Decode: uint8 RGB [H, W, 3]."""
        return to_rgb(decode_picture(np.frombuffer(self.encoded()[0], np.uint8), "jpeg", where=self._camera))

    def encoded(self) -> tuple[bytes, str]:
        """JPEG content and its suffix."""
        return self._content().images[self._camera], ".jpg"


class RenderedDrive(ABC):
    """Cameras that move through a rendered world. Frames asked for in their order are the quickest."""

    kind: str  # of world, as provenance and names have it

    def __init__(
        self,
        seed: int,  # the world's; `SEEDS_OF_ROLE` says which seeds may be used for what
        cameras: dict[str, Camera],  # the first is the one that truth belongs to
        rig_from_camera: dict[str, RigidTransform],
        poses: list[RigidTransform],  # of the rig in the world, for each frame
        stamps: list[int],
        grid: VoxelGrid,  # voxel grid of the ground truth, around the first camera
    ) -> None:
        self.seed, self.role = seed, role_of_seed(seed)
        self.cameras, self.rig_from_camera, self.reference = cameras, rig_from_camera, next(iter(cameras))
        self.poses, self.stamps, self.grid = poses, stamps, grid
        self._truth: tuple[int, VoxelTruth] | None = None
        self._view: tuple[int, str, View] | None = None

    @abstractmethod
    def scene_at(self, index: int) -> Scene:
        """The world around a frame."""

    @abstractmethod
    def renderer_at(self, index: int) -> Renderer:
        """What renders it."""

    @abstractmethod
    def grid_from_camera(self, index: int) -> RigidTransform:
        """Pose of the first camera's optical frame in the grid of the ground truth."""

    def truth_of(self, index: int) -> VoxelTruth:
        """Computes the voxels of a frame."""
        pose, camera = self.world_from_camera(index, self.reference), self.cameras[self.reference]
        return voxel_truth(self.scene_at(index), camera, pose, self.grid, self.grid_from_camera(index))

    def world_from_camera(self, index: int, camera: str) -> RigidTransform:
        """Pose of a camera's optical frame at a frame."""
        return self.poses[index] @ self.rig_from_camera[camera]

    def image(self, index: int, camera: str) -> Bytes:
        """Render a frame: uint8 RGB [H, W, 3]."""
        seed = (self.seed, index, list(self.cameras).index(camera))
        return self.renderer_at(index).image(self.cameras[camera], self.world_from_camera(index, camera), seed)

    def view(self, index: int, camera: str = LEFT) -> View:
        """Depth, labels and things of a frame."""
        if self._view is None or self._view[:2] != (index, camera):
            pose = self.world_from_camera(index, camera)
            self._view = (index, camera, trace_view(self.scene_at(index), self.cameras[camera], pose))
        return self._view[2]

    def truth(self, index: int) -> VoxelTruth:
        """Voxel ground truth around the first camera."""
        if self._truth is None or self._truth[0] != index:
            self._truth = (index, self.truth_of(index))
        return self._truth[1]

    def assets_of(self, index: int) -> dict[str, Callable[[], dict[str, NDArray[Any]]]]:
        """What computes each asset of a frame."""
        return {
            "depth": lambda: {"depth": self.view(index, self.reference).depth},
            "label": lambda: {"label": self.view(index, self.reference).label},
            "voxels": lambda: {
                "voxel_label": self.truth(index).labels,
                "voxel_flags": stored_flags(self.truth(index)),
                "ground_height": np.asarray(self.truth(index).ground),
            },
        }

    def content(self, index: int, assets: tuple[str, ...], quality: int = 92) -> FrameContent:
        """Compute what is stored of a frame."""
        images = {name: encode_picture(self.image(index, name), ".jpg", quality=quality) for name in self.cameras}
        makers = self.assets_of(index)
        return FrameContent(images, {name: array for asset in assets for name, array in makers[asset]().items()})

    def content_keeping_last(self, assets: tuple[str, ...], quality: int = 92) -> ContentOf:
        """`content` as a function of the frame that keeps the last one: its images and assets are asked for in turn."""
        return lru_cache(maxsize=1)(partial(self.content, assets=assets, quality=quality))

    def provenance(self) -> dict[str, Any]:
        """Where the sequence comes from, and which grid its voxels lie on."""
        made = {"source": self.kind, "seed": self.seed, "role": self.role, "licence": "Apache-2.0"}
        return {**made, "voxel_grid": grid_entry(self.grid, self.reference)}

    def sequence(
        self, assets: tuple[str, ...] = ASSETS, quality: int = 92, content_of: ContentOf | None = None
    ) -> PosedSequence:
        """The drive as a posed sequence.

        Frames carry those of these assets that are asked for. "lidar" is float32 [N, 3], rig frame. "depth" is float32
        [H, W], z-depth of the first camera, infinite in the sky. "label" is uint8 [H, W], "voxel_label" uint8
        [X, Y, Z], the world's classes, "instance" int32 [H, W]. "voxel_flags" is uint8 [X, Y, Z], bits of
        `evaluation.truth`, and "ground_height" float32 [X, Y], metres in the grid. Without `content_of` frames are
        computed here, and the last one is kept.
        """
        content = content_of or self.content_keeping_last(assets, quality)
        of_voxels = ("voxel_label", "voxel_flags", "ground_height")
        names = [name for asset in assets for name in (of_voxels if asset == "voxels" else (asset,))]

        def asset(index: int, name: str) -> NDArray[Any]:
            return content(index).assets[name]

        frames = []
        for index, (stamp, pose) in enumerate(zip(self.stamps, self.poses, strict=True)):
            images = {name: RenderedImage(partial(content, index), name) for name in self.cameras}
            frames.append(Frame(stamp, images, pose, {name: partial(asset, index, name) for name in names}))
        name, source = f"{self.kind.replace(' ', '_')}_{self.seed:04d}", f"exact poses of the {self.kind}"
        rig, others = (dict(self.cameras), dict(self.rig_from_camera)), self.sensors()
        return PosedSequence(name, *rig, frames, source, provenance=self.provenance(), rig_from_sensor=others)

    def sensors(self) -> dict[str, RigidTransform]:
        """Places of what else the rig carries."""
        return {}


class StreetDrive(RenderedDrive):
    """A rig in the town of a seed, of which only the stretch around it is built: memory grows with no drive."""

    kind = "street world"

    def __init__(
        self,
        seed: int,
        frames: int,
        rig: StreetRig,  # cameras and LiDAR; they are mounted as the seed has it
        grid: VoxelGrid | None = None,  # voxel grid of the ground truth, around the left camera; by default the rig's
        supersampling: int = 2,
        rate_hz: float = FRAME_RATE_HZ,
        *,
        busy: bool = False,  # traffic moves: the town is built anew for each frame
    ) -> None:
        self.rig = mounted(rig, seed)
        length = longest_drive(profile_of(seed), frames, rate_hz)
        self.plan = TownPlan(seed, length, hilly=rig.level, busy=busy)
        poses = drive_poses(self.plan.line, self.plan.profile, frames, seed, rate_hz)
        cameras, places = dict(self.rig.cameras), dict(self.rig.rig_from_camera)
        super().__init__(seed, cameras, places, poses, stamps_ns(frames, rate_hz), grid or rig.grid)
        self._sky = Sky(self.plan.daylight)
        self._supersampling = supersampling
        self._built: tuple[int, Scene] | None = None
        self._renderer: Renderer | None = None

    def scene_at(self, index: int) -> Scene:
        """The town around a frame."""
        s, _ = self.plan.line.nearest(self.poses[index].translation[None, :2])
        stage = index if self.plan.busy else int(s[0] // STAGE_M)
        if self._built is None or self._built[0] != stage:
            start, end = stage * STAGE_M - BUILT_BEHIND_M, (stage + 1) * STAGE_M + BUILT_AHEAD_M
            if self.plan.busy:
                start, end = float(s[0]) - BUSY_BEHIND_M, float(s[0]) + BUSY_AHEAD_M
            moment = Moment((self.stamps[index] - self.stamps[0]) / 1e9, float(s[0]))
            self._built, self._renderer = (stage, build_scene(self.plan.build(start, end, moment))), None
        return self._built[1]

    def renderer_at(self, index: int) -> Renderer:
        """What renders the stretch around a frame."""
        scene = self.scene_at(index)
        if self._renderer is None:
            self._renderer = Renderer(scene, Shader(scene, self._sky).colour, self._supersampling)
        return self._renderer

    def grid_from_camera(self, index: int) -> RigidTransform:
        """The same for all frames."""
        return self.rig.grid_from_camera

    def sensors(self) -> dict[str, RigidTransform]:
        """The LiDAR's place."""
        return {"velodyne": self.rig.rig_from_lidar}

    def lidar(self, index: int) -> Floats:
        """LiDAR points of a frame in the rig frame, float32 [N, 3]."""
        world_from_lidar = self.poses[index] @ self.rig.rig_from_lidar
        points, _ = scan(self.scene_at(index), self.rig.lidar, world_from_lidar, (self.seed, index))
        return np.asarray(self.rig.rig_from_lidar.apply(points), np.float32)

    def assets_of(self, index: int) -> dict[str, Callable[[], dict[str, NDArray[Any]]]]:
        """What computes each asset of a frame, LiDAR among them."""
        return {"lidar": lambda: {"lidar": self.lidar(index)}, **super().assets_of(index)}

    def provenance(self) -> dict[str, Any]:
        """With the kind of street, and with the pose in the grid that a varied rig has."""
        made = {**super().provenance(), "street": self.plan.profile.kind.value, "busy": self.plan.busy}
        if self.rig.level:
            made["voxel_grid"]["grid_from_camera"] = self.rig.grid_from_camera.matrix.tolist()
        return made


_drive: RenderedDrive | None = None  # of a worker process


def _start(kind: Callable[..., RenderedDrive], arguments: dict[str, Any]) -> None:
    global _drive
    cv2.setNumThreads(1)
    _drive = kind(**arguments)


def _compute(indices: range, options: dict[str, Any]) -> list[FrameContent]:
    assert _drive is not None  # _start has run in this process
    return [_drive.content(index, **options) for index in indices]


@contextmanager
def frames_computed_by(
    workers: int, kind: Callable[..., RenderedDrive], arguments: dict[str, Any], options: dict[str, Any]
) -> Iterator[ContentOf]:
    """Start processes for a drive and yield a function that returns a frame's content.

    Frames have to be asked for in ascending order, each as often as wished. What is computed ahead is bounded, and
    every frame is the same whatever the number of workers: all randomness is seeded by world and frame. `workers`:
    number of processes; they are spawned, because embree and numba do not survive a fork.
    """
    frames = int(arguments["frames"])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(kind, arguments)) as pool:
        ahead: deque[tuple[range, Future[list[FrameContent]]]] = deque()
        blocks = iter([range(a, min(a + BLOCK, frames)) for a in range(0, frames, BLOCK)])

        def submit() -> None:
            if (block := next(blocks, None)) is not None:
                ahead.append((block, pool.submit(_compute, block, options)))

        for _ in range(workers + 1):
            submit()

        def content_of(index: int) -> FrameContent:
            while index >= ahead[0][0].stop:
                ahead.popleft()
                submit()
            block, future = ahead[0]
            return future.result()[index - block.start]

        try:
            yield content_of
        finally:
            for _, future in ahead:
                future.cancel()
