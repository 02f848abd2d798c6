"""A town from its seed: plan of the street, and its contents stretch by stretch, so that no drive is too long."""

from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from scene_completion_training.arrays import Random
from scene_completion_worlds.street import road_users, street_line
from scene_completion_worlds.street.ground import ARM_M, Ground, SideStreet, make_ground
from scene_completion_worlds.street.layout import SECTION_M, Layout, make_nursery
from scene_completion_worlds.street.parts import Part
from scene_completion_worlds.street.roadside import furnish
from scene_completion_worlds.street.scene import World
from scene_completion_worlds.street.sky import draw_camera_look, draw_daylight
from scene_completion_worlds.street.street_line import StreetKind, StreetLine, StreetProfile, make_street_line
from scene_completion_worlds.street.textures import TextureAtlas, ground_textures, made_textures, road_textures

Role = Literal["training", "validation", "test", "demo"]
SEEDS_OF_ROLE: dict[Role, range] = {
    "training": range(1000),
    "validation": range(1000, 2000),
    "test": range(2000, 3000),
    "demo": range(7000, 8000),
}  # which seeds are whose: training, validation, test and demo towns never share one
BEHIND_M, AHEAD_M = 120.0, 280.0  # street beyond both ends of the drive
SECTIONS_KEPT = 8
STEEPEST_CREST = 0.06  # slope
STRAIGHT = 1 / 400.0  # curvature below which a side street may branch off


class Town(World):
    """The built part of a town, from one arc length to another."""

    ground_classes: tuple[int, ...] = street_line.GROUND_CLASSES

    def __init__(self, plan: "TownPlan", parts: list[Part], start: float, end: float) -> None:
        self.plan, self.parts, self.start, self.end = plan, parts, start, end
        self.atlas, self.look = plan.atlas, plan.look


def role_of_seed(seed: int) -> Role:
    """Role of a world's seed; a `ValueError` if it belongs to no role."""
    for role, seeds in SEEDS_OF_ROLE.items():
        if seed in seeds:
            return role
    known = ", ".join(f"{role} {seeds[0]}-{seeds[-1]}" for role, seeds in SEEDS_OF_ROLE.items())
    raise ValueError(f"seed {seed} belongs to no role: worlds are {known}")


def profile_of(seed: int) -> StreetProfile:
    """Cross-section and kind of a town's street."""
    return street_line.draw_profile(np.random.default_rng([seed, 11]))


class TownPlan:
    """A town that is laid out, but not built.

    A longer town of the same seed starts like a shorter one. Its length in metres, from s = 0, is what is driven; the
    street goes on beyond. A hilly one has crests and dips, too.
    """

    def __init__(self, seed: int, length: float, *, hilly: bool = False) -> None:
        self.seed, self.length = seed, length
        rng = np.random.default_rng([seed, 1])
        self.profile = profile_of(seed)
        self.daylight = draw_daylight(rng)
        self.look = draw_camera_look(rng, self.daylight)
        edge = max(self.profile.left.walk_edge, self.profile.right.walk_edge)
        self.line = make_street_line(
            np.random.default_rng([seed, 7]),
            -BEHIND_M,
            length + AHEAD_M,
            corner_share=self.profile.sharp_turns,
            smallest_radius=max(street_line.CORNER_RADIUS_M[0], 2.0 + edge),
            grade=self.profile.grade,
            crests=np.random.default_rng([seed, 15]).uniform(0.0, STEEPEST_CREST) if hilly else 0.0,
        )
        streets = _draw_side_streets(np.random.default_rng([seed, 8]), self.line, self.profile)
        self.ground = Ground(self.line, self.profile, streets, rng.uniform(0.0, 2.0 * np.pi, 4))
        self._nursery = make_nursery(np.random.default_rng([seed, 12]))
        self.section = lru_cache(SECTIONS_KEPT)(self._furnished)

    @cached_property
    def atlas(self) -> TextureAtlas:
        """The town's textures."""
        rng, wetness = np.random.default_rng([self.seed, 13]), self.daylight.wetness
        found = ground_textures(rng, wetness)
        return TextureAtlas(found | road_textures(rng, self.profile, wetness) | made_textures(rng))

    def build(self, start: float, end: float) -> Town:
        """Build all sections that touch a stretch of the street."""
        first, last = int(np.floor(start / SECTION_M)), int(np.floor(end / SECTION_M))
        start = max(first * SECTION_M, self.line.start)
        end = min((last + 1) * SECTION_M, self.line.end)
        parts = make_ground(self.ground, start, end, self.atlas)
        for index in range(first, last + 1):
            parts += self.section(index)
        return Town(self, parts + self._vehicle_ahead(start, end), start, end)

    def _furnished(self, index: int) -> list[Part]:
        """What stands on the stretch of `SECTION_M` that starts at `index` times its length."""
        start = max(index * SECTION_M, self.line.start + 1.0)
        end = min((index + 1) * SECTION_M, self.line.end - 1.0)
        layout = Layout(np.random.default_rng([self.seed, 9, index + 1000]), self.ground, self._nursery, start, end)
        if end > start + 10.0:
            furnish(layout)
        return layout.parts

    def _vehicle_ahead(self, start: float, end: float) -> list[Part]:
        """A vehicle in the rig's lane beyond the drive."""
        rng = np.random.default_rng([self.seed, 10])
        layout = Layout(rng, self.ground, self._nursery, start, end)
        if start < (s := self.length + float(rng.uniform(16.0, 40.0))) < end - 10.0:
            vehicle = road_users.van(rng) if rng.random() < 0.3 else road_users.car(rng)
            layout.place(vehicle.parts, s, self.profile.drive_offset)
        return layout.parts


def _draw_side_streets(rng: Random, line: StreetLine, profile: StreetProfile) -> list[SideStreet]:
    """Side streets where the main street is straight; arms that would meet it again elsewhere are left out."""
    streets = []
    spacing = (70.0, 220.0) if profile.kind in (StreetKind.COUNTRY, StreetKind.ARTERIAL) else (40.0, 95.0)
    s = line.start + 20.0
    while s < line.end - 20.0:
        s += float(rng.uniform(*spacing))
        half, walk = float(rng.uniform(2.4, 4.2)), float(rng.uniform(1.4, 2.4))
        zebra, kind = bool(rng.random() < 0.4), int(rng.integers(3))  # both sides, left, right
        straight = [at for at in np.arange(s, s + 30.0, 3.0) if line.sharpest(at, half + walk + 6.0) < STRAIGHT]
        if not straight or straight[0] > line.end - 20.0:
            continue
        s = float(straight[0])
        left, right = (ARM_M * (kind != skipped and _arm_is_free(line, s, sign)) for sign, skipped in ((1, 2), (-1, 1)))
        if left or right:
            bare = profile.kind is StreetKind.COUNTRY
            streets.append(SideStreet(s, half, 0.0 if bare else walk, left, right, zebra and not bare))
    return streets


def _arm_is_free(line: StreetLine, s: float, sign: int) -> bool:
    d = sign * np.linspace(8.0, ARM_M + 8.0, 8)
    _, nearest = line.nearest(line.point(s, d))
    return bool((np.abs(nearest) > 0.9 * np.abs(d)).all())
