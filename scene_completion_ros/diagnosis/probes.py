"""What is tried in a process of its own: ``python -m scene_completion_ros.diagnosis.probes NAME [ARGUMENT ...]``.

A probe takes texts and returns plain values for ``json.dumps``; see `child.run_probe`.
"""

import importlib
import json
import os
import statistics
import sys
import time
from itertools import cycle, islice
from typing import Any

from scene_completion_ros.diagnosis.child import RESULT
from scene_completion_ros.errors import SceneCompletionError

SELF_TEST_S = 3.0
FEWEST_FRAMES = 3
DISTINCT_FRAMES = 10  # decoding all of them would take longer than completing


def module(name: str) -> dict[str, Any]:
    """Import a module; its version, empty where it does not say."""
    return {"version": str(getattr(importlib.import_module(name), "__version__", ""))}


def middleware() -> dict[str, Any]:
    """Load the RMW implementation and join the ROS graph with a node."""
    from scene_completion_ros.ros.dds import middleware_of_a_node

    return {"implementation": middleware_of_a_node("scene_completion_doctor")}


def cuda() -> dict[str, Any]:
    """The devices that the CUDA driver sees; None where there is no driver library."""
    from scene_completion_ros.inference.gpu.requirements import cuda_devices

    found = cuda_devices()
    return {"devices": None if found.names is None else list(found.names), "error": found.error}


def gpu_packages() -> dict[str, Any]:
    """What is wrong with the packages for a GPU, if anything is."""
    from scene_completion_ros.inference.gpu.requirements import installed_flavour, missing_parts

    flavour = installed_flavour()
    return {"missing": [part._asdict() for part in missing_parts(flavour) if part.part in (flavour, "pycuda")]}


def kernels() -> dict[str, Any]:
    """Compile, cache and run a parallel kernel the way the inference does."""
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
        return {
            "version": numba.__version__,
            "right": bool(np.array_equal(doubled(values), 2.0 * values)),
            "threads": numba.get_num_threads(),
            "threading_layer": numba.threading_layer(),
            "cache": doubled.stats.cache_path,
        }


def bundle(folder: str) -> dict[str, Any]:
    """Load a student bundle; an empty name takes the shipped one."""
    from scene_completion_ros.inference.shipped import open_student

    student = open_student(folder)
    files = [student.encoder_path.with_name(name) for name in student.made_from()]
    return {
        "name": student.name,
        "classes": list(student.class_names),
        "grid": {"shape": list(student.grid.shape), "voxel_size": student.grid.voxel_size},
        "files": {file.name: file.stat().st_size for file in files},
        "calibration": student.calibration.kind,
    }


def self_test(folder: str, drive: str) -> dict[str, Any]:
    """Complete the first images of a recording for `SELF_TEST_S`; ``loaded`` says whether there is a bundle."""
    import numpy as np

    from scene_completion_ros.bags.reader import BagReader
    from scene_completion_ros.inference.completer import Completer
    from scene_completion_ros.inference.encoder import cpu_engine
    from scene_completion_ros.inference.shipped import open_student

    try:
        student = open_student(folder)
    except Exception:  # which the probe `bundle` puts into words
        return {"loaded": False}
    with BagReader(drive) as reader:
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
    return {
        "loaded": True,
        "engine": completer.engine,
        "frames": len(timings),
        "finite": finite,
        "fewest_occupied": min(occupied),
        "occupied": statistics.median(occupied),
        "rate_hz": 1e3 * len(timings) / sum(timing["total"] for timing in timings),
        "stages_ms": {stage: statistics.median(timing[stage] for timing in timings) for stage in timings[0]},
    }


PROBES = {probe.__name__: probe for probe in (module, middleware, cuda, gpu_packages, kernels, bundle, self_test)}


def main() -> None:
    """Run one probe, print its answer and end."""
    try:
        answer: dict[str, Any] = {"result": PROBES[sys.argv[1]](*sys.argv[2:])}
    except SceneCompletionError as error:
        answer = {"error": {"what": error.what, "where": error.where, "cure": error.cure}}
    except Exception as error:  # said in words by the check
        text = " ".join(str(error).split())
        answer = {"error": {"what": f"{type(error).__name__}: {text}" if text else type(error).__name__}}
    print(f"\n{RESULT}{json.dumps(answer)}", flush=True)
    sys.stderr.flush()
    # The answer is there; libraries that wait for each other while they are torn down must not take it back.
    os._exit(0)


if __name__ == "__main__":
    main()
