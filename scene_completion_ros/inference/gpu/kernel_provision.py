"""The kernels of a student for a GPU: from the cache, or compiled, compared with the CPU's and kept.

Does a GPU engine compute what the CPU engine computes? The gate that every engine passes before it is kept.

Three errors of the worst image count: that of the whole map of features and that of its worst channel, both the root
mean square as a share of the right one's, and the largest of all values as a share of the map's. A channel that is
wrong alone does not hide in the others, nor does a value in its channel.
"""

import functools
import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GpuError, ImageError
from scene_completion_ros.inference.bundle import HEAD, StudentBundle
from scene_completion_ros.inference.encoded_image import EncodedImage, Encoder
from scene_completion_ros.inference.gpu.device import EngineOptions, GpuFailureError, PrimaryContext
from scene_completion_ros.inference.gpu.engine_cache import EngineCache, Provided, Record, UnusableError
from scene_completion_ros.inference.gpu.kernels import (
    SOURCE,
    CompiledKernels,
    KernelDevice,
    KernelSizes,
    compile_kernels,
    no_compiler,
    nvrtc_libraries,
)
from scene_completion_ros.inference.gpu.voxel_pipeline import VoxelPipeline
from scene_completion_ros.inference.label_query import FoldedVocabulary, Words
from scene_completion_ros.inference.scene_query import HostSceneQuery, PreparedScene, ray_camera
from scene_completion_ros.inference.text_bank import BACKGROUND, FeatureSpace, Vocabulary
from scene_completion_ros.picture_files import read_rgb
from scene_completion_ros.voxels.semantic_voxels import VoxelState

GATE_IMAGES = Path(__file__).resolve().parent / "gate_images"
# A channel that is almost zero everywhere is measured as if it had this part of the map's root mean square.
QUIET_CHANNEL = 0.05
KINDS = ("map", "channel", "largest")
# Largest errors that pass, by precision and `KINDS`: about ten times what the graphs of the shipped student are off
# where a CPU rounds as they are typed. docs/gpu.md has what was measured.
LIMITS: Mapping[str, tuple[float, float, float]] = {"fp32": (1e-4, 1e-3, 5e-3), "fp16": (5e-3, 3e-2, 0.2)}


def check_parity(
    reference: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.float32]], precision: str
) -> list[str]:
    """Compare what two engines say of the same images. Returns the errors of the features in words, with their limits.

    `reference`: of the CPU engine in fp32; `found`: of the GPU engine; `precision`: that of the GPU engine. Raises
    GpuError where one is beyond its limit, with the numbers.
    """
    names = [f"{kind} error of the features" for kind in KINDS]
    numbers = errors(list(zip(reference, found, strict=True))).tolist()
    limits = dict(zip(names, LIMITS[precision], strict=True))
    return require_within(dict(zip(names, numbers, strict=True)), limits, f"the {precision} engine")


def require_within(numbers: Mapping[str, float], limits: Mapping[str, float], what: str) -> list[str]:
    """All numbers in words, each with its limit. Raises GpuError: those beyond their limits."""
    lines = {name: f"{name} {value:.2e} (allowed {limits[name]:g})" for name, value in numbers.items()}
    missed = [lines[name] for name, value in numbers.items() if not value <= limits[name]]  # NaN misses, too
    if missed:
        cure = "It was discarded. Take another precision, or a CPU engine, and report this with all versions."
        raise GpuError(
            f"{what} does not compute what the CPU computes: {'; '.join(missed)}", where="parity gate", cure=cure
        )
    return list(lines.values())


