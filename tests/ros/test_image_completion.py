"""What motion and sensors of depth say about images: right to the pixel, and left out where it cannot be."""

import math
from concurrent.futures import Future
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from scene_completion_ros.geometry import DEFAULT_GRID, Camera, RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer, SeenImage
from scene_completion_ros.inference.evidence import WHY, EvidenceEstimator
from scene_completion_ros.inference.motion_scale import MotionScale, Scale
from scene_completion_ros.ros.conversions import points_message, with_data
from scene_completion_ros.ros.frame import DepthReading, Epoch, Frame, NotYetError, PoseToCome
from scene_completion_ros.ros.health.diagnostics import DepthReport, InferenceRecord
from scene_completion_ros.ros.health.judgement import Record
from scene_completion_ros.ros.inference_thread import MOST_WAITING, DepthReader, ScaleEstimator
from tests.inference.test_motion_scale import CAMERA, STEP_NS, seen_from

NOW = Epoch(0, 0)


class Bench:
    """A drive towards two walls whose depths a student says a fifth too near."""

    def __init__(self, takes_evidence: bool = True) -> None:
        self.record, self.number = SimpleNamespace(scale=None), 0
        self.scaling = ScaleEstimator(cast(InferenceRecord, self.record))
        covered = np.ones((CAMERA.height, CAMERA.width), np.bool_)
        self.completer = cast(
            Completer,
            SimpleNamespace(
                bundle=SimpleNamespace(
                    takes_evidence=takes_evidence, canonical=CAMERA, class_names=("road", "building")
                ),
                evidence_estimator=partial(EvidenceEstimator, CAMERA, DEFAULT_GRID, covered),
            ),
        )

    @property
    def measured(self) -> Any:
        return self.scaling._measured

    @property
    def scale(self) -> Scale:
        """What was measured last."""
        assert self.record.scale is not None
        return cast(Scale, self.record.scale)

    def image(
        self, pose: PoseToCome | None = None, epoch: Epoch = NOW, scale_from: str = "odometry", frame_id: str = "camera"
    ) -> float:
        """Complete the next image; the factor that it was given, 0 for none. `pose`: None where it is known at once."""
        place = np.array([0.05, 0.0, 0.4]) * self.number
        image, depth = seen_from(place, floor=1.5)
        depth = 1.0 / cv2.resize(1.0 / depth, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        odometry = RigidTransform(np.eye(3), place) if pose is None else None
        frame: Any = SimpleNamespace(
            frame_id=frame_id,
            stamp_ns=(1 + self.number) * STEP_NS,
            parameters=SimpleNamespace(scale_from=scale_from),
            placement=SimpleNamespace(odometry_from_grid=odometry, grid_from_camera=RigidTransform.identity()),
            completion=SimpleNamespace(image=image, own_depth=depth / 1.2),
            epoch=epoch,
            pose=pose,
        )
        own = (depth / 1.2).astype(np.float32) if self.completer.bundle.takes_evidence else None
        seen = SeenImage(image, None, own, {})
        evidence = self.evidence = self.scaling.evidence(cast(Frame, frame), self.completer, seen)
        self.corners = evidence.sensed
        self.scaling.follow(cast(Frame, frame))
        self.number += 1
        return 0.0 if evidence.scale is None else evidence.scale.factor


def test_each_image_is_scaled_by_those_before_it() -> None:
    bench = Bench()
    factors = [bench.image() for _ in range(10)]
    assert factors[:3] == [1.0] * 3 and abs(factors[-1] - 1.2) < 0.06
    assert bench.scale.described().startswith("1.")
    again = Bench()
    assert [again.image() for _ in range(10)] == factors  # the thread of its own changes nothing
    bench.scaling.close()


def test_what_belongs_to_another_time_is_forgotten() -> None:
    bench = Bench()
    for _ in range(10):
        bench.image()
    assert bench.image(epoch=Epoch(1, 0)) == 1.0
    assert bench.image(epoch=Epoch(1, 0), scale_from="off") == 0.0
    bench.scaling._pool.shutdown()
    assert bench.record.scale is None  # and is not shown
    bench = Bench()
    assert bench.image(Future(), frame_id="of the warm-up of a replay") == 1.0  # its pose never comes
    assert abs([bench.image() for _ in range(10)][-1] - 1.2) < 0.06
    assert Bench(takes_evidence=False).image() == 0.0


def test_a_measurement_that_fails_costs_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says why, and the next ones begin anew."""
    bench = Bench()
    for _ in range(10):
        bench.image()
    with monkeypatch.context() as failing:
        failing.setattr(MotionScale, "add", lambda *_: 1 / 0)
        bench.image()
        assert bench.image() == 1.0 and "ZeroDivisionError" in bench.evidence.summary()[WHY]
    assert abs([bench.image() for _ in range(12)][-1] - 1.2) < 0.06
    with monkeypatch.context() as failing:
        failing.setattr(MotionScale, "depths", lambda *_, **__: 1 / 0)
        bench.image(scale_from="corners")
        assert bench.corners is None
    assert bench.image() == 1.0  # nothing of a state that something is wrong with


def test_no_image_waits_for_its_pose() -> None:
    """Poses come later, one never does, and one image has none: what is known counts in the order of the images."""
    bench, late = Bench(), cast("list[PoseToCome]", [Future() for _ in range(3)])
    for pose in late:
        assert bench.image(pose) == 1.0
    for number, pose in enumerate(late):
        pose.set_result(RigidTransform(np.eye(3), np.array([0.05, 0.0, 0.4]) * number))
    for _ in range(7):
        last = bench.image()
    assert abs(last - 1.2) < 0.06
    for _ in range(MOST_WAITING + 3):
        bench.image(Future())
    assert len(bench.measured.waiting) == MOST_WAITING
    missing: PoseToCome = Future()
    missing.set_result(NotYetError("no transform from odom", may_come=False))
    bench.measured.waiting.clear()
    bench.image(missing)
    work = bench.measured.work
    assert work is not None and work.result() is None and "no odometry: no transform" in bench.scale.why
    assert bench.image() == 1.0
    assert bench.evidence.summary() == {WHY: "no odometry: no transform from odom"}


def test_corners_are_followed_where_that_is_wanted_once_the_pose_has_come() -> None:
    bench = Bench()
    for _ in range(8):
        bench.image(scale_from="corners")
    assert bench.corners is not None
    known: PoseToCome = Future()
    known.set_result(RigidTransform(np.eye(3), np.array([0.05, 0.0, 0.4]) * bench.number))
    bench.image(known, scale_from="corners")  # while the network saw the image
    assert bench.corners is not None and np.count_nonzero(bench.corners[1]) > 50
    bench.image(Future(), scale_from="corners")
    assert bench.corners is None  # it does not wait
    unknown: PoseToCome = Future()
    unknown.set_result(NotYetError("odometry is silent", may_come=False))
    bench.image(unknown, scale_from="corners")
    assert bench.corners is None
    bench.image()
    assert bench.corners is None


CANONICAL = Camera(fx=40.0, fy=40.0, cx=31.5, cy=15.5, width=64, height=32)  # half of it: 32 x 16
LENS = Camera(100.0, 100.0, 79.5, 39.5, 160, 80, "plumb_bob", (-0.2, 0.05, 0.0, 0.0, 0.0))
OWN_M = 8.0  # what the network says everywhere


def depth_image(values: NDArray[Any], encoding: str, *, padding: int = 0) -> Any:
    """A sensor_msgs/Image of values [H, W] in their byte order, each row with some bytes of padding."""
    rows = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=255)
    big = values.dtype.byteorder == ">"
    size = {"height": values.shape[0], "width": values.shape[1], "step": data.shape[1]}
    return with_data(Image(encoding=encoding, is_bigendian=big, **size), data)


class SensorBench:
    """A student that says the same depth everywhere, and a sensor."""

    def __init__(self, camera: Camera = CANONICAL) -> None:
        self.record, self.camera, self.warned = Record(DepthReport()), camera, list[str]()
        counters: Any = SimpleNamespace(warn=lambda _, text: self.warned.append(text))
        self.sensing = DepthReader(self.record, counters)

    def see(self, depth: Any, pose: RigidTransform | None = None) -> NDArray[np.float32] | None:
        """The evidence about the next image; `pose`: of the sensor in the camera."""
        reading = depth
        if depth is not None and not isinstance(depth, NotYetError):
            reading = DepthReading(depth, 5_000_000, pose or RigidTransform.identity())
        own = np.full((16, 32), OWN_M, np.float32)
        frame: Any = SimpleNamespace(topic="/image", camera=self.camera, depth=reading)
        seen = SeenImage(np.zeros((32, 64, 3), np.uint8), None, own, {})
        return self.sensing.sensed(cast(Frame, frame), cast(StudentBundle, SimpleNamespace(canonical=CANONICAL)), seen)

    def refused(self, depth: Any, why: str) -> None:
        assert self.see(depth) is None
        assert why in self.record.report.without.why and why in self.warned[-1]


@pytest.mark.parametrize(
    ("kind", "encoding", "unit", "unknown", "padding"),
    [(">u2", "16UC1", 1000.0, (0,), 6), ("<f4", "32FC1", 1.0, (0.0, math.nan, math.inf, -math.inf, -1.0), 0)],
)
def test_a_depth_image_is_read_as_rep_118_has_it(
    kind: str, encoding: str, unit: float, unknown: tuple[float, ...], padding: int
) -> None:
    """Of the size of the canonical image; its every second pixel is one of those that take it."""
    values = np.full((32, 64), 6.0 * unit, kind)
    for column, value in enumerate(unknown):
        values[:, 2 * column : 2 * column + 2] = value
    sensed = SensorBench().see(depth_image(values, encoding, padding=padding))
    known = sensed[1] > 0.0
    assert known[:, len(unknown) + 1 :].mean() > 0.95 and not known[:, : len(unknown) - 1].any()
    np.testing.assert_allclose(sensed[0, known], math.log(6.0), rtol=1e-6)
    np.testing.assert_allclose(sensed[1, known], 2500.0, rtol=1e-6)


@pytest.mark.parametrize("width", [160, 320, 80])
def test_a_depth_image_of_any_size_is_seen_through_the_lens(width: int) -> None:
    """A wall that slants away: what each pixel takes is where its ray meets the wall, z = 6 / (1 - x / 2)."""
    camera = LENS.resized(width, width // 2)
    rays = camera.unproject(camera.pixel_centres())
    sensed = SensorBench(LENS).see(depth_image((6.0 / (1.0 - 0.5 * rays[..., 0])).astype("<f4"), "32FC1"))
    half = CANONICAL.resized(32, 16)
    row, column = np.nonzero(sensed[1])
    x = half.unproject(np.stack([column, row], axis=-1).astype(np.float64))[:, 0]
    assert len(row) > 120 and np.ptp(x) > 1.0
    # Off by half a pixel at most, which is 0.025 of x.
    np.testing.assert_allclose(np.exp(sensed[0, row, column]) * (1.0 - 0.5 * x), 6.0, atol=6.0 * 0.5 * 0.026 / 0.6)


def test_what_cannot_be_right_is_left_out_with_the_reason() -> None:
    bench = SensorBench()
    wall = np.full((32, 64), 6000, "<u2")
    bench.refused(depth_image(np.full((32, 64), 6000.0, "<f4"), "32FC1"), "750 times the depth of the network")
    bench.refused(depth_image(np.full((32, 64), 6, "<u2"), "16UC1"), "none of 512 points lies in the image")  # 6 mm
    bench.refused(depth_image(np.full((32, 64), 100, "<u2"), "16UC1"), "0.0125 times the depth of the network")
    bench.refused(depth_image(wall, "mono16"), "encoding 'mono16' is no depth")
    bench.refused(depth_image(wall[:, :48], "16UC1"), "other proportions")
    bench.refused(points_message(np.zeros((0, 3), np.float32), Header()), "none of 0 points lies in the image")
    bench.refused(points_message(np.array([[0.0, 0.0, -5.0]], np.float32), Header()), "none of 1 points")
    assert bench.see(depth_image(wall, "16UC1")) is not None  # and the next one counts again
