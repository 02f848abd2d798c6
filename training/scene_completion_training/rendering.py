"""Patches of loss views rendered through an observed density field, in colours of posed source views.

A field is queried along patch rays of posed pinhole views, anywhere in the view, and around surfaces.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.scene_query import inverse_distance
from scene_completion_ros.voxels.occupancy import composite, density_of_logit
from scene_completion_training.networks.density_field import ObservedField
from scene_completion_training.networks.feature_field import FeatureObservation
from scene_completion_training.randomness import drawn

PATCH = 8  # edge of a patch of `sample_patch_rays`, pixels
RAYS_AT_ONCE = 1 << 11  # of a whole image, so that memory lasts


@dataclass(frozen=True)
class Rays:
    """Rays of pixel patches."""

    origin: Tensor  # [B, R, 3], metres, in the encoder view's optical frame
    direction: Tensor  # [B, R, 3], unit vectors in the same frame
    cosine: Tensor  # [B, R], cosine to the view's optical axis: z-depth = distance × cosine
    view: Tensor  # [B, R], index of the view a ray belongs to
    pixel: Tensor  # [B, R, 2], pixel coordinates (u, v): integers, but for patches that begin between pixels
    patch_size: int  # rays come patch by patch, row-major inside a patch


def sample_patch_rays(
    camera: Camera,
    encoder_from_view: Tensor,  # poses [B, V, 4, 4] of the views in the encoder view's frame
    loss_views: Tensor,  # indices [B, L] of the views that may be rendered
    *,
    patches: int,
    generator: torch.Generator | None = None,
) -> Rays:
    """Samples patches at random positions in randomly chosen loss views (BTS `PatchRaySampler`)."""
    batch = encoder_from_view.shape[0]
    # Drawn on the CPU, so that a training goes the same way on any device.
    chosen = drawn(partial(torch.randint, loss_views.shape[1]), (batch, patches), generator)
    left = drawn(partial(torch.randint, camera.width - PATCH + 1), (batch, patches), generator)
    top = drawn(partial(torch.randint, camera.height - PATCH + 1), (batch, patches), generator)
    return _patch_rays(camera, encoder_from_view, loss_views, chosen, left, top, PATCH)


def sample_cell_rays(
    camera: Camera,
    encoder_from_view: Tensor,  # poses [B, V, 4, 4] of the views in the encoder view's frame
    loss_views: Tensor,  # indices [B, L] of the views that may be rendered
    # Left and upper edge (x, y) of cell (0, 0) of each view [B, V, 2], pixels or parts of them, of any sign.
    offsets: Tensor,
    *,
    patches: int,
    cell: int,
    generator: torch.Generator | None = None,
) -> tuple[Rays, Tensor]:
    """Samples patches that are cells of a grid over randomly chosen loss views: the tokens of a vision transformer.

    Returns the rays, and row and column of each patch's cell [B, P, 2]. Only cells that lie inside the image are drawn.
    """
    batch = encoder_from_view.shape[0]
    chosen = drawn(partial(torch.randint, loss_views.shape[1]), (batch, patches), generator)
    view = torch.gather(loss_views, 1, chosen.to(loss_views.device))
    offset = torch.gather(offsets, 1, view[..., None].expand(-1, -1, 2)).cpu()  # [B, P, 2]
    size = torch.tensor([camera.width, camera.height])
    first = torch.ceil((-offset).clamp_min(0) / cell).long()
    last = torch.div(size - offset, cell, rounding_mode="floor").long().minimum(size // cell)  # exclusive
    index = first + (drawn(torch.rand, (batch, patches, 2), generator) * (last - first)).floor().long()
    corner = offset + cell * index
    rays = _patch_rays(camera, encoder_from_view, loss_views, chosen, corner[..., 0], corner[..., 1], cell)
    return rays, index.flip(-1).to(encoder_from_view.device)


def _patch_rays(
    camera: Camera, encoder_from_view: Tensor, loss_views: Tensor, chosen: Tensor, left: Tensor, top: Tensor, edge: int
) -> Rays:
    """Rays of patches whose loss view (of L) and upper left pixel are given [B, P]."""
    batch, device = encoder_from_view.shape[0], encoder_from_view.device
    view = torch.gather(loss_views, 1, chosen.to(device))  # [B, P]
    offset = torch.arange(edge, device=device)
    v = (top.to(device)[..., None, None] + offset[:, None]).expand(-1, -1, edge, edge)
    u = (left.to(device)[..., None, None] + offset[None, :]).expand(-1, -1, edge, edge)
    pixel = torch.stack([u, v], dim=-1).reshape(batch, -1, 2)
    view = view[..., None].expand(-1, -1, edge * edge).reshape(batch, -1)
    return rays_of_pixels(camera, encoder_from_view, view, pixel, edge)


def rays_of_pixels(camera: Camera, encoder_from_view: Tensor, view: Tensor, pixel: Tensor, patch_size: int) -> Rays:
    """Builds rays from pixels [B, R, 2] of views [B, R] (see `Rays`)."""
    pose = torch.gather(encoder_from_view.flatten(2), 1, view[..., None].expand(-1, -1, 16)).reshape(*view.shape, 4, 4)
    x, y = (pixel[..., 0] - camera.cx) / camera.fx, (pixel[..., 1] - camera.cy) / camera.fy
    ray = torch.stack([x, y, torch.ones_like(pixel[..., 0], dtype=pose.dtype)], dim=-1).to(pose.dtype)
    cosine = 1.0 / ray.norm(dim=-1)
    direction = torch.einsum("brij,brj->bri", pose[..., :3, :3], ray * cosine[..., None])
    return Rays(pose[..., :3, 3], direction, cosine, view, pixel, patch_size)


def image_rays(camera: Camera, encoder_from_view: Tensor, *, stride: int = 1) -> Iterator[Rays]:
    """Rays of every stride-th pixel of a view with pose [4, 4] (BTS `ImageRaySampler`), `RAYS_AT_ONCE` at a time."""
    device = encoder_from_view.device
    rows, columns = (torch.arange(0, size, stride, device=device) for size in (camera.height, camera.width))
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    for pixel in torch.split(torch.stack([u, v], dim=-1).reshape(1, -1, 2), RAYS_AT_ONCE, dim=1):
        view = torch.zeros(pixel.shape[:2], dtype=torch.long, device=device)
        yield rays_of_pixels(camera, encoder_from_view[None, None], view, pixel, 1)


SQUARES = 5


def five_square_rays(camera: Camera, side: int, device: torch.device) -> Rays:
    """Rays [1, 5 · side²] of squares half as high as the image, around its middle and those of its quarters (STEGO)."""
    height, width = camera.height, camera.width
    step = (torch.arange(side, device=device) + 0.5) / side - 0.5
    centres = torch.tensor([(2, 2), (3, 1), (3, 3), (1, 1), (1, 3)], device=device) / 4.0
    half = min(height, width) // 2
    v, u = (place[:, None] + step * half - 0.5 for place in (centres[:, 0] * height, centres[:, 1] * width))
    pixels = torch.stack([u[:, None].expand(-1, side, -1), v[..., None].expand(-1, -1, side)], dim=-1).reshape(1, -1, 2)
    view = torch.zeros(pixels.shape[:2], dtype=torch.long, device=device)
    return rays_of_pixels(camera, torch.eye(4, device=device)[None, None], view, pixels, 1)


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
    """Distances [*shape, K], metres: t_i = 1 / ((1 − s_i)/near + s_i/far), s_i = i/K + U(0, 1/K) or its middle."""
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
    """Draws one surface point from each quantile bin of the depth, apart from those drawn before: [N, 3], N ≤ bins.

    The paper wants the centres far apart; its code only stratifies by depth. They lie in the optical frame, metres.
    `depth`: z-depth [h, w], metres; `apart`: wanted distance, metres; without such a candidate, the farthest is taken.
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
        nearest = torch.cdist(points, torch.stack(centres)).amin(1) if centres else points.new_full(index.shape, apart)
        chosen = (nearest >= apart).float() if (nearest >= apart).any() else nearest
        centres.append(points[int(chosen.argmax())])  # the first of equals
    return torch.stack(centres)


