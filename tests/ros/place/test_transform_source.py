"""What says where the camera is, by the parameters alone."""

import sys
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.ros.frame import NotYetError
from scene_completion_ros.ros.parameters.schema import NodeParameters
from scene_completion_ros.ros.place import transform_source
from scene_completion_ros.ros.place.transform_source import make_transform_source
from tests.bags.recordings import START, odometry


@pytest.mark.parametrize(("source", "at_once"), [("auto", False), ("tf2", True)])
def test_auto_listens_to_tf_no_sooner_than_a_transform_is_asked_for(
    source: Any, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    far = [1.0]

    class Buffer:
        def get_latest_common_time(self, target: str, source: str) -> Any:
            return SimpleNamespace(nanoseconds=0)

        def lookup_transform(self, target: str, source: str, time: Any) -> Any:
            events.append(f"{target} from {source}")
            turn, place = SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0), SimpleNamespace(x=far[-1], y=2, z=3)
            return SimpleNamespace(transform=SimpleNamespace(rotation=turn, translation=place))

    class TransformListener:
        def __init__(self, buffer: Buffer, node: Any, *, spin_thread: bool) -> None:
            events.append("listen")

        def unregister(self) -> None:
            events.append("end")

    class Lost(Exception):
        pass

    tf2 = SimpleNamespace(
        Buffer=Buffer, TransformListener=TransformListener, ExtrapolationException=Lost, TransformException=Lost
    )
    monkeypatch.setitem(sys.modules, "tf2_ros", tf2)  # type: ignore[arg-type]
    monkeypatch.setattr(transform_source, "tf2_usable", lambda: True)
    parameters = NodeParameters(transform_source=source)
    with ExitStack() as resources:
        made = make_transform_source(None, parameters, lambda: None, lambda reason: None, resources)
        assert events == ["listen"] * at_once
        for _ in range(2):
            found = made.lookup("base_link", "camera", 1, 0)
            assert isinstance(found, RigidTransform)
            assert found.translation.tolist() == [1.0, 2.0, 3.0]
        far.append(1e30)
        with pytest.raises(NotYetError, match=r"from 'camera' to 'base_link' \(translation holds .* beyond 1e"):
            made.lookup("base_link", "camera", 1, 0)
    assert events == ["listen", *["base_link from camera"] * 3, "end"]


def test_what_topics_say_is_refused_with_the_name_of_the_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: dict[str, Any] = {}
    monkeypatch.setattr(
        transform_source,
        "AdaptiveSubscription",
        lambda node, kind, topic, callback, **_: heard.update({topic: callback}),
    )
    parameters = NodeParameters(transform_source="topics", odometry_topics="/odom=base, /wheel")
    refused: list[str] = []
    with ExitStack() as resources:
        made = make_transform_source(None, parameters, lambda: None, refused.append, resources)
        for topic, child, x in (
            ("/odom", "", 1.0),
            ("/wheel", "", 2.0),
            ("/wheel", "base", 3.0),
            ("/wheel", "w", 1e30),
        ):
            heard[topic](odometry("odom", child, (x, 0.0, 0.0), START + int(x)), False)
        assert made is not None and made.lookup("odom", "base", START + 1, 0).translation[0] == 1.0
    assert refused == [
        "/wheel: odometry without child_frame_id. Name that frame with the topic, as in /wheel=base_link",
        "/wheel: odom -> base: /odom holds it, too",
        "/wheel: odom -> w: further than 1e+09 m",
    ]
