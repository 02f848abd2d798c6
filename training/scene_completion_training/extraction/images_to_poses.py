"""Sequences of recordings without poses: structure from motion over the rectified images, then its scale.

Structure from motion is incremental (Schönberger and Frahm 2016, COLMAP).
"""

import dataclasses
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from scene_completion_ros.bags.reader import ODOMETRY_TYPE
from scene_completion_ros.errors import BagError, SequenceError
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.sequences.from_bag import Recording, recording_provenance
from scene_completion_ros.sequences.posed_sequence import ArrayLoader, Frame, ImageSource, PosedSequence
from scene_completion_training.arrays import Bytes, Doubles, Ints, Mask, Random
from scene_completion_training.extraction.finishing import (
    Cameras,
    Poses,
    View,
    grey,
    is_readable,
    masks_of,
    rectified_views,
    select_by_image_motion,
)
from scene_completion_training.extraction.settings import BagReport, ExtractionSettings

OVERLAP = 6  # keyframes that each one is matched with
FEATURES = 3000
Masks: TypeAlias = Mapping[str, Mask]


@dataclass(frozen=True, eq=False)
class Model:
    """One connected reconstruction; its unit of length is arbitrary unless the rig's baseline fixes it."""

    world_from_first: dict[int, RigidTransform]  # frame index -> pose of the first camera
    points: Doubles  # sparse points [P, 3] in the world
    seen: dict[int, Ints]  # frame index -> indices of the points that the first camera sees in it
    # Frame index -> number of points that several cameras see in it: they carry the scale of a rig.
    shared: dict[int, int] = field(default_factory=dict)

    def scaled(self, factor: float) -> "Model":
        """Return the model with another unit of length."""
        every = self.world_from_first.items()
        poses = {k: RigidTransform(pose.rotation, factor * pose.translation) for k, pose in every}
        return replace(self, world_from_first=poses, points=factor * self.points)


def reconstruct(
    # Camera -> grey images [H, W], one of every camera a frame, in order of time; taken one by one.
    frames: Mapping[str, Iterable[Bytes]],
    cameras: Mapping[str, Camera],  # camera -> pinhole camera; the first is the origin
    # Camera -> pose in the first camera; the distances are taken for metres.
    first_from_camera: Mapping[str, RigidTransform],
    folder: Path,  # an empty folder for images and the database
    *,
    masks: Mapping[str, Mask] | None = None,  # camera -> pixels to be used, bool [H, W]
    width: int = 800,  # images are reduced to at most this width
    threads: int = 1,
    smallest_model: int = 5,
) -> list[Model]:
    """Reconstruct a drive. Raises SequenceError: pycolmap is not installed, or failed.

    Returns models, the largest first, empty where nothing fits together. A frame may be in several.
    """
    if find_spec("pycolmap") is None:
        what = "structure from motion needs pycolmap"
        raise SequenceError(what, where="--poses", cure="Install the extra 'train', or record /tf")
    problem = _write_problem(frames, cameras, first_from_camera, folder, masks or {}, width)
    problem |= {"threads": threads, "smallest_model": smallest_model, "features": FEATURES}
    (folder / "problem.json").write_text(json.dumps(problem), encoding="utf-8")
    log = folder / "log.txt"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "scene_completion_training.extraction.mapper_process", str(folder)]
        root = Path(__file__).resolve().parents[2]  # where the package lies
        ended = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd=root, check=False)
    if ended.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        what = f"structure from motion ended with status {ended.returncode}: {' '.join(last)[:200]}"
        raise SequenceError(what, where="pycolmap", cure="Record /tf or odometry, or report this bag")
    with np.load(folder / "models.npz", allow_pickle=False) as data:
        count = len(data.files) // 4
        models = [_model({key: data[f"{number}_{key}"] for key in _KEYS}) for number in range(count)]
    return [model for model in models if model.world_from_first]


