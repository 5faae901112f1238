"""Orbax behind a few verbs: save, restore the newest, restore the best, close."""

import os
import pathlib
import shutil
import tempfile
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from fusion_emotion.errors import UserError
from fusion_emotion.train import devices
from fusion_emotion.train.step import TrainState, leaf_names

NOT_VALIDATED = -1.0  # the score of a checkpoint between two validations, below every other


class Checkpoints:
    """The checkpoints of a workdir: the newest, to go on from, the best by its `score`, to evaluate, and every n-th.

    A checkpoint holds the state and the input's position, as arrays and JSON: reading one runs no code. Orbax writes to
    a temporary folder and renames it, so a run killed while saving leaves the checkpoint before; `writes` sweeps up
    what such a run left, and is for the one run that trains in the workdir.
    """

    def __init__(self, workdir: pathlib.Path, *, writes: bool = False, keep_every_steps: int = 0):
        # Orbax fails in the background on a relative path.
        self._folder = (workdir / "checkpoints").absolute()
        self._keep_every_steps = keep_every_steps
        self._manager = self._open(sweep=writes)

    def _open(self, *, sweep: bool) -> ocp.CheckpointManager:
        policies = ocp.checkpoint_managers
        kept = [policies.LatestN(1), policies.BestN(get_metric_fn=_score, n=1)]
        if self._keep_every_steps:
            kept.append(policies.EveryNSteps(self._keep_every_steps))
        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=_score,
                preservation_policy=policies.AnyPreservationPolicy(kept),
                save_decision_policy=policies.FixedIntervalPolicy(1),
                cleanup_tmp_directories=sweep,
                enable_async_checkpointing=False,
            ),
            item_handlers={"state": ocp.StandardCheckpointHandler(), "input": ocp.JsonCheckpointHandler()},
        )

    @property
    def latest_step(self) -> int:
        """The newest step saved; 0 where none is."""
        return self._manager.latest_step() or 0

    @property
    def best_step(self) -> int:
        """The step of the best score; 0 where none was validated."""
        step = self._manager.best_step()
        return step if step is not None and self.is_validated(step) else 0

    def is_validated(self, step: int) -> bool:
        """Whether a checkpoint was saved after a validation, and not because a signal came."""
        return self.metrics(step).get("score", NOT_VALIDATED) > NOT_VALIDATED

    def metrics(self, step: int) -> dict[str, float]:
        """The validation metrics saved with a step."""
        return dict(self._manager.metrics(step) or {})

    def save(self, state: TrainState, batches: grain.DatasetIterator, metrics: dict[str, float]) -> None:
        """Save the state (numpy leaves) and the position of `batches`; returns when both are on disk.

        Raises UserError, in every process, if they cannot be written; what was saved before is then as it was.
        """
        step = int(state.step)
        refused = self._refused_room(state) if devices.leads() else ""
        if devices.any_process(bool(refused)):
            raise self._not_written(step, refused or "the first process says why")
        verbosity = logging.get_verbosity()
        # What goes wrong is told below, in one line, and by Orbax in a hundred.
        logging.set_verbosity(logging.FATAL)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    # Every process is at the same place of the same order, on however many it goes on.
                    state=ocp.args.StandardSave(state),
                    input=ocp.args.JsonSave(batches.get_state()),
                ),
                metrics=metrics,
            )
            self._manager.wait_until_finished()
        # Orbax and TensorStore pass on a full disk as OSError, ValueError or an error of their own.
        except Exception as error:
            if jax.process_count() == 1:
                self._manager.close()
                for half in self._folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                    shutil.rmtree(half, ignore_errors=True)
                # Orbax's sweep runs in a thread, and would meet the next save.
                self._manager = self._open(sweep=False)
            raise self._not_written(step, _reason(error)) from error
        finally:
            logging.set_verbosity(verbosity)

    def _refused_room(self, state: TrainState) -> str:
        """Why there is no room for a state; "" where there is.

        Asked before Orbax writes: of a disk that is found full half-way its threads print many pages, and the other
        processes of a run would wait for minutes.
        """
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                os.posix_fallocate(file.fileno(), 0, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
        except OSError as error:
            return error.strerror or str(error)
        return ""

    def _not_written(self, step: int, reason: str) -> UserError:
        return UserError(
            f"the checkpoint of step {step} cannot be written to {self._folder} ({reason}); "
            f"{self._before(step)}: make room, then run the same command again "
            "(--config.train.on_full_disk=go_on trains on instead)"
        )

    def restore_latest(self, like: TrainState, batches: grain.DatasetIterator) -> TrainState:
        """The newest state, in the shapes of `like`; `batches` is moved to its position. Raises UserError."""
        state, position = self._restore(self.latest_step, like)
        batches.set_state(position)
        return state

    def restore_best(self, like: TrainState) -> TrainState:
        """The best state, in the shapes of `like`. Raises UserError where there is none."""
        if not self.best_step:
            raise UserError(f"{self._folder} holds no checkpoint: train first (--mode=train, the same --workdir)")
        return self._restore(self.best_step, like)[0]

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        wanted = jax.tree.map(np.asarray, like)
        folder = self._folder / str(step)
        try:
            # Orbax would cast a value of another type in silence, and end in riddles on other leaves.
            if difference := _difference(self._manager.item_metadata(step)["state"], wanted):
                raise UserError(f"the checkpoint {folder} is of another model: {difference}; choose another --workdir")
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted), input=ocp.args.JsonRestore())
            )
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the checkpoint {folder} cannot be read ({_reason(error)}): if it is damaged, remove that folder and "
                f"run the same command again ({self._before(step)})"
            ) from error
        return restored["state"], restored["input"]

    def _before(self, step: int) -> str:
        """Which checkpoint there is before a step."""
        earlier = max((each for each in self._manager.all_steps() if each < step), default=0)
        return f"the checkpoint of step {earlier} is kept" if earlier else "there is none before it"

    def close(self) -> None:
        """Let go of Orbax's threads."""
        self._manager.close()


def _difference(found: Any, wanted: TrainState) -> str:
    """The first leaf that a checkpoint has in another shape or type, or has not; "" where all are the same."""
    there = {
        name: (leaf.shape, leaf.dtype) for name, leaf in zip(leaf_names(found), jax.tree.leaves(found), strict=True)
    }
    here = {
        name: (leaf.shape, leaf.dtype) for name, leaf in zip(leaf_names(wanted), jax.tree.leaves(wanted), strict=True)
    }

    def said(leaf: Any) -> str:
        return f"{leaf[1]}{list(leaf[0])}" if leaf else "nothing"

    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            return f"{name} is {said(there.get(name))} there, {said(here.get(name))} here"
    return ""


def score(metrics: dict[str, float]) -> float:
    """What the best checkpoint is best by: validation UAR and, between equal ones, the lower validation loss."""
    return round(metrics["validation_uar"], 6) - 1e-7 * min(metrics["validation_loss"], 10.0)


def _score(metrics: Any) -> float:
    return metrics["score"]


def _reason(error: BaseException) -> str:
    """The first line of an error, shortened in the middle: TensorStore says what happened at the end."""
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 200 else f"{text[:60]} ... {text[-140:]}"
