"""All checks of an installation, and those of the student bundle: whether the package does with it what it is for."""

from functools import partial
from pathlib import Path
from typing import Any

from scene_completion_ros.diagnosis import machine, packages, ros_environment
from scene_completion_ros.diagnosis.child import Check, Finding, failed, not_applicable, ok, run_probe, warning

SELF_TEST_LIMIT_S = 180.0  # a first start compiles
CAMERA_HZ = 10.0


def check_bundle(bundle: Path | None, details: dict[str, Any]) -> Finding:
    """Does the bundle (None: the shipped one) load, and what does it hold?"""
    details |= run_probe("bundle", str(bundle or ""))
    classes, grid = details["classes"], details["grid"]
    files = ", ".join(f"{name} {size / 1e3:.0f} kB" for name, size in details["files"].items())
    named = f"{len(classes)} classes ({', '.join(classes)})" if len(classes) > 1 else "no classes"
    found = (
        f"{details['name']}: {named}, grid {'x'.join(map(str, grid['shape']))} of {grid['voxel_size']} m, {files}, "
        f"calibration {details['calibration']}"
    )
    if details["calibration"] == "identity":
        cure = "scene-completion calibrate BUNDLE --labelled DIR (see docs/training.md)"
        return warning(f"{found}: probabilities are not calibrated", cure)
    return ok(found)


def check_self_test(bundle: Path | None, drive: Path, details: dict[str, Any]) -> Finding:
    """Do images of a drive come out as voxels, and how fast?"""
    details |= run_probe("self_test", str(bundle or ""), str(drive), limit_s=SELF_TEST_LIMIT_S)
    if not details["loaded"]:
        return not_applicable("needs a bundle that loads")
    stages = ", ".join(f"{stage} {value:.0f}" for stage, value in details["stages_ms"].items())
    found = f"{details['rate_hz']:.1f} Hz with {details['engine']} over {details['frames']} images; ms: {stages}"
    trial = "scene-completion complete IMAGE --camera FILE"
    if not details["finite"]:
        return failed(
            f"the output is not finite; {found}", f"Compare with another engine: {trial} --engine onnxruntime"
        )
    if not details["fewest_occupied"] and bundle is None:
        cure = "Fetch the package again: the shipped student finds voxels in the demo drive"
        return failed(f"an image came out without an occupied voxel; {found}", cure)
    if not details["fewest_occupied"]:
        cure = f"See what it does with an image of your camera: {trial} --bundle DIR"
        return warning(f"it finds nothing in an image of the demo drive; {found}", cure)
    found += f"; {details['occupied']:.0f} voxels occupied"
    if details["rate_hz"] < CAMERA_HZ:
        found += f". Slower than a camera of {CAMERA_HZ:.0f} Hz: the node then takes the newest image and drops others"
        return warning(found, "Query a smaller grid (--grid; grid.file of the node), or free cores")
    return ok(found)


_REINSTALL = "Install the package again, from a checkout: pip install --force-reinstall ."
_ROS = "Install ROS 2 again, or leave this shell's ROS_* and FASTDDS_* variables unset"


def checks(bundle: Path | None, drive: Path) -> list[Check]:
    """The checks, in the order to run them, of the student in the folder `bundle`; None for the shipped one."""
    of_bundle = "Export the bundle again, or fetch it again" if bundle else _REINSTALL
    slow = "Cure what failed above; otherwise the CPU may be too old for the engine: pip install onnxruntime"
    return [
        Check("Python", packages.check_python, _REINSTALL),
        Check("packages", packages.check_packages, _REINSTALL),
        *(Check(name, check, _ROS) for name, check in ros_environment.CHECKS.items()),
        Check("/dev/shm", machine.check_shared_memory, "See what is mounted there: df -h /dev/shm"),
        Check("Fast DDS profile", ros_environment.check_profile, _ROS),
        Check("GPU", machine.check_gpu, "None is needed; see whether nvidia-smi lists it"),
        Check("TensorRT and pycuda", machine.check_gpu_packages, "They are not needed: pip uninstall tensorrt pycuda"),
        Check("CPU", machine.check_cpu, "See the load with: top"),
        Check("numba", machine.check_kernels, "pip install --force-reinstall numba llvmlite"),
        Check("bundle", partial(check_bundle, bundle), of_bundle),
        Check("self-test", partial(check_self_test, bundle, drive), slow),
    ]
