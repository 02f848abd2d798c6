"""`evaluate segmentation`: features rendered into images, clusters, probes, transfer to other data."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from scene_completion_ros.cli import main
from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.commands import evaluate_segmentation
from scene_completion_training.data.label_images import LabelledImage
from scene_completion_training.evaluation.probes import LinearProbe
from scene_completion_training.evaluation.segmentation import (
    PixelLabels,
    RenderedField,
    SegmentationTally,
    cluster_pixels,
    fit_pixel_probes,
    labels_through,
    named_by_images,
    stand_in_camera,
)
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.feature_field import DistillationHead, FeatureField
from tests import official_layouts as layouts
from tests.training.evaluation.one_wall import make_street
from tests.training.small_trainings import save_checkpoint

PUBLISHED = Camera(251.161, 282.1554, 309.7498, 121.6802, 640, 192)
SMALL = Camera(25.1, 40.2, 30.9, 19.7, 64, 32)


def saved_field(file: Path, *, head: bool) -> Path:
    """A feature field with random weights for tiny images, with a head, or without one and with units as published."""
    torch.manual_seed(0)
    density = DensityField(SMALL, hidden=16)
    field = FeatureField(density, target_size=12, channels=5, units=16, expansion=7, shared=not head)
    camera = {name: getattr(SMALL, name) for name in ("fx", "fy", "cx", "cy", "width", "height")}
    save_checkpoint(file, field, "semantics" if head else "feature_field", camera=camera, volume={"near": 3.0})
    if head:
        content = torch.load(file, weights_only=True)
        content["state_dict"] |= {f"head.{name}": v for name, v in DistillationHead(12, 6).state_dict().items()}
        torch.save(content, file)
    return file


@pytest.mark.parametrize("size", [(2048, 1024), (1280, 720)])
def test_other_data_sets_are_resized_and_cut_as_published(size: tuple[int, int]) -> None:
    """Labels of 640x320, by the nearest pixel, less 64 rows above and below."""
    width, height = size
    labels = np.random.default_rng(0).integers(0, 19, (height, width)).astype(np.uint8)
    rows = np.floor((np.arange(64, 256) + 0.5) * height / 320).astype(int)
    columns = np.floor((np.arange(640) + 0.5) * width / 640).astype(int)
    found = labels_through(labels, stand_in_camera(PUBLISHED, width, height), PUBLISHED)
    assert np.array_equal(found, labels[rows[:, None], columns])


class Painted:
    """Renders the street of `label_image` in as many directions as it has classes, and some noise."""

    name, space, device, field = "painted", "features", torch.device("cpu"), SimpleNamespace(channels=4)
    spaces: ClassVar = {"features": functional.normalize}

    def labels(self, image: int) -> NDArray[np.uint8]:
        return layouts.label_image((24, 12), train_ids=True).reshape(-1)

    def features(self, image: int) -> torch.Tensor:
        noise = 0.2 * torch.randn(24 * 12, 4, generator=torch.Generator().manual_seed(image))
        return noise + functional.one_hot(torch.tensor([ORDER.get(int(k), 0) for k in self.labels(image)]), 4)


ORDER = {0: 0, 2: 1, 10: 2, 13: 3}


def test_clusters_and_probes_find_what_features_tell_apart() -> None:
    """Four directions of 19 clusters: each class gets one cluster of those that lie in it, and the others are wrong."""
    rendered, images = cast(RenderedField, Painted()), cast("list[LabelledImage]", list(range(8)))
    clusters = cluster_pixels(rendered, images[:4], seed=0)
    with pytest.raises(ConfigurationError, match="no pixel has a class"):
        named_by_images(clusters, [])
    named = named_by_images(clusters, images[4:6])
    assert named.naming is not None and sorted(named.naming) == list(range(19))
    probes = fit_pixel_probes(rendered, images[:4], steps=200, seed=0)
    one, again = (fit_pixel_probes(rendered, images[:1], steps=5, seed=0)["features"].bias for _ in range(2))
    assert np.array_equal(one, again)
    found = {}
    for method in (named, PixelLabels("probe", rendered, "features", probes["features"].labels)):
        tally = SegmentationTally(method.labels, method.naming)
        tally.add(method.answer(images[7]))
        found[method.name] = next(tally.rows())
    true, clustered = found["probe"], found["painted, clusters"]
    assert true["pixels"] == 10 * 24 and true["accuracy"] > 0.98
    assert true["mean_iou_of_true"] > 0.9 and true["class_iou"]["wall"] != true["class_iou"]["wall"]  # NaN: nowhere
    assert 0.2 < clustered["accuracy"] < true["accuracy"]


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
    options = ["evaluate", "segmentation", "--data", drive, f"--output={output}"]
    options.append(f"--frames={kitti_360 / 'test'}.txt")
    for name, split in lists.items():
        options += [f"--{name}-on", drive, f"--{name}-frames={kitti_360 / split}.txt"]
    return options


def test_clusters_probes_and_transfer(kitti_360: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_segmentation, "IMAGES", 2)
    monkeypatch.setattr(evaluate_segmentation, "PROBE_STEPS", 1)
    checkpoint = saved_field(tmp_path / "mine" / "checkpoints" / "last.ckpt", head=True)
    plain = saved_field(tmp_path / "plain" / "checkpoints" / "last.ckpt", head=False)
    out = tmp_path / "out"
    options = command(kitti_360, out, cluster="train", name="val", probe="train")
    at = options.index("--data") + 2
    cityscapes = layouts.cityscapes(tmp_path / "cityscapes", cities=["ulm"])
    options[at:at] = [str(cityscapes), str(layouts.bdd100k(tmp_path / "bdd100k", images=1))]
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
    assert 0 < rows[0]["pixels"] < 3 * 32 * 64  # the edge has no labels
    assert LinearProbe.read(out / "probe_mine_head.safetensors").weight.shape == (19, 6)
    assert "upper bound" in (out / "results.md").read_text()


@pytest.mark.parametrize(
    ("lists", "error"),
    [
        ({}, "nothing distinguishes pixels"),
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
    """The probe that `evaluate segmentation` writes is a method of `evaluate semantics`, with a student's density."""
    checkpoint = saved_field(tmp_path / "mine" / "checkpoints" / "last.ckpt", head=True)
    LinearProbe(np.zeros((19, 6), np.float32), np.eye(19, dtype=np.float32)[13]).save(tmp_path / "probe.safetensors")
    make_street().save(tmp_path / "street")
    options = ["--data", tmp_path / "street", "--student", student.encoder_path.parent, "--output", tmp_path / "out"]
    options += ["--probed", checkpoint, tmp_path / "probe.safetensors"]
    assert main(["evaluate", "semantics", *map(str, options)]) == 0
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["scores"]["semantics"]
    assert {row["method"] for row in rows} == {"mine, probe of head"}
