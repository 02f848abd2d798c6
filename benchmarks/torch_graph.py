"""Graphs of students in torch, captured in a CUDA graph: engines for a GPU where only torch is, to measure with."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.inference.gpu.device import PrimaryContext
from scene_completion_ros.inference.gpu.half_precision import DevicePorts, device_ports, to_half
from scene_completion_ros.inference.gpu.kernels import Buffer
from scene_completion_ros.inference.graphs import StepGraph

TYPES = {1: torch.float32, 10: torch.float16}
WARM_UP = 3  # runs before a capture


def _numbers(values: Tensor) -> list[int]:
    return [int(value) for value in values.reshape(-1)]


def _convolution(at: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    top, left, bottom, right = at.get("pads", (0, 0, 0, 0))
    x = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(x, weight, bias, at.get("strides", 1), 0, at.get("dilations", 1), at.get("group", 1))


def _transposed(at: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.conv_transpose2d(x, weight, bias, at["strides"], at.get("pads", (0, 0))[:2])


def _resize(at: Mapping[str, Any], x: Tensor, _: Tensor, scales: Tensor, sizes: Tensor | None = None) -> Tensor:
    if sizes is None:
        size = [round(length * float(scale)) for length, scale in zip(x.shape[2:], scales[2:], strict=True)]
    else:
        size = _numbers(sizes)[2:]
    if at["mode"] == b"nearest":
        return functional.interpolate(x, size, mode="nearest")
    aligned = at["coordinate_transformation_mode"] == b"align_corners"
    return functional.interpolate(x, size, mode="bilinear", align_corners=aligned)


def _slice(_: Mapping[str, Any], x: Tensor, start: Tensor, end: Tensor, axes: Tensor, steps: Tensor) -> Tensor:
    taken = [slice(None)] * x.ndim
    for axis, first, last, step in zip(*map(_numbers, (axes, start, end, steps)), strict=True):
        taken[axis] = slice(first, last, step)
    return x[tuple(taken)]


def _reshape(_: Mapping[str, Any], x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(_numbers(shape))])


def _squeeze(_: Mapping[str, Any], x: Tensor, axes: Tensor) -> Tensor:
    return x.squeeze(tuple(_numbers(axes)))


def _unsqueeze(_: Mapping[str, Any], x: Tensor, axes: Tensor) -> Tensor:
    for axis in sorted(_numbers(axes)):
        x = x.unsqueeze(axis)
    return x


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": lambda _, x, y: x + y,
    "Cast": lambda at, x: x.to(TYPES[at["to"]]),
    "Clip": lambda _, x, low, high: x.clamp(low, high),
    "Concat": lambda at, *parts: torch.cat(parts, at["axis"]),
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Div": lambda _, x, y: x / y,
    "Elu": lambda at, x: functional.elu(x, at["alpha"]),
    "Erf": lambda _, x: torch.erf(x),
    "Exp": lambda _, x: torch.exp(x),
    "Gather": lambda at, x, place: x.select(at["axis"], int(place)),
    "Gemm": lambda at, x, weight, bias: functional.linear(x, weight if at["transB"] else weight.T, bias),
    "Identity": lambda _, x: x,
    "InstanceNormalization": lambda at, x, weight, bias: functional.instance_norm(
        x, weight=weight, bias=bias, eps=at["epsilon"]
    ),
    "LayerNormalization": lambda at, x, weight, bias: functional.layer_norm(
        x, x.shape[at["axis"] :], weight, bias, at["epsilon"]
    ),
    "MatMul": lambda _, x, y: x @ y,
    "Mul": lambda _, x, y: x * y,
    "Neg": lambda _, x: -x,
    "ReduceMean": lambda at, x, axes: x.mean(_numbers(axes), bool(at["keepdims"])),
    "ReduceSum": lambda at, x, axes: x.sum(_numbers(axes), bool(at["keepdims"])),
    "Relu": lambda _, x: x.relu(),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": lambda _, x: x.sigmoid(),
    "Slice": _slice,
    "Softmax": lambda at, x: x.softmax(at["axis"]),
    "Softplus": lambda _, x: functional.softplus(x),
    "Split": lambda at, x, sizes: x.split(_numbers(sizes), at["axis"]),
    "Sqrt": lambda _, x: x.sqrt(),
    "Squeeze": _squeeze,
    "Sub": lambda _, x, y: x - y,
    "Tanh": lambda _, x: x.tanh(),
    "Transpose": lambda at, x: x.permute(at["perm"]),
    "Unsqueeze": _unsqueeze,
}
# Of these, inputs from this one on say how to compute, and stay on the host.
SETTINGS = {"Resize": 1, "Slice": 1, "Reshape": 1, "Squeeze": 1, "Unsqueeze": 1, "Split": 1}
SETTINGS |= {"ReduceMean": 1, "ReduceSum": 1, "Gather": 1}


class TorchGraph:
    """An ONNX graph of `to_half` in torch, on any device. Raises KeyError: an operator that no student has."""

    def __init__(self, graph: bytes, device: torch.device) -> None:
        model = onnx.load_from_string(graph)
        self._nodes = list(model.graph.node)
        self._attributes = [
            {one.name: helper.get_attribute_value(one) for one in node.attribute} for node in self._nodes
        ]
        self._operators = [OPERATORS[node.op_type] for node in self._nodes]
        self._made = [port.name for port in model.graph.output]
        on_host = {
            name for node in self._nodes for name in node.input[SETTINGS.get(node.op_type, len(node.input)) :] if name
        }
        self._constants: dict[str, Tensor | None] = {"": None}
        for tensor in model.graph.initializer:
            value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            self._constants[tensor.name] = value if tensor.name in on_host else value.to(device)

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name."""
        values: dict[str, Any] = {**self._constants, **given}
        for node, at, operator in zip(self._nodes, self._attributes, self._operators, strict=True):
            found = operator(at, *(values[name] for name in node.input))
            values |= zip(node.output, found if isinstance(found, tuple) else (found,), strict=True)
        return {name: values[name] for name in self._made}


