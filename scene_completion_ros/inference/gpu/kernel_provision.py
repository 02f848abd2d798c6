"""The kernels of a student for a GPU: from the cache, or compiled, compared with the CPU's and kept."""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu.engine_cache import CacheKey, EngineCache
from scene_completion_ros.inference.gpu.kernel_device import KernelDevice
from scene_completion_ros.inference.gpu.kernels import (
    SOURCE,
    CompiledKernels,
    KernelResources,
    KernelSizes,
    compile_kernels,
)
from scene_completion_ros.inference.gpu.voxel_pipeline import VoxelPipeline
from scene_completion_ros.inference.scene_query import HostSceneQuery, PreparedScene, ray_camera

# Raised where other options of the compiler, or another comparison, make former kernels worthless.
SCHEMA = 1
# Spread of the features that both sides are compared on: with the shipped student, one voxel in six is occupied.
SPREAD = 1.0
DEPTH_TOLERANCE = 0.02  # metres

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KernelKey(CacheKey):
    """All that compiled kernels depend on.

    Attributes:
        source_sha256: Hash of ``voxel_query.cu``.
        compute_capability: Of the GPU, such as "8.7".
        channels, units, classes, half_features: See `KernelSizes`.
        machine: Processor architecture of the host, as in ``uname -m``.
        schema: `SCHEMA` of when they were compiled.
    """

    source_sha256: str
    compute_capability: str
    channels: int
    units: int
    classes: int
    half_features: bool
    machine: str
    schema: int = SCHEMA

    @property
    def stem(self) -> str:
        """See `CacheKey`."""
        return f"kernels-{self.source_sha256[:12]}"

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
    """How far the kernels are from those of the CPU, on the same features.

    Attributes:
        alpha_error: Largest difference of an opacity.
        state_difference: Part of the voxels whose state differs.
        depth_difference: Part of the rays whose depth differs by more than `DEPTH_TOLERANCE`.
        label_difference: Part of the voxels, occupied for both, whose label differs.
    """

    alpha_error: float
    state_difference: float
    depth_difference: float
    label_difference: float

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
                cure="It is not kept. Take a CPU engine, and report this with the versions of driver and compiler.",
            )


KERNEL_LIMITS = KernelParity(alpha_error=1e-3, state_difference=2e-3, depth_difference=0.02, label_difference=1e-3)
"""Both sides compute in float32, in another order: an opacity is about 1e-5 off, and where it lies at a threshold, or a
step of a ray at the border of a voxel, the decision may differ."""


def provide_kernels(
    bundle: StudentBundle,
    compute_capability: str,
    make_device: Callable[[CompiledKernels], KernelDevice],
    *,
    half_features: bool,
    cache: Path | None = None,
) -> ProvidedKernels:
    """The kernels of a student for a GPU.

    Args:
        bundle: The student.
        compute_capability: Of the GPU, such as "8.7".
        make_device: Loads kernels onto it, for the comparison.
        half_features: The encoder's map is float16, not float32.
        cache: Folder of the engine cache; None for the user's.

    Raises:
        GpuError: They cannot be compiled, miss the parity gate, or cannot be run.
    """
    sizes = KernelSizes.of(bundle.head, half_features=half_features)
    source_hash = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    key = KernelKey(source_hash, compute_capability, **asdict(sizes), machine=platform.machine())
    kept = EngineCache(cache)
    found = _cached(kept, key, explain=True)
    if found is not None:
        return found
    with kept.locked():
        found = _cached(kept, key, explain=False)  # another process may just have compiled them
        if found is not None:
            return found
        major, minor = (int(part) for part in compute_capability.split("."))
        kernels = compile_kernels(sizes, (major, minor))
        parity = measure_kernel_parity(bundle, kernels, make_device, half_features=half_features)
        parity.require()
        record = {
            "compiler": kernels.compiler,
            "resources": {name: asdict(resources) for name, resources in kernels.resources.items()},
            "parity": asdict(parity),
        }
        return ProvidedKernels(kernels, record, kept.store(key, kernels.cubin, record), built=True)


def measure_kernel_parity(
    bundle: StudentBundle,
    kernels: CompiledKernels,
    make_device: Callable[[CompiledKernels], KernelDevice],
    *,
    half_features: bool,
) -> KernelParity:
    """Compare kernels with the CPU's, in the grid of a bundle, on features that are nothing but noise."""
    prepared = PreparedScene.of(bundle, bundle.grid, bundle.grid_from_camera, ray_camera(bundle.canonical))
    shape = (*bundle.feature_size, bundle.head.channels)
    noise = np.random.default_rng(0).normal(0.0, SPREAD, shape)
    features = noise.astype(np.float16 if half_features else np.float32)
    given = features.astype(np.float32)
    expected = HostSceneQuery(lambda _: given, prepared)(np.zeros((0, 0, 3), np.uint8))
    device = make_device(kernels)
    try:
        pipeline = VoxelPipeline(device, prepared.query, prepared.march, prepared.classifier, prepared.labels)
        pipeline.enqueue(device.upload(features))
        found = pipeline.wait()
        alpha = device.download(pipeline.alpha)
        common, ours, theirs = np.intersect1d(found.index, expected.occupied, return_indices=True)
        wrong_labels = np.count_nonzero(found.label[ours] != expected.label[theirs])
        rays_alike = np.isclose(found.depth, expected.depth, rtol=0.0, atol=DEPTH_TOLERANCE, equal_nan=True)
        return KernelParity(
            alpha_error=float(np.abs(alpha - expected.dense.alpha).max()),
            state_difference=float(np.mean(found.state != expected.state)),
            depth_difference=float(1.0 - np.mean(rays_alike)),
            label_difference=wrong_labels / max(len(common), 1),
        )
    finally:
        device.close()


def _cached(cache: EngineCache, key: KernelKey, *, explain: bool) -> ProvidedKernels | None:
    kept = cache.load(key, explain=explain)
    if kept is None:
        return None
    try:
        resources = {str(name): KernelResources(**used) for name, used in dict(kept.record["resources"]).items()}
        kernels = CompiledKernels(kept.plan, resources, str(kept.record["compiler"]))
    except (KeyError, TypeError, ValueError):
        _log.warning("%s is not used: its record is damaged; it is built again", kept.path)
        return None
    return ProvidedKernels(kernels, kept.record, kept.path, built=False)
