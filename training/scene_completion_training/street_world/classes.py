"""Classes of the street world in the vocabulary of SemanticKITTI's semantic scene completion."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


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


CLASS_COLOURS: NDArray[np.uint8] = np.array(
    [
        (135, 190, 235), (70, 110, 230), (90, 210, 230), (40, 60, 150), (90, 40, 170), (60, 90, 200), (235, 50, 50),
        (230, 60, 180), (150, 40, 90), (200, 90, 200), (230, 160, 230), (110, 30, 110), (160, 40, 80), (235, 190, 60),
        (230, 120, 70), (40, 150, 50), (130, 80, 30), (150, 215, 90), (200, 200, 140), (235, 60, 40),
    ],
    dtype=np.uint8,
)  # [20, 3] RGB  # fmt: skip
