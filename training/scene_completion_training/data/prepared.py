"""Prepares training frames (images at the canonical focal length, depth, fused occupancy) in a cache on disk.

Of some frames images alone matter: nothing is measured or fused, and an image is read when a sample asks for it. The
published trainings are of this kind: their losses compare images.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SceneCompletionError, SequenceError
from scene_completion_ros.geometry import Camera, Resampler, RigidTransform
from scene_completion_ros.geometry.depth_images import depth_at_rays
from scene_completion_ros.geometry.transforms import about
from scene_completion_ros.sequences.posed_sequence import PosedSequence, cameras_ahead, holds_exact_voxels
from scene_completion_training.arrays import Bytes, Floats, Halves, Mask
from scene_completion_training.data import voxel_evidence
from scene_completion_training.data.stereo import MeasuredDepth, depth_meter, measured_depth
from scene_completion_training.data.store import Arrays, Entry, damaged, keyed, mapped_arrays
from scene_completion_training.viewpoint import Viewpoint, Volume

# Rotation of the rectified view of a side camera: 15° down, to where the ground and its things are. The literature of
# density fields sees KITTI-360's side cameras this way.
DOWNWARD = about(0, -float(np.radians(15.0)))
_VERSION = 6
_USED_ASSETS = ("validity_", "ego_")


@dataclass(frozen=True, eq=False)
class PreparedFrame:
    """One instant, ready for training."""

    # Camera -> uint8 RGB [h, w, 3] at about the canonical focal length: "left" and "right" of the pair. Also what
    # cameras looking elsewhere see, rectified into the canonical camera. A rig with one camera ahead has only "left";
    # its motion measures the depth.
    images: Mapping[str, Bytes]
    depths: Mapping[str, Halves]  # "left", "right" -> z-depth of stereo float16 [h, w], metres, 0 unknown
    cameras: Mapping[str, Camera]  # camera -> intrinsics of the image
    world_from_camera: Mapping[str, RigidTransform]  # camera -> pose
    # Camera -> bool [h, w], false outside of what was recorded and on the vehicle itself; cameras that lack it show the
    # world everywhere.
    masks: Mapping[str, Mask]
    points: NDArray[np.int16]  # voxel centres int16 [N, 3] in units of `POINT_UNIT`, left camera's optical frame
    target: Bytes  # occupancy uint8 [N], 255 = certainly occupied
    evidence: Halves  # float16 [N]
    name: str = ""  # folder and stem of its file: what is stored elsewhere about a frame is found by it

    def mask(self, name: str) -> Mask:
        """Where a camera's image [h, w] shows the world."""
        camera = self.cameras[name]
        return self.masks[name] if name in self.masks else np.ones((camera.height, camera.width), np.bool_)

    def key(self, camera: str) -> str:
        """Name of a camera's image among those of all frames: `<folder>/<stem>/<camera>` of the frame's file."""
        return f"{self.name}/{camera}"

    @property
    def far_cameras(self) -> tuple[str, str]:
        """Two cameras that see from further along what is hidden here: the side cameras, or those ahead."""
        aside = sorted(set(self.images) - {"left", "right"})
        first, second = (*aside, "left", "right" if "right" in self.images else "left")[:2]
        return first, second

    @property
    def has_evidence(self) -> bool:
        """Whether there are both hit and free voxels to draw from."""
        return bool((self.target > 0).any() and (self.target == 0).any())


Drive: TypeAlias = Sequence[PreparedFrame]  # in order of time


