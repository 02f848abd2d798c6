"""Parity of a variant with the student: how far outputs, densities, decisions and labels are off; what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError
from scene_completion_ros.geometry import VoxelGrid
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_ros.inference.encoded_image import EncodedImage
from scene_completion_ros.inference.encoder import OnnxRuntimeEncoder
from scene_completion_ros.inference.head import VolumeReading
from scene_completion_ros.inference.label_query import LabelQuery
from scene_completion_ros.inference.query_kernel import VoxelQuery
from scene_completion_ros.inference.scene_query import ray_camera
from scene_completion_ros.voxels.occupancy import opacity
from scene_completion_training.export import ray_depth
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder, TrunkName
from scene_completion_training.networks.spatial_decoder import SpatialDecoder

Encode = Callable[[NDArray[np.uint8]], EncodedImage]
"""Of a canonical image uint8 [H, W, 3]."""
Variant = Callable[[NDArray[np.uint8]], Sequence[NDArray[np.float32]]]
"""Images uint8 [N, H, W, 3] -> features [N, h, w, C + E], and volumes [N, X, Y, Z] and depths [N, h', w'] if any."""

TORCH, ONNX = "weights.safetensors in torch", "encoder.onnx in ONNX Runtime, float32"


@dataclass(frozen=True)
class Gate:
    """What is allowed of a variant, over all images together.

    Attributes:
        features: Largest mean difference of the map, as a share of its mean size.
        density: Largest mean difference of the density, as a share of its mean.
        occupied_iou: Smallest intersection over union of the occupied voxels.
        labels: Smallest share of voxels, occupied in both, with the same label.
        batch: Largest difference of a map, volume or depth between an image in a batch and the same alone, as a share
            of its largest value.
        volume: Largest mean difference of the volume, as a share of its mean size.
        depth: Largest mean of what the depth is off, each pixel as a share of its depth.
    """

    features: float
    density: float
    occupied_iou: float
    labels: float
    batch: float
    volume: float
    depth: float


# Two to three times what was measured of the shipped student on window 04, and of students with a decoder in space, see
# docs/gpu.md. Depths were measured of small untrained ones up to 11 m, and an error of inverse depth grows with depth.
GATES: Mapping[str, Gate] = {
    # The stored weights are float16 before and after folding: against torch, that rounding is most of the difference.
    "fp32": Gate(
        features=1e-3, density=2.5e-3, occupied_iou=0.995, labels=0.999, batch=1e-5, volume=1.5e-3, depth=1e-3
    ),
    # Every result is rounded to 11 bits.
    "fp16": Gate(features=2e-3, density=5e-3, occupied_iou=0.993, labels=0.998, batch=1e-3, volume=5e-3, depth=3e-3),
    # 8 bits: decisions at the rim of surfaces change.
    "int8": Gate(features=0.03, density=0.1, occupied_iou=0.9, labels=0.95, batch=0.05, volume=0.06, depth=0.03),
}


@dataclass(frozen=True)
class Parity:
    """How far a variant is off; densities, decisions and labels are those of the default grid's voxels in view.

    Attributes:
        threshold: Probability from which a voxel counted as occupied.
        features_relative: The same as a share of the map's mean size.
        density_max: Largest difference of the density, 1/m.
        density_mean: Mean difference of the density, 1/m.
        density_relative: The same as a share of the mean density.
        occupied_agreement: Share of the voxels in view with the same decision.
        occupied_iou: Intersection over union of the occupied voxels; 1 where there are none.
        labels_agreement: Share of voxels, occupied in both, with the same label; 1 without labels.
        batch_relative: Largest difference of the first image's map or volume in a batch and alone, as a share of its
            largest value.
        volume_max: Largest difference of a logit of the volume; 0 without a volume, as the next two.
        volume_mean: Mean difference of its logits.
        volume_relative: The same as a share of their mean size.
        depth_max: Largest error of a pixel's depth as a share of its depth; 0 without one, as the next.
        depth_relative: The mean of these shares.
    """

    images: int
    threshold: float
    features_max: float
    features_mean: float
    features_relative: float
    density_max: float
    density_mean: float
    density_relative: float
    occupied_agreement: float
    occupied_iou: float
    labels_agreement: float
    batch_relative: float
    volume_max: float
    volume_mean: float
    volume_relative: float
    depth_max: float
    depth_relative: float

    def failures(self, gate: Gate) -> list[str]:
        """What the gate does not allow, in words with numbers; empty where it passes."""
        checks = (
            ("mean difference of the map", self.features_relative, gate.features, True),
            ("mean difference of the volume", self.volume_relative, gate.volume, True),
            ("mean share that the depth is off", self.depth_relative, gate.depth, True),
            ("mean difference of the density", self.density_relative, gate.density, True),
            ("IoU of the occupied voxels", self.occupied_iou, gate.occupied_iou, False),
            ("agreement of the labels", self.labels_agreement, gate.labels, False),
            ("difference between a batch and single images", self.batch_relative, gate.batch, True),
        )
        # Written so that NaN fails.
        return [
            f"{name} is {value:.4g} where at {'most' if most else 'least'} {limit:g} is allowed"
            for name, value, limit, most in checks
            if not (value <= limit if most else value >= limit)
        ]


class ParityCheck:
    """Measures variants on the same canonical images, uint8 [K, H, W, 3] RGB, against the same reference.

    Raises:
        BundleError: The reference sees nothing occupied in any image: then agreement says nothing.
    """

    def __init__(self, bundle: StudentBundle, images: NDArray[np.uint8], reference: Encode) -> None:
        self._bundle, self._images = bundle, images
        self._query = VoxelQuery(
            bundle.head,
            bundle.point_code,
            bundle.canonical,
            bundle.feature_size,
            bundle.grid,
            bundle.grid_from_camera.inverse(),
        )
        self._label = (
            LabelQuery(self._query.field, self._query.samples, self._query.in_view.size)
            if bundle.head.label_hidden
            else None
        )
        self._in_view = self._query.in_view.reshape(-1)
        self._reference = [_contiguous(reference(image)) for image in images]
        if not any(self._density_and_occupied(encoded)[1].any() for encoded in self._reference):
            raise BundleError(
                f"the student sees nothing occupied in any of {len(images)} images, so nothing can be compared",
                where=f"bundle {bundle.name}",
                cure="Name images of what it was trained for with --parity-images",
            )

    def __call__(self, variant: Variant) -> Parity:
        """Measures a variant."""
        features, volume, depth, density_of = _Difference(), _Difference(), _Difference(), _Difference()
        batch_relative = 0.0
        agreed = voxels = both = either = labelled = same_label = 0
        for index, (image, wanted) in enumerate(zip(self._images, self._reference, strict=True)):
            found = _contiguous(EncodedImage.of(variant(image[None])))
            if index == 0:
                together = EncodedImage(*(output[1] for output in variant(np.stack([self._images[-1], image]))))
                batch_relative = _batch_relative(together, found, wanted)
            features.add(found.features, wanted.features)
            if wanted.volume is not None and found.volume is not None:
                volume.add(found.volume, wanted.volume)
            if wanted.depth is not None and found.depth is not None:
                depth.add(found.depth / wanted.depth, np.ones_like(wanted.depth))
            density, occupied = self._density_and_occupied(found)
            right_density, right_occupied = self._density_and_occupied(wanted)
            density_of.add(density, right_density)
            voxels += len(occupied)
            agreed += int(np.count_nonzero(occupied == right_occupied))
            in_both = occupied & right_occupied
            both += int(np.count_nonzero(in_both))
            either += int(np.count_nonzero(occupied | right_occupied))
            if self._label is not None:
                targets = np.flatnonzero(self._in_view)[in_both]
                labels, right_labels = (self._label(one.features, targets)[0].copy() for one in (found, wanted))
                labelled += len(targets)
                same_label += int(np.count_nonzero(labels == right_labels))
        count = len(self._images)
        return Parity(
            images=count,
            threshold=self._bundle.threshold,
            features_max=features.largest,
            features_mean=features.sum / count,
            features_relative=features.relative,
            density_max=density_of.largest,
            density_mean=density_of.sum / count,
            density_relative=density_of.relative,
            occupied_agreement=agreed / voxels,
            occupied_iou=both / either if either else 1.0,
            labels_agreement=same_label / labelled if labelled else float(self._label is None),
            batch_relative=batch_relative,
            volume_max=volume.largest,
            volume_mean=volume.sum / count,
            volume_relative=volume.relative,
            depth_max=depth.largest,
            depth_relative=depth.relative,
        )

    def _density_and_occupied(self, encoded: EncodedImage) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Density, 1/m, and decision of the voxels in view."""
        density = self._query.density(encoded.features, encoded.volume).reshape(-1)[self._in_view]
        alpha = opacity(density, self._bundle.grid.voxel_size)
        return density, self._bundle.calibration.apply(alpha) >= self._bundle.threshold


