"""A tiny student with encoders for GPUs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from scene_completion_ros.inference.bundle import StudentBundle
from tests.inference.small_bundle import CANONICAL, CHANNELS, make_small_bundle, serialised, tiny_weights

TYPES = {"fp32": (TensorProto.FLOAT, np.float32), "fp16": (TensorProto.FLOAT16, np.float16)}


def gpu_encoder(
    precision: str = "fp16",
    *,
    seed: int = 0,
    size: tuple[int, int] = (CANONICAL.height, CANONICAL.width),
    channels: int = CHANNELS,
    label_hidden: int = 0,
    output: str = "features",
    producer: str = "",
) -> bytes:
    """Two convolutions as ONNX, the first with stride 2: uint8 [N, H, W, 3] -> [N, H/2, W/2, channels + labels]."""
    kind, dtype = TYPES[precision]
    height, width = size
    weights: dict[str, Any] = {**tiny_weights(seed, channels=channels, label_hidden=label_hidden)}
    weights |= {"middle": np.float16(127.0), "scale": np.float16(1 / 64)}
    weights = {name: np.asarray(value).astype(dtype) for name, value in weights.items()}
    nodes = [
        helper.make_node("Cast", ["image"], ["typed"], to=kind),
        helper.make_node("Transpose", ["typed"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "middle"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "scale"], ["normal"]),
        helper.make_node("Conv", ["normal", "stem_weight", "stem_bias"], ["stem"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["stem"], ["active"]),
        helper.make_node("Conv", ["active", "last_weight", "last_bias"], ["last"]),
        helper.make_node("Transpose", ["last"], [output], perm=[0, 2, 3, 1]),
    ]
    given = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", height, width, 3])
    made = helper.make_tensor_value_info(output, kind, ["N", height // 2, width // 2, channels + label_hidden])
    return serialised(nodes, given, made, weights, producer=producer)


@dataclass(frozen=True, eq=False)
class GpuStudent(StudentBundle):
    """A student whose encoders for GPUs are made when they are read."""

    precisions: tuple[str, ...] = ()

    @property
    def gpu_precisions(self) -> tuple[str, ...]:
        return self.precisions

    def read_gpu_encoder(self, precision: str) -> bytes:
        size, head = (self.canonical.height, self.canonical.width), self.head
        return gpu_encoder(precision, size=size, channels=head.hidden, label_hidden=head.label_hidden)


def make_gpu_bundle(folder: Path, precisions: tuple[str, ...] = ("fp16", "fp32"), **fields: Any) -> GpuStudent:
    """Writes a tiny student into a folder and loads it, with encoders for GPUs; see `make_small_bundle`."""
    bundle = make_small_bundle(folder, **fields)
    values = {name: getattr(bundle, name) for name in StudentBundle.__dataclass_fields__}
    return GpuStudent(**values, precisions=precisions)
