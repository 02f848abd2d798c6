import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import ImageError, VocabularyError
from scene_completion_ros.geometry import (
    DEFAULT_GRID,
    DEFAULT_GRID_FROM_CAMERA,
    Camera,
    Resampler,
    RigidTransform,
    VoxelGrid,
)
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, rotation_of_angles
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer, Completion, camera_warnings, mounting_warnings
from scene_completion_ros.inference.label_query import FoldedVocabulary
from scene_completion_ros.voxels.occupancy import Calibration
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from tests.inference.small_bundle import (
    CANONICAL,
    make_small_bundle,
    random_query,
    random_vocabulary,
    small_bank,
    small_space,
)

CAMERA = Camera(fx=718.856, fy=718.856, cx=607.19, cy=185.2, width=1241, height=376)
CALIBRATION = Calibration("piecewise_linear", (0.0, 0.2, 0.8), (0.0, 0.5, 0.95))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    return make_small_bundle(tmp_path_factory.mktemp("bundle"), calibration=CALIBRATION)


@pytest.fixture(scope="module")
def completer(bundle: StudentBundle) -> Completer:
    return Completer(bundle, CAMERA)


@pytest.fixture(scope="module")
def completed(completer: Completer) -> Completion:
    return completer.complete(picture(), stamp_ns=123)


def picture(seed: int = 0, camera: Camera = CAMERA) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)


def test_a_completion_is_consistent(completer: Completer, completed: Completion, bundle: StudentBundle) -> None:
    result, voxels = completed, completed.voxels
    assert voxels.class_names == ("unlabelled",)
    assert not voxels.label.any() and np.all(voxels.confidence == 1.0)
    assert voxels.stamp_ns == 123
    assert voxels.grid == DEFAULT_GRID
    assert completer.warnings == []
    assert len(voxels) > 1000
    np.testing.assert_array_equal(voxels.index, np.argwhere(voxels.state >= VoxelState.SURFACE))
    np.testing.assert_array_equal(voxels.probability, result.probability[tuple(voxels.index.T)])
    assert voxels.probability.min() >= bundle.threshold
    free = np.isin(voxels.state, [VoxelState.FREE_SEEN, VoxelState.FREE_INFERRED])
    assert result.probability[free].max() < bundle.threshold
    np.testing.assert_array_equal(voxels.state == VoxelState.UNOBSERVED, ~completer.in_view)
    np.testing.assert_allclose(
        result.probability, np.where(completer.in_view, CALIBRATION.apply(result.alpha), 0.0), atol=1e-6
    )
    assert (voxels.index.dtype, voxels.state.dtype, voxels.label.dtype) == (np.int32, np.uint8, np.uint8)
    assert set(result.timings_ms) == {"resample", "encode", "query", "march", "assemble", "label", "total"}
    assert result.depth.shape == (96, 320) == (result.depth_camera.height, result.depth_camera.width)
    assert np.nanmin(result.depth) > 0.0
    assert result.image.shape == (192, 640, 3)


def test_the_student_sees_what_an_ideal_camera_would(bundle: StudentBundle) -> None:
    lens = dataclasses.replace(CAMERA, distortion_model="plumb_bob", distortion=(-0.37, 0.2, 0.001, 0.0006, -0.07))
    found = Completer(bundle, lens, threads=1).complete(picture())
    np.testing.assert_array_equal(found.image, Resampler(lens, CANONICAL)(picture()))
    assert (found.image != Resampler(CAMERA, CANONICAL)(picture())).mean() > 0.5
    assert not found.depth_camera.distortion


def test_labels_change_nothing_else(tmp_path: Path, completed: Completion) -> None:
    student = make_small_bundle(tmp_path, classes=7, calibration=CALIBRATION)
    labelled = Completer(student, CAMERA).complete(picture())
    for name in ("state", "index", "probability"):
        np.testing.assert_array_equal(getattr(labelled.voxels, name), getattr(completed.voxels, name))
    assert set(labelled.timings_ms) == set(completed.timings_ms)
    assert (labelled.voxels.class_names, labelled.voxels.class_colours) == (student.class_names, student.class_colours)
    assert (labelled.voxels.label.dtype, labelled.voxels.confidence.dtype) == (np.uint8, np.float32)
    assert len(np.unique(labelled.voxels.label)) > 3 and (labelled.voxels.confidence < 1.0).all()


