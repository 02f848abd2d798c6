"""The CUDA kernels, run on the CPU as they are or on a GPU, against the readable twins."""

import dataclasses
import functools
import math
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import pytest

from scene_completion_ros.errors import GpuError
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.road_plane import RoadPlane
from scene_completion_ros.geometry.transforms import about
from scene_completion_ros.inference.bundle import SEEN_GROUND, StudentBundle
from scene_completion_ros.inference.cell_query import CellSampler, CellVoxels, Pixels, PredictedCells
from scene_completion_ros.inference.cells import PRIOR_EDGE, ROAD, CellVolume
from scene_completion_ros.inference.evidence import Standing
from scene_completion_ros.inference.gpu import device_scene
from scene_completion_ros.inference.gpu.device import PrimaryContext
from scene_completion_ros.inference.gpu.device_networks import check_loads
from scene_completion_ros.inference.gpu.device_scene import DeviceScene
from scene_completion_ros.inference.gpu.half_precision import DevicePorts
from scene_completion_ros.inference.gpu.kernels import Buffer, KernelDevice, KernelSizes, compile_kernels
from scene_completion_ros.inference.ground_pixels import SEEN
from scene_completion_ros.inference.head import HeadWeights, PointCodeSpec
from scene_completion_ros.inference.label_query import NO_WORDS, FoldedVocabulary, LabelQuery, Words
from scene_completion_ros.inference.march import March
from scene_completion_ros.inference.query_kernel import VoxelQuery, hidden_reference
from scene_completion_ros.inference.scene_query import (
    CellDecoder,
    HostCellQuery,
    PreparedScene,
    SceneAnswer,
    SceneImage,
)
from scene_completion_ros.voxels.occupancy import Calibration, Thresholds
from scene_completion_ros.voxels.occupancy_kernel import VoxelClassifier
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from tests.inference.gpu.host_cuda import HostCuda
from tests.inference.gpu.host_kernels import HostCompiler
from tests.inference.small_bundle import (
    PLAIN_STUDENT,
    random_head,
    random_query,
    random_vocabulary,
    small_space,
    with_labels,
)
from tests.inference.twins import (
    assert_labels,
    centres_of,
    class_cosines_reference,
    density_reference,
    label_logits_reference,
    labels_reference,
    march,
    most_likely,
    states,
)

CODE, HEIGHT = PointCodeSpec(), 1.7
CANONICAL = Camera(fx=185.0, fy=185.0, cx=159.5, cy=45.75, width=320, height=96)
FEATURE_SIZE = (48, 160)
RAYS = CANONICAL.resized(160, 48)
FORWARD = DEFAULT_GRID_FROM_CAMERA.inverse()
GRID = VoxelGrid((0.0, -6.4, -2.2), 0.4, (48, 32, 11))  # 11 layers: no multiple of anything
CALIBRATION = Calibration("piecewise_linear", (0.0, 0.02, 0.1, 0.4, 1.0), (0.0, 0.1, 0.4, 0.9, 0.99))
THRESHOLD = 0.5
FAR = 12.0
ON_GPU = os.environ.get("SCENE_COMPLETION_GPU") == "1"
"""The same tests on a real GPU, through pycuda: ``make test-gpu``."""

pytestmark = pytest.mark.skipif(
    not ON_GPU and (shutil.which("g++") is None or not sys.platform.startswith("linux")), reason="no g++ on Linux"
)


def rotated(pitch: float, roll: float, yaw: float, shift: tuple[float, float, float]) -> RigidTransform:
    """The grid's pose in a camera that is turned by degrees about x (pitch), z (roll) and y (yaw)."""
    turned = FORWARD
    for axis, degrees in ((0, pitch), (2, roll), (1, yaw)):
        turned = RigidTransform(about(axis, math.radians(degrees)), np.zeros(3)) @ turned
    return turned @ RigidTransform(np.eye(3), np.array(shift))


def feature_map(head: HeadWeights, seed: int = 0, size: tuple[int, int] = FEATURE_SIZE) -> np.ndarray:
    scale = 0.7 if seed else 0.3
    return np.random.default_rng(seed).normal(0.0, scale, (*size, head.channels)).astype(np.float32)


