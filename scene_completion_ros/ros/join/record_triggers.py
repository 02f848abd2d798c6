"""When the node asks for a recording: where the student is unsure, and where the next image proves it wrong."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from scene_completion_ros.evaluation.self_doubt import unsure_share, wrong_share
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.messages.drop_reasons import RecordReason
from scene_completion_ros.ros.frame import Epoch, NotYetError, Scene
from scene_completion_ros.ros.health.counters import FrameCounters
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels

# Time between two images that are compared, at least: a robot in motion then sees more of what it had guessed.
APART_NS = 1_000_000_000
# Time after which an image is not compared any more: the street has changed, and odometry has drifted.
LARGEST_GAP_NS = 3_000_000_000

EVERY_NS = 10_000_000_000  # time between two requests, at least, by the stamps of images

Ask = Callable[[Sequence[RecordReason], int, str], None]


class _Earlier(NamedTuple):
    voxels: SemanticVoxels
    odometry_from_grid: RigidTransform


class RecordTriggers:
    """Scores completions that were published, and asks for a recording; belongs to the inference thread.

    `ask`: called with the reasons, and the stamp and the frame of the image; `counters`: warn where images cannot be
    compared.
    """

    def __init__(self, ask: Ask, counters: FrameCounters) -> None:
        self._ask, self._counters = ask, counters
        self._epoch: Epoch | None = None
        self._then: _Earlier | None = None
        self._last_ns: int | None = None

    def look(self, scene: Scene) -> None:
        """Score a scene that was published, unless all scores are off, or the last request is too recent."""
        parameters, odometry_from_grid = scene.parameters, scene.odometry_from_grid
        if scene.epoch != self._epoch:
            self._epoch, self._then, self._last_ns = scene.epoch, None, None
        voxels = scene.voxels if scene.voxels_of_moment is None else scene.voxels_of_moment
        then = self._earlier(voxels, odometry_from_grid) if parameters.record_wrong else None
        due_ns = 0 if self._last_ns is None else self._last_ns + EVERY_NS
        if voxels.stamp_ns < due_ns:
            return
        reasons = []
        if parameters.record_unsure and (score := unsure_share(voxels)) > parameters.record_unsure:
            why = f"the student expects {100 * score:.0f} % of its occupied voxels to be free"
            reasons.append(RecordReason("unsure", why, score, parameters.record_unsure))
        if then is not None and isinstance(odometry_from_grid, RigidTransform):
            now_from_then = odometry_from_grid.inverse() @ then.odometry_from_grid
            if (score := wrong_share(then.voxels, voxels, now_from_then)) > parameters.record_wrong:
                why = f"the image sees through {100 * score:.0f} % of what an earlier one had called occupied"
                reasons.append(RecordReason("wrong", why, score, parameters.record_wrong))
        if reasons:
            self._last_ns = voxels.stamp_ns
            self._ask(reasons, voxels.stamp_ns, scene.placement.frame_id)

    def forget(self) -> None:
        """Release what is remembered: nobody wants scores."""
        self._then = None

    def _earlier(
        self, voxels: SemanticVoxels, odometry_from_grid: RigidTransform | NotYetError | None
    ) -> _Earlier | None:
        """What is to be compared with these voxels, if anything is; they then take its place."""
        if isinstance(odometry_from_grid, NotYetError):
            self._counters.warn("record.wrong", f"the node compares no image with an earlier one: {odometry_from_grid}")
        if not isinstance(odometry_from_grid, RigidTransform):  # none: it came before the parameter was set
            return None
        then = self._then
        if then is not None and voxels.stamp_ns - then.voxels.stamp_ns < APART_NS:
            return None
        self._then = _Earlier(voxels, odometry_from_grid)
        too_old = then is None or voxels.stamp_ns - then.voxels.stamp_ns > LARGEST_GAP_NS
        return None if too_old else then
