"""Images with a class for every pixel, of data sets as their owners lay them out.

    KITTI-360/data_2d_raw/DRIVE/image_00/data_rect/0000000000.png …
    KITTI-360/data_2d_semantics/train/DRIVE/image_00/semantic/0000000000.png …     label ids
    cityscapes/leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png …
    cityscapes/gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png …                         label ids
    bdd100k/images/10k/SPLIT/NAME.jpg …
    bdd100k/labels/sem_seg/masks/SPLIT/NAME.png …                                   train ids

Whatever the ids of a file, labels come out by Cityscapes' train id, 255 where they do not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scene_completion_ros.errors import GridError, ImageError, SequenceError
from scene_completion_ros.evaluation import semantic_classes
from scene_completion_ros.geometry.camera_files import read_kitti_calibration
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.picture_files import read_picture, read_rgb, read_size
from scene_completion_ros.sequences.frame_lists import SIDES, FrameSplit
from scene_completion_ros.sequences.kitti import numbered_images
from scene_completion_ros.sequences.kitti_raw import rectified_camera
from scene_completion_training.arrays import Bytes

_LOOKED_AT = 8  # label files of a folder that are read before any work begins


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image and the classes of its pixels."""

    image_file: Path
    label_file: Path
    ids: semantic_classes.ClassMap  # what the label file holds
    camera: Camera | None = None  # None where it is not known

    def image(self) -> Bytes:
        """Pixels, RGB [H, W, 3]."""
        return read_rgb(self.image_file)

    def labels(self) -> Bytes:
        """Train id of each pixel [H, W], 255 where none counts; an `ImageError` for other ids, or another size."""
        labels = read_classes(self.label_file, self.ids)
        width, height = read_size(self.image_file)
        if labels.shape != (height, width):
            what = f"is {labels.shape[1]}x{labels.shape[0]}, and {self.image_file.name} {width}x{height}"
            raise ImageError(what, where=str(self.label_file), cure="Unpack images and labels of one data set")
        return labels


def read_classes(file: Path, ids: semantic_classes.ClassMap) -> Bytes:
    """Classes [H, W] of a picture of ids, 255 where none counts; an `ImageError` if it is none, or of others."""
    where, cure = str(file), f"Give a picture with {ids.vocabulary}"
    pixels = read_picture(file)
    if pixels.ndim != 2:
        raise ImageError(f"has {pixels.shape[2]} channels, and no ids but colours", where=where, cure=cure)
    try:
        return ids.apply(pixels)
    except GridError as error:
        raise ImageError(error.what, where=where, cure=cure) from error


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """The labelled images of a folder; `name` is its own, `dataset` that of the data set."""

    dataset: str
    name: str
    images: Sequence[LabelledImage]


def labelled_images(folder: Path, split: FrameSplit | None = None) -> LabelledImages:
    """Finds the labelled images of a folder, see the module; of KITTI-360 left ones that a list names, if there is one.

    Raises SequenceError where it is no such folder, or images or labels are missing; ImageError where the labels are of
    another kind.
    """
    folder = folder.resolve()
    above, top = folder.parent, folder.parent.parent
    if above.name == "data_2d_raw":
        found = LabelledImages("KITTI-360", folder.name, _kitti_360(top, folder.name, split))
    elif above.name == "leftImg8bit":
        found = LabelledImages("Cityscapes", f"Cityscapes {folder.name}", _cityscapes(top, folder.name))
    elif (top.name, above.name) == ("images", "10k"):
        found = LabelledImages("BDD100K", f"BDD100K {folder.name}", _bdd100k(top.parent, folder.name))
    else:
        what = "holds no labelled images" if folder.is_dir() else "no such folder"
        cure = "Name data_2d_raw/DRIVE of KITTI-360, leftImg8bit/SPLIT of Cityscapes or images/10k/SPLIT of BDD100K"
        raise SequenceError(what, where=str(folder), cure=cure)
    _check(found.images)
    return found


def _kitti_360(root: Path, drive: str, split: FrameSplit | None) -> list[LabelledImage]:
    if split is not None and not split.names(drive):
        return []
    images = numbered_images(root / "data_2d_raw" / drive / "image_00" / "data_rect")
    folder = root / "data_2d_semantics" / "train" / drive / "image_00" / "semantic"
    labels = numbered_images(folder) if folder.is_dir() else {}
    if not labels:
        raise SequenceError("holds no labels", where=str(folder), cure="Unpack data_2d_semantics.zip of KITTI-360")
    there = sorted(labels.keys() & images.keys())
    if split is not None:
        there = [number for number, side in split.of_drive(drive, {k: k for k in there}) if side == SIDES[0]]
    elif missing := sorted(labels.keys() - images.keys()):
        raise _incomplete([labels[number] for number in missing], len(labels), "labels", "image")
    perspective = root / "calibration" / "perspective.txt"
    camera = rectified_camera(read_kitti_calibration(perspective), "image_00", perspective)[0]
    return [LabelledImage(images[k], labels[k], semantic_classes.LABEL_IDS, camera) for k in there]


def _cityscapes(root: Path, split: str) -> list[LabelledImage]:
    found = []
    for file in sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")):
        city, name = file.parent.name, file.name.removesuffix("_leftImg8bit.png")
        labels = root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png"
        found.append(LabelledImage(file, labels, semantic_classes.LABEL_IDS))
    return _complete(found, root / "leftImg8bit" / split)


def _bdd100k(root: Path, split: str) -> list[LabelledImage]:
    labels, folder = root / "labels" / "sem_seg" / "masks" / split, root / "images" / "10k" / split
    files = sorted(folder.glob("*.jpg"))
    return _complete([LabelledImage(f, labels / f"{f.stem}.png", semantic_classes.TRAIN_IDS) for f in files], folder)


def _complete(images: list[LabelledImage], folder: Path) -> list[LabelledImage]:
    if not images:
        raise SequenceError("holds no images", where=str(folder), cure="Unpack them there, or name another split")
    if missing := [image.label_file for image in images if not image.label_file.is_file()]:
        raise _incomplete(missing, len(images), "images", "labels")
    return images


def _incomplete(missing: Sequence[Path], count: int, what: str, other: str) -> SequenceError:
    found = f"{len(missing)} of {count} {what} have no {other}"
    return SequenceError(found, where=str(missing[0]), cure="Download and unpack the rest")


def _check(images: Sequence[LabelledImage]) -> None:
    """Looks at some label files, all over the folder: at their ids, and whether they can be those that they should."""
    some = images[:: max(1, len(images) // _LOOKED_AT)][:_LOOKED_AT]
    found: set[int] = set()
    for image in some:
        image.labels()
        found.update(np.unique(read_picture(image.label_file)).tolist())
    highest = len(semantic_classes.CITYSCAPES_CLASSES) - 1
    label_ids = some and some[0].ids is semantic_classes.LABEL_IDS
    if label_ids and max(found - {semantic_classes.INVALID}, default=0) <= highest:
        what = f"holds no id above {highest}, and so do the others: these are train ids"
        cure = f"Give pictures with {semantic_classes.LABEL_IDS.vocabulary}, as they are published"
        raise ImageError(what, where=str(some[0].label_file), cure=cure)
