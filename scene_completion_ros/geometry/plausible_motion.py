"""Judge by numbers alone how cameras stand and move: the same in recordings, sequences and the node.

Each function returns a sentence, which is empty where nothing is wrong.
"""

from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, median_filter, minimum_filter1d

from scene_completion_ros.geometry.transforms import RigidTransform

Doubles = NDArray[np.float64]
Stamps = NDArray[np.int64]

# No road vehicle, robot or drone is faster: 360 km/h. `JITTER_M` is what satellite positioning jumps by besides.
FASTEST_M_S, JITTER_M = 100.0, 5.0
STEP_NS = 250_000_000  # over which speed is judged: between poses of 100 Hz most of it is noise
USUAL_M_S = 40.0  # what a guess of the unit must come down to
# From the base to a camera: lorries with trailers have up to 25 m, most robots less than `USUAL_ARM_M`.
LONGEST_ARM_M, USUAL_ARM_M = 30.0, 5.0
FARTHEST_JUMP_M = (
    1000.0  # beyond what is driven: a place that becomes known, in the coordinates of a country, is farther
)
MOST_JUMPS = 0.25  # of the steps of a track: map -> odom of a robot that closes loops jumps now and then, not always
# Poses of which one, or up to four in a row, may be elsewhere, and the most that may be of a whole track.
STRAY_WINDOWS, MOST_STRAYS = (3, 9), 0.1
# Two tracks are told by their distance, which is many times the noise of each; a Gaussian cut in two halves has 2.6
# times, equally spread values 3.5 times. Windows of few samples follow bends, those of many find a rare publisher.
APART, FEWEST_M = 8.0, 0.03
WINDOWS, FEWEST_RETURNS = (12, 40), 3
LEAST_HITS = 0.2  # of the windows
UNSTEADY = 0.4  # deviation of the time between two poses of a publisher, of its mean; chance has 0.7 and more
# Up are z axes within 45° (cameras of robots look down by up to 40°), upright cameras those rolled by less than 100°.
UP, LEVEL, ROLLED = 0.7, 0.35, 0.17
ALONG, FEWEST_WAY_M = 0.7, 1.0  # share of a way that leads along an axis, and the way that shows it
SAME_CLOCK_S = 1.0  # between two clocks: networks and buffers delay messages by less
AHEAD_S = 0.1  # by which a stamp may be ahead of its recording: computers of one network differ by tens of ms


def body_axes(ups: Doubles, steps: Doubles) -> bool:
    """Tell a frame with the axes of a body (REP 103: x forward, z up) from the optical frame of a camera.

    `ups`: the direction up in that frame, by each upright frame that is known [N, 3]; `steps`: how the camera moves in
    it, metres [M, 3]. An optical frame has such axes only if the camera looks straight up.
    """
    ways = np.abs(steps).sum(axis=0) if len(steps) else np.zeros(3)
    way = float(np.linalg.norm(steps, axis=-1).sum()) if len(steps) else 0.0
    ahead = way > FEWEST_WAY_M and ways[2] > ALONG * way  # it goes where an optical frame looks, or the world is one
    return bool(len(ups) and (ups[:, 2] > UP).all() and (np.abs(ups[:, 1]) < LEVEL).all() and not ahead)


def upside_down(ups: Doubles) -> bool:
    """Tell whether a camera is rolled by more than 100°; `ups`: see `body_axes`. One that looks down has no roll."""
    level = np.linalg.norm(ups[:, :2], axis=1)
    return bool(len(ups) and (level > LEVEL).all() and (ups[:, 1] > ROLLED * level).all())


LOOKS_UP = (
    "looks straight up, as the axes of a robot's body would (REP 103: x forward, z up). Unless it does, its transform "
    "lacks the turn to the optical axes: x right, y down, z forward"
)
HANGS = (
    "hangs upside down. If it does, and its driver turns the images upright, or if it does not hang, correct the "
    "transform: turn the optical frame by 180° about its z axis"
)


