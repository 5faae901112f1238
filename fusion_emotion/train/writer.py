"""Metrics to JSON lines and TensorBoard."""

import json
import pathlib
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from tensorboardX import SummaryWriter

from fusion_emotion.errors import UserError

METRICS = "metrics.jsonl"


class MetricsWriter:
    """Appends rows of metrics to a workdir; a resumed run first drops what came after its checkpoint.

    Of several processes one `writes`; the others' rows go nowhere.
    """

    def __init__(self, workdir: pathlib.Path, *, resume_step: int = 0, writes: bool = True):
        self._lines = self._board = None
        kept = [row for row in read_metrics(workdir) if row["step"] <= resume_step]
        # Seconds count on where the run before stopped.
        self._began = time.perf_counter() - (kept[-1]["seconds"] if kept else 0.0)
        if not writes:
            return
        path = workdir / METRICS
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(path)
        self._lines = path.open("a")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, part: str, metrics: dict[str, float]) -> None:
        """A row of `metrics` of a part (train, validation) at a step, with the seconds spent so far.

        Raises UserError where the disk is full.
        """
        if self._lines is None or self._board is None:
            return
        row = {"step": step, "part": part, "seconds": round(time.perf_counter() - self._began, 3), **metrics}
        try:
            self._lines.write(json.dumps(row) + "\n")
            self._lines.flush()
        except OSError as error:
            raise UserError(
                f"{self._lines.name} cannot be written ({error.strerror}): make room, then run the same command again"
            ) from error
        for name, value in metrics.items():
            self._board.add_scalar(f"{part}/{name}", value, step)

    def confusion(self, step: int, part: str, confusion: Int[np.ndarray, "C C"], label_names: Sequence[str]) -> None:
        """TensorBoard's picture of a confusion matrix: a row for each label, white where all its clips are."""
        share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        name = f"{part}/confusion, rows true and columns predicted: {', '.join(label_names)}"
        self._picture(step, name, np.kron(255 * share, np.ones((32, 32))).astype(np.uint8)[..., None])

    def strips(self, step: int, part: str, strips: UInt8[np.ndarray, "n S W 3"]) -> None:
        """TensorBoard's picture of some strips, one below the other."""
        self._picture(step, f"{part}/strips", np.concatenate(list(strips)))

    def _picture(self, step: int, name: str, picture: UInt8[np.ndarray, "H W channels"]) -> None:
        if self._board is not None:
            self._board.add_image(name, picture, step, dataformats="HWC")

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines is not None and self._board is not None:
            self._lines.close()
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
