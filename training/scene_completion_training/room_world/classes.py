"""Classes of the room world, by the ids of `ROOM_CLASSES`."""

from enum import IntEnum


class RoomClass(IntEnum):
    """0 is free space in voxels, and nothing in images."""

    FREE = 0
    WALL = 1
    FLOOR = 2
    CABINET = 3
    BED = 4
    CHAIR = 5
    SOFA = 6
    TABLE = 7
    DOOR = 8
    WINDOW = 9
    BOOKSHELF = 10
    PICTURE = 11
    COUNTER = 12
    DESK = 13
    CURTAIN = 14
    REFRIGERATOR = 15
    SHOWER_CURTAIN = 16
    TOILET = 17
    SINK = 18
    BATHTUB = 19
    OTHERFURNITURE = 20
    CEILING = 21
    PERSON = 22
    OTHER_OBJECT = 23
