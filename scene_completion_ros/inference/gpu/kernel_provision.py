"""The kernels of a student for a GPU: from the cache, or compiled, compared with the CPU's and kept."""

from __future__ import annotations

import functools
import hashlib
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GpuError
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import HEAD, StudentBundle
from scene_completion_ros.inference.encoded_image import EncodedImage
from scene_completion_ros.inference.feature_space import FeatureSpace
from scene_completion_ros.inference.gpu.device import GpuFailureError
from scene_completion_ros.inference.gpu.engine_cache import CacheKey, EngineCache
from scene_completion_ros.inference.gpu.kernel_device import KernelDevice
from scene_completion_ros.inference.gpu.kernels import (
    SOURCE,
    CompiledKernels,
    KernelSizes,
    compile_kernels,
    has_compiler,
    no_compiler,
)
from scene_completion_ros.inference.gpu.parity import ReferenceEncoder, gate_images
from scene_completion_ros.inference.gpu.voxel_pipeline import VoxelPipeline
from scene_completion_ros.inference.phrase_query import FoldedVocabulary, PhraseQuery, Words, labels_reference
from scene_completion_ros.inference.scene_query import HostSceneQuery, PreparedScene, ray_camera
from scene_completion_ros.inference.text_bank import BACKGROUND, Vocabulary
from scene_completion_ros.voxels.semantic_voxels import VoxelState

# Spread of the noise that both sides are compared on: with the shipped student, one voxel in six is occupied.
SPREAD = 1.0
DEPTH_TOLERANCE, TRANSMITTANCE_TOLERANCE = 0.02, 0.02  # metres; part of a ray
BETWEEN_KNOTS = (0.3, 0.45, 0.2)  # voxels by which a grid is moved, so that none lies at a knot of the volume
BEYOND_FAR = 2.0  # times the farthest depth of a student, up to which the noise goes that stands for what it says
UNSAID = 0.05  # part of the rays of which that noise says no number
TIE = 0.01  # logits that are nearer than this may be ordered either way
COSINE_TIE = 5e-3  # as may cosines, and whether one is ahead by the margin
# What compiles and launches the kernels belongs to them.
SOURCES = ("voxel_query.cu", "kernels.py", "voxel_pipeline.py", "kernel_device.py", "kernel_provision.py")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KernelKey(CacheKey):
    """All that compiled kernels depend on.

    Attributes:
        source_sha256: Hash of the kernels, and of what compiles, launches and compares them.
        head_sha256: Hash of the head of the student that they were compared with.
        compute_capability: Of the GPU, such as "8.7".
        channels, units, classes, half_features, volume: See `KernelSizes`.
        machine: Processor architecture of the host, as in ``uname -m``.
    """

    source_sha256: str
    head_sha256: str
    compute_capability: str
    channels: int
    units: int
    classes: int
    half_features: bool
    volume: bool
    machine: str

    @property
    def stem(self) -> str:
        """See `CacheKey`."""
        return _stem(self.source_sha256)

    @property
    def what(self) -> str:
        """See `CacheKey`."""
        return f"the voxel query for compute capability {self.compute_capability}"


@dataclass(frozen=True)
class ProvidedKernels:
    """Kernels that are ready to run.

    Attributes:
        kernels: The machine code.
        record: What was noted when they were compiled.
        path: Their file; None where it could not be written.
        built: Whether they were compiled now.
    """

    kernels: CompiledKernels
    record: Mapping[str, Any]
    path: Path | None
    built: bool


