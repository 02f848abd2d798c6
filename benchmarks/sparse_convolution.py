"""Cost of sparse convolutions and of the masked scene network on the CPU, as Markdown tables.

``python -m benchmarks.sparse_convolution`` convolves 65 000 surface voxels of a grid of 256×256×32 with every back-end
that can be imported. They take turns, so that all meet the same load. spconv, which the package does not use, and the
dense convolution of torch stand beside them. The command then takes the features of sets that grow, steps with them as
masked scene modelling does, and says what memory a step takes.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.completion import hardware, table
from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.sparse.convolution import Backend, BackendName, backend
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from scene_completion_training.sparse.sampling import sample_levels
from scene_completion_training.sparse.voxel_set import Pyramid, VoxelSet

SHAPE = (256, 256, 32)
CHANNELS = (32, 64)
BACKENDS: tuple[BackendName, ...] = ("torch", "ocnn")
INPUTS = 5


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="runs a row")
    parser.add_argument("--voxels", type=int, default=65_000, help="voxels of the convolutions")
    parser.add_argument(
        "--growth", type=int, nargs="*", default=[16_000, 32_000, 65_000, 130_000, 260_000], help="voxels of networks"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(hardware(arguments.threads), flush=True)
    voxels = street(arguments.voxels)
    for channels in CHANNELS:
        print("\n" + convolution_table(voxels, channels, arguments.repeats), flush=True)
    print("\n" + growth_table(sorted(arguments.growth), arguments.repeats), flush=True)


def street(count: int) -> VoxelSet:
    """Surfaces of a street with houses of which the nearest voxels are taken.

    Args:
        count: Number of voxels, at most those that there are.
    """
    generator = np.random.default_rng(0)
    occupied = np.zeros(SHAPE, dtype=bool)
    x, y = np.meshgrid(*map(np.arange, SHAPE[:2]), indexing="ij")
    occupied[x, y, (4 + 2 * np.sin(x / 40) + 2 * np.cos(y / 50)).astype(int)] = True
    for _ in range(250):
        (left, front), (width, depth), top = generator.integers(240, size=2), generator.integers(4, 24, 2), 30
        house = (slice(left, left + width), slice(front, front + depth), slice(3, generator.integers(6, top)))
        within = tuple(slice(s.start + 1, s.stop - 1) for s in house)
        kept = occupied[within].copy()
        occupied[house] = True
        occupied[within] = kept
    places = np.argwhere(occupied)
    nearest = np.argsort(np.hypot(places[:, 0], places[:, 1] - SHAPE[1] / 2), kind="stable")[:count]
    index = np.concatenate([np.zeros((len(nearest), 1), dtype=int), places[nearest]], axis=1)
    return VoxelSet.of(torch.from_numpy(index), SHAPE)[0]


def convolution_table(voxels: VoxelSet, channels: int, repeats: int) -> str:
    """Submanifold convolutions of edge 3, the same weights everywhere, tables of neighbours made before."""
    features = torch.randn(len(voxels), channels, requires_grad=True)
    weight = (torch.randn(27, channels, channels) / (9 * channels) ** 0.5).requires_grad_()
    gradient = torch.randn(len(voxels), channels)
    forward: dict[str, Callable[[], Tensor]] = {
        name: functools.partial(compute.subm, features, weight, voxels) for name, compute in importable().items()
    }
    forward |= spconv_forward(features, weight, voxels)
    if channels == min(CHANNELS):
        forward["dense conv3d"] = dense_forward(features, weight, voxels)
    with torch.no_grad():
        reference = forward["torch"]()
        differences = {name: float((function() - reference).abs().max()) for name, function in forward.items()}
        once = in_turns(forward, repeats)
    both = in_turns(
        {name: functools.partial(_back, forward[name], gradient) for name in BACKENDS if name in forward}, repeats
    )
    rows = [
        (
            name,
            *_times(once[name], once["torch"]),
            *(_times(both[name], both["torch"]) if name in both else ("–",) * 3),
            f"{differences[name]:.1e}",
        )
        for name in forward
    ]
    pairs = sum(len(rows) for block in voxels.neighbours for rows, _ in block.pairs)
    title = f"{len(voxels)} voxels, {pairs / len(voxels):.1f} neighbours each, {channels} channels"
    head = (
        title,
        *(f"{what} {column}" for what in ("forward", "and backward") for column in ("p50 ms", "CPU ms", "times torch")),
        "differs by",
    )
    return table(head, rows)


def importable() -> Mapping[str, Backend]:
    """Name -> back-end; those that cannot be imported say why."""
    found: dict[str, Backend] = {}
    for name in BACKENDS:
        try:
            found[name] = backend(name)
        except ConfigurationError as error:
            print(f"\nwithout {name}: {error}", flush=True)
    return found


def spconv_forward(features: Tensor, weight: Tensor, voxels: VoxelSet) -> dict[str, Callable[[], Tensor]]:
    """The same by spconv, whose wheel for CPUs knows neither bias nor backward; nothing where it is not installed."""
    try:
        import spconv.pytorch as spconv
        from spconv.core import ConvAlgo
    except (ImportError, RuntimeError) as error:
        print(f"\nwithout spconv: {error}", flush=True)
        return {}
    channels = features.shape[1]
    layer = spconv.SubMConv3d(channels, channels, 3, bias=False, algo=ConvAlgo.Native, indice_key="table")
    layer.weight.data = weight.detach().unflatten(0, (3, 3, 3)).permute(4, 0, 1, 2, 3).contiguous()  # type: ignore[no-untyped-call]
    tensor = functools.partial(spconv.SparseConvTensor, features.detach(), voxels.index.int(), voxels.shape, 1)
    with torch.no_grad():
        pairs = layer(tensor()).indice_dict

    def run() -> Tensor:
        given = tensor()
        given.indice_dict = pairs
        return layer(given).features  # type: ignore[no-any-return]

    return {"spconv": run}


def dense_forward(features: Tensor, weight: Tensor, voxels: VoxelSet) -> Callable[[], Tensor]:
    """The same by a dense convolution of the whole grid."""
    place = tuple(voxels.index.t())
    grid = torch.zeros(1, *voxels.shape, features.shape[1])
    grid[place] = features.detach()
    kernel = weight.detach().view(3, 3, 3, *weight.shape[1:]).permute(4, 3, 0, 1, 2).contiguous()
    dense = grid.movedim(-1, 1).contiguous()
    return lambda: functional.conv3d(dense, kernel, padding=1).movedim(1, -1)[place]


def _back(function: Callable[[], Tensor], gradient: Tensor) -> None:
    function().backward(gradient)  # type: ignore[no-untyped-call]


def growth_table(sizes: list[int], repeats: int) -> str:
    """Features of all levels at all voxels, and a step of training, for sets that grow."""
    net, teacher = VoxelHUNet(HUNetSettings(INPUTS)), VoxelHUNet(HUNetSettings(INPUTS)).eval()
    optimiser = torch.optim.AdamW(net.parameters(), 1e-4)
    rows = []
    for size in sizes:
        given = street(size)
        stages: dict[str, Callable[[], object]] = {
            "sets": functools.partial(sets, given.index),
            "network": functools.partial(_network, net, sets(given.index)),
            "sampling": functools.partial(_sampling, net, sets(given.index)),
        }
        with torch.no_grad():
            times = in_turns(stages, repeats)
        before = resident()
        step = in_turns({"step": functools.partial(masked_step, net, teacher, optimiser, given)}, repeats)["step"]
        total = sum(float(np.median(wall)) for wall, _ in times.values())
        rows.append(
            (
                str(len(given)),
                *(f"{1e3 * np.median(times[stage][0]):.0f}" for stage in stages),
                f"{total:.2f}",
                f"{sum(cpu for _, cpu in times.values()):.2f}",
                f"{np.median(step[0]):.2f}",
                f"{len(given) / np.median(step[0]):.0f}",
                f"{resident('VmHWM') - before:.0f}",
            )
        )
    head = (
        "voxels", "sets ms", "network ms", "sampling ms", "features s", "CPU s",
        "step s", "voxels a second", "memory of a step MiB",
    )  # fmt: skip
    return table(head, rows)


def sets(index: Tensor) -> Pyramid:
    """The pyramid of voxels [N, 4] with all of its tables of neighbours, made anew."""
    pyramid = Pyramid.of(VoxelSet.of(index, SHAPE)[0], HUNetSettings(INPUTS).levels)
    for level in pyramid.levels:
        _ = level.neighbours
    return pyramid


def _network(net: VoxelHUNet, pyramid: Pyramid) -> list[Tensor]:
    found: list[Tensor] = net(torch.ones(len(pyramid.levels[0]), INPUTS), pyramid)
    return found


def _sampling(net: VoxelHUNet, pyramid: Pyramid) -> Tensor:
    """The hierarchical feature of each voxel."""
    levels = [torch.ones(len(voxels), dim) for voxels, dim in zip(pyramid.levels, net.dims, strict=True)]
    index = pyramid.levels[0].index
    centres = torch.cat([index[:, :1], index[:, 1:] + 0.5], dim=1)
    return torch.cat(sample_levels(levels, pyramid, centres)[0], dim=1)


def masked_step(net: VoxelHUNet, teacher: VoxelHUNet, optimiser: torch.optim.Optimizer, voxels: VoxelSet) -> None:
    """A step as in masked scene modelling: four of ten patches are hidden, a teacher sees all, and all levels count."""
    pyramid = sets(voxels.index)
    seen = torch.rand(SHAPE[0] // 8, SHAPE[1] // 8, SHAPE[2] // 8)[tuple((voxels.index[:, 1:] // 8).t())] >= 0.4
    visible = sets(voxels.index[seen])
    with torch.no_grad():
        target = _network(teacher, pyramid)
    answer = net(torch.ones(len(visible.levels[0]), INPUTS), pyramid, visible)
    loss = sum(1 - functional.cosine_similarity(a, t, dim=1).mean() for a, t in zip(answer, target, strict=True))
    optimiser.zero_grad()
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


Timing = tuple[list[float], float]
"""Seconds of each run, and the least seconds of processor time of one."""


def in_turns(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Timing]:
    """Timing of each function after one run that does not count, one after the other, again and again."""
    wall: dict[str, list[float]] = {name: [] for name in functions}
    processor: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start, start_of_processor = time.perf_counter(), time.process_time()
            function()
            if repeat:
                wall[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - start_of_processor)
    return {name: (wall[name], min(processor[name])) for name in functions}


def _times(timing: Timing, reference: Timing) -> tuple[str, str, str]:
    """p50 and processor milliseconds, and the ratio of processor times."""
    return f"{1e3 * np.median(timing[0]):.0f}", f"{1e3 * timing[1]:.0f}", f"{timing[1] / reference[1]:.2f}"


def resident(what: str = "") -> float:
    """Resident memory of this process in MiB: now, or with "VmHWM" the most since that was last asked."""
    if not what:
        Path("/proc/self/clear_refs").write_text("5")  # forget the most
    status = Path("/proc/self/status").read_text()
    return float(status.split(f"{what or 'VmRSS'}:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
