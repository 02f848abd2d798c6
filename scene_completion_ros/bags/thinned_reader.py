"""A recording of which only every n-th image is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from scene_completion_ros.bags.reader import CAMERA_INFO_TYPE, IMAGE_TYPES, BagMessage, BagReader
from scene_completion_ros.errors import BagError


class ThinnedBagReader(BagReader):
    """A recording of which only every n-th image (of each image topic) is read.

    Args:
        path: Folder or file.
        camera_info_topic: Topic of the CameraInfo of all images; found by its name where it is None.
    """

    def __init__(self, path: Path | str, every: int = 1, *, camera_info_topic: str | None = None) -> None:
        super().__init__(path)
        self._every = every
        self._camera_info_topic = camera_info_topic

    def camera_info_topic(self, image_topic: str) -> str | None:
        """The CameraInfo topic that was named, or else the one that belongs to an image topic.

        Raises:
            BagError: There is none of the name: lists what there is.
        """
        if self._camera_info_topic is None:
            return super().camera_info_topic(image_topic)
        infos = self.topics_of_type(CAMERA_INFO_TYPE)
        if self._camera_info_topic not in infos:
            raise BagError(
                f"no CameraInfo topic {self._camera_info_topic!r}",
                where=str(self.path),
                cure=f"Name one of: {', '.join(infos) or 'none is recorded'}",
            )
        return self._camera_info_topic

    def messages(
        self, topics: Collection[str] | None = None, *, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Yield messages in the order of bag time, without the images that are left out."""
        seen: Counter[str] = Counter()
        for message in super().messages(topics, start_ns=start_ns, stop_ns=stop_ns):
            if message.type in IMAGE_TYPES:
                seen[message.topic] += 1
                if (seen[message.topic] - 1) % self._every:
                    continue
            yield message