def _unprojected(index: Tensor, z: Tensor, camera: Camera) -> Tensor:
    """Points [N, 3] of pixels with numbers [N] at z-depths [N]."""
    u, v = index % camera.width, torch.div(index, camera.width, rounding_mode="floor")
    return torch.stack([(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z], dim=-1)


def surface_points(depth: Tensor, camera: Camera, count: int, generator: torch.Generator) -> Tensor:
    """Draws points [count, 3] of the surfaces in a depth [h, w], metres, of any pixels; none where there is none."""
    flat = depth.flatten()
    known = torch.nonzero((flat > 0) & (flat < FARTHEST))[:, 0]
    if not len(known):
        return depth.new_zeros(0, 3)
    index = known[torch.randint(len(known), (count,), generator=generator).to(known.device)]
    return _unprojected(index, flat[index], camera)


def points_in_balls(centres: Tensor, radius: float, count: int, generator: torch.Generator) -> Tensor:
    """Points [N, count, 3] drawn evenly in balls around centres [N, 3]: a direction, and radius · u^{1/3}."""
    direction = torch.randn((len(centres), count, 3), generator=generator)
    length = torch.rand((len(centres), count, 1), generator=generator) ** (1.0 / 3.0)
    offset: Tensor = radius * length * direction / direction.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return centres[:, None] + offset.to(centres)


@dataclass(frozen=True, eq=False)
class RenderedPatches:
    """Rays of patches and the field along them."""

    rays: Rays
    distances: Tensor  # samples along them [B, R, K], metres
    points: Tensor  # the samples [B, R·K, 3], first encoder view's optical frame, metres
    logit: Tensor  # density before softplus of the samples [B, R, K]
    weights: Tensor  # compositing weights [B, R, K]
    depth: Tensor  # expected z-depth of each ray in its view [B, R], metres


def render_rays(
    field: ObservedField,
    rays: Rays,
    *,
    samples: int,
    near: float,
    far: float,
    generator: torch.Generator | None = None,
    jitter: bool = True,
) -> RenderedPatches:
    """Renders rays of patches, with samples from near to far, metres; without jitter at evaluation."""
    distances = inverse_depth_samples(
        tuple(rays.cosine.shape), samples, near, far, generator=generator, jitter=jitter, device=rays.cosine.device
    )
    points = (rays.origin[..., None, :] + distances[..., None] * rays.direction[..., None, :]).flatten(1, 2)
    logit = field.density_logit(points).reshape(distances.shape)
    composed = composite(density_of_logit(logit), distances)
    return RenderedPatches(rays, distances, points, logit, composed.weights, composed.distance * rays.cosine)


Rendered: TypeAlias = RenderedPatches | None  # None where no loss needs any


def heaviest_samples(rendered: RenderedPatches, count: int) -> tuple[Tensor, Tensor]:
    """The samples of each ray that weigh most: their points [B, R·count, 3] and weights [B, R, count]."""
    weights, index = rendered.weights.topk(min(count, rendered.weights.shape[-1]), dim=-1)
    points = rendered.points.reshape(*rendered.weights.shape, 3)
    return torch.gather(points, 2, index[..., None].expand(-1, -1, -1, 3)).flatten(1, 2), weights


def composite_features(features: Tensor, weights: Tensor) -> Tensor:
    """Features of rays [B, R, C]: mean of samples [B, R·K, C] by weights [B, R, K], whichever were left out."""
    share = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-6)
    return torch.einsum("brk,brkc->brc", share, features.reshape(*weights.shape, -1))


