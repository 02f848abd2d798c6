"""Scores of a replay, image by image, against every ground truth: of a folder, and of recorded LiDAR."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.arrays import Floats, Ints, Mask
from scene_completion_ros.bags.reader import CLOUD_TYPE, BagReader, CloudFrame
from scene_completion_ros.errors import BagError, SequenceError
from scene_completion_ros.evaluation.bodies import BODIES
from scene_completion_ros.evaluation.depth import DEPTH
from scene_completion_ros.evaluation.metric import Row, Scores, VoxelAnswer
from scene_completion_ros.evaluation.obstacles import OBSTACLES
from scene_completion_ros.evaluation.occupancy import OCCUPANCY
from scene_completion_ros.evaluation.truth import DepthTruth, FrameTruth, TruthSource
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.depth_images import nearest_pixels, sparse_depth
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.messages.transform_buffer import TransformBuffer
from scene_completion_ros.sequences.opening import depth_truth, holds_voxels, open_recording, voxel_truth
from scene_completion_ros.sequences.posed_sequence import reference_camera

_LARGEST_GAP_NS = 200_000_000  # between scan and image, and between two recorded poses


class LidarOfBag:
    """The scan nearest in time to each image of a recording; holds two scans at a time.

    Has a reader of its own, so that scans can be read alongside the images. Use it as a context manager. `path`: the
    recording; of its PointCloud2 topics the one with the most messages is taken.
    """

    def __init__(self, path: str | Path) -> None:
        self._reader = BagReader(path)
        self.topic: str | None = None  # the topic with the most messages, if there is one
        self._scans: Iterator[CloudFrame] = iter(())
        self._transforms = TransformBuffer()
        self._before: CloudFrame | None = None
        self._after: CloudFrame | None = None

    def __enter__(self) -> "LidarOfBag":
        self._reader.open()
        counts = self._reader.counts
        topics = self._reader.topics_of_type(CLOUD_TYPE)
        self.topic = max(topics, key=lambda topic: counts[topic], default=None)
        if self.topic is not None:
            self._transforms = self._reader.tf_buffer()
            self._scans = self._reader.point_clouds(self.topic)
            self._after = next(self._scans, None)
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def points_grid(self, camera_frame: str, stamp_ns: int, grid_from_camera: RigidTransform) -> Floats | None:
        """The scan nearest to an image, moved to where the car was when the image was taken.

        Returns points in the grid frame, metres, float32 [N, 3]; none without a scan and transforms near that time.
        `stamp_ns`: its time in nanoseconds; later calls should not go back in time; `grid_from_camera`: pose of the
        camera in the grid.
        """
        scan = self.nearest_scan(stamp_ns)
        if scan is None:
            return None
        try:
            camera_from_lidar = self._camera_from_lidar(camera_frame, stamp_ns, scan)
        except BagError:
            return None
        return np.asarray((grid_from_camera @ camera_from_lidar).apply(scan.xyz), dtype=np.float32)

    def nearest_scan(self, stamp_ns: int) -> CloudFrame | None:
        """The scan nearest to a time, within 0.2 s; later calls should not go back in time."""
        while self._after is not None and self._after.stamp_ns < stamp_ns:
            self._before, self._after = self._after, next(self._scans, None)
        known = [scan for scan in (self._before, self._after) if scan is not None]
        nearest = min(known, key=lambda scan: abs(scan.stamp_ns - stamp_ns), default=None)
        return None if nearest is None or abs(nearest.stamp_ns - stamp_ns) > _LARGEST_GAP_NS else nearest

    def _camera_from_lidar(self, camera_frame: str, stamp_ns: int, scan: CloudFrame) -> RigidTransform:
        """Through the fixed frame, which takes the car's motion between scan and image out; else the mounting alone."""
        find = self._transforms.lookup
        camera_frame, _ = self._transforms.optical_frame(camera_frame, "")
        try:
            world = self._transforms.root_of(camera_frame)
            world_from_camera = find(world, camera_frame, stamp_ns, _LARGEST_GAP_NS)
            return world_from_camera.inverse() @ find(world, scan.frame_id, scan.stamp_ns, _LARGEST_GAP_NS)
        except BagError:
            return find(camera_frame, scan.frame_id, stamp_ns, _LARGEST_GAP_NS)


