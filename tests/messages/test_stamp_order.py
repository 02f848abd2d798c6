from scene_completion_ros.messages.drop_reasons import CLOCK_JUMP_NS, StampOrder


def test_late_images_are_told_from_restarted_recordings() -> None:
    order = StampOrder()
    second = CLOCK_JUMP_NS
    assert order.arrived(100 * second) == "in order"
    assert order.arrived(100 * second - 1) == "late"
    assert order.behind_ns == 1
    assert order.arrived(99 * second + 1) == "late"  # the late one before did not move the newest stamp
    assert order.arrived(99 * second) == "restarted"
    assert order.arrived(99 * second + 1) == "in order"
    assert order.behind_ns == 0
    assert {order.arrived(99 * second + 1) for _ in range(5)} == {"in order"}  # equal stamps
