"""What the node publishes, made only where it has a subscriber.

A new result is an entry in `topics`, a function here that makes its message, and a line in `makers`.
"""

import functools
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.text_bank import Vocabulary
from scene_completion_ros.mapping.clearing import ClearingRays, obstacle_points, seen_free_cubes
from scene_completion_ros.mapping.ground_map import GroundProjection, dense_grid_json, ignored_names
from scene_completion_ros.messages.drop_reasons import DropReason, drop_notice
from scene_completion_ros.ros import messages, topics
from scene_completion_ros.ros.conversions import cloud_message, image_message, points_message
from scene_completion_ros.ros.frame import Frame
from scene_completion_ros.ros.health.judgement import FrameCounters
from scene_completion_ros.ros.messages import header_message, stamp_nanoseconds, voxel_grid_message, voxels_message
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.voxels.cloud import MATCH_CLOUD_DTYPE, MATCH_CLOUD_FIELDS, legend_json
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels


class QueryOutputs:
    """Publishers of a query's answers, which `create` makes by topic; they belong to the inference thread."""

    def __init__(self, create: Callable[[str], Any], grid: VoxelGrid) -> None:
        self._matches, self._phrases = create(topics.MATCHES), create(topics.PHRASES)
        self._grid = grid
        self._query: Vocabulary | None = None
        self._answered: tuple[int, str] | None = None  # stamp and frame of the last answer
        self._publish_phrases()

    @property
    def wanted(self) -> bool:
        """Whether there is a query whose answers have a subscriber."""
        return self._query is not None and subscribed(self._matches)

    def subscribers(self) -> dict[str, int]:
        """Number of subscribers by topic."""
        return {self._matches.topic_name: int(self._matches.get_subscription_count())}

    def choose(self, query: Vocabulary | None) -> None:
        """Take another query, or none: then an empty answer takes the last one back."""
        self._query = query
        self._publish_phrases()
        if query is None and self._answered is not None:
            header, self._answered = self._answered, None
            self._answer(np.zeros(0, MATCH_CLOUD_DTYPE), *header)

    def publish(self, frame: Frame) -> None:
        """Publish what answers the query in an image, if anything subscribes to it."""
        matches, voxels, placement = frame.completion.matches, frame.completion.voxels, frame.placement
        if not frame.completion.query or not self.wanted:
            return
        counts = [len(found.voxels) for found in matches]
        cloud = np.zeros(sum(counts), MATCH_CLOUD_DTYPE)
        index = voxels.index[np.concatenate([found.voxels for found in matches])]
        centres = np.asarray(self._grid.origin) + (index + 0.5) * self._grid.voxel_size
        cloud["x"], cloud["y"], cloud["z"] = placement.frame_from_grid.apply(centres).T
        cloud["score"] = np.concatenate([found.score for found in matches])
        cloud["probability"] = np.concatenate([found.probability for found in matches])
        cloud["phrase"] = np.repeat(np.arange(len(matches)), counts)
        self._answered = frame.stamp_ns, placement.frame_id
        self._answer(cloud, *self._answered)

    def _answer(self, cloud: NDArray[np.void], stamp_ns: int, frame_id: str) -> None:
        """Publish voxels that answer a query, [M] of `MATCH_CLOUD_DTYPE`."""
        self._matches.publish(cloud_message(cloud, MATCH_CLOUD_FIELDS, header_message(stamp_ns, frame_id)))

    def _publish_phrases(self) -> None:
        """Publish the phrases by number."""
        phrases, bank = ([], "") if self._query is None else (list(self._query.names), self._query.bank_sha256)
        self._phrases.publish(String(data=json.dumps({"phrases": phrases, "text_bank_sha256": bank})))


OUTPUT_DEPTH = 5  # messages kept for slow reliable readers
FREE_SPACE_EDGE = 2  # voxels along the edge of a cube of free space
NOTICE_DEPTH = 100  # a burst of dropped images, for slow readers
BEST_EFFORT_QOS = QoSProfile(depth=OUTPUT_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)

# Results that need no labels of voxels.
UNLABELLED = (topics.DEPTH, topics.DEPTH_CAMERA_INFO, topics.CLEARING, topics.ELEVATION, topics.FREE_SPACE)

_Make: TypeAlias = Callable[[Frame], Any]  # None where there is nothing to publish


