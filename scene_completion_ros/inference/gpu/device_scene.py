"""From a canonical image to occupied voxels on the GPU: see, decode and query on one stream.

All that depends on camera and grid is uploaded once; how the camera stands above the road, with each image. What a
frame needs is allocated before, room for words when they are first given. A frame is waited for once, and where pixels
are seen by themselves, once after that. Over the bus go the image, what is known besides, the depth image, the state of
every voxel, and index, probability, label and confidence of the occupied ones. Opacity and probability of all voxels
stay on the device.
"""

import functools
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.arrays import Bytes, Floats
from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.bundle import PLANE, SEEN_GROUND
from scene_completion_ros.inference.cell_query import CameraPlace, CellVoxels, Pixels, kernel_pose
from scene_completion_ros.inference.evidence import Standing
from scene_completion_ros.inference.gpu.device import PrimaryContext, release
from scene_completion_ros.inference.gpu.half_precision import DevicePorts
from scene_completion_ros.inference.gpu.kernels import Argument, Buffer, KernelDevice, SharedBuffer, padded_units
from scene_completion_ros.inference.graphs import FEATURES, IMAGE
from scene_completion_ros.inference.ground_pixels import SEEN
from scene_completion_ros.inference.label_query import FoldedVocabulary, Words, matches_of
from scene_completion_ros.inference.march import March
from scene_completion_ros.inference.query_kernel import PositionalTables, VoxelQuery
from scene_completion_ros.inference.scene_query import DenseField, PreparedScene, SceneAnswer, SceneImage
from scene_completion_ros.inference.text_bank import MOST_QUERIED, MOST_ROWS
from scene_completion_ros.voxels.occupancy_kernel import VoxelClassifier

# As in voxels.cu, field.cu and cells.cu; a test compares them.
LANES, RUN, SPAN, THREADS = 8, 8, 1024, 256
# Blocks that label the voxels between them, at most: the number of voxels is known on the device only.
LABEL_BLOCKS = 1024
# Groups of phrases for whose cosines room is taken at first; then for the most that there can be.
USUAL_GROUPS, MOST_GROUPS = 4, MOST_QUERIED + 1


def _struct(members: str) -> np.dtype[np.void]:
    """A struct of C: numbers of four bytes each, without gaps."""
    return np.dtype([(name, kind) for kind, name in map(str.split, members.split(", "))])


# ``struct Scene`` and ``struct Volume``.
SCENE = _struct("3i4 size, i4 width, i4 height, f4 edge, 4f4 intrinsics, 12f4 pose, 3f4 camera")
VOLUME = _struct(
    "3i4 size, i4 width, i4 height, 4f4 pinhole, f4 nearest, 12f4 pose, 12f4 camera, 12f4 grid, f4 known, i4 low, "
    "f4 bottom, f4 edge, f4 base, f4 measure"
)
Arguments: TypeAlias = tuple[Argument, ...]
NOTHING = np.zeros((0, 0, 0), np.float32)


class DeviceGraph(Protocol):
    """A graph that is ready to run on the GPU."""

    ports: DevicePorts
    outputs: Mapping[str, Buffer]  # where results go, always the same places

    def enqueue(self, given: Mapping[str, Buffer]) -> object:
        """Asks for what follows from inputs, in the order of the stream; returns before it is there."""
        ...

    def close(self) -> None:
        """Frees its memory; nothing of it may be touched any more."""
        ...


