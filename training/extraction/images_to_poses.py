"""Sequences of recordings without poses: structure from motion over the rectified images, then its scale."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags.reader import ODOMETRY_TYPE
from scene_completion_ros.errors import BagError, ConfigurationError
from scene_completion_ros.messages.transform_buffer import TransformBuffer
from scene_completion_ros.sequences.from_bag import recording_provenance
from scene_completion_ros.sequences.posed_sequence import ArrayLoader, Frame, ImageSource, PosedSequence
from scene_completion_ros.sequences.recording import Recording
from scene_completion_training.extraction.finishing import grey, is_readable, masks_of, views_of
from scene_completion_training.extraction.keyframes import select_by_image_motion
from scene_completion_training.extraction.rectification import View
from scene_completion_training.extraction.reports import BagReport
from scene_completion_training.extraction.scale import Scale, scale_from_camera_height, scale_from_odometry
from scene_completion_training.extraction.settings import ExtractionSettings
from scene_completion_training.extraction.structure_from_motion import Model, reconstruct

_SMALLEST_BASELINE_M = 0.02
_FEWEST_SHARED = 20
_HEIGHT_DISAGREES = 0.15


@dataclasses.dataclass(frozen=True)
class _Part:
    """A stretch of a recording without gaps: times and rectified images of its keyframes."""

    stamps: list[int]
    images: list[dict[str, ImageSource]]


def sequences_from_images(
    recording: Recording,
    settings: ExtractionSettings,
    threads: int,
    report: BagReport,
    progress: Callable[[str], None],
) -> list[PosedSequence]:
    """Reconstruct the poses of a recording.

    Args:
        recording: Frames of which every camera has an image and a place on the rig.
        settings: What is asked for.
        threads: Threads for the reconstruction.
        report: Gets a line for every frame that is lost, and for the scale.
        progress: Told what is being done.

    Returns:
        One sequence for every part that hangs together, rectified already; metric where a scale was found.

    Raises:
        ConfigurationError: The images are not to be rectified although they have distortion.
        SequenceError: The reconstruction cannot run.
    """
    buffer = recording.transforms()
    rig_from_camera = {name: recording.rig_from_camera(buffer, name) for name in recording.cameras}
    views = views_of(recording.cameras, rig_from_camera, settings)
    _check_undistorted(views)
    sequences = []
    for stamps, frames in _parts(recording, views, settings, report):
        progress(f"choosing keyframes of {len(frames)} frames")
        part = _keyframes(stamps, frames, recording.first_camera, report)
        if len(part.images) < settings.min_frames:
            report.problems.append(f"{len(frames)} frames are left out: only {len(part.images)} show the rig moving")
            continue
        sequences += _reconstructed(recording, views, part, settings, threads, report, progress)
    return sequences


def _check_undistorted(views: dict[str, View]) -> None:
    distorted = [name for name, view in views.items() if view.camera.distortion_model != "none"]
    if distorted:
        raise ConfigurationError(
            f"structure from motion needs rectified images, {', '.join(distorted)} would keep its distortion",
            where="--keep-distortion",
            cure="Leave this option out, or record /tf",
        )


def _parts(
    recording: Recording, views: dict[str, View], settings: ExtractionSettings, report: BagReport
) -> list[tuple[list[int], list[dict[str, ImageSource]]]]:
    """Times and rectified images between the gaps."""
    parts: list[tuple[list[int], list[dict[str, ImageSource]]]] = []
    previous: int | None = None
    for stamp, images in recording.groups:
        if not is_readable(images, recording.cameras, report):
            continue
        if previous is None or stamp - previous > settings.split_gap_s * 1e9:
            if previous is not None:
                report.warnings.append(f"gap of {(stamp - previous) / 1e9:.1f} s between images: split there")
            parts.append(([], []))
        parts[-1][0].append(stamp)
        parts[-1][1].append({name: views[name].image(source) for name, source in images.items()})
        previous = stamp
    return parts


def _keyframes(stamps: list[int], frames: list[dict[str, ImageSource]], camera: str, report: BagReport) -> _Part:
    chosen = select_by_image_motion(grey(frame[camera]) for frame in frames)
    if len(chosen) < len(frames):
        report.skipped["the image has hardly moved since the last keyframe"] += len(frames) - len(chosen)
    return _Part([stamps[index] for index in chosen], [frames[index] for index in chosen])


def _reconstructed(
    recording: Recording,
    views: dict[str, View],
    part: _Part,
    settings: ExtractionSettings,
    threads: int,
    report: BagReport,
    progress: Callable[[str], None],
) -> list[PosedSequence]:
    images = {name: [frame[name] for frame in part.images] for name in views}
    masks = masks_of(recording.cameras, views, images, settings)
    first = views[recording.first_camera]
    first_from_rig = first.rig_from_camera.inverse()
    progress(f"structure from motion over {len(part.images)} keyframes")
    with tempfile.TemporaryDirectory(prefix="structure-from-motion-") as folder:
        models = reconstruct(
            {name: map(grey, sources) for name, sources in images.items()},
            {name: view.camera for name, view in views.items()},
            {name: first_from_rig @ view.rig_from_camera for name, view in views.items()},
            Path(folder),
            masks={name: usable for name in views if (usable := _usable(name, masks)) is not None},
            width=settings.sfm_width,
            threads=threads,
            smallest_model=settings.min_frames,
        )
    return [
        _sequence(recording, views, part, model, masks, settings, report)
        for model in _apart(models, len(part.images), settings, report)
    ]


def _usable(name: str, masks: Mapping[str, ArrayLoader]) -> NDArray[np.bool_] | None:
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


def _sequence(
    recording: Recording,
    views: dict[str, View],
    part: _Part,
    model: Model,
    masks: Mapping[str, ArrayLoader],
    settings: ExtractionSettings,
    report: BagReport,
) -> PosedSequence:
    scale = _scale(recording, views, part, model, settings, report)
    rig_from_first = views[recording.first_camera].rig_from_camera
    scaled = model.scaled(scale.factor)
    # The rig stands at the world's origin in its first frame.
    frames = [
        Frame(part.stamps[index], part.images[index], rig_from_first @ pose @ rig_from_first.inverse(), masks)
        for index, pose in scaled.world_from_first.items()
    ]
    if not scale.metric:
        report.warnings.append(
            f"scale: unknown ({scale.support}). Training refuses this sequence; give --camera-height, or record "
            "odometry or a stereo pair"
        )
    return PosedSequence(
        name=recording.reader.path.stem,
        cameras={name: view.camera for name, view in views.items()},
        rig_from_camera={name: view.rig_from_camera for name, view in views.items()},
        frames=frames,
        pose_source="structure from motion",
        metric_scale=scale.metric,
        provenance=recording_provenance(recording) | {"scale": dataclasses.asdict(scale)},
    )


def _scale(
    recording: Recording,
    views: dict[str, View],
    part: _Part,
    model: Model,
    settings: ExtractionSettings,
    report: BagReport,
) -> Scale:
    """The best scale there is: the rig's own size, then odometry, then the height of the camera."""
    by_height = None if settings.camera_height is None else scale_from_camera_height(model, settings.camera_height)
    places = [view.rig_from_camera.translation for view in views.values()]
    by_rig = scale_from_rig(model, places) if len(places) > 1 else None
    candidates = [by_rig, _scale_from_odometry(recording, part, model, settings), by_height]
    tried = [candidate for candidate in candidates if candidate is not None]
    chosen = next((candidate for candidate in tried if candidate.metric), None)
    if chosen is None:
        support = "; ".join(candidate.support for candidate in tried)
        return Scale("unknown", 1.0, support or "one camera, no odometry, no camera height")
    if by_height is not None and by_height.metric and abs(by_height.factor / chosen.factor - 1) > _HEIGHT_DISAGREES:
        report.warnings.append(
            f"by the camera height everything would be {by_height.factor / chosen.factor:.2f} times as large as by "
            f"{chosen.source}, which is used"
        )
    return chosen


