"""Class vocabularies of voxels and images, and the 15 classes that semantic scene completion is scored in.

Voxels: 0 is empty, 255 does not count. Images: 0 of the common classes is what no voxel can hold (the sky). The common
classes and their order are those of S4C (Hayler et al., 3DV 2024) and SceneDINO (Jevtić et al., ICCV 2025).
"""

from collections.abc import Mapping

import numpy as np

from scene_completion_ros.arrays import Bytes, Integers
from scene_completion_ros.errors import GridError

EMPTY = 0
INVALID = 255  # truth that does not count. Label images have -1 as well


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(","))


COMMON_CLASSES = _names(
    """empty, car, bicycle, motorcycle, truck, other-vehicle, person, road, sidewalk, building, fence, vegetation,
    terrain, pole, traffic-sign, other-object"""
)  # the 15 classes of S4C and SceneDINO behind "empty", by id

SCANNET_CLASSES = _names(
    """wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, desk, curtain,
    refrigerator, shower curtain, toilet, sink, bathtub, otherfurniture"""
)  # the 20 classes of ScanNet's benchmark, in its order (Dai et al., CVPR 2017)

# Classes of rooms by id: those of ScanNet, and three that it leaves without a label.
ROOM_CLASSES = ("empty", *SCANNET_CLASSES, "ceiling", "person", "other-object")

# Weights of S4C's weighted mean IoU: percent of SSCBench-KITTI-360's occupied voxels, nearly. Those of parking areas,
# which count as sidewalk, are not in.
_SHARES = _names(
    """car 2.85, bicycle 0.01, motorcycle 0.01, truck 0.16, other-vehicle 5.75, person 0.02, road 14.98, sidewalk 6.43,
    building 20.0, fence 0.96, vegetation 41.99, terrain 9.15, pole 0.22, traffic-sign 0.06, other-object 0.28"""
)
COMMON_SHARES = {name: float(share) for name, share in map(str.split, _SHARES)}

SSCBENCH_CLASSES = _names(
    """empty, car, bicycle, motorcycle, truck, other-vehicle, person, road, parking, sidewalk, other-ground, building,
    fence, vegetation, terrain, pole, traffic-sign, other-structure, other-object"""
)  # SSCBench-KITTI-360's 18 classes behind "empty", by id (Li et al., arXiv 2306.09001)

SEMANTIC_KITTI_CLASSES = _names(
    """empty, car, bicycle, motorcycle, truck, other-vehicle, person, bicyclist, motorcyclist, road, parking, sidewalk,
    other-ground, building, fence, vegetation, trunk, terrain, pole, traffic-sign"""
)  # SemanticKITTI's 19 classes behind "empty", by learning id (Behley et al., ICCV 2019)

# What robots drive on, by the names of all of these vocabularies.
GROUND_CLASSES = ("road", "parking", "sidewalk", "terrain", "other-ground", "floor")

# Cityscapes' 19 classes of pixels that are scored, by train id (Cordts et al., CVPR 2016).
CITYSCAPES_CLASSES = _names("""road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation,
    terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle""")

_LABEL_NAMES = _names(
    """unlabeled, ego vehicle, rectification border, out of roi, static, dynamic, ground, road, sidewalk, parking, rail
    track, building, wall, fence, guard rail, bridge, tunnel, pole, polegroup, traffic light, traffic sign,
    vegetation, terrain, sky, person, rider, car, truck, bus, caravan, trailer, train, motorcycle, bicycle, garage,
    gate, stop, smallpole, lamp, trash bin, vending machine, box, unknown construction, unknown vehicle, unknown
    object"""
)

_UNDEFINED = 254  # an id that the vocabulary does not have


