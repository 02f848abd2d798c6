"""Depth of the frames of a drive, a label-free target: of a rectified pair, or of one camera in motion.

Pairs are matched semi-globally (Hirschmüller 2008). For a rig with one camera, the frames before and after one are what
the other camera of a pair is. A plane sweep (Collins, CVPR 1996) warps them onto the frame for each of many inverse
depths, and signs of local differences are compared (Spangenberg et al., CAIP 2013). Frames before and after compete,
since what one side hides the other shows (Kang, Szeliski & Chai, CVPR 2001). Semi-global matching smooths the costs.

What moves, what has no texture, and what lies around the focus of expansion shows no parallax or a wrong one. A depth
counts therefore only where a neighbour measures the same by itself, and where its error is small against it.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.jit import kernel
from scene_completion_ros.sequences.posed_sequence import PosedSequence, cameras_ahead, stereo_pair
from scene_completion_training.arrays import Bytes, Doubles, Floats, Ints, Mask


def refuse_lens(sequence: PosedSequence, name: str) -> None:
    """Raises a `SequenceError` where a camera bends straight lines: a fisheye, or a distortion that is not zero."""
    camera = sequence.cameras[name]
    if camera.distortion_model in ("equidistant", "mei") or any(camera.distortion):
        cure = "Extract the drive with `scene-completion extract`, which rectifies it"
        raise SequenceError(f"images of {name} are those of a lens, not rectified", where=sequence.name, cure=cure)


DISPARITIES = 160  # searched disparities in pixels: at KITTI's 387 px·m, depths down to 2.4 m
LARGEST_DISAGREEMENT = 1.0  # pixels between the disparities of a pair and of the pair upside down


@dataclass(frozen=True, eq=False)
class MeasuredDepth:
    """Depth of one frame."""

    depth: Floats  # z-depth [H, W], metres, 0 where none was measured
    deviation: Floats  # its standard deviation [H, W], metres
    camera: Camera  # the camera of the depth image, at the place of the recorded one; it may have fewer pixels


Meter: TypeAlias = Callable[[int], MeasuredDepth]  # of frames by number


def _disparity(left: Bytes, right: Bytes) -> Floats:
    """Disparity of the left image [H, W], pixels, at most 0 where there is none: the mean of two matchings.

    The matcher sums costs along three paths, of which one is vertical. On a road, where disparity grows from row to
    row, it lags behind by about 0.2 pixels; upside down it lags to the other side. Where both differ by a pixel, one is
    wrong.
    """
    upright = _matched(left, right)
    turned = _matched(np.ascontiguousarray(left[::-1]), np.ascontiguousarray(right[::-1]))[::-1]
    agree = (upright > 0.0) & (turned > 0.0) & (np.abs(upright - turned) <= LARGEST_DISAGREEMENT)
    return np.where(agree, 0.5 * (upright + turned), np.float32(-1.0))


def _matched(left: Bytes, right: Bytes) -> Floats:
    matcher = cv2.StereoSGBM.create(
        minDisparity=0,
        numDisparities=DISPARITIES,
        blockSize=5,
        P1=8 * 25,
        P2=32 * 25,
        disp12MaxDiff=1,
        preFilterCap=31,
        uniquenessRatio=10,
        speckleWindowSize=100,
        speckleRange=2,
        mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
    )
    # Without padding the matcher leaves the first DISPARITIES columns empty.
    padded = [cv2.copyMakeBorder(image, 0, 0, DISPARITIES, 0, cv2.BORDER_REPLICATE) for image in (left, right)]
    return np.asarray(matcher.compute(*padded)[:, DISPARITIES:], np.float32) / np.float32(16.0)


def stereo_depth(left: Bytes, right: Bytes, focal: float, baseline: float, *, reference: str = "left") -> Floats:
    """z-depth [H, W], metres, 0 where it failed, of rectified grey images; focal length in pixels, baseline metres."""
    if reference == "left":
        disparity = _disparity(left, right)
    else:
        disparity = _disparity(np.ascontiguousarray(right[:, ::-1]), np.ascontiguousarray(left[:, ::-1]))[:, ::-1]
    depth = np.zeros_like(disparity)
    valid = disparity > 0.5
    depth[valid] = focal * baseline / disparity[valid]
    return depth


def depth_deviation(depth: Floats, focal_baseline: float) -> Floats:
    """Standard deviation of stereo depth, z² / (f·b) · σ_d, in metres, for a disparity error of 0.3 pixels."""
    return (depth * depth * np.float32(0.3 / focal_baseline)).astype(np.float32)


def measured_depth(sequence: PosedSequence, index: int, side: Literal["left", "right"] = "left") -> Floats:
    """Depth of a side of the pair by semi-global matching; a `SequenceError` for lenses: rows do not match."""
    left, right, baseline = stereo_pair(sequence)
    refuse_lens(sequence, left)
    grey = [cv2.cvtColor(sequence.image(index, name), cv2.COLOR_RGB2GRAY) for name in (left, right)]
    first, second = (np.asarray(image, dtype=np.uint8) for image in grey)
    return stereo_depth(first, second, sequence.cameras[left].fx, baseline, reference=side)


PIXELS = 115_000  # of the images that are matched: half the size of KITTI's
PLANES = 112  # inverse depths that are tried, evenly from 0 to that of `NEAREST`
NEAREST = 0.05  # smallest depth that is looked for, as a part of the reach: 2.6 m of a street's 51.2 m
# Ways to a neighbour, at least, as parts of the reach, in each direction: 1.2 and 2.4 m on a street.
BASELINES = (0.023, 0.046)
FARTHEST = 0.125  # longest way to a neighbour, as a part of the reach: beyond it too little looks alike
MATCHING_ERROR = 0.35  # standard deviation of a match along the epipolar line, pixels of the image that is matched
LARGEST_ERROR = 0.25  # standard deviation, as a part of the inverse depth, from which nothing counts as measured
_STEP_ERROR = 0.25  # standard deviation within the step between two planes, as a part of it
_RADIUS = 3  # of the window in which signs are compared, pixels
_COST = 100.0  # of a pixel in which all signs differ
_UNSEEN = 60  # of one that no neighbour shows
_SMALL_CHANGE, _LARGE_CHANGE = np.uint16(10), np.uint16(48)  # what a change of the depth by one plane and by more costs
_UNIQUE = 1.05  # the second best plane has to cost so much more
_AGREEMENT = 2.0  # standard deviations between two frames' depths
_SPECKLE = 60  # pixels: smaller patches are mistakes
_REMEMBERED, _REMEMBERED_SWEEPS = 32, 64  # frames of a pair, and of one camera
_CORNERS, _FEWEST_TRACKS = 1500, 50
Counts: TypeAlias = NDArray[np.uint16]


@lru_cache(2)
def depth_meter(sequence: PosedSequence, reach: float) -> Meter:
    """The best that a drive has: its stereo pair, or the motion of the camera ahead, of use for so many metres.

    It measures the first camera ahead, and remembers some frames.
    """
    ahead = cameras_ahead(sequence)
    if len(ahead) == 1:
        return MotionStereo(sequence, ahead[0], reach)
    left, _, baseline = stereo_pair(sequence)
    camera = sequence.cameras[left]

    @lru_cache(_REMEMBERED)
    def measured(index: int) -> MeasuredDepth:
        depth = measured_depth(sequence, index)
        return MeasuredDepth(depth, depth_deviation(depth, camera.fx * baseline), camera)

    return measured


class MotionStereo:
    """Measures the depth of the frames of one camera of a drive with poses in metres; remembers some of them.

    `reach`: metres ahead that are of interest.
    """

    def __init__(self, sequence: PosedSequence, camera: str, reach: float) -> None:
        self._sequence, self._name, self._reach = sequence, camera, reach
        recorded = sequence.cameras[camera]
        scale = min(1.0, math.sqrt(PIXELS / (recorded.width * recorded.height)))
        self._size = (round(recorded.width * scale), round(recorded.height * scale))
        self._camera = recorded.resized(*self._size)
        self._places = np.stack([sequence.world_from_camera(i, camera).translation for i in range(len(sequence))])
        self._rays = np.asarray(self._camera.unproject(self._camera.pixel_centres()))
        self._grey = lru_cache(_REMEMBERED_SWEEPS)(self._read)
        self._pose = lru_cache(8 * _REMEMBERED_SWEEPS)(self._refined)
        self._swept = lru_cache(_REMEMBERED_SWEEPS)(self._sweep)

    def __call__(self, index: int) -> MeasuredDepth:
        """Depth of a frame, in a smaller image; 0 where there is none that a neighbour confirms."""
        inverse, error = self._swept(index)
        confirmed = np.zeros(inverse.shape, np.bool_)
        for other in itertools.chain.from_iterable(self.neighbours(index)):
            pixels, inside, ahead = self._seen_from(self._pose(other, index), inverse)
            there, its_error = (part[pixels[..., 1], pixels[..., 0]] for part in self._swept(other))
            with np.errstate(invalid="ignore", divide="ignore"):
                alike = np.abs(there - inverse / ahead) <= _AGREEMENT * np.hypot(error, its_error)
            confirmed |= inside & alike & (its_error < LARGEST_ERROR * there)
        known = confirmed & (error < LARGEST_ERROR * inverse)
        steps = np.where(known, 1.0 + 16.0 * inverse * NEAREST * self._reach * PLANES, 0.0).astype(np.int16)
        known &= np.asarray(cv2.filterSpeckles(steps, 0, _SPECKLE, 32)[0]) > 0
        depth = np.divide(1.0, inverse, out=np.zeros_like(inverse), where=known)
        deviation = depth * depth * np.where(known, error, 0.0)
        return MeasuredDepth(depth.astype(np.float32), deviation.astype(np.float32), self._camera)

    def neighbours(self, index: int) -> tuple[list[int], list[int]]:
        """Frames before and after one that see it with some parallax, up to two each; none where the rig stands."""
        way = np.linalg.norm(self._places - self._places[index], axis=1) / self._reach
        groups = []
        for order in (range(index - 1, -1, -1), range(index + 1, len(way))):
            found = (next((other for other in order if way[other] >= least), None) for least in BASELINES)
            groups.append(sorted({other for other in found if other is not None and way[other] <= FARTHEST}))
        return groups[0], groups[1]

    def _read(self, index: int) -> Bytes:
        """The grey image [h, w]; its pixels are 1 at least."""
        image = cv2.cvtColor(self._sequence.image(index, self._name), cv2.COLOR_RGB2GRAY)
        return np.maximum(cv2.resize(image, self._size, interpolation=cv2.INTER_AREA), 1).astype(np.uint8)

    def _refined(self, other: int, index: int) -> RigidTransform:
        """Pose of a frame in another, which their images correct."""
        if other > index:
            return self._pose(index, other).inverse()
        first, second = (self._sequence.world_from_camera(number, self._name) for number in (index, other))
        return epipolar_refined(second.inverse() @ first, self._grey(index), self._grey(other), self._camera)

    def _seen_from(self, pose: RigidTransform, inverse: Doubles) -> tuple[Ints, Mask, Doubles]:
        """Nearest pixels [h, w, 2] of a neighbour that show what pixels see, if they do, and depth there over here."""
        points = self._rays @ pose.rotation.T + inverse[..., None] * pose.translation
        pixels, inside = (np.asarray(part) for part in self._camera.project(points))
        return np.floor(np.where(inside[..., None], pixels, 0.0) + 0.5).astype(np.int64), inside, points[..., 2]

    def _sweep(self, index: int) -> tuple[Doubles, Doubles]:
        """Inverse depth [h, w] of a frame by itself and its standard deviation, per metre; infinite where unknown."""
        groups = [[(self._pose(other, index), self._grey(other)) for other in side] for side in self.neighbours(index)]
        shape = (self._camera.height, self._camera.width)
        if not any(groups):
            return np.zeros(shape), np.full(shape, np.inf)
        inverses = np.linspace(0.0, 1.0 / (NEAREST * self._reach), PLANES)
        plane, unique = _winners(_smoothed(self._costs(self._grey(index), groups, inverses)))
        inverse = plane * inverses[1]
        movement = np.zeros(shape)
        for side in filter(None, groups):
            squares, seen = zip(*(self._movement(pose, inverse, inverses[1]) for pose, _ in side), strict=True)
            movement = np.maximum(movement, sum(squares) / np.maximum(sum(seen), 1.0))
        with np.errstate(divide="ignore"):
            error = inverses[1] * np.hypot(MATCHING_ERROR / np.sqrt(movement), _STEP_ERROR)
        return inverse, np.where(unique, error, np.inf)

    def _movement(self, pose: RigidTransform, inverse: Doubles, step: float) -> tuple[Doubles, Mask]:
        """Square of the pixels [h, w] by which a step of the inverse depth moves a point in a neighbour."""
        ends = [(inverse + shift * step)[..., None] * pose.translation for shift in (-0.5, 0.5)]
        (before, one), (after, two) = (self._camera.project(self._rays @ pose.rotation.T + end) for end in ends)
        inside = np.asarray(one & two)
        return np.where(inside, ((after - before) ** 2).sum(axis=-1), 0.0), inside

    def _costs(self, grey: Bytes, groups: list[list[tuple[RigidTransform, Bytes]]], inverses: Doubles) -> Bytes:
        """Costs [h, w, PLANES] of the planes: on each side the mean over its frames, and the better side of the two."""
        height, width = grey.shape
        matrix, size = self._camera.matrix, (width + 2 * _RADIUS, height + 2 * _RADIUS)
        from_padded = np.linalg.inv(matrix) @ np.array([[1.0, 0.0, -_RADIUS], [0.0, 1.0, -_RADIUS], [0.0, 0.0, 1.0]])
        corners = from_padded @ np.array([[0.0, size[0], 0.0, size[0]], [0.0, 0.0, size[1], size[1]], [1.0] * 4])
        signs = _signs(np.pad(grey, _RADIUS, mode="edge"))
        cost = np.empty((height, width, len(inverses)), np.uint8)
        differ, seen = np.empty(grey.shape, np.uint16), np.empty(grey.shape, np.uint16)
        for number, inverse in enumerate(inverses):
            best = np.full(grey.shape, _UNSEEN, np.float32)
            for side in groups:
                differ[:], seen[:] = 0, 0
                for pose, image in side:
                    onto = pose.rotation + inverse * np.outer(pose.translation, (0.0, 0.0, 1.0))
                    if (onto @ corners)[2].min() > 0.1:  # else a part of the plane lies behind the neighbour
                        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                        warped = cv2.warpPerspective(image, matrix @ onto @ from_padded, size, flags=flags)
                        _add_mismatch(signs, warped, _OFFSETS, differ, seen)
                with np.errstate(invalid="ignore"):
                    np.fmin(best, differ * np.float32(_COST / len(_OFFSETS)) / seen.astype(np.float32), out=best)
            cost[..., number] = best
        return cost


_OFFSETS = np.array(
    [place for place in itertools.product(range(-_RADIUS, _RADIUS + 1), repeat=2) if place > (0, 0)], np.int64
)  # row and column of one half of a window around its centre; the other half lies opposite


def _signs(padded: Bytes) -> Mask:
    """Whether each pixel of half a window is brighter than the one opposite, [offsets, h, w]."""
    height, width = (size - 2 * _RADIUS for size in padded.shape)

    def part(row: int, column: int) -> Bytes:
        return padded[_RADIUS + row :, _RADIUS + column :][:height, :width]

    return np.stack([part(row, column) > part(-row, -column) for row, column in _OFFSETS])


@kernel(parallel=False)
def _add_mismatch(signs: Mask, padded: Bytes, offsets: Ints, differ: Counts, seen: Counts) -> None:
    """Adds how many of a pixel's signs differ in an image, and 1, where the image shows it (is not 0)."""
    count, height, width = signs.shape
    radius = (padded.shape[0] - height) // 2
    row = np.empty(width, np.uint8)
    for y in range(height):
        row[:] = 0
        for k in range(count):
            up, left = offsets[k]
            # Slices, so that indices start at zero: others, which may be negative, are not vectorised.
            one = padded[y + radius + up, radius + left : radius + left + width]
            other = padded[y + radius - up, radius - left : radius - left + width]
            sign = signs[k, y]
            for x in range(width):
                row[x] += (one[x] > other[x]) != sign[x]
        centre, differs, sees = padded[y + radius, radius : radius + width], differ[y], seen[y]
        for x in range(width):
            shown = centre[x] > 0
            differs[x] += row[x] * shown
            sees[x] += shown


