"""Metrics to JSON lines and TensorBoard."""

import contextlib
import json
import pathlib
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from fusion_emotion.errors import UserError

METRICS = "metrics.jsonl"


class MetricsWriter:
    """Appends rows of metrics to a workdir; a resumed run first drops what came after its checkpoint.

    Of several processes one `writes`; the others' rows go nowhere. Raises UserError where the disk is full: nothing is
    written behind the caller's back, as TensorBoard's usual writer does in a thread.
    """

    def __init__(self, workdir: pathlib.Path, *, resume_step: int = 0, writes: bool = True):
        self._path = workdir / METRICS
        self._writes = writes
        kept = [row for row in read_metrics(workdir) if row["step"] <= resume_step]
        # Seconds count on where the run before stopped.
        self._began = time.perf_counter() - (kept[-1]["seconds"] if kept else 0.0)
        if not writes:
            return
        try:
            partial = self._path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
            partial.replace(self._path)
            # Unbuffered: what a full disk refuses is not tried again when the file is closed.
            self._lines = self._path.open("ab", buffering=0)
            (workdir / "tensorboard").mkdir(exist_ok=True)
            self._board = EventsWriter(str(workdir / "tensorboard" / "events"))
            # TensorBoard then forgets what an earlier run wrote beyond its checkpoint.
            self._board.write_event(Event(step=resume_step + 1, session_log=SessionLog(status=SessionLog.START)))
        except OSError as error:
            raise self._full(error) from error

    def write(self, step: int, part: str, metrics: dict[str, float]) -> None:
        """A row of `metrics` of a part (train, validation) at a step, with the seconds spent so far."""
        row = {"step": step, "part": part, "seconds": round(time.perf_counter() - self._began, 3), **metrics}
        events = [summary.scalar(f"{part}/{name}", value) for name, value in metrics.items()]
        self._append(step, events, line=json.dumps(row) + "\n")

    def confusion(self, step: int, part: str, confusion: Int[np.ndarray, "C C"], label_names: Sequence[str]) -> None:
        """TensorBoard's picture of a confusion matrix: a row for each label, white where all its clips are."""
        share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        name = f"{part}/confusion, rows true and columns predicted: {', '.join(label_names)}"
        picture = np.kron(255 * share, np.ones((32, 32))).astype(np.uint8)[..., None]
        self._append(step, [summary.image(name, picture, dataformats="HWC")])

    def strips(self, step: int, part: str, strips: UInt8[np.ndarray, "n S W 3"]) -> None:
        """TensorBoard's picture of some strips, one below the other."""
        self._append(step, [summary.image(f"{part}/strips", np.concatenate(list(strips)), dataformats="HWC")])

    def _append(self, step: int, summaries: Sequence[Any], *, line: str = "") -> None:
        if not self._writes:
            return
        try:
            self._lines.write(line.encode())
            for each in summaries:
                self._board.write_event(Event(wall_time=time.time(), step=step, summary=each))
            self._board.flush()
        except OSError as error:
            raise self._full(error) from error

    def _full(self, error: OSError) -> UserError:
        return UserError(
            f"{self._path} and what belongs to it cannot be written ({error.strerror}): "
            "make room, then run the same command again"
        )

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writes:
            self._lines.close()
            # What is left of a refused write would be refused once more; the run has said so already.
            with contextlib.suppress(OSError):
                self._board.close()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The rows written so far; a last line cut off by a kill is left out."""
    path = workdir / METRICS
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
