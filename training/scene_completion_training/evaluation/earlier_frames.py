"""What the earlier frames of a recording say of one, as a robot that drives through it would know it."""

from collections.abc import Callable
from typing import TypeAlias

from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.earlier_images import EarlierImages
from scene_completion_ros.inference.evidence import Evidence, Sources
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.arrays import Bytes, Floats

MOST = 30  # earlier frames that are looked at for one
# Canonical image [H, W, 3] of a frame, and what a student says of its depth by itself, see `Completion.own_depth`.
Look: TypeAlias = Callable[[PosedSequence, int], tuple[Bytes, Floats]]


class EarlierFrames:
    """Evidence of frames that are asked for in any order; in that of the recording, each is looked at once.

    `begin`: what remembers the images of a camera of a recording; `look`: see `Look`.
    """

    def __init__(self, begin: Callable[[PosedSequence, str], EarlierImages], look: Look) -> None:
        self._begin, self._look = begin, look
        self._now: tuple[PosedSequence, str, int, EarlierImages] | None = None

    def evidence(self, sequence: PosedSequence, index: int, camera: str) -> Evidence:
        """What the frames before say of the image of a camera, by the poses of the recording."""
        now = self._now
        if now is None or now[0] is not sequence or now[1] != camera or not 0 <= index - now[2] <= MOST:
            now = sequence, camera, max(0, index - MOST), self._begin(sequence, camera)
        _, _, start, earlier = now
        for one in range(start, index):
            image, own_depth = self._look(sequence, one)
            pose, stamp_ns = sequence.world_from_camera(one, camera), sequence.frames[one].stamp_ns
            earlier.add(image, own_depth, pose, stamp_ns)
        self._now = sequence, camera, index, earlier
        return earlier.evidence(sequence.world_from_camera(index, camera), sequence.frames[index].stamp_ns)


class EarlierFramesCompleted:
    """The same for whoever completes frames, by a completer that may change with the mounting of the camera."""

    def __init__(self, sources: Sources) -> None:
        self._sources, self._frames = sources, EarlierFrames(lambda *_: self._begin(), self._look)

    def evidence(self, completer: Completer, sequence: PosedSequence, index: int, camera: str) -> Evidence:
        """What the frames before say of the image of a camera, which a completer is to complete."""
        self._completer, self._camera = completer, camera
        return self._frames.evidence(sequence, index, camera)

    def _begin(self) -> EarlierImages:
        return EarlierImages(self._completer.motion_scale(), corners=self._sources.scale == "corners")

    def _look(self, sequence: PosedSequence, index: int) -> tuple[Bytes, Floats]:
        completion = self._completer.complete(sequence.image(index, self._camera), labels=False)
        assert completion.own_depth is not None
        return completion.image, completion.own_depth
