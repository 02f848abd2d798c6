"""`SceneQuery` on a GPU: an image goes there, and nothing comes back but states, depth and occupied voxels."""

from __future__ import annotations

import functools
import logging
import time
import weakref
from collections.abc import Callable
from dataclasses import astuple
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu.device import PrimaryContext
from scene_completion_ros.inference.gpu.kernel_device import EncodedOnDevice, KernelDevice
from scene_completion_ros.inference.gpu.voxel_pipeline import VoxelPipeline
from scene_completion_ros.inference.phrase_query import NO_WORDS, Words
from scene_completion_ros.inference.scene_query import PreparedScene, SceneAnswer

_log = logging.getLogger(__name__)


class EnqueuedEncoder(Protocol):
    """An encoder whose outputs stay on the device."""

    def load(self, images: NDArray[np.uint8]) -> None:
        """Takes images [1, H, W, 3]; what was asked of the former ones must have been waited for."""
        ...

    def enqueue(self) -> EncodedOnDevice:
        """Asks for what it says of what it took, in the order of the stream of the kernels.

        They go to the same place always.
        """
        ...


class DeviceSceneQuery:
    """Encoder and kernels on one stream, waited for once.

    Belongs to the thread of the encoder; so does its end, which frees what it has on the device.

    Args:
        encoder: The encoder.
        check: Called with each image; raises ImageError where it is none for this encoder.
        device: What runs the kernels; it becomes this one's, which closes it.
        context: The context of both.
        prepared: The scene.
        examples: Two images [2, H, W, 3], not alike: frames are asked for as a CUDA graph where that gives the same
            voxels of both. None takes no graph.

    Raises:
        GpuError: There is not enough memory, or frames differ after a graph was tried.
    """

    def __init__(
        self,
        encoder: EnqueuedEncoder,
        check: Callable[[NDArray[np.uint8]], None],
        device: KernelDevice,
        context: PrimaryContext,
        prepared: PreparedScene,
        examples: NDArray[np.uint8] | None = None,
    ) -> None:
        self._encoder = encoder
        self._check = check
        self._device = device
        self._context = context
        self._answers = 0
        self._ask: Callable[[], None]
        with context:
            try:
                self._pipeline = VoxelPipeline(
                    device, prepared.query, prepared.march, prepared.classifier, prepared.labels
                )
                self._ask = functools.partial(_ask, device, encoder, self._pipeline)
                if examples is not None:
                    self._ask = self._checked_graph(examples)
            except BaseException:
                device.close()
                raise
        finalizer = weakref.finalize(self, _release, device, context.hold())
        finalizer.atexit = False  # the driver cleans up by itself, and pycuda may be gone

    def _checked_graph(self, examples: NDArray[np.uint8]) -> Callable[[], None]:
        """A graph of frames where it gives the voxels that they have without one; the log says why there is none."""
        ask = self._ask

        def voxels(number: int, asked: Callable[[], None]) -> list[bytes]:
            self._encoder.load(examples[number][None])
            asked()
            return [np.asarray(part).tobytes() for part in astuple(self._pipeline.wait())]

        # One after the other: a graph that does nothing would leave the voxels of the image before.
        expected = [voxels(number, ask) for number in (1, 0)]
        if expected[0] == expected[1]:
            return ask  # nothing is in view: there is nothing to tell a graph by, nor to gain
        try:
            graph = self._device.captured(ask)
            if [voxels(number, graph) for number in (1, 0)] == expected:
                return graph
            why = "it gives other voxels than what it was captured from"
        except GpuError as error:
            why = str(error)
        if voxels(0, ask) != expected[1]:
            cure = "Take no graphs (gpu_graphs: false)."
            raise GpuError(f"a frame differs after a CUDA graph was tried ({why})", where="GPU", cure=cure)
        _log.warning("the node goes on without a CUDA graph: %s", why)
        return ask

    def __call__(self, image_rgb: NDArray[np.uint8], words: Words = NO_WORDS) -> SceneAnswer:
        """See `SceneQuery`."""
        self._check(image_rgb)
        self._answers += 1  # from here on the former answer may be overwritten, also where this one fails
        started_s, device = time.perf_counter(), self._device
        with self._context:
            self._encoder.load(image_rgb[None])
            self._ask()
            if words != NO_WORDS:
                self._pipeline.compare(words)
            found = self._pipeline.wait()
            cosines = None if words.asked is None else self._pipeline.cosines(words.asked, len(found.index))
        times_ms = dict.fromkeys(("encode", "query", "march", "assemble", "label"), 0.0) | device.laps_ms()
        times_ms.pop("copied", None)
        times_ms["label"] += times_ms.pop("compared", 0.0)
        answer = SceneAnswer(
            occupied=found.index.copy(),
            probability=found.probability.copy(),
            label=found.label.copy(),
            confidence=found.confidence.copy(),
            state=found.state.copy(),
            depth=found.depth.copy(),
            transmittance=found.transmittance.copy(),
            dense=_FieldOnDevice(self, self._answers),
            times_ms=times_ms,
            cosines=cosines,
        )
        # Copies over the bus and in memory, and what the host took to ask for it all.
        times_ms["assemble"] += max(0.0, 1e3 * (time.perf_counter() - started_s) - sum(times_ms.values()))
        return answer

    def fetch(self, which: str, answer: int) -> NDArray[np.float32]:
        """Opacity or probability of all voxels.

        Args:
            which: "alpha" or "probability".
            answer: Number of the answer that it belongs to.

        Raises:
            GpuError: It was overwritten by a later answer, or cannot be copied.
        """
        if answer != self._answers:
            raise GpuError(
                f"the {which} of all voxels was overwritten by the next image",
                where="GPU",
                cure="Ask for it before the next image is completed.",
            )
        with self._context:
            values: NDArray[np.float32] = self._device.download(getattr(self._pipeline, which))
        return values


class _FieldOnDevice:
    """`DenseField` that is copied to the host when it is asked for."""

    def __init__(self, query: DeviceSceneQuery, answer: int) -> None:
        self._query = query
        self._answer = answer
        self._fetched: dict[str, NDArray[np.float32]] = {}

    @property
    def alpha(self) -> NDArray[np.float32]:
        return self._get("alpha")

    @property
    def probability(self) -> NDArray[np.float32]:
        return self._get("probability")

    def _get(self, which: str) -> NDArray[np.float32]:
        if which not in self._fetched:
            self._fetched[which] = self._query.fetch(which, self._answer)
        return self._fetched[which]


def _ask(device: KernelDevice, encoder: EnqueuedEncoder, pipeline: VoxelPipeline) -> None:
    """Ask for a frame of what the encoder took."""
    device.begin()
    encoded = encoder.enqueue()
    device.lap("encode")
    pipeline.enqueue(*encoded)


def _release(device: KernelDevice, context: PrimaryContext) -> None:
    try:
        with context:
            device.close()
    except Exception as error:  # of a lost device, of which there is nothing left to release
        _log.warning("memory of the GPU could not be freed: %s", error)
    finally:
        context.close()
