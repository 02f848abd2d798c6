"""Where voxels lie and what they are published in, for every combination of frames, and by what sources."""

import sys
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform, rotation_of_angles
from scene_completion_ros.messages.transform_buffer import NoTransformError, TransformBuffer
from scene_completion_ros.ros import placements
from scene_completion_ros.ros.frame import NotYetError, Placement
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.ros.placements import Placements, check_frames, make_transform_source
from tests.bags.recordings import SECOND, START, odometry, transform

STAMP_NS = 500
NOW_NS = START + SECOND
CLOCK = SimpleNamespace(get_clock=lambda: SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=NOW_NS)))
TRAINED_HEIGHT = 1.2
IMAGE, BASE, ODOM = "front_optical", "base_link", "odom"


class Known:
    """A camera 1.5 m above a base, which stands two metres from the start, turned left."""

    def __init__(self) -> None:
        self._tree = TransformBuffer()
        forward = RigidTransform(np.eye(3), np.array([0.0, 0.0, 1.5]))
        self._tree.add(BASE, IMAGE, 0, forward @ OPTICAL_FROM_FORWARD.inverse(), static=True)
        standing = RigidTransform(rotation_of_angles(0, 0, np.pi / 2), np.array([2.0, 0.0, 0.0]))
        self._tree.add(ODOM, BASE, STAMP_NS, standing, static=False)

    def lookup(self, target: str, source: str, stamp_ns: int, tolerance_ns: int) -> RigidTransform:
        try:
            return self._tree.find(target, source, stamp_ns)
        except NoTransformError as error:
            raise NotYetError(error.what, may_come=True) from None

    def forget(self) -> None:
        self._tree.forget_moving()


def placed(source: Known | None = None, **given: Any) -> Placement:
    return Placements(source, DEFAULT_GRID_FROM_CAMERA, TRAINED_HEIGHT).place(IMAGE, STAMP_NS, NodeParameters(**given))


def ahead(placement: Placement) -> dict[str, list[float]]:
    """Where the voxel ten metres before the camera lies: in what is published, and in the map."""
    grid = placement.grid_from_camera.apply(np.array([0.0, 0.0, 10.0]))
    upright = placement.map_from_grid.apply(grid)
    return {
        placement.frame_id: np.round(placement.frame_from_grid.apply(grid), 6).tolist(),
        f"map in {placement.map_frame_id}": np.round(placement.frame_from_map.apply(upright), 6).tolist(),
        "above the ground": np.round(upright[2:], 6).tolist(),
    }


IN_IMAGE, IN_BASE = [0.0, 0.0, 10.0], [10.0, 0.0, 1.5]


@pytest.mark.parametrize("source", [None, Known()])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {IMAGE: IN_IMAGE, f"map in {IMAGE}": IN_IMAGE}),
        ({"base_frame": BASE}, {IMAGE: IN_IMAGE, f"map in {BASE}": IN_BASE}),
        ({"grid_frame": BASE}, {BASE: IN_BASE, f"map in {BASE}": IN_BASE}),
        ({"grid_frame": BASE, "base_frame": BASE}, {BASE: IN_BASE, f"map in {BASE}": IN_BASE}),
    ],
)
def test_a_base_gets_the_map_and_a_grid_in_it_gets_all(
    source: Known | None, given: dict[str, Any], expected: dict[str, list[float]]
) -> None:
    height = 1.5 if source is None or not given else 0.0  # which the source knows
    placement = placed(source, camera_height=height, **given)
    assert ahead(placement) == {**expected, "above the ground": [1.5]}
    assert placement.assumed_height is None
    if "grid_frame" in given:
        np.testing.assert_array_equal(placement.map_from_grid.matrix, np.eye(4))  # so that it is made once
    else:
        assert placement.grid_from_camera is DEFAULT_GRID_FROM_CAMERA


def test_a_camera_that_looks_straight_down() -> None:
    assert ahead(placed(camera_pitch=90.0, camera_height=15.0))["above the ground"] == [5.0]


