"""The launch files, run by launch itself: only where launch, launch_ros and this package are installed for real."""

import importlib.util
import signal
from pathlib import Path

import pytest
import yaml
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from scene_completion_ros.ros import messages
from tests.checkout import ROOT
from tests.ros.camera_to_voxels import CAMERA, SECOND_NS, some_image
from tests.ros.graph import Graph, NodeUnderTest

LAUNCH = ROOT / "launch"
RUN = str(Path(__file__).with_name("run_launch_file.py"))
NAMES = ("front", "left", "right")


def launch_can_run() -> bool:
    """Whether launch, launch_ros and this package are installed for real."""
    for name in ("launch", "launch_ros", "ament_index_python"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # the folder `launch/` of a checkout looks like a package as well
            return False
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        get_package_share_directory("scene_completion_ros")
    except PackageNotFoundError:
        return False
    return True


pytestmark = pytest.mark.skipif(
    not launch_can_run(), reason="launch and launch_ros are not installed, or not this package"
)


@pytest.fixture
def params_file(bundle_folder: Path, tmp_path: Path, grid_file: Path) -> Path:
    """What the launch arguments cannot say."""
    values = {"grid": {"file": str(grid_file)}, "threads": 1, "image": {"qos": "reliable"}, "sync": {"timeout": 5.0}}
    path = tmp_path / "parameters.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}), encoding="utf-8")
    return path


def answered(graph: Graph, process: NodeUnderTest, cameras: dict[str, str]) -> str:
    """Frame of the voxels that answer images of cameras (name -> namespace of their topics)."""
    create = graph.node.create_publisher
    images = {name: create(Image, f"{topics}/image_raw", 10) for name, topics in cameras.items()}
    infos = {name: create(CameraInfo, f"{topics}/camera_info", 10) for name, topics in cameras.items()}
    clouds = graph.collect(PointCloud2, f"{graph.namespace}/scene_completion/voxels")
    stamp_ns = SECOND_NS

    def all_there() -> bool:
        nonlocal stamp_ns
        stamp_ns += SECOND_NS
        for name in cameras:
            frame = f"{name}_optical_frame"
            infos[name].publish(messages.camera_info_message(CAMERA, stamp_ns, frame))
            images[name].publish(messages.image_message(some_image(1), stamp_ns, frame))
        return graph.until(lambda: bool(clouds), 1.0)

    assert graph.until(lambda: all_there() or process.process.poll() is not None), process.log
    assert clouds and clouds[-1].width, process.log
    return clouds[-1].header.frame_id


ONE = {"image_topic": "{}/front/image_raw", "camera_info_topic": "{}/front/camera_info", "log_level": "debug"}
SEVERAL = {
    "image_topics": "{}/{{camera}}/image_raw", "camera_info_topics": "{}/{{camera}}/camera_info",
    "extrinsics_file": f"{ROOT}/config/multi_camera_extrinsics.yaml", "grid_frame": "base_link",
}  # fmt: skip


@pytest.mark.parametrize(
    ("file", "cameras", "given", "frame"),
    [
        ("scene_completion.launch.py", NAMES[:1], ONE, "front_optical_frame"),
        ("multi_camera.launch.py", NAMES, SEVERAL, "base_link"),
    ],
)
def test_cameras_are_answered_and_an_interrupt_ends_all(
    file: str, cameras: tuple[str, ...], given: dict[str, str], frame: str,
    graph: Graph, bundle_folder: Path, params_file: Path, grid_file: Path, tmp_path: Path,
) -> None:  # fmt: skip
    arguments = {name: value.format(graph.namespace) for name, value in given.items()}
    arguments |= {} if given is ONE else {"grid_file": str(grid_file)}
    arguments |= {"namespace": graph.namespace, "bundle": str(bundle_folder), "params_file": str(params_file)}
    command = [RUN, str(LAUNCH / file), *(f"{name}:={value}" for name, value in arguments.items())]
    process = NodeUnderTest(command, tmp_path / "log")
    try:
        assert answered(graph, process, {name: f"{graph.namespace}/{name}" for name in cameras}) == frame
        process.end_well(signal.SIGINT)
        assert "process has finished cleanly" in process.log
    finally:
        process.close()
