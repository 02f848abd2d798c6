"""Builds on a stand-in for the builder of TensorRT: what it is told, what becomes of its answers, and how far it is.

`test_tensorrt_rtx` has real builds, but without timing cache, accelerator for deep learning and TensorRT 10. What a
real builder makes of such a configuration is not shown here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import pytest

from scene_completion_ros.errors import BundleError, GpuError
from scene_completion_ros.inference.gpu.tensorrt_build import BuildProgress, build_plan
from scene_completion_ros.inference.gpu.tensorrt_runtime import TensorRt
from tests.inference.gpu.host_tensorrt import (
    NO_IMPLEMENTATION,
    NODES,
    BuilderFlag,
    DeviceType,
    HostBuilder,
    MemoryPoolType,
    Severity,
    graph,
    timings,
)
from tests.inference.gpu.rtx_builds import BUILDER_NAMES, disagreements, unlisted
from tests.inference.gpu.small_gpu_bundle import some_key


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
    assert "TensorRT cannot use the timing cache, and begins a new one" in caplog.text


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


@pytest.mark.parametrize(
    ("core", "flags", "given"),
    [
        (0, ("NATIVE_INSTANCENORM", "ADJUST_FOR_DLA"), {"ADJUST_FOR_DLA"}),
        (1, ("NATIVE_INSTANCENORM",), set()),  # as TensorRT 10.3 has it
        (1, None, set()),
    ],
)
def test_an_engine_for_the_accelerator_may_fall_back_to_the_gpu(
    host: HostBuilder, load: Load, core: int, flags: tuple[str, ...] | None, given: set[str]
) -> None:
    host.cores, host.parser_flags = 2, flags
    build_plan(graph(), some_key(dla_core=core, batch=(2, 2)), load())
    assert host.config.default_device_type is DeviceType.DLA
    assert host.config.DLA_core == core
    assert BuilderFlag.GPU_FALLBACK in host.config._flags
    assert host.flags_when_parsed == given
    smallest, best, largest = host.config._profiles[0]._shapes["image"]
    assert smallest == best == largest == (2, 192, 640, 3)  # as the accelerator demands


@pytest.mark.parametrize(
    ("precision", "left"), [("fp32", set()), ("fp16", {BuilderFlag.TF32}), ("int8", {BuilderFlag.TF32})]
)
def test_fp32_is_computed_without_tf32(host: HostBuilder, load: Load, precision: str, left: set[BuilderFlag]) -> None:
    build_plan(graph(precision=precision), some_key(precision=precision), load())
    assert host.config._flags == left


@pytest.mark.parametrize("batch", [(1, 1), (1, 4), (3, 8)])
def test_an_engine_for_the_gpu_is_tuned_for_the_largest_batch_and_knows_no_accelerator(
    host: HostBuilder, load: Load, batch: tuple[int, int]
) -> None:
    host.cores = 2
    build_plan(graph(), some_key(batch=batch, workspace_mib=256), load())
    (profile,) = host.config._profiles
    low, high = batch
    assert profile._shapes == {"image": [(low, 192, 640, 3), (high, 192, 640, 3), (high, 192, 640, 3)]}
    assert host.config._pools == {MemoryPoolType.WORKSPACE: 268_435_456}
    assert (host.config.default_device_type, host.config.DLA_core) == (DeviceType.GPU, -1)
    assert BuilderFlag.GPU_FALLBACK not in host.config._flags
    assert host.flags_when_parsed == set()


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
        (graph(volume=(256, 256, 32)), r"features HALF .*, volume HALF \[N, 256, 256, 32\] where features HALF"),
        (graph(batch=1), r"input is image UINT8 \[1, 192, 640, 3\] where image UINT8 \[N, 192, 640, 3\]"),
    ],
)
def test_other_graphs_are_refused_before_anything_is_built(
    host: HostBuilder, load: Load, onnx: bytes, said: str
) -> None:
    with pytest.raises(BundleError, match=said):
        build_plan(onnx, KEY, load())
    assert host.config is None


def test_a_graph_with_volume_and_depth_is_built_where_that_is_needed(host: HostBuilder, load: Load) -> None:
    knots, rays = (256, 256, 32), (96, 320)
    key = some_key(volume=knots, depth=rays)
    assert build_plan(graph(volume=knots, depth=rays), key, load())[0] == b"plan of features"
    for other in (
        graph(),
        graph(volume=knots),
        graph(volume=(256, 256, 16), depth=rays),
        graph(volume=knots, depth=(96, 160)),
        graph(volume=knots, depth=rays, depth_type="HALF"),
        graph(precision="fp32", volume=knots, depth=rays),
    ):
        host.config = None
        needed = r"where features HALF .*, volume HALF \[N, 256, 256, 32\], depth FLOAT \[N, 96, 320\] is needed"
        with pytest.raises(BundleError, match=needed):
            build_plan(other, key, load())
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


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_phases_within_phases_add_up() -> None:
    said: list[tuple[float, str]] = []
    progress = BuildProgress(lambda fraction, phase: said.append((fraction, phase)), every_s=0.0)
    progress.start("engine", None, 4)
    progress.step("engine", 0)
    progress.start("graph", "engine", 2)
    progress.step("graph", 0)
    progress.start("tactics", "graph", 5)
    progress.step("tactics", 0)
    progress.finish("tactics")
    progress.step("graph", 1)
    progress.finish("graph")
    progress.step("engine", 1)
    progress.step("engine", 3)
    assert [phase for _, phase in said] == ["engine", "graph", "tactics", "graph", "engine", "engine"]
    assert [fraction for fraction, _ in said] == pytest.approx([1 / 4, 3 / 8, (1 + (1 + 1 / 5) / 2) / 4, 0.5, 0.5, 1.0])


def test_it_never_goes_back_and_never_beyond_the_end() -> None:
    said: list[float] = []
    progress = BuildProgress(lambda fraction, phase: said.append(fraction), every_s=0.0)
    progress.start("engine", None, 2)
    for round_ in range(2):  # the same phase twice in one step of its parent
        progress.start("costs", "engine", 1)
        progress.step("costs", 0)
        progress.step("costs", 7)  # more steps than announced
        progress.finish("costs")
        progress.step("unheard of", round_)
    progress.step("engine", 1)
    assert said == sorted(said)
    assert said[-1] == 1.0


def test_it_speaks_now_and_then() -> None:
    clock, said = Clock(), []
    progress = BuildProgress(lambda fraction, phase: said.append(clock.now_s), every_s=5.0, now_s=clock)
    progress.start("engine", None, 100)
    for step in range(100):
        clock.now_s = step * 0.5
        progress.step("engine", step)
    assert said == [5.0 * i for i in range(1, 10)]
