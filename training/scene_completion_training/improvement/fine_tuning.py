"""A student learns from new drives and old ones: its training, its export with the labels it had, its parity check."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from numpy.typing import NDArray
from onnx import numpy_helper

from scene_completion_ros.errors import BundleError, ImprovementError
from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_ros.inference.encoded_image import EncodedImage, Encoder
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.volume_pose import no_evidence
from scene_completion_training.arrays import Bytes, Doubles, Floats
from scene_completion_training.checkpoints import Checkpoint, TrainedWeights
from scene_completion_training.configuration import LossWeights
from scene_completion_training.export import encoder_onnx, export_bundle, labelled_parts_kept
from scene_completion_training.gpu_export import parity
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.scene_export import ExportedScene, ExportedView, export_scene
from scene_completion_training.stages.completion import SceneField, read_eyes
from scene_completion_training.viewpoint import Viewpoint

CHECKPOINT_EVERY = 50
LEARNING_RATE = 3e-4
SCENE_LEARNING_RATE = 1e-4  # of a student with a decoder in space: a tenth of that which it was trained with
PARITY_IMAGES = 6
# Rounding weights to float16 moves the map of some students by 0.14 %: their densities and decisions tell more.
_GATE = dataclasses.replace(parity.GATES["fp32"], features=parity.GATES["fp16"].features)
# Losses on hidden space: the student says by itself what is empty there.
_HELD = {"retention": 1.0, "emptiness": 0.0, "sparsity": 0.0}
_KEPT_SETTINGS = ("encoder", "frozen_blocks")  # what a student's own configuration says of its network
_KEPT_OF_SCENES = (
    "world",
    "widths",
    "context",
    "reduced",
    "naming",
    "merging",
    "trusting",
    "distance",
    "rare",
    "precision",
)
# The weights of the losses of a student with a decoder in space: drives say no classes and no ground.
_SCENE_LOSSES = {"classes": 0.0, "ground": 0.0, "pixels": 0.0, "retention": 1.0}
# Of weights rounded to 8 bits: three times what was measured of a student of rooms.
_EIGHT_BIT_GATE = parity.Gate(features=0.015, density=0.018, occupied_iou=0.98, labels=0.99, volume=0.017, depth=0.055)
_SAME = 0.01  # norm of the difference of two constants, as a share of their norm, below which they are the same
# Norm of what no change of depth explains in label units, as a share of their norm: rounding came to 0.0014.
_LABEL_TOLERANCE = 3e-3


def write_configuration(
    file: Path,
    bundle: StudentBundle,
    sources: Sequence[Path],  # folders of the new drives
    replay: Sequence[Path],  # folders of old ones, which the student is not to forget
    *,
    steps: int,
    output: Path,
    cache: Path,
) -> None:
    """Writes the configuration of a training that goes on from a student, for `scene-completion train`.

    The network is that of the student. One with labels keeps the trunk of its encoder: they read it, and so do words.
    """
    if bundle.takes_pose:
        content = _of_scenes(bundle, [*sources, *replay], steps=steps, output=output, cache=cache)
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return
    trained = bundle.provenance.get("configuration", {})
    halved = Viewpoint.of_bundle(bundle).camera.width > bundle.canonical.width
    losses = {name: value for name, value in trained.get("losses", {}).items() if name in vars(LossWeights())}
    losses |= _HELD
    content = {
        "stage": "single_view",
        "start_from": str(bundle.folder),
        "steps": steps,
        "checkpoint_every": _checkpoint_every(steps),
        "half_resolution_steps": steps if halved else 0,
        "learning_rate": LEARNING_RATE,
        "warmup": max(1, steps // 10),
        "hidden": bundle.head.hidden,
        "freeze_trunk": bool(bundle.head.label_hidden),
        "output": str(output),
        "picture_every": 0,
        "losses": losses,
        "data": {
            "root": "/",
            "cache": str(cache),
            "workers": 0,
            "sources": [{"folder": str(folder.resolve())} for folder in (*sources, *replay)],
        },
        **{name: trained[name] for name in _KEPT_SETTINGS if trained.get(name) is not None},
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _checkpoint_every(steps: int) -> int:
    return next(every for every in range(min(CHECKPOINT_EVERY, steps), 0, -1) if steps % every == 0)


def _of_scenes(old: StudentBundle, sources: Sequence[Path], *, steps: int, output: Path, cache: Path) -> dict[str, Any]:
    """The configuration of a training that goes on from a student with a decoder in space.

    Depth in real images is off by itself, and nothing is added to that.
    """
    trained = old.provenance.get("configuration", {})
    camera, volume = Viewpoint.of_bundle(old).settings
    sees = any(name.startswith("encoder.") for name in old.load_weights())
    kept = {name: trained[name] for name in _KEPT_OF_SCENES if trained.get(name) is not None}
    return {
        "stage": "completion",
        "start_from": str(old.folder),
        "eyes": str(old.folder) if sees else "",
        "steps": steps,
        "checkpoint_every": _checkpoint_every(steps),
        "learning_rate": SCENE_LEARNING_RATE,
        "warmup": max(1, steps // 10),
        "ema_decay": 0.0,
        "output": str(output),
        "losses": trained.get("losses", {}) | _SCENE_LOSSES,
        "camera": vars(camera) | {"pitch_range": list(camera.pitch_range)},
        "volume": vars(volume),
        "data": {
            "root": "/",
            "cache": str(cache),
            "workers": 0,
            "unlabelled": True,
            "unknown_pose": 0.1,
            "exact": 0.0,
            "depth_scale": 0.0,
            "depth_waves": 0.0,
            "depth_far": 0.0,
            "sources": [{"folder": str(folder.resolve())} for folder in sources],
        },
        **kept,
    }


def mix_checkpoint(checkpoint: Path, old: StudentBundle, share: float, file: Path, encoder_weights: str = "") -> Path:
    """Writes a checkpoint whose field lies between that of a student and the one that was trained on from it.

    Fine-tuning on few drives gains there and forgets elsewhere. Weights in between keep most of both (Wortsman et al.,
    "Robust fine-tuning of zero-shot models", CVPR 2022). `judge_mixtures` says how far to go.

    Weights are rounded as a bundle rounds them, so that its encoder and its weights are the same network.

    `share`: of the trained weights, 0..1; `encoder_weights`: see `density_field`.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state = content["state_dict"]
    if old.takes_pose:
        earlier = TrainedWeights.read(_folder(old)).under("field.")
    else:
        earlier = parity.density_field(old, encoder_weights).state_dict()
    for name, before in earlier.items():
        after = state[f"field.{name}"]
        if after.is_floating_point():
            state[f"field.{name}"] = torch.lerp(before.to(after.dtype), after, share).half().to(after.dtype)
    torch.save(content, file)
    return file


