import argparse
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.evaluation.truth import OCCLUDED, VISIBLE
from scene_completion_ros.sequences.opening import voxel_truth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_worlds.commands import street
from scene_completion_worlds.street import drive
from scene_completion_worlds.street.camera_rig import LEFT, RIGHT, SIDE_LEFT, SIDE_RIGHT
from scene_completion_worlds.street.street_line import StreetKind


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    street.add_arguments(parser)
    return parser.parse_args(words)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--seed", "1001", "--frames", "1", "--size", "160", "48", "--output", str(tmp_path / "out")]
    assert street.run(arguments(*common, "--assets", "voxels", "--bag")) == 0
    assert "validation town 1001" in capsys.readouterr().out
    sequence = PosedSequence.load(tmp_path / "out" / "sequence")
    truth = voxel_truth(sequence, 0)
    assert truth.occupied.shape == (256, 256, 32)
    assert (truth.regions[VISIBLE] & truth.occupied).sum() > 1000
    assert (truth.regions[OCCLUDED] & truth.occupied).sum() > 1000
    with BagReader(tmp_path / "out" / "bag") as reader:
        assert len(list(reader.images(reader.choose_image_topic()))) == 1
    with pytest.raises(SceneCompletionError, match="exists already"):
        street.run(arguments(*common))


def test_side_cameras_are_in_folder_and_bag_also_after_an_interruption(tmp_path: Path) -> None:
    left_over = tmp_path / "out" / street.UNFINISHED / "sequence" / "images"  # by an interrupted run
    left_over.mkdir(parents=True)
    (left_over / "half.jpg").write_bytes(b"")
    words = ["--seed", "2001", "--frames", "1", "--size", "160", "48", "--output", str(tmp_path / "out")]
    assert street.run(arguments(*words, "--rig", "kitti360", "--assets", "--bag", "all")) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"sequence", "bag"}
    sequence = PosedSequence.load(tmp_path / "out" / "sequence")
    assert not list((tmp_path / "out").rglob("half.jpg"))
    assert set(sequence.cameras) == {LEFT, RIGHT, SIDE_LEFT, SIDE_RIGHT}
    expected = sequence.cameras[SIDE_LEFT]
    assert (expected.distortion_model, expected.width) == ("equidistant", expected.height)
    assert sequence.image(0, SIDE_RIGHT).shape == (expected.height, expected.width, 3)
    assert sequence.provenance["role"] == "test" and sequence.provenance["street"] in {one.value for one in StreetKind}
    with BagReader(tmp_path / "out" / "bag") as reader:
        camera = reader.camera_for(f"/{SIDE_LEFT}/image_raw/compressed")
        assert camera.distortion_model == "equidistant"
        assert camera.distortion == pytest.approx(expected.distortion)
        assert camera.matrix == pytest.approx(expected.matrix)
        left = reader.tf_buffer().lookup("base_link", f"{SIDE_LEFT}_optical", sequence.frames[0].stamp_ns, 0)
        assert left.rotation[:, 2] == pytest.approx((0.0, 1.0, 0.0), abs=0.02)


def test_any_number_of_workers_writes_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "BLOCK", 1)
    common = ["--seed", "1002", "--frames", "2", "--rate", "2", "--size", "64", "20", "--supersampling", "1"]
    for workers in ("1", "2"):
        words = [*common, "--assets", "lidar", "depth", "--workers", workers, "--output", str(tmp_path / workers)]
        assert street.run(arguments(*words)) == 0
    files = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*") if path.is_file())
    assert len(files) == 2 * 4 + 1
    first, second = (PosedSequence.load(tmp_path / workers / "sequence") for workers in ("1", "2"))
    for name in files:
        if name.suffix == ".npz":  # an archive holds the time of writing
            arrays = [np.load(tmp_path / workers / name)["data"] for workers in ("1", "2")]
            assert np.array_equal(*arrays), name
        else:
            assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
    assert first.travelled_distance() == second.travelled_distance() > 1.0


@pytest.mark.parametrize(
    "words", [["--seed", "3000"], ["--seed", "5", "--frames", "0"], ["--seed", "5", "--workers", "0"]]
)
def test_command_refuses_bad_input(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SceneCompletionError, match=words[-1]):
        street.run(arguments(*words, "--output", str(tmp_path)))
