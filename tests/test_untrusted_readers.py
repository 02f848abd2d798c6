"""Whatever a foreign document holds: it is read, or refused in a sentence that names it."""

import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from scene_completion_ros.errors import LONGEST, SceneCompletionError
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.inference.bundle import MANIFEST, StudentBundle
from scene_completion_ros.messages.drop_reasons import DropReason, drop_notice, read_drop_notice
from scene_completion_ros.messages.words import read_query, read_vocabulary
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from tests.checkout import ROOT
from tests.inference.small_bundle import make_small_bundle, small_bank, small_space

ROS, TRAINING = "scene_completion_ros.", "scene_completion_training."
CHANGES = 150
IDENTITY = np.eye(4).tolist()


BAD_DOCUMENTS = {
    "deep": b"[" * 5000 + b"]" * 5000,
    "deep objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "huge": b'{"a": [%s]}' % (b"9" * 400),
    "half a character": b'{"a": "\\ud800"}',
    "unfinished": b'{"a": [',
    "no text": b"\xff\xfe\x00",
}
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 5, 0.5, 1e300, -1e300, 1e-300, math.nan, math.inf, 10**299, 2**63, 100_000, 3_000_000_000,
    "", "x", "\0", "word" * 30_000, "../../x", [], {}, [[]], ["x"], [5], {"a": 5}, [1e300] * 3, [100_000] * 3,
    [[1e300, 0], [0]], json.loads("[" * 55 + "]" * 55),
)  # fmt: skip
GONE = object()


def student(folder: Path) -> Any:
    made = make_small_bundle(folder, classes=3).with_vocabulary((small_space(),), small_bank())
    made.with_bf16({"occupied_iou": 1.0})
    return json.loads((folder / MANIFEST).read_text())


def sequence(folder: Path) -> Any:
    image = np.zeros((4, 6, 3), np.uint8)
    frames = [Frame(0, {"left": lambda: image}, RigidTransform.identity(), {"depth": lambda: np.ones((2, 2))})]
    cameras, pose = {"left": Camera(5.0, 5.0, 3.0, 2.0, 6, 4)}, {"left": RigidTransform.identity()}
    PosedSequence("drive", cameras, pose, frames, "recorded").save(folder)
    return json.loads((folder / "sequence.json").read_text())


def by(name: str, *further: Any) -> Callable[[Path], object]:
    """What reads a file, by its name below one of the packages."""

    def read(file: Path) -> object:
        if name.startswith(TRAINING):
            pytest.importorskip("torch")
        return resolve_name(name)(file, *further)

    return read


