"""A tiny student that sees a road and random blobs, valid in every respect, and words for those that know classes."""

import colorsys
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.head import HeadWeights, PointCodeSpec
from scene_completion_ros.inference.text_bank import BACKGROUND, BankClass, Contrast, FeatureSpace, TextBank, Vocabulary

CANONICAL = Camera(fx=371.2, fy=371.2, cx=319.5, cy=90.0, width=640, height=192)
CHANNELS = 64
PLAIN_STUDENT = DEFAULT_BUNDLE.parent / "kitti_student"
"""A field student of the package."""


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


def with_labels(head: HeadWeights, classes: int = 19, label_hidden: int = 64, seed: int = 0) -> HeadWeights:
    """The head with random label units of its own, whose logits differ by a few units."""
    rng = np.random.default_rng(seed)
    return dataclasses.replace(
        head,
        label_positional_weight=rng.normal(0.0, 0.14, (label_hidden, PointCodeSpec().size)).astype(np.float32),
        label_hidden_bias=rng.normal(0.0, 0.3, label_hidden).astype(np.float32),
        label_weight=rng.normal(0.0, (2 / label_hidden) ** 0.5, (classes, label_hidden)).astype(np.float32),
        label_bias=rng.normal(0.0, 0.3, classes).astype(np.float32),
    )


def class_names(count: int) -> tuple[str, ...]:
    """Names that differ."""
    return tuple(f"class {number}" for number in range(count))


