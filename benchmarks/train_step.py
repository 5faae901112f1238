"""The time of a training step beside PyTorch's: MFCC, forward, backward and update, on segments of noise.

pip install -r benchmarks/requirements.txt
PYTHONPATH=. python benchmarks/train_step.py

Both sides train the same network (the logits of the same parameters are compared first), on the same cores, each in a
process of its own as its users run it, a few steps each in turn. PyTorch is timed once more in a process that keeps its
memory as this project's trainer does (`kept.keep_memory`). Also: peak memory, compilation with and without a cache,
and the trainer against its steps.
"""

import functools
import multiprocessing
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
from turns import in_turn, timed

from configs import faces, original, ravdess, voice
from fusion_emotion.config import defaults
from fusion_emotion.train import devices, kept

NETWORKS: dict[str, ModuleType] = {
    f"configs/{m.__name__.split('.')[-1]}.py": m for m in (ravdess, original, voice, faces)
}
ROUNDS = 8
STEPS = 2  # of one side before it is the other's turn
Step = Callable[[], None]


def config_of(network: str) -> dict[str, Any]:
    """The configuration of a file, without augmentation, and without descriptors, which take no part in a step."""
    config: dict[str, Any] = NETWORKS[network].get_config().to_dict()
    config["augment"] = defaults().to_dict()["augment"]
    config["model"]["descriptors"]["share"] = 0.0
    return config


def ours(config: Mapping[str, Any], size: int) -> tuple[Step, Any, float]:
    """A step of this project's trainer, the parameters it starts from, and the seconds its compilation took."""
    import jax

    from fusion_emotion.input.augment import Augmentation
    from fusion_emotion.models.batch import batch_spec, noise
    from fusion_emotion.models.create import create_model
    from fusion_emotion.train.optimizer import create_optimizer, create_schedule
    from fusion_emotion.train.step import StepOptions, create_state, train_step

    model = create_model(config, n_classes=8, axis_name=devices.AXIS)
    tx = create_optimizer(config["train"], create_schedule(config["train"], n_steps=1000, steps_per_epoch=60))
    options = StepOptions(seed=0, row_steps=10, augmentation=Augmentation())
    spec = batch_spec(config, batch_size=size)
    state = create_state(model, tx, spec, seed=0)
    params = jax.tree.map(np.asarray, state.params)
    batch = devices.shard({**noise(spec, n_classes=8), "stop": np.zeros(size, bool)})
    states = [devices.replicate(state)]
    step = functools.partial(train_step, model=model, tx=tx, options=options, pad_to=spec["faces"].shape[1])
    compiled, compile_s = devices.compile_for(devices.pmapped(step, donate_state=True), states[0], batch, None)

    def run() -> None:
        states[0], report = compiled(states[0], batch, None)
        jax.block_until_ready((states[0], report))

    return run, params, compile_s


def pytorchs(config: Mapping[str, Any], size: int, params: Any = None) -> Step:
    """The same step in PyTorch; given parameters of ours, the logits are compared first."""
    import torch
    from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it
    from torch_model import Fusion, with_parameters

    from fusion_emotion.models.batch import batch_spec, noise
    from fusion_emotion.models.strip import strip_of

    torch.set_num_threads(multiprocessing.cpu_count())
    model = Fusion(config).to(memory_format=torch.channels_last)
    batch = noise(batch_spec(config, batch_size=size), n_classes=8)
    strip, waveform = torch.from_numpy(strip_of(batch["faces"])), torch.from_numpy(batch["waveform"])
    label = torch.from_numpy(batch["label"].astype(np.int64))
    if params is not None:
        from fusion_emotion.models.create import create_model

        expected = create_model(config, n_classes=8).apply(
            {"params": params, "batch_stats": _untrained(params)}, batch, train=False
        )
        with torch.no_grad():
            found = with_parameters(model, params).eval()(strip, waveform).numpy()
        np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-3, atol=1e-3)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(strip, waveform), label).backward()
        optimizer.step()

    return run


def _untrained(params: Any) -> Any:
    """The running statistics before the first step."""
    return {
        branch: {
            name: {"mean": np.zeros_like(layer["bias"]), "var": np.ones_like(layer["bias"])}
            for name, layer in layers.items()
            if name.startswith("BatchNorm")
        }
        for branch, layers in params.items()
        if branch in ("audio", "video")
    }


class Process:
    """One side's step in a process of its own."""

    def __init__(self, side: str, network: str, size: int, *, keep_memory: bool, cache: str = ""):
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        self.params, self.compile_s = self._pool.submit(_begin, side, network, size, keep_memory, cache).result()

    def times(self) -> list[float]:
        """The milliseconds of a few steps."""
        return self._pool.submit(_times).result()

    def peak_mb(self) -> float:
        """The most memory that the process has had."""
        return self._pool.submit(_peak_mb).result()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


_steps: list[Step] = []  # of a `Process`: its one


