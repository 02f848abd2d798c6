"""The encoder of a bundle on TensorRT: what it says stays on the GPU for the kernels, or comes back to the host."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GpuError, GridError
from scene_completion_ros.inference.bundle import StudentBundle, check_image
from scene_completion_ros.inference.encoded_image import EncodedImage
from scene_completion_ros.inference.gpu.device import PrimaryContext
from scene_completion_ros.inference.gpu.device_scene_query import DeviceSceneQuery
from scene_completion_ros.inference.gpu.engine_provision import provide_engine
from scene_completion_ros.inference.gpu.kernel_device import EncodedOnDevice, KernelDevice
from scene_completion_ros.inference.gpu.kernel_provision import provide_kernels
from scene_completion_ros.inference.gpu.kernels import CompiledKernels
from scene_completion_ros.inference.gpu.options import EngineOptions, check_grid, check_limits, gpu_bundle
from scene_completion_ros.inference.gpu.parity import ReferenceEncoder, gate_images
from scene_completion_ros.inference.gpu.requirements import installed_flavour, require
from scene_completion_ros.inference.gpu.tensorrt_runtime import EngineRunner, TensorRtEngine, outputs_of
from scene_completion_ros.inference.scene_query import PreparedScene, SceneQuery
from scene_completion_ros.jit import aligned_empty

_log = logging.getLogger(__name__)


class TensorRtEncoder:
    """The encoder on an NVIDIA GPU.

    Belongs to the thread that makes it, which holds the GPU's primary context; the last reference to it is to go there,
    too.

    Args:
        options: What its engine is asked for; the batch has to allow one image.
        reference: Makes the CPU's encoder of the same bundle, for the parity gate of an engine that is built.

    Raises:
        BundleError: The bundle has no encoder for GPUs in this precision, or one that cannot be used.
        GpuError: Something is missing, or engine or kernels cannot be built, miss the gate or cannot be run.
    """

    def __init__(
        self, bundle: StudentBundle, options: EngineOptions, reference: Callable[[], ReferenceEncoder]
    ) -> None:
        flavour = options.flavour or installed_flavour()
        require(flavour)
        offered = gpu_bundle(bundle, options.precision)
        check_limits(offered, options)
        self.name = f"{flavour}_{options.precision}"
        self._bundle = bundle
        self._context = PrimaryContext()
        try:
            with self._context:
                self._kernels = self._provide_kernels(options, reference)
                engine = provide_engine(offered, options, self._context, reference).engine
                try:
                    self._runner = EngineRunner(engine, self._context)
                except BaseException:
                    engine.close()
                    raise
        except BaseException:
            self._context.close()
            raise
        self._examples: NDArray[np.uint8] | None = None
        # TensorRT-RTX has conditions of its own for what may be captured, and changes kernels while it runs.
        if options.graphs and flavour == "tensorrt":
            self._examples = np.stack(gate_images(bundle.canonical.height, bundle.canonical.width)[:2])
        self._outputs = [aligned_empty(1, *shape) for shape, _ in outputs_of(engine.key).values()]
        finalizer = weakref.finalize(self, _release, self._context, engine, self._runner)
        finalizer.atexit = False  # pycuda may be gone by then, and the driver cleans up by itself

    def __call__(self, image_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Encoder`."""
        return self.encode(image_rgb).features

    def encode(self, image_rgb: NDArray[np.uint8]) -> EncodedImage:
        """See `Encoder`.

        Raises:
            GpuError: The GPU failed; after the loss of the device nothing on it works any more in this process.
        """
        check_image(self._bundle, image_rgb)
        with self._context:
            for output, found in zip(self._outputs, self._runner(image_rgb[None]), strict=True):
                output[:] = found
        return EncodedImage.of(self._outputs)

    def load(self, images: NDArray[np.uint8]) -> None:
        """Give it images, see `EngineRunner.load`."""
        self._runner.load(images)

    def enqueue(self) -> EncodedOnDevice:
        """Ask for what it says of the image that was given, see `EngineRunner.enqueue`; with the context current."""
        return self._runner.enqueue()

    def scene_query(self, prepared: PreparedScene) -> SceneQuery:
        """See `DeviceEncoder`.

        Raises:
            GpuError: The grid is too large for it, or there is not enough memory.
        """
        try:
            check_grid(prepared.query.grid)
        except GridError as error:
            raise GpuError(error.what, where=error.where, cure=error.cure) from None
        with self._context:
            device = KernelDevice(self._context, self._kernels, self._runner.stream)
        check = functools.partial(check_image, self._bundle)
        return DeviceSceneQuery(self, check, device, self._context, prepared, self._examples)

    def _provide_kernels(self, options: EngineOptions, reference: Callable[[], ReferenceEncoder]) -> CompiledKernels:
        return provide_kernels(
            self._bundle,
            self._context.facts.compute_capability,
            functools.partial(KernelDevice, self._context),
            reference,
            half_features=options.precision != "fp32",
            cache=options.cache,
        ).kernels


def _release(context: PrimaryContext, engine: TensorRtEngine, runner: EngineRunner) -> None:
    try:
        with context:
            runner.close()
            engine.close()
        context.close()
    except Exception as error:  # of a lost device, of which there is nothing left to release
        _log.warning("the GPU could not be released: %s", error)