def speed_problem(stamps_ns: Stamps, positions: Doubles) -> str:
    """Refuse a track that is faster than anything on the ground, beyond a few jumps; positions [N, 3], metres."""
    bins = (stamps_ns - stamps_ns[:1]) // STEP_NS
    kept = np.flatnonzero(np.r_[True, np.diff(bins) > 0][: len(bins)])
    steps, seconds = np.linalg.norm(np.diff(positions[kept], axis=0), axis=1), np.diff(stamps_ns[kept]) * 1e-9
    fast = steps > FASTEST_M_S * seconds + JITTER_M
    if not fast.any():
        return ""
    extent, lasts_s = float(np.linalg.norm(np.ptp(positions, axis=0))), float(stamps_ns[-1] - stamps_ns[0]) * 1e-9
    if fast.mean() <= MOST_JUMPS and extent <= FASTEST_M_S * lasts_s + FARTHEST_JUMP_M:
        return ""
    speed = float(np.median((steps / seconds)[fast]))
    guess = _in_other_units(speed, USUAL_M_S, "m/s") if fast.mean() > 0.5 else ""  # some steps are no unit's fault
    return (
        f"moves at {speed:.0f} m/s, {extent:.0f} m in {lasts_s:.1f} s ({fast.sum()} of {len(fast)} steps); robots, "
        f"cars and drones stay below {FASTEST_M_S:.0f} m/s{guess}"
    )


def arm_problem(base_from_sensor: RigidTransform, base: str) -> str:
    """Refuse a sensor that is farther from its base than any vehicle is long."""
    metres = float(np.linalg.norm(base_from_sensor.translation))
    guess = _in_other_units(metres, USUAL_ARM_M, "m")
    return "" if metres <= LONGEST_ARM_M else f"is {metres:.0f} m from {base}; vehicles are shorter{guess}"


def _in_other_units(value: float, usual: float, unit: str) -> str:
    units = {"centimetres": value / 100.0, "millimetres": value / 1000.0}
    fit = [f"{found:.3g} {unit} if the poses are in {name}" for name, found in units.items() if found <= usual]
    return f" (it would be {', '.join(fit)})" if fit else ""


def strays(stamps_ns: Stamps, positions: Doubles) -> tuple[NDArray[np.bool_], str]:
    """Mark the few poses [N] of a track that are far from those before and after them; a jump is between both."""
    found = np.zeros(len(positions), dtype=bool)
    for size in STRAY_WINDOWS:
        middle = median_filter(positions, (size, 1), mode="mirror")
        seconds = (maximum_filter1d(stamps_ns, size) - minimum_filter1d(stamps_ns, size)) * 1e-9
        found |= np.linalg.norm(positions - middle, axis=1) > FASTEST_M_S * seconds + JITTER_M
    if not found.any() or found.sum() > max(1, MOST_STRAYS * len(found)):
        return np.zeros_like(found), ""
    first = int(np.argmax(found))
    away = float(np.linalg.norm(positions[first] - positions[first - 1 if first else 1]))
    what = f"{found.sum()} of {len(found)} poses, for nothing moves so fast; that of {stamps_ns[first]} ns is "
    return found, f"{what}{away:.0f} m from the one beside it"


def two_tracks(stamps_ns: Stamps, positions: Doubles) -> tuple[int, int] | None:
    """Find positions of two tracks that alternate: the indices of one of each, next to each other in time.

    One track differs from its own smooth course by noise, and two by their distance, to and fro. Positions [N, 3],
    metres, sorted by stamp, of which several may have one stamp. An offset along the motion counts where late stamps,
    which shift a position by less than the way between two of them, do not explain it.
    """
    repeated = np.zeros(len(positions), dtype=bool)
    repeated[1:] = np.abs(np.diff(positions, axis=0)).max(axis=1) < 1e-9  # published more often than measured
    fresh = np.flatnonzero(~repeated)
    for size in WINDOWS:
        starts = range(0, len(fresh) - size + 1, size)
        hits = [hit for one in starts if (hit := _alternate(stamps_ns, positions, fresh[one : one + size]))]
        if hits and len(hits) >= max(min(3, len(starts)), LEAST_HITS * len(starts)):
            return hits[0]
    return None


