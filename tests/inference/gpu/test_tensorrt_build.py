"""Builds on a stand-in for the builder of TensorRT: what it is told, and what becomes of its answers.

The stand-in answers as NVIDIA documents it; the names and arguments that it has are those of `rtx_builds`, which
compares them with TensorRT-RTX. `test_tensorrt_rtx` has real builds, but without timing cache, accelerator for deep
learning and TensorRT 10. What a real builder makes of such a configuration is not shown here.
"""

from __future__ import annotations

import enum
import json
import logging
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from scene_completion_ros.errors import BundleError, GpuError
from scene_completion_ros.inference.gpu.tensorrt_api import TensorRt
from scene_completion_ros.inference.gpu.tensorrt_build import build_plan
from tests.inference.gpu.host_tensorrt import NO_CUDA, DataType, ILogger, Severity, host_module
from tests.inference.gpu.keys import some_key
from tests.inference.gpu.rtx_builds import BUILDER_NAMES, disagreements, unlisted

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


def graph(*, precision: str = "fp16", batch: int = -1, output: str = "features") -> bytes:
    """Stands for an ONNX graph."""
    kind = "FLOAT" if precision == "fp32" else "HALF"
    ports = [("image", (batch, 192, 640, 3), "UINT8")], [(output, (batch, 96, 320, 64), kind)]
    return json.dumps(ports).encode()


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

            @property
            def DLA_core(self) -> int:
                return self._core

            @DLA_core.setter
            def DLA_core(self, core: int) -> None:
                if host.cores:  # without any, it does nothing
                    self._core = core

            @property
            def default_device_type(self) -> DeviceType:
                return self._device

            @default_device_type.setter
            def default_device_type(self, device: DeviceType) -> None:
                self._device = device

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

            @property
            def num_inputs(self) -> int:
                return len(self._inputs)

            @property
            def num_outputs(self) -> int:
                return len(self._outputs)

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

            @property
            def num_errors(self) -> int:
                return len(self._errors)

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

            @property
            def num_DLA_cores(self) -> int:
                return host.cores

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


@pytest.fixture
def host() -> HostBuilder:
    return HostBuilder()


@pytest.fixture
def load(host: HostBuilder, monkeypatch: pytest.MonkeyPatch) -> Callable[[], TensorRt]:
    """Imports the stand-in as it is by then."""

    def load_it() -> TensorRt:
        monkeypatch.setitem(sys.modules, "tensorrt", host.module())
        return TensorRt("tensorrt")

    return load_it


Load = Callable[[], TensorRt]
KEY = some_key(batch=(1, 4))


def test_the_stand_in_has_names_and_arguments_of_tensorrt(load: Load) -> None:
    api = load().api
    assert disagreements(api, BUILDER_NAMES) == []
    assert unlisted(api, BUILDER_NAMES) == []


def test_plan_and_timings_come_back_as_bytes(host: HostBuilder, load: Load) -> None:
    plan, kept = build_plan(graph(), KEY, load())
    assert plan == b"plan of features" and type(plan) is bytes
    assert kept == timings(*NODES) and type(kept) is bytes
    assert host.measured == list(NODES)


