"""The voxel query and the whole way from image to voxels on a GPU, with floors and ratios of the same run.

``python -m benchmarks.gpu`` needs a GPU, pycuda and a CUDA compiler; it prints Markdown tables:

- how far the kernels are from the CPU's on the same features;
- each kernel on the features of a real image, between events on its stream. Beside it stands what moving its data would
  take at the bandwidths that are measured of the same GPU;
- the naive query in PyTorch on the same GPU, where torch sees it;
- the way from a canonical image to sparse voxels, both on the host. Where TensorRT is missing, torch runs the encoder,
  and the table says so.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.completion import demo_drive, naive_query, table
from scene_completion_ros.errors import GpuError
from scene_completion_ros.geometry.resampling import Resampler
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.encoder import cpu_engine, make_encoder
from scene_completion_ros.inference.gpu.device import PrimaryContext
from scene_completion_ros.inference.gpu.engine_provision import provide_engine
from scene_completion_ros.inference.gpu.kernel_device import Buffer, EncodedOnDevice, KernelDevice
from scene_completion_ros.inference.gpu.kernel_provision import (
    KERNEL_LIMITS,
    check_loads,
    comparison_maps,
    measure_kernel_parity,
    stored_outputs,
)
from scene_completion_ros.inference.gpu.kernels import CompiledKernels, KernelSizes, compile_kernels, nvrtc_cubin
from scene_completion_ros.inference.gpu.options import EngineOptions
from scene_completion_ros.inference.gpu.requirements import installed_flavour, missing_parts
from scene_completion_ros.inference.gpu.voxel_pipeline import RUN, VoxelPipeline
from scene_completion_ros.inference.scene_query import PreparedScene, ray_camera
from scene_completion_ros.inference.shipped import open_student

WARM_UP_S = 1.0  # of frames, until the clocks of the GPU are up
IN_MEMORY = 2**29  # bytes of a copy that no cache holds
FILLER_S, FILLER_BYTES = 2e-3, 2**28  # of copies that keep the GPU busy while the host asks for a frame; one copy
TAPS = 4
READ_AGAIN = """
extern "C" __global__ void read_again(const float4* data, int count, int rounds, float* out) {
    float sum = 0.0f;
    for (int round = 0; round < rounds; ++round)
        for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
            const float4 found = __ldcg(data + (i + round * 8191) % count);  // past the first-level cache
            sum += found.x + found.y + found.z + found.w;
        }
    if (sum == 1.2345f) *out = sum;
}
"""


@dataclass(frozen=True)
class Work:
    """Data that a kernel has to move as it is divided, in bytes.

    Attributes:
        gathered: Loads from the feature map, which stays in the second-level cache.
        streamed: Read or written once, in memory.
        sent: Sent to the host.
    """

    gathered: int
    streamed: int
    sent: int = 0


@dataclass(frozen=True)
class Speeds:
    """What a GPU reaches when it does nothing else.

    Attributes:
        cache: Bytes a second, read from the second-level cache.
        memory: Bytes a second, read and written by copies in memory.
        bus: Bytes a second, copied to page-locked memory of the host.
    """

    cache: float
    memory: float
    bus: float

    def floor_ms(self, work: Work) -> float:
        """What the work takes at least: all of it goes on at the same time."""
        return 1e3 * max(work.gathered / self.cache, work.streamed / self.memory, work.sent / self.bus)


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="student bundle")
    parser.add_argument("--precision", default="fp16", help="of the encoder: fp16, int8 or fp32")
    parser.add_argument("--frames", type=int, default=300, help="frames a row")
    arguments = parser.parse_args()
    missing = [part for part in missing_parts(installed_flavour()) if part.part != installed_flavour()]
    if missing:
        parser.exit(2, "".join(f"{part.part} {part.what}: {part.cure}\n" for part in missing))
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
    speeds = measure_speeds(context, kernels.compiler)
    print(
        f"{context.facts.name}, compute capability {major}.{minor}, {context.facts.multiprocessors} multiprocessors; "
        f"{speeds.cache / 1e12:.2f} TB/s are read from the cache, copies in memory reach "
        f"{speeds.memory / 1e12:.2f} TB/s, to the host {speeds.bus / 1e9:.1f} GB/s; "
        f"kernels compiled by {kernels.compiler}\n",
        flush=True,
    )
    print(parity_table(bundle, kernels, on_gpu, half=half) + "\n", flush=True)

    image = canonical_image(bundle)
    encoded = make_encoder(bundle, cpu_engine()).encode(image)
    stored = stored_outputs(encoded, np.float16 if half else np.float32)
    prepared = PreparedScene.of(bundle, bundle.grid, bundle.grid_from_camera, ray_camera(bundle.canonical))
    device = KernelDevice(context, kernels)
    pipeline = VoxelPipeline(device, prepared.query, prepared.march, prepared.classifier, prepared.labels)
    uploaded = EncodedOnDevice(*(device.upload(part) for part in stored))
    with filler(context, device, speeds) as busy:
        times, occupied = measure_kernels(device, pipeline, lambda: uploaded, frames, busy=busy)
    work = least_work(prepared, stored[0].dtype.itemsize, occupied)
    naive_ms = measure_naive(bundle, prepared, stored[0])
    print(kernel_table(prepared, times, occupied, work, speeds, naive_ms) + "\n", flush=True)
    try:
        opened = open_encoder(bundle, context, device, precision)
    except GpuError as error:
        print(f"image to voxels was not measured: {error}", flush=True)
        device.close()
        return
    name, load, encode, close = opened
    before = functools.partial(load, image[None])
    times, _ = measure_kernels(device, pipeline, encode, frames, first="encode", load=before)
    print(way_table(name, times), flush=True)
    close()
    device.close()


def measure_kernels(
    device: KernelDevice,
    pipeline: VoxelPipeline,
    encode: Callable[[], EncodedOnDevice],
    frames: int,
    *,
    first: str | None = None,
    load: Callable[[], None] = lambda: None,
    busy: Callable[[], None] = lambda: None,
) -> tuple[dict[str, NDArray[np.float64]], int]:
    """Run frames, one after the other.

    Args:
        pipeline: The kernels of one scene on it.
        encode: Gives what the encoder says, or asks for it.
        frames: How many count, after `WARM_UP_S`.
        first: Name of the stage that `encode` is; None for none.
        load: Gives the host's part of what `encode` asks for.
        busy: Keeps the device busy before each frame, so that its kernels are not timed with what the host takes to
            ask for them.

    Raises:
        GpuError: The device failed.

    Returns:
        Milliseconds [frames] of each stage by the clock of the device, and of ``host`` by that of the host. The latter
        is from before `load` until the voxels are there. Then the number of occupied voxels.
    """

    def ask() -> None:
        device.begin()
        found = encode()
        if first is not None:
            device.lap(first)
        pipeline.enqueue(*found)
        device.lap("copies")

    def frame() -> tuple[dict[str, float], int]:
        busy()
        started_s = time.perf_counter()
        load()
        ask()
        occupied = len(pipeline.wait().index)
        return {**device.laps_ms(), "host": 1e3 * (time.perf_counter() - started_s)}, occupied

    until_s = time.perf_counter() + WARM_UP_S
    frame()
    while time.perf_counter() < until_s:
        frame()
    rows = [frame() for _ in range(frames)]
    return {stage: np.array([row[stage] for row, _ in rows]) for stage in rows[0][0]}, rows[-1][1]


def least_work(prepared: PreparedScene, feature_bytes: int, occupied: int) -> dict[str, Work]:
    """What each stage has to move at least, given how the kernels are divided.

    The feature map and the positional tables are taken to stay in the cache. `RUN` samples one after the other are one
    thread's, which loads a pixel's features anew where the cell changes. Of the march, opacities in view are counted
    once, however many rays read them; so is a knot of the volume for each sample. A ray whose depth is said does not
    read where it leaves the grid, and reads that depth instead of writing one.
    """
    samples, head = prepared.query.samples, prepared.query.field.head
    per_sample = sum(
        getattr(samples, field.name).nbytes for field in dataclasses.fields(samples) if field.name != "place"
    )
    knot_bytes = feature_bytes if head.volume is not None else 0
    voxels, in_view = prepared.query.in_view.size, int(np.count_nonzero(prepared.query.in_view))
    label = TAPS * head.label_hidden * feature_bytes
    rays = sum(part.nbytes for part in (prepared.march.rays[1:] if head.volume is None else prepared.march.rays[1:-1]))
    pixels = prepared.march.camera.width * prepared.march.camera.height
    cells = cell_loads(samples.cell)
    return {
        "query": Work(cells * TAPS * head.hidden * feature_bytes, per_sample + (4 + knot_bytes) * len(samples.target)),
        "march": Work(0, 4 * in_view + rays + 3 * 4 * pixels),
        # Opacity; view, probability, state twice; index; and to the host index and probability.
        "assemble": Work(0, 4 * in_view + voxels * (1 + 4 + 1 + 1) + 4 * occupied, sent=(4 + 4) * occupied),
        "label": Work(occupied * label, 0, sent=(1 + 4) * occupied),
        "copies": Work(0, 0, sent=voxels + 2 * 4 * pixels),
    }


def cell_loads(cells: NDArray[np.integer]) -> int:
    """How often a thread of the density comes to another cell of the feature map, over all of them."""
    new = np.ones(len(cells), bool)
    new[1:] = cells[1:] != cells[:-1]
    new[::RUN] = True
    return int(np.count_nonzero(new))


def kernel_table(
    prepared: PreparedScene,
    times: Mapping[str, NDArray[np.float64]],
    occupied: int,
    work: Mapping[str, Work],
    speeds: Speeds,
    naive_ms: float | None,
) -> str:
    """Each kernel beside its floor, and the naive query beside the fused one."""
    fused = float(np.median(times["query"]))
    rows = []
    if naive_ms is None:
        rows.append(("naive PyTorch, all voxels", "not measured: torch sees no GPU", "", "", ""))
    else:
        rows.append(("naive PyTorch, all voxels", f"{naive_ms:.3f}", "", "", f"{naive_ms / fused:.0f} times the query"))
    names = {
        "query": "**query**",
        "march": "march",
        "assemble": "states, compaction",
        "label": "labels",
        "copies": "copies to the host",
    }
    for stage, shown in names.items():
        middle, late = np.percentile(times[stage], (50, 95))
        floor = speeds.floor_ms(work[stage])
        ratio = f"{middle / floor:.1f} times the floor" if floor else ""
        rows.append((shown, f"{middle:.3f}", f"{late:.3f}", f"{floor:.3f}", ratio))
    shape = "x".join(map(str, prepared.query.grid.shape))
    header = f"{shape} voxels, {len(prepared.query.samples.target)} in view, {occupied} occupied"
    return table((header, "p50 ms", "p95 ms", "floor ms", ""), rows)


def way_table(encoder: str, times: Mapping[str, NDArray[np.float64]]) -> str:
    """From an image on the host to sparse voxels on the host."""
    shown = {"image to voxels, by the host's clock": times["host"]}
    shown["image to voxels, by the GPU's clock"] = np.sum([times[name] for name in times.keys() - {"host"}], axis=0)
    shown = {f"encoder: {encoder}": times["encode"], **shown}
    rows = [(name, *(f"{np.percentile(values, q):.3f}" for q in (50, 95))) for name, values in shown.items()]
    return table((encoder, "p50 ms", "p95 ms"), rows)


def parity_table(
    bundle: StudentBundle,
    kernels: CompiledKernels,
    make_device: Callable[[CompiledKernels], KernelDevice],
    *,
    half: bool,
) -> str:
    """How far the kernels are from the CPU's."""
    maps = comparison_maps(bundle, make_encoder(bundle, cpu_engine()))
    parity = measure_kernel_parity(bundle, kernels, make_device, maps, half_features=half)
    rows = [(name, f"{value:.1e}", f"{KERNEL_LIMITS[name]:.0e}") for name, value in parity.items()]
    return table(("kernels against the CPU's", "found", "allowed"), rows)