class TorchEngine:
    """A graph captured in a CUDA graph, a `DeviceGraph`; made and run with the context current."""

    def __init__(self, step: StepGraph, context: PrimaryContext, stream: Any) -> None:
        self.ports: DevicePorts = device_ports(step)
        self._context, self._stream = context, stream
        self._queue: Any = torch.cuda.ExternalStream(int(stream.handle))  # type: ignore[no-untyped-call]
        device = torch.device("cuda")
        self._network = graph = TorchGraph(to_half(step), device)  # a captured graph keeps none of the weights alive
        self._given = {
            name: torch.zeros(shape, dtype=getattr(torch, np.dtype(kind).name), device=device)
            for name, (shape, kind) in self.ports.given.items()
        }
        self._graph = torch.cuda.CUDAGraph()
        warm_up_stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        warm_up_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up_stream):
            for _ in range(WARM_UP):
                graph(self._given)
        torch.cuda.synchronize()
        with torch.no_grad(), torch.cuda.graph(self._graph):
            self._made = {name: found.contiguous() for name, found in graph(self._given).items()}
        self.outputs: Mapping[str, Buffer] = {name: _buffer(found) for name, found in self._made.items()}

    def enqueue(self, given: Mapping[str, Buffer]) -> None:
        """See `DeviceGraph`."""
        for name, buffer in given.items():
            kept = self._given[name]
            size = kept.numel() * kept.element_size()
            self._context.cuda.memcpy_dtod_async(kept.data_ptr(), buffer.pointer, size, self._stream)
        with torch.cuda.stream(self._queue):
            self._graph.replay()

    def close(self) -> None:
        """Frees its memory."""
        self._graph.reset()
        self.outputs = {}
        self._made.clear()
        self._given.clear()
        del self._network


def _buffer(found: Tensor) -> Buffer:
    return Buffer(found.data_ptr(), tuple(found.shape), np.dtype(str(found.dtype).removeprefix("torch.")), found)
