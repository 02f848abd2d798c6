"""Which calibrations can be, judged by numbers alone: the same in recordings, replays, sequences and the node.

Real cameras set the limits, with a margin. Lenses on vehicles, zoomed in as far as they go, see 2° or more. Pinhole
images see up to 140°, and fisheyes 280° of a circle that may be smaller than the image. Principal points of lenses lie
within 5 % of the middle, and those of cropped images anywhere, but seldom off by the same share along both axes. Stereo
rigs have baselines of 2 cm (in a hand) to 3 m (on a lorry).
"""

import math
from collections.abc import Sequence

from scene_completion_ros.errors import CameraError
from scene_completion_ros.geometry.cameras import LARGEST_MOVE, Camera

# Focal length in sides of the image: of a pinhole with 150°, of a fisheye with 540°, and of a lens with 2°.
_WIDEST_PINHOLE, _WIDEST_FISHEYE, _NARROWEST = 0.134, 0.106, 28.6
_OTHER_SIZE = 1.4  # a principal point by which image and calibration differ so much in size cannot be one of a lens
# Off the middle by the same share along both axes: on average, along each of them, and how much alike.
_OFF_MIDDLE, _OFF_AXIS, _ALIKE = 0.12, 0.1, 1.2
_MODES, _LIKE_MODE = (1.2, 1.25, 4.0 / 3.0), 0.025  # usual factors between modes of a sensor
_AT_EDGE = 0.6  # off it along one axis: such an image is less than two thirds of another
_SWAPPED = 0.3  # off the middle, once width and height are exchanged
_STRETCHED, _ALONG = 0.15, 0.1  # logarithms: of fx / fy, and by how much the principal point may differ from it
_SCALED, _ALIKE_RATIOS = 0.2, 0.1  # P to K: rectifying changes the focal length, but keeps the middle
SHORTEST_BASELINE_M, _LONGEST_BASELINE_M = 0.01, 4.0
# Autofocus and stabilisers move focal lengths by up to 4 % and principal points by as many pixels; zooms and other
# modes by more than 10 %. A percent is an error of depth that no student notices.
LARGEST_VARIATION, _USUAL_VARIATION = 0.04, 0.01  # of half the diagonal of the image: of any message, of half of them
_FOLLOWED, STEADY = 3, 30  # small changes in a row; messages, a second's, after which a calibration is there to stay

_THIS_SIZE = "Give K for this image size, or the image size that K is for; a crop belongs into the field roi"
PIXELS_TIMES_METRES = "P[3] of the right camera is -fx times the baseline in metres"
Intrinsics = tuple[float, float, float, float]  # fx, fy, cx, cy


class Doubt(CameraError):  # noqa: N818 (seldom raised)
    """Speaks against a calibration: a warning, or an error where something is to be learned with it.

    What is merely `unusual` is always a warning.
    """

    def __init__(self, what: str, *, where: str, cure: str, unusual: bool = False) -> None:
        super().__init__(what, where=where, cure=cure)
        self.unusual = unusual


def doubts_about(camera: Camera, where: str) -> list[Doubt]:
    """Compare field of view and principal point with the image. Raises CameraError where no camera is like that."""
    _check_focal_lengths(camera, where)
    return _doubts_about_middle(camera, where) or _doubts_about_proportions(camera, where)


def _check_focal_lengths(camera: Camera, where: str) -> None:
    is_fisheye = camera.distortion_model in ("equidistant", "mei")
    widest, most = (_WIDEST_FISHEYE, 280) if is_fisheye else (_WIDEST_PINHOLE, 150)
    sides = ("fx", "width", camera.width), ("fy", "height", camera.height)
    for focal, (name, side, size) in zip((camera.fx, camera.fy), sides, strict=True):
        share, guess = focal / size, "a thousand times too large"
        if share < widest and (max(camera.cx, camera.cy) <= 2.0 or 0.2 < focal < 1.0):
            guess = "divided by the size of the image"
        elif share < widest:
            guess = "in millimetres" if focal > 0.2 else "in metres"
        elif focal <= _NARROWEST * max(camera.width, camera.height):
            continue
        degrees = math.degrees(1.0 / share if is_fisheye else 2.0 * math.atan(0.5 / share))
        what = f"{name} = {focal:.6g} pixels in an image of {side} {size} is a field of view of {degrees:.4g}°; "
        raise CameraError(f"{what}perhaps it is {guess}", where=where, cure=f"Give pixels; lenses see 2° to {most}°")


