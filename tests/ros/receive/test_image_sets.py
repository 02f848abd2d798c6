"""Which images of several cameras belong together; without ROS and without real time."""

import pytest

from scene_completion_ros.ros.receive.image_sets import ImageSets

TOLERANCE_NS, TIMEOUT_S = 10, 1.0


class Bench:
    """Items are names with stamps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.delivered: list[tuple[list[str], list[str]]] = []
        self.unused: list[str] = []
        self.sets: ImageSets[str] = ImageSets(
            ("left", "front", "right"),
            lambda items, missing: self.delivered.append((items, missing)),
            self.unused.append,
            clock=lambda: self.now_s,
        )

    def add(self, name: str, stamp_ns: int) -> None:
        self.sets.add(name, stamp_ns, f"{name} {stamp_ns}", tolerance_ns=TOLERANCE_NS, timeout_s=TIMEOUT_S)

    def look(self, now_s: float) -> None:
        self.now_s = now_s
        self.sets.look()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_set_is_complete_when_the_last_comes_in_whatever_order(bench: Bench) -> None:
    for name, stamp_ns in (("right", 103), ("left", 100), ("front", 98)):
        assert not bench.delivered
        bench.add(name, stamp_ns)
    assert bench.delivered == [(["left 100", "front 98", "right 103"], [])]
    assert (bench.unused, len(bench.sets)) == ([], 0)


def test_images_too_far_apart_do_not_meet(bench: Bench) -> None:
    for name, stamp_ns in (("left", 100), ("front", 106), ("right", 111)):
        bench.add(name, stamp_ns)
    assert not bench.delivered  # 11 apart
    bench.add("left", 107)
    assert bench.delivered == [(["left 107", "front 106", "right 111"], [])]
    assert bench.unused == ["left 100"]


def test_a_missing_camera_is_waited_for_once(bench: Bench) -> None:
    bench.add("left", 100)
    bench.add("front", 100)
    bench.look(0.9)
    assert not bench.delivered
    bench.look(1.0)
    assert bench.delivered == [(["left 100", "front 100"], ["right"])]
    bench.add("left", 200)
    bench.add("front", 205)  # nobody waits for the right one any more
    assert bench.delivered[1] == (["left 200", "front 205"], ["right"])
    bench.add("right", 204)  # of a time that is over
    assert bench.unused == ["right 204"]
    bench.add("left", 300)
    bench.add("front", 300)
    assert len(bench.delivered) == 2  # it is there again, and waited for
    bench.add("right", 300)
    assert bench.delivered[2] == (["left 300", "front 300", "right 300"], [])
