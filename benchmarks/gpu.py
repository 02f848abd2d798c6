"""The voxel query and the whole way from image to voxels on a GPU, with ratios measured in one run.

``python -m benchmarks.gpu`` needs a GPU, pycuda and a CUDA compiler; it prints Markdown tables:

- how far the kernels are from the CPU's on the same features;
- each kernel on the features of a real image, between events on its stream;
- the way from a canonical image to sparse voxels, both on the host, where TensorRT is installed.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import canonical_image, option_parser
from scene_completion_ros.errors import BundleError, GpuError
from scene_completion_ros.evaluation.metric import table
from scene_completion_ros.inference.bundle import StudentBundle, open_student
from scene_completion_ros.inference.encoder import cpu_engine, field_encoder
from scene_completion_ros.inference.gpu.device import PrimaryContext, installed_flavour, require
from scene_completion_ros.inference.gpu.kernel_provision import check_loads, comparison_maps, measure_kernel_parity
from scene_completion_ros.inference.gpu.kernels import Buffer, KernelDevice, KernelSizes, compile_kernels
from scene_completion_ros.inference.gpu.parity import KERNELS
from scene_completion_ros.inference.gpu.tensorrt_engine import provide_engine
from scene_completion_ros.inference.gpu.voxel_pipeline import VoxelPipeline
from scene_completion_ros.inference.scene_query import field_on_grid, ray_camera

WARM_UP_S = 1.0  # of frames, until the clocks of the GPU are up
FILLER_BYTES, FILLER_COPIES = 2**28, 12  # of copies that keep the GPU busy while the host enqueues a frame


def main() -> None:
    """Prints all tables."""
    parser = option_parser(__doc__)
    parser.add_argument("--frames", type=int, default=300, help="frames a row")
    arguments = parser.parse_args()
    bundle, context = open_student(arguments.bundle), PrimaryContext()
    with context:
        run(bundle, context, arguments.frames)
    context.close()


def run(bundle: StudentBundle, context: PrimaryContext, frames: int) -> None:
    """Print all tables; with the context current."""
    major, minor = (int(part) for part in context.facts.compute_capability.split("."))
    on_gpu = functools.partial(KernelDevice, context)
    sizes = KernelSizes.of(bundle.field_head)
    kernels = compile_kernels(sizes, (major, minor), check=functools.partial(check_loads, on_gpu))
    print(
        f"{context.facts.name}, compute capability {major}.{minor}, {context.facts.multiprocessors} multiprocessors; "
        f"kernels compiled by {kernels.compiler}\n",
        flush=True,
    )
    reference = field_encoder(bundle, cpu_engine())
    parity = measure_kernel_parity(bundle, kernels, on_gpu, comparison_maps(bundle, reference))
    limits = [(name, f"{value:.1e}", f"{KERNELS.limits[name]:.0e}") for name, value in parity.items()]
    print(table(("kernels against the CPU's", "found", "allowed"), limits) + "\n", flush=True)

    image = canonical_image(bundle)
    stored = reference(image).astype(np.float16)
    prepared = field_on_grid(bundle, bundle.grid, bundle.grid_from_camera, ray_camera(bundle.canonical))
    device = KernelDevice(context, kernels)
    pipeline = VoxelPipeline(device, prepared.query, prepared.march, prepared.classifier, prepared.labels)
    uploaded = device.upload(stored)
    with filler(context, device) as busy:
        times, occupied = measure(device, pipeline, lambda: uploaded, frames, busy)
    fused = np.median(times["query"])
    rows = [_row(stage, times[stage], fused) for stage in ("query", "march", "assemble", "label", "copied")]
    shape = "x".join(map(str, prepared.query.grid.shape))
    header = f"{shape} voxels, {len(prepared.query.samples.target)} in view, {occupied} occupied"
    print(table((header, "p50 ms", "p95 ms", "times the query"), rows) + "\n", flush=True)
    flavour = installed_flavour()
    try:
        require(flavour)
        engine = provide_engine(bundle, context, lambda: reference)
    except (BundleError, GpuError) as error:
        print(f"image to voxels was not measured: {error}", flush=True)
    else:
        engine.stream = device.stream
        times, _ = measure(device, pipeline, engine.enqueue, frames, functools.partial(engine.load, image[None]))
        names = {"encode": "encoder", "host": "image to voxels, by the host's clock"}
        rows = [_row(name, times[stage], fused) for stage, name in names.items()]
        print(table((f"{flavour} in fp16", "p50 ms", "p95 ms", "times the query"), rows), flush=True)
        engine.close()
    device.close()


def _row(name: str, times_ms: NDArray[np.float64], query_ms: float) -> tuple[str, ...]:
    middle, late = np.percentile(times_ms, (50, 95))
    return name, f"{middle:.3f}", f"{late:.3f}", f"{middle / query_ms:.2f}"


def measure(
    device: KernelDevice,
    pipeline: VoxelPipeline,
    encode: Callable[[], Buffer],  # gives the encoder's features, or enqueues them
    frames: int,
    before: Callable[[], None],  # what comes before each frame
) -> tuple[dict[str, NDArray[np.float64]], int]:
    """Run frames, one after the other, of which those after `WARM_UP_S` count.

    Returns milliseconds [frames] of each stage by the clock of the device, and of ``host`` by that of the host, from
    `before` until the voxels are there. Then the number of occupied voxels.
    """

    def frame() -> tuple[dict[str, float], int]:
        started_s = time.perf_counter()
        before()
        device.begin()
        found = encode()
        device.lap("encode")
        pipeline.enqueue(found)
        device.lap("copied")
        occupied = len(pipeline.wait().index)
        return {**device.laps_ms(), "host": 1e3 * (time.perf_counter() - started_s)}, occupied

    until_s = time.perf_counter() + WARM_UP_S
    frame()
    while time.perf_counter() < until_s:
        frame()
    rows = [frame() for _ in range(frames)]
    return {stage: np.array([row[stage] for row, _ in rows]) for stage in rows[0][0]}, rows[-1][1]


@contextlib.contextmanager
def filler(context: PrimaryContext, device: KernelDevice) -> Iterator[Callable[[], None]]:
    """What keeps a stream busy, so that kernels are not timed with what the host takes to enqueue them."""
    import pycuda.driver as cuda

    source, target = (context.allocate(FILLER_BYTES, "a copy") for _ in range(2))

    def busy() -> None:
        for _ in range(FILLER_COPIES):
            cuda.memcpy_dtod_async(int(target), int(source), FILLER_BYTES, device.stream)

    yield busy
    source.free()
    target.free()


if __name__ == "__main__":
    main()
