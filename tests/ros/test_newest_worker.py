"""The thread that takes the newest item."""

import threading
import time

import pytest

from scene_completion_ros.ros.waiting import NewestWorker


class Bench:
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
def bench() -> Bench:
    return Bench()


def test_newest_item_wins_and_the_others_are_reported(bench: Bench) -> None:
    bench.worker.submit(0)
    assert bench.busy.wait(10)
    for item in (1, 2, 99):
        bench.worker.submit(item)
    bench.go_on.set()
    assert bench.done.wait(10)
    assert bench.handled == [0, 99]
    assert bench.replaced == [1, 2]
    assert bench.worker.close(10)


def test_thread_survives_errors(bench: Bench) -> None:
    bench.go_on.set()
    bench.worker.submit(-5)
    assert bench.busy.wait(10)
    bench.worker.prepare(lambda: bench.handled.append(1 // 0))
    deadline_s = time.monotonic() + 10
    while len(bench.errors) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.005)
    bench.worker.submit(99)
    assert bench.done.wait(10)
    assert [type(error) for error in bench.errors] == [ValueError, ZeroDivisionError]
    assert bench.worker.close(10)


def test_what_was_given_up_is_not_done_and_what_comes_after_it_is(bench: Bench) -> None:
    prepared: list[str] = []
    bench.worker.submit(0)
    assert bench.busy.wait(10)
    bench.worker.prepare(lambda: prepared.append("before"))
    assert not bench.worker.give_up()  # no item
    bench.worker.prepare(lambda: prepared.append("before"))
    bench.worker.submit(1)
    assert bench.worker.give_up()
    bench.worker.submit(2)
    bench.go_on.set()
    deadline_s = time.monotonic() + 10
    while bench.handled != [0, 2] and time.monotonic() < deadline_s:
        time.sleep(0.005)
    bench.worker.submit(99)
    assert bench.done.wait(10)
    assert bench.handled == [0, 2, 99]
    assert prepared == bench.replaced == []
    assert bench.worker.close(10)
