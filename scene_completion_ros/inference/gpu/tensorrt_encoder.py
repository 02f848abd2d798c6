"""The encoder of a bundle on TensorRT, and `SceneQuery` on a GPU behind it.

What the encoder says stays on the GPU for the kernels: nothing comes back but states, depth and occupied voxels.
"""

import functools
import logging
import time
import weakref
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu.device import (
    EngineOptions,
    PrimaryContext,
    check_limits,
    installed_flavour,
    require,
)
from scene_completion_ros.inference.gpu.kernel_provision import provide_kernels
from scene_completion_ros.inference.gpu.kernels import KernelDevice
from scene_completion_ros.inference.gpu.tensorrt_engine import OUTPUT, TensorRtEngine, provide_engine
from scene_completion_ros.inference.gpu.voxel_pipeline import VoxelPipeline
from scene_completion_ros.inference.label_query import NO_WORDS, Words, matches_of
from scene_completion_ros.inference.scene_query import (
    NO_EVIDENCE,
    EncodedImage,
    Encoder,
    Evidence,
    Given,
    GivenView,
    PreparedScene,
    SceneAnswer,
    SceneQuery,
)
from scene_completion_ros.jit import aligned_empty

_log = logging.getLogger(__name__)


class TensorRtEncoder(Encoder):
    """The encoder on an NVIDIA GPU.

    Belongs to the thread that makes it, which holds the GPU's primary context; the last reference to it is to go there,
    too. Raises BundleError where the bundle has no encoder for GPUs in this precision, or one that cannot be used;
    GpuError: something is missing, or engine or kernels cannot be built, miss the gate or cannot be run. `reference`:
    makes the CPU's encoder of the same bundle, for the parity gates of what is built.
    """

    def __init__(self, bundle: StudentBundle, options: EngineOptions, reference: Callable[[], Encoder]) -> None:
        flavour = installed_flavour()
        require(flavour)
        check_limits(bundle, options)
        self.name = f"{flavour}_{options.precision}"
        self._bundle, self._options = bundle, options
        self._context = PrimaryContext()
        try:
            with self._context.work("preparing the GPU"):
                # Seconds that may fail stand before minutes.
                self._kernels, _ = provide_kernels(bundle, self._context, options, reference)
                self._engine, _ = provide_engine(bundle, options, self._context, reference)
        except BaseException:
            self._context.close()
            raise
        self._features = aligned_empty(*self._engine.ports[OUTPUT][0])
        finalizer = weakref.finalize(self, _release, self._context, self._engine)
        finalizer.atexit = False  # pycuda may be gone by then, and the driver cleans up by itself

    def encode(
        self, image_rgb: NDArray[np.uint8], beside: Given | None = None, given_view: GivenView | None = None
    ) -> EncodedImage:
        """See `Encoder`; no graph for GPUs takes anything beside the image yet.

        Raises GpuError where the GPU failed; after the loss of the device nothing on it works any more in this process.
        """
        del beside, given_view
        with self._context.work("running the encoder"):
            self._features[:] = self._engine(image_rgb[None])
        return EncodedImage(self._features[0])

    def scene_query(self, prepared: PreparedScene) -> SceneQuery:
        """See `DeviceEncoder`. Raises GpuError where the grid is too large for it, or there is not enough memory."""
        check_limits(self._bundle, self._options, prepared.query.grid)
        with self._context.work("loading the kernels"):
            device = KernelDevice(self._context, self._kernels, self._engine.stream)
        return DeviceSceneQuery(self._engine, device, self._context, prepared)


class DeviceSceneQuery:
    """Encoder and kernels on one stream, waited for once.

    Belongs to the thread of the engine; so does its end, which frees what it has on the device. Raises GpuError where
    there is not enough memory. `device`: what runs the kernels; it becomes this one's, which closes it.
    """

    def __init__(
        self, engine: TensorRtEngine, device: KernelDevice, context: PrimaryContext, prepared: PreparedScene
    ) -> None:
        self._engine, self._device, self._context = engine, device, context
        self._answers = 0
        with context.work("preparing the voxel query"):
            try:
                self._pipeline = VoxelPipeline(
                    device, prepared.query, prepared.march, prepared.classifier, prepared.labels
                )
            except BaseException:
                device.close()
                raise
        finalizer = weakref.finalize(self, _release, context.hold(), device)
        finalizer.atexit = False  # the driver cleans up by itself, and pycuda may be gone

    def __call__(
        self, image_rgb: NDArray[np.uint8], words: Words = NO_WORDS, evidence: Evidence = NO_EVIDENCE
    ) -> SceneAnswer:
        """See `SceneQuery`; no graph for GPUs takes evidence."""
        del evidence
        started_s, device = time.perf_counter(), self._device
        with self._context.work("completing an image"):
            self._engine.load(image_rgb[None])
            self._answers += 1  # from here on the former answer may be overwritten, also where this one fails
            device.begin()
            features = self._engine.enqueue()
            device.lap("encode")
            self._pipeline.enqueue(features)
            if words.vocabulary or words.queried:
                self._pipeline.compare(words)
            found = self._pipeline.wait()
            queried, count = words.queried, len(found.index)
            matches = () if queried is None else matches_of(queried, self._pipeline.cosines(queried, count))
        times_ms = dict.fromkeys(("encode", "query", "march", "assemble", "label"), 0.0) | device.laps_ms()
        times_ms.pop("copied", None)
        times_ms["label"] += times_ms.pop("compared", 0.0)
        answer = SceneAnswer(
            occupied=found.index.copy(),
            probability=found.probability.copy(),
            label=found.label.copy() if words.labels else np.zeros_like(found.label),
            confidence=found.confidence.copy() if words.labels else np.ones_like(found.confidence),
            state=found.state.copy(),
            depth=found.depth.copy(),
            transmittance=found.transmittance.copy(),
            dense=_FieldOnDevice(self, self._answers),
            times_ms=times_ms,
            matches=matches,
        )
        # Copies over the bus and in memory, and what the host took to ask for it all.
        times_ms["assemble"] += max(0.0, 1e3 * (time.perf_counter() - started_s) - sum(times_ms.values()))
        return answer

    def fetch(self, which: str, answer: int) -> NDArray[np.float32]:
        """Opacity or probability of all voxels.

        `which`: "alpha" or "probability"; `answer`: number of the answer that it belongs to. Raises GpuError where it
        was overwritten by a later answer, or cannot be copied.
        """
        if answer != self._answers:
            what = f"the {which} of all voxels was overwritten by the next image"
            raise GpuError(what, where="GPU", cure="Ask for it before the next image is completed.")
        with self._context.work(f"copying the {which} to the host"):
            values: NDArray[np.float32] = self._device.download(getattr(self._pipeline, which))
        return values


class _FieldOnDevice:
    """`DenseField` that is copied to the host when it is asked for."""

    def __init__(self, query: DeviceSceneQuery, answer: int) -> None:
        self._query, self._answer = query, answer

    @functools.cached_property
    def alpha(self) -> NDArray[np.float32]:
        return self._query.fetch("alpha", self._answer)

    @functools.cached_property
    def probability(self) -> NDArray[np.float32]:
        return self._query.fetch("probability", self._answer)


def _release(context: PrimaryContext, closed: TensorRtEngine | KernelDevice) -> None:
    try:
        with context.work("freeing memory"):
            closed.close()
    except GpuError as error:  # of a lost device, of which there is nothing left to release
        _log.warning("%s", error)
    context.close()
