"""What fusing a frame costs, beside doing all of the map anew with every frame."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.completion import table
from benchmarks.fused_answers import DrivenFrame
from scene_completion_ros.mapping.temporal_fusion import FusedFrame, FusionSettings, TemporalFusion
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState

WIDE = 30.0
"""Margin of the larger map, metres."""
WINDOW = 10
"""Frames that are fused anew where no map is kept."""


class WholeMap(TemporalFusion):
    """What a map would cost that is copied where it moves, and in which every voxel fades with every frame."""

    def fuse(self, *arguments: Any) -> FusedFrame:
        """Fuses, and besides copies all of the memory once and fades all weights; both are thrown away."""
        before = self.box.lower.copy()
        result = super().fuse(*arguments)
        step = tuple(int(move) for move in before - self.box.lower)
        copied = [np.roll(array, step, axis=(0, 1, 2)) for array in self.memory]
        copied[1] *= np.float32(0.97)
        return result


class Anew(TemporalFusion):
    """What is paid where nothing is kept but frames: the last ones are fused again with every new one."""

    def fuse(self, *arguments: Any) -> FusedFrame:
        """Fuses the last frames, this one included, into an empty map."""
        self._frames = [*getattr(self, "_frames", [])[1 - WINDOW :], arguments]
        self.reset()
        return [super(Anew, self).fuse(*frame) for frame in self._frames][-1]


def speed_table(frames: Sequence[DrivenFrame], threshold: float, threads: int) -> tuple[str, dict[str, Any]]:
    """Time of a frame, in turn for all maps, as a table and as plain values.

    Args:
        frames: A drive, of which the first frames, as many as are fused anew, do not count.
    """
    grid, pose = frames[0].completion.voxels.grid, frames[0].completion.voxels.grid_from_camera
    plain, wide = FusionSettings(), FusionSettings(margin=WIDE)
    maps: dict[str, tuple[TemporalFusion, Callable[[SemanticVoxels], SemanticVoxels]]] = {
        "fused": (TemporalFusion(grid, pose, threshold, plain, threads=threads), lambda voxels: voxels),
        f"a map {WIDE:g} m larger on all sides": (
            TemporalFusion(grid, pose, threshold, wide, threads=threads),
            lambda voxels: voxels,
        ),
        "a frame of the middle quarter": (TemporalFusion(grid, pose, threshold, plain, threads=threads), _middle),
        "all of the map copied and faded": (
            WholeMap(grid, pose, threshold, plain, threads=threads),
            lambda voxels: voxels,
        ),
        f"the last {WINDOW} frames anew": (Anew(grid, pose, threshold, plain, threads=threads), lambda voxels: voxels),
    }
    seconds: dict[str, list[float]] = {name: [] for name in maps}
    updated: dict[str, list[int]] = {name: [] for name in maps}
    entered: dict[str, list[int]] = {name: [] for name in maps}
    for frame in frames:
        for name, (fusion, view) in maps.items():
            voxels = view(frame.completion.voxels)
            start = time.perf_counter()
            result = fusion.fuse(voxels, frame.completion.probability, frame.odometry_from_grid)
            seconds[name].append(time.perf_counter() - start)
            updated[name].append(result.updated)
            entered[name].append(result.entered)
    rows, values = [], {}
    base = np.array(seconds["fused"][WINDOW:])
    for name, (fusion, _) in maps.items():
        found = np.array(seconds[name][WINDOW:])
        values[name] = {
            "box_voxels": int(np.prod(fusion.box.shape)),
            "updated": float(np.median(updated[name][WINDOW:])),
            "entered": float(np.median(entered[name][WINDOW:])),
            "p50_ms": 1e3 * float(np.median(found)),
            "ratio": float(np.median(found / base)),
            "memory_mb": sum(array.nbytes for array in fusion.memory) / 1e6,
        }
        rows.append(
            (
                name,
                *(f"{values[name][key]:.0f}" for key in ("box_voxels", "memory_mb", "updated", "entered", "p50_ms")),
                f"{values[name]['ratio']:.2f}",
            )
        )
    total = 1e3 * float(np.median([frame.completion.timings_ms["total"] / 1e3 for frame in frames]))
    values["completion"] = {"p50_ms": total}
    header = ("map", "voxels of the map", "MB", "voxels updated", "voxels entered", "p50 ms", "times fused")
    return table(header, rows) + f"\n\nCompletion of a frame: {total:.0f} ms.", values


def _middle(voxels: SemanticVoxels) -> SemanticVoxels:
    """Only what lies in the middle quarter of the grid's width."""
    width = voxels.grid.shape[1]
    state = voxels.state.copy()
    state[:, : 3 * width // 8] = state[:, 5 * width // 8 :] = VoxelState.UNOBSERVED
    kept = state[tuple(voxels.index.T)] >= VoxelState.SURFACE
    names = ("index", "probability", "label", "confidence")
    return replace(voxels, state=state, **{name: getattr(voxels, name)[kept] for name in names})
