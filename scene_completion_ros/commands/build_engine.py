"""Build the TensorRT engine and the kernels of a student bundle, so that the node finds them when it starts.

Both are compared with what the CPU computes and kept in the engine cache only where that is the same; the numbers are
printed. A node finds it where bundle, precision, workspace, DLA core, batch (the node takes 1 1), TensorRT and GPU
are the same. An engine that is there already is not built again.

With --no-device, TensorRT-RTX builds on a machine without a GPU. Such an engine was compared with nothing, and no node
takes it: it shows that the encoder of the bundle can be built.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from scene_completion_ros.commands.paths import Output

if TYPE_CHECKING:
    from scene_completion_ros.inference.bundle import StudentBundle
    from scene_completion_ros.inference.gpu.options import EngineOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion build-engine``."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="student bundle with encoders for GPUs")
    parser.add_argument(
        "--precision", default="fp16", help="fp16, int8 or fp32, of those that the bundle has (default: %(default)s)"
    )
    parser.add_argument(
        "--batch",
        type=int,
        nargs=2,
        default=[1, 1],
        metavar=("FROM", "TO"),
        help="smallest and largest number of images at a time; tuned for the largest (default: 1 1)",
    )
    parser.add_argument(
        "--workspace",
        type=int,
        default=1024,
        metavar="MIB",
        help="most memory that TensorRT may take for intermediate results (default: %(default)s)",
    )
    parser.add_argument(
        "--dla", type=int, metavar="N", help="build for this core of a Jetson's deep learning accelerator"
    )
    parser.add_argument("--cache", type=Output(()), metavar="DIR", help="folder of the engines (default: the user's)")
    parser.add_argument(
        "--flavour",
        choices=["tensorrt", "tensorrt_rtx"],
        help="TensorRT or TensorRT-RTX (default: the one that is installed)",
    )
    parser.add_argument(
        "--no-device", action="store_true", help="build without a GPU, which tensorrt_rtx alone can, and only build"
    )


def run(args: argparse.Namespace) -> int:
    """Find or build the engine and say what it is."""
    from scene_completion_ros.errors import GpuError
    from scene_completion_ros.inference.gpu.options import EngineOptions, check_limits, gpu_bundle
    from scene_completion_ros.inference.gpu.requirements import installed_flavour, require
    from scene_completion_ros.inference.shipped import open_student

    flavour = args.flavour or ("tensorrt_rtx" if args.no_device else installed_flavour())
    options = EngineOptions(
        precision=args.precision,
        batch=tuple(args.batch),
        workspace_mib=args.workspace,
        dla_core=args.dla,
        flavour=flavour,
        cache=args.cache,
    )
    if args.no_device and flavour != "tensorrt_rtx":
        cure = "Take --flavour tensorrt_rtx, or build on the machine that the engine is for."
        raise GpuError("TensorRT measures kernels on the GPU that they are for", where="--no-device", cure=cure)
    bundle = open_student(args.bundle)
    check_limits(gpu_bundle(bundle, options.precision), options)
    require(flavour, device=not args.no_device)
    with _log_on_stderr():
        if args.no_device:
            _build_only(bundle, options)
        else:
            _build_for_device(bundle, options)
    return 0


def _build_for_device(bundle: StudentBundle, options: EngineOptions) -> None:
    from scene_completion_ros.inference.encoder import cpu_engine, make_encoder
    from scene_completion_ros.inference.gpu.device import PrimaryContext
    from scene_completion_ros.inference.gpu.engine_provision import RECORDS, provide_engine
    from scene_completion_ros.inference.gpu.kernel_device import KernelDevice
    from scene_completion_ros.inference.gpu.kernel_provision import KERNEL_LIMITS, provide_kernels
    from scene_completion_ros.inference.gpu.options import gpu_bundle

    context = PrimaryContext()
    try:
        with context:
            provided = provide_engine(
                gpu_bundle(bundle, options.precision), options, context, lambda: make_encoder(bundle, cpu_engine())
            )
            provided.engine.close()
            kernels = provide_kernels(
                bundle,
                context.facts.compute_capability,
                functools.partial(KernelDevice, context),
                lambda: make_encoder(bundle, cpu_engine()),
                half_features=options.precision != "fp32",
                cache=options.cache,
            )
    finally:
        context.close()
    _say(provided.path, built=provided.built)
    for output, noted in RECORDS.items():
        parity = provided.record.get(noted)
        numbers = parity if isinstance(parity, dict) else {}
        of_output = "" if output == "features" else f" of the {output}"
        for name, limit in numbers.get("limits", {}).items():
            what = f"{name.replace('_', ' ')}{of_output} against the CPU's encoder"
            print(f"{what}: {numbers[name]:.2e}, allowed is {limit:.2e}")
    _say(kernels.path, built=kernels.built)
    parity = kernels.record.get("parity")
    for name, value in (parity if isinstance(parity, dict) else {}).items():
        limit = vars(KERNEL_LIMITS)[name]
        print(f"{name.replace('_', ' ')} against the CPU's voxel query: {value:.2e}, allowed is {limit:.2e}")


def _build_only(bundle: StudentBundle, options: EngineOptions) -> None:
    from scene_completion_ros.inference.gpu.engine_provision import build_without_device
    from scene_completion_ros.inference.gpu.options import gpu_bundle

    path, built = build_without_device(gpu_bundle(bundle, options.precision), options)
    _say(path, built=built)
    print("not compared with the CPU's encoder: there is no device to run it")


def _say(path: Path | None, *, built: bool) -> None:
    if path is None:
        print("it was built, but could not be kept: see above")
    else:
        print(f"{path} {'was built' if built else 'is there already'}")


@contextlib.contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Show how the build goes."""
    import logging
    import sys

    source, handler = logging.getLogger("scene_completion_ros"), logging.StreamHandler(sys.stderr)
    level = source.level
    source.addHandler(handler)
    source.setLevel(logging.INFO)
    try:
        yield
    finally:
        source.setLevel(level)
        source.removeHandler(handler)
