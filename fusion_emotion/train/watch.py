"""What watches over a run: its numbers, one step behind, the signals it gets, and the profiler."""

import pathlib
import shlex
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from fusion_emotion.errors import Stopped
from fusion_emotion.input.batches import Batch
from fusion_emotion.train import devices
from fusion_emotion.train.step import Report
from fusion_emotion.train.writer import MetricsWriter


class NotFinite(Exception):  # noqa: N818 - becomes a UserError where the workdir is known
    """A step whose loss or gradients are no numbers."""

    def __init__(self, step: int, finite: np.ndarray, batch: Batch):
        super().__init__(step)
        self.step, self.finite, self.batch = step, finite, batch


class Watcher:
    """Looks at what each step reports, one step behind the device, and writes and shows the rows of training."""

    def __init__(self, train: Mapping[str, Any], steps_per_epoch: float, *, writer: MetricsWriter, bar: tqdm):
        self._train, self._steps_per_epoch, self._writer, self._bar = train, steps_per_epoch, writer, bar
        self._pending: tuple[int, Report, Batch] | None = None
        self._shown: dict[str, str] = {}
        self.resume()

    def resume(self) -> None:
        """Begin to measure speed again, after something that is no step."""
        self._since, self._steps, self._waited_s = time.perf_counter(), 0, 0.0

    def waited(self, seconds: float) -> None:
        """Count time spent waiting for input."""
        self._waited_s += seconds

    def look(self, step: int, report: Report, batch: Batch) -> bool:
        """Remember a step and look at the one before; whether to stop after this one. Raises NotFinite."""
        stopping = self.look_at_all()
        self._pending = (step, report, batch)
        return stopping

    def look_at_all(self) -> bool:
        """Wait for the step that was not looked at yet; whether some process was told to stop. Raises NotFinite."""
        if self._pending is None:
            return False
        step, report, batch = self._pending
        self._pending = None
        report = devices.unreplicate(report)
        if not report.finite.all():
            raise NotFinite(step, report.finite, batch)
        self._steps += 1
        if step % self._train["log_every_steps"] == 0 or step == self._bar.total:
            elapsed_s = time.perf_counter() - self._since
            row = {
                "loss": float(report.sums.loss / report.sums.count),
                "window_accuracy": float(report.sums.correct / report.sums.count),
                "windows_per_s": self._steps * self._train["batch_size"] / elapsed_s,
                "input_wait_share": self._waited_s / elapsed_s,
            }
            self._write(step, "train", row)
            self._show(
                epoch=f"{step / self._steps_per_epoch:.1f}",
                loss=f"{row['loss']:.3f}",
                windows_per_s=f"{row['windows_per_s']:.0f}",
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


class Signals:
    """Within it the first SIGTERM or SIGINT is only noted, so that the step ends and is saved; a second one kills."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def stopped(self, step: int, n_steps: int) -> Stopped:
        """What to raise once the state of `step` is saved."""
        # A process of several may have been stopped by another's signal.
        number = self.received or signal.SIGTERM
        return Stopped(
            f"{signal.Signals(number).name}: step {step} of {n_steps} is saved; the same command goes on from there: "
            + shlex.join(["python", *sys.argv]),
            signal_number=number,
        )


class Profile:
    """Traces a run's steps `first` to `last` into a folder that Perfetto and TensorBoard open; () traces none.

    Within it, so that a run that ends before `last` still leaves what was traced.
    """

    def __init__(self, folder: pathlib.Path, steps: Sequence[int]):
        self._folder = folder
        self._first, self._last = steps or (0, 0)
        self._traces = False

    def __enter__(self) -> "Profile":
        return self

    def before(self, step: int) -> None:
        """To be called before each step."""
        if step == self._first:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._traces = True

    def after(self, step: int, result: Any) -> None:
        """To be called with what each step gave."""
        # A run that goes on between the two steps traces nothing.
        if self._traces and step >= self._last:
            jax.block_until_ready(result)
            self._end()

    def _end(self) -> None:
        self._traces = False
        jax.profiler.stop_trace()
        tqdm.write(f"profile    {self._folder} (open its perfetto_trace.json.gz in https://ui.perfetto.dev)")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._traces:
            self._end()
