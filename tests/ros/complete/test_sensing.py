"""What sensors of depth publish, read as evidence: right to the pixel, and left out where it cannot be right."""

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.ros.complete.sensing import Sensing
from scene_completion_ros.ros.conversions import points_message, with_data
from scene_completion_ros.ros.frame import DepthReading, Epoch, Frame, NotYetError
from scene_completion_ros.ros.health.inference_health import DepthRecord, depth_status
from scene_completion_ros.ros.health.judgement import Level

CANONICAL = Camera(fx=40.0, fy=40.0, cx=31.5, cy=15.5, width=64, height=32)  # half of it: 32 x 16
LENS = Camera(100.0, 100.0, 79.5, 39.5, 160, 80, "plumb_bob", (-0.2, 0.05, 0.0, 0.0, 0.0))
NOW = Epoch(0, 0)
OWN_M = 8.0  # what the network says everywhere


def depth_image(values: NDArray[Any], encoding: str, *, padding: int = 0) -> Any:
    """A sensor_msgs/Image of values [H, W] in their byte order, each row with some bytes of padding."""
    rows = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=255)
    big = values.dtype.byteorder == ">"
    size = {"height": values.shape[0], "width": values.shape[1], "step": data.shape[1]}
    return with_data(Image(encoding=encoding, is_bigendian=big, **size), data)


class Bench:
    """A student that says the same depth everywhere, and a sensor."""

    def __init__(self, camera: Camera = CANONICAL, *, fresh: bool = False) -> None:
        self.record, self.camera, self.warned = DepthRecord(), camera, list[str]()
        counters: Any = SimpleNamespace(warn=lambda _, text: self.warned.append(text))
        self.sensing = Sensing(self.record, counters)
        self.completer = cast(Completer, SimpleNamespace(bundle=SimpleNamespace(canonical=CANONICAL)))
        if not fresh:
            self.see(NotYetError("none yet", may_come=False))

    def see(
        self, depth: Any, pose: RigidTransform | None = None, deviation: float = 0.02, epoch: Epoch = NOW
    ) -> NDArray[np.float32] | None:
        """The evidence about the next image; `pose`: of the sensor in the camera."""
        reading = depth
        if depth is not None and not isinstance(depth, NotYetError):
            reading = DepthReading(depth, 5_000_000, pose or RigidTransform.identity())
        own = np.full((16, 32), OWN_M, np.float32)
        frame: Any = SimpleNamespace(
            name="",
            topic="/image",
            camera=self.camera,
            parameters=SimpleNamespace(depth_deviation=deviation),
            depth=reading,
            completion=SimpleNamespace(own_depth=own),
        )
        sensed = self.sensing.sensed(cast(Frame, frame), self.completer, epoch)
        self.sensing.follow(cast(Frame, frame), self.completer, epoch)
        return sensed

    def refused(self, depth: Any, why: str) -> None:
        assert self.see(depth) is None
        assert why in self.record.report.why and why in self.warned[-1]


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    ("kind", "encoding", "unit", "unknown"),
    [
        ("<u2", "16UC1", 1000.0, (0,)),
        (">u2", "16UC1", 1000.0, (0,)),
        ("<f4", "32FC1", 1.0, (0.0, math.nan, math.inf, -math.inf, -1.0)),
        (">f4", "32FC1", 1.0, (0.0, math.nan, math.inf, -math.inf, -1.0)),
    ],
)
def test_a_depth_image_is_read_as_rep_118_has_it(
    kind: str, encoding: str, unit: float, unknown: tuple[float, ...], padding: int
) -> None:
    """Of the size of the canonical image; its every second pixel is one of those that take it."""
    values = np.full((32, 64), 6.0 * unit, kind)
    for column, value in enumerate(unknown):
        values[:, 2 * column : 2 * column + 2] = value
    sensed = Bench().see(depth_image(values, encoding, padding=padding), deviation=0.05)
    assert sensed is not None
    known = sensed[1] > 0.0
    assert known[:, len(unknown) + 1 :].mean() > 0.95 and not known[:, : len(unknown) - 1].any()
    np.testing.assert_allclose(sensed[0, known], math.log(6.0), rtol=1e-6)
    np.testing.assert_allclose(sensed[1, known], 400.0, rtol=1e-6)


