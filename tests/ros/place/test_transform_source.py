"""What says where the camera is, by the parameters alone."""

import sys
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.ros.parameters.schema import NodeParameters
from scene_completion_ros.ros.place import transform_source
from scene_completion_ros.ros.place.transform_source import make_transform_source


@pytest.mark.parametrize(("source", "at_once"), [("auto", False), ("tf2", True)])
def test_auto_listens_to_tf_no_sooner_than_a_transform_is_asked_for(
    source: Any, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Buffer:
        def get_latest_common_time(self, target: str, source: str) -> Any:
            return SimpleNamespace(nanoseconds=0)

        def lookup_transform(self, target: str, source: str, time: Any) -> Any:
            events.append(f"{target} from {source}")
            turn = SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
            return SimpleNamespace(transform=SimpleNamespace(rotation=turn, translation=SimpleNamespace(x=1, y=2, z=3)))

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
    assert events == ["listen", "base_link from camera", "base_link from camera", "end"]
