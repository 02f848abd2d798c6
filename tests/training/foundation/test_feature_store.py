"""Stored features come back as they were, from as many files as there are, and others than asked for are refused."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_training.data.feature_targets import FeatureTargets
from scene_completion_training.foundation.backbone import ModelIdentity
from scene_completion_training.foundation.feature_store import FeatureManifest, FeatureStore
from scene_completion_training.foundation.model_files import Normalisation
from scene_completion_training.foundation.targets import variant_of

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


def file_of(store: FeatureStore) -> Path:
    (file,) = store.folder.glob("features/**/*.safetensors")
    return file


def test_features_come_back_with_their_shift_and_mirroring(store: FeatureStore) -> None:
    assert KEY not in store
    store.save(KEY, features())
    opened: FeatureTargets = FeatureStore.open(store.folder, model=MODEL, cell=16)
    assert (opened.dim, opened.cell, opened.variants) == (6, 16, 3)
    assert KEY in FeatureStore.open(store.folder)
    for number in range(3):
        found = FeatureStore.open(store.folder).get(KEY, None, number)
        expected = variant_of(5, KEY, number, 16)
        assert found.features.dtype == torch.float16
        assert torch.equal(found.features, features()[number].half())
        assert (found.shift, found.mirrored) == (expected.shift, expected.mirrored)


def test_files_have_plain_names_and_hold_what_is_documented(store: FeatureStore) -> None:
    store.save(KEY, features())
    file = file_of(store)
    assert file.relative_to(store.folder).as_posix() == "features/drive one-0a1b/000007/aside_%C3%A4%25%3Ab.safetensors"
    content = load_file(file)
    assert {name: (value.dtype, tuple(value.shape)) for name, value in content.items()} == {
        "features": (torch.float16, (3, 6, 3, 4)),
        "shift": (torch.int32, (3, 2)),
        "mirrored": (torch.bool, (3,)),
    }
    assert content["shift"][0].tolist() == [0, 0]
    assert content["mirrored"].tolist() == [False, True, False]


@pytest.mark.parametrize("key", ["", "a//b", "../a", "a/./b", "/a", "a/"])
def test_keys_that_lead_elsewhere_are_refused(key: str, store: FeatureStore) -> None:
    with pytest.raises(SequenceError, match="is no key"):
        store.save(key, features())


def test_manifest_survives_and_says_what_is_in_the_store(store: FeatureStore) -> None:
    assert FeatureStore.open(store.folder).manifest == MANIFEST
    content = json.loads((store.folder / "manifest.json").read_text())
    assert content["schema"] == 1
    assert content["model"]["name"] == "some-model"
    assert content["model"]["weights"] == MODEL.weights
    assert content["image_size"] == [40, 64]


def _with(**changes: Any) -> FeatureManifest:
    model = {name: changes.pop(name) for name in list(changes) if name in ("name", "type", "weights", "layer", "dim")}
    return dataclasses.replace(MANIFEST, model=dataclasses.replace(MODEL, **model), **changes)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (_with(layer=9), "model layer 11, asked for 9"),
        (_with(cell=8), "cell 16, asked for 8"),
        (_with(variants=2), "variants 3, asked for 2"),
        (_with(seed=6), "seed 5, asked for 6"),
        (_with(image_size=(40, 80)), r"image size \(40, 64\), asked for \(40, 80\)"),
        (
            _with(name="other-model", weights={"model.safetensors": "f" * 64}),
            r"features of some-model \(dinov2\), asked for other-model: "
            r"model weights model.safetensors 0123456789ab, asked for model.safetensors ffffffffffff",
        ),
    ],
)
def test_a_store_of_something_else_is_refused(other: FeatureManifest, message: str, store: FeatureStore) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        FeatureStore.create(store.folder, other)
    assert str(store.folder) in str(caught.value)
    FeatureStore.create(store.folder, _with(name="same weights elsewhere"))


def test_a_reader_refuses_another_model_layer_or_cell(store: FeatureStore) -> None:
    with pytest.raises(ConfigurationError, match="cell 16, asked for 8"):
        FeatureStore.open(store.folder, cell=8)
    with pytest.raises(ConfigurationError, match="layer 11, asked for 10"):
        FeatureStore.open(store.folder, model=dataclasses.replace(MODEL, layer=10))


@pytest.mark.parametrize("change", [{"variants": 0}, {"cell": 0}, {"seed": -1}])
def test_senseless_stores_are_not_made(change: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Give at least one variant"):
        FeatureStore.create(tmp_path / "store", dataclasses.replace(MANIFEST, **change))
    assert not (tmp_path / "store").exists()


def test_a_folder_without_features_is_named(tmp_path: Path) -> None:
    with pytest.raises(SequenceError, match=r"no feature targets here.*scene-completion features"):
        FeatureStore.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content | {"schema": 2}, "schema 2, this version reads 1"),
        (lambda content: content | {"cell": "16"}, "damaged"),
        (lambda content: content | {"image_size": [40]}, "damaged"),
        (lambda content: content | {"model": None}, "damaged"),
        (lambda content: {}, "damaged"),
        (lambda content: [], "damaged"),
    ],
)
def test_damaged_manifests_are_named(change: Callable[[Any], Any], message: str, store: FeatureStore) -> None:
    file = store.folder / "manifest.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(SequenceError, match=message) as caught:
        FeatureStore.open(store.folder)
    assert str(file) in str(caught.value)
    file.write_text("{")
    with pytest.raises(SequenceError, match="damaged"):
        FeatureStore.open(store.folder)


def test_truncated_files_are_named_with_the_cure(store: FeatureStore) -> None:
    store.save(KEY, features())
    file = file_of(store)
    whole = file.read_bytes()
    for content in (whole[:-50], whole[:20], b"", b"\x02\0\0\0\0\0\0\0[]"):
        file.write_bytes(content)
        with pytest.raises(SequenceError, match=r"damaged.*Delete it and run `scene-completion features`") as caught:
            store.get(KEY, None, 0)
        assert str(file) in str(caught.value)
    file.unlink()
    save_file({name: value[:2].contiguous() for name, value in _content(whole, file).items()}, file)
    with pytest.raises(SequenceError, match="damaged"):
        store.get(KEY, None, 0)


def _content(whole: bytes, file: Path) -> dict[str, torch.Tensor]:
    file.write_bytes(whole)
    content = {name: value.clone() for name, value in load_file(file).items()}
    file.unlink()
    return content


def test_missing_features_and_variants_are_named(store: FeatureStore) -> None:
    with pytest.raises(SequenceError, match=r"no features of other/000000/left"):
        store.get("other/000000/left", None, 0)
    store.save(KEY, features())
    for number in (3, -1):
        with pytest.raises(ConfigurationError, match=rf"no variant {number}.*0 to 2"):
            store.get(KEY, None, number)


def test_features_that_do_not_fit_are_refused_and_leave_nothing(store: FeatureStore) -> None:
    with pytest.raises(ConfigurationError, match="float16"):
        store.save(KEY, features() * 1e6)
    with pytest.raises(ConfigurationError, match=r"not \(3, 6, 3, 4\)"):
        store.save(KEY, features()[:2])
    assert KEY not in store
    assert not list(store.folder.rglob("*.part"))


def test_several_may_write_the_same(store: FeatureStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: FeatureStore.create(store.folder, MANIFEST).save(KEY, features()), range(32)))
    assert torch.equal(store.get(KEY, None, 2).features, features()[2].half())
    assert not list(store.folder.rglob("*.part"))


def test_thousands_of_files_take_no_descriptors_and_a_store_can_be_sent(store: FeatureStore) -> None:
    store.save(KEY, features())
    sent = pickle.loads(pickle.dumps(store))
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    found = [sent.get(KEY, None, number % 3) for number in range(3000)]
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
    maps = Path("/proc/self/maps").read_text()
    assert maps.count("aside_") == 0  # nothing stays mapped
    assert len(found) == 3000
