"""Check this installation, with a cure for every problem.

Looks at Python and the required packages, at ROS 2 and its environment, and at shared memory, GPU, CPU and the student
bundle. Completes images of the bundled drive for three seconds. Every check is ok, warning, failed or not applicable;
what is not ok comes with its cure. The exit code is 1 if a check failed.

With --json the standard output is one object: version, python, counts by status, seconds, and checks, each with name,
status, found and cure.
"""

import argparse
import importlib
import io
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, distributions, metadata, requires, version
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from scene_completion_ros import __version__
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros import dds
from scene_completion_ros.ros.replay.played_node import with_package

STATUSES = ("ok", "warning", "failed", "not applicable")
RESULT = "scene_completion_finding "  # a line of the output that begins so holds the finding
PACKAGE = "scene_completion_ros"
# Modules with another name than their distribution. A ROS 2 distribution may bring them without Python's metadata.
MODULES = {"opencv-python-headless": "cv2", "protobuf": "google", "pyyaml": "yaml", "ros-rclpy": "rclpy"}
SHARED_MEMORY = Path("/dev/shm")
LEAST_FREE_BYTES = 4 * 32 * 1024 * 1024  # camera, node, bag player and viewer, with a segment of 32 MiB each
ON_CPU = "the default engine runs on the CPU, nothing is missing"
SELF_TEST_S, FEWEST_FRAMES, CAMERA_HZ = 3.0, 3, 10.0
DISTINCT_FRAMES = 10  # decoding all of them would take longer than completing
HIGHEST_DOMAIN, HIGHEST_SAFE_DOMAIN = 232, 101  # beyond the latter the ports are those that Linux lends to programs
WHEELS_MARK = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"
IMAGE_BYTES, DEFAULT_SEGMENT_BYTES = 3 * 1280 * 720, 512 * 1024  # rgb8; of Fast DDS
OPTIONAL = {  # what is lost without a package
    "tf2_ros": "voxels come in the frame of their image, which needs no tf; bringing them into another frame needs it",
    "cv_bridge": "nothing is lost: images are decoded without it",
    "launch_ros": "ros2 launch does not work; start the node with: python -m scene_completion_ros.ros.node",
    "image_transport": "the node reads raw and compressed topics itself; republishing other transports needs it",
}


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    status: str  # one of STATUSES
    found: str  # one sentence
    cure: str = ""  # what to do about a warning or a failure; empty for that of the check


ok, warning, failed, not_applicable = (partial(Finding, status) for status in STATUSES)


@dataclass(frozen=True)
class Check:
    """A named check, which may raise anything: that becomes a finding, too. Importing its module imports nothing heavy.

    What may crash or hang (ROS, numba, engines, CUDA) runs in a process of its own, this module's.
    """

    name: str  # stays the same between versions
    examine: Callable[[], Finding]
    cure: str  # what to do where the finding brings no cure of its own, and where the check raises, crashes or hangs
    limit_s: float = 0.0  # seconds that it may take, in a process of its own; 0 for one that can neither crash nor hang
    broken: str = "failed"  # status where it raises, crashes or hangs
    of_ros: bool = False  # it does not apply where there is no rclpy, working or not

    def run(self, bundle: Path | None) -> Finding:
        """The finding; `bundle`: folder of the student that is examined, None for the shipped one."""
        if not self.limit_s:
            return self.here()
        command = [sys.executable, "-m", "scene_completion_ros.commands.doctor", self.name, str(bundle or "")]
        # A file and not a pipe: what a killed process has started may hold it open.
        with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as log:
            begun = partial(subprocess.run, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            try:
                status = begun(command, env=with_package(os.environ), timeout=self.limit_s).returncode
                ended = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
                ending = f"its process ended {ended}"
            except subprocess.TimeoutExpired:
                ending = f"gave no answer within {self.limit_s:.0f} s"
            log.seek(0)
            lines = [line for line in (re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in log) if line]
        for line in reversed(lines):
            if line.startswith(RESULT):
                return Finding(**json.loads(line.removeprefix(RESULT)))
        errors = [line for line in lines if "error" in line.lower()] or lines
        return Finding(self.broken, ": ".join([ending, *(line[:300] for line in errors[-1:])]), self.cure)

    def here(self) -> Finding:
        """The finding of this process."""
        if self.of_ros and not find_spec("rclpy"):
            return not_applicable("rclpy is not there")
        try:
            finding = self.examine()
        except SceneCompletionError as error:
            finding = Finding(self.broken, str(SceneCompletionError(error.what, where=error.where)), error.cure)
        except PackageNotFoundError:
            found = f"{PACKAGE} is not installed, so what it needs is unknown"
            finding = warning(found, "From a checkout of scene_completion_ros: pip install .")
        except Exception as error:  # whatever is broken, the other checks are still to be run
            finding = Finding(self.broken, in_words(error))
        cure = finding.cure or (self.cure if finding.status in ("warning", "failed") else "")
        return replace(finding, cure=cure)


def in_words(error: Exception) -> str:
    """Name and text of an exception, in one line."""
    return ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))


