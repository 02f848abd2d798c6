"""LPIPS: the distance of pictures in features of AlexNet, weighted by what people call similar.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018), section 3, version
0.1 of its weights. They are read from files that the user names, which are not a part of this package.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import BundleError
from scene_completion_ros.untrusted_files import read_tensors

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the channels of pictures in -1..1
# AlexNet's convolutions by their place in torchvision: stride and padding. The second and third are pooled before.
_CONVOLUTIONS = {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)}
_POOLED = (3, 6)
_NAMES = re.compile(r"(?:features|net\.slice\d)\.(\d+)\.(weight|bias)|lin(\d)\.model\.1\.(weight)")


class PerceptualDistance:
    """LPIPS with AlexNet. Raises KeyError where one is missing; names it.

    `weights`: name -> weights: those of AlexNet's convolutions in torchvision's names (`features.0.weight`) or those of
    the package `lpips` (`net.slice1.0.weight`), and the linear ones (`lin0.model.1.weight`).
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        named: dict[str, Tensor] = {}
        for name, value in weights.items():
            if found := _NAMES.fullmatch(name):
                layer, kind, level, linear = found.groups()
                named[f"{layer}.{kind}" if layer else f"lin{level}.{linear}"] = value.float()
        self._layers = [(named[f"{n}.weight"], named[f"{n}.bias"]) for n in _CONVOLUTIONS]
        self._linear = [named[f"lin{level}.weight"].reshape(1, -1, 1, 1) for level in range(len(_CONVOLUTIONS))]
        self(*np.zeros((2, 64, 64, 3), np.float32))  # other shapes fail here

    @staticmethod
    def open(files: Sequence[Path]) -> "PerceptualDistance":
        """Reads the weights from one file or two, safetensors or torch's, without executing anything.

        Raises BundleError where a file cannot be read, or they do not hold all weights.
        """
        cure = (
            "Give alexnet-owt-*.pth of torchvision and weights/v0.1/alex.pth of the package lpips, or one file with "
            "the state_dict of lpips.LPIPS(net='alex')"
        )
        where, weights = ", ".join(map(str, files)), dict[str, Tensor]()
        try:
            for file in files:
                if file.suffix == ".safetensors":
                    tensors = read_tensors(file, BundleError, cure=cure)
                    weights |= {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
                else:
                    weights |= torch.load(file, map_location="cpu", weights_only=True)
            return PerceptualDistance(weights)
        except BundleError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise BundleError(f"no weights of LPIPS with AlexNet ({reason})", where=where, cure=cure) from error

    @torch.inference_mode()
    def __call__(self, rendered: NDArray[np.float32], true: NDArray[np.float32]) -> float:
        """Distance of two pictures [H, W, 3] in 0..1, at least 31 pixels high and wide: 0 for equals."""
        x = 2.0 * torch.from_numpy(np.stack([rendered, true])).permute(0, 3, 1, 2) - 1.0
        x = (x - torch.tensor(SHIFT)[:, None, None]) / torch.tensor(SCALE)[:, None, None]
        distance = 0.0
        for (place, (stride, padding)), layer, linear in zip(
            _CONVOLUTIONS.items(), self._layers, self._linear, strict=True
        ):
            if place in _POOLED:
                x = functional.max_pool2d(x, 3, 2)
            x = functional.relu(functional.conv2d(x, *layer, stride=stride, padding=padding))
            unit = x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
            distance += float(((unit[:1] - unit[1:]).square() * linear).sum(dim=1).mean())
        return distance
