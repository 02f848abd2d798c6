"""Training samples: an augmented encoder image, posed views around it, depth hints and occupancy evidence.

Sample i is a function of (seed, i) alone, so that a training resumed at a step sees exactly what it would have seen.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_training.arrays import Bytes, Doubles, Ints, Random, Reals
from scene_completion_training.data import drawn_views
from scene_completion_training.data.prepared import Drive
from scene_completion_training.data.voxel_evidence import POINT_UNIT
from scene_completion_training.viewpoint import Viewpoint

if TYPE_CHECKING:
    from scene_completion_training.foundation.feature_store import FeatureStore

MOST_ENCODER_VIEWS = 4
# How far along the drive far views stand, least and most, and the further images that a field of several views encodes,
# at most; less where the drive ends before. Metres where the volume reaches as far as a street's, and in proportion
# elsewhere. Views a metre apart show the same sides of the same things; what stands behind an obstacle is seen past it.
FAR_M, ENCODED_M = (4.0, 20.0), 12.0
HIT_SHARE = 0.25  # share of the voxel centres of a sample that has hit evidence
_MEAN_FRAMES = 200  # most frames of a sequence that the mean depth is taken from
MIRROR = np.diag([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class ViewSettings:
    """What a sample holds."""

    occupancy_points: int = 12_288  # voxel centres a sample
    # Largest rotation of the virtual encoder camera against the real one, degrees. Small `pitch` and `roll` leave the
    # ground where a fixed camera always has it. That is the best cue of a trunk that sees no horizon. One that does
    # learns to look for it where they are larger than the slopes of roads, 2° and 1°.
    yaw: float = 6.0
    pitch: float = 0.1  # as `yaw`, degrees
    roll: float = 0.1  # as `yaw`, degrees
    # Apply brightness, contrast, saturation and hue (±0.1) jitter, random greyscale and blur.
    colour_jitter: bool = True
    jitter: float = 0.3  # strength of the first three (0.2 in BTS)
    washed: float = 0.2  # share of the images that are made grey, and of those that are blurred (0 in BTS)
    mirror: bool = True  # mirror the whole scene half of the time, and roll it so that the ground lies as before
    # Share of the samples whose own camera is a side camera, where the rig has some (0.5 in the second
    # stage of SceneDINO).
    aside: float = 0.0
    # Add four views from further along the drive, those of the side cameras where the rig has some. From where the rig
    # will be they see what stands behind an obstacle, see `FAR_M`. BTS takes them ten frames later.
    far_views: bool = False
    # The views of a sample are frames and those so many frames later, as in BTS (1); what a field of several views
    # encodes is drawn from those ahead. With 0, views are chosen by metres.
    near_frames: int = 0
    # With `near_frames`, how many frames further along the far views are, least and most (10 and 10 in BTS, 10 and 40
    # in S4C and SceneDINO).
    far_frames: tuple[int, int] = (10, 10)
    # Of a video, views `video_frames` apart: "around" takes the frame and those before and after, of which one is
    # rendered (BTS on RealEstate10K); "ahead" the next three, of which every second is (SceneDINO).
    video: Literal["", "around", "ahead"] = ""
    video_frames: tuple[int, int] = (1, 29)  # frames between views, least and most; drawn for each sample
    # Of eight views, cameras take turns in which of their two frames renders, see `roles_of_views` (BTS).
    in_turn: bool = False


@dataclass(frozen=True)
class DataNeeds:
    """What a stage needs of its samples."""

    # Images that the field encodes, 1 to `MOST_ENCODER_VIEWS`: the sample's own, and of the cameras ahead so many less
    # one from further along the drive.
    encoder_views: int = 1
    # Features of foundation models that the views get, by what follows the names of their entries in a sample.
    targets: "Mapping[str, FeatureStore]" = field(default_factory=dict)
    rendered: bool = True  # the views that a field is rendered for: most of the time that a sample takes
    # Stereo depth of its images, and voxels that evidence was fused in; otherwise frames are images, see
    # `RecordedFrames`.
    measured: bool = True


class ViewSamples(Dataset[dict[str, Tensor]]):
    """Samples drawn from prepared sequences; a sequence's share grows with the square root of its length."""

    def __init__(
        self,
        sequences: Sequence[Drive],
        settings: ViewSettings,
        needs: DataNeeds = DataNeeds(),
        *,
        seed: int,
        length: int,  # number of samples (steps × batch size)
        shares: Sequence[float] | None = None,  # factor on each sequence's share
        # Drive, frame and side of every sample there is: each comes once an epoch, in another order. Without it, any
        # frame may come, as often as the shares.
        listed: Sequence[tuple[int, int, str]] = (),
        # Number of different samples, which come again in another order when all have been seen; 0 for as many as there
        # are samples.
        distinct: int = 0,
        viewpoint: Viewpoint | None = None,
    ) -> None:
        self.distinct, self.listed = distinct, listed
        self.viewpoint = viewpoint or Viewpoint()
        self.camera = self.viewpoint.camera
        self.needs = needs
        self.sequences, self.settings, self.seed, self.length = sequences, settings, seed, length
        share = np.sqrt([len(frames) for frames in sequences]) * (1.0 if shares is None else np.asarray(shares))
        self.share = share / share.sum()
        rolled = drawn_views.ground_roll
        self.ground_roll = [rolled(frames, self.viewpoint) if settings.mirror else 0.0 for frames in sequences]
        left = [[frame.world_from_camera["left"].translation for frame in frames] for frames in sequences]
        self._travelled = [drawn_views.metres_travelled(places) for places in left]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Returns sample `number`, by name.

        image [3, H, W] (0..255, augmented) and hint [H, W] (its stereo z-depth, 0 unknown). Of V views, 4 or with far
        views 8: views [V, 3, H, W] (0..1), masks [V, H, W] (whether it shows the world there), encoder_from_view [V, 4,
        4], hints [V, H, W], roles [V] (the first half render, the others supply colours), and with classes view_classes
        [V, H, W] (uint8, 255 unknown). The entries of `occupancy`. Where E > 1 views are encoded: encoder_images [E, 3,
        H, W] (0..255, augmented alike), encoder_hints [E, H, W], encoder_poses [E, 4, 4] (in the frame of the first).
        With feature targets features [V, D, h, w] (float16) and feature_offsets [V, 2], left and upper edge (x, y) of
        token (0, 0), pixels; those of several models each under features/NAME.
        """
        number = self._which(number)
        generator = np.random.default_rng((self.seed, number))
        draw = self._draw(number, generator)
        same_jitter = partial(self._jittered, copy.deepcopy(generator)) if self.settings.colour_jitter else None
        sample = self._own_view(draw, generator)
        views = drawn_views.DrawnViews(draw, self._names(draw, generator), self.camera)
        turns = {"in_turn": self.settings.in_turn, "alternate": self.settings.video == "ahead"}
        roles = torch.from_numpy(drawn_views.roles_of_views(len(views.names), generator, **turns))
        if self.needs.rendered:
            sample |= {"views": views.images, "masks": views.masks, "hints": views.hints}
            sample |= {"encoder_from_view": views.poses, "roles": roles}
        if self.needs.encoder_views > 1:
            names = self._encoder_names(draw, views.names, generator)
            others = drawn_views.DrawnViews(draw, names, self.camera, same_jitter)
            sample |= {
                "encoder_images": torch.cat([sample["image"][None], 255.0 * others.images]),
                "encoder_hints": torch.cat([sample["hint"][None], others.hints]),
                "encoder_poses": torch.cat([torch.eye(4)[None], others.poses]),
            }
        for entry, targets in self.needs.targets.items():
            sample |= self._features(entry, targets, views, generator)
        return sample

    def _which(self, number: int) -> int:
        """Which of the different samples a number stands for."""
        if not self.distinct:
            return number
        epoch, place = divmod(number, self.distinct)
        return int(_order(self.distinct, self.seed, epoch)[place])

    def _features(
        self, entry: str, targets: "FeatureStore", views: drawn_views.DrawnViews, generator: Random
    ) -> dict[str, Tensor]:
        """Targets of the views, each with a grid of its own; `entry` follows the names of what is returned."""
        found = []
        for index, name in views.names:
            # Odd variants are mirrored, as the whole scene may be.
            variant = 2 * int(generator.integers(targets.variants // 2)) + views.draw.mirror
            found.append(targets.get(views.draw.frames[index].key(name), variant))
        features = torch.stack([features for features, _ in found])
        offsets = torch.tensor([(dx, dy) for _, (dy, dx) in found])
        return {f"features{entry}": features, f"feature_offsets{entry}": offsets}

    def _jittered(self, generator: Random, image: Bytes) -> Bytes:
        """The image with a jitter that the same generator gives every image."""
        return drawn_views.jittered(image, copy.deepcopy(generator), self.settings.jitter, self.settings.washed)

    def _encoder_names(
        self, draw: drawn_views.Draw, views: list[tuple[int, str]], generator: Random
    ) -> list[tuple[int, str]]:
        """Frame and camera of each encoder view but the first, none of them twice as long as the drive has others."""
        if self.settings.near_frames:  # any others of the views ahead (KDBTS: stereo and the next frame)
            ahead = [view for view in views[1:4] if view[1] in ("left", "right")]
            order = generator.permutation(len(ahead))
            return [ahead[order[k % len(ahead)]] for k in range(self.needs.encoder_views - 1)]
        names = [(draw.index, draw.side)]
        for _ in range(self.needs.encoder_views - 1):
            metres = float(generator.uniform(0.0, ENCODED_M * self.viewpoint.volume.scale))
            side = str(generator.choice([name for name in ("left", "right") if name in draw.frames[draw.index].images]))
            along = drawn_views.nearest_along(draw.travelled, draw.index, metres)
            names.append(drawn_views.unused_frame(draw.frames, along, side, names))
        return names[1:]

    def _names(self, draw: drawn_views.Draw, generator: Random) -> list[tuple[int, str]]:
        """Frame and camera of each view; none twice if there are others: compared with itself, any density fits."""
        if self.settings.video:
            apart = int(generator.integers(self.settings.video_frames[0], self.settings.video_frames[1] + 1))
            steps = (0, -1, 1) if self.settings.video == "around" else (0, 1, 2, 3)
            last = len(draw.frames) - 1
            return [(min(max(draw.index + step * apart, 0), last), draw.side) for step in steps]
        if self.settings.near_frames:
            least, most = self.settings.far_frames
            far = int(generator.integers(least, most + 1)) if self.settings.far_views else None
            return drawn_views.published_views(draw.frames, draw.index, draw.side, self.settings.near_frames, far)
        frames, side, other = draw.frames, draw.side, drawn_views.OTHER.get(draw.side, "")
        near = drawn_views.neighbouring_frame(frames, draw.index, generator, 0.3 * self.viewpoint.volume.scale)
        names = [(draw.index, side), (near, side)]
        if other in frames[draw.index].images:
            names += [(draw.index, other), (near, other)]
        else:
            for _ in range(2):
                names.append(drawn_views.unused_frame(frames, near, side, names))
        if self.settings.far_views:
            scale, (low, high) = self.viewpoint.volume.scale, FAR_M
            metres = float(generator.uniform(low * scale, high * scale))
            further = drawn_views.nearest_along(draw.travelled, draw.index, metres)
            for name in frames[draw.index].far_cameras:
                for _ in range(2):
                    names.append(drawn_views.unused_frame(frames, further, name, names))
        return names

    def unmirrored(self) -> "ViewSamples":
        """The same samples, each with its frame, side and turn, none mirrored: streets differ from left to right."""
        plain = copy.copy(self)
        plain.settings = dataclasses.replace(self.settings, mirror=False)
        return plain

    def occupancy(self, number: int) -> dict[str, Tensor]:
        """Only a sample's points [M, 3] (encoder frame, metres), target [M] and weight [M], without reading images."""
        number = self._which(number)
        generator = np.random.default_rng((self.seed, number))
        return self._occupancy(self._draw(number, generator), generator)

    def mean_depth_code(self, spec: PointCodeSpec) -> Tensor:
        """Mean inverse depth code [1, 1, H / 2, W / 2] of left stereo depth, unmirrored; gaps take means around."""
        rows, columns = self.camera.height // 2, self.camera.width // 2
        total = np.zeros((rows, columns), np.float32)
        count = np.zeros_like(total)
        for frames, share in zip(self.sequences, self.share, strict=True):
            some = frames[:: -(-len(frames) // _MEAN_FRAMES)]
            for frame in (frame for frame in some if "left" in frame.depths):
                hint = drawn_views.canonical_depth(frame.depths["left"], frame.cameras["left"], self.camera)
                blocks = hint.reshape(rows, 2, columns, 2).transpose(0, 2, 1, 3).reshape(rows, columns, 4)
                known = (blocks > 0).all(axis=-1)
                weight = share / len(some)
                total[known] += weight * spec.depth_code(blocks[known]).mean(axis=-1)
                count[known] += weight
        mean = np.zeros_like(total)
        weights = np.full_like(total, 1e-9)
        for sigma, trust in ((2.0, 1.0), (15.0, 0.02)):  # far neighbours count where there are no near ones
            mean += trust * cv2.GaussianBlur(total, (0, 0), sigma)
            weights += trust * cv2.GaussianBlur(count, (0, 0), sigma)
        mean /= weights
        return torch.from_numpy(mean.astype(np.float32))[None, None]

    def _own_view(self, draw: drawn_views.Draw, generator: Random) -> dict[str, Tensor]:
        frame, side = draw.frames[draw.index], draw.side
        image = drawn_views.canonical_image(frame.images[side], frame.cameras[side], self.camera, draw.turn)
        hint = drawn_views.depth_hint(frame, side, self.camera, draw.turn)
        if self.settings.colour_jitter:
            image = drawn_views.jittered(image, generator, self.settings.jitter, self.settings.washed)
        if draw.mirror:
            image, hint = image[:, ::-1], hint[:, ::-1]
        own = {"image": drawn_views.as_tensor(image).permute(2, 0, 1).float(), "hint": drawn_views.as_tensor(hint)}
        return {**own, **self._occupancy(draw, generator)}

    def _draw(self, sample: int, generator: Random) -> drawn_views.Draw:
        if self.listed:
            epoch, place = divmod(sample, len(self.listed))
            number, index, side = self.listed[_order(len(self.listed), self.seed, epoch, len(self.listed))[place]]
            frames = self.sequences[number]
        else:
            number = int(generator.choice(len(self.sequences), p=self.share))
            frames = self.sequences[number]
            index = int(generator.integers(len(frames)))
            side = "left" if generator.random() < 0.5 or "right" not in frames[index].images else "right"
        if self.settings.aside and generator.random() < self.settings.aside:
            side = str(generator.choice(frames[index].far_cameras))
        mirror = bool((generator.random() < 0.5) and self.settings.mirror)  # drawn always: the rest stays the same
        limits = np.radians([self.settings.pitch, self.settings.yaw, self.settings.roll])
        turn: Doubles = np.asarray(cv2.Rodrigues(generator.uniform(-limits, limits))[0])
        if mirror:  # mirrored, the ground would tilt to the other side
            turn = np.asarray(cv2.Rodrigues(np.array([0.0, 0.0, 2.0 * self.ground_roll[number]]))[0]) @ turn
        encoder_from_world = (frames[index].world_from_camera[side] @ RigidTransform(turn, np.zeros(3))).inverse()
        return drawn_views.Draw(frames, index, self._travelled[number], side, mirror, turn, encoder_from_world)

    def _occupancy(self, draw: drawn_views.Draw, generator: Random) -> dict[str, Tensor]:
        frame = draw.frames[draw.index]
        count, near = self.settings.occupancy_points, self.viewpoint.volume.even_depth
        if not frame.has_evidence:  # one camera: nothing is known, and has no weight
            ahead = torch.tensor([0.0, 0.0, near]).expand(count, 3)
            return {"points": ahead, "target": torch.zeros(count), "weight": torch.zeros(count)}
        hit, free = (np.flatnonzero(mask) for mask in (frame.target > 0, frame.target == 0))
        hits = round(count * HIT_SHARE)
        share = np.maximum(frame.points[:, 2] * POINT_UNIT, near) ** -1.0  # as on the image: near voxels are larger
        chosen = np.concatenate(
            [_choose(group, share[group], number, generator) for group, number in ((hit, hits), (free, count - hits))]
        )
        # Evidence of one good view is enough; what was seen once from afar counts less.
        weight = np.minimum(frame.evidence[chosen].astype(np.float32) / 0.5, 1.0)
        encoder_from_left = draw.encoder_from_world @ frame.world_from_camera["left"]
        points = np.asarray(encoder_from_left.apply(frame.points[chosen] * POINT_UNIT))
        points, target = points @ MIRROR if draw.mirror else points, frame.target[chosen].astype(np.float32) / 255.0
        values = {"points": torch.from_numpy(points).float(), "target": torch.from_numpy(target)}
        return {**values, "weight": torch.from_numpy(weight)}


@lru_cache(maxsize=4)
def _order(count: int, *seed: int) -> Ints:
    """The order of so many samples in an epoch."""
    return np.random.default_rng(seed).permutation(count)


def _choose(group: Ints, weight: Reals, count: int, generator: Random) -> Ints:
    """Draws `count` elements of a group, with replacement, with probability proportional to weight."""
    cumulative = np.cumsum(weight)
    return group[np.searchsorted(cumulative, generator.uniform(0.0, cumulative[-1], count))]
