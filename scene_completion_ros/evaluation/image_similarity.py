"""How like two pictures are: PSNR and SSIM with the border cropped, as novel views are scored.

SSIM is that of Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (IEEE TIP 2004),
with the window that published scores of novel views have: 7x7 pixels that weigh the same, and unbiased covariances
(what scikit-image's `structural_similarity` does without further arguments).
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

CROP = 0.05  # share of width and height that is left out at each edge (Tucker and Snavely, CVPR 2020)
_WINDOW = 7
_C1, _C2 = 0.01**2, 0.03**2


def border_cropped(image: NDArray[np.float32], share: float = CROP) -> NDArray[np.float32]:
    """A picture [H, W, C] without its edges: rows ceil(0.05 H) to floor(0.95 H), columns likewise."""
    rows, columns = (slice(math.ceil(share * size), math.floor((1.0 - share) * size)) for size in image.shape[:2])
    return image[rows, columns]


def psnr(rendered: NDArray[np.float32], true: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio -10 log10(mean (a - b)^2), dB, of pictures [H, W, C] in 0..1; infinite for equals."""
    error = float(np.mean((rendered.astype(np.float64) - true) ** 2))
    return -10.0 * math.log10(error) if error else math.inf


def ssim(rendered: NDArray[np.float32], true: NDArray[np.float32]) -> float:
    """Mean structural similarity of pictures [H, W, C] in 0..1, over channels and all windows inside of the picture."""

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.blur(values, (_WINDOW, _WINDOW)), np.float64)

    a, b = rendered.astype(np.float64), true.astype(np.float64)
    unbiased = _WINDOW**2 / (_WINDOW**2 - 1.0)
    mean_a, mean_b = mean(a), mean(b)
    covariance = unbiased * (mean(a * b) - mean_a * mean_b)
    variances = unbiased * (mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2)
    similar = (2.0 * mean_a * mean_b + _C1) * (2.0 * covariance + _C2)
    similar /= (mean_a**2 + mean_b**2 + _C1) * (variances + _C2)
    edge = _WINDOW // 2
    return float(similar[edge:-edge, edge:-edge].mean())
