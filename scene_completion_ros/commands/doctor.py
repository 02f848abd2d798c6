"""Check this installation, with a cure for every problem.

Looks at Python and the required packages, ROS 2, shared memory and GPU, and completes an image of the bundled drive.
What is not ok comes with its cure. The exit code is 1 if a check failed.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from scene_completion_ros.commands.requirements import PACKAGE, installed_version, required
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.progress import print_lines
from scene_completion_ros.ros import dds

SHARED_MEMORY = Path("/dev/shm")
LEAST_FREE_BYTES = 4 * 32 * 1024 * 1024  # camera, node, bag player and viewer, with a segment of 32 MiB each
LIMIT_S = 60.0  # for a node to start and end
ON_CPU = "the default engine runs on the CPU, nothing is missing"


class Finding(NamedTuple):
    """What a check found."""

    status: str  # "ok", "warning" or "failed"
    found: str  # one sentence
    cure: str = ""  # what to do about a warning or a failure


ok, warning, failed = (partial(Finding, status) for status in ("ok", "warning", "failed"))


def check_packages() -> Finding:
    """Is this version of Python supported, and are the required packages there, and new enough?"""
    from packaging.specifiers import SpecifierSet

    python, supported = platform.python_version(), metadata.metadata(PACKAGE)["Requires-Python"] or ""
    if not SpecifierSet(supported).contains(python, prereleases=True):
        cure = f"Make an environment with a Python {supported}: make demo PYTHON=..."
        return failed(f"Python {python}, {supported} is needed", cure)
    needed = required()
    found = {name: installed_version(name) for name in needed}
    if not found.get("openvino", "0") and installed_version("onnxruntime"):  # either runs the encoder
        del needed["openvino"], found["openvino"]
    wrong = [name for name, number in found.items() if not (number and needed[name].contains(number, prereleases=True))]
    if wrong:
        parts = [f"{name} {found[name] or 'is missing'} ({needed[name] or 'any version'} is needed)" for name in wrong]
        quoted = " ".join(f"'{name}{needed[name]}'" for name in wrong)
        return failed(", ".join(parts), f"{sys.executable} -m pip install {quoted}")
    return ok(", ".join([f"Python {python} in {sys.prefix}", *(f"{name} {found[name]}" for name in needed)]))


def check_ros() -> Finding:
    """Is rclpy importable, from one place alone, and can a node join the graph?"""
    distribution, (number, wheels) = os.environ.get("ROS_DISTRO"), dds.rclpy_version()
    sourced = ", ".join(dds.sourced_prefixes())
    if not find_spec("rclpy"):
        found = "rclpy is not there: `complete` and `replay --offline` work, the node and other replays do not"
        return (failed if distribution else warning)(found, dds.import_cure())
    if wheels and sourced:
        what = f"the wheels of ROS 2 in {sys.prefix} and the sourced {sourced}: their libraries get mixed"
        return failed(what, dds.import_cure())
    code = "from scene_completion_ros.ros import dds; print(dds.middleware_of_a_node('scene_completion_doctor'))"
    try:  # in a process that may crash, as it does where the RMW implementation is missing
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return failed(f"no node can start within {LIMIT_S:.0f} s", dds.start_cure())
    if done.returncode:
        cure = dds.import_cure() if "ImportError" in done.stderr else dds.start_cure()
        last = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        return failed(f"no node can start: {last[:300]}", cure)
    where = "from wheels" if wheels else f"in {sourced or 'this Python'}"
    found = f"{distribution or 'no ROS_DISTRO'}, rclpy {number or 'of unknown version'} {where}"
    return ok(f"{found}; a node could join the graph with {done.stdout.strip()}")


def check_shared_memory() -> Finding:
    """Is /dev/shm there, writable, and is there room; and does this shell choose a profile for large messages?"""
    if not find_spec("rclpy"):
        return ok("without rclpy nothing needs it")
    try:
        tempfile.TemporaryFile(dir=SHARED_MEMORY).close()
    except OSError as error:
        cure = "sudo mount -o remount,rw,mode=1777 /dev/shm; where it is missing: sudo mount -t tmpfs tmpfs /dev/shm"
        return failed(f"{SHARED_MEMORY} cannot be written: {error.strerror}", cure)
    free = shutil.disk_usage(SHARED_MEMORY).free
    found = f"{SHARED_MEMORY} is writable, {free / 2**20:.0f} MiB free"
    if free < LEAST_FREE_BYTES:
        cure = "In Docker: docker run --shm-size=512m (or --ipc=host); otherwise end all ROS processes and remove what "
        cure += "they left: rm /dev/shm/fastdds_*"
        return warning(f"{found}; {LEAST_FREE_BYTES / 2**20:.0f} MiB should be", cure)
    if not dds.other_middleware() and (missing := dds.missing_profile()):
        found += "; no profile is chosen: the node brings its own, but camera drivers, bag players and viewers started "
        found += "here lose images above 0.5 MB for best-effort readers"
        return warning(found, "; ".join(f"export {name}={path}" for name, path in missing.items()))
    return ok(found)


def check_gpu() -> Finding:
    """Does the driver see a GPU, and can engines use it? None is needed."""
    from scene_completion_ros.inference.gpu.device import cuda_devices, installed_flavour, missing_parts

    driver, (names, error) = Path("/proc/driver/nvidia/version").is_file(), cuda_devices()
    if not names and not driver and not error:
        return ok(f"no NVIDIA driver: {ON_CPU}")
    if not names:
        cure = "None is needed. Only if you want it: nvidia-smi must list the GPU; in Docker, docker run --gpus all"
        return warning(f"an NVIDIA driver, but CUDA sees no device (error {error}); {ON_CPU}", cure)
    seen = ", ".join(names)
    for part, what, cure in missing_parts(installed_flavour()):
        return warning(f"{seen}, but {part} {what}: engine auto runs on the CPU", f"Only if you want it: {cure}")
    return ok(f"{seen}; engine auto takes it")


def check_student(bundle: Path | None) -> Finding:
    """Does the bundle (None: the shipped one) load, and does an image of the demo drive come out as voxels?"""
    from scene_completion_ros.bags.reader import demo_drive
    from scene_completion_ros.inference.bundle import open_student
    from scene_completion_ros.inference.completer import Completer
    from scene_completion_ros.inference.encoder import engine_for_cpu

    student, (camera, images) = open_student(bundle), demo_drive()
    completer = Completer(student, camera, engine=engine_for_cpu(student))
    completion = completer.complete(images[0])
    shape, took = "x".join(map(str, student.grid.shape)), f"{completion.timings_ms['total']:.0f} ms"
    found = f"{student.name}: {len(student.class_names)} classes, grid {shape} of {student.grid.voxel_size} m; "
    found += f"{len(completion.voxels)} voxels occupied after {took} with {completer.engine}"
    if not len(completion.voxels):
        cure = "See what it does with an image of your camera: scene-completion complete IMAGE --camera FILE ..."
        return (warning if bundle else failed)(f"it finds nothing in an image of the demo drive; {found}", cure)
    if student.calibration.kind == "identity":
        cure = "scene-completion calibrate BUNDLE --labelled DIR (see docs/training.md)"
        return warning(f"{found}. Probabilities are not calibrated", cure)
    return ok(found)


def checked(examine: Callable[[], Finding]) -> Finding:
    """The finding of a check, which may raise anything: the others still run."""
    try:
        return examine()
    except SceneCompletionError as error:
        return failed(str(SceneCompletionError(error.what, where=error.where)), error.cure)
    except Exception as error:
        reinstall = "Install the package again, from a checkout: pip install --force-reinstall ."
        return failed(f"{type(error).__name__}: {' '.join(str(error).split())}", reinstall)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion doctor``."""
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="student to look at (default: kitti_student)")


def run(args: argparse.Namespace) -> int:
    """Run all checks; the exit code is 1 if one failed."""
    checks: dict[str, Callable[[], Finding]] = {
        "packages": check_packages,
        "ROS 2": check_ros,
        "shared memory": check_shared_memory,
        "GPU": check_gpu,
        "student": partial(check_student, args.bundle),
    }
    statuses = []
    for name, examine in checks.items():
        status, found, cure = checked(examine)
        print_lines(f"{status:<8}{name}: {found}" + (f"\n{'':<8}-> {cure}" if cure else ""))
        statuses.append(status)
    return 1 if "failed" in statuses else 0
