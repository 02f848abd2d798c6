"""Whether features look the same from two views: L1, L2 and cosine between a view and another one warped to it.

The measure of SceneDINO (Jevtić et al., ICCV 2025). There the warp is an estimated optical flow and a forward-backward
check finds what is hidden; here both follow from depth and poses. Its code for this is not public. The published
magnitudes are L1 about 21 times L2 with 768 channels, and L2 falling with the cosine. Features of length 1 have them,
with L1 summed over the channels and L2 not squared. So this module defines them in this way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import CameraError, ImageError
from scene_completion_ros.evaluation.metric import Column, Metric, Row, Tally
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform

_PIXELS_AT_A_TIME = 1 << 12  # bounds the memory that features of many channels take


@dataclass(frozen=True)
class FeatureConsistency:
    """Mean over pixels of the differences of features f and g, both scaled to length 1; NaN without pixels.

    Attributes:
        l1: Sum over the channels of |f - g|.
        l2: Length of f - g.
        cosine: f · g. A feature that is zero has a cosine of 0 with all others.
    """

    pixels: int
    l1: float
    l2: float
    cosine: float


class FeatureConsistencyMetric:
    """`FeatureConsistency` over all valid pixels of all pairs of views.

    Attributes:
        sums: float64 [4]: pixels, and L1, L2 and cosine added up.
    """

    def __init__(self) -> None:
        self.sums = np.zeros(4)

    def update(
        self,
        features_1: NDArray[np.floating[Any]],
        features_2: NDArray[np.floating[Any]],
        warp: NDArray[np.floating[Any]],
        valid: NDArray[np.bool_],
    ) -> None:
        """Compare the features of a pair of views.

        Args:
            features_1: [D, H, W] of view 1, brought to the size of its image or of its resized camera.
            features_2: [D, H2, W2] of view 2; sampled bilinearly, clamped to the border.
            warp: [H, W, 2], where the pixels of view 1 are in view 2: (u, v) in pixels, (0, 0) the centre of the first.
            valid: bool [H, W], pixels that are seen in both views.

        Raises:
            ImageError: The shapes do not fit together.
        """
        if (
            features_1.ndim != 3
            or features_2.ndim != 3
            or features_1.shape[0] != features_2.shape[0]
            or warp.shape != (*features_1.shape[1:], 2)
            or valid.shape != features_1.shape[1:]
        ):
            shapes = [array.shape for array in (features_1, features_2, warp, valid)]
            raise ImageError(
                f"shapes {shapes}", where="features", cure="Give [D, H, W], [D, H2, W2], [H, W, 2] and [H, W]"
            )
        rows, columns = np.nonzero(valid)
        for start in range(0, rows.size, _PIXELS_AT_A_TIME):
            row, column = rows[start : start + _PIXELS_AT_A_TIME], columns[start : start + _PIXELS_AT_A_TIME]
            one = _unit(features_1[:, row, column])
            other = _unit(_bilinear(features_2, warp[row, column]))
            difference = one - other
            self.sums[0] += row.size
            self.sums[1] += np.abs(difference).sum()
            self.sums[2] += np.sqrt((difference**2).sum(axis=0)).sum()
            self.sums[3] += (one * other).sum()

    def merge(self, other: FeatureConsistencyMetric) -> None:
        """Add the state of another accumulator."""
        self.sums += other.sums

    def compute(self) -> FeatureConsistency:
        """Means over what was counted."""
        with np.errstate(invalid="ignore"):
            l1, l2, cosine = self.sums[1:] / self.sums[0]
        return FeatureConsistency(int(self.sums[0]), float(l1), float(l2), float(cosine))


def warp_from_depth(
    depth_1: NDArray[np.floating[Any]],
    depth_2: NDArray[np.floating[Any]],
    camera_1: Camera,
    camera_2: Camera,
    camera_2_from_camera_1: RigidTransform,
    tolerance: float = 0.05,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Find the pixels of view 1 in view 2, and which of them view 2 really sees.

    A pixel is seen if the depth of view 2 there is that of the point within the tolerance. Nearer means that something
    stands in front of it; farther, that it moved or that a depth is wrong.

    Args:
        depth_1: z-depth [H, W] of view 1, metres; 0 or not finite where unknown.
        depth_2: z-depth [H2, W2] of view 2.
        camera_2_from_camera_1: From the optical frame of view 1 into that of view 2.
        tolerance: Largest difference of depths, as a part of the point's.

    Returns:
        Pixels (u, v) of view 2, float64 [H, W, 2], and bool [H, W]. Where it is False, the pixels mean nothing.

    Raises:
        CameraError: A depth image has another size than its camera.
    """
    for depth, camera in ((depth_1, camera_1), (depth_2, camera_2)):
        if depth.shape != (camera.height, camera.width):
            raise CameraError(
                f"depth {depth.shape}, camera {(camera.height, camera.width)}", where="depth", cure="Resize the camera"
            )
    known = _known(depth_1)
    rays = np.asarray(camera_1.unproject(camera_1.pixel_centres()))
    known &= np.isfinite(rays).all(axis=-1)
    points_1 = np.where(known[..., None], rays * np.where(known, depth_1, 1.0)[..., None], 1.0)
    points_2 = camera_2_from_camera_1.apply(points_1)
    pixels, inside = (np.asarray(array) for array in camera_2.project(points_2))
    visible = known & inside
    # Inverse depth, unlike depth, is linear in the pixels of a plane: interpolating it is exact on roads and walls. At
    # the edge of an object it lies between near and far, and the pixel is left out.
    inverse = np.where(_known(depth_2), 1.0 / np.where(_known(depth_2), depth_2, 1.0), np.nan)
    there = np.full(visible.shape, np.nan)
    there[visible] = _bilinear(inverse[None], pixels[visible])[0]
    with np.errstate(invalid="ignore"):
        visible &= np.abs(1.0 - there * points_2[..., 2]) <= tolerance * there * points_2[..., 2]
    return pixels, visible


