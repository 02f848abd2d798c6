"""The command that makes classes of a few named voxels, from the page to the robot."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scene_completion_training.masked_scene.scenes import FEATURES
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet

from scene_completion_ros.cli import main
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.sequences.kitti import kitti_odometry
from tests.inference.small_bundle import make_small_bundle
from tests.report.pages import embedded_frames
from tests.training.saved_checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    return make_small_bundle(tmp_path_factory.mktemp("labelled"), classes=4)


@pytest.fixture(scope="module")
def page(synthetic_drive: Path, labelled: StudentBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    command = ["name-voxels", f"--data={synthetic_drive}", f"--bundle={labelled.folder}", f"--page={folder}"]
    assert main([*command, "--every=3"]) == 0
    return folder / "index.html"


def voxels_of(frame: dict[str, Any]) -> np.ndarray:
    """Voxels [N, 3] that a page shows of a frame."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(frame["voxels"])), np.uint8).reshape(7, -1).astype(np.int64)
    flat = np.cumsum(planes[0] + (planes[1] << 8) + (planes[2] << 16) + (planes[3] << 24))
    return np.stack(np.unravel_index(flat, frame["grid"]["shape"]), axis=-1)


def named(page: Path) -> dict[str, Any]:
    """What clicks would make of two regions of a frame: the nearest voxels and the farthest."""
    frame = embedded_frames(page)[1]
    recording, number = frame["source"]
    voxels = voxels_of(frame)
    order = np.argsort(voxels[:, 0], kind="stable")
    entries = [
        {"recording": recording, "frame": number, "index": voxels[row].tolist(), "class": name}
        for name, rows in (("near", order[:12]), ("far", order[-12:]))
        for row in rows
    ]
    return {"schema": 1, "classes": {"near": {"colour": [9, 8, 7]}, "far": {}}, "voxels": entries}


def written(folder: Path, content: dict[str, Any]) -> str:
    file = folder / "names.json"
    file.write_text(json.dumps(content))
    return f"--names={file}"


def test_the_page_shows_what_can_be_named(page: Path, synthetic_drive: Path, labelled: StudentBundle) -> None:
    sequence = kitti_odometry(synthetic_drive)
    frames = embedded_frames(page)
    assert [frame["source"] for frame in frames] == [[sequence.name, 0], [sequence.name, 3]]
    text = page.read_text("utf-8")
    assert 'id="save-names"' in text and all(f'"{name}":{{"colour"' in text for name in labelled.class_names)


def test_names_reach_the_robot(
    page: Path, synthetic_drive: Path, labelled: StudentBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = named(page)
    command = ["name-voxels", f"--data={synthetic_drive}", f"--bundle={labelled.folder}", written(tmp_path, content)]
    command += [f"--output={tmp_path / 'mine'}", "--every=2"]
    assert main([*command, f"--page={tmp_path / 'page'}"]) == 0
    assert "24 named voxels of 2 classes" in capsys.readouterr().out
    student, sequence = StudentBundle.load(tmp_path / "mine"), kitti_odometry(synthetic_drive)
    completion = Completer(student, sequence.cameras["image_2"]).complete(sequence.image(3, "image_2"))
    voxels = completion.voxels
    assert voxels.class_names == ("near", "far") and voxels.class_colours[0] == (9, 8, 7)
    said = {
        tuple(index): voxels.class_names[label]
        for index, label in zip(voxels.index.tolist(), voxels.label, strict=True)
    }
    right = [said[tuple(entry["index"])] == entry["class"] for entry in content["voxels"]]
    assert np.mean(right) > 0.9
    frames = embedded_frames(tmp_path / "page" / "index.html")
    assert [frame["source"][1] for frame in frames] == [0, 2, 3]  # the named frame is among them


def test_a_network_can_tell_the_voxels_apart(
    page: Path, synthetic_drive: Path, labelled: StudentBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    settings = HUNetSettings(len(FEATURES), (4, 6), (4, 6))
    remembered = {"columns": list(FEATURES), "network": settings.plain(), "steps": 7}
    data = {"voxel_size": 0.2, "student": ""}
    checkpoint = save_checkpoint(tmp_path / "n.ckpt", VoxelHUNet(settings), "masked_scene", data=data, **remembered)
    command = ["name-voxels", f"--data={synthetic_drive}", f"--bundle={labelled.folder}", f"--checkpoint={checkpoint}"]
    command += [written(tmp_path, named(page)), f"--output={tmp_path / 'mine'}", "--every=4"]
    assert main(command) == 0
    assert "the student's labels agree with the network's on" in capsys.readouterr().out
    student = StudentBundle.load(tmp_path / "mine")
    assert student.provenance["labels"]["features"] == "network of n.ckpt" and student.class_names == ("near", "far")


def test_what_cannot_be_named_is_refused(
    page: Path, synthetic_drive: Path, labelled: StudentBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, output = named(page), f"--output={tmp_path / 'mine'}"
    free = {**content["voxels"][0], "index": [0, 0, 31]}
    elsewhere = {**content["voxels"][0], "recording": "elsewhere"}
    late = {**content["voxels"][0], "frame": 4}
    good = written(tmp_path, content)
    for options, said in (
        ([], "nothing to do"),
        ([good], "--names and --output together"),
        ([output], "--names"),
        ([f"--page={tmp_path}", "--checkpoint=none.ckpt"], "--checkpoint only with them"),
        ([good, output, "--every=0"], "0 is no step"),
        ([good, f"--output={labelled.folder}"], "which is read (--bundle)"),
        ([good, output, "--data", *[str(synthetic_drive)] * 2], "two recordings are called"),
    ):
        assert main(["name-voxels", f"--data={synthetic_drive}", f"--bundle={labelled.folder}", *options]) == 2
        assert said in capsys.readouterr().err
    for wrong, said in (
        (free, "[0, 0, 31]"),
        (elsewhere, "names voxels of elsewhere"),
        (late, "has frames 0 to 3"),
    ):
        names = written(tmp_path, {**content, "voxels": [*content["voxels"], wrong]})
        command = ["name-voxels", f"--data={synthetic_drive}", f"--bundle={labelled.folder}", names, output]
        assert main(command) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()
    unlabelled = make_small_bundle(tmp_path / "unlabelled")
    good = written(tmp_path, content)
    command = ["name-voxels", f"--data={synthetic_drive}", f"--bundle={unlabelled.folder}", good, output]
    assert main(command) == 2 and "has no label units" in capsys.readouterr().err
