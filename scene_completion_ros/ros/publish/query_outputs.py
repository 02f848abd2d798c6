"""What the node answers to a query: the voxels that match it, the middles of their clusters, and the phrases."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from std_msgs.msg import String

from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.inference.text_bank import Vocabulary
from scene_completion_ros.mapping.clusters import VoxelClusters, all_matches
from scene_completion_ros.ros import topics
from scene_completion_ros.ros.frame import Scene
from scene_completion_ros.ros.messages import matches_message, poses_message
from scene_completion_ros.voxels.cloud import MATCH_CLOUD_DTYPE


class QueryOutputs:
    """Publishers of a query's answers; they belong to the inference thread.

    `create`: makes the publisher of a topic.
    """

    def __init__(self, create: Callable[[str], Any], grid: VoxelGrid) -> None:
        self._matches, self._centroids, self._phrases = map(create, (topics.MATCHES, topics.CENTROIDS, topics.PHRASES))
        self._grid = grid
        self._query: Vocabulary | None = None
        self._clusters: VoxelClusters | None = None
        self._answered: tuple[int, str] | None = None  # stamp and frame of the last answer
        self._publish_phrases(None, None)

    @property
    def wanted(self) -> bool:
        """Whether there is a query and somebody who hears its answers."""
        return self._query is not None and any(self.subscribers().values())

    def subscribers(self) -> dict[str, int]:
        """Number of subscribers by topic."""
        answers = self._matches, self._centroids
        return {publisher.topic_name: int(publisher.get_subscription_count()) for publisher in answers}

    def choose(self, query: Vocabulary | None) -> None:
        """Take another query, or none: then empty answers take the last ones back."""
        self._query = query
        self._publish_phrases(None, None)
        if query is None and self._answered is not None:
            header, self._answered = self._answered, None
            self._matches.publish(matches_message(np.zeros(0, MATCH_CLOUD_DTYPE), *header))
            self._centroids.publish(poses_message(np.zeros((0, 3)), *header))

    def publish(self, scene: Scene) -> None:
        """Publish what answers the query in a scene, as far as somebody subscribed to it."""
        completions = [frame.completion for frame in scene.frames]
        answers = [(completion.voxels, completion.matches) for completion in completions if completion.query]
        if not answers or self._query is None:
            return
        found = all_matches(scene.voxels, answers)
        frame_from_grid = scene.placement.frame_from_grid
        header = self._answered = scene.voxels.stamp_ns, scene.placement.frame_id
        counts = None
        if self._centroids.get_subscription_count():
            self._clusters = self._clusters or VoxelClusters(self._grid)
            ends = np.searchsorted(found.phrase, np.arange(len(self._query.names) + 1))  # they come by phrase
            clusters = [
                self._clusters(found.index[begin:end], found.phrase[begin:end]) for begin, end in pairwise(ends)
            ]
            counts = [len(own.centroid) for own in clusters]
            centroids = np.concatenate([own.centroid for own in clusters])
            self._centroids.publish(poses_message(frame_from_grid.apply(centroids), *header))
        self._publish_phrases(header[0], counts)
        if self._matches.get_subscription_count():
            cloud = np.zeros(len(found.index), MATCH_CLOUD_DTYPE)
            centres = np.asarray(self._grid.origin) + (found.index + 0.5) * self._grid.voxel_size
            cloud["x"], cloud["y"], cloud["z"] = frame_from_grid.apply(centres).T
            cloud["score"], cloud["probability"], cloud["phrase"] = found.score, found.probability, found.phrase
            self._matches.publish(matches_message(cloud, *header))

    def _publish_phrases(self, stamp_ns: int | None, centroids: list[int] | None) -> None:
        """Say what the numbers of phrases mean, and whose the centroids of an image are."""
        meaning = {
            "phrases": [] if self._query is None else list(self._query.names),
            "text_bank_sha256": "" if self._query is None else self._query.bank_sha256,
            "stamp_ns": stamp_ns,
            "centroids": centroids,
        }
        self._phrases.publish(String(data=json.dumps(meaning)))
