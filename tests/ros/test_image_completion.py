"""What motion says about the depths of images, and that no image waits or fails for it."""

from concurrent.futures import Future
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest

from scene_completion_ros.geometry import DEFAULT_GRID, RigidTransform
from scene_completion_ros.inference.cells import ROAD, CellVolume
from scene_completion_ros.inference.completer import Completer, SeenImage
from scene_completion_ros.inference.evidence import NO_PLANE, WHY, EvidenceEstimator, OwnView
from scene_completion_ros.inference.motion_scale import MotionScale, Scale
from scene_completion_ros.ros.frame import Epoch, Frame, NotYetError, PoseToCome
from scene_completion_ros.ros.health.diagnostics import InferenceRecord
from scene_completion_ros.ros.inference_thread import MOST_WAITING, ScaleEstimator
from tests.inference.test_motion_scale import CAMERA, STEP_NS, seen_from

NOW = Epoch(0, 0)


class Bench:
    """A drive towards two walls whose depths a student says a fifth too near."""

    def __init__(self, takes_evidence: bool = True) -> None:
        self.record, self.number = SimpleNamespace(scale=None), 0
        self.scaling = ScaleEstimator(cast(InferenceRecord, self.record))
        covered = np.ones((CAMERA.height, CAMERA.width), np.bool_)
        volume = CellVolume(DEFAULT_GRID, -1.65, ROAD, label=0, classes=2, context=0)
        about = {"canonical": CAMERA, "grid": DEFAULT_GRID, "height_above_ground": 1.65, "volume": volume}
        bundle = SimpleNamespace(takes_evidence=takes_evidence, class_names=("road", "building"), **about)
        self.completer = cast(
            Completer,
            SimpleNamespace(
                bundle=bundle,
                upright_from_camera=None,
                evidence_estimator=partial(EvidenceEstimator, cast(Any, bundle), covered),
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
        own = OwnView((depth / 1.2).astype(np.float32), np.zeros(depth.shape, np.float32))  # of no road
        frame: Any = SimpleNamespace(
            frame_id=frame_id,
            stamp_ns=(1 + self.number) * STEP_NS,
            parameters=SimpleNamespace(scale_from=scale_from),
            placement=SimpleNamespace(
                odometry_from_grid=odometry,
                grid_from_camera=RigidTransform.identity(),
                upright_from_camera=lambda _: None,
            ),
            completion=SimpleNamespace(image=image, own=own),
            epoch=epoch,
            pose=pose,
        )
        seen = SeenImage(image, None, own if self.completer.bundle.takes_evidence else None, {})
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
    assert bench.evidence.summary() == dict.fromkeys((WHY, NO_PLANE), "no odometry: no transform from odom")


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
