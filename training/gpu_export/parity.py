"""Parity of a variant with the student: how far map, densities, decisions and labels are off, and what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_ros.inference.encoder import OnnxRuntimeEncoder
from scene_completion_ros.inference.label_query import LabelQuery
from scene_completion_ros.inference.query_kernel import VoxelQuery
from scene_completion_ros.voxels.occupancy import opacity
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder, TrunkName

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Canonical image uint8 [H, W, 3] -> features float32 [h, w, C + E]."""

TORCH, ONNX = "weights.safetensors in torch", "encoder.onnx in ONNX Runtime, float32"


@dataclass(frozen=True)
class Gate:
    """What is allowed of a variant, over all images together.

    Attributes:
        features: Largest mean difference of the map, as a share of its mean size.
        density: Largest mean difference of the density, as a share of its mean.
        occupied_iou: Smallest intersection over union of the occupied voxels.
        labels: Smallest share of voxels, occupied in both, with the same label.
        batch: Largest difference of a map between an image in a batch and the same alone, as a share of its
            largest value.
    """

    features: float
    density: float
    occupied_iou: float
    labels: float
    batch: float


# Two to three times what was measured of the shipped student on window 04, see docs/gpu.md.
GATES: Mapping[str, Gate] = {
    # The stored weights are float16 before and after folding: against torch, that rounding is most of the difference.
    "fp32": Gate(features=1e-3, density=2.5e-3, occupied_iou=0.995, labels=0.999, batch=1e-5),
    # Every result is rounded to 11 bits.
    "fp16": Gate(features=2e-3, density=5e-3, occupied_iou=0.993, labels=0.998, batch=1e-3),
    # 8 bits: decisions at the rim of surfaces change.
    "int8": Gate(features=0.03, density=0.1, occupied_iou=0.9, labels=0.95, batch=0.05),
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
        batch_relative: Largest difference of the first image's map in a batch and alone, as a share of its largest
            value.
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

    def failures(self, gate: Gate) -> list[str]:
        """What the gate does not allow, in words with numbers; empty where it passes."""
        checks = (
            ("mean difference of the map", self.features_relative, gate.features, True),
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
        self._reference = [np.ascontiguousarray(reference(image)) for image in images]
        if not any(self._density_and_occupied(features)[1].any() for features in self._reference):
            raise BundleError(
                f"the student sees nothing occupied in any of {len(images)} images, so nothing can be compared",
                where=f"bundle {bundle.name}",
                cure="Name images of what it was trained for with --parity-images",
            )

    def __call__(self, variant: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> Parity:
        """Measures a variant: images uint8 [N, H, W, 3] -> features float32 [N, h, w, C + E]."""
        features_max = features_sum = features_size = density_max = density_sum = density_size = batch_max = 0.0
        agreed = voxels = both = either = labelled = same_label = 0
        for index, (image, wanted) in enumerate(zip(self._images, self._reference, strict=True)):
            found = np.ascontiguousarray(variant(image[None])[0])
            if index == 0:
                batch_max = _largest(variant(np.stack([self._images[-1], image]))[1] - found)
            difference = np.abs(found - wanted)
            features_max = max(features_max, _largest(difference))
            features_sum += float(difference.mean())
            features_size += float(np.abs(wanted).mean())
            density, occupied = self._density_and_occupied(found)
            right_density, right_occupied = self._density_and_occupied(wanted)
            difference = np.abs(density - right_density)
            density_max = max(density_max, _largest(difference))
            density_sum += float(difference.mean(dtype=np.float64))
            density_size += float(right_density.mean(dtype=np.float64))
            voxels += len(occupied)
            agreed += int(np.count_nonzero(occupied == right_occupied))
            in_both = occupied & right_occupied
            both += int(np.count_nonzero(in_both))
            either += int(np.count_nonzero(occupied | right_occupied))
            if self._label is not None:
                targets = np.flatnonzero(self._in_view)[in_both]
                labels, right_labels = (self._label(features, targets)[0].copy() for features in (found, wanted))
                labelled += len(targets)
                same_label += int(np.count_nonzero(labels == right_labels))
        count = len(self._images)
        return Parity(
            images=count,
            threshold=self._bundle.threshold,
            features_max=features_max,
            features_mean=features_sum / count,
            features_relative=_share(features_sum, features_size),
            density_max=density_max,
            density_mean=density_sum / count,
            density_relative=_share(density_sum, density_size),
            occupied_agreement=agreed / voxels,
            occupied_iou=both / either if either else 1.0,
            labels_agreement=same_label / labelled if labelled else float(self._label is None),
            batch_relative=_share(batch_max, _largest(self._reference[0])),
        )

    def _density_and_occupied(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Density, 1/m, and decision of the voxels in view."""
        density = self._query.density(features).reshape(-1)[self._in_view]
        alpha = opacity(density, self._bundle.grid.voxel_size)
        return density, self._bundle.calibration.apply(alpha) >= self._bundle.threshold


def _largest(values: NDArray[np.float32]) -> float:
    return float(np.abs(values).max())


def _share(value: float, whole: float) -> float:
    return value / whole if whole > 0.0 else float(value > 0.0)


class Reference:
    """The student's pre-activation map, as exactly as the bundle allows.

    The channels of the density come from ``weights.safetensors`` through torch. A bundle holds no unfolded weights of
    its label units, and may hold none at all: what is missing comes from ``encoder.onnx``, in float32.

    Args:
        bundle: The student, saved.

    Raises:
        BundleError: The unfolded weights are not those of a network that is known.
    """

    def __init__(self, bundle: StudentBundle, *, threads: int | None = None) -> None:
        self._bundle = bundle
        self._encoder = OnnxRuntimeEncoder(bundle, threads=threads)
        self._field = density_field(bundle) if WEIGHTS in bundle.sha256 else None
        labels = f"; label channels: {ONNX}" if bundle.head.label_hidden else ""
        self.name = f"{TORCH}{labels}" if self._field else ONNX

    def __call__(self, image_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features float32 [h, w, C + E] of a canonical image, uint8 [H, W, 3] RGB."""
        features = self._encoder(image_rgb).copy()
        if self._field is not None:
            planes = torch.from_numpy(image_rgb.transpose(2, 0, 1).astype(np.float32))[None]
            with torch.inference_mode():
                density = self._field.encode(planes)[0].permute(1, 2, 0)
            features[..., : self._bundle.head.hidden] = density.numpy()
        return features


def density_field(bundle: StudentBundle) -> DensityField:
    """A bundle's density field of its unfolded weights; a `BundleError` if they are missing or another network's."""
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
            ),
            channels=weights["feature_layer.weight"].shape[1],
            hidden=weights["feature_layer.weight"].shape[0],
        )
        # The map of the mean depth has the size that the training began with; it is scaled where it is used.
        field.encoder.prior = weights["encoder.prior"]
        field.load_state_dict(weights)
    except (KeyError, IndexError, RuntimeError) as error:
        raise BundleError(f"are weights of another network ({str(error)[:200]})", where=where, cure=cure) from error
    return field.eval()
