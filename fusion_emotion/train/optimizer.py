"""Names to an optax optimizer."""

from collections.abc import Mapping
from typing import Any

import jax
import optax


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
