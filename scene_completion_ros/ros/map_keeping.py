"""The map of earlier images, kept in the file that `fusion.map_file` names: what `~/save_map` and `~/load_map` do."""

from pathlib import Path

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.mapping.map_files import map_bytes, read_map
from scene_completion_ros.ros.inference_thread import InferenceThread
from scene_completion_ros.ros.parameters.schema import NodeParameters
from scene_completion_ros.whole_files import write_whole

WHERE = "parameters fusion.enabled, fusion.map_file"


def check_kept(parameters: NodeParameters) -> None:
    """Raise SceneCompletionError where there is no map, or no file for it."""
    if not parameters.fusion_enabled:
        raise SceneCompletionError("no images are joined", where=WHERE, cure="Set fusion.enabled to true")
    if not parameters.fusion_map_file:
        raise SceneCompletionError("no file is named", where=WHERE, cure="Start the node with a fusion.map_file")


def save_map(thread: InferenceThread, parameters: NodeParameters) -> str:
    """Write what is remembered, whole or not at all; says so. Raises SceneCompletionError where that cannot be."""
    file, frame = Path(parameters.fusion_map_file), parameters.odometry_frame
    saved = thread.with_memory(lambda memory, _, epoch: memory.saved(frame, epoch))
    try:
        write_whole(file, map_bytes(saved))
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise SceneCompletionError(what, where=str(file), cure="The former file is as it was") from error
    return f"saved {len(saved.voxels.place):,} voxels in {frame} to {file}"


def load_map(thread: InferenceThread, parameters: NodeParameters) -> str:
    """Begin the map anew with the saved one; says so. Raises SceneCompletionError, and the map stays, if unusable."""
    file, frame = Path(parameters.fusion_map_file), parameters.odometry_frame
    saved = read_map(file)
    thread.with_memory(lambda memory, names, epoch: memory.load(saved, frame, names, epoch, where=str(file)))
    return f"loaded {len(saved.voxels.place):,} voxels in {frame} from {file}: the next image is joined with them"