def errors(pairs: Sequence[tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]]) -> NDArray[np.float64]:
    """The worst of each of `KINDS` over pairs of a right map [h, w, C] and another; NaN or infinite where one is.

    Raises ValueError where the maps of a pair differ in shape.
    """
    worst = np.zeros(len(KINDS))
    for one, other in pairs:
        right, given = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if right.shape != given.shape:
            raise ValueError(f"a map of {given.shape} instead of {right.shape}")
        size = np.sqrt(np.mean(right**2, axis=(0, 1)))
        whole = np.sqrt(np.mean(size**2)).clip(min=np.finfo(np.float32).tiny)
        off = given - right
        channel = np.sqrt(np.mean(off**2, axis=(0, 1))) / np.maximum(size, QUIET_CHANNEL * whole)
        worst = np.maximum(worst, [np.sqrt(np.mean(off**2)) / whole, channel.max(), np.abs(off).max() / whole])
    return worst


def gate_images(height: int, width: int) -> list[NDArray[np.uint8]]:
    """Images for the gate: streets, cut to the proportions that are wanted, and scaled.

    Streets, because on noise of the same spectrum the error of fp16 was ten times as large. Returns uint8 [height,
    width, 3] RGB each. Raises GpuError where they are missing from the installation.
    """
    images = []
    for path in sorted(GATE_IMAGES.glob("*.jpg")):
        try:
            pixels = read_rgb(path)
        except ImageError as error:
            raise GpuError(error.what, where=str(path), cure="Install the package again.") from error
        rows, columns = pixels.shape[:2]
        rows = min(rows, max(round(columns * height / width), 1))
        columns = min(columns, max(round(rows * width / height), 1))
        top, left = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - columns) // 2
        cut = pixels[top : top + rows, left : left + columns]
        scaled = cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA)
        images.append(np.ascontiguousarray(scaled, dtype=np.uint8))
    if not images:
        what = "there are no images for the parity gate"
        raise GpuError(what, where=str(GATE_IMAGES), cure="Install the package again.")
    return images


# The kernels of a student for a GPU: from the cache, or compiled, compared with the CPU's and kept.


# Spread of the noise that both sides are compared on: with the shipped student, one voxel in six is occupied.
SPREAD = 1.0
RAY_TOLERANCE = 0.02  # metres, or part of a ray
TIE = 0.01  # logits that are nearer than this may be ordered either way
COSINE_TIE = 5e-3  # as may cosines, and whether one is ahead by the margin
# What compiles and launches the kernels belongs to them.
SOURCES = ("voxel_query.cu", "kernels.py", "voxel_pipeline.py", "kernel_provision.py")

MakeDevice = Callable[[CompiledKernels], KernelDevice]  # loads kernels onto a device


KERNEL_LIMITS: Mapping[str, float] = {
    "alpha error": 1e-3,  # largest, of opacities
    "probability error": 2e-2,
    "state difference": 5e-3,  # part of the voxels in view
    "sight difference": 0.02,  # part of the rays of which a length or transmittance is off by more than RAY_TOLERANCE
    "wrong labels": 0.0,  # of voxels that are occupied for both, by classes and by words, but for ties
    "confidence error": 5e-3,  # largest, as the next, of such voxels
    "cosine error": 1e-3,
    "wrong entries": 0.0,  # voxels that the list lacks, has too many, or with another probability than the grid
}
"""How far kernels may be from those of the CPU, on the same outputs of the encoder; each the worst of all.

Both sides compute in float32, in another order: an opacity is about 1e-5 off, a probability more where its map is
steep. Where an opacity lies at a threshold, or a step of a ray at the border of a voxel, the decision may differ.
"""


