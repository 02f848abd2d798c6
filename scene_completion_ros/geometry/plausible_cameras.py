"""Which calibrations can be, judged by numbers alone: the same in recordings, replays, sequences and the node.

Real cameras set the limits, with a margin. Lenses on vehicles, zoomed in as far as they go, see 2° or more. Pinhole
images see up to 140°, and fisheyes 280° of a circle that may be smaller than the image. Principal points of lenses lie
within 5 % of the middle, and those of cropped images anywhere, but seldom off by the same share along both axes. Stereo
rigs have baselines of 2 cm (in a hand) to 3 m (on a lorry).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scene_completion_ros.errors import CameraError
from scene_completion_ros.geometry.cameras import LARGEST_MOVE, Camera

# Focal length in widths (heights) of the image: of a pinhole with 150°, of a fisheye with 540°, and of a lens with 2°.
_WIDEST_PINHOLE, _WIDEST_FISHEYE, _NARROWEST = 0.134, 0.106, 28.6
_OTHER_SIZE = 1.4  # a principal point by which image and calibration differ so much in size cannot be one of a lens
# Off the middle by the same share along both axes: on average, along each of them, and how much alike.
_OFF_MIDDLE, _OFF_AXIS, _ALIKE = 0.12, 0.1, 1.2
_SWAPPED = 0.3  # off the middle, once width and height are exchanged
_STRETCHED, _ALONG = 0.15, 0.1  # logarithms: of fx / fy, and by how much the principal point may differ from it
_OBLONG_PIXELS = 1.12  # fx / fy; analogue video has pixels of 12/11 and 10/11
_SAME_FOCAL = 1.12  # P and K of images without distortion
SHORTEST_BASELINE_M, _LONGEST_BASELINE_M = 0.01, 4.0
# Autofocus and stabilisers move focal lengths by up to 4 % and principal points by as many pixels; zooms and other
# modes by more than 10 %. A percent is an error of depth that no student notices.
LARGEST_VARIATION, _USUAL_VARIATION = 0.04, 0.01  # of the focal length: of any message, of half of them
STEADY = 30  # messages, a second of a camera's, after which a calibration that varied is there to stay


@dataclass(frozen=True)
class Doubt:
    """What speaks against a calibration.

    No camera is like what is "impossible". From what is "doubtful" nothing may be learned, and robots are warned. What
    is "unusual" may be right, and everybody is told.
    """

    severity: Literal["impossible", "doubtful", "unusual"]
    what: str
    cure: str
    where: str = ""

    @property
    def error(self) -> CameraError:
        """The error that it is; its text is the sentence of a warning."""
        return CameraError(self.what, where=self.where, cure=self.cure)


def refuse(doubts: Sequence[Doubt]) -> list[str]:
    """Raise the CameraError of the first doubt that forbids to learn from images; the others in words."""
    for doubt in doubts:
        if doubt.severity != "unusual":
            raise doubt.error
    return in_words(doubts)


def in_words(doubts: Sequence[Doubt]) -> list[str]:
    """Each doubt once, as a sentence."""
    return list(dict.fromkeys(str(doubt.error) for doubt in doubts))


def checked(camera: Camera, where: str, doubts: list[Doubt] | None = None) -> Camera:
    """Raise CameraError where no camera is like this one; `doubts` gets what else speaks against it."""
    doubt = doubt_about(camera)
    if doubt is not None and doubt.severity == "impossible":
        raise replace(doubt, where=where).error
    if doubt is not None and doubts is not None:
        doubts.append(replace(doubt, where=where))
    return camera


def doubt_about(camera: Camera) -> Doubt | None:
    """Compare field of view and principal point with the image; what is wrong, if anything is."""
    return _doubt_about_focal_lengths(camera) or _doubt_about_middle(camera) or _doubt_about_proportions(camera)


def _doubt_about_focal_lengths(camera: Camera) -> Doubt | None:
    is_fisheye = camera.distortion_model in ("equidistant", "mei")
    widest = _WIDEST_FISHEYE if is_fisheye else _WIDEST_PINHOLE
    sides = ("fx", "width", camera.width), ("fy", "height", camera.height)
    for focal, (name, side, size) in zip(camera.axial_focal_lengths, sides, strict=True):
        share = focal / size
        if widest <= share <= _NARROWEST:
            continue
        degrees = math.degrees(1.0 / share if is_fisheye else 2.0 * math.atan(0.5 / share))
        unit = ""
        if share < widest and max(abs(camera.cx), abs(camera.cy)) <= 2.0:
            unit = "; K looks as if divided by the size of the image"
        elif share < widest:
            unit = f"; perhaps it is in {'millimetres' if focal >= 0.5 else 'metres'}"
        elif widest <= share / 1000.0 <= _NARROWEST:
            unit = "; a thousandth of it would fit"
        what = f"{name} = {focal:.6g} pixels in an image of {side} {size} is a field of view of {degrees:.4g}°{unit}"
        cure = f"Give K in pixels; lenses see 2° to {'280' if is_fisheye else '150'}°"
        return Doubt("impossible", what, cure)
    return None


def _doubt_about_middle(camera: Camera) -> Doubt | None:
    """Look for the principal point of another image size: off the middle along both axes by one factor."""
    width, height = camera.width, camera.height
    shares = sorted([(2.0 * camera.cx + 1.0) / width, (2.0 * camera.cy + 1.0) / height])  # 1 is the middle
    inside = shares[0] >= 0.0 and shares[1] < 2.0
    factor = sum(shares) / 2.0  # from the size of the image to that of the calibration
    alike = 0.0 < shares[1] < _ALIKE * shares[0] and (shares[0] - 1.0) * (shares[1] - 1.0) > 0.0
    off = sorted(abs(share - 1.0) for share in shares)
    other_size = alike and not 1.0 / _OTHER_SIZE < factor < _OTHER_SIZE
    if inside and not other_size and not (alike and abs(factor - 1.0) > _OFF_MIDDLE and off[0] > _OFF_AXIS):
        return None
    place = "far from the middle of" if inside else "outside"
    what = f"principal point ({camera.cx:.1f}, {camera.cy:.1f}) lies {place} the {width}x{height} image"
    if other_size:
        times = round(2.0 * max(factor, 1.0 / factor)) / 2.0
        scale, word = (times, "larger") if factor > 1.0 else (1.0 / times, "smaller")
        what += f": either the calibration is that of images {times:g} times {word}, "
        what += f"{width * scale:.0f}x{height * scale:.0f}, or this image is a crop"
    elif inside:
        what += (
            f", by {100.0 * off[0]:.0f} and {100.0 * off[1]:.0f} % of half its sides: either the calibration is that "
            f"of another resolution, about {2.0 * camera.cx + 1.0:.0f}x{2.0 * camera.cy + 1.0:.0f}, or this image is a "
            "crop"
        )
    elif max(abs((2.0 * camera.cx + 1.0) / height - 1.0), abs((2.0 * camera.cy + 1.0) / width - 1.0)) < _SWAPPED:
        what += ": width and height look swapped"
    else:
        what += ": the calibration is that of another image size"
    cure = (
        "Give K for this image size, or the image size that K is for; a crop of the sensor belongs into the field roi"
    )
    return Doubt("doubtful" if inside and not other_size else "impossible", what, cure)


def _doubt_about_proportions(camera: Camera) -> Doubt | None:
    """Look for a K of which one axis alone is scaled."""
    pixels = math.log(camera.fx / camera.fy)
    x, y = (2.0 * camera.cx + 1.0) / camera.width, (2.0 * camera.cy + 1.0) / camera.height
    middle = math.log(x / y) if min(x, y) > 0.0 else 0.0
    if abs(pixels) > _STRETCHED and abs(middle - pixels) < min(_ALONG, 0.5 * abs(middle)):
        axis, side, size, share = (
            ("y", "high", camera.height, y) if abs(y - 1.0) > abs(x - 1.0) else ("x", "wide", camera.width, x)
        )
        what = (
            f"f{axis} and c{axis} are those of an image {size * share:.0f} pixels {side} instead of {size}: fx / fy is "
            f"{camera.fx / camera.fy:.3g}, and the principal point ({camera.cx:.1f}, {camera.cy:.1f}) lies as far off "
            f"the middle along {axis}"
        )
        return Doubt("doubtful", what, "Scale both axes of K as the image was scaled")
    if abs(pixels) > math.log(_OBLONG_PIXELS):
        what = f"fx = {camera.fx:.6g} and fy = {camera.fy:.6g} differ by a factor {math.exp(abs(pixels)):.3g}"
        return Doubt("unusual", what, "This is right only for images that were stretched: pixels of cameras are square")
    return None


def doubt_about_projection(k: tuple[float, float, float, float], p: tuple[float, float, float, float]) -> Doubt | None:
    """Compare P with K (fx, fy, cx, cy) of images without distortion, where rectifying has nothing to change."""
    factors = p[0] / k[0], p[1] / k[1]
    if max(max(factor, 1.0 / factor) for factor in factors) <= _SAME_FOCAL:
        return None
    what = (
        f"P has fx {p[0]:.6g} and fy {p[1]:.6g}, but K {k[0]:.6g} and {k[1]:.6g}, although there is no distortion to "
        "rectify: one of them is wrong, and K is used"
    )
    return Doubt("unusual", what, "Publish K and P of one calibration; of rectified images P is used")


def doubt_about_baseline(metres: float, column: float | None = None) -> Doubt | None:
    """Judge the distance of a stereo pair; `column`: P[3], pixels times metres, if it comes from there."""
    if SHORTEST_BASELINE_M <= metres <= _LONGEST_BASELINE_M:
        return None
    units = (("millimetres", 1000.0), ("centimetres", 100.0)) if metres > 1.0 else (("a thousandth", 1e-3),)
    found = [f"{metres / by:.3g} m if in {name}" for name, by in units if _is_baseline(metres / by)]
    if column is None:
        given = ""
    else:
        given = f" by P[3] = {column:.6g}"
        found += [f"{abs(column):.3g} m if P[3] is in metres"] * (metres < 1.0 and _is_baseline(abs(column)))
    guess = f" (it would be {', or '.join(found)})" if found else ""
    what = f"a stereo baseline of {metres:.4g} m{given}: stereo rigs have 0.01 to {_LONGEST_BASELINE_M:g} m{guess}"
    return Doubt("impossible", what, "P[3] of the right camera is -fx times the baseline: pixels times metres")


def _is_baseline(metres: float) -> bool:
    return SHORTEST_BASELINE_M <= metres <= _LONGEST_BASELINE_M


def variation_problem(moves: Sequence[float], focal: float) -> bool:
    """Whether calibrations differ too much for their median, by what each moves in the image, pixels."""
    return max(moves) > LARGEST_VARIATION * focal or sorted(moves)[len(moves) // 2] > _USUAL_VARIATION * focal


class SteadyCamera:
    """Keeps one calibration while those that arrive vary a little: what is made for a camera takes long to make."""

    def __init__(self) -> None:
        self.camera: Camera | None = None  # the one that is kept
        self.varies_px = 0.0  # by how much those that were not taken move in the image
        self._candidate: Camera | None = None
        self._agreeing = 0

    def takes(self, camera: Camera) -> bool:
        """Keep this one from now on, or not; one that differs by much, or is there to stay, is taken."""
        kept, candidate = self.camera, self._candidate
        moved = math.inf if kept is None else kept.moves(camera)
        if moved <= LARGEST_MOVE:
            self._agreeing = 0
            return False
        self._agreeing = self._agreeing + 1 if candidate is not None and candidate.agrees(camera) else 1
        if self._agreeing == 1:
            self._candidate = camera
        if kept is not None and moved <= LARGEST_VARIATION * kept.fx and self._agreeing < STEADY:
            self.varies_px = max(self.varies_px, moved)
            return False
        self.camera, self.varies_px, self._agreeing = camera, 0.0, 0
        return True
