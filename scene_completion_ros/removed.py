"""Names that earlier versions had. What reads a name from a user refuses these, and names the replacement."""

from collections.abc import Mapping
from typing import Final, Literal

Kind = Literal[
    "command",  # of the command line, with the protocol where it has some: "evaluate features"
    "argument",  # of a command, behind its name: "replay --views"
    "parameter",
    "topic",
    "service",
    "configuration key",  # of a training, such as "losses.retention"
    "stage",
    "bundle",  # a form of naming one, or a part of one
    "recording",  # a format of one
]

_SNAPSHOTS = "use ros2 bag record --snapshot-mode (docs/record.md)"
_EXTRINSICS = "give the camera's place and angles in an extrinsics_file (docs/frames.md)"
_NO_SAVED_MAP = "leave it out, fusion.enabled begins each run anew, since what was seen a day ago may be gone"
_ONE_STUDENT = "put another student in the place of the bundle, between cleanup and configure (docs/node.md)"

# Each entry ends the sentence "<kind> <name> was removed: ".
REMOVED: Final[Mapping[Kind, Mapping[str, str]]] = {
    "command": {
        "build-engine": "use complete IMAGE --engine tensorrt, which builds and keeps the engine as the node does",
        "classes": "use features classes, and edit the names in classes.json",
        "evaluate features": "use evaluate points, on scenes of points",
        "evaluate point-features": "use evaluate points",
        "improve": "train with start_from=STUDENT (docs/training.md#from-a-student-that-you-have)",
        "points-features": "use features points, whose folder also has the components as PLY",
        "record": _SNAPSHOTS,
        "room-world": "use world room",
        "street-world": "use world street, or street-busy, street-kitti360, street-delivery, street-varied",
    },
    "argument": {
        "calibrate --held-out": "use calibrate --labelled",
        "calibrate --prior-from": "use calibrate --labelled",
        "evaluate geometry --beams": "use --lidar-beams",
        "evaluate geometry --depth-from": "use --lidar-beams",
        "evaluate geometry --prior-voxels": "leave it out, the prior averages exact voxels",
        "evaluate points --bank": "use --text-encoder",
        "evaluate points --device": "leave it out, networks run on the GPU where there is one",
        "evaluate points --probe-points": "leave it out, probes are fitted to as many points as published",
        "evaluate points --repeats": "leave it out, features are the mean over five voxelisations",
        "evaluate points --teacher": "leave it out, the first teacher with features as long as embeddings is taken",
        "evaluate points --template": "leave it out, classes stand in the sentence that CUA-O3D has",
        "evaluate points --without-2d": "leave out --cache",
        "evaluate segmentation --images": "leave it out, 500 images are drawn",
        "evaluate segmentation --probe-steps": "leave it out, probes are trained in 500 steps",
        "evaluate semantics --layer": "name it behind the model of --foundation",
        "evaluate semantics --method": "name checkpoints of agglomeration with --checkpoint",
        "evaluate semantics --prior": "leave it out, the prior of the recordings of --name-on comes along",
        "evaluate semantics --sampling": "leave it out, the stage of a checkpoint decides",
        "evaluate semantics --space": "leave it out, the text bank decides",
        "evaluate semantics --views": "leave it out, a student sees one image",
        "evaluate views --stride": "use --targets",
        "export --encoder-weights": "leave it out, graphs are run in lower precisions where they pass a gate",
        "export --gpu": "leave it out, TensorRT takes the graphs of every bundle (docs/gpu.md)",
        "export --int8-weights": "leave it out, weights are stored in half precision",
        "export --name": "name the folder as the student",
        "export --parity-images": "leave it out, voxels are compared on the images of the gate",
        "export --trained-on": "write it into the licence or a README in the folder of the bundle",
        "export --without-weights": "delete weights.safetensors, which further training alone needs",
        "extract --camera-height": "record odometry, which gives metres (docs/training.md#extract)",
        "extract --poses": "leave it out, poses are those of tf or odometry (docs/training.md#extract)",
        "extract --ray-address": "use --workers, or extract on each machine a part of the bags",
        "extract --set": "name the setting as an option, as in --ground-frame map",
        "extract --strict": "leave it out, and read report.json or NAME.failed.json of each bag",
        "extract --threads": "leave it out, --workers extracts several bags at once",
        "features --config": "name the file behind the kind, as in features images FILE KEY=VALUE",
        "features --device": "leave it out, models run on a GPU where there is one",
        "features --up": "turn the cloud so that z points up",
        "features --template": "name it in the file of --class-texts",
        "replay --camera-from-lidar": "record the static transform between LiDAR and camera",
        "replay --camera-info-topic": "use --camera FILE, or record CameraInfo with the images",
        "replay --ground-truth-camera": "leave it out, the voxels of a folder are around one of its cameras",
        "replay --timeout": "leave it out, a replay waits 60 s for an image; --offline has no limit",
        "replay --views": "join voxels with fusion.enabled in --params-file (docs/temporal_fusion.md)",
        "train --fast-dev-run": "set steps=2, or use train --plan",
        "vocabulary --licence": "write licence: ... into the file of --file",
        "vocabulary --template": "write template: ... into the file of --file",
        "world --assets": "leave it out, all assets are stored",
        "world --busy": "use world street-busy",
        "world --carrier": "choose a seed, which decides whether a robot or a hand carries the camera",
        "world --leg": "use world room --rate 0.6 for views that have nothing in common",
        "world --rig": "use world street-kitti360, street-delivery or street-varied",
        "world --street": "choose a seed, which decides the kind of street",
        "world --workers": "render several worlds at once, each into its own folder",
    },
    "parameter": {
        "depth.deviation": "leave it out, it is 0.02 of the depth",
        "depth.from": "leave it out, a depth.topic that is set is used",
        "fusion.map_file": _NO_SAVED_MAP,
        "gpu_precision": "leave it out, GPUs compute in fp16",
        "image.timeout": "leave it out, two seconds without an image are an error in /diagnostics",
        "camera.roll": _EXTRINSICS,
        "camera.x": _EXTRINSICS,
        "camera.y": _EXTRINSICS,
        "camera.yaw": _EXTRINSICS,
        "clearing_blind_zone": "leave it out, it is ten voxels",
        "inferred_is_free": "leave it out, only space that was seen free makes cells of ~/occupancy_grid free",
        "record.unsure": _SNAPSHOTS,
        "record.wrong": _SNAPSHOTS,
        "scale.mounting": "state camera.height and camera.pitch, or base_frame",
        "shadow.bundle": _ONE_STUDENT,
        "shadow.every": _ONE_STUDENT,
        "sync.camera_info": "leave it out, the last usable CameraInfo holds",
        "transform.timeout": "use sync.timeout, for all that an image waits for",
        "views": "join the voxels of successive images with fusion.enabled (docs/temporal_fusion.md)",
    },
    "topic": {
        "~/markers": "show ~/voxels, which RViz draws as boxes",
        "~/query/centroids": "use the voxels of ~/query/matches",
        "~/record_trigger": _SNAPSHOTS,
    },
    "service": {
        "~/load_map": _NO_SAVED_MAP,
        "~/save_map": _NO_SAVED_MAP,
        "~/swap_bundle": _ONE_STUDENT,
    },
    "configuration key": {
        "agglomeration.shared_mask": "leave it out, a point is compared with the teachers that saw it",
        "data.class_images": "use stage completion, which learns classes of voxels",
        "data.ray_address": "frames are prepared on one machine, in data.workers processes",
        "data.scale_known": "leave it out, no student was better for it",
        "data.scale_off": "leave it out, no student was better for it",
        "data.sensed": "leave it out, no student was better for it",
        "data.sources.frames": "scenes are those of points, which have no frames",
        "data.sources.listed": "name a folder with these scenes",
        "data.sources.up": "turn the scenes so that z points up",
        "data.sources.voxel": "leave it out, recordings have a point in each voxel of 0.02 m",
        "data.sources.kinds": "leave it out, scenes are those of points",
        "data.student": "leave it out, scenes are those of points",
        "data.unlabelled": "students in space learn from labelled voxels, or from stereo pairs with data.segmentation",
        "data.views.encoder_metres": "leave it out, it follows from the volume",
        "data.views.far_metres": "leave it out, it follows from the volume",
        "data.views_apart": "leave it out, a sample is one image",
        "data.way_off": "leave it out, a sample is one image",
        "data.looks": "use data.augmentations",
        "eyes": "use encoder_checkpoint",
        "fit_naming": "use class_branch_steps",
        "freeze_trunk": "use frozen_blocks, which keeps blocks of the trunk as they are",
        "keep_maps": "leave it out, the encoder computes the maps of every sample anew",
        "losses.retention": "name earlier drives in data.sources as well, so that nothing is forgotten",
        "naming": "use class_branch_channels",
        "picture_every": "leave it out, curves show how a training goes",
        "teachers.noise": "name features of your own with model: files:FOLDER",
        "teachers.text_bank": "name features of your own with model: files:FOLDER",
        "trusting": "use use_pixel_classes",
        "views.voxels": "use views.points",
    },
    "stage": {
        "semantic_field": "use stage semantics, or stage completion, which learns classes of voxels",
        "supervised": "use stage completion, which learns classes of voxels",
    },
    "bundle": {
        "hf:": "fetch it with hf download owner/name --local-dir FOLDER, and name the folder (docs/packages.md)",
    },
    "recording": {
        "nuScenes": "convert its scenes with PosedSequence.save, or add a source (CONTRIBUTING.md)",
    },
}


def removed(kind: Kind, name: str) -> str | None:
    """The sentence that refuses a name of this kind; None for one that was never removed."""
    instead = REMOVED[kind].get(name)
    return None if instead is None else f"{kind} {name} was removed: {instead}"