def checks(bundle: Path | None) -> list[Check]:
    """The checks, in the order to run them, of the student in the folder `bundle`; None for the shipped one."""
    reinstall = "Install the package again, from a checkout: pip install --force-reinstall ."
    of_bundle = "Export the bundle again, or fetch it again" if bundle else reinstall
    slow = "Cure what failed above; otherwise the CPU may be too old for the engine: pip install onnxruntime"
    no_gpu = "None is needed. Only if you want it: nvidia-smi must list the GPU; in Docker, docker run --gpus all"
    ros = "Install ROS 2 again, or leave this shell's ROS_* and FASTDDS_* variables unset"
    return [
        Check("Python", check_python, reinstall),
        Check("packages", check_packages, reinstall, 60.0),
        Check("ROS 2", check_ros, import_cure(), 60.0),
        Check("ROS 2 not mixed", check_mixture, ros, of_ros=True),
        Check("RMW", check_middleware, middleware_cure(), 60.0, of_ros=True),
        Check("discovery", check_discovery, ros, of_ros=True),
        *(Check(name, partial(check_optional, name), apt(name), of_ros=True) for name in OPTIONAL),
        Check("/dev/shm", check_shared_memory, "See what is mounted there: df -h /dev/shm"),
        Check("Fast DDS profile", check_profile, f"export {dds.profile_variable()}={dds.profile_path()}", of_ros=True),
        Check("GPU", check_gpu, no_gpu, 30.0, broken="warning"),
        Check("TensorRT and pycuda", check_gpu_packages, "Not needed: pip uninstall tensorrt pycuda", 60.0, "warning"),
        Check("CPU", check_cpu, "End other programs that compute, or the node gets a part of the CPU only: top"),
        Check("numba", check_kernels, "pip install --force-reinstall numba llvmlite", 120.0),
        Check("bundle", partial(check_bundle, bundle), of_bundle, 60.0),
        Check("self-test", partial(check_self_test, bundle), slow, 180.0),  # a first start compiles
    ]


def check_python() -> Finding:
    """Is this version of Python supported?"""
    from packaging.specifiers import SpecifierSet

    found, needed = platform.python_version(), metadata(PACKAGE)["Requires-Python"] or ""
    if SpecifierSet(needed).contains(found, prereleases=True):
        return ok(f"{found} in {sys.prefix}")
    return failed(f"{found}, {needed} is needed", f"Make an environment with a Python {needed}: make demo PYTHON=...")


def check_packages() -> Finding:
    """Are the required packages there, and new enough?"""
    needed = required()
    found = {name: installed_version(name) for name in needed}
    replaced = not found.get("openvino") and installed_version("onnxruntime")  # either runs the encoder
    fine = {name: number and needed[name].contains(number, prereleases=True) for name, number in found.items()}
    wrong = [name for name in needed if not fine[name] and not (name == "openvino" and replaced)]
    if wrong:
        parts = [f"{name} {found[name] or 'is missing'} ({needed[name] or 'any version'} is needed)" for name in wrong]
        quoted = " ".join(f"'{name}{needed[name]}'" for name in wrong)
        return failed(", ".join(parts), f"{sys.executable} -m pip install {quoted}")
    parts = [f"{name} {number}" for name, number in found.items() if number]
    return ok(", ".join([*parts, "onnxruntime in the place of openvino"] if replaced else parts))


