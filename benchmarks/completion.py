"""Speed and memory of scene completion on the CPU, as Markdown tables with ratios measured in one run.

``python -m benchmarks.completion`` times the stages from image to SemanticVoxels of one student and of the shipped
ones.
"""

import argparse
import functools
import importlib.metadata
import importlib.util
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags.reader import demo_drive
from scene_completion_ros.evaluation.metric import table
from scene_completion_ros.inference.bundle import open_student, shipped_students
from scene_completion_ros.inference.completer import Completer

STAGES = "resample", "encode", "query", "march", "assemble", "label"


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, help="student bundle (default: kitti_student)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; a node takes all for 0")
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


def in_turn(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, NDArray[np.float64]]:
    """Milliseconds [repeats] of works that take turns, so that other load slows all alike; the first does not count."""
    milliseconds = np.zeros((len(works), repeats))
    for turn in range(-1, repeats):
        for which, work in enumerate(works.values()):
            started_s = time.perf_counter()
            work()
            milliseconds[which, max(turn, 0)] = 1e3 * (time.perf_counter() - started_s)
    return dict(zip(works, milliseconds, strict=True))


def ratio_table(
    title: str,  # heads the column of names
    rows: Mapping[str, NDArray[np.float64]],  # milliseconds of each run by name
    further: Mapping[str, Mapping[str, str]] | None = None,  # more columns by name: the cell of each row that has one
) -> str:
    """A Markdown table of times, and of their ratios to the first row."""
    columns, first = further or {}, np.median(next(iter(rows.values())))
    cells = []
    for name, runs in rows.items():
        middle, late = np.percentile(runs, (50, 95))
        times = f"{middle:.1f}", f"{late:.1f}", f"{middle / first:.2f}"
        cells.append((name, *times, *(column.get(name, "") for column in columns.values())))
    return table((title, "p50 ms", "p95 ms", "times", *columns), cells)


def hardware(threads: int) -> str:
    """One line on the machine and the versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    packages = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("numpy", "numba", "openvino", "onnxruntime", "torch")
        if importlib.util.find_spec(name)
    )
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores available, {threads} threads used, "
        f"load {os.getloadavg()[0]:.1f} at the start; Python {platform.python_version()}, {packages}"
    )


if __name__ == "__main__":
    main()
