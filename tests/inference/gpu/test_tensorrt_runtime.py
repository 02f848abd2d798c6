"""Engines on a stand-in for the runtime of TensorRT: what it is told, in which order, and what its answers become.

The stand-in answers as NVIDIA documents it; the names and arguments that it has are those of `rtx_builds`, which
compares them with TensorRT-RTX. In one thing it is stricter: an engine does not keep its runtime alive, nor a context
its engine, so that the order shows in which they are given up. That TensorRT computes anything is not shown here.
"""

from __future__ import annotations

import enum
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu.device import GpuFailureError
from scene_completion_ros.inference.gpu.engine_cache import EngineKey
from scene_completion_ros.inference.gpu.tensorrt_runtime import TensorRt, TensorRtEngine, UnusablePlanError
from tests.inference.gpu.host_tensorrt import NO_CUDA, DataType, ILogger, Severity, dla_core, host_module
from tests.inference.gpu.rtx_builds import RUNTIME_NAMES, disagreements, unlisted
from tests.inference.gpu.small_gpu_bundle import some_key

IMAGE, FEATURES, STREAM = 0x7F00_0000_0000, 0x7F00_1000_0000, 0x5500_0000_0100
VOLUME, DEPTH = 0x7F00_2000_0000, 0x7F00_3000_0000