PUBLISHED = "published"  # the rule by which a subscriber calls voxels occupied


class PublishedGrid:
    """Looks up which published voxel the centre of every voxel of a ground truth lies in.

    Where both grids are the same, that is the voxel itself; otherwise edges are off by up to half a voxel.
    """

    def __init__(self, grid: VoxelGrid, grid_from_camera: RigidTransform) -> None:
        self.grid, self.grid_from_camera = grid, grid_from_camera
        self._at: tuple[VoxelGrid, bytes] | None = None
        self._index: Ints = np.zeros((0, 3), dtype=np.int64)
        self._covered: Mask = np.zeros(0, dtype=bool)

    def at(self, cloud: NDArray[np.void], grid: VoxelGrid, grid_from_camera: RigidTransform) -> VoxelAnswer:
        """Published voxels at another grid: probability 0 where nothing was published, covered within the node's grid.

        `cloud`: structured array [N] of `voxels.cloud.VOXEL_CLOUD_DTYPE`, in the camera's optical frame.
        """
        points = np.stack([cloud["x"], cloud["y"], cloud["z"]], axis=-1).astype(np.float64)
        index, inside = self.grid.index_of(self.grid_from_camera.apply(points))
        index = np.asarray(index)[np.asarray(inside)]
        probability = np.zeros(self.grid.shape, dtype=np.float32)
        occupied = np.zeros(self.grid.shape, dtype=bool)
        probability[tuple(index.T)] = cloud["probability"][np.asarray(inside)]
        occupied[tuple(index.T)] = True
        self._look_up(grid, grid_from_camera)
        at = tuple(self._index.T)
        there, holds = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, bool)
        there[self._covered], holds[self._covered] = probability[at], occupied[at]
        return VoxelAnswer(there, {PUBLISHED: holds}, covered=self._covered)

    def _look_up(self, grid: VoxelGrid, grid_from_camera: RigidTransform) -> None:
        wanted = grid, grid_from_camera.matrix.tobytes()
        if self._at == wanted:
            return
        own_from_other = self.grid_from_camera @ grid_from_camera.inverse()
        index, covered = self.grid.index_of(own_from_other.apply(grid.centres().astype(np.float64)))
        self._at, self._covered = wanted, np.asarray(covered)
        self._index = np.asarray(index)[self._covered]


METRICS = (OCCUPANCY, OBSTACLES, BODIES, DEPTH)


@dataclass(frozen=True, eq=False)
class PublishedAnswer:
    """What the node published of an image, brought to where a truth lies; see `Answer`."""

    truth: FrameTruth
    grid: PublishedGrid  # that of the node
    cloud: NDArray[np.void]  # published voxels [N] of `voxels.cloud.VOXEL_CLOUD_DTYPE`, in the camera's optical frame
    # Published depth float32 [h, w], metres along the optical axis, `+inf` too far, NaN unknown (REP 118).
    published: Floats
    camera: Camera  # of the depth, which stands and looks as that of the truth does

    @cached_property
    def voxels(self) -> VoxelAnswer | None:
        """The published voxels at those of the truth."""
        truth = self.truth.voxels
        return None if truth is None else self.grid.at(self.cloud, truth.grid, truth.grid_from_camera)

    @cached_property
    def depth(self) -> Floats | None:
        """That of the nearest published pixel, at the pixels of the truth; NaN outside of the published image."""
        truth = self.truth.depth
        if truth is None:
            return None
        rows, columns, inside = nearest_pixels(self.camera, truth.camera)
        return np.where(inside, self.published[rows, columns], np.float32(np.nan)).astype(np.float32)