class Devices:
    """Makes devices with the kernels of a head, on a real GPU or on the stand-in for one."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.cuda = None if ON_GPU else HostCuda()
        if self.cuda is not None:
            self.cuda.install(patch)
        self._compiler = compile_kernels if ON_GPU else HostCompiler(folder)
        self.context = PrimaryContext()
        self._made: list[KernelDevice] = []

    def __call__(self, sizes: KernelSizes) -> KernelDevice:
        major, minor = (int(part) for part in self.context.facts.compute_capability.split("."))
        kernels = self._compiler(sizes, (major, minor), check=functools.partial(check_loads, self.context))
        self._made.append(KernelDevice(self.context, kernels))
        return self._made[-1]

    def lent(self, device: KernelDevice) -> KernelDevice:
        """Leaves the end of a device to the scene that takes it."""
        self._made.remove(device)
        return device

    def close(self) -> None:
        while self._made:
            self._made.pop().close()


@pytest.fixture
def device(library_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Devices]:
    devices = Devices(library_folder, monkeypatch)
    with devices.context:
        yield devices
        devices.close()
    devices.context.close()


BLANK = np.zeros((1, 1, 3), np.uint8)


class GivenOutputs:
    """An engine that gives the same arrays for every image."""

    def __init__(self, device: KernelDevice, given: dict[str, tuple[int, ...]], made: dict[str, np.ndarray]) -> None:
        ports = {name: (shape, np.uint8 if name == "image" else np.float32) for name, shape in given.items()}
        self.ports, self._device = DevicePorts(cast(Any, ports), {}), device
        self.outputs: dict[str, Buffer] = {name: device.upload(array) for name, array in made.items()}

    def enqueue(self, given: dict[str, Buffer]) -> None:
        assert given.keys() == self.ports.given.keys()

    def change(self, name: str, array: np.ndarray) -> None:
        self._device.refill(self.outputs[name], array.astype(self.outputs[name].dtype))


def sizes_of(head: HeadWeights) -> KernelSizes:
    return KernelSizes(head.label_hidden, head.classes, channels=head.hidden)


@dataclasses.dataclass
class Run:
    """One student, camera and grid: the twins' parts, and what the kernels make of a map."""

    head: HeadWeights
    canonical: Camera
    pose: RigidTransform
    prepared: PreparedScene
    device: KernelDevice
    engine: GivenOutputs
    scene: DeviceScene

    def frame(self, features: np.ndarray, words: Words = NO_WORDS) -> SceneAnswer:
        self.engine.change("features", features)
        return self.scene(SceneImage(BLANK, words))


def run_of(
    devices: Devices,
    head: HeadWeights,
    *,
    grid: VoxelGrid = GRID,
    pose: RigidTransform = FORWARD,
    rays: Camera = RAYS,
    threshold: float = THRESHOLD,
    canonical: Camera = CANONICAL,
    feature_size: tuple[int, int] = FEATURE_SIZE,
) -> Run:
    query = VoxelQuery(head, CODE, canonical, feature_size, grid, pose)
    marched = March(grid, pose, rays, CALIBRATION.occupied_from(threshold), far=FAR)
    classifier = VoxelClassifier(grid, pose, rays, query.in_view, CALIBRATION, Thresholds(threshold, threshold))
    labels = LabelQuery(query.field, query.samples, query.in_view.size) if head.label_hidden else None
    prepared, device = PreparedScene(query, marched, classifier, labels), devices(sizes_of(head))
    features = np.zeros((*feature_size, head.channels), np.float16)
    engine = GivenOutputs(device, {"image": (1, 1, 1, 3)}, {"features": features})
    scene = DeviceScene([cast(Any, engine)], devices.lent(device), devices.context, prepared)
    return Run(head, canonical, pose, prepared, device, engine, scene)