def _middle(camera: Camera) -> tuple[float, float]:
    """Locate the principal point: 0 is the left (upper) edge of the image, 1 its middle, 2 the other edge."""
    return (2.0 * camera.cx + 1.0) / camera.width, (2.0 * camera.cy + 1.0) / camera.height


def _doubts_about_middle(camera: Camera, where: str) -> list[Doubt]:
    """Look for the principal point of another image size: off the middle along both axes by one factor."""
    width, height, (low, high) = camera.width, camera.height, sorted(_middle(camera))
    inside = low >= 0.0 and high < 2.0
    factor = (low + high) / 2.0  # from the size of the image to that of the calibration
    times = max(factor, 1.0 / factor) if factor > 0.0 else 0.0
    alike = 0.0 < high < _ALIKE * low and (low - 1.0) * (high - 1.0) > 0.0
    impossible = not inside or (alike and times >= _OTHER_SIZE)
    doubtful = alike and abs(factor - 1.0) > _OFF_MIDDLE and min(abs(low - 1.0), abs(high - 1.0)) > _OFF_AXIS
    at_edge = max(abs(low - 1.0), abs(high - 1.0)) > _AT_EDGE
    if not impossible and not doubtful and not at_edge:
        return []
    place = "far from the middle of" if inside else "outside"
    what = f"principal point lies {place} the image ({camera.cx:.1f}, {camera.cy:.1f} of {width}x{height}): "
    if doubtful:
        modes = [one for one in _MODES if abs(one / times - 1.0) < _LIKE_MODE] or [times]
        times = round(2.0 * times) / 2.0 if times >= _OTHER_SIZE else min(modes, key=lambda one: abs(one - times))
        scale, word = (times, "larger") if factor > 1.0 else (1.0 / times, "smaller")
        what += f"either the calibration is that of images {times:.3g} times {word}, "
        what += f"{width * scale:.0f}x{height * scale:.0f}, or this image is a crop"
    elif max(abs((2.0 * camera.cx + 1.0) / height - 1.0), abs((2.0 * camera.cy + 1.0) / width - 1.0)) < _SWAPPED:
        what += "width and height, or cx and cy, look swapped"
    elif not impossible:
        what += "this is right only if the image is a part of a larger one"
    else:
        what += "the calibration is that of another image size"
    if impossible:
        raise CameraError(what, where=where, cure=_THIS_SIZE)
    return [Doubt(what, where=where, cure=_THIS_SIZE, unusual=not doubtful)]


def _doubts_about_proportions(camera: Camera, where: str) -> list[Doubt]:
    """Look for a K of which one axis alone is scaled. Pixels are square, those of analogue video almost (12:11)."""
    (x, y), pixels = _middle(camera), math.log(camera.fx / camera.fy)
    if abs(pixels) <= _STRETCHED:
        return []
    what = f"fx = {camera.fx:.6g} and fy = {camera.fy:.6g} differ by a factor {math.exp(abs(pixels)):.3g}"
    middle = math.log(x / y) if min(x, y) > 0.0 else 0.0
    if abs(middle - pixels) >= min(_ALONG, 0.5 * abs(middle)):
        cure = "This is right only for images that were stretched: pixels of cameras are square"
        return [Doubt(what, where=where, cure=cure, unusual=True)]
    sides = ("width", camera.width, x), ("height", camera.height, y)
    side, size, share = max(sides, key=lambda one: abs(one[2] - 1.0))
    fits = f"{side} is {size * share:.0f} instead of {size}"
    what += f", as does the principal point ({camera.cx:.1f}, {camera.cy:.1f}): K fits an image whose {fits}"
    return [Doubt(what, where=where, cure="Scale both axes of K as the image was scaled")]


