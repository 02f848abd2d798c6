"""Encoders for GPUs: made, measured against the student (features, densities, decisions, labels), added if all pass."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import cv2
import numpy as np
import torch

from scene_completion_ros.errors import BundleError, SequenceError
from scene_completion_ros.geometry import Camera, Resampler
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_ros.inference.encoded_image import EncodedImage
from scene_completion_ros.inference.encoder import OnnxRuntimeEncoder
from scene_completion_ros.inference.gpu_encoders import GpuEncoder
from scene_completion_ros.inference.gpu_graph_encoder import GpuGraph
from scene_completion_ros.inference.label_query import LabelQuery
from scene_completion_ros.inference.query_kernel import VoxelQuery
from scene_completion_ros.picture_files import read_rgb
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import UNKNOWN_POSES
from scene_completion_ros.sequences.rigs import reference_camera
from scene_completion_ros.voxels.occupancy import opacity
from scene_completion_training.arrays import Bytes, Doubles, Floats, Mask
from scene_completion_training.gpu_export.graph import gpu_graph, to_half
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder, TrunkName

Encode = Callable[[Bytes], EncodedImage]  # of a canonical image uint8 [H, W, 3]

TORCH, ONNX = "weights.safetensors in torch", "encoder.onnx in ONNX Runtime, float32"


@dataclass(frozen=True)
class Gate:
    """What is allowed of a variant, over all images together: see the fields of `Parity` with these names."""

    features: float
    density: float
    occupied_iou: float
    labels: float


# Two to three times what was measured of the shipped student on window 04, see docs/gpu.md.
GATES: Mapping[str, Gate] = {
    # The stored weights are float16 before and after folding: against torch, that rounding is most of the difference.
    "fp32": Gate(features=1e-3, density=2.5e-3, occupied_iou=0.995, labels=0.999),
    # Every result is rounded to 11 bits.
    "fp16": Gate(features=2e-3, density=5e-3, occupied_iou=0.993, labels=0.998),
}


@dataclass(frozen=True)
class Parity:
    """How far a variant is off; densities, decisions and labels are those of the default grid's voxels in view."""

    images: int
    features_relative: float  # mean difference of the map, as a share of its mean size
    density_relative: float  # mean difference of the density, as a share of its mean
    occupied_agreement: float  # share of the voxels in view with the same decision
    occupied_iou: float  # intersection over union of the occupied voxels; 1 where there are none
    labels_agreement: float  # share of voxels, occupied in both, with the same label; 1 without labels

    def failures(self, gate: Gate) -> list[str]:
        """What the gate does not allow, in words with numbers; empty where it passes."""
        checks = (
            ("mean difference of the map", self.features_relative, gate.features, True),
            ("mean difference of the density", self.density_relative, gate.density, True),
            ("IoU of the occupied voxels", self.occupied_iou, gate.occupied_iou, False),
            ("agreement of the labels", self.labels_agreement, gate.labels, False),
        )
        # Written so that NaN fails.
        return [
            f"{name} is {value:.4g} where at {'most' if most else 'least'} {limit:g} is allowed"
            for name, value, limit, most in checks
            if not (value <= limit if most else value >= limit)
        ]