def _write_problem(
    frames: Mapping[str, Iterable[Bytes]], cameras: Cameras, poses: Poses, folder: Path, masks: Masks, width: int
) -> dict[str, object]:
    entries: list[dict[str, object]] = []
    names: list[list[str]] = []
    for number, (camera, images) in enumerate(frames.items()):
        shrink = min(1.0, width / cameras[camera].width)
        small = cameras[camera].resized(round(cameras[camera].width * shrink), round(cameras[camera].height * shrink))
        listed: list[str] = []
        for index, image in enumerate(images):
            listed.append(f"camera_{number}/{index:06d}.png")
            _write_small(folder / "images" / listed[-1], image, small)
            if camera in masks:
                _write_small(folder / "masks" / f"{listed[-1]}.png", masks[camera].astype(np.uint8) * 255, small)
        pose, lens = poses[camera].inverse().matrix.tolist(), [small.fx, small.fy, small.cx, small.cy]
        entry = {"folder": f"camera_{number}", "images": listed, "masked": camera in masks}
        entries.append({**entry, "intrinsics": lens, "camera_from_first": pose})
        names.append(listed)
    return {"cameras": entries, "pairs": _pairs(names)}


def _pairs(names: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Image pairs to match: each with the next keyframes of its camera, and with the other cameras now and next."""
    pairs = []
    for camera, images in enumerate(names):
        for index, image in enumerate(images):
            pairs += [(image, later) for later in images[index + 1 : index + 1 + OVERLAP]]
            for other in names[camera + 1 :]:
                pairs += [(image, at) for at in other[index : index + 2]]
    return pairs


def _write_small(path: Path, image: Bytes, small: Camera) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(image, (small.width, small.height), interpolation=cv2.INTER_AREA))


_KEYS = ("names", "cam_from_world", "points", "observations")


def _model(arrays: Mapping[str, Doubles]) -> Model:
    """Keep the first camera of every frame, and place the world in the first of them."""
    observations = arrays["observations"].astype(np.int64)
    places = [_place(str(name)) for name in arrays["names"]]  # (camera, frame) of every image
    of_first = {frame: row for row, (camera, frame) in enumerate(places) if camera == 0}
    of_first = dict(sorted(of_first.items()))
    if not of_first:
        return Model({}, arrays["points"], {})
    points_of = [observations[observations[:, 0] == row, 1] for row in range(len(places))]
    placed = arrays["cam_from_world"]
    poses = {frame: RigidTransform.from_matrix(placed[row]).inverse() for frame, row in of_first.items()}
    start_from_world = next(iter(poses.values())).inverse()
    return Model(
        {frame: start_from_world @ pose for frame, pose in poses.items()},
        np.asarray(start_from_world.apply(arrays["points"]), dtype=np.float64),
        {frame: points_of[row] for frame, row in of_first.items()},
        {frame: _shared(frame, row, places, points_of) for frame, row in of_first.items()},
    )


def _place(name: str) -> tuple[int, int]:
    """Camera and frame of an image "camera_0/000012.png"."""
    camera, _, frame = name.removesuffix(".png").partition("/")
    return int(camera.removeprefix("camera_")), int(frame)


def _shared(frame: int, row: int, places: Sequence[tuple[int, int]], points_of: Sequence[Ints]) -> int:
    others = [points_of[other] for other, (camera, at) in enumerate(places) if at == frame and camera != 0]
    return sum(len(np.intersect1d(points_of[row], other)) for other in others)


_CHORD = 5  # keyframes between the ends of a compared distance: a single step is mostly noise
_NEIGHBOURS = 5  # keyframes before and after whose points help to see the ground
_HYPOTHESES = 600
_LARGEST_TILT = math.radians(25.0)  # of the ground against the camera's horizontal plane
_THICKNESS = 0.03  # of the camera's height: distance to the plane up to which a point lies on it
_REACH = 12.0  # camera heights: points further away are too inexact
_FEWEST_POINTS = 25
_FEWEST_FRAMES = 3
_LARGEST_SPREAD = 0.25


@dataclass(frozen=True)
class Scale:
    """A factor from a reconstruction's unit to metres, and its support."""

    source: str  # "stereo", "odometry", "camera height", "recorded" or "unknown"
    factor: float  # metres per unit; 1 where unknown
    support: str  # in words

    @property
    def metric(self) -> bool:
        """Whether the result is in metres."""
        return self.source != "unknown"


def scale_from_odometry(model: Model, stamps: Mapping[int, int], position_at: Callable[[int], Doubles | None]) -> Scale:
    """Compare distances between keyframes with those that odometry has measured: the median ratio.

    It is unknown where odometry covers less than three distances, or they contradict each other.

    `stamps`: frame index -> time, ns; `position_at`: position [3] in metres at a time, None where odometry has none.
    """
    frames = list(model.world_from_first)
    places = {frame: position_at(stamps[frame]) for frame in frames}
    ratios = []
    chord = max(1, min(_CHORD, len(frames) // 2))
    for start, end in zip(frames, frames[chord:], strict=False):
        one, other = places[start], places[end]
        if one is None or other is None:
            continue
        moved = np.linalg.norm(model.world_from_first[end].translation - model.world_from_first[start].translation)
        measured = np.linalg.norm(other - one)
        if moved > 0.0 and measured > 0.0:
            ratios.append(float(measured / moved))
    return _median_scale("odometry", np.array(ratios), "distances")


def scale_from_camera_height(model: Model, height: float) -> Scale:
    """Fit the ground under the camera and compare its distance with the known height of the camera, metres.

    For every keyframe a plane is fitted by random samples (Fischler and Bolles 1981) to the sparse points around it.
    Planes that are tilted against the camera's horizontal plane, as walls are, do not count. Returns the scale; unknown
    where too few keyframes show enough ground or their heights contradict each other. `model`: reconstruction of
    unknown scale; the first camera is about horizontal.
    """
    generator = np.random.default_rng(0)
    heights, supports = [], []
    frames = list(model.world_from_first)
    for position, frame in enumerate(frames):
        around = frames[max(position - _NEIGHBOURS, 0) : position + _NEIGHBOURS + 1]
        visible = np.unique(np.concatenate([model.seen[other] for other in around]))
        camera_from_world = model.world_from_first[frame].inverse()
        found = ground_plane(np.asarray(camera_from_world.apply(model.points[visible])), generator)
        if found is not None and found[1] >= _FEWEST_POINTS:
            heights.append(found[0])
            supports.append(found[1])
    scale = _median_scale("camera height", height / np.array(heights), "keyframes")
    points = f", {np.median(supports):.0f} points each on the ground" if supports else ""
    return Scale(scale.source, scale.factor, f"{scale.support}{points}")


def ground_plane(points: Doubles, generator: Random) -> tuple[float, int] | None:
    """Distance to the plane below a camera with most points of [N, 3] (y down), and their number; None if none fits."""
    below = points[(points[:, 1] > 0.0) & (points[:, 1] > 0.05 * np.abs(points[:, 2]))]
    if len(below) < _FEWEST_POINTS:
        return None
    normals, heights = _planes(below[generator.integers(0, len(below), (_HYPOTHESES, 3))])
    if not len(heights):
        return None
    near = np.linalg.norm(below[None, :, [0, 2]], axis=-1) < _REACH * heights[:, None]
    on_plane = near & (np.abs(normals @ below.T - heights[:, None]) < _THICKNESS * heights[:, None])
    best = int(on_plane.sum(axis=1).argmax())
    inliers = below[on_plane[best]]
    if len(inliers) < 3:
        return None
    centre = inliers.mean(axis=0)
    normal = np.linalg.svd(inliers - centre, full_matrices=False)[2][2]
    return abs(float(normal @ centre)), len(inliers)


def _planes(corners: Doubles) -> tuple[Doubles, Doubles]:
    """Downward normals [K, 3] and distances [K] of those planes through triples [S, 3, 3] that may be ground."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals / np.where(lengths > 0.0, lengths, 1.0)
    normals *= np.where(normals[:, 1:2] < 0.0, -1.0, 1.0)
    heights = np.einsum("ij,ij->i", normals, corners[:, 0])
    usable = (lengths[:, 0] > 0.0) & (normals[:, 1] > math.cos(_LARGEST_TILT)) & (heights > 0.0)
    return normals[usable], heights[usable]


def _median_scale(source: str, ratios: Doubles, unit: str) -> Scale:
    if len(ratios) < _FEWEST_FRAMES:
        return Scale("unknown", 1.0, f"{source}: only {len(ratios)} usable {unit}")
    median = float(np.median(ratios))
    spread = float(1.4826 * np.median(np.abs(ratios - median)) / median)
    if spread > _LARGEST_SPREAD:
        return Scale("unknown", 1.0, f"{source}: {len(ratios)} {unit} contradict each other by {spread:.0%}")
    return Scale(source, median, f"{len(ratios)} {unit}, spread {spread:.1%}")


_SMALLEST_BASELINE_M = 0.02
_FEWEST_SHARED = 20
_HEIGHT_DISAGREES = 0.15


# A stretch of a recording without gaps: times, ns, and rectified images of its frames, or of its keyframes.
_Part: TypeAlias = list[tuple[int, dict[str, ImageSource]]]


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
        progress(f"choosing keyframes of {len(frames)} frames")
        part = work.keyframes(frames)
        if len(part) < settings.min_frames:
            lost = f"{len(frames)} frames are left out: only {len(part)} show the rig moving"
            report.problems.append(lost)
            continue
        progress(f"structure from motion over {len(part)} keyframes")
        sequences += work.sequences(part, threads)
    return sequences


@dataclasses.dataclass(frozen=True)
class _Reconstruction:
    """A recording that is being reconstructed: its rectified views, the settings, and the report."""

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
                parts.append([])
            parts[-1].append((stamp, {name: self.views[name].image(source) for name, source in images.items()}))
            previous = stamp
        return parts

    def keyframes(self, part: _Part) -> _Part:
        """The frames in which the image has moved."""
        chosen = select_by_image_motion(grey(images[self.recording.first_camera]) for _, images in part)
        if left_out := len(part) - len(chosen):
            self.report.skipped["the image has hardly moved since the last keyframe"] += left_out
        return [part[index] for index in chosen]

    def sequences(self, part: _Part, threads: int) -> list[PosedSequence]:
        """Reconstruct keyframes, and scale what comes out."""
        sources = {name: [images[name] for _, images in part] for name in self.views}
        masks = masks_of(self.recording.cameras, self.views, self.settings)
        first_from_rig = self.views[self.recording.first_camera].rig_from_camera.inverse()
        with tempfile.TemporaryDirectory(prefix="structure-from-motion-") as folder:
            models = reconstruct(
                {name: map(grey, of_camera) for name, of_camera in sources.items()},
                {name: view.camera for name, view in self.views.items()},
                {name: first_from_rig @ view.rig_from_camera for name, view in self.views.items()},
                Path(folder),
                masks={name: usable for name in self.views if (usable := _usable(name, masks)) is not None},
                width=self.settings.sfm_width,
                threads=threads,
                smallest_model=self.settings.min_frames,
            )
        apart = _apart(models, len(part), self.settings, self.report)
        return [self._sequence(part, model, masks) for model in apart]

    def _sequence(self, part: _Part, model: Model, masks: Mapping[str, ArrayLoader]) -> PosedSequence:
        scale = self._scale(part, model)
        rig_from_first = self.views[self.recording.first_camera].rig_from_camera
        scaled = model.scaled(scale.factor)
        # The rig stands at the world's origin in its first frame.
        frames = [
            Frame(*part[index], rig_from_first @ pose @ rig_from_first.inverse(), masks)
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
        """Odometry whose frames do not reach the camera still gives the distance that it went."""
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

        return scale_from_odometry(model, dict(enumerate(stamp for stamp, _ in part)), position_at)


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
        lost = count - len(taken)
        report.skipped["keyframe that structure from motion could not place"] += lost
        report.problems.append(
            f"structure from motion could not place {lost} of {count} keyframes: too little texture, blur, or too few "
            "common points with their neighbours"
        )
    if len(kept) > 1:
        report.warnings.append(f"structure from motion fell apart into {len(kept)} parts: one sequence each")
    return kept


def scale_from_rig(model: Model, places: Sequence[Doubles]) -> Scale:
    """Whether cameras at known places [3] in the rig, metres, the first one's first, have made a reconstruction metric.

    They do only by what several of them see at one time: cameras with opposite viewing directions do not.
    """
    baseline = max(float(np.linalg.norm(place - places[0])) for place in places)
    shared = float(np.median(list(model.shared.values()) or [0]))
    support = f"baseline {baseline:.3f} m, {shared:.0f} points a frame seen by several cameras"
    metric = baseline > _SMALLEST_BASELINE_M and shared >= _FEWEST_SHARED
    return Scale("stereo" if metric else "unknown", 1.0, support)
