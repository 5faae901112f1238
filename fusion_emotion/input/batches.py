"""Segments to batches, by grain: first picks of segments, then their faces and sound."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

import grain
import numpy as np
from jaxtyping import Float32

from fusion_emotion.corpora.labels import Labels, share_of_votes
from fusion_emotion.input.segments import Segments, n_times
from fusion_emotion.models.batch import Batch
from fusion_emotion.prepare.records import Record, decode, shard_paths
from fusion_emotion.units import SAMPLES_PER_FRAME

EVERY = slice(None)


def cut(record: Record, start: int, length: int, *, pad_to: int) -> Batch:
    """Cut the faces and sound of a segment, in frames of 0.2 s, out of a record, padded as `models.batch` says.

    `resident.with_media` does the same on the device.
    """
    side = record.faces.shape[1]
    faces, face_found = (values[start : start + length] for values in (record.faces, record.face_found))
    if not len(faces):
        faces, face_found = np.zeros((1, side, side, 3), np.uint8), np.zeros(1, bool)
    sound = record.waveform[start * SAMPLES_PER_FRAME : (start + length) * SAMPLES_PER_FRAME]
    return {
        "faces": np.concatenate([faces, np.repeat(faces[-1:], pad_to - len(faces), axis=0)]),
        "face_found": np.pad(face_found, (0, pad_to - len(face_found))),
        "waveform": np.pad(sound, (0, pad_to * SAMPLES_PER_FRAME - len(sound))),
        "n_samples": np.int32(max(1, len(sound))),
        "has_video": np.bool_(face_found.any()),
        "has_audio": np.bool_(len(sound) > 0),
    }


@dataclasses.dataclass(frozen=True)
class Source:
    """Segments, and the records of the prepared corpus that they are cut from."""

    segments: Segments
    records: grain.sources.ArrayRecordDataSource
    targets: Float32[np.ndarray, "clips C"] | None = None  # shares of raters' votes; None: no clip has any

    @classmethod
    def open(cls, folder: pathlib.Path, segments: Segments, *, labels: Labels | None = None) -> "Source":
        """Open the records of `segments` of the corpus prepared in `folder`; votes count with `labels`."""
        targets = None
        if labels and any(row.votes for row in segments.rows):
            targets = np.eye(len(labels.names), dtype=np.float32)[segments.labels]
            for place, row in enumerate(segments.rows):
                if row.votes and (shares := share_of_votes(row.votes, labels)):
                    targets[place] = shares
        return cls(segments, grain.sources.ArrayRecordDataSource(shard_paths(folder)), targets)

    def record(self, clip: int) -> Record:
        """Read the record of a row of the segments."""
        return decode(self.records[self.segments.rows[clip].record])

    def pick(self, index: int) -> Batch:
        """Return clip, start, length (`n_frames`) and label of a segment, and the shares of votes if there are any."""
        clip = int(self.segments.clip[index])
        return {
            **({} if self.targets is None else {"target": self.targets[clip]}),
            "clip": np.int32(clip),
            "start": np.int32(self.segments.start[index]),
            "n_frames": np.int32(self.segments.length[index]),
            "label": np.int32(self.segments.rows[clip].label),
            "mask": np.bool_(True),
        }

    def random_pick(self, index: int, rng: np.random.Generator) -> Batch:
        """Like `pick`, but the segment starts at any sample time of the clip."""
        picked = self.pick(index)
        last = n_times(self.segments.rows[picked["clip"]]) - int(picked["n_frames"])
        return {**picked, "start": np.int32(rng.integers(last + 1))}

    def segment(self, index: int) -> Batch:
        """Return the example of one segment, padded to the longest length."""
        picked = self.pick(index)
        record, pad_to = self.record(int(picked["clip"])), self.segments.cutting.longest
        return {**picked, **cut(record, int(picked["start"]), int(picked["n_frames"]), pad_to=pad_to)}

    def with_media(self, picked: Batch) -> Batch:
        """Return a batch of picks with faces and sound, all padded to `pad_to`."""
        places = zip(picked["clip"], picked["start"], picked["n_frames"], strict=True)
        pad_to = int(picked["pad_to"][0])
        examples = [
            cut(self.record(int(clip)), int(start), int(length), pad_to=pad_to) for clip, start, length in places
        ]
        return {**picked, **{name: np.stack([example[name] for example in examples]) for name in examples[0]}}


def training_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    local: slice = EVERY,
    media: bool = True,
    weights: Mapping[str, float] | None = None,
) -> grain.DatasetIterator:
    """Return endless batches of shuffled segments, each once an epoch, as an iterator whose state can be saved.

    `local` is the slice of every batch that this process takes. Without `media` a batch holds picks only. `weights`
    says how often a segment of each corpus is drawn, against one of weight 1: more or less than once an epoch.
    """
    indices = grain.MapDataset.range(len(source.segments)).seed(seed).shuffle().repeat()
    if weights:
        indices = _mixed(source.segments, weights, seed=seed)
    random_start = source.segments.cutting.random_start
    picked = indices.random_map(source.random_pick) if random_start else indices.map(source.pick)
    return iter(_batches(source, picked, batch_size=batch_size, local=local, media=media))


def _mixed(segments: Segments, weights: Mapping[str, float], *, seed: int) -> grain.MapDataset:
    """Endless shuffled indices of segments, of each corpus as often as its weight and its size say."""
    # The table of one's own recordings may name corpora of its own, which have the weight of the folder.
    named = [row.corpus if row.corpus in weights else "folder" for row in segments.rows]
    corpora = np.array(named)[segments.clip]
    pools = {name: np.flatnonzero(corpora == name) for name in weights}
    pools = {name: pool for name, pool in pools.items() if len(pool)}
    drawn = [
        grain.MapDataset.source(pool.tolist()).seed(seed + place).shuffle().repeat()
        for place, pool in enumerate(pools.values())
    ]
    shares = [weights[name] * len(pool) for name, pool in pools.items()]
    return grain.MapDataset.mix(drawn, [share / sum(shares) for share in shares]).seed(seed)


def evaluation_batches(source: Source, *, batch_size: int, local: slice = EVERY, media: bool = True) -> Iterator[Batch]:
    """Every segment once, in order; the last batch is filled with masked copies of its first example."""
    picked = grain.MapDataset.range(len(source.segments)).map(source.pick)
    yield from _batches(source, picked, batch_size=batch_size, local=local, media=media)


def _batches(
    source: Source, picked: grain.MapDataset, *, batch_size: int, local: slice, media: bool
) -> grain.IterDataset:
    def finished(batch: Batch) -> Batch:
        """Fill a batch, add its padded length `pad_to` [B], and take this process's slice."""
        missing = batch_size - len(batch["mask"])
        batch = {name: np.concatenate([value, np.repeat(value[:1], missing, axis=0)]) for name, value in batch.items()}
        batch["mask"][batch_size - missing :] = False
        # The padded length is of the whole batch, so that all processes pad alike.
        batch["pad_to"] = np.full(batch_size, source.segments.cutting.padded(batch["n_frames"]), np.int32)
        return {name: value[local] for name, value in batch.items()}

    batches = picked.batch(batch_size).map(finished)
    if media:
        batches = batches.map(source.with_media)
    # One thread: the step itself has the other cores.
    return batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