@dataclass
class _Difference:
    """Of what a variant gives from what is right, over images.

    Attributes:
        largest: The largest one.
        sum: Sum of the means of the images.
        size: Sum of the mean sizes of what is right.
    """

    largest: float = 0.0
    sum: float = 0.0
    size: float = 0.0

    def add(self, found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
        """Takes another image."""
        difference = np.abs(found - wanted)
        self.largest = max(self.largest, _largest(difference))
        self.sum += float(difference.mean(dtype=np.float64))
        self.size += float(np.abs(wanted).mean(dtype=np.float64))

    @property
    def relative(self) -> float:
        """The mean as a share of the mean size."""
        return _share(self.sum, self.size)


def _contiguous(encoded: EncodedImage) -> EncodedImage:
    return EncodedImage(*(np.ascontiguousarray(part) for part in encoded if part is not None))


def _batch_relative(together: EncodedImage, alone: EncodedImage, wanted: EncodedImage) -> float:
    """The largest difference of map, volume and depth, each as a share of its largest value."""
    parts = zip(together, alone, wanted, strict=True)
    return max(
        _share(_largest(one - other), _largest(right))
        for one, other, right in parts
        if one is not None and other is not None and right is not None
    )


def _largest(values: NDArray[np.float32]) -> float:
    return float(np.abs(values).max())


def _share(value: float, whole: float) -> float:
    return value / whole if whole > 0.0 else float(value > 0.0)


class Reference:
    """The student's pre-activation map, volume and depth, as exactly as the bundle allows.

    The channels of the density, the volume and the depth come from ``weights.safetensors`` through torch. A bundle
    holds no unfolded weights of its label units, and may hold none at all: what is missing comes from ``encoder.onnx``,
    in float32.

    Args:
        bundle: The student, saved.
        encoder_weights: Folder or hub name of a transformer trunk, whose configuration is read; see `make_trunk`.

    Raises:
        BundleError: The unfolded weights are not those of a network that is known.
        ConfigurationError: The configuration of a transformer is not there.
    """

    def __init__(self, bundle: StudentBundle, *, threads: int | None = None, encoder_weights: str = "") -> None:
        self._bundle = bundle
        self._encoder = OnnxRuntimeEncoder(bundle, threads=threads)
        self._field = density_field(bundle, encoder_weights) if WEIGHTS in bundle.sha256 else None
        labels = f"; label channels: {ONNX}" if bundle.head.label_hidden else ""
        self.name = f"{TORCH}{labels}" if self._field else ONNX

    def __call__(self, image_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features float32 [h, w, C + E] of a canonical image, uint8 [H, W, 3] RGB."""
        return self.encode(image_rgb).features

    def encode(self, image_rgb: NDArray[np.uint8]) -> EncodedImage:
        """The same, with volume and depth."""
        features, volume, depth = self._encoder.encode(image_rgb).copy()
        if self._field is not None:
            planes = torch.from_numpy(image_rgb.transpose(2, 0, 1).astype(np.float32))[None]
            with torch.inference_mode():
                seen = self._field.observe(planes)
            features[..., : self._bundle.head.hidden] = seen.features[0].permute(1, 2, 0).numpy()
            if seen.volume is not None and self._bundle.head.volume is not None:
                # Weights of a stretched student hold the gain of its head; its encoder does not.
                volume = seen.volume[0].numpy() / self._bundle.head.volume.gain[0]
                rays = ray_camera(self._bundle.canonical)
                depth = ray_depth(seen.depth_code[:, None], self._bundle.point_code, rays)[0].numpy()
        return EncodedImage(features, volume, depth)


def density_field(bundle: StudentBundle, encoder_weights: str = "") -> DensityField:
    """A bundle's density field of its unfolded weights, with its decoder in space where it has one.

    Args:
        bundle: The student.
        encoder_weights: See `Reference`.

    Raises:
        BundleError: They are missing, or another network's.
        ConfigurationError: The configuration of a transformer is not there.
    """
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
        field = DensityField(
            camera,
            bundle.point_code,
            encoder=EncoderDecoder(
                (camera.height, camera.width),
                channels=weights["feature_layer.weight"].shape[1],
                trunk=cast(TrunkName, trunk),
                pretrained=False,
                weights=encoder_weights,
            ),
            channels=weights["feature_layer.weight"].shape[1],
            hidden=weights["feature_layer.weight"].shape[0],
            spatial=None if bundle.head.volume is None else _spatial_decoder(bundle, bundle.head.volume, weights),
        )
        # The map of the mean depth has the size that the training began with; it is scaled where it is used.
        field.encoder.prior = weights["encoder.prior"]
        field.load_state_dict(weights)
    except (KeyError, IndexError, RuntimeError) as error:
        raise BundleError(f"are weights of another network ({str(error)[:200]})", where=where, cure=cure) from error
    return field.eval()


def _spatial_decoder(
    bundle: StudentBundle, reading: VolumeReading, weights: Mapping[str, torch.Tensor]
) -> SpatialDecoder:
    """An untrained decoder in space that the weights fit; its voxels have their centres at the knots of the volume."""
    first, step = reading.lattice.astype(np.float64)
    edge = float(step[0])
    x, y, z = (float(place - 0.5 * edge) for place in first)
    own = {name.removeprefix("spatial."): value for name, value in weights.items() if name.startswith("spatial.")}
    grid = VoxelGrid((x, y, z), edge, reading.knots, bundle.grid.frame)
    return SpatialDecoder.of_weights(own, bundle.canonical, grid, bundle.point_code)
