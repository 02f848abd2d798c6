"""How the rig moves along the street: slower in bends, stopping now and then, swaying and nodding as cars do."""

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_training.street_world.camera_rig import rotation
from scene_completion_training.street_world.street_line import StreetLine
from scene_completion_training.street_world.street_profile import StreetProfile

Floats = NDArray[np.float64]

FRAME_RATE_HZ = 10.0
FIRST_STAMP_NS = 1_700_000_000_000_000_000
SIDEWAYS_M_S2, SPEED_UP_M_S2, BRAKE_M_S2 = 2.2, 1.6, 2.4
STOP_SHARE = 0.5  # of the towns have stops
STEP_M = 0.25
CREEP_M_S = 0.4  # slowest while moving: a stop is reached in finite time
FASTEST = 1.12  # times the profile's speed


def longest_drive(profile: StreetProfile, frames: int, rate_hz: float = FRAME_RATE_HZ) -> float:
    """Metres of street that a drive of this many frames can need."""
    return frames / rate_hz * profile.speed * FASTEST + 5.0


def drive_poses(
    line: StreetLine, profile: StreetProfile, frames: int, seed: int, rate_hz: float = FRAME_RATE_HZ
) -> list[RigidTransform]:
    """Poses `world_from_rig` along the rig's lane."""
    rng = np.random.default_rng([seed, 2])
    phase = rng.uniform(0.0, 2.0 * np.pi, 6)
    time = np.arange(frames) / rate_hz
    s = arc_lengths(line, profile, time, rng)
    sway = 0.12 * np.sin(0.07 * s + phase[1])
    d = profile.drive_offset + sway
    xy = line.point(s, d)
    # Beside the centre line of a bend the same change of sway takes another distance.
    along = np.maximum(1.0 - line.curvature_at(s) * d, 0.2)
    yaw = line.heading_at(s) + np.arctan(0.12 * 0.07 * np.cos(0.07 * s + phase[1]) / along)
    slope = np.arctan((line.height_at(s + 1.0) - line.height_at(s - 1.0)) / (2.0 * along))
    pitch = 0.004 * np.sin(6.3 * time + phase[2]) + 0.002 * np.sin(17.0 * time + phase[3]) - slope
    roll = 0.005 * np.sin(4.1 * time + phase[4])
    z = line.height_at(s) + 0.012 * np.sin(7.7 * time + phase[5])
    return [
        RigidTransform(rotation(yaw[k], pitch[k], roll[k]), np.array([xy[k, 0], xy[k, 1], z[k]])) for k in range(frames)
    ]


def arc_lengths(line: StreetLine, profile: StreetProfile, time: Floats, rng: np.random.Generator) -> Floats:
    """Arc length at each time, seconds from the start."""
    knots = np.arange(0.0, line.end, STEP_M)
    offset = 1.0 - line.curvature_at(knots) * profile.drive_offset  # metres driven in the lane for a metre of the line
    bend = np.abs(line.curvature_at(knots)) / np.maximum(offset, 0.2)
    wave = 1.0 + 0.1 * np.sin(knots / 37.0 + rng.uniform(0.0, 6.28)) * np.sin(knots / 13.0)
    allowed = np.minimum(profile.speed * wave, np.sqrt(SIDEWAYS_M_S2 / np.maximum(bend, 1e-6)))
    stops = _draw_stops(rng, float(knots[-1]))
    rows = np.searchsorted(knots, [at for at, _ in stops])
    allowed[np.minimum(rows, len(knots) - 1)] = CREEP_M_S
    speed = _within_accelerations(allowed)
    moving = np.concatenate([[0.0], np.cumsum(STEP_M * offset[:-1] / (0.5 * (speed[1:] + speed[:-1])))])
    pauses = np.zeros_like(knots)
    for row, (_, pause) in zip(rows, stops, strict=True):
        pauses[row + 1 :] += pause
    clock = np.stack([moving + np.concatenate([[0.0], pauses[:-1]]), moving + pauses], axis=-1)
    return np.asarray(np.interp(time, clock.reshape(-1), np.repeat(knots, 2)))


def _draw_stops(rng: np.random.Generator, length: float) -> list[tuple[float, float]]:
    """Where the rig stops, and for how many seconds."""
    stops = []
    at = float(rng.uniform(40.0, 250.0))
    stopping = bool(rng.random() < STOP_SHARE)
    while stopping and at < length:
        stops.append((at, float(rng.uniform(0.5, 2.0))))
        at += float(rng.uniform(120.0, 350.0))
    return stops


def _within_accelerations(allowed: Floats) -> Floats:
    """Highest speeds that neither brake nor speed up harder than comfortable."""
    square = allowed**2
    for k in range(len(square) - 2, -1, -1):
        square[k] = min(square[k], square[k + 1] + 2.0 * BRAKE_M_S2 * STEP_M)
    for k in range(1, len(square)):
        square[k] = min(square[k], square[k - 1] + 2.0 * SPEED_UP_M_S2 * STEP_M)
    return np.sqrt(square)


def stamps_ns(frames: int, rate_hz: float = FRAME_RATE_HZ) -> list[int]:
    """Time stamps of a drive's frames."""
    step = round(1e9 / rate_hz)
    return [FIRST_STAMP_NS + k * step for k in range(frames)]
