"""The launch file, run by launch itself: only where launch, launch_ros and this package are installed for real."""

import signal
from pathlib import Path

import pytest
import yaml
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from scene_completion_ros.ros import messages
from tests.checkout import ROOT
from tests.ros.camera_to_voxels import CAMERA, FRAME, SECOND_NS, some_image
from tests.ros.graph import Graph, NodeUnderTest

RUN = str(Path(__file__).with_name("run_launch_file.py"))


def launch_can_run() -> bool:
    """Whether launch, launch_ros and this package are installed for real."""
    try:
        import launch_ros.actions  # noqa: F401 - launch alone may be the folder `launch/` of a checkout
        from ament_index_python.packages import get_package_share_directory

        get_package_share_directory("scene_completion_ros")
    except (ImportError, LookupError):
        return False
    return True


pytestmark = pytest.mark.skipif(
    not launch_can_run(), reason="launch and launch_ros are not installed, or not this package"
)


def answered(graph: Graph, process: NodeUnderTest) -> str:
    """Frame of the voxels that answer the images of a camera."""
    image = graph.node.create_publisher(Image, "front/image_raw", 10)
    info = graph.node.create_publisher(CameraInfo, "front/camera_info", 10)
    clouds = graph.collect(PointCloud2, f"{graph.namespace}/scene_completion/voxels")
    stamp_ns = SECOND_NS

    def there() -> bool:
        nonlocal stamp_ns
        stamp_ns += SECOND_NS
        info.publish(messages.camera_info_message(CAMERA, stamp_ns, FRAME))
        image.publish(messages.image_message(some_image(1), stamp_ns, FRAME))
        return graph.until(lambda: bool(clouds), 1.0)

    assert graph.until(lambda: there() or process.process.poll() is not None), process.log
    assert clouds and clouds[-1].width, process.log
    return clouds[-1].header.frame_id


def test_a_camera_is_answered_and_an_interrupt_ends_all(
    graph: Graph, bundle_folder: Path, grid_file: Path, tmp_path: Path
) -> None:
    values = {"grid": {"file": str(grid_file)}, "threads": 1, "image": {"qos": "reliable"}, "sync": {"timeout": 5.0}}
    params_file = tmp_path / "parameters.yaml"
    params_file.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}), encoding="utf-8")
    topics = f"{graph.namespace}/front"
    arguments = {
        "image_topic": f"{topics}/image_raw", "camera_info_topic": f"{topics}/camera_info", "log_level": "debug",
        "namespace": graph.namespace, "bundle": str(bundle_folder), "params_file": str(params_file),
    }  # fmt: skip
    launch_file = ROOT / "launch" / "scene_completion.launch.py"
    command = [RUN, str(launch_file), *(f"{name}:={value}" for name, value in arguments.items())]
    process = NodeUnderTest(command, tmp_path / "log")
    try:
        assert answered(graph, process) == FRAME
        process.end_well(signal.SIGINT)
        assert "process has finished cleanly" in process.log
    finally:
        process.close()
