"""What a system said of each clip of a test part, as lines of JSON."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from fusion_emotion.errors import UserError
from fusion_emotion.evaluate.statistics import Answers
from fusion_emotion.files import atomic
from fusion_emotion.input.segments import Windows

PREDICTIONS = "predictions.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """The answers of a test part, each clip once."""

    clip_ids: Sequence[str]
    speakers: Sequence[str]
    labels: Int[np.ndarray, "n"]
    predicted: Int[np.ndarray, "n"]
    log_prob: Float[np.ndarray, "n C"]

    @property
    def answers(self) -> Answers:
        """What statistics need of them."""
        return Answers(true=self.labels, predicted=self.predicted, speakers=self.speakers)

    @property
    def n_classes(self) -> int:
        """The number of classes, said or not."""
        return self.log_prob.shape[1]


def write(path: pathlib.Path, windows: Windows, log_prob: Float[np.ndarray, "clips C"]) -> None:
    """Write a line for each clip of `windows`, whole or not at all."""
    rows = (
        {
            "clip_id": row.clip_id,
            "speaker": row.speaker,
            "label": row.label,
            "predicted": int(values.argmax()),
            "log_prob": [round(float(value), 6) for value in values],
        }
        for row, values in zip(windows.rows, log_prob, strict=True)
    )
    with atomic(path) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read(path: pathlib.Path) -> Predictions:
    """What `write` wrote. Raises UserError where it cannot be read."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return Predictions(
            clip_ids=[row["clip_id"] for row in rows],
            speakers=[row["speaker"] for row in rows],
            labels=np.array([row["label"] for row in rows], int),
            predicted=np.array([row["predicted"] for row in rows], int),
            log_prob=np.array([row["log_prob"] for row in rows], float),
        )
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise UserError(f"{path} cannot be read: evaluate again (--mode=evaluate --workdir={path.parent})") from error


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Those of several test parts, one after the other."""
    return Predictions(
        clip_ids=[name for part in parts for name in part.clip_ids],
        speakers=[name for part in parts for name in part.speakers],
        labels=np.concatenate([part.labels for part in parts]),
        predicted=np.concatenate([part.predicted for part in parts]),
        log_prob=np.concatenate([part.log_prob for part in parts]),
    )
