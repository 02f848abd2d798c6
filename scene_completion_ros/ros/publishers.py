"""What the node publishes, made only where it has a subscriber.

A new result is an entry in `topics`, a method here that makes its message, and a line in `makers`.
"""

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.text_bank import Vocabulary
from scene_completion_ros.mapping.camera_fusion import all_matches
from scene_completion_ros.mapping.clearing import ClearingRays, obstacle_points, seen_free_cubes
from scene_completion_ros.mapping.ground_map import GroundProjection, ignored_names
from scene_completion_ros.messages.drop_reasons import DropReason, drop_notice
from scene_completion_ros.ros import topics
from scene_completion_ros.ros.frame import Frame, Scene
from scene_completion_ros.ros.health.judgement import FrameCounters
from scene_completion_ros.ros.messages import (
    LATCHED_QOS,
    camera_info_message,
    depth_message,
    elevation_message,
    legend_message,
    matches_message,
    message_class,
    occupancy_grid_message,
    points_message,
    processing_time_message,
    stamp_nanoseconds,
    voxel_grid_info_message,
    voxel_grid_message,
    voxels_message,
)
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.voxels.cloud import MATCH_CLOUD_DTYPE
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
            self._matches.publish(matches_message(np.zeros(0, MATCH_CLOUD_DTYPE), *header))

    def publish(self, scene: Scene) -> None:
        """Publish what answers the query in a scene, if anything subscribes to it."""
        completions = [frame.completion for frame in scene.frames]
        answers = [(completion.voxels, completion.matches) for completion in completions if completion.query]
        if not answers or not self.wanted:
            return
        found = all_matches(scene.voxels, answers)
        header = self._answered = scene.voxels.stamp_ns, scene.placement.frame_id
        cloud = np.zeros(len(found.index), MATCH_CLOUD_DTYPE)
        centres = np.asarray(self._grid.origin) + (found.index + 0.5) * self._grid.voxel_size
        cloud["x"], cloud["y"], cloud["z"] = scene.placement.frame_from_grid.apply(centres).T
        cloud["score"], cloud["probability"], cloud["phrase"] = found.score, found.probability, found.phrase
        self._matches.publish(matches_message(cloud, *header))

    def _publish_phrases(self) -> None:
        """Publish the phrases by number."""
        meaning = {
            "phrases": [] if self._query is None else list(self._query.names),
            "text_bank_sha256": "" if self._query is None else self._query.bank_sha256,
        }
        self._phrases.publish(String(data=json.dumps(meaning)))


OUTPUT_DEPTH = 5  # messages kept for slow reliable readers
FREE_SPACE_EDGE = 2  # voxels along the edge of a cube of free space
NOTICE_DEPTH = 100  # a burst of dropped images, for slow readers
BEST_EFFORT_QOS = QoSProfile(depth=OUTPUT_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)

