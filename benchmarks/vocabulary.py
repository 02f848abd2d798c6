"""What voxels that answer words cost on the CPU, as Markdown tables with ratios measured in one run.

``python -m benchmarks.vocabulary`` compares the cosines that are folded into the label units with explicit ones in the
teacher's space. It compares whole images with a vocabulary and without, and says how long a switch takes. Phrases and
the feature space are random numbers: what they are changes no time.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from benchmarks.completion import demo_drive, hardware, table
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.feature_space import FeatureSpace
from scene_completion_ros.inference.phrase_query import FoldedVocabulary, PhraseQuery
from scene_completion_ros.inference.query_kernel import hidden_reference
from scene_completion_ros.inference.scene_query import PreparedScene, ray_camera
from scene_completion_ros.inference.shipped import open_student
from scene_completion_ros.inference.text_bank import BACKGROUND, MOST_ROWS, Contrast, Vocabulary
from scene_completion_ros.jit import kernel_threads

VOXELS, PHRASES, DIMENSION = 65_000, 20, 512
# Threads of BLAS wait busily for more work for a while, and would take the cores from what is measured next.
PAUSE_S = 0.1
ENCODER, ENCODER_SHA256 = "random", "0" * 64


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="student bundle with labels")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for everything")
    parser.add_argument("--repeats", type=int, default=40, help="runs a row")
    parser.add_argument("--voxels", type=int, default=VOXELS, help="voxels that are compared with phrases")
    arguments = parser.parse_args()
    bundle = with_space(open_student(arguments.bundle))
    print(hardware(arguments.threads), flush=True)
    with threadpoolctl.threadpool_limits(arguments.threads, "blas"):
        print("\n" + kernel_table(bundle, arguments.threads, arguments.repeats, arguments.voxels), flush=True)
    print("\n" + frame_table(bundle, arguments.threads, arguments.repeats), flush=True)
    print("\n" + switch_table(bundle, arguments.threads, arguments.repeats), flush=True)


def with_space(bundle: StudentBundle, dimension: int = DIMENSION) -> StudentBundle:
    """A student with a random feature space."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(dimension, bundle.head.label_hidden)).astype(np.float32)
    bias = random.normal(size=dimension).astype(np.float32)
    space = FeatureSpace("random", weight, bias, ENCODER, ENCODER_SHA256)
    return dataclasses.replace(bundle, feature_spaces=(space,))


def random_vocabulary(classes: int, background: int = 0, dimension: int = DIMENSION) -> Vocabulary:
    """Random phrases, a class each, and some of the background."""
    rows = np.random.default_rng(1).normal(size=(classes + background, dimension))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    group = np.concatenate([np.arange(classes) % 254, np.full(background, BACKGROUND)]).astype(np.int32)
    names = tuple(str(number) for number in range(min(classes, 254)))
    return Vocabulary(names, ((0, 0, 0),) * len(names), rows, group, ENCODER, ENCODER_SHA256)


def random_query() -> Vocabulary:
    """One random phrase against a random direction that phrases have in common."""
    return dataclasses.replace(random_vocabulary(1, background=1), contrast=Contrast(0.5, (0.4,)))


def kernel_table(bundle: StudentBundle, threads: int, repeats: int, voxels: int) -> str:
    """Label units and labels of the likeliest voxels of an image: of the student, by phrases, and by explicit cosines.

    The explicit ones get the label units for nothing.
    """
    camera, images = demo_drive()
    completion = Completer(bundle, camera, threads=threads).complete(images[0])
    probability = completion.probability.reshape(-1)
    targets = np.sort(np.argpartition(probability, -voxels)[-voxels:])
    prepared = PreparedScene.of(bundle, bundle.grid, bundle.grid_from_camera, ray_camera(bundle.canonical))
    labels, space = prepared.labels, bundle.feature_spaces[0]
    if labels is None:
        raise ValueError("the student has no labels")
    features = make_encoder(bundle, "auto", threads=threads).encode(completion.image).features
    vocabulary = random_vocabulary(PHRASES)
    folded, phrases = FoldedVocabulary.of(vocabulary, space), PhraseQuery(labels)
    hidden = label_units(bundle, features, targets)
    rows = vocabulary.rows

    def explicit() -> None:
        feature = hidden @ space.weight.T
        feature += space.bias
        cosine = feature @ rows.T
        cosine /= np.sqrt(np.einsum("nd,nd->n", feature, feature))[:, None]
        cosine.argmax(axis=1)

    measured: dict[str, Callable[[], object]] = {
        f"labels of the student, K = {bundle.head.classes}": lambda: labels(features, targets),
        f"{PHRASES} phrases, folded": lambda: phrases(folded, features, targets),
        f"{PHRASES} phrases, explicit (D = {DIMENSION}, float32, units not counted)": explicit,
    }
    with kernel_threads(threads):
        wall, processor = in_turn(list(measured.values()), repeats)
    of_phrases = wall[1]
    cells = [
        (name, *(f"{np.median(times[which]):.1f}" for times in (wall, processor)), f"{np.median(one / of_phrases):.2f}")
        for which, (name, one) in enumerate(zip(measured, wall, strict=True))
    ]
    return table((f"{voxels} voxels, E = {bundle.head.label_hidden}", "p50 ms", "CPU ms", "times"), cells)