@dataclass(frozen=True)
class KernelParity:
    """How far the kernels are from those of the CPU, on the same outputs of the encoder; each the worst of all.

    Attributes:
        alpha_error: Largest difference of an opacity.
        probability_error: Largest difference of a probability.
        state_difference: Part of the voxels in view whose state differs.
        sight_difference: Part of the rays whose half distance differs by more than `DEPTH_TOLERANCE`.
        depth_difference: Part of the rays whose depth differs by more than `DEPTH_TOLERANCE`.
        transmittance_difference: Part of the rays whose transmittance differs by more than `TRANSMITTANCE_TOLERANCE`.
        confidence_error: Largest difference of a confidence, of voxels that are occupied for both.
        cosine_error: Largest difference of a cosine with phrases, of such voxels.
        wrong_labels: Voxels, occupied for both, whose label is not that of the largest logit, nor nearly; or not that
            of a vocabulary.
        wrong_entries: Occupied voxels that are missing from the list, too many in it, or there with another probability
            than in the grid.
    """

    alpha_error: float
    probability_error: float
    state_difference: float
    sight_difference: float
    depth_difference: float
    transmittance_difference: float
    confidence_error: float
    cosine_error: float
    wrong_labels: float
    wrong_entries: float

    @property
    def misses(self) -> list[str]:
        """What is beyond its limit, with both numbers."""
        limits = vars(KERNEL_LIMITS)
        return [
            f"{name.replace('_', ' ')} is {value:.3g} where {limits[name]:.3g} is allowed"
            for name, value in vars(self).items()
            if not value <= limits[name]  # NaN misses, too
        ]

    def require(self) -> None:
        """Refuse kernels that missed.

        Raises:
            GpuError: With the numbers.
        """
        if self.misses:
            raise GpuError(
                f"the voxel query does not compute what the CPU computes: {'; '.join(self.misses)}",
                where="parity gate",
                cure="It was discarded. Take a CPU engine, and report this with the versions of driver and compiler.",
            )


KERNEL_LIMITS = KernelParity(
    alpha_error=1e-3,
    probability_error=2e-2,
    state_difference=5e-3,
    sight_difference=0.02,
    depth_difference=0.02,
    transmittance_difference=0.02,
    confidence_error=5e-3,
    cosine_error=1e-3,
    wrong_labels=0.0,
    wrong_entries=0.0,
)
"""Both sides compute in float32, in another order: an opacity is about 1e-5 off, a probability more where its map is
steep. Where an opacity lies at a threshold, or a step of a ray at the border of a voxel, the decision may differ."""


def provide_kernels(
    bundle: StudentBundle,
    compute_capability: str,
    make_device: Callable[[CompiledKernels], KernelDevice],
    reference: Callable[[], ReferenceEncoder],
    *,
    half_features: bool,
    cache: Path | None = None,
) -> ProvidedKernels:
    """The kernels of a student for a GPU.

    Args:
        bundle: The student.
        compute_capability: Of the GPU, such as "8.7".
        make_device: Loads kernels onto it.
        reference: Makes the CPU's encoder, for outputs to compare them on.
        half_features: The encoder's map and volume are float16, not float32.
        cache: Folder of the engine cache; None for the user's.

    Raises:
        GpuError: They cannot be compiled, miss the parity gate, or cannot be run.
    """
    sizes = KernelSizes.of(bundle.head, half_features=half_features)
    key = KernelKey(
        source_sha256=_source_hash(),
        head_sha256=bundle.sha256.get(HEAD, ""),
        compute_capability=compute_capability,
        **asdict(sizes),
        machine=platform.machine(),
    )
    kept = EngineCache(cache)
    found = _cached(kept, key, sizes, make_device, explain=True)
    if found is not None:
        return found
    with kept.locked():
        found = _cached(kept, key, sizes, make_device, explain=False)  # another process may just have compiled them
        if found is not None:
            return found
        major, minor = (int(part) for part in compute_capability.split("."))
        kernels = compile_kernels(sizes, (major, minor), check=functools.partial(check_loads, make_device))
        maps = comparison_maps(bundle, reference())
        parity = measure_kernel_parity(bundle, kernels, make_device, maps, half_features=half_features)
        parity.require()
        record = {
            "compiler": kernels.compiler,
            "resources": {name: asdict(resources) for name, resources in kernels.resources.items()},
            "parity": asdict(parity),
        }
        return ProvidedKernels(kernels, record, kept.store(key, kernels.cubin, record), built=True)


def require_compiler(cache: Path | None = None) -> None:
    """Refuse a machine on which kernels would have to be compiled, and cannot be.

    Args:
        cache: Folder of the engine cache; None for the user's. Kernels of this version in it may be those that are
            needed, on a robot that was given them.

    Raises:
        GpuError: There is neither a compiler nor such a file; or the folder cannot be used.
    """
    if not has_compiler() and not any(EngineCache(cache).folder.glob(f"{_stem(_source_hash())}-*")):
        raise no_compiler()


