"""The answers of a system for clips, in memory and as lines of JSON."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import metrics
from fusion_emotion.files import atomic
from fusion_emotion.prepare.records import Row

RESULTS, PREDICTIONS = "results.json", "predictions.jsonl"  # in a workdir


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """A system's answers for a set of clips; each clip appears once."""

    clip_ids: Sequence[str]
    speakers: Sequence[str]
    true: Int[np.ndarray, "n"]
    predicted: Int[np.ndarray, "n"]
    log_prob: Float[np.ndarray, "n C"]  # the mean over a clip's segments, not normalised
    loss: float | None = None  # mean over segments; None if only clips are known
    segment_confusion: Int[np.ndarray, "C C"] | None = None

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        log_prob: Float[np.ndarray, "n C"],
        *,
        loss: float | None = None,
        segment_confusion: Int[np.ndarray, "C C"] | None = None,
    ) -> "Answers":
        """Create the answers for the clips of `rows`."""
        return cls(
            clip_ids=[row.clip_id for row in rows],
            speakers=[row.speaker for row in rows],
            true=np.array([row.label for row in rows]),
            predicted=log_prob.argmax(axis=1),
            log_prob=log_prob,
            loss=loss,
            segment_confusion=segment_confusion,
        )

    @property
    def n_classes(self) -> int:
        """The number of classes, predicted or not."""
        return self.log_prob.shape[1]

    @property
    def confusion(self) -> Int[np.ndarray, "C C"]:
        """The confusion matrix of the clips."""
        return metrics.confusion_matrix(self.true, self.predicted, self.n_classes)

    @property
    def labels(self) -> Mapping[str, tuple[str, int]]:
        """Speaker and true label of each clip, by its id."""
        return dict(zip(self.clip_ids, zip(self.speakers, self.true.tolist(), strict=True), strict=True))

    def metrics(self, part: str) -> dict[str, float]:
        """Return loss, UAR and WAR of clips, each corpus's UAR if there are several, and UAR of segments, by `part`."""
        assert self.loss is not None
        assert self.segment_confusion is not None
        return {
            f"{part}_loss": self.loss,
            f"{part}_uar": metrics.uar(self.confusion),
            f"{part}_war": metrics.war(self.confusion),
            f"{part}_segment_uar": metrics.uar(self.segment_confusion),
            **{f"{part}_uar_{name}": metrics.uar(confusion) for name, confusion in self._by_corpus().items()},
        }

    def _by_corpus(self) -> dict[str, Int[np.ndarray, "C C"]]:
        """The confusion matrix of the clips of each corpus; none for one corpus alone."""
        of_clip = np.array([clip_id.partition("/")[0] for clip_id in self.clip_ids])
        names = sorted(set(of_clip.tolist()))
        return {
            name: metrics.confusion_matrix(self.true[of_clip == name], self.predicted[of_clip == name], self.n_classes)
            for name in names
            if len(names) > 1
        }


def join(parts: Sequence[Answers]) -> Answers:
    """Concatenate the answers of several test parts, without loss and segments."""
    return Answers(
        clip_ids=[clip_id for part in parts for clip_id in part.clip_ids],
        speakers=[speaker for part in parts for speaker in part.speakers],
        true=np.concatenate([part.true for part in parts]),
        predicted=np.concatenate([part.predicted for part in parts]),
        log_prob=np.concatenate([part.log_prob for part in parts]),
    )


def write(path: pathlib.Path, answers: Answers) -> None:
    """Write a line for each clip, all or nothing."""
    names = ("clip_id", "speaker", "label", "predicted", "log_prob")
    log_prob = [[round(value, 6) for value in row] for row in answers.log_prob.tolist()]
    columns = (answers.clip_ids, answers.speakers, answers.true.tolist(), answers.predicted.tolist(), log_prob)
    with atomic(path) as partial:
        lines = [json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in zip(*columns, strict=True)]
        partial.write_text("".join(lines), encoding="utf-8")


def read(path: pathlib.Path) -> Answers:
    """Read a file of answers. Raises UserError if it cannot be read."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return Answers(
            clip_ids=[row["clip_id"] for row in rows],
            speakers=[row["speaker"] for row in rows],
            true=np.array([row["label"] for row in rows], int),
            predicted=np.array([row["predicted"] for row in rows], int),
            log_prob=np.array([row["log_prob"] for row in rows], float),
        )
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise UserError(f"{path} cannot be read: evaluate again (--mode=evaluate --workdir={path.parent})") from error


def hashed(clip_id: str) -> bytes:
    """Hash a clip's name without its corpus: a sort key that cannot favour good-looking examples."""
    return hashlib.sha256(clip_id.rpartition("/")[2].encode()).digest()
