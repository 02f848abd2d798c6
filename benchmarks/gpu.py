"""The voxel query and the whole way from image to voxels on a GPU, with ratios measured in one run.

``python -m benchmarks.gpu`` needs a GPU, pycuda and a CUDA compiler; it prints Markdown tables:

- how far the kernels are from the CPU's on the same features;
- each kernel on the features of a real image, between events on its stream;
- the naive query in PyTorch on the same GPU, where torch sees it;
- the way from a canonical image to sparse voxels, both on the host, where TensorRT is installed.
"""

import contextlib
import functools
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.completion import naive_query
from benchmarks.measuring import canonical_image, option_parser, timed
from scene_completion_ros.errors import GpuError
from scene_completion_ros.evaluation.metric import table
from scene_completion_ros.inference.bundle import StudentBundle, open_student
from scene_completion_ros.inference.encoder import cpu_engine, make_encoder
from scene_completion_ros.inference.gpu.device import PrimaryContext, installed_flavour, missing_parts
from scene_completion_ros.inference.gpu.kernel_provision import (
    check_loads,
    comparison_maps,
    measure_kernel_parity,
)
from scene_completion_ros.inference.gpu.kernels import (
    Buffer,
    KernelDevice,
    KernelSizes,
    compile_kernels,
)
from scene_completion_ros.inference.gpu.parity import KERNELS
from scene_completion_ros.inference.gpu.tensorrt_engine import TensorRtEngine, provide_engine
from scene_completion_ros.inference.gpu.voxel_pipeline import VoxelPipeline
from scene_completion_ros.inference.scene_query import PreparedScene, ray_camera

WARM_UP_S = 1.0  # of frames, until the clocks of the GPU are up
NAIVE_CHUNK = 2**20  # voxels at a time; all at once need more memory than small GPUs have
FILLER_BYTES, FILLER_COPIES = 2**28, 12  # of copies that keep the GPU busy while the host enqueues a frame


def main() -> None:
    """Prints all tables."""
    parser = option_parser(__doc__)
    parser.add_argument("--precision", default="fp16", help="of the encoder: fp16 or fp32")
    parser.add_argument("--frames", type=int, default=300, help="frames a row")
    arguments = parser.parse_args()
    missing = [part for part in missing_parts(installed_flavour()) if part.part != installed_flavour()]
    if missing:
        parser.exit(2, "".join(f"{part.part} {part.what}: {part.cure}\n" for part in missing))
    if torch_sees_gpu():  # it frees memory when the process ends, in a context that it therefore has to hold itself
        import torch

        torch.zeros(1, device="cuda")
    bundle, context = open_student(arguments.bundle), PrimaryContext()
    with context:
        run(bundle, context, arguments.precision, arguments.frames)
    context.close()


def run(bundle: StudentBundle, context: PrimaryContext, precision: str, frames: int) -> None:
    """Print all tables; with the context current."""
    half = precision != "fp32"
    major, minor = (int(part) for part in context.facts.compute_capability.split("."))
    on_gpu = functools.partial(KernelDevice, context)
    sizes = KernelSizes.of(bundle.head, half_features=half)
    kernels = compile_kernels(sizes, (major, minor), check=functools.partial(check_loads, on_gpu))
    print(
        f"{context.facts.name}, compute capability {major}.{minor}, {context.facts.multiprocessors} multiprocessors; "
        f"kernels compiled by {kernels.compiler}\n",
        flush=True,
    )
    maps = comparison_maps(bundle, make_encoder(bundle, cpu_engine()))
    print(parity_table(measure_kernel_parity(bundle, kernels, on_gpu, maps, half_features=half)) + "\n", flush=True)

    image = canonical_image(bundle)
    stored = make_encoder(bundle, cpu_engine())(image).astype(np.float16 if half else np.float32)
    prepared = PreparedScene.of(bundle, bundle.grid, bundle.grid_from_camera, ray_camera(bundle.canonical))
    device = KernelDevice(context, kernels)
    pipeline = VoxelPipeline(device, prepared.query, prepared.march, prepared.classifier, prepared.labels)
    uploaded = device.upload(stored)
    with filler(context, device) as busy:
        times, occupied = measure_kernels(device, pipeline, lambda: uploaded, frames, busy=busy)
    print(kernel_table(prepared, times, occupied, measure_naive(bundle, prepared, stored)) + "\n", flush=True)
    try:
        engine = open_engine(bundle, context, device, precision)
    except GpuError as error:
        print(f"image to voxels was not measured: {error}", flush=True)
    else:
        load = functools.partial(engine.load, image[None])
        times, _ = measure_kernels(device, pipeline, engine.enqueue, frames, first="encode", load=load)
        print(way_table(f"{installed_flavour()} in {precision}", times), flush=True)
        engine.close()
    device.close()


