"""Parameters about the fusion of successive images: what is refused, and what they mean to the map."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from scene_completion_ros.ros.parameters.fusion import check_fusion, fusion_settings

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.mapping.temporal_fusion import FusionSettings
from scene_completion_ros.ros.parameters.schema import SCHEMA, NodeParameters

FIXED = "- {parent: odom, child: front_optical, translation: [1.2, 0.0, 1.5], angles: [0, 3, 0], optical: true}\n"


@pytest.fixture
def extrinsics(tmp_path: Path) -> str:
    path = tmp_path / "extrinsics.yaml"
    path.write_text(FIXED, encoding="utf-8")
    return str(path)


def check(**given: Any) -> None:
    check_fusion(NodeParameters(**{"temporal_fusion": True, "transform_source": "parameters", **given}))


def test_whatever_may_say_where_the_grid_is_will_do(extrinsics: str) -> None:
    check(temporal_fusion=False)
    check(temporal_fusion=False, odometry_frame="")
    check(transform_source="tf2")
    check(transform_source="topics", odometry_topics="odometry")
    check(transform_source="topics", transform_topics="poses")
    check(grid_frame="odom")
    check(extrinsics_file=extrinsics)
    check(extrinsics_file=extrinsics, transform_source="topics")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({}, "nothing says where the voxel grid is in 'odom': there is no source of transforms"),
        ({"base_frame": "base_link", "camera_x": 1.0}, "Set transform_source to topics and name odometry_topics"),
        ({"grid_frame": "base_link"}, "there is no source of transforms"),
        ({"odometry_frame": "", "transform_source": "tf2"}, "has no frame to join images in"),
        ({"odometry_frame": "world", "fixed": True}, "extrinsics_file knows front_optical, odom only"),
    ],
)
def test_what_can_never_work_is_refused(given: dict[str, Any], complaint: str, extrinsics: str) -> None:
    if given.pop("fixed", False):
        given["extrinsics_file"] = extrinsics
    with pytest.raises(SceneCompletionError, match=re.escape(complaint)):
        check(**given)


def test_defaults_are_those_of_the_map_but_for_what_may_clear() -> None:
    assert fusion_settings(NodeParameters()) == FusionSettings(seen_for=0.0)
    assert not NodeParameters().temporal_fusion


def test_whatever_the_parameters_allow_is_allowed_by_the_map() -> None:
    bounded = [spec for spec in SCHEMA if spec.name.startswith("fusion_")]
    assert len(bounded) == 6
    for spec in bounded:
        assert spec.bounds is not None
        assert spec.live
        for value in spec.bounds:
            made = fusion_settings(NodeParameters(**{spec.name: value}))  # type: ignore[arg-type]
            assert value in vars(made).values()
