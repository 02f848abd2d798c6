"""An engine with a stream and buffers of its own: images of the host in, features of the host out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.inference.gpu.device import PrimaryContext, gpu_errors
from scene_completion_ros.inference.gpu.kernel_device import Buffer
from scene_completion_ros.inference.gpu.tensorrt_runtime import TensorRtEngine


class EngineRunner:
    """Copies images to the GPU, runs an engine on them and copies the features back.

    Made, used and closed with the context current, in one thread.

    Args:
        engine: The engine.
        context: The context that it was made in.
        stream: What all is done on (`pycuda.driver.Stream`); a new one by default.

    Attributes:
        stream: That stream.

    Raises:
        GpuError: There is not enough memory.
    """

    def __init__(self, engine: TensorRtEngine, context: PrimaryContext, stream: Any = None) -> None:
        self._engine = engine
        self._context = context
        self._device: list[Any] = []
        self._pinned: list[NDArray[Any]] = []
        key = engine.key
        largest = key.batch[1]
        kind = np.float32 if key.precision == "fp32" else np.float16
        self.stream: Any = context.stream() if stream is None else stream
        try:
            for shape, dtype, what in (
                ((largest, *key.image, 3), np.uint8, "images"),
                ((largest, *key.features), kind, "features"),
            ):
                self._pinned.append(context.pinned(shape, dtype))
                self._device.append(context.allocate(self._pinned[-1].nbytes, what))
        except BaseException:
            self.close()
            raise

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Features of images; overwritten by the next call.

        Args:
            images: uint8 [n, H, W, 3] RGB, n within the engine's batch.

        Returns:
            [n, h, w, C + E], float32 for fp32 and float16 otherwise.

        Raises:
            GpuError: The GPU failed.
        """
        self.load(images)
        features = self.enqueue(len(images))
        host_features = self._pinned[1][: len(images)]
        with gpu_errors("running the encoder", self._context):
            self._context.copy_to_host(host_features, features.pointer, self.stream)
            self.stream.synchronize()
        return host_features

    def load(self, images: NDArray[np.uint8]) -> None:
        """Put images [n, H, W, 3] where they are copied from; features of the former ones must have been waited for."""
        self._pinned[0][: len(images)] = images

    def enqueue(self, count: int = 1) -> Buffer:
        """Ask for the features of images that were loaded, in the order of the stream; returns before they are there.

        Args:
            count: How many images, within the engine's batch.

        Returns:
            Where features [n, h, w, C + E] go on the GPU, always the same place.

        Raises:
            GpuError: The GPU failed.
        """
        image, features = self._device
        host_images, host_features = (array[:count] for array in self._pinned)
        with gpu_errors("running the encoder", self._context):
            self._context.copy_to_device(int(image), host_images, self.stream)
            self._engine.enqueue(int(image), int(features), int(self.stream.handle), count)
        return Buffer(int(features), host_features.shape, host_features.dtype, features)

    def close(self) -> None:
        """Free its memory; features that it gave out must not be touched any more."""
        while self._device:
            self._device.pop().free()
        while self._pinned:
            self._context.free_pinned(self._pinned.pop())
        self.stream = None
