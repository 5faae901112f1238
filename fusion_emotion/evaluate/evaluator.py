"""A model over every segment of a part."""

import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from fusion_emotion.evaluate.answers import Answers
from fusion_emotion.input.batches import Source, evaluation_batches
from fusion_emotion.models.batch import Batch
from fusion_emotion.models.fusion import FusionNet
from fusion_emotion.train import devices
from fusion_emotion.train.step import EvalSums, eval_step


class Evaluator:
    """Runs a model over every segment of a source; compiled once for each padded length, called often."""

    def __init__(self, model: FusionNet, source: Source, config: Mapping[str, Any]):
        self._source = source
        self._batch_size = config["train"]["batch_size"]
        self._records = devices.resident_copy(
            source, face_size=config["prepare"]["face_size"], max_gb=config["run"]["resident_gb"]
        )
        step = functools.partial(eval_step, model=model, n_clips=len(source.segments.rows))
        self._step_fns = {
            pad_to: devices.pmapped(functools.partial(step, pad_to=pad_to))
            for pad_to in source.segments.cutting.buckets
        }

    def warm_up(self, variables: Any) -> float:
        """Compile by evaluating one batch; return the seconds it took."""
        began = time.perf_counter()
        batch = next(self._batches(self._source, media=self._records is None))
        jax.block_until_ready(self._step(variables, batch, self._records))
        return time.perf_counter() - began

    def __call__(self, variables: Any, source: Source | None = None) -> Answers:
        """The answers of replicated variables; a `source` of the same segments, degraded ones, is read from disk."""
        records = self._records if source is None else None
        sums = [
            devices.unreplicate(self._step(variables, batch, records))
            for batch in self._batches(source or self._source, media=records is None)
        ]
        total: EvalSums = functools.reduce(lambda a, b: jax.tree.map(np.add, a, b), sums)
        return Answers.of(
            self._source.segments.rows,
            total.clip_log_prob / total.clip_segments[:, None],
            loss=float(total.loss) / len(self._source.segments),
            segment_confusion=total.segment_confusion,
        )

    def _step(self, variables: Any, batch: Batch, records: Any) -> Any:
        return self._step_fns[int(batch["pad_to"][0])](variables, devices.shard(batch), records)

    def _batches(self, source: Source, *, media: bool) -> Iterator[Batch]:
        local = devices.local_slice(self._batch_size)
        return evaluation_batches(source, batch_size=self._batch_size, local=local, media=media)
