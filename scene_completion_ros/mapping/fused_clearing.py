"""Which voxels of a fused frame may end or pass a clearing ray: only what the frame itself has seen clears.

A fused frame answers from memory where the frame itself sees nothing. Memory must not clear, for what it calls free may
have been entered since; nor must it keep the frame from clearing what it sees itself: close to the camera rays lie in
the image where the centres of voxels do not, and there nothing but memory says anything.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scene_completion_ros.errors import GridError
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState


def clearing_voxels(fused: SemanticVoxels, now: SemanticVoxels) -> SemanticVoxels:
    """The voxels that clearing rays are to be followed through.

    Args:
        fused: A frame joined with memory.
        now: The same frame alone.

    Returns:
        The fused voxels with other states: `FREE_SEEN` is left only where the frame alone says so too. What memory
        calls free is unobserved where the frame does not observe it, and inferred free elsewhere. What is occupied
        stays so, remembered or not.

    Raises:
        GridError: The two are on different grids.
    """
    if fused.grid != now.grid:
        raise GridError("the fused voxels are on another grid than the frame", where="clearing_voxels")
    free = (fused.state == VoxelState.FREE_SEEN) | (fused.state == VoxelState.FREE_INFERRED)
    not_seen_free = free & (now.state != VoxelState.FREE_SEEN)
    unobserved = now.state == VoxelState.UNOBSERVED
    instead = np.where(unobserved, np.uint8(VoxelState.UNOBSERVED), np.uint8(VoxelState.FREE_INFERRED))
    return replace(fused, state=np.where(not_seen_free, instead, fused.state))