def provide_kernels(
    bundle: StudentBundle, context: PrimaryContext, options: EngineOptions, reference: Callable[[], Encoder]
) -> tuple[CompiledKernels, Provided]:
    """A student's kernels, compared with `reference`'s, and where they came from; with the context current.

    Raises GpuError where there are none.
    """
    half = options.precision != "fp32"
    sizes = KernelSizes.of(bundle.head, half_features=half)
    capability = context.facts.compute_capability
    make_device: MakeDevice = functools.partial(KernelDevice, context)
    key = {
        "kind": _kind(),
        "head_sha256": bundle.sha256.get(HEAD, ""),  # they were compared with this head
        "compute_capability": capability,
        "machine": platform.machine(),
        **asdict(sizes),
    }

    def use(cubin: bytes, record: Record) -> CompiledKernels:
        kernels = CompiledKernels(cubin, sizes.kernels, str(record["compiler"]))
        check_loads(make_device, kernels)
        return kernels

    def build() -> tuple[bytes, Record, CompiledKernels]:
        major, minor = (int(part) for part in capability.split("."))
        kernels = compile_kernels(sizes, (major, minor), check=functools.partial(check_loads, make_device))
        maps = comparison_maps(bundle, reference())
        parity = measure_kernel_parity(bundle, kernels, make_device, maps, half_features=half)
        lines = require_within(parity, KERNEL_LIMITS, "the voxel query")
        return kernels.cubin, {"compiler": kernels.compiler, "parity": lines}, kernels

    return EngineCache(options.cache).provide(key, use, build)


def require_compiler(cache: Path | None = None) -> None:
    """Refuse a machine on which kernels would have to be compiled, and cannot be.

    Raises GpuError where there is neither a compiler nor such a file; or the folder cannot be used. `cache`: folder of
    the engine cache; None for the user's. Kernels of this version in it may be those that are needed, on a robot that
    was given them.
    """
    if not nvrtc_libraries() and not any(EngineCache(cache).folder.glob(f"{_kind()}-*")):
        raise no_compiler()


def check_loads(make_device: MakeDevice, kernels: CompiledKernels) -> None:
    """Raise UnusableError where the driver does not take kernels, another GpuError where the device fails."""
    try:
        make_device(kernels).close()
    except GpuFailureError as error:
        if error.kind != "unknown":
            raise
        raise UnusableError(
            f"the kernels that {kernels.compiler} made do not load ({error.what})",
            where="GPU kernels",
            cure="See in nvidia-smi the newest CUDA version that the driver takes. Install a compiler that is no newer "
            "(pip install 'nvidia-cuda-nvrtc<=VERSION', or a toolkit), or a newer driver",
        ) from error


def comparison_maps(bundle: StudentBundle, encoder: Encoder) -> list[NDArray[np.float32]]:
    """Features of an encoder to compare kernels on: noise, where rays end soon, and what is seen of a street."""
    height, width = bundle.canonical.height, bundle.canonical.width
    shape = *bundle.feature_size, bundle.head.channels
    noise = np.random.default_rng(0).normal(0.0, SPREAD, shape).astype(np.float32)
    return [noise, encoder(gate_images(height, width)[0]).copy()]


def measure_kernel_parity(
    bundle: StudentBundle,
    kernels: CompiledKernels,
    make_device: MakeDevice,
    maps: Sequence[NDArray[np.float32]],  # features to compare them on
    *,
    half_features: bool,  # the encoder's map is float16, not float32
) -> dict[str, float]:
    """Compare kernels with the CPU's; the numbers that `KERNEL_LIMITS` limits."""
    kind = np.float16 if half_features else np.float32
    prepared = PreparedScene.of(bundle, bundle.grid, bundle.grid_from_camera, ray_camera(bundle.canonical))
    device = make_device(kernels)
    try:
        pipeline = VoxelPipeline(device, prepared.query, prepared.march, prepared.classifier, prepared.labels)
        found = [_compared(prepared, device, pipeline, one.astype(kind)) for one in maps]
    finally:
        device.close()
    return {name: float(np.max([one[name] for one in found])) for name in KERNEL_LIMITS}  # NaN is worse than any


