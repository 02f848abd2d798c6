"""Image to voxels on a GPU: parity with the CPU by voxels, and the time of each step, with ratios measured in one run.

``python -m benchmarks.gpu`` needs a GPU, pycuda, torch and a CUDA compiler; it prints Markdown tables for each shipped
student. Graphs run in float16 in torch, captured in a CUDA graph, or on TensorRT where it is installed
(``--engine tensorrt``); kernels are those of the package, on the same stream.
"""

import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from benchmarks.measuring import canonical_image, option_parser
from scene_completion_ros.evaluation.metric import table
from scene_completion_ros.inference.bundle import StudentBundle, open_student, shipped_students
from scene_completion_ros.inference.encoder import cpu_engine, cpu_networks
from scene_completion_ros.inference.gpu.device import PrimaryContext, release
from scene_completion_ros.inference.gpu.device_networks import DeviceStudent, check_loads, provide_student
from scene_completion_ros.inference.gpu.kernels import KernelSizes, compile_kernels
from scene_completion_ros.inference.gpu.parity import DEVICE, measure_voxels
from scene_completion_ros.inference.graphs import graphs_of
from scene_completion_ros.inference.scene_query import Networks, SceneImage, prepare_scene

WARM_UP_S = 1.0  # of frames, until the clocks of the GPU are up
STAGES = ("encode", "query", "march", "assemble", "label")


def main() -> None:
    """Prints all tables."""
    parser = option_parser(__doc__)
    parser.add_argument("--frames", type=int, default=300, help="frames a row")
    parser.add_argument("--engine", choices=("torch", "tensorrt"), default="torch", help="what runs the graphs")
    parser.set_defaults(bundle=None)
    arguments = parser.parse_args()
    names = [arguments.bundle] if arguments.bundle else shipped_students()
    context = PrimaryContext()
    with context:
        facts = context.facts
        print(f"{facts.name}, compute capability {facts.compute_capability}, {arguments.engine} in fp16\n", flush=True)
        for name in names:
            bundle = open_student(name)
            reference = cpu_networks(bundle, cpu_engine())
            with student_on(bundle, context, arguments.engine, reference) as student:
                run(bundle, student, reference, arguments.frames)
    context.close()


@contextmanager
def student_on(
    bundle: StudentBundle, context: PrimaryContext, engine: str, reference: Networks
) -> Iterator[DeviceStudent]:
    """A student on the GPU, with the context current."""
    if engine == "tensorrt":
        student = provide_student(bundle, context, lambda: reference)
    else:
        from benchmarks.torch_graph import TorchEngine

        major, minor = (int(part) for part in context.facts.compute_capability.split("."))
        check = functools.partial(check_loads, context)
        kernels = compile_kernels(KernelSizes.of(bundle), (major, minor), check=check)
        stream = context.stream()
        engines = [TorchEngine(step, context, stream) for step in graphs_of(bundle)]
        student = DeviceStudent("torch", kernels, engines, context, stream)
    try:
        yield student
    finally:
        release(context.hold(), student)


def run(bundle: StudentBundle, student: DeviceStudent, reference: Networks, frames: int) -> None:
    """Print all tables of a student."""
    numbers = measure_voxels(bundle, student, reference)
    found = [(name, f"{value:.5f}", f"{DEVICE.limits[name]:g}") for name, value in numbers.items()]
    print(table((f"{bundle.name} against the CPU", "found", "allowed"), found) + "\n", flush=True)
    image = canonical_image(bundle)
    prepared = prepare_scene(bundle, bundle.grid, bundle.grid_from_camera)
    scene = student.scene(prepared)
    times: dict[str, list[float]] = {name: [] for name in (*STAGES, "image to voxels", "after see")}
    until_s, occupied = time.perf_counter() + WARM_UP_S, 0
    while len(times["image to voxels"]) < frames:
        began_s = time.perf_counter()
        answer = scene(SceneImage(image))
        whole_s = time.perf_counter()
        pixels = scene.see(image)
        seen_s = time.perf_counter()
        if pixels is not None:
            scene(SceneImage(image, pixels=pixels))
        ended_s, occupied = time.perf_counter(), len(answer.occupied)
        if began_s < until_s and times["image to voxels"] == []:
            continue
        for name in STAGES:
            times[name].append(answer.times_ms[name])
        times["image to voxels"].append(1e3 * (whole_s - began_s))
        if pixels is not None:
            times["after see"].append(1e3 * (ended_s - seen_s))
    whole = float(np.median(times["image to voxels"]))
    shape = "x".join(map(str, bundle.grid.shape))
    header = f"{bundle.name}: {shape} voxels, {int(prepared.query.in_view.sum())} in view, {occupied} occupied"
    rows = [_row(name, of_it, whole) for name, of_it in times.items() if of_it]
    print(table((header, "p50 ms", "p95 ms", "share"), rows) + "\n")


def _row(name: str, times_ms: Sequence[float], whole_ms: float) -> tuple[str, ...]:
    middle, late = np.percentile(times_ms, (50, 95))
    return name, f"{middle:.3f}", f"{late:.3f}", f"{middle / whole_ms:.2f}"


if __name__ == "__main__":
    main()
