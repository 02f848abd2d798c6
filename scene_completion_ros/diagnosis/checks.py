"""All checks of an installation, and those of the student bundle: whether the package does with it what it is for."""

from functools import partial
from pathlib import Path

from scene_completion_ros.diagnosis import machine, packages, ros_environment
from scene_completion_ros.diagnosis.child import Check, Finding, Status, run_probe

LOAD_LIMIT_S = 60.0
SELF_TEST_LIMIT_S = 180.0  # a first start compiles
CAMERA_HZ = 10.0


def check_bundle(bundle: Path | None) -> Finding:
    """Does the bundle (None: the shipped one) load, and what does it hold?"""
    details = run_probe("bundle", str(bundle or ""), limit_s=LOAD_LIMIT_S)
    classes, grid = details["classes"], details["grid"]
    files = ", ".join(f"{name} {size / 1e3:.0f} kB" for name, size in details["files"].items())
    named = f"{len(classes)} classes ({', '.join(classes)})" if len(classes) > 1 else "no classes"
    found = (
        f"{details['name']}: {named}, grid {'x'.join(map(str, grid['shape']))} of {grid['voxel_size']} m, {files}, "
        f"calibration {details['calibration']}"
    )
    if details["calibration"] == "identity":
        cure = "scene-completion calibrate BUNDLE --labelled DIR (see docs/training.md)"
        return Finding(Status.WARNING, f"{found}: probabilities are not calibrated", cure, details)
    return Finding(Status.OK, found, details=details)


def check_self_test(bundle: Path | None, drive: Path) -> Finding:
    """Do images of a drive come out as voxels, and how fast?"""
    details = run_probe("self_test", str(bundle or ""), str(drive), limit_s=SELF_TEST_LIMIT_S)
    if not details["loaded"]:
        return Finding(Status.NOT_APPLICABLE, "needs a bundle that loads")
    stages = ", ".join(f"{stage} {value:.0f}" for stage, value in details["stages_ms"].items())
    found = f"{details['rate_hz']:.1f} Hz with {details['engine']} over {details['frames']} images; ms: {stages}"
    if not details["finite"]:
        cure = "Compare with another engine: scene-completion complete IMAGE --camera FILE --engine onnxruntime"
        return Finding(Status.FAILED, f"the output is not finite; {found}", cure, details)
    if not details["fewest_occupied"]:
        if bundle is None:
            cure = "Fetch the package again: the shipped student finds voxels in the demo drive"
            return Finding(Status.FAILED, f"an image came out without an occupied voxel; {found}", cure, details)
        cure = (
            "See what it does with an image of your camera: scene-completion complete IMAGE --camera FILE --bundle DIR"
        )
        return Finding(Status.WARNING, f"it finds nothing in an image of the demo drive; {found}", cure, details)
    found += f"; {details['occupied']:.0f} voxels occupied"
    if details["rate_hz"] < CAMERA_HZ:
        found += f". Slower than a camera of {CAMERA_HZ:.0f} Hz: the node then takes the newest image and drops others"
        return Finding(
            Status.WARNING, found, "Query a smaller grid (--grid; grid.file of the node), or free cores", details
        )
    return Finding(Status.OK, found, details=details)


_REINSTALL = "Install the package again, from a checkout: pip install --force-reinstall ."
_ROS = "Install ROS 2 again, or leave this shell's ROS_* and FASTDDS_* variables unset"


def checks(bundle: Path | None, drive: Path) -> list[Check]:
    """The checks, in the order to run them, of the student in the folder `bundle`; None for the shipped one."""
    of_bundle = "Export the bundle again, or fetch it again" if bundle else _REINSTALL
    optional = [Check(name, partial(ros_environment.check_optional, name), _ROS) for name in ros_environment.OPTIONAL]
    return [
        Check("Python", packages.check_python, _REINSTALL),
        Check("packages", packages.check_packages, _REINSTALL),
        Check("ROS 2", ros_environment.check_ros, _ROS),
        Check("ROS 2 not mixed", ros_environment.check_mixture, _ROS),
        Check("RMW", ros_environment.check_middleware, _ROS),
        Check("discovery", ros_environment.check_discovery, _ROS),
        *optional,
        Check("/dev/shm", machine.check_shared_memory, "See what is mounted there: df -h /dev/shm"),
        Check("Fast DDS profile", ros_environment.check_profile, _ROS),
        Check("GPU", machine.check_gpu, "None is needed; see whether nvidia-smi lists it"),
        Check("TensorRT and pycuda", machine.check_gpu_packages, "They are not needed: pip uninstall tensorrt pycuda"),
        Check("CPU", machine.check_cpu, "See the load with: top"),
        Check("numba", machine.check_kernels, "pip install --force-reinstall numba llvmlite"),
        Check("bundle", partial(check_bundle, bundle), of_bundle),
        Check(
            "self-test",
            partial(check_self_test, bundle, drive),
            "Cure what failed above; otherwise the CPU may be too old for the engine: pip install onnxruntime",
        ),
    ]