@pytest.mark.parametrize(
    "given", [{"grid_frame": "map"}, {"base_frame": "map"}, {"grid_frame": BASE, "base_frame": "map"}]
)
def test_what_is_missing_is_waited_for(given: dict[str, str]) -> None:
    with pytest.raises(NotYetError, match="to 'map'"):
        placed(Known(), **given)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (
            {"base_frame": BASE},
            "parameters base_frame, .*: it is unknown where the camera is in base_link. .*camera.height",
        ),
        ({"grid_frame": BASE}, "parameters grid.frame, .*: it is unknown where the camera is"),
        ({"base_frame": BASE, "grid_frame": ODOM, "camera_height": 1.2}, "Take one frame for both"),
    ],
)
def test_frames_that_nothing_places_are_refused(
    given: dict[str, Any], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placements, "tf2_usable", lambda: False)
    with pytest.raises(SceneCompletionError, match=complaint):
        check_frames(NodeParameters(**given))


def test_tf_is_subscribed_to_no_sooner_than_a_transform_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    far = [1.0]

    class Buffer:
        def set_transform(self, transform: Any, authority: str) -> None:
            events.append(f"{authority}: {transform.child_frame_id}")

        set_transform_static = set_transform

        def get_latest_common_time(self, target: str, source: str) -> Any:
            return SimpleNamespace(nanoseconds=0)

        def lookup_transform(self, target: str, source: str, time: Any) -> Any:
            events.append(f"{target} from {source}")
            turn, place = SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0), SimpleNamespace(x=far[-1], y=2, z=3)
            return SimpleNamespace(transform=SimpleNamespace(rotation=turn, translation=place))

    class TransformListener:
        def __init__(self, buffer: Buffer, node: Any, *, spin_thread: bool) -> None:
            events.append("listen")
            for name, y in (("camera", 0.0), ("camera", 0.3), ("camera_optical", 0.0)):
                (stamped,) = transform("base_link", name, (1.0, y, 0.0)).transforms
                buffer.set_transform_static(stamped, "tf2")

        def unregister(self) -> None:
            events.append("end")

    class Lost(Exception):
        pass

    tf2 = SimpleNamespace(
        Buffer=Buffer, TransformListener=TransformListener, ExtrapolationException=Lost, TransformException=Lost
    )
    monkeypatch.setitem(sys.modules, "tf2_ros", tf2)  # type: ignore[arg-type]
    monkeypatch.setattr(placements, "tf2_usable", lambda: True)
    with ExitStack() as resources:
        made = make_transform_source(None, NodeParameters(), lambda: None, lambda reason: None, resources)
        assert made is not None and events == []
        for _ in range(2):
            found = made.lookup("base_link", "camera", 1, 0)
            assert found.translation.tolist() == [1.0, 2.0, 3.0]
        far.append(1e30)
        with pytest.raises(NotYetError, match=r"from 'camera' to 'base_link' \(translation holds .* beyond 1e"):
            made.lookup("base_link", "camera", 1, 0)
        _, doubt = Placements(made, DEFAULT_GRID_FROM_CAMERA, TRAINED_HEIGHT).doubts(
            "camera_optical", NodeParameters(base_frame="camera")
        )
        assert "/tf_static: the fixed transform base_link -> camera has two values: [1.0, 0.0, 0.0] m" in doubt
        with pytest.raises(NotYetError, match=r"Known frames: base_link, camera, camera_optical. Probably 'camera'"):
            raise made._missing("base_link", "Camera", "unknown", may_come=True)
    heard = ["tf2: camera", "tf2: camera", "tf2: camera_optical"]
    assert events == ["listen", *heard, *["base_link from camera"] * 3, "end"]


def test_unusable_odometry_is_refused_with_the_name_of_its_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: dict[str, Any] = {}
    monkeypatch.setattr(
        placements, "AdaptiveSubscription", lambda node, kind, topic, callback, **_: heard.update({topic: callback})
    )
    parameters = NodeParameters(odometry_topics="/odom=base, /wheel")
    refused: list[str] = []
    with ExitStack() as resources:
        made = make_transform_source(CLOCK, parameters, lambda: None, refused.append, resources)
        for topic, child, x in (
            ("/odom", "", 1.0),
            ("/wheel", "", 2.0),
            ("/wheel", "base", 3.0),
            ("/wheel", "w", 1e30),
        ):
            heard[topic](odometry("odom", child, (x, 0.0, 0.0), START + int(x)))
        assert made is not None and made.lookup("odom", "base", START + 1, 0).translation[0] == 1.0
    assert refused == [
        "/wheel: odometry without child_frame_id. Name that frame with the topic, as in /wheel=base_link",
        "/wheel: odom -> base: /odom holds it, too",
        "/wheel: odom -> w: further than 1e+09 m",
    ]


