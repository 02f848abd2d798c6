"""What the running node adds to inference, and how it bears more images than it can complete.

``python -m benchmarks.node_load`` runs the node in a process of its own, with a camera of 1280x720 pixels before it and
a reader behind it, and prints Markdown tables:

- one image at a time, raw and JPEG: all that lies between the arrival of an image and its published voxels and is no
  inference (decoding, waiting, conversion, publishing), from the node's own processing times;
- images at 60 Hz: how old published results are, what becomes of the other images, and whether memory grows.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.completion import demo_drive, hardware, table
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.ros import dds

if TYPE_CHECKING:  # at run time only once the middleware is configured
    from benchmarks.running_node import RunningNode

WIDTH, HEIGHT = 1280, 720
PAUSE_S = 0.05  # between the result of an image and the next one, where images come one at a time
WARM_UP_S = 10.0  # before the measurement at a rate
WAIT_S = 60.0


@dataclass(frozen=True)
class Overhead:
    """Milliseconds of single images, as pairs of the median and the 95th percentile.

    Attributes:
        images: Number of images.
        decode: Message to RGB.
        waiting: From the arrival of the message to decoding, and between the stages.
        publish: Conversion to messages and publishing.
        overhead: All of these: latency without inference.
        inference: RGB to voxels.
        outside: From publishing the image to reading its voxels, without what the node counts as latency.
    """

    images: int
    decode: tuple[float, float]
    waiting: tuple[float, float]
    publish: tuple[float, float]
    overhead: tuple[float, float]
    inference: tuple[float, float]
    outside: tuple[float, float]


@dataclass(frozen=True)
class Load:
    """A measurement with more images than can be completed; pairs are the median and the 95th percentile.

    Attributes:
        seconds: How long it was measured.
        sent: Images published.
        received: Images that the node received; the middleware lost the others.
        completed: Images completed and published.
        dropped: The others by reason.
        period_ms: Time between two results.
        latency_ms: Arrival of an image to publication of its voxels.
        beyond_ms: Latency beyond the period that ends with the same result.
        resident_mb: Memory at the beginning and at the end.
        slope_mb_a_minute: Of a line through the memory of every second.
    """

    seconds: float
    sent: int
    received: int
    completed: int
    dropped: dict[str, int]
    period_ms: tuple[float, float]
    latency_ms: tuple[float, float]
    beyond_ms: tuple[float, float]
    resident_mb: tuple[float, float]
    slope_mb_a_minute: float


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="student bundle")
    parser.add_argument("--images", type=int, default=100, help="images that are completed one at a time")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long images are published at a rate")
    parser.add_argument("--rate", type=float, default=60.0, help="images a second")
    parser.add_argument("--threads", type=int, default=0, help="parameter threads of the node; 0 for all")
    parser.add_argument("--json", type=Path, help="where to write the numbers as well")
    arguments = parser.parse_args()
    prepare_middleware()
    bundle = StudentBundle.load(arguments.bundle)
    print(hardware(arguments.threads or os.cpu_count() or 1), flush=True)
    camera, picture = large_camera()
    numbers: dict[str, Any] = {"overhead": {}, "load": {}}
    given = {"bundle": str(arguments.bundle), "threads": arguments.threads}
    with tempfile.TemporaryDirectory() as folder:
        near = near_grid(bundle.grid)
        grid_file = write_grid(Path(folder) / "grid.yaml", near, bundle)
        cases = {
            f"raw, {shape_of(bundle.grid)}": (False, given),
            f"JPEG, {shape_of(bundle.grid)}": (True, given),
            f"raw, {shape_of(near)}": (False, {**given, "grid_file": str(grid_file)}),
        }
        for name, (compressed, parameters) in cases.items():
            from benchmarks.running_node import RunningNode

            with RunningNode(camera, picture, compressed=compressed, parameters=parameters) as node:
                node.start()
                numbers["overhead"][name] = measure_overhead(node, arguments.images)
                numbers["load"][name] = measure_load(node, arguments.rate, arguments.seconds)
    print("\n" + overhead_table(numbers["overhead"]), flush=True)
    print("\n" + load_table(numbers["load"], arguments.rate), flush=True)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")
    if arguments.json:
        plain = {kind: {name: asdict(one) for name, one in rows.items()} for kind, rows in numbers.items()}
        arguments.json.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def prepare_middleware() -> None:
    """Choose the shared-memory profile and keep to this machine, before rclpy is imported."""
    dds.use_shipped_profile()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


def large_camera() -> tuple[Camera, NDArray[np.uint8]]:
    """A camera of 1280x720 pixels, of a kind that the student knows, and a picture of the bundled drive."""
    _, images = demo_drive()
    picture = np.asarray(cv2.resize(images[0], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)
    focal = 0.58 * WIDTH
    return Camera(focal, focal, (WIDTH - 1) / 2, (HEIGHT - 1) / 2, WIDTH, HEIGHT), picture


def near_grid(grid: VoxelGrid) -> VoxelGrid:
    """The half of a grid that is nearer to the camera, and the middle half of its breadth."""
    x, y, z = grid.shape
    left = grid.origin[1] + y // 4 * grid.voxel_size
    return VoxelGrid((grid.origin[0], left, grid.origin[2]), grid.voxel_size, (x // 2, y // 2, z), grid.frame)


def write_grid(path: Path, grid: VoxelGrid, bundle: StudentBundle) -> Path:
    """Write a grid file for the node, with the pose of the bundle's camera."""
    pose = bundle.grid_from_camera.matrix.reshape(-1).tolist()
    path.write_text(
        f"origin: {list(grid.origin)}\nvoxel_size: {grid.voxel_size}\nshape: {list(grid.shape)}\n"
        f"grid_from_camera: {pose}\n",
        encoding="utf-8",
    )
    return path