# As TensorRT says it.
OUT_OF_MEMORY = (
    "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
    "IRuntime::deserializeCudaEngine: Error Code 2: OutOfMemory (no further information)",
)
OTHER_VERSION = "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (assertion stdVersionRead failed.)"
ILLEGAL_ACCESS = "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (an illegal memory access was encountered)"
NOT_SUPPORTED = "IExecutionContext::enqueueV3: Error Code 1: Cask (Cask convolution execution)"


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class Dims:
    """As TensorRT's: a sequence, and no tuple."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> int:
        return self._sizes[index]


@dataclass(frozen=True)
class Port:
    mode: TensorIOMode
    kind: DataType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """What a plan holds; ``batches`` are the smallest and the largest of its profile."""

    ports: dict[str, Port]
    batches: tuple[int, int]


@dataclass(frozen=True)
class Run:
    addresses: dict[str, int]
    shape: tuple[int, ...]
    stream: int


@dataclass
class HostTensorRt:
    """What stands in for TensorRT.

    Attributes:
        plans: The plans that it takes.
        cores: How many accelerators for deep learning there are.
        failing: Names of what fails, and what TensorRT says then.
        live: What there is of runtimes, engines and contexts.
        ended: What there was, in the order in which it went.
        deserialised: The accelerator that was set whenever a plan was deserialised.
        shapes: All shapes that were set.
        asked: How many times a context was asked for anything.
        runs: What ran.
    """

    plans: dict[bytes, Graph] = field(default_factory=dict)
    cores: int = 0
    failing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    live: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    deserialised: list[int] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    asked: int = 0
    runs: list[Run] = field(default_factory=list)

    def fails(self, logger: Any, what: str) -> bool:
        """Whether something is to fail; says why."""
        for words in self.failing.get(what, ()):
            logger.log(Severity.ERROR, words)
        return what in self.failing

    def made(self, thing: object, what: str) -> None:
        def ended() -> None:
            self.live.remove(what)
            self.ended.append(what)

        self.live.append(what)
        weakref.finalize(thing, ended)

    def module(self) -> Any:
        """`tensorrt`."""
        host = self

        class Runtime:
            def __init__(self, logger: ILogger) -> None:
                if host.fails(logger, "runtime"):
                    raise TypeError("pybind11::init(): factory function returned nullptr")
                host.made(self, "runtime")
                self._logger = logger
                self._core = -1

            DLA_core = dla_core(lambda: host.cores)

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
                host.deserialised.append(self._core)
                if host.fails(self._logger, "engine"):
                    return None
                graph = host.plans.get(bytes(memoryview(serialized_engine)))
                if graph is None:
                    self._logger.log(Severity.ERROR, OTHER_VERSION)
                    return None
                return ICudaEngine(graph, self._logger)

        class ICudaEngine:
            def __init__(self, graph: Graph, logger: ILogger) -> None:
                host.made(self, "engine")
                self._graph = graph
                self._logger = logger

            num_io_tensors = property(lambda engine: len(engine._graph.ports))

            def get_tensor_name(self, index: int) -> str:
                return list(self._graph.ports)[index]

            def get_tensor_mode(self, name: str) -> TensorIOMode:
                return self._graph.ports[name].mode

            def get_tensor_dtype(self, name: str) -> DataType:
                return self._graph.ports[name].kind

            def get_tensor_shape(self, name: str) -> Dims:
                return Dims(self._graph.ports[name].shape)

            def create_execution_context(self) -> IExecutionContext | None:
                if host.fails(self._logger, "context"):
                    return None
                return IExecutionContext(self._graph, self._logger)

        class IExecutionContext:
            def __init__(self, graph: Graph, logger: ILogger) -> None:
                host.made(self, "context")
                self._graph = graph
                self._logger = logger
                self._shapes = {
                    name: port.shape for name, port in graph.ports.items() if port.mode is TensorIOMode.INPUT
                }
                self._addresses: dict[str, int] = {}

            def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
                host.asked += 1
                assert isinstance(shape, (tuple, list))  # or pybind11 raises TypeError
                host.shapes.append(tuple(shape))
                if name not in self._shapes:
                    return self._refuse(f"setInputShape: Error Code 3: API Usage Error (there is no input {name}.)")
                stated = self._graph.ports[name].shape
                low, high = self._graph.batches
                fits = len(shape) == len(stated) and all(
                    size in (-1, given) for size, given in zip(stated, shape, strict=True)
                )
                if not fits or not low <= shape[0] <= high:
                    return self._refuse(
                        "setInputShape: Error Code 3: API Usage Error (Parameter check failed, condition: "
                        "satisfyProfile. Runtime dimension does not satisfy any optimization profile.)"
                    )
                self._shapes[name] = tuple(shape)
                return True

            def set_tensor_address(self, name: str, memory: int) -> bool:
                host.asked += 1
                if name not in self._graph.ports or host.fails(self._logger, name):
                    return self._refuse(f"setTensorAddress: Error Code 3: API Usage Error (no tensor {name}.)")
                assert type(memory) is int
                self._addresses[name] = memory
                return True

            def execute_async_v3(self, stream_handle: int) -> bool:
                host.asked += 1
                assert type(stream_handle) is int
                if any(-1 in shape for shape in self._shapes.values()):
                    return self._refuse("enqueueV3: Error Code 3: API Usage Error (Input shapes are not all set.)")
                if self._addresses.keys() != self._graph.ports.keys():
                    return self._refuse("enqueueV3: Error Code 3: API Usage Error (Address is not set.)")
                if host.fails(self._logger, "run"):
                    return False
                (shape,) = self._shapes.values()
                host.runs.append(Run(dict(self._addresses), shape, stream_handle))
                return True

            def _refuse(self, words: str) -> bool:
                self._logger.log(Severity.ERROR, f"IExecutionContext::{words}")
                return False

        contents: dict[str, Any] = {
            "__version__": "10.3.0",
            "ICudaEngine": ICudaEngine,
            "IExecutionContext": IExecutionContext,
            "Runtime": Runtime,
            "TensorIOMode": TensorIOMode,
        }
        return host_module("tensorrt", contents)


def graph_for(key: EngineKey, *, stated: int = -1) -> Graph:
    """What is in a plan for a key; ``stated`` is the batch in its shapes."""
    kind = DataType.FLOAT if key.precision == "fp32" else DataType.HALF
    ports = {
        "image": Port(TensorIOMode.INPUT, DataType.UINT8, (stated, *key.image, 3)),
        "features": Port(TensorIOMode.OUTPUT, kind, (stated, *key.features)),
    }
    if key.volume:
        ports["volume"] = Port(TensorIOMode.OUTPUT, kind, (stated, *key.volume))
    if key.depth:
        ports["depth"] = Port(TensorIOMode.OUTPUT, DataType.FLOAT, (stated, *key.depth))
    return Graph(ports, key.batch)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostTensorRt]:
    """The stand-in; nothing may be left of it, and all must have gone in the order that TensorRT wants."""
    made = HostTensorRt()
    monkeypatch.setitem(sys.modules, "tensorrt", made.module())
    yield made
    assert made.live == []
    places = [("context", "engine", "runtime").index(what) for what in made.ended]
    assert places == sorted(places)


@pytest.fixture
def tensorrt(host: HostTensorRt) -> TensorRt:
    return TensorRt("tensorrt")


KEY = some_key(batch=(1, 4))


def open_engine(host: HostTensorRt, tensorrt: TensorRt, key: EngineKey = KEY) -> TensorRtEngine:
    host.plans[b"plan"] = graph_for(key)
    return TensorRtEngine(b"plan", key, tensorrt)


def test_the_stand_in_has_names_and_arguments_of_tensorrt(tensorrt: TensorRt) -> None:
    assert disagreements(tensorrt.api, RUNTIME_NAMES) == []
    assert unlisted(tensorrt.api, RUNTIME_NAMES) == []


def test_addresses_and_stream_are_handed_on_and_the_batch_where_it_changes(
    host: HostTensorRt, tensorrt: TensorRt
) -> None:
    engine = open_engine(host, tensorrt)
    engine.enqueue(IMAGE, FEATURES, STREAM)
    for batch in (3, 3, 4, 3):
        engine.enqueue(IMAGE + 256, FEATURES + 512, STREAM + 1, batch)
    engine.close()
    again = {"image": IMAGE + 256, "features": FEATURES + 512}
    assert host.runs == [
        Run({"image": IMAGE, "features": FEATURES}, (1, 192, 640, 3), STREAM),
        *(Run(again, (batch, 192, 640, 3), STREAM + 1) for batch in (3, 3, 4, 3)),
    ]
    assert [shape[0] for shape in host.shapes] == [1, 3, 4, 3]


SPATIAL = some_key(batch=(1, 4), volume=(256, 256, 32), depth=(96, 320))


@pytest.mark.parametrize("key", [SPATIAL, some_key(batch=(2, 2), volume=(8, 8, 4), depth=(6, 9), precision="fp32")])
def test_volume_and_depth_go_where_they_are_told(host: HostTensorRt, tensorrt: TensorRt, key: EngineKey) -> None:
    engine = open_engine(host, tensorrt, key)
    engine.enqueue(IMAGE, FEATURES, STREAM, 2, volume_pointer=VOLUME, depth_pointer=DEPTH)
    engine.close()
    assert host.runs[0].addresses == {"image": IMAGE, "features": FEATURES, "volume": VOLUME, "depth": DEPTH}


@pytest.mark.parametrize("missing", ["volume", "depth"])
def test_an_output_that_has_no_place_does_not_run(host: HostTensorRt, tensorrt: TensorRt, missing: str) -> None:
    engine = open_engine(host, tensorrt, SPATIAL)
    places = {"volume_pointer": VOLUME, "depth_pointer": DEPTH}
    with pytest.raises(GpuFailureError, match="running the engine failed: .*Address is not set"):
        engine.enqueue(IMAGE, FEATURES, STREAM, **{**places, f"{missing}_pointer": None})
    host.failing[missing] = ("misaligned",)
    with pytest.raises(GpuFailureError, match=f"setting the {missing}'s address failed: misaligned"):
        engine.enqueue(IMAGE, FEATURES, STREAM, **places)
    assert host.runs == []
    engine.close()


@pytest.mark.parametrize(
    ("plan", "key"),
    [
        (KEY, SPATIAL),
        (SPATIAL, KEY),
        (replace(SPATIAL, volume=(256, 256, 16)), SPATIAL),
        (replace(SPATIAL, precision="fp32"), SPATIAL),
        (replace(SPATIAL, depth=None), SPATIAL),
        (replace(SPATIAL, depth=(96, 160)), SPATIAL),
    ],
)
def test_a_plan_with_another_volume_or_depth_is_refused(
    host: HostTensorRt, tensorrt: TensorRt, plan: EngineKey, key: EngineKey
) -> None:
    host.plans[b"plan"] = graph_for(plan)
    with pytest.raises(UnusablePlanError, match="has the ports"):
        TensorRtEngine(b"plan", key, tensorrt)


def test_a_plan_that_says_depth_in_float16_is_refused(host: HostTensorRt, tensorrt: TensorRt) -> None:
    """The kernel would take two of them for one."""
    right = graph_for(SPATIAL)
    host.plans[b"plan"] = replace(
        right, ports={**right.ports, "depth": replace(right.ports["depth"], kind=DataType.HALF)}
    )
    with pytest.raises(UnusablePlanError, match="has the ports"):
        TensorRtEngine(b"plan", SPATIAL, tensorrt)


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_other_batches_are_refused_before_tensorrt_is_asked(host: HostTensorRt, tensorrt: TensorRt, batch: int) -> None:
    engine = open_engine(host, tensorrt, some_key(batch=(2, 4)))
    with pytest.raises(GpuError, match=f"{batch} images where it takes 2 to 4"):
        engine.enqueue(IMAGE, FEATURES, STREAM, batch)
    assert host.asked == 0
    engine.close()


def test_a_batch_that_tensorrt_refuses_is_no_end(host: HostTensorRt, tensorrt: TensorRt) -> None:
    engine = open_engine(host, tensorrt)
    host.plans[b"plan"] = replace(graph_for(KEY), batches=(1, 2))  # of a narrower profile than the key says
    narrower = TensorRtEngine(b"plan", KEY, tensorrt)
    for _ in range(2):
        with pytest.raises(GpuFailureError, match="setting the batch size failed: .* any optimization profile"):
            narrower.enqueue(IMAGE, FEATURES, STREAM, 3)
    narrower.enqueue(IMAGE, FEATURES, STREAM, 2)
    assert [run.shape[0] for run in host.runs] == [2]
    narrower.close()
    host.ended.clear()
    engine.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("stated", [-1, 4])
def test_one_batch_size_may_be_stated_or_left_open(
    host: HostTensorRt, tensorrt: TensorRt, stated: int, precision: str
) -> None:
    key = some_key(batch=(4, 4), precision=precision)
    host.plans[b"plan"] = graph_for(key, stated=stated)
    engine = TensorRtEngine(b"plan", key, tensorrt)
    engine.enqueue(IMAGE, FEATURES, STREAM, 4)
    engine.close()
    assert host.runs[0].shape == (4, 192, 640, 3)


def with_port(name: str, **fields: Any) -> Graph:
    graph = graph_for(KEY)
    return replace(graph, ports={**graph.ports, name: replace(graph.ports[name], **fields)})


def renamed(old: str, new: str) -> Graph:
    graph = graph_for(KEY)
    return replace(graph, ports={new if name == old else name: port for name, port in graph.ports.items()})


OTHER_GRAPHS = {
    "name of the input": renamed("image", "images"),
    "name of the output": renamed("features", "map"),
    "type of the input": with_port("image", kind=DataType.FLOAT),
    "type of the output": with_port("features", kind=DataType.FLOAT),
    "size of the image": with_port("image", shape=(-1, 96, 320, 3)),
    "order of the image": with_port("image", shape=(-1, 3, 192, 640)),
    "size of the features": with_port("features", shape=(-1, 96, 320, 128)),
    "rank of the features": with_port("features", shape=(-1, 96, 320, 64, 1)),
    "smallest batch alone": graph_for(KEY, stated=1),
    "largest batch alone": graph_for(KEY, stated=4),
    "no output": replace(graph_for(KEY), ports={"image": graph_for(KEY).ports["image"]}),
    "no ports": replace(graph_for(KEY), ports={}),
    "another output": replace(
        graph_for(KEY), ports={**graph_for(KEY).ports, "depth": Port(TensorIOMode.OUTPUT, DataType.HALF, (-1, 96, 320))}
    ),
    "input and output swapped": replace(
        graph_for(KEY),
        ports={
            name: replace(port, mode=TensorIOMode.OUTPUT if name == "image" else TensorIOMode.INPUT)
            for name, port in graph_for(KEY).ports.items()
        },
    ),
}


@pytest.mark.parametrize("graph", OTHER_GRAPHS.values(), ids=OTHER_GRAPHS.keys())
def test_a_plan_with_other_ports_is_refused(host: HostTensorRt, tensorrt: TensorRt, graph: Graph) -> None:
    host.plans[b"plan"] = graph
    with pytest.raises(UnusablePlanError, match="has the ports .* needed are .*(192, 640, 3)") as failure:
        TensorRtEngine(b"plan", KEY, tensorrt)
    assert host.ended == ["engine", "runtime"] and host.live == []  # though the error is still there
    del failure


@pytest.mark.parametrize(
    ("graph", "batch"),
    [
        (graph_for(some_key(batch=(1, 1)), stated=1), 4),
        (graph_for(some_key(batch=(8, 8)), stated=8), 4),
        (with_port("features", shape=(8, 96, 320, 64)), 1),  # more outputs than there is room for
    ],
)
def test_a_plan_for_another_single_batch_is_refused(
    host: HostTensorRt, tensorrt: TensorRt, graph: Graph, batch: int
) -> None:
    host.plans[b"plan"] = graph
    with pytest.raises(UnusablePlanError, match="has the ports"):
        TensorRtEngine(b"plan", some_key(batch=(batch, batch)), tensorrt)


@pytest.mark.parametrize(
    ("step", "words", "kind", "said"),
    [
        ("runtime", (NO_CUDA,), "unknown", "runtime failed: .*CUDA initialization failure with error: 35"),
        ("engine", OUT_OF_MEMORY, "memory", "while deserialising the engine"),
        ("engine", (ILLEGAL_ACCESS,), "lost", "while deserialising the engine"),
        ("context", OUT_OF_MEMORY, "memory", "while making an execution"),
        ("context", (ILLEGAL_ACCESS,), "lost", "while making an execution"),
        ("context", (), "unknown", "making an execution context failed: TensorRT does not say why"),
    ],
)
def test_what_the_gpu_lacks_does_not_make_a_plan_unusable_and_leaves_nothing_open(
    host: HostTensorRt, tensorrt: TensorRt, step: str, words: tuple[str, ...], kind: str, said: str
) -> None:
    host.failing[step] = words
    with pytest.raises(GpuFailureError, match=said) as failure:
        open_engine(host, tensorrt)
    assert failure.value.kind == kind
    assert all(word in failure.value.what for word in words[-1:])
    assert host.live == []  # though the error is still there
    del failure


def test_a_plan_that_tensorrt_refuses_is_to_be_built_again(host: HostTensorRt, tensorrt: TensorRt) -> None:
    with pytest.raises(UnusablePlanError, match="deserialising the engine failed: .*stdVersionRead") as refused:
        TensorRtEngine(b"of another version", KEY, tensorrt)
    assert refused.value.cure == "Build it again."
    assert host.live == []  # though the error is still there
    del refused


@pytest.mark.parametrize("step", ["engine", "context"])
def test_nothing_is_left_open_after_ctrl_c(
    host: HostTensorRt, tensorrt: TensorRt, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupt() -> str:
        raise KeyboardInterrupt

    host.failing[step] = ()
    monkeypatch.setattr(tensorrt, "errors", interrupt)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        open_engine(host, tensorrt)
    assert host.ended and host.live == []
    del interrupted


@pytest.mark.parametrize(
    ("step", "words", "kind", "doing"),
    [
        ("run", NOT_SUPPORTED, "unknown", "running the engine"),
        ("run", ILLEGAL_ACCESS, "lost", "running the engine"),
        ("run", OUT_OF_MEMORY[0], "memory", "running the engine"),
        ("image", "misaligned", "unknown", "setting the image's address"),
        ("features", "misaligned", "unknown", "setting the features' address"),
    ],
)
def test_a_run_that_fails_says_so_in_the_words_of_tensorrt(
    host: HostTensorRt, tensorrt: TensorRt, step: str, words: str, kind: str, doing: str
) -> None:
    engine = open_engine(host, tensorrt)
    host.failing[step] = (words,)
    with pytest.raises(GpuFailureError, match=doing) as failure:
        engine.enqueue(IMAGE, FEATURES, STREAM)
    assert words in failure.value.what
    assert failure.value.kind == kind
    assert host.runs == []
    engine.close()
    assert host.ended == ["context", "engine", "runtime"]  # though the error is still there


def test_former_errors_are_not_repeated(host: HostTensorRt, tensorrt: TensorRt) -> None:
    engine = open_engine(host, tensorrt)
    host.failing["run"] = (ILLEGAL_ACCESS,)
    with pytest.raises(GpuFailureError, match="illegal memory access"):
        engine.enqueue(IMAGE, FEATURES, STREAM)
    host.failing["run"] = (NOT_SUPPORTED,)
    with pytest.raises(GpuFailureError, match="running the engine failed: IExecutionContext::enqueueV3: .* Cask"):
        engine.enqueue(IMAGE, FEATURES, STREAM)
    engine.close()
    host.ended.clear()
    host.failing["engine"] = ()
    with pytest.raises(UnusablePlanError, match="TensorRT does not say why"):
        open_engine(host, tensorrt)


@pytest.mark.parametrize("core", [None, 0, 1])
def test_the_accelerator_is_chosen_before_the_plan_is_deserialised(
    host: HostTensorRt, tensorrt: TensorRt, core: int | None
) -> None:
    host.cores = 2
    open_engine(host, tensorrt, some_key(dla_core=core)).close()
    assert host.deserialised == [-1 if core is None else core]


def test_it_is_closed_in_order_and_only_once(host: HostTensorRt, tensorrt: TensorRt) -> None:
    engine = open_engine(host, tensorrt)
    assert host.live == ["runtime", "engine", "context"]
    for _ in range(2):
        engine.close()
        assert host.ended == ["context", "engine", "runtime"]
