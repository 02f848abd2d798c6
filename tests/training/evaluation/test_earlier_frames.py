"""Students are scored with the scale that the node and replays would give them."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer, InOrder
from scene_completion_ros.inference.evidence import Sources
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from scene_completion_training.evaluation.density_model import DeployedModel, EarlierFrames
from tests.inference.told_bundle import CAMERA, FACTOR, WALL_M, make_told_bundle, wall_from

FRAMES, STEP_M, STEP_NS = 8, 0.4, 100_000_000
ODOMETRY = Sources("odometry")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    return make_told_bundle(tmp_path_factory.mktemp("told"))


@pytest.fixture(scope="module")
def drive() -> PosedSequence:
    """Along the wall."""
    return PosedSequence(
        name="along the wall",
        cameras={"camera": CAMERA},
        rig_from_camera={"camera": RigidTransform.identity()},
        frames=[
            Frame(
                (1 + number) * STEP_NS,
                {"camera": partial(wall_from, number * STEP_M)},
                RigidTransform(np.eye(3), np.array([number * STEP_M, 0.0, 0.0])),
            )
            for number in range(FRAMES)
        ],
        pose_source="by hand",
        metric_scale=True,
        provenance={},
    )


def said_in_order(told: StudentBundle, drive: PosedSequence) -> list[dict[str, Any]]:
    """What a replay says of each frame."""
    in_order = InOrder(Completer(told, CAMERA, engine="onnxruntime"), ODOMETRY)
    return [
        in_order.complete(drive.image(index, "camera"), frame.stamp_ns, frame.world_from_rig).evidence.summary()
        for index, frame in enumerate(drive.frames)
    ]


def test_one_factor_for_all_who_ask(told: StudentBundle, drive: PosedSequence) -> None:
    expected = said_in_order(told, drive)
    assert expected[-1]["scale"] == pytest.approx(FACTOR, rel=0.02)
    completer, earlier = Completer(told, CAMERA, engine="onnxruntime"), EarlierFrames(ODOMETRY)
    for index in (2, 5, FRAMES - 1, 4):  # one out of order begins anew
        assert earlier.completed(completer, drive, index, "camera").summary() == expected[index]
    pixels = np.array([[100.0, 60.0], [400.0, 120.0]])
    alone, scaled = (DeployedModel(told, engine="onnxruntime", sources=one) for one in (Sources(), ODOMETRY))
    np.testing.assert_allclose(alone.observe(drive, FRAMES - 1).depth(pixels), WALL_M / FACTOR, rtol=1e-5)
    depth = scaled.observe(drive, FRAMES - 1).depth(pixels)
    np.testing.assert_allclose(depth, WALL_M / FACTOR * float(expected[-1]["scale"]), rtol=1e-4)