class Outputs:
    """The publishers of the node; what describes bundle and grid is published at once and latched."""

    def __init__(
        self,
        node: Any,
        bundle: StudentBundle,
        grid: VoxelGrid,
        # Pose of the camera's optical frame; None where the grid is attached to another frame.
        grid_from_camera: RigidTransform | None,
        counters: FrameCounters,  # warn of what cannot be published, and announce every dropped image
        resources: ExitStack,
        *,
        vocabulary: Vocabulary | None,  # what labels mean; None for the classes of the bundle
        best_effort: bool = False,  # offer results with best effort only
    ) -> None:
        self._node, self._resources = node, resources
        self._counters = counters
        self._cloud: Any = None  # the last one; publishing has copied it
        self._rays = functools.lru_cache(maxsize=1)(ClearingRays)
        self._ground: GroundProjection | None = None
        self._ground_made_for: tuple[float, ...] | None = None
        result_qos = BEST_EFFORT_QOS if best_effort else OUTPUT_DEPTH
        makers: dict[str, _Make] = {
            topics.VOXELS: self._voxels,
            topics.DEPTH: _depth,
            topics.DEPTH_CAMERA_INFO: _depth_camera_info,
            topics.VOXEL_GRID: lambda frame: voxel_grid_message(frame.completion.voxels, frame.placement.frame_id),
            topics.OCCUPANCY_GRID: self._occupancy_grid,
            topics.ELEVATION: _elevation,
            topics.OBSTACLES: _obstacles,
            topics.CLEARING: self._clearing,
            topics.FREE_SPACE: _free_space,
        }
        self._results: dict[str, tuple[Any, _Make]] = {
            topic: (self._create(topic, qos=result_qos), make) for topic, make in makers.items()
        }
        self._times = self._create(topics.PROCESSING_TIME)
        self._legend = self._create(topics.LEGEND)
        self.publish_legend(bundle, vocabulary)
        self.query = QueryOutputs(functools.partial(self._create, qos=result_qos), grid)
        self._create(topics.VOXEL_GRID_INFO).publish(String(data=dense_grid_json(grid, grid_from_camera)))
        self._dropped = self._create(topics.DROPPED, qos=NOTICE_DEPTH)
        counters.on_dropped_image = self._announce_drop
        resources.callback(setattr, counters, "on_dropped_image", None)

    def _create(self, topic: str, *, qos: QoSProfile | int = OUTPUT_DEPTH) -> Any:
        """A publisher by its entry in `topics`; if not latched, with its own QoS."""
        spec = topics.topic_spec(topic)
        kind, qos = messages.message_class(spec.type_name, topic), messages.LATCHED_QOS if spec.latched else qos
        publisher = self._node.create_publisher(kind, topic, qos)
        self._resources.callback(self._node.destroy_publisher, publisher)
        return publisher

    def wanted(self) -> bool:
        """Whether a result has a subscriber; processing times alone are no reason to complete an image."""
        return self.query.wanted or any(subscribed(publisher) for publisher, _ in self._results.values())

    def labels_wanted(self) -> bool:
        """Whether labels of voxels are needed: more than depth and free space."""
        return any(subscribed(publisher) for topic, (publisher, _) in self._results.items() if topic not in UNLABELLED)

    def subscribers(self) -> dict[str, int]:
        """Number of subscribers of each result, by topic."""
        publishers = (publisher for publisher, _ in self._results.values())
        return {one.topic_name: int(one.get_subscription_count()) for one in publishers} | self.query.subscribers()

    def publish_legend(self, bundle: StudentBundle, vocabulary: Vocabulary | None) -> None:
        """Publish the names of labels from now on."""
        if vocabulary is None:
            legend = legend_json(bundle.class_names, bundle.class_colours)
        else:
            legend = legend_json(vocabulary.legend_names, vocabulary.legend_colours, vocabulary.bank_sha256)
        self._legend.publish(String(data=legend))

    def publish(self, frame: Frame) -> None:
        """Publish what has a subscriber, with the stamp of its image."""
        for topic, (publisher, make) in self._results.items():
            if subscribed(publisher):
                try:
                    message = make(frame)
                except GridError as error:
                    self._counters.warn(topic, f"{topic} is not published: {error}")
                    continue
                if message is not None:
                    publisher.publish(message)
        self.query.publish(frame)

    def publish_times(self, frame: Frame, times_ms: Mapping[str, float]) -> None:
        """Publish the processing time of every stage of a frame, in milliseconds, and what its image rests on."""
        if subscribed(self._times):
            stages = {stage: times_ms[stage] for stage in topics.STAGES}
            evidence, frame_id = frame.completion.summary(), frame.placement.frame_id
            self._times.publish(messages.processing_time_message(stages, evidence, frame.stamp_ns, frame_id))

    def _announce_drop(self, reason: DropReason, header: Any) -> None:
        """A reader that waits for the result of an image learns from it that none will come."""
        if subscribed(self._dropped):
            self._dropped.publish(String(data=drop_notice(reason, stamp_nanoseconds(header.stamp), header.frame_id)))

    def _voxels(self, frame: Frame) -> Any:
        placement, threads = frame.placement, frame.parameters.threads or None
        self._cloud = voxels_message(
            frame.completion.voxels, placement.frame_id, placement.frame_from_grid, threads=threads, into=self._cloud
        )
        return self._cloud

    def _occupancy_grid(self, frame: Frame) -> Any:
        voxels, placement, parameters = frame.completion.voxels, frame.placement, frame.parameters
        if placement.assumed_height is not None:
            self._counters.warn(
                "camera.height",
                f"the height of the camera is unknown: {topics.OCCUPANCY_GRID} lies {placement.assumed_height:g} m "
                "below it, the height of the cameras that the student was trained with. Set camera.height",
            )
        band = parameters.obstacle_min_height, parameters.obstacle_max_height
        wanted = (*placement.map_from_grid.matrix.ravel(), *band)
        if self._ground is None or wanted != self._ground_made_for or self._ground.grid != voxels.grid:
            self._ground, self._ground_made_for = GroundProjection(voxels.grid, placement.map_from_grid, *band), wanted
        ground = self._ground(voxels, ignored=ignored_here(voxels, parameters), ground=_ground_points(frame))
        return messages.occupancy_grid_message(ground, frame.stamp_ns, placement.map_frame_id, placement.frame_from_map)

    def _clearing(self, frame: Frame) -> Any:
        """Rays in the camera's own frame, whose origin readers take for that of the rays."""
        voxels, threads = frame.completion.voxels, frame.parameters.threads or None
        rays = self._rays(voxels.grid, voxels.grid_from_camera, frame.completion.depth_camera, threads=threads)
        return points_message(rays(voxels), header_message(frame.stamp_ns, frame.frame_id))