class ReplayScores:
    """Scores of all images of a replay against every ground truth there is; the method is the node."""

    name = "node"

    def __init__(self, sources: Sequence[TruthSource], published: PublishedGrid) -> None:
        self.scores = Scores(METRICS)  # by the names of the ground truths
        self._sources, self._published = sources, published

    def add(
        self, cloud: NDArray[np.void], depth: Floats, depth_camera: Camera, *, stamp_ns: int, frame_id: str
    ) -> None:
        """Score `cloud` [N], `VOXEL_CLOUD_DTYPE`, optical frame, and `depth` float32 [h, w], metres, of an image."""
        for source in self._sources:
            truth = source.at(stamp_ns, frame_id)
            if truth is not None:
                self.scores.add(source.name, self, PublishedAnswer(truth, self._published, cloud, depth, depth_camera))

    def bodies(self) -> dict[str, Row]:
        """Lengths of the things that were measured, by class and ring; see `evaluation.bodies`."""
        titles = {column.key: column.title for column in BODIES.columns if not column.percent}
        rows = [row for row in self.scores.rows(BODIES.name) if row["measured"]]
        found = {f"{row['class']}, to {row['range_m']:g} m": row for row in rows}
        return {name: {title: row[key] for key, title in titles.items()} for name, row in found.items()}


class LidarTruth:
    """The scan nearest to each image, moved into the camera by the recorded transforms; none without these."""

    name = "lidar"

    def __init__(self, lidar: LidarOfBag, camera: Camera) -> None:
        self._lidar, self._camera = lidar, camera

    def at(self, stamp_ns: int, frame_id: str) -> FrameTruth | None:
        """Depth of the LiDAR's points for an image; later calls should not go back in time."""
        points = self._lidar.points_grid(frame_id, stamp_ns, RigidTransform.identity())
        if points is None or not len(points):
            return None
        return FrameTruth(None, DepthTruth(self._camera, sparse_depth(points, self._camera)))


TOLERANCE_NS = 5_000_000  # between the stamps of an image and of its ground truth


class SequenceTruth:
    """Ground truth of the frames of a folder.

    Voxels and depth are those of its source, see `sequences.opening`; without a depth of its own it is that
    of the LiDAR. Insides of solid things, which no sensor ever sees, do not count, nor does what is below the ground,
    unknown, or officially invalid. The images are those of its `reference_camera`. Raises SequenceError where the
    folder is no recording, is damaged, or has no ground truth at all. `offset_ns`: added to the stamps of the folder,
    so that they are those of the recording.
    """

    def __init__(self, folder: Path | str, *, offset_ns: int = 0) -> None:
        root = Path(folder)
        self.sequence = open_recording(root)
        self.name = self.sequence.name  # of the sequence
        self.camera = reference_camera(self.sequence)
        self._offset_ns = offset_ns
        self._stamps = np.array([frame.stamp_ns + offset_ns for frame in self.sequence.frames], dtype=np.int64)
        known = {name for frame in self.sequence.frames for name in frame.assets}
        voxels = any(holds_voxels(self.sequence, index) for index in range(len(self.sequence)))
        if not (voxels or known & {"depth", "lidar"}):
            what = f"no ground truth among its assets ({', '.join(sorted(known)) or 'none'})"
            cure = "Write voxel_label with voxel_flags, ssc_label with ssc_invalid, depth or lidar"
            raise SequenceError(what, where=str(root), cure=cure)

    def check_times(self, start_ns: int, end_ns: int) -> None:
        """Refuse a folder with no frame in the recording's time. Raises SequenceError with a fitting offset."""
        inside = (self._stamps >= start_ns - TOLERANCE_NS) & (self._stamps <= end_ns + TOLERANCE_NS)
        if not inside.any():
            needed_s = (start_ns - int(self._stamps[0]) + self._offset_ns) / 1e9
            raise SequenceError(
                f"its frames are of {self._stamps[0] / 1e9:.3f} to {self._stamps[-1] / 1e9:.3f} s, the recording is of "
                f"{start_ns / 1e9:.3f} to {end_ns / 1e9:.3f} s",
                where=f"ground truth {self.name}",
                cure=f"If both begin with the same image, give --ground-truth-offset {needed_s:.9f}",
            )

    def at(self, stamp_ns: int, frame_id: str) -> FrameTruth | None:
        """Ground truth of the frame whose stamp is within 5 ms of the image's; the frame's name does not matter."""
        index = int(np.argmin(np.abs(self._stamps - stamp_ns)))
        if abs(int(self._stamps[index]) - stamp_ns) > TOLERANCE_NS:
            return None
        voxels = voxel_truth(self.sequence, index, self.camera)
        depth = depth_truth(self.sequence, index, self.camera)
        return None if voxels is None and depth is None else FrameTruth(voxels, depth)
