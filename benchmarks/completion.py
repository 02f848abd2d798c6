"""Speed and memory of scene completion on the CPU, as Markdown tables with ratios measured in one run.

``python -m benchmarks.completion`` times the stages from image to SemanticVoxels of one student, of the shipped ones,
and of one without and with words. It compares the encoder engines, and the fused voxel query with the naive one in
PyTorch: projection, point code, grid_sample and the head over all voxels.
"""

import functools
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import canonical_image, hardware, in_turn, option_parser, ratio_table, timed
from scene_completion_ros.bags.reader import demo_drive
from scene_completion_ros.commands.arguments import DEMO_WORDS, chosen_words, set_words
from scene_completion_ros.inference.bundle import StudentBundle, open_student, shipped_students
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.encoder import field_encoder
from scene_completion_ros.inference.query_kernel import VoxelQuery
from scene_completion_ros.jit import kernel_threads

# The fastest of several sizes for the naive query; all points at once take as long and two gigabytes more.
NAIVE_CHUNK = 65536
STAGES = "resample", "encode", "query", "march", "assemble", "label"
QUERY_ALONE = "the query without labels"
NAIVE = "naive PyTorch, all voxels"
ENGINES = "openvino", "onnxruntime", "openvino_bf16"  # the first is exact


def main() -> None:
    """Prints all tables."""
    parser = option_parser(__doc__, threads=2)
    parser.add_argument("--repeats", type=int, default=20, help="runs a row")
    arguments = parser.parse_args()
    bundle, threads, repeats = open_student(arguments.bundle), arguments.threads, arguments.repeats
    print(hardware(threads), flush=True)
    camera, images = demo_drive()
    make = functools.partial(Completer, camera=camera, threads=threads)
    started_s = time.perf_counter()
    completer = make(bundle)
    ready_s = time.perf_counter() - started_s
    print("\n" + frame_table("whole images", {f"{bundle.name}, {completer.engine}": completer}, images, repeats))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # without torch, and without other students
    print(f"\nready after {ready_s:.1f} s; peak resident memory {peak:.0f} MiB", flush=True)
    students = {
        f"{name}, {engine}": make(open_student(name), engine=engine)
        for name in shipped_students()
        for engine in ("openvino", "openvino_bf16")
    }
    print("\n" + frame_table("students", students, images, repeats), flush=True)
    students.clear()
    print("\n" + words_table(bundle, make, images, repeats))
    if bundle.takes_evidence:
        print("\nEncoder engines and the query are compared of field students.")
        return
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
    return ratio_table(title, runs, further)


def words_table(
    bundle: StudentBundle, make: Callable[[StudentBundle], Completer], images: list[NDArray[np.uint8]], repeats: int
) -> str:
    """What words cost: the student's classes, the demo's phrases as labels, also looked for, and that alone."""
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
    encoders = {name: field_encoder(bundle, name, threads=threads) for name in ENGINES}
    features = {name: encoder(image).copy() for name, encoder in encoders.items()}
    exact = features[ENGINES[0]]
    differences = {name: f"{np.abs(found - exact).max():.1e}" for name, found in features.items()}
    rows = {name: timed(functools.partial(encoder, image), repeats) for name, encoder in encoders.items()}
    return ratio_table("encoder", rows, {f"max difference (largest value {np.abs(exact).max():.1f})": differences})


def query_table(bundle: StudentBundle, threads: int, repeats: int) -> str:
    """The fused voxel query and the naive one, of a field student."""
    features = field_encoder(bundle, threads=threads)(canonical_image(bundle))  # no copy: its place in memory matters
    camera_from_grid = bundle.grid_from_camera.inverse()
    query = VoxelQuery(
        bundle.field_head, bundle.point_code, bundle.canonical, bundle.feature_size, bundle.grid, camera_from_grid
    )
    in_view = query.in_view.reshape(-1)
    density = query.density(features).reshape(-1)
    with kernel_threads(threads):
        fused = timed(lambda: query.density(features), repeats)
    points = camera_from_grid.apply(bundle.grid.centres().reshape(-1, 3).astype(np.float64))
    naive = naive_query(bundle, points.astype(np.float32), threads)
    difference = f"{np.abs(naive(features).numpy()[in_view] - density[in_view]).max():.1e}"
    rows = {"**fused**": fused, NAIVE: timed(lambda: naive(features), max(3, repeats // 4))}
    title = f"query, {in_view.size} voxels, {int(in_view.sum())} in view"
    return ratio_table(title, rows, {"max difference in density": {NAIVE: difference}})


def naive_query(
    bundle: StudentBundle, points: NDArray[np.float32], threads: int
) -> Callable[[NDArray[np.float32]], Any]:
    """The query as one writes it in PyTorch: every voxel, 64 sampled features and 39 code values, two linear layers.

    The folded feature weights are the identity here, which costs what any feature weights cost. What is returned takes
    features [h, w, C + E] and gives densities, a tensor [N]. `points`: [N, 3] in the camera's optical frame, metres.
    """
    import torch

    torch.set_num_threads(threads)
    head, code = bundle.field_head, bundle.point_code
    weight = torch.cat([torch.eye(head.hidden), torch.from_numpy(head.positional_weight)], dim=1)
    parameters = (head.hidden_bias, head.density_bias, head.density_weight[None], points)
    hidden_bias, density_bias, density_weight, all_points = (torch.from_numpy(part) for part in parameters)

    def densities(features: Any, part: Any) -> Any:
        coordinates = code.coordinates(part, bundle.canonical)
        sampled = torch.nn.functional.grid_sample(
            features, coordinates[None, None, :, :2], padding_mode="border", align_corners=False
        )[0, :, 0].T
        inputs = torch.cat([sampled, code.encode(coordinates)], dim=-1)
        hidden = torch.relu(torch.nn.functional.linear(inputs, weight, hidden_bias))
        return torch.nn.functional.softplus(torch.nn.functional.linear(hidden, density_weight, density_bias))[:, 0]

    def query(features: NDArray[np.float32]) -> Any:
        with torch.inference_mode():
            channels_first = torch.from_numpy(features[..., : head.hidden]).permute(2, 0, 1)[None].contiguous()
            return torch.cat([densities(channels_first, part) for part in torch.split(all_points, NAIVE_CHUNK)])

    return query


if __name__ == "__main__":
    main()
