"""This process's side of a ROS graph, and nodes under test in processes of their own."""

import importlib.util
import itertools
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile

from scene_completion_ros.ros.parameters import SCHEMA
from tests.checkout import ROOT, with_this_checkout

PATIENCE_S = 240.0  # only spent where something is wrong, or the machine is very busy
LONGEST_PERIOD_S = 20.0  # between two attempts

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TF2 = importlib.util.find_spec("tf2_ros") is not None and importlib.util.find_spec("tf2_msgs") is not None

_graphs = itertools.count()


class Graph:
    """Publishers and subscriptions of a test, in a namespace of their own."""

    def __init__(self) -> None:
        self.namespace = f"/test_{next(_graphs)}"
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("test", namespace=self.namespace, context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._closed = False

    def close(self) -> None:
        """May be called again."""
        if self._closed:
            return
        self._closed = True
        self._executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()
        self.context.destroy()

    def collect(self, message_type: Any, topic: str, qos: Any = 50) -> list[Any]:
        """Subscribe; messages are appended to the list returned."""
        messages: list[Any] = []
        self.node.create_subscription(message_type, topic, messages.append, qos)
        return messages

    def until(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> bool:
        """Spin until a condition holds; whether it does."""
        deadline_s = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline_s:
            self._executor.spin_once(timeout_sec=0.02)
        return condition()

    def repeat(self, attempt: Callable[[], object], condition: Callable[[], bool]) -> bool:
        """Try something again and again, ever less often, until a condition holds; whether it does.

        A reader misses what comes before it is found, and a starved machine must not be flooded with attempts.
        """
        deadline_s, period_s = time.monotonic() + PATIENCE_S, 0.1
        while not condition() and time.monotonic() < deadline_s:
            attempt()
            self.until(condition, period_s)
            period_s = min(1.5 * period_s, LONGEST_PERIOD_S)
        return condition()

    def spin_with(self, node: Any) -> None:
        """Let another node of this process answer while this one spins."""
        self._executor.add_node(node)

    def set_parameters(self, node_name: str, **values: Any) -> Any:
        """Ask another node of the namespace for changes, all or none; its SetParametersResult.

        Parameters of the completion node are given by their fields.
        """
        names = {spec.field: spec.name for spec in SCHEMA}
        messages: list[ParameterMessage] = [
            Parameter(names.get(field, field), value=value).to_parameter_msg() for field, value in values.items()
        ]
        request = SetParametersAtomically.Request(parameters=messages)
        return self.call(SetParametersAtomically, f"{node_name}/set_parameters_atomically", request).result

    def change_state(self, node_name: str, transition: int) -> bool:
        """Ask a managed node of the namespace for a transition of lifecycle_msgs/Transition; whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call(ChangeState, f"{node_name}/change_state", request).success)

    def state(self, node_name: str) -> str:
        """What a managed node of the namespace says its state is."""
        return str(self.call(GetState, f"{node_name}/get_state", GetState.Request()).current_state.label)

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        """Call a service of the namespace; its response."""
        client = self.node.create_client(service_type, f"{self.namespace}/{name}")
        assert self.until(client.service_is_ready)
        answer = client.call_async(request)
        assert self.until(answer.done)
        self.node.destroy_client(client)
        return answer.result()


def as_arguments(parameters: Mapping[str, object]) -> list[str]:
    """Parameters as a command line gives them."""
    return [text for name, value in parameters.items() for text in ("-p", f"{name}:={value}")]


class NodeUnderTest:
    """A node in its own process; everything it prints goes to a file."""

    def __init__(self, command: Sequence[str], log_file: Path) -> None:
        self._log_file = log_file
        with log_file.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=with_this_checkout(),
                # Started in the background, pytest ignores SIGINT, and its children would inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    @property
    def log(self) -> str:
        return self._log_file.read_text(encoding="utf-8")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status; kill and fail where it is not heeded."""
        self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running {PATIENCE_S} s after {number.name}; its log:\n{self.log}") from None
        finally:
            self.process.kill()
            self.process.wait()

    def end_well(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal, upon which it is to end without an error."""
        assert self.end(number) == 0
        assert "Traceback" not in self.log and "please report" not in self.log

    def end_with_all_counted(self, *no_images: str) -> Counter[str]:
        """End it well; what it dropped by reason, where each image that it received was processed or dropped.

        Of the reasons, `no_images` are those of other messages.
        """
        self.end_well()
        received, processed, dropped = self.counts
        assert received == processed + dropped.total() - sum(dropped[reason] for reason in no_images)
        return dropped

    @property
    def counts(self) -> tuple[int, int, Counter[str]]:
        """Images received and processed, and messages dropped by reason, as it summed them up last."""
        summaries = re.findall(r"received (\d+) images, processed (\d+), dropped \d+ \((.*?)\)", self.log)
        assert summaries, self.log
        received, processed, reasons = summaries[-1]
        dropped = Counter({name: int(count) for count, name in re.findall(r"(\d+) ([^,]+)", reasons)})
        return int(received), int(processed), dropped

    def close(self) -> None:
        """End it if it runs; one that is killed leaves its shared memory behind."""
        self.process.terminate()
        try:
            self.process.wait(60.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_completion_node(
    graph: Graph, log_file: Path, bundle: Path, grid: Path, *arguments: str, script: Path | None = None
) -> NodeUnderTest:
    """Start the completion node in a graph's namespace the way the documentation says, or a script around it."""
    module = [str(script)] if script else ["-m", "scene_completion_ros.ros.node"]
    given = ["--params-file", str(ROOT / "config" / "scene_completion.yaml"), "-r", f"__ns:={graph.namespace}"]
    given += ["-p", f"bundle:={bundle}", "-p", f"grid.file:={grid}", "-p", "threads:=1"]
    return NodeUnderTest([*module, "--ros-args", *given, *arguments], log_file)
