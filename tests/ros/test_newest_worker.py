"""The thread that takes the newest item."""

import threading
import time

import pytest

from scene_completion_ros.ros.waiting import NewestWorker


class WorkerBench:
    """A worker whose handling of items the test holds back."""

    def __init__(self) -> None:
        self.handled: list[int] = []
        self.replaced: list[int] = []
        self.errors: list[Exception] = []
        self.busy = threading.Event()
        self.go_on = threading.Event()
        self.done = threading.Event()
        self.ended_in: list[threading.Thread] = []
        self.worker: NewestWorker[int] = NewestWorker(
            self.handle,
            on_replaced=self.replaced.append,
            on_error=self.errors.append,
            on_end=lambda: self.ended_in.append(threading.current_thread()),
        )

    def handle(self, item: int) -> None:
        self.busy.set()
        assert self.go_on.wait(10)
        if item < 0:
            raise ValueError(item)
        self.handled.append(item)
        if item == 99:
            self.done.set()


@pytest.fixture
def slow() -> WorkerBench:
    return WorkerBench()


def test_newest_item_wins_and_the_others_are_reported(slow: WorkerBench) -> None:
    slow.worker.submit(0)
    assert slow.busy.wait(10)
    for item in (1, 2, 99):
        slow.worker.submit(item)
    slow.go_on.set()
    assert slow.done.wait(10)
    assert slow.handled == [0, 99]
    assert slow.replaced == [1, 2]
    assert slow.worker.close(10)


def test_thread_survives_errors(slow: WorkerBench) -> None:
    slow.go_on.set()
    slow.worker.submit(-5)
    assert slow.busy.wait(10)
    slow.worker.prepare(lambda: slow.handled.append(1 // 0))
    deadline_s = time.monotonic() + 10
    while len(slow.errors) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.005)
    slow.worker.submit(99)
    assert slow.done.wait(10)
    assert [type(error) for error in slow.errors] == [ValueError, ZeroDivisionError]
    assert slow.worker.close(10)


def test_what_was_given_up_is_not_done_and_what_comes_after_it_is(slow: WorkerBench) -> None:
    prepared: list[str] = []
    slow.worker.submit(0)
    assert slow.busy.wait(10)
    slow.worker.prepare(lambda: prepared.append("before"))
    assert not slow.worker.give_up()  # no item
    slow.worker.prepare(lambda: prepared.append("before"))
    slow.worker.submit(1)
    assert slow.worker.give_up()
    slow.worker.submit(2)
    slow.go_on.set()
    deadline_s = time.monotonic() + 10
    while slow.handled != [0, 2] and time.monotonic() < deadline_s:
        time.sleep(0.005)
    slow.worker.submit(99)
    assert slow.done.wait(10)
    assert slow.handled == [0, 2, 99]
    assert prepared == slow.replaced == []
    assert slow.worker.close(10)
