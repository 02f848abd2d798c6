"""The parity gate: how far voxels may be off in a lower precision or on a GPU, and pictures to compare them on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from scene_completion_ros.arrays import Bytes
from scene_completion_ros.errors import GpuError, ImageError
from scene_completion_ros.geometry.road_plane import RoadPlane
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.evidence import NO_EVIDENCE, Standing
from scene_completion_ros.inference.scene_query import Networks, PreparedScene, SceneImage, prepare_scene
from scene_completion_ros.picture_files import read_rgb

TILTED, CORRECTED = (math.radians(3.0), math.radians(1.0)), (0.1, -0.08, 0.06, 0.05)  # roll, pitch; see `Correction`
GATE_IMAGES = Path(__file__).resolve().parent / "gate_images"
# How what was measured is called; of the latter two, the limit is the least.
WORDS = {
    "probability_mean": "mean difference of the probability",
    "occupied_iou": "IoU of the occupied voxels",
    "labels_agreement": "agreement of the labels",
}
AT_LEAST = ("occupied_iou", "labels_agreement")


@dataclass(frozen=True)
class Gate:
    """What is compared, with what, and how far it may be off."""

    what: str
    right: str  # what it is compared with
    limits: Mapping[str, float]  # by the names of the numbers that are measured: each the worst of all
    cure: str = "It was discarded. Take a CPU engine, and report this with all versions."

    def require(self, numbers: Mapping[str, float]) -> list[str]:
        """The numbers that have a limit, in words. Raises GpuError with those beyond theirs; NaN always is."""
        lines, missed = [], []
        for name, limit in self.limits.items():
            value, least = numbers[name], name in AT_LEAST
            lines.append(f"{WORDS.get(name, name)} {value:.4g} (allowed{' at least' if least else ''} {limit:g})")
            missed += [] if (value >= limit if least else value <= limit) else lines[-1:]
        if missed:
            what = f"{self.what} does not compute what {self.right} computes: {'; '.join(missed)}"
            raise GpuError(what, where="parity gate", cure=self.cure)
        return lines


# Of voxels in view, by bfloat16 on a CPU. `street` and `kitti_student` have an IoU of 0.99, `room` one of 0.97; none
# loses more than 0.3 points of AP on its validation recordings.
BF16 = Gate(
    "bfloat16",
    "single precision",
    {"probability_mean": 0.01, "occupied_iou": 0.96, "labels_agreement": 0.98},
    "The CPU computes in single precision.",
)
# The same by float16 and the kernels of a GPU; the worst of the shipped students is `room` with an IoU of 0.983 and
# 0.0011 of the probability, where ONNX Runtime computes its graphs and the CPU the kernels.
DEVICE = Gate("the GPU", "the CPU", {"probability_mean": 3e-3, "occupied_iou": 0.97, "labels_agreement": 0.98})


def device_parity(bundle: StudentBundle, found: Networks, right: Networks) -> dict[str, float]:
    """What `measure_voxels` finds, at worst, also with corrected depths, a tilted camera and another grid, of cells."""
    numbers = measure_voxels(bundle, found, right)
    if bundle.volume is None:
        return numbers
    plane = RoadPlane(*TILTED, bundle.height_above_ground, np.eye(3) * 1e-6)
    tilted = replace(Standing.of(bundle, None, NO_EVIDENCE, None), numbers=np.array(CORRECTED), level=plane)
    aside = RigidTransform(np.eye(3), np.full(3, bundle.grid.voxel_size / 3.0)) @ bundle.grid_from_camera
    prepared = prepare_scene(bundle, bundle.grid, aside)
    others = measure_voxels(bundle, found, right, prepared, tilted)
    worst = {name: np.min if name in AT_LEAST else np.max for name in numbers}  # NaN is worse than any
    return {name: float(worst[name]([numbers[name], others[name]])) for name in numbers}


def measure_voxels(
    bundle: StudentBundle,
    found: Networks,
    right: Networks,
    prepared: PreparedScene | None = None,  # None for the student's grid
    standing: Standing | None = None,  # None for that of which nothing is known
) -> dict[str, float]:
    """What voxels in view of a grid are off on the images of the gate; the numbers that gates limit.

    The mean difference of the probability is that of the worst image. The IoU is 1 where nothing is occupied; so is the
    agreement of labels of voxels that are occupied for both, where there are none.
    """
    prepared = prepared or prepare_scene(bundle, bundle.grid, bundle.grid_from_camera)
    ours, theirs, in_view = found.scene(prepared), right.scene(prepared), prepared.query.in_view
    off, both, either, same = list[float](), 0, 0, 0
    if standing is None and bundle.takes_evidence:
        standing = Standing.of(bundle, None, NO_EVIDENCE, None)
    for image in gate_images(bundle.canonical.height, bundle.canonical.width):
        one, other = (scene(SceneImage(image, standing=standing)) for scene in (ours, theirs))
        difference = np.abs(one.dense.probability - other.dense.probability)[in_view]
        off.append(float(difference.mean()) if one.finite else float("nan"))
        common, at_ours, at_theirs = np.intersect1d(one.occupied, other.occupied, True, return_indices=True)
        both += len(common)
        either += len(one.occupied) + len(other.occupied) - len(common)
        same += int(np.count_nonzero(one.label[at_ours] == other.label[at_theirs]))
    return {
        "probability_mean": float(np.max(off)),  # NaN is worse than any
        "occupied_iou": both / either if either else 1.0,
        "labels_agreement": same / both if both else 1.0,
    }


def gate_images(height: int, width: int) -> list[Bytes]:
    """Streets, uint8 [height, width, 3] RGB: on noise of their spectrum, the error of fp16 was ten times as large.

    Raises GpuError where they are missing from the installation.
    """
    try:
        images = [middle(read_rgb(path), height, width) for path in sorted(GATE_IMAGES.glob("*.jpg"))]
    except ImageError as error:
        raise GpuError(error.what, where=error.where, cure="Install the package again.") from error
    if not images:
        what = "there are no images for the parity gate"
        raise GpuError(what, where=str(GATE_IMAGES), cure="Install the package again.")
    return images


def middle(image: Bytes, height: int, width: int) -> Bytes:
    """The middle of an image [H, W, 3], of these proportions, scaled to this size."""
    rows, columns = image.shape[:2]
    rows = min(rows, max(round(columns * height / width), 1))
    columns = min(columns, max(round(rows * width / height), 1))
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    cut = image[top : top + rows, left : left + columns]
    return np.ascontiguousarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
