"""Scores of a replay, frame by frame, and the tables made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.depth import DepthMetric
from scene_completion_ros.evaluation.occupancy import SSCBENCH_RANGES, OccupancyByRange
from scene_completion_ros.evaluation.truth import ALL, DepthTruth, TruthSource, VoxelTruth
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.scoring.published import PublishedGrid, published_depth

FARTHEST_M = 80.0
DEPTH_PROTOCOLS = {"all pixels": False, "Garg crop": True}
_VOXEL_COLUMNS = ("iou", "precision", "recall", "average_precision")
_DEPTH_COLUMNS = ("abs_rel", "abs_rel_scaled", "rmse", "a1")


class SourceScores:
    """Scores against one ground truth.

    Attributes:
        frames: Images that had ground truth.
        voxel_frames: Of those, with voxels.
        depth_frames: Of those, with depth in a pixel that the node covers.
    """

    def __init__(self) -> None:
        self.frames = self.voxel_frames = self.depth_frames = 0
        self._voxels: OccupancyByRange | None = None
        self._grid: VoxelGrid | None = None
        self._voxels_counted = self._voxels_covered = 0
        self._depth = {name: DepthMetric(crop=crop, maximum=FARTHEST_M) for name, crop in DEPTH_PROTOCOLS.items()}
        self._pixels_counted = self._pixels_covered = 0

    def add_voxels(self, cloud: NDArray[np.void], published: PublishedGrid, truth: VoxelTruth) -> None:
        """Count the voxels of a frame.

        Args:
            cloud: Published voxels [N], see `PublishedGrid.at`.
            published: Grid of the node.
            truth: Ground truth; its grid is the same in all frames.

        Raises:
            GridError: The grid is another one than before, or of no size that ranges are scored in.
        """
        if self._voxels is None:
            self._grid = truth.grid
            self._voxels = OccupancyByRange(truth.grid, ranges=ranges_within(truth.grid))
        elif self._grid != truth.grid:
            raise GridError("the grid changes between frames", where="ground truth", cure="Score them separately")
        found = published.at(cloud, truth.grid, truth.grid_from_camera)
        counted = truth.counted
        self._voxels_counted += int(np.count_nonzero(counted))
        self._voxels_covered += int(np.count_nonzero(counted & found.covered))
        self._voxels.update(
            found.probability, truth.occupied, truth.known & found.covered, truth.regions, found.occupied
        )
        self.voxel_frames += 1

    def add_depth(self, depth: NDArray[np.float32], depth_camera: Camera, truth: DepthTruth) -> None:
        """Count the depth of a frame.

        Args:
            depth: Published depth float32 [h, w]; "too far" counts as 80 m, and pixels without depth do not count.
        """
        found = published_depth(depth, depth_camera, truth.camera)
        counted = (truth.depth > 0.0) & (truth.depth < FARTHEST_M)
        self._pixels_counted += int(np.count_nonzero(counted))
        self._pixels_covered += int(np.count_nonzero(counted & found.covered))
        predicted = np.where(found.covered, np.minimum(found.depth, np.float32(FARTHEST_M)), np.float32(FARTHEST_M))
        true = np.where(counted & found.covered, truth.depth, np.float32(0.0))
        errors = [metric.update(predicted, true) for metric in self._depth.values()]
        self.depth_frames += errors[0] is not None

    def to_json(self) -> dict[str, Any]:
        """Plain values; None where a figure is not defined."""
        result: dict[str, Any] = {"frames": self.frames}
        if self._voxels is not None:
            by_range: dict[str, dict[str, Any]] = {}
            for (range_m, region), scores in self._voxels.compute().items():
                by_range.setdefault(f"{range_m:g} m", {})[region] = _plain(asdict(scores))
            result["voxels"] = {
                "frames": self.voxel_frames,
                "covered": _share(self._voxels_covered, self._voxels_counted),
                "by_range": by_range,
            }
        if self.depth_frames:
            result["depth"] = {
                "frames": self.depth_frames,
                "covered": _share(self._pixels_covered, self._pixels_counted),
                **{name: _plain(asdict(metric.compute())) for name, metric in self._depth.items()},
            }
        return result


class ReplayScores:
    """Scores of all images of a replay against every ground truth there is.

    Args:
        published: Grid of the node.
    """

    def __init__(self, sources: Sequence[TruthSource], published: PublishedGrid) -> None:
        self._published = published
        self._scores = [(source, SourceScores()) for source in sources]

    def add(
        self, cloud: NDArray[np.void], depth: NDArray[np.float32], depth_camera: Camera, *, stamp_ns: int, frame_id: str
    ) -> None:
        """Score one image.

        Args:
            cloud: Published voxels [N] of `voxels.cloud.VOXEL_CLOUD_DTYPE`, in the camera's optical frame.
            depth: Published depth float32 [h, w], metres.
        """
        for source, scores in self._scores:
            truth = source.at(stamp_ns, frame_id)
            if truth is None:
                continue
            scores.frames += 1
            if truth.voxels is not None:
                scores.add_voxels(cloud, self._published, truth.voxels)
            if truth.depth is not None:
                scores.add_depth(depth, depth_camera, truth.depth)

    def to_json(self) -> dict[str, Any]:
        """Ground truth -> scores; without those that had nothing to say of any image."""
        return {source.name: scores.to_json() for source, scores in self._scores if scores.frames}


def ranges_within(grid: VoxelGrid) -> tuple[float, ...]:
    """The ranges of SSCBench that a grid holds, or its own where it is smaller than them all.

    Raises:
        GridError: It holds none, and is no square.
    """
    fitting = [range_m for range_m in SSCBENCH_RANGES if _fits(grid, range_m)]
    whole = round(min(grid.shape[:2]) * grid.voxel_size, 6)
    if not fitting and not _fits(grid, whole):
        raise GridError(f"no range fits into {grid.shape} voxels", where="ground truth", cure="Give a square grid")
    return tuple(fitting) or (whole,)


def _fits(grid: VoxelGrid, range_m: float) -> bool:
    try:
        grid.cropped(range_m)
    except GridError:
        return False
    return True


def summary(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that a page has room for: all voxels in the longest range, depth of all pixels.

    Args:
        scores: Of `ReplayScores.to_json`.
    """
    shown: dict[str, Any] = {}
    for source, values in scores.items():
        if "voxels" in values:
            range_name, regions = list(values["voxels"]["by_range"].items())[-1]
            shown[f"against {source}, {range_name}"] = {name: regions[ALL][name] for name in _VOXEL_COLUMNS}
        if "depth" in values:
            shown[f"against {source}, depth"] = {
                name: values["depth"][next(iter(DEPTH_PROTOCOLS))][name] for name in _DEPTH_COLUMNS
            }
    return shown


