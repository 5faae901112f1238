"""The time of a training step: MFCC, forward, backward and update, on random windows of the default shapes.

python benchmarks/train_step.py
"""

import functools
import statistics
import time

import jax
import numpy as np

from configs import original, ravdess
from fusion_emotion.input.batches import Batch
from fusion_emotion.models.fusion import create_model
from fusion_emotion.models.layers import AXIS
from fusion_emotion.train import devices
from fusion_emotion.train.optimizer import create_optimizer, create_schedule
from fusion_emotion.train.step import create_state, parameter_count, train_step

ROUNDS = 15


def random_batch(size: int, *, face_size: int) -> Batch:
    """Windows of noise."""
    rng = np.random.default_rng(0)
    return {
        "strip": rng.integers(0, 256, (size, face_size, 5 * face_size, 3), np.uint8),
        "waveform": rng.integers(-3000, 3000, (size, 16_000), np.int16),
        "label": rng.integers(0, 8, size, np.int32),
        "has_video": np.ones(size, bool),
        "has_audio": np.ones(size, bool),
        "mask": np.ones(size, bool),
        "clip": np.zeros(size, np.int32),
    }


def main() -> None:
    """Print milliseconds a step and windows per second of each network."""
    for name, module in (("configs/ravdess.py", ravdess), ("configs/original.py", original)):
        config = module.get_config().to_dict()
        model = create_model(config["model"], n_classes=8, axis_name=AXIS)
        tx = create_optimizer(create_schedule(config["train"], n_steps=1000, steps_per_epoch=60))
        size = config["train"]["batch_size"]
        batch = random_batch(size, face_size=config["prepare"]["face_size"])
        state = create_state(model, tx, batch, seed=0)
        count = parameter_count(state.params)
        state = devices.replicate(state)
        step = devices.parallel(functools.partial(train_step, model=model, tx=tx, seed=0), donate_state=True)
        began = time.perf_counter()
        state, sums = step(state, devices.shard(batch))
        jax.block_until_ready(sums)
        compile_s = time.perf_counter() - began
        seconds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            state, sums = step(state, devices.shard(batch))
            jax.block_until_ready((state, sums))
            seconds.append(time.perf_counter() - began)
        median_s = statistics.median(seconds)
        print(
            f"{name:<20} {count:>9,} parameters  batch {size}  {1e3 * median_s:6.0f} ms/step  "
            f"{size / median_s:6.0f} windows/s  first step {compile_s:.1f} s"
        )


if __name__ == "__main__":
    main()
