"""Services of the running node."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from std_srvs.srv import SetBool

from scene_completion_ros.ros import topics
from tests.ros import faulty_node
from tests.ros.camera_to_voxels import OK, SECOND_NS, values

Start = Callable[..., Any]


def test_reset_forgets_and_while_disabled_nothing_is_published_and_everything_counted(
    start: Start, hold: tuple[Path, Path]
) -> None:
    held_while, reached = hold
    served = start("-p", "image.qos:=reliable", script=faulty_node.__file__)

    def set_enabled(enabled: bool) -> Any:
        request = SetBool.Request(data=enabled)
        return served.graph.call(SetBool, topics.SET_ENABLED.replace("~", topics.NODE_NAME), request)

    told = served.told
    served.start()
    served.answer(served.image(1, 100 * SECOND_NS))
    late = served.image(2, 100 * SECOND_NS - SECOND_NS // 2)
    served.until_logged("stamp went back, 1 so far", lambda: served.images.publish(late))
    assert served.reset().message == "forgot stamps, times and earlier images"

    def forgot() -> bool:
        parts = {name: values(status) for name, status in told.newest.items()}
        return (
            parts["outputs"].get("seconds since the last result") == "none yet"
            and int(parts["inference"].get("images completed", 0)) >= 1  # counts go on
        )

    assert served.graph.until(lambda: bool(told.newest) and forgot()), served.node.log
    served.answer(late)

    held_while.touch()
    served.images.publish(served.image(1, 110 * SECOND_NS))
    assert served.graph.until(reached.exists), served.node.log
    answer = set_enabled(False)
    assert answer.success and "until ~/set_enabled is called with true" in answer.message
    held_while.unlink()
    told.until("lifecycle", OK, "active, but disabled by ~/set_enabled: call ~/set_enabled with data: true to go on")
    served.images.publish(served.image(2, 111 * SECOND_NS))
    assert served.graph.until(lambda: values(told.newest["input"]).get("dropped: disabled") == "2"), served.node.log
    assert set_enabled(True).success
    served.answer(served.image(3, 112 * SECOND_NS))
    assert not set(served.stamps_ns) & {110 * SECOND_NS, 111 * SECOND_NS}
    told.until("lifecycle", OK)
    assert served.graph.until(lambda: values(told.newest["lifecycle"])["enabled"] == "true")
    served.node.end_well()
    received, processed, dropped = served.node.counts
    assert received == processed + dropped.total()
