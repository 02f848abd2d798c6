"""All checks of an installation."""

from functools import partial
from pathlib import Path

from scene_completion_ros.diagnosis import fast_dds, machine, packages, ros_environment, student
from scene_completion_ros.diagnosis.findings import Check

_REINSTALL = "Install the package again, from a checkout: pip install --force-reinstall ."
_ROS = "Install ROS 2 again, or leave this shell's ROS_* and FASTDDS_* variables unset"


def checks(bundle: Path | None, drive: Path) -> list[Check]:
    """The checks, in the order in which they are to be run.

    `bundle`: folder of the student to look at; None for the shipped one.
    """
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
        Check("Fast DDS profile", fast_dds.check_profile, _ROS),
        Check("GPU", machine.check_gpu, "None is needed; see whether nvidia-smi lists it"),
        Check("TensorRT and pycuda", machine.check_gpu_packages, "They are not needed: pip uninstall tensorrt pycuda"),
        Check("CPU", machine.check_cpu, "See the load with: top"),
        Check("numba", machine.check_kernels, "pip install --force-reinstall numba llvmlite"),
        Check("bundle", partial(student.check_bundle, bundle), of_bundle),
        Check(
            "self-test",
            partial(student.check_self_test, bundle, drive),
            "Cure what failed above; otherwise the CPU may be too old for the engine: pip install onnxruntime",
        ),
    ]
