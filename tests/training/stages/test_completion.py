"""Stage `completion`, on a town and on rooms, with a tiny random network of Depth Anything."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from lightning.pytorch.callbacks import timer
from onnx import helper, numpy_helper
from safetensors.numpy import load_file

from scene_completion_ros.cli import main
from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, INVALID, ROOM_CLASSES
from scene_completion_ros.geometry import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.road_plane import RoadPlane, plane_of
from scene_completion_ros.geometry.transforms import rotation_of_angles
from scene_completion_ros.inference.bundle import CELLS, DECODER, DEFAULT_BUNDLE, PRIOR, StudentBundle
from scene_completion_ros.inference.cells import volume_pose
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.evidence import SEEN_DOUBT, Evidence
from scene_completion_ros.inference.motion_scale import Scale
from scene_completion_ros.inference.text_bank import BankClass, TextBank
from scene_completion_ros.ros.frame import Student
from scene_completion_ros.ros.messages import elevation_message
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.sequences.opening import open_recording, voxel_truth
from scene_completion_ros.sequences.posed_sequence import PosedSequence, mounting, reference_camera
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.data.completion_samples import (
    CompletionData,
    CompletionDataSettings,
    CompletionSamples,
    CompletionSource,
    level_pose,
    resampled_ground,
    resampled_labels,
)
from scene_completion_training.evaluation.checkpoints import CanonicalImages
from scene_completion_training.evaluation.deployed import DeployedStudent
from scene_completion_training.export import export_scene, space_of_classes
from scene_completion_training.networks.pixel_head import PixelView, no_ground
from scene_completion_training.networks.trunk import DepthAnythingTrunk
from scene_completion_training.runner import make_stage, train, train_parts
from scene_completion_training.stage import Stage
from scene_completion_training.stages.completion import (
    CompletionConfiguration,
    CompletionStage,
    SceneField,
)
from scene_completion_training.stages.pixels import PixelConfiguration, learned_weights, trained_trunk
from scene_completion_training.viewpoint import CameraSettings, VolumeSettings
from scene_completion_worlds.room.walk import RoomWalk
from tests.training.networks.whole_scenes import CompletedScene, whole_scene
from tests.training.small_trainings import FEW, curves, cut_off

Settings = Callable[..., CompletionConfiguration]
CAMERA = CameraSettings(width=128, height=64, field_of_view=80.0)
VOLUME = VolumeSettings(ahead=12.8, sideways=6.4, below=2.2, above=1.0, voxel_size=0.4, near=1.0, far=40.0)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames of a training town with a rig of its own, rendered by the command."""
    folder = tmp_path_factory.mktemp("towns") / "5"
    command = "world street-varied --seed 5 --frames 2 --rate 2 --size 256 96 --supersampling 1"
    assert main([*command.split(), "--output", str(folder)]) == 0
    return folder


def configured(recording: Path, output: Path, **changes: Any) -> CompletionConfiguration:
    """A training of a few steps, of pixels and then of cells."""
    sources, cache = [CompletionSource(str(recording))], str(recording.parent / "cache")
    few = FEW | {"ema_decay": 0.9, "ema_start": 1}
    plain = CompletionDataSettings(batch_size=2, workers=0)
    values: dict[str, Any] = {
        **few,
        "data": dataclasses.replace(plain, sources=sources, cache=cache),
        "pixels": PixelConfiguration(**few, frozen_blocks=2, class_branch_channels=8, data=plain),
        "cells": 200,
        "widths": (8, 12),
        "context": 4,
        "reduced": 4,
        "output": str(output),
    }
    return CompletionConfiguration(**values | changes)


@pytest.fixture(scope="module")
def settings(town: Path, trunk: Path) -> Settings:
    """Makes trainings in the town: of an output and of what changes."""
    return partial(configured, town, encoder_weights=str(trunk), camera=CAMERA, volume=VOLUME)


