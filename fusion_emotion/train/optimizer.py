"""Names to an optax optimizer."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import optax

from fusion_emotion.errors import UserError, did_you_mean

SCHEDULES = ("cosine", "constant")
FULL_DISK = ("stop", "go_on")


def check_settings(train: Mapping[str, Any]) -> None:
    """Raise UserError for a value of a config's `train` section that cannot be meant."""
    for field, names in (("schedule", SCHEDULES), ("on_full_disk", FULL_DISK)):
        if train[field] not in names:
            raise did_you_mean(f"train.{field}", train[field], names)
    positive = ("batch_size", "epochs", "learning_rate", "validate_every_epochs", "log_every_steps", "accumulate_steps")
    at_least_zero = ("warmup_epochs", "weight_decay", "clip_norm", "keep_every_epochs", "patience_epochs")
    for field in (*positive, *at_least_zero, "resident_gb"):
        low = field not in positive
        if not math.isfinite(train[field]) or train[field] < 0 or (train[field] == 0 and not low):
            raise UserError(
                f"train.{field}={train[field]} is out of range: expected {'0 or more' if low else 'more than 0'}"
            )
    for field in ("label_smoothing", "ema_decay"):
        if not 0 <= train[field] < 1:
            raise UserError(f"train.{field}={train[field]} is out of range: expected 0 to below 1")
    keep, validate = train["keep_every_epochs"], train["validate_every_epochs"]
    if not math.isclose(keep / validate, round(keep / validate)):
        raise UserError(
            f"train.keep_every_epochs={keep} is not a multiple of train.validate_every_epochs={validate}: "
            "checkpoints are saved when the model is validated"
        )


def create_schedule(train: Mapping[str, Any], *, n_steps: int, steps_per_epoch: float) -> optax.Schedule:
    """The learning rate of each update under a config's `train` section; steps are of batches."""
    peak = train["learning_rate"]
    if train["schedule"] == "constant":
        return optax.constant_schedule(peak)
    n_updates = max(1, n_steps // train["accumulate_steps"])
    # A run shorter than its warm-up warms up for half of it.
    warmup = min(round(train["warmup_epochs"] * steps_per_epoch / train["accumulate_steps"]), n_updates // 2)
    return optax.warmup_cosine_decay_schedule(peak / max(warmup, 1), peak, warmup, n_updates)


def create_optimizer(train: Mapping[str, Any], schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015), the original's, and what a config's `train` section adds.

    Weight decay is decoupled (Loshchilov & Hutter 2019) and leaves biases and normalisation alone; clipping is by the
    norm of all gradients; of `accumulate_steps` batches the mean gradient makes one update.
    """
    clip = [optax.clip_by_global_norm(train["clip_norm"])] if train["clip_norm"] else []
    adam = optax.adamw(schedule, weight_decay=train["weight_decay"], mask=_kernels)
    tx = optax.chain(*clip, adam)
    if train["accumulate_steps"] > 1:
        return optax.MultiSteps(tx, train["accumulate_steps"]).gradient_transformation()
    return tx


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
