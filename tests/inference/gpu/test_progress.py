from __future__ import annotations

import pytest

from scene_completion_ros.inference.gpu.progress import BuildProgress


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_phases_within_phases_add_up() -> None:
    said: list[tuple[float, str]] = []
    progress = BuildProgress(lambda fraction, phase: said.append((fraction, phase)), every_s=0.0)
    progress.start("engine", None, 4)
    progress.step("engine", 0)
    progress.start("graph", "engine", 2)
    progress.step("graph", 0)
    progress.start("tactics", "graph", 5)
    progress.step("tactics", 0)
    progress.finish("tactics")
    progress.step("graph", 1)
    progress.finish("graph")
    progress.step("engine", 1)
    progress.step("engine", 3)
    assert [phase for _, phase in said] == ["engine", "graph", "tactics", "graph", "engine", "engine"]
    assert [fraction for fraction, _ in said] == pytest.approx([1 / 4, 3 / 8, (1 + (1 + 1 / 5) / 2) / 4, 0.5, 0.5, 1.0])


def test_it_never_goes_back_and_never_beyond_the_end() -> None:
    said: list[float] = []
    progress = BuildProgress(lambda fraction, phase: said.append(fraction), every_s=0.0)
    progress.start("engine", None, 2)
    for round_ in range(2):  # the same phase twice in one step of its parent
        progress.start("costs", "engine", 1)
        progress.step("costs", 0)
        progress.step("costs", 7)  # more steps than announced
        progress.finish("costs")
        progress.step("unheard of", round_)
    progress.step("engine", 1)
    assert said == sorted(said)
    assert said[-1] == 1.0


def test_it_speaks_now_and_then() -> None:
    clock, said = Clock(), []
    progress = BuildProgress(lambda fraction, phase: said.append(clock.now_s), every_s=5.0, now_s=clock)
    progress.start("engine", None, 100)
    for step in range(100):
        clock.now_s = step * 0.5
        progress.step("engine", step)
    assert said == [5.0 * i for i in range(1, 10)]


def test_a_build_that_is_not_wanted_is_given_up() -> None:
    answers = iter([True, False])
    progress = BuildProgress(lambda fraction, phase: None, wanted=lambda: next(answers))
    progress.start("engine", None, 3)
    assert progress.step("engine", 0)
    assert not progress.step("engine", 1)
