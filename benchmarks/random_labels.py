"""The shipped student with random label units, for measuring what semantics cost; its labels mean nothing.

A student with labels has a second decoder on the same trunk, from which the channels of its label units come
(`FeatureField` in ``training/networks``). Here it is a copy of the first one, its weights shuffled: an engine would
compute two equal ones once.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from scene_completion_ros.inference.bundle import StudentBundle

# How the export names the tensors of the decoder, and its weights.
DECODER = ("/decoder/", "decoder.")


def with_random_labels(bundle: StudentBundle, folder: Path, *, units: int, classes: int) -> StudentBundle:
    """Writes the student with random label units into a folder.

    Args:
        bundle: A student without labels, from ``training/export.py``.
        folder: Where to.
        units: E.
        classes: K.

    Raises:
        ValueError: Its encoder is not of the kind the export writes.
    """
    rng = np.random.default_rng(0)

    def normal(scale: float, *shape: int) -> NDArray[np.float32]:
        return rng.normal(0.0, scale, shape).astype(np.float32)

    head = dataclasses.replace(
        bundle.head,
        label_positional_weight=normal(0.14, units, bundle.point_code.size),
        label_hidden_bias=np.zeros(units, dtype=np.float32),
        label_weight=normal((2.0 / units) ** 0.5, classes, units),
        label_bias=np.zeros(classes, dtype=np.float32),
    )
    names = tuple(f"class {number}" for number in range(classes))
    labelled = dataclasses.replace(bundle, head=head, class_names=names, class_colours=((128, 128, 128),) * classes)
    return labelled.save(folder, with_label_channels(onnx.load(bundle.encoder_path), units, rng))


def with_label_channels(model: onnx.ModelProto, units: int, rng: np.random.Generator) -> bytes:
    """The encoder with a second decoder and ``units`` more channels; serialised.

    Raises:
        ValueError: It does not end in the decoder, a 1×1 convolution and a transposition.
    """
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    last = made_by["features"]
    project = made_by[last.input[0]]
    decoded = made_by[project.input[0]].input[0]
    if last.op_type != "Transpose" or project.op_type != "Conv" or not decoded.startswith(DECODER):
        raise ValueError(f"the encoder ends in {project.op_type} and {last.op_type} of {decoded}")
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {_twin(name): np.roll(value, 1, axis=0) for name, value in values.items() if _twin(name) != name}
    channels = values[f"{project.input[1]}.half"].shape[1] - 1  # the last one is the prior
    weights["label.weight"] = rng.normal(0.0, 0.05, (units, channels, 1, 1)).astype(np.float32)
    weights["label.bias"] = np.zeros(units, dtype=np.float32)
    nodes = [
        *(node for node in graph.node if node is not last),
        *(_twin_node(node) for node in graph.node if _twin(node.output[0]) != node.output[0]),
        helper.make_node("Conv", [_twin(decoded), "label.weight", "label.bias"], ["label.map"]),
        helper.make_node("Concat", [last.input[0], "label.map"], ["both"], axis=1),
        helper.make_node("Transpose", ["both"], ["features"], perm=[0, 2, 3, 1]),
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    graph.output[0].type.tensor_type.shape.dim[3].dim_value += units
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _twin(name: str) -> str:
    """Name of a tensor in the second decoder; the same where it does not belong to a decoder."""
    return f"label_{name}" if name.startswith(DECODER) else name


def _twin_node(node: onnx.NodeProto) -> onnx.NodeProto:
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    twin.name = _twin(node.name)
    for names in (twin.input, twin.output):
        names[:] = [_twin(name) for name in names]
    return twin
