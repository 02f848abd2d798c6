"""The layout for Foxglove and Lichtblick, as far as it can be checked without them: panels, topics, sizes, colours.

The settings are those of Lichtblick's sources (66adecb) and of the layouts of Foxglove's SDK (0.45).
"""

import json
from typing import Any

import pytest

from scene_completion_ros.bags.writer import STREET
from scene_completion_ros.ros import topics
from scene_completion_ros.ros.topics import PROCESSING_TIME, STAGES, TOPICS, default_name
from tests.checkout import ROOT

SETTINGS = {
    "PointCloud2": {
        *("visible", "pointShape", "cubeSize", "pointSize", "decayTime", "colorMode", "colorField", "colorMap"),
        *("flatColor", "explicitAlpha"),
    },
    "OccupancyGrid": {"visible", "colorMode", "minColor", "maxColor", "unknownColor", "alpha"},
    "Marker": {"visible"},
}
PUBLISHED = {default_name(spec.name): spec for spec in TOPICS}


@pytest.fixture(scope="module")
def panels() -> dict[str, Any]:
    layout: dict[str, Any] = json.loads((ROOT / "config" / "foxglove.json").read_text(encoding="utf-8"))
    return dict(layout["configById"])


def test_the_scene_has_topics_of_the_node_with_settings_for_their_types(panels: dict[str, Any]) -> None:
    scene = panels["3D!scene"]
    assert scene["followTf"] == STREET
    for topic, settings in scene["topics"].items():
        assert settings.keys() <= SETTINGS[PUBLISHED[topic].type_name.rpartition("/")[2]], topic
    on = {topic for topic, settings in scene["topics"].items() if settings["visible"]}
    assert on == {default_name(topic) for topic in (topics.VOXELS, topics.MATCHES, topics.OCCUPANCY_GRID)}
    off = (topics.OBSTACLES, topics.CLEARING, topics.FREE_SPACE, topics.MARKERS)
    assert scene["topics"].keys() - on == {default_name(topic) for topic in off}


def test_images_depth_times_and_diagnostics_are_those_of_the_node(panels: dict[str, Any]) -> None:
    images = {name: panel["imageMode"] for name, panel in panels.items() if name.startswith("Image!")}
    assert {mode["imageTopic"] for mode in images.values()} == {
        default_name(topic) for topic in (topics.IMAGE, f"{topics.IMAGE}/compressed", topics.DEPTH)
    }
    depth = images["Image!depth"]
    assert (depth["colorMode"], depth["minValue"], depth["maxValue"]) == ("colormap", 0, 50)
    # A panel with a calibration shows nothing until that is there.
    assert not any("calibrationTopic" in mode for mode in images.values())
    paths = [path["value"] for path in panels["Plot!latency"]["paths"]]
    of_stage = default_name(PROCESSING_TIME) + '.status[0].values[:]{{key=="{}"}}.value'
    assert sorted(paths) == sorted(map(of_stage.format, STAGES))
    assert panels["DiagnosticSummary!health"]["topicToRender"] == topics.DIAGNOSTICS