def shape_of(grid: VoxelGrid) -> str:
    """Such as 256x256x32."""
    return "x".join(map(str, grid.shape))


def measure_overhead(node: RunningNode, images: int) -> Overhead:
    """Complete images one at a time."""
    for _ in range(images):
        heard = len(node.clouds)
        node.send()
        if not node.until(lambda heard=heard: len(node.clouds) > heard, WAIT_S):  # type: ignore[misc]
            node.send_camera_info()  # the image was lost on its way: the next one
        node.spin(PAUSE_S)
    node.settle()
    times = node_times(node)
    overhead = times["latency"] - times["total"]
    end_to_end = np.array([1e3 * (read_s - sent_s) for sent_s, read_s in node.clouds])
    result = Overhead(
        images=len(overhead),
        decode=middle_and_p95(times["decode"]),
        waiting=middle_and_p95(overhead - times["decode"] - times["publish"]),
        publish=middle_and_p95(times["publish"]),
        overhead=middle_and_p95(overhead),
        inference=middle_and_p95(times["total"]),
        outside=middle_and_p95(end_to_end - times["latency"]),
    )
    node.forget()
    return result


def measure_load(node: RunningNode, rate_hz: float, seconds: float) -> Load:
    """Publish images at a rate."""
    node.run(rate_hz, WARM_UP_S)
    node.settle()
    node.forget()
    received, completed, dropped = node.counts()
    memory_mb: list[float] = []
    node.run(rate_hz, seconds, each=lambda: memory_mb.append(node.facts().resident_mb or 0.0))
    node.settle()
    received_now, completed_now, dropped_now = node.counts()
    times = node_times(node)
    published_s = np.array([sent_s for sent_s, _ in node.clouds]) + 1e-3 * times["latency"]
    period_ms, latency_ms = 1e3 * np.diff(published_s), times["latency"][1:]
    minutes = np.linspace(0.0, seconds / 60.0, len(memory_mb))
    return Load(
        seconds=seconds,
        sent=node.sent,
        received=received_now - received,
        completed=completed_now - completed,
        dropped={name: more for name, n in dropped_now.items() if (more := n - dropped.get(name, 0))},
        period_ms=middle_and_p95(period_ms),
        latency_ms=middle_and_p95(latency_ms),
        beyond_ms=middle_and_p95(latency_ms - period_ms),
        resident_mb=(memory_mb[0], memory_mb[-1]),
        slope_mb_a_minute=float(np.polyfit(minutes, memory_mb, 1)[0]),
    )


def node_times(node: RunningNode) -> dict[str, NDArray[np.float64]]:
    """Processing times by stage, those of one result at the same place."""
    lengths = {len(times) for times in node.times_ms.values()} | {len(node.clouds)}
    if len(lengths) != 1:
        raise RuntimeError(f"some results or their times were lost: {sorted(lengths)}; the machine is too busy")
    return {stage: np.array(times) for stage, times in node.times_ms.items()}


def middle_and_p95(values: NDArray[np.float64]) -> tuple[float, float]:
    """Median and 95th percentile."""
    return float(np.median(values)), float(np.percentile(values, 95))


def overhead_table(rows: dict[str, Overhead]) -> str:
    """Single images."""
    header = (
        f"one image of {WIDTH}x{HEIGHT} at a time, ms p50 / p95",
        "images",
        "decode",
        "waiting",
        "convert, publish",
        "**overhead**",
        "inference",
        "outside of the node",
    )
    shown = ("decode", "waiting", "publish", "overhead", "inference", "outside")
    return table(
        header, [(name, str(row.images), *(pair(getattr(row, part)) for part in shown)) for name, row in rows.items()]
    )


def load_table(rows: dict[str, Load], rate_hz: float) -> str:
    """Images at a rate."""
    header = (
        f"{WIDTH}x{HEIGHT} at {rate_hz:.0f} Hz",
        "sent, received / s",
        "completed / s",
        "period ms p50 / p95",
        "latency ms p50 / p95",
        "latency beyond the period ms",
        "latency / period",
        "dropped",
        "memory MB",
        "MB a minute",
    )
    cells = []
    for name, row in rows.items():
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(row.dropped.items())) or "none"
        cells.append(
            (
                name,
                f"{row.sent / row.seconds:.1f}, {row.received / row.seconds:.1f}",
                f"{row.completed / row.seconds:.1f}",
                pair(row.period_ms),
                pair(row.latency_ms),
                pair(row.beyond_ms),
                f"{row.latency_ms[0] / row.period_ms[0]:.2f} / {row.latency_ms[1] / row.period_ms[1]:.2f}",
                f"{dropped} of {row.received}",
                f"{row.resident_mb[0]:.1f} to {row.resident_mb[1]:.1f}",
                f"{row.slope_mb_a_minute:+.2f}",
            )
        )
    return table(header, cells)


def pair(values: tuple[float, float]) -> str:
    """Two numbers in a cell."""
    return f"{values[0]:.1f} / {values[1]:.1f}"


if __name__ == "__main__":
    main()
