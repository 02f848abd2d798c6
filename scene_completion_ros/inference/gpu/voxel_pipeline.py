"""From the encoder's map on the device to occupied voxels on the host: density, rays, states, compaction, labels.

All that depends on camera and grid is uploaded once. A frame allocates nothing, is one sequence of launches on one
stream, and is waited for once. Over the bus go the depth image, the state of every voxel, and index, probability, label
and confidence of the occupied voxels. Opacity and probability of all voxels stay on the device.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.inference.gpu.kernels import Argument, Buffer, KernelDevice
from scene_completion_ros.inference.label_query import FoldedVocabulary, LabelQuery, Words
from scene_completion_ros.inference.march import March
from scene_completion_ros.inference.query_kernel import PositionalTables, VoxelQuery
from scene_completion_ros.inference.text_bank import MOST_QUERIED, MOST_ROWS
from scene_completion_ros.voxels.occupancy_kernel import VoxelClassifier

# As in voxel_query.cu; a test compares them.
LANES, RUN, SPAN, THREADS = 8, 8, 1024, 256
# Blocks that label the voxels between them, at most: the number of voxels is known on the device only.
LABEL_BLOCKS = 1024
# Groups of phrases for whose cosines room is taken at first; then for the most that there can be.
USUAL_GROUPS, MOST_GROUPS = 4, MOST_QUERIED + 1

SCENE = np.dtype(
    [
        ("size", np.int32, 3),
        ("width", np.int32),
        ("height", np.int32),
        ("edge", np.float32),
        ("intrinsics", np.float32, 4),
        ("pose", np.float32, 12),
        ("camera", np.float32, 3),
    ]
)  # ``struct Scene``: numbers of four bytes each, without gaps


@dataclass(frozen=True, eq=False)
class DeviceVoxels:
    """What one frame brought to the host, as in `SceneAnswer`; the next frame overwrites the arrays."""

    index: NDArray[np.int32]
    probability: NDArray[np.float32]
    label: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    state: NDArray[np.uint8]
    depth: NDArray[np.float32]
    transmittance: NDArray[np.float32]


class VoxelPipeline:
    """Kernels of one camera and grid. Attributes stay there: opacity, probability, half distance of the rays."""

    def __init__(
        self,
        device: KernelDevice,
        query: VoxelQuery,
        march: March,
        classifier: VoxelClassifier,
        labels: LabelQuery | None,  # the prepared labels; None where the student has no classes
    ) -> None:
        self._device = device
        head, grid = query.field.head, query.grid
        voxels = int(np.prod(grid.shape))
        self._width = np.int32(query.field.feature_size[1])
        self._samples = tuple(device.upload(part) for part in (query.samples.target, *query.samples.taps))
        self._sample_count = len(query.samples.target)
        self._tables = _tables(device, query.field.tables)
        self._weight, self._bias = device.upload(head.density_weight), np.float32(head.density_bias[0])
        self._edge = np.float32(grid.voxel_size)
        self._march, self._rays = march, tuple(device.upload(part) for part in march.rays[1:])
        self._ray_count = march.camera.width * march.camera.height
        self._scene = device.upload(_scene(march, classifier))
        self._in_view = device.upload(query.in_view.astype(np.uint8))
        knots, values, bins = classifier.knots
        self._knots = device.upload(knots), device.upload(values), device.upload(bins)
        self._last_interval, self._threshold = np.int32(len(knots) - 2), np.float32(classifier.threshold)
        self._voxels, self._blocks = voxels, -(-voxels // SPAN)
        capacity = max(1, int(np.count_nonzero(query.in_view)))
        self._capacity = np.int32(capacity)

        self.alpha = device.empty(grid.shape, np.float32)
        self.probability = device.empty(grid.shape, np.float32)
        device.clear(self.alpha)  # what is out of view is never written
        self._state = device.empty(grid.shape, np.uint8)
        self._counts, self._total = device.empty((self._blocks,), np.int32), device.empty((1,), np.int32)
        self._index = device.empty((capacity,), np.int32)
        image = (march.camera.height, march.camera.width)
        self.half_distance = device.empty(image, np.float32)
        self._depth, self._transmittance = device.empty(image, np.float32), device.empty(image, np.float32)
        self._total_on_host = device.shared((1,), np.int32)
        self._listed = {
            "index": device.shared((capacity,), np.int32),
            "probability": device.shared((capacity,), np.float32),
            "label": device.shared((capacity,), np.uint8),
            "confidence": device.shared((capacity,), np.float32),
        }
        self._listed["confidence"].array[:] = 1.0  # of a student without classes, whose labels are 0
        self._whole = {
            "state": device.shared(grid.shape, np.uint8),
            "depth": device.shared(image, np.float32),
            "transmittance": device.shared(image, np.float32),
        }
        self._labels = None
        self._features: Buffer | None = None
        self._rows: dict[str, _Rows] = {}
        self._cosines: Buffer | None = None
        if labels is not None:
            self._labels = (
                _tables(device, labels.tables),
                device.upload(labels.scores.weight),
                device.upload(labels.scores.bias),
                device.upload(labels.sample_of),
            )

    def enqueue(self, features: Buffer) -> None:
        """Asks for a frame; does not wait.

        `features`: the encoder's map [h, w, C + E] on the device, of the type that the kernels were compiled for.
        """
        device, listed, count = self._device, self._listed, self._sample_count
        self._features = features
        if count:
            device.launch(
                "query_density", _blocks(-(-count // RUN) * LANES), THREADS,
                features, self._width, *self._tables, self._weight, self._bias, *self._samples, np.int32(count),
                self._edge, self.alpha,
            )  # fmt: skip
        device.lap("query")
        device.launch(
            "march_rays", _blocks(self._ray_count), THREADS,
            self.alpha, self._scene, self._march.occupied_from, *self._rays, np.int32(self._ray_count),
            self._depth, self.half_distance, self._transmittance,
        )  # fmt: skip
        device.lap("march")
        device.launch(
            "classify", self._blocks, THREADS,
            self.alpha, self._in_view, self.half_distance, self._scene, *self._knots, self._last_interval,
            self._threshold, self.probability, self._state, self._counts,
        )  # fmt: skip
        device.launch("offsets", 1, THREADS, self._counts, np.int32(self._blocks), self._total, self._total_on_host)
        device.launch(
            "compact", self._blocks, THREADS,
            self._state, self.probability, self._counts, np.int32(self._voxels), self._capacity,
            self._index, listed["index"], listed["probability"],
        )  # fmt: skip
        device.lap("assemble")
        if self._labels is not None:
            tables, weight, bias, sample_of = self._labels
            device.launch(
                "query_labels", min(LABEL_BLOCKS, _blocks(int(self._capacity) * LANES)), THREADS,
                features, self._width, *tables, weight, bias, *self._samples, sample_of,
                self._index, self._total, self._capacity, listed["label"], listed["confidence"],
            )  # fmt: skip
        device.lap("label")
        for name, source in (("state", self._state), ("depth", self._depth), ("transmittance", self._transmittance)):
            device.copy(source, self._whole[name])

    def compare(self, words: Words) -> None:
        """Asks for labels and cosines by words of the frame that was asked for last; does not wait for them.

        The encoder's map must still be where it was; where that is does not change from frame to frame. What words need
        of the device's memory is taken when they are given for the first time. Raises GpuError where there is not
        enough memory. `words`: a query in it has at most `MOST_QUERIED` phrases.
        """
        self._device.lap("copied")
        if words.vocabulary is not None:
            self._launch_phrases(
                "vocabulary", words.vocabulary, (self._listed["label"], self._listed["confidence"], None)
            )
        if words.queried is not None:
            groups = words.queried.groups
            if self._cosines is None or self._cosines.shape[1] < groups:
                room = USUAL_GROUPS if groups <= USUAL_GROUPS else MOST_GROUPS
                self._cosines = self._device.empty((int(self._capacity), room), np.float32)
            self._launch_phrases("asked", words.queried, (None, None, self._cosines))
        self._device.lap("compared")

    def cosines(self, queried: FoldedVocabulary, count: int) -> NDArray[np.float32]:
        """Cosines of the voxels with the query that `compare` was given, after waiting, float32 [count, K + 1]."""
        assert self._cosines is not None
        found = self._device.download(replace(self._cosines, shape=(count, queried.groups)))
        return np.asarray(found, dtype=np.float32)

    def _launch_phrases(self, slot: str, vocabulary: FoldedVocabulary, out: tuple[Argument, ...]) -> None:
        assert self._labels is not None and self._features is not None
        if slot not in self._rows:
            self._rows[slot] = _Rows(self._device, vocabulary.weight.shape[1])
        tables, _, _, sample_of = self._labels
        self._device.launch(
            "query_phrases", min(LABEL_BLOCKS, _blocks(int(self._capacity) * LANES)), THREADS,
            self._features, self._width, *tables, *self._rows[slot].arguments(vocabulary), *self._samples,
            sample_of, self._index, self._total, self._capacity, *out,
        )  # fmt: skip

    def wait(self) -> DeviceVoxels:
        """The frame that was asked for last."""
        self._device.synchronise()
        count = int(self._total_on_host.array[0])
        return DeviceVoxels(
            **{name: shared.array[:count] for name, shared in self._listed.items()},
            **{name: shared.array for name, shared in self._whole.items()},
        )


class _Rows:
    """Room for any vocabulary of a student with E label units."""

    def __init__(self, device: KernelDevice, units: int) -> None:
        self._device = device
        self._weight, self._bias = device.empty((MOST_ROWS, units), np.float32), device.empty((MOST_ROWS,), np.float32)
        self._group = device.empty((MOST_ROWS,), np.int32)
        self._root, self._root_bias = device.empty((units, units), np.float32), device.empty((units,), np.float32)
        self._held: FoldedVocabulary | None = None

    def arguments(self, vocabulary: FoldedVocabulary) -> tuple[Argument, ...]:
        """What the kernel takes of a vocabulary, copied there if it is another one than before."""
        if vocabulary is not self._held:
            self._held = None
            for buffer, part in (
                (self._weight, vocabulary.weight),
                (self._bias, vocabulary.bias),
                (self._group, vocabulary.group),
                (self._root, vocabulary.root),
                (self._root_bias, vocabulary.root_bias),
            ):
                self._device.refill(buffer, part)
            self._held = vocabulary
        margin, sharpness = np.float32(vocabulary.vocabulary.margin), np.float32(1.0 / vocabulary.temperature)
        counts = (np.int32(value) for value in (len(vocabulary.group), vocabulary.groups, vocabulary.classes))
        roots = np.int32(len(vocabulary.root))
        return (
            *(self._weight, self._bias, self._group),
            *counts,
            *(self._root, self._root_bias, roots, vocabulary.rest, margin, sharpness),
        )


def _tables(device: KernelDevice, tables: PositionalTables) -> tuple[Buffer | np.int32, ...]:
    parts = tables.axes
    return (*(device.upload(part) for part in parts), *(np.int32(len(part) - 2) for part in parts))


def _scene(march: March, classifier: VoxelClassifier) -> NDArray[np.void]:
    camera, scene = march.camera, np.zeros(1, dtype=SCENE)
    scene["size"], scene["edge"] = march.grid.shape, march.grid.voxel_size
    scene["width"], scene["height"] = camera.width, camera.height
    scene["intrinsics"] = camera.fx, camera.fy, camera.cx, camera.cy
    scene["pose"], scene["camera"] = classifier.pose, classifier.camera_voxel
    return scene


def _blocks(threads: int) -> int:
    return -(-threads // THREADS)
