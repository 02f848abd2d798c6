"""How students are named."""

import re
from pathlib import Path

import pytest

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.bundle import open_student, refused_form
from scene_completion_ros.ros.parameters import SCHEMA
from scene_completion_training.checkpoints import TrainedWeights


def test_bundles_on_the_hub() -> None:
    sentence = refused_form("hf:owner/name@main")
    assert sentence
    assert next(spec for spec in SCHEMA if spec.name == "bundle").problem("hf:owner/name@main") == sentence
    for opened in (open_student, TrainedWeights.read):
        with pytest.raises(BundleError, match=re.escape(sentence)):
            opened(Path("hf:owner/name"))