@contextlib.contextmanager
def filler(context: PrimaryContext, device: KernelDevice, speeds: Speeds) -> Iterator[Callable[[], None]]:
    """Keeps the stream of a device busy for some milliseconds."""
    import pycuda.driver as cuda

    source, target = (context.allocate(FILLER_BYTES, "a copy") for _ in range(2))
    copies = math.ceil(FILLER_S * speeds.memory / (2 * FILLER_BYTES))

    def busy() -> None:
        for _ in range(copies):
            cuda.memcpy_dtod_async(int(target), int(source), FILLER_BYTES, device.stream)

    yield busy
    source.free()
    target.free()


def measure_speeds(context: PrimaryContext, compiler: str) -> Speeds:
    """Of the GPU, by a kernel of the compiler whose kernels its driver takes; with the context current."""
    import pycuda.driver as cuda

    started, ended = cuda.Event(), cuda.Event()

    def seconds(run: Callable[[], None]) -> float:
        best = np.inf
        for _ in range(5):
            started.record()
            run()
            ended.record()
            ended.synchronize()
            best = min(best, 1e-3 * ended.time_since(started))
        return float(best)

    source, target = (context.allocate(IN_MEMORY, "a copy") for _ in range(2))
    copied = seconds(lambda: cuda.memcpy_dtod_async(int(target), int(source), IN_MEMORY))
    size = cuda.Device(0).get_attribute(cuda.device_attribute.L2_CACHE_SIZE) // 4
    module = reading_module(context.facts.compute_capability, compiler)  # whose kernel lives as long as it
    read, rounds = module.get_function("read_again"), 100
    arguments = (np.uint64(int(source)), np.int32(size // 16), np.int32(rounds), np.uint64(int(target)))
    grid = (8 * context.facts.multiprocessors, 1, 1)
    took = seconds(lambda: read(*arguments, grid=grid, block=(256, 1, 1)))
    on_host = context.pinned((IN_MEMORY // 8,), np.uint8)
    sent = seconds(lambda: cuda.memcpy_dtoh_async(on_host, int(source)))
    context.free_pinned(on_host)
    source.free()
    target.free()
    return Speeds(cache=size * rounds / took, memory=2.0 * IN_MEMORY / copied, bus=on_host.nbytes / sent)


def reading_module(compute_capability: str, compiler: str) -> Any:
    """`READ_AGAIN` as a `pycuda.driver.Module`."""
    import pycuda.driver as cuda

    major, minor = (int(part) for part in compute_capability.split("."))
    return cuda.module_from_buffer(nvrtc_cubin(Path(compiler), READ_AGAIN.encode(), "read_again.cu", (major, minor))[0])


def measure_naive(bundle: StudentBundle, prepared: PreparedScene, features: NDArray[Any]) -> float | None:
    """Median milliseconds of the query as one writes it in PyTorch, all of it on the GPU; None without torch there."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    camera_from_grid = bundle.grid_from_camera.inverse()
    points = camera_from_grid.apply(prepared.query.grid.centres().reshape(-1, 3)).astype(np.float32)
    on_device = torch.from_numpy(features.astype(np.float32)).cuda()
    chunk, times = len(points), []
    while True:
        query = naive_query(bundle, points, threads=1, device="cuda", chunk=chunk)
        try:
            query(on_device)
            break
        except torch.OutOfMemoryError:  # of a small GPU: in parts, then
            if chunk < 10_000:
                raise
            chunk //= 4
    for _ in range(10):
        torch.cuda.synchronize()
        started_s = time.perf_counter()
        query(on_device)
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started_s))
    return float(np.median(times[2:]))


OpenedEncoder: TypeAlias = (
    "tuple[str, Callable[[NDArray[np.uint8]], None], Callable[[], EncodedOnDevice], Callable[[], None]]"
)
"""Its name, what takes images [1, H, W, 3], what asks for what it says of them, and what ends it."""


def open_encoder(bundle: StudentBundle, context: PrimaryContext, device: KernelDevice, precision: str) -> OpenedEncoder:
    """What runs the encoder on the stream of a device."""
    flavour = installed_flavour()
    missing = missing_parts(flavour)
    if missing:
        why = "; ".join(f"{part.part} {part.what}" for part in missing)
    elif precision not in bundle.gpu_precisions:
        why = f"the bundle has no graph in {precision}"
    else:
        try:
            options = EngineOptions(precision=precision)
            engine = provide_engine(bundle, options, context, lambda: make_encoder(bundle, cpu_engine())).engine
        except GpuError as error:
            why = f"{flavour} cannot: {error}"
        else:
            engine.stream = device.stream
            return f"{flavour} in {precision}", engine.load, engine.enqueue, engine.close
    name, load, encode, end = torch_encoder(bundle, device, precision)
    return f"{name} ({why})", load, encode, end


def torch_encoder(bundle: StudentBundle, device: KernelDevice, precision: str) -> OpenedEncoder:
    """The student's network in torch, in mixed precision but for fp32, where TensorRT or its graph is missing.

    Raises:
        GpuError: torch is missing, or sees no GPU.
    """
    if importlib.util.find_spec("torch") is None:
        raise GpuError("torch is not installed", where="encoder", cure="Install it, or TensorRT and its graph.")
    import torch

    if not torch.cuda.is_available():
        raise GpuError("torch sees no GPU", where="encoder", cure="Install one for CUDA, or TensorRT and its graph.")
    half = precision != "fp32"
    outputs_of = torch_outputs(bundle, "cuda", half=half)
    stream: Any = torch.cuda.ExternalStream(int(device.stream.handle))  # type: ignore[no-untyped-call]
    camera = bundle.canonical
    on_host = torch.empty((1, camera.height, camera.width, 3), dtype=torch.uint8).pin_memory()
    kept: list[Any] = []
    torch.cuda.synchronize()  # weights went there on torch's stream, which the other one does not wait for

    def load(images: NDArray[np.uint8]) -> None:
        on_host.copy_(torch.from_numpy(images))

    def encode() -> EncodedOnDevice:
        with torch.cuda.stream(stream):
            outputs = outputs_of(on_host.cuda(non_blocking=True))
        kept.append(outputs)  # until the kernels have read them
        del kept[:-2]
        kinds: dict[Any, np.dtype[Any]] = {torch.float16: np.dtype(np.float16), torch.float32: np.dtype(np.float32)}
        return EncodedOnDevice(*(Buffer(one.data_ptr(), tuple(one.shape), kinds[one.dtype], one) for one in outputs))

    return f"torch {torch.__version__} in {'mixed float16' if half else 'float32'}", load, encode, kept.clear


def torch_outputs(bundle: StudentBundle, device: str, *, half: bool) -> Callable[[Any], list[Any]]:
    """What computes features [1, h, w, C + E] of images uint8 [1, H, W, 3].

    If a volume is read, it also computes that, [1, X, Y, Z], and the depth of the rays, [1, h', w']. All are tensors of
    a device of torch.

    Bundles hold no unfolded weights of the label units: their channels are zeros.

    Args:
        half: Convolutions in float16, with sums in float32 where torch has it so, and outputs but depth in float16.
    """
    import torch

    from scene_completion_training.export import ray_depth
    from scene_completion_training.gpu_export.parity import density_field

    network: Any = density_field(bundle)
    network = network.to(device, memory_format=torch.channels_last)
    network.encoder.mixed = torch.float16 if half else None
    labels, kind = (0, bundle.head.label_hidden), torch.float16 if half else torch.float32
    if network.spatial is not None:
        network.spatial.mixed = network.encoder.mixed
    gain = 1.0 if bundle.head.volume is None else float(bundle.head.volume.gain[0])

    def outputs_of(images: Any) -> list[Any]:
        with torch.inference_mode():
            pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
            found = network.observe(pixels)
            features = torch.nn.functional.pad(found.features.to(kind).permute(0, 2, 3, 1), labels)
            # Weights of a stretched student hold the gain of its head; its encoder does not.
            further = []
            if found.volume is not None:
                depth = ray_depth(found.depth_code[:, None].float(), bundle.point_code, ray_camera(bundle.canonical))
                further = [(found.volume / gain).to(kind), depth]
            return [one.contiguous() for one in (features, *further)]

    return outputs_of


def canonical_image(bundle: StudentBundle) -> NDArray[np.uint8]:
    """The first image of the bundled drive, as the student sees it."""
    camera, images = demo_drive()
    return Resampler(camera, bundle.canonical)(images[0])


if __name__ == "__main__":
    main()
