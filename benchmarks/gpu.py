"""Image to voxels on a GPU: parity with the CPU by voxels, and the time of each step, with ratios measured in one run.

``python -m benchmarks.gpu`` needs a GPU, and what ``--engine tensorrt`` needs (``docs/gpu.md``); it prints Markdown
tables for each shipped student.
"""

import time
from collections.abc import Sequence

import numpy as np

from benchmarks.measuring import canonical_image, option_parser
from scene_completion_ros.evaluation.metric import table
from scene_completion_ros.inference.bundle import StudentBundle, open_student, shipped_students
from scene_completion_ros.inference.encoder import cpu_engine, cpu_networks
from scene_completion_ros.inference.evidence import NO_EVIDENCE, Standing
from scene_completion_ros.inference.gpu.device import PrimaryContext, release
from scene_completion_ros.inference.gpu.device_networks import provide_student
from scene_completion_ros.inference.gpu.parity import DEVICE, measure_voxels
from scene_completion_ros.inference.scene_query import Networks, SceneImage, prepare_scene

WARM_UP_S = 1.0  # of frames, until the clocks of the GPU are up
STAGES = ("encode", "query", "march", "assemble", "label")


def main() -> None:
    """Prints all tables."""
    parser = option_parser(__doc__)
    parser.add_argument("--frames", type=int, default=300, help="frames a row")
    parser.set_defaults(bundle=None)
    arguments = parser.parse_args()
    names = [arguments.bundle] if arguments.bundle else shipped_students()
    context = PrimaryContext()
    with context:
        facts = context.facts
        print(f"{facts.name}, compute capability {facts.compute_capability}\n", flush=True)
        for name in names:
            bundle = open_student(name)
            reference = cpu_networks(bundle, cpu_engine())
            run(bundle, context, reference, arguments.frames)
    context.close()


def run(bundle: StudentBundle, context: PrimaryContext, reference: Networks, frames: int) -> None:
    """Print all tables of a student, with the context current."""
    student = provide_student(bundle, context, lambda: reference)
    numbers = measure_voxels(bundle, student, reference)
    found = [(name, f"{value:.5f}", f"{DEVICE.limits[name]:g}") for name, value in numbers.items()]
    print(table((f"{bundle.name} against the CPU", "found", "allowed"), found) + "\n", flush=True)
    image = canonical_image(bundle)
    prepared = prepare_scene(bundle, bundle.grid, bundle.grid_from_camera)
    scene = student.scene(prepared)
    standing = Standing.of(bundle, None, NO_EVIDENCE, None) if bundle.takes_evidence else None
    times: dict[str, list[float]] = {name: [] for name in (*STAGES, "image to voxels", "after see")}
    until_s, occupied = time.perf_counter() + WARM_UP_S, 0
    while len(times["image to voxels"]) < frames:
        began_s = time.perf_counter()
        answer = scene(SceneImage(image, standing=standing))
        whole_s = time.perf_counter()
        pixels = scene.see(image)
        seen_s = time.perf_counter()
        if pixels is not None:
            scene(SceneImage(image, pixels=pixels, standing=standing))
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
    release(context.hold(), student)


def _row(name: str, times_ms: Sequence[float], whole_ms: float) -> tuple[str, ...]:
    middle, late = np.percentile(times_ms, (50, 95))
    return name, f"{middle:.3f}", f"{late:.3f}", f"{middle / whole_ms:.2f}"


if __name__ == "__main__":
    main()
