"""A tiny student that sees a road and random blobs, valid in every respect, for tests that need some bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.head import HeadWeights
from scene_completion_ros.inference.point_code import PointCodeSpec

CANONICAL = Camera(fx=371.2, fy=371.2, cx=319.5, cy=90.0, width=640, height=192)
CHANNELS = 64


def random_head(seed: int = 0, channels: int = CHANNELS, density_bias: float = 0.0) -> HeadWeights:
    """A head whose weights are about as large as trained ones."""
    rng = np.random.default_rng(seed)
    return HeadWeights(
        positional_weight=rng.normal(0.0, 0.14, (channels, PointCodeSpec().size)).astype(np.float32),
        hidden_bias=rng.normal(0.0, 0.3, channels).astype(np.float32),
        density_weight=rng.normal(0.0, 0.5, channels).astype(np.float32),
        density_bias=np.array([density_bias], dtype=np.float32),
    )


def road_head(seed: int = 0, road_below_camera: float = 1.8) -> HeadWeights:
    """Random, rather empty field over a road: two layers of the default grid come out occupied for every image.

    The plane Y = h projects to y~ = 2 (fy h / z + cy + 1/2) / H - 1, which is linear in the code inputs y~ and z~.
    """
    head, code = random_head(seed, density_bias=-8.0), PointCodeSpec()
    # Along the plane, y~ = base + slope (z~ + 1).
    inverse_far, inverse_near = 1.0 / code.far, 1.0 / code.near
    per_inverse_depth = 2.0 * CANONICAL.fy * road_below_camera / CANONICAL.height
    slope = per_inverse_depth * (inverse_near - inverse_far) / 2.0
    base = 2.0 * (CANONICAL.cy + 0.5) / CANONICAL.height - 1.0 + per_inverse_depth * inverse_far
    steepness = 10.0
    head.positional_weight[0] = 0.0
    head.positional_weight[0, 1:3] = steepness, -steepness * slope
    head.hidden_bias[0] = -steepness * (base + slope)
    head.density_weight[0] = 40.0
    return head


def random_features(seed: int = 0, channels: int = CHANNELS) -> np.ndarray:
    """A feature map of the canonical size, float32 [96, 320, channels]."""
    return np.random.default_rng(seed).normal(0.0, 0.7, (96, 320, channels)).astype(np.float32)


def tiny_encoder(
    seed: int = 0, *, channels: int = CHANNELS, stem: int = 8, output: str = "features", camera: Camera = CANONICAL
) -> bytes:
    """Two convolutions, the first with stride 2, weights stored in fp16, output NHWC; a serialised ONNX graph."""
    rng = np.random.default_rng(seed)
    weights = {
        "stem_weight": rng.normal(0.0, 0.25, (stem, 3, 3, 3)),
        "stem_bias": rng.normal(0.0, 0.1, stem),
        "last_weight": rng.normal(0.0, 0.7, (channels, stem, 1, 1)),
        "last_bias": rng.normal(0.0, 0.1, channels),
    }
    weights["last_weight"][0] = weights["last_bias"][0] = 0.0  # the first channel is the road's, see road_head
    initializers = [
        *(numpy_helper.from_array(value.astype(np.float16), f"{name}_fp16") for name, value in weights.items()),
        numpy_helper.from_array(np.array(127.0, dtype=np.float32), "middle"),
        numpy_helper.from_array(np.array(1 / 64, dtype=np.float32), "scale"),
    ]
    nodes = [
        *(helper.make_node("Cast", [f"{name}_fp16"], [name], to=TensorProto.FLOAT) for name in weights),
        helper.make_node("Sub", ["image", "middle"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "scale"], ["normal"]),
        helper.make_node("Conv", ["normal", "stem_weight", "stem_bias"], ["stem"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["stem"], ["active"]),
        helper.make_node("Conv", ["active", "last_weight", "last_bias"], ["last"]),
        helper.make_node("Transpose", ["last"], [output], perm=[0, 2, 3, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny_encoder",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, camera.height, camera.width])],
        [
            helper.make_tensor_value_info(
                output, TensorProto.FLOAT, [1, camera.height // 2, camera.width // 2, channels]
            )
        ],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def make_small_bundle(folder: Path, *, seed: int = 0, **fields: Any) -> StudentBundle:
    """Writes the student into a folder and loads it; ``fields`` replace those of `StudentBundle`."""
    values: dict[str, Any] = {
        "name": "small",
        "canonical": CANONICAL,
        "head": road_head(seed),
        "focal_range": (0.5, 0.65),
        "provenance": {"data": "random numbers"},
        "licence": "Apache-2.0",
    }
    bundle = StudentBundle(**{**values, **fields})
    return bundle.save(folder, tiny_encoder(seed, camera=bundle.canonical))
