"""What requests to record say, whoever published them."""

from types import SimpleNamespace as Message

import pytest

from scene_completion_ros.messages.drop_reasons import RecordReason, record_reasons


def status(name: str = "unsure", message: str = "why", **values: str) -> Message:
    return Message(name=name, message=message, values=[Message(key=key, value=text) for key, text in values.items()])


def test_reasons_are_read_and_compared_by_what_exceeds_their_thresholds() -> None:
    first, second = record_reasons(
        Message(status=[status(score="0.55", threshold="0.4"), status("wrong", score="0.55", threshold="0.1")])
    )
    assert first == RecordReason("unsure", "why", 0.55, 0.4)
    assert (first.value, second.value) == (pytest.approx(0.25), pytest.approx(0.5))
    assert RecordReason("sure", score=1.0, threshold=1.0).value == 0.0


def test_a_request_of_any_size_is_cut() -> None:
    reasons = record_reasons(Message(status=[status("n" * 10_000, "m" * 10_000)] * 1000))
    assert len(reasons) == 20
    assert {(len(reason.name), len(reason.message)) for reason in reasons} == {(200, 200)}
