"""Classes of the street world in the vocabulary of SemanticKITTI's semantic scene completion."""

from enum import IntEnum


class StreetClass(IntEnum):
    """SemanticKITTI learning ids; 0 is free space in voxels and sky in images."""

    FREE = 0
    CAR = 1
    BICYCLE = 2
    MOTORCYCLE = 3
    TRUCK = 4
    OTHER_VEHICLE = 5
    PERSON = 6
    BICYCLIST = 7
    MOTORCYCLIST = 8
    ROAD = 9
    PARKING = 10
    SIDEWALK = 11
    OTHER_GROUND = 12
    BUILDING = 13
    FENCE = 14
    VEGETATION = 15
    TRUNK = 16
    TERRAIN = 17
    POLE = 18
    TRAFFIC_SIGN = 19


GROUND_CLASSES = (
    StreetClass.ROAD,
    StreetClass.PARKING,
    StreetClass.SIDEWALK,
    StreetClass.OTHER_GROUND,
    StreetClass.TERRAIN,
)
