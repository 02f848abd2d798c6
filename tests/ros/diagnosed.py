"""What a node says of itself on /diagnostics, as a test waits for it."""

from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from scene_completion_ros.ros import topics
from tests.ros.graph import Graph, NodeUnderTest

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Diagnosed:
    """The newest statuses of the completion node in a graph's namespace."""

    def __init__(self, graph: Graph, node: NodeUnderTest) -> None:
        self.graph, self.node = graph, node
        self.prefix = f"{graph.namespace}/{topics.NODE_NAME}".lstrip("/")
        self.arrays = graph.collect(DiagnosticArray, topics.DIAGNOSTICS)

    @property
    def newest(self) -> dict[str, DiagnosticStatus]:
        """By part; empty before the first."""
        for array in reversed(self.arrays):
            if all(status.name.startswith(f"{self.prefix}: ") for status in array.status):
                return {status.name.removeprefix(f"{self.prefix}: "): status for status in array.status}
        return {}

    def fresh(self, part: str) -> dict[str, str]:
        """The numbers of a part as they are from now on."""
        self.arrays.clear()
        assert self.graph.until(lambda: part in self.newest), self.node.log
        return values(self.newest[part])

    def until(
        self, part: str, level: bytes, *words: str, meanwhile: Callable[[], None] = lambda: None
    ) -> DiagnosticStatus:
        """Wait for a status with a level and words in its message; do something again and again meanwhile."""

        def told() -> bool:
            status = self.newest.get(part)
            return status is not None and status.level == level and all(word in status.message for word in words)

        def tried() -> bool:
            meanwhile()
            return self.graph.until(told, 0.2)

        found = self.graph.until(tried)
        said = {name: (status.level, status.message) for name, status in self.newest.items()}
        assert found, f"no {part} {level!r} {words}, but {said}; log:\n{self.node.log}"
        return self.newest[part]


def values(status: DiagnosticStatus) -> dict[str, str]:
    """The numbers of a status."""
    return {pair.key: pair.value for pair in status.values}
