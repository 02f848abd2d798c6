"""Posed sequences from the keyframes of nuScenes: the front camera, and the LiDAR on the roof.

    ROOT/v1.0-mini/*.json          tables: scene, sample, sample_data, sensor, calibrated_sensor, ego_pose
    ROOT/samples/CAM_FRONT/*.jpg   1600x900
    ROOT/samples/LIDAR_TOP/*.pcd.bin   float32 x y z intensity ring

A scene is addressed as `ROOT/v1.0-mini/scene-0061`. The rig is the vehicle (x forward, y left, z up) when the camera
took its picture. The LiDAR turned at another moment; the vehicle's motion in between is taken out of the asset "lidar",
float32 [N, 3] in the rig frame. The world is that of the map, metres.
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from scene_completion_ros.errors import SceneCompletionError, SequenceError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.sequences.kitti import load_scan
from scene_completion_ros.sequences.posed_sequence import (
    UNKNOWN_POSES,
    ArrayLoader,
    Frame,
    PosedSequence,
    Source,
    inside,
)
from scene_completion_ros.untrusted_files import read_json, shown

FRONT, LIDAR = "CAM_FRONT", "LIDAR_TOP"
LARGEST_TABLE = 2 << 30  # bytes; the largest of v1.0-trainval has half of that
_SCAN_COLUMNS = 5
_RESTORE = "Restore the tables from the data set"

Row = dict[str, Any]


def nuscenes(scene: Path | str, *, poses: str | None = None) -> PosedSequence:
    """Read the keyframes of a scene.

    Raises SequenceError where there is no such scene, a table is missing or does not fit the others, or no picture is
    there; CameraError where the intrinsics are none. `scene`: `ROOT/v1.0-*/SCENE-NAME`, where the last part is no
    folder but a name in scene.json; `poses`: "none" says that the frames are unrelated.
    """
    tables, name = Path(scene).parent, Path(scene).name
    try:
        token = {row["name"]: row["token"] for row in _table(tables, "scene")}
        if name not in token:
            known = sorted(map(str, token))
            cure = f"Name one of {len(known)} scenes, such as {', '.join(known[:5])}"
            raise SequenceError(f"no scene {shown(name)}", where=str(tables / "scene.json"), cure=cure)
        return _sequence(tables, name, str(token[name]), unrelated=poses == UNKNOWN_POSES)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        what = f"its tables do not fit together ({error!r})"
        raise SequenceError(what, where=f"{tables}, {name}", cure=_RESTORE) from error


def _sequence(tables: Path, name: str, scene: str, *, unrelated: bool) -> PosedSequence:
    samples, mounted, taken, poses = _keyframes(tables)
    root, where = tables.parent, f"{tables}, {name}"
    frames, sensors, missing = [], dict[str, Row](), 0
    for sample in sorted(samples.get(scene, []), key=lambda row: int(row["timestamp"])):
        rows = taken.get(sample["token"], {})
        front = rows[FRONT]
        picture = inside(root, front["filename"], where)
        if not picture.is_file():
            missing += 1
            continue
        sensors |= {channel: mounted[row["calibrated_sensor_token"]] for channel, row in rows.items()}
        world_from_rig = _pose(poses[front["ego_pose_token"]], where)
        assets: dict[str, ArrayLoader] = {}
        if LIDAR in rows and (scan := inside(root, rows[LIDAR]["filename"], where)).is_file():
            world_from_lidar = _pose(poses[rows[LIDAR]["ego_pose_token"]], where) @ _pose(sensors[LIDAR], where)
            assets["lidar"] = partial(load_scan, scan, world_from_rig.inverse() @ world_from_lidar, _SCAN_COLUMNS)
        pose = RigidTransform.identity() if unrelated else world_from_rig
        frames.append(Frame(int(front["timestamp"]) * 1000, {FRONT: picture}, pose, assets))
    if not frames:
        what = f"none of {missing} keyframes has a picture of {FRONT}"
        raise SequenceError(what, where=where, cure="Unpack samples/CAM_FRONT beside the tables")
    (fx, _, cx), (_, fy, cy), _ = sensors[FRONT]["camera_intrinsic"]
    return PosedSequence(
        name=name,
        cameras={FRONT: Camera(fx, fy, cx, cy, front["width"], front["height"])},
        rig_from_camera={FRONT: _pose(sensors[FRONT], where)},
        frames=frames,
        pose_source=UNKNOWN_POSES if unrelated else "ego_pose",
        provenance={"dataset": "nuScenes", "licence": "CC BY-NC-SA 4.0", "missing_images": missing},
        rig_from_sensor={LIDAR: _pose(sensors[LIDAR], where)} if LIDAR in sensors else {},
    )


@lru_cache(maxsize=1)
def _keyframes(tables: Path) -> tuple[dict[str, list[Row]], dict[str, Row], dict[str, dict[str, Row]], dict[str, Row]]:
    """Samples by scene, sensors of both channels by token, their keyframes by sample and channel, poses of those."""
    channels = {row["token"]: row["channel"] for row in _table(tables, "sensor")}
    mounted = {
        row["token"]: row
        for row in _table(tables, "calibrated_sensor")
        if channels[row["sensor_token"]] in (FRONT, LIDAR)
    }
    samples: dict[str, list[Row]] = {}
    for row in _table(tables, "sample"):
        samples.setdefault(row["scene_token"], []).append(row)
    taken: dict[str, dict[str, Row]] = {}
    for row in _table(tables, "sample_data"):
        if row["is_key_frame"] and (sensor := mounted.get(row["calibrated_sensor_token"])) is not None:
            taken.setdefault(row["sample_token"], {})[channels[sensor["sensor_token"]]] = row
    needed = {row["ego_pose_token"] for rows in taken.values() for row in rows.values()}
    return samples, mounted, taken, {row["token"]: row for row in _table(tables, "ego_pose") if row["token"] in needed}


def _table(tables: Path, name: str) -> list[Row]:
    rows: list[Row] = read_json(
        tables / f"{name}.json", SequenceError, cure=_RESTORE, kind=list, most_bytes=LARGEST_TABLE
    )
    return rows


def _pose(row: Row, where: str) -> RigidTransform:
    """Where a vehicle or sensor stands; the quaternion has its real part first."""
    w, *xyz = row["rotation"]
    try:
        return RigidTransform.from_quaternion([*xyz, w], row["translation"])
    except SceneCompletionError as error:
        raise SequenceError(f"pose {row['token']} is none: {error}", where=where, cure=_RESTORE) from error


SOURCE = Source(
    "ROOT/v1.0-mini/SCENE of nuScenes (such as scene-0061)",
    lambda path: (path.parent / "scene.json").is_file() and (path.parent / "sample_data.json").is_file(),
    lambda path, poses: nuscenes(path, poses=poses),
)
