"""What benchmarks share: the machine in a line, the bundled drive, times of several works as a table of ratios."""

import importlib.metadata
import importlib.util
import os
import platform
import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags.reader import DEMO_DRIVE, BagReader
from scene_completion_ros.evaluation.metric import table
from scene_completion_ros.geometry import Camera
from scene_completion_ros.geometry.resampling import Resampler
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle


def option_parser(description: str | None, *, threads: int | None = None, repeats: int | None = None) -> ArgumentParser:
    """A parser of --bundle, and of --threads and --repeats where they have a default."""
    parser = ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="student bundle")
    if threads is not None:
        parser.add_argument("--threads", type=int, default=threads, help="CPU threads; a node takes all for 0")
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats, help="runs a row")
    return parser


@dataclass(frozen=True)
class Runs:
    """Milliseconds of the runs of one work."""

    wall: NDArray[np.float64]  # by the clock, [N]
    cpu: NDArray[np.float64]  # of all threads together, [N]


def in_turn(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Runs]:
    """Times works that take turns, so that a busy machine is busy for all of them; the first turn does not count."""
    milliseconds = np.zeros((2, len(works), repeats))
    for turn in range(-1, repeats):
        for which, work in enumerate(works.values()):
            started_s, used_s = time.perf_counter(), time.process_time()
            work()
            took_s = time.perf_counter() - started_s, time.process_time() - used_s
            milliseconds[:, which, max(turn, 0)] = 1e3 * np.array(took_s)
    return {name: Runs(*milliseconds[:, which]) for which, name in enumerate(works)}


def timed(work: Callable[[], object], repeats: int) -> Runs:
    """Times one work; the first run does not count."""
    return in_turn({"": work}, repeats)[""]


def ratio_table(
    title: str,  # heads the column of names
    rows: Mapping[str, Runs | str],  # runs by name; or why there are none, in words
    to: str | None = None,  # name of the row to which the ratios are; None for the first that was measured
    # More columns by their names: the cell of each row that has one.
    further: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """A Markdown table of times, and of ratios to one of the rows."""
    measured = {name: runs for name, runs in rows.items() if isinstance(runs, Runs)}
    base = measured.get(to or next(iter(measured), ""))
    columns = further or {}
    cells = []
    for name, runs in rows.items():
        if isinstance(runs, str) or base is None:
            times: tuple[str, ...] = (f"not measured: {runs}", "", "", "", "")
        else:
            middle, late = np.percentile(runs.wall, (50, 95))
            ratios = [np.median(one) / np.median(of) for one, of in ((runs.wall, base.wall), (runs.cpu, base.cpu))]
            times = f"{middle:.1f}", f"{late:.1f}", f"{np.median(runs.cpu):.1f}", *(f"{one:.2f}" for one in ratios)
        cells.append((name, *times, *(column.get(name, "") for column in columns.values())))
    return table((title, "p50 ms", "p95 ms", "CPU ms", "times", "times (CPU)", *columns), cells)


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


def demo_drive() -> tuple[Camera, list[NDArray[np.uint8]]]:
    """Camera and images of the bundled drive."""
    with BagReader(DEMO_DRIVE) as reader:
        topic = reader.choose_image_topic(None)
        return reader.camera_for(topic), [frame.image_rgb for frame in reader.images(topic)]


def canonical_image(bundle: StudentBundle) -> NDArray[np.uint8]:
    """The first image of the bundled drive, as the student sees it."""
    camera, images = demo_drive()
    return Resampler(camera, bundle.canonical)(images[0])
