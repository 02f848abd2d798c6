"""Earlier images in the inference thread: whose they are, and when they are forgotten."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.inference.earlier_views import ViewMemory
from scene_completion_ros.inference.evidence import NO_EVIDENCE
from scene_completion_ros.ros.complete.joined_views import JoinedViews
from scene_completion_ros.ros.frame import Epoch

NOW = Epoch(0, 0)


class Student:
    """Another one for each object, as bundles are."""

    def __init__(self, takes_views: bool) -> None:
        self.takes_views = takes_views


BUNDLE, SINGLE = Student(True), Student(False)


class Bench:
    """A camera that drives three metres a second, an image each second."""

    def __init__(self) -> None:
        self.earlier, self.second = JoinedViews(), 0

    def image(self, *, views: int = 3, epoch: Epoch = NOW, bundle: Any = BUNDLE, placed: bool = True) -> list[float]:
        """Complete the next image; the seconds of those that are completed with it."""
        pose = RigidTransform(np.eye(3), np.array([3.0 * self.second, 0.0, 0.0]))
        frame: Any = SimpleNamespace(
            name="front",
            frame_id="camera",
            stamp_ns=self.second * 10**9,
            parameters=SimpleNamespace(views=views),
            odometry_from_camera=pose if placed else None,
            completion=SimpleNamespace(view=np.full((3, 2, 2), self.second, np.float32), evidence=NO_EVIDENCE),
        )
        completer: Any = SimpleNamespace(bundle=bundle, view_memory=ViewMemory)
        chosen = self.earlier.chosen(frame, completer, epoch)
        scene: Any = SimpleNamespace(frames=(frame,))
        self.earlier.follow(scene)
        self.second += 1
        return [float(one.view[0, 0, 0]) for one in chosen]


def test_images_before_that_of_now_are_taken_as_many_as_are_wanted() -> None:
    bench = Bench()
    assert [bench.image() for _ in range(4)] == [[], [0.0], [1.0, 0.0], [2.0, 1.0]]
    assert bench.image(views=2) == [3.0]
    assert bench.image(views=1) == [] and bench.image() == []  # with one, none is kept


def test_nothing_is_taken_from_another_time_student_or_place() -> None:
    """Of another epoch, of another student, or from before an image whose pose nobody knows."""
    for other in ({"epoch": Epoch(0, 1)}, {"bundle": Student(True)}, {"placed": False}):
        bench = Bench()
        bench.image()
        assert bench.image() == [0.0]
        assert bench.image(**other) == []
    bench = Bench()
    assert [bench.image(bundle=SINGLE) for _ in range(3)] == [[], [], []]
