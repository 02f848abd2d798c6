"""Speed and memory of scene completion on the CPU, as Markdown tables with ratios measured in one run.

``python -m benchmarks.completion`` times the stages from image to SemanticVoxels of one student, of several, and of one
without and with words. It compares the encoder engines, and the fused voxel query with the naive one in PyTorch:
projection, point code, grid_sample and the head over all voxels. Rows whose package is missing name it.
"""

import functools
import importlib.util
import itertools
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import Runs, canonical_image, demo_drive, hardware, in_turn, option_parser, ratio_table, timed
from scene_completion_ros.commands.arguments import DEMO_WORDS, chosen_words, set_words
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle, open_student, shipped_students
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.query_kernel import VoxelQuery
from scene_completion_ros.jit import kernel_threads

# The fastest of several sizes for the naive query; all points at once take as long and two gigabytes more.
NAIVE_CHUNK = 65536
STAGES = "resample", "encode", "query", "march", "assemble", "label"
QUERY_ALONE = "the query without labels"
NAIVE, FUSED = "naive PyTorch, all voxels", "**fused**"


def main() -> None:
    """Prints all tables."""
    parser = option_parser(__doc__, threads=2, repeats=20)
    parser.add_argument(
        "--beside",
        nargs="*",
        metavar="DIR[:ENGINE]",
        default=[f"{name}:{engine}" for name in shipped_students() for engine in ("auto", "openvino_bf16")],
        help="students to compare with it, frame by frame (default: those that the package ships)",
    )
    arguments = parser.parse_args()
    bundle, threads, repeats = open_student(arguments.bundle), arguments.threads, arguments.repeats
    print(hardware(threads), flush=True)
    camera, images = demo_drive()
    started_s = time.perf_counter()
    completer = Completer(bundle, camera, threads=threads)
    ready_s = time.perf_counter() - started_s
    own = f"{bundle.name}, {completer.engine}"
    print("\n" + frame_table("whole images", {own: completer}, images, repeats))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # without torch, and without other students
    print(f"\nready after {ready_s:.1f} s; peak resident memory {peak:.0f} MiB", flush=True)
    students = {own: completer}
    for student, _, engine in (name.partition(":") for name in arguments.beside):
        other = Completer(open_student(student), camera, engine=engine or "auto", threads=threads)
        students[f"{Path(student).name}, {other.engine}"] = other
    print("\n" + frame_table("students", students, images, repeats), flush=True)
    students.clear()
    for name in arguments.beside:
        seeing = open_student(name.partition(":")[0])
        if seeing.takes_evidence:
            print("\n" + evidence_table(seeing, camera, images, threads, repeats), flush=True)
            break
    print("\n" + words_table(bundle, functools.partial(Completer, camera=camera, threads=threads), images, repeats))
    print("\n" + encoder_table(bundle, threads, repeats), flush=True)
    print("\n" + query_table(bundle, threads, repeats), flush=True)


