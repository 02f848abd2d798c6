"""Labelled images of KITTI-360, Cityscapes and BDD100K, as their owners lay them out, and half of them."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_ros.errors import ImageError, SequenceError
from scene_completion_ros.sequences.frame_lists import FrameSplit
from scene_completion_training.data.label_images import labelled_images
from tests import official_layouts as layouts


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    folder = layouts.kitti_360(tmp_path, frames=10)
    layouts.kitti_360_semantics(tmp_path, frames=range(2, 8))
    return folder


def test_kitti_360_with_the_frames_of_a_list(drive: Path) -> None:
    found = labelled_images(drive)
    assert (found.dataset, found.name) == ("KITTI-360", layouts.DRIVE)
    assert [image.image_file.stem[-1] for image in found.images] == list("234567")
    image = found.images[0]
    assert np.array_equal(image.labels(), layouts.label_image((140, 38), train_ids=True))
    assert image.image().shape == (38, 140, 3) and set(np.unique(image.labels())) == {0, 2, 10, 13, 255}
    assert image.camera is not None and (image.camera.fx, image.camera.cx, image.camera.width) == (55.25, 68.2, 140)
    listed = [f"{layouts.DRIVE} {number} {side}" for number in (3, 5) for side in "lr"]
    split = FrameSplit(layouts.write_split(drive.parent / "list.txt", [*listed, f"{layouts.DRIVE} 9 l"]))
    assert [image.image_file.stem[-1] for image in labelled_images(drive, split).images] == ["3", "5"]
    with pytest.raises(SequenceError, match="1 of its 5 frames are not in the recordings"):
        split.counted()


def test_ids_that_only_kitti_360_has(drive: Path) -> None:
    """Garages are buildings, gates fences, small poles poles; a lamp does not count, and neither does a caravan."""
    file = labelled_images(drive).images[1].label_file
    ids = np.full((38, 140), 21, np.uint8)
    ids[0, :6] = 34, 35, 37, 38, 29, 44
    cv2.imwrite(str(file), ids)
    assert labelled_images(drive).images[1].labels()[0, :7].tolist() == [2, 4, 5, 255, 255, 255, 8]
    ids[0, 0] = 45
    cv2.imwrite(str(file), ids)
    with pytest.raises(ImageError, match=r"ids \[45\] are none of the label ids of KITTI-360 and Cityscapes"):
        labelled_images(drive)


def test_cityscapes(tmp_path: Path) -> None:
    found = labelled_images(layouts.cityscapes(tmp_path))
    assert (found.dataset, found.name, len(found.images)) == ("Cityscapes", "Cityscapes val", 4)
    image = found.images[3]
    assert image.image_file.name == "munster_000000_000001_leftImg8bit.png" and image.image()[0, 0, 0] == 1
    assert np.array_equal(image.labels(), layouts.label_image((102, 51), train_ids=True))
    assert image.camera is None


def test_bdd100k(tmp_path: Path) -> None:
    found = labelled_images(layouts.bdd100k(tmp_path))
    assert (found.dataset, found.name, len(found.images)) == ("BDD100K", "BDD100K val", 3)
    for image in found.images:
        assert np.array_equal(image.labels(), layouts.label_image((128, 72), train_ids=True))
        assert image.camera is None


def test_half_a_data_set(drive: Path, tmp_path: Path) -> None:
    folder = layouts.cityscapes(tmp_path)
    next((tmp_path / "gtFine" / "val" / "munster").glob("*_labelIds.png")).unlink()
    with pytest.raises(SequenceError, match="1 of 4 images have no labels") as error:
        labelled_images(folder)
    assert "munster_000000_00000" in error.value.where
    with pytest.raises(SequenceError, match="holds no images"):
        labelled_images(folder.parent / "train")
    (drive / "image_00" / "data_rect" / "0000000004.png").unlink()
    with pytest.raises(SequenceError, match="1 of 6 labels have no image"):
        labelled_images(drive)
    shutil.rmtree(tmp_path / "data_2d_semantics")
    with pytest.raises(SequenceError, match="holds no labels"):
        labelled_images(drive)
    shutil.rmtree(drive / "image_00")
    with pytest.raises(SequenceError, match="data_rect: image folder is missing"):
        labelled_images(drive)
    (tmp_path / "bdd" / "images" / "10k" / "val").mkdir(parents=True)
    with pytest.raises(SequenceError, match="holds no images"):
        labelled_images(tmp_path / "bdd" / "images" / "10k" / "val")
    for folder, words in ((tmp_path / "bdd", "holds no labelled images"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(SequenceError, match=words):
            labelled_images(folder)


def test_labels_of_another_kind(drive: Path, tmp_path: Path) -> None:
    layouts.kitti_360_semantics(tmp_path, frames=range(2, 8), train_ids=True)
    with pytest.raises(ImageError, match="these are train ids"):
        labelled_images(drive)
    images = layouts.bdd100k(tmp_path)
    masks = tmp_path / "labels" / "sem_seg" / "masks" / "val"
    first = sorted(masks.glob("*.png"))[0]
    cv2.imwrite(str(first), layouts.label_image((128, 72)))
    with pytest.raises(ImageError, match=r"ids \[23, 26\] are none of Cityscapes' train ids"):
        labelled_images(images)
    cv2.imwrite(str(first), np.zeros((72, 128, 3), np.uint8))
    with pytest.raises(ImageError, match="has 3 channels"):
        labelled_images(images)
    cv2.imwrite(str(first), np.zeros((36, 64), np.uint8))
    with pytest.raises(ImageError, match="is 64x36, and .* 128x72"):
        labelled_images(images)