def check(run: Run, features: np.ndarray) -> SceneAnswer:
    """Compares a frame with the twins, each stage given what the stages before it made."""
    found = run.frame(features)
    query, marched, classifier = run.prepared.query, run.prepared.march, run.prepared.classifier
    grid = query.grid
    pose = run.pose
    given = features.astype(np.float16).astype(np.float32)

    alpha = found.dense.alpha
    evaluated = np.sort(query.samples.target)
    points = centres_of(grid, pose, evaluated)
    density = density_reference(given, points, run.head, CODE, run.canonical)
    expected_alpha = np.zeros(alpha.size)
    expected_alpha[evaluated] = -np.expm1(-density * grid.voxel_size)
    np.testing.assert_allclose(alpha.reshape(-1), expected_alpha, atol=1e-4)

    expected = march(alpha, alpha >= marched.occupied_from, grid, pose, marched.camera)
    half_distance = run.device.download(run.scene.half_distance)
    # Where float32 puts a step into the next voxel, a ray differs: less than one in a hundred.
    assert np.mean(~np.isclose(half_distance, expected.half_distance, rtol=0.0, atol=2e-3, equal_nan=True)) <= 0.01
    for ours, twin in ((found.depth, expected.depth), (found.transmittance, expected.transmittance)):
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(twin))
        there = ~np.isnan(twin)
        assert np.count_nonzero(np.abs(ours[there] - twin[there]) > 2e-3) <= 0.01 * ours.size

    probability = found.dense.probability
    np.testing.assert_allclose(probability, np.where(query.in_view, CALIBRATION.apply(alpha), 0.0), atol=1e-5)
    twin_state = states(
        probability >= np.float32(classifier.thresholds.ground), query.in_view, expected.half_distance, grid, pose,
        marched.camera,
    )  # fmt: skip
    assert np.mean(found.state != twin_state) < 2e-3
    np.testing.assert_array_equal(found.state >= VoxelState.SURFACE, twin_state >= VoxelState.SURFACE)

    occupied = np.flatnonzero(found.state >= VoxelState.SURFACE)
    np.testing.assert_array_equal(found.occupied, occupied)
    np.testing.assert_array_equal(found.probability, probability.reshape(-1)[occupied])
    if run.prepared.labels is None:
        assert (found.label == 0).all() and (found.confidence == 1.0).all()
    else:
        logits = label_logits_reference(given, centres_of(grid, pose, occupied), run.head, CODE, run.canonical)
        label, confidence = most_likely(logits)
        assert_labels(found, logits, label, confidence, margin=0.0, atol=1e-4, tie=2e-4)
        check_words(run, features, occupied)
    return found


def check_words(run: Run, features: np.ndarray, occupied: np.ndarray) -> None:
    """Compares labels by a vocabulary, and cosines of a query, with the twins."""
    head, given = run.head, features.astype(np.float16).astype(np.float32)
    weight, bias, _, _ = head.label_layers()
    points = centres_of(run.prepared.query.grid, run.pose, occupied)
    hidden = hidden_reference(given[..., head.hidden :], points, weight, bias, CODE, run.canonical)
    space = small_space("t", 24, head.label_hidden)
    used = random_vocabulary(20, 30, background=3, dimension=24)
    asked = random_query(2, 5, background=4, dimension=24, seed=1)
    words = Words(FoldedVocabulary.of(used, space), FoldedVocabulary.of(asked, space))
    assert words.vocabulary is not None and words.queried is not None
    found = run.frame(features, words)
    with run.scene._context:
        cosines = run.scene._found_cosines(words.queried, len(occupied))
    np.testing.assert_allclose(cosines, class_cosines_reference(hidden, asked, space), atol=5e-4)
    expected = class_cosines_reference(hidden, used, space)
    label, confidence = labels_reference(expected, 20, used.margin, words.vocabulary.temperature)
    assert_labels(found, expected, label, confidence, margin=used.margin, atol=5e-3, tie=1e-3)


class Student(NamedTuple):
    """Sizes of a student, and of what it looks at; numbers are those of `KernelSizes`."""

    channels: int = 64
    units: int = 64
    classes: int = 19
    feature_size: tuple[int, int] = FEATURE_SIZE


STUDENTS = (
    *(Student(),) * 2,
    Student(channels=128),  # the shipped one's sizes
    Student(channels=192, units=32),  # more than registers hold of the taps
    Student(channels=32, units=32, classes=2, feature_size=(31, 57)),
    Student(channels=96, units=96, classes=256, feature_size=(24, 80)),
    Student(units=0),
    Student(channels=32, units=0, feature_size=(2, 2)),
)


def some_camera(rng: np.random.Generator) -> Camera:
    """The usual camera, or one with other numbers, whose axis may lie far from its middle."""
    if rng.uniform() < 0.3:
        return CANONICAL
    width, height = (int(size) for size in rng.integers(40, 500, 2))
    fx, fy = (float(focal) for focal in rng.uniform(0.4, 1.5, 2) * width)
    cx, cy = float(rng.uniform(0.2, 0.8) * width), float(rng.uniform(0.2, 0.8) * height)
    return Camera(fx=fx, fy=fy, cx=cx, cy=cy, width=width, height=height)


