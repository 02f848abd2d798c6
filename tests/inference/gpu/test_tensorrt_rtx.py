"""Graphs of students in float16, parsed and built by TensorRT-RTX, whose builder needs no GPU.

What is built is built in a process of its own, this module's, since TensorRT-RTX has crashed without a driver.
"""

import functools
import importlib.util
import json
import operator
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.inference.bundle import open_student
from scene_completion_ros.inference.gpu import graph_engine
from scene_completion_ros.inference.gpu.graph_engine import build_plan, load_tensorrt
from scene_completion_ros.inference.gpu.half_precision import DevicePorts, device_ports, to_half
from scene_completion_ros.inference.graphs import StepGraph, graphs_of
from tests.checkout import run_python
from tests.inference.small_bundle import make_small_bundle

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed (pip install tensorrt_rtx; x86-64 only)",
)

# What of the runtime is called, with its arguments, or read. No build shows them, and without a GPU nothing runs.
RUNTIME_NAMES: dict[str, str | None] = {
    "TensorIOMode.INPUT": None,
    "Runtime": "logger",
    "Runtime.deserialize_cuda_engine": "serialized_engine",
    "ICudaEngine.num_io_tensors": None,
    "ICudaEngine.get_tensor_name": "index",
    "ICudaEngine.get_tensor_mode": "name",
    "ICudaEngine.get_tensor_dtype": "name",
    "ICudaEngine.get_tensor_shape": "name",
    "ICudaEngine.create_execution_context": "",
    "IExecutionContext.set_tensor_address": "name memory",
    "IExecutionContext.execute_async_v3": "stream_handle",
}


def names(_: Path) -> dict[str, Any]:
    """Which of these names TensorRT-RTX has not, or takes other arguments for, by what pybind11 says of overloads."""
    api, found = load_tensorrt("tensorrt_rtx").api, []
    for name, arguments in RUNTIME_NAMES.items():
        try:
            thing = operator.attrgetter(name)(api)
        except AttributeError:
            found.append(f"{name} is not there")
            continue
        said = thing.__init__.__doc__ if isinstance(thing, type) else thing.__doc__
        given = "".join(f", {argument}: [^,=]+" for argument in (arguments or "").split())
        if arguments is not None and not re.search(rf"\(self: [^,]+{given}(, \w+: [^,]+ = [^,]+)*\) -> ", said):
            found.append(f"{name} takes other arguments than {arguments!r}: {said}")
    return {"wrong": found}


def build(step: StepGraph, ports: DevicePorts | None = None) -> dict[str, Any]:
    """Build an engine, with its progress in the log."""
    with mock.patch.object(graph_engine, "SAY_EVERY_S", 0.0), mock.patch.object(graph_engine, "_log") as log:
        plan = build_plan(to_half(step), ports or device_ports(step), load_tensorrt("tensorrt_rtx"))
    return {"plan": len(plan), "steps": log.info.call_count}


def shipped(name: str, number: int) -> StepGraph:
    return list(graphs_of(open_student(name)))[number]


def small(folder: Path) -> StepGraph:
    return next(graphs_of(make_small_bundle(folder)))


def refuse(folder: Path, change: Callable[[DevicePorts], object]) -> dict[str, Any]:
    """Try to build a graph that has other ports than these, changed."""
    step = small(folder)
    ports = device_ports(step)
    change(ports)
    return build(step, ports)


def rubbish(_: Path) -> dict[str, Any]:
    build_plan(b"no graph", DevicePorts({}, {}), load_tensorrt("tensorrt_rtx"))
    return {}


def interrupt(folder: Path) -> dict[str, Any]:
    """End a build in the middle, as who presses Ctrl-C."""
    with mock.patch.object(graph_engine.time, "monotonic", side_effect=[0.0, 0.0, KeyboardInterrupt]) as asked:
        try:
            build(small(folder))
        except KeyboardInterrupt:
            return {"asked": asked.call_count}
    return {}


PORTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "channels": (
        lambda ports: ports.made.update(features=((1, 96, 320, 32), np.float16)),
        r"'features': .*HALF.* 96, 320, 64\).* needed are .*'features': .* 96, 320, 32\)",
    ),
    "type": (
        lambda ports: ports.made.update(features=((1, 96, 320, 64), np.float32)),
        "'features': .*HALF.* needed are .*'features': .*FLOAT",
    ),
    "input": (lambda ports: ports.given.pop("image"), "'image': .*UINT8.* needed are {'features'"),
}
"""Ports that a graph is to have and has not, and how it is refused."""
SHIPPED = {
    f"{name} {number}": functools.partial(shipped, name, number)
    for name, number in (("kitti_student", 0), ("street", 0), ("street", 1), ("room", 0), ("room", 1))
}
CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "small": lambda folder: build(small(folder)),
    "rubbish": rubbish,
    **{case: lambda folder, change=change: refuse(folder, change) for case, (change, _) in PORTS.items()},  # type: ignore[misc]
    **{case: lambda _, step=step: build(step()) for case, step in SHIPPED.items()},  # type: ignore[misc]
    "interrupt": interrupt,
    "names": names,
}


def answer(case: str, folder: Path) -> dict[str, Any]:
    """What a case answers, or with what it was refused."""
    folder.mkdir()
    try:
        return CASES[case](folder)
    except SceneCompletionError as error:
        return {"refused": str(error), "kind": type(error).__name__}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Answers of all cases."""
    done = run_python("-m", "tests.inference.gpu.test_tensorrt_rtx", tmp_path_factory.mktemp("rtx"))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_name_of_the_runtime_is_there_and_ctrl_c_ends_a_build(answers: dict[str, Any]) -> None:
    assert answers["names"] == {"wrong": []}
    assert answers["interrupt"]["asked"] == 3


@pytest.mark.parametrize("case", ["small", *SHIPPED])
def test_graphs_of_every_shipped_student_are_parsed_and_built(answers: dict[str, Any], case: str) -> None:
    assert answers[case].get("plan", 0) > 10_000, answers[case]
    assert answers[case]["steps"] > 10  # the progress is logged


@pytest.mark.parametrize("case", ["rubbish", *PORTS])
def test_other_graphs_are_refused_with_what_is_needed(answers: dict[str, Any], case: str) -> None:
    assert answers[case]["kind"] == "BundleError"
    assert re.search(
        {name: words for name, (_, words) in PORTS.items()}.get(case, "cannot be parsed"), answers[case]["refused"]
    )


if __name__ == "__main__":
    print(json.dumps({case: answer(case, Path(sys.argv[1]) / case) for case in CASES}), flush=True)