def doubts_about_projection(k: Intrinsics, p: Intrinsics, where: str, *, distorted: bool) -> list[Doubt]:
    """Compare P with K, which is used. Raises CameraError where they are calibrations of two image sizes."""
    ratios = [new / old if old else math.inf for new, old in zip(p, k, strict=True)]
    ratio = sum(ratios) / 4.0
    alike = min(*k, *p) > 0.0 and all(abs(one / ratio - 1.0) < _ALIKE_RATIOS for one in ratios)
    if alike and abs(ratio - 1.0) > _SCALED:
        what = f"P is K scaled by {ratio:.3g}: the two were calibrated at different image sizes"
        cure = "Publish the calibration of exactly this image size, without mixing two calibrations"
        raise CameraError(what, where=where, cure=cure)
    if distorted or max(abs(math.log(one)) for one in ratios[:2]) <= _STRETCHED:
        return []
    what = f"P has fx {p[0]:.6g} and fy {p[1]:.6g}, but K, which is used, {k[0]:.6g} and {k[1]:.6g}, although there is "
    what += "no distortion to rectify"
    return [Doubt(what, where=where, cure="Publish K and P of one calibration", unusual=True)]


def check_baseline(metres: float, where: str, column: float | None = None) -> None:
    """Raise CameraError for a distance that no stereo pair has; `column`: P[3], pixels times metres, that gives it."""
    shortest, longest = SHORTEST_BASELINE_M, _LONGEST_BASELINE_M
    if shortest <= metres <= longest:
        return
    units = {"in millimetres": metres / 1e3, "in centimetres": metres / 1e2, "divided by 1000": metres * 1e3}
    if column is not None:
        units |= {"P[3] is in metres, without fx": abs(column) if metres < shortest else 0.0}
    found = [f"{value:.3g} m if {unit}" for unit, value in units.items() if shortest <= value <= longest]
    guess = f" (it would be {', or '.join(found)})" if found else ""
    by = "" if column is None else f" by P[3] = {column:.6g}"
    what = f"a stereo baseline of {metres:.4g} m{by}: stereo rigs have {shortest:g} to {longest:g} m{guess}"
    cure = "State the places of cameras in metres" if column is None else PIXELS_TIMES_METRES
    raise CameraError(what, where=where, cure=cure)


def varies_too_much(moves: Sequence[float], camera: Camera) -> bool:
    """Tell if calibrations differ too much for their median, a camera, by how far each moves places, pixels."""
    usual, largest = sorted(moves)[len(moves) // 2], max(moves)
    return max(usual / _USUAL_VARIATION, largest / LARGEST_VARIATION) > _half_diagonal(camera)


def _half_diagonal(camera: Camera) -> float:
    return 0.5 * math.hypot(camera.width, camera.height)


class SteadyCamera:
    """Keeps one calibration while those that arrive vary: what is made for a camera takes long to make.

    Some changes are followed. From then on small ones are not, until one calibration lasts for `STEADY` messages.
    """

    def __init__(self) -> None:
        self.camera: Camera | None = None  # the one that is kept
        self.varies_px = 0.0  # by how much those that were not taken move places in the image
        self._last: Camera | None = None
        self._lasts = self._changes = 0  # messages like the last one in a row, and small changes

    def takes(self, camera: Camera) -> bool:
        """Keep this one from now on, or not."""
        if self._last is None or not self._last.agrees(camera):
            self._last, self._lasts = camera, 0
        self._lasts += 1
        if self._lasts >= STEADY:
            self._changes, self.varies_px = 0, 0.0
        moved = math.inf if self.camera is None else self.camera.moves(camera)
        if moved <= LARGEST_MOVE:
            return False
        if moved <= LARGEST_VARIATION * _half_diagonal(camera):
            self._changes += 1
            if self._changes > _FOLLOWED:
                self.varies_px = max(self.varies_px, moved)
                return False
        self.camera = camera
        return True
