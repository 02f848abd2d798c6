"""What the running node adds to inference, and what becomes of more images than it can complete.

``python -m benchmarks.node_load`` runs the node in a process of its own, with a camera of 1280x720 pixels before it and
a reader behind it. It prints Markdown tables:

- one image at a time, raw and JPEG: what lies between the arrival of an image and its published voxels and is no
  inference, by the node's own processing times;
- images at 60 Hz: how old results are, and what becomes of the other images.
"""

import os
from contextlib import closing
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import hardware, option_parser
from benchmarks.running_node import RunningNode
from scene_completion_ros.bags.reader import demo_drive
from scene_completion_ros.evaluation.metric import table
from scene_completion_ros.geometry.cameras import Camera

WIDTH, HEIGHT = 1280, 720
IMAGES = 100  # one at a time
RATE_HZ, WARM_UP_S, SECONDS = 60.0, 10.0, 60.0
Columns: TypeAlias = "dict[str, Any]"  # columns of a row of a table: text, or milliseconds [N] of each image


def main() -> None:
    """Prints all tables."""
    arguments = option_parser(__doc__, threads=0).parse_args()
    print(hardware(arguments.threads or os.cpu_count() or 1), flush=True)
    picture = np.asarray(cv2.resize(demo_drive()[1][0], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)
    focal = 0.58 * WIDTH
    camera = Camera(focal, focal, (WIDTH - 1) / 2, (HEIGHT - 1) / 2, WIDTH, HEIGHT)
    single: dict[str, Columns] = {}
    loads: dict[str, Columns] = {}
    parameters = {"bundle": str(arguments.bundle), "threads": arguments.threads}
    for name in ("raw", "JPEG"):
        with closing(RunningNode(camera, [picture], compressed=name == "JPEG", parameters=parameters)) as node:
            node.start()
            single[name] = measure_single(node)
            loads[name] = measure_load(node)
    print("\n" + pairs_table(f"one image of {WIDTH}x{HEIGHT} at a time", single), flush=True)
    print("\n" + pairs_table(f"{WIDTH}x{HEIGHT} at {RATE_HZ:.0f} Hz", loads), flush=True)


def measure_single(node: RunningNode) -> Columns:
    """Complete images one at a time; milliseconds of each by column of the table."""
    for _ in range(IMAGES):
        read = len(node.clouds)
        node.send()
        if not node.until(lambda read=read: len(node.clouds) > read, 60.0):  # type: ignore[misc]
            node.send_camera_info()  # the image was lost on its way: the next one
        node.until(lambda: False, 0.05)
    node.settle()
    times = node_times(node)
    overhead = times["latency"] - times["total"]
    return {
        "decode": times["decode"],
        "waiting": overhead - times["decode"] - times["publish"],
        "convert, publish": times["publish"],
        "overhead": overhead,
        "inference": times["total"],
    }


def measure_load(node: RunningNode) -> Columns:
    """Publish images at a rate; the columns of the table."""
    node.rate_hz = RATE_HZ
    for seconds in (WARM_UP_S, SECONDS):
        node.forget()
        node.playing = True
        node.until(lambda: False, seconds)
        node.playing = False
        node.settle()
    counts = node.counts()
    received, completed = counts.pop("received"), counts.pop("completed")
    latency_ms = node_times(node)["latency"]
    period_ms = 1e3 * np.diff(np.array([sent_s for sent_s, _ in node.clouds]) + 1e-3 * latency_ms)
    return {
        "received / s": f"{received / SECONDS:.1f}",
        "completed / s": f"{completed / SECONDS:.1f}",
        "dropped": ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none",
        "latency": latency_ms[1:],
        "latency beyond the period": latency_ms[1:] - period_ms,
    }


def node_times(node: RunningNode) -> dict[str, NDArray[np.float64]]:
    """Processing times by stage, those of one result at the same place."""
    lengths = {len(times) for times in node.times_ms.values()} | {len(node.clouds)}
    if len(lengths) != 1:
        raise RuntimeError(f"some results or their times were lost: {sorted(lengths)}; the machine is too busy")
    return {stage: np.array(times) for stage, times in node.times_ms.items()}


def pairs_table(title: str, rows: dict[str, Columns]) -> str:
    """Medians and 95th percentiles in Markdown."""
    header = (f"{title}, ms p50 / p95", *next(iter(rows.values())))
    cells = []
    for name, columns in rows.items():
        shown = (
            values if isinstance(values, str) else f"{np.median(values):.1f} / {np.percentile(values, 95):.1f}"
            for values in columns.values()
        )
        cells.append((name, *shown))
    return table(header, cells)


if __name__ == "__main__":
    main()
