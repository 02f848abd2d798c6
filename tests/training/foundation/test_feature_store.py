"""Stored features come back as they were, from as many files as there are, and others than asked for are refused."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from scene_completion_ros.cli import main
from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_training.data.drawn_views import canonical_image
from scene_completion_training.data.prepared import PreparedFrame, load_prepared, prepare_sequence
from scene_completion_training.data.voxel_evidence import FusionSettings
from scene_completion_training.foundation.backbone import Backbone, ModelIdentity
from scene_completion_training.foundation.feature_store import (
    FeatureManifest,
    FeatureStore,
    LiveTokens,
    as_half,
    precompute,
    shifted,
    target_features,
    variant_images,
    variant_of,
)
from scene_completion_training.foundation.model_files import Normalisation
from scene_completion_training.viewpoint import STREET_CAMERA
from tests.training.foundation.tiny_models import saved_model

MODEL = ModelIdentity(
    name="some-model",
    type="dinov2",
    weights={"model.safetensors": "0123456789abcdef" * 4},
    layer=11,
    dim=6,
    normalisation=Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
)
MANIFEST = FeatureManifest(MODEL, cell=16, image_size=(40, 64), variants=3, seed=5)
KEY = "drive one-0a1b/000007/aside_ä%:b"


def features(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 6, 3, 4, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "store", MANIFEST)


def _with(**changes: Any) -> FeatureManifest:
    model = {name: changes.pop(name) for name in list(changes) if name in ("name", "type", "weights", "layer", "dim")}
    return dataclasses.replace(MANIFEST, model=dataclasses.replace(MODEL, **model), **changes)


def test_a_store_of_something_else_is_refused(store: FeatureStore) -> None:
    weights = {"model.safetensors": "f" * 64}
    for other, message in (
        (_with(layer=9), "model layer 11, asked for 9"),
        (_with(cell=8), "cell 16, asked for 8"),
        (_with(variants=2), "variants 3, asked for 2"),
        (_with(seed=6), "seed 5, asked for 6"),
        (_with(image_size=(40, 80)), r"image size \(40, 64\), asked for \(40, 80\)"),
        (_with(name="other-model", weights=weights), r"features of some-model \(dinov2\), asked for other-model: "),
        (_with(weights=weights), "model weights model.safetensors 0123456789ab, asked for model.safetensors f{12}"),
    ):
        with pytest.raises(ConfigurationError, match=f"{store.folder}: .*{message}"):
            FeatureStore.create(store.folder, other)
    with pytest.raises(ConfigurationError, match="cell 16, asked for 8"):
        FeatureStore.open(store.folder, cell=8)
    FeatureStore.create(store.folder, _with(name="same weights elsewhere"))
    file = store.folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 2}))
    with pytest.raises(SequenceError, match=f"{file}: .*this version reads schema 1"):
        FeatureStore.open(store.folder)


def test_features_that_are_missing_or_of_another_shape_are_named(store: FeatureStore) -> None:
    with pytest.raises(
        SequenceError, match=r"no features of other/000000/left.*Run `scene-completion features images` once"
    ):
        store.get("other/000000/left", 0)
    for kept, number in ((features(), 3), (features()[:2], 0)):
        store.save(KEY, kept)
        with pytest.raises(SequenceError, match=r"damaged.*Delete it and run `scene-completion features images`"):
            store.get(KEY, number)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def frames(synthetic_drive: Path, cache: Path) -> list[PreparedFrame]:
    settings = FusionSettings(free_samples=20000, views=3)
    files = prepare_sequence(kitti_odometry(synthetic_drive), cache, settings=settings, workers=1)
    return [load_prepared(file) for file in files]


def test_stored_features_equal_live_ones(frames: list[PreparedFrame], folders: dict[str, Path], tmp_path: Path) -> None:
    backbone = Backbone(folders["dinov2"], 2)
    store = FeatureStore.create(tmp_path, FeatureManifest(backbone.identity, 16, (192, 640), variants=3, seed=4))
    assert precompute(frames[:2], STREET_CAMERA, backbone, store) == 4
    frame = frames[1]
    image = canonical_image(frame.images["left"], frame.cameras["left"], STREET_CAMERA)
    seen = []
    for number in range(3):
        stored, shift = store.get(frame.key("left"), number)
        variant = variant_of(4, frame.key("left"), number, 16)
        computed = as_half(backbone.features(variant_images(image, [variant]), 16)[0], "left")
        assert stored.shape == (32, 12, 40)
        assert shift == variant.shift
        torch.testing.assert_close(stored, computed, atol=2e-3, rtol=2e-3)
        seen.append(stored)
    assert not torch.allclose(seen[0], seen[1], atol=0.1)
    assert not torch.allclose(seen[0], seen[2], atol=0.1)


def test_the_command_reads_a_training_configuration(
    frames: list[PreparedFrame],
    synthetic_drive: Path,
    cache: Path,
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configuration = tmp_path / "run.yaml"
    configuration.write_text(
        f"data:\n  root: {synthetic_drive.parent}\n  cache: {cache}\n  fusion: {{free_samples: 20000, views: 3}}\n"
        f"  sources: [{{folder: elsewhere}}]\n"
    )
    output = tmp_path / "features"
    command = ["features", "images", str(configuration), f"data.sources=[{{folder: {synthetic_drive.name}}}]"]
    command += [f"--model={folders['dinov3_vit']}", f"--output={output}", "--layer=1"]
    assert main(command) == 0
    assert "8 images, 8 of them new; 2 variants of 32 channels" in capsys.readouterr().out
    store = FeatureStore.open(output, cell=16)
    assert store.manifest.model == Backbone(folders["dinov3_vit"], 1).identity
    assert all(frame.key(camera) in store for frame in frames for camera in ("left", "right"))

    made = sorted(output.glob("features/**/*.safetensors"))
    made[3].unlink()
    written = {file: file.stat().st_mtime_ns for file in made if file.exists()}
    assert main(command) == 0
    assert "8 images, 1 of them new" in capsys.readouterr().out
    assert made[3].exists() and {file: file.stat().st_mtime_ns for file in written} == written
    for option, message in (
        ("--cell=32", "cell 16, asked for 32"),
        ("--upsampled=2", "upsampled 1, asked for 2"),
        ("--layer=7", "no layer 7"),
        ("--clusters=3", "--clusters: is no option of `features images`, but of `features classes`. Leave it out"),
    ):
        assert main([*command, option]) == 2
        assert message in capsys.readouterr().err


def test_tokens_of_a_batch_are_those_of_its_shifted_views(tmp_path: Path) -> None:
    """Of the views that are wanted alone; offsets say where the grid of each begins, in multiples of a pixel."""
    backbone = Backbone(saved_model("dinov2", tmp_path / "m"), 2)
    live = copy.deepcopy(LiveTokens(backbone, cell=8))
    images = torch.rand(2, 3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    found = live.of(images, torch.tensor([[2, 0], [1, 1]]), torch.Generator().manual_seed(1))
    assert found["features"].shape == (2, 3, live.dim, 4, 6) and found["feature_offsets"].shape == (2, 3, 2)
    for row, view in ((0, 2), (0, 0), (1, 1)):
        dx, dy = found["feature_offsets"][row, view].tolist()
        assert min(dx, dy) >= -4 and max(dx, dy) < 4
        expected = backbone.features(255.0 * shifted(images[row, view], (dy, dx))[None], 8)[0]
        torch.testing.assert_close(found["features"][row, view], expected, atol=1e-5, rtol=1e-4)
    assert not found["features"][0, 1].any() and not found["features"][1, 0].any()
    assert len({tuple(o) for o in found["feature_offsets"].flatten(0, 1).tolist()}) > 2


class Cells:
    """Tokens that are the mean colours of their cells; they remember the images."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def features(self, images: torch.Tensor, cell: int) -> torch.Tensor:
        self.seen.append(images)
        return torch.nn.functional.avg_pool2d(images, cell)


