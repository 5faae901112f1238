"""Orbax behind a few verbs: save, restore the newest, restore the best, close."""

import pathlib
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp

from fusion_emotion.errors import UserError
from fusion_emotion.train.step import TrainState, leaf_names

NOT_VALIDATED = -1.0  # the score of a checkpoint between two validations, below every other


class Checkpoints:
    """The checkpoints of a workdir: the newest, to go on from, the best by its `score`, to evaluate, and every n-th.

    A checkpoint holds the state and the input's position, as arrays and JSON: reading one runs no code. Orbax writes to
    a temporary folder and renames it, so a run killed while saving leaves the checkpoint before.
    """

    def __init__(self, workdir: pathlib.Path, *, keep_every_steps: int = 0):
        # Orbax fails in the background on a relative path.
        self._folder = (workdir / "checkpoints").absolute()
        self._keep_every_steps = keep_every_steps
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
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
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            ),
            item_names=("state", "input"),
        )

    @property
    def latest_step(self) -> int:
        """The newest step saved; 0 where none is."""
        return self._manager.latest_step() or 0

    @property
    def best_step(self) -> int:
        """The step of the best score; 0 where none was validated."""
        step = self._manager.best_step()
        return step if step is not None and self._manager.metrics(step)["score"] > NOT_VALIDATED else 0

    def metrics(self, step: int) -> dict[str, float]:
        """The validation metrics saved with a step."""
        return dict(self._manager.metrics(step) or {})

    def save(self, state: TrainState, batches: grain.DatasetIterator, metrics: dict[str, float]) -> None:
        """Save the state (numpy leaves) and the position of `batches`; returns when both are on disk.

        Raises UserError if they cannot be written; what was saved before is then as it was.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), input=grain.checkpoint.CheckpointSave(batches)
                ),
                metrics=metrics,
            )
            self._manager.wait_until_finished()
        # Orbax and TensorStore pass on a full disk as OSError, ValueError or an error of their own.
        except Exception as error:
            self._manager.close()
            self._manager = self._open()  # sweeps up what was half-written
            kept = f"the checkpoint of step {self.latest_step} is kept" if self.latest_step else "none was saved before"
            raise UserError(
                f"the checkpoint of step {step} cannot be written to {self._folder} ({_reason(error)}); {kept}: "
                "make room, then run the same command again (--config.train.on_full_disk=go_on trains on instead)"
            ) from error

    def restore_latest(self, like: TrainState, batches: grain.DatasetIterator) -> TrainState:
        """The newest state, in the shapes of `like`; `batches` is moved to its position. Raises UserError."""
        return self._restore(self.latest_step, like, input=grain.checkpoint.CheckpointRestore(batches))

    def restore_best(self, like: TrainState) -> TrainState:
        """The best state, in the shapes of `like`. Raises UserError where there is none."""
        if not self.best_step:
            raise UserError(f"{self._folder} holds no checkpoint: train first (--mode=train, the same --workdir)")
        return self._restore(self.best_step, like)

    def _restore(self, step: int, like: TrainState, **others: Any) -> TrainState:
        wanted = jax.tree.map(np.asarray, like)
        try:
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted), **others)
            )["state"]
        except Exception as error:
            raise UserError(
                f"the checkpoint {self._folder / str(step)} cannot be read ({_reason(error)}): if it is damaged, "
                "remove that folder and run the same command again, which goes on from the one before"
            ) from error
        for name, found, expected in zip(
            leaf_names(wanted), jax.tree.leaves(restored), jax.tree.leaves(wanted), strict=True
        ):
            if found.shape != expected.shape or found.dtype != expected.dtype:
                raise UserError(
                    f"the checkpoint {self._folder / str(step)} is of another model: {name} is {found.dtype}"
                    f"{list(found.shape)} there, {expected.dtype}{list(expected.shape)} here; choose another --workdir"
                )
        return restored

    def close(self) -> None:
        """Let go of Orbax's threads."""
        self._manager.close()


def score(metrics: dict[str, float]) -> float:
    """What the best checkpoint is best by: validation UAR and, between equal ones, the lower validation loss."""
    return round(metrics["validation_uar"], 6) - 1e-7 * min(metrics["validation_loss"], 10.0)


def _score(metrics: Any) -> float:
    return metrics["score"]


def _reason(error: BaseException) -> str:
    """The first line of an error, shortened in the middle: TensorStore says what happened at the end."""
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 200 else f"{text[:60]} ... {text[-140:]}"