def _smoothed(cost: Bytes) -> Counts:
    """Costs [h, w, planes] summed along the four paths of semi-global matching that end in each pixel."""
    total = np.zeros(cost.shape, np.uint16)
    for costs, sums in ((cost, total), (cost.transpose(1, 0, 2), total.transpose(1, 0, 2))):
        for order in (1, -1):
            _add_path(costs[::order], sums[::order])
    return total


def _add_path(cost: Bytes, total: Counts) -> None:
    """Adds the costs of all paths along the first axis of [length, paths, planes], from its beginning."""
    path = cost[0].astype(np.uint16)
    total[0] += path
    for number in range(1, len(cost)):
        least = path.min(axis=1, keepdims=True)
        onward = np.minimum(path, least + _LARGE_CHANGE)
        path += _SMALL_CHANGE
        np.minimum(onward[:, 1:], path[:, :-1], out=onward[:, 1:])
        np.minimum(onward[:, :-1], path[:, 1:], out=onward[:, :-1])
        onward -= least
        onward += cost[number]
        total[number] += onward
        path = onward


def _winners(total: Counts) -> tuple[Doubles, Mask]:
    """Cheapest plane of each pixel [h, w], between planes by a parabola, and whether no other costs as little."""
    best = total.argmin(axis=2)
    inner = np.clip(best, 1, total.shape[2] - 2)[..., None]
    before, at, after = (np.take_along_axis(total, inner + k, axis=2)[..., 0].astype(np.float64) for k in (-1, 0, 1))
    curve = before - 2.0 * at + after
    turning = (curve > 0.0) & (inner[..., 0] == best)
    plane = best + np.where(turning, 0.5 * (before - after) / np.where(turning, curve, 1.0), 0.0)
    least = total.min(axis=2)
    for shift in range(-2, 3):  # planes next to the cheapest do not count as others
        np.put_along_axis(total, np.clip(best[..., None] + shift, 0, total.shape[2] - 1), np.uint16(65535), axis=2)
    return plane, (total.min(axis=2) > _UNIQUE * least) & (best < total.shape[2] - 1)


