"""Encoders for GPUs, parsed and built by TensorRT-RTX, whose builder needs no GPU.

What is built is built in a process of its own, this module's, since TensorRT-RTX has crashed without a driver.
"""

import functools
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu import tensorrt_engine
from scene_completion_ros.inference.gpu.tensorrt_engine import build_plan, load_tensorrt, ports_of
from tests.checkout import run_python
from tests.inference.small_bundle import PLAIN_STUDENT, gpu_encoder, make_gpu_bundle

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
    "IExecutionContext.set_input_shape": "name shape",
    "IExecutionContext.set_tensor_address": "name memory",
    "IExecutionContext.execute_async_v3": "stream_handle",
}


def names(_: Path) -> dict[str, Any]:
    """Which of these names TensorRT-RTX has not, or takes other arguments for."""
    api, found = load_tensorrt("tensorrt_rtx").api, []
    for name, arguments in RUNTIME_NAMES.items():
        try:
            thing = functools.reduce(getattr, name.split("."), api)
        except AttributeError:
            found.append(f"{name} is not there")
            continue
        if arguments is not None:
            ways = _ways_to_call(vars(thing).get("__init__") if isinstance(thing, type) else thing)
            wanted = arguments.split()
            if not any(takes[: len(wanted)] == wanted and needs <= len(wanted) for takes, needs in ways):
                found.append(f"{name} takes {ways} where {wanted} is given")
    return {"wrong": found}


def _ways_to_call(function: Any) -> list[tuple[list[str], int]]:
    """Names of the arguments without ``self``, and how many of them have no default value; of every overload."""
    assert not inspect.isfunction(function)  # pybind11 has it in the first lines of the documentation
    signatures = re.findall(rf"^(?:\d+\. )?{function.__name__}\((self: .*)\) -> ", function.__doc__, re.MULTILINE)
    split = [re.split(r", (?=\w+: )", signature)[1:] for signature in signatures]
    return [([one.partition(": ")[0] for one in way], sum(" = " not in one for one in way)) for way in split]


def build(bundle: StudentBundle) -> dict[str, Any]:
    """Build an engine, with its progress in the log."""
    with mock.patch.object(tensorrt_engine, "SAY_EVERY_S", 0.0), mock.patch.object(tensorrt_engine, "_log") as log:
        onnx, tensorrt = bundle.read_gpu_encoder(), load_tensorrt("tensorrt_rtx")
        plan = build_plan(onnx, ports_of(bundle), tensorrt)
    return {"plan": len(plan), "steps": log.info.call_count}


def refuse(folder: Path, graph: bytes) -> dict[str, Any]:
    """Try to build a graph with other ports, or none."""
    build_plan(graph, ports_of(make_gpu_bundle(folder)), load_tensorrt("tensorrt_rtx"))
    return {}


def interrupt(folder: Path) -> dict[str, Any]:
    """End a build in the middle, as who presses Ctrl-C."""
    with mock.patch.object(tensorrt_engine.time, "monotonic", side_effect=[0.0, 0.0, KeyboardInterrupt]) as asked:
        try:
            build(make_gpu_bundle(folder))
        except KeyboardInterrupt:
            return {"asked": asked.call_count}
    return {}


GRAPHS: dict[str, tuple[Callable[[], bytes], str]] = {
    "rubbish": (lambda: b"no graph", "cannot be parsed"),
    "output": (lambda: gpu_encoder("fp16", output="map"), "'map': .*needed are .*'features': "),
    "channels": (
        lambda: gpu_encoder("fp16", channels=32),
        r"'features': .*HALF.* 96, 320, 32\).* needed are .*'features': .* 96, 320, 64\)",
    ),
    "type": (lambda: gpu_encoder("fp32"), "'features': .*FLOAT.* needed are .*'features': .*HALF"),
    "size": (
        lambda: gpu_encoder("fp16", size=(96, 320)),
        r"'image': .*UINT8.* 96, 320, 3\).* needed are .*'image': .* 192, 640, 3\)",
    ),
}
"""Graphs with other ports or none, and how they are refused."""
CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "small": lambda folder: build(make_gpu_bundle(folder)),
    **{case: lambda folder, make=make: refuse(folder, make()) for case, (make, _) in GRAPHS.items()},  # type: ignore[misc]
    "shipped": lambda _: build(StudentBundle.load(PLAIN_STUDENT)),
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


@pytest.mark.parametrize("case", ["small", "shipped"])
def test_encoders_are_parsed_and_built(answers: dict[str, Any], case: str) -> None:
    assert answers[case]["plan"] > 10_000
    assert answers[case]["steps"] > 10  # the progress is logged


@pytest.mark.parametrize("case", GRAPHS)
def test_other_graphs_are_refused_with_what_is_needed(answers: dict[str, Any], case: str) -> None:
    assert answers[case]["kind"] == "BundleError"
    assert re.search(GRAPHS[case][1], answers[case]["refused"])


if __name__ == "__main__":
    print(json.dumps({case: answer(case, Path(sys.argv[1]) / case) for case in CASES}), flush=True)
