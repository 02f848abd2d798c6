"""Speed of the street world: frames a second of images, depth and labels, voxel truth and LiDAR, as a Markdown table.

``python -m benchmarks.street_world`` drives through a few towns at 640×192 with four rays a pixel, as for training.
Every frame counts, those that build the next stretch of the town as well. Towns are driven by as many processes at once
as there are workers, which is what the command does with ``--workers``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from benchmarks.completion import hardware, table
from scene_completion_training.street_world.camera_rig import LEFT, RIGS, make_rig
from scene_completion_training.street_world.drive import StreetDrive

ROWS = ("image", "depth and labels", "voxel truth", "LiDAR")
WARM_UP_FRAMES = 2


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 6, 12, 5], help="towns, shared among the workers")
    parser.add_argument("--frames", type=int, default=24, help="frames a town")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 192), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--rig", choices=RIGS, default=RIGS[0])
    parser.add_argument("--supersampling", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="processes at once")
    arguments = parser.parse_args()
    print(hardware(arguments.workers), flush=True)
    options = (arguments.frames, *arguments.size, arguments.rig, arguments.supersampling)
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(_measure, [(seed, WARM_UP_FRAMES, *options[1:]) for seed in arguments.seeds]))  # compiles kernels
        measured = list(pool.map(_measure, [(seed, *options) for seed in arguments.seeds]))
    rows: list[tuple[str, ...]] = []
    for name in ("town", *ROWS):
        wall, cpu = (_mean([m[name][kind] for m in measured]) for kind in (0, 1))
        rows.append(
            (name, f"{1e3 * wall:.0f}", f"{1e3 * cpu:.0f}", f"{arguments.workers / wall:.1f}", f"{1 / cpu:.1f}")
        )
    header = (f"{arguments.size[0]}×{arguments.size[1]}, {arguments.rig}", "ms", "CPU ms", "a second", "a CPU second")
    print("\n" + table(header, rows))
    print(f"\nload at the end {os.getloadavg()[0]:.1f}: on a busy machine only the CPU time says something")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _each(product: Callable[[int], object], indices: range) -> None:
    for index in indices:
        product(index)


def _measure(options: tuple[int, int, int, int, str, int]) -> dict[str, tuple[float, float]]:
    """Seconds and CPU seconds for each product of a frame, and for planning and building a town."""
    seed, frames, width, height, rig, supersampling = options
    found = {}

    def clock(name: str, count: int, work: Callable[[], object]) -> None:
        start, cpu = time.perf_counter(), time.process_time()
        work()
        found[name] = ((time.perf_counter() - start) / count, (time.process_time() - cpu) / count)

    def begin() -> StreetDrive:
        drives.append(StreetDrive(seed, frames, make_rig(width, height, kind=rig), supersampling=supersampling))
        drives[0].image(0, LEFT)
        return drives[0]

    drives: list[StreetDrive] = []
    clock("town", 1, begin)
    drive, cameras = drives[0], list(drives[0].rig.cameras)
    clock("image", frames * len(cameras), lambda: [drive.image(i, name) for i in range(frames) for name in cameras])
    few = range(0, frames, max(1, frames // 6))
    products: tuple[Callable[[int], object], ...] = (drive.view, drive.truth, drive.lidar)
    for name, product in zip(ROWS[1:], products, strict=True):
        clock(name, len(few), partial(_each, product, few))
    return found


if __name__ == "__main__":
    main()
