"""The layout for Foxglove and Lichtblick, as far as it can be checked without them: panels, topics, sizes, colours.

The settings are those of Lichtblick's sources (66adecb) and of the layouts of Foxglove's SDK (0.45).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from scene_completion_ros.bags.result_context import STREET
from scene_completion_ros.inference.bundle import load_default_bundle
from scene_completion_ros.ros import topics
from scene_completion_ros.ros.topics import PROCESSING_TIME, STAGES, TOPICS, default_name
from scene_completion_ros.voxels.cloud import VOXEL_CLOUD_FIELDS
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
def layout() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "config" / "foxglove.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def panels(layout: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = layout["configById"]
    return found


def test_every_panel_is_shown_once(layout: dict[str, Any], panels: dict[str, Any]) -> None:
    def shown(node: Any) -> list[str]:
        return [node] if isinstance(node, str) else [*shown(node["first"]), *shown(node["second"])]

    tabs = [name for panel in panels.values() for tab in panel.get("tabs", ()) for name in shown(tab["layout"])]
    assert sorted(shown(layout["layout"]) + tabs) == sorted(panels)
    assert {name.partition("!")[0] for name in panels} == {"3D", "Image", "Tab", "Plot", "DiagnosticSummary"}


def test_the_scene_has_topics_of_the_node_with_settings_for_their_types(panels: dict[str, Any]) -> None:
    scene = panels["3D!scene"]
    assert scene["followTf"] == STREET
    for topic, settings in scene["topics"].items():
        assert settings.keys() <= SETTINGS[PUBLISHED[topic].type_name.rpartition("/")[2]], topic
    on = {topic for topic, settings in scene["topics"].items() if settings["visible"]}
    assert on == {default_name(topic) for topic in (topics.VOXELS, topics.MATCHES, topics.OCCUPANCY_GRID)}
    off = (topics.OBSTACLES, topics.CLEARING, topics.FREE_SPACE, topics.MARKERS)
    assert scene["topics"].keys() - on == {default_name(topic) for topic in off}


def test_voxels_are_cubes_of_their_size_in_their_colours(panels: dict[str, Any]) -> None:
    voxels = panels["3D!scene"]["topics"][default_name(topics.VOXELS)]
    assert (voxels["pointShape"], voxels["cubeSize"]) == ("cube", load_default_bundle().grid.voxel_size)
    assert voxels["pointSize"] > 1  # pixels, where a viewer has no cubes
    assert voxels["colorMode"] == voxels["colorField"] == "rgb"
    assert "rgb" in {name for name, *_ in VOXEL_CLOUD_FIELDS}


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
