"""Stand-ins for TensorRT: its builder, an engine that computes, and what that of `test_tensorrt_runtime` shares.

They answer as NVIDIA documents it; the names and arguments that they have are those of `rtx_builds`, which compares
them with TensorRT-RTX.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import onnxruntime

from scene_completion_ros.inference.gpu.device import explain_failure
from scene_completion_ros.inference.gpu.engine_cache import EngineKey
from scene_completion_ros.inference.gpu.tensorrt_runtime import UnusablePlanError
from tests.inference.gpu.host_cuda import HostCuda

# As TensorRT says it.
NO_CUDA = "[runtime.cpp::isCudaInstalledCorrectly] Error Code 6: CUDA initialization failure with error: 35"


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class DataType(enum.Enum):
    FLOAT, HALF, BF16, INT8, INT32, INT64, BOOL, UINT8 = range(8)


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


def host_module(name: str, contents: dict[str, Any]) -> ModuleType:
    """A module with the parts that both have, and others."""
    module = ModuleType(name)
    for part, value in {"DataType": DataType, "ILogger": ILogger, **contents}.items():
        setattr(module, part, value)
    return module


def kept_as(name: str) -> property:
    """What may be read and set, as pybind11 has it, kept under another name."""
    return property(lambda thing: getattr(thing, name), lambda thing, value: setattr(thing, name, value))


def dla_core(cores: Callable[[], int]) -> property:
    """The accelerator for deep learning that was chosen; without any, choosing does nothing."""

    def choose(thing: Any, core: int) -> None:
        if cores():
            thing._core = core

    return property(lambda thing: thing._core, choose)


class HostEngine:
    """A deserialised engine: runs the ONNX graph that its plan is, on the pointers of `HostCuda`.

    ``offset`` is added to the features that it computes and ``volume_offset`` to the volume; the depth is multiplied by
    ``depth_factor``. Some plans are refused.
    """

    cuda: ClassVar[HostCuda]
    offset = 0.0
    volume_offset = 0.0
    depth_factor = 1.0
    refused: ClassVar[set[bytes]] = set()
    opened: ClassVar[list[HostEngine]] = []

    def __init__(self, plan: bytes, key: EngineKey, tensorrt: object) -> None:
        if plan in self.refused:
            raise UnusablePlanError("deserialising the engine failed", where="engine")
        self.key = key
        self._session: Any = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self.batches: list[int] = []
        self.opened.append(self)

    def enqueue(
        self,
        image_pointer: int,
        features_pointer: int,
        stream_handle: int,
        batch: int = 1,
        *,
        volume_pointer: int | None = None,
        depth_pointer: int | None = None,
    ) -> None:
        assert (volume_pointer is not None) == (self.key.volume is not None)
        assert (depth_pointer is not None) == (self.key.depth is not None)
        assert self.key.batch[0] <= batch <= self.key.batch[1]
        if self.cuda.capturing(stream_handle) and batch not in self.batches[-1:]:
            raise explain_failure("the first batch of a size may not be captured", "running the engine")
        self.batches.append(batch)
        pointers = [one for one in (features_pointer, volume_pointer, depth_pointer) if one is not None]
        self.cuda.enqueue(stream_handle, functools.partial(self._run, image_pointer, pointers, batch))

    def _run(self, image_pointer: int, pointers: list[int], batch: int) -> None:
        images = _at(image_pointer, (batch, *self.key.image, 3), np.uint8)
        names = ["features", "volume", "depth"][: len(pointers)]
        wrong = {"features": (1.0, self.offset), "volume": (1.0, self.volume_offset), "depth": (self.depth_factor, 0.0)}
        for name, pointer, output in zip(names, pointers, self._session.run(names, {"image": images}), strict=True):
            factor, offset = np.asarray(wrong[name], output.dtype)
            _at(pointer, output.shape, output.dtype)[:] = output * factor + offset

    def close(self) -> None:
        self._session = None

    @property
    def closed(self) -> bool:
        return self._session is None


def _at(pointer: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(pointer), dtype).reshape(shape)


NODES = ("stem", "blocks", "neck")
NO_IMPLEMENTATION = (
    "IBuilder::buildSerializedNetwork: Error Code 10: Could not find any implementation for node {stem}."
)
OTHER_DEVICE = "IBuilderConfig::setTimingCache: Error Code 4: The cache was made on another device."
NO_CACHE = "IBuilderConfig::createTimingCache: Error Code 1: Serialization (magic tag)"


class DeviceType(enum.Enum):
    GPU, DLA = range(2)


class MemoryPoolType(enum.Enum):
    WORKSPACE, DLA_MANAGED_SRAM, DLA_LOCAL_DRAM, DLA_GLOBAL_DRAM = range(4)


class BuilderFlag(enum.Enum):
    GPU_FALLBACK, REFIT, TF32 = range(3)


class IHostMemory(bytearray):
    """Memory of TensorRT, with the buffer protocol."""


class ITensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: DataType


def graph(
    *,
    precision: str = "fp16",
    batch: int = -1,
    output: str = "features",
    volume: tuple[int, ...] | None = None,
    depth: tuple[int, ...] | None = None,
    depth_type: str = "FLOAT",
) -> bytes:
    """Stands for an ONNX graph."""
    kind = "FLOAT" if precision == "fp32" else "HALF"
    outputs = [(output, (batch, 96, 320, 64), kind)]
    outputs += [("volume", (batch, *volume), kind)] if volume else []
    outputs += [("depth", (batch, *depth), depth_type)] if depth else []
    return json.dumps(([("image", (batch, 192, 640, 3), "UINT8")], outputs)).encode()


def timings(*nodes: str, device: str = "Orin") -> bytes:
    """A serialised timing cache."""
    return json.dumps({"device": device, "nodes": nodes}).encode()


@dataclass
class HostBuilder:
    """What stands in for TensorRT.

    Attributes:
        version: Its version.
        cores: How many accelerators for deep learning there are.
        typed_flag: Value of the flag for strong types; None where there is none.
        parser_flags: Names of the flags of the parser; None where there is no such enumeration.
        no_builder: Whether making the builder fails.
        no_engine: What the builder says is wrong with every network; empty where it builds them.
        no_caches: Whether there are no timing caches at all.
        lenient: Whether an empty cache is made from what is none.
        measured: Nodes that were measured, in builds that ended.
        raised: What was raised into TensorRT.
        caches_made: What timing caches were made from.
        config: The configuration of the last build.
        network: The network of the last build.
        flags_when_parsed: Flags of the parser when it parsed.
    """

    version: str = "10.3.0"
    cores: int = 0
    typed_flag: int | None = 1
    parser_flags: tuple[str, ...] | None = ("NATIVE_INSTANCENORM", "ADJUST_FOR_DLA")
    no_builder: bool = False
    no_engine: str = ""
    no_caches: bool = False
    lenient: bool = False
    measured: list[str] = field(default_factory=list)
    raised: list[BaseException] = field(default_factory=list)
    caches_made: list[bytes] = field(default_factory=list)
    config: Any = None
    network: Any = None
    flags_when_parsed: set[str] = field(default_factory=set)

    def module(self, name: str = "tensorrt") -> Any:
        """`tensorrt`, or `tensorrt_rtx`."""
        host = self

        class IProgressMonitor:
            def __init__(self) -> None:
                self.made = True

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                raise NotImplementedError

            def step_complete(self, phase_name: str, step: int) -> bool:
                raise NotImplementedError

            def phase_finish(self, phase_name: str) -> None:
                raise NotImplementedError

        class ITimingCache:
            def __init__(self, nodes: list[str], device: str) -> None:
                self._nodes = nodes
                self._device = device

            def serialize(self) -> IHostMemory:
                return IHostMemory(timings(*self._nodes, device=self._device))

        class IOptimizationProfile:
            def __init__(self) -> None:
                self._shapes: dict[str, list[tuple[int, ...]]] = {}

            def set_shape(
                self,
                input: str,  # noqa: A002
                min: tuple[int, ...],  # noqa: A002
                opt: tuple[int, ...],
                max: tuple[int, ...],  # noqa: A002
            ) -> None:
                if not all(0 <= low <= best <= high for low, best, high in zip(min, opt, max, strict=True)):
                    raise ValueError("Shape provided for max is inconsistent with other shapes.")
                self._shapes[input] = [min, opt, max]

        class IBuilderConfig:
            def __init__(self, logger: ILogger) -> None:
                self._device = DeviceType.GPU
                self._logger = logger
                self._flags = {BuilderFlag.TF32}
                self._pools: dict[MemoryPoolType, int] = {}
                self._profiles: list[IOptimizationProfile] = []
                self._core = -1
                self._cache: ITimingCache | None = None
                self._monitor: IProgressMonitor | None = None

            DLA_core = dla_core(lambda: host.cores)
            default_device_type = kept_as("_device")

            @property
            def progress_monitor(self) -> IProgressMonitor | None:
                return self._monitor

            @progress_monitor.setter
            def progress_monitor(self, monitor: IProgressMonitor) -> None:
                assert monitor.made  # pybind11 raises TypeError
                self._monitor = monitor

            def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
                self._pools[pool] = pool_size

            def set_flag(self, flag: BuilderFlag) -> None:
                self._flags.add(flag)

            def clear_flag(self, flag: BuilderFlag) -> None:
                self._flags.discard(flag)

            def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
                self._profiles.append(profile)
                return len(self._profiles) - 1

            def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
                data = bytes(memoryview(serialized_timing_cache))
                host.caches_made.append(data)
                if host.no_caches:
                    return None
                try:
                    kept = json.loads(data or timings())
                except ValueError:
                    self._logger.log(Severity.ERROR, NO_CACHE)
                    return ITimingCache([], "Orin") if host.lenient else None
                return ITimingCache(kept["nodes"], kept["device"])

            def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
                if not isinstance(cache, ITimingCache):
                    raise TypeError("set_timing_cache(): incompatible function arguments.")
                if cache._device != "Orin" and not ignore_mismatch:
                    self._logger.log(Severity.ERROR, OTHER_DEVICE)
                    return False
                self._cache = cache
                return True

            def get_timing_cache(self) -> ITimingCache | None:
                return self._cache

        class INetworkDefinition:
            def __init__(self, flags: int) -> None:
                self._flags = flags
                self._inputs: list[ITensor] = []
                self._outputs: list[ITensor] = []
                self._parser: Callable[[], OnnxParser | None] = lambda: None

            num_inputs = property(lambda network: len(network._inputs))
            num_outputs = property(lambda network: len(network._outputs))

            def get_input(self, index: int) -> ITensor:
                return self._inputs[index]

            def get_output(self, index: int) -> ITensor:
                return self._outputs[index]

        class ParserError:
            def desc(self) -> str:
                return "Failed to parse ONNX model\n  from buffer"

        class OnnxParser:
            def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
                self._network = network
                self._flags: set[str] = set()
                self._errors: list[ParserError] = []

            num_errors = property(lambda parser: len(parser._errors))

            def get_error(self, index: int) -> ParserError:
                return self._errors[index]

            def set_flag(self, flag: enum.Enum) -> None:
                self._flags.add(flag.name)

            def parse(self, model: bytes, path: str | None = None) -> bool:
                host.flags_when_parsed = set(self._flags)
                try:
                    ports = json.loads(memoryview(model).tobytes())
                except ValueError:
                    self._errors.append(ParserError())
                    return False
                self._network._inputs, self._network._outputs = (
                    [ITensor(name, tuple(shape), DataType[kind]) for name, shape, kind in some] for some in ports
                )
                self._network._parser = weakref.ref(self)  # the network refers to its weights
                return True

        class Builder:
            def __init__(self, logger: ILogger) -> None:
                if host.no_builder:
                    logger.log(Severity.INTERNAL_ERROR, NO_CUDA)
                    raise TypeError("pybind11::init(): factory function returned nullptr")
                self._logger = logger

            num_DLA_cores = property(lambda _: host.cores)

            def create_network(self, flags: int = 0) -> INetworkDefinition:
                return INetworkDefinition(flags)

            def create_builder_config(self) -> IBuilderConfig:
                return IBuilderConfig(self._logger)

            def create_optimization_profile(self) -> IOptimizationProfile:
                return IOptimizationProfile()

            def build_serialized_network(
                self, network: INetworkDefinition, config: IBuilderConfig
            ) -> IHostMemory | None:
                host.config, host.network = config, network
                assert network._parser() is not None
                (profile,) = config._profiles
                for port in network._inputs:
                    for shape in profile._shapes[port.name]:
                        assert all(size in (-1, given) for size, given in zip(port.shape, shape, strict=True))
                if host.no_engine:
                    self._logger.log(Severity.ERROR, host.no_engine)
                    return None
                # Without a cache that was set, there is one for this build alone.
                kept = ITimingCache([], "Orin") if config._cache is None else config._cache
                fresh = [node for node in NODES if node not in kept._nodes]
                if not self._measure(fresh, config._monitor):
                    return None
                host.measured += fresh
                kept._nodes = [*kept._nodes, *fresh]
                return IHostMemory(b"plan of " + network._outputs[0].name.encode())

            def _measure(self, nodes: list[str], monitor: IProgressMonitor | None) -> bool:
                """Report two nested phases; false where the build is to end."""

                def heard(call: Callable[..., bool | None], *arguments: object) -> bool:
                    try:
                        return call(*arguments) is not False
                    except BaseException as error:  # TensorRT writes it to stderr, and takes it for false
                        host.raised.append(error)
                        return False

                if monitor is None:
                    return True
                heard(monitor.phase_start, "Building Engine", None, 2)
                wanted = heard(monitor.step_complete, "Building Engine", 0)
                heard(monitor.phase_start, "Measuring", "Building Engine", max(len(nodes), 1))
                for step, _ in enumerate(nodes):
                    wanted = heard(monitor.step_complete, "Measuring", step) and wanted  # as of other threads
                heard(monitor.phase_finish, "Measuring")
                wanted = wanted and heard(monitor.step_complete, "Building Engine", 1)
                heard(monitor.phase_finish, "Building Engine")
                return wanted

        class NetworkFlag(enum.Enum):
            STRONGLY_TYPED = self.typed_flag

            def __int__(self) -> int:
                return int(self.value or 0)

        contents: dict[str, Any] = {
            "__version__": self.version,
            "Builder": Builder,
            "BuilderFlag": BuilderFlag,
            "DeviceType": DeviceType,
            "IBuilderConfig": IBuilderConfig,
            "INetworkDefinition": INetworkDefinition,
            "IOptimizationProfile": IOptimizationProfile,
            "IProgressMonitor": IProgressMonitor,
            "ITensor": ITensor,
            "ITimingCache": ITimingCache,
            "MemoryPoolType": MemoryPoolType,
            "OnnxParser": OnnxParser,
            "ParserError": ParserError,
        }
        if self.typed_flag is not None:
            contents["NetworkDefinitionCreationFlag"] = NetworkFlag
        if self.parser_flags is not None:
            contents["OnnxParserFlag"] = enum.Enum("OnnxParserFlag", self.parser_flags)
        return host_module(name, contents)