def _known(depth: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(depth) & (depth > 0.0), dtype=np.bool_)


def _unit(features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Scale features [D, N] to length 1; zeros stay zeros."""
    length = np.linalg.norm(features.astype(np.float64), axis=0)
    return np.asarray(features / np.where(length > 0.0, length, 1.0), dtype=np.float64)


def _bilinear(image: NDArray[np.floating[Any]], pixels: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Sample [D, H, W] at pixels [N, 2], clamped to the border: float64 [D, N]. NaN where a tap with weight is NaN."""
    height, width = image.shape[1:]
    u, v = np.clip(pixels[:, 0], 0.0, width - 1.0), np.clip(pixels[:, 1], 0.0, height - 1.0)
    left, top = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    x, y = u - left, v - top
    result = np.zeros((image.shape[0], pixels.shape[0]))
    for row, column, weight in (
        (top, left, (1.0 - y) * (1.0 - x)),
        (top, right, (1.0 - y) * x),
        (bottom, left, y * (1.0 - x)),
        (bottom, right, y * x),
    ):
        result += np.where(weight > 0.0, image[:, row, column] * weight, 0.0)
    return result


class FeatureTally(Tally):
    """Consistency over pairs of views, for each kind of pair.

    An answer has the features `first` and `second` of two views, [D, H, W] each, and their `pair`: its `kind`, `warp`,
    `unrelated` warp and `valid` pixels.
    """

    def __init__(self, _: object) -> None:
        self._pairs: dict[str, list[tuple[FeatureConsistencyMetric, FeatureConsistencyMetric]]] = {}

    def add(self, answer: Any) -> None:
        """Count a pair, compared at its own pixels and at unrelated ones."""
        pair = answer.pair
        own, unrelated = FeatureConsistencyMetric(), FeatureConsistencyMetric()
        own.update(answer.first, answer.second, pair.warp, pair.valid)
        unrelated.update(answer.first, answer.second, pair.unrelated, pair.valid)
        self._pairs.setdefault(pair.kind, []).append((own, unrelated))
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        """By kind: means over the pairs of what each has as a mean over its pixels, and the mean over all pixels."""
        for kind, pairs in self._pairs.items():
            total = FeatureConsistencyMetric()
            for own, _ in pairs:
                total.merge(own)
            found = [own.compute() for own, _ in pairs]
            l1, l2, cosine = np.mean([[one.l1, one.l2, one.cosine] for one in found], axis=0).tolist()
            unrelated = float(np.mean([other.compute().cosine for _, other in pairs]))
            figures = {"pairs": len(pairs), "l1": l1, "l2": l2, "cosine": cosine, "unrelated": unrelated}
            yield {"pair": kind, **figures, "over_pixels": asdict(total.compute())}


FEATURES = Metric(
    "features",
    "Features of pixels that show the same point from two views, of length one, mean over pairs of views. L1 is summed "
    "over the channels; `unrelated` is the cosine of pixels of the same pair that do not belong together.",
    (
        Column("pairs", "pairs"),
        Column("l1", "L1", percent=False),
        Column("l2", "L2", percent=False),
        Column("cosine", "cosine", percent=False),
        Column("unrelated", "unrelated", percent=False),
    ),
    FeatureTally,
    by=("pair",),
)
