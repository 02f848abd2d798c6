"""Seconds and memory of a room of points through the network of CUA-O3D, beside spconv where that is installed.

``python -m benchmarks.points`` voxelises a rendered box of a room at 2 cm and computes its features, forward alone, and
with --train a step forward and backward. The wheel of spconv for CPUs computes the forward pass alone.
"""

import argparse
import resource
import time

import numpy as np
import torch

from benchmarks.measuring import hardware
from scene_completion_ros.evaluation.metric import table
from scene_completion_training.points.voxels import voxelised
from scene_completion_training.sparse import mink_unet
from scene_completion_training.sparse.convolution import gpu_library, spconv_submanifold
from scene_completion_training.sparse.mink_unet import LEVELS, MinkUNet18A
from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet

ROOM_M = (6.0, 5.0, 2.6)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--points", type=int, default=200_000, help="points of the room")
    parser.add_argument("--train", action="store_true", help="a step, with the gradients of all weights")
    parser.add_argument("--spconv", action="store_true", help="submanifold convolutions by spconv on the CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.spconv and gpu_library():
        mink_unet.submanifold = spconv_submanifold  # type: ignore[attr-defined]
    print(hardware(arguments.threads), flush=True)
    generator = np.random.default_rng(0)
    points = (generator.random((arguments.points, 3)) * ROOM_M).astype(np.float32)
    wall = generator.integers(5, size=arguments.points)  # four walls and the floor; noise as that of a depth camera
    axis, side = np.array([0, 0, 1, 1, 2])[wall], np.array([0, 1, 0, 1, 0])[wall]
    rows = np.arange(arguments.points)
    points[rows, axis] = side * np.array(ROOM_M)[axis] + generator.normal(0.0, 0.01, arguments.points)
    network = MinkUNet18A(3).train(arguments.train)
    started = [time.perf_counter(), time.process_time()]
    index = torch.nn.functional.pad(torch.from_numpy(voxelised(points, 0.02, generator).index), (1, 0))
    x, y, z = (index[:, 1:].amax(dim=0) + 1).tolist()
    pyramid = Pyramid.of(VoxelSet.of(index, (x, y, z))[0], LEVELS)
    with torch.set_grad_enabled(arguments.train):
        out = network(torch.ones(len(index), 3), pyramid)
    if arguments.train:
        torch.autograd.backward(out.square().mean())
    took = time.perf_counter() - started[0], time.process_time() - started[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cells = [str(arguments.points), str(len(index)), *(f"{one:.1f}" for one in took), f"{peak:.0f}"]
    print("\n" + table(("points", "voxels", "seconds", "CPU seconds", "peak MiB"), [cells]))


if __name__ == "__main__":
    main()
