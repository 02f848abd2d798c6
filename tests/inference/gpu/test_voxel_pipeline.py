"""``voxel_query.cu``, run on the CPU as it is or on a GPU, against the readable twins."""

import dataclasses
import functools
import math
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest

from scene_completion_ros.errors import GpuError
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu import voxel_pipeline
from scene_completion_ros.inference.gpu.device import PrimaryContext
from scene_completion_ros.inference.gpu.kernel_provision import check_loads
from scene_completion_ros.inference.gpu.kernels import Buffer, KernelDevice, KernelSizes, compile_kernels
from scene_completion_ros.inference.gpu.tensorrt_engine import DeviceSceneQuery
from scene_completion_ros.inference.gpu.voxel_pipeline import DeviceVoxels, VoxelPipeline
from scene_completion_ros.inference.head import HeadWeights, PointCodeSpec
from scene_completion_ros.inference.label_query import FoldedVocabulary, LabelQuery, Words
from scene_completion_ros.inference.march import March
from scene_completion_ros.inference.query_kernel import VoxelQuery, hidden_reference
from scene_completion_ros.inference.scene_query import PreparedScene
from scene_completion_ros.voxels.occupancy import Calibration
from scene_completion_ros.voxels.occupancy_kernel import VoxelClassifier
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from tests.inference.gpu.host_cuda import HostCuda
from tests.inference.gpu.host_kernels import HostCompiler
from tests.inference.small_bundle import PLAIN_STUDENT, random_head, random_vocabulary, small_space, with_labels
from tests.inference.twins import (
    class_cosines_reference,
    density_reference,
    label_logits_reference,
    labels_reference,
    march,
    most_likely,
    states,
)

CODE = PointCodeSpec()
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
        quaternion = [0.0, 0.0, 0.0, math.cos(math.radians(degrees) / 2.0)]
        quaternion[axis] = math.sin(math.radians(degrees) / 2.0)
        turned = RigidTransform.from_quaternion(quaternion, (0.0, 0.0, 0.0)) @ turned
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

    def __call__(self, head: HeadWeights) -> KernelDevice:
        major, minor = (int(part) for part in self.context.facts.compute_capability.split("."))
        check = functools.partial(check_loads, functools.partial(KernelDevice, self.context))
        kernels = self._compiler(KernelSizes.of(head), (major, minor), check=check)
        self._made.append(KernelDevice(self.context, kernels))
        return self._made[-1]

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


@dataclasses.dataclass
class Run:
    """One student, camera and grid: the twins' parts, and what the kernels make of a map."""

    head: HeadWeights
    canonical: Camera
    pose: RigidTransform
    query: VoxelQuery
    march: March
    classifier: VoxelClassifier
    labels: LabelQuery | None
    device: KernelDevice
    pipeline: VoxelPipeline

    def frame(self, features: np.ndarray) -> DeviceVoxels:
        self.pipeline.enqueue(self.device.upload(features.astype(np.float16)))
        return self.pipeline.wait()


def run_of(
    device: KernelDevice,
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
    classifier = VoxelClassifier(grid, pose, rays, query.in_view, CALIBRATION, threshold)
    labels = LabelQuery(query.field, query.samples, query.in_view.size) if head.label_hidden else None
    pipeline = VoxelPipeline(device, query, marched, classifier, labels)
    return Run(head, canonical, pose, query, marched, classifier, labels, device, pipeline)


def centres(grid: VoxelGrid, pose: RigidTransform, flat: np.ndarray) -> np.ndarray:
    index = np.stack(np.unravel_index(flat, grid.shape), axis=-1)
    return pose.apply(np.asarray(grid.origin) + (index + 0.5) * grid.voxel_size)


def check(run: Run, features: np.ndarray) -> DeviceVoxels:
    """Compares a frame with the twins, each stage given what the stages before it made."""
    found = run.frame(features)
    grid, query = run.query.grid, run.query
    pose = run.pose
    given = features.astype(np.float16).astype(np.float32)

    alpha = run.device.download(run.pipeline.alpha)
    evaluated = np.sort(query.samples.target)
    points = centres(grid, pose, evaluated)
    density = density_reference(given, points, run.head, CODE, run.canonical)
    expected_alpha = np.zeros(alpha.size)
    expected_alpha[evaluated] = -np.expm1(-density * grid.voxel_size)
    np.testing.assert_allclose(alpha.reshape(-1), expected_alpha, atol=1e-4)

    expected = march(alpha, alpha >= run.march.occupied_from, grid, pose, run.march.camera)
    half_distance = run.device.download(run.pipeline.half_distance)
    # Where float32 puts a step into the next voxel, a ray differs: less than one in a hundred.
    assert np.mean(~np.isclose(half_distance, expected.half_distance, rtol=0.0, atol=2e-3, equal_nan=True)) <= 0.01
    for ours, twin in ((found.depth, expected.depth), (found.transmittance, expected.transmittance)):
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(twin))
        there = ~np.isnan(twin)
        assert np.count_nonzero(np.abs(ours[there] - twin[there]) > 2e-3) <= 0.01 * ours.size

    probability = run.device.download(run.pipeline.probability)
    np.testing.assert_allclose(probability, np.where(query.in_view, CALIBRATION.apply(alpha), 0.0), atol=1e-5)
    twin_state = states(
        probability >= np.float32(run.classifier.threshold), query.in_view, expected.half_distance, grid, pose,
        run.march.camera,
    )  # fmt: skip
    assert np.mean(found.state != twin_state) < 2e-3
    np.testing.assert_array_equal(found.state >= VoxelState.SURFACE, twin_state >= VoxelState.SURFACE)

    occupied = np.flatnonzero(found.state >= VoxelState.SURFACE)
    np.testing.assert_array_equal(found.index, occupied)
    np.testing.assert_array_equal(found.probability, probability.reshape(-1)[occupied])
    if run.labels is None:
        assert (found.label == 0).all() and (found.confidence == 1.0).all()
    else:
        logits = label_logits_reference(given, centres(grid, pose, occupied), run.head, CODE, run.canonical)
        label, confidence = most_likely(logits)
        np.testing.assert_allclose(found.confidence, confidence, atol=1e-4)
        first, second = np.sort(logits, axis=1)[:, -1:-3:-1].T
        clear = first - second > 2e-4
        np.testing.assert_array_equal(found.label[clear], label[clear])
        found = dataclasses.replace(found, label=found.label.copy(), confidence=found.confidence.copy())
        check_words(run, given, occupied)
    return found


