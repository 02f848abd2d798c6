"""Speed and memory of scene completion on the CPU, as Markdown tables with ratios measured in one run.

``python -m benchmarks.completion`` compares the fused voxel query with the naive one in PyTorch and with the NumPy
reference. The naive one is projection, point code, grid_sample and the head over all voxels. The command also compares
the encoder engines, and times the stages from image to SemanticVoxels, without and with semantics. Rows whose package
is missing say which they need.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags.demo_drive import DEMO_DRIVE
from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.encoded_image import EncodedImage
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.head import HeadWeights
from scene_completion_ros.inference.query_kernel import FieldSamples, VoxelQuery, density_reference
from scene_completion_ros.inference.shipped import open_student, shipped_students
from scene_completion_ros.jit import kernel_threads

REFERENCE_VOXELS = 65536
# The fastest of several sizes for the naive query; all points at once take as long and two gigabytes more.
NAIVE_CHUNK = 65536
# What a street has without the insides of things: a second row beside what the bundle's own threshold gives.
FEW_VOXELS = 50000


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="student bundle")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for everything")
    parser.add_argument("--repeats", type=int, default=20, help="runs a row; the naive query is run a quarter as often")
    parser.add_argument(
        "--beside",
        nargs="*",
        metavar="DIR[:ENGINE]",
        default=[
            f"{DEFAULT_BUNDLE.parent / name}:{engine}"
            for name in shipped_students()
            for engine in ("auto", "openvino_bf16")
        ],
        help="students to compare with it, frame by frame (default: those that the package ships)",
    )
    arguments = parser.parse_args()
    bundle = open_student(arguments.bundle)
    print(hardware(arguments.threads), flush=True)
    # The pipeline comes first: peak memory must not contain torch.
    print("\n" + pipeline_table(bundle, arguments.threads, arguments.repeats), flush=True)
    if arguments.beside:
        students = [f"{arguments.bundle}:auto", *arguments.beside]
        print("\n" + students_table(list(dict.fromkeys(students)), arguments.threads, arguments.repeats), flush=True)
    if not bundle.head.label_hidden:
        print("\nThe student has no labels: what those cost was not measured.", flush=True)
    elif importlib.util.find_spec("onnx"):
        print("\n" + semantics_table(bundle, arguments.threads, arguments.repeats), flush=True)
    else:
        print("\nWhat labels cost was not measured: the student without them needs onnx.", flush=True)
    print("\n" + encoder_table(bundle, arguments.threads, arguments.repeats), flush=True)
    print("\n" + query_table(bundle, arguments.threads, arguments.repeats), flush=True)


def hardware(threads: int) -> str:
    """One line on the machine and the versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    packages = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("numpy", "numba", "openvino", "onnxruntime", "torch")
        if importlib.util.find_spec(name)
    )
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores available, {threads} threads used, "
        f"load {os.getloadavg()[0]:.1f} at the start; Python {platform.python_version()}, {packages}"
    )


