"""Training samples: an augmented encoder image, posed views around it, depth hints and occupancy evidence.

Sample i is a function of (seed, i) alone, so that a training resumed at a step sees exactly what it would have seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.inference.point_code import PointCodeSpec
from training.data.ground_plane import ground_roll
from training.data.prepared import CANONICAL_CAMERA, POINT_UNIT, PreparedFrame

NEAR_DEPTH = 4.0
"""Voxel centres are drawn in proportion to 1/depth, evenly below this depth in metres: there are few near ones."""
MIRROR = np.diag([-1.0, 1.0, 1.0])
_OTHER = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class ViewSettings:
    """What a sample holds.

    Attributes:
        occupancy_points: Voxel centres a sample.
        hit_fraction: Share of them that has hit evidence.
        yaw, pitch, roll: Largest rotation of the virtual encoder camera against the real one, degrees. Pitch and roll
            stay small because the ground's place in the image is the best cue a fixed camera has: with 0.5° the horizon
            of some streets that the network had not seen was off by as much.
        colour_jitter: Apply brightness, contrast, saturation (±0.3) and hue (±0.1) jitter, random greyscale and blur.
        mirror: Mirror the whole scene half of the time, and roll it so that the ground lies as before.
    """

    occupancy_points: int = 12_288
    hit_fraction: float = 0.25
    yaw: float = 6.0
    pitch: float = 0.1
    roll: float = 0.1
    colour_jitter: bool = True
    mirror: bool = True


class ViewSamples(Dataset[dict[str, Tensor]]):
    """Samples drawn from prepared sequences; a sequence's share grows with the square root of its length.

    Args:
        sequences: Prepared frames of each sequence, in order.
        settings: What a sample holds.
        seed: Seed of everything random.
        length: Number of samples (steps × batch size).
        shares: Factor on each sequence's share.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[PreparedFrame]],
        settings: ViewSettings,
        *,
        seed: int,
        length: int,
        shares: Sequence[float] | None = None,
    ) -> None:
        self.sequences = sequences
        self.settings = settings
        self.seed = seed
        self.length = length
        share = np.sqrt([len(frames) for frames in sequences]) * (1.0 if shares is None else np.asarray(shares))
        self.share = share / share.sum()
        self.ground_roll = [ground_roll(frames) if settings.mirror else 0.0 for frames in sequences]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Returns sample `number`.

        Returns:
            image [3, H, W] (0..255, augmented), hint [H, W] (its stereo z-depth, 0 unknown), views [4, 3, H, W] (0..1),
            encoder_from_view [4, 4, 4], hints [4, H, W] (stereo z-depth, 0 unknown), roles [4] (first two render, last
            two supply colours), and the entries of `occupancy`.
        """
        generator = np.random.default_rng((self.seed, number))
        draw = self._draw(generator)
        sample = self._labelled(draw, generator)
        frames, index, side = draw.frames, draw.index, draw.side
        neighbour = _neighbour(frames, index, generator)
        images, hints, poses = [], [], []
        for number_of_view, name in [
            (index, side),
            (neighbour, side),
            (index, _OTHER[side]),
            (neighbour, _OTHER[side]),
        ]:
            view = frames[number_of_view]
            images.append(_canonical(view.images[name], view.cameras[name]))
            hints.append(_canonical_depth(view.depths[name], view.cameras[name]))
            poses.append((draw.encoder_from_world @ view.world_from_camera[name]).matrix)
        if draw.mirror:
            images = [view[:, ::-1] for view in images]
            hints = [hint[:, ::-1] for hint in hints]
            flip = np.diag([-1.0, 1.0, 1.0, 1.0])
            poses = [flip @ pose @ flip for pose in poses]
        return {
            **sample,
            "views": _tensor(np.stack(images)).permute(0, 3, 1, 2).float() / 255.0,
            "encoder_from_view": torch.from_numpy(np.stack(poses)).float(),
            "hints": _tensor(np.stack(hints)),
            "roles": torch.from_numpy(generator.permutation(4)),
        }

    def labelled(self, number: int) -> dict[str, Tensor]:
        """Returns sample `number` without its views: image, hint and the entries of `occupancy`."""
        generator = np.random.default_rng((self.seed, number))
        return self._labelled(self._draw(generator), generator)

    def unmirrored(self) -> ViewSamples:
        """Returns the same samples, none of them mirrored: where things are in streets differs from left to right.

        A sample keeps its frame, side and small rotation.
        """
        settings = dataclasses.replace(self.settings, mirror=False)
        plain = ViewSamples(self.sequences, settings, seed=self.seed, length=self.length)
        plain.share = self.share
        return plain

    def occupancy(self, number: int) -> dict[str, Tensor]:
        """Returns only the voxel centres of a sample, without reading images.

        Returns:
            points [M, 3] (encoder frame, metres), target [M], weight [M].
        """
        generator = np.random.default_rng((self.seed, number))
        return self._occupancy(self._draw(generator), generator)

    def mean_depth_code(self, spec: PointCodeSpec) -> Tensor:
        """Mean inverse depth code of the left camera's stereo depth in blocks of 2×2 pixels, never mirrored.

        Pixels that were never matched take the mean of their surroundings.

        Args:
            spec: Point code.

        Returns:
            [1, 1, H / 2, W / 2].
        """
        total = np.zeros((CANONICAL_CAMERA.height // 2, CANONICAL_CAMERA.width // 2), np.float32)
        count = np.zeros_like(total)
        for frames, share in zip(self.sequences, self.share, strict=True):
            for frame in frames:
                hint = _canonical_depth(frame.depths["left"], frame.cameras["left"])
                blocks = (
                    hint.reshape(total.shape[0], 2, total.shape[1], 2).transpose(0, 2, 1, 3).reshape(*total.shape, 4)
                )
                known = (blocks > 0).all(axis=-1)
                weight = share / len(frames)
                total[known] += weight * spec.depth_code(blocks[known]).mean(axis=-1)
                count[known] += weight
        mean = np.zeros_like(total)
        weights = np.full_like(total, 1e-9)
        for sigma, trust in ((2.0, 1.0), (15.0, 0.02)):  # far neighbours count where there are no near ones
            mean += trust * cv2.GaussianBlur(total, (0, 0), sigma)
            weights += trust * cv2.GaussianBlur(count, (0, 0), sigma)
        mean /= weights
        return torch.from_numpy(mean.astype(np.float32))[None, None]

    def _labelled(self, draw: _Draw, generator: np.random.Generator) -> dict[str, Tensor]:
        frame, side = draw.frames[draw.index], draw.side
        image = _canonical(frame.images[side], frame.cameras[side], draw.turn)
        hint = _canonical_depth(frame.depths[side], frame.cameras[side], draw.turn)
        if self.settings.colour_jitter:
            image = _jitter(image, generator)
        if draw.mirror:
            image, hint = image[:, ::-1], hint[:, ::-1]
        return {
            "image": _tensor(image).permute(2, 0, 1).float(),
            "hint": _tensor(hint),
            **self._occupancy(draw, generator),
        }

    def _draw(self, generator: np.random.Generator) -> _Draw:
        number = int(generator.choice(len(self.sequences), p=self.share))
        frames = self.sequences[number]
        index = int(generator.integers(len(frames)))
        side = "left" if generator.random() < 0.5 else "right"
        mirror = bool((generator.random() < 0.5) and self.settings.mirror)  # drawn always: the rest stays the same
        turn = self._rotation(generator)
        if mirror:  # mirrored, the ground would tilt to the other side
            turn = np.asarray(cv2.Rodrigues(np.array([0.0, 0.0, 2.0 * self.ground_roll[number]]))[0]) @ turn
        encoder_from_world = (frames[index].world_from_camera[side] @ RigidTransform(turn, np.zeros(3))).inverse()
        return _Draw(frames, index, side, mirror, turn, encoder_from_world)

    def _rotation(self, generator: np.random.Generator) -> NDArray[np.float64]:
        limits = np.radians([self.settings.pitch, self.settings.yaw, self.settings.roll])
        return np.asarray(cv2.Rodrigues(generator.uniform(-limits, limits))[0])

    def _occupancy(self, draw: _Draw, generator: np.random.Generator) -> dict[str, Tensor]:
        frame = draw.frames[draw.index]
        hit = np.flatnonzero(frame.target > 0)
        free = np.flatnonzero(frame.target == 0)
        count = self.settings.occupancy_points
        hits = round(count * self.settings.hit_fraction)
        depth = np.maximum(frame.points[:, 2] * POINT_UNIT, NEAR_DEPTH)
        share = [_choose(group, 1.0 / depth[group], n, generator) for group, n in ((hit, hits), (free, count - hits))]
        chosen = np.concatenate(share)
        encoder_from_left = draw.encoder_from_world @ frame.world_from_camera["left"]
        points = np.asarray(encoder_from_left.apply(frame.points[chosen] * POINT_UNIT))
        # Evidence of one good view is enough; what was seen once from afar counts less.
        weight = np.minimum(frame.evidence[chosen].astype(np.float32) / 0.5, 1.0)
        return {
            "points": torch.from_numpy(points @ MIRROR if draw.mirror else points).float(),
            "target": torch.from_numpy(frame.target[chosen].astype(np.float32) / 255.0),
            "weight": torch.from_numpy(weight),
        }


@dataclass(frozen=True, eq=False)
class _Draw:
    """What chance chose for a sample."""

    frames: Sequence[PreparedFrame]
    index: int
    side: str
    mirror: bool
    turn: NDArray[np.float64]
    encoder_from_world: RigidTransform


class StepSampler(Sampler[int]):
    """Sample numbers in order, from where the training stands: what a resumed training still has to see.

    Args:
        length: Number of samples of the whole training.
        done: Says how many samples have been used when the iteration starts.
    """

    def __init__(self, length: int, done: Callable[[], int]) -> None:
        self.length = length
        self.done = done

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.done(), self.length))

    def __len__(self) -> int:
        # The whole length, also after a resumption: the trainer counts the batches of the epoch from its beginning.
        return self.length


def _choose(
    group: NDArray[np.int64], weight: NDArray[np.floating[Any]], count: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draws `count` elements of a group, with replacement, with probability proportional to weight."""
    cumulative = np.cumsum(weight)
    return group[np.searchsorted(cumulative, generator.uniform(0.0, cumulative[-1], count))]