def _begin(side: str, network: str, size: int, keep_memory: bool, cache: str) -> tuple[Any, float]:
    if keep_memory:
        kept.keep_memory()
    if cache:
        kept.keep_compiled(pathlib.Path(cache))
    params, compile_s = None, float("nan")
    if side == "ours":
        step, params, compile_s = ours(config_of(network), size)
    else:
        step = pytorchs(config_of(network), size)
    _steps.append(step)
    return params, compile_s


def _times() -> list[float]:
    return timed(_steps[0], times=STEPS)


def _peak_mb() -> float:
    return int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1e3


def trainer_against_steps() -> str:
    """The trainer on the prepared sample corpus: its time for a step, and a step's own."""
    from configs import sample
    from fusion_emotion import commands
    from fusion_emotion.train.plan import Plan
    from fusion_emotion.train.writer import read_metrics

    config = sample.get_config().to_dict()
    config["train"]["epochs"], config["run"]["log_every_steps"] = 20, 5
    size = config["train"]["batch_size"]
    alone = functools.partial(timed, ours(config, size)[0], times=STEPS)
    before_ms = in_turn({"step": alone}, rounds=ROUNDS)["step"]
    with tempfile.TemporaryDirectory() as workdir:
        job = commands.open_job(config, pathlib.Path(workdir))
        commands.train_job(job)
        rows = [row for row in read_metrics(job.workdir) if row["part"] == "train"][1:]
    alone_ms = (before_ms + in_turn({"step": alone}, rounds=ROUNDS)["step"]) / 2
    within_ms = statistics.median(1e3 * size / row["segments_per_s"] for row in rows)
    whole_s = rows[-1]["seconds"] - rows[0]["seconds"]
    other_s = whole_s - 1e-3 * within_ms * (rows[-1]["step"] - rows[0]["step"])
    waited = statistics.mean(row["input_wait_share"] for row in rows)
    every = Plan(config, len(job.data.parts["train"])).validate_every_steps
    n_validations = (rows[-1]["step"] - rows[0]["step"]) // every
    return (
        f"sample corpus, batch {size}: {within_ms:.0f} ms a step in the trainer, {alone_ms:.0f} ms alone "
        f"({within_ms / alone_ms - 1:+.1%});\nwaiting for input {waited:.2%} of the time; validation and checkpoint, "
        f"every {every} steps: {other_s / max(1, n_validations):.1f} s"
    )


def against_pytorch(network: str, size: int) -> dict[str, float]:
    """The milliseconds of a step here, in PyTorch, and in PyTorch with this project's way to keep memory."""
    sides = {
        "ours": Process("ours", network, size, keep_memory=True),
        "pytorch": Process("pytorch", network, size, keep_memory=False),
        "keeping": Process("pytorch", network, size, keep_memory=True),
    }
    pytorchs(config_of(network), size, sides["ours"].params)
    found = in_turn({name: side.times for name, side in sides.items()}, rounds=ROUNDS)
    for side in sides.values():
        side.close()
    return found


def memory_and_compilation(network: str) -> str:
    """Peaks of memory over a few steps of batch 64, and compilation without and with a warm cache."""
    peaks, seconds = [], []
    with tempfile.TemporaryDirectory() as cache:
        for side in ("ours", "ours", "pytorch"):
            process = Process(side, network, 64, keep_memory=side == "ours", cache=cache)
            process.times()
            process.times()
            peaks.append(process.peak_mb())
            seconds.append(process.compile_s)
            process.close()
    cold_s, warm_s, _ = seconds
    return f"{peaks[0]:5.0f} MB (PyTorch {peaks[2]:.0f} MB)  compiled in {cold_s:4.1f} s cold, {warm_s:4.1f} s warm"


def main() -> None:
    """Print the tables."""
    kept.keep_memory()
    print("a training step, median ms (ours : PyTorch), and our examples per second as a share of PyTorch's")
    own: dict[str, dict[str, float]] = {}
    sizes = {name: int(config_of(name)["train"]["batch_size"]) for name in NETWORKS}
    for network, size in (*sizes.items(), *(("configs/ravdess.py", size) for size in (16, 256))):
        found = against_pytorch(network, size)
        if size == sizes[network]:
            own[network] = {name: size / milliseconds * 1e3 for name, milliseconds in found.items()}
        print(
            f"  {network:<20} batch {size:>3}  {found['ours']:6.0f} : {found['pytorch']:<6.0f}"
            f"  {size / found['ours'] * 1e3:5.0f} segments/s  share {found['pytorch'] / found['ours']:.2f}"
            f"  (PyTorch keeping its memory: {found['keeping']:.0f} ms, share {found['keeping'] / found['ours']:.2f})",
            flush=True,
        )
    here, original = own["configs/ravdess.py"]["ours"], own["configs/original.py"]["pytorch"]
    print(
        f"an epoch of configs/ravdess.py here: {here:.0f} segments/s, {here / original:.2f} times the speed of the "
        f"original's network in PyTorch ({original:.0f} segments/s)"
    )
    print("\npeak memory and compilation, batch 64")
    for network in NETWORKS:
        print(f"  {network:<20} {memory_and_compilation(network)}", flush=True)
    print(f"\n{trainer_against_steps()}")


if __name__ == "__main__":
    main()
