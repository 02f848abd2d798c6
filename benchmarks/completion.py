"""Speed and memory of scene completion on the CPU, as Markdown tables with ratios measured in one run.

``python -m benchmarks.completion`` times the stages from image to SemanticVoxels of one student and of the shipped
ones.
"""

import functools
import resource
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import hardware, in_turn, option_parser, ratio_table
from scene_completion_ros.bags.reader import demo_drive
from scene_completion_ros.inference.bundle import open_student, shipped_students
from scene_completion_ros.inference.completer import Completer

STAGES = "resample", "encode", "query", "march", "assemble", "label"


def main() -> None:
    """Prints all tables."""
    parser = option_parser(__doc__, threads=2)
    parser.add_argument("--repeats", type=int, default=20, help="runs a row")
    arguments = parser.parse_args()
    bundle, threads, repeats = open_student(arguments.bundle), arguments.threads, arguments.repeats
    print(hardware(threads), flush=True)
    camera, images = demo_drive()
    make = functools.partial(Completer, camera=camera, threads=threads)
    started_s = time.perf_counter()
    completer = make(bundle)
    ready_s = time.perf_counter() - started_s
    print("\n" + frame_table("whole images", {f"{bundle.name}, {completer.engine}": completer}, images, repeats))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # without other students
    print(f"\nready after {ready_s:.1f} s; peak resident memory {peak:.0f} MiB", flush=True)
    students = {
        f"{name}, {engine}": make(open_student(name), engine=engine)
        for name in shipped_students()
        for engine in ("openvino", "openvino_bf16")
    }
    print("\n" + frame_table("students", students, images, repeats), flush=True)


def frame_table(title: str, completers: Mapping[str, Completer], images: list[NDArray[np.uint8]], repeats: int) -> str:
    """Whole images by several completers, which take the same images in turn; ratios are to the first one."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in completers}

    def complete(name: str) -> None:
        completion = completers[name].complete(images[len(found[name]) % len(images)])
        found[name].append({**completion.timings_ms, "voxels": len(completion.voxels)})

    runs = in_turn({name: functools.partial(complete, name) for name in completers}, repeats)
    further = {
        name: {one: f"{np.median([answer[name] for answer in answers[1:]]):.1f}" for one, answers in found.items()}
        for name in (*STAGES, "voxels")
    }
    return ratio_table(title, runs, further)


if __name__ == "__main__":
    main()
