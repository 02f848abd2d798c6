"""The RViz configurations, as far as they can be checked without RViz: displays, topics, QoS."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros import topics
from scene_completion_ros.ros.launching.settings import LIVE, Shown, adapted, write_adapted
from scene_completion_ros.ros.topics import TOPICS

SHIPPED = (REPOSITORY / LIVE).read_text(encoding="utf-8")
MESSAGES = {
    "PointCloud2": {"sensor_msgs/msg/PointCloud2"},
    "Map": {"nav_msgs/msg/OccupancyGrid"},
    "Marker": {"visualization_msgs/msg/Marker"},
    "Image": {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"},
}


def manager_of(text: str) -> dict[str, Any]:
    manager = yaml.safe_load(text)["Visualization Manager"]
    assert isinstance(manager, dict)
    return manager


def displays_of(text: str) -> dict[str, dict[str, Any]]:
    displays = {display["Name"]: display for display in manager_of(text)["Displays"]}
    assert len(displays) == len(manager_of(text)["Displays"])  # RViz could do with equal names, readers cannot
    return displays


def shown_topics(text: str) -> dict[str, str]:
    return {name: display["Topic"]["Value"] for name, display in displays_of(text).items() if "Topic" in display}


DRIVE = Shown("camera_left_optical", True, image_topics={"": "/camera/image_raw"}, compressed=True)


@pytest.fixture(params=[SHIPPED, adapted(SHIPPED, DRIVE)], ids=["as it is", "for compressed images"])
def text(request: Any) -> str:
    return str(request.param)


def test_topics_are_those_of_the_node_with_types_and_qos_that_fit(text: str) -> None:
    image = DRIVE.image_topics[""] if text != SHIPPED else f"/{topics.IMAGE}"
    published = {spec.name.replace("~", f"/{topics.NODE_NAME}"): spec for spec in TOPICS}
    published |= {image: published["image"], f"{image}/compressed": published["image/compressed"]}
    for name, display in displays_of(text).items():
        if "Topic" not in display:
            continue
        topic = display["Topic"]
        spec = published[topic["Value"]]
        assert spec.type_name in MESSAGES[display["Class"].split("/")[1]], name
        # All outputs are reliable. Images need not be; best effort hears every camera.
        assert topic["Reliability Policy"] == ("Reliable" if spec.direction == "out" else "Best Effort"), name
        assert topic["Durability Policy"] == ("Transient Local" if spec.latched else "Volatile"), name
        assert topic["History Policy"] == "Keep Last"
        assert topic["Depth"] >= 1


def test_several_cameras_have_images_and_depth_of_their_own() -> None:
    shown = Shown(
        "base_link",
        False,
        "/robot/scene_completion",
        {"left": "/cam_left/image_raw", "right": "/cam_right/image_raw"},
        voxel_size=0.4,
    )
    text = adapted(SHIPPED, shown)
    displays, found = displays_of(text), shown_topics(text)
    expected = {
        name: topic.replace("/scene_completion/", "/robot/scene_completion/")
        for name, topic in shown_topics(SHIPPED).items()
        if name not in ("Image", "Compressed image", "Depth")
    }
    for camera in ("left", "right"):
        expected |= {
            f"Image {camera}": f"/cam_{camera}/image_raw",
            f"Compressed image {camera}": f"/cam_{camera}/image_raw/compressed",
            f"Depth {camera}": f"/robot/scene_completion/depth/{camera}/image",
        }
    assert found == expected
    assert all(displays[f"Image {camera}"]["Enabled"] for camera in ("left", "right"))
    assert not any(displays[f"Compressed image {camera}"]["Enabled"] for camera in ("left", "right"))
    assert {displays[name]["Size (m)"] for name in ("Voxels", "Obstacles", "Seen or completed")} == {0.4}
    assert (displays["Ground"]["Plane"], displays["Ground"]["Offset"]["Y"]) == ("XY", 0)
    manager = manager_of(text)
    assert manager["Global Options"]["Fixed Frame"] == "base_link"
    assert manager["Views"]["Current"] == manager["Views"]["Saved"][1] | {"Name": "Current View"}


@pytest.mark.parametrize("text", ["{}", "Visualization Manager: {Displays: []}"])
def test_what_is_no_such_configuration_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "own.rviz").write_text(text, encoding="utf-8")
    with pytest.raises(SceneCompletionError, match="no RViz configuration of this package"):
        write_adapted(tmp_path / "own.rviz", DRIVE)