def check_loads(make_device: Callable[[CompiledKernels], KernelDevice], kernels: CompiledKernels) -> None:
    """Raise GpuError where the driver does not take kernels."""
    try:
        make_device(kernels).close()
    except GpuFailureError as error:
        if error.kind != "unknown":
            raise
        raise GpuError(
            f"the kernels that {kernels.compiler} made do not load ({error.what})",
            where="GPU kernels",
            cure="See in nvidia-smi the newest CUDA version that the driver takes. Install a compiler that is no newer "
            "(pip install 'nvidia-cuda-nvrtc<=VERSION', or a toolkit), or a newer driver",
        ) from error


def comparison_maps(bundle: StudentBundle, encoder: ReferenceEncoder) -> list[EncodedImage]:
    """Outputs of an encoder to compare kernels on: noise, where rays end soon, and what is seen of a street.

    The noise says depths from before the nearest to behind the farthest that the student knows, and of some rays none.
    """
    height, width = bundle.canonical.height, bundle.canonical.width
    shapes = ((*bundle.feature_size, bundle.head.channels), bundle.head.volume_knots)
    random = np.random.default_rng(0)
    noise = [random.normal(0.0, SPREAD, shape).astype(np.float32) for shape in shapes if shape]
    if bundle.head.volume is not None:
        rays, (near, far) = ray_camera(bundle.canonical), bundle.depth_range
        depth = random.uniform(np.log(near / 2.0), np.log(BEYOND_FAR * far), (rays.height, rays.width))
        noise.append(np.where(random.random(depth.shape) < UNSAID, np.nan, np.exp(depth)).astype(np.float32))
    return [EncodedImage(*noise), encoder.encode(gate_images(height, width)[0]).copy()]


def measure_kernel_parity(
    bundle: StudentBundle,
    kernels: CompiledKernels,
    make_device: Callable[[CompiledKernels], KernelDevice],
    maps: Sequence[EncodedImage],
    *,
    half_features: bool,
) -> KernelParity:
    """Compare kernels with the CPU's, in the grid of a bundle; where it has a volume, also with voxels between knots.

    Args:
        bundle: The student.
        kernels: The kernels.
        make_device: Loads them onto a device.
        maps: Outputs of the encoder to compare them on.
        half_features: The encoder's map and volume are float16, not float32.
    """
    poses = [bundle.grid_from_camera]
    if bundle.head.volume is not None:
        aside = RigidTransform(np.eye(3), bundle.grid.voxel_size * np.array(BETWEEN_KNOTS))
        poses.append(aside @ bundle.grid_from_camera)
    kind = np.float16 if half_features else np.float32
    found = []
    for pose in poses:
        prepared = PreparedScene.of(bundle, bundle.grid, pose, ray_camera(bundle.canonical))
        device = make_device(kernels)
        try:
            pipeline = VoxelPipeline(device, prepared.query, prepared.march, prepared.classifier, prepared.labels)
            found += [_compared(prepared, device, pipeline, one, kind) for one in maps]
        finally:
            device.close()
    return worst(found)


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


def worst(found: Sequence[KernelParity]) -> KernelParity:
    """The worst of each number; what is not a number is worse than any."""
    rows = [asdict(one) for one in found]
    return KernelParity(**{name: float(np.max([row[name] for row in rows])) for name in rows[0]})


def stored_outputs(encoded: EncodedImage, kind: type[np.floating[Any]]) -> list[NDArray[np.floating[Any]]]:
    """What an encoder says, as one for GPUs stores it: map and volume in its type, the depth in float32."""
    of_its_type = [part.astype(kind) for part in (encoded.features, encoded.volume) if part is not None]
    return [*of_its_type, *([] if encoded.depth is None else [encoded.depth.astype(np.float32)])]


