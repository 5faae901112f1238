"""Metrics to JSON lines and TensorBoard."""

import contextlib
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from fusion_emotion.errors import UserError

METRICS = "metrics.jsonl"


class MetricsWriter:
    """Appends rows of metrics to a workdir; a resumed run first drops the rows after its checkpoint.

    Of several processes only one `writes`. Raises UserError if the disk is full: everything is written in the caller's
    thread, unlike TensorBoard's usual writer.
    """

    def __init__(self, workdir: pathlib.Path, *, resume_step: int = 0, writes: bool = True):
        self._path = workdir / METRICS
        self._writes = writes
        kept = [row for row in read_metrics(workdir) if row["step"] <= resume_step]
        # The seconds continue those of the run before.
        self._began = time.perf_counter() - (kept[-1]["seconds"] if kept else 0.0)
        if not writes:
            return
        try:
            partial = self._path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
            partial.replace(self._path)
            # Unbuffered: a write that a full disk refuses is not tried again when the file is closed.
            self._lines = self._path.open("ab", buffering=0)
            (workdir / "tensorboard").mkdir(exist_ok=True)
            self._board = EventsWriter(str(workdir / "tensorboard" / "events"))
            # TensorBoard then drops the rows that an earlier run wrote after its checkpoint.
            self._board.write_event(Event(step=resume_step + 1, session_log=SessionLog(status=SessionLog.START)))
        except OSError as error:
            raise self._full(error) from error

    def write(self, step: int, part: str, metrics: dict[str, float]) -> None:
        """Write a row of `metrics` of a part (train, validation) at a step, with the seconds spent so far."""
        row = {"step": step, "part": part, "seconds": round(time.perf_counter() - self._began, 3), **metrics}
        events = [summary.scalar(f"{part}/{name}", value) for name, value in metrics.items()]
        self._append(step, events, line=json.dumps(row) + "\n")

    def confusion(self, step: int, part: str, confusion: Int[np.ndarray, "C C"], label_names: Sequence[str]) -> None:
        """Draw a confusion matrix for TensorBoard: a row for each label, white for all of its clips."""
        fraction = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        name = f"{part}/confusion, rows true and columns predicted: {', '.join(label_names)}"
        picture = np.kron(255 * fraction, np.ones((32, 32))).astype(np.uint8)[..., None]
        self._append(step, [summary.image(name, picture, dataformats="HWC")])

    def faces(self, step: int, faces: UInt8[np.ndarray, "n T S S 3"]) -> None:
        """Draw some training segments for TensorBoard: a row each, its faces side by side."""
        n, n_frames, side = faces.shape[:3]
        rows = faces.swapaxes(1, 2).reshape(n * side, n_frames * side, 3)
        self._append(step, [summary.image("train/faces", rows, dataformats="HWC")])

    def _append(self, step: int, summaries: Sequence[Any], *, line: str = "") -> None:
        if not self._writes:
            return
        try:
            self._lines.write(line.encode())
            for entry in summaries:
                self._board.write_event(Event(wall_time=time.time(), step=step, summary=entry))
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

    def __exit__(self, *error: object) -> None:
        if self._writes:
            self._lines.close()
            # The rest of a refused write would be refused again; the run has raised its error already.
            with contextlib.suppress(OSError):
                self._board.close()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Return the rows written so far, without a last line that a kill cut off.

    Older runs say "window"; their rows are read under today's names.
    """
    path = workdir / METRICS
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append({name.replace("window", "segment"): value for name, value in json.loads(line).items()})
        except json.JSONDecodeError:
            break
    return rows
