"""What the running node adds to inference, and how it bears more images than it can complete.

``python -m benchmarks.node_load`` runs the node in a process of its own, with a camera of 1280x720 pixels before it and
a reader behind it. It prints Markdown tables:

- conversions alone, in this process;
- one image at a time, raw and JPEG. The node's own processing times say all that lies between the arrival of an image
  and its published voxels and is no inference. That is decoding, waiting, conversion and publishing;
- images at 60 Hz: how old published results are, what becomes of the other images, and whether memory grows.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.completion import demo_drive, hardware, table, timed
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.shipped import open_student
from scene_completion_ros.ros import dds
from scene_completion_ros.voxels.cloud import VOXEL_CLOUD_DTYPE, voxels_to_cloud_array
from scene_completion_ros.voxels.cloud_kernel import write_cloud
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState

if TYPE_CHECKING:  # at run time only once the middleware is configured
    from benchmarks.running_node import RunningNode

WIDTH, HEIGHT = 1280, 720
OCCUPIED = 200_000  # voxels: a street, and the insides of its things
PAUSE_S = 0.05  # between the result of an image and the next one, where images come one at a time
WARM_UP_S = 10.0  # before the measurement at a rate
WAIT_S = 60.0


@dataclass(frozen=True)
class Overhead:
    """Milliseconds of single images, as pairs of the median and the 95th percentile.

    Attributes:
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
    parser.add_argument("--repeats", type=int, default=20, help="runs of a conversion")
    parser.add_argument("--conversions", action="store_true", help="print the first table only")
    parser.add_argument("--json", type=Path, help="where to write the numbers as well")
    arguments = parser.parse_args()
    prepare_middleware()
    from benchmarks.running_node import RunningNode

    bundle = open_student(arguments.bundle)
    print(hardware(arguments.threads or os.cpu_count() or 1), flush=True)
    camera, picture = large_camera()
    print("\n" + conversion_table(bundle, picture, arguments.repeats), flush=True)
    if arguments.conversions:
        return
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
            with RunningNode(camera, picture, compressed=compressed, parameters=parameters) as node:
                node.start()
                numbers["overhead"][name] = measure_overhead(node, arguments.images)
                numbers["load"][name] = measure_load(node, arguments.rate, arguments.seconds)
            if arguments.json:  # after every case: a long measurement may be interrupted
                plain = {kind: {one: asdict(row) for one, row in rows.items()} for kind, rows in numbers.items()}
                arguments.json.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    print("\n" + overhead_table(numbers["overhead"]), flush=True)
    print("\n" + load_table(numbers["load"], arguments.rate), flush=True)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


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


def conversion_table(bundle: StudentBundle, picture: NDArray[np.uint8], repeats: int) -> str:
    """Decoding and the making of the cloud, in one thread, by the CPU's clock: other processes may run meanwhile."""
    from scene_completion_ros.messages.images import decode_image
    from scene_completion_ros.ros import messages

    voxels = random_voxels(bundle)
    raw, jpeg = messages.image_message(picture, 0, ""), messages.compressed_image_message(picture, 0, "")
    points = np.zeros(VOXEL_CLOUD_DTYPE.itemsize * len(voxels), np.uint8)
    runs: dict[str, Callable[[], object]] = {
        f"decode raw, {WIDTH}x{HEIGHT}": lambda: decode_image(raw),
        f"decode JPEG, {len(jpeg.data) // 1000} kB": lambda: decode_image(jpeg),
        f"cloud of {len(voxels)} voxels, NumPy": lambda: voxels_to_cloud_array(voxels),
        "cloud, compiled": lambda: write_cloud(voxels, points, threads=1),
    }
    rows = [(name, f"{1e3 * timed(run, repeats)[1]:.2f}") for name, run in runs.items()]
    return table(("conversion", "CPU ms"), rows)


def random_voxels(bundle: StudentBundle, occupied: int = OCCUPIED) -> SemanticVoxels:
    """As many occupied voxels as an image of the bundled drive has, or another number, anywhere in the grid."""
    rng, grid = np.random.default_rng(0), bundle.grid
    flat = np.sort(rng.choice(int(np.prod(grid.shape)), occupied, replace=False))
    state = np.full(grid.shape, VoxelState.FREE_SEEN, np.uint8)
    state.reshape(-1)[flat] = VoxelState.SURFACE
    return SemanticVoxels(
        grid=grid,
        grid_from_camera=bundle.grid_from_camera,
        stamp_ns=0,
        state=state,
        index=np.stack(np.unravel_index(flat, grid.shape), axis=-1).astype(np.int32),
        probability=rng.uniform(0.5, 1.0, occupied).astype(np.float32),
        label=rng.integers(0, len(bundle.class_names), occupied).astype(np.uint8),
        confidence=rng.uniform(0.0, 1.0, occupied).astype(np.float32),
        class_names=bundle.class_names,
        class_colours=bundle.class_colours,
    )


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
    node.fill_queues(rate_hz)
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
