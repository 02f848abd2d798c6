"""The engine of a bundle: from the cache, or built, compared with the CPU's and kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.encoded_image import EncodedImage
from scene_completion_ros.inference.gpu.device import PrimaryContext
from scene_completion_ros.inference.gpu.engine_cache import EngineCache, EngineKey
from scene_completion_ros.inference.gpu.options import EngineOptions
from scene_completion_ros.inference.gpu.parity import Output, Parity, ReferenceEncoder, compare, gate_images
from scene_completion_ros.inference.gpu.requirements import installed_flavour
from scene_completion_ros.inference.gpu.tensorrt_build import build_plan, engine_key
from scene_completion_ros.inference.gpu.tensorrt_runtime import (
    EngineRunner,
    TensorRt,
    TensorRtEngine,
    UnusablePlanError,
    load_tensorrt,
    outputs_of,
)

RECORDS: Mapping[Output, str] = {"features": "parity", "volume": "volume_parity", "depth": "depth_parity"}
"""Under which name the parity of an output is noted."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProvidedEngine:
    """An engine that is ready to run.

    Attributes:
        engine: The engine.
        record: What was noted when it was built.
        path: Its file; None where it could not be written.
    """

    engine: TensorRtEngine
    record: Mapping[str, Any]
    path: Path | None
    built: bool


def provide_engine(
    bundle: StudentBundle, options: EngineOptions, context: PrimaryContext, reference: Callable[[], ReferenceEncoder]
) -> ProvidedEngine:
    """The engine of a bundle for this GPU; with the context current.

    Args:
        reference: Makes the CPU's encoder, which an engine is compared with when it is built.

    Raises:
        BundleError: The graph cannot be used.
        GpuError: It cannot be built, misses the parity gate, or cannot be run.
    """
    tensorrt = load_tensorrt(options.flavour or installed_flavour())
    onnx = bundle.read_gpu_encoder(options.precision)
    facts = context.facts
    key = engine_key(
        bundle,
        onnx,
        options,
        tensorrt,
        gpu_name=facts.name,
        compute_capability=facts.compute_capability,
        multiprocessors=facts.multiprocessors,
    )
    cache = EngineCache(options.cache)
    found = _cached(cache, key, tensorrt, explain=True)
    if found is not None:
        return found
    with cache.locked():
        found = _cached(cache, key, tensorrt, explain=False)  # another process may just have built it
        return found or _built(onnx, key, tensorrt, cache, context, reference)


def build_without_device(bundle: StudentBundle, options: EngineOptions) -> tuple[Path | None, bool]:
    """Build an engine on a machine without a GPU, which TensorRT-RTX can; it is compared with nothing.

    Its key names no GPU, so that nobody who has one takes it.

    Returns:
        Its file, None where it could not be written; and whether it was built now.

    Raises:
        BundleError: The graph cannot be used.
        GpuError: It cannot be built.
    """
    tensorrt = load_tensorrt(options.flavour or installed_flavour())
    onnx = bundle.read_gpu_encoder(options.precision)
    key = engine_key(bundle, onnx, options, tensorrt)
    cache = EngineCache(options.cache)
    cached = cache.load(key)
    if cached is not None:
        return cached.path, False
    with cache.locked():
        plan, _ = build_plan(onnx, key, tensorrt)
        return cache.store(key, plan, {"parity": None}), True


def measure_parity(engine: TensorRtEngine, context: PrimaryContext, reference: ReferenceEncoder) -> list[Parity]:
    """Compare an engine with the CPU's encoder, with its smallest and its largest batch: each output, in order."""
    key = engine.key
    images = gate_images(*key.image)
    expected = [reference.encode(image).copy() for image in images] * len(set(key.batch))
    runner = EngineRunner(engine, context)
    found: list[EncodedImage] = []
    try:
        for batch in sorted(set(key.batch)):
            for start in range(0, len(images), batch):
                # The last batch is filled up with the last image.
                group = [images[min(start + i, len(images) - 1)] for i in range(batch)]
                outputs = [output[: len(images) - start].copy() for output in runner(np.stack(group))]
                found += [EncodedImage(*parts) for parts in zip(*outputs, strict=True)]
    finally:
        runner.close()
    names: list[Output] = [name for name in get_args(Output) if name in outputs_of(key)]
    return [
        compare([getattr(one, name) for one in expected], [getattr(one, name) for one in found], key.precision, name)
        for name in names
    ]


def _cached(cache: EngineCache, key: EngineKey, tensorrt: TensorRt, *, explain: bool) -> ProvidedEngine | None:
    cached = cache.load(key, explain=explain)
    if cached is None:
        return None
    try:
        engine = TensorRtEngine(cached.plan, key, tensorrt)
    except UnusablePlanError as error:
        _log.warning("%s is not used: %s; the node builds it again", cached.path, error.what)
        return None
    return ProvidedEngine(engine, cached.record, cached.path, built=False)


def _built(
    onnx: bytes,
    key: EngineKey,
    tensorrt: TensorRt,
    cache: EngineCache,
    context: PrimaryContext,
    reference: Callable[[], ReferenceEncoder],
) -> ProvidedEngine:
    # A warning, for whoever waits for it sees nothing else where nobody listens to the log.
    _log.warning(
        "building the %s engine with %s %s for %s; this takes minutes, and is done once",
        key.precision,
        key.flavour,
        key.tensorrt_version,
        key.gpu_name,
    )
    started_s = time.monotonic()
    plan, timings = build_plan(onnx, key, tensorrt, timings=cache.load_timings(key))
    seconds = time.monotonic() - started_s
    if timings:
        cache.store_timings(key, timings)
    try:
        engine = TensorRtEngine(plan, key, tensorrt)
    except UnusablePlanError as error:
        cure = "It may not know this GPU: take another version, the other flavour, or a CPU engine."
        where = f"{key.flavour} {key.tensorrt_version} refuses what it built for {key.gpu_name}"
        raise GpuError(error.what, where=where, cure=cure) from error
    try:
        parities = measure_parity(engine, context, reference())
        for parity in parities:
            parity.require()
    except BaseException:
        engine.close()
        raise
    said = "; ".join(map(str, parities))
    _log.info("built after %.0f s; against the CPU's encoder: %s", seconds, said)
    record = {"build_seconds": round(seconds, 1), **{RECORDS[one.output]: one.as_record() for one in parities}}
    return ProvidedEngine(engine, record, cache.store(key, plan, record), built=True)
