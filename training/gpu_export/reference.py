"""What a variant is compared with: the trained network in torch, from the unfolded weights beside the bundle."""

from __future__ import annotations

from typing import cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_ros.inference.encoder import OnnxRuntimeEncoder
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder, TrunkName

TORCH, ONNX = "weights.safetensors in torch", "encoder.onnx in ONNX Runtime, float32"


class Reference:
    """The student's pre-activation map, as exactly as the bundle allows.

    The channels of the density come from ``weights.safetensors`` through torch. A bundle holds no unfolded weights of
    its label units, and may hold none at all: what is missing comes from ``encoder.onnx``, in float32.

    Args:
        bundle: The student, saved.
        threads: CPU threads of ONNX Runtime; None for all.

    Attributes:
        name: What it is, in words, for the parity report.

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
    """The density field of a bundle, from its unfolded weights.

    Raises:
        BundleError: They are missing, or those of another network than the bundle says.
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