def measure_kernels(
    device: KernelDevice,
    pipeline: VoxelPipeline,
    encode: Callable[[], Buffer],  # gives the encoder's features, or enqueues them
    frames: int,
    *,
    first: str | None = None,  # name of the stage that `encode` is; None for none
    load: Callable[[], None] = lambda: None,  # the host's part before `encode`
    # Keeps the device busy before each frame, so that kernels are not timed with what the host takes to enqueue
    # them.
    busy: Callable[[], None] = lambda: None,
) -> tuple[dict[str, NDArray[np.float64]], int]:
    """Run frames, one after the other, of which those after `WARM_UP_S` count. Raises GpuError where the device failed.

    Returns milliseconds [frames] of each stage by the clock of the device, and of ``host`` by that of the host. The
    latter is from before `load` until the voxels are there. Then the number of occupied voxels.
    """

    def enqueue() -> None:
        device.begin()
        found = encode()
        if first is not None:
            device.lap(first)
        pipeline.enqueue(found)
        device.lap("copies")

    def frame() -> tuple[dict[str, float], int]:
        busy()
        started_s = time.perf_counter()
        load()
        enqueue()
        occupied = len(pipeline.wait().index)
        return {**device.laps_ms(), "host": 1e3 * (time.perf_counter() - started_s)}, occupied

    until_s = time.perf_counter() + WARM_UP_S
    frame()
    while time.perf_counter() < until_s:
        frame()
    rows = [frame() for _ in range(frames)]
    return {stage: np.array([row[stage] for row, _ in rows]) for stage in rows[0][0]}, rows[-1][1]


def kernel_table(
    prepared: PreparedScene, times: Mapping[str, NDArray[np.float64]], occupied: int, naive_ms: float | None
) -> str:
    """Each kernel, and the naive query next to the fused one; ratios are to the latter."""
    fused = np.median(times["query"])
    rows = [("naive PyTorch, all voxels", "not measured: torch sees no GPU", "", "")]
    if naive_ms is not None:
        rows = [(rows[0][0], f"{naive_ms:.3f}", "", f"{naive_ms / fused:.0f}")]
    for stage in ("query", "march", "assemble", "label", "copies"):
        middle, late = np.percentile(times[stage], (50, 95))
        rows.append((stage, f"{middle:.3f}", f"{late:.3f}", f"{middle / fused:.2f}"))
    shape = "x".join(map(str, prepared.query.grid.shape))
    header = f"{shape} voxels, {len(prepared.query.samples.target)} in view, {occupied} occupied"
    return table((header, "p50 ms", "p95 ms", "times the query"), rows)


def way_table(encoder: str, times: Mapping[str, NDArray[np.float64]]) -> str:
    """From an image on the host to sparse voxels on the host."""
    shown = {"image to voxels, by the host's clock": times["host"]}
    shown["image to voxels, by the GPU's clock"] = np.sum([times[name] for name in times.keys() - {"host"}], axis=0)
    shown = {f"encoder: {encoder}": times["encode"], **shown}
    rows = [(name, *(f"{np.percentile(values, q):.3f}" for q in (50, 95))) for name, values in shown.items()]
    return table((encoder, "p50 ms", "p95 ms"), rows)


def parity_table(parity: Mapping[str, float]) -> str:
    """How far the kernels are from the CPU's."""
    rows = [(name, f"{value:.1e}", f"{KERNELS.limits[name]:.0e}") for name, value in parity.items()]
    return table(("kernels against the CPU's", "found", "allowed"), rows)


@contextlib.contextmanager
def filler(context: PrimaryContext, device: KernelDevice) -> Iterator[Callable[[], None]]:
    """Keeps the stream of a device busy for some milliseconds."""
    import pycuda.driver as cuda

    source, target = (context.allocate(FILLER_BYTES, "a copy") for _ in range(2))

    def busy() -> None:
        for _ in range(FILLER_COPIES):
            cuda.memcpy_dtod_async(int(target), int(source), FILLER_BYTES, device.stream)

    yield busy
    source.free()
    target.free()


def torch_sees_gpu() -> bool:
    """Whether torch is installed, and can compute on the GPU."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def measure_naive(bundle: StudentBundle, prepared: PreparedScene, features: NDArray[Any]) -> float | None:
    """Median milliseconds of the query as one writes it in PyTorch, all of it on the GPU; None without torch there."""
    if not torch_sees_gpu():
        return None
    import torch

    camera_from_grid = bundle.grid_from_camera.inverse()
    points = camera_from_grid.apply(prepared.query.grid.centres().reshape(-1, 3)).astype(np.float32)
    on_device = torch.from_numpy(features.astype(np.float32)).cuda()
    query = naive_query(bundle, points, threads=1, device="cuda", chunk=NAIVE_CHUNK)

    def run_query() -> None:
        query(on_device)
        torch.cuda.synchronize()

    return float(np.median(timed(run_query, 10).wall))


def open_engine(bundle: StudentBundle, context: PrimaryContext, device: KernelDevice, precision: str) -> TensorRtEngine:
    """The encoder on the stream of a device. Raises GpuError: TensorRT or a graph of this precision is missing."""
    flavour = installed_flavour()
    if missing := missing_parts(flavour):
        raise GpuError("; ".join(f"{part.part} {part.what}" for part in missing))
    if precision not in bundle.gpu_precisions:
        raise GpuError(f"the bundle has no graph in {precision}")
    engine = provide_engine(bundle, precision, context, lambda: make_encoder(bundle, cpu_engine()))
    engine.stream = device.stream
    return engine


if __name__ == "__main__":
    main()
