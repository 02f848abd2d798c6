"""A student without its labels, for measuring what those cost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx

from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.head import HeadWeights


def without_labels(bundle: StudentBundle, folder: Path) -> StudentBundle:
    """Writes a student into a folder that has no labels, and an encoder without their decoder.

    Args:
        bundle: A student with labels, from ``training/export.py``.
        folder: Where to.

    Raises:
        ValueError: Its encoder is not of the kind the export writes.
    """
    head = bundle.head
    head = HeadWeights(head.positional_weight, head.hidden_bias, head.density_weight, head.density_bias)
    plain = dataclasses.replace(bundle, head=head, class_names=("unlabelled",), class_colours=((128, 128, 128),))
    return plain.save(folder, density_channels(onnx.load(bundle.encoder_path), bundle.head.label_hidden))


def density_channels(model: onnx.ModelProto, label_channels: int) -> bytes:
    """The encoder with the channels of the density alone, and without what only the others need; serialised.

    Raises:
        ValueError: It does not end in a concatenation of two maps and a transposition.
    """
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    last = made_by["features"]
    both = made_by[last.input[0]]
    if (last.op_type, both.op_type, len(both.input)) != ("Transpose", "Concat", 2):
        raise ValueError(f"the encoder ends in {both.op_type} and {last.op_type}")
    last.input[0] = both.input[0]
    needed: set[str] = set()
    asked = ["features"]
    while asked:
        name = asked.pop()
        if name not in needed:
            needed.add(name)
            asked += list(made_by[name].input) if name in made_by else []
    nodes = [node for node in graph.node if needed & set(node.output)]
    values = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(values)
    del graph.value_info[:]
    graph.output[0].type.tensor_type.shape.dim[3].dim_value -= label_channels
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
