"""What TensorRT-RTX makes of encoders, as JSON; runs in a process of its own, since it has crashed without a driver."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scene_completion_ros import cli
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu.engine_cache import EngineCache
from scene_completion_ros.inference.gpu.options import EngineOptions
from scene_completion_ros.inference.gpu.sealed_file import read_header
from scene_completion_ros.inference.gpu.tensorrt_api import load_tensorrt
from scene_completion_ros.inference.gpu.tensorrt_build import build_plan, engine_key
from tests.inference.gpu.small_gpu_bundle import make_gpu_bundle
from tests.inference.gpu.small_gpu_encoder import gpu_encoder


def build(folder: Path, precision: str) -> dict[str, Any]:
    """Build an engine for one to four images, hearing how far it is."""
    bundle, tensorrt = make_gpu_bundle(folder), load_tensorrt("tensorrt_rtx")
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
    StudentBundle.load = lambda folder: bundle  # type: ignore[method-assign, assignment]
    said = []
    for _ in range(2):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            code = cli.main(["build-engine", str(folder / "bundle"), "--cache", str(folder / "cache"), *arguments])
        said.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
    keys = [read_header(path)["key"] for path in sorted((folder / "cache").glob("*.engine"))]
    return {"said": said, "keys": keys}


def never_taken(folder: Path, gpu_name: str) -> dict[str, Any]:
    """Look for an engine for a GPU where there is one that was built without."""
    made = command(folder, ["--no-device"])
    bundle, tensorrt = make_gpu_bundle(folder / "bundle"), load_tensorrt("tensorrt_rtx")
    options = EngineOptions(flavour="tensorrt_rtx")
    onnx = bundle.read_gpu_encoder("fp16")
    with_gpu = engine_key(
        bundle, onnx, options, tensorrt, gpu_name=gpu_name, compute_capability="8.6", multiprocessors=1
    )
    cache = EngineCache(folder / "cache")
    without = cache.load(engine_key(bundle, onnx, options, tensorrt))
    return {"keys": made["keys"], "found": cache.load(with_gpu) is not None, "without": without is not None}


CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    **{precision: functools.partial(build, precision=precision) for precision in ("fp16", "int8", "fp32")},
    **{case: functools.partial(refuse, case=case) for case in ("rubbish", "output", "channels", "type", "size")},
    **{how: functools.partial(give_up, how=how) for how in ("unwanted", "interrupt")},
    "command": functools.partial(command, arguments=["--no-device", "--precision", "fp32", "--batch", "1", "2"]),
    "never taken": functools.partial(never_taken, gpu_name="NVIDIA RTX A6000"),
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