@pytest.mark.parametrize(("seed", "student"), enumerate(STUDENTS))
def test_random_cameras_grids_and_maps(seed: int, student: Student, device: Devices) -> None:
    rng = np.random.default_rng(seed)
    head = random_head(seed, channels=student.channels, density_bias=float(rng.uniform(-4.0, 1.0)))
    if student.units:
        head = with_labels(head, classes=student.classes, label_hidden=student.units, seed=seed)
    shape = tuple(int(size) for size in rng.integers(3, 40, 3))
    grid = VoxelGrid((*(float(o) for o in rng.uniform(-8.0, 4.0, 3)),), float(rng.uniform(0.1, 1.5)), shape)
    shift = tuple(float(value) for value in rng.uniform(-3.0, 3.0, 3))
    pose = rotated(*(float(angle) for angle in rng.uniform(-60.0, 60.0, 3)), shift)
    canonical = some_camera(rng)
    rays = canonical.resized(*(int(size) for size in rng.integers(1, 200, 2)))
    run = run_of(
        device, head, grid=grid, pose=pose, rays=rays,
        canonical=canonical, feature_size=student.feature_size,
    )  # fmt: skip
    check(run, feature_map(head, seed=seed + 1, size=student.feature_size))


def test_the_shipped_student(device: Devices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_scene, "LABEL_BLOCKS", 3)  # fewer blocks than there is work for
    head = StudentBundle.load(PLAIN_STUDENT).head
    assert len(check(run_of(device, head, threshold=0.3), feature_map(head)).occupied) > 10


def test_two_scenes_ended_in_either_order(device: Devices) -> None:
    head = with_labels(random_head(channels=64, density_bias=-1.0))
    maps = [feature_map(head, seed=seed) for seed in (1, 2)]
    runs = [run_of(device, head, pose=pose) for pose in (FORWARD, rotated(3.0, 2.0, 0.0, (0.4, -1.1, 0.7)))]
    answers = [run.frame(one) for one in maps for run in runs]
    with pytest.raises(GpuError, match="overwritten"):
        _ = answers[0].dense.probability
    kept = answers[-1].dense.alpha.copy()
    for place in (1, 0):
        del runs[place]
    np.testing.assert_array_equal(answers[-1].dense.alpha, kept)


