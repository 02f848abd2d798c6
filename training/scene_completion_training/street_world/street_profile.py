"""Kinds of streets, their classes and cross-section: lanes, kerbs, sidewalks and what lies beyond, by the seed."""

from dataclasses import dataclass
from enum import Enum, IntEnum

from scene_completion_training.arrays import Random

# Classes in the vocabulary of SemanticKITTI's semantic scene completion, by its learning ids from 0 on; that is free
# space in voxels and sky in images.
StreetClass = IntEnum(
    "StreetClass",
    "FREE CAR BICYCLE MOTORCYCLE TRUCK OTHER_VEHICLE PERSON BICYCLIST MOTORCYCLIST ROAD PARKING SIDEWALK OTHER_GROUND "
    "BUILDING FENCE VEGETATION TRUNK TERRAIN POLE TRAFFIC_SIGN",
    start=0,
)
_GROUND = ("ROAD", "PARKING", "SIDEWALK", "OTHER_GROUND", "TERRAIN")
GROUND_CLASSES = tuple(StreetClass[name] for name in _GROUND)


class StreetKind(Enum):
    """What a town's street is like."""

    RESIDENTIAL = "residential"
    INNER_CITY = "inner city"
    SUBURB = "suburb"
    COUNTRY = "country"
    ARTERIAL = "arterial"


# How often a seed draws them.
KIND_SHARES = dict(zip(StreetKind, (0.30, 0.18, 0.22, 0.16, 0.14), strict=True))


@dataclass(frozen=True)
class Strip:
    """A band of one surface along the street."""

    inner: float  # distance of its near edge from the centre line, metres
    outer: float  # of its far edge
    texture: str  # name in the atlas
    label: StreetClass
    height: float  # above the lanes, metres


@dataclass(frozen=True)
class SideProfile:
    """Cross-section to one side of the centre line; widths in metres, 0 where there is no such strip."""

    median: float  # half of the strip between the directions
    lanes: int
    lane: float
    shoulder: float  # asphalt beside the outermost lane, with the edge line
    parking: float
    verge: float  # grass between kerb and sidewalk
    sidewalk: float
    kerb: float  # height of the kerb; 0 without one
    bank: float  # rise of the terrain beyond the street, negative for a fall
    bank_width: float  # over which the terrain rises
    parking_texture: str
    sidewalk_texture: str

    @property
    def road_edge(self) -> float:
        """Distance from the centre line to the end of the lanes and their shoulder."""
        return self.median + self.lanes * self.lane + self.shoulder

    @property
    def kerb_edge(self) -> float:
        """Distance to the kerb, behind the parked cars."""
        return self.road_edge + self.parking

    @property
    def verge_edge(self) -> float:
        """Distance to the near edge of the sidewalk."""
        return self.kerb_edge + self.verge

    @property
    def walk_edge(self) -> float:
        """Distance to the end of the street's own ground."""
        return self.verge_edge + self.sidewalk

    def strips(self, road_texture: str) -> list[Strip]:
        """Bands from the centre line outwards."""
        bands = [
            Strip(0.0, self.median, "median", StreetClass.OTHER_GROUND, max(self.kerb, 0.08)),
            Strip(self.median, self.road_edge, road_texture, StreetClass.ROAD, 0.0),
            Strip(self.road_edge, self.kerb_edge, self.parking_texture, StreetClass.PARKING, 0.0),
            Strip(self.kerb_edge, self.verge_edge, "grass", StreetClass.TERRAIN, self.kerb),
            Strip(self.verge_edge, self.walk_edge, self.sidewalk_texture, StreetClass.SIDEWALK, self.kerb),
        ]
        return [band for band in bands if band.outer - band.inner > 1e-6]


