"""Sequences of recordings without poses: structure from motion over the rectified images, then its scale."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from scene_completion_ros.bags.reader import ODOMETRY_TYPE
from scene_completion_ros.errors import BagError
from scene_completion_ros.sequences.from_bag import recording_provenance
from scene_completion_ros.sequences.posed_sequence import ArrayLoader, Frame, ImageSource, PosedSequence
from scene_completion_ros.sequences.recording import Recording
from scene_completion_training.arrays import Doubles, Mask
from scene_completion_training.extraction.finishing import grey, is_readable, masks_of, select_by_image_motion
from scene_completion_training.extraction.rectification import View, rectified_views
from scene_completion_training.extraction.reports import BagReport
from scene_completion_training.extraction.scale import Scale, scale_from_camera_height, scale_from_odometry
from scene_completion_training.extraction.settings import ExtractionSettings
from scene_completion_training.extraction.structure_from_motion import Model, reconstruct

_SMALLEST_BASELINE_M = 0.02
_FEWEST_SHARED = 20
_HEIGHT_DISAGREES = 0.15


@dataclasses.dataclass(frozen=True)
class _Part:
    """A stretch of a recording without gaps: times and rectified images of its frames, or of its keyframes."""

    stamps: list[int]
    images: list[dict[str, ImageSource]]


def sequences_from_images(
    recording: Recording, settings: ExtractionSettings, threads: int, report: BagReport, progress: Callable[[str], None]
) -> list[PosedSequence]:
    """Reconstruct the poses of a recording. Raises SequenceError where the reconstruction cannot run.

    Returns one sequence for every part that hangs together, rectified already; metric where a scale was found.

    `recording`: frames of which every camera has an image and a place on the rig; `report`: gets a line for every frame
    that is lost, and for the scale.
    """
    buffer = recording.transforms()
    rig_from_camera = {name: recording.rig_from_camera(buffer, name) for name in recording.cameras}
    views = rectified_views(recording.cameras, rig_from_camera, settings.max_fov_degrees)
    work = _Reconstruction(recording, views, settings, report)
    sequences = []
    for frames in work.parts():
        progress(f"choosing keyframes of {len(frames.images)} frames")
        part = work.keyframes(frames)
        if len(part.images) < settings.min_frames:
            lost = f"{len(frames.images)} frames are left out: only {len(part.images)} show the rig moving"
            report.problems.append(lost)
            continue
        progress(f"structure from motion over {len(part.images)} keyframes")
        sequences += work.sequences(part, threads)
    return sequences


@dataclasses.dataclass(frozen=True)
class _Reconstruction:
    """A recording that is being reconstructed: its rectified views, what is asked for, and the report."""

    recording: Recording
    views: dict[str, View]
    settings: ExtractionSettings
    report: BagReport

    def parts(self) -> list[_Part]:
        """Times and rectified images between the gaps."""
        parts: list[_Part] = []
        previous: int | None = None
        for stamp, images in self.recording.groups:
            if not is_readable(images, self.recording.cameras, self.report):
                continue
            if previous is None or stamp - previous > self.settings.split_gap_s * 1e9:
                if previous is not None:
                    gap = f"gap of {(stamp - previous) / 1e9:.1f} s between images: split there"
                    self.report.warnings.append(gap)
                parts.append(_Part([], []))
            parts[-1].stamps.append(stamp)
            parts[-1].images.append({name: self.views[name].image(source) for name, source in images.items()})
            previous = stamp
        return parts

    def keyframes(self, part: _Part) -> _Part:
        """The frames in which the image has moved."""
        chosen = select_by_image_motion(grey(frame[self.recording.first_camera]) for frame in part.images)
        if left_out := len(part.images) - len(chosen):
            self.report.skipped["the image has hardly moved since the last keyframe"] += left_out
        return _Part([part.stamps[index] for index in chosen], [part.images[index] for index in chosen])

    def sequences(self, part: _Part, threads: int) -> list[PosedSequence]:
        """Reconstruct keyframes, and scale what comes out."""
        images = {name: [frame[name] for frame in part.images] for name in self.views}
        masks = masks_of(self.recording.cameras, self.views, self.settings)
        first_from_rig = self.views[self.recording.first_camera].rig_from_camera.inverse()
        with tempfile.TemporaryDirectory(prefix="structure-from-motion-") as folder:
            models = reconstruct(
                {name: map(grey, sources) for name, sources in images.items()},
                {name: view.camera for name, view in self.views.items()},
                {name: first_from_rig @ view.rig_from_camera for name, view in self.views.items()},
                Path(folder),
                masks={name: usable for name in self.views if (usable := _usable(name, masks)) is not None},
                width=self.settings.sfm_width,
                threads=threads,
                smallest_model=self.settings.min_frames,
            )
        apart = _apart(models, len(part.images), self.settings, self.report)
        return [self._sequence(part, model, masks) for model in apart]

    def _sequence(self, part: _Part, model: Model, masks: Mapping[str, ArrayLoader]) -> PosedSequence:
        scale = self._scale(part, model)
        rig_from_first = self.views[self.recording.first_camera].rig_from_camera
        scaled = model.scaled(scale.factor)
        # The rig stands at the world's origin in its first frame.
        frames = [
            Frame(part.stamps[index], part.images[index], rig_from_first @ pose @ rig_from_first.inverse(), masks)
            for index, pose in scaled.world_from_first.items()
        ]
        if not scale.metric:
            self.report.warnings.append(
                f"scale: unknown ({scale.support}). Training refuses this sequence; give --camera-height, or record "
                "odometry or a stereo pair"
            )
        cameras = {name: view.camera for name, view in self.views.items()}
        rig_from_camera = {name: view.rig_from_camera for name, view in self.views.items()}
        name, source = self.recording.reader.path.stem, "structure from motion"
        provenance = recording_provenance(self.recording) | {"scale": dataclasses.asdict(scale)}
        return PosedSequence(name, cameras, rig_from_camera, frames, source, scale.metric, provenance)

    def _scale(self, part: _Part, model: Model) -> Scale:
        """The best scale there is: the rig's own size, then odometry, then the height of the camera."""
        height = self.settings.camera_height
        by_height = None if height is None else scale_from_camera_height(model, height)
        places = [view.rig_from_camera.translation for view in self.views.values()]
        by_rig = scale_from_rig(model, places) if len(places) > 1 else None
        tried = [found for found in (by_rig, self._odometry_scale(part, model), by_height) if found is not None]
        chosen = next((found for found in tried if found.metric), None)
        if chosen is None:
            support = "; ".join(found.support for found in tried)
            return Scale("unknown", 1.0, support or "one camera, no odometry, no camera height")
        if by_height is not None and by_height.metric and abs(by_height.factor / chosen.factor - 1) > _HEIGHT_DISAGREES:
            self.report.warnings.append(
                f"by the camera height everything would be {by_height.factor / chosen.factor:.2f} times as large as by "
                f"{chosen.source}, which is used"
            )
        return chosen

    def _odometry_scale(self, part: _Part, model: Model) -> Scale | None:
        """Odometry whose frames do not reach the camera still says how far it went."""
        reader, named = self.recording.reader, self.settings.odometry_topic
        topics = [named] if named else reader.topics_of_type(ODOMETRY_TYPE)
        topics = reader.of_robot(topics, self.recording.topics[self.recording.first_camera])
        if len(topics) != 1:
            return None
        topic, _, child = topics[0].partition("=")
        message = reader.first(topic)
        if message is None:
            return None
        child = child or message.child_frame_id or "robot"  # only the way counts
        within = self.recording.window.holds
        buffer = reader.tf_buffer(odometry_topic=f"{topic}={child}", within=within, with_tf=False)
        gap_ns = round(self.settings.pose_gap_s * 1e9)

        def position_at(stamp_ns: int) -> Doubles | None:
            try:
                return buffer.lookup(message.header.frame_id, child, stamp_ns, gap_ns).translation
            except BagError:
                return None

        return scale_from_odometry(model, dict(enumerate(part.stamps)), position_at)


