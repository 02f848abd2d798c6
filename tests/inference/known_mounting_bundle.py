"""A tiny student that takes evidence, before a textured wall: it predicts one depth, or the mean of what is sensed.

Its voxels move with the scale.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from scene_completion_ros.geometry import Camera, VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.head import HeadWeights, PointCodeSpec, graph_inputs
from scene_completion_ros.inference.scene_query import ray_camera
from tests.inference.small_bundle import class_colours, class_names, serialised, volume_reading
from tests.inference.test_motion_scale import TEXTURES, textured

CAMERA = Camera(fx=300.0, fy=300.0, cx=255.5, cy=95.5, width=512, height=192)
GRID = VoxelGrid((2.0, -4.0, -1.6), 0.4, (32, 20, 8), "camera_forward")
WALL_M, FACTOR = 12.0, 1.2  # where the wall is, and how much too near the student takes it for
STRIDE, CLASSES, HEIGHT = 2, 3, 1.7


def wall_from(x: float) -> NDArray[np.uint8]:
    """The image [H, W, 3] of a camera that looks at the wall from a place x metres to the right."""
    across = CAMERA.unproject(CAMERA.pixel_centres())[..., :2] * WALL_M + (x, 0.0)
    return np.repeat(textured(TEXTURES[0], across)[..., None], 3, axis=2)


def _port(name: str, shape: Any) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def make_known_mounting_bundle(
    folder: Path, *, volume: NDArray[np.float32] | None = None, depth: float = WALL_M / FACTOR, **fields: Any
) -> StudentBundle:
    """Writes and loads it; or one that predicts another volume and depth. ``fields`` are those of `StudentBundle`."""
    code, rays = PointCodeSpec(), ray_camera(CAMERA)
    half = CAMERA.height // 2, CAMERA.width // 2
    x, y, z = (size // STRIDE for size in GRID.shape)
    head = HeadWeights.in_space(volume_reading(GRID), STRIDE, code.size, np.eye(CLASSES, dtype=np.float32))
    view = np.zeros((1, CLASSES + 3, *half), np.float32)
    view[:, 0] = code.depth_code_of_inverse(FACTOR / WALL_M)
    image = _port("image", (1, 3, CAMERA.height, CAMERA.width))
    ground = _port("ground", (1, 2, *half))
    encoder = serialised(
        [
            helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
            helper.make_node("ReduceMean", ["ground"], ["level"], keepdims=0),
            helper.make_node("Add", ["mean", "level"], ["both"]),
            helper.make_node("Mul", ["both", "nothing"], ["shift"]),
            helper.make_node("Add", ["constant", "shift"], ["view"]),
        ],
        [image, ground],
        _port("view", view.shape),
        {"constant": view, "nothing": np.float32(1e-6)},
    )
    beyond = GRID.origin[0] + GRID.voxel_size * (np.arange(GRID.shape[0]) + 0.5) - WALL_M / FACTOR
    wall = np.broadcast_to(beyond[:, None, None], GRID.shape)
    logits = (wall if volume is None else volume).astype(np.float32)[None]
    extra_inputs = graph_inputs(GRID, STRIDE, CAMERA, code, HEIGHT, None)
    given = {"view": view.shape, **{name: values.shape for name, values in extra_inputs.items()}}
    decoder = serialised(
        [
            helper.make_node("Gather", ["scale", "first"], ["log"], axis=1),
            helper.make_node("Exp", ["log"], ["factor"]),
            helper.make_node("Mul", ["predicted", "factor"], ["flat"]),
            helper.make_node("Reshape", ["flat", "size"], ["unsensed"]),
            helper.make_node("Split", ["sensed"], ["log_sensed", "precision"], axis=1, num_outputs=2),
            helper.make_node("Greater", ["precision", "zero"], ["is_sensed"]),
            helper.make_node("Where", ["is_sensed", "log_sensed", "zero"], ["known"]),
            helper.make_node("Cast", ["is_sensed"], ["ones"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["known"], ["share_of_logs"], keepdims=0),
            helper.make_node("ReduceMean", ["ones"], ["share"], keepdims=0),
            helper.make_node("Max", ["share", "little"], ["divisor"]),
            helper.make_node("Div", ["share_of_logs", "divisor"], ["mean_log"]),
            helper.make_node("Exp", ["mean_log"], ["as_sensed"]),
            helper.make_node("Greater", ["share", "zero"], ["any_sensed"]),
            helper.make_node("Where", ["any_sensed", "as_sensed", "unsensed"], ["depth"]),
            helper.make_node("Mul", ["log", "ten"], ["moved"]),
            helper.make_node("Reshape", ["moved", "three"], ["farther"]),
            helper.make_node("Sub", ["logits", "farther"], ["volume"]),
            helper.make_node("Identity", ["units"], ["features"]),
            *(helper.make_node("ReduceMean", [name], [f"{name}_mean"], keepdims=0) for name in given),
            helper.make_node("Sum", [f"{name}_mean" for name in given], ["all"]),  # engines drop unused inputs
            helper.make_node("Mul", ["all", "nothing"], ["shift"]),
            helper.make_node("Add", ["level", "shift"], ["surface"]),
        ],
        [_port(name, shape) for name, shape in given.items()],
        _port("features", (1, z * x, y, CLASSES)),
        {
            "nothing": np.float32(1e-6),
            "zero": np.float32(0.0),
            "little": np.float32(1e-9),
            "first": np.array([0], np.int64),
            "ten": np.float32(10.0),
            "three": np.array([1, 1, 1, 1], np.int64),
            "size": np.array([1, rays.height, rays.width], np.int64),
            "predicted": np.full((1, rays.height * rays.width), depth, np.float32),
            "logits": logits,
            "units": np.random.default_rng(0).normal(size=(1, z * x, y, CLASSES)).astype(np.float32),
            "level": np.full((1, 2, x, y), 0.1, np.float32),
        },
        further=[
            _port("volume", logits.shape),
            _port("depth", (1, rays.height, rays.width)),
            _port("surface", (1, 2, x, y)),
        ],
    )
    bundle = StudentBundle(
        name="known_mounting",
        canonical=CAMERA,
        head=head,
        point_code=code,
        feature_size=(z * x, y),
        height_above_ground=HEIGHT,
        focal_range=(0.5, 0.65),
        grid=GRID,
        class_names=class_names(CLASSES),
        class_colours=class_colours(CLASSES),
        provenance={"data": "random numbers"},
        licence="Apache-2.0",
        **fields,
    )
    return bundle.save(folder, encoder, decoder_onnx=decoder)