def _tensor(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _neighbour(frames: Sequence[PreparedFrame], index: int, generator: np.random.Generator) -> int:
    """A frame before or after that is at least 0.3 m away, or the third one where the car hardly moves."""
    step = 1 if generator.random() < 0.5 else -1
    if not 0 <= index + step < len(frames):
        step = -step
    here = frames[index].world_from_camera["left"].translation
    other = index
    for _ in range(3):
        if not 0 <= other + step < len(frames):
            break
        other += step
        if np.linalg.norm(frames[other].world_from_camera["left"].translation - here) > 0.3:
            break
    return other


def _homography(source: Camera, turn: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Source pixel from canonical pixel, for a canonical camera turned by `source_from_target` rotation."""
    rotation = np.eye(3) if turn is None else turn
    return np.asarray(source.matrix @ rotation @ np.linalg.inv(CANONICAL_CAMERA.matrix))


def _canonical(image: NDArray[np.uint8], camera: Camera, turn: NDArray[np.float64] | None = None) -> NDArray[np.uint8]:
    size = (CANONICAL_CAMERA.width, CANONICAL_CAMERA.height)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(image, _homography(camera, turn), size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)


def _canonical_depth(
    depth: NDArray[np.float16], camera: Camera, turn: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """z-depth along the axis of the (turned) canonical camera."""
    size = (CANONICAL_CAMERA.width, CANONICAL_CAMERA.height)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(depth.astype(np.float32), _homography(camera, turn), size, flags=flags)
    if turn is not None:
        v, u = np.mgrid[: size[1], : size[0]]
        ray = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(CANONICAL_CAMERA.matrix).T
        warped = warped / (ray @ turn[2])  # z along the source's axis of a ray that has z = 1 along the turned one
    return np.asarray(warped, np.float32)


def _jitter(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast, saturation ±0.3, hue ±0.1, greyscale one time in five, blur one time in five.

    Stronger than in BTS (±0.2), because a few drives are all there is and colours tell them apart.
    """
    brightness, contrast, saturation = generator.uniform(0.7, 1.3, 3)
    hue = generator.uniform(-0.1, 0.1)
    grey, blurred = generator.random(2) < 0.2
    out = image.astype(np.float32) * brightness
    out = (out - out.mean()) * contrast + out.mean()
    jittered = np.clip(out, 0, 255).astype(np.uint8)
    if blurred:
        jittered = np.asarray(cv2.GaussianBlur(jittered, (0, 0), generator.uniform(0.4, 1.2)), np.uint8)
    if grey:
        return np.asarray(cv2.cvtColor(cv2.cvtColor(jittered, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)
    hsv = cv2.cvtColor(jittered, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + hue * 180.0) % 180.0
    hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 255)
    return np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)