def prepare_sequence(
    sequence: PosedSequence,  # with a rectified stereo pair, or with one camera ahead
    store: Path,
    *,
    settings: voxel_evidence.FusionSettings | None = None,
    # Take the sequence's ground truth voxels instead of fused stereo depth, and its depth of the left camera where it
    # has one.
    exact: bool = False,
    viewpoint: Viewpoint | None = None,  # what the network is trained for
    workers: int = 2,  # processes, if there are enough frames for so many
) -> list[Path]:
    """Files of all frames of a sequence, in order; those that the store lacks are prepared.

    Raises SequenceError: `exact`, and there is no ground truth.
    """
    settings, viewpoint = settings or voxel_evidence.FusionSettings(), viewpoint or Viewpoint()
    if exact and not holds_exact_voxels(sequence):
        what = "holds no ground truth voxels"
        raise SequenceError(what, where=sequence.name, cure="Render it with scene-completion world street")
    name = keyed(sequence.name, _made_of(sequence, settings, viewpoint))
    kind = f"-exact-labels{'-depth' * ('depth' in sequence.frames[0].assets)}" if exact else ""
    make = partial(_prepare_frames, sequence=sequence, settings=settings, viewpoint=viewpoint, exact=exact)
    names = {index: f"{index:06d}" for index in range(len(sequence))}
    return Entry(store / (name + kind)).fill(names, make, "frame", workers)


def _made_of(sequence: PosedSequence, settings: voxel_evidence.FusionSettings, viewpoint: Viewpoint) -> list[Any]:
    """What the prepared frames follow from, but for the pixels: cameras, poses, stamps, settings, viewpoint."""
    behind, ahead = voxel_evidence.metres_around(viewpoint.volume)
    fusion = {"metres_behind": behind, "metres_ahead": ahead, **vars(settings)}
    content = [_VERSION, *identity(sequence), fusion, vars(viewpoint.camera)]
    if viewpoint.volume != Volume():  # named where it is another one: what was prepared for streets stays so
        content.append(vars(viewpoint.volume))
    if len(cameras_ahead(sequence)) == 1:
        content.append("motion measures depth")  # earlier versions had none
    known = sorted({name for frame in sequence.frames for name in frame.assets if name.startswith(_USED_ASSETS)})
    return [*content, known] if known else content


def identity(sequence: PosedSequence) -> list[Any]:
    """What a recording is, but for the pixels, as plain values: its name, cameras and how they are mounted, frames."""
    placed = sequence.rig_from_camera
    cameras = {name: [vars(camera), _matrix(placed[name])] for name, camera in sequence.cameras.items()}
    return [sequence.name, cameras, [[frame.stamp_ns, _matrix(frame.world_from_rig)] for frame in sequence.frames]]


def _matrix(pose: RigidTransform) -> list[float]:
    return [round(float(value), 9) for value in pose.matrix.ravel()]


def _prepare_frames(
    indices: Sequence[int],
    *,
    sequence: PosedSequence,
    settings: voxel_evidence.FusionSettings,
    viewpoint: Viewpoint,
    exact: bool,
) -> Iterator[Arrays]:
    cv2.setNumThreads(1)
    ahead, recorded = cameras_ahead(sequence), RecordedFrames(sequence, viewpoint)
    depths = Depths(sequence, viewpoint.volume.ahead)
    for index in indices:
        if exact:
            arrays = voxel_evidence.exact_voxels(sequence, index, ahead[0], kept=settings.kept)
        else:
            arrays = voxel_evidence.fused_voxels(sequence, index, ahead[0], depths.ahead, settings, viewpoint.volume)
        frame = recorded[index]
        for name in recorded.names_in(index):
            camera = frame.cameras[name]
            arrays |= {
                f"image_{name}": np.ascontiguousarray(frame.images[name]),
                f"camera_{name}": np.array([camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height]),
                f"pose_{name}": np.ascontiguousarray(frame.world_from_camera[name].matrix),
            }
            if name in frame.masks:
                arrays[f"mask_{name}"] = frame.masks[name].astype(np.uint8)
        for side, name in zip(("left", "right"), ahead, strict=False):
            known = sequence.asset(index, "depth") if exact and side == "left" else None
            depth = depths.depth(index, name) if known is None else np.where(np.isfinite(known), known, 0.0)
            size = (frame.cameras[side].width, frame.cameras[side].height)
            arrays[f"depth_{side}"] = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.float16)
        yield arrays


