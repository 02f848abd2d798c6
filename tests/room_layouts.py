"""Writes the data sets of rooms as they lie once they are downloaded and unpacked, tiny, and a room of known geometry.

The room is a box, z up: floor at 0, and walls at `ROOM` and its negative. Depth, classes and numbers of things follow
from where rays meet it.
"""

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD, Camera, RigidTransform
from scene_completion_ros.geometry.transforms import rotation_of_angles
from scene_completion_ros.sequences.posed_sequence import Frame, PosedSequence
from scene_completion_training.points.ply import write_ply

ROOM = np.array([2.0, 1.5, 2.4])  # half of its length and width, and its height, metres
CLASSES = ("floor", "ceiling", "wall")
CAMERA = Camera(60.0, 60.0, 39.5, 29.5, 80, 60)
SCAN, HOUSE = "scene0000_00", "17DRP5sb8fy"
S3DIS = "Stanford3dDataset_v1.2_Aligned_Version"  # the folder in its archive
SCANNET_TABLE = """id\traw_category\tcategory\tcount\tnyu40id
1\twall\twall\t8277\t1
2\tchair\tchair\t4646\t5
1191\tmattress\tmattress\t5\t4
41\tceiling\tceiling\t20\t22
37\tpaper stack\tpaper\t3\t0
"""
MATTERPORT_TABLE = """index\traw_category\tcount\tnyu40id\tnyuClass
1\twall\t7667\t1\twall
2\tdoor\t2544\t8\tdoor
3\tceiling\t2363\t22\tceiling
4\tremove\t1622\t0\tvoid
5\tobject\t1145\t40\t
6\tvent\t90\t38\tair vent
7\talarm clock\t2\t40\talarm
"""


def pose(yaw: float, place: Sequence[float] = (0.0, 0.0, 1.2), pitch: float = 0.0) -> RigidTransform:
    """The world from a camera that looks along x, turned to the left and then down."""
    return RigidTransform(rotation_of_angles(0.0, pitch, yaw), np.array(place)) @ OPTICAL_FROM_FORWARD.inverse()


def seen(world_from_camera: RigidTransform, camera: Camera = CAMERA) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """What a camera in the room sees: z-depth and class of its pixels [H, W]."""
    rays = camera.unproject(camera.pixel_centres()) @ world_from_camera.rotation.T
    low, high = np.array([-ROOM[0], -ROOM[1], 0.0]), ROOM
    with np.errstate(divide="ignore"):
        reach = np.where(rays > 0, high - world_from_camera.translation, low - world_from_camera.translation) / rays
    axis = np.where(np.isfinite(reach), reach, np.inf).argmin(axis=-1)
    depth = np.take_along_axis(reach, axis[..., None], axis=-1)[..., 0]
    up = np.where(rays[..., 2] > 0, 1, 0)
    return depth.astype(np.float32), np.where(axis == 2, up, 2).astype(np.uint8)


def walk(count: int = 8) -> list[RigidTransform]:
    """Poses of a camera that turns round in the room while it moves a little, and looks down a bit."""
    turns = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False)
    return [pose(yaw, (0.3 * np.cos(yaw), 0.2, 1.2 + 0.1 * np.sin(yaw)), 0.25) for yaw in turns]