def _compared(
    prepared: PreparedScene,
    device: KernelDevice,
    pipeline: VoxelPipeline,
    encoded: EncodedImage,
    kind: type[np.floating[Any]],
) -> KernelParity:
    stored = stored_outputs(encoded, kind)
    given = EncodedImage(*(part.astype(np.float32) for part in stored))
    expected = HostSceneQuery(lambda _: given, prepared)(np.zeros((0, 0, 3), np.uint8))
    pipeline.enqueue(*(device.upload(part) for part in stored))
    found = pipeline.wait()
    alpha, probability = device.download(pipeline.alpha), device.download(pipeline.probability)
    half_distance = prepared.march(expected.dense.alpha, given.depth).half_distance
    in_view = prepared.query.in_view
    listed = np.flatnonzero(found.state.reshape(-1) >= VoxelState.SURFACE)
    wrong = len(np.setxor1d(found.index, listed)) + int(np.count_nonzero(np.diff(found.index) <= 0))
    wrong += int(np.count_nonzero(found.probability != probability.reshape(-1)[found.index]))
    common, ours, theirs = np.intersect1d(found.index, expected.occupied, return_indices=True)
    confidence_error = _largest(found.confidence[ours] - expected.confidence[theirs])
    wrong_labels, cosine_error = 0, 0.0
    if prepared.labels is not None and len(common):
        logits = prepared.labels.logits(given.features, common)
        chosen = logits[np.arange(len(common)), found.label[ours].clip(max=logits.shape[1] - 1)]
        wrong_labels = int(np.count_nonzero(~(chosen >= logits.max(axis=1) - TIE)))
        words = comparison_vocabulary(prepared.labels.weight.shape[1])
        cosines = PhraseQuery(prepared.labels).cosines(words, given.features, common)
        pipeline.compare(Words(words, words))
        by_words = pipeline.wait()
        cosine_error = _largest(pipeline.cosines(words, len(by_words.index))[ours] - cosines)
        label, confidence = labels_reference(cosines, words.classes, words.vocabulary.margin, words.temperature)
        difference = np.append(by_words.confidence[ours] - confidence.astype(np.float32), np.float32(confidence_error))
        confidence_error = _largest(difference)
        first, second = np.sort(cosines, axis=1)[:, -1:-3:-1].T
        clear = np.minimum(first - second, np.abs(first - second - words.vocabulary.margin)) > COSINE_TIE
        wrong_labels += int(np.count_nonzero(by_words.label[ours][clear] != label[clear]))

    def rays_off(found: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float) -> float:
        return float(1.0 - np.mean(np.isclose(found, expected, rtol=0.0, atol=tolerance, equal_nan=True)))

    return KernelParity(
        alpha_error=_largest(alpha - expected.dense.alpha),
        probability_error=_largest(probability - expected.dense.probability),
        state_difference=float(np.mean(found.state[in_view] != expected.state[in_view])) if in_view.any() else 0.0,
        sight_difference=rays_off(device.download(pipeline.half_distance), half_distance, DEPTH_TOLERANCE),
        depth_difference=rays_off(found.depth, expected.depth, DEPTH_TOLERANCE),
        transmittance_difference=rays_off(found.transmittance, expected.transmittance, TRANSMITTANCE_TOLERANCE),
        confidence_error=confidence_error,
        cosine_error=cosine_error,
        wrong_labels=float(wrong_labels),
        wrong_entries=float(wrong),
    )


def _largest(difference: NDArray[np.float32]) -> float:
    return float(np.abs(difference).max(initial=0.0))  # NaN stays so


def _stem(source_sha256: str) -> str:
    return f"kernels-{source_sha256[:12]}"


def _source_hash() -> str:
    joined = hashlib.sha256()
    for name in SOURCES:
        joined.update(hashlib.sha256(SOURCE.with_name(name).read_bytes()).digest())
    return joined.hexdigest()


def _cached(
    cache: EngineCache,
    key: KernelKey,
    sizes: KernelSizes,
    make_device: Callable[[CompiledKernels], KernelDevice],
    *,
    explain: bool,
) -> ProvidedKernels | None:
    kept = cache.load(key, explain=explain)
    if kept is None:
        return None
    kernels = CompiledKernels(kept.plan, sizes.kernels, {}, str(kept.record.get("compiler", "")))
    try:
        make_device(kernels).close()
    except GpuError as error:
        _log.warning("%s is not used: %s; the node builds it again", kept.path, str(error))
        return None
    return ProvidedKernels(kernels, kept.record, kept.path, built=False)
