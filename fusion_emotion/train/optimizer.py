"""Names to an optax optimizer."""

from collections.abc import Mapping
from typing import Any

import optax

from fusion_emotion.errors import did_you_mean

SCHEDULES = ("cosine", "constant")


def create_schedule(config: Mapping[str, Any], *, n_steps: int, steps_per_epoch: float) -> optax.Schedule:
    """The learning rate of each step under a config's `train` section."""
    if config["schedule"] not in SCHEDULES:
        raise did_you_mean("train.schedule", config["schedule"], SCHEDULES)
    peak = config["learning_rate"]
    if config["schedule"] == "constant":
        return optax.constant_schedule(peak)
    # A run shorter than its warm-up warms up for half of it.
    warmup = min(round(config["warmup_epochs"] * steps_per_epoch), n_steps // 2)
    return optax.warmup_cosine_decay_schedule(peak / max(warmup, 1), peak, warmup, n_steps)


def create_optimizer(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015), the original's."""
    return optax.adam(schedule)