def comparison_vocabulary(units: int) -> FoldedVocabulary:
    """Random phrases in a random feature space of label units: two of every third class, and a background of two."""
    random = np.random.default_rng(0)
    classes, dimension = 20, 2 * units
    space = FeatureSpace(
        "comparison",
        random.normal(size=(dimension, units)).astype(np.float32),
        random.normal(0.0, 4.0, dimension).astype(np.float32),
    )
    group = np.concatenate([np.arange(classes), np.arange(0, classes, 3), [BACKGROUND, BACKGROUND]]).astype(np.int32)
    rows = random.normal(size=(len(group), dimension))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    names = tuple(str(number) for number in range(classes))
    return FoldedVocabulary.of(Vocabulary(names, ((0, 0, 0),) * classes, rows, group), space)


def _compared(
    prepared: PreparedScene, device: KernelDevice, pipeline: VoxelPipeline, stored: NDArray[np.floating[Any]]
) -> dict[str, float]:
    given, blank = EncodedImage(stored.astype(np.float32)), np.zeros((0, 0, 3), np.uint8)
    on_host = HostSceneQuery(lambda *_: given, prepared)
    pipeline.enqueue(device.upload(stored))
    expected, found = on_host(blank), pipeline.wait()
    alpha, probability = device.download(pipeline.alpha), device.download(pipeline.probability)
    in_view, listed = prepared.query.in_view, np.flatnonzero(found.state.reshape(-1) >= VoxelState.SURFACE)
    wrong = len(np.setxor1d(found.index, listed)) + int(np.count_nonzero(np.diff(found.index) <= 0))
    wrong += int(np.count_nonzero(found.probability != probability.reshape(-1)[found.index]))
    common, ours, theirs = np.intersect1d(found.index, expected.occupied, return_indices=True)
    wrong_labels = 0
    confidences, cosines = [found.confidence[ours] - expected.confidence[theirs]], np.zeros(0, np.float32)
    if prepared.labels is not None:
        logits = prepared.labels.logits(given.features, common)
        chosen = logits[np.arange(len(common)), found.label[ours].clip(max=logits.shape[1] - 1)]
        wrong_labels = int(np.count_nonzero(~(chosen >= logits.max(axis=1) - TIE)))
        words = comparison_vocabulary(prepared.labels.weight.shape[1])
        pipeline.compare(Words(words, words))
        found = pipeline.wait()
        label, confidence, _ = prepared.labels(given.features, common, Words(words))
        confidences.append(found.confidence[ours] - confidence)
        right = prepared.labels.cosines(given.features, common, words)
        cosines = pipeline.cosines(words, len(found.index))[ours] - right
        first, second = np.sort(right, axis=1)[:, -1:-3:-1].T
        clear = np.minimum(first - second, np.abs(first - second - words.vocabulary.margin)) > COSINE_TIE
        wrong_labels += int(np.count_nonzero((found.label[ours] != label)[clear]))
    rays = (
        (found.depth, expected.depth),
        (found.transmittance, expected.transmittance),
        (device.download(pipeline.half_distance), prepared.march(expected.dense.alpha).half_distance),
    )
    alike = [np.isclose(one, other, rtol=0.0, atol=RAY_TOLERANCE, equal_nan=True).mean() for one, other in rays]
    return {
        "alpha error": _largest(alpha - expected.dense.alpha),
        "probability error": _largest(probability - expected.dense.probability),
        "state difference": float(np.mean(found.state[in_view] != expected.state[in_view])) if in_view.any() else 0.0,
        "sight difference": float(1.0 - np.min(alike)),
        "wrong labels": float(wrong_labels),
        "confidence error": float(np.max([_largest(one) for one in confidences])),
        "cosine error": _largest(cosines),
        "wrong entries": float(wrong),
    }


def _largest(difference: NDArray[np.float32]) -> float:
    return float(np.abs(difference).max(initial=0.0))  # NaN stays so


def _kind() -> str:
    """The version of the kernels, by what compiles, launches and compares them."""
    joined = hashlib.sha256(b"".join(SOURCE.with_name(name).read_bytes() for name in SOURCES))
    return f"kernels-{joined.hexdigest()[:16]}"