def export_improved(
    checkpoint: Path, old: StudentBundle, folder: Path, *, name: str, provenance: Mapping[str, Any]
) -> StudentBundle:
    """Exports a fine-tuned student; labels, words and licence are those of the old one.

    Raises BundleError where the labels of the old student cannot be kept beside the new density.
    """
    history = {**provenance, "improved_from": {"name": old.name, "sha256": dict(old.sha256)}}
    options: dict[str, Any] = {"name": name, "licence": old.licence, "provenance": history}
    if old.takes_pose:
        new = export_scene(checkpoint, folder, eight_bit=_rounded(old), **options)
    else:
        new = export_bundle(checkpoint, folder, **options)
    changes: dict[str, Any] = {"focal_range": _both(old.focal_range, new.focal_range)}
    if old.takes_pose:
        changes["pitch_range"] = _both(old.pitch_range, new.pitch_range)
        changes["height_range"] = _both(*(one.height_range or (one.height_above_ground,) * 2 for one in (old, new)))
        new = dataclasses.replace(new, calibration=old.calibration, threshold=old.threshold, **changes)
        new = new.save(folder, new.read_encoder(), new.load_weights())
        return new.with_vocabulary(old.feature_spaces, old.text_bank()) if old.feature_spaces else new
    if not old.head.label_hidden:
        return dataclasses.replace(new, **changes).save(folder, new.read_encoder(), new.load_weights())
    weights = str(Checkpoint.read(checkpoint).configuration.get("encoder_weights", ""))
    before, after = (parity.density_field(one, weights) for one in (old, new))
    encoder = encoder_with_new_density(old.read_encoder(), before, after, old.canonical)
    provenance = {**new.provenance, "labels": old.provenance.get("labels", {})}
    changes |= {"name": name, "head": labelled_parts_kept(new.head, old.head), "provenance": provenance}
    labelled = dataclasses.replace(old, calibration=new.calibration, **changes)
    return labelled.save(folder, encoder, new.load_weights())