def _alternate(stamps_ns: Stamps, positions: Doubles, window: NDArray[np.intp]) -> tuple[int, int] | None:
    seconds = (stamps_ns[window] - stamps_ns[window[0]]) * 1e-9
    if seconds[-1] <= 0.0:
        return None
    powers = np.vander(seconds / seconds[-1], 3)  # bends and changes of speed
    off = positions[window] - powers @ np.linalg.lstsq(powers, positions[window], rcond=None)[0]
    aside = off @ np.linalg.svd(off, full_matrices=False)[2][0]
    order = np.argsort(aside)
    cut = 1 + int(np.argmax(np.diff(aside[order])))
    groups = order[:cut], order[cut:]
    lesser = np.isin(np.arange(len(window)), min(groups, key=len))
    returns = int(np.count_nonzero(lesser[1:] & ~lesser[:-1]) + lesser[0])
    apart = off[groups[1]].mean(axis=0) - off[groups[0]].mean(axis=0)
    moved = positions[window[-1]] - positions[window[0]]
    ahead = moved / max(float(np.linalg.norm(moved)), 1e-9)
    along = float(apart @ ahead)
    if (np.diff(seconds) > 0.0).all() and abs(along) <= np.linalg.norm(moved) / (len(window) - 1):
        apart = apart - along * ahead
    distance = float(np.linalg.norm(apart))
    noise = float(np.mean([np.std(off[group] @ apart) for group in groups])) / max(distance, 1e-9)
    between = np.diff(seconds[lesser])
    steady = len(between) > 0 and np.std(between) < UNSTEADY * np.mean(between)
    if returns < FEWEST_RETURNS or 2 * returns < lesser.sum() or distance < max(FEWEST_M, APART * noise) or not steady:
        return None
    first = int(np.flatnonzero(lesser[1:] != lesser[:-1])[0])
    return int(window[first]), int(window[first + 1])


def nearest_name(name: str, known: list[str]) -> str:
    """Choose the frame that was probably meant; empty where none resembles it."""
    plain = name.strip().strip("/").casefold()
    same = [one for one in known if one.casefold() == plain]
    same += [one for one in known if plain.endswith(f"/{one.casefold()}") or one.casefold().endswith(f"/{plain}")]
    return next(iter(same or get_close_matches(plain, known)), "")


def clock_problem(images: str, ahead_ns: Stamps, transforms: str, transforms_ahead_ns: Stamps, than: str) -> str:
    """Name two clocks: of images and of transforms, by how much their stamps are ahead of a third one each.

    Messages arrive late, and never before their stamp. Of images nine in ten must be ahead, of transforms one in ten.
    """
    if not len(ahead_ns) or not len(transforms_ahead_ns):
        return ""
    ahead_s, others_s = 1e-9 * float(np.quantile(ahead_ns, 0.1)), 1e-9 * float(np.quantile(transforms_ahead_ns, 0.9))
    apart = ahead_s - others_s
    if abs(apart) <= SAME_CLOCK_S and ahead_s - max(others_s, 0.0) <= AHEAD_S:
        return ""
    guesses = {37: "TAI, as of PTP, is 37 s ahead of UTC", 18: "the time of GPS is 18 s ahead of UTC"}
    guess = next((text for seconds, text in guesses.items() if abs(abs(apart) - seconds) < 0.5), "")
    if abs(apart) > 1e8:  # three years
        guess = "as if one of them counts from the start of its device"
    return (
        f"images of {images} have another clock than {transforms}, {_ahead(apart)} theirs{guess and f' ({guess})'}: "
        f"stamps of images are {_ahead(ahead_s)} {than}, those of {transforms} {_ahead(others_s)} it. "
        "Have the driver stamp images by the clock of the computer, as transforms are"
    )


def _ahead(seconds: float) -> str:
    return f"{abs(seconds):.3f} s {'ahead of' if seconds > 0.0 else 'behind'}"
