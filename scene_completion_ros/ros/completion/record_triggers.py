"""When the node asks for a recording: where the student is unsure, and where the next image proves it wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from scene_completion_ros.evaluation.self_doubt import unsure_share, wrong_share
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.messages.record_reasons import RecordReason
from scene_completion_ros.ros.completion.scene import Life, Scene
from scene_completion_ros.ros.health.counters import FrameCounters
from scene_completion_ros.ros.inputs.waiting_room import NotYetError
from scene_completion_ros.ros.parameters.schema import NodeParameters
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels

APART_NS = 1_000_000_000
"""Time between two images that are compared, at least: a robot in motion then sees more of what it had guessed."""
LARGEST_GAP_NS = 3_000_000_000
"""Time after which an image is not compared any more: the street has changed, and odometry has drifted."""

Ask = Callable[[Sequence[RecordReason], int, str], None]


class _Remembered(NamedTuple):
    voxels: SemanticVoxels
    odometry_from_grid: RigidTransform


class RecordTriggers:
    """Scores completions that were published, and asks for a recording; belongs to the inference thread.

    Args:
        ask: Called with the reasons, and the stamp and the frame of the image.
        counters: Warn where images cannot be compared.
    """

    def __init__(self, ask: Ask, counters: FrameCounters) -> None:
        self._ask = ask
        self._counters = counters
        self._life: Life | None = None
        self._then: _Remembered | None = None
        self._asked_ns: int | None = None

    def look(
        self,
        scene: Scene,
        odometry_from_grid: RigidTransform | NotYetError | None,
        life: Life,
        parameters: NodeParameters,
    ) -> None:
        """Score a scene, unless all scores are off, or the last request is too recent.

        Args:
            odometry_from_grid: See `Placement`.
            life: See there.
            parameters: Those of the images.
        """
        if life != self._life:
            self._life, self._then, self._asked_ns = life, None, None
        voxels = scene.voxels if scene.now is None else scene.now
        then = self._remembered(voxels, odometry_from_grid) if parameters.record_wrong else None
        due_ns = 0 if self._asked_ns is None else self._asked_ns + round(1e9 * parameters.record_every)
        if voxels.stamp_ns < due_ns:
            return
        reasons = []
        if parameters.record_unsure and (score := unsure_share(voxels)) > parameters.record_unsure:
            said = f"the student expects {100 * score:.0f} % of its occupied voxels to be free"
            reasons.append(RecordReason("unsure", said, score, parameters.record_unsure))
        if then is not None and isinstance(odometry_from_grid, RigidTransform):
            now_from_then = odometry_from_grid.inverse() @ then.odometry_from_grid
            if (score := wrong_share(then.voxels, voxels, now_from_then)) > parameters.record_wrong:
                said = f"the image sees through {100 * score:.0f} % of what an earlier one had called occupied"
                reasons.append(RecordReason("wrong", said, score, parameters.record_wrong))
        if reasons:
            self._asked_ns = voxels.stamp_ns
            self._ask(reasons, voxels.stamp_ns, scene.placement.frame_id)

    def forget(self) -> None:
        """Release what is remembered: nobody wants scores."""
        self._then = None

    def _remembered(
        self, voxels: SemanticVoxels, odometry_from_grid: RigidTransform | NotYetError | None
    ) -> _Remembered | None:
        """What is to be compared with these voxels, if anything is; they then take its place."""
        if isinstance(odometry_from_grid, NotYetError):
            self._counters.warn("record_wrong", f"the node compares no image with an earlier one: {odometry_from_grid}")
        if not isinstance(odometry_from_grid, RigidTransform):  # none: it came before the parameter was set
            return None
        then = self._then
        if then is not None and voxels.stamp_ns - then.voxels.stamp_ns < APART_NS:
            return None
        self._then = _Remembered(voxels, odometry_from_grid)
        too_old = then is None or voxels.stamp_ns - then.voxels.stamp_ns > LARGEST_GAP_NS
        return None if too_old else then
