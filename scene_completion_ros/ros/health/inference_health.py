"""The inference thread, as recorded and as judged: the state of its model, the time it took, its last result."""

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scene_completion_ros.inference.text_bank import Vocabulary
from scene_completion_ros.ros.health.fusion_health import FusionRecord
from scene_completion_ros.ros.health.judgement import Drops, Level, Status, of_camera
from scene_completion_ros.ros.health.words_health import WordsRecord
from scene_completion_ros.ros.student import ModelReport, Student

TIMES_KEPT = 100  # images over which times are summed up
FULL_DETAIL_STAGES = ("latency", "total")  # the stages that the message names


@dataclass(frozen=True)
class StageTime:
    """Milliseconds of one stage over the last `TIMES_KEPT` images."""

    mean: float
    p95: float
    largest: float


class InferenceRecord:
    """Written by the inference thread, read by others.

    `vocabulary`: what labels mean at first; None for the classes of the bundle.
    """

    def __init__(self, student: Student, vocabulary: Vocabulary | None = None) -> None:
        self.fusion = FusionRecord()  # what became of the map of earlier images
        self.words = WordsRecord(vocabulary)  # what voxels are compared with
        self.student = student  # the one that is deployed, whose models are reported
        self._lock = threading.Lock()
        self._times_ms: deque[Mapping[str, float]] = deque(maxlen=TIMES_KEPT)
        self._result_s: float | None = None

    @property
    def models(self) -> dict[str, ModelReport]:
        """The models of now by the names of their cameras; at least one."""
        return self.student.record.models

    def result_age_s(self, now_s: float) -> float | None:
        """Seconds between the last result and a moment of `time.perf_counter`; None before the first."""
        with self._lock:
            return None if self._result_s is None else now_s - self._result_s

    def completed(self, times_ms: Mapping[str, float]) -> None:
        """A scene was completed and published, in these times by stage."""
        with self._lock:
            self._result_s = time.perf_counter()
            self._times_ms.append(dict(times_ms))

    def forget(self) -> None:
        """Forget times; the model stays."""
        with self._lock:
            self._times_ms.clear()
            self._result_s = None

    def times(self) -> dict[str, StageTime]:
        """Times by stage; empty where no image was completed."""
        with self._lock:
            rows = list(self._times_ms)
        stages = rows[-1] if rows else {}
        columns = {stage: np.array([row[stage] for row in rows if stage in row]) for stage in stages}
        return {
            stage: StageTime(float(column.mean()), float(np.percentile(column, 95)), float(column.max()))
            for stage, column in columns.items()
        }


def inference_status(record: InferenceRecord, drops: Drops, *, processed: int, unwanted: int) -> Status:
    """The model, and how long images take. `processed`: images completed since the node started."""
    models, times = record.models, record.times()
    values = {
        "student": record.student.title,
        "images completed": str(processed),
        "images that nobody subscribed to": str(unwanted),
    }
    for camera, model in models.items():
        values |= {of_camera("model", camera): model.state, of_camera("engine", camera): model.engine}
    for stage, time_ms in times.items():
        values[f"{stage} ms"] = f"mean {time_ms.mean:.2f}, p95 {time_ms.p95:.2f}, max {time_ms.largest:.2f}"
    problems = drops.problems(judged_by="inference")
    unusable = {name or "this camera": model.error for name, model in models.items() if model.error}
    errors = [f"images of {name} cannot be completed: {error}" for name, error in unusable.items()]
    if errors:
        return Status("inference", Level.ERROR, "; ".join(errors), values)
    if problems:
        cure = "see the log, and report internal errors"
        message = f"images dropped in the last {drops.recent_s:.0f} s: {problems}; {cure}"
        return Status("inference", Level.ERROR, message, values)
    slowest = [f"{stage} {times[stage].mean:.1f} ms" for stage in FULL_DETAIL_STAGES if stage in times]
    states = [f"{name} {model.state}".strip() for name, model in models.items()]
    return Status("inference", Level.OK, ", ".join([*states, *slowest]), values)
