"""What TensorRT-RTX makes of encoders, as JSON; runs in a process of its own, since it has crashed without a driver.

Also all names of TensorRT that are used, and how they are compared with those that a module has.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from scene_completion_ros import cli
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry import VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu.options import EngineOptions
from scene_completion_ros.inference.gpu.sealed_file import read_header
from scene_completion_ros.inference.gpu.tensorrt_build import build_plan, engine_key
from scene_completion_ros.inference.gpu.tensorrt_runtime import load_tensorrt
from tests.inference.gpu.small_gpu_bundle import gpu_encoder, make_gpu_bundle
from tests.inference.small_bundle import PLAIN_STUDENT

# What is called, with the arguments that it is called with; what is read; and what is set, which ends in "=".
_LOGGING = {
    "ILogger": "",
    "ILogger.log": "severity msg",
    "ILogger.Severity.INTERNAL_ERROR": None,
    "ILogger.Severity.ERROR": None,
    "DataType.FLOAT": None,
    "DataType.HALF": None,
    "DataType.UINT8": None,
}
RUNTIME_NAMES: Mapping[str, str | None] = {
    **_LOGGING,
    "TensorIOMode.INPUT": None,
    "TensorIOMode.OUTPUT": None,
    "Runtime": "logger",
    "Runtime.DLA_core=": None,
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
BUILDER_NAMES: Mapping[str, str | None] = {
    **_LOGGING,
    "Builder": "logger",
    "Builder.num_DLA_cores": None,
    "Builder.create_network": "flags",
    "Builder.create_builder_config": "",
    "Builder.create_optimization_profile": "",
    "Builder.build_serialized_network": "network config",
    "BuilderFlag.GPU_FALLBACK": None,
    "BuilderFlag.TF32": None,
    "DeviceType.DLA": None,
    "IBuilderConfig.set_memory_pool_limit": "pool pool_size",
    "IBuilderConfig.set_flag": "flag",
    "IBuilderConfig.clear_flag": "flag",
    "IBuilderConfig.add_optimization_profile": "profile",
    "IBuilderConfig.default_device_type=": None,
    "IBuilderConfig.DLA_core=": None,
    "IBuilderConfig.progress_monitor=": None,
    "IBuilderConfig.create_timing_cache": "serialized_timing_cache",
    "IBuilderConfig.set_timing_cache": "cache ignore_mismatch",
    "IBuilderConfig.get_timing_cache": "",
    "INetworkDefinition.num_inputs": None,
    "INetworkDefinition.num_outputs": None,
    "INetworkDefinition.get_input": "index",
    "INetworkDefinition.get_output": "index",
    "IOptimizationProfile.set_shape": "input min opt max",
    "IProgressMonitor": "",
    "IProgressMonitor.phase_start": "phase_name parent_phase num_steps",
    "IProgressMonitor.step_complete": "phase_name step",
    "IProgressMonitor.phase_finish": "phase_name",
    "ITensor.name": None,
    "ITensor.shape": None,
    "ITensor.dtype": None,
    "ITimingCache.serialize": "",
    "MemoryPoolType.WORKSPACE": None,
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": None,
    "OnnxParser": "network logger",
    "OnnxParser.num_errors": None,
    "OnnxParser.get_error": "index",
    "OnnxParser.parse": "model",
    "OnnxParser.set_flag": "flag",
    "OnnxParserFlag.ADJUST_FOR_DLA": None,
    "ParserError.desc": "",
}


def disagreements(api: Any, names: Mapping[str, str | None]) -> list[str]:
    """Which names a module has not, or takes other arguments for."""
    found = []
    for name, arguments in names.items():
        try:
            thing = functools.reduce(getattr, name.rstrip("=").split("."), api)
        except AttributeError:
            found.append(f"{name} is not there")
            continue
        if name.endswith("=") and thing.fset is None:
            found.append(f"{name} cannot be set")
        if arguments is not None:
            ways = _ways_to_call(vars(thing).get("__init__", object.__init__) if isinstance(thing, type) else thing)
            wanted = arguments.split()
            if not any(takes[: len(wanted)] == wanted and needs <= len(wanted) for takes, needs in ways):
                found.append(f"{name} takes {ways} where {wanted} is given")
    return found


def unlisted(api: Any, names: Mapping[str, str | None]) -> list[str]:
    """What a module has beyond some names: classes, and what is public in them."""
    listed = {name.rstrip("=") for name in names}
    listed |= {name.rpartition(".")[0] for name in listed}
    found: list[str] = []
    waiting = [(name, thing) for name, thing in vars(api).items() if isinstance(thing, type)]
    while waiting:
        prefix, thing = waiting.pop()
        found += [prefix] if prefix not in listed else []
        inner = {name: value for name, value in vars(thing).items() if not name.startswith("_")}
        waiting += [(f"{prefix}.{name}", value) for name, value in inner.items() if isinstance(value, type)]
        methods = [name for name, value in inner.items() if inspect.isfunction(value) or isinstance(value, property)]
        found += [f"{prefix}.{name}" for name in methods if f"{prefix}.{name}" not in listed]
    return found


def _ways_to_call(function: Any) -> list[tuple[list[str], int]]:
    """Names of the arguments without ``self``, and how many of them have no default value; of every overload."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[1:]
    except ValueError:  # pybind11 has it in the first lines of the documentation
        signatures = re.findall(rf"^(?:\d+\. )?{function.__name__}\((self: .*)\) -> ", function.__doc__, re.MULTILINE)
        split = [re.split(r", (?=\w+: )", signature)[1:] for signature in signatures]
        return [([one.partition(": ")[0] for one in way], sum(" = " not in one for one in way)) for way in split]
    named = [one for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    return [([one.name for one in named], sum(one.default is one.empty for one in named))]


def build(folder: Path, precision: str) -> dict[str, Any]:
    """Build an engine for one to four images, hearing how far it is."""
    return build_for(make_gpu_bundle(folder), precision)


def build_shipped(_: Path) -> dict[str, Any]:
    """The same of the student that comes with the package."""
    return build_for(StudentBundle.load(PLAIN_STUDENT), "fp16")


def build_spatial(folder: Path, precision: str) -> dict[str, Any]:
    """The same of a student whose encoder gives a volume."""
    grid = VoxelGrid((0.0, -3.2, -1.6), 0.4, (16, 16, 8))
    return build_for(make_gpu_bundle(folder, grid=grid, volume=np.ones(grid.shape, np.float32)), precision)


def build_for(bundle: StudentBundle, precision: str) -> dict[str, Any]:
    """The same of any student."""
    tensorrt = load_tensorrt("tensorrt_rtx")
    onnx = bundle.read_gpu_encoder(precision)
    key = engine_key(bundle, onnx, EngineOptions(precision=precision, batch=(1, 4), workspace_mib=256), tensorrt)
    steps = 0

    def wanted() -> bool:
        nonlocal steps
        steps += 1
        return True

    plan, timings = build_plan(onnx, key, tensorrt, wanted=wanted)
    return {"plan": len(plan), "timings": len(timings), "steps": steps, "version": tensorrt.version}


def refuse(folder: Path, case: str) -> dict[str, Any]:
    """Try to build a graph with other ports, or none."""
    graphs = {
        "rubbish": b"no graph",
        "output": gpu_encoder("fp16", output="map"),
        "channels": gpu_encoder("fp16", channels=32),
        "type": gpu_encoder("fp32"),
        "size": gpu_encoder("fp16", size=(96, 320)),
        "volume": gpu_encoder("fp16", volume=np.ones((4, 4, 4), np.float32)),
    }
    bundle, tensorrt = make_gpu_bundle(folder), load_tensorrt("tensorrt_rtx")
    key = engine_key(bundle, graphs[case], EngineOptions(), tensorrt)
    build_plan(graphs[case], key, tensorrt)
    return {}


def give_up(folder: Path, how: str) -> dict[str, Any]:
    """End a build in the middle, as who shuts down or presses Ctrl-C."""
    bundle, tensorrt = make_gpu_bundle(folder), load_tensorrt("tensorrt_rtx")
    onnx = bundle.read_gpu_encoder("fp16")
    key = engine_key(bundle, onnx, EngineOptions(), tensorrt)
    asked = 0

    def wanted() -> bool:
        nonlocal asked
        asked += 1
        if asked == 3 and how == "interrupt":
            raise KeyboardInterrupt
        return asked < 3

    try:
        build_plan(onnx, key, tensorrt, wanted=wanted)
    except KeyboardInterrupt:
        return {"interrupted": True, "asked": asked}
    return {}


def command(folder: Path, arguments: list[str]) -> dict[str, Any]:
    """The command on a bundle that has encoders for GPUs, twice."""
    bundle = make_gpu_bundle(folder / "bundle")
    said = []
    for _ in range(2):
        with (
            mock.patch.object(StudentBundle, "load", return_value=bundle),
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            code = cli.main(["build-engine", str(folder / "bundle"), "--cache", str(folder / "cache"), *arguments])
        said.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
    keys = [read_header(path)["key"] for path in sorted((folder / "cache").glob("*.engine"))]
    return {"said": said, "keys": keys}


def names(folder: Path) -> dict[str, Any]:
    """Compare the names that are used with those of TensorRT-RTX."""
    api = load_tensorrt("tensorrt_rtx").api
    return {"wrong": disagreements(api, {**RUNTIME_NAMES, **BUILDER_NAMES})}


_REFUSED = ("rubbish", "output", "channels", "type", "size", "volume")
CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    **{precision: functools.partial(build, precision=precision) for precision in ("fp16", "int8", "fp32")},
    **{case: functools.partial(refuse, case=case) for case in _REFUSED},
    **{how: functools.partial(give_up, how=how) for how in ("unwanted", "interrupt")},
    "command": functools.partial(command, arguments=["--no-device", "--precision", "fp32", "--batch", "1", "2"]),
    "names": names,
    "shipped": build_shipped,
    "spatial_fp16": functools.partial(build_spatial, precision="fp16"),
    "spatial_fp32": functools.partial(build_spatial, precision="fp32"),
}


def answer(case: str, folder: Path) -> dict[str, Any]:
    """What a case answers, or with what it was refused."""
    folder.mkdir()
    try:
        return CASES[case](folder)
    except SceneCompletionError as error:
        return {"refused": str(error), "kind": type(error).__name__}


if __name__ == "__main__":
    print(json.dumps({case: answer(case, Path(sys.argv[1]) / case) for case in CASES}), flush=True)
