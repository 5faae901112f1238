"""Steps, schedule and step options of a run."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from fusion_emotion.errors import UserError
from fusion_emotion.input.augment import Augmentation
from fusion_emotion.input.segments import Segments
from fusion_emotion.train.optimizer import create_optimizer, create_schedule
from fusion_emotion.train.step import StepOptions


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a config makes of a training part of `n_segments`; steps are of batches.

    Raises UserError if there are fewer steps than make one update.
    """

    config: Mapping[str, Any]
    n_segments: int

    def __post_init__(self) -> None:
        train = self.config["train"]
        if train["accumulate_steps"] > self.n_steps:
            raise UserError(
                f"train.accumulate_steps={train['accumulate_steps']} is more than the {self.n_steps} steps of "
                f"train.epochs={train['epochs']}, so no update would be made: lower it, or train for more epochs"
            )

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every training segment is seen once."""
        return self.n_segments / self.config["train"]["batch_size"]

    @property
    def n_steps(self) -> int:
        """Steps of the whole run."""
        return max(1, math.ceil(self.config["train"]["epochs"] * self.steps_per_epoch))

    @property
    def validate_every_steps(self) -> int:
        """Steps between two validations; each saves a checkpoint."""
        return max(1, round(self.config["train"]["validate_every_epochs"] * self.steps_per_epoch))

    @property
    def keep_every_steps(self) -> int:
        """Steps between checkpoints that are kept; 0: only the newest and the best are."""
        ratio = self.config["run"]["keep_every_epochs"] / self.config["train"]["validate_every_epochs"]
        return self.validate_every_steps * round(ratio)

    @property
    def patience_steps(self) -> float:
        """Steps without a better validation after which the run stops; 0: never."""
        return self.config["train"]["patience_epochs"] * self.steps_per_epoch

    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of the config, with its schedule over the run."""
        train = self.config["train"]
        schedule = create_schedule(train, n_steps=self.n_steps, steps_per_epoch=self.steps_per_epoch)
        return create_optimizer(train, schedule)

    def step_options(self, segments: Segments, *, n_classes: int) -> StepOptions:
        """The options of a step; class weights are inverse to the class's fraction of `segments`, with mean one."""
        train = self.config["train"]
        counts = np.bincount(segments.labels[segments.clip], minlength=n_classes)
        weights = np.divide(counts.sum(), (counts > 0).sum() * counts, out=np.zeros(len(counts)), where=counts > 0)
        return StepOptions(
            seed=self.config["seed"],
            row_steps=self.config["run"]["log_every_steps"],
            augmentation=Augmentation.from_config(self.config),
            label_smoothing=train["label_smoothing"],
            class_weights=tuple(weights.tolist()) if train["class_weights"] else (),
            ema_decay=train["ema_decay"],
        )
