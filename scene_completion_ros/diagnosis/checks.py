"""All checks of an installation, and those of the student bundle: whether the package does with it what it is for.

``python -m scene_completion_ros.diagnosis.checks NAME BUNDLE`` is one of them in a process of its own.
"""

import json
import os
import statistics
import sys
import time
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from scene_completion_ros.diagnosis import machine, packages, ros_environment
from scene_completion_ros.diagnosis.check import LOADS_S, RESULT, Check, Finding, failed, not_applicable, ok, warning

SELF_TEST_LIMIT_S = 180.0  # a first start compiles
SELF_TEST_S = 3.0
FEWEST_FRAMES = 3
DISTINCT_FRAMES = 10  # decoding all of them would take longer than completing
CAMERA_HZ = 10.0


def check_bundle(bundle: Path | None, details: dict[str, Any]) -> Finding:
    """Does the bundle (None: the shipped one) load, and what does it hold?"""
    from scene_completion_ros.inference.bundle import open_student

    student = open_student(bundle)
    classes, grid = student.class_names, student.grid
    sizes = {name: student.encoder_path.with_name(name).stat().st_size for name in student.made_from()}
    details.update(
        name=student.name,
        classes=list(classes),
        grid={"shape": list(grid.shape), "voxel_size": grid.voxel_size},
        files=sizes,
        calibration=student.calibration.kind,
    )
    files = ", ".join(f"{name} {size / 1e3:.0f} kB" for name, size in sizes.items())
    named = f"{len(classes)} classes ({', '.join(classes)})" if len(classes) > 1 else "no classes"
    found = (
        f"{student.name}: {named}, grid {'x'.join(map(str, grid.shape))} of {grid.voxel_size} m, {files}, "
        f"calibration {student.calibration.kind}"
    )
    if student.takes_pose:
        found += ". It is more accurate with camera.height and camera.pitch (complete: --camera-height, --camera-pitch)"
    if student.calibration.kind == "identity":
        cure = "scene-completion calibrate BUNDLE --labelled DIR (see docs/training.md)"
        return warning(f"{found}: probabilities are not calibrated", cure)
    return ok(found)


def check_self_test(bundle: Path | None, details: dict[str, Any]) -> Finding:
    """Do images of the demo drive come out as voxels, and how fast?"""
    import numpy as np

    from scene_completion_ros.bags.reader import DEMO_DRIVE, BagReader
    from scene_completion_ros.inference.bundle import open_student
    from scene_completion_ros.inference.completer import Completer
    from scene_completion_ros.inference.encoder import cpu_engine

    try:
        student = open_student(bundle)
    except Exception:  # which the check of the bundle puts into words
        return not_applicable("needs a bundle that loads")
    with BagReader(DEMO_DRIVE) as reader:
        topic = reader.choose_image_topic(None)
        camera = reader.camera_for(topic)
        images = [frame.image_rgb for frame in islice(reader.images(topic), DISTINCT_FRAMES)]
    completer = Completer(student, camera, engine=cpu_engine())  # building one for a GPU would take minutes
    timings: list[dict[str, float]] = []
    occupied: list[int] = []
    finite = True
    end_s = time.perf_counter() + SELF_TEST_S
    for image in cycle(images):
        if len(timings) >= FEWEST_FRAMES and time.perf_counter() >= end_s:
            break
        completion = completer.complete(image)
        timings.append(completion.timings_ms)
        occupied.append(len(completion.voxels))
        finite &= bool(np.isfinite(completion.alpha).all() and np.isfinite(completion.probability).all())
    rate_hz = 1e3 * len(timings) / sum(timing["total"] for timing in timings)
    stages_ms = {stage: statistics.median(timing[stage] for timing in timings) for stage in timings[0]}
    details.update(
        engine=completer.engine,
        frames=len(timings),
        finite=finite,
        fewest_occupied=min(occupied),
        occupied=statistics.median(occupied),
        rate_hz=rate_hz,
        stages_ms=stages_ms,
    )
    stages = ", ".join(f"{stage} {value:.0f}" for stage, value in stages_ms.items())
    found = f"{rate_hz:.1f} Hz with {completer.engine} over {len(timings)} images; ms: {stages}"
    trial = "scene-completion complete IMAGE --camera FILE"
    if not finite:
        cure = f"Compare with another engine: {trial} --engine onnxruntime"
        return failed(f"the output is not finite; {found}", cure)
    if not min(occupied) and bundle is None:
        cure = "Fetch the package again: the shipped student finds voxels in the demo drive"
        return failed(f"an image came out without an occupied voxel; {found}", cure)
    if not min(occupied):
        cure = f"See what it does with an image of your camera: {trial} --bundle DIR"
        return warning(f"it finds nothing in an image of the demo drive; {found}", cure)
    found += f"; {details['occupied']:.0f} voxels occupied"
    if rate_hz < CAMERA_HZ:
        found += f". Slower than a camera of {CAMERA_HZ:.0f} Hz: the node then takes the newest image and drops others"
        return warning(found, "Query a smaller grid (--grid; grid.file of the node), or free cores")
    return ok(found)


_REINSTALL = "Install the package again, from a checkout: pip install --force-reinstall ."
_ROS = "Install ROS 2 again, or leave this shell's ROS_* and FASTDDS_* variables unset"


def checks(bundle: Path | None) -> list[Check]:
    """The checks, in the order to run them, of the student in the folder `bundle`; None for the shipped one."""
    of_bundle = "Export the bundle again, or fetch it again" if bundle else _REINSTALL
    slow = "Cure what failed above; otherwise the CPU may be too old for the engine: pip install onnxruntime"
    no_gpu = "None is needed. Only if you want it: nvidia-smi must list the GPU; in Docker, docker run --gpus all"
    remove = "They are not needed: pip uninstall tensorrt pycuda"
    environment = partial(Check, cure=_ROS, of_ros=True)
    return [
        Check("Python", packages.check_python, _REINSTALL),
        Check("packages", packages.check_packages, _REINSTALL, LOADS_S),
        Check("ROS 2", ros_environment.check_ros, ros_environment.import_cure(), LOADS_S),
        environment("ROS 2 not mixed", ros_environment.check_mixture),
        Check("RMW", ros_environment.check_middleware, ros_environment.middleware_cure(), LOADS_S, of_ros=True),
        environment("discovery", ros_environment.check_discovery),
        *(environment(name, partial(ros_environment.check_optional, name)) for name in ros_environment.OPTIONAL),
        Check("/dev/shm", machine.check_shared_memory, "See what is mounted there: df -h /dev/shm"),
        environment("Fast DDS profile", ros_environment.check_profile),
        Check("GPU", machine.check_gpu, no_gpu, machine.CUDA_LIMIT_S, needed=False),
        Check("TensorRT and pycuda", machine.check_gpu_packages, remove, LOADS_S, needed=False),
        Check("CPU", machine.check_cpu, "See the load with: top"),
        Check("numba", machine.check_kernels, machine.REINSTALL_NUMBA, machine.COMPILE_LIMIT_S),
        Check("bundle", partial(check_bundle, bundle), of_bundle, LOADS_S),
        Check("self-test", partial(check_self_test, bundle), slow, SELF_TEST_LIMIT_S),
    ]


def main(name: str, bundle: str) -> None:
    """Run one check, print its finding and end."""
    (check,) = (check for check in checks(Path(bundle) if bundle else None) if check.name == name)
    finding = check.here()
    print(f"\n{RESULT}{json.dumps(vars(finding) | {'status': finding.status.value})}", flush=True)
    sys.stderr.flush()
    # The answer is there; libraries that wait for each other while they are torn down must not take it back.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
