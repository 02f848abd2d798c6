"""Make the pictures of docs/rviz.md and docs/nav2.md: `python docs/make_pictures.py`, in the repository's root.

With a student that has a text bank, also words.webp: what it finds where it is asked for words.

Plays the bundled drive to a running node over DDS, and draws what came out for one image of it. RViz and Nav2 take no
part: views, colours and sizes are those of config/scene_completion.rviz, drawn by this package.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from rviz_views import (
    CLEARING_COLOUR,
    FREE_COLOUR,
    OCCUPIED_COLOUR,
    UNKNOWN_COLOUR,
    BoxPicture,
    OrbitView,
    ground_view,
    map_colours,
)

from scene_completion_ros.bags.demo_drive import DEMO_DRIVE
from scene_completion_ros.bags.reader import ThinnedBagReader
from scene_completion_ros.commands.replay import answer_of
from scene_completion_ros.commands.words import chosen_words
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import read_grid
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle, load_default_bundle
from scene_completion_ros.mapping.ground_map import GroundMap
from scene_completion_ros.report.map_axes import Picture
from scene_completion_ros.report.pictures import beside_map, class_legend, encode_picture, fit_width, words_panel
from scene_completion_ros.ros import dds
from scene_completion_ros.ros.launching.rviz_config import LIVE
from scene_completion_ros.ros.replay.playback import Playback
from scene_completion_ros.ros.replay.results import ReplayResult
from scene_completion_ros.ros.topics import NODE_NAME
from scene_completion_ros.voxels.colours import STATE_COLOURS, STATE_NAMES, state_colours
from scene_completion_ros.voxels.semantic_voxels import VoxelState

PICTURES = Path("docs/pictures")
IMAGE = 20  # of the drive, from 0
DRIVE_IMAGES = "/camera/image_raw"  # of the bundled drive, without the transport
WIDTH, HEIGHT = 960, 540
UP_IN_OPTICAL = (0.7, 1.0, 0.85)  # light from above: across y of an optical frame
PATIENCE_S = 120.0
QUALITY = 88
WORDS = ("car", "tree", "zebra crossing", "sidewalk", "building", "hedge")


@dataclass(frozen=True)
class Completed:
    """What came of one image, as the messages had it.

    Attributes:
        image_rgb: The image [H, W, 3].
        camera: Its camera, without distortion.
        cloud: Points of ~/voxels [N], in the optical frame.
        depth: ~/depth/image [h, w], metres.
        clearing: Points of ~/clearing [M, 3], metres in the optical frame.
        cells: ~/occupancy_grid [rows along y, columns along x].
        resolution: Edge of its cells, metres.
        optical_from_map: Pose of the corner of its first cell in the frame of the image.
        result: All that the player heard.
    """

    image_rgb: NDArray[np.uint8]
    camera: Camera
    cloud: NDArray[np.void]
    depth: NDArray[np.float32]
    clearing: NDArray[np.float32]
    cells: NDArray[np.int8]
    resolution: float
    optical_from_map: RigidTransform
    result: ReplayResult


class Listener:
    """Keeps the newest map and clearing points of each stamp. Made before the node, which finds it as it warms up."""

    def __init__(self, node_name: str) -> None:
        import rclpy
        from nav_msgs.msg import OccupancyGrid
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import PointCloud2

        from scene_completion_ros.ros.messages import LATCHED_QOS

        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self._node = rclpy.create_node("picture_listener", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._heard: dict[tuple[str, int], Any] = {}
        self._news = threading.Condition()
        for kind, topic, qos in ((OccupancyGrid, "occupancy_grid", LATCHED_QOS), (PointCloud2, "clearing", 10)):
            self._node.create_subscription(kind, f"{node_name}/{topic}", lambda m, t=topic: self._keep(t, m), qos)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def of(self, topic: str, stamp_ns: int) -> Any:
        """The message of an image; waits for it."""
        with self._news:
            if not self._news.wait_for(lambda: (topic, stamp_ns) in self._heard, PATIENCE_S):
                raise SceneCompletionError(f"no {topic} of stamp {stamp_ns} ns came", cure="Look at the node's log")
            return self._heard[topic, stamp_ns]

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()
        self._context.try_shutdown()
        self._context.destroy()

    def _keep(self, topic: str, message: Any) -> None:
        from scene_completion_ros.ros.messages import stamp_nanoseconds

        with self._news:
            self._heard[topic, stamp_nanoseconds(message.header.stamp)] = message
            self._news.notify_all()


def replayed(index: int, parameters: Mapping[str, object], words: Sequence[str]) -> Completed:
    """Play the bundled drive up to an image, through a node of its own, and return what came of that image."""
    dds.use_shipped_profile()
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    from scene_completion_ros.ros.replay.bag_replay import replay_over_dds

    topic, results = f"{DRIVE_IMAGES}/compressed", list[ReplayResult]()
    listener = Listener(f"/replay_{os.getpid()}/{NODE_NAME}")  # as the replay calls its node
    with ThinnedBagReader(DEMO_DRIVE, max(index, 1)) as reader:
        try:
            replay_over_dds(
                reader,
                topic,
                on_result=results.append,
                playback=Playback(timeout_s=PATIENCE_S),
                node_parameters=parameters,
                words=words,
            )
            result = results[min(index, 1)]
            ground = listener.of("occupancy_grid", result.stamp_ns)
            clearing = listener.of("clearing", result.stamp_ns)
        finally:
            listener.close()
        return Completed(
            image_rgb=result.image_rgb,
            camera=reader.camera_for(topic).without_distortion(),
            cloud=result.voxels,
            depth=result.depth,
            clearing=np.frombuffer(bytes(clearing.data), np.float32).reshape(-1, 3),
            cells=np.array(ground.data, dtype=np.int8).reshape(ground.info.height, ground.info.width),
            resolution=float(ground.info.resolution),
            optical_from_map=_pose(ground.info.origin),
            result=result,
        )


def _pose(pose: Any) -> RigidTransform:
    at, turn = pose.position, pose.orientation
    return RigidTransform.from_quaternion((turn.x, turn.y, turn.z, turn.w), (at.x, at.y, at.z))


def configured_view() -> OrbitView:
    """The view with which config/scene_completion.rviz opens."""
    manager = yaml.safe_load(LIVE.read_text(encoding="utf-8"))["Visualization Manager"]
    view = manager["Views"]["Current"]
    focal = view["Focal Point"]
    return OrbitView(view["Yaw"], view["Pitch"], view["Distance"], (focal["X"], focal["Y"], focal["Z"]))


def boxes(done: Completed, colours: NDArray[np.uint8] | None, edge: float) -> Picture:
    """The scene in RViz's window: the ground, and voxels in given colours [N, 3], or the map where there are none."""
    drawing = BoxPicture(configured_view(), WIDTH, HEIGHT)
    across = np.arange(-50.0, 51.0, 5.0)  # as the display "Ground" has them: 20 cells of 5 m, 1.65 m below the camera
    ends = np.array([(x, 1.65, z) for x in across for z in (-50.0, 50.0)]).reshape(-1, 2, 3)
    for lines in (ends, ends[..., ::-1]):
        drawing.draw_lines(lines[:, 0], lines[:, 1])
    if colours is None:
        drawing.draw_map(map_colours(done.cells), done.optical_from_map, done.resolution, 0.6)
    else:
        centres = np.stack([done.cloud[axis] for axis in "xyz"], axis=-1).astype(np.float64)
        drawing.draw_boxes(centres, colours, edge, UP_IN_OPTICAL)
    return drawing.picture