def invalid_rays(weights: Tensor, invalid: Tensor) -> Tensor:
    """`weight_guided` [B, R]: over 0.9 of the weight [B, R, K] is invalid in every source view [B, S, R, K]."""
    mass = (weights[:, None] * invalid).sum(dim=-1)  # [B, S, R]
    return (mass > 0.9).all(dim=1)


def observed_values(views: Tensor, rendered: RenderedPatches) -> Tensor:
    """Values [B, R, C] of views [B, V, C, H, W] at the rays' pixels, or the nearest ones."""
    rays = rendered.rays
    pixel = rays.pixel.round().long() if rays.pixel.is_floating_point() else rays.pixel
    u, v = pixel[..., 0], pixel[..., 1]
    return views[torch.arange(u.shape[0], device=u.device)[:, None].expand_as(u), rays.view, :, v, u]


@torch.no_grad()
def render_depth(
    field: ObservedField, camera: Camera, *, near: float, far: float, device: torch.device, stride: int = 4
) -> Tensor:
    """Renders the z-depth [H / stride, W / stride], metres, of every stride-th pixel of the first encoder view."""
    every = image_rays(camera, torch.eye(4, device=device), stride=stride)
    depth = [render_rays(field, rays, samples=64, near=near, far=far, jitter=False).depth[0] for rays in every]
    return torch.cat(depth).reshape(-1, len(range(0, camera.width, stride)))


def rendered_features(
    field: FeatureObservation, camera: Camera, *, near: float, far: float, device: torch.device, samples: int = 32
) -> Iterator[Tensor]:
    """Features [R, channels] of pixels, row by row, along rays (in SceneDINO of 32 samples), not expanded."""
    for rays in image_rays(camera, torch.eye(4, device=device)):
        yield ray_features(field, rays, near=near, far=far, samples=samples)