def required(extra: str = "") -> dict[str, Any]:
    """Specifiers (`packaging.specifiers.SpecifierSet`) by name of what this package, or one of its extras, requires.

    Raises PackageNotFoundError where the package is not installed.
    """
    from packaging.requirements import Requirement

    def applies(one: Requirement, extra: str) -> bool:
        return one.marker is None or one.marker.evaluate({"extra": extra})

    declared = map(Requirement, requires(PACKAGE) or [])
    return {one.name: one.specifier for one in declared if applies(one, extra) and not (extra and applies(one, ""))}


def module_of(distribution: str) -> str:
    """What Python code imports of a distribution."""
    return MODULES.get(distribution, distribution.replace("-", "_"))


def how_to_install(module: str, preferred: str) -> str:
    """What to do where a module, named without those within, is missing; `preferred`: of several extras with it."""
    try:
        extras = set(metadata(PACKAGE).get_all("Provides-Extra") or []) - {"test", "lint", "docs"}  # of developers
        own = module in map(module_of, required())
        bringing = [extra for extra in sorted(extras) if module in map(module_of, required(extra))]
    except ModuleNotFoundError:  # of this package's metadata, or of packaging
        own, bringing = False, []
    extra = preferred if preferred in bringing else next(iter(bringing), "")
    wanted = f"{PACKAGE}[{extra}]" if extra else PACKAGE if own else module
    command = f"nstall it with: {sys.executable} -m pip install '{wanted}'"
    if bringing == ["ros"]:
        return f"Source a ROS 2 distribution, or i{command}. scene-completion replay --offline needs none"
    return f"I{command}" + (", or in a checkout: make test-environment" if bringing else "")


def installed_version(name: str) -> str | None:
    """Version of an installed distribution, or of its module where it has no metadata; None where there is neither."""
    try:
        return version(name)
    except PackageNotFoundError:
        pass
    try:
        return str(getattr(importlib.import_module(module_of(name)), "__version__", "0+unknown"))
    except Exception:  # of a package that is there and broken, anything
        return None


def check_ros() -> Finding:
    """Is rclpy importable, and from where?"""
    distribution, (number, wheels) = os.environ.get("ROS_DISTRO"), dds.rclpy_version()
    if not find_spec("rclpy") and distribution:
        cure = f"Source it (. /opt/ros/{distribution}/setup.bash) and use the Python that it was made for"
        return failed(f"ROS_DISTRO is {distribution}, but Python {platform.python_version()} finds no rclpy", cure)
    if not find_spec("rclpy"):
        cure = "pip install '.[ros]' in a checkout of scene_completion_ros, or source a ROS 2 distribution"
        return warning("not there: `complete` and `replay --offline` work, the node and other replays do not", cure)
    os.environ.pop("RMW_IMPLEMENTATION", None)  # which is examined by itself
    importlib.import_module("rclpy")
    named = {3: "Humble", 7: "Jazzy", 9: "Kilted"}.get(first_number(number), "unknown distribution")
    where = "from wheels" if wheels else f"in {', '.join(sourced_prefixes()) or 'this Python'}"
    return ok(f"{distribution or named}, rclpy {number or 'of unknown version'} {where}")


