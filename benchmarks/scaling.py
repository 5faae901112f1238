"""Simulated scaling: the same global batch on 1 to 8 devices of this CPU, and the bytes that a step reduces over them.

PYTHONPATH=. python benchmarks/scaling.py

The devices share the cores: nothing gets faster, and the growth with their number is the cost of dividing.
"""

import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor

from turns import timed

BATCH = 64
STEPS = 12


def _measure() -> tuple[float, int, int]:
    import jax
    import train_step

    config = train_step.config_of("configs/ravdess.py")
    step, params, _ = train_step.ours(config, BATCH)
    times = timed(step, times=STEPS)
    gradients = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    # Forward, each normalisation adds up sums, counts and squares; backward, the two gradients of these.
    channels = sum(
        layer["scale"].size
        for branch in params.values()
        for name, layer in branch.items()
        if name.startswith("BatchNorm")
    )
    return statistics.median(times[2:]), gradients, 4 * 4 * channels


def main() -> None:
    """Print the table."""
    context = multiprocessing.get_context("spawn")
    print(f"configs/ravdess.py, global batch {BATCH}, {multiprocessing.cpu_count()} cores for all devices together")
    print("  devices  segments each  ms a step  reduced by each device a step")
    for n in (1, 2, 4, 8):
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={n}"
        with ProcessPoolExecutor(1, mp_context=context) as process:
            step_ms, gradients, sums = process.submit(_measure).result()
        # A ring: each device sends and receives 2 (n - 1) / n of what is reduced.
        reduced = 2 * (n - 1) / n * (gradients + sums)
        total = f"{reduced / 1e6:>6.2f} MB of {(gradients + sums) / 1e6:.2f} MB"
        print(f"  {n:>7}  {BATCH // n:>12}  {step_ms:>9.0f}  {total}")


if __name__ == "__main__":
    main()