@pytest.fixture(scope="module")
def trained(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a few steps of both parts."""
    return train_parts(settings(tmp_path_factory.mktemp("runs") / "whole"))


@pytest.fixture(scope="module")
def pixels(trained: Path) -> str:
    """Checkpoint of its first part."""
    return str(trained.parents[1] / "pixels" / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module")
def bundle(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """What the command exports of it."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    assert main(["export", str(trained), str(folder), "--licence", "none"]) == 0
    return StudentBundle.load(folder)


def test_a_training_that_is_cut_goes_on_the_same(trained: Path, settings: Settings, tmp_path: Path) -> None:
    """In either part; and what is trained already is left as it is."""
    cut = settings(tmp_path)
    for _ in cut.parts():
        with cut_off(3):
            train_parts(cut)
    last = train_parts(cut)
    for part in ("checkpoints", "pixels/checkpoints"):
        now, before = (Checkpoint.read(of.parents[1] / part / "last.ckpt").state for of in (last, trained))
        assert all(torch.equal(now[name], value) for name, value in before.items()), part
    written = last.stat().st_mtime_ns
    assert train_parts(cut) == last and last.stat().st_mtime_ns == written
    shutil.move(tmp_path, moved := tmp_path.with_name("moved"))
    there = settings(moved, checkpoint_every=3)
    there.pixels.log_every = 9
    assert train_parts(there).stat().st_mtime_ns == written
    with pytest.raises(ConfigurationError, match="no part 'teachers'.*There are pixels, student"):
        train_parts(cut, "teachers")


def test_minutes_end_a_training(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock the rate falls and the average begins; one that is cut counts the minutes of its checkpoint."""
    now, take = [0.0], Stage.training_step

    def a_minute(self: Stage, batch: dict[str, torch.Tensor], number: int) -> torch.Tensor:
        now[0] += 60.0
        return take(self, batch, number)

    monkeypatch.setattr(timer, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Stage, "training_step", a_minute)
    whole = settings(tmp_path)
    whole.pixels = dataclasses.replace(whole.pixels, steps=1000, warmup=1, max_minutes=5, ema_start=400)
    with cut_off(3):
        train_parts(whole, "pixels")
    now[0] += 1e6
    last = train_parts(whole, "pixels")
    stored, content = Checkpoint.read(last), torch.load(last, weights_only=True)
    assert (stored.steps, stored.minutes, stored.ended) == (5, 5.0, True)
    assert int(content["averaging_state"]["n_averaged"]) == 4
    rates = {step: rate for (name, step), rate in curves(last.parents[1], "lr-").items() if name.endswith("pg1")}
    fallen = [0.5 + 0.5 * math.cos(math.pi * (200 * step - 1) / 999) for step in range(1, 5)]
    assert [rates[step] / whole.pixels.learning_rate for step in range(5)] == pytest.approx([1.0, *fallen])
    written = last.stat().st_mtime_ns
    assert Checkpoint.read(train_parts(whole)).steps == 4 and last.stat().st_mtime_ns == written
    with pytest.raises(ConfigurationError, match="max_minutes"):
        make_stage(settings(tmp_path, max_minutes=-1.0))


def test_an_odd_number_of_voxels_can_be_completed(settings: Settings, tmp_path: Path) -> None:
    """The last cells reach beyond them. And cells are not trained on pixels that are not."""
    odd = dataclasses.replace(VOLUME, sideways=6.6)
    whole = settings(tmp_path, volume=odd)
    assert whole.viewpoint().volume.grid.shape[1] == 33
    with cut_off(3):
        train_parts(whole, "pixels")
    with pytest.raises(BundleError, match="its training took 2 of 4 steps"):
        train_parts(whole, "student")
    state = Checkpoint.read(train_parts(whole)).state
    assert state["spatial.mean"].shape[1] == 4 * 8 and all(torch.isfinite(value).all() for value in state.values())


def test_it_learns(settings: Settings, tmp_path: Path) -> None:
    """Two frames as they are again and again: depth, classes and voxels are nearer to the truth than at the start."""
    whole = settings(tmp_path, steps=60, learning_rate=0.01)
    # Where no pixel is surely of the ground, the ground is level at first, and here it is; turned volumes unlearn that.
    plain = ("depth_scale", "depth_waves", "depth_far", "volume_roll", "volume_pitch", "unknown_pose", "exact")
    whole.data = dataclasses.replace(whole.data, **dict.fromkeys(plain, 0.0))
    whole.prior = 0.0  # it follows from the labels, without learning
    whole.pixels = dataclasses.replace(whole.pixels, steps=60, learning_rate=0.01)

    def losses(made: Stage) -> dict[str, float]:
        with torch.no_grad():
            terms = made.eval().terms(first_frame(made), torch.Generator().manual_seed(0))
        return {name: value.item() for name, value in terms.items()}

    for part, names in zip(whole.parts().values(), (("depth", "pixels"), ("occupied", "classes")), strict=True):
        stage = make_stage(part)
        before = losses(stage)
        stored = Checkpoint.read(train(part))
        stage.field.load_state_dict(dict(stored.state))
        stage.trunk.load_state_dict(dict(stored.trunk_weights))
        after = losses(stage)
        for name in names:
            assert after[name] < 0.95 * before[name], (name, before, after)


def test_the_first_blocks_of_the_trunk_stay(trained: Path, pixels: str, trunk: Path) -> None:
    """The others learn with the pixels, and stay where cells learn."""
    published = dict(DepthAnythingTrunk(weights=str(trunk)).state_dict())
    learned, kept = (Checkpoint.read(Path(file)).trunk_weights for file in (pixels, trained))
    changed = {name for name, value in published.items() if not torch.equal(learned[name], value)}
    assert changed and all(
        "layer.2" in name or "layer.3" in name or "neck" in name or "layernorm" in name for name in changed
    )
    assert any("layer.2" in name for name in changed) and any("neck" in name for name in changed)
    assert all(torch.equal(kept[name], value) for name, value in learned.items())


def test_a_rendered_image_may_be_shown_with_its_true_depth(settings: Settings, pixels: str, tmp_path: Path) -> None:
    """But at its rim, which is unknown."""
    stage = CompletionStage(settings(tmp_path, pixels_from=pixels))
    batch, spec = first_frame(stage) | {"known": torch.zeros(1, dtype=torch.bool)}, stage.field.spec
    views: list[PixelView] = []
    stage.field.pixels.register_forward_hook(lambda module, given, view: views.append(view))
    complete = stage.field.complete
    stage.field.complete = lambda view, *given: (views.append(view), complete(view, *given))[1]  # type: ignore[assignment]
    batch["depth"] = torch.where(batch["depth"] > 0.0, batch["depth"], 10.0)
    batch["depth"][:, 0] = 0.0

    def shown(exact: bool) -> PixelView:
        stage.terms(batch | {"exact": torch.tensor([exact])}, torch.Generator().manual_seed(0))
        return views[-1]

    def inverse(row: int) -> float:
        return float(spec.inverse_depth(shown(True).code)[0, 0, row, 30])

    own, exact = shown(False), shown(True)
    torch.testing.assert_close(own.code, views[0].code)
    assert (exact.classes[0].argmax(dim=0) == batch["classes"][0] - 1)[batch["classes"][0] != INVALID].all()
    true = 1.0 / batch["depth"][0].clamp(spec.minimum_depth, spec.far)
    near = true[19:22, 29:32].mean().item()
    rim = torch.cat([spec.inverse_depth(own.code)[0, 0, :1, 29:32], true[1:2, 29:32]]).mean().item()
    assert [inverse(20), inverse(0)] == pytest.approx([near, rim], rel=1e-4)
    batch["off"][:, 1] = 0.01  # for each metre
    assert inverse(20) == pytest.approx(near * math.exp(-0.01 / near), rel=1e-3)
    batch["off"][:, 1] = 0.0
    batch["depth"][:, ::2] = 0.0  # sparse, as LiDAR's
    torch.testing.assert_close(shown(True).code, own.code)


def test_a_pair_says_nothing_of_what_is_free(settings: Settings, pixels: str, tmp_path: Path) -> None:
    """It knows no surface far away either: what it says stands close by teaches classes and the ground alone."""
    stage = CompletionStage(settings(tmp_path, pixels_from=pixels))
    batch = first_frame(stage)
    batch["label"] = torch.where(batch["label"] == EMPTY, INVALID, batch["label"])
    terms = stage.terms(batch, torch.Generator().manual_seed(0))
    assert terms["occupied"] == 0.0 and terms["classes"] > 0.0 and terms["ground"] != 0.0


def test_what_is_usual_is_counted_of_images_whose_mounting_is_known(
    settings: Settings, pixels: str, tmp_path: Path
) -> None:
    """In training alone, and not of a pair, which knows nothing that is free."""
    stage = CompletionStage(settings(tmp_path, pixels_from=pixels))
    batch, spatial = first_frame(stage), stage.field.spatial

    def held(**changes: torch.Tensor) -> list[float]:
        spatial.held.zero_()
        stage.terms(batch | changes, torch.Generator().manual_seed(0))
        return [float(part.sum()) for part in spatial.held]

    label, known = batch["label"], batch["label"] != INVALID
    assert held() == [float((known & (label != EMPTY)).sum()), float(known.sum())]
    assert held(known=torch.tensor([False])) == [0.0, 0.0]
    assert held(label=torch.where(label == EMPTY, INVALID, label)) == [0.0, 0.0]
    stage.eval()
    assert held() == [0.0, 0.0]


def first_frame(stage: Stage) -> dict[str, torch.Tensor]:
    """The first frame of a stage's training, as it is, as a batch of one."""
    data, configuration = stage.make_data(), stage.settings
    assert isinstance(data, CompletionData)
    data.setup("fit")
    groups, viewpoint = data.groups["training"], data.viewpoint
    sample = CompletionSamples(groups, [1.0], configuration.data, viewpoint, seed=0, length=2, plain=True)[0]
    return {name: value[None] for name, value in sample.items()}


def points_of(message: Any) -> np.ndarray:
    """The numbers of an organised cloud [rows, columns, fields]."""
    assert [field.name for field in message.fields] == ["x", "y", "z", "deviation"] and not message.is_dense
    assert message.row_step * message.height == len(message.data)
    return np.frombuffer(message.data, "<f4").reshape(message.height, message.width, 4)


def seen_by_torch(trained: Path, sequence: PosedSequence, known: bool) -> tuple[CompletedScene, RigidTransform]:
    """What a checkpoint makes of the first frame, and the place of the camera in its volume."""
    stored, camera = Checkpoint.read(trained), reference_camera(sequence)
    trunk, field, no = trained_trunk(stored), stored.field_of(SceneField).eval(), torch.zeros(1, dtype=torch.bool)
    with torch.inference_mode():
        maps = trunk(CanonicalImages(field.camera, False)(sequence, 0, camera)[None])
        view = field.pixels(*maps, no_ground(field.viewpoint, 1))
        upright = mounting(sequence, camera) if known else None
        state, deviations = view.plane[0].double().numpy().T
        plane = plane_of(state, np.diag((SEEN_DOUBT * deviations) ** 2))
        plane = plane.joined(RoadPlane.of_mounting(upright)) if upright else plane
        given = torch.from_numpy(plane.state).float()[None], torch.ones(1, dtype=torch.bool), no
        view = field.corrected(view, *given, torch.from_numpy(plane.deviations)[None])
        view = view._replace(known_mounting=torch.ones(1, 1, 1, 1))
        own = volume_pose(plane.upright_from_camera, field.viewpoint.height_above_ground)
        matrix = torch.from_numpy(own.matrix).float()[None]
        seen = field.seen_ground(view, matrix, no)
        return whole_scene(field.spatial, view, field.look(matrix, no), seen), own


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_robot_completes_what_torch_completes(
    known: bool, engine: str, bundle: StudentBundle, trained: Path, town: Path
) -> None:
    """Voxels and classes through the whole runtime, for a camera of some height and pitch, be they known or not."""
    assert bundle.head is None and bundle.volume is not None and bundle.volume.cells == (16, 16, 4)
    assert bundle.class_names == COMMON_CLASSES[1:] and bundle.takes_evidence
    sequence = open_recording(town)
    camera, (scene, own) = reference_camera(sequence), seen_by_torch(trained, sequence, known)
    expected = torch.sigmoid(scene.occupied[0]).numpy()
    bundle = dataclasses.replace(bundle, threshold=float(np.quantile(expected, 0.8)))  # it learned little so far
    upright = mounting(sequence, camera)
    assert upright is not None and abs(upright.translation[2] - 1.65) > 0.05  # not the usual height
    image = sequence.image(0, camera)
    seen_by, stated = sequence.cameras[camera], upright if known else None
    completer = Completer(bundle, seen_by, grid_from_camera=own, engine=engine, upright_from_camera=stated)
    found, inside = completer.complete(image), completer.in_view
    assert inside.mean() > 0.2
    np.testing.assert_allclose(found.probability[inside], expected[inside], atol=0.03)  # torch saw in bfloat16
    index = found.voxels.index
    assert len(index) > 50
    names = scene.classes[0].argmax(dim=0).numpy()
    assert (names[index[:, 2] // 2, index[:, 0] // 2, index[:, 1] // 2] == found.voxels.label).mean() > 0.95
    assert found.ground is not None
    shown = np.isfinite(found.ground.points[..., 0])
    assert shown.any() and not shown.all()
    heights = own.apply(found.ground.points[shown].astype(np.float64))[:, 2]
    np.testing.assert_allclose(heights, scene.height[0].numpy()[shown], atol=0.02)
    cloud = points_of(elevation_message(found.ground, 5, "camera"))
    np.testing.assert_array_equal(cloud[..., :3], found.ground.points)
    np.testing.assert_array_equal(cloud[..., 3], found.ground.deviation)
    shifted = RigidTransform(np.eye(3), np.array([-0.4, 0.0, 0.0])) @ own  # by a voxel
    moved = completer.placed(shifted)
    other, both = moved.complete(image), inside[1:] & moved.in_view[:-1]
    np.testing.assert_allclose(other.probability[:-1][both], found.probability[1:][both], atol=1e-4)
    if not known:  # the mounting makes a difference, and can be given later, or with an image alone
        later = completer.mounted(upright).complete(image)
        assert np.abs(later.probability[inside] - found.probability[inside]).max() > 0.01
        seen = completer.see(image)
        assert seen.own is not None and seen.own.plane is not None
        both = seen.own.plane.joined(RoadPlane.of_mounting(upright))
        stated, alone, unknown = (
            completer.mounted(upright).complete(seen),
            completer.complete(seen, evidence=Evidence(plane=both)),
            completer.complete(seen),
        )
        assert alone.ground is not None and stated.ground is not None
        np.testing.assert_array_equal(alone.probability, stated.probability)
        np.testing.assert_array_equal(alone.voxels.label, stated.voxels.label)
        np.testing.assert_array_equal(alone.ground.points, stated.ground.points)
        np.testing.assert_array_equal(alone.depth, stated.depth)
        np.testing.assert_array_equal(unknown.probability, found.probability)
        assert np.abs(unknown.probability[inside] - alone.probability[inside]).max() > 0.01


def test_what_is_known_of_depth_moves_what_the_robot_completes(bundle: StudentBundle, town: Path) -> None:
    """A scale, as sure as can be, moves depths where it was measured, and so do depths of pixels."""
    sequence = open_recording(town)
    name = reference_camera(sequence)
    completer = Completer(bundle, sequence.cameras[name], engine="onnxruntime")
    alone = completer.complete(sequence.image(0, name))
    assert alone.own is not None
    moved = completer.complete(sequence.image(0, name), evidence=Evidence(Scale(1.3, 1e-3)))
    around = cv2.dilate(alone.own.depth, np.ones((3, 3)))  # the rim of the sky is blurred
    near = (cv2.resize(around, alone.depth.shape[::-1]) < 30.0) & np.isfinite(alone.depth)
    assert near.sum() > 500
    ratio = moved.depth[near] / alone.depth[near]
    assert 1.1 < np.median(ratio) < 1.4 and ratio.min() > 1.0
    wall = np.full((2, *alone.own.depth.shape), math.log(6.0), np.float32)
    wall[1] = 0.002**-2  # it learned nothing yet
    completed = completer.complete(sequence.image(0, name), evidence=Evidence(sensed=wall))
    off = [np.median(np.abs(np.log(one.depth[near] / 6.0))) for one in (alone, completed)]
    assert off[1] < 0.3 * off[0]
    assert completed.own is not None
    np.testing.assert_array_equal(completed.own.depth, alone.own.depth)


def test_a_decoder_that_was_changed_or_is_gone_is_refused(bundle: StudentBundle, tmp_path: Path) -> None:
    """All graphs are one student: each is compared with its hash, and saving keeps them."""
    assert bundle.folder is not None and {DECODER, CELLS} <= bundle.made_from().keys()
    kept = bundle.save(tmp_path / "kept", bundle.read_encoder())
    assert kept.takes_evidence and kept.read_decoder() == bundle.read_decoder()
    for name, whole in ((DECODER, bundle.read_decoder()), (CELLS, bundle.read_cells())):
        file, content = tmp_path / "kept" / name, bytearray(whole)
        content[-1] ^= 1
        file.write_bytes(bytes(content))
        with pytest.raises(BundleError, match="sha256"):
            StudentBundle.load(tmp_path / "kept")
        file.unlink()
        with pytest.raises(BundleError, match=rf"{name}: is missing"):
            StudentBundle.load(tmp_path / "kept")
        file.write_bytes(whole)


def test_a_student_that_takes_no_evidence_is_not_scored_with_any() -> None:
    with pytest.raises(ConfigurationError, match="takes no evidence"):
        DeployedStudent(StudentBundle.load(DEFAULT_BUNDLE), threads=1, scale_from="odometry")


def test_words_find_the_classes_that_a_bank_describes(
    bundle: StudentBundle, trained: Path, town: Path, tmp_path: Path
) -> None:
    """A place lies between what its classes are called, by their probabilities; e of a class is its phrases' mean."""
    words = {"car": (1.0, 0.0, 0.0), "sedan": (0.6, 0.8, 0.0), "road": (0.0, 0.0, 1.0)}
    known = (BankClass("car", ("car", "sedan"), (9, 9, 9)), BankClass("road", ("road",), (5, 5, 5)))
    bank = TextBank(tuple(words), np.array(list(words.values())), "tiny", "abc", classes=known)
    bank.save(tmp_path / "bank.safetensors")
    command = ["export", str(trained), str(tmp_path / "b"), "--licence", "none"]
    assert main([*command, "--vocabulary", str(tmp_path / "bank.safetensors")]) == 0
    made = dataclasses.replace(StudentBundle.load(tmp_path / "b"), threshold=0.02)
    (space,) = made.feature_spaces
    car, road = (made.class_names.index(name) for name in ("car", "road"))
    np.testing.assert_allclose(space.weight[:, car], np.array([1.6, 0.8, 0.0]) / np.hypot(1.6, 0.8), atol=1e-3)
    np.testing.assert_allclose(space.weight[:, road], [0.0, 0.0, 1.0], atol=1e-3)
    assert np.count_nonzero(np.abs(space.weight).sum(axis=0)) == 2
    sequence = open_recording(town)
    completer = Completer(made, sequence.cameras[reference_camera(sequence)], engine="onnxruntime")
    completer.set_vocabulary(
        completer.prepare_vocabulary(bank.vocabulary({"body": ("sedan",), "way": ("road",)}, margin=0.0))
    )
    found = completer.complete(sequence.image(0, reference_camera(sequence))).voxels
    units = seen_by_torch(trained, sequence, False)[0].classes[0].softmax(dim=0).numpy()
    x, y, z = (found.index // 2).T
    near_way = units[road, z, x, y] > space.weight[:2, car] @ (0.6, 0.8) * units[car, z, x, y]
    assert len(x) > 50 and (near_way == (found.label == 1)).mean() > 0.95
    with pytest.raises(ConfigurationError, match="names no class of the student"):
        space_of_classes(bank, ("tree",))


def test_voxels_of_a_tilted_volume_are_those_nearest_to_them() -> None:
    """Against a readable twin, with what lies beyond the truth and beyond the image left unknown."""
    truth = VoxelGrid((0.0, -3.0, -2.0), 0.5, (16, 12, 8))
    volume = VoxelGrid((0.0, -3.2, -2.4), 0.4, (20, 16, 12))
    label = np.random.default_rng(0).integers(0, 16, truth.shape, np.uint8)
    camera = Camera(fx=30.0, fy=30.0, cx=31.5, cy=15.5, width=64, height=32)
    truth_from_volume = RigidTransform(rotation_of_angles(-0.03, 0.05, 0.02), np.array([0.1, -0.2, 0.3]))
    pose = RigidTransform(np.eye(3), np.array([0.0, 0.0, 0.1])) @ DEFAULT_GRID_FROM_CAMERA
    found = resampled_labels(label, truth, truth_from_volume.matrix, volume, camera, pose.matrix)
    centres = volume.centres().reshape(-1, 3)
    index, inside = truth.index_of(truth_from_volume.apply(centres))
    shown = np.asarray(camera.project(pose.inverse().apply(centres))[1])
    expected = np.where(inside & shown, label[tuple(np.where(inside[:, None], index, 0).T)], INVALID)
    assert (expected != INVALID).mean() > 0.1
    assert (found.reshape(-1) == expected).mean() > 0.999  # but for roundings at the edges


def test_the_ground_of_a_tilted_volume_lies_where_it_was() -> None:
    """A level ground 0.3 m up, seen from a volume that is pitched by 2°: z = 0.3 − x tan 2°, nearly."""
    grid = VoxelGrid((0.0, -4.0, -2.0), 0.2, (40, 40, 20))
    truth_from_volume = RigidTransform(rotation_of_angles(0.0, -np.radians(2.0), 0.0), np.zeros(3))  # x goes up
    found = resampled_ground(np.full((40, 40), 0.3), grid, truth_from_volume.matrix, grid, 0.0)
    x = grid.centres()[:, 0, 0, 0]
    known = np.isfinite(found[:, 20])
    assert known.mean() > 0.9
    np.testing.assert_allclose(found[known, 20], (0.3 - x * np.sin(np.radians(2.0)))[known], atol=0.01)


def test_a_sample_holds_what_is_true_in_the_stated_volume(
    town: Path, settings: Settings, pixels: str, tmp_path: Path
) -> None:
    """As it is stated, the volume of a town is its own grid, resampled; mirrored, it is that from the other side."""
    sequence = open_recording(town)
    served = make_stage(settings(tmp_path, pixels_from=pixels)).make_data()
    assert isinstance(served, CompletionData)
    served.setup("fit")
    files = [group[:1] for group in served.groups["training"]]
    data = CompletionDataSettings(unknown_pose=0.0, volume_roll=0.0, volume_pitch=0.0, stated_height=0.0)
    samples = CompletionSamples(files, [1.0], data, served.viewpoint, seed=0, length=9)
    plain, mirrored = (
        next(sample for sample in samples if sample["mirrored"] == wanted)  # type: ignore[attr-defined]
        for wanted in (False, True)
    )
    assert torch.equal(plain["label"], mirrored["label"].flip(1))
    assert torch.equal(plain["fused"], mirrored["fused"].flip(-1))
    pose = level_pose(sequence, "camera_left", served.viewpoint).matrix
    np.testing.assert_allclose(plain["volume_from_camera"].numpy(), pose, atol=1e-6)
    truth = voxel_truth(sequence, 0)
    assert truth is not None and truth.ground is not None and truth.grid == DEFAULT_GRID
    middle = served.viewpoint.volume.grid.centres()[8, 16, 0]
    index, _ = truth.grid.index_of(middle[None])
    assert plain["height"][8, 16].item() == pytest.approx(float(truth.ground[index[0, 0], index[0, 1]]), abs=0.02)


def test_frames_are_looked_at_again_turned_and_in_other_colours(settings: Settings, tmp_path: Path) -> None:
    """The truth of a frame stays, and its first look is the frame as it is; pixels are served no voxels."""
    chosen, files = settings(tmp_path), []
    for looks in (1, 2):
        data = dataclasses.replace(chosen.data, augmentations=looks, cache=str(tmp_path / "looks"))
        seen = dataclasses.replace(chosen, data=data, pixels=dataclasses.replace(chosen.pixels, data=data))
        served = make_stage(seen.parts()["pixels"]).make_data()
        assert isinstance(served, CompletionData)
        served.setup("fit")
        (group,) = served.groups["training"]
        files.append(group)
    assert files[1][: len(files[0])] == files[0] and len(files[1]) == 2 * len(files[0])
    (seen_plain, plain), (seen_other, other) = (group[-1] for group in files)
    assert plain == other and {"wide_depth", "wide_classes", "label"} <= load_file(plain).keys()
    one, two = (load_file(file) for file in (seen_plain, seen_other))
    assert not np.array_equal(one["states"], two["states"]) and one["shown"].all() and not two["shown"].all()
    assert np.array_equal(one["camera_from_seen"], np.eye(4)) and not np.array_equal(two["depth"], one["depth"])
    assert (two["depth"][~two["shown"]] == 0.0).all() and (two["classes"][~two["shown"]] == INVALID).all()
    batch = next(iter(served.train_dataloader()))
    assert {"states", "first", "depth", "classes"} <= batch.keys() and not {"label", "height"} & batch.keys()


def test_exporting_keeps_what_a_training_needs(trained: Path, bundle: StudentBundle) -> None:
    """The weights of the bundle are those of the training that are not as they were published, as halves."""
    stored, kept = Checkpoint.read(trained), bundle.load_weights()
    wanted = {f"field.{name}": value for name, value in stored.state.items()}
    wanted |= {f"trunk.{name}": stored.trunk_weights[name] for name in learned_weights(trained_trunk(stored))}
    assert wanted.keys() == kept.keys() and any("layer.3" in name for name in kept)
    for name, value in wanted.items():
        np.testing.assert_array_equal(value.numpy().astype(kept[name].dtype), kept[name], err_msg=name)
    made = bundle.provenance["training"]
    assert made["frames"] == {"training": 2, "validation": 0} and len(made["images_sha256"]) == 64


def test_counts_of_a_long_training_go_on(trained: Path, pixels: str, settings: Settings, tmp_path: Path) -> None:
    """There are more voxels than a half can say. Their share is that of the configuration."""
    content = torch.load(trained, weights_only=True)
    held = content["state_dict"]["field.spatial.held"]
    held[0], held[1] = 50_001.0, 200_003.0
    torch.save(content, tmp_path / "long.ckpt")
    export_scene(tmp_path / "long.ckpt", tmp_path / "long", name="long", licence="none", provenance={})
    stage = make_stage(settings(tmp_path, pixels_from=pixels, start_from=str(tmp_path / "long"), prior=0.25))
    stage.start(None)
    assert torch.equal(stage.field.spatial.held, held) and stage.field.spatial.prior == 0.25


def test_depth_is_doubted_as_the_validation_says(pixels: str, settings: Settings, tmp_path: Path) -> None:
    """Two frames, off by log 1.1 and log 1.21 at a deviation of 0.05, and one without depth; then once more."""
    stage = make_stage(
        settings(tmp_path, pixels_from=pixels, data=CompletionDataSettings(validation=[CompletionSource("any")]))
    )
    assert isinstance(stage, CompletionStage)
    head, size = stage.field.pixels, (1, 1, 32, 64)

    def view(*_: Any) -> PixelView:
        code = head.spec.depth_code_of_inverse(torch.full(size, 0.1))
        unused = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.zeros(1, 3, 2)
        return PixelView(code, 0.05 * head.doubt * torch.ones(size), *unused)

    frames = []
    for metres in (11.0, 12.1, 0.0):
        depth = torch.zeros(1, 32, 64)
        depth[:, 8:] = metres
        frames.append({"fused": torch.zeros(1), "tokens": torch.zeros(1), "depth": depth})
    served = SimpleNamespace(val_dataloader=lambda: frames)
    head.forward = view  # type: ignore[method-assign]
    for _ in range(2):
        stage.start(served)
        assert head.doubt.item() == pytest.approx(1.5 * math.log(1.1) / 0.05, rel=1e-4)


def test_a_prior_of_no_numbers_is_refused(bundle: StudentBundle, tmp_path: Path) -> None:
    """Kernels limit what they read, so voxels alone do not show it."""
    model = onnx.load_from_string(bundle.read_decoder())
    (last,) = (node for node in model.graph.node if node.output[0] == PRIOR)
    last.output[0] = "numbers"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(np.nan), "none"))
    model.graph.node.append(helper.make_node("Mul", ["numbers", "none"], [PRIOR]))
    decoder = model.SerializeToString(), bundle.read_cells()
    made = bundle.save(tmp_path, bundle.read_encoder(), decoder=decoder)
    with pytest.raises(BundleError, match="no finite numbers"):
        Completer(made, made.canonical, engine="onnxruntime", threads=1)


def test_the_node_gives_a_student_the_mounting_of_its_camera(bundle: StudentBundle, town: Path) -> None:
    """That of each image; the same encoder and voxels go on."""
    sequence = open_recording(town)
    name = reference_camera(sequence)
    upright = mounting(sequence, name)
    assert upright is not None
    student = Student(bundle, bundle.grid, logging.getLogger("student"))
    parameters = NodeParameters(threads=1, engine="onnxruntime")

    def completer(pose: RigidTransform | None) -> Completer:
        found = student.get(sequence.cameras[name], bundle.grid_from_camera, parameters, pose)
        assert found is not None
        return found

    first = completer(None)
    assert first.upright_from_camera is None and completer(None) is first
    known = completer(upright)
    assert known.upright_from_camera is upright and completer(upright) is known
    raised = RigidTransform(np.eye(3), np.array([0.0, 0.0, 0.02])) @ upright
    assert completer(raised).upright_from_camera is raised
    assert completer(None).upright_from_camera is None
    assert known.encoder is first.encoder and known.in_view is first.in_view


def test_a_student_of_rooms_has_their_classes_and_reach(trunk: Path, tmp_path: Path) -> None:
    """It sees two views of the rooms of a training seed, in a hand."""
    rooms, folder = tmp_path / "9", tmp_path / "plain"
    RoomWalk(9, 2, (128, 96), leg=1, carrier="hand", supersampling=1).sequence().save(rooms / "sequence")
    camera = CameraSettings(96, 64, field_of_view=70.0, height_above_ground=0.575, pitch_range=(-0.1, 0.65))
    volume = VolumeSettings(near=0.5, far=12.0, ahead=6.4, sideways=3.2, below=0.8, above=2.4, voxel_size=0.1)
    of_rooms = {"world": "rooms", "encoder_weights": str(trunk), "camera": camera, "volume": volume}
    checkpoint = train_parts(configured(rooms, tmp_path / "run", **of_rooms))
    assert main(["export", str(checkpoint), str(folder), "--licence", "none"]) == 0
    bundle = StudentBundle.load(folder)
    assert bundle.class_names == ROOM_CLASSES[1:] and len(set(bundle.class_colours)) == len(ROOM_CLASSES) - 1
    assert bundle.takes_evidence and bundle.height_range is not None and bundle.height_range[0] > 1.0
    given = ["--bundle", str(folder), "--data", str(rooms), "--every", "1"]
    assert main(["evaluate", "geometry", *given, "--controls", "--output", str(tmp_path)]) == 0
    text = (tmp_path / "results.json").read_text()
    assert all(f'"range_m": {reach}' in text for reach in (1.6, 3.2, 6.4)) and "surface (depth of plain)" in text


def test_a_decoder_goes_on_learning(settings: Settings, pixels: str, bundle: StudentBundle, tmp_path: Path) -> None:
    """From where it was, and nothing else."""
    again = settings(tmp_path, start_from=str(bundle.folder), pixels_from=pixels)
    stage = make_stage(again)
    stage.start(None)
    before = bundle.load_weights()
    start = {name: value.clone() for name, value in stage.field.state_dict().items()}
    for name, value in start.items():
        np.testing.assert_array_equal(value.numpy().astype(before[f"field.{name}"].dtype), before[f"field.{name}"])
    after = Checkpoint.read(train(again)).state
    changed = {name.split(".")[0] for name, value in start.items() if not torch.equal(value, after[name])}
    assert changed == {"spatial"}
