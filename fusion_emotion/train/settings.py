"""What a config may say of training; read before anything is prepared, and so without JAX."""

import math
from collections.abc import Mapping
from typing import Any

from fusion_emotion.errors import UserError, did_you_mean

SCHEDULES = ("cosine", "constant")
FULL_DISK = ("stop", "go_on")


def check(config: Mapping[str, Any]) -> None:
    """Raise UserError for a value of a config's `train` or `profile` section that cannot be meant."""
    train = config["train"]
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
    steps = config["profile"]["steps"]
    if steps and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
        raise UserError(
            f"profile.steps={tuple(steps)} is not the first and the last step to trace, for example (10, 20)"
        )
