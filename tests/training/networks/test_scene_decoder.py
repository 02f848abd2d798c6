"""The decoder of cells: where cells look, what the ground makes of voxels, and mirrored scenes."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch.nn import functional

from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.road_plane import RoadPlane
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, rotation_of_angles
from scene_completion_ros.inference.cell_query import CellSampler, PredictedCells
from scene_completion_ros.inference.cells import PRIOR_EDGE, ROAD, STANDS_M, STRIDE, CellVolume, volume_pose
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_training.export import ExportedCells, ExportedColumns
from scene_completion_training.networks.pixel_head import PixelHead, PixelView, corrected
from scene_completion_training.networks.scene_decoder import (
    Look,
    Lookups,
    SceneDecoder,
    centres_of,
    look_up,
)
from scene_completion_training.stages.completion import SceneField, in_cells
from scene_completion_training.viewpoint import Viewpoint
from tests.training.networks.whole_scenes import CompletedScene, whole_scene

CAMERA = Camera(fx=20.0, fy=20.0, cx=15.5, cy=7.5, width=32, height=16)
GRID = VoxelGrid((0.0, -3.2, -2.0), 0.4, (16, 16, 8), "turned")
SPEC = PointCodeSpec(near=0.5, far=20.0, minimum_depth=0.2)
CLASSES = 3


def pose(pitch: float = 0.0, height: float = 0.0) -> torch.Tensor:
    """`volume_from_camera` of a camera that looks down and stands higher than usual."""
    turn = RigidTransform(rotation_of_angles(0.0, pitch, 0.0), np.array([0.0, 0.0, height]))
    return torch.from_numpy((turn @ DEFAULT_GRID_FROM_CAMERA).matrix).float()


def looking(volume_from_camera: torch.Tensor, side: float = 1.0, camera: Camera = CAMERA) -> Look:
    """Where a camera of this pose [4, 4] is looked at; `side`: -1 for a mirrored scene."""
    options = {"volume_from_camera": volume_from_camera[None], "side": torch.tensor([side])}
    return partial(look_up, camera=camera, spec=SPEC, **options)


def looked_up(volume_from_camera: torch.Tensor, side: float = 1.0) -> Lookups:
    """Of all cells."""
    return looking(volume_from_camera, side)(centres_of(GRID, STRIDE)[None])


def decoder(hidden: float = 0.0, before: float = 0.0, there: float = 0.0, **changes: Any) -> SceneDecoder:
    """Whatever it sees, it gives these logits to voxels behind a surface, before it and at it, and to the ground."""
    ground = changes.pop("below", (-9.0, 0.0))  # far below the grid
    options: dict[str, Any] = {"reduced": 4, "widths": (8, 8), "context": 4, "hidden": 8, "ground": -1.0}
    made = SceneDecoder(GRID, SPEC, classes=CLASSES, **options, sees_ground=len(ground) == 2, **changes)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
        assert made.occupied.bias is not None and made.ground.bias is not None and made.named.bias is not None
        made.occupied.bias.copy_(torch.tensor([hidden] * 8 + [before] * 8 + [there]))
        made.ground.bias.copy_(torch.tensor(ground))
        made.named.bias.fill_(1.0)
    return made.eval()


def completed(made: SceneDecoder, depth: torch.Tensor | float, deviation: float, label: int = 0) -> CompletedScene:
    """Of a view that sees these depths [1, 1, 16, 32], with this doubt, and this class everywhere."""
    code = SPEC.depth_code_of_inverse(1.0 / torch.as_tensor(depth)).expand(1, 1, CAMERA.height, CAMERA.width)
    classes = 4.0 * functional.one_hot(torch.full(code.shape[2:], label), CLASSES + 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        view = PixelView(code, torch.full_like(code, deviation), classes, torch.ones(1, 1, 1, 1), torch.zeros(1, 3, 2))
        return whole_scene(made, view, looking(pose()))


@pytest.mark.parametrize(("pitch", "height"), [(0.0, 0.0), (0.06, -0.7)])
def test_cells_look_where_the_camera_projects_them(pitch: float, height: float) -> None:
    where = looked_up(pose(pitch, height))
    centres = VoxelGrid(GRID.origin, 0.8, (8, 8, 4), "cells").centres()  # a cell is two voxels wide
    volume_from_camera = RigidTransform.from_matrix(pose(pitch, height).double().numpy().round(12))
    points = volume_from_camera.inverse().apply(centres.transpose(2, 0, 1, 3).reshape(-1, 3))
    ahead = points[:, 2] > 0.3
    pixels, inside = CAMERA.project(points)
    expected = 2.0 * (pixels + 0.5) / (CAMERA.width, CAMERA.height) - 1.0
    shown = (np.abs(expected) < 1.9).all(axis=1) & ahead
    found = where.pixels.reshape(-1, 2).numpy()
    np.testing.assert_allclose(found[shown], expected[shown], atol=1e-4)
    np.testing.assert_allclose(where.depth.reshape(-1).numpy(), points[:, 2], atol=1e-5)
    clear = ahead & (np.abs(np.abs(expected) - 1.0) > 1e-4).all(axis=1)  # of the edge of the image
    np.testing.assert_array_equal(where.in_view.reshape(-1).numpy()[clear] > 0, inside[clear])


def test_cells_of_a_mirrored_scene_look_at_the_same_pixels() -> None:
    """Image and volume from left to right: what a cell looks up is what its mirror image looked up."""
    assert CAMERA.cx == (CAMERA.width - 1) / 2
    tilted, image = pose(0.05, -0.3), torch.randn(1, 2, 16, 32, generator=torch.Generator().manual_seed(0))

    def sampled(shown: torch.Tensor, side: float) -> tuple[torch.Tensor, torch.Tensor]:
        where = looked_up(tilted, side)
        found = functional.grid_sample(shown, where.pixels[:, None], padding_mode="border", align_corners=False)
        return found.reshape(2, 4, 8, 8), where.depth.reshape(4, 8, 8)

    plain, mirrored = sampled(image, 1.0), sampled(image.flip(-1), -1.0)
    for found, expected in zip(mirrored, plain, strict=True):
        torch.testing.assert_close(found, expected.flip(-1), atol=1e-4, rtol=1e-4)


def test_a_surface_is_what_its_pixel_says_and_what_is_hidden_what_its_cell_says() -> None:
    """Pixels see class 0 at 2.8 m, cells say class 1: with a deviation of 1 %, at 2.8 m and at 5.2 m."""
    made = decoder()
    assert made.named.bias is not None and made.trust.bias is not None
    made.named.bias.data.copy_(torch.tensor([0.0, 9.0, 0.0]))
    made.trust.bias.data.fill_(1.0)
    classes = completed(made, 2.8, 0.01).classes[0, :, 2, :, 4]  # the middles of cells: 0.4 m, 1.2 m, ...
    assert classes[:, 3].argmax() == 0 and classes[:, 6].argmax() == 1
    # e^4 / (e^4 + 3) of the pixel's class, 1 / (e^4 + 3) of others; at the surface nothing is added to that.
    torch.testing.assert_close(classes[0, 3] - classes[1, 3], torch.tensor(4.0), atol=1e-2, rtol=0.0)
    torch.testing.assert_close(classes[0, 6] - classes[1, 6], torch.tensor(4.0 - 9.0), atol=1e-2, rtol=0.0)


def test_the_ground_fills_its_voxel_and_empties_those_below() -> None:
    """At -0.9 m with 0.1 m of doubt: Φ(1) − Φ(−3) of the voxel from -1.2 to -0.8 m."""
    below = (0.1, 2.0 + math.log(math.expm1(0.08)))
    empty, solid = (
        completed(decoder(said, said, said, below=below), 3.0, 0.02).occupied.sigmoid()[0, 5, 5] for said in (-30, 30)
    )
    phi = [0.5 * (1.0 + math.erf((edge + 0.9) / (0.1 * math.sqrt(2.0)))) for edge in (-1.2, -0.8)]
    assert empty[2].item() == pytest.approx(phi[1] - phi[0], abs=1e-3)
    assert solid[3:].min() > 0.99 and solid[:2].max() < 0.01  # what is said to be below the ground is nothing


def test_probabilities_are_a_mean_of_the_network_and_of_what_was_usual_there() -> None:
    """Below obstacles, at the same height above the ground, half a voxel higher here; where that was ever known."""
    below = (0.2, -50.0)  # half a voxel above the usual level
    made, without = decoder(-1.0, -1.0, -1.0, below=below, prior=0.25), decoder(-1.0, -1.0, -1.0, below=below)
    known, occupied = torch.ones(2, *GRID.shape, dtype=torch.bool), torch.zeros(2, *GRID.shape, dtype=torch.bool)
    occupied[:, ..., 2:4], occupied[0, ..., 4] = True, True  # 1, 1 and 0.5 at three heights
    made.hold(occupied, known)
    rows = made.prior_rows()
    layers = gaussian_filter1d([0.0, 0.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0], 0.5)
    np.testing.assert_allclose(rows, np.tile([*(0.25 * layers), 0.25], (4, 1)), atol=1e-6)
    own, mixed = (completed(one, 6.0, 0.1).occupied.sigmoid()[0, 5, 5].double() for one in (without, made))
    lowered = np.interp(np.arange(8) - 0.5, np.arange(8), layers)
    expected = 0.75 * own + 0.25 * torch.from_numpy(lowered)
    expected[4:] = own[4:]  # from -0.2 m on it stands on the ground at -0.8 m
    np.testing.assert_allclose(mixed, expected, atol=1e-3)
    known[..., :3] = False
    above = decoder(-1.0, -1.0, -1.0, below=below, prior=0.25)
    above.hold(occupied, known)
    assert (above.prior_rows()[:, -1] == 0.25).all()  # nothing is known below the ground
    nothing = decoder(-1.0, -1.0, -1.0, below=below, prior=0.25)
    np.testing.assert_allclose(completed(nothing, 6.0, 0.1).occupied.sigmoid()[0, 5, 5], own, atol=1e-6)
    made.train()  # the network learns alone
    np.testing.assert_allclose(completed(made, 6.0, 0.1).occupied.sigmoid()[0, 5, 5], own, atol=1e-6)


def test_a_voxel_is_what_its_pixel_sees_or_lies_before_or_behind_it() -> None:
    """A wall 3 m away, known to 2 %: certain to a voxel. Of places behind and before it others speak."""
    at, behind = (
        completed(decoder(hidden, -20.0, there), 3.0, 0.02).occupied.sigmoid()[0]
        for hidden, there in ((-20.0, 20.0), (20.0, -20.0))
    )
    phi = [0.5 * (1.0 + math.erf(math.log(edge / 3.0) / (0.02 * math.sqrt(2.0)))) for edge in (2.6, 3.4)]
    assert at[7, 8, 4].item() == pytest.approx(phi[1] - phi[0], abs=1e-3) and at[7, 8, 4] > 0.99  # at 3.0 m
    assert at[[4, 10], 8, 4].max() < 1e-3 and behind[4, 8, 4] < 1e-3 and behind[10, 8, 4] > 0.999
    assert at[2, 0].max() < 1e-3 and (behind[2, 0] > 0.999).all()  # outside the image
    found = completed(decoder(2.0, -2.0, 9.0), 3.0, 0.02).occupied.sigmoid()[0, [4, 7, 10], 8, 4]
    assert found.tolist() == pytest.approx([0.119, 1.0, 0.881], abs=0.01)


def test_a_level_road_is_met_where_it_lies() -> None:
    """0.2 m above the usual level, seen exactly, by columns whose road the image shows."""
    fall = ((torch.arange(CAMERA.height) - CAMERA.cy) / CAMERA.fy)[:, None].expand(-1, CAMERA.width)
    depth = 1.0 / (fall / 0.8).clamp_min(0.05)[None, None]
    height = completed(decoder(below=(0.0, 0.0, 50.0)), depth, 1e-3).height[0]
    np.testing.assert_allclose(height[2:, 3:5], -0.8, atol=0.05)
    assert height[0, 0] > 0.0  # outside the image, where nothing is seen to be free


def test_a_road_says_how_far_what_is_seen_lies() -> None:
    """A level road predicted a tenth too near is put right where the mounting is known; the mirrored one alike."""
    viewpoint = Viewpoint()
    camera, spec = viewpoint.camera.resized(320, 96), viewpoint.volume.point_code
    stands = RigidTransform(rotation_of_angles(0.04, 0.02, 0.0), np.array([0.0, 0.0, 1.5]))
    plane = RoadPlane.of_mounting(stands @ OPTICAL_FROM_FORWARD.inverse())
    rays = camera.unproject(camera.pixel_centres())
    true = torch.from_numpy(np.maximum(rays @ plane.down / plane.height, 1e-3)).float()[None, None]
    road = COMMON_CLASSES.index("road") - 1
    classes = torch.zeros(1, len(COMMON_CLASSES), 96, 320)
    classes[:, road][true[:, 0] > 0.02] = 9.0
    seen = spec.depth_code_of_inverse(true / 0.9)
    view = PixelView(seen, torch.full_like(true, 0.02), classes, torch.zeros(1, 1, 1, 1), torch.zeros(1, 3, 2))
    stated = torch.from_numpy(plane.state).float()[None]
    yes, no = torch.tensor([True]), torch.tensor([False])
    right, doubtful = (corrected(view, viewpoint, stated, known, no, ROAD, road) for known in (yes, no))
    near = (true > 0.1) & (true < 0.3)
    ratio = (spec.inverse_depth(right.code) / true)[near]
    assert ratio.mean().item() == pytest.approx(1.0, abs=0.07)  # of 1.11, by a mounting that is a prior
    assert right.known_mounting.item() == 1.0 and doubtful.known_mounting.item() == 0.0
    assert right.deviation[near].mean() < doubtful.deviation[near].mean()
    flipped = PixelView(*(part.flip(-1) for part in view))
    mirrored = corrected(flipped, viewpoint, stated, yes, yes, ROAD, road)
    torch.testing.assert_close(mirrored.code.flip(-1), right.code, rtol=1e-4, atol=1e-4)
    without = corrected(view._replace(classes=torch.zeros_like(classes)), viewpoint, stated, yes, no, ROAD, road)
    assert without.deviation.mean() > right.deviation.mean()  # no road, less to go by


def test_a_head_for_pixels_sees_one_distance_until_it_learned() -> None:
    """Whatever its inputs; and a factor, once it has learned one, is the same for all pixels of an image."""
    torch.manual_seed(0)
    head = PixelHead(SPEC, channels=6, tokens=5, classes=CLASSES, width=8, class_branch_channels=8)
    fused, tokens = torch.randn(2, 6, 4, 6), torch.randn(2, 5, 2, 3)
    plane = torch.randn(2, 2, 8, 12)
    usual = math.sqrt(SPEC.near * SPEC.far)
    for ground in (torch.zeros(2, 2, 8, 12), plane):
        view = head(fused, tokens, ground)
        assert view.code.shape == (2, 1, 8, 12) and view.classes.shape == (2, CLASSES + 1, 8, 12)
        torch.testing.assert_close(1.0 / SPEC.inverse_depth(view.code), torch.full((2, 1, 8, 12), usual))
    torch.nn.init.normal_(head.factor[2].weight)
    depth = 1.0 / SPEC.inverse_depth(head(fused, tokens, plane).code)
    torch.testing.assert_close(depth, depth[:, :, :1, :1].expand_as(depth))
    assert (depth[0] - depth[1]).abs().max() > 1e-3 and (depth - usual).abs().max() > 1e-3
    again = PixelHead.rebuilt(head.state_dict(), Viewpoint())
    again.load_state_dict(head.state_dict())
    alone = PixelHead(SPEC, channels=6, tokens=5, classes=CLASSES, class_branch_channels=8, merging=False)
    torch.nn.init.normal_(alone.depth.weight)
    torch.nn.init.normal_(alone.naming[-1].weight)
    one, other = (alone(fused, each, plane) for each in (tokens, tokens.flip(0)))  # such tokens name pixels alone
    assert torch.equal(one.code, other.code) and not torch.allclose(one.classes, other.classes)


def test_a_volume_stands_upright_and_looks_where_the_camera_looks() -> None:
    """A camera 0.6 m above the ground that looks to the left and 5° down, somewhere on the robot."""
    axes = DEFAULT_GRID_FROM_CAMERA.rotation
    upright = RigidTransform(rotation_of_angles(0.0, np.radians(5.0), np.pi / 2) @ axes, np.array([1.0, 2.0, 0.6]))
    found = volume_pose(upright, 1.65)
    np.testing.assert_allclose(found.translation, [0.0, 0.0, 0.6 - 1.65])
    np.testing.assert_allclose(found.rotation, rotation_of_angles(0.0, np.radians(5.0), 0.0) @ axes, atol=1e-12)


def test_chosen_cells_are_those_of_the_whole_scene() -> None:
    """In any order; the labels of their voxels are found in the same one."""
    made = decoder(2.0, -2.0, 9.0)
    torch.manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    seen = torch.rand(1, 1, 16, 32), torch.full((1, 1, 16, 32), 0.1), torch.randn(1, 4, 16, 32)
    view = PixelView(*seen, torch.ones(1, 1, 1, 1), torch.zeros(1, 3, 2))
    chosen, ground = torch.randperm(256)[None, :40], torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        whole = whole_scene(made, view, looking(pose()), ground)
        some = made.complete(view, looking(pose()), chosen, ground)
    voxels = in_cells(whole.occupied, math.nan)[0, chosen[0]]
    torch.testing.assert_close(some.occupied[0], voxels)
    torch.testing.assert_close(some.classes[0], whole.classes.flatten(2)[0, :, chosen[0]])
    centres = torch.from_numpy(GRID.centres()).float()
    place = torch.stack([in_cells(centres[None, ..., axis], math.nan)[0, chosen[0]] for axis in range(3)], dim=-1)
    expected = made.centres[chosen[0]][:, None] + GRID.voxel_size * (made.inside - 0.5)
    torch.testing.assert_close(place, expected)


def test_a_cell_that_trusts_its_pixel_is_called_what_that_is() -> None:
    """A new branch is silent; with a trust of one it adds the log probability of the class, inside the image."""
    made = decoder()
    silent = completed(made, 3.0, 0.1, label=1).classes
    torch.nn.init.ones_(made.trust.bias)  # type: ignore[arg-type]
    added = (completed(made, 3.0, 0.1, label=1).classes - silent).flatten(2)
    expected = torch.tensor([0.0, 4.0, 0.0, 0.0]).log_softmax(dim=0)[:CLASSES, None]
    inside = looked_up(pose()).in_view[0] > 0.5
    assert inside.any() and not inside.all()
    torch.testing.assert_close(added[0][:, inside], expected.expand(-1, int(inside.sum())))
    assert not added[0][:, ~inside].any()


@pytest.mark.parametrize("known", [False, True])
def test_kernels_around_the_exported_graph_compute_what_the_decoder_does(known: bool) -> None:
    """Lift, both graphs and query, with random weights and a random view: voxels, classes and the ground."""
    # An odd number of cells is not twice that of the coarser map.
    grid = GRID if known else VoxelGrid(GRID.origin, GRID.voxel_size, (18, 14, 8), GRID.frame)
    canonical = Camera(fx=41.3, fy=40.7, cx=31.2, cy=15.1, width=64, height=32)  # no cell lies on the edge of its image
    torch.manual_seed(0)
    options: dict[str, Any] = {"classes": CLASSES, "reduced": 4, "widths": (8, 12), "context": 4, "hidden": 8}
    made = SceneDecoder(grid, SPEC, ground=-1.0, prior=0.4 * known, sees_ground=known, **options).eval()
    made.hold(torch.rand(9, *grid.shape) < torch.rand(grid.shape), torch.rand(9, *grid.shape) < 0.5)
    for parameter in (made.occupied.weight, made.named.weight, made.trust.weight, made.ground.weight, made.mean):
        torch.nn.init.normal_(parameter)
    turn = RigidTransform(rotation_of_angles(0.05, 0.06, 0.0), np.array([0.0, 0.0, -0.3]))
    upright = turn @ DEFAULT_GRID_FROM_CAMERA if known else None  # it rolls, and looks down
    matrix = torch.from_numpy((upright or DEFAULT_GRID_FROM_CAMERA).matrix).float()[None]
    coarse = torch.rand(1, 2 + CLASSES + 1, 4, 8)
    maps = functional.interpolate(coarse, (CAMERA.height, CAMERA.width), mode="bilinear")
    view = PixelView(
        SPEC.depth_code_of_inverse(1.0 / (1.0 + 6.0 * maps[:, :1])),
        0.03 + 0.1 * maps[:, 1:2],
        8.0 * maps[:, 2:],
        torch.full((1, 1, 1, 1), float(known)),
        torch.zeros(1, 3, 2),
    )
    volume = CellVolume(grid, -1.0, ROAD, 0, CLASSES, 4, 4, PRIOR_EDGE * known, (0, 2) if known else ())
    sampler = CellSampler(volume, canonical, SPEC, 1.6)
    # Volumes begin so far above the ground; the pose does not turn about the vertical.
    place = sampler.place(upright and RigidTransform(np.eye(3), np.array([0.0, 0.0, 1.6])) @ upright)
    with torch.no_grad():
        classes = view.classes.softmax(dim=1)
        surfaces = torch.cat([-SPEC.inverse_depth(view.code).log(), view.deviation], dim=1)
        shown, of_pixels, context = (
            part[0].permute(1, 2, 0).contiguous().numpy() for part in (surfaces, classes, made.reduce(classes))
        )
        local, columns = map(torch.from_numpy, sampler.look_up(shown, context, place))
        seen = sampler.seen_ground(shown, of_pixels, place)
        assert (seen is not None) == known
        given = None if seen is None else torch.from_numpy(seen)
        maps = None if given is None else given.T.reshape(1, -1, *volume.cells[:2])
        assert maps is None or (maps[0, 1] > 0.0).sum() > 10  # columns in which pixels of the ground lie
        scene = whole_scene(made, view, looking(matrix[0], camera=canonical), maps)
        around, mean, *of_columns = ExportedColumns(made)(local, columns, given)
        cells_alone = [part.numpy() for part in ExportedCells(made)(around, local, mean)]
        predicted = PredictedCells(*cells_alone, *(part.numpy() for part in of_columns))
    points = place.volume_from_camera.inverse().apply(grid.centres().reshape(-1, 3))
    density = np.empty(len(points), np.float32)
    samples = np.ascontiguousarray(points.T, np.float32), np.arange(len(points), dtype=np.int32)
    stands = np.empty(len(points), np.bool_)
    sampler.query(surfaces[0].permute(1, 2, 0).numpy(), predicted, place, *samples, density, stands=stands)
    height = functional.interpolate(scene.height[:, None], scale_factor=STRIDE, mode="bilinear")[0, 0].numpy()
    up = grid.centres()[..., 2] - height[: grid.shape[0], : grid.shape[1], None]
    clear = np.abs(up - STANDS_M).reshape(-1) > 1e-4
    np.testing.assert_array_equal(stands[clear], (up > STANDS_M).reshape(-1)[clear])
    assert 0.1 < stands.mean() < 0.9
    difference = np.abs(1.0 - np.exp(-density) - scene.occupied.sigmoid().numpy().reshape(-1))
    assert (difference < 1e-4).mean() > 0.99  # others look between two pixels
    assert scene.occupied.sigmoid().std() > 0.1
    chosen = np.arange(math.prod(volume.cells), dtype=np.int32)
    units, label, _ = sampler.classes(predicted.others, of_pixels, place, chosen)
    expected = scene.classes.softmax(dim=1)[0].permute(2, 3, 1, 0).reshape(-1, CLASSES).numpy()
    np.testing.assert_allclose(units, expected, atol=1e-4)
    np.testing.assert_array_equal(label, expected.argmax(axis=1))
    np.testing.assert_allclose(predicted.ground[:, 0].reshape(scene.height[0].shape), scene.height[0], atol=1e-4)
    np.testing.assert_allclose(predicted.ground[:, 1].reshape(scene.height[0].shape), scene.deviation[0], atol=1e-4)


def field_of(viewpoint: Viewpoint) -> SceneField:
    """An untrained field of streets."""
    names = COMMON_CLASSES[1:]
    pixels = PixelHead(viewpoint.volume.point_code, channels=6, tokens=5, classes=len(names), class_branch_channels=8)
    return SceneField(viewpoint, names, pixels, widths=(8, 8), context=4, reduced=4)


def road_with(name: str, viewpoint: Viewpoint, pose: RigidTransform) -> PixelView:
    """A level road 1.5 m below a camera, and a thing of this class 12 m ahead and a little to the right."""
    camera, spec = viewpoint.camera.resized(320, 96), viewpoint.volume.point_code
    rays = camera.unproject(camera.pixel_centres())
    inverse = np.maximum(rays @ RoadPlane.of_mounting(pose).down / 1.5, 1.0 / 60.0)
    classes = np.where(inverse[..., None] > 1.0 / 50.0, np.eye(16)[COMMON_CLASSES.index("road") - 1], np.eye(16)[15])
    inverse[40:66, 170:200], classes[40:66, 170:200] = 1.0 / 12.0, np.eye(16)[COMMON_CLASSES.index(name) - 1]
    code = spec.depth_code_of_inverse(torch.from_numpy(inverse).float())[None, None]
    logits = 9.0 * torch.from_numpy(classes).float().permute(2, 0, 1)[None]
    return PixelView(code, torch.full_like(code, 0.02), logits, torch.ones(1, 1, 1, 1), torch.zeros(1, 3, 2))


def mirror_of(view: PixelView) -> PixelView:
    return PixelView(*(part.flip(-1) for part in view[:4]), view.plane)


def test_the_ground_that_pixels_show_is_found_in_mirrored_scenes_alike() -> None:
    viewpoint = Viewpoint()
    stands = RigidTransform(rotation_of_angles(0.03, 0.02, 0.0), np.array([0.0, 0.0, 1.5]))
    upright = stands @ OPTICAL_FROM_FORWARD.inverse()
    field, view = field_of(viewpoint), road_with("car", viewpoint, upright)
    place = torch.from_numpy(volume_pose(upright, viewpoint.height_above_ground).matrix).float()[None]
    plain = field.seen_ground(view, place, torch.tensor([False]))
    mirrored = field.seen_ground(mirror_of(view), place, torch.tensor([True]))
    torch.testing.assert_close(mirrored, plain.flip(-1))
    height, count, _ = plain[0]
    assert (count > 0.0).sum() > 500 and not torch.equal(plain, plain.flip(-1))
    assert height[count > 0.0].abs().median() < 0.02  # the volume stands on the road


def test_students_do_not_teach_behind_what_ends() -> None:
    """Cells in the shadow of a car, from a cell behind its surface on; behind a building they do, wherever that is."""
    viewpoint = Viewpoint()
    upright = RigidTransform(np.eye(3), np.array([0.0, 0.0, 1.5])) @ OPTICAL_FROM_FORWARD.inverse()
    field = field_of(viewpoint)
    pose = torch.from_numpy(volume_pose(upright, viewpoint.height_above_ground).matrix).float()[None]
    cells = torch.arange(len(field.spatial.centres))[None]
    car, building = (
        field.behind_bodies(road_with(name, viewpoint, upright), pose, torch.tensor([False]), cells)[0]
        for name in ("car", "building")
    )
    assert not building.any()
    x, y, _ = field.spatial.centres[car].T
    assert x.min() > 12.4 and x.max() > 40.0 and (y / x).max() < 0.0
    column = -y / x * viewpoint.camera.resized(320, 96).fx + viewpoint.camera.resized(320, 96).cx
    assert column.min() > 169.0 and column.max() < 201.0 and len(x) > 100
    flipped = field.behind_bodies(mirror_of(road_with("car", viewpoint, upright)), pose, torch.tensor([True]), cells)[0]
    shape = field.spatial.cells[2], *field.spatial.cells[:2]
    assert torch.equal(flipped.reshape(shape), car.reshape(shape).flip(-1))


def test_a_decoder_of_a_former_version_goes_on_with_the_ground_that_pixels_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That was given where rays meet a column, and how far to trust it: here entirely."""
    torch.manual_seed(0)
    former = decoder(below=(0.2, 0.0, 20.0))
    now = decoder(below=(0.0, 0.0))
    for name, parameter in former.named_parameters():
        if not name.startswith("ground."):
            torch.nn.init.normal_(parameter, std=0.3)
    now.load_state_dict(former.state_dict())
    met = torch.rand(1, 1, 8, 8)
    monkeypatch.setattr(former, "_lowest_seen", lambda *_: met)
    view = PixelView(
        torch.rand(1, 1, 16, 32), torch.full((1, 1, 16, 32), 1e6), torch.randn(1, 4, 16, 32), torch.ones(1, 1, 1, 1),
        torch.zeros(1, 3, 2),
    )  # fmt: skip
    with torch.no_grad():
        expected = whole_scene(former, view, looking(pose()))
        found = whole_scene(now, view, looking(pose()), torch.cat([met, torch.rand(1, 2, 8, 8)], dim=1))
    torch.testing.assert_close(found.occupied, expected.occupied)
    torch.testing.assert_close(found.height, expected.height)


def test_a_head_that_knew_no_plane_sees_the_usual_one() -> None:
    """As those of former versions; once it learns, tokens move it, and its deviation stays positive."""
    torch.manual_seed(0)
    head = PixelHead(SPEC, channels=6, tokens=5, classes=CLASSES, width=8, class_branch_channels=8, height=1.5)
    former = {name: value for name, value in head.state_dict().items() if "plane" not in name}
    head.load_state_dict(former)
    fused, tokens, ground = torch.randn(2, 6, 4, 6), torch.randn(2, 5, 9, 20), torch.zeros(2, 2, 8, 12)
    usual = head(fused, tokens, ground).plane
    torch.testing.assert_close(usual[..., 0], torch.tensor([0.0, 0.0, math.log(1.5)]).expand(2, -1))
    assert usual[0, 0, 1].item() == pytest.approx(math.radians(2.0))
    torch.nn.init.normal_(head.plane[-1].weight)  # type: ignore[arg-type]
    moved = head(fused, tokens, ground).plane
    assert (moved[..., 1] > 0.0).all() and not torch.allclose(moved[0], moved[1])