@pytest.mark.parametrize(("width", "height"), [(160, 80), (320, 160), (80, 40)])
def test_a_depth_image_of_any_size_is_seen_through_the_lens(width: int, height: int) -> None:
    """A wall that slants away: what each pixel takes is where its ray meets the wall, z = 6 / (1 - x / 2)."""
    camera = LENS.resized(width, height)
    rays = camera.unproject(camera.pixel_centres())
    sensed = Bench(LENS).see(depth_image((6.0 / (1.0 - 0.5 * rays[..., 0])).astype("<f4"), "32FC1"))
    assert sensed is not None
    half = CANONICAL.resized(32, 16)
    row, column = np.nonzero(sensed[1])
    x = half.unproject(np.stack([column, row], axis=-1).astype(np.float64))[:, 0]
    assert len(row) > 120 and np.ptp(x) > 1.0
    # Off by half a pixel at most, which is 0.025 of x.
    np.testing.assert_allclose(np.exp(sensed[0, row, column]) * (1.0 - 0.5 * x), 6.0, atol=6.0 * 0.5 * 0.026 / 0.6)


def test_a_cloud_is_moved_into_the_camera() -> None:
    """The sensor is 1 m above the camera (y down) and looks along x: 7 m ahead, 1 m below, that is the axis."""
    pose = RigidTransform(np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]]), np.array([0.0, -1.0, 0.0]))
    cloud = points_message(np.array([[7.0, 0.0, -1.0], [-7.0, 0.0, -1.0], [np.nan, 0.0, 0.0]], np.float32), Header())
    bench = Bench()
    sensed = bench.see(cloud, pose)
    assert sensed is not None and np.argwhere(sensed[1] > 0.0).tolist() == [[8, 16]]
    assert sensed[0, 8, 16] == pytest.approx(math.log(7.0))
    report = bench.record.report
    assert (report.sensed, report.without) == (1, 1) and report.last[0] == pytest.approx((5.0, 1.0 / 512.0))


def test_what_cannot_be_right_is_left_out_with_the_reason() -> None:
    bench = Bench()
    wall = np.full((32, 64), 6000, "<u2")
    bench.refused(depth_image(np.full((32, 64), 6000.0, "<f4"), "32FC1"), "750 times the depth of the network")
    bench.refused(depth_image(np.full((32, 64), 6, "<u2"), "16UC1"), "none of 512 points lies in the image")  # 6 mm
    bench.refused(depth_image(np.full((32, 64), 100, "<u2"), "16UC1"), "0.0125 times the depth of the network")
    bench.refused(depth_image(wall, "mono16"), "encoding 'mono16' is no depth")
    bench.refused(depth_image(wall[:, :48], "16UC1"), "other proportions")
    cut, huge = depth_image(wall, "16UC1"), depth_image(wall, "16UC1")
    cut.data = cut.data[:-20]
    huge.width, huge.height = 2**31, 2**31
    bench.refused(cut, "bytes of data, but 64x32 16UC1")
    bench.refused(huge, "step is 128 bytes, but a row of 2147483648")
    bench.refused(points_message(np.zeros((0, 3), np.float32), Header()), "none of 0 points lies in the image")
    bench.refused(points_message(np.array([[0.0, 0.0, -5.0]], np.float32), Header()), "none of 1 points")
    fields = points_message(np.ones((4, 3), np.float32), Header())
    fields.fields[2].name = "range"
    bench.refused(fields, "field 'z' is missing")
    assert bench.see(depth_image(wall, "16UC1")) is not None  # and the next one counts again


def test_depth_is_compared_with_an_image_of_the_same_time() -> None:
    wall, fresh = depth_image(np.full((32, 64), 6000, "<u2"), "16UC1"), Bench(fresh=True)
    assert fresh.see(wall) is None and not fresh.warned  # as it has to be
    assert "the first image has none before it" in fresh.record.report.why
    assert fresh.see(wall) is not None
    assert fresh.see(wall, epoch=Epoch(1, 0)) is None and fresh.see(wall, epoch=Epoch(1, 0)) is not None
    assert Bench().see(None) is None


def test_diagnostics_warn_while_no_image_has_depth() -> None:
    bench = Bench()
    status = depth_status(bench.record.report, bench.record.report.without_s or 0.0, 10.0)
    assert (status.level, status.values["images without"]) == (Level.WARN, "1") and "none yet" in status.message
    bench.see(depth_image(np.full((32, 64), 6000, "<u2"), "16UC1"))
    status = depth_status(bench.record.report, bench.record.report.sensed_s or 0.0, 10.0)
    assert status.level == Level.OK and status.values["median age ms"] == "5.0"
    assert status.message == "100.0 % of the pixels, 5.0 ms old" and status.values["last without"].endswith("none yet")
    bench.record.forget()
    assert depth_status(bench.record.report, 0.0, 10.0).message == "waiting for the first image"