class ParityCheck:
    """Measures variants on canonical images, uint8 [K, H, W, 3]; a `BundleError` where nothing is ever occupied."""

    def __init__(self, bundle: StudentBundle, images: Bytes, reference: Encode) -> None:
        self._bundle, self._images = bundle, images
        camera_from_grid = bundle.grid_from_camera.inverse()
        self._query = VoxelQuery(
            bundle.head, bundle.point_code, bundle.canonical, bundle.feature_size, bundle.grid, camera_from_grid
        )
        self._in_view = self._query.in_view.reshape(-1)
        self._label = None
        if bundle.head.label_hidden:
            self._label = LabelQuery(self._query.field, self._query.samples, self._in_view.size)
        self._reference = [reference(image).features.copy() for image in images]
        if not any(self._density_and_occupied(features)[1].any() for features in self._reference):
            what = f"the student sees nothing occupied in any of {len(images)} images, so nothing can be compared"
            cure = "Name images of what it was trained for with --parity-images"
            raise BundleError(what, where=f"bundle {bundle.name}", cure=cure)

    def __call__(self, variant: Encode) -> Parity:
        """Measures a variant."""
        off = {name: np.zeros(2) for name in ("features", "density")}  # difference, size
        agreed = voxels = both = either = same_label = 0
        for image, wanted in zip(self._images, self._reference, strict=True):
            found = variant(image).features.copy()
            (density, occupied), (right_density, right) = map(self._density_and_occupied, (found, wanted))
            off["features"] += _difference(found, wanted)
            off["density"] += _difference(density, right_density)
            voxels += len(occupied)
            agreed += int(np.count_nonzero(occupied == right))
            both += int(np.count_nonzero(occupied & right))
            either += int(np.count_nonzero(occupied | right))
            if self._label is not None:
                targets = np.flatnonzero(self._in_view)[occupied & right]
                labels, right_labels = (self._label(one, targets)[0].copy() for one in (found, wanted))
                same_label += int(np.count_nonzero(labels == right_labels))
        relative = {f"{name}_relative": _share(*sums) for name, sums in off.items()}
        relative |= {"occupied_agreement": agreed / voxels, "occupied_iou": both / either if either else 1.0}
        named = 1.0 if self._label is None else same_label / max(both, 1)
        return Parity(len(self._images), labels_agreement=named, **relative)

    def _density_and_occupied(self, features: Floats) -> tuple[Floats, Mask]:
        """Density, 1/m, and decision of the voxels in view."""
        density = self._query.density(features).reshape(-1)[self._in_view]
        alpha = opacity(density, self._bundle.grid.voxel_size)
        return density, self._bundle.calibration.apply(alpha) >= self._bundle.threshold


def _difference(found: Floats, wanted: Floats) -> Doubles:
    """Mean difference, and mean size of what is right."""
    return np.array([np.abs(one).mean(dtype=np.float64) for one in (found - wanted, wanted)])


def _share(value: float, whole: float) -> float:
    return float(value / whole) if whole > 0.0 else float(value > 0.0)


class Reference:
    """The student's pre-activation map, as exactly as the bundle allows.

    The channels of the density come from ``weights.safetensors`` through torch. A bundle holds no unfolded weights of
    its label units, and may hold none at all: what is missing comes from ``encoder.onnx``, in float32. Raises
    BundleError for weights of no known network; ConfigurationError where the configuration of a transformer is not
    there. `encoder_weights`: see `make_trunk`.
    """

    def __init__(self, bundle: StudentBundle, *, threads: int | None = None, encoder_weights: str = "") -> None:
        self._bundle = bundle
        self._encoder = OnnxRuntimeEncoder(bundle, threads=threads)
        self._field = density_field(bundle, encoder_weights) if WEIGHTS in bundle.sha256 else None
        labels = f"; label channels: {ONNX}" if bundle.head.label_hidden else ""
        self.name = f"{TORCH}{labels}" if self._field else ONNX

    def encode(self, image_rgb: Bytes) -> EncodedImage:
        """Features float32 [h, w, C + E] of a canonical image, uint8 [H, W, 3] RGB."""
        features = self._encoder(image_rgb).copy()
        if self._field is not None:
            planes = torch.from_numpy(image_rgb.transpose(2, 0, 1).astype(np.float32))[None]
            with torch.inference_mode():
                seen = self._field.observe(planes)
            features[..., : self._bundle.head.hidden] = seen.hidden_map[0].permute(1, 2, 0).numpy()
        return EncodedImage(features)


def density_field(bundle: StudentBundle, encoder_weights: str = "") -> DensityField:
    """A bundle's density field of its unfolded weights, see `Reference`; a `BundleError` if there are no such ones."""
    weights = {name: torch.from_numpy(value.astype(np.float32)) for name, value in bundle.load_weights().items()}
    where = f"{bundle.folder}/{WEIGHTS}"
    configuration = bundle.provenance.get("configuration")
    trunk = configuration.get("encoder") if isinstance(configuration, dict) else None
    cure = "Export the bundle again, or take it without this file: then encoder.onnx is the reference."
    trunk = trunk or "efficientnet_lite0"
    if trunk not in get_args(TrunkName):
        raise BundleError(f"belongs to an encoder {trunk!r} that is not known", where=where, cure=cure)
    camera = bundle.canonical
    try:
        hidden, channels = weights["feature_layer.weight"].shape[:2]
        size, named = (camera.height, camera.width), cast(TrunkName, trunk)
        encoder = EncoderDecoder(size, channels=channels, trunk=named, pretrained=False, weights=encoder_weights)
        field = DensityField(camera, bundle.point_code, encoder=encoder, hidden=hidden)
        # The map of the mean depth has the size that the training began with; it is scaled where it is used.
        field.encoder.prior = weights["encoder.prior"]
        field.load_state_dict(weights)
    except (KeyError, IndexError, RuntimeError) as error:
        raise BundleError(f"are weights of another network ({str(error)[:200]})", where=where, cure=cure) from error
    return field.eval()