@pytest.mark.parametrize(("shape", "message"), [((480, 640, 3), "640x480"), (picture().shape[:2], None)])
def test_images_of_another_size_and_grey_ones_are_refused(
    completer: Completer, shape: tuple[int, ...], message: str | None
) -> None:
    with pytest.raises(ImageError, match=message):
        completer.complete(np.zeros(shape, dtype=np.uint8))


def test_what_the_camera_does_not_cover_is_unobserved(bundle: StudentBundle) -> None:
    narrow = Camera(fx=800.0, fy=800.0, cx=319.5, cy=239.5, width=640, height=480)
    completer = Completer(bundle, narrow, threads=1)
    ratio, coverage = completer.warnings
    assert "1.250 (a pinhole of 43.6°), the student was trained on 0.500 to 0.650 (75.1° to 90.0°)" in ratio
    assert "take a wider lens, or train with this camera (scene-completion train, docs/training.md#another" in ratio
    assert "%" in coverage and "A wider lens or the uncropped image covers more" in coverage
    wide = Camera(fx=250.0, fy=250.0, cx=319.5, cy=239.5, width=640, height=480)
    assert "take a longer lens, or train" in camera_warnings(bundle, wide, 1.0)[0]
    result = completer.complete(picture(0, narrow))
    points = completer.grid_from_camera.inverse().apply(DEFAULT_GRID.centres().reshape(-1, 3))
    seen = (result.voxels.state != VoxelState.UNOBSERVED).reshape(-1)
    # Seen voxels project into the narrow image, up to half a canonical pixel (1.1 of its own).
    pixels = narrow.project(points[seen])[0]
    assert np.all((pixels > -2.0) & (pixels < [641.0, 481.0]))
    assert 0.1 < seen.mean() < 0.5
    assert np.all(result.alpha.reshape(-1)[~seen] == 0.0)
    uncovered = ~Resampler(narrow, completer.depth_camera).validity
    assert 0.3 < uncovered.mean() < 0.9
    assert np.all(np.isnan(result.depth[uncovered]))
    assert np.all(np.isfinite(result.depth[~uncovered]))


def test_threads_do_not_change_the_result_nor_disturb_each_other(
    bundle: StudentBundle, completer: Completer, completed: Completion
) -> None:
    expected = completed.voxels
    single = Completer(bundle, CAMERA, threads=1)
    results = []

    def work(one: Completer) -> None:
        for _ in range(3):
            results.append(one.complete(picture()).voxels)

    workers = [threading.Thread(target=work, args=(one,)) for one in (completer, single)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120.0)
    assert len(results) == 6
    for result in results:
        assert np.mean(result.state != expected.state) < 1e-4


def test_placed_elsewhere_it_is_as_if_it_had_been_built_there(bundle: StudentBundle) -> None:
    grid = VoxelGrid((2.0, -3.2, -1.6), 0.2, (32, 32, 16))
    here = Completer(bundle, CAMERA, grid=grid, threads=1)
    there = RigidTransform(np.eye(3), np.array([0.7, -0.4, 0.2])) @ DEFAULT_GRID_FROM_CAMERA
    before = here.complete(picture())
    moved = here.placed(there).complete(picture())
    built = Completer(bundle, CAMERA, grid=grid, grid_from_camera=there, threads=1).complete(picture())
    np.testing.assert_array_equal(moved.voxels.state, built.voxels.state)
    np.testing.assert_array_equal(moved.probability, built.probability)
    assert moved.voxels.grid_from_camera is there
    assert (moved.voxels.state != before.voxels.state).any()
    np.testing.assert_array_equal(here.complete(picture()).voxels.state, before.voxels.state)  # it stays where it was