def world_mask(sequence: PosedSequence, index: int, name: str) -> Bytes | None:
    """1 where an image [H, W] shows the world, 0 where nothing was recorded or the vehicle is; None without masks."""
    covered, ego = sequence.asset(index, f"validity_{name}"), sequence.asset(index, f"ego_{name}")
    if covered is None and ego is None:
        return None
    camera = sequence.cameras[name]
    shown = np.ones((camera.height, camera.width), np.bool_) if covered is None else covered.astype(np.bool_)
    return (shown if ego is None else shown & ~ego.astype(np.bool_)).astype(np.uint8)


class Depths:
    """Depth of a sequence by its stereo pair or its motion, some of it remembered, where images show the world."""

    def __init__(self, sequence: PosedSequence, reach: float) -> None:
        self.sequence, self.camera = sequence, cameras_ahead(sequence)[0]
        self._meter = depth_meter(sequence, reach)
        self.ahead = lru_cache(maxsize=160)(self._measured)  # that of the first camera ahead at a frame

    def depth(self, index: int, name: str) -> Floats:
        """Depth of one of the cameras ahead at a frame [H, W], metres, 0 where unknown."""
        if name == self.camera:
            found, camera = self.ahead(index), self.sequence.cameras[name]
            return found.depth if found.camera == camera else depth_at_rays(found.depth, found.camera, camera)
        return self._shown(index, name, measured_depth(self.sequence, index, "right"))

    def _measured(self, index: int) -> MeasuredDepth:
        found = self._meter(index)
        return dataclasses.replace(found, depth=self._shown(index, self.camera, found.depth))

    def _shown(self, index: int, name: str, depth: Floats) -> Floats:
        mask = world_mask(self.sequence, index, name)
        if mask is None:
            return depth
        shown = cv2.resize(mask, depth.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return np.asarray(depth * shown, np.float32)


def shrunk_camera(camera: Camera, canonical: Camera) -> Camera:
    """The camera whose image is about as fine as the canonical one's."""
    return camera.resized(
        max(1, round(camera.width * canonical.fx / camera.fx)), max(1, round(camera.height * canonical.fy / camera.fy))
    )


def looking_aside(sequence: PosedSequence, left: str) -> list[str]:
    """Cameras whose optical axis differs by more than 30° from that of the left camera of the pair."""
    axis = sequence.rig_from_camera[left].rotation[:, 2]
    return [name for name in sorted(sequence.cameras) if sequence.rig_from_camera[name].rotation[:, 2] @ axis < 0.866]


def load_prepared(file: Path) -> PreparedFrame:
    """Opens a prepared frame, its arrays mapped: they may exceed memory; a `SequenceError` if it is damaged."""
    data = mapped_arrays(file)
    try:
        names = [key.removeprefix("camera_") for key in data if key.startswith("camera_")]
        numbers = {name: data[f"camera_{name}"].tolist() for name in names}
        cameras = {name: Camera(*of[:4], *map(int, of[4:])) for name, of in numbers.items()}
        images = {name: data[f"image_{name}"] for name in names}
        depths = {name: data[f"depth_{name}"] for name in names if f"depth_{name}" in data}
        poses = {name: RigidTransform.from_matrix(data[f"pose_{name}"]) for name in names}
        masks = {name: data[f"mask_{name}"].view(np.bool_) for name in names if f"mask_{name}" in data}
        voxels, name = (data["points"], data["target"], data["evidence"]), f"{file.parent.name}/{file.stem}"
        return PreparedFrame(images, depths, cameras, poses, masks, *voxels, name)
    except (ValueError, LookupError, TypeError, AttributeError, SceneCompletionError) as error:
        raise damaged(file, error) from error


# Voxel centres, their occupancy and its evidence, where they are not measured.
_NOTHING = np.zeros((0, 3), np.int16), np.zeros(0, np.uint8), np.zeros(0, np.float16)


class OnDemand(Mapping[str, Any]):
    """Values by name that are made when they are read."""

    def __init__(self, names: Collection[str], make: Callable[[str], Any]) -> None:
        self._names, self._make = names, make

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class RecordedFrames(Sequence[PreparedFrame]):
    """All frames of a sequence, with the cameras ahead as "left" and "right", and the side cameras turned down.

    Frames have images of all cameras, each read when it is looked at.
    """

    def __init__(self, sequence: PosedSequence, viewpoint: Viewpoint) -> None:
        self.canonical = viewpoint.camera
        # What images follow from, but for the pixels and their frames.
        cameras = {name: vars(camera) for name, camera in sequence.cameras.items()}
        rig = {name: np.round(pose.matrix, 9).tolist() for name, pose in sequence.rig_from_camera.items()}
        self.name = keyed(sequence.name, [cameras, rig, vars(self.canonical)])
        ahead = cameras_ahead(sequence)
        self.sequence = sequence
        self._recorded = dict(zip(("left", "right"), ahead, strict=False))
        self._recorded |= {f"aside_{name}": name for name in looking_aside(sequence, ahead[0])}
        self.cameras = {
            name: self.canonical if self._is_aside(name) else shrunk_camera(self._camera(name), self.canonical)
            for name in self._recorded
        }
        self._image = lru_cache(maxsize=32)(self._read)

    def __len__(self) -> int:
        return len(self.sequence)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        images = OnDemand(self.cameras, partial(self._image, index))
        poses = OnDemand(self.cameras, partial(self._pose, index))
        masks = OnDemand(self._masked(index), partial(self._mask, index))
        return PreparedFrame(images, {}, self.cameras, poses, masks, *_NOTHING, f"{self.name}/{index:06d}")

    def names_in(self, index: int) -> list[str]:
        """Names of the cameras of which a frame has images."""
        there = self.sequence.frames[index].images
        return [name for name, recorded in self._recorded.items() if recorded in there]

    def _is_aside(self, name: str) -> bool:
        return name.startswith("aside_")

    def _camera(self, name: str) -> Camera:
        return self.sequence.cameras[self._recorded[name]]

    def _read(self, index: int, name: str) -> Bytes:
        image = self.sequence.image(index, self._recorded[name])
        if self._is_aside(name):
            return _turned_down(self._camera(name), self.canonical)(image)
        size = (self.cameras[name].width, self.cameras[name].height)
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)

    def _pose(self, index: int, name: str) -> RigidTransform:
        pose = self.sequence.world_from_camera(index, self._recorded[name])
        return pose @ RigidTransform(DOWNWARD, np.zeros(3)) if self._is_aside(name) else pose

    def _masked(self, index: int) -> list[str]:
        """Cameras that do not show the world everywhere."""
        assets = self.sequence.frames[index].assets.keys()
        every = self._recorded.items()
        return [name for name, of in every if self._is_aside(name) or assets & {f"validity_{of}", f"ego_{of}"}]

    def _mask(self, index: int, name: str) -> Mask:
        mask = world_mask(self.sequence, index, self._recorded[name])
        if not self._is_aside(name):
            assert mask is not None
            size = (self.cameras[name].width, self.cameras[name].height)
            return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT), np.bool_)
        resampler = _turned_down(self._camera(name), self.canonical)
        shown = mask is None or resampler(mask * np.uint8(255)) > 250
        return np.asarray(resampler.validity & shown)


@lru_cache(maxsize=8)
def _turned_down(camera: Camera, canonical: Camera) -> Resampler:
    """Makes images of a side camera those of the canonical one; its maps are the same for every image of a drive."""
    return Resampler(camera, canonical, source_from_target_rotation=DOWNWARD)
