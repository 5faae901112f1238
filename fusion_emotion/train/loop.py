"""The trainer: a prepared corpus and a config to checkpoints in a workdir."""

import dataclasses
import functools
import math
import pathlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from fusion_emotion import corpora
from fusion_emotion.corpora.protocols import Part
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import metrics
from fusion_emotion.input import resident
from fusion_emotion.input.augment import Augmentation, check_share
from fusion_emotion.input.batches import Batch, Source, evaluation_batches, training_batches
from fusion_emotion.input.segments import WINDOW_SAMPLES, Windows, split_windows, usable_rows
from fusion_emotion.models.frontend import mel_shape
from fusion_emotion.models.fusion import FusionNet, create_model
from fusion_emotion.models.layers import AXIS
from fusion_emotion.train import devices, settings
from fusion_emotion.train.checkpoint import NOT_VALIDATED, Checkpoints, score
from fusion_emotion.train.optimizer import create_optimizer, create_schedule
from fusion_emotion.train.step import (
    EvalSums,
    Recipe,
    TrainState,
    create_state,
    eval_step,
    leaf_names,
    parameter_table,
    train_step,
)
from fusion_emotion.train.watch import NotFinite, Profile, Signals, Watcher
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
        settings.check(config)
        devices.check_batch_size(config["train"]["batch_size"])
        check_share(Augmentation.from_config(config), config["train"]["batch_size"] // jax.device_count())
        names = corpora.label_names(config["data"]["corpus"])
        rows, set_aside = usable_rows(folder, config["model"]["modalities"])
        model = create_model(config["model"], n_classes=len(names), axis_name=AXIS)
        return cls(config, folder, names, split_windows(rows, config["split"]), set_aside, model)

    def source(self, part: Part) -> Source:
        """The windows of a part, with their records."""
        return Source.open(self.folder, self.windows[part])

    def corpus(self, source: Source) -> Any:
        """A source's records on each device, or None where they are read from disk batch by batch."""
        rows = [row for windows in self.windows.values() for row in windows.rows]
        size = resident.size_bytes(rows, self.config["prepare"]["face_size"])
        too_large = size > 1e9 * self.config["train"]["resident_gb"] or not resident.can_be_indexed(rows)
        if too_large or not len(source.windows):
            return None
        return devices.replicate(resident.load(source))

    def new_state(self, tx: Any) -> TrainState:
        """The state before the first step."""
        batch = {name: value[None] for name, value in self.source("train").window(0).items()}
        averaged = self.config["train"]["ema_decay"] > 0
        return create_state(self.model, tx, batch, seed=self.config["seed"], averaged=averaged)

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every training window is seen once."""
        return len(self.windows["train"]) / self.config["train"]["batch_size"]

    @property
    def n_steps(self) -> int:
        """Steps of the whole run."""
        return max(1, math.ceil(self.config["train"]["epochs"] * self.steps_per_epoch))

    @property
    def validate_every_steps(self) -> int:
        """Steps between two validations, each of which saves a checkpoint."""
        return max(1, round(self.config["train"]["validate_every_epochs"] * self.steps_per_epoch))

    @property
    def recipe(self) -> Recipe:
        """What a step does beside the model and the optimizer."""
        train = self.config["train"]
        windows = self.windows["train"]
        counts = np.bincount(windows.labels[windows.clip], minlength=len(self.label_names))
        # Inverse to a class's share of the training windows, with a mean of one over these.
        weights = np.divide(counts.sum(), (counts > 0).sum() * counts, out=np.zeros(len(counts)), where=counts > 0)
        return Recipe(
            seed=self.config["seed"],
            row_steps=train["log_every_steps"],
            mel_shape=mel_shape(WINDOW_SAMPLES, **self.config["model"]["mfcc"]),
            augmentation=Augmentation.from_config(self.config),
            label_smoothing=train["label_smoothing"],
            class_weights=tuple(weights.tolist()) if train["class_weights"] else (),
            ema_decay=train["ema_decay"],
        )

    def optimizer(self) -> Any:
        """The optimizer of the config, with its schedule over the run."""
        schedule = create_schedule(self.config["train"], n_steps=self.n_steps, steps_per_epoch=self.steps_per_epoch)
        return create_optimizer(self.config["train"], schedule)


def train(setup: Setup, workdir: pathlib.Path) -> None:
    """Train until the last step, from the newest checkpoint of `workdir` where there is one.

    The order of things: step, look at the step before, validate, save, and so again. The state and the input's position
    are saved together, before the input moves on. Raises Stopped once a signal's state is saved, and UserError.
    """
    config = setup.config["train"]
    every = setup.validate_every_steps
    keep = every * round(config["keep_every_epochs"] / config["validate_every_epochs"])
    checkpoints = Checkpoints(workdir, writes=True, keep_every_steps=keep)
    first = checkpoints.latest_step
    if first >= setup.n_steps or _out_of_patience(setup, checkpoints):
        checkpoints.close()
        return

    source = setup.source("train")
    corpus = setup.corpus(source)
    batches = training_batches(
        source,
        batch_size=config["batch_size"],
        seed=setup.config["seed"],
        # Windows that start anywhere would reach into those that validate.
        random_starts=setup.config["split"]["protocol"] != "random_windows",
        share=devices.share(config["batch_size"]),
        media=corpus is None,
    )
    tx = setup.optimizer()
    state = setup.new_state(tx)
    print(f"parameters\n{parameter_table(state.params)}")
    if first:
        state = checkpoints.restore_latest(state, batches)
        print(f"going on from step {first} of {setup.n_steps}")
    names = leaf_names(state.params)
    state = devices.replicate(state)
    step_fn = devices.parallel(
        functools.partial(train_step, model=setup.model, tx=tx, recipe=setup.recipe), donate_state=True
    )
    validator = Evaluator(setup, "validation")

    with (
        Signals() as signals,
        MetricsWriter(workdir, resume_step=first, writes=devices.leads()) as writer,
        tqdm(total=setup.n_steps, initial=first, desc="training", unit="step", disable=not devices.leads()) as bar,
        Profile(workdir / "profile", setup.config["profile"]["steps"]) as profile,
    ):
        watcher = Watcher(setup.config["train"], setup.steps_per_epoch, writer=writer, bar=bar)
        for step in range(first + 1, setup.n_steps + 1):
            before = time.perf_counter()
            batch = next(batches)
            sharded = _sharded(batch, stop=signals.received)
            watcher.waited(time.perf_counter() - before)
            if step == first + 1:
                step_fn, compile_s = devices.compiled(step_fn, state, sharded, corpus)
                validator_s = validator.warm_up(state)
                tqdm.write(f"compiled   the training step in {compile_s:.1f} s, the evaluation in {validator_s:.1f} s")
                writer.strips(step, "train", source.with_media({k: v[:8] for k, v in batch.items()})["strip"])
                watcher.resume()
            profile.before(step)
            state, report = step_fn(state, sharded, corpus)
            profile.after(step, state)
            # One step ahead of the device and no more, so that the bar tells the truth.
            try:
                stopping = watcher.look(step, report, batch)
                validating = step % every == 0 or step == setup.n_steps
                if stopping or validating:
                    stopping = watcher.look_at_all() or stopping
            except NotFinite as bad:
                raise UserError(_not_finite(bad, workdir, source, names)) from bad
            if stopping or validating:
                row: dict[str, float] = {}
                if validating:
                    outcome = validator(state)
                    row = outcome.metrics("validation")
                    watcher.validated(step, row)
                    writer.confusion(step, "validation", outcome.clip_confusion, setup.label_names)
                try:
                    checkpoints.save(
                        devices.unreplicate(state), batches, {**row, "score": score(row) if row else NOT_VALIDATED}
                    )
                except UserError as error:
                    if config["on_full_disk"] == "stop" or stopping or step == setup.n_steps:
                        raise
                    tqdm.write(f"warning: {error}")
                watcher.resume()
            bar.update()
            if stopping:
                break
            if validating and _out_of_patience(setup, checkpoints):
                tqdm.write(f"stopping early: the best validation is still that of step {checkpoints.best_step}")
                break
        # The last validation may have taken a signal, which no step then told the other processes of.
        stopping = devices.any_process(bool(signals.received) or stopping)
    checkpoints.close()
    if stopping:
        raise signals.stopped(step, setup.n_steps)


def _out_of_patience(setup: Setup, checkpoints: Checkpoints) -> bool:
    """Whether the best validation is longer ago than the config waits; asked of validated checkpoints alone."""
    patience = setup.config["train"]["patience_epochs"] * setup.steps_per_epoch
    best, latest = checkpoints.best_step, checkpoints.latest_step
    return bool(patience and best) and checkpoints.is_validated(latest) and latest - best >= patience


def _not_finite(bad: NotFinite, workdir: pathlib.Path, source: Source, names: list[str]) -> str:
    """Keep the batch of a step that gave no number, and say what is known."""
    path = workdir / f"bad_batch_step_{bad.step}_process_{jax.process_index()}.npz"
    try:
        np.savez(path, **(bad.batch if "strip" in bad.batch else source.with_media(bad.batch)))
        kept = f"Its batch is in {path}"
    except OSError as error:
        kept = f"Its batch cannot be written to {path} ({error.strerror})"
    leaves = [name for name, finite in zip(names, bad.finite, strict=False) if not finite]
    where = f"the first gradient that is not finite is that of {leaves[0]}" if leaves else "the gradients are finite"
    return (
        f"the loss is not a number at step {bad.step}; {where}. {kept}; no checkpoint holds what came of it: lower "
        "--config.train.learning_rate or set --config.train.clip_norm, and train in a new --workdir"
    )


def _sharded(batch: Batch, *, stop: int) -> Batch:
    """A process's share over its devices, with the word to all others that it was told to stop."""
    return devices.shard({**batch, "stop": np.full(len(batch["label"]), bool(stop))})


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
        self._corpus = setup.corpus(self._source)
        self._batch_size = setup.config["train"]["batch_size"]
        self._step = devices.parallel(
            functools.partial(eval_step, model=setup.model, n_clips=len(self._source.windows.rows))
        )

    def warm_up(self, state: TrainState) -> float:
        """Compile, by evaluating a batch; the seconds it took."""
        began = time.perf_counter()
        batch = next(self._batches(self._source, media=self._corpus is None))
        jax.block_until_ready(self._step(state, devices.shard(batch), self._corpus))
        return time.perf_counter() - began

    def __call__(self, state: TrainState, source: Source | None = None) -> Outcome:
        """The outcome of a replicated state; a `source` of the same windows, changed ones, is read from disk."""
        corpus = self._corpus if source is None else None
        total: EvalSums | None = None
        for batch in self._batches(source or self._source, media=corpus is None):
            sums = devices.unreplicate(self._step(state, devices.shard(batch), corpus))
            total = sums if total is None else jax.tree.map(np.add, total, sums)
        assert total is not None
        return Outcome(
            self._source.windows,
            float(total.loss) / len(self._source.windows),
            total.window_confusion,
            total.clip_log_prob / total.clip_windows[:, None],
        )

    def _batches(self, source: Source, *, media: bool) -> Iterator[Batch]:
        share = devices.share(self._batch_size)
        return evaluation_batches(source, batch_size=self._batch_size, share=share, media=media)