def ray_features(field: FeatureObservation, rays: Rays, *, near: float, far: float, samples: int = 32) -> Tensor:
    """Features [R, channels] composited along rays of one view, not expanded."""
    rendered = render_rays(field, rays, samples=samples, near=near, far=far, jitter=False)
    return composite_features(field.features(rendered.points), rendered.weights)[0]


def sample_colours(
    images: Tensor, masks: Tensor, camera: Camera, view_from_encoder: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """Samples source images at the projections of points [B, N, 3], metres, encoder view's optical frame.

    `images`: [B, S, 3, H, W] in 0..1; `masks`: where they show the world, bool [B, S, H, W]; `view_from_encoder`: poses
    [B, S, 4, 4]. Returns colours [B, S, N, 3] and a flag [B, S, N], true where a point does not project into the source
    image, or to where that does not show the world.
    """
    batch, sources = images.shape[:2]
    rotation, place = view_from_encoder[..., :3, :3], view_from_encoder[..., :3, 3]
    local = torch.einsum("bsij,bnj->bsni", rotation, points) + place[:, :, None]
    depth = local[..., 2].clamp_min(1e-3)
    x = (2.0 * (camera.fx * local[..., 0] / depth + camera.cx) + 1.0) / camera.width - 1.0
    y = (2.0 * (camera.fy * local[..., 1] / depth + camera.cy) + 1.0) / camera.height - 1.0
    grid = torch.stack([x, y], dim=-1)  # [B, S, N, 2]
    invalid = (local[..., 2] <= 1e-3) | (grid.abs() > 1.0).any(dim=-1)
    masked = torch.cat([images, masks[:, :, None].to(images.dtype)], dim=2).flatten(0, 1)
    places = grid.flatten(0, 1)[:, None].clamp(-2.0, 2.0)  # sampled are [B·S, 4, 1, N]
    sampled = functional.grid_sample(masked, places, mode="bilinear", padding_mode="border", align_corners=False)
    values = sampled[:, :, 0].transpose(1, 2).reshape(batch, sources, -1, 4)
    return values[..., :3], invalid | (values[..., 3] < 1.0 - 1e-4)


@dataclass(frozen=True, eq=False)
class SynthesisedPatches:
    """Patches of loss views as they were seen, and as they are rendered from other views."""

    observed: Tensor  # colours of the loss views [P, 3, h, w] in 0..1
    rendered: Tensor  # the same from each source view [P, S, 3, h, w]
    invalid: Tensor  # rays that no source view can supervise, or whose pixel does not show the world [P, h, w]
    depth: Tensor  # expected z-depth [P, h, w], metres


def synthesised_patches(
    field: ObservedField, camera: Camera, rendered: RenderedPatches, batch: dict[str, Tensor], source_views: Tensor
) -> SynthesisedPatches:
    """Gives patches the colours that source views [B, S] of the batch have there; unseen samples are guesses."""
    size = rendered.rays.patch_size
    patches = observed_values(batch["views"], rendered).reshape(-1, size, size, 3).permute(0, 3, 1, 2)
    sources, masks, poses = (
        torch.stack([views[index] for views, index in zip(batch[key], source_views, strict=True)])
        for key in ("views", "masks", "encoder_from_view")
    )
    colours, outside = sample_colours(sources, masks, camera, torch.linalg.inv(poses), rendered.points)
    outside = outside | ~field.in_view(rendered.points)[:, None]
    shape = (*outside.shape[:2], *rendered.distances.shape[1:])  # [B, S, R, K]
    composed = (rendered.weights[:, None, ..., None] * colours.reshape(*shape, 3)).sum(dim=-2)  # [B, S, R, 3]
    hidden = ~observed_values(batch["masks"][:, :, None], rendered)[..., 0]  # pixels that do not show the world
    invalid = invalid_rays(rendered.weights, outside.reshape(shape)) | hidden
    batches, views, count = composed.shape[:3]
    composed = composed.reshape(batches, views, count // size**2, size, size, 3)
    composed = composed.permute(0, 2, 1, 5, 3, 4).flatten(0, 1)  # [P, S, 3, h, w]
    invalid, depth = (of.reshape(-1, size, size) for of in (invalid, rendered.depth))
    return SynthesisedPatches(patches, composed, invalid, depth)
