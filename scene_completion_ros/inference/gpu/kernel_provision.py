"""The kernels of a student for a GPU: from the cache, or compiled, compared with the CPU's and kept."""

import functools
import hashlib
import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.inference.bundle import HEAD, StudentBundle
from scene_completion_ros.inference.gpu.device import GpuFailureError, PrimaryContext
from scene_completion_ros.inference.gpu.engine_cache import EngineCache, UnusableError
from scene_completion_ros.inference.gpu.kernels import (
    SOURCE,
    CompiledKernels,
    KernelDevice,
    KernelSizes,
    compile_kernels,
    no_compiler,
    nvrtc_libraries,
)
from scene_completion_ros.inference.gpu.parity import KERNELS, gate_images
from scene_completion_ros.inference.gpu.voxel_pipeline import VoxelPipeline
from scene_completion_ros.inference.label_query import FoldedVocabulary, Words
from scene_completion_ros.inference.query_kernel import VoxelQuery
from scene_completion_ros.inference.scene_query import Encoder, HostFieldQuery, PreparedScene, field_on_grid, ray_camera
from scene_completion_ros.inference.text_bank import BACKGROUND, FeatureSpace, Vocabulary
from scene_completion_ros.voxels.semantic_voxels import VoxelState

# Spread of the noise that both sides are compared on: with the shipped student, one voxel in six is occupied.
SPREAD = 1.0
RAY_TOLERANCE = 0.02  # metres, or part of a ray
TIE = 0.01  # logits that are nearer than this may be ordered either way
COSINE_TIE = 5e-3  # as may cosines, and whether one is ahead by the margin
# What compiles and launches the kernels belongs to them.
SOURCES = ("voxel_query.cu", "kernels.py", "voxel_pipeline.py", "kernel_provision.py", "parity.py")

_log = logging.getLogger(__name__)

MakeDevice = Callable[[CompiledKernels], KernelDevice]  # loads kernels onto a device


def provide_kernels(
    bundle: StudentBundle, context: PrimaryContext, reference: Callable[[], Encoder]
) -> CompiledKernels:
    """A student's kernels, from the cache or compiled and compared with `reference`'s; with the context current.

    Raises GpuError where there are none.
    """
    sizes = KernelSizes.of(bundle.field_head)
    capability = context.facts.compute_capability
    make_device: MakeDevice = functools.partial(KernelDevice, context)
    key = {
        "kind": _kind(),
        "head_sha256": bundle.sha256.get(HEAD, ""),  # they were compared with this head
        "compute_capability": capability,
        "machine": platform.machine(),
        **asdict(sizes),
    }

    def use(cubin: bytes) -> CompiledKernels:
        kernels = CompiledKernels(cubin, sizes.kernels, "an earlier start")
        check_loads(make_device, kernels)
        return kernels

    def build() -> tuple[bytes, CompiledKernels]:
        major, minor = (int(part) for part in capability.split("."))
        kernels = compile_kernels(sizes, (major, minor), check=functools.partial(check_loads, make_device))
        maps = comparison_maps(bundle, reference())
        parity = measure_kernel_parity(bundle, kernels, make_device, maps)
        lines = KERNELS.require(parity)
        _log.warning("compiled the GPU's kernels; against those of the CPU: %s", "; ".join(lines))
        return kernels.cubin, kernels

    return EngineCache().provide(key, use, build)


def require_compiler() -> None:
    """Refuse a machine on which kernels would have to be compiled, and cannot be.

    Raises GpuError where there is neither a compiler nor a file of compiled kernels of this version in the engine
    cache, which may be those that are needed; or where the cache cannot be used.
    """
    if not nvrtc_libraries() and not any(EngineCache().folder.glob(f"{_kind()}-*")):
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
    shape = *bundle.feature_size, bundle.field_head.channels
    noise = np.random.default_rng(0).normal(0.0, SPREAD, shape).astype(np.float32)
    return [noise, encoder(gate_images(height, width)[0]).copy()]


def measure_kernel_parity(
    bundle: StudentBundle,
    kernels: CompiledKernels,
    make_device: MakeDevice,
    maps: Sequence[NDArray[np.float32]],  # features to compare them on
) -> dict[str, float]:
    """Compare kernels with the CPU's; the numbers that `KERNELS` limits."""
    prepared = field_on_grid(bundle, bundle.grid, bundle.grid_from_camera, ray_camera(bundle.canonical))
    device = make_device(kernels)
    try:
        pipeline = VoxelPipeline(device, prepared.query, prepared.march, prepared.classifier, prepared.labels)
        found = [_compared(prepared, device, pipeline, one.astype(np.float16)) for one in maps]
    finally:
        device.close()
    return {name: float(np.max([one[name] for one in found])) for name in KERNELS.limits}  # NaN is worse than any


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
    prepared: PreparedScene[VoxelQuery],
    device: KernelDevice,
    pipeline: VoxelPipeline,
    stored: NDArray[np.floating[Any]],
) -> dict[str, float]:
    given, blank = stored.astype(np.float32), np.zeros((0, 0, 3), np.uint8)
    on_host = HostFieldQuery(lambda _: given, prepared)
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
        labels, units = prepared.labels, prepared.labels.units(given, common)
        logits = labels.scores.logits(units)
        chosen = logits[np.arange(len(common)), found.label[ours].clip(max=logits.shape[1] - 1)]
        wrong_labels = int(np.count_nonzero(~(chosen >= logits.max(axis=1) - TIE)))
        words = comparison_vocabulary(labels.scores.weight.shape[1])
        pipeline.compare(Words(words, words))
        found = pipeline.wait()
        label, confidence, _ = labels.scores(units, Words(words))
        confidences.append(found.confidence[ours] - confidence)
        right = labels.scores.cosines(units, words)
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
