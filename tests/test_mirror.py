"""Tests mirror the source tree: a file of tests is called after the module that it tests, in a folder of its room."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
OF_SEVERAL_MODULES = {
    "inference/gpu/test_tensorrt_rtx.py": "names and builds of TensorRT-RTX itself, by which stand-ins are measured",
    "inference/test_volume.py": "students whose encoder gives a volume, from bundle to voxels",
    "report/test_page_in_browser.py": "the whole page, with its JavaScript",
    "ros/launching/test_launch_files.py": "the files of launch/, read",
    "ros/launching/test_launch_runs.py": "the files of launch/, run",
    "ros/replay/test_lock_step.py": "what a replay in lock step writes, twice",
    "ros/test_faulty_cameras.py": "a running node and cameras that misbehave",
    "ros/test_frames.py": "a running node and what it knows of frames",
    "ros/test_fusing_cameras.py": "a running node that fuses cameras over time",
    "ros/test_fusing_node.py": "a running node that fuses images over time",
    "ros/test_fuzzed_messages.py": "a running node and messages of any content",
    "ros/test_gpu_engine.py": "a running node with engines of GPUs",
    "ros/test_open_vocabulary.py": "a running node whose voxels answer words",
    "ros/test_lifecycle.py": "a running node in all its states",
    "ros/test_security_policy.py": "a running node and config/security",
    "ros/test_several_cameras.py": "a running node with several cameras",
    "ros/test_soak.py": "a running node for a long time",
    "test_decisions.py": "docs/decisions.md",
    "test_documentation_site.py": "docs/site.py, mkdocs.yml and what they make of the documents",
    "test_installed.py": "the package as colcon installs it",
    "test_mirror.py": "this tree",
    "test_packaging.py": "setup.py and what is built with it",
    "test_pictures_of_documents.py": "docs/make_pictures.py",
    "test_plain_english.py": "README.md, CONTRIBUTING.md and docs/",
    "test_workflow.py": ".github/workflows, .ci and docker/",
    "training/data/test_data.py": "from a recording to batches of views",
    "training/stages/test_spatial.py": "fields with a decoder in space, through all stages that have one",
    "training/data/test_far_views.py": "views far apart, through all of training/data",
    "training/extraction/test_bags.py": "from bags to sequences",
    "training/gpu_export/test_gpu_export.py": "from a student to its graphs for GPUs",
    "training/stages/test_known_stages.py": "the registry of stages, and what all stages promise",
    "training/test_wide_angle.py": "a robot's rig, from recording to completion",
}
"""Files that test several modules together, or what is no module, with what that is."""


def test_files_of_tests_have_the_names_of_modules() -> None:
    files = {path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    nameless = {
        file.as_posix()
        for file in files
        if not any((root / file.parent / file.name[5:]).is_file() for root in (ROOT, ROOT / "scene_completion_ros"))
    }
    unknown, gone = nameless - set(OF_SEVERAL_MODULES), set(OF_SEVERAL_MODULES) - nameless
    assert not unknown, "name each after its module, or say in OF_SEVERAL_MODULES what it tests"
    assert not gone, "not there, or called after a module: take them out of OF_SEVERAL_MODULES"
