"""The managed node: what is held in which state, and the transitions between them."""

import gc
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from rclpy.lifecycle import ManagedEntity, TransitionCallbackReturn

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.grids import read_grid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import open_student
from scene_completion_ros.inference.encoder import check_engine
from scene_completion_ros.mapping.ground_map import ignored_labels
from scene_completion_ros.messages.drop_reasons import StampOrder
from scene_completion_ros.plain_text import printable
from scene_completion_ros.progress import forwarded_log
from scene_completion_ros.ros.declared_parameters import DeclaredParameters
from scene_completion_ros.ros.frame import Student
from scene_completion_ros.ros.health.diagnostics import Diagnostics, Observed
from scene_completion_ros.ros.health.judgement import FrameCounters
from scene_completion_ros.ros.inference_thread import InferenceThread
from scene_completion_ros.ros.inputs import Inputs
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.ros.placements import check_frames
from scene_completion_ros.ros.publishers import Outputs
from scene_completion_ros.ros.words_input import Dictionary, WordsInput


class CompletionNode(ManagedEntity):  # type: ignore[misc]  # rclpy has no types where it is not installed
    """Publishes completed voxels of a camera's images, in their frame and with their stamp, while its node is active.

    | state | held |
    |---|---|
    | unconfigured | parameters, counters, diagnostics |
    | inactive | and bundle, publishers, latched legend, inference thread with the model of a camera, topics of words |
    | active | and the subscriptions to the image and its CameraInfo, and the calibration |

    A transition that meets bad input leaves the state as it was, any other error leads to unconfigured; both are
    logged. Raises SceneCompletionError where a parameter was given with a value that a node cannot hold. `node`: the
    managed rclpy node (`rclpy.lifecycle.LifecycleNode`) that this does the work of.
    """

    def __init__(self, node: Any) -> None:
        super().__init__()
        self._node = node
        self._logger = node.get_logger()
        self.inputs: Inputs | None = None  # the subscriptions; None unless active
        self.counters = FrameCounters(self._logger)  # what became of the images, in all activations together
        self._parameters = DeclaredParameters(node, self._check_change)
        self._thread: InferenceThread | None = None
        self._outputs: Outputs | None = None
        self._words: WordsInput | None = None
        self._order = StampOrder()
        self._grid_from_camera = RigidTransform.identity()
        self._while_configured, self._while_active = ExitStack(), ExitStack()
        self._problem: SceneCompletionError | None = None
        self._finalized = False
        self._diagnostics = Diagnostics(node, self.observed, self.counters.warn)
        node.add_managed_entity(self)

    def start(self) -> None:
        """Configure and activate with `autostart`. Raises SceneCompletionError where that cannot be."""
        if not self._parameters.snapshot().autostart:
            self._logger.info("unconfigured: waiting for the manager of this node (parameter autostart is false)")
            return
        for transition in (self._node.trigger_configure, self._node.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                raise self._problem or SceneCompletionError("the transition failed", cure="See the log above.")

    def close(self) -> None:
        """Shut down, whatever the state; everything but the node itself is released."""
        if not self._finalized:
            self._node.trigger_shutdown()

    def observed(self) -> Observed:
        """What diagnostics are made of."""
        thread = self._thread
        state = "unconfigured" if thread is None else "inactive" if self.inputs is None else "active"
        return Observed(
            state="finalized" if self._finalized else state,
            problem="" if self._problem is None else str(self._problem),
            parameters=self._parameters.snapshot(),
            counts=self.counters.counts(),
            input=None if self.inputs is None else self.inputs.camera.record,
            inference=None if thread is None else thread.record,
            subscribers={} if self._outputs is None else self._outputs.subscribers(),
        )

    def on_configure(self, state: Any) -> Any:
        """Check the parameters, load the bundle, create publishers and inference thread."""
        return self._attempt("configure", self._configure)

    def on_activate(self, state: Any) -> Any:
        """Subscribe to images and CameraInfo."""
        return self._attempt("activate", self._activate)

    def on_deactivate(self, state: Any) -> Any:
        """Unsubscribe, and publish nothing more; the model stays."""
        return self._attempt("deactivate", self._deactivate)

    def on_cleanup(self, state: Any) -> Any:
        """Release all that configuring made."""
        return self._attempt("clean up", self._clean_up)

    def on_shutdown(self, state: Any) -> Any:
        """Release everything, from any state, and log what became of the images."""
        self._finalized = True
        result = self._attempt("shut down", self._release)
        self._logger.info(self.counters.summary())
        return result

    def on_error(self, state: Any) -> Any:
        """Release everything, so that the node can be configured again."""
        result = self._attempt("clean up after the error", self._clean_up)
        # What cannot even be released ends the life of the node, as the state machine has it.
        self._finalized = self._finalized or result != TransitionCallbackReturn.SUCCESS
        return result

    def _attempt(self, what: str, work: Callable[[], None]) -> Any:
        """Do the work of a transition; rclpy would swallow what it raises."""
        try:
            work()
        except SceneCompletionError as error:
            self._problem = error
            self._logger.error(f"cannot {what}: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self._problem = SceneCompletionError(f"{type(error).__name__}: {error}", cure="Please report this")
            self._logger.error(f"cannot {what}: {self._problem}\n{''.join(traceback.format_exception(error))}")
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        parameters = self._parameters.checked()
        bundle = open_student(parameters.bundle)
        self._logger.info(printable(f"student {bundle.name} of {bundle.folder}"))
        if parameters.occupancy_threshold:
            bundle = replace(bundle, threshold=parameters.occupancy_threshold, obstacle_threshold=None)
        grid, grid_from_camera = bundle.grid, bundle.grid_from_camera
        if parameters.grid_file:
            grid, grid_from_camera = read_grid(Path(parameters.grid_file))
        dictionary = Dictionary(bundle, parameters.vocabulary)
        vocabulary = dictionary.vocabulary
        _check_band(parameters)
        names = () if vocabulary is None else vocabulary.vocabulary.legend_names
        _check_ignored(parameters, (*bundle.class_names, *names))
        check_frames(parameters)
        check_engine(bundle, parameters.engine, grid)
        self._grid_from_camera = grid_from_camera
        # From here on whatever fails is an error, after which all that there is by then is released: see `on_error`.
        outputs = self._outputs = Outputs(
            self._node,
            bundle,
            grid,
            None if parameters.grid_frame else grid_from_camera,
            self.counters,
            self._while_configured,
            vocabulary=None if vocabulary is None else vocabulary.vocabulary,
            best_effort=parameters.output_qos == "sensor_data",
        )
        self._while_configured.enter_context(forwarded_log(self._logger))
        thread = InferenceThread(Student(bundle, grid, self._logger), outputs, self.counters, self._logger, vocabulary)
        self._thread = thread
        self._while_configured.callback(thread.close)
        self._words = WordsInput(
            self._node, self._parameters, bundle, dictionary, thread, self.counters, self._while_configured
        )
        self._order = StampOrder()
        self._problem = None
        self._logger.info("inactive: configured")

    def _activate(self) -> None:
        thread = self._thread
        assert thread is not None, "only a configured node is activated"
        self._while_active.callback(thread.end_activation)
        try:
            self.inputs = Inputs(
                self._node,
                self._parameters,
                thread,
                self.counters,
                self._order,
                self._grid_from_camera,
                self._while_active,
            )
        except SceneCompletionError:
            self._while_active.close()
            raise
        self._problem = None

    def _deactivate(self) -> None:
        self.inputs = None
        self._while_active.close()
        self._logger.info(f"inactive: {self.counters.summary()}")

    def _clean_up(self) -> None:
        self._release()
        self._logger.info("unconfigured: the node released everything; configure it again to go on")

    def _release(self) -> None:
        self.inputs, self._thread, self._outputs, self._words = None, None, None, None
        try:
            self._while_active.close()
        finally:
            self._while_configured.close()
        gc.collect()  # the thread and its worker refer to each other, and what they held is large

    def _check_change(self, parameters: NodeParameters) -> None:
        """Raise SceneCompletionError where changed parameters do not fit each other, the bundle or the calibration."""
        if (thread := self._thread) is not None:
            _check_band(parameters)
            ignored = self._parameters.snapshot().obstacle_ignored_classes
            if parameters.obstacle_ignored_classes != ignored:  # not where the vocabulary changed
                _check_ignored(parameters, (*thread.student.bundle.class_names, *thread.class_names))
            check_frames(parameters)
        if self.inputs is not None:
            self.inputs.check(parameters)
        if self._words is not None:
            self._words.check(parameters)


def _check_ignored(parameters: NodeParameters, class_names: tuple[str, ...]) -> None:
    """Every class that is to be ignored is one of the bundle, or of the vocabulary."""
    names = tuple(dict.fromkeys(class_names))
    ignored_labels(parameters.obstacle_ignored_classes, names, where="parameter obstacle.ignored_classes")


def _check_band(parameters: NodeParameters) -> None:
    if parameters.obstacle_min_height > parameters.obstacle_max_height:
        what = f"{parameters.obstacle_min_height} m is above {parameters.obstacle_max_height} m"
        cure = "Take a lowest height below the largest"
        raise SceneCompletionError(what, where="parameters obstacle.min_height, obstacle.max_height", cure=cure)
