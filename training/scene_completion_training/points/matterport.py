"""Regions of houses of Matterport3D: vertices of a region's mesh, their labels as OpenScene makes them, and views.

    HOUSE/region_segmentations/regionN.ply                     the mesh; faces have material_id, segment_id, category_id
    HOUSE/undistorted_camera_parameters/HOUSE.conf             intrinsics and poses
    HOUSE/undistorted_color_images, undistorted_depth_images   views, 4000 values of depth to a metre
    category_mapping.tsv                                       what category ids are
    scenes_train.txt, _val.txt, _test.txt                      the official splits of houses

A vertex has the most frequent class of the faces around it. Cameras look along -z with y up. The principal point counts
from the lower edge, so that it is at `height - 1 - cy` here; OpenScene takes it from the upper edge.
"""

from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SceneCompletionError, SequenceError
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.picture_files import read_rgb, read_size
from scene_completion_ros.untrusted_files import read_text, shown
from scene_completion_training.points.label_sets import LabelSet, looked_up
from scene_completion_training.points.ply import colours_of, columns, read_ply
from scene_completion_training.points.scannet import number, read_table
from scene_completion_training.points.scene import UNLABELLED, PointScene, RgbdView
from scene_completion_training.points.sens import depth_png
from scene_completion_training.points.voxel_means import majority

TABLE = "category_mapping.tsv"
REGIONS = "region_segmentations"
_PER_METRE = 4000.0
_CURE = "Download the house again"


def region_files(house: Path) -> list[Path]:
    """Meshes of the regions of a house."""
    found = [file for file in (house / REGIONS).glob("region*.ply") if file.stem[6:].isdecimal()]
    return sorted(found, key=lambda file: int(file.stem[6:]))


@lru_cache(maxsize=4)
def _classes_of_categories(table: Path, labels: LabelSet) -> NDArray[np.int64]:
    """The class of each category id."""
    rows = read_table(table, "index", "nyu40id", "nyuClass")
    found = np.full(1 + max(number(row["index"]) for row in rows), UNLABELLED, np.int64)
    by_id = {id_: place for place, id_ in enumerate(labels.ids)}
    by_name = {name: place for place, name in enumerate(labels.classes)}
    for row in rows:
        place = by_id.get(number(row["nyu40id"])) if labels.ids else by_name.get(row["nyuClass"])
        found[number(row["index"])] = UNLABELLED if place is None else place
    found[0] = UNLABELLED
    return found


def read_region(mesh: Path, labels: LabelSet, table: Path, every: int = 1) -> PointScene:
    """Read a region. Raises SequenceError where a file is missing or damaged, or files contradict each other.

    Args:
        mesh: Its `regionN.ply`.
        labels: matterport21, -40, -80 or -160.
        table: `category_mapping.tsv`.
        every: Take every n-th view of the house.
    """
    elements = read_ply(mesh, ("vertex", "face"))
    vertices, faces = elements.get("vertex"), elements.get("face")
    points = None if vertices is None else columns(vertices, ("x", "y", "z"))
    fields = ("vertex_indices", "material_id", "segment_id", "category_id")
    if vertices is None or points is None or faces is None or not set(fields) <= set(faces.dtype.names or ()):
        raise SequenceError(f"has no points, or faces without {', '.join(fields)}", where=str(mesh), cure=_CURE)
    corners = np.asarray(faces["vertex_indices"], np.int64).reshape(len(faces), -1)
    if corners.size and not 0 <= corners.min() <= corners.max() < len(points):
        raise SequenceError(f"has faces of other than its {len(points)} vertices", where=str(mesh), cure=_CURE)

    def at_vertices(of_faces: NDArray[np.int64]) -> NDArray[np.int64]:
        found = np.full(len(points), UNLABELLED, np.int64)
        keys, values = majority(corners.reshape(-1), np.repeat(of_faces, corners.shape[1]))
        found[keys] = values
        return found

    category = np.asarray(faces["category_id"], np.int64)
    house = mesh.parent.parent
    return PointScene(
        f"{house.name}_{mesh.stem}",
        points,
        colours_of(vertices),
        columns(vertices, ("nx", "ny", "nz")),
        labels.classes,
        at_vertices(looked_up(_classes_of_categories(table, labels), category, str(mesh))),
        at_vertices(np.asarray(faces["segment_id"], np.int64)),
        at_vertices(np.asarray(faces["material_id"], np.int64)),
        house_views(house)[::every],
    )


@lru_cache(maxsize=2)
def house_views(house: Path) -> tuple[RgbdView, ...]:
    """Views of a house, () where their folders are not there.

    Raises SequenceError where the file of cameras is damaged.
    """
    conf = house / "undistorted_camera_parameters" / f"{house.name}.conf"
    if not conf.is_file():
        return ()
    images, depths = house / "undistorted_color_images", house / "undistorted_depth_images"
    size: tuple[int, int] | None = None
    camera: Camera | None = None
    views = []
    for place, line in enumerate(read_text(conf, SequenceError, cure=_CURE, most_bytes=1 << 26).splitlines(), start=1):
        try:
            match line.split():
                case ["intrinsics_matrix", *words]:
                    fx, _, cx, _, fy, cy, *_ = (float(word) for word in words)
                    size = None
                    camera = Camera(fx, fy, cx, cy, 1, 1)
                case ["scan", depth, image, *words]:
                    matrix = np.array([float(word) for word in words]).reshape(4, 4) * [1.0, -1.0, -1.0, 1.0]
                    pose = RigidTransform.from_matrix(matrix)
                    if not (images / image).is_file() or Path(image).name != image or Path(depth).name != depth:
                        raise ValueError(f"there is no image {shown(image)}")
                    if camera is None:
                        raise ValueError("it comes before all intrinsics")
                    if size is None:
                        size = read_size(images / image)
                        camera = Camera(camera.fx, camera.fy, camera.cx, size[1] - 1 - camera.cy, *size)
                    loaders = partial(read_rgb, images / image), partial(depth_png, depths / depth, _PER_METRE)
                    views.append(RgbdView(Path(image).stem, camera, pose, *loaders))
        except (ValueError, SceneCompletionError) as problem:
            raise SequenceError(f"cannot be used: {problem}", where=f"{conf}, line {place}", cure=_CURE) from problem
    return tuple(views)
