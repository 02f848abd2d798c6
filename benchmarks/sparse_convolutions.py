"""Forward pass of a sparse U-net over a cloud, as a Markdown table with ratios measured in one run.

``python -m benchmarks.sparse_convolutions`` takes a room of 200 000 points at 2 cm through the HUNet, with and without
the search for neighbours, and with readable convolutions, which look their neighbours up anew, gather all of them and
multiply at once. Each also runs in a process of its own for its peak of memory.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

from benchmarks.measuring import hardware, in_turn, ratio_table
from scene_completion_training.sparse import hu_net
from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet, cube

SIZE, EDGE = (6.0, 5.0, 2.6), 0.02  # of a room and of a voxel, metres


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--points", type=int, default=200_000, help="points of the room")
    parser.add_argument("--only", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rows = works(room(arguments.points))
    if arguments.only:
        with torch.inference_mode():
            rows[arguments.only]()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    print(hardware(arguments.threads), flush=True)
    memory = {}
    for name in rows:
        command = [sys.executable, "-m", "benchmarks.sparse_convolutions", *sys.argv[1:], "--only", name]
        memory[name] = f"{int(subprocess.check_output(command, text=True)) / 2**20:.2f}"
    with torch.inference_mode():
        runs = in_turn(rows, 3)
    print("\n" + ratio_table(f"forward of {arguments.points} points, {EDGE} m", runs, {"peak GiB": memory}))


def room(count: int) -> VoxelSet:
    """Voxels of points on floor, walls and boxes."""
    random = torch.Generator().manual_seed(0)
    size = torch.tensor(SIZE)
    points = torch.rand(count, 3, generator=random) * size
    face = torch.randint(5, (count,), generator=random)
    for number, (axis, at) in enumerate(((2, 0.0), (0, 0.0), (0, 1.0), (1, 0.0), (2, 0.3))):
        points[face == number, axis] = at * (size[axis] - EDGE)
    index = torch.cat([torch.zeros(count, 1), (points / EDGE).floor()], dim=1).long()
    index = torch.unique(index, dim=0)  # type: ignore[no-untyped-call]
    x, y, z = (index[:, 1:].amax(dim=0) + 1).tolist()
    return VoxelSet.of(index, (x, y, z))[0]


def works(voxels: VoxelSet) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    network = hu_net.VoxelHUNet(hu_net.HUNetSettings(6, (32, 64, 96, 128), (48, 64, 96, 128)))
    features, levels = torch.randn(len(voxels), 6), network.settings.levels
    known = Pyramid.of(voxels, levels)

    def forward() -> object:
        return network(features, Pyramid.of(VoxelSet(voxels.index, voxels.shape), levels))

    def readable() -> object:
        with mock.patch.object(hu_net, "submanifold", gathered):
            return forward()

    return {"HUNet": forward, "neighbours known": lambda: network(features, known), "readable convolutions": readable}


def gathered(features: Tensor, weight: Tensor, voxels: VoxelSet) -> Tensor:
    """`submanifold`, readable: [N, 27 C] times [27 C, D], zeros where no neighbour is."""
    rows = voxels.around(voxels.index, cube(3)).t()
    return torch.cat([features, features.new_zeros(1, features.shape[1])])[rows].flatten(1) @ weight.flatten(0, 1)


if __name__ == "__main__":
    main()