def markdown(scores: Mapping[str, Any], title: str) -> str:
    """The scores as a Markdown page.

    Args:
        scores: Of `ReplayScores.to_json`.
    """
    lines = [f"# {title}", ""]
    for source, values in scores.items():
        lines += [f"## Against {source}: {values['frames']} frames", ""]
        if "voxels" in values:
            voxels = values["voxels"]
            lines += [
                f"Voxels of {voxels['frames']} frames; the node's grid covers {_text(voxels['covered'])} of them.",
                "",
                "| range | region | voxels | occupied | " + " | ".join(_VOXEL_COLUMNS) + " |",
                "|---|---|---|---|" + "---|" * len(_VOXEL_COLUMNS),
            ]
            for range_name, regions in voxels["by_range"].items():
                for region, row in regions.items():
                    numbers = " | ".join(_text(row[name]) for name in _VOXEL_COLUMNS)
                    occupied = _text(row["occupied_fraction"])
                    lines.append(f"| {range_name} | {region} | {row['voxels']} | {occupied} | {numbers} |")
            lines.append("")
        if "depth" in values:
            depth = values["depth"]
            lines += [
                f"Depth of {depth['frames']} frames; the node has depth in {_text(depth['covered'])} of the pixels.",
                "",
                "| pixels | " + " | ".join(_DEPTH_COLUMNS) + " |",
                "|---|" + "---|" * len(_DEPTH_COLUMNS),
            ]
            for name in DEPTH_PROTOCOLS:
                lines.append(
                    f"| {name} | " + " | ".join(_text(depth[name][column]) for column in _DEPTH_COLUMNS) + " |"
                )
            lines.append("")
    return "\n".join(lines)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