def pipeline_table(bundle: StudentBundle, threads: int, repeats: int) -> str:
    """Stages from camera image to SemanticVoxels: frames of the bundled drive (1242×375), the bundle's grid."""
    camera, images = demo_drive()
    start = time.perf_counter()
    completer = Completer(bundle, camera, threads=threads)
    ready = time.perf_counter() - start
    timings: list[dict[str, float]] = []
    occupied: list[int] = []
    for frame in range(repeats):
        result = completer.complete(images[frame % len(images)])
        timings.append(result.timings_ms)
        occupied.append(len(result.voxels))
    rows = [
        (stage, *(f"{np.percentile([t[stage] for t in timings], q):.1f}" for q in (50, 95))) for stage in timings[0]
    ]
    rate = 1e3 / float(np.median([t["total"] for t in timings]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        table(("stage", "p50 ms", "p95 ms"), rows)
        + f"\n\n{rate:.1f} Hz with {completer.engine}; {np.median(occupied):.0f} voxels occupied; "
        + f"ready after {ready:.1f} s; peak resident memory {peak:.0f} MiB"
    )


def students_table(students: Sequence[str], threads: int, repeats: int) -> str:
    """Whole frames of several students, each in a process of its own, which take the same images in turn.

    Args:
        students: ``FOLDER:ENGINE`` or ``FOLDER`` of each; ratios are to the first one.
    """
    asked = [(folder, engine or "auto") for folder, _, engine in (name.partition(":") for name in students)]
    stages = ("encode", "query", "march", "assemble", "label", "total")
    milliseconds = np.zeros((len(asked), repeats, len(stages)))
    answers: list[Any] = []
    with contextlib.ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        workers = [stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for _ in asked]
        for frame in range(-1, repeats):  # the first one, which does not count, opens the student
            answers = [
                worker.submit(frame_of, *one, threads, max(frame, 0)).result()
                for worker, one in zip(workers, asked, strict=True)
            ]
            milliseconds[:, frame] = [[answer[0][stage] for stage in stages] for answer in answers]
    totals = milliseconds[:, :, -1]
    # Ratios of each image, because the load of the machine changes meanwhile.
    rows = [
        (
            f"{Path(folder).name}, {engine}",
            *(f"{value:.1f}" for value in np.median(milliseconds[which], axis=0)),
            f"{np.median(totals[0] / totals[which]):.2f}",
            f"{voxels}",
            f"{peak:.0f}",
        )
        for which, ((folder, _), (_, engine, voxels, peak)) in enumerate(zip(asked, answers, strict=True))
    ]
    header = ("student", *(f"{stage} p50 ms" for stage in stages), "times as fast", "voxels", "peak MiB")
    return table(header, rows)


def frame_of(folder: str, engine: str, threads: int, frame: int) -> tuple[dict[str, float], str, int, float]:
    """One frame in a process of its own: milliseconds of its stages, the engine, the voxels, the peak memory in MiB."""
    completer, images = opened(folder, engine, threads)
    result = completer.complete(images[frame % len(images)])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result.timings_ms, completer.engine, len(result.voxels), peak


@functools.cache
def opened(folder: str, engine: str, threads: int) -> tuple[Completer, list[NDArray[np.uint8]]]:
    """A student, and the images of the bundled drive."""
    camera, images = demo_drive()
    return Completer(open_student(Path(folder)), camera, engine=engine, threads=threads), images


def demo_drive() -> tuple[Camera, list[NDArray[np.uint8]]]:
    """Camera and images of the bundled drive."""
    with BagReader(DEMO_DRIVE) as reader:
        topic = reader.choose_image_topic(None)
        return reader.camera_for(topic), [frame.image_rgb for frame in reader.images(topic)]


def semantics_table(bundle: StudentBundle, threads: int, repeats: int) -> str:
    """Whole frames without and with labels, in turn, at the bundle's threshold and at one that leaves few voxels."""
    camera, images = demo_drive()
    first = Completer(bundle, camera, threads=threads).complete(images[0])
    few = float(np.partition(first.probability.reshape(-1), -FEW_VOXELS)[-FEW_VOXELS])
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        plain = without_labels(bundle, Path(folder))
        for threshold in (bundle.threshold, max(few, bundle.threshold)):
            completers = [
                Completer(dataclasses.replace(student, threshold=threshold), camera, threads=threads)
                for student in (plain, bundle)
            ]
            rows += semantics_rows(completers, images, repeats)
    header = (
        f"voxels (E = {bundle.head.label_hidden}, K = {bundle.head.classes})",
        "encode p50 ms",
        "query p50 ms",
        "label p50 ms",
        "total p50 ms",
        "CPU ms",
        "times (CPU)",
    )
    return table(header, rows)


def semantics_rows(
    completers: Sequence[Completer], images: Sequence[NDArray[np.uint8]], repeats: int
) -> list[tuple[str, ...]]:
    """A row each for a completer without and one with labels, which take the same images in turn."""
    stages = ("encode", "query", "label", "total")
    milliseconds, processor = np.zeros((2, len(stages), repeats)), np.zeros((2, repeats))
    occupied = np.zeros(repeats)
    for frame, which in np.ndindex(repeats, 2):
        start = time.process_time()
        result = completers[which].complete(images[frame % len(images)])
        processor[which, frame] = 1e3 * (time.process_time() - start)
        milliseconds[which, :, frame] = [result.timings_ms[stage] for stage in stages]
        occupied[frame] = len(result.voxels)
    # Ratios of each image, because the load of the machine changes meanwhile.
    return [
        (
            f"{np.median(occupied):.0f}, {name} labels",
            *(f"{time_of_stage:.1f}" for time_of_stage in np.median(milliseconds[which], axis=1)),
            f"{np.median(processor[which]):.1f}",
            f"{np.median(processor[which] / processor[0]):.2f}",
        )
        for which, name in enumerate(("without", "with"))
    ]


def without_labels(bundle: StudentBundle, folder: Path) -> StudentBundle:
    """Writes a student into a folder that has no labels, and an encoder without their decoder.

    Args:
        bundle: A student with labels, from ``training/export.py``.

    Raises:
        ValueError: Its encoder is not of the kind the export writes.
    """
    import onnx

    head = bundle.head
    head = HeadWeights(head.positional_weight, head.hidden_bias, head.density_weight, head.density_bias)
    plain = dataclasses.replace(
        bundle, head=head, class_names=("unlabelled",), class_colours=((128, 128, 128),), feature_spaces=()
    )
    return plain.save(folder, density_channels(onnx.load(bundle.encoder_path), bundle.head.label_hidden))


def density_channels(model: Any, label_channels: int) -> bytes:
    """An encoder (`onnx.ModelProto`) with the channels of the density alone, and only what they need; serialised.

    Raises:
        ValueError: It does not end in a concatenation of two maps and a transposition.
    """
    import onnx

    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    last = made_by["features"]
    both = made_by[last.input[0]]
    if (last.op_type, both.op_type, len(both.input)) != ("Transpose", "Concat", 2):
        raise ValueError(f"the encoder ends in {both.op_type} and {last.op_type}")
    last.input[0] = both.input[0]
    needed: set[str] = set()
    asked = ["features"]
    while asked:
        name = asked.pop()
        if name not in needed:
            needed.add(name)
            asked += list(made_by[name].input) if name in made_by else []
    nodes = [node for node in graph.node if needed & set(node.output)]
    values = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(values)
    del graph.value_info[:]
    graph.output[0].type.tensor_type.shape.dim[3].dim_value -= label_channels
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def encoder_table(bundle: StudentBundle, threads: int, repeats: int) -> str:
    """The encoder engines on the canonical image."""
    image = picture(bundle.canonical, 0)
    rows: list[tuple[str, ...]] = []
    exact: NDArray[np.float32] | None = None
    for engine, package in (("openvino", "openvino"), ("onnxruntime", "onnxruntime"), ("openvino_bf16", "openvino")):
        if not importlib.util.find_spec(package):
            rows.append((engine, f"not measured: needs {package}", "", ""))
            continue
        encoder = make_encoder(bundle, engine, threads=threads)
        features = encoder(image).copy()
        exact = features if exact is None else exact
        difference = float(np.abs(features - exact).max())
        rows.append((engine, *quantiles(functools.partial(encoder, image), repeats), f"{difference:.1e}"))
    largest = 0.0 if exact is None else float(np.abs(exact).max())
    return table(("encoder", "p50 ms", "p95 ms", f"max difference (largest value {largest:.1f})"), rows)


def query_table(bundle: StudentBundle, threads: int, repeats: int) -> str:
    """The voxel query in all its forms."""
    encoder = make_encoder(bundle, threads=threads)
    features, volume, _ = encoder.encode(picture(bundle.canonical, 0))  # no copy: where it starts in memory matters
    camera_from_grid = bundle.grid_from_camera.inverse()
    query = VoxelQuery(
        bundle.head, bundle.point_code, bundle.canonical, bundle.feature_size, bundle.grid, camera_from_grid
    )
    in_view = query.in_view.reshape(-1)
    density = query.density(features, volume)
    with kernel_threads(threads):
        fused = timed(lambda: query.density(features, volume), repeats)
        ordered = query.samples
        query.samples = in_grid_order(ordered)
        unordered = timed(lambda: query.density(features, volume), repeats)
        query.samples = ordered
    points = camera_from_grid.apply(bundle.grid.centres().reshape(-1, 3).astype(np.float64))
    chosen = np.random.default_rng(0).choice(np.flatnonzero(in_view), REFERENCE_VOXELS, replace=False)
    encoded = EncodedImage(features, volume)
    (expected, *_), reference = run_reference(bundle, encoded, points[chosen], int(in_view.sum()))
    difference = float(np.abs(density.reshape(-1)[chosen] - expected).max())
    rows: list[tuple[str, ...]] = [
        row(f"NumPy reference, voxels in view (scaled from {REFERENCE_VOXELS})", reference, fused, "–"),
        row("fused, samples in grid order", unordered, fused, "–"),
        row("**fused**, samples ordered by feature cell", fused, fused, f"{difference:.1e} to the reference"),
    ]
    if importlib.util.find_spec("torch") and volume is None:
        naive = naive_query(bundle, points.astype(np.float32), threads)
        difference = float(np.abs(naive(features).numpy()[in_view] - density.reshape(-1)[in_view]).max())
        runs = timed(lambda: naive(features), max(3, repeats // 4))
        rows.insert(0, row("naive PyTorch, all voxels", runs, fused, f"{difference:.1e} to fused"))
    else:
        why = "not measured: needs torch" if volume is None else "not measured: reads no volume"
        rows.insert(0, ("naive PyTorch, all voxels", why, *5 * ("",)))
    header = (
        f"query, {len(points)} voxels, {int(in_view.sum())} in view",
        "p50 ms",
        "p95 ms",
        "CPU ms",
        "times fused",
        "times fused (CPU)",
        "max difference in density",
    )
    return table(header, rows)


def run_reference(
    bundle: StudentBundle, encoded: EncodedImage, points: NDArray[np.float64], scaled_to: int
) -> tuple[list[NDArray[np.float64]], tuple[list[float], float]]:
    """Density of points by the NumPy reference, and its times scaled to another number of points."""
    results: list[NDArray[np.float64]] = []
    features, volume, _ = encoded
    head, code, canonical = bundle.head, bundle.point_code, bundle.canonical
    seconds, processor = timed(
        lambda: results.append(density_reference(features, points, head, code, canonical, volume=volume)), 1
    )
    scale = scaled_to / len(points)
    return results, ([scale * one for one in seconds], scale * processor)


def naive_query(
    bundle: StudentBundle, points: NDArray[np.float32], threads: int, *, device: str = "cpu", chunk: int = NAIVE_CHUNK
) -> Callable[[Any], Any]:
    """The query as one writes it in PyTorch: every voxel, 64 sampled features and 39 code values, two linear layers.

    The folded feature weights are the identity here, which costs what any feature weights cost.

    Args:
        points: float32 [N, 3] in the camera's optical frame.

    Returns:
        Takes features [h, w, C + E], an array or a tensor on the device, and gives densities [N], a tensor there.
    """
    import torch

    torch.set_num_threads(threads)
    head, code = bundle.head, bundle.point_code
    weight = torch.cat([torch.eye(head.hidden), torch.from_numpy(head.positional_weight)], dim=1).to(device)
    parameters = (head.hidden_bias, head.density_bias, head.density_weight[None], points)
    hidden_bias, density_bias, density_weight, all_points = (torch.from_numpy(part).to(device) for part in parameters)

    def densities(features: Any, part: Any) -> Any:
        coordinates = code.coordinates(part, bundle.canonical)
        sampled = torch.nn.functional.grid_sample(
            features, coordinates[None, None, :, :2], padding_mode="border", align_corners=False
        )[0, :, 0].T
        inputs = torch.cat([sampled, code.encode(coordinates)], dim=-1)
        hidden = torch.relu(torch.nn.functional.linear(inputs, weight, hidden_bias))
        return torch.nn.functional.softplus(torch.nn.functional.linear(hidden, density_weight, density_bias))[:, 0]

    def query(features: Any) -> Any:
        with torch.inference_mode():
            channels_first = torch.as_tensor(features)[..., : head.hidden].permute(2, 0, 1)[None].contiguous()
            return torch.cat([densities(channels_first, part) for part in torch.split(all_points, chunk)])

    return query


def in_grid_order(samples: FieldSamples) -> FieldSamples:
    """The same samples as they come in the grid."""
    order = np.argsort(samples.target)
    fields = (getattr(samples, field.name) for field in dataclasses.fields(samples))
    return FieldSamples(*(values[order] if len(values) else values for values in fields))


def picture(camera: Camera, seed: int) -> NDArray[np.uint8]:
    """A random image with coarse structure."""
    small = np.random.default_rng(seed).integers(0, 256, (camera.height // 16 + 1, camera.width // 16 + 1, 3))
    large = small.astype(np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    return np.ascontiguousarray(large[: camera.height, : camera.width])


def timed(function: Callable[[], Any], repeats: int) -> tuple[list[float], float]:
    """Seconds of each run, after one that does not count, and the median CPU time of all threads together."""
    function()
    seconds, processor = [], []
    for _ in range(repeats):
        start, start_processor = time.perf_counter(), time.process_time()
        function()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    return seconds, float(np.median(processor))


def quantiles(function: Callable[[], Any], repeats: int) -> tuple[str, str]:
    """p50 and p95 in milliseconds."""
    seconds, _ = timed(function, repeats)
    return f"{1e3 * np.percentile(seconds, 50):.1f}", f"{1e3 * np.percentile(seconds, 95):.1f}"


def row(name: str, runs: tuple[list[float], float], fused: tuple[list[float], float], remark: str) -> tuple[str, ...]:
    """A row of the query's table: times, and ratios to the fused query."""
    (seconds, processor), (fused_seconds, fused_processor) = runs, fused
    return (
        name,
        *(f"{1e3 * np.percentile(seconds, q):.1f}" for q in (50, 95)),
        f"{1e3 * processor:.1f}",
        f"{np.median(seconds) / np.median(fused_seconds):.1f}",
        f"{processor / fused_processor:.1f}",
        remark,
    )


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in rows])


if __name__ == "__main__":
    main()
