"""The encoders for GPUs on the CPU, through ONNX Runtime: to measure what a variant costs in accuracy.

It rounds as a GPU does where a graph is typed float16. ONNX Runtime has no float16 convolution on the CPU; it computes
in float32 and leaves out all roundings in between. So every result passes through operators that have to store it as
float16. Sums are accumulated in float32, as tensor cores do. It is slow: no engine for a robot.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError, SceneCompletionError
from scene_completion_ros.inference.bundle import StudentBundle, check_image
from scene_completion_ros.inference.encoded_image import EncodedImage, Encoder, Given, GivenView
from scene_completion_ros.inference.gpu_encoders import PRECISIONS, export_cure

PRECISION_OF_ENGINE: dict[str, str] = {f"onnxruntime_{precision}": precision for precision in PRECISIONS}


class GpuGraphEncoder(Encoder):
    """An ONNX graph made for GPUs, run as described above.

    Raises BundleError: ONNX Runtime cannot run it; SceneCompletionError: onnx or onnxruntime is not installed. `where`:
    what it is, for messages; `bundle`: whose it is, if it is one's; `name`: of the engine; `threads`: CPU threads; None
    for all.
    """

    def __init__(
        self,
        graph: bytes,
        where: str,
        bundle: StudentBundle | None = None,
        name: str = "graph",
        *,
        threads: int | None = None,
    ) -> None:
        for package in ("onnx", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                what = f"the package {package} is not installed"
                raise SceneCompletionError(what, where="engine", cure=f"pip install {package}")
        self._bundle, self.name = bundle, name
        self._session = open_session(lambda: _with_roundings(graph), where, export_cure("BUNDLE"), threads, exact=True)

    def encode(
        self, image_rgb: NDArray[np.uint8], beside: Given | None = None, given_view: GivenView | None = None
    ) -> EncodedImage:
        """See `Encoder`; no graph for GPUs takes anything beside the image yet."""
        if self._bundle is not None:
            check_image(self._bundle, image_rgb)
        (features,) = self._session.run(["features"], {"image": image_rgb[None]})
        return EncodedImage(features[0].astype(np.float32))


def open_session(
    graph: bytes | Callable[[], bytes], where: str, cure: str, threads: int | None, *, exact: bool = False
) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU. Raises BundleError: ONNX Runtime cannot run it.

    `graph`: the ONNX graph, or what makes it; `where`, `cure`: for messages; `threads`: CPU threads; None for all;
    `exact`: compute node by node: optimised, roundings between them would be gone.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    # Idle workers would spin on the cores that the voxel query needs next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        content = graph if isinstance(graph, bytes) else graph()
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's and onnx's exceptions have no common base class
        raise BundleError(f"ONNX Runtime cannot run it ({last_line(error)})", where=where, cure=cure) from error


def last_line(error: Exception) -> str:
    """The end of what an engine says is wrong."""
    lines = str(error).strip().splitlines()
    return lines[-1][:200] if lines else type(error).__name__


def _with_roundings(graph: bytes) -> bytes:
    """The graph with two Identities behind every node of float16 results.

    What is between the two has to be stored as float16; one alone would be moved to float32 with its neighbours.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(graph))
    half = {value.name for value in model.graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type != "Cast" and node.output[0] in half:
            name = node.output[0]
            node.output[0] = f"{name}/computed"
            nodes.append(helper.make_node("Identity", [node.output[0]], [f"{name}/stored"]))
            nodes.append(helper.make_node("Identity", [f"{name}/stored"], [name]))
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    serialised: bytes = model.SerializeToString()
    return serialised