def import_cure() -> str:
    """What to do where rclpy cannot be imported."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    if not dds.rclpy_version()[1]:
        return "Use the Python that the distribution was made for, and source its setup.bash in this shell"
    if os.environ.get(WHEELS_MARK) and str(Path(sys.prefix) / "lib") not in libraries:
        return f"Started from another environment with ROS 2 wheels: unset {WHEELS_MARK} LD_LIBRARY_PATH"
    return "pip install --force-reinstall 'ros-rclpy[fastrtps]' ros-common-interfaces"


def check_mixture() -> Finding:
    """Is a sourced distribution mixed with wheels?"""
    wheels, sourced = dds.rclpy_version()[1], sourced_prefixes()
    if not (wheels and sourced):
        return ok("only the wheels" if wheels else "only a distribution")
    found = f"the wheels of ROS 2 in {sys.prefix} and the sourced {', '.join(sourced)}: their libraries get mixed"
    cure = "Use the wheels in a shell that sources no setup.bash, or an environment without them "
    return failed(found, f"{cure}(python3 -m venv --system-site-packages) for the distribution")


def check_middleware() -> Finding:
    """Does the RMW implementation load, and can a node join the graph?"""
    try:
        return ok(f"{dds.middleware_of_a_node('scene_completion_doctor')}; a node could join the graph")
    except ImportError as error:
        return failed(f"no node can start: {in_words(error)}", import_cure())
    except SceneCompletionError as error:
        return failed(f"no node can start: {error.what}")


def middleware_cure() -> str:
    """What to do where no node can start."""
    chosen = os.environ.get("RMW_IMPLEMENTATION")
    if chosen and "fastrtps" not in chosen:
        return f"unset RMW_IMPLEMENTATION, or install it: {apt(chosen)}"
    if os.environ.get("ROS_SECURITY_ENABLE", "").lower() == "true":
        return "Check the keystore of ROS_SECURITY_KEYSTORE, or unset ROS_SECURITY_ENABLE"
    cure = "See `python -c 'import rclpy; rclpy.init()'`; a wrong ROS_* variable is the usual cause, "
    return cure + "or a home that this user may not write: then set ROS_LOG_DIR"


def check_discovery() -> Finding:
    """Do ROS_DOMAIN_ID and the discovery range make sense?"""
    domain, reach = os.environ.get("ROS_DOMAIN_ID") or "0", os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE")
    local = os.environ.get("ROS_LOCALHOST_ONLY")
    summary = f"domain {domain}, range {reach or 'SUBNET (the default)'}"
    summary += f", ROS_LOCALHOST_ONLY={local}" if local else ""
    another = f"export ROS_DOMAIN_ID=0, or another number up to {HIGHEST_SAFE_DOMAIN}, the same on every machine"
    ranges, export = ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT"), "export ROS_AUTOMATIC_DISCOVERY_RANGE"
    if not domain.isdecimal() or int(domain) > HIGHEST_DOMAIN:
        return failed(f"ROS_DOMAIN_ID={domain} is no number from 0 to {HIGHEST_DOMAIN}", another)
    if reach and 0 < first_number(dds.rclpy_version()[0]) < 4:  # Iron
        return warning(f"{summary}; this ROS 2 does not know the range yet", "export ROS_LOCALHOST_ONLY=1 instead")
    if reach and reach not in ranges:
        return warning(f"{summary}, which does not exist: LOCALHOST is assumed", f"{export}={'|'.join(ranges)}")
    if reach == "OFF":
        return warning(f"{summary}: no node finds another one", f"{export}=SUBNET, or LOCALHOST for this machine alone")
    if int(domain) > HIGHEST_SAFE_DOMAIN:
        return warning(f"{summary}: its ports may be taken by other programs", another)
    return ok(summary)


def check_optional(name: str) -> Finding:
    """Is an optional package there, and if not, what is lost?"""
    spec = find_spec(name)
    there = any(has_package(prefix, name) for prefix in [sys.prefix, *ament_prefixes()])
    if there or (spec is not None and spec.origin):
        return ok("found")
    status = "not applicable" if name == "cv_bridge" or not sourced_prefixes() else "warning"
    return Finding(status, f"not installed: {OPTIONAL[name]}")


def check_profile() -> Finding:
    """Is a profile chosen, can it be read, and has its segment room for an image?"""
    middleware = os.environ.get("RMW_IMPLEMENTATION", "")
    if middleware and "fastrtps" not in middleware:
        return not_applicable(f"RMW_IMPLEMENTATION is {middleware}")
    read = (dds.profile_variable(), dds.OLD_PROFILE_VARIABLE)  # rmw_fastrtps still reads the old name
    variable = next(filter(os.environ.get, read), read[0])
    path, transports = os.environ.get(variable, ""), os.environ.get("FASTDDS_BUILTIN_TRANSPORTS")
    if not path:
        other = f" (FASTDDS_BUILTIN_TRANSPORTS is {transports})" if transports else ""
        found = f"none chosen{other}: the node brings its own, but camera drivers, bag players and viewers started here"
        return warning(f"{found} lose images above 0.5 MB for best-effort readers")
    try:
        size = segment_bytes(Path(path))
    except OSError as error:
        return failed(f"{variable}={path}: {error.strerror}")
    except (ElementTree.ParseError, ValueError) as error:
        return failed(f"{variable}={path} is no profile: {error}")
    if size is None:
        return failed(f'{path} has no participant with is_default_profile="true", so nodes do not take it')
    if not size:
        return warning(f"{path} uses no shared memory")
    found = f"{path} has a shared-memory segment of {size / 1e6:.2f} MB"
    if size >= IMAGE_BYTES:
        return ok(found)
    larger = f"export {dds.profile_variable()}={dds.profile_path()}, or enlarge segment_size"
    return failed(f"{found}, a raw image of 1280x720 has {IMAGE_BYTES / 1e6:.2f} MB", larger)


def segment_bytes(path: Path) -> int | None:
    """Size of the shared-memory segment in a profile of Fast DDS; 0 without shared memory, None if nodes ignore it.

    Raises OSError, ElementTree.ParseError; ValueError where a size is no number.
    """

    def text(element: ElementTree.Element, name: str) -> str:
        return (element.findtext(f".//{{*}}{name}") or "").strip()

    root = ElementTree.parse(path).getroot()
    participant = root.find(".//{*}participant[@is_default_profile='true']")
    if participant is None:
        return None
    chosen = {(element.text or "").strip() for element in participant.iterfind(".//{*}userTransports/{*}transport_id")}
    sizes = [0 if text(participant, "useBuiltinTransports").lower() == "false" else DEFAULT_SEGMENT_BYTES]
    for transport in root.iterfind(".//{*}transport_descriptor"):
        if text(transport, "type").upper() == "SHM" and text(transport, "transport_id") in chosen:
            sizes.append(int(text(transport, "segment_size") or DEFAULT_SEGMENT_BYTES))
    return max(sizes)


def ament_prefixes() -> list[str]:
    """The sourced installations, which need not hold ROS 2 itself."""
    return [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]


def sourced_prefixes() -> list[str]:
    """Sourced installations of ROS 2 that hold rclpy, other than this environment."""
    own = Path(sys.prefix).resolve()
    return [prefix for prefix in ament_prefixes() if Path(prefix).resolve() != own and has_package(prefix, "rclpy")]


def has_package(prefix: str, name: str) -> bool:
    """Whether an installation holds a ROS package."""
    return Path(prefix, "share/ament_index/resource_index/packages", name).is_file()


def apt(name: str) -> str:
    """How to install a ROS package."""
    return f"sudo apt install ros-{os.environ.get('ROS_DISTRO', '<distribution>')}-{name.replace('_', '-')}"


def first_number(number: str | None) -> int:
    """The first number of a version; 0 where it is unknown."""
    first = (number or "").partition(".")[0]
    return int(first) if first.isdecimal() else 0


def check_shared_memory() -> Finding:
    """Is /dev/shm there, writable, and is there room?"""
    if sys.platform != "linux":
        return not_applicable(f"{sys.platform} has no {SHARED_MEMORY}")
    if not SHARED_MEMORY.is_dir():
        return failed(f"{SHARED_MEMORY} is missing", "sudo mount -t tmpfs tmpfs /dev/shm")
    try:
        with tempfile.TemporaryFile(dir=SHARED_MEMORY) as file:
            file.write(b"scene_completion")
    except OSError as error:
        return failed(f"cannot be written: {error.strerror}", "sudo mount -o remount,rw,mode=1777 /dev/shm")
    free, files = shutil.disk_usage(SHARED_MEMORY).free, len(list(SHARED_MEMORY.glob("fastdds_*")))
    found = f"writable, {free / 2**20:.0f} MiB free, {files} files of Fast DDS"
    cure = "In Docker: docker run --shm-size=512m (or --ipc=host); otherwise end all ROS processes and remove what "
    if free < LEAST_FREE_BYTES:
        found += f"; {LEAST_FREE_BYTES / 2**20:.0f} MiB should be"
        return warning(found, f"{cure}they left: rm /dev/shm/fastdds_*")
    return ok(found)


def check_gpu() -> Finding:
    """Does the driver see a GPU? None is needed."""
    from scene_completion_ros.inference.gpu.device import cuda_devices

    driver, (names, error) = Path("/proc/driver/nvidia/version").is_file(), cuda_devices()
    if names:
        return ok(f"{', '.join(names)}; engine auto takes it with TensorRT, pycuda and a bundle for GPUs")
    if driver or error:
        return warning(f"an NVIDIA driver, but CUDA sees no device (error {error}); {ON_CPU}")
    return not_applicable(f"no NVIDIA driver: {ON_CPU}")


def check_gpu_packages() -> Finding:
    """Are TensorRT (or TensorRT-RTX) and pycuda there, importable, and of the right version? They are not needed."""
    from scene_completion_ros.inference.gpu.device import installed_flavour, missing_parts

    names = ("tensorrt", "tensorrt_rtx", "pycuda")
    installed = {one.name: one.version for name in names for one in distributions(name=name)}
    if not installed:
        return not_applicable(f"none of {', '.join(names)} is installed: {ON_CPU}")
    flavour = installed_flavour()
    for part, what, cure in missing_parts(flavour):
        if part in (flavour, "pycuda"):
            return warning(f"{part} {what}; {ON_CPU}", f"Only if you want it: {cure}")
    return ok(", ".join(f"{name} {number}" for name, number in installed.items()))


def check_cpu() -> Finding:
    """How many cores may this process use, and how many threads may be started?"""
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_WAIT_POLICY")
    load, variables = os.getloadavg()[0], {name: os.environ[name] for name in names if name in os.environ}
    summary = "".join(f", {name}={value}" for name, value in variables.items())
    found = f"{platform.machine()}, {usable} of {os.cpu_count()} cores may be used, load {load:.1f}{summary}"
    return warning(f"{found}: more programs compute than there are cores") if load > usable else ok(found)


def check_kernels() -> Finding:
    """Does numba compile, and can it keep what it compiled? A parallel kernel is compiled as those of the inference."""
    import numba
    import numpy as np

    from scene_completion_ros.jit import kernel, kernel_threads

    def twice(values):  # type: ignore[no-untyped-def] # numba finds the types: float32 [N]
        result = np.empty_like(values)
        for i in numba.prange(len(values)):
            result[i] = np.float32(2.0) * values[i]
        return result

    doubled: Any = kernel()(twice)
    values = np.arange(1000, dtype=np.float32)
    with kernel_threads(None):
        right = np.array_equal(doubled(values), 2.0 * values)
        threads, layer, cache = numba.get_num_threads(), numba.threading_layer(), doubled.stats.cache_path
    found, wanted = f"numba {numba.__version__}, {threads} threads ({layer})", os.environ.get("NUMBA_CACHE_DIR")
    cure = "export NUMBA_CACHE_DIR=$HOME/.cache/numba, or another folder that can be written"
    if not right:
        return failed(f"{found}: a compiled kernel computes wrongly")
    if cache is None:
        return warning(f"{found}; no cache folder: every start compiles for seconds", cure)
    if wanted and Path(wanted).resolve() not in Path(cache).resolve().parents:
        return warning(f"{found}; NUMBA_CACHE_DIR={wanted} cannot be written, the cache is {cache}", cure)
    return ok(f"{found}, cache {cache}")


def check_bundle(bundle: Path | None) -> Finding:
    """Does the bundle (None: the shipped one) load, and what does it hold?"""
    from scene_completion_ros.inference.bundle import open_student

    student = open_student(bundle)
    classes, grid, calibration = student.class_names, student.grid, student.calibration.kind
    sizes = {name: student.encoder_path.with_name(name).stat().st_size for name in student.made_from()}
    named = f"{len(classes)} classes ({', '.join(classes)})" if len(classes) > 1 else "no classes"
    files = ", ".join(f"{name} {size / 1e3:.0f} kB" for name, size in sizes.items())
    found = f"{student.name}: {named}, grid {'x'.join(map(str, grid.shape))} of {grid.voxel_size} m, {files}, "
    found += f"calibration {calibration}"
    if student.takes_pose:
        found += ". It is more accurate with camera.height and camera.pitch (complete: --camera-height, --camera-pitch)"
    cure = "scene-completion calibrate BUNDLE --labelled DIR (see docs/training.md)"
    return warning(f"{found}: probabilities are not calibrated", cure) if calibration == "identity" else ok(found)


def check_self_test(bundle: Path | None) -> Finding:
    """Do images of the demo drive come out as voxels, and how fast?"""
    import numpy as np

    from scene_completion_ros.bags.reader import DEMO_DRIVE, BagReader
    from scene_completion_ros.inference.bundle import open_student
    from scene_completion_ros.inference.completer import Completer
    from scene_completion_ros.inference.encoder import cpu_engine

    try:
        student = open_student(bundle)
    except Exception:  # which is the finding of the check of the bundle
        return not_applicable("needs a bundle that loads")
    with BagReader(DEMO_DRIVE) as reader:
        topic = reader.choose_image_topic(None)
        camera = reader.camera_for(topic)
        images = [frame.image_rgb for frame in islice(reader.images(topic), DISTINCT_FRAMES)]
    completer = Completer(student, camera, engine=cpu_engine())  # building one for a GPU would take minutes
    completions: list[tuple[dict[str, float], int, bool]] = []
    end_s = time.perf_counter() + SELF_TEST_S
    for image in cycle(images):
        if len(completions) >= FEWEST_FRAMES and time.perf_counter() >= end_s:
            break
        completion = completer.complete(image)
        finite = bool(np.isfinite(completion.alpha).all() and np.isfinite(completion.probability).all())
        completions.append((completion.timings_ms, len(completion.voxels), finite))
    timings, occupied, finite_ones = zip(*completions, strict=True)
    rate_hz = 1e3 * len(timings) / sum(timing["total"] for timing in timings)
    stages = ", ".join(f"{stage} {statistics.median(one[stage] for one in timings):.0f}" for stage in timings[0])
    found = f"{rate_hz:.1f} Hz with {completer.engine} over {len(timings)} images; ms: {stages}"
    trial = "scene-completion complete IMAGE --camera FILE"
    if not all(finite_ones):
        cure = f"Compare with another engine: {trial} --engine onnxruntime"
        return failed(f"the output is not finite; {found}", cure)
    if not min(occupied) and bundle is None:
        cure = "Fetch the package again: the shipped student finds voxels in the demo drive"
        return failed(f"an image came out without an occupied voxel; {found}", cure)
    if not min(occupied):
        cure = f"See what it does with an image of your camera: {trial} --bundle DIR"
        return warning(f"it finds nothing in an image of the demo drive; {found}", cure)
    found += f"; {statistics.median(occupied):.0f} voxels occupied"
    if rate_hz < CAMERA_HZ:
        found += f". Slower than a camera of {CAMERA_HZ:.0f} Hz: the node then takes the newest image and drops others"
        return warning(found, "Query a smaller grid (--grid; grid.file of the node), or free cores")
    return ok(found)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``scene-completion doctor``."""
    meaning = "folder or name of a student to look at (default: kitti_student)"
    parser.add_argument("--bundle", type=Path, metavar="DIR", help=meaning)
    parser.add_argument("--json", action="store_true", help="print one JSON object for programs")


