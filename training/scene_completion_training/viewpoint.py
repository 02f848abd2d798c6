"""What a network is trained for: the canonical camera, its height above the ground, and the volume that it completes.

Everything that has a length follows from here. That is the point code, the grid of the bundle, the voxels that evidence
is fused in, and where points are sampled. The default is the street student's; a configuration names another, and
checkpoint and bundle carry it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, Camera, VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.untrusted_files import JsonObject
from scene_completion_training.settings import made

# Canonical camera of the street student: KITTI's field of view at 192×640.
STREET_CAMERA = Camera(fx=370.0, fy=370.0, cx=319.5, cy=92.0, width=640, height=192)
STREET_HEIGHT_M = 1.65
STREET_AHEAD_M = 51.2
ENCODER_STEP = 32  # images have multiples of so many pixels on each side: the coarsest map of every trunk
_FARTHEST_M = 64.0  # prepared frames store voxel centres in 16 bits, ±65 m
_STEEPEST = 0.7  # radians


@dataclass(frozen=True)
class Volume:
    """The space that is completed; a `ConfigurationError` if it is empty, too large or no whole number of voxels."""

    near: float = 3.0  # depth at which the inverse depth code is 1, and where rays begin, metres
    far: float = 80.0  # depth at which it is −1, and where rays end, metres
    ahead: float = STREET_AHEAD_M  # how far the grid reaches ahead of the camera, metres
    sideways: float = 25.6  # how far to each side, metres
    below: float = 2.2  # how far down from the camera, metres
    above: float = 4.2  # how far up, metres
    voxel_size: float = 0.2  # edge of a voxel, and δ of the opacity, metres

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0.0):
                raise ConfigurationError(f"{value} is no positive length", where=f"volume.{name}", cure="Give metres")
        if self.near >= self.far:
            what = f"near = {self.near} m is not nearer than far = {self.far} m"
            cure = "Give the depth that rays begin at as near, and where they end as far"
            raise ConfigurationError(what, where="volume", cure=cure)
        if math.hypot(self.ahead, self.sideways) > _FARTHEST_M:
            what = f"its corners are {math.hypot(self.ahead, self.sideways):.1f} m away, {_FARTHEST_M:g} m are possible"
            raise ConfigurationError(what, where="volume", cure="Take less ahead or sideways")
        extents = {"ahead": self.ahead, "2 sideways": 2.0 * self.sideways, "below + above": self.below + self.above}
        for name, metres in extents.items():
            count = round(metres / self.voxel_size)
            if count < 1 or abs(count * self.voxel_size - metres) > 1e-6 * self.voxel_size * count:
                what = f"{name} = {metres:g} m is no whole number of {self.voxel_size:g} m voxels"
                cure = f"Take a multiple, such as {max(count, 1) * self.voxel_size:g} m"
                raise ConfigurationError(what, where="volume", cure=cure)

    @staticmethod
    def to_measure(height_above_ground: float, **given: float) -> "Volume":
        """The street's volume for a camera at its height, metres; half of everything for half the height, and so on.

        Voxels are 0.2 m, or that halved. What lies a little lower or higher shifts the grid, by whole voxels, as far as
        it goes. For a camera more than 6 m above the ground, give `below` and `above`. `**given`: fields that are other
        ones.
        """
        factor = min(1.0, 2.0 ** round(math.log2(height_above_ground / STREET_HEIGHT_M)))
        scaled = {name: value * factor for name, value in vars(Volume()).items()}
        voxel = scaled["voxel_size"]
        deeper = height_above_ground + factor * (Volume.below - STREET_HEIGHT_M) - scaled["below"]
        shift = min(max(0, math.ceil(round(deeper / voxel, 6))), round(scaled["above"] / voxel) - 1) * voxel
        scaled["below"], scaled["above"] = round(scaled["below"] + shift, 6), round(scaled["above"] - shift, 6)
        return Volume(**(scaled | given))

    @property
    def scale(self) -> float:
        """How far it reaches ahead, in those of the street: the measure of all lengths along the drive."""
        return self.ahead / STREET_AHEAD_M

    @property
    def point_code(self) -> PointCodeSpec:
        """The point code of the network."""
        return PointCodeSpec(near=self.near, far=self.far, minimum_depth=self.near / 3.0)

    @property
    def grid(self) -> VoxelGrid:
        """The voxels; the camera stands at their origin and x points ahead, as in the default grid."""
        voxel = self.voxel_size
        lengths = (self.ahead, 2.0 * self.sideways, self.below + self.above)
        x, y, z = (round(length / voxel) for length in lengths)
        return VoxelGrid((0.0, -self.sideways, -self.below), voxel, (x, y, z), DEFAULT_GRID.frame)

    @property
    def fused_grid(self) -> VoxelGrid:
        """The voxels that evidence is fused in: some more behind, ahead, below and above."""
        grid, voxel = self.grid, self.voxel_size
        origin = (round(-2.0 * voxel, 9), grid.origin[1], round(grid.origin[2] - voxel, 9))
        return VoxelGrid(origin, voxel, (grid.shape[0] + 6, grid.shape[1], grid.shape[2] + 2), "turned")

    @property
    def fused_depth(self) -> tuple[float, float]:
        """Stereo depths that are fused into evidence, least and most, metres."""
        return self.near / 6.0, 0.75 * self.far

    @property
    def even_depth(self) -> float:
        """Voxel centres are drawn in proportion to 1/depth, evenly nearer than this, of which there are few. Metres."""
        return self.near * 4.0 / 3.0

    @property
    def sampled_depth(self) -> tuple[float, float]:
        """Depths between which points are drawn from the whole view, metres."""
        return self.near / 3.0, round(self.ahead + 4.0 * self.voxel_size, 9)

    @property
    def sampled_heights(self) -> tuple[float, float]:
        """Highest and lowest y (down) of such points, metres."""
        margin = 1.5 * self.voxel_size
        return -round(self.above + margin, 9), round(self.below + margin, 9)


@dataclass
class VolumeSettings:
    """The space that is completed, as `Volume` has it for streets; what is left out is to the camera's measure."""

    near: float | None = None  # depth where rays begin, metres, as all of these
    far: float | None = None  # depth where they end
    ahead: float | None = None
    sideways: float | None = None  # to each side
    below: float | None = None  # how far down from the camera
    above: float | None = None
    voxel_size: float | None = None  # edge of a voxel

    def volume(self, height_above_ground: float) -> Volume:
        """The volume around a camera at this height; a `ConfigurationError` if it cannot be one."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return Volume.to_measure(height_above_ground, **given)


@dataclass
class CameraSettings:
    """The canonical camera, a pinhole; what is left out follows from the rest, or is that of the street."""

    width: int | None = None  # image width, pixels (640)
    height: int | None = None  # image height, pixels (192)
    fx: float | None = None  # focal length along x, pixels (370 for 640 pixels of width)
    fy: float | None = None  # focal length along y, pixels (as fx)
    cx: float | None = None  # principal point x, pixels; 0 is the centre of the leftmost one (the middle)
    cy: float | None = None  # principal point y, pixels (a little above the middle)
    field_of_view: float | None = None  # horizontal, degrees, instead of fx
    height_above_ground: float = STREET_HEIGHT_M  # metres
    # Smallest and largest pitch of the cameras, radians, down positive.
    pitch_range: tuple[float, float] = (-0.05, 0.05)

    def camera(self) -> Camera:
        """The camera; a `ConfigurationError` or `CameraError` if there is none."""
        fov = self.field_of_view
        width = STREET_CAMERA.width if self.width is None else self.width
        height = STREET_CAMERA.height if self.height is None else self.height
        fx = self.fx
        if fov is not None:
            if fx is not None:
                what = f"both fx = {fx} and a field of view of {fov}°"
                raise ConfigurationError(what, where="camera", cure="Give one of them")
            if not 1.0 <= fov < 180.0:
                what = f"{fov}°, but the canonical camera is a pinhole, whose field of view is below 180°"
                cure = "Take 100° or less: wider lenses are resampled, and lose their edges"
                raise ConfigurationError(what, where="camera.field_of_view", cure=cure)
            fx = width / 2.0 / math.tan(math.radians(fov) / 2.0)
        if fx is None:
            fx = STREET_CAMERA.fx / STREET_CAMERA.width * width
        middle = (STREET_CAMERA.cy + 0.5) / STREET_CAMERA.height
        fy = fx if self.fy is None else self.fy
        cx = (width - 1) / 2.0 if self.cx is None else self.cx
        cy = height * middle - 0.5 if self.cy is None else self.cy
        return Camera(fx, fy, cx, cy, width, height)


@dataclass
class _Recorded:
    """Lists what a configuration says of them."""

    camera: CameraSettings | None = None
    volume: VolumeSettings | None = None


@dataclass(frozen=True)
class Viewpoint:
    """Camera, place and volume; a `ConfigurationError` for a camera no network can have, or no ground in it."""

    camera: Camera = STREET_CAMERA
    height_above_ground: float = STREET_HEIGHT_M  # its height above the ground, metres
    pitch_range: tuple[float, float] = (-0.05, 0.05)  # smallest and largest pitch, radians, down positive
    volume: Volume = field(default_factory=Volume)

    def __post_init__(self) -> None:
        width, height = self.camera.width, self.camera.height
        if self.camera.distortion_model != "none":
            what = f"it has the distortion model {self.camera.distortion_model}"
            raise ConfigurationError(what, where="canonical camera", cure="Take a pinhole, without distortion")
        if width % ENCODER_STEP or height % ENCODER_STEP:
            cure = f"Take multiples of {ENCODER_STEP}, and of {2 * ENCODER_STEP} with half_resolution_steps"
            raise ConfigurationError(f"{width}x{height} pixels", where="camera.width, camera.height", cure=cure)
        tall = self.height_above_ground
        _check_height(tall)
        if tall >= self.volume.below:
            what = f"the volume ends {self.volume.below:g} m below the camera, the ground lies at {tall:g} m"
            raise ConfigurationError(what, where="volume.below", cure="Take a volume that holds the ground")
        low, high = self.pitch_range
        if not -_STEEPEST <= low <= high <= _STEEPEST:
            cure = f"Give the smallest, then the largest, from -{_STEEPEST} to {_STEEPEST} radians"
            raise ConfigurationError(f"[{low}, {high}] is no range of pitches", where="camera.pitch_range", cure=cure)

    @staticmethod
    def of_settings(camera: CameraSettings, volume: VolumeSettings) -> "Viewpoint":
        """The viewpoint that settings name."""
        tall = camera.height_above_ground
        _check_height(tall)
        low, high = camera.pitch_range
        return Viewpoint(camera.camera(), tall, (low, high), volume.volume(tall))

    @staticmethod
    def of_record(configuration: Mapping[str, Any]) -> "Viewpoint":
        """That of a checkpoint's configuration; the street's without one, a `ConfigurationError` for anything else."""
        cure = "Name a checkpoint of `train`"
        named = {name: configuration.get(name) for name in ("camera", "volume")}
        record = made(_Recorded, JsonObject(named, "its configuration", kind=ConfigurationError, cure=cure))
        if record.camera is None and record.volume is None:
            return Viewpoint()
        return Viewpoint.of_settings(record.camera or CameraSettings(), record.volume or VolumeSettings())

    @staticmethod
    def of_bundle(bundle: StudentBundle) -> "Viewpoint":
        """The viewpoint of a student; a `ConfigurationError` if its grid does not begin at the camera."""
        grid, code, camera = bundle.grid, bundle.point_code, bundle.canonical
        trained = bundle.provenance.get("configuration", {})
        halved = trained.get("half_resolution_steps", 0) >= trained.get("steps", 1)
        if halved:
            camera = camera.resized(2 * camera.width, 2 * camera.height)
        lengths = [round(size * grid.voxel_size, 9) for size in grid.shape]
        x, y, z = grid.origin
        aligned = bundle.grid_from_camera.matrix.tolist() == DEFAULT_GRID_FROM_CAMERA.matrix.tolist()
        if x != 0.0 or abs(2.0 * y + lengths[1]) > 1e-6 or not aligned:
            cure = "Name `camera` and `volume` in the configuration"
            raise ConfigurationError("its grid does not begin at the camera", where=f"bundle {bundle.name}", cure=cure)
        volume = Volume(code.near, code.far, lengths[0], -y, -z, round(lengths[2] + z, 9), grid.voxel_size)
        return Viewpoint(camera, bundle.height_above_ground, bundle.pitch_range, volume)

    def refuse_other(self, student: "Viewpoint", where: str) -> None:
        """Raises a ConfigurationError that says how another one, that of a student, differs from this one."""
        own, other = ((each.camera, each.height_above_ground, each.volume) for each in (self, student))
        shown = [
            f"a camera of {math.degrees(2.0 * math.atan(camera.width / 2.0 / camera.fx)):.1f}° in {camera.width}x"
            f"{camera.height} pixels, {tall:g} m up, and voxels of {volume.voxel_size:g} m in {volume.ahead:g} x "
            f"{2.0 * volume.sideways:g} x {volume.below + volume.above:g} m"
            for camera, tall, volume in (other, own)
        ]
        lengths = [[*vars(camera).values(), tall, *vars(volume).values()] for camera, tall, volume in (own, other)]
        numbers = [[value for value in values if isinstance(value, int | float)] for values in lengths]
        if not all(math.isclose(one, two, rel_tol=1e-6) for one, two in zip(*numbers, strict=True)):
            cure = "Name a student for the camera and the volume of the configuration, or give it those of the student"
            raise ConfigurationError(f"has {shown[0]}; the configuration {shown[1]}", where=where, cure=cure)

    @property
    def settings(self) -> tuple[CameraSettings, VolumeSettings]:
        """Settings that name exactly this viewpoint: what a checkpoint remembers."""
        of_camera = {name: getattr(self.camera, name) for name in ("width", "height", "fx", "fy", "cx", "cy")}
        camera = CameraSettings(**of_camera, height_above_ground=self.height_above_ground, pitch_range=self.pitch_range)
        return camera, VolumeSettings(**vars(self.volume))


def _check_height(tall: float) -> None:
    if not (math.isfinite(tall) and tall > 0.0):
        what = f"{tall} m: the camera would be below the ground"
        cure = "Measure from the ground to the lens, in metres"
        raise ConfigurationError(what, where="camera.height_above_ground", cure=cure)