def test_what_was_measured_once_is_not_measured_again(
    host: HostBuilder, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    _, kept = build_plan(graph(), KEY, load(), timings=timings("stem", "neck"))
    assert host.measured == ["blocks"]
    assert kept == timings("stem", "neck", "blocks")
    build_plan(graph(), KEY, load(), timings=kept)
    assert host.measured == ["blocks"]
    assert caplog.text == ""


@pytest.mark.parametrize("former", [b"rubbish", timings(*NODES, device="Xavier")], ids=["rubbish", "other device"])
def test_timings_that_tensorrt_refuses_are_begun_anew(
    host: HostBuilder, load: Load, caplog: pytest.LogCaptureFixture, former: bytes
) -> None:
    plan, kept = build_plan(graph(), KEY, load(), timings=former)
    assert plan == b"plan of features"
    assert kept == timings(*NODES)
    assert host.measured == list(NODES)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the timing cache is of no use to TensorRT: a new one is begun" in caplog.text


def test_timings_that_tensorrt_replaces_itself_are_no_end(host: HostBuilder, load: Load) -> None:
    host.lenient = True
    assert build_plan(graph(), KEY, load(), timings=b"rubbish") == (b"plan of features", timings(*NODES))


@pytest.mark.parametrize("former", [b"", timings("stem")])
def test_a_build_does_without_a_timing_cache_where_none_can_be_had(
    host: HostBuilder, load: Load, former: bytes
) -> None:
    host.no_caches = True
    assert build_plan(graph(), KEY, load(), timings=former) == (b"plan of features", b"")


def test_refused_timings_are_not_named_as_the_reason_of_a_failure(host: HostBuilder, load: Load) -> None:
    host.no_engine = NO_IMPLEMENTATION
    with pytest.raises(GpuError, match="Could not find any implementation") as failure:
        build_plan(graph(), KEY, load(), timings=timings(device="Xavier"))
    assert "another device" not in failure.value.what


def test_tensorrt_rtx_is_given_no_timing_cache(host: HostBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    host.version = "1.7.1"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", host.module("tensorrt_rtx"))
    key = some_key(flavour="tensorrt_rtx", tensorrt_version="1.7.1")
    assert build_plan(graph(), key, TensorRt("tensorrt_rtx"), timings=timings()) == (b"plan of features", b"")
    assert host.caches_made == []


@pytest.mark.parametrize(("cores", "core"), [(0, 0), (0, 1), (1, 1)])
def test_an_accelerator_that_is_not_there_is_an_error(host: HostBuilder, load: Load, cores: int, core: int) -> None:
    host.cores = cores
    with pytest.raises(GpuError, match=f"there are {cores} cores, so none with number {core}") as failure:
        build_plan(graph(), some_key(dla_core=core), load())
    assert failure.value.where == "DLA"
    assert host.config is None  # nothing was built


@pytest.mark.parametrize("core", [0, 1])
def test_an_engine_for_the_accelerator_may_fall_back_to_the_gpu(host: HostBuilder, load: Load, core: int) -> None:
    host.cores = 2
    build_plan(graph(), some_key(dla_core=core, batch=(2, 2)), load())
    assert host.config.default_device_type is DeviceType.DLA
    assert host.config.DLA_core == core
    assert BuilderFlag.GPU_FALLBACK in host.config._flags
    assert host.flags_when_parsed == {"ADJUST_FOR_DLA"}
    smallest, best, largest = host.config._profiles[0]._shapes["image"]
    assert smallest == best == largest == (2, 192, 640, 3)  # as the accelerator demands


@pytest.mark.parametrize("flags", [("NATIVE_INSTANCENORM",), None])
def test_a_parser_without_a_flag_for_the_accelerator_is_given_none(
    host: HostBuilder, load: Load, flags: tuple[str, ...] | None
) -> None:
    host.cores, host.parser_flags = 1, flags  # as TensorRT 10.3 has it
    build_plan(graph(), some_key(dla_core=0), load())
    assert host.flags_when_parsed == set()
    assert host.config.default_device_type is DeviceType.DLA


def test_an_engine_for_the_gpu_knows_nothing_of_the_accelerator(host: HostBuilder, load: Load) -> None:
    host.cores = 2
    build_plan(graph(), KEY, load())
    assert host.config.default_device_type is DeviceType.GPU
    assert host.config.DLA_core == -1
    assert BuilderFlag.GPU_FALLBACK not in host.config._flags
    assert host.flags_when_parsed == set()


@pytest.mark.parametrize(
    ("precision", "left"), [("fp32", set()), ("fp16", {BuilderFlag.TF32}), ("int8", {BuilderFlag.TF32})]
)
def test_fp32_is_computed_without_tf32(host: HostBuilder, load: Load, precision: str, left: set[BuilderFlag]) -> None:
    build_plan(graph(precision=precision), some_key(precision=precision), load())
    assert host.config._flags == left


@pytest.mark.parametrize("batch", [(1, 1), (1, 4), (3, 8)])
def test_the_profile_is_tuned_for_the_largest_batch(host: HostBuilder, load: Load, batch: tuple[int, int]) -> None:
    build_plan(graph(), some_key(batch=batch), load())
    (profile,) = host.config._profiles
    low, high = batch
    assert profile._shapes == {"image": [(low, 192, 640, 3), (high, 192, 640, 3), (high, 192, 640, 3)]}


def test_the_workspace_is_limited_in_bytes(host: HostBuilder, load: Load) -> None:
    build_plan(graph(), some_key(workspace_mib=256), load())
    assert host.config._pools == {MemoryPoolType.WORKSPACE: 268_435_456}


@pytest.mark.parametrize(("flag", "given"), [(1, 2), (0, 1), (None, 0)], ids=["10", "11", "without a flag"])
def test_types_are_those_of_the_graph(host: HostBuilder, load: Load, flag: int | None, given: int) -> None:
    host.typed_flag = flag
    build_plan(graph(), KEY, load())
    assert host.network._flags == given


def test_no_builder_is_an_error_of_the_gpu(host: HostBuilder, load: Load) -> None:
    host.no_builder = True
    with pytest.raises(GpuError, match="no builder: .*CUDA initialization failure") as failure:
        build_plan(graph(), KEY, load())
    assert "doctor" in failure.value.cure


def test_no_engine_is_an_error_in_the_words_of_tensorrt(host: HostBuilder, load: Load) -> None:
    tensorrt = load()
    tensorrt.logger.log(Severity.ERROR, "something long ago")
    host.no_engine = NO_IMPLEMENTATION
    with pytest.raises(GpuError, match="tensorrt 10.3.0 cannot build the fp16 engine: IBuilder") as failure:
        build_plan(graph(), KEY, tensorrt)
    assert NO_IMPLEMENTATION in failure.value.what
    assert "long ago" not in failure.value.what
    assert "workspace" in failure.value.cure


@pytest.mark.parametrize(
    ("onnx", "said"),
    [
        (b"rubbish", r"tensorrt 10.3.0 cannot parse it \(Failed to parse ONNX model from buffer\)"),
        (graph(output="map"), "output is map HALF .* where features HALF"),
        (graph(precision="fp32"), "output is features FLOAT .* where features HALF"),
        (graph(batch=1), r"input is image UINT8 \[1, 192, 640, 3\] where image UINT8 \[N, 192, 640, 3\]"),
    ],
)
def test_other_graphs_are_refused_before_anything_is_built(
    host: HostBuilder, load: Load, onnx: bytes, said: str
) -> None:
    with pytest.raises(BundleError, match=said):
        build_plan(onnx, KEY, load())
    assert host.config is None


def test_a_build_that_is_not_wanted_any_more_is_given_up(host: HostBuilder, load: Load) -> None:
    answers = iter([True, True])
    with pytest.raises(GpuError, match="the build was given up"):
        build_plan(graph(), KEY, load(), wanted=lambda: next(answers, False))
    assert host.measured == [] and host.raised == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
def test_what_is_raised_during_a_build_ends_it_and_is_raised_after_it(
    host: HostBuilder, load: Load, kind: type[BaseException]
) -> None:
    asked = 0

    def wanted() -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise kind
        return True

    with pytest.raises(kind):
        build_plan(graph(), KEY, load(), wanted=wanted)
    assert asked == 2
    assert host.measured == []
    assert host.raised == []  # into TensorRT