def cloud_colours(cloud: NDArray[np.void]) -> NDArray[np.uint8]:
    """RGB [N, 3] of the field rgb, as RViz's RGB8 reads it."""
    rgb = cloud["rgb"].view(np.uint32)
    return np.stack([rgb >> 16 & 255, rgb >> 8 & 255, rgb & 255], axis=-1).astype(np.uint8)


def grey_depth(depth: NDArray[np.float32]) -> Picture:
    """Depth as RViz's display "Depth" shows it: black at 0 m, white at 50 m and beyond."""
    value = np.nan_to_num(depth / 50.0, nan=0.0, posinf=1.0).clip(0.0, 1.0)
    return np.repeat(np.rint(255.0 * value).astype(np.uint8)[..., None], 3, axis=-1)


def with_legend(picture: Picture, entries: Mapping[str, tuple[int, int, int]]) -> Picture:
    """A picture and, below it, the names of colours."""
    drawn = class_legend(list(entries), list(entries.values()), width=picture.shape[1] - 24)
    return np.concatenate([picture, np.pad(drawn, ((6, 6), (12, 12), (0, 0)), constant_values=255)])


def map_and_clearing(done: Completed) -> Picture:
    """The map of the ground from above, with the ends of the clearing rays."""
    upright_from_optical = OPTICAL_FROM_FORWARD.inverse()
    corner = upright_from_optical.apply(done.optical_from_map.translation[None])[0]
    return ground_view(
        GroundMap((float(corner[0]), float(corner[1])), done.resolution, done.cells),
        upright_from_camera=upright_from_optical,
        camera=done.camera,
        clearing=upright_from_optical.apply(done.clearing.astype(np.float64)),
    )


