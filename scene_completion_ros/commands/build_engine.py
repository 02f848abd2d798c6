"""Build the TensorRT engine and the kernels of a student bundle, so that the node finds them when it starts.

Both are compared with what the CPU computes and kept in the engine cache only where that is the same; the numbers are
printed. A node finds it where bundle, precision, TensorRT and GPU are the same. An engine that is there already is not
built again.

With --no-device, TensorRT-RTX builds on a machine without a GPU. Such an engine was compared with nothing, and no node
takes it: it shows that the encoder of the bundle can be built.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.commands.arguments import Output

if TYPE_CHECKING:
    from scene_completion_ros.inference.bundle import StudentBundle
    from scene_completion_ros.inference.gpu.device import EngineOptions
    from scene_completion_ros.inference.gpu.engine_cache import Provided


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion build-engine``."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="student bundle with encoders for GPUs")
    meaning = "of those that the bundle has (default: %(default)s)"
    parser.add_argument("--precision", choices=["fp16", "fp32"], default="fp16", help=meaning)
    parser.add_argument("--cache", type=Output(()), metavar="DIR", help="folder of the engines (default: the user's)")
    meaning = "build without a GPU, which TensorRT-RTX alone can, and only build"
    parser.add_argument("--no-device", action="store_true", help=meaning)


def run(args: argparse.Namespace) -> int:
    """Find or build the engine and say what it is."""
    from scene_completion_ros.inference.bundle import open_student
    from scene_completion_ros.inference.gpu.device import EngineOptions, check_limits, installed_flavour, require
    from scene_completion_ros.inference.gpu.tensorrt_engine import build_without_device
    from scene_completion_ros.ros.health.judgement import package_log

    bundle, options = open_student(args.bundle), EngineOptions(args.precision, args.cache)
    check_limits(bundle, options)
    require("tensorrt_rtx" if args.no_device else installed_flavour(), device=not args.no_device)
    with package_log(logging.StreamHandler(sys.stderr)):  # it shows how the build goes
        made = [build_without_device(bundle, options)] if args.no_device else _build(bundle, options)
    for provided in made:
        if provided.path is None:
            print("it was built, but could not be kept: see above")
        else:
            print(f"{provided.path} {'was built' if provided.built else 'is there already'}")
        print("\n".join(provided.record["parity"] or ["not compared with the CPU's encoder: no device ran it"]))
    return 0


def _build(bundle: "StudentBundle", options: "EngineOptions") -> "list[Provided]":
    from scene_completion_ros.inference.encoder import cpu_engine, make_encoder
    from scene_completion_ros.inference.gpu.device import PrimaryContext
    from scene_completion_ros.inference.gpu.kernel_provision import provide_kernels
    from scene_completion_ros.inference.gpu.tensorrt_engine import provide_engine

    reference = make_encoder(bundle, cpu_engine())
    context = PrimaryContext()
    try:
        with context.work("building"):
            _, kernels = provide_kernels(bundle, context, options, lambda: reference)
            engine, provided = provide_engine(bundle, options, context, lambda: reference)
            engine.close()
    finally:
        context.close()
    return [provided, kernels]
