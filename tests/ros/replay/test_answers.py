"""Answers of the node put together, whatever comes late or never."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from scene_completion_ros.ros import topics
from scene_completion_ros.ros.messages import processing_time_message
from scene_completion_ros.ros.replay.answers import PATIENCE_S, Answers, SentImage

WANTED = (topics.VOXELS, topics.DEPTH, topics.DEPTH_CAMERA_INFO)
FRAME = "front"


@pytest.fixture
def answers() -> Answers:
    return Answers(WANTED, [topics.PROCESSING_TIME])


def send(answers: Answers, number: int, stamp_ns: int | None = None) -> SentImage:
    sent = SentImage(number, FRAME, number if stamp_ns is None else stamp_ns, sent_s=0.0)
    answers.waiting.append(sent)
    return sent


def answer(answers: Answers, number: int, stamp_ns: int | None = None, frame: str = FRAME) -> None:
    """What the node publishes of an image, a hundred nanoseconds an image."""
    stamp = SimpleNamespace(sec=0, nanosec=number if stamp_ns is None else stamp_ns)
    message: Any = SimpleNamespace(header=SimpleNamespace(stamp=stamp, frame_id=frame))
    for position, topic in enumerate(WANTED):
        answers.take(topic, message, 100 * number + position, arrived_s=float(number))


def times(answers: Answers, number: int, stamp_ns: int | None = None, frame: str = FRAME) -> None:
    """The processing times of an image: its number, for every stage."""
    times_ms = dict.fromkeys(topics.STAGES, float(number))
    message = processing_time_message(times_ms, number if stamp_ns is None else stamp_ns, frame)
    answers.take(topics.PROCESSING_TIME, message, 100 * number + 50, arrived_s=float(number))


def test_a_complete_frame_is_handed_over_at_once(answers: Answers) -> None:
    sent = send(answers, 1)
    answer(answers, 1)
    assert answers.next_ready(1.0) is None
    times(answers, 1)
    assert answers.next_ready(1.0) is sent
    assert sent.stages_ms == dict.fromkeys(topics.STAGES, 1.0)
    assert sent.latency_ms == 1000.0
    assert not answers.waiting
    assert answers.heard


def test_late_answers_to_the_warm_up_shift_nothing(answers: Answers) -> None:
    sent = send(answers, 2, stamp_ns=0)
    answer(answers, 1, stamp_ns=0, frame="warm up")
    times(answers, 1, stamp_ns=0, frame="warm up")
    assert answers.next_ready(9.0) is None
    answer(answers, 2, stamp_ns=0)
    times(answers, 2, stamp_ns=0)
    assert answers.next_ready(2.0) is sent
    assert set(sent.stages_ms.values()) == {2.0}


def test_lost_times_delay_one_frame_and_shift_none(answers: Answers) -> None:
    first, second = send(answers, 1), send(answers, 2)
    answer(answers, 1)
    answer(answers, 2)
    times(answers, 2)
    assert answers.next_ready(1.0) is None  # in order
    assert answers.next_ready(1.0 + PATIENCE_S) is first
    assert first.stages_ms == {}
    assert answers.next_ready(2.0) is second
    assert second.stages_ms == dict.fromkeys(topics.STAGES, 2.0)


def test_a_frame_without_times_is_handed_over_at_the_end(answers: Answers) -> None:
    sent = send(answers, 1)
    send(answers, 2)
    answer(answers, 1)
    assert answers.next_ready(1.0) is None
    assert answers.next_ready(1.0, patient=False) is sent
    assert answers.next_ready(99.0, patient=False) is None  # the other one is lost


def test_what_the_node_dropped_is_not_waited_for(answers: Answers) -> None:
    first, second = send(answers, 1), send(answers, 2)
    answers.take_drop(2, "another frame", "bad image")
    answers.take_drop(3, FRAME, "bad image")
    assert answers.next_dropped() is None
    answers.take_drop(2, FRAME, "bad image")
    assert answers.next_dropped() is second
    assert second.dropped == "bad image"
    assert answers.next_dropped() is None
    assert answers.waiting == [first]
    answer(answers, 1)
    answers.take_drop(1, FRAME, "late")  # it has answers already: this is about another image of the same stamp
    assert answers.next_dropped() is None


def test_images_with_equal_stamps_are_answered_in_turn(answers: Answers) -> None:
    both = [send(answers, number, stamp_ns=0) for number in (1, 2)]
    for number in (1, 2):
        answer(answers, number, stamp_ns=0)
        times(answers, number, stamp_ns=0)
    assert [answers.next_ready(2.0), answers.next_ready(2.0)] == both
    assert [sent.stages_ms["total"] for sent in both] == [1.0, 2.0]