def _depth(frame: Frame) -> Any:
    """Depth along the optical axis in metres [H, W] as a 32FC1 image."""
    depth = frame.completion.shown_depth.astype(np.float32, copy=False)
    return image_message(depth, "32FC1", header_message(frame.stamp_ns, frame.frame_id))


def _depth_camera_info(frame: Frame) -> Any:
    return messages.camera_info_message(frame.completion.depth_camera, frame.stamp_ns, frame.frame_id)


def _ground_points(frame: Frame) -> NDArray[np.float64] | None:
    """The ground [N, 3] that the camera sees, in the map's frame; None where the student predicts none."""
    if frame.completion.ground is None:
        return None
    points = frame.completion.ground.points.reshape(-1, 3).astype(np.float64)
    map_from_camera = frame.placement.map_from_grid @ frame.completion.voxels.grid_from_camera
    ground = map_from_camera.apply(points[np.isfinite(points[:, 0])])
    return ground if len(ground) else None


def _elevation(frame: Frame) -> Any:
    """The ground in the camera's own frame; nothing where the student predicts none."""
    ground = frame.completion.ground
    return None if ground is None else messages.elevation_message(ground, frame.stamp_ns, frame.frame_id)


def _obstacles(frame: Frame) -> Any:
    voxels, placement = frame.completion.voxels, frame.placement
    points = obstacle_points(voxels, placement.frame_from_grid, ignored=ignored_here(voxels, frame.parameters))
    return points_message(points, header_message(frame.stamp_ns, placement.frame_id))


def _free_space(frame: Frame) -> Any:
    placement = frame.placement
    points = seen_free_cubes(frame.completion.voxels, FREE_SPACE_EDGE, placement.frame_from_grid)
    return points_message(points, header_message(frame.stamp_ns, placement.frame_id))


def ignored_here(voxels: SemanticVoxels, parameters: NodeParameters) -> list[int]:
    """Labels that are no obstacles; a vocabulary may have no class of a name in `obstacle.ignored_classes`."""
    names = ignored_names(parameters.obstacle_ignored_classes)
    return [label for label, name in enumerate(voxels.class_names) if name in names]


def subscribed(publisher: Any) -> bool:
    """Whether it has a subscriber."""
    return bool(publisher.get_subscription_count())
