"""Ground truth of a recording on disk, found by stamp: a town of `scene-completion street-world`, a KITTI window."""

from pathlib import Path

import numpy as np

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.truth import FrameTruth
from scene_completion_ros.sequences.opening import depth_truth, holds_voxels, open_recording, voxel_truth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import reference_camera

TOLERANCE_NS = 5_000_000  # between the stamps of an image and of its ground truth


class SequenceTruth:
    """Ground truth of the frames of a folder.

    Voxels and depth are those that its source knows of, see `sequences.opening`; without a depth of its own it is that
    of the LiDAR. Insides of solid things, which no sensor ever sees, do not count, nor does what is below the ground,
    unknown, or officially invalid. Raises SequenceError where the folder is no recording, is damaged, has no such
    camera, or no ground truth at all.

    `camera`: name of the camera in it that took the images; see `reference_camera` for the default; `offset_ns`: added
    to the stamps of the folder, so that they are those of the recording.
    """

    def __init__(self, folder: Path | str, *, camera: str | None = None, offset_ns: int = 0) -> None:
        root = Path(folder)
        self.sequence = open_recording(root)
        self.name = self.sequence.name  # of the sequence
        self.camera = _choose_camera(self.sequence, camera, str(root))
        self._offset_ns = offset_ns
        self._stamps = np.array([frame.stamp_ns + offset_ns for frame in self.sequence.frames], dtype=np.int64)
        known = {name for frame in self.sequence.frames for name in frame.assets}
        voxels = any(holds_voxels(self.sequence, index) for index in range(len(self.sequence)))
        if not (voxels or known & {"depth", "lidar"}):
            what = f"no ground truth among its assets ({', '.join(sorted(known)) or 'none'})"
            cure = "Write voxel_label with voxel_flags, ssc_label with ssc_invalid, depth or lidar"
            raise SequenceError(what, where=str(root), cure=cure)

    def check_times(self, start_ns: int, end_ns: int) -> None:
        """Refuse a folder of which no frame lies in the time of the recording.

        Raises SequenceError: says what offset would bring the first frames together.
        """
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


def _choose_camera(sequence: PosedSequence, name: str | None, where: str) -> str:
    if name is not None and name not in sequence.cameras:
        raise SequenceError(
            f"no camera {name!r}", where=where, cure=f"Its cameras are {', '.join(sorted(sequence.cameras))}"
        )
    return name or reference_camera(sequence)
