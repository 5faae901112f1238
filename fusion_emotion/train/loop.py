"""The trainer: a prepared corpus and a config to checkpoints in a workdir."""

import dataclasses
import functools
import math
import pathlib
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from fusion_emotion import corpora, metrics
from fusion_emotion.corpora.protocols import Part
from fusion_emotion.errors import UserError
from fusion_emotion.input.batches import Source, evaluation_batches, training_batches
from fusion_emotion.input.windows import Windows, split_windows, usable_rows
from fusion_emotion.models.fusion import FusionNet, create_model
from fusion_emotion.models.layers import AXIS
from fusion_emotion.train import devices
from fusion_emotion.train.checkpoint import Checkpoints, score
from fusion_emotion.train.optimizer import create_optimizer, create_schedule
from fusion_emotion.train.step import (
    EvalSums,
    TrainState,
    TrainSums,
    create_state,
    eval_step,
    first_bad_leaf,
    parameter_count,
    train_step,
)
from fusion_emotion.train.writer import MetricsWriter


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a config makes of a prepared corpus, before any step."""

    config: Mapping[str, Any]
    folder: pathlib.Path
    label_names: tuple[str, ...]
    windows: Mapping[Part, Windows]
    set_aside: Counter[str]
    model: FusionNet

    @classmethod
    def create(cls, config: Mapping[str, Any], folder: pathlib.Path) -> "Setup":
        """Read the manifest in `folder`, draw the split and name the model. Raises UserError."""
        devices.check_batch_size(config["train"]["batch_size"])
        names = corpora.label_names(config["data"]["corpus"])
        rows, set_aside = usable_rows(folder, config["model"]["modalities"])
        model = create_model(config["model"], n_classes=len(names), axis_name=AXIS)
        return cls(config, folder, names, split_windows(rows, config["split"]), set_aside, model)

    def source(self, part: Part) -> Source:
        """The windows of a part, with their records."""
        return Source.open(self.folder, self.windows[part])

    def new_state(self, tx: Any) -> TrainState:
        """The state before the first step."""
        example = self.source("train").window(0)
        batch = {name: value[None] for name, value in example.items()}
        return create_state(self.model, tx, batch, seed=self.config["seed"])

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every training window is seen once."""
        return len(self.windows["train"]) / self.config["train"]["batch_size"]

    @property
    def n_steps(self) -> int:
        """Steps of the whole run."""
        return max(1, math.ceil(self.config["train"]["epochs"] * self.steps_per_epoch))

    def optimizer(self) -> Any:
        """The optimizer of the config, with its schedule over the run."""
        schedule = create_schedule(self.config["train"], n_steps=self.n_steps, steps_per_epoch=self.steps_per_epoch)
        return create_optimizer(schedule)


def train(setup: Setup, workdir: pathlib.Path) -> None:
    """Train until the last step, from the newest checkpoint of `workdir` where there is one.

    The order of things: step, log, validate, save, and so again; the state and the input's position are saved
    together, before the input moves on.
    """
    config = setup.config["train"]
    tx = setup.optimizer()
    batches = training_batches(
        setup.source("train"),
        batch_size=config["batch_size"],
        seed=setup.config["seed"],
        # Windows that start anywhere would reach into those that validate.
        random_starts=setup.config["split"]["protocol"] != "random_windows",
    )
    checkpoints = Checkpoints(workdir)
    state = setup.new_state(tx)
    n_parameters = parameter_count(state.params)
    first = checkpoints.latest_step or 0
    if first:
        state = checkpoints.restore_latest(state, batches)
        tqdm.write(f"going on from step {first} of {setup.n_steps}")
    state = devices.replicate(state)
    step_fn = devices.parallel(
        functools.partial(train_step, model=setup.model, tx=tx, seed=setup.config["seed"]), donate_state=True
    )
    validator = Evaluator(setup, "validation")
    validate_every = max(1, round(config["validate_every_epochs"] * setup.steps_per_epoch))
    tqdm.write(f"training {n_parameters:,} parameters for {setup.n_steps - first} steps")

    pending: list[TrainSums] = []
    waited_s, since = 0.0, time.perf_counter()
    with (
        MetricsWriter(workdir, resume_step=first) as writer,
        tqdm(total=setup.n_steps, initial=first, desc="training", unit="step") as bar,
    ):
        for step in range(first + 1, setup.n_steps + 1):
            before = time.perf_counter()
            batch = devices.shard(next(batches))
            waited_s += time.perf_counter() - before
            state, sums = step_fn(state, batch)
            # One step ahead of the device and no more, so that the bar tells the truth.
            if pending:
                jax.block_until_ready(pending[-1])
            pending.append(sums)
            last = step == setup.n_steps
            validating = last or step % validate_every == 0
            if validating or step % config["log_every_steps"] == 0:
                row = _train_row(pending, since, waited_s)
                if not math.isfinite(row["loss"]):
                    raise UserError(_nan_message(step, state))
                writer.write(step, "train", {"epoch": step / setup.steps_per_epoch, **row})
                bar.set_postfix(loss=f"{row['loss']:.3f}", windows_per_s=f"{row['windows_per_s']:.0f}")
                pending, waited_s, since = [], 0.0, time.perf_counter()
            if validating:
                row = validator(state).metrics("validation")
                writer.write(step, "validation", {"epoch": step / setup.steps_per_epoch, **row})
                checkpoints.save(devices.unreplicate(state), batches, {**row, "score": score(row)})
                tqdm.write(
                    f"step {step}: validation UAR {row['validation_uar']:.1%}, loss {row['validation_loss']:.3f}"
                )
                since = time.perf_counter()
            bar.update()
    checkpoints.close()