def _image(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array([[200, 100, 50], [250, 250, 250], [10, 20, 250]], np.uint8)[label]


def room_sequence(
    poses: Sequence[RigidTransform],
    *,
    scale: float = 1.0,
    given: Callable[[RigidTransform], RigidTransform] = lambda pose: pose,
    **assets: Any,
) -> PosedSequence:
    """Posed RGB-D of the room with classes and things.

    `scale`: values of depth to a metre; `given`: the pose that the sequence has for one; `assets`: those of all frames
    instead, None leaves one out.
    """
    frames = []
    for number, world_from_camera in enumerate(poses):
        depth, label = seen(world_from_camera)
        found: dict[str, Any] = {"depth": scale * depth, "label": label, "instance": label.astype(np.uint16) + 1}
        found = {name: partial(np.asarray, of) for name, of in (found | assets).items() if of is not None}
        frames.append(Frame(number, {"rgb": partial(_image, label)}, given(world_from_camera), found))
    identity = {"rgb": RigidTransform.identity()}
    return PosedSequence("room", {"rgb": CAMERA}, identity, frames, "drawn", provenance={"classes": list(CLASSES)})


def vertices(points: NDArray[Any], **fields: NDArray[Any]) -> NDArray[Any]:
    """Vertices of a PLY file, with colours that say their place in the list, and further fields."""
    dtype = [*((axis, "<f4") for axis in "xyz"), *((name, "u1") for name in ("red", "green", "blue"))]
    rows = np.zeros(len(points), [*dtype, *((name, of.dtype) for name, of in fields.items())])
    rows["x"], rows["y"], rows["z"] = np.asarray(points, np.float32).T
    rows["red"] = np.arange(len(points)) % 256
    for name, of in fields.items():
        rows[name] = of
    return rows


def scannet(root: Path, *, scan: str = SCAN, labelled: bool = True) -> Path:
    """A scan of six vertices in three segments: a wall, a mattress, and a stack of paper of no class; its folder."""
    folder = root / ("scans" if labelled else "scans_test") / scan
    folder.mkdir(parents=True)
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 0, 0], [0, 3, 0]])
    faces = np.array([([0, 1, 2],), ([0, 3, 1],)], [("vertex_indices", "<i4", (3,))])
    write_ply(folder / f"{scan}_vh_clean_2.ply", {"vertex": vertices(points), "face": faces})
    if labelled:
        ids = np.array([1, 1, 4, 4, 0, 40], np.uint16)
        write_ply(folder / f"{scan}_vh_clean_2.labels.ply", {"vertex": vertices(points, label=ids)})
        segments = {"segIndices": [7, 7, 9, 9, 30, 31]}
        groups = [("wall", [7]), ("mattress", [9]), ("paper stack", [30])]
        things = [{"id": k, "objectId": k, "segments": of, "label": name} for k, (name, of) in enumerate(groups)]
        (folder / f"{scan}_vh_clean_2.0.010000.segs.json").write_text(json.dumps(segments))
        (folder / f"{scan}.aggregation.json").write_text(json.dumps({"segGroups": things}))
    (root / "scannetv2-labels.combined.tsv").write_text(SCANNET_TABLE)
    return folder


def sens(path: Path, poses: Sequence[RigidTransform | None]) -> Path:
    """A .sens file of the room, without a pose where tracking was lost; depth has half the size of colour."""
    intrinsics = np.eye(4, dtype=np.float32)
    camera = CAMERA.resized(160, 120)
    intrinsics[:3, :3] = camera.matrix
    name, eye = b"StructureSensor", np.eye(4, dtype=np.float32).tobytes()
    content = struct.pack("<IQ", 4, len(name)) + name + intrinsics.tobytes() + 3 * eye
    content += struct.pack("<2i4IfQ", 2, 1, 160, 120, 80, 60, 1000.0, len(poses))
    for world_from_camera in poses:
        depth, label = seen(world_from_camera or pose(0.0))
        colour = cv2.imencode(".jpg", cv2.resize(_image(label)[..., ::-1], (160, 120)))[1].tobytes()
        measured = zlib.compress(np.round(1000 * depth).astype("<u2").tobytes())
        matrix = np.full((4, 4), -np.inf) if world_from_camera is None else world_from_camera.matrix
        content += matrix.astype("<f4").tobytes() + struct.pack("<4Q", 0, 0, len(colour), len(measured))
        content += colour + measured
    path.write_bytes(content)
    return path


