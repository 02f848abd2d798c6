"""What `export-gpu` makes is parsed and built by TensorRT-RTX, whose builder needs no GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from scene_completion_ros.inference.gpu_encoders import PRECISIONS
from scene_completion_training.gpu_export.graph import gpu_graph
from scene_completion_training.gpu_export.half import to_half
from scene_completion_training.gpu_export.images import canonical_images
from scene_completion_training.gpu_export.quantised import to_int8
from tests.training.small_students import CAMERA, make_small_student, street_images

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed (pip install tensorrt_rtx; x86-64 only)",
)

# In a process of its own: the library may end the process where it finds no driver.
BUILD = """
import json, sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
answers = {}
for file in sys.argv[1:]:
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    with open(file, "rb") as graph:
        if not parser.parse(graph.read()):
            answers[file] = {"error": str(parser.get_error(0))}
            continue
    ports = [network.get_input(0), network.get_output(0)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("image", *((count, *tuple(ports[0].shape)[1:]) for count in (1, 2, 6)))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    answers[file] = {
        "ports": [[port.name, str(port.dtype), list(port.shape)] for port in ports],
        "plan": 0 if plan is None else plan.nbytes,
    }
print(json.dumps(answers))
"""


def test_tensorrt_rtx_builds_every_precision(tmp_path: Path) -> None:
    student = make_small_student(tmp_path / "student")
    single = gpu_graph(student)
    images = canonical_images([street_images(tmp_path / "images", 3)], CAMERA, 3)
    models = {"fp32": single, "fp16": to_half(single), "int8": to_int8(single, images, "student")}
    for precision, model in models.items():
        (tmp_path / precision).write_bytes(model.SerializeToString())
    command = [sys.executable, "-c", BUILD, *PRECISIONS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    for precision in PRECISIONS:
        answer = answers[precision]
        assert "error" not in answer, answer
        element = "DataType.FLOAT" if precision == "fp32" else "DataType.HALF"
        assert answer["ports"] == [
            ["image", "DataType.UINT8", [-1, CAMERA.height, CAMERA.width, 3]],
            ["features", element, [-1, *student.feature_size, student.head.channels]],
        ]
        assert answer["plan"] > 100_000
