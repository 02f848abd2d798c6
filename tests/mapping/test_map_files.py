"""A map that was saved is the map that is loaded, and whatever else a file holds is refused in a sentence."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.mapping.temporal_fusion import (
    LARGEST_FILE,
    RememberedVoxels,
    SavedMap,
    TemporalFusion,
    map_bytes,
    read_map,
)
from scene_completion_ros.untrusted_files import tensor_header
from scene_completion_ros.whole_files import tensor_bytes
from tests.mapping.small_voxels import COLOURS, COMPLETED, FREE, NAMES, SURFACE, UNOBSERVED
from tests.mapping.test_temporal_fusion import GRID, TENTH, at, fuse, make, random_probability

ONES = np.ones(2, np.float32)
PLACES = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
TWO = RememberedVoxels(
    np.array([7, -3, 0]), PLACES, np.array([0, 200], np.int32), -ONES, ONES, np.array([1, 0], np.uint8), ONES
)


def a_map(voxels: RememberedVoxels = TWO) -> SavedMap:
    return SavedMap(voxels, "odom", GRID, NAMES, COLOURS, "small", {"head": "ab"}, stamp_ns=5)


def about_of(saved: SavedMap) -> Any:
    """The JSON of its file."""
    header, _ = tensor_header(memoryview(map_bytes(saved)), SceneCompletionError, where="map", cure="")
    return json.loads(header["__metadata__"]["map"])


def driven() -> TemporalFusion:
    """A map of a robot that has driven around a bend, and takes no pose for a jump."""
    rng, fusion = np.random.default_rng(0), make(seen_for=0.0, largest_speed=math.inf, largest_turn=math.inf)
    for step in range(6):
        label = rng.integers(0, 3, GRID.shape)
        fuse(fusion, random_probability(rng), step * TENTH, at(0.3 * step, 0.1 * step, yaw=0.2 * step), label=label)
    return fusion


@pytest.mark.parametrize("pose", [at(1.5, 0.5, yaw=1.0), at(2.4, -0.9, yaw=-2.0)], ids=["there", "further"])
def test_images_after_a_load_are_joined_as_if_there_had_been_no_end(pose: RigidTransform, tmp_path: Path) -> None:
    """As if the next image were of the moment of the last one before, whatever its stamp."""
    before, after = driven(), make(seen_for=0.0)
    saved = a_map(before.remembered())
    (tmp_path / "kept.map").write_bytes(map_bytes(saved))
    loaded = read_map(tmp_path / "kept.map")
    assert (loaded.frame, loaded.grid, loaded.student, loaded.stamp_ns) == ("odom", GRID, "small", 5)
    assert (loaded.class_names, loaded.class_colours) == (saved.class_names, saved.class_colours)
    fuse(after, random_probability(np.random.default_rng(5)), 0, at(40.0))  # which is forgotten
    inside = after.begin_with(loaded.voxels, 70 * TENTH, pose)
    before.memory.seen[...] = -(2**30)  # what was loaded does not count as seen
    for step in range(3):
        probability = random_probability(np.random.default_rng(100 + step))
        expected = fuse(before, probability, (5 + step) * TENTH, pose)
        found = fuse(after, probability, 70 * TENTH + step * TENTH, pose)
        assert found.reset == expected.reset == ""
        for name in ("state", "index", "probability", "label", "confidence"):
            assert getattr(found.voxels, name).tobytes() == getattr(expected.voxels, name).tobytes(), name
        assert found.log_odds.tobytes() == expected.log_odds.tobytes()
    assert 0 < inside <= len(saved.voxels.place)
    assert (expected.voxels.state[np.isnan(probability)] >= SURFACE).sum() > 30  # which are remembered


def test_what_is_loaded_clears_nothing_and_what_lies_elsewhere_is_left_out() -> None:
    """A body and free space around it, out of view of the next image."""
    fusion, loaded = make(seen_for=0.0), make(seen_for=0.0)
    seen = np.full(GRID.shape, 0.05)
    seen[4:6, 5:8, 1:4] = 0.9
    fuse(fusion, seen, 0, at())
    saved, nothing = a_map(fusion.remembered()), np.full(GRID.shape, np.nan)
    assert loaded.begin_with(saved.voxels, 0, at()) == len(saved.voxels.place)
    state = fuse(loaded, nothing, 0, at()).voxels.state
    assert (state[4:6, 5:8, 1:4] == COMPLETED).all() and not (state == FREE).any()
    assert loaded.begin_with(saved.voxels, 0, at(900.0)) == 0
    assert (fuse(loaded, nothing, 0, at(900.0)).voxels.state == UNOBSERVED).all()


def put(name: str, value: Any) -> Any:
    return lambda tensors, about: tensors.update({name: value(tensors[name])})


def set_first(name: str, value: Any) -> Any:
    return lambda tensors, about: tensors[name].reshape(-1).__setitem__(0, value)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda tensors, about: tensors.pop("weight"), "weight: is missing"),
        (put("weight", lambda array: array[:-1]), "is needed"),
        (put("label", lambda array: array.astype(np.int16)), "label: is int16"),
        (put("place", lambda array: array[:, :2]), "place: is int32"),
        (put("lower", lambda array: np.int64(3)), "lower: is int64 ()"),
        (set_first("log_odds", np.nan), "log_odds: holds nan to nan, which is not within -100 to 100"),
        (set_first("agreement", -0.1), "agreement: holds"),
        (set_first("place", -5), "place: holds -5"),
        (set_first("label", 3), "label: holds 0 to 3, which is not within 0 to 2"),
        (lambda tensors, about: about.update(format="voxels"), "is schema 1 of 'voxels'"),
        (lambda tensors, about: about.update(schema=2), "reads schema 1 of 'scene_completion_ros map': update it"),
        (lambda tensors, about: about["grid"].update(voxel_size=0.0), "map.grid.voxel_size: 0.0 is not a length"),
        (lambda tensors, about: about.update(class_names=[]), "class_colours: one RGB colour for each of the 0"),
    ],
)
def test_a_file_that_cannot_be_is_refused(spoil: Any, says: str, tmp_path: Path) -> None:
    saved = a_map()
    about, file = about_of(saved), tmp_path / "kept.map"
    tensors = {name: array.copy() for name, array in saved.voxels._asdict().items()}
    spoil(tensors, about)
    file.write_bytes(tensor_bytes(tensors, {"map": json.dumps(about)}))
    with pytest.raises(SceneCompletionError) as caught:
        read_map(file)
    assert says in str(caught.value) and str(file) in str(caught.value) and "save the map again" in str(caught.value)


def test_a_file_that_is_cut_promises_more_than_it_has_or_is_no_map_is_refused(tmp_path: Path) -> None:
    content, file = map_bytes(a_map()), tmp_path / "kept.map"
    header = b'{"weight":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]},'
    header += content[9 : 8 + int.from_bytes(content[:8], "little")].split(b'"weight"')[0].rstrip(b",") + b"}"
    huge = len(header).to_bytes(8, "little") + header
    for damaged in (b"", content[:5], content[: len(content) // 2], content[:-1], huge, tensor_bytes({}), b"\xff" * 99):
        file.write_bytes(damaged)
        with pytest.raises(SceneCompletionError, match="save the map again"):
            read_map(file)
    with file.open("wb") as sparse:
        sparse.truncate(LARGEST_FILE + 1)  # which takes no room on the disk
    with pytest.raises(SceneCompletionError, match="is larger than"):
        read_map(file)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"frame": "map"}, "has as frame 'map', this node 'odom'"),
        ({"grid": replace(GRID, voxel_size=0.1)}, "has as voxel size 0.1, this node 0.2"),
        ({"class_names": ("road", "tree", "wall")}, "has as class 1 'tree', this node 'car'"),
        ({"class_names": NAMES[:2]}, "has as class 2 None, this node 'wall'"),
        ({"class_names": (*NAMES, "x" * 9000)}, "this node None"),
    ],
)
def test_a_map_of_another_frame_size_or_student_does_not_fit(changed: dict[str, Any], says: str) -> None:
    saved = a_map()
    saved.check_fits("odom", 0.2, NAMES, where="kept.map")
    with pytest.raises(SceneCompletionError) as caught:
        replace(saved, **changed).check_fits("odom", 0.2, NAMES, where="kept.map")
    assert says in str(caught.value) and str(caught.value).startswith("kept.map: ") and len(str(caught.value)) < 500
