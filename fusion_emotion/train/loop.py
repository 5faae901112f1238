"""The training loop: from data and a plan to checkpoints in a workdir."""

import dataclasses
import functools
import pathlib
import time
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from tqdm import tqdm

from fusion_emotion.errors import UserError
from fusion_emotion.input.batches import Source, training_batches
from fusion_emotion.input.data import Data
from fusion_emotion.models.batch import Batch, batch_spec
from fusion_emotion.models.fusion import FusionNet
from fusion_emotion.models.weights import with_loaded_parts
from fusion_emotion.progress import bar
from fusion_emotion.train import devices
from fusion_emotion.train.checkpoint import NOT_VALIDATED, Checkpoints, score
from fusion_emotion.train.fit import with_fitted_descriptors
from fusion_emotion.train.plan import Plan
from fusion_emotion.train.step import create_state, leaf_names, parameter_table, train_step
from fusion_emotion.train.watch import NotFinite, Profile, Signals, Watcher
from fusion_emotion.train.writer import MetricsWriter


@runtime_checkable
class Validator(Protocol):
    """Evaluates replicated variables on the validation part, as `evaluate.evaluator.Evaluator` does."""

    def warm_up(self, variables: Any) -> float:
        """Compile; return the seconds it took."""

    def __call__(self, variables: Any) -> Any:
        """Return answers with `metrics(part)` and `confusion`."""


def train(model: FusionNet, data: Data, plan: Plan, workdir: pathlib.Path, validate: Validator) -> None:
    """Train until the last step, from the newest checkpoint of `workdir` if there is one.

    Raises Stopped once a signal's state is saved, and UserError.
    """
    config, every = plan.config, plan.validate_every_steps
    checkpoints = Checkpoints(workdir, writes=True, keep_every_steps=plan.keep_every_steps)
    first = checkpoints.latest_step
    if first >= plan.n_steps or checkpoints.out_of_patience(plan.patience_steps):
        checkpoints.close()
        return

    batch_size = config["train"]["batch_size"]
    source = data.source("train")
    records = devices.resident_copy(
        source, face_size=config["prepare"]["face_size"], max_gb=config["run"]["resident_gb"]
    )
    local = devices.local_slice(batch_size)
    weights = dict(zip(config["data"]["corpora"], config["data"]["weights"], strict=False))
    batches = training_batches(
        source, batch_size=batch_size, seed=config["seed"], local=local, media=records is None, weights=weights
    )

    # The initial state: 1. from the newest checkpoint; 2. with loaded parts of other models; 3. from scratch.
    tx = plan.optimizer()
    averaged = config["train"]["ema_decay"] > 0
    state = create_state(model, tx, batch_spec(config), seed=config["seed"], averaged=averaged)
    print(f"parameters\n{parameter_table(state.params)}")
    if first:
        state = checkpoints.restore_latest(state, batches)
        print(f"going on from step {first} of {plan.n_steps}")
    else:
        variables = with_loaded_parts(state.variables, config, label_names=data.label_names)
        if model.descriptors is not None:
            variables = with_fitted_descriptors(variables, model.descriptors, source, config)
        state = dataclasses.replace(
            state,
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            average=variables["params"] if averaged else {},
        )
    names = leaf_names(state.params)
    state = devices.replicate(state)
    step_fns: dict[int, Any] = {}  # compiled, by padded length

    def compile_step(pad_to: int, *arguments: Any) -> float:
        options = plan.step_options(source.segments, n_classes=model.n_classes)
        step = functools.partial(train_step, model=model, tx=tx, options=options, pad_to=pad_to)
        step_fns[pad_to], seconds = devices.compile_for(devices.pmapped(step, donate_state=True), *arguments)
        return seconds

    with (
        Signals() as signals,
        MetricsWriter(workdir, resume_step=first, writes=devices.is_main_process()) as writer,
        bar(
            total=plan.n_steps, initial=first, desc="training", unit="step", disable=not devices.is_main_process()
        ) as shown,
        Profile(workdir / "profile", config["run"]["profile_steps"]) as profile,
    ):
        watcher = Watcher(config, plan.steps_per_epoch, writer=writer, bar=shown)
        # NOTE: do NOT change the order of operations in this loop: run a step, check the metrics of the step before,
        # validate and save if due. State and input position are saved together, before the next batch is drawn.
        for step in range(first + 1, plan.n_steps + 1):
            before = time.perf_counter()
            batch = next(batches)
            pad_to = int(batch["pad_to"][0])
            sharded = devices.shard({**batch, "stop": np.full(len(batch["label"]), bool(signals.received))})
            watcher.waited(time.perf_counter() - before)
            if pad_to not in step_fns:
                seconds = compile_step(pad_to, state, sharded, records)
                if step == first + 1:
                    validate_s = validate.warm_up(state.variables)
                    tqdm.write(f"compiled   the training step in {seconds:.1f} s, the evaluation in {validate_s:.1f} s")
                    writer.faces(step, _with_media(source, {k: v[:8] for k, v in batch.items()})["faces"])
                watcher.resume()
            profile.before(step)
            state, report = step_fns[pad_to](state, sharded, records)
            profile.after(step, state)
            # Stay only one step ahead of the device, so that the progress bar is true.
            try:
                stopping = watcher.look(step, report, batch)
                validating = step % every == 0 or step == plan.n_steps
                if stopping or validating:
                    stopping = watcher.look_at_all() or stopping
            except NotFinite as bad:
                raise UserError(_not_finite(bad, workdir, source, names)) from bad
            if stopping or validating:
                row: dict[str, float] = {}
                merit = NOT_VALIDATED
                if validating:
                    answers = validate(state.variables)
                    row = answers.metrics("validation")
                    watcher.validated(step, row)
                    writer.confusion(step, "validation", answers.confusion, data.label_names)
                    merit = float(step) if config["train"]["choose"] == "last" else score(row)
                try:
                    checkpoints.save(devices.unreplicate(state), batches, {**row, "score": merit})
                except UserError as error:
                    if config["run"]["on_full_disk"] == "stop" or stopping or step == plan.n_steps:
                        raise
                    tqdm.write(f"warning: {error}")
                watcher.resume()
            shown.update()
            if stopping:
                break
            if validating and checkpoints.out_of_patience(plan.patience_steps):
                tqdm.write(f"stopping early: the best validation is still that of step {checkpoints.best_step}")
                break
        # A signal may arrive during the last validation, when no further step would tell the other processes.
        stopping = devices.any_process(bool(signals.received) or stopping)
    checkpoints.close()
    if stopping:
        raise signals.stopped(step, plan.n_steps)


def _with_media(source: Source, batch: Batch) -> Batch:
    return batch if "faces" in batch else source.with_media(batch)


def _not_finite(bad: NotFinite, workdir: pathlib.Path, source: Source, names: list[str]) -> str:
    """Save the batch of a step whose loss or gradients are not finite, and describe the step."""
    path = workdir / f"bad_batch_step_{bad.step}_process_{jax.process_index()}.npz"
    try:
        np.savez(path, **_with_media(source, bad.batch))
        kept = f"Its batch is in {path}"
    except OSError as error:
        kept = f"Its batch cannot be written to {path} ({error.strerror})"
    leaves = [name for name, finite in zip(names, bad.finite, strict=False) if not finite]
    where = f"the first gradient that is not finite is that of {leaves[0]}" if leaves else "the gradients are finite"
    return (
        f"the loss is not a number at step {bad.step}; {where}. {kept}; no checkpoint holds what came of it: lower "
        "--config.train.learning_rate or set --config.train.clip_norm, and train in a new --workdir"
    )
