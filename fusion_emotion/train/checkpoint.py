"""Orbax behind a few verbs: save, restore the newest, restore the best, close."""

import contextlib
import operator
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from fusion_emotion.errors import UserError
from fusion_emotion.models.weights import differences
from fusion_emotion.train import devices
from fusion_emotion.train.step import TrainState, leaf_names

NOT_VALIDATED = -1.0  # the score of a checkpoint between two validations, below every other
_SCORE = operator.itemgetter("score")  # of the metrics of a checkpoint


class Checkpoints:
    """The checkpoints of a workdir: the newest (to resume), the best by its `score` (to evaluate), and every n-th.

    A checkpoint holds the state and the input's position, as arrays and JSON: reading one runs no code. Orbax writes to
    a temporary folder and renames it, so a run killed while saving leaves the checkpoint before. `writes` removes such
    temporary folders, and is for the one run that trains in the workdir.
    """

    def __init__(self, workdir: pathlib.Path, *, writes: bool = False, keep_every_steps: int = 0):
        # Orbax fails in the background on a relative path.
        self._folder = (workdir / "checkpoints").absolute()
        self._keep_every_steps = keep_every_steps
        self._manager = self._open(sweep=writes)

    def _open(self, *, sweep: bool) -> ocp.CheckpointManager:
        policies = ocp.checkpoint_managers
        kept = [policies.LatestN(1), policies.BestN(get_metric_fn=_SCORE, n=1)]
        if self._keep_every_steps:
            kept.append(policies.EveryNSteps(self._keep_every_steps))
        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=_SCORE,
                preservation_policy=policies.AnyPreservationPolicy(kept),
                save_decision_policy=policies.FixedIntervalPolicy(1),
                cleanup_tmp_directories=sweep,
                enable_async_checkpointing=False,
            ),
            item_handlers={"state": ocp.StandardCheckpointHandler(), "input": ocp.JsonCheckpointHandler()},
        )

    @property
    def latest_step(self) -> int:
        """The newest step saved; 0 if there is none."""
        return self._manager.latest_step() or 0

    @property
    def best_step(self) -> int:
        """The step of the best score; 0 if none was validated."""
        step = self._manager.best_step()
        return step if step is not None and self._is_validated(step) else 0

    def _is_validated(self, step: int) -> bool:
        """True if a checkpoint was saved after a validation, False if because of a signal."""
        return self.metrics(step).get("score", NOT_VALIDATED) > NOT_VALIDATED

    def out_of_patience(self, patience_steps: float) -> bool:
        """True if the best validation is longer ago than `patience_steps`; 0: never. Only validations count."""
        best, latest = self.best_step, self.latest_step
        return bool(patience_steps and best) and self._is_validated(latest) and latest - best >= patience_steps

    def metrics(self, step: int) -> dict[str, float]:
        """Return the validation metrics saved with a step."""
        return dict(self._manager.metrics(step) or {})

    def save(self, state: TrainState, batches: grain.DatasetIterator, metrics: dict[str, float]) -> None:
        """Save the state (numpy leaves) and the position of `batches`; returns when both are on disk.

        Raises UserError, in every process, if they cannot be written; what was saved before is then as it was.
        """
        step = int(state.step)
        refusal = self._room_refused(state) if devices.is_main_process() else ""
        if devices.any_process(bool(refusal)):
            raise self._not_written(step, refusal or "the first process says why")
        verbosity = logging.get_verbosity()
        # Silence Orbax's traceback: we raise a one-line error below.
        logging.set_verbosity(logging.FATAL)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    # Every process is at the same place of the same order, so any number of them can resume.
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

    def _room_refused(self, state: TrainState) -> str:
        """Return the reason why the disk has no room for a state; "" if it has.

        Checked before Orbax writes: if the disk fills up half-way, its threads print many pages, and the other
        processes of a run wait for minutes.
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
            "(--config.run.on_full_disk=go_on trains on instead)"
        )

    def restore_latest(self, like: TrainState, batches: grain.DatasetIterator) -> TrainState:
        """Return the newest state, in the shapes of `like`, and move `batches` to its position. Raises UserError."""
        step, expected = self.latest_step, jax.tree.map(np.asarray, like)
        with self._reading(step):
            # Orbax would cast values of another type in silence, and its errors on other leaves are unreadable.
            saved = self._manager.item_metadata(step)["state"]
            if difference := differences(_by_name(expected), _by_name(saved)).partition("; ")[0]:
                raise UserError(
                    f"the checkpoint {self._folder / str(step)} is of another model: {_shortened(difference)}; "
                    "choose another --workdir"
                )
            arguments = {"state": ocp.args.StandardRestore(expected), "input": ocp.args.JsonRestore()}
            restored = self._manager.restore(step, args=ocp.args.Composite(**arguments))
        batches.set_state(restored["input"])
        return restored["state"]

    def best_variables(self) -> tuple[int, dict[str, Any]]:
        """Return the step of the best checkpoint, and the variables to evaluate; needs no model and no optimizer.

        Raises UserError if there is none.
        """
        step = self.best_step
        if not step:
            raise UserError(f"{self._folder} holds no checkpoint: train first (--mode=train, the same --workdir)")
        with self._reading(step):
            state = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]
        state = jax.tree.map(np.asarray, state)
        return step, {"params": state["average"] or state["params"], "batch_stats": state["batch_stats"] or {}}

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Turn every error of Orbax into a UserError that names the checkpoint."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the checkpoint {self._folder / str(step)} cannot be read ({_reason(error)}): if it is damaged, "
                f"remove that folder and run the same command again ({self._before(step)})"
            ) from error

    def _before(self, step: int) -> str:
        """Name the checkpoint before a step."""
        earlier = max((other for other in self._manager.all_steps() if other < step), default=0)
        return f"the checkpoint of step {earlier} is kept" if earlier else "there is none before it"

    def close(self) -> None:
        """Stop Orbax's threads."""
        self._manager.close()


def _by_name(tree: Any) -> dict[str, Any]:
    return dict(zip(leaf_names(tree), jax.tree.leaves(tree), strict=True))


def score(metrics: dict[str, float]) -> float:
    """Return the score that selects the best checkpoint: validation UAR and, between equal ones, the lower loss."""
    return round(metrics["validation_uar"], 6) - 1e-7 * min(metrics["validation_loss"], 10.0)


def _reason(error: BaseException) -> str:
    """Return the first line of an error."""
    return _shortened(next((line for line in str(error).splitlines() if line.strip()), type(error).__name__))


def _shortened(text: str) -> str:
    """Cut the middle out of a long text: TensorStore puts the reason at the end."""
    return text if len(text) <= 200 else f"{text[:60]} ... {text[-140:]}"
