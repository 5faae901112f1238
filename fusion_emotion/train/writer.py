"""Metrics to JSON lines and TensorBoard."""

import json
import pathlib
import time
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter

METRICS = "metrics.jsonl"


class MetricsWriter:
    """Appends rows of metrics to a workdir; a resumed run first drops what came after its checkpoint."""

    def __init__(self, workdir: pathlib.Path, *, resume_step: int = 0):
        path = workdir / METRICS
        kept = [row for row in read_metrics(workdir) if row["step"] <= resume_step]
        # Seconds count on where the run before stopped.
        self._began = time.perf_counter() - (kept[-1]["seconds"] if kept else 0.0)
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(path)
        self._lines = path.open("a")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, part: str, metrics: dict[str, float]) -> None:
        """A row of `metrics` of a part (train, validation) at a step, with the seconds spent so far."""
        row = {"step": step, "part": part, "seconds": round(time.perf_counter() - self._began, 3), **metrics}
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()
        for name, value in metrics.items():
            self._board.add_scalar(f"{part}/{name}", value, step)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
