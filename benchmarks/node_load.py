"""What the running node adds to inference, and how it bears more images than it can complete.

``python -m benchmarks.node_load`` runs the node in a process of its own, with a camera of 1280x720 pixels before it and
a reader behind it. It prints Markdown tables:

- one image at a time, raw and JPEG. The node's own processing times cover all that lies between the arrival of an image
  and its published voxels and is no inference. That is decoding, waiting, conversion and publishing;
- images at 60 Hz, also while the node queries words: how old published results are, what becomes of the other images,
  and whether memory grows.
"""

import os
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import demo_drive, hardware, option_parser
from benchmarks.running_node import RunningNode
from scene_completion_ros.commands.arguments import DEMO_WORDS, chosen_words
from scene_completion_ros.evaluation.metric import table
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.bundle import open_student

WIDTH, HEIGHT = 1280, 720
PAUSE_S = 0.05  # between the result of an image and the next one, where images come one at a time
WARM_UP_S = 10.0  # before the measurement at a rate
WAIT_S = 60.0
Columns: TypeAlias = "dict[str, Any]"  # columns of a row of a table: text, or milliseconds [N] of each image


def main() -> None:
    """Prints all tables."""
    parser = option_parser(__doc__, threads=0)
    parser.add_argument("--images", type=int, default=100, help="images that are completed one at a time")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long images are published at a rate")
    parser.add_argument("--rate", type=float, default=60.0, help="images a second")
    arguments = parser.parse_args()
    bundle = open_student(arguments.bundle)
    print(hardware(arguments.threads or os.cpu_count() or 1), flush=True)
    camera, picture = large_camera()
    words = chosen_words(None, bundle, DEMO_WORDS)
    single: dict[str, Columns] = {}
    loads: dict[str, Columns] = {}
    parameters = {"bundle": str(arguments.bundle), "threads": arguments.threads}
    for name in ("raw", "JPEG"):
        with RunningNode(camera, picture, compressed=name == "JPEG", parameters=parameters) as node:
            node.start()
            single[name] = measure_single(node, arguments.images)
            loads[name] = measure_load(node, arguments.rate, arguments.seconds)
            if words and name == "raw":
                node.look_for(", ".join(words))
                loads[f"raw, {len(words)} words"] = measure_load(node, arguments.rate, arguments.seconds)
    print("\n" + pairs_table(f"one image of {WIDTH}x{HEIGHT} at a time", single, "overhead"), flush=True)
    print("\n" + pairs_table(f"{WIDTH}x{HEIGHT} at {arguments.rate:.0f} Hz", loads, "period"), flush=True)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


def large_camera() -> tuple[Camera, NDArray[np.uint8]]:
    """A camera of 1280x720 pixels, of a usual lens, and a picture of the bundled drive."""
    _, images = demo_drive()
    picture = np.asarray(cv2.resize(images[0], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)
    focal = 0.58 * WIDTH
    return Camera(focal, focal, (WIDTH - 1) / 2, (HEIGHT - 1) / 2, WIDTH, HEIGHT), picture


def measure_single(node: RunningNode, images: int) -> Columns:
    """Complete images one at a time; milliseconds of each by column of the table."""
    for _ in range(images):
        read = len(node.clouds)
        node.send()
        if not node.until(lambda read=read: len(node.clouds) > read, WAIT_S):  # type: ignore[misc]
            node.send_camera_info()  # the image was lost on its way: the next one
        node.spin(PAUSE_S)
    node.settle()
    times = node_times(node)
    overhead = times["latency"] - times["total"]
    end_to_end = np.array([1e3 * (read_s - sent_s) for sent_s, read_s in node.clouds])
    node.forget()
    return {
        "images": str(len(overhead)),
        "decode": times["decode"],
        "waiting": overhead - times["decode"] - times["publish"],
        "convert, publish": times["publish"],
        "overhead": overhead,
        "inference": times["total"],
        "outside of the node": end_to_end - times["latency"],
    }


def measure_load(node: RunningNode, rate_hz: float, seconds: float) -> Columns:
    """Publish images at a rate; the columns of the table."""
    node.run(rate_hz, WARM_UP_S)
    node.fill_queues()
    first_mb = node.facts().get("resident MB", 0.0)
    node.run(rate_hz, seconds)
    grown_mb = node.facts().get("resident MB", 0.0) - first_mb
    node.settle()
    received, completed, dropped = node.counts()
    latency_ms = node_times(node)["latency"]
    published_s = np.array([sent_s for sent_s, _ in node.clouds]) + 1e-3 * latency_ms
    period_ms = 1e3 * np.diff(published_s)
    return {
        "received / s": f"{received / seconds:.1f}",
        "completed / s": f"{completed / seconds:.1f}",
        "dropped": ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "none",
        "memory MB": f"{first_mb:.1f} {grown_mb:+.1f}",
        "period": period_ms,
        "latency": latency_ms[1:],
        "latency beyond the period": latency_ms[1:] - period_ms,
    }


def node_times(node: RunningNode) -> dict[str, NDArray[np.float64]]:
    """Processing times by stage, those of one result at the same place."""
    lengths = {len(times) for times in node.times_ms.values()} | {len(node.clouds)}
    if len(lengths) != 1:
        raise RuntimeError(f"some results or their times were lost: {sorted(lengths)}; the machine is too busy")
    return {stage: np.array(times) for stage, times in node.times_ms.items()}


def pairs_table(title: str, rows: dict[str, Columns], ratio: str) -> str:
    """Medians and 95th percentiles in Markdown; last, the ratios of the column `ratio`'s medians to its first."""
    header = (f"{title}, ms p50 / p95", *next(iter(rows.values())), f"times the {ratio}")
    base = np.median(next(iter(rows.values()))[ratio])
    cells = []
    for name, columns in rows.items():
        shown = (
            values if isinstance(values, str) else f"{np.median(values):.1f} / {np.percentile(values, 95):.1f}"
            for values in columns.values()
        )
        cells.append((name, *shown, f"{np.median(columns[ratio]) / base:.2f}"))
    return table(header, cells)


if __name__ == "__main__":
    main()
