"""Progress of a run, one step behind the device; signals; and the profiler."""

import contextlib
import pathlib
import shlex
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from fusion_emotion.errors import Stopped
from fusion_emotion.models.batch import Batch
from fusion_emotion.train import devices
from fusion_emotion.train.step import Report
from fusion_emotion.train.writer import MetricsWriter


class NotFinite(Exception):  # noqa: N818 - becomes a UserError where the workdir is known
    """A step whose loss or gradients are not finite."""

    def __init__(self, step: int, finite: np.ndarray, batch: Batch):
        super().__init__(step)
        self.step, self.finite, self.batch = step, finite, batch


class Watcher:
    """Checks the report of each step, one step behind the device; writes and shows the rows of training."""

    def __init__(self, config: Mapping[str, Any], steps_per_epoch: float, *, writer: MetricsWriter, bar: tqdm):
        self._batch_size, self._log_every = config["train"]["batch_size"], config["run"]["log_every_steps"]
        self._steps_per_epoch, self._writer, self._bar = steps_per_epoch, writer, bar
        self._pending: tuple[int, Report, Batch] | None = None
        self._shown: dict[str, str] = {}
        self.resume()

    def resume(self) -> None:
        """Restart the speed measurement, after something other than a step."""
        self._since, self._steps, self._waited_s = time.perf_counter(), 0, 0.0

    def waited(self, seconds: float) -> None:
        """Count time spent waiting for input."""
        self._waited_s += seconds

    def look(self, step: int, report: Report, batch: Batch) -> bool:
        """Keep a step's report and check the one before; return True to stop after this step. Raises NotFinite."""
        stopping = self.look_at_all()
        self._pending = (step, report, batch)
        return stopping

    def look_at_all(self) -> bool:
        """Wait for the unchecked report and check it; return True if a process was told to stop. Raises NotFinite."""
        if self._pending is None:
            return False
        step, report, batch = self._pending
        self._pending = None
        report = devices.unreplicate(report)
        if not report.finite.all():
            raise NotFinite(step, report.finite, batch)
        self._steps += 1
        if step % self._log_every == 0 or step == self._bar.total:
            elapsed_s = time.perf_counter() - self._since
            row = {
                "loss": float(report.sums.loss / report.sums.count),
                "segment_accuracy": float(report.sums.correct / report.sums.count),
                "segments_per_s": self._steps * self._batch_size / elapsed_s,
                "input_wait_share": self._waited_s / elapsed_s,
            }
            self._write(step, "train", row)
            self._show(
                epoch=f"{step / self._steps_per_epoch:.1f}",
                loss=f"{row['loss']:.3f}",
                segments_per_s=f"{row['segments_per_s']:.0f}",
                input_wait=f"{row['input_wait_share']:.1%}",
            )
            self.resume()
        return bool(report.stop)

    def validated(self, step: int, row: dict[str, float]) -> None:
        """Write and show a row of validation."""
        self._write(step, "validation", row)
        self._show(validation_UAR=f"{row['validation_uar']:.1%}")
        tqdm.write(f"step {step}: validation UAR {row['validation_uar']:.1%}, loss {row['validation_loss']:.3f}")

    def _write(self, step: int, part: str, row: dict[str, float]) -> None:
        self._writer.write(step, part, {"epoch": step / self._steps_per_epoch, **row})

    def _show(self, **values: str) -> None:
        self._shown.update(values)
        self._bar.set_postfix(self._shown)


class Signals(contextlib.ExitStack):
    """Defers the first SIGTERM or SIGINT, so that the step ends and is saved; a second one kills."""

    def __init__(self) -> None:
        super().__init__()
        self.received = 0
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.callback(signal.signal, number, signal.signal(number, self._note))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.close()  # restores the handlers before

    def stopped(self, step: int, n_steps: int) -> Stopped:
        """Return the exception to raise once the state of `step` is saved."""
        # Of several processes, another one may have received the signal.
        number = self.received or signal.SIGTERM
        return Stopped(
            f"{signal.Signals(number).name}: step {step} of {n_steps} is saved; the same command goes on from there: "
            + shlex.join(["python", *sys.argv]),
            signal_number=number,
        )


class Profile(contextlib.ExitStack):
    """Traces the first to the last of `steps` into a folder that Perfetto and TensorBoard open; () traces none.

    A run that ends before the last step still writes its trace.
    """

    def __init__(self, folder: pathlib.Path, steps: Sequence[int]):
        super().__init__()
        self._folder = folder
        self._first, self._last = steps or (0, 0)

    def before(self, step: int) -> None:
        """Call before each step."""
        if step == self._first:
            text = f"profile    {self._folder} (open its perfetto_trace.json.gz in https://ui.perfetto.dev)"
            self.callback(tqdm.write, text)
            self.enter_context(jax.profiler.trace(str(self._folder), create_perfetto_trace=True))

    def after(self, step: int, result: Any) -> None:
        """Call with the result of each step."""
        # A run that resumes between the two steps traces nothing, and closes nothing here.
        if step == self._last:
            jax.block_until_ready(result)
            self.close()
