from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scene_completion_training.clustering.named_voxels import NamedVoxels

from scene_completion_ros.errors import ConfigurationError


def voxel(index: Any = (1, 2, 3), name: Any = "road", frame: Any = 4, recording: Any = "drive") -> dict[str, Any]:
    return {"recording": recording, "frame": frame, "index": list(index), "class": name}


def content(*voxels: Any, **fields: Any) -> dict[str, Any]:
    classes = {"road": {"colour": [160, 90, 160]}, "kerb": {}}
    return {"schema": 1, "classes": classes, "voxels": [voxel(), voxel((1, 2, 4), "kerb"), *voxels], **fields}


def write(folder: Path, content: Any) -> Path:
    file = folder / "names.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_a_file_comes_back(tmp_path: Path) -> None:
    named = NamedVoxels.read(write(tmp_path, content(voxel((0, 0, 0), "kerb", 0, "other"))))
    assert named.class_names == ("road", "kerb") and named.class_colours[0] == (160, 90, 160) and len(named) == 3
    assert named.voxels == {("drive", 4): {(1, 2, 3): 0, (1, 2, 4): 1}, ("other", 0): {(0, 0, 0): 1}}
    again = NamedVoxels.read(write(tmp_path, named.content()))
    assert again == named  # a colour that was found for a class stays


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("{", "is not valid JSON"),
        ([], "is no object"),
        ({"schema": 1, "classes": {}}, "has no voxels"),
        (content(schema=2), "is 2, this version reads 1"),
        (content(more=1), "has more, which mean nothing"),
        (content(classes=[]), r"classes: \[\] is no object"),
        (content(classes={"road": {}, "kerb": {"colour": [1, 2]}}), r"classes.kerb.colour: \[1, 2\] is no RGB"),
        (content(classes={"road": {}, "kerb": {"colour": [1, 2, 256]}}), "is no RGB"),
        (content(classes={"road": {}, "kerb": {"color": [1, 2, 3]}}), "classes.kerb: has color, which mean nothing"),
        (content(classes={"road": {}, " ": {}}), "' ' is no name"),
        (content(classes={"road": {}, "kerb": {}, "car": {}}), "no voxel is called car"),
        (content(voxels={}), "voxels: {} is no list"),
        (content(7), r"voxels\[2\]: 7 is no object"),
        (content(voxel(name="wall")), r"voxels\[2\].class: 'wall' is none of road, kerb"),
        (content(voxel((5, 5))), r"voxels\[2\].index: \[5, 5\] is no voxel"),
        (content(voxel((5, 5, -1))), "is no voxel"),
        (content(voxel((5, 5, 1.5))), "is no voxel"),
        (content(voxel(frame=True)), "True is no number of a frame"),
        (content(voxel(recording=7)), "7 is no name of a recording"),
        (content(voxel()), r"voxels\[2\]: voxel \[1, 2, 3\] of drive, frame 4 is named twice"),
        (content(voxel(name="kerb")), "is named twice"),
        ({"schema": 1, "classes": {"road": {}}, "voxels": [voxel()]}, "at least two classes"),
        ({"schema": 1, "classes": {}, "voxels": []}, "at least two classes"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, wrong: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        NamedVoxels.read(write(tmp_path, wrong))
    assert str(tmp_path / "names.json") in caught.value.where and caught.value.cure


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        NamedVoxels.read(tmp_path / "none.json")


def test_recordings_and_frames_have_to_be_there(tmp_path: Path) -> None:
    named = NamedVoxels.read(write(tmp_path, content()))
    named.check_recordings({"other": 1, "drive": 5})
    with pytest.raises(ConfigurationError, match="names voxels of drive, which is none of other"):
        named.check_recordings({"other": 9})
    with pytest.raises(ConfigurationError, match="frame 4, and drive has frames 0 to 3"):
        named.check_recordings({"drive": 4})


def test_named_voxels_are_found_among_the_occupied_ones(tmp_path: Path) -> None:
    named = NamedVoxels.read(write(tmp_path, content()))
    occupied = np.array([[3, 3, 3], [1, 2, 4], [0, 0, 0], [1, 2, 3]], np.int16)  # in no order
    rows, classes = named.rows(("drive", 4), occupied, (4, 4, 5))
    assert rows.tolist() == [3, 1] and classes.tolist() == [0, 1]
    assert [len(found) for found in named.rows(("drive", 5), occupied, (4, 4, 5))] == [0, 0]
    with pytest.raises(ConfigurationError, match=r"voxels \[1, 2, 4\] of drive, frame 4 are not occupied"):
        named.rows(("drive", 4), occupied[[0, 2, 3]], (4, 4, 5))
    with pytest.raises(ConfigurationError, match=r"voxels \[1, 2, 3\], \[1, 2, 4\] of drive, frame 4 are not occupied"):
        named.rows(("drive", 4), occupied[:0], (4, 4, 5))
    with pytest.raises(ConfigurationError, match=r"voxels \[1, 2, 4\] of drive, frame 4 are not in the grid of"):
        named.rows(("drive", 4), occupied[2:], (4, 4, 4))
