"""Where a field is asked: along rays, anywhere in the view, and around surfaces."""

import torch
from torch import Tensor

from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.scene_query import inverse_distance
from scene_completion_training.randomness import drawn

FARTHEST = 100.0  # pixels that see nothing nearer are no surface, metres
CANDIDATES = 32  # pixels of a depth bin that may become its centre, so that one may lie apart from the others


def inverse_depth_samples(
    shape: tuple[int, ...],  # leading shape, e.g. (B, R), samples of the batch first
    count: int,  # samples K per ray
    near: float,
    far: float,
    *,
    generator: torch.Generator | None = None,
    jitter: bool = True,
    device: torch.device | None = None,  # where the result goes; the jitter is drawn on the CPU
) -> Tensor:
    """Distances t_i = 1 / ((1 − s_i)/near + s_i/far), s_i = i/K + U(0, 1/K); the interval's middle without jitter.

    They are [*shape, K] in metres, increasing.
    """
    steps = torch.arange(count, dtype=torch.float32).expand(*shape, count)
    offset = drawn(torch.rand, (*shape, count), generator) if jitter else torch.full((*shape, count), 0.5)
    s = (steps + offset) / count
    distances: Tensor = inverse_distance(s, near, far)
    return distances.to(device)


def sample_view_volume(
    camera: Camera,
    batch: int,
    count: int,
    *,
    near: float,  # nearest depth, metres
    far: float,  # farthest depth, metres
    # Lowest and highest y (down) in metres that a point may have; points beyond are clamped.
    heights: tuple[float, float],
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Points [B, N, 3] drawn uniformly in depth and pixel from the view between two heights; optical frame, metres."""
    unit = drawn(torch.rand, (batch, count, 3), generator).to(device)
    depth = near + (far - near) * unit[..., 2]
    x = (unit[..., 0] * camera.width - 0.5 - camera.cx) / camera.fx * depth
    y = (unit[..., 1] * camera.height - 0.5 - camera.cy) / camera.fy * depth
    return torch.stack([x, y.clamp(*heights), depth], dim=-1)


def surface_centres(depth: Tensor, camera: Camera, bins: int, apart: float, generator: torch.Generator) -> Tensor:
    """Draws one surface point from each quantile bin of the depth, apart from those drawn before.

    The paper wants the centres far apart; its code only stratifies by depth. Returns centres [N, 3] in the optical
    frame, metres, N ≤ bins.

    `depth`: z-depth [h, w] of the pixels of `camera`, metres; `apart`: wanted distance between two centres, metres;
    where a bin has no such candidate, the farthest is taken.
    """
    flat = depth.flatten()
    known = torch.nonzero((flat > 0) & (flat < FARTHEST))[:, 0]
    if len(known) < bins:
        return depth.new_zeros(0, 3)
    order = known[flat[known].argsort()]
    centres: list[Tensor] = []
    for group in torch.tensor_split(order, bins):
        index = group[torch.randint(len(group), (CANDIDATES,), generator=generator).to(group.device)]
        points = _unprojected(index, flat[index], camera)
        nearest = (
            torch.cdist(points, torch.stack(centres)).amin(dim=1) if centres else torch.full_like(flat[index], apart)
        )
        chosen = (nearest >= apart).float() if (nearest >= apart).any() else nearest
        centres.append(points[int(chosen.argmax())])  # the first of equals
    return torch.stack(centres)


def _unprojected(index: Tensor, depth: Tensor, camera: Camera) -> Tensor:
    u, v = index % camera.width, torch.div(index, camera.width, rounding_mode="floor")
    return torch.stack([(u - camera.cx) / camera.fx * depth, (v - camera.cy) / camera.fy * depth, depth], dim=-1)


def points_in_balls(centres: Tensor, radius: float, count: int, generator: torch.Generator) -> Tensor:
    """Points [N, count, 3] drawn evenly in balls around centres [N, 3]: a direction, and radius · u^{1/3}."""
    direction = torch.randn((len(centres), count, 3), generator=generator)
    length = torch.rand((len(centres), count, 1), generator=generator) ** (1.0 / 3.0)
    offset: Tensor = radius * length * direction / direction.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return centres[:, None] + offset.to(centres)
