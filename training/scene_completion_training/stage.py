"""What all stages of training have in common: losses and their weights, steps, rates, and how one resumes."""

import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import lightning
import safetensors.torch
import torch
from lightning.pytorch.callbacks import Timer, WeightAveraging
from torch import Tensor

from scene_completion_ros.errors import TrainingError
from scene_completion_training.configuration import TrainingConfiguration
from scene_completion_training.data.module import TrainingData
from scene_completion_training.randomness import StepGenerator

Batch: TypeAlias = dict[str, Tensor]  # by name, of samples or of their losses


class Average(WeightAveraging):
    """Exponential average of the weights from a step on, which leaves weights that do not learn exactly as they are."""

    def __init__(self, decay: float, begun: Callable[[int], bool]) -> None:
        def moved(average: Tensor, now: Tensor, _: Tensor | int) -> Tensor:
            return average + (1.0 - decay) * (now - average)

        super().__init__(avg_fn=moved)
        self._begun = begun

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After each step, from the first one on that counts."""
        return step_idx is not None and self._begun(step_idx)


class Stage(lightning.LightningModule):
    """Base of all stages: it makes its data and defines its losses."""

    # Keys of its YAML files.
    configuration_class: ClassVar[type[TrainingConfiguration]] = TrainingConfiguration
    field_class: ClassVar[type[Any]]  # network that its checkpoints hold as `field`
    next_command: ClassVar[str]  # what one does with its checkpoint
    settings: Any

    def __init__(self, settings: TrainingConfiguration) -> None:
        super().__init__()
        self.settings = settings
        self._clock = Timer(timedelta(minutes=settings.max_minutes))

    def make_data(self) -> TrainingData:
        """The samples of the whole training."""
        raise NotImplementedError

    def callbacks(self) -> list[lightning.Callback]:
        """Callbacks of this stage alone: the clock and the average of the weights, if its settings have them."""
        settings = self.settings
        found: list[lightning.Callback] = [self._clock] if settings.max_minutes else []
        if getattr(settings, "ema_decay", 0.0):
            found.append(Average(settings.ema_decay, lambda step: self.due(step) >= settings.ema_start))
        return found

    def remembered(self) -> dict[str, Any]:
        """What a checkpoint remembers besides the configuration; a training that resumes has to have the same."""
        return {}

    @classmethod
    def learns_link(cls, configuration: Mapping[str, Any]) -> bool:  # noqa: ARG003
        """Whether a training of a configuration (plain values) trained its `link`."""
        return False

    @classmethod
    def refuse_start(cls, settings: Any) -> None:
        """Raises SceneCompletionError where a new training cannot start from what it names, before data is prepared."""

    def start(self, data: Any) -> None:
        """Gives a new training its first weights; by default those that it was made with."""

    def go_on(self) -> None:
        """Readies it for the weights of a checkpoint of its own training."""

    def generator(self) -> torch.Generator:
        """Everything random in a step derives from seed, step and sample: a resumed training goes on the same."""
        return StepGenerator(self.settings.seed, self.global_step)

    def terms(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Losses of a batch: name -> value."""
        raise NotImplementedError

    def weights(self) -> dict[str, float]:
        """Weight of each loss; by default `losses` of the settings."""
        return dict(vars(self.settings.losses))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """One step. Raises TrainingError where the loss is not finite; the batch is saved for inspection."""
        terms = self._computed(batch, self.generator())
        total = self._total(terms)
        if not torch.isfinite(total):
            values = ", ".join(f"{name} {value.item():.4g}" for name, value in terms.items())
            file = Path(self.trainer.default_root_dir) / f"batch_of_step_{self.global_step}.safetensors"
            file.parent.mkdir(parents=True, exist_ok=True)
            safetensors.torch.save_file({name: value.contiguous().cpu() for name, value in batch.items()}, file)
            cure = f"Look at the batch saved in {file}; lower the learning rate if its values are sound"
            raise TrainingError(f"loss is {total.item()} ({values})", where=f"step {self.global_step}", cure=cure)
        self.log_dict({f"loss/{name}": value for name, value in terms.items()})
        self.log("loss/total", total)
        return total

    def _computed(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The losses; a stage may compute them in other precisions."""
        return self.terms(batch, generator)

    def _total(self, terms: Batch) -> Tensor:
        weights = self.weights()
        return torch.stack([weights[name] * value for name, value in terms.items()]).sum()

    def scheduled(self, optimiser: torch.optim.Optimizer, factor: Callable[[int], float]) -> Any:
        """An optimiser whose rate has a factor for each step that is `due`, as Lightning takes it."""
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: factor(self.due(step)))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def due(self, step: int) -> int:
        """A step; or a later one, if the clock is there already: as many steps as `max_minutes` have passed in part."""
        if not self.settings.max_minutes:
            return step
        passed = self._clock.time_elapsed() / (60.0 * self.settings.max_minutes)
        return max(step, int(min(1.0, passed) * self.settings.steps))

    def warmed_cosine(self, step: int) -> float:
        """Factor on the learning rate: linear over the warm-up, then a cosine to zero over the rest of the steps."""
        settings = self.settings
        if step < settings.warmup:
            return float((step + 1) / settings.warmup)
        progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
        return 0.5 + 0.5 * math.cos(min(1.0, float(progress)) * math.pi)