_Make: TypeAlias = Callable[[Scene], Iterable[Any]]


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
        # Names of several cameras, which have depth topics of their own; empty for the one.
        cameras: Sequence[str] = (),
    ) -> None:
        self._node, self._resources = node, resources
        self._counters = counters
        self._cloud: Any = None  # the last one; publishing has copied it
        self._rays: dict[str, tuple[tuple[Camera, RigidTransform, int], ClearingRays]] = {}
        self._ground: GroundProjection | None = None
        self._ground_made_for: tuple[float, ...] | None = None
        result_qos = BEST_EFFORT_QOS if best_effort else OUTPUT_DEPTH
        makers: dict[str, _Make] = {
            topics.VOXEL_GRID: lambda scene: [voxel_grid_message(scene.voxels, scene.placement.frame_id)],
            topics.OCCUPANCY_GRID: self._occupancy_grid,
            topics.ELEVATION: self._elevation,
            topics.OBSTACLES: self._obstacles,
            topics.CLEARING: self._clearing,
            topics.FREE_SPACE: self._free_space,
        }
        self._results: dict[str, tuple[Any, _Make]] = {
            topics.VOXELS: (self._create(topics.VOXELS, qos=result_qos), self._voxels)
        }
        for camera in cameras or ("",):
            depth, camera_info = topics.depth_topics(camera)
            made = functools.partial(_depths, camera), functools.partial(_depth_camera_infos, camera)
            self._results[depth] = self._create(topics.DEPTH, depth, qos=result_qos), made[0]
            self._results[camera_info] = self._create(topics.DEPTH_CAMERA_INFO, camera_info, qos=result_qos), made[1]
        self._unlabelled = {*self._results} - {topics.VOXELS} | {topics.CLEARING, topics.ELEVATION, topics.FREE_SPACE}
        self._results |= {topic: (self._create(topic, qos=result_qos), make) for topic, make in makers.items()}
        self._times = self._create(topics.PROCESSING_TIME)
        self._legend = self._create(topics.LEGEND)
        self.publish_legend(bundle, vocabulary)
        self.query = QueryOutputs(functools.partial(self._create, qos=result_qos), grid)
        self._create(topics.VOXEL_GRID_INFO).publish(voxel_grid_info_message(grid, grid_from_camera))
        self._dropped = self._create(topics.DROPPED, qos=NOTICE_DEPTH)
        counters.on_dropped_image = self._announce_drop
        resources.callback(setattr, counters, "on_dropped_image", None)

    def _create(self, topic: str, name: str = "", *, qos: QoSProfile | int = OUTPUT_DEPTH) -> Any:
        """A publisher by its entry in `topics`, under this or another name; if not latched, with its own QoS."""
        spec = topics.topic_spec(topic)
        publisher = self._node.create_publisher(
            message_class(spec.type_name, topic), name or topic, LATCHED_QOS if spec.latched else qos
        )
        self._resources.callback(self._node.destroy_publisher, publisher)
        return publisher

    def wanted(self) -> bool:
        """Whether a result has a subscriber; processing times alone are no reason to complete an image."""
        return self.query.wanted or any(subscribed(publisher) for publisher, _ in self._results.values())

    def labels_wanted(self) -> bool:
        """Whether labels of voxels are needed: more than depth and free space."""
        return any(
            subscribed(publisher) for topic, (publisher, _) in self._results.items() if topic not in self._unlabelled
        )

    def subscribers(self) -> dict[str, int]:
        """Number of subscribers of each result, by topic."""
        counts = {
            publisher.topic_name: int(publisher.get_subscription_count()) for publisher, _ in self._results.values()
        }
        return counts | self.query.subscribers()

    def publish_legend(self, bundle: StudentBundle, vocabulary: Vocabulary | None) -> None:
        """Publish the names of labels from now on."""
        meaning = (
            (bundle.class_names, bundle.class_colours)
            if vocabulary is None
            else (vocabulary.legend_names, vocabulary.legend_colours, vocabulary.bank_sha256)
        )
        self._legend.publish(legend_message(*meaning))

    def publish(self, scene: Scene) -> None:
        """Publish what has a subscriber, with the stamp of its image."""
        for topic, (publisher, make) in self._results.items():
            if subscribed(publisher):
                try:
                    for message in make(scene):
                        publisher.publish(message)
                except GridError as error:
                    self._counters.warn(topic, f"{topic} is not published: {error}")
        self.query.publish(scene)

    def publish_times(self, scene: Scene, times_ms: Mapping[str, float]) -> None:
        """Publish the processing time of every stage of a scene, in milliseconds, and what its images rest on."""
        if subscribed(self._times):
            stages = {stage: times_ms[stage] for stage in topics.STAGES}
            evidence = {frame.name: frame.completion.evidence.summary() for frame in scene.frames}
            stamp_ns, frame_id = scene.voxels.stamp_ns, scene.placement.frame_id
            self._times.publish(processing_time_message(stages, evidence, stamp_ns, frame_id))

    def _announce_drop(self, reason: DropReason, header: Any) -> None:
        """A reader that waits for the result of an image learns from it that none will come."""
        if subscribed(self._dropped):
            self._dropped.publish(String(data=drop_notice(reason, stamp_nanoseconds(header.stamp), header.frame_id)))

    def _voxels(self, scene: Scene) -> list[Any]:
        placement, threads = scene.placement, scene.parameters.threads or None
        self._cloud = voxels_message(
            scene.voxels, placement.frame_id, placement.frame_from_grid, threads=threads, into=self._cloud
        )
        return [self._cloud]

    def _occupancy_grid(self, scene: Scene) -> list[Any]:
        voxels, placement, parameters = scene.voxels, scene.placement, scene.parameters
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
        ground = self._ground(voxels, ignored=ignored_here(voxels, parameters), ground=self._ground_points(scene))
        return [occupancy_grid_message(ground, voxels.stamp_ns, placement.map_frame_id, placement.frame_from_map)]

    @staticmethod
    def _ground_points(scene: Scene) -> NDArray[np.float64] | None:
        """The ground [N, 3] that the cameras see, in the map's frame; None where the student predicts none."""
        found = []
        for completion in (frame.completion for frame in scene.frames):
            if completion.ground is not None:
                points = completion.ground.points.reshape(-1, 3).astype(np.float64)
                map_from_camera = scene.placement.map_from_grid @ completion.voxels.grid_from_camera
                found.append(map_from_camera.apply(points[np.isfinite(points[:, 0])]))
        ground = np.concatenate(found) if found else None
        return ground if ground is not None and len(ground) else None

    def _elevation(self, scene: Scene) -> list[Any]:
        """The ground of each camera in its own frame; nothing where the student predicts none."""
        return [
            elevation_message(frame.completion.ground, frame.stamp_ns, frame.frame_id)
            for frame in scene.frames
            if frame.completion.ground is not None
        ]

    def _obstacles(self, scene: Scene) -> list[Any]:
        voxels, placement = scene.voxels, scene.placement
        points = obstacle_points(voxels, placement.frame_from_grid, ignored=ignored_here(voxels, scene.parameters))
        return [points_message(points, voxels.stamp_ns, placement.frame_id)]

    def _clearing(self, scene: Scene) -> list[Any]:
        """Rays of every camera in its own frame, whose origin readers take for that of the rays."""
        return [
            points_message(self._rays_of(frame)(scene.voxels), frame.stamp_ns, frame.frame_id) for frame in scene.frames
        ]

    def _rays_of(self, frame: Frame) -> ClearingRays:
        completion, parameters = frame.completion, frame.parameters
        grid_from_camera = completion.voxels.grid_from_camera
        wanted = completion.depth_camera, grid_from_camera, parameters.threads
        made_for, rays = self._rays.get(frame.name, (None, None))
        if rays is None or wanted != made_for:
            rays = ClearingRays(
                completion.voxels.grid, grid_from_camera, completion.depth_camera, threads=parameters.threads or None
            )
            self._rays[frame.name] = wanted, rays
        return rays

    def _free_space(self, scene: Scene) -> list[Any]:
        placement = scene.placement
        points = seen_free_cubes(scene.voxels, FREE_SPACE_EDGE, placement.frame_from_grid)
        return [points_message(points, scene.voxels.stamp_ns, placement.frame_id)]


def _depths(camera: str, scene: Scene) -> list[Any]:
    frames = (frame for frame in scene.frames if frame.name == camera)
    return [depth_message(frame.completion.shown_depth, frame.stamp_ns, frame.frame_id) for frame in frames]


def _depth_camera_infos(camera: str, scene: Scene) -> list[Any]:
    frames = (frame for frame in scene.frames if frame.name == camera)
    return [camera_info_message(frame.completion.depth_camera, frame.stamp_ns, frame.frame_id) for frame in frames]


def ignored_here(voxels: SemanticVoxels, parameters: NodeParameters) -> list[int]:
    """Labels that are no obstacles; a vocabulary may have no class of a name in `obstacle.ignored_classes`."""
    names = ignored_names(parameters.obstacle_ignored_classes)
    return [label for label, name in enumerate(voxels.class_names) if name in names]


def subscribed(publisher: Any) -> bool:
    """Whether it has a subscriber."""
    return bool(publisher.get_subscription_count())