@pytest.mark.parametrize(
    ("height", "down_deg", "parts"),
    [
        (1.65, 0.0, []),
        (1.5, 3.0, []),
        (0.4, 0.0, ["stands 0.40 m above the ground, the student was trained at 1.65 m"]),
        (1.65, 20.0, ["looks 20.0° down, the student was trained with -2.9° to 2.9°"]),
        (2.5, -10.0, ["factor of 0.66", "looks 10.0° up"]),
    ],
)
def test_cameras_that_stand_otherwise_are_warned_of(
    bundle: StudentBundle, height: float, down_deg: float, parts: list[str]
) -> None:
    tilted = RigidTransform(rotation_of_angles(0.0, np.radians(down_deg), 0.0), np.array([0.3, 0.0, height]))
    found = mounting_warnings(bundle, tilted @ OPTICAL_FROM_FORWARD.inverse())
    assert mounting_warnings(bundle, None) == []  # it takes none
    assert len(found) == len(parts)
    for text, part in zip(found, parts, strict=True):
        assert part in text


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """A student with labels and a feature space."""
    plain = make_small_bundle(tmp_path_factory.mktemp("speaking"), classes=7, calibration=CALIBRATION)
    return plain.with_vocabulary((small_space(),), small_bank())


def test_labels_legend_and_matches_follow_the_words(speaking: StudentBundle) -> None:
    completer, image, bank = Completer(speaking, CAMERA), picture(), small_bank()
    before = completer.complete(image)
    assert (before.vocabulary, before.query, before.matches) == (None, None, ())
    vocabulary, query = bank.vocabulary(margin=0.1), bank.query(["zebra crossing", "car"])
    completer.set_query(completer.prepare_vocabulary(query))
    asked = completer.complete(image)
    completer.set_vocabulary(completer.prepare_vocabulary(vocabulary))
    named, unlabelled = completer.complete(image), completer.complete(image, labels=False)
    np.testing.assert_array_equal(asked.voxels.label, before.voxels.label)
    assert named.vocabulary is vocabulary and named.voxels.class_names == ("vehicle", "tree", "unknown")
    assert named.voxels.class_colours == ((1, 2, 3), (0, 99, 0), (128, 128, 128))
    assert {0, 2} <= set(np.unique(named.voxels.label)) <= {0, 1, 2} and (named.voxels.confidence < 1.0).all()
    assert unlabelled.voxels.class_names == ("unlabelled",) and not unlabelled.voxels.label.any()
    assert 0 < max(len(found.voxels) for found in asked.matches) < len(before.voxels)
    for one in (asked, named, unlabelled):
        for name in ("state", "index", "probability"):
            np.testing.assert_array_equal(getattr(one.voxels, name), getattr(before.voxels, name))
        assert one.query is query and [found.phrase for found in one.matches] == ["zebra crossing", "car"]
        assert all((found.probability >= 0.5).all() for found in one.matches)
        assert [len(found.voxels) for found in one.matches] == [len(found.voxels) for found in asked.matches]
    # One at another place has the same words; back to the classes of the student.
    assert completer.placed(completer.grid_from_camera).complete(image).vocabulary is vocabulary
    completer.set_vocabulary(None)
    completer.set_query(None)
    after = completer.complete(image)
    np.testing.assert_array_equal(after.voxels.confidence, before.voxels.confidence)
    assert after.voxels.class_names == speaking.class_names and after.matches == ()


def test_words_of_another_student_and_queries_that_cannot_be_are_refused(
    speaking: StudentBundle, bundle: StudentBundle, completer: Completer
) -> None:
    own, bank = Completer(speaking, CAMERA), small_bank()
    with pytest.raises(VocabularyError, match="student small has no feature spaces"):
        completer.prepare_vocabulary(bank.vocabulary())
    with pytest.raises(VocabularyError, match="prepared for another student than small"):
        own.set_vocabulary(FoldedVocabulary.of(bank.vocabulary(), small_space(seed=1)))
    with pytest.raises(VocabularyError, match="prepared for another student than small"):
        own.set_query(FoldedVocabulary.of(bank.query(["car"]), small_space(seed=1)))
    with pytest.raises(VocabularyError, match="asks for 2 phrases.*as labels"):
        own.set_query(own.prepare_vocabulary(random_vocabulary(2, 2)))
    with pytest.raises(VocabularyError, match="asks for 17 phrases"):
        own.set_query(own.prepare_vocabulary(random_query(17)))
    assert own.complete(picture()).vocabulary is None  # it goes on with what it had
