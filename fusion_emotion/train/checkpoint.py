"""Orbax behind four verbs: save, restore the newest, restore the best, close."""

import pathlib
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp

from fusion_emotion.errors import UserError
from fusion_emotion.train.step import TrainState


class Checkpoints:
    """The checkpoints of a workdir: the newest, to go on from, and the best by its `score`, to evaluate.

    A checkpoint holds the state and the input's position. Orbax writes to a temporary folder and renames it, so a run
    killed while saving leaves the checkpoint before.
    """

    def __init__(self, workdir: pathlib.Path):
        policies = ocp.checkpoint_managers
        self._manager = ocp.CheckpointManager(
            # Orbax fails in the background on a relative path.
            (workdir / "checkpoints").absolute(),
            options=ocp.CheckpointManagerOptions(
                best_fn=_score,
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(1), policies.BestN(get_metric_fn=_score, n=1)]
                ),
                save_decision_policy=policies.FixedIntervalPolicy(1),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            ),
            item_names=("state", "input"),
        )

    @property
    def latest_step(self) -> int | None:
        """The newest step saved."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step of the best score."""
        return self._manager.best_step()

    def metrics(self, step: int) -> dict[str, float]:
        """The validation metrics saved with a step."""
        return dict(self._manager.metrics(step) or {})

    def save(self, state: TrainState, batches: grain.DatasetIterator, metrics: dict[str, float]) -> None:
        """Save the state (numpy leaves) and the position of `batches`; returns when both are on disk."""
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), input=grain.checkpoint.CheckpointSave(batches)),
            metrics=metrics,
        )
        self._manager.wait_until_finished()

    def restore_latest(self, like: TrainState, batches: grain.DatasetIterator) -> TrainState:
        """The newest state, in the shapes of `like`; `batches` is moved to its position."""
        restored = self._manager.restore(
            self.latest_step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(_numpy(like)),
                input=grain.checkpoint.CheckpointRestore(batches),
            ),
        )
        return restored["state"]

    def restore_best(self, like: TrainState) -> TrainState:
        """The best state, in the shapes of `like`. Raises UserError where there is none."""
        step = self.best_step
        if step is None:
            raise UserError(
                f"{self._manager.directory} holds no checkpoint: train first (--mode=train, the same --workdir)"
            )
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(_numpy(like))))[
            "state"
        ]

    def close(self) -> None:
        """Let go of Orbax's threads."""
        self._manager.close()


def score(metrics: dict[str, float]) -> float:
    """What the best checkpoint is best by: validation UAR and, between equal ones, the lower validation loss."""
    return round(metrics["validation_uar"], 6) - 1e-7 * min(metrics["validation_loss"], 10.0)


def _score(metrics: Any) -> float:
    return metrics["score"]


def _numpy(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)