def of_folder(read: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda file: read(file.parent)


def of_text(read: Callable[[str], object]) -> Callable[[Path], object]:
    return lambda file: read(file.read_text("utf-8", "replace"))


def read_training(file: Path) -> object:
    pytest.importorskip("torch")
    from scene_completion_training.configuration import Configuration, read_configuration

    return read_configuration(file, [], Configuration)


class Reader(NamedTuple):
    """The name of a file, what may stand in it (as YAML, or made in its folder), and what reads it."""

    file: str
    document: str | Callable[[Path], Any]
    read: Callable[[Path], object]


READERS = {
    "camera": Reader(
        "camera.yaml",
        "{image_width: 64, image_height: 48, camera_matrix: {rows: 3, cols: 3, data: [40, 0, 32, 0, 40, 24, 0, 0, 1]},"
        " distortion_model: plumb_bob, distortion_coefficients: {data: [0, 0, 0, 0, 0]},"
        " projection_matrix: {data: [40, 0, 32, 0, 0, 40, 24, 0, 0, 0, 1, 0]}}",
        by(f"{ROS}geometry.camera_files:read_camera"),
    ),
    "camchain": Reader(
        "camera.yaml",
        "{cam0: {camera_model: omni, distortion_coeffs: [0, 0, 0, 0.1], distortion_model: radtan,"
        " intrinsics: [1.3, 40.0, 40.0, 32.0, 24.0], resolution: [64, 48]}}",
        by(f"{ROS}geometry.camera_files:read_camera"),
    ),
    "fisheye": Reader(
        "image_02.yaml",
        "{model_type: MEI, image_width: 64, image_height: 48, mirror_parameters: {xi: 2.2},"
        " distortion_parameters: {k1: 0.1, k2: 0.1, p1: 0.0, p2: 0.0},"
        " projection_parameters: {gamma1: 40.0, gamma2: 40.0, u0: 32.0, v0: 24.0}}",
        by(f"{ROS}geometry.camera_files:read_kitti360_fisheye"),
    ),
    "grid": Reader(
        "grid.yaml",
        f"{{origin: [0, -2, -1], voxel_size: 0.2, shape: [8, 8, 8], grid_from_camera: {IDENTITY}, frame: f}}",
        by(f"{ROS}geometry.grids:read_grid"),
    ),
    "parameters": Reader(
        "robot.yaml",
        "{/**: {ros__parameters: {threads: 2, scale.wait: true, odometry.frame: odom}}}",
        by(f"{ROS}ros.parameters:read_parameters"),
    ),
    "student": Reader(MANIFEST, student, of_folder(StudentBundle.load)),
    "sequence": Reader("sequence.json", sequence, of_folder(PosedSequence.load)),
    "vocabulary": Reader(
        "message.json",
        "{classes: {car: [car]}, margin: 0.02, pooling: max, background: [sky], encoder: {id: tiny, sha256: ab},"
        " embeddings: {car: ADwAPA==}}",
        of_text(read_vocabulary),
    ),
    "query": Reader("message.json", "phrases: [car]", of_text(read_query)),
    "notice": Reader("notice.json", drop_notice(DropReason.DEACTIVATED, 3, "camera"), of_text(read_drop_notice)),
    "segments": Reader("scene.segs.json", "{segIndices: [1, 1, 2, 3]}", by(f"{TRAINING}points.datasets:_segments", 4)),
    "things": Reader(
        "scene.aggregation.json",
        "{segGroups: [{id: 0, objectId: 0, segments: [1, 2], label: couch}, {id: 1, segments: [3], label: wall}]}",
        by(f"{TRAINING}points.datasets:_groups"),
    ),
    "words": Reader(
        "words.yaml",
        (ROOT / "training/configs/vocabularies/unseen_words.yaml").read_text(encoding="utf-8"),
        by(f"{TRAINING}evaluation.open_vocabulary:read_words"),
    ),
    "phrases": Reader(
        "phrases.yaml",
        "{template: 'a {}', classes: {road: {phrases: [road, asphalt], colour: [1, 2, 3]}}, background: [sky]}",
        by(f"{TRAINING}foundation.encoded_words:read_phrases"),
    ),
    "class file": Reader(
        "classes.json",
        "{schema: 1, clusters: [{cluster: 0, name: road, colour: [1, 2, 3], share: 1.0}]}",
        by(f"{TRAINING}clustering:read_class_file", 1),
    ),
    "features": Reader(
        "manifest.json",
        "{schema: 1, cell: 16, image_size: [40, 64], variants: 3, seed: 5, model: {name: a, type: vit,"
        " weights: {f: '00'}, layer: 3, dim: 6, settings: {a: b},"
        " normalisation: {mean: [0, 0, 0], deviation: [1, 1, 1]}}}",
        by(f"{TRAINING}foundation.feature_store:FeatureManifest.read"),
    ),
    "normalisation": Reader(
        "preprocessor_config.json",
        "{image_mean: [0.5, 0.5, 0.5], image_std: [0.5, 0.5, 0.5], rescale_factor: 0.004, do_rescale: true}",
        of_folder(by(f"{TRAINING}foundation.model_files:read_normalisation")),
    ),
    "training": Reader(
        "training.yaml", "{stage: single_view, steps: 10, output: runs, losses: {sparsity: 0.1}}", read_training
    ),
}


def refused(reader: Reader, file: Path) -> str | None:
    """What is said of a file; None where it is read."""
    said = None
    try:
        reader.read(file)
    except SceneCompletionError as error:
        said = str(error)
    assert said != ""
    assert len(said or "") < 3 * LONGEST
    return said


@pytest.mark.parametrize("name", READERS)
def test_no_reader_takes_a_document_of_an_adversary(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    if callable(reader.document):
        reader.document(tmp_path)
    for kind, content in BAD_DOCUMENTS.items():
        (tmp_path / reader.file).write_bytes(content)
        assert refused(reader, tmp_path / reader.file), kind


def places(document: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    below = dict(enumerate(document)) if isinstance(document, list) else document
    for key, value in below.items() if isinstance(below, dict) else ():
        yield from places(value, (*place, key))


def changed(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return {} if value is GONE else value
    document = copy.deepcopy(document)
    within = reduce(getitem, place[:-1], document)
    if value is GONE:
        del within[place[-1]]
    else:
        within[place[-1]] = value
    return document


@pytest.mark.filterwarnings("error:overflow")
@pytest.mark.parametrize("name", READERS)
def test_any_value_is_read_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    reader, draw = READERS[name], random.Random(name)
    document = reader.document(tmp_path) if callable(reader.document) else yaml.safe_load(reader.document)
    file, dump = tmp_path / reader.file, yaml.safe_dump if reader.file.endswith(".yaml") else json.dumps
    everywhere = list(places(document))
    refusals = 0
    for _ in range(CHANGES):
        place, value = draw.choice(everywhere), draw.choice((*VALUES, GONE))
        file.write_text(dump(changed(document, place, value)))
        try:
            refusals += refused(reader, file) is not None
        except Exception as error:
            raise AssertionError(f"{place} as {str(value)[:80]}") from error
    assert refusals > 5
    file.write_text(dump(document))
    assert refused(reader, file) is None