class Cells(NamedTuple):
    """A student that completes cells, and what it predicts of any image."""

    volume: CellVolume
    camera: Camera
    pixels: Pixels
    predicted: PredictedCells

    def see(self, image_rgb: np.ndarray) -> Pixels:
        return self.pixels

    def complete(self, local: np.ndarray, columns: np.ndarray, seen_ground: np.ndarray | None) -> PredictedCells:
        return self.predicted

    @classmethod
    def drawn(cls, seed: int) -> "Cells":
        """Random surfaces, ground and cells; odd sizes."""
        rng = np.random.default_rng(seed)
        classes, context = ((15, 16), (33, 3))[seed % 2]
        camera = Camera(fx=110.0, fy=118.0, cx=90.0, cy=45.0, width=190, height=98)
        grid = VoxelGrid((0.5, -6.4, -2.6), 0.4, (29, 33, 13), "camera_forward")
        more = {"prior": PRIOR_EDGE * (seed % 2), "on_ground": (2, 5) if seed % 2 else ()}
        volume = CellVolume(grid, -1.7, ROAD, 2, classes, context, **more)
        size, (x, y, z) = (camera.height // 2, camera.width // 2), volume.cells
        across = cv2.resize(rng.uniform(3.0, 16.0, (5, 8)), size[::-1], interpolation=cv2.INTER_CUBIC).clip(2.0)
        depth = across.astype(np.float32)
        surfaces = np.stack([CODE.depth_code_of_inverse(1.0 / depth), rng.uniform(0.03, 0.2, size)], axis=-1)
        logits = rng.normal(0.0, 2.0, (*size, classes + 1))
        logits[size[0] // 2 :, :, volume.label] += 6.0
        shown = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        ground = np.stack([rng.normal(-1.7, 0.2, x * y), rng.uniform(0.02, 0.3, x * y)], axis=-1)
        plane = [rng.normal(size=(3, 2))] if volume.on_ground else []
        prior = [rng.uniform(0.0, [*[0.4] * grid.shape[2], 0.5], volume.prior_shape)] if volume.prior else []
        return cls(
            volume,
            camera,
            Pixels(*(one.astype(np.float32) for one in (surfaces, shown, rng.normal(size=(*size, context)), *plane))),
            PredictedCells(
                rng.normal(-1.0, 2.0, (x * y * z, 8)).astype(np.float32),
                rng.normal(-1.0, 2.0, (x * y * z, volume.of_cell)).astype(np.float32),
                ground.astype(np.float32),
                *(rows.astype(np.float32) for rows in prior),
            ),
        )


def scene_of(
    device: Devices, student: Cells, prepared: PreparedScene
) -> tuple[KernelDevice, list[GivenOutputs], DeviceScene]:
    """The kernels of a student, the engines that see, decode and complete, and what answers with both."""
    kernels, volume = device(KernelSizes.of(cast(Any, student))), student.volume
    hidden, others, ground, prior = student.predicted
    image = {"image": (1, 1, 1, 3), "ground": (1, 2, *student.pixels.surfaces.shape[:2])}
    seen = {name: array[None] for name, array in student.pixels._asdict().items() if array is not None}
    given = {"local": (len(hidden), volume.looked_up), "columns": (len(ground), volume.of_column)}
    given |= {SEEN_GROUND: (len(ground), SEEN)} if volume.on_ground else {}
    decoded = {"around": np.zeros((len(hidden), 5), np.float32), "mean": np.zeros_like(hidden), "ground": ground}
    decoded |= {"prior": prior} if volume.prior else {}
    of_cells = {name: decoded[name].shape for name in ("around", "mean")} | {"local": given["local"]}
    steps = (image, seen), (given, decoded), (of_cells, {"hidden": hidden, "others": others})
    engines = [GivenOutputs(kernels, *step) for step in steps]
    return kernels, engines, DeviceScene(cast(Any, engines), device.lent(kernels), device.context, prepared)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stated", [True, False], ids=["plane known", "plane unknown"])
def test_students_that_complete_cells(seed: int, stated: bool, device: Devices) -> None:
    """Each step against the kernels of the CPU: depths and what cells look up, then voxels, rays, labels and words."""
    student, rng = Cells.drawn(seed), np.random.default_rng(seed)
    volume, camera = student.volume, student.camera
    numbers, doubt = rng.normal(0.0, 0.1, 4) * (seed > 0), rng.normal(0.0, 0.1, (4, 4))
    plane = RoadPlane(np.radians(3.0), np.radians(1.0), 1.8, np.eye(3) * (1e-6 if stated else 1.0))
    standing = Standing(numbers, doubt @ doubt.T, plane, plane)
    upright = standing.upright_from_camera
    assert (upright is not None) == stated
    sampler = CellSampler(volume, camera, CODE, HEIGHT)
    native = seed == 0 and not stated
    pose = FORWARD if native else rotated(3.0, 4.0, 10.0, (0.4, -0.3, 0.2))
    grid = volume.grid if native else VoxelGrid((1.0, -5.0, -2.0), 0.3, (31, 30, 11), "camera_forward")
    voxels = CellVoxels(sampler, CODE, camera, grid, pose)
    assert voxels.pose(sampler.place(upright))[1] != native
    rays = camera.resized(60, 31)
    thresholds = Thresholds(THRESHOLD, 0.5 * THRESHOLD)
    ground, obstacle = map(CALIBRATION.occupied_from, thresholds)
    march_of = March(grid, pose, rays, ground, far=FAR, obstacle_from=obstacle)
    classifier = VoxelClassifier(grid, pose, rays, voxels.in_view, CALIBRATION, thresholds)
    prepared = PreparedScene(voxels, march_of, classifier)
    on_host = HostCellQuery(student, prepared)
    kernels, engines, scene = scene_of(device, student, prepared)
    given = engines[1].ports.given

    shown = scene.see(BLANK)
    assert shown is not None
    np.testing.assert_array_equal(shown.surfaces, student.pixels.surfaces)
    np.testing.assert_array_equal(shown.classes, student.pixels.classes)
    np.testing.assert_array_equal(shown.plane, student.pixels.plane)  # type: ignore[arg-type]
    expected = on_host(SceneImage(BLANK, standing=standing))
    found = scene(SceneImage(BLANK, pixels=shown, standing=standing))
    surfaces, _, place = CellDecoder(student, sampler).decode(student.pixels, standing)
    steps = cast(Any, scene)._steps
    with device.context:
        made = {name: kernels.download(buffer) for name, buffer in (*steps.given.items(), ("surfaces", steps.surfaces))}
    np.testing.assert_allclose(made["surfaces"].reshape(surfaces.shape), surfaces, rtol=1e-4, atol=1e-5)
    seen = sampler.seen_ground(surfaces, student.pixels.classes, place)
    wanted = *sampler.look_up(surfaces, student.pixels.context, place), *([] if seen is None else [seen])
    for name, right in zip(given, wanted, strict=True):
        assert right.any()
        np.testing.assert_allclose(made[name], right, rtol=1e-3, atol=2e-4, err_msg=name)
    np.testing.assert_allclose(found.dense.alpha, expected.dense.alpha, atol=1e-4)
    np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-4)
    assert np.mean(found.transmittance != expected.transmittance) < 0.01
    assert np.mean(found.state != expected.state) < 5e-3
    probability = expected.dense.probability
    either = (probability >= thresholds.obstacle) & (probability < thresholds.ground)
    assert 0.0 < (expected.state[either] >= VoxelState.SURFACE).mean() < 1.0  # where it counts what stands
    np.testing.assert_array_equal(found.ground, expected.ground)
    check_labels(found, expected)
    assert len(np.unique(expected.label)) > 3
    space = small_space("t", 24, volume.classes)
    used = FoldedVocabulary.of(random_vocabulary(20, 30, background=3, dimension=24), space)
    asked = FoldedVocabulary.of(random_query(2, 5, background=4, dimension=24, seed=1), space)
    for words in (Words(used, asked), Words(None, asked), Words(labels=False)):
        found, expected = (one(SceneImage(BLANK, words, standing=standing)) for one in (scene, on_host))
        check_labels(found, expected)
        assert [len(one.voxels) for one in found.matches] == pytest.approx(
            [len(one.voxels) for one in expected.matches], rel=0.02, abs=3
        )


def check_labels(found: SceneAnswer, expected: SceneAnswer) -> None:
    """Those of voxels that are occupied for both, but for ties."""
    common, ours, theirs = np.intersect1d(found.occupied, expected.occupied, return_indices=True)
    assert len(common) > 100 and len(common) >= 0.99 * max(len(found.occupied), len(expected.occupied))
    np.testing.assert_allclose(found.confidence[ours], expected.confidence[theirs], atol=5e-3)
    assert np.mean(found.label[ours] != expected.label[theirs]) < 5e-3


def test_cells_that_are_no_numbers_are_found(device: Devices) -> None:
    student = Cells.drawn(0)
    sampler = CellSampler(student.volume, student.camera, CODE, HEIGHT)
    grid, cells = student.volume.grid, student.predicted
    voxels = CellVoxels(sampler, CODE, student.camera, grid, FORWARD)
    marched = March(grid, FORWARD, RAYS, 0.1, far=FAR)
    classifier = VoxelClassifier(grid, FORWARD, RAYS, voxels.in_view, CALIBRATION, Thresholds(0.5, 0.5))
    prepared = PreparedScene(voxels, marched, classifier)
    _, (seen, _, completing), scene = scene_of(device, student, prepared)
    image = SceneImage(BLANK, standing=Standing(np.zeros(4), np.zeros((4, 4)), RoadPlane(0.0, 0.0, HEIGHT, np.eye(3))))
    assert scene(image).finite
    in_view = np.flatnonzero(
        sampler.look_up(student.pixels.surfaces, student.pixels.context, sampler.place(None))[0].any(axis=1)
    )[0]
    for value in (np.nan, np.inf):
        broken = cells.others.copy()
        broken[in_view, 0] = value
        with device.context:
            completing.change("others", broken)
        assert not scene(image).finite
    with device.context:
        completing.change("others", cells.others)
        surfaces = student.pixels.surfaces.copy()
        surfaces[0, 0, 1] = np.inf
        seen.change("surfaces", surfaces)
    assert not scene(image).finite