@dataclass(frozen=True)
class StreetProfile:
    """Cross-section of a town's street."""

    kind: StreetKind
    left: SideProfile  # side of the oncoming traffic
    right: SideProfile  # side of the rig
    centre_line: str  # "dashed", "solid" or "none"
    speed: float  # at which the rig drives where nothing slows it, metres a second
    grade: float  # steepest slope of the street
    sharp_turns: float  # share of the bends that are corners

    def side(self, sign: int) -> SideProfile:
        """The left side for +1, the right one for -1."""
        return self.left if sign > 0 else self.right

    @property
    def drive_offset(self) -> float:
        """Where the rig drives: the middle of the right side's outermost lane, metres to the left."""
        return -(self.right.median + (self.right.lanes - 0.5) * self.right.lane)


def draw_profile(rng: Random) -> StreetProfile:
    """Draw kind and cross-section of a street."""
    kind = list(KIND_SHARES)[int(rng.choice(len(KIND_SHARES), p=list(KIND_SHARES.values())))]
    widths = {"arterial": 3.5, "country": 3.1, "inner city": 3.1}
    lane = float(widths.get(kind.value, 3.0) + rng.uniform(-0.2, 0.25))
    lanes = int(rng.integers(1, 3)) + int(rng.random() < 0.3) if kind is StreetKind.ARTERIAL else 1
    median = float(rng.choice([0.0, 0.5, 1.6])) if kind is StreetKind.ARTERIAL else 0.0
    kerb = float(rng.uniform(0.06, 0.16)) if kind is not StreetKind.COUNTRY else 0.0
    speeds = {"arterial": 15.0, "country": 14.0, "suburb": 9.5, "residential": 8.5, "inner city": 8.0}
    centre = {"arterial": ("dashed", "solid"), "suburb": ("none", "none", "dashed"), "residential": ("none", "dashed")}
    paving = (str(rng.choice(["parking", "asphalt"])), str(rng.choice(["sidewalk", "asphalt_light", "sidewalk_small"])))
    sides = [_draw_side(rng, kind, (median, lanes, lane, kerb), paving) for _ in range(2)]
    return StreetProfile(
        kind=kind,
        left=sides[0],
        right=sides[1],
        centre_line=str(rng.choice(centre.get(kind.value, ("dashed", "dashed", "solid")))),
        speed=float(speeds[kind.value] * rng.uniform(0.85, 1.15)),
        grade=float(rng.choice([0.004, 0.015, 0.035 if kind is not StreetKind.ARTERIAL else 0.02])),
        sharp_turns={"arterial": 0.1, "country": 0.15, "suburb": 0.4}.get(kind.value, 0.5),
    )


def _draw_side(
    rng: Random, kind: StreetKind, middle: tuple[float, int, float, float], paving: tuple[str, str]
) -> SideProfile:
    median, lanes, lane, kerb = middle
    parked = {"residential": 0.85, "inner city": 0.8, "suburb": 0.5}.get(kind.value, 0.0)
    walked = {"country": 0.1, "arterial": 0.4}.get(kind.value, 1.0)
    verged = {"residential": 0.15, "inner city": 0.05, "suburb": 0.35, "arterial": 0.6}.get(kind.value, 0.9)
    bank = {"country": 1.2, "arterial": 1.4, "suburb": 0.5}.get(kind.value, 0.12)
    wide = (2.4, 4.6) if kind is StreetKind.INNER_CITY else (1.5, 2.8)
    return SideProfile(
        median=median,
        lanes=lanes,
        lane=lane,
        shoulder=float(rng.uniform(0.25, 0.6) + (kind is StreetKind.ARTERIAL) * rng.choice([0.2, 1.6])),
        parking=float(rng.uniform(1.95, 2.3)) if rng.random() < parked else 0.0,
        verge=float(rng.uniform(0.8, 2.6)) if rng.random() < verged else 0.0,
        sidewalk=float(rng.uniform(*wide)) if rng.random() < walked else 0.0,
        kerb=kerb,
        bank=float(rng.normal(0.0, bank)),
        bank_width=float(rng.uniform(4.0, 9.0)),
        parking_texture=paving[0],
        sidewalk_texture=paving[1],
    )