def _usable(name: str, masks: Mapping[str, ArrayLoader]) -> Mask | None:
    """Pixels in which features may be looked for, None for all."""
    parts = [masks[f"validity_{name}"]()] if f"validity_{name}" in masks else []
    if f"ego_{name}" in masks:
        parts.append(~masks[f"ego_{name}"]())
    return np.asarray(np.logical_and.reduce(parts), dtype=bool) if parts else None


def _apart(models: list[Model], count: int, settings: ExtractionSettings, report: BagReport) -> list[Model]:
    """Models that share no frame, the largest first; frames that are in none are counted."""
    kept: list[Model] = []
    taken: set[int] = set()
    for model in models:
        poses = {index: pose for index, pose in model.world_from_first.items() if index not in taken}
        if len(poses) >= settings.min_frames:
            kept.append(dataclasses.replace(model, world_from_first=poses))
            taken |= poses.keys()
    if len(taken) < count:
        lost = sorted(set(range(count)) - taken)
        report.skipped["keyframe that structure from motion could not place"] += len(lost)
        report.problems.append(
            f"structure from motion could not place {len(lost)} of {count} keyframes ({_ranges(lost)}): too little "
            "texture, blur, or too few common points with their neighbours"
        )
    if len(kept) > 1:
        report.warnings.append(f"structure from motion fell apart into {len(kept)} parts: one sequence each")
    return kept


def _ranges(indices: list[int]) -> str:
    """Sorted numbers as "0-3, 7"."""
    text = []
    start = indices[0]
    for index, following in zip(indices, [*indices[1:], None], strict=True):
        if following != index + 1:
            text.append(str(start) if start == index else f"{start}-{index}")
            start = following if following is not None else index
    return ", ".join(text)


def scale_from_rig(model: Model, places: Sequence[Doubles]) -> Scale:
    """Whether cameras at known places [3] in the rig, metres, the first one's first, have made a reconstruction metric.

    They do only by what several of them see at one time: cameras that look to opposite sides do not.
    """
    baseline = max(float(np.linalg.norm(place - places[0])) for place in places)
    shared = float(np.median(list(model.shared.values()) or [0]))
    support = f"baseline {baseline:.3f} m, {shared:.0f} points a frame seen by several cameras"
    metric = baseline > _SMALLEST_BASELINE_M and shared >= _FEWEST_SHARED
    return Scale("stereo" if metric else "unknown", 1.0, support)
