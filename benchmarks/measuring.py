"""What benchmarks share: the machine in a line, the bundled drive, times of several works as a table of ratios."""

import importlib.metadata
import importlib.util
import os
import platform
import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags.reader import demo_drive
from scene_completion_ros.evaluation.metric import table
from scene_completion_ros.geometry.resampling import Resampler
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle


def option_parser(description: str | None, *, threads: int | None = None) -> ArgumentParser:
    """A parser of --bundle, and of --threads where it has a default."""
    parser = ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="student bundle")
    if threads is not None:
        parser.add_argument("--threads", type=int, default=threads, help="CPU threads; a node takes all for 0")
    return parser


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


def canonical_image(bundle: StudentBundle) -> NDArray[np.uint8]:
    """The first image of the bundled drive, as the student sees it."""
    camera, images = demo_drive()
    return Resampler(camera, bundle.canonical)(images[0])
