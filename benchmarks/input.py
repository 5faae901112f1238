"""The input by itself: segments per second read from records on one thread, and cut on the device.

PYTHONPATH=. python benchmarks/input.py

On the prepared sample corpus, for configs/ravdess.py's batch.
"""

import pathlib
import statistics
import tempfile
from collections.abc import Callable

import jax
import numpy as np
from turns import timed

from configs import sample
from fusion_emotion import commands
from fusion_emotion.input import resident
from fusion_emotion.input.batches import training_batches
from fusion_emotion.train.writer import read_metrics

ROUNDS = 30


def median_ms(function: Callable[[], object]) -> float:
    """The median milliseconds of a call, after a few that warm up."""
    return statistics.median(timed(lambda: jax.block_until_ready(function()), times=ROUNDS)[3:])


def trained(config: dict, resident_gb: float) -> tuple[float, float]:
    """Milliseconds of a step within the trainer, and the fraction of its time spent waiting for input."""
    config["train"] |= {"epochs": 14, "validate_every_epochs": 14}
    config["run"] |= {"log_every_steps": 5, "resident_gb": resident_gb}
    with tempfile.TemporaryDirectory() as workdir:
        job = commands.open_job(config, pathlib.Path(workdir))
        commands.train_job(job)
        rows = [row for row in read_metrics(job.workdir) if row["part"] == "train"][1:-1]
    size = config["train"]["batch_size"]
    return (
        statistics.median(1e3 * size / row["segments_per_s"] for row in rows),
        statistics.mean(row["input_wait_share"] for row in rows),
    )


def main() -> None:
    """Print the rates."""
    config = sample.get_config().to_dict()
    job = commands.open_job(config, pathlib.Path("none"))
    source, size = job.data.source("train"), config["train"]["batch_size"]
    picked = next(training_batches(source, batch_size=size, seed=0, media=False))
    read_ms = median_ms(lambda: source.with_media(picked))
    batches = training_batches(source, batch_size=size, seed=0, media=False)
    pick_ms = median_ms(lambda: next(batches))
    records = jax.device_put(resident.load(source))
    cut = jax.jit(resident.with_media, static_argnames="pad_to")
    cut_ms = median_ms(lambda: cut(records, picked, pad_to=int(picked["pad_to"][0])))
    sent = sum(np.asarray(value).nbytes for value in source.with_media(picked).values())
    print(f"batches of {size} segments of configs/sample.py, {jax.devices()[0].device_kind}:")
    print(f"  read from records, one thread   {read_ms:6.1f} ms   {1e3 * size / read_ms:8.0f} segments/s")
    print(f"  picked alone, one thread        {pick_ms:6.1f} ms   {1e3 * size / pick_ms:8.0f} segments/s")
    print(f"  cut on the device               {cut_ms:6.1f} ms   {1e3 * size / cut_ms:8.0f} segments/s")
    picked_bytes = sum(value.nbytes for value in picked.values())
    print(f"  a batch that travels is {sent / 1e6:.1f} MB, one that is picked {picked_bytes} bytes")
    for name, gigabytes in (
        ("read as it goes", 0.0),
        ("on the device", 4.0),
        ("read as it goes", 0.0),
        ("on the device", 4.0),
    ):
        step_ms, waited = trained(config, gigabytes)
        print(f"  trained, records {name:<16} {step_ms:6.1f} ms a step, {waited:.2%} of it waiting for input")


if __name__ == "__main__":
    main()
