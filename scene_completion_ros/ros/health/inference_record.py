"""What the inference thread did lately: the state of its model, the time it took, its last result."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scene_completion_ros.ros.health.fusion_record import FusionRecord
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels

TIMES_KEPT = 100  # images over which times are summed up

ModelState = Literal["waiting for a calibration", "building", "ready", "unusable"]


@dataclass(frozen=True)
class StageTime:
    """Milliseconds of one stage over the last `TIMES_KEPT` images."""

    mean: float
    p95: float
    largest: float


@dataclass(frozen=True)
class Result:
    """What an image became.

    Attributes:
        voxels: The completed voxels.
        frame_id: Frame of the image.
    """

    voxels: SemanticVoxels
    frame_id: str


@dataclass(frozen=True)
class ModelReport:
    """The model for the camera.

    Attributes:
        state: What it is doing.
        engine: What runs the encoder; empty where none does.
        error: Why it cannot be used.
        warnings: What about the camera lies outside of what the student was trained for.
    """

    state: ModelState = "waiting for a calibration"
    engine: str = ""
    error: str = ""
    warnings: tuple[str, ...] = ()


class InferenceRecord:
    """Written by the inference thread, read by others.

    Attributes:
        fusion: What became of the map of earlier images.
    """

    def __init__(self) -> None:
        self.fusion = FusionRecord()
        self._lock = threading.Lock()
        self._models: dict[str, ModelReport] = {}
        self._times_ms: deque[Mapping[str, float]] = deque(maxlen=TIMES_KEPT)
        self._result: Result | None = None
        self._result_s: float | None = None

    def model(self, camera: str = "") -> ModelReport:
        """The model of now for a camera, by its name; empty where there is one camera only."""
        with self._lock:
            return self._models.get(camera, ModelReport())

    @property
    def models(self) -> dict[str, ModelReport]:
        """The models of now by the names of their cameras; at least one."""
        with self._lock:
            return dict(self._models) or {"": ModelReport()}

    @property
    def result(self) -> Result | None:
        """The last result that was published; None before the first."""
        with self._lock:
            return self._result

    def result_age_s(self, now_s: float) -> float | None:
        """Seconds between the last result and a moment of `time.perf_counter`; None before the first."""
        with self._lock:
            return None if self._result_s is None else now_s - self._result_s

    def building(self, camera: str = "") -> None:
        """A model is being built for a new calibration of a camera."""
        self._set_model(camera, ModelReport("building"))

    def failed(self, error: str, camera: str = "") -> None:
        """It could not be built."""
        self._set_model(camera, ModelReport("unusable", error=error))

    def ready(self, engine: str, warnings: Sequence[str], camera: str = "") -> None:
        """It was built."""
        self._set_model(camera, ModelReport("ready", engine=engine, warnings=tuple(warnings)))

    def completed(self, result: Result, times_ms: Mapping[str, float]) -> None:
        """An image was completed and published, in these times by stage."""
        with self._lock:
            self._result, self._result_s = result, time.perf_counter()
            self._times_ms.append(dict(times_ms))

    def forget(self) -> None:
        """Forget times and result; the model stays."""
        with self._lock:
            self._times_ms.clear()
            self._result = self._result_s = None

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

    def _set_model(self, camera: str, model: ModelReport) -> None:
        with self._lock:
            self._models[camera] = model