def run(args: argparse.Namespace) -> int:
    """Run all checks; the exit code is 1 if one failed."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace", line_buffering=True)  # whatever a terminal can show, and at once
    begun_s, findings = time.monotonic(), dict[str, Finding]()
    for check in checks(args.bundle):
        finding = findings[check.name] = check.run(args.bundle)
        if not args.json:
            print(f"{finding.status:<15}{check.name}: {finding.found}")
            print(f"{'':<15}-> {finding.cure}\n" if finding.cure else "", end="")
    counts = {status: sum(finding.status == status for finding in findings.values()) for status in STATUSES}
    seconds = time.monotonic() - begun_s
    if args.json:
        python = {"version": platform.python_version(), "executable": sys.executable}
        report = {"version": __version__, "python": python, "seconds": round(seconds, 1), "counts": counts}
        report["checks"] = [{"name": name} | vars(finding) for name, finding in findings.items()]
        print(json.dumps(report, indent=2))
        return 1 if counts["failed"] else 0
    bundle = f" --bundle {args.bundle}" if args.bundle else ""
    step = f"scene-completion replay BAG --output out{bundle}; without BAG it is the bundled drive"
    if findings["ROS 2"].status != "ok":
        step = f"scene-completion complete IMAGE --camera FILE --output out{bundle} works without ROS 2"
    if first := next((name for name, finding in findings.items() if finding.status == "failed"), None):
        step = f"cure what failed, from the top; it begins with {first}"
    print(f"\n{', '.join(f'{count} {status}' for status, count in counts.items())}; {seconds:.0f} s\nnext: {step}")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":  # one check, in a process that may crash
    name, folder = sys.argv[1:]
    student = Path(folder) if folder else None
    (the_check,) = (check for check in checks(student) if check.name == name)
    print(f"\n{RESULT}{json.dumps(vars(the_check.here()))}", flush=True)
    sys.stderr.flush()
    os._exit(0)  # libraries that wait for each other while they are torn down must not take the answer back