def _both(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return min(one[0], other[0]), max(one[1], other[1])


def _rounded(bundle: StudentBundle) -> bool:
    """Whether weights of its graph have eight bits."""
    graph = onnx.load_from_string(bundle.read_encoder()).graph
    return any(node.op_type == "DequantizeLinear" for node in graph.node)


def _folder(bundle: StudentBundle) -> Path:
    return bundle.encoder_path.parent


def encoder_with_new_density(labelled: bytes, before: DensityField, after: DensityField, camera: Camera) -> bytes:
    """An encoder with labels whose density is another one.

    The graphs of the density before and after have the same names. What differs between them is looked up by its values
    in the graph with labels, and replaced there. Label units that read the depth of a pixel read the new one. Raises
    BundleError where the graph with labels lacks a part of the density.

    `before`: its density, without labels; `after`: the new density, of the same trunk; `camera`: of the images that
    encoders take.
    """
    graph = onnx.load_from_string(labelled)
    places = {tensor.name: number for number, tensor in enumerate(graph.graph.initializer)}
    stored = _constants(graph)
    for node, weight, bias in _depth_readers(graph, stored, before):
        for place, (name, values) in enumerate(_of_new_depth(stored[weight], stored[bias], before, after).items(), 1):
            # Constants of its own: an export stores those once that are alike.
            node.input[place] = f"{node.name}.{name}"
            graph.graph.initializer.append(numpy_helper.from_array(values, node.input[place]))
    readers = Counter(name for node in graph.graph.node for name in node.input)
    old, new = (_constants(onnx.load_from_string(encoder_onnx(field, camera))) for field in (before, after))
    if old.keys() != new.keys():
        raise BundleError("its network is another one than before", where="export", cure="Keep the student's network")
    for name in old:
        if np.array_equal(old[name], new[name]):
            continue
        same = [place for place, values in stored.items() if _alike(values, old[name])]
        if len(same) != 1 or readers[same[0]] != 1:
            what = f"the part {name} of its density is not in the encoder with labels, or not its alone"
            cure = "Name a student whose weights.safetensors and encoder.onnx belong together"
            raise BundleError(what, where="export", cure=cure)
        tensor = numpy_helper.from_array(new[name].astype(stored[same[0]].dtype), same[0])
        graph.graph.initializer[places[same[0]]].CopyFrom(tensor)
    onnx.checker.check_model(graph)
    return bytes(graph.SerializeToString())


def _depth_readers(
    graph: onnx.ModelProto, stored: Mapping[str, NDArray[Any]], density: DensityField
) -> list[tuple[onnx.NodeProto, str, str]]:
    """The 1×1 convolutions that read nothing but the depth of a density's decoder; names of their weight and bias.

    An export folds such a one into the projection that makes the depth: each of its rows is a multiple of that.
    """
    direction = _depth_projection(density)[0]
    direction = direction / np.linalg.norm(direction)
    cast = {node.output[0]: node.input[0] for node in graph.graph.node if node.op_type == "Cast"}
    found = []
    for node in graph.graph.node:
        names = [cast.get(name, name) for name in node.input[1:]]
        if node.op_type != "Conv" or len(names) != 2 or not stored.keys() >= set(names):
            continue
        rows = stored[names[0]].astype(np.float64)
        if rows.shape[1:] != (len(direction), 1, 1) or len(rows) < 2:
            continue
        rows = rows[..., 0, 0]
        if np.linalg.norm(rows - np.outer(rows @ direction, direction)) <= _SAME * np.linalg.norm(rows):
            found.append((node, names[0], names[1]))
    return found


def _of_new_depth(weight: NDArray[Any], bias: NDArray[Any], old: DensityField, new: DensityField) -> dict[str, Floats]:
    """Weight and bias of a `_depth_readers` convolution whose depth is that of another density."""
    (row, offset), (new_row, new_offset) = (_depth_projection(density) for density in (old, new))
    share = weight[..., 0, 0].astype(np.float64) @ row / (row @ row)
    weight, bias = np.outer(share, new_row)[..., None, None], bias + share * (new_offset - offset)
    return {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}


def _depth_projection(density: DensityField) -> tuple[Doubles, float]:
    """Weights and bias of the projection that makes channel 0, the inverse depth code."""
    project = density.encoder.projection
    assert project.bias is not None
    return project.weight.detach().numpy()[0, :, 0, 0].astype(np.float64), float(project.bias.detach()[0])


def _alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two constants are the same but for weights being rounded to float16 before or after they are folded."""
    if one.shape != other.shape or one.dtype.kind != "f":
        return False
    size, off = (float(np.linalg.norm(part.astype(np.float64))) for part in (other, one.astype(np.float64) - other))
    return off <= _SAME * size


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def check_parity(
    new: StudentBundle,
    old: StudentBundle,
    images_of: Sequence[Path],  # recordings whose images are looked at
    *,
    threads: int | None = None,
    encoder_weights: str = "",  # see `Reference`
) -> dict[str, float]:
    """Compares the exported student with its weights in torch, and its labels with those before.

    Returns what was measured: name -> value. Raises ImprovementError where the export is farther off than rounding
    explains, or its labels changed by more than its depth explains.
    """
    images = parity.canonical_images(images_of, new.canonical, PARITY_IMAGES)
    if new.takes_pose:
        encoder = make_encoder(new, threads=threads)
        found = parity.ParityCheck(new, images, scene_in_torch(new, encoder_weights))(encoder.encode)
        _refuse(found.failures(_EIGHT_BIT_GATE if _rounded(new) else _GATE))
        return {name: float(value) for name, value in dataclasses.asdict(found).items()}
    reference = parity.Reference(new, threads=threads, encoder_weights=encoder_weights)
    encoder = make_encoder(new, threads=threads)

    found = parity.ParityCheck(new, images, reference.encode)(encoder.encode)
    failures = found.failures(_GATE)
    hidden = new.head.hidden
    if new.head.label_hidden:
        fields = [parity.density_field(student, encoder_weights) for student in (new, old)]
        encoders = (encoder, make_encoder(old, threads=threads))
        off = max(_label_difference(encoders, fields, image, hidden) for image in images)
        if not off <= _LABEL_TOLERANCE:
            failures.append(f"label units differ by {off:.2g} of their size")
    _refuse(failures)
    return {name: float(value) for name, value in dataclasses.asdict(found).items()}


def _refuse(failures: Sequence[str]) -> None:
    if failures:
        cure = "The old student stays. Start again with another --output, and report this if it comes again"
        raise ImprovementError("; ".join(failures), where=f"parity with {WEIGHTS}", cure=cure)


def scene_in_torch(bundle: StudentBundle, encoder_weights: str = "") -> parity.Encode:
    """What the weights of a student with a decoder in space say in torch, of a camera that stands nobody knows how."""
    viewpoint, weights = Viewpoint.of_bundle(bundle), TrainedWeights.read(_folder(bundle))
    state = weights.under("field.")
    field = SceneField.rebuilt(state, viewpoint)
    field.load_state_dict(state)
    eyes = str(_folder(bundle)) if weights.under("encoder.") else ""
    view, scene = ExportedView(field.eval(), read_eyes(eyes, encoder_weights, viewpoint)[0]), ExportedScene(field)
    given = {**bundle.graph_inputs(), **no_evidence(bundle.canonical)}
    beside = {name: torch.from_numpy(values) for name, values in given.items()}

    def encode(image: Bytes) -> EncodedImage:
        planes = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))[None]
        with torch.inference_mode():
            return EncodedImage.of([part.numpy() for part in scene(view(planes, beside["ground"]), *beside.values())])

    return encode


@torch.no_grad()
def _label_difference(encoders: Sequence[Encoder], fields: Sequence[DensityField], image: Bytes, hidden: int) -> float:
    """How far label units of two encoders are apart, beyond what the depths of their fields explain linearly."""
    units = [encoder.encode(image).features[..., hidden:].astype(np.float64) for encoder in encoders]
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    codes = [field.observe(pixels).depth_code[0].double().numpy() for field in fields]
    change, moved = units[0] - units[1], codes[0] - codes[1]
    share = np.einsum("hwc,hw->c", change, moved) / max(float((moved**2).sum()), 1e-12)
    unexplained = change - moved[..., None] * share
    return float(np.linalg.norm(unexplained) / max(float(np.linalg.norm(units[1])), 1e-9))
