"""`evaluate segmentation` from images to tables: KITTI-360 by frame lists, and transfer to two other data sets."""

import json
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.cli import main
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.evaluation.probes import LinearProbe
from tests import official_layouts as layouts
from tests.training.evaluation.one_wall import make_street
from tests.training.evaluation.test_segmentation import saved_field


@pytest.fixture(scope="module")
def kitti_360(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive with labels of nine frames, and lists of some."""
    root = tmp_path_factory.mktemp("kitti_360")
    layouts.kitti_360(root, frames=10)
    layouts.kitti_360_semantics(root, frames=range(1, 10))
    for name, numbers in {"train": "123", "val": "45", "test": "678", "both": "36", "gone": "06"}.items():
        lines = [f"{layouts.DRIVE} {k:0>10} {side}" for k in numbers for side in "lr"]
        layouts.write_split(root / f"{name}.txt", lines)
    return root


def command(kitti_360: Path, output: Path, **lists: str) -> list[str]:
    """Scores the frames of the list test; lists of others by the name of their argument."""
    drive = str(kitti_360 / "data_2d_raw" / layouts.DRIVE)
    options = ["evaluate", "segmentation", "--data", drive, f"--output={output}", "--images=2", "--probe-steps=1"]
    for name, split in {"": "test", **lists}.items():
        options += ([f"--{name}-on", drive] if name else []) + [
            f"--{name}-frames={kitti_360 / split}.txt" if name else f"--frames={kitti_360 / split}.txt"
        ]
    return options


def test_clusters_probes_and_transfer(kitti_360: Path, tmp_path: Path) -> None:
    checkpoint = saved_field(tmp_path / "mine" / "checkpoints" / "last.ckpt", head=True)
    plain = saved_field(tmp_path / "plain" / "checkpoints" / "last.ckpt", head=False)
    out = tmp_path / "out"
    options = command(kitti_360, out, cluster="train", name="val", probe="train")
    at = options.index("--data") + 2
    others = [
        str(layouts.cityscapes(tmp_path / "cityscapes", cities=["ulm"])),
        str(layouts.bdd100k(tmp_path / "bdd100k", images=1)),
    ]
    options[at:at] = others
    assert main([*options, "--checkpoint", str(checkpoint), str(plain)]) == 0
    content = json.loads((out / "results.json").read_text())
    assert content["frames"] == {"list": "test.txt", "listed": 6, "used": 6}
    assert content["recordings"] == [layouts.DRIVE, "Cityscapes val", "BDD100K val"]
    rows = content["scores"]["segmentation"]
    assert {(row["recordings"], row["frames"]) for row in rows} == {("KITTI-360", 3), ("Cityscapes", 2), ("BDD100K", 1)}
    for data in ("KITTI-360", "Cityscapes", "BDD100K"):
        found = [(row["method"], row["named_by"]) for row in rows if row["recordings"] == data]
        assert found == [
            ("mine, clusters", "validation images"),
            ("mine, clusters", "the scored images (upper bound)"),
            ("mine, probe of features", "learned from labels"),
            ("mine, probe of head", "learned from labels"),
            ("plain, clusters", "validation images"),
            ("plain, clusters", "the scored images (upper bound)"),
            ("plain, probe of features", "learned from labels"),
        ]
    of_clusters = [row for row in rows if row["method"] == "mine, clusters"]
    named, bound = ({row["recordings"]: row["accuracy"] for row in of_clusters[k::2]} for k in (0, 1))
    assert all(0.0 <= named[data] <= bound[data] <= 1.0 for data in bound)
    assert 0 < rows[0]["pixels"] < 3 * 32 * 64  # nobody labelled the edge
    assert LinearProbe.read(out / "probe_mine_head.safetensors").weight.shape == (19, 6)
    assert "upper bound" in (out / "results.md").read_text()


@pytest.mark.parametrize(
    ("lists", "error"),
    [
        ({}, "nothing tells pixels apart"),
        ({"cluster": "train"}, "one without the other"),
        ({"cluster": "train", "name": "both"}, "1 of its images are scored as well"),
        ({"probe": "both"}, "1 of its images are scored as well"),
        ({"probe": "gone"}, "2 of its 4 frames are not in the recordings"),
    ],
)
def test_what_is_refused(
    lists: dict[str, str], error: str, kitti_360: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = saved_field(tmp_path / "mine" / "checkpoints" / "last.ckpt", head=False)
    assert main([*command(kitti_360, tmp_path / "out", **lists), f"--checkpoint={checkpoint}"]) == 2
    assert error in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_probe_of_images_labels_voxels(tmp_path: Path, student: StudentBundle) -> None:
    """The probe that `evaluate segmentation` writes is a method of `evaluate semantics`, beside a student's density."""
    checkpoint = saved_field(tmp_path / "mine" / "checkpoints" / "last.ckpt", head=True)
    LinearProbe(np.zeros((19, 6), np.float32), np.eye(19, dtype=np.float32)[13]).save(tmp_path / "probe.safetensors")
    make_street().save(tmp_path / "street")
    options = ["--data", tmp_path / "street", "--student", student.encoder_path.parent, "--output", tmp_path / "out"]
    options += ["--probed", checkpoint, tmp_path / "probe.safetensors"]
    assert main(["evaluate", "semantics", *map(str, options)]) == 0
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["scores"]["semantics"]
    assert {row["method"] for row in rows} == {"mine, probe of head"}