def epipolar_refined(pose: RigidTransform, first: Bytes, second: Bytes, camera: Camera) -> RigidTransform:
    """A pose between two frames, whose rotation and direction of travel are corrected by tracks of corners.

    Wheels measure how far a robot went, but not its pitch. The tracks give all but the length, which stays. Their
    Sampson distances from the epipolar lines become small (Hartley & Zisserman 2004, 11.4.3), with a robust loss.
    Returns the pose, as it was where there is too little to track. `pose`: of the first frame in the second one, whose
    grey images [h, w] are given; `camera`: of both, without distortion.
    """
    tracks = _tracks(first, second)
    length = float(np.linalg.norm(pose.translation))
    if len(tracks[0]) < _FEWEST_TRACKS or length == 0.0:
        return pose
    here, there = (np.asarray(camera.unproject(points)) for points in tracks)
    direction = pose.translation / length
    aside = np.linalg.svd(direction[None])[2][1:]

    def moved(numbers: Doubles) -> tuple[Doubles, Doubles]:
        turned = direction + numbers[3:] @ aside
        return cv2.Rodrigues(numbers[:3])[0] @ pose.rotation, turned / np.linalg.norm(turned)

    def distances(numbers: Doubles) -> Doubles:
        rotation, way = moved(numbers)
        essential = np.cross(way, rotation, axisb=0, axisc=0)
        lines, back = here @ essential.T, there @ essential
        slopes = (lines[:, :2] ** 2).sum(axis=1) + (back[:, :2] ** 2).sum(axis=1)
        return np.asarray(camera.fx * (there * lines).sum(axis=1) / np.sqrt(slopes))

    rotation, way = moved(least_squares(distances, np.zeros(5), loss="cauchy", f_scale=0.3).x)
    return RigidTransform(rotation, length * way)


def _tracks(first: Bytes, second: Bytes) -> tuple[Doubles, Doubles]:
    """Pixels [N, 2] of corners in two images, which tracking there and back finds again."""
    corners = cv2.goodFeaturesToTrack(first, _CORNERS, 0.005, 5)
    if corners is None:
        return np.zeros((0, 2)), np.zeros((0, 2))
    track = partial(cv2.calcOpticalFlowPyrLK, nextPts=None, winSize=(15, 15))  # type: ignore[call-overload]
    found, there, _ = track(first, second, corners)
    again, back, _ = track(second, first, found)
    kept = (there > 0) & (back > 0) & (np.linalg.norm(again - corners, axis=2) < 0.3)
    return np.asarray(corners[kept], np.float64), np.asarray(found[kept], np.float64)