def check_words(run: Run, given: np.ndarray, occupied: np.ndarray) -> None:
    """Compares labels by a vocabulary, and cosines of a query, of the frame that was asked for last with the twins."""
    head = run.head
    weight, bias, _, _ = head.label_layers()
    points = centres(run.query.grid, run.pose, occupied)
    hidden = hidden_reference(given[..., head.hidden :], points, weight, bias, CODE, run.canonical)
    space = small_space("t", 24, head.label_hidden)
    used = random_vocabulary(20, 30, background=3, dimension=24)
    asked = random_vocabulary(2, 5, background=4, dimension=24, seed=1)
    words = Words(FoldedVocabulary.of(used, space), FoldedVocabulary.of(asked, space))
    assert words.vocabulary is not None and words.queried is not None
    run.pipeline.compare(words)
    found = run.pipeline.wait()
    cosines = run.pipeline.cosines(words.queried, len(occupied))
    np.testing.assert_allclose(cosines, class_cosines_reference(hidden, asked, space), atol=5e-4)
    expected = class_cosines_reference(hidden, used, space)
    label, confidence = labels_reference(expected, 20, used.margin, words.vocabulary.temperature)
    np.testing.assert_allclose(found.confidence, confidence, atol=5e-3)
    first, second = np.sort(expected, axis=1)[:, -1:-3:-1].T
    clear = (first - second > 1e-3) & (np.abs(first - second - used.margin) > 1e-3)
    np.testing.assert_array_equal(found.label[clear], label[clear])


POSES = {
    "default": (FORWARD, GRID),
    "pitch, roll and shift": (rotated(3.0, 2.0, 0.0, (0.4, -1.1, 0.7)), GRID),
    "yaw 90, reaching behind the camera": (
        rotated(2.0, -1.0, 90.0, (0.0, 0.0, 0.0)),
        VoxelGrid((-8.0, -8.0, -3.0), 0.5, (32, 33, 9)),
    ),
}


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
        device(head), head, grid=grid, pose=pose, rays=rays,
        canonical=canonical, feature_size=student.feature_size,
    )  # fmt: skip
    check(run, feature_map(head, seed=seed + 1, size=student.feature_size))


def test_the_shipped_student(device: Devices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voxel_pipeline, "LABEL_BLOCKS", 3)  # fewer blocks than there is work for
    head = StudentBundle.load(PLAIN_STUDENT).head
    assert len(check(run_of(device(head), head, threshold=0.3), feature_map(head)).index) > 10


class GivenMaps:
    """An engine that uploads maps instead of computing them."""

    def __init__(self, device: KernelDevice, maps: list[np.ndarray]) -> None:
        self.device, self.maps = device, [device.upload(one.astype(np.float16)) for one in maps]
        self.number = 0

    def load(self, images: np.ndarray) -> None:
        self.number = int(images[0, 0, 0, 0])

    def enqueue(self) -> Buffer:
        return self.maps[self.number]


def test_two_scenes_on_one_device_ended_in_either_order(device: Devices) -> None:
    head = with_labels(random_head(channels=64, density_bias=-1.0))
    maps = [feature_map(head, seed=seed) for seed in (1, 2)]
    images = [np.full((1, 1, 3), number, np.uint8) for number in range(2)]
    scenes = []
    for pose in ("default", "pitch, roll and shift"):
        run = run_of(device(head), head, pose=POSES[pose][0], grid=POSES[pose][1])
        prepared = PreparedScene(run.query, run.march, run.classifier, run.labels)
        own = device(head)
        scene = DeviceSceneQuery(cast(Any, GivenMaps(own, maps)), own, device.context, prepared)
        scenes.append((run, scene))
    answers = []
    for number in (0, 1):
        for run, scene in scenes:
            answer = scene(images[number])
            expected = run.frame(maps[number])
            np.testing.assert_array_equal(answer.occupied, expected.index)
            np.testing.assert_array_equal(answer.state, expected.state)
            np.testing.assert_array_equal(answer.label, expected.label)
            np.testing.assert_array_equal(answer.dense.alpha, run.device.download(run.pipeline.alpha))
            answers.append(answer)
    with pytest.raises(GpuError, match="overwritten"):
        _ = answers[0].dense.probability
    kept = answers[-1].dense.alpha.copy()
    del scene
    for place in (1, 0):
        del scenes[place]
    np.testing.assert_array_equal(answers[-1].dense.alpha, kept)
