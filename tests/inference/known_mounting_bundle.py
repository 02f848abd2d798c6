"""A tiny student that completes cells, before a textured wall: its pixels show one depth, and so its voxels.

Its voxels move with the scale.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from scene_completion_ros.geometry import Camera, VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.cells import ROAD, STRIDE, CellVolume
from scene_completion_ros.inference.head import PointCodeSpec
from tests.inference.small_bundle import class_colours, serialised
from tests.inference.test_motion_scale import TEXTURES, textured

CAMERA = Camera(fx=300.0, fy=300.0, cx=255.5, cy=95.5, width=512, height=192)
GRID = VoxelGrid((2.0, -4.0, -1.6), 0.4, (32, 20, 8), "camera_forward")
WALL_M, FACTOR = 12.0, 1.2  # where the wall is, and how much too near the student takes it for
HEIGHT, NAMES = 1.7, ("road", "wall", "chair")
VOLUME = CellVolume(GRID, -HEIGHT, ROAD, 0, len(NAMES), context=1, around=2)
SURE = 30.0  # logit


def wall_from(x: float) -> NDArray[np.uint8]:
    """The image [H, W, 3] of a camera that looks at the wall from a place x metres to the right."""
    across = CAMERA.unproject(CAMERA.pixel_centres())[..., :2] * WALL_M + (x, 0.0)
    return np.repeat(textured(TEXTURES[0], across)[..., None], 3, axis=2)


def make_known_mounting_bundle(
    folder: Path, *, volume: NDArray[np.float32] | None = None, depth: float = WALL_M / FACTOR, **fields: Any
) -> StudentBundle:
    """Writes and loads it, or one that sees another depth.

    With a ``volume``, its voxels have these logits, wherever they lie against what pixels see. ``fields`` are those of
    `StudentBundle`.
    """
    code, (x, y, z) = PointCodeSpec(), VOLUME.cells
    half = CAMERA.height // 2, CAMERA.width // 2
    surfaces = np.full((1, *half, 2), 0.03, np.float32)
    surfaces[..., 0] = code.depth_code_of_inverse(1.0 / depth)
    classes = np.zeros((1, *half, len(NAMES) + 1), np.float32)
    classes[..., 1] = 1.0
    hidden = np.full((x * y * z, STRIDE**3), -SURE, np.float32)
    others = np.random.default_rng(0).normal(size=(x * y * z, VOLUME.of_cell)).astype(np.float32)
    others[:, : STRIDE**3], others[:, STRIDE**3], others[:, -1] = -SURE, SURE, 0.0
    if volume is not None:
        fine = volume.reshape(x, STRIDE, y, STRIDE, z, STRIDE).transpose(0, 2, 4, 1, 3, 5)
        hidden[:] = others[:, : STRIDE**3] = fine.reshape(-1, STRIDE**3)
        others[:, STRIDE**3] = -SURE
    ground = np.tile(np.array([-9.0, 0.1], np.float32), (x * y, 1))  # far below the grid
    image = {"image": (1, 3, CAMERA.height, CAMERA.width), "ground": (1, 2, *half)}
    pixels = {"surfaces": surfaces, "classes": classes, "context": np.zeros((1, *half, 1), np.float32)}
    local = {"local": (x * y * z, VOLUME.looked_up)}
    given = {**local, "columns": (x * y, VOLUME.of_column)}
    given_cells = {"around": (x * y * z, VOLUME.around), **local, "mean": (x * y * z, STRIDE**3)}
    bundle = StudentBundle(
        name="known_mounting",
        canonical=CAMERA,
        volume=VOLUME,
        point_code=code,
        height_above_ground=HEIGHT,
        focal_range=(0.5, 0.65),
        grid=GRID,
        class_names=NAMES,
        class_colours=class_colours(len(NAMES)),
        provenance={"data": "random numbers"},
        licence="Apache-2.0",
        # The scale of its depths is known to a tenth: its wall is blurred.
        **({"threshold": 0.08, "obstacle_threshold": 0.06} | fields),
    )
    around = {
        "around": np.zeros((x * y * z, VOLUME.around), np.float32),
        "mean": np.zeros_like(hidden),
        "ground": ground,
    }
    decoder = constant_graph(given, around), constant_graph(given_cells, {"hidden": hidden, "others": others})
    return bundle.save(folder, constant_graph(image, pixels), decoder=decoder)


def constant_graph(given: dict[str, tuple[int, ...]], made: dict[str, NDArray[np.float32]]) -> bytes:
    """A graph that gives these arrays, whatever it is given of these shapes."""
    means = [helper.make_node("ReduceMean", [name], [f"{name} mean"], keepdims=0) for name in given]
    nodes = [
        *means,
        helper.make_node("Sum", [f"{name} mean" for name in given], ["all"]),  # engines drop unused inputs
        helper.make_node("Mul", ["all", "nothing"], ["shift"]),
        *(helper.make_node("Add", [f"{name} values", "shift"], [name]) for name in made),
    ]
    constants = {f"{name} values": values for name, values in made.items()} | {"nothing": np.float32(1e-9)}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in given.items()]
    first, *further = (helper.make_tensor_value_info(n, TensorProto.FLOAT, list(v.shape)) for n, v in made.items())
    return serialised(nodes, inputs, first, constants, further=further)
