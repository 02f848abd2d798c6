"""Small furnished rooms: a floor, two walls, and boxes of three kinds; their points, and views by casting rays."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_training.points.ply import write_ply
from scene_completion_training.points.scene import UNLABELLED, PointScene, RgbdView
from tests.room_layouts import vertices

CLASSES = ("floor", "wall", "table", "chair", "cabinet")
SIZES = {2: (1.2, 0.8, 0.75), 3: (0.45, 0.45, 0.45), 4: (0.6, 0.4, 1.6)}
"""Of the boxes of a class, metres."""
PAINT = {0: (0.5, 0.4, 0.3), 1: (0.8, 0.8, 0.75), 2: (0.6, 0.4, 0.2), 3: (0.3, 0.3, 0.6), 4: (0.55, 0.45, 0.3)}


CAMERA = Camera(40.0, 40.0, 31.5, 23.5, 64, 48)
HEIGHT = 2.4
Box = tuple[int, NDArray[np.float64]]  # class, and lowest and highest corner [2, 3]


def plane(origin: tuple[float, ...], u: tuple[float, ...], v: tuple[float, ...], step: float) -> NDArray[np.float32]:
    """Points on a rectangle that two edges span."""
    count = [max(2, round(float(np.linalg.norm(edge)) / step)) for edge in (u, v)]
    a, b = np.meshgrid(*[(np.arange(n) + 0.5) / n for n in count], indexing="ij")
    return (np.array(origin) + a[..., None] * np.array(u) + b[..., None] * np.array(v)).reshape(-1, 3)  # type: ignore[no-any-return]


def view(boxes: Sequence[Box], edge: float, number: int) -> RgbdView:
    """A view from the open sides of a room to its middle; what stands open and the ceiling have no label."""
    place = edge * np.array([[0.9, 0.9, 0.42], [0.9, 0.2, 0.4], [0.2, 0.9, 0.38], [0.6, 0.95, 0.35]][number % 4])
    ahead = np.array([edge / 2, edge / 2, 0.4 * (number + 1)]) - place
    ahead /= np.linalg.norm(ahead)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = RigidTransform(np.stack([right, np.cross(ahead, right), ahead], axis=1), place)
    rays = np.asarray(CAMERA.unproject(CAMERA.pixel_centres())) @ pose.rotation.T
    slabs = [np.sort((corners[:, None, None] - place) / rays, axis=0) for _, corners in boxes]
    leaving = (np.where(rays > 0.0, [edge, edge, HEIGHT], 0.0) - place) / rays
    depth, label = leaving.min(axis=-1), np.array([1, 1, 0])[leaving.argmin(axis=-1)]
    label[np.take_along_axis(rays, leaving.argmin(axis=-1)[..., None], axis=-1)[..., 0] > 0.0] = UNLABELLED
    for (kind, _), (near, far) in zip(boxes, slabs, strict=True):
        enter = near.max(axis=-1)
        hit = (enter < far.min(axis=-1)) & (enter > 0.0) & (enter < depth)
        depth, label = np.where(hit, enter, depth), np.where(hit, kind, label)
    colours = np.array([*PAINT.values(), (1.0, 1.0, 1.0)])
    image = (255 * colours[label]).astype(np.uint8)
    return RgbdView(f"view_{number}", CAMERA, pose, lambda: image, lambda: depth.astype(np.float32))


def save_features(folder: Path, scene: PointScene, rows: NDArray[np.float32], noise: float) -> None:
    """Features of each pixel of the views: the row [D] of its class, with noise, or zeros where it has no class."""
    generator, paint = np.random.default_rng(0), (255 * np.array([*PAINT.values()])).astype(np.uint8)
    (folder / scene.name).mkdir(parents=True, exist_ok=True)
    for seen in scene.views:
        shown = (seen.image()[:, :, None] == paint).all(axis=-1)  # [H, W, K]
        off = generator.normal(0.0, noise, (*shown.shape[:2], rows.shape[1]))
        found = shown @ rows + off * shown.any(-1)[..., None]
        np.save(folder / scene.name / f"{seen.name}.npy", found.transpose(2, 0, 1).astype(np.float32))


def room(seed: int, *, step: float = 0.05, edge: float = 4.0, objects: int = 6, views: int = 0) -> PointScene:
    """A room of edge x edge metres with so many boxes, which may touch; their colours vary by themselves."""
    boxes: list[Box] = []
    random = np.random.default_rng(seed)
    parts, normals, labels, instances, paint = [], [], [], [], []

    def add(points: NDArray[np.float32], normal: tuple[float, ...], label: int, instance: int, shade: float) -> None:
        parts.append(points)
        normals.append(np.tile(normal, (len(points), 1)))
        labels.append(np.full(len(points), label))
        instances.append(np.full(len(points), instance))
        paint.append(np.array(PAINT[label]) * shade + random.normal(0.0, 0.03, (len(points), 3)))

    add(plane((0, 0, 0), (edge, 0, 0), (0, edge, 0), step), (0, 0, 1), 0, UNLABELLED, random.uniform(0.7, 1.2))
    shade = random.uniform(0.7, 1.2)
    add(plane((0, 0, 0), (edge, 0, 0), (0, 0, HEIGHT), step), (0, 1, 0), 1, UNLABELLED, shade)
    add(plane((0, 0, 0), (0, edge, 0), (0, 0, HEIGHT), step), (1, 0, 0), 1, UNLABELLED, shade)
    for number in range(objects):
        label = 2 + number % 3
        x, y, z = SIZES[label]
        left, front = random.uniform(0.1, edge - 1.4, 2)
        boxes.append((label, np.array([[left, front, 0.0], [left + x, front + y, z]])))
        shade = random.uniform(0.7, 1.2)
        add(plane((left, front, z), (x, 0, 0), (0, y, 0), step), (0, 0, 1), label, number, shade)
        for start, along, normal in (
            ((left, front, 0), (x, 0, 0), (0, -1, 0)),
            ((left, front + y, 0), (x, 0, 0), (0, 1, 0)),
            ((left, front, 0), (0, y, 0), (-1, 0, 0)),
            ((left + x, front, 0), (0, y, 0), (1, 0, 0)),
        ):
            add(plane(start, along, (0, 0, z), step), normal, label, number, shade)
    return PointScene(
        name=f"room {seed}",
        points=np.concatenate(parts).astype(np.float32),
        colours=np.clip(np.concatenate(paint), 0.0, 1.0).astype(np.float32),
        normals=np.concatenate(normals).astype(np.float32),
        classes=CLASSES,
        label=np.concatenate(labels).astype(np.int64),
        instance=np.concatenate(instances).astype(np.int64),
        views=tuple(view(boxes, edge, number) for number in range(views)),
    )


def save_rooms(folder: Path, seeds: Iterable[int], step: float = 0.05) -> Path:
    """Rooms as PLY files, whose labels are those of ScanNet-20."""
    names = ("wall", "floor", "cabinet", "bed", "chair", "sofa", "table")
    number = np.array([names.index(name) for name in CLASSES])
    folder.mkdir(parents=True)
    for seed in seeds:
        scene = room(seed, step=step)
        fields = dict(zip(("nx", "ny", "nz"), scene.normals.T, strict=True))
        fields |= {"label": number[scene.label].astype(np.int32), "instance": np.asarray(scene.instance, np.int32)}
        rows = vertices(scene.points, **fields)
        for name, values in zip(("red", "green", "blue"), scene.colours.T, strict=True):
            rows[name] = np.rint(255 * values)
        write_ply(folder / f"{scene.name.replace(' ', '_')}.ply", {"vertex": rows})
    return folder