class DeviceScene:
    """One camera and grid of a student; see `SceneQuery`.

    Belongs to the thread of the engines; so does its end, which frees what it has on the device. Raises GpuError where
    there is not enough memory. `device`: what runs the kernels; it becomes this one's, which closes it.
    """

    def __init__(
        self, engines: Sequence[DeviceGraph], device: KernelDevice, context: PrimaryContext, prepared: PreparedScene
    ) -> None:
        self._device, self._context, self._answers = device, context, 0
        self.owner: object = None  # what the engines belong to, which is to stay
        with context.work("preparing the voxel query"):
            try:
                self._prepare(engines, prepared)
            except BaseException:
                device.close()
                raise
        finalizer = weakref.finalize(self, release, context.hold(), device)
        finalizer.atexit = False  # the driver cleans up by itself, and pycuda may be gone

    def _prepare(self, engines: Sequence[DeviceGraph], prepared: PreparedScene) -> None:
        device, march, classifier = self._device, prepared.march, prepared.classifier
        in_view, shape = prepared.query.in_view, prepared.query.grid.shape
        scene = device.upload(_scene(march, classifier))
        voxels = int(np.prod(shape))
        self._blocks, capacity = -(-voxels // SPAN), max(1, int(np.count_nonzero(in_view)))
        self._capacity = np.int32(capacity)
        self.alpha = device.empty(shape, np.float32)
        device.clear(self.alpha)  # what is out of view is never written
        self.probability = device.empty(shape, np.float32)
        stands = device.empty(shape, np.uint8)  # on the ground; nothing does where a student predicts none
        device.clear(stands)
        image = (march.camera.height, march.camera.width)
        names = ("depth", "half_distance", "transmittance")
        depth, self.half_distance, transmittance = rays = tuple(device.empty(image, np.float32) for _ in names)
        state = device.empty(shape, np.uint8)
        self._broken = device.shared((1,), np.int32)
        self._steps: _CellSteps | _FieldSteps
        of_image = scene, self.alpha, rays
        if isinstance(prepared.query, CellVoxels):
            self._steps = _CellSteps(device, engines, prepared.query, march, *of_image, self._broken, stands)
        else:
            self._steps = _FieldSteps(device, engines, prepared, prepared.query, *of_image)
        knots, values, intervals = classifier.knots
        self._classified: Arguments = (
            self.alpha, device.upload(in_view.astype(np.uint8)), self.half_distance, scene,
            *_uploaded(device, knots, values, intervals), np.int32(len(knots) - 2),
            *map(np.float32, classifier.thresholds), stands, self.probability, state,
        )  # fmt: skip
        self._counts, self._total = device.empty((self._blocks,), np.int32), device.empty((1,), np.int32)
        self._index = device.empty((capacity,), np.int32)
        self._total_on_host = device.shared((1,), np.int32)
        kinds: dict[str, type[np.generic]] = {"occupied": np.int32, "probability": np.float32}
        kinds |= {"label": np.uint8, "confidence": np.float32}
        self._listed = {name: device.shared((capacity,), kind) for name, kind in kinds.items()}
        self._listed["confidence"].array[:] = 1.0  # of a student without classes, whose labels are 0
        whole = {"state": state, "depth": depth, "transmittance": transmittance, **self._steps.own_results}
        self._whole = {name: (one, device.shared(one.shape, one.dtype.type)) for name, one in whole.items()}
        (size, kind) = engines[0].ports.given[IMAGE]
        self._image, self._image_on_host = device.empty(size, kind), device.shared(size, kind)
        pixels = engines[0].outputs.get("surfaces")
        self._pixels: list[tuple[Buffer, SharedBuffer]] = []
        if pixels is not None:  # what evidence is found with
            plane = engines[0].outputs.get(PLANE)
            of_host = pixels, engines[0].outputs["classes"], *([] if plane is None else [plane])
            self._pixels = [(one, device.shared(one.shape, np.float32)) for one in of_host]
        self._voxels = np.int32(voxels)
        self._rows: dict[str, _Rows] = {}
        self._cosines: Buffer | None = None

    def see(self, image_rgb: Bytes) -> Pixels | None:
        """See `SceneQuery`; the context stays on the device. Raises GpuError where the GPU failed."""
        if not self._pixels:
            return None
        with self._context.work("seeing an image"):
            self._device.begin()
            self._see(image_rgb)
            for each in self._pixels:
                self._device.copy(*each)
            self._device.synchronise()
        surfaces, classes, *plane = (shared.array[0].copy() for _, shared in self._pixels)
        return Pixels(surfaces, classes, NOTHING, *plane)

    def _see(self, image_rgb: Bytes) -> None:
        self._image_on_host.array[0] = image_rgb
        self._device.fill(self._image, self._image_on_host)
        self._steps.see(self._image)

    def __call__(self, given: SceneImage) -> SceneAnswer:
        """See `SceneQuery`. Raises GpuError where the GPU failed."""
        started_s, device, words = time.perf_counter(), self._device, given.words
        seen = given.pixels or self.see(given.image_rgb)
        with self._context.work("completing an image"):
            self._answers += 1  # from here on the former answer may be overwritten, also where this one fails
            self._broken.array[:] = 0
            device.begin()
            if seen is None:
                self._see(given.image_rgb)
            finite = self._steps.query(given.standing, seen)
            self._list(words)
            for buffer, shared in self._whole.values():
                device.copy(buffer, shared)
            device.lap("copied")
            if words.vocabulary is not None:
                outputs = self._listed["label"], self._listed["confidence"], None
                self._launch_phrases("vocabulary", words.vocabulary, outputs)
            if words.queried is not None:
                self._launch_phrases("asked", words.queried, (None, None, self._room(words.queried.groups)))
            device.lap("compared")
            device.synchronise()
            count, queried = int(self._total_on_host.array[0]), words.queried
            matches = () if queried is None else matches_of(queried, self._found_cosines(queried, count))
        times_ms = dict.fromkeys(("encode", "query", "march", "assemble", "label"), 0.0) | device.laps_ms
        times_ms.pop("copied")
        times_ms["label"] += times_ms.pop("compared")
        listed = {name: shared.array[:count].copy() for name, shared in self._listed.items()}
        if not words.labels:
            listed |= {"label": np.zeros(count, np.uint8), "confidence": np.ones(count, np.float32)}
        answer = SceneAnswer(
            **listed,
            **{name: shared.array.copy() for name, (_, shared) in self._whole.items()},
            dense=DenseField(functools.partial(self.fetch, answer=self._answers)),
            times_ms=times_ms,
            matches=matches,
            finite=finite and not self._broken.array[0],
        )
        # Copies over the bus and in memory, and what the host took to ask for it all.
        times_ms["assemble"] += max(0.0, 1e3 * (time.perf_counter() - started_s) - sum(times_ms.values()))
        return answer

    def _list(self, words: Words) -> None:
        """Asks for states, the list of occupied voxels, and, where they are wanted, labels by the student's classes."""
        device, listed = self._device, self._listed
        device.launch("classify", self._blocks, THREADS, *self._classified, self._counts)
        device.launch("offsets", 1, THREADS, self._counts, np.int32(self._blocks), self._total, self._total_on_host)
        device.launch(
            "compact", self._blocks, THREADS,
            self._classified[-1], self.probability, self._counts, self._voxels, self._capacity,
            self._index, listed["occupied"], listed["probability"],
        )  # fmt: skip
        device.lap("assemble")
        if self._steps.units and words.labels and words.vocabulary is None:
            device.launch(
                "query_labels", self._label_blocks(), THREADS,
                *self._steps.units, *self._steps.label_weights, self._index, self._total, self._capacity,
                listed["label"], listed["confidence"],
            )  # fmt: skip
        device.lap("label")

    def _label_blocks(self) -> int:
        return min(LABEL_BLOCKS, _blocks(int(self._capacity) * LANES))

    def _room(self, groups: int) -> Buffer:
        """Room for cosines of so many groups of phrases, which is taken when they are given for the first time."""
        if self._cosines is None or self._cosines.shape[1] < groups:
            room = USUAL_GROUPS if groups <= USUAL_GROUPS else MOST_GROUPS
            self._cosines = self._device.empty((int(self._capacity), room), np.float32)
        return self._cosines

    def _found_cosines(self, queried: FoldedVocabulary, count: int) -> Floats:
        """Cosines of the voxels with a query, after waiting, float32 [count, K + 1]."""
        assert self._cosines is not None
        found = self._device.download(replace(self._cosines, shape=(count, queried.groups)))
        return np.asarray(found, dtype=np.float32)

    def _launch_phrases(self, slot: str, vocabulary: FoldedVocabulary, out: Arguments) -> None:
        if slot not in self._rows:
            self._rows[slot] = _Rows(self._device, self._steps.unit_count)
        self._device.launch(
            "query_phrases", self._label_blocks(), THREADS,
            *self._steps.units, *self._rows[slot].arguments(vocabulary), self._index, self._total, self._capacity, *out,
        )  # fmt: skip

    def fetch(self, which: str, answer: int) -> Floats:
        """Opacity or probability of all voxels.

        `which`: "alpha" or "probability"; `answer`: number of the answer that it belongs to. Raises GpuError where it
        was overwritten by a later answer, or cannot be copied.
        """
        if answer != self._answers:
            what = f"the {which} of all voxels was overwritten by the next image"
            raise GpuError(what, where="GPU", cure="Ask for it before the next image is completed.")
        with self._context.work(f"copying the {which} to the host"):
            values: Floats = self._device.download(getattr(self, which))
        return values


class _FieldSteps:
    """A field student: density at prepared points, and rays through it. A ray that meets NaN is spent by nothing."""

    def __init__(
        self,
        device: KernelDevice,
        engines: Sequence[DeviceGraph],
        prepared: PreparedScene,
        query: VoxelQuery,
        scene: Buffer,
        alpha: Buffer,
        rays: tuple[Buffer, ...],
    ) -> None:
        march, labels = prepared.march, prepared.labels
        head, taken = query.field.head, query.samples
        samples = _uploaded(device, taken.target, *taken.taps)
        self._device, (self._engine,) = device, engines
        self._features, self._count = self._engine.outputs[FEATURES], len(query.samples.target)
        width = np.int32(query.field.feature_size[1])
        self._density: Arguments = (
            self._features, width, *_tables(device, query.field.tables), device.upload(head.density_weight),
            np.float32(head.density_bias[0]), *samples, np.int32(self._count), np.float32(query.grid.voxel_size), alpha,
        )  # fmt: skip
        self._ray_count = march.camera.width * march.camera.height
        self._rays: Arguments = (
            alpha, scene, march.occupied_from, *_uploaded(device, *march.rays[1:]), np.int32(self._ray_count), *rays
        )  # fmt: skip
        self.units: Arguments = ()  # where the kernels read what labels follow from, once an image was queried
        self.unit_count = 0  # how many these are
        self.label_weights: Arguments = ()  # of the student's classes
        self.own_results: dict[str, Buffer] = {}  # further results, by name
        if labels is not None:
            tables, sample_of = _tables(device, labels.tables), device.upload(labels.sample_of)
            self.units = self._features, width, *tables, *samples, sample_of
            self.unit_count = head.label_hidden
            self.label_weights = device.upload(labels.scores.weight), device.upload(labels.scores.bias)

    def see(self, image: Buffer) -> None:
        """Asks for what pixels show; it is the same wherever the camera stands."""
        self._engine.enqueue({IMAGE: image})
        self._device.lap("encode")

    def query(self, standing: Standing | None, pixels: Pixels | None) -> bool:
        """Asks for opacities and rays, after `see`; a field takes no evidence."""
        if self._count:
            self._device.launch("query_density", _blocks(-(-self._count // RUN) * LANES), THREADS, *self._density)
        self._device.lap("query")
        self._device.launch("march_rays", _blocks(self._ray_count), THREADS, *self._rays)
        self._device.lap("march")
        return True


class _CellSteps:
    """A student that completes cells: scale of its depths, sampler, decoder, voxels, and rays to what pixels see."""

    def __init__(
        self,
        device: KernelDevice,
        engines: Sequence[DeviceGraph],
        voxels: CellVoxels,
        march: March,
        scene: Buffer,
        alpha: Buffer,
        rays: tuple[Buffer, ...],
        broken: Buffer,
        stands: Buffer,
    ) -> None:
        sampler = voxels.sampler
        self._device, (self._encoder, self._decoder, self._complete) = device, engines
        pixels, decoded = self._encoder.outputs, self._decoder.outputs
        classes, context = pixels["classes"], pixels["context"]
        (hidden, others), ground = self._complete.outputs.values(), decoded["ground"]
        self._size = sampler.map_size
        count = self._size[0] * self._size[1]
        self._voxels = voxels
        self._ground = device.empty((2, count), np.float32)  # an input of the encoder that nothing is given for
        device.clear(self._ground)
        # What depends on how the camera stands.
        self._volume, self._surfaces = (
            _Sent(device, (VOLUME.itemsize,), np.uint8),
            _Sent(device, (count, 2), np.float32),
        )
        volume, surfaces = self._volume.there, self._surfaces.there
        self.surfaces = surfaces
        self.given = {"local": device.empty(self._decoder.ports.given["local"][0], np.float32)}
        self.given["columns"] = device.upload(sampler.columns)
        self._of_cells = {"around": decoded["around"], "local": self.given["local"], "mean": decoded["mean"]}
        self._cells, self._column_count = self.given["local"].shape[0], sampler.columns.shape[0]
        stride, columns = np.int32(sampler.columns.shape[1]), self.given["columns"]
        self._looked_up: Arguments = (
            surfaces, context, volume, np.int32(self._cells), stride, self.given["local"], columns,
        )  # fmt: skip
        self._seen_ground: _Sent | None = None
        if sampler.volume.on_ground:
            self._seen_ground = _Sent(device, (self._column_count, SEEN), np.float32)
            self.given[SEEN_GROUND] = self._seen_ground.there
        self._lowest: Arguments = surfaces, volume, np.int32(self._column_count), stride, columns
        self._count = len(voxels.target)
        self._queried: Arguments = (
            surfaces, hidden, others, ground, decoded.get("prior"), volume,
            *_uploaded(device, voxels.points, voxels.target), np.int32(self._count),
        )  # fmt: skip
        self._to_voxels: Arguments = np.float32(voxels.grid.voxel_size), alpha, stands, broken
        self._ray_count = march.camera.width * march.camera.height
        self._rays: Arguments = (
            surfaces, volume, alpha, stands, scene, march.occupied_from, march.obstacle_from, march.far,
            *_uploaded(device, *march.rays[1:-1]),
            np.int32(self._ray_count), *rays,
        )  # fmt: skip
        self.unit_count = padded_units(sampler.volume.classes)
        self.units: Arguments = others, classes, volume, scene
        self.label_weights: Arguments = ()
        self.own_results = {"ground": ground}

    def see(self, image: Buffer) -> None:
        """Asks for what pixels show."""
        self._encoder.enqueue({IMAGE: image, "ground": self._ground})

    def query(self, standing: Standing | None, pixels: Pixels | None) -> bool:
        """Asks for cells, opacities and rays, after `see`; tells if depths are numbers."""
        assert standing is not None and pixels is not None
        device, place = self._device, self._voxels.sampler.place(standing.upright_from_camera)
        made, between = _volume(self._voxels, place)
        self._volume.send(made.view(np.uint8))
        sampler = self._voxels.sampler
        surfaces = standing.surfaces(sampler.spec, sampler.volume.measure, pixels.surfaces)
        self._surfaces.send(surfaces)
        device.launch("lift_cells", _blocks(self._cells), THREADS, *self._looked_up)
        seen = sampler.seen_ground(surfaces, pixels.classes, place)
        if self._seen_ground is None or seen is None:
            device.launch("find_lowest", _blocks(self._column_count), THREADS, *self._lowest)
        else:
            self._seen_ground.send(seen)
        self._decoder.enqueue(self.given)
        self._complete.enqueue(self._of_cells)
        device.lap("encode")
        if self._count:
            counted = _blocks(self._count), THREADS
            device.launch("query_cells", *counted, *self._queried, np.int32(between), *self._to_voxels)
        device.lap("query")
        device.launch("see_rays", _blocks(self._ray_count), THREADS, *self._rays)
        device.lap("march")
        return bool(np.isfinite(surfaces).all())


class _Sent:
    """An array that is sent to the device with each image, behind all that was asked for before."""

    def __init__(self, device: KernelDevice, shape: tuple[int, ...], kind: type[np.generic]) -> None:
        self._device, self._here = device, device.shared(shape, kind)
        self.there = device.empty(shape, kind)

    def send(self, values: NDArray[Any]) -> None:
        """Asks for the copy of an array of this size, whatever its shape, once an image before is done with."""
        self._here.array[:] = values.reshape(self._here.shape)
        self._device.fill(self.there, self._here)


class _Rows:
    """Room for any vocabulary of a student with so many label units on the device."""

    def __init__(self, device: KernelDevice, units: int) -> None:
        self._device, self._units = device, units
        self._weight, self._bias = device.empty((MOST_ROWS, units), np.float32), device.empty((MOST_ROWS,), np.float32)
        self._group = device.empty((MOST_ROWS,), np.int32)
        self._root, self._root_bias = device.empty((units, units), np.float32), device.empty((units,), np.float32)
        self._held: FoldedVocabulary | None = None

    def arguments(self, vocabulary: FoldedVocabulary) -> Arguments:
        """What the kernel takes of a vocabulary, copied there if it is another one than before."""
        if vocabulary is not self._held:
            self._held = None
            beyond = (0, 0), (0, self._units - vocabulary.weight.shape[1])  # units that no class has
            self._device.refill(self._weight, np.pad(vocabulary.weight, beyond))
            self._device.refill(self._bias, vocabulary.bias)
            self._device.refill(self._group, vocabulary.group)
            self._device.refill(self._root, np.pad(vocabulary.root, beyond))
            self._device.refill(self._root_bias, vocabulary.root_bias)
            self._held = vocabulary
        margin, sharpness = np.float32(vocabulary.vocabulary.margin), np.float32(1.0 / vocabulary.temperature)
        counts = (np.int32(value) for value in (len(vocabulary.group), vocabulary.groups, vocabulary.classes))
        norm = self._root, self._root_bias, np.int32(len(vocabulary.root)), vocabulary.rest
        return self._weight, self._bias, self._group, *counts, *norm, margin, sharpness


def _uploaded(device: KernelDevice, *arrays: NDArray[Any]) -> tuple[Buffer, ...]:
    return tuple(device.upload(array) for array in arrays)


def _tables(device: KernelDevice, tables: PositionalTables) -> tuple[Buffer | np.int32, ...]:
    return (*_uploaded(device, *tables.axes), *(np.int32(len(part) - 2) for part in tables.axes))


def _scene(march: March, classifier: VoxelClassifier) -> NDArray[np.void]:
    camera, scene = march.camera, np.zeros(1, dtype=SCENE)
    scene["size"], scene["edge"] = march.grid.shape, march.grid.voxel_size
    scene["width"], scene["height"] = camera.width, camera.height
    scene["intrinsics"] = camera.fx, camera.fy, camera.cx, camera.cy
    scene["pose"], scene["camera"] = classifier.pose, classifier.camera_voxel
    return scene


def _volume(voxels: CellVoxels, place: CameraPlace) -> tuple[NDArray[np.void], bool]:
    """What kernels read of the volume, for a place; and whether voxels lie between those of the volume."""
    sampler, made = voxels.sampler, np.zeros(1, dtype=VOLUME)
    volume, grid = sampler.volume, sampler.volume.grid
    made["size"], made["pinhole"], made["nearest"] = grid.shape, sampler.view[:4], sampler.view[4]
    made["height"], made["width"] = sampler.map_size
    of_grid, between = voxels.pose(place)
    made["pose"], made["camera"], made["grid"] = place.pose, place.camera, kernel_pose(of_grid)
    made["known"], made["low"] = place.known, volume.low
    made["bottom"], made["edge"], made["measure"] = grid.origin[2], grid.voxel_size, volume.measure
    made["base"] = grid.origin[2] - volume.level
    return made, between


def _blocks(threads: int) -> int:
    return -(-threads // THREADS)