def pictures(done: Completed, bundle: StudentBundle, edge: float) -> dict[str, Picture]:
    """All pictures, by the names of their files."""
    classes = dict(zip(bundle.class_names, bundle.class_colours, strict=True))
    states = {STATE_NAMES[state]: STATE_COLOURS[state] for state in (VoxelState.SURFACE, VoxelState.COMPLETED)}
    cells = {"free": FREE_COLOUR, "occupied": OCCUPIED_COLOUR, "unknown": UNKNOWN_COLOUR}
    voxels = boxes(done, cloud_colours(done.cloud), edge)
    side = WIDTH // 2
    tiles = [("camera", fit_width(done.image_rgb, side)), ("~/voxels", fit_width(voxels, side))]
    beside = beside_map(tiles, map_and_clearing(done), title="", width=side)
    return {
        "rviz_voxels.webp": with_legend(voxels, classes),
        "rviz_states.webp": with_legend(boxes(done, state_colours(done.cloud["state"]), edge), states),
        "rviz_map.webp": with_legend(boxes(done, None, edge), cells),
        "rviz_images.webp": np.concatenate(
            [fit_width(done.image_rgb, side), fit_width(_depth_like(done), side)], axis=1
        ),
        "nav2_map.webp": with_legend(beside, cells | {"end of a clearing ray": CLEARING_COLOUR}),
    }


def _depth_like(done: Completed) -> Picture:
    height, width = done.image_rgb.shape[:2]
    return np.asarray(cv2.resize(grey_depth(done.depth), (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def main() -> None:
    """Make them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=PICTURES, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--image", type=int, default=IMAGE, metavar="N", help="of the drive (default: %(default)s)")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="student bundle (default: the one that is shipped)")
    parser.add_argument("--grid", type=Path, metavar="FILE", help="voxel grid (default: that of the bundle)")
    args = parser.parse_args()
    bundle = StudentBundle.load(args.bundle) if args.bundle else load_default_bundle()
    place = read_grid(args.grid) if args.grid else (bundle.grid, bundle.grid_from_camera)
    words = chosen_words(None, bundle, WORDS)
    given = {"bundle": args.bundle, "grid.file": args.grid}
    done = replayed(args.image, {name: str(path.resolve()) for name, path in given.items() if path}, words)
    args.output.mkdir(parents=True, exist_ok=True)
    made = pictures(done, bundle, place[0].voxel_size)
    if words:
        voxels, found = answer_of(done.result, bundle, place, words)
        made["words.webp"] = words_panel(done.image_rgb, voxels, found, camera=done.camera)
    for name, picture in made.items():
        path = args.output / name
        path.write_bytes(encode_picture(picture, path.suffix, quality=QUALITY))
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