def header(frame_id: str, ahead_s: float) -> Any:
    seconds, nanoseconds = divmod(NOW_NS + round(ahead_s * SECOND), SECOND)
    return SimpleNamespace(frame_id=frame_id, stamp=SimpleNamespace(sec=seconds, nanosec=nanoseconds))


def heard(monkeypatch: pytest.MonkeyPatch, frames: dict[str, RigidTransform], *poses: tuple[int, float]) -> Placements:
    """Placements by a base, whose poses are milliseconds after `START` and metres ahead, and frames on it."""
    callbacks: dict[str, Any] = {}
    monkeypatch.setattr(
        placements, "AdaptiveSubscription", lambda node, kind, topic, callback, **_: callbacks.update({topic: callback})
    )
    with ExitStack() as resources:
        parameters = NodeParameters(odometry_topics="/odom, /mount")
        source = make_transform_source(CLOCK, parameters, lambda: None, lambda _: None, resources)
    for milliseconds, x in poses:
        callbacks["/odom"](odometry(ODOM, BASE, (x, 0.0, 0.0), START + milliseconds * 1_000_000))
    assert isinstance(source, placements.TopicTransforms)
    for name, mount in frames.items():
        parent = name.rpartition("/")[0] or BASE
        source.heard.add(parent, name.rpartition("/")[2], 0, mount, static=True)
    return Placements(source, DEFAULT_GRID_FROM_CAMERA, TRAINED_HEIGHT)


DRIVE = tuple((100 * index, 0.8 * index) for index in range(20))
BODY, OPTICAL = RigidTransform.identity(), OPTICAL_FROM_FORWARD.inverse()
PLACED = NodeParameters(base_frame=BASE, odometry_frame=ODOM)


def test_the_optical_child_of_a_body_frame_is_taken_and_without_one_images_are_not_placed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    camera = heard(monkeypatch, {"camera_link": BODY, "camera_link/camera_optical": OPTICAL}, *DRIVE)
    assert camera.optical_frame("/camera_link", PLACED) == "camera_optical"
    assert "its optical child 'camera_optical' is taken instead" in camera.doubts("camera_link", PLACED)[0]
    assert camera.optical_frame("camera_optical", PLACED) == "camera_optical"
    alone = heard(monkeypatch, {"camera_link": BODY}, *DRIVE)
    with pytest.raises(NotYetError, match="'camera_link', which is the frame of a body .* below it tf has no optical"):
        alone.optical_frame("camera_link", PLACED)
    assert alone.optical_frame("camera_link", NodeParameters()) == "camera_link"  # where nothing is placed by it


def test_doubts_about_transforms_name_frames_topics_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    mount = {"camera_optical": OPTICAL}
    sound = heard(monkeypatch, mount, *DRIVE)
    assert sound.doubts("camera_optical", PLACED) == []
    hangs = {"camera_optical": OPTICAL @ RigidTransform(rotation_of_angles(0, 0, np.pi), np.zeros(3))}
    both = [(50 * index, 0.4 * index + 2.0 * (index % 2)) for index in range(30)]
    fast = [(100 * index, 900.0 * index) for index in range(20)]
    far = {"camera_optical": RigidTransform(OPTICAL.rotation, np.array([1200.0, 0.0, 1.0]))}
    for frames, poses, words in (
        (hangs, DRIVE, "the camera of frame 'camera_optical' hangs upside down. If it does, and its driver turns"),
        (
            mount,
            both,
            "/odom: the transform odom -> base_link goes to and fro between two tracks: [0.0, 0.0, 0.0] m turned by",
        ),
        (mount, fast, "base_link moves at 9000 m/s"),
        (far, DRIVE, "camera_optical is 1200 m from base_link; vehicles are shorter (it would be 1.2 m if"),
    ):
        (doubt,) = heard(monkeypatch, frames, *poses).doubts("camera_optical", PLACED)
        assert words in doubt
    late = heard(monkeypatch, mount, *DRIVE)
    late.images_ahead_ns.extend([placements.ahead_ns(CLOCK, header("camera_optical", 37.7))] * 3)
    (doubt,) = late.doubts("camera_optical", PLACED)
    assert "images of the camera have another clock than /odom, 36.990 s ahead of theirs" in doubt and "TAI" in doubt