_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"}


def canonical_images(sources: Sequence[Path], canonical: Camera, most: int) -> Bytes:
    """Images of several places, at most so many, spread evenly over each: uint8 [K, H, W, 3] RGB.

    Sequence folders, drives of KITTI and bags are resampled by their calibration; an image of a folder without one is
    cut to the canonical camera's shape and scaled. Raises SequenceError where a place holds no image, or is none.
    """
    share = max(1, most // len(sources))
    images = [image for source in sources for image in _of(source, canonical, share)]
    if not images:
        what = "holds no image that can be read"
        raise SequenceError(what, where=", ".join(map(str, sources)), cure="Name other recordings")
    return np.stack(images[:most])


def _of(source: Path, canonical: Camera, most: int) -> Iterator[Bytes]:
    files = sorted(path for path in source.glob("*") if path.suffix.lower() in _SUFFIXES)
    if files:
        for index in spread(len(files), most):
            yield _cut(read_rgb(files[index]), canonical)
        return
    sequence = open_recording(source, poses=UNKNOWN_POSES)  # a bag may have none
    camera = reference_camera(sequence)
    resample = Resampler(sequence.cameras[camera], canonical)
    for index in spread(len(sequence), most):
        yield resample(sequence.image(index, camera))


def spread(count: int, most: int) -> list[int]:
    """Numbers of at most so many among 0 ... count - 1, spread evenly, the first and the last among them."""
    return sorted({int(index) for index in np.linspace(0, count - 1, min(count, most)).round()})


def _cut(image: Bytes, canonical: Camera) -> Bytes:
    """The middle of an image of the canonical camera's proportions, scaled to its size."""
    height, width = image.shape[:2]
    scale = min(width / canonical.width, height / canonical.height)
    rows, columns = round(canonical.height * scale), round(canonical.width * scale)
    top, left = (height - rows) // 2, (width - columns) // 2
    part = image[top : top + rows, left : left + columns]
    size = (canonical.width, canonical.height)
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


PARITY_IMAGES = 8  # images that every variant is compared on, in all


def export_for_gpus(
    bundle: StudentBundle,  # the student, saved; its folder is written
    precisions: Sequence[str],
    *,
    parity: Sequence[Path],  # places of the images that every variant is compared on
    gates: Mapping[str, Gate] = GATES,
    threads: int | None = None,
    encoder_weights: str = "",  # folder or hub name of a transformer trunk, see `Reference`
    # Called for every variant with its precision, bytes and parity, also where it fails.
    report: Callable[[str, int, Parity], None] = lambda *_: None,
) -> StudentBundle:
    """Adds encoders for GPUs, all or none, and returns the bundle; a `BundleError` where one misses its gate."""
    single = gpu_graph(bundle)
    reference = Reference(bundle, threads=threads, encoder_weights=encoder_weights)
    check = ParityCheck(bundle, canonical_images(parity, bundle.canonical, PARITY_IMAGES), reference.encode)
    made: dict[str, tuple[bytes, GpuEncoder]] = {}
    failures: list[str] = []
    for precision in precisions:
        model = single if precision == "fp32" else to_half(single)
        graph: bytes = model.SerializeToString(deterministic=True)
        measured = check(GpuGraph(graph, f"{precision} of {bundle.folder}", threads=threads).encode)
        report(precision, len(graph), measured)
        failures += [f"{precision}: {failure}" for failure in measured.failures(gates[precision])]
        numbers = {name: float(value) for name, value in dataclasses.asdict(measured).items()}
        made[precision] = (graph, GpuEncoder(precision, "", {}, numbers, reference.name))
    if failures:
        cure = "The bundle stays as it was. Leave this precision out."
        raise BundleError("; ".join(failures), where=f"parity with {reference.name}", cure=cure)
    return bundle.add_gpu_encoders(made)