def scale_from_rig(model: Model, places: Sequence[NDArray[np.float64]]) -> Scale:
    """Whether cameras at known distances have made the reconstruction metric.

    They do only by what several of them see at one time: cameras that look to opposite sides do not.

    Args:
        model: Reconstruction of the rig.
        places: Position [3] of every camera in the rig, metres, the first camera's first.
    """
    baseline = max(float(np.linalg.norm(place - places[0])) for place in places)
    shared = float(np.median(list(model.shared.values()) or [0]))
    support = f"baseline {baseline:.3f} m, {shared:.0f} points a frame seen by several cameras"
    metric = baseline > _SMALLEST_BASELINE_M and shared >= _FEWEST_SHARED
    return Scale("stereo" if metric else "unknown", 1.0, support)


def _scale_from_odometry(recording: Recording, part: _Part, model: Model, settings: ExtractionSettings) -> Scale | None:
    """Odometry whose frames do not reach the camera still says how far it went."""
    topics = [settings.odometry_topic] if settings.odometry_topic else recording.reader.topics_of_type(ODOMETRY_TYPE)
    if len(topics) != 1:
        return None
    message = next((found.message for found in recording.reader.messages(topics)), None)
    if message is None:
        return None
    buffer = TransformBuffer()
    for found in recording.reader.messages(topics):
        if recording.window.holds(found.stamp_ns):
            buffer.add_odometry(found.message)
    gap_ns = round(settings.pose_gap_s * 1e9)

    def position_at(stamp_ns: int) -> NDArray[np.float64] | None:
        try:
            pose = buffer.lookup(message.header.frame_id, message.child_frame_id, stamp_ns, gap_ns)
        except BagError:
            return None
        return pose.translation

    return scale_from_odometry(model, dict(enumerate(part.stamps)), position_at)