class ClassMap:
    """A map from the ids of one vocabulary to those of another.

    `vocabulary`: name of the source, for errors; `source`: its class names by id; `target`: class names by id of the
    result; `renamed`: source name -> target name of the classes that are called otherwise; None for those that do not
    count.
    """

    def __init__(
        self, vocabulary: str, source: tuple[str, ...], target: tuple[str, ...], renamed: Mapping[str, str | None]
    ) -> None:
        self.vocabulary, self.source, self.target = vocabulary, source, target
        self.table: Bytes = np.full(256, _UNDEFINED, dtype=np.uint8)  # uint8 [256], id -> id
        self.table[INVALID] = INVALID
        for label, name in enumerate(renamed.get(name, name) for name in source):
            self.table[label] = INVALID if name is None else target.index(name)

    def apply(self, labels: Integers) -> Bytes:
        """Map labels [...] to uint8; -1, 255 do not count: 255. Raises GridError for a label of no class."""
        index = labels.astype(np.int64)
        index[index == -1] = INVALID
        low, high = (int(index.min()), int(index.max())) if index.size else (0, 0)
        if low >= 0 and high <= INVALID:
            mapped = self.table[index]
            if not (mapped == _UNDEFINED).any():
                return np.asarray(mapped, dtype=np.uint8)
        known = np.flatnonzero(self.table != _UNDEFINED)
        wrong = np.setdiff1d(index, known).tolist()
        what = f"ids {wrong[:8]} are none of {self.vocabulary}"
        raise GridError(what, where="labels", cure="Map them from their own vocabulary")


SEMANTIC_KITTI_TO_COMMON = ClassMap(
    "SemanticKITTI's learning ids",
    SEMANTIC_KITTI_CLASSES,
    COMMON_CLASSES,
    {"bicyclist": None, "motorcyclist": None, "parking": "sidewalk", "other-ground": "terrain", "trunk": "vegetation"},
)
"""Ground truth of KITTI windows and of the street world in the common classes.

Parking and other ground go where SSCBench's go. Riders do not count, as in SSCBench's ground truth; trunks are
vegetation, as in KITTI-360's and Cityscapes' labels. "other-object" never occurs: SemanticKITTI leaves such voxels
unlabelled. A mean over all 15 classes counts it as 0.
"""

ROOM_IDS = ClassMap("the ids of rooms", ROOM_CLASSES, ROOM_CLASSES, {})  # ground truth of rooms, as it is

SSCBENCH_TO_COMMON = ClassMap(
    "SSCBench-KITTI-360's ids",
    SSCBENCH_CLASSES,
    COMMON_CLASSES,
    {"parking": "sidewalk", "other-ground": "terrain", "other-structure": "building"},
)  # ground truth of SSCBench-KITTI-360 in the common classes, as S4C maps it

# SemanticKITTI's own 19 classes, as they are.
SEMANTIC_KITTI_OFFICIAL = ClassMap("SemanticKITTI's learning ids", SEMANTIC_KITTI_CLASSES, SEMANTIC_KITTI_CLASSES, {})


def _to_cityscapes(vocabulary: str, names: tuple[str, ...], **renamed: str) -> ClassMap:
    """To Cityscapes' 19 classes; names that are none of them do not count."""
    others = {name: None for name in names if name not in CITYSCAPES_CLASSES}
    return ClassMap(vocabulary, names, CITYSCAPES_CLASSES, {**others, **renamed})


LABEL_IDS = _to_cityscapes(
    "the label ids of KITTI-360 and Cityscapes", _LABEL_NAMES, garage="building", gate="fence", smallpole="pole"
)  # of both: KITTI-360 goes on where Cityscapes' ids end, and counts three more of its names

TRAIN_IDS = _to_cityscapes("Cityscapes' train ids", CITYSCAPES_CLASSES)  # as they are

CITYSCAPES_TO_COMMON = ClassMap(
    "Cityscapes' train ids",
    CITYSCAPES_CLASSES,
    COMMON_CLASSES,
    {"wall": "building", "traffic light": "other-object", "traffic sign": "traffic-sign"}
    | dict.fromkeys(("bus", "train"), "other-vehicle")
    | dict.fromkeys(("sky", "rider"), "empty"),
)  # pixels as voxels, as S4C and SceneDINO have it: sky and riders are empty