def label_units(
    bundle: StudentBundle, features: NDArray[np.float32], targets: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Label units of voxels of the bundle's grid, float32 [N, E]."""
    grid, head = bundle.grid, bundle.head
    index = np.stack(np.unravel_index(targets, grid.shape), axis=-1)
    points = bundle.grid_from_camera.inverse().apply(np.asarray(grid.origin) + (index + 0.5) * grid.voxel_size)
    weight, bias, _, _ = head.label_layers()
    of_labels = features[..., head.hidden :]
    return hidden_reference(of_labels, points, weight, bias, bundle.point_code, bundle.canonical).astype(np.float32)


def frame_table(bundle: StudentBundle, threads: int, repeats: int) -> str:
    """Whole images without a vocabulary, with one, and with a query beside it, in turn."""
    camera, images = demo_drive()
    plain, speaking, asked = (Completer(bundle, camera, threads=threads) for _ in range(3))
    for completer in (speaking, asked):
        completer.use(completer.prepare_vocabulary(random_vocabulary(PHRASES)))
    asked.ask(asked.prepare_vocabulary(random_query()))
    completers = {
        "classes of the student": plain,
        f"vocabulary of {PHRASES} phrases": speaking,
        "and a query of 1 phrase": asked,
    }
    milliseconds, processor = np.zeros((2, len(completers), repeats)), np.zeros((len(completers), repeats))
    for frame in range(repeats):
        for which, completer in enumerate(completers.values()):
            start = time.process_time()
            result = completer.complete(images[frame % len(images)])
            processor[which, frame] = 1e3 * (time.process_time() - start)
            milliseconds[:, which, frame] = result.timings_ms["label"], result.timings_ms["total"]
    cells = [
        (
            name,
            *(f"{np.median(times):.1f}" for times in (*milliseconds[:, which], processor[which])),
            # Ratios of each image, because the load of the machine changes meanwhile.
            f"{np.median(milliseconds[1, which] / milliseconds[1, 0]):.2f}",
            f"{np.median(processor[which] / processor[0]):.2f}",
        )
        for which, name in enumerate(completers)
    ]
    header = (f"{len(result.voxels)} voxels", "label p50 ms", "total p50 ms", "CPU ms", "times", "times (CPU)")
    return table(header, cells)


def switch_table(bundle: StudentBundle, threads: int, repeats: int) -> str:
    """How long a vocabulary takes to prepare and to put in place, and the first image with it beside the others."""
    camera, images = demo_drive()
    completer = Completer(bundle, camera, threads=threads)
    cells = []
    for rows in (PHRASES, MOST_ROWS):
        vocabulary = random_vocabulary(rows)
        times = np.zeros((4, repeats))
        for turn in range(repeats):
            completer.use(None)
            completer.complete(images[0])
            start = time.perf_counter()
            prepared = completer.prepare_vocabulary(vocabulary)
            ready = time.perf_counter()
            completer.use(prepared)
            used = time.perf_counter()
            image = images[turn % len(images)]
            first, second = (completer.complete(image).timings_ms["total"] for _ in range(2))
            times[:, turn] = 1e3 * (ready - start), 1e3 * (used - ready), first, second
        cells.append((f"{rows} phrases", *(f"{value:.3g}" for value in np.median(times, axis=1))))
    return table(("switch to", "prepare ms", "use ms", "first image ms", "second image ms"), cells)


def in_turn(work: Sequence[Callable[[], object]], repeats: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Milliseconds of the wall and of the processor, [works, repeats] each, of works that are done in turn.

    Each is done once more before it is timed: its threads are awake then, as they are behind an image's voxel query.
    """
    for one in work:
        one()
    wall, processor = np.zeros((2, len(work), repeats))
    for turn in range(repeats):
        for which, one in enumerate(work):
            time.sleep(PAUSE_S)
            one()
            started, used = time.perf_counter(), time.process_time()
            one()
            wall[which, turn] = 1e3 * (time.perf_counter() - started)
            processor[which, turn] = 1e3 * (time.process_time() - used)
    return wall, processor


if __name__ == "__main__":
    main()