def test_upsampled_targets_of_a_ramp_are_the_ramp() -> None:
    """Wherever a crop lies, mirrored or not: bilinear, but for half a cell at its edges, where tokens end.

    Tokens have length one, along which two thirds of a degree to each pixel are all but linear.
    """
    row, column = torch.meshgrid(torch.arange(32.0) + 0.5, torch.arange(64.0) + 0.5, indexing="ij")
    far = torch.full_like(row, 90.0)
    image, extractor = torch.stack([row, column, far])[None], Cells()
    for seed in range(4):
        found = target_features(extractor, image, 4, 2, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
        off = (90.0 * found / found[:, 2:] - torch.nn.functional.avg_pool2d(image, 2)).abs()
        assert found.shape == (1, 3, 16, 32) and off[:, :2].max() <= 2.1 and off[:, :2].median() < 0.01
    whole, mirrored, *crops = extractor.seen[:4]
    assert torch.equal(mirrored, whole.flip(-1))
    for crop in crops:  # at least half of the image, from half the rows on
        assert crop.shape == image.shape and 0.4 * 64 < crop[0, 1].max() - crop[0, 1].min() < 64
    assert target_features(extractor, image, 4, 1, torch.Generator()).shape == (1, 3, 8, 16)  # type: ignore[arg-type]


def test_beyond_the_edge_the_edge_is_repeated() -> None:
    image = torch.arange(12.0).reshape(1, 3, 4)
    assert shifted(image, (1, -2))[0].tolist() == [[4.0, 4.0, 4.0, 5.0], [8.0, 8.0, 8.0, 9.0], [8.0, 8.0, 8.0, 9.0]]