def frame_table(title: str, completers: Mapping[str, Completer], images: list[NDArray[np.uint8]], repeats: int) -> str:
    """Whole images by several completers, which take the same images in turn; ratios are to the first one."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in completers}

    def complete(name: str) -> None:
        completion = completers[name].complete(images[len(found[name]) % len(images)], labels=name != QUERY_ALONE)
        found[name].append({**completion.timings_ms, "voxels": len(completion.voxels)})

    runs = in_turn({name: functools.partial(complete, name) for name in completers}, repeats)
    further = {
        name: {one: f"{np.median([answer[name] for answer in answers[1:]]):.1f}" for one, answers in found.items()}
        for name in (*STAGES, "voxels")
    }
    further["label, part of all"] = {
        one: f"{np.median([answer['label'] / answer['total'] for answer in answers[1:]]):.2f}"
        for one, answers in found.items()
    }
    return ratio_table(title, runs, further=further)


def evidence_table(
    bundle: StudentBundle, camera: Camera, images: list[NDArray[np.uint8]], threads: int, repeats: int
) -> str:
    """What an image costs and, in a thread of its own, its scale by motion."""
    completer = Completer(bundle, camera, threads=threads)
    seen = [completer.complete(image) for image in images]
    motion, number = completer.motion_scale(), itertools.count()

    def complete() -> None:
        completer.complete(images[next(number) % len(images)])

    def measure(method: Callable[..., object]) -> None:
        now = next(number)
        one, place = seen[now % len(seen)], RigidTransform(np.eye(3), np.array([0.0, 0.0, 0.8 * now]))
        assert one.own_depth is not None
        method(one.image, one.own_depth, place, 100_000_000 * now)

    rows: dict[str, Callable[[], object]] = {f"{bundle.name}, an image": complete}
    rows["scale by motion"] = functools.partial(measure, motion.add)
    rows["depths of corners"] = functools.partial(measure, motion.depths)
    return ratio_table("evidence", in_turn(rows, repeats))


def words_table(
    bundle: StudentBundle, make: Callable[[StudentBundle], Completer], images: list[NDArray[np.uint8]], repeats: int
) -> str:
    """What words cost: labels of the student, the phrases of the demo as labels, also looked for, or that alone."""
    words, bank = chosen_words(None, bundle, DEMO_WORDS), bundle.text_bank()
    if not words or bank is None:
        return "What words cost was not measured: the student has no text bank that holds the demo's."
    plain, named, asked, alone = (make(bundle) for _ in range(4))
    for completer in (named, asked):
        completer.set_vocabulary(completer.prepare_vocabulary(bank.vocabulary(words)))
    for completer in (asked, alone):
        set_words(completer, words)
    completers = {
        "classes of the student": plain,
        f"vocabulary of {len(words)} phrases": named,
        f"and a query of {len(words)} phrases": asked,
        QUERY_ALONE: alone,
    }
    return frame_table("words", completers, images, repeats)


def encoder_table(bundle: StudentBundle, threads: int, repeats: int) -> str:
    """The encoder engines on the canonical image."""
    image = canonical_image(bundle)
    rows: dict[str, Runs | str] = {}
    differences: dict[str, str] = {}
    exact: NDArray[np.float32] | None = None
    for engine, package in (("openvino", "openvino"), ("onnxruntime", "onnxruntime"), ("openvino_bf16", "openvino")):
        if not importlib.util.find_spec(package):
            rows[engine] = f"needs {package}"
            continue
        encoder = make_encoder(bundle, engine, threads=threads)
        features = encoder(image).copy()
        exact = features if exact is None else exact
        differences[engine] = f"{np.abs(features - exact).max():.1e}"
        rows[engine] = timed(functools.partial(encoder, image), repeats)
    largest = 0.0 if exact is None else float(np.abs(exact).max())
    return ratio_table("encoder", rows, further={f"max difference (largest value {largest:.1f})": differences})


def query_table(bundle: StudentBundle, threads: int, repeats: int) -> str:
    """The fused voxel query next to the naive one."""
    encoder = make_encoder(bundle, threads=threads)
    features, volume, *_ = encoder.encode(canonical_image(bundle))  # no copy: where it starts in memory matters
    camera_from_grid = bundle.grid_from_camera.inverse()
    query = VoxelQuery(
        bundle.head, bundle.point_code, bundle.canonical, bundle.feature_size, bundle.grid, camera_from_grid
    )
    in_view = query.in_view.reshape(-1)
    density = query.density(features, volume).reshape(-1)
    rows: dict[str, Runs | str] = {NAIVE: "needs torch" if volume is None else "reads no volume"}
    with kernel_threads(threads):
        rows[FUSED] = timed(lambda: query.density(features, volume), repeats)
    differences: dict[str, str] = {}
    if importlib.util.find_spec("torch") and volume is None:
        points = camera_from_grid.apply(bundle.grid.centres().reshape(-1, 3).astype(np.float64))
        naive = naive_query(bundle, points.astype(np.float32), threads)
        differences[NAIVE] = f"{np.abs(naive(features).numpy()[in_view] - density[in_view]).max():.1e}"
        rows[NAIVE] = timed(lambda: naive(features), max(3, repeats // 4))
    title = f"query, {in_view.size} voxels, {int(in_view.sum())} in view"
    return ratio_table(title, rows, FUSED, {"max difference in density": differences})


def naive_query(
    bundle: StudentBundle, points: NDArray[np.float32], threads: int, *, device: str = "cpu", chunk: int = NAIVE_CHUNK
) -> Callable[[Any], Any]:
    """The query as one writes it in PyTorch: every voxel, 64 sampled features and 39 code values, two linear layers.

    The folded feature weights are the identity here, which costs what any feature weights cost. What is returned takes
    features [h, w, C + E], an array or a tensor on the device, and gives densities [N], a tensor there. `points`:
    float32 [N, 3] in the camera's optical frame.
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


if __name__ == "__main__":
    main()
