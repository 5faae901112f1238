"""Windows to batches, by grain: first which windows, then their pictures and sounds."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from fusion_emotion.input.segments import Windows, n_times
from fusion_emotion.prepare.records import Record, decode, shard_paths
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

Batch = dict[str, Any]  # arrays, or the scalars of one example

EVERY = slice(None)


def cut(record: Record, start: int) -> Batch:
    """The pictures and sound of the window of a record that starts at sample time `start`.

    What the clip does not reach is filled: faces repeat the last one, sound is zero. `has_video` is whether a face was
    found within the window, `has_audio` whether any sound reaches into it. `resident.cut` is the same on the device.
    """
    size = record.faces.shape[1]
    faces = record.faces[start : start + FRAME_RATE_HZ]
    has_video = bool(record.face_found[start : start + FRAME_RATE_HZ].any())
    if not len(faces):
        faces = np.zeros((1, size, size, 3), np.uint8)
    short = FRAME_RATE_HZ - len(faces)
    if short:
        faces = np.concatenate([faces, np.repeat(faces[-1:], short, axis=0)])
    sound = record.waveform[start * SAMPLES_PER_FRAME : start * SAMPLES_PER_FRAME + SAMPLE_RATE_HZ]
    return {
        "strip": faces.swapaxes(0, 1).reshape(size, FRAME_RATE_HZ * size, 3),
        "waveform": np.pad(sound, (0, SAMPLE_RATE_HZ - len(sound))),
        "has_video": np.bool_(has_video),
        "has_audio": np.bool_(len(sound) > 0),
    }


@dataclasses.dataclass(frozen=True)
class Source:
    """Windows, and the records of the prepared corpus that they are cut from."""

    windows: Windows
    records: grain.sources.ArrayRecordDataSource

    @classmethod
    def open(cls, folder: pathlib.Path, windows: Windows) -> "Source":
        """The source of `windows`, which are of the corpus prepared in `folder`."""
        return cls(windows, grain.sources.ArrayRecordDataSource(shard_paths(folder)))

    def record(self, clip: int) -> Record:
        """The record of a row of the windows."""
        return decode(self.records[self.windows.rows[clip].record])

    def pick(self, index: int) -> Batch:
        """Which clip, which start and which label a window has."""
        clip = int(self.windows.clip[index])
        return {
            "clip": np.int32(clip),
            "start": np.int32(self.windows.start[index]),
            "label": np.int32(self.windows.rows[clip].label),
            "mask": np.bool_(True),
        }

    def random_pick(self, index: int, rng: np.random.Generator) -> Batch:
        """A window of the same clip that starts at any of its sample times."""
        picked = self.pick(index)
        last = max(0, n_times(self.windows.rows[picked["clip"]]) - FRAME_RATE_HZ)
        return {**picked, "start": np.int32(rng.integers(last + 1))}

    def window(self, index: int) -> Batch:
        """The example of a window, with its pictures and sound."""
        picked = self.pick(index)
        return {**picked, **cut(self.record(int(picked["clip"])), int(picked["start"]))}

    def with_media(self, picked: Batch) -> Batch:
        """Picked windows (a batch of them) with their pictures and sounds."""
        examples = [
            cut(self.record(int(clip)), int(start)) for clip, start in zip(picked["clip"], picked["start"], strict=True)
        ]
        return {**picked, **{name: np.stack([example[name] for example in examples]) for name in examples[0]}}


def training_batches(
    source: Source, *, batch_size: int, seed: int, random_starts: bool, share: slice = EVERY, media: bool = True
) -> grain.DatasetIterator:
    """Endless batches of shuffled windows, each window once an epoch; the iterator's state can be saved.

    With `random_starts` a window starts at any 0.2 s of its clip rather than at its own second. `share` is the part of
    every batch that this process takes; without `media` a batch says only which windows it is of.
    """
    indices = grain.MapDataset.range(len(source.windows)).seed(seed).shuffle().repeat()
    picked = indices.random_map(source.random_pick) if random_starts else indices.map(source.pick)
    batches = picked.batch(batch_size, drop_remainder=True).map(lambda batch: _part(batch, share))
    return iter(_read_ahead(batches.map(source.with_media) if media else batches))


def evaluation_batches(source: Source, *, batch_size: int, share: slice = EVERY, media: bool = True) -> Iterator[Batch]:
    """Every window once, in order; the last batch is filled up with masked copies of its first example."""
    picked = grain.MapDataset.range(len(source.windows)).map(source.pick).batch(batch_size)
    batches = picked.map(lambda batch: _part(_filled(batch, batch_size), share))
    yield from _read_ahead(batches.map(source.with_media) if media else batches)


def _part(batch: Batch, share: slice) -> Batch:
    return {name: value[share] for name, value in batch.items()}


def _filled(batch: Batch, batch_size: int) -> Batch:
    missing = batch_size - len(batch["mask"])
    filled = {name: np.concatenate([value, np.repeat(value[:1], missing, axis=0)]) for name, value in batch.items()}
    filled["mask"][batch_size - missing :] = False
    return filled


def _read_ahead(batches: grain.MapDataset) -> grain.IterDataset:
    # One thread: the step itself has the other cores.
    return batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
