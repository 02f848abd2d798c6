"""The process in which pycolmap runs: `python -m scene_completion_training.extraction.mapper_process PROBLEM_FOLDER`.

pycolmap brings its own zlib and libpng, which break OpenCV's in the same process, and it aborts where other libraries
raise. Besides it, NumPy alone is imported here. The folder holds `problem.json` and `images/`. The result is
`models.npz` with four arrays for every model m: m_names [N], m_cam_from_world [N, 3, 4], m_points [P, 3] and
m_observations [K, 2] (index of the image, index of the point).
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENOUGH = 0.6  # share of the frames that a rig's reconstruction should hold before its images are tried one by one


def main(folder: Path) -> None:
    """Extract features, match, map."""
    problem = json.loads((folder / "problem.json").read_text(encoding="utf-8"))
    database = folder / "database.db"
    _extract(folder, database, problem)
    _match(folder, database, problem)
    models = _reconstructions(folder, database, problem)
    arrays: dict[str, Any] = {}
    for number, model in enumerate(models):
        arrays |= {f"{number}_{key}": array for key, array in model.items()}
    np.savez(folder / "models.npz", **arrays)


def _reconstructions(folder: Path, database: Path, problem: dict[str, Any]) -> list[dict[str, NDArray[Any]]]:
    """Models, the one of most images first; those of a rig are in the unit of its dimensions."""
    if len(problem["cameras"]) < 2:
        return [_arrays(model) for model in _map(folder, database, problem)]
    of_rig = folder / "rig.db"
    shutil.copyfile(database, of_rig)
    _declare_rig(of_rig, problem)
    together = [_arrays(model) for model in _map(folder, of_rig, problem)]
    count = sum(len(camera["images"]) for camera in problem["cameras"])
    if together and len(together[0]["names"]) >= ENOUGH * count:
        return together
    # Begun with two cameras of one frame that see little in common, the mapper may get no further.
    apart = [_scaled_to_rig(_arrays(model), problem) for model in _map(folder, database, problem)]
    alone = [model for model in apart if model is not None]
    return max((together, alone), key=lambda models: max((len(model["names"]) for model in models), default=0))


def _scaled_to_rig(model: dict[str, NDArray[Any]], problem: dict[str, Any]) -> dict[str, NDArray[Any]] | None:
    """Scale a model by the distances between its cameras; None where it has too few."""
    poses = model["cam_from_world"]
    place_of = {str(name): -pose[:, :3].T @ pose[:, 3] for name, pose in zip(model["names"], poses, strict=True)}
    ratios = []
    first = problem["cameras"][0]
    for camera in problem["cameras"][1:]:
        known = float(np.linalg.norm(np.array(camera["camera_from_first"])[:3, 3]))
        for one, other in zip(first["images"], camera["images"], strict=True):
            if known > 0.0 and one in place_of and other in place_of:
                ratios.append(known / max(float(np.linalg.norm(place_of[one] - place_of[other])), 1e-12))
    if len(ratios) < 3:
        return None
    factor = float(np.median(ratios))
    scaled = poses.copy()
    scaled[:, :, 3] *= factor
    return {**model, "cam_from_world": scaled, "points": factor * model["points"]}


def _extract(folder: Path, database: Path, problem: dict[str, Any]) -> None:
    import pycolmap

    options = pycolmap.FeatureExtractionOptions()
    options.num_threads = problem["threads"]
    options.use_gpu = False
    options.sift.max_num_features = problem["features"]
    for camera in problem["cameras"]:
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = "PINHOLE"
        fx, fy, cx, cy = camera["intrinsics"]
        reader.camera_params = f"{fx},{fy},{cx + 0.5},{cy + 0.5}"  # COLMAP's origin is the corner of the first pixel
        if camera["masked"]:
            reader.mask_path = folder / "masks"
        pycolmap.extract_features(
            database,
            folder / "images",
            image_names=camera["images"],
            camera_mode=pycolmap.CameraMode.PER_FOLDER,
            reader_options=reader,
            extraction_options=options,
        )


def _declare_rig(database: Path, problem: dict[str, Any]) -> None:
    """Tell the mapper how the cameras stand to each other: the distances between them are its scale."""
    import pycolmap

    rig = pycolmap.RigConfig()
    cameras = []
    for index, camera in enumerate(problem["cameras"]):
        entry = pycolmap.RigConfigCamera()
        entry.image_prefix = f"{camera['folder']}/"
        entry.ref_sensor = index == 0
        if index:
            matrix = np.array(camera["camera_from_first"])
            entry.cam_from_rig = pycolmap.Rigid3d(pycolmap.Rotation3d(matrix[:3, :3]), matrix[:3, 3])
        cameras.append(entry)
    rig.cameras = cameras
    opened = pycolmap.Database.open(database)
    pycolmap.apply_rig_config([rig], opened)
    opened.close()


def _match(folder: Path, database: Path, problem: dict[str, Any]) -> None:
    import pycolmap

    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads = problem["threads"]
    matching.use_gpu = False
    pairs = pycolmap.ImportedPairingOptions()
    pairs.match_list_path = folder / "pairs.txt"
    (folder / "pairs.txt").write_text("\n".join(f"{a} {b}" for a, b in problem["pairs"]), encoding="utf-8")
    pycolmap.match_image_pairs(database, matching_options=matching, pairing_options=pairs)


def _map(folder: Path, database: Path, problem: dict[str, Any]) -> list[Any]:
    """Models, the one of most images first. The calibration is known and stays as it is."""
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.ba_refine_focal_length = False
    options.ba_refine_principal_point = False
    options.ba_refine_extra_params = False
    options.ba_refine_sensor_from_rig = False
    options.mapper.abs_pose_refine_focal_length = False
    options.mapper.abs_pose_refine_extra_params = False
    options.mapper.init_min_tri_angle = 4.0  # cameras that face ahead see little parallax
    options.min_model_size = problem["smallest_model"]
    options.num_threads = problem["threads"]
    options.random_seed = 0
    options.extract_colors = False
    models = pycolmap.incremental_mapping(database, folder / "images", folder / "models", options)
    return sorted(models.values(), key=lambda model: -int(model.num_reg_images()))


def _arrays(model: Any) -> dict[str, NDArray[Any]]:
    index_of = {identity: index for index, identity in enumerate(model.points3D)}
    points = [point.xyz for point in model.points3D.values()]
    names: list[str] = []
    poses: list[NDArray[np.float64]] = []
    observations: list[tuple[int, int]] = []
    for image in sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.name):
        seen = [index_of[feature.point3D_id] for feature in image.points2D if feature.has_point3D()]
        observations += [(len(names), index) for index in seen]
        names.append(image.name)
        poses.append(image.cam_from_world().matrix())
    return {
        "names": np.array(names),
        "cam_from_world": np.array(poses).reshape(-1, 3, 4),
        "points": np.array(points).reshape(-1, 3),
        "observations": np.array(observations, dtype=np.int64).reshape(-1, 2),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