def _train_row(pending: list[TrainSums], since_s: float, waited_s: float) -> dict[str, float]:
    """The means over the steps since the last row."""
    sums = jax.tree.map(lambda *leaves: float(sum(leaves)), *map(devices.unreplicate, pending))
    # Only now, for fetching the sums has waited for the steps.
    elapsed_s = time.perf_counter() - since_s
    return {
        "loss": sums.loss / sums.count,
        "window_accuracy": sums.correct / sums.count,
        "windows_per_s": sums.count / elapsed_s,
        "input_wait_share": waited_s / elapsed_s,
    }


def _nan_message(step: int, state: TrainState) -> str:
    leaf = first_bad_leaf(state.params)
    where = f"the first parameter to hold one is {leaf}" if leaf else "the parameters are finite"
    return (
        f"the loss is not a number by step {step}; {where}. The checkpoint before is whole: "
        "lower --config.train.learning_rate and train in a new --workdir"
    )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a model says of every window and clip of a part."""

    windows: Windows
    loss: float  # mean over windows
    window_confusion: np.ndarray
    clip_log_prob: np.ndarray  # [clips, C], the mean over a clip's windows

    @property
    def predicted(self) -> np.ndarray:
        """The predicted label of each clip."""
        return self.clip_log_prob.argmax(axis=1)

    @property
    def clip_confusion(self) -> np.ndarray:
        """The confusion matrix of the clips, each counted once."""
        n_classes = self.clip_log_prob.shape[1]
        return metrics.confusion_matrix(self.windows.labels, self.predicted, n_classes)

    def metrics(self, part: str) -> dict[str, float]:
        """Loss, clip-level UAR and WAR and window-level UAR, with the part in their names."""
        return {
            f"{part}_loss": self.loss,
            f"{part}_uar": metrics.uar(self.clip_confusion),
            f"{part}_war": metrics.war(self.clip_confusion),
            f"{part}_window_uar": metrics.uar(self.window_confusion),
        }


class Evaluator:
    """Runs a model over every window of a part; compiled once, called often."""

    def __init__(self, setup: Setup, part: Part):
        self._source = setup.source(part)
        self._batch_size = setup.config["train"]["batch_size"]
        self._step = devices.parallel(
            functools.partial(eval_step, model=setup.model, n_clips=len(self._source.windows.rows))
        )

    def __call__(self, state: TrainState) -> Outcome:
        """The outcome of a replicated state."""
        total: EvalSums | None = None
        for batch in evaluation_batches(self._source, batch_size=self._batch_size):
            sums = devices.unreplicate(self._step(state, devices.shard(batch)))
            total = sums if total is None else jax.tree.map(np.add, total, sums)
        assert total is not None
        return Outcome(
            self._source.windows,
            float(total.loss) / len(self._source.windows),
            total.window_confusion,
            total.clip_log_prob / total.clip_windows[:, None],
        )