def class_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """Colours that differ."""
    hues = (colorsys.hsv_to_rgb(number / count, 0.7, 0.9) for number in range(count))
    return tuple((round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in hues)


def random_features(seed: int = 0, channels: int = CHANNELS) -> np.ndarray:
    """A feature map of the canonical size, float32 [96, 320, channels]."""
    return np.random.default_rng(seed).normal(0.0, 0.7, (96, 320, channels)).astype(np.float32)


def tiny_weights(seed: int, *, channels: int = CHANNELS, label_hidden: int = 0) -> dict[str, NDArray[np.float16]]:
    """Of two convolutions; channels of the density are the same with and without those of label units."""
    rng, stem = np.random.default_rng(seed), 8
    weights = {
        "stem_weight": rng.normal(0.0, 0.25, (stem, 3, 3, 3)),
        "stem_bias": rng.normal(0.0, 0.1, stem),
        "last_weight": rng.normal(0.0, 0.7, (channels, stem, 1, 1)),
        "last_bias": rng.normal(0.0, 0.1, channels),
    }
    weights["last_weight"][0] = weights["last_bias"][0] = 0.0  # the first channel is the road's, see road_head
    for name in ("last_weight", "last_bias"):
        of_labels = rng.normal(0.0, 0.7, (label_hidden, *weights[name].shape[1:]))
        weights[name] = np.concatenate([weights[name], of_labels])
    return {name: value.astype(np.float16) for name, value in weights.items()}


def serialised(
    nodes: list[Any], given: Any, made: Any, tensors: Mapping[str, Any], *, opset: int = 19, further: Sequence[Any] = ()
) -> bytes:
    """An ONNX graph of nodes, one input or a list of them, one output or further ones, and constant tensors."""
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(
        nodes, "tiny", given if isinstance(given, list) else [given], [made, *further], initializers
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9 if opset > 17 else 8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tiny_encoder(
    seed: int = 0,
    *,
    channels: int = CHANNELS,
    label_hidden: int = 0,
    output: str = "features",
    camera: Camera = CANONICAL,
) -> bytes:
    """Two convolutions, the first with stride 2, weights stored in fp16, output NHWC; a serialised ONNX graph."""
    weights = tiny_weights(seed, channels=channels, label_hidden=label_hidden)
    tensors: dict[str, Any] = {f"{name}_fp16": value for name, value in weights.items()}
    tensors |= {"middle": np.float32(127.0), "scale": np.float32(1 / 64)}
    casts = [helper.make_node("Cast", [f"{name}_fp16"], [name], to=TensorProto.FLOAT) for name in weights]
    given = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, camera.height, camera.width])
    shape = [1, camera.height // 2, camera.width // 2, channels + label_hidden]
    made = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
    convolutions = [
        helper.make_node("Sub", ["image", "middle"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "scale"], ["normal"]),
        helper.make_node("Conv", ["normal", "stem_weight", "stem_bias"], ["stem"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["stem"], ["active"]),
        helper.make_node("Conv", ["active", "last_weight", "last_bias"], ["last"]),
        helper.make_node("Transpose", ["last"], [output], perm=[0, 2, 3, 1]),
    ]
    return serialised(casts + convolutions, given, made, tensors, opset=17)


def make_small_bundle(folder: Path, *, seed: int = 0, classes: int = 1, **fields: Any) -> StudentBundle:
    """Writes the student into a folder and loads it; ``fields`` replace those of `StudentBundle`.

    With several ``classes`` it has random labels.
    """
    values: dict[str, Any] = {
        "name": "small",
        "canonical": CANONICAL,
        "head": road_head(seed),
        "focal_range": (0.5, 0.65),
        "provenance": {"data": "random numbers"},
        "licence": "Apache-2.0",
    }
    if classes > 1:
        values["head"] = with_labels(values["head"], classes, seed=seed)
        values |= {"class_names": class_names(classes), "class_colours": class_colours(classes)}
    bundle = StudentBundle(**{**values, **fields})
    return bundle.save(folder, tiny_encoder(seed, label_hidden=bundle.head.label_hidden, camera=bundle.canonical))


# A bank of phrases and a feature space in which it lies, for students of `small_bundle` that know classes.


PHRASES = ("car", "parked van", "tree", "zebra crossing", "sky", "wall")
ENCODER = {"text_encoder": "tiny-encoder", "text_encoder_sha256": "ab" * 32}


def small_bank(dimension: int = 16, **fields: Any) -> TextBank:
    """Six random phrases, two classes of three of them, two of the background; ``fields`` replace those of a bank."""
    values: dict[str, Any] = {
        "phrases": PHRASES,
        "stored": np.random.default_rng(0).normal(size=(len(PHRASES), dimension)),
        **ENCODER,
        "template": "a photo of a {} on the street",
        "classes": (BankClass("vehicle", ("car", "parked van"), (1, 2, 3)), BankClass("tree", ("tree",), (0, 99, 0))),
        "background": ("sky", "wall"),
        "licence": "CC0-1.0",
    }
    return TextBank(**{**values, **fields})


def small_space(name: str = "clip", dimension: int = 16, units: int = 64, seed: int = 0, **fields: Any) -> FeatureSpace:
    """A random space with a bias; ``fields`` replace those of a space."""
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "weight": rng.normal(size=(dimension, units)).astype(np.float32),
        "bias": rng.normal(size=dimension).astype(np.float32),
        **ENCODER,
    }
    return FeatureSpace(name, **{**values, **fields})


def random_vocabulary(
    classes: int, rows: int, *, background: int = 1, dimension: int = 16, seed: int = 0, **fields: Any
) -> Vocabulary:
    """Random rows, shared out to classes in turn, and rows of the background between them."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(rows + background, dimension))
    group = np.concatenate([np.arange(rows) % classes, np.full(background, BACKGROUND)])
    return Vocabulary(
        tuple(f"class {number}" for number in range(classes)),
        ((0, 0, 0),) * classes,
        (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32),
        rng.permutation(group).astype(np.int32),
        **{**ENCODER, **fields},
    )


def random_query(phrases: int, rows: int | None = None, **fields: Any) -> Vocabulary:
    """Random phrases, and a random direction that they have in common."""
    return random_vocabulary(phrases, rows or phrases, contrast=Contrast(0.5, (0.4,) * phrases), **fields)