def matterport(root: Path, *, house: str = HOUSE, views: bool = True) -> Path:
    """A house whose one region has two triangles of a wall and one of an air vent; its folder.

    The owner's script puts archives into v1/scans/HOUSE, and each has a folder HOUSE in it.
    """
    folder = root / "v1" / "scans" / house / house
    faces = np.zeros(
        3, [("vertex_indices", "<i4", (3,)), *((f"{name}_id", "<i4") for name in ("material", "segment", "category"))]
    )
    faces["vertex_indices"] = [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    faces["material_id"], faces["segment_id"], faces["category_id"] = [10, 10, 11], [0, 0, 1], [1, 1, 6]
    normals = {name: np.full(5, value, np.float32) for name, value in zip(("nx", "ny", "nz"), (0, 0, 1), strict=True)}
    (folder / "region_segmentations").mkdir(parents=True)
    (folder.parent / "region_segmentations.zip").touch()
    rows = {"vertex": vertices(np.arange(15.0).reshape(5, 3), **normals), "face": faces}
    write_ply(folder / "region_segmentations" / "region0.ply", rows)
    (root / "category_mapping.tsv").write_text(MATTERPORT_TABLE)
    if views:
        _matterport_views(folder, walk(3))
    return folder


def _matterport_views(folder: Path, poses: Sequence[RigidTransform]) -> None:
    """Views whose principal point counts from the lower edge, and whose cameras look along -z."""
    lines = ["dataset matterport", f"n_images {len(poses)}", "depth_directory undistorted_depth_images"]
    camera = Camera(60.0, 60.0, 39.5, 24.5, 80, 60)
    lines.append(f"intrinsics_matrix {camera.fx} 0 {camera.cx}  0 {camera.fy} {60 - 1 - camera.cy}  0 0 1 ")
    for name in ("undistorted_color_images", "undistorted_depth_images", "undistorted_camera_parameters"):
        (folder / name).mkdir()
    for number, world_from_camera in enumerate(poses):
        depth, label = seen(world_from_camera, camera)
        names = f"ab_d0_{number}.png", f"ab_i0_{number}.jpg"
        cv2.imwrite(str(folder / "undistorted_depth_images" / names[0]), np.round(4000 * depth).astype(np.uint16))
        cv2.imwrite(str(folder / "undistorted_color_images" / names[1]), _image(label)[..., ::-1])
        matrix = world_from_camera.matrix * [1.0, -1.0, -1.0, 1.0]
        lines.append(f"scan {' '.join(names)} {' '.join(f'{value:.8f}' for value in matrix.reshape(-1))}")
    conf = folder / "undistorted_camera_parameters" / f"{folder.name}.conf"
    conf.write_text("\n".join(lines) + "\n")


def s3dis(root: Path, *, area: str = "Area_1") -> Path:
    """A room of a floor and stairs; its folder. Area_5 has the defects of the original, in two further rooms."""
    things = {"office_1": {"floor_1": b"0.5 1 0 255 0 51\n1 1 0.0 0 0 0\n", "stairs_1": b"2 2 0.2 10 10 10\n"}}
    if area == "Area_5":
        ceiling = b"22.383 6.858 3.050 155 155 165\n22.350 6.692 3.048 185\x00187 182\n22.314 6.638 3.048 170 171 175\n"
        wall = b"1 2 0.5 90 90 91\n1 2 0.6 90 90 92\n"
        things |= {"hallway_6": {"ceiling_1": ceiling}, "office_36": {"wall_3": wall, "wall_3 (1)": wall}}
    for room, files in things.items():
        annotations = root / S3DIS / area / room / "Annotations"
        annotations.mkdir(parents=True)
        (annotations.parent / f"{room}.txt").write_bytes(b"".join(files.values()))  # the whole room
        (annotations.parent / ".DS_Store").touch()
        for name, lines in files.items():
            (annotations / f"{name}.txt").write_bytes(lines)
            (annotations / f"._{name}.txt").write_bytes(b"\0\5\26\7")
    return root / S3DIS / area / "office_1"
