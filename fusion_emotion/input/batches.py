"""Windows to batches, by grain."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from fusion_emotion.input.windows import Windows, n_times
from fusion_emotion.prepare.records import Record, decode, shard_paths
from fusion_emotion.prepare.settings import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, STRIP_FRAMES

Batch = dict[str, Any]  # arrays, or the scalars of one example


def cut(record: Record, start: int) -> Batch:
    """The window of a record that starts at sample time `start`.

    What the clip does not reach is filled: faces repeat the last one, sound is zero. `has_video` is whether a face was
    found within the window, `has_audio` whether any sound reaches into it.
    """
    size = record.faces.shape[1]
    faces = record.faces[start : start + STRIP_FRAMES]
    has_video = bool(record.face_found[start : start + STRIP_FRAMES].any())
    if not len(faces):
        faces = np.zeros((1, size, size, 3), np.uint8)
    short = STRIP_FRAMES - len(faces)
    if short:
        faces = np.concatenate([faces, np.repeat(faces[-1:], short, axis=0)])
    sound = record.waveform[start * SAMPLES_PER_FRAME : start * SAMPLES_PER_FRAME + SAMPLE_RATE_HZ]
    return {
        "strip": faces.swapaxes(0, 1).reshape(size, STRIP_FRAMES * size, 3),
        "waveform": np.pad(sound, (0, SAMPLE_RATE_HZ - len(sound))),
        "has_video": np.bool_(has_video),
        "has_audio": np.bool_(len(sound) > 0),
    }


@dataclasses.dataclass(frozen=True)
class Source:
    """Cuts windows out of the records of a prepared corpus."""

    windows: Windows
    records: grain.sources.ArrayRecordDataSource

    @classmethod
    def open(cls, folder: pathlib.Path, windows: Windows) -> "Source":
        """The source of `windows`, which are of the corpus prepared in `folder`."""
        return cls(windows, grain.sources.ArrayRecordDataSource(shard_paths(folder)))

    def window(self, index: int, start: int | None = None) -> Batch:
        """The example of a window, or of one that starts elsewhere in the same clip."""
        clip = int(self.windows.clip[index])
        row = self.windows.rows[clip]
        begin = int(self.windows.start[index]) if start is None else start
        example = cut(decode(self.records[row.record]), begin)
        return {**example, "label": np.int32(row.label), "clip": np.int32(clip), "mask": np.bool_(True)}

    def random_window(self, index: int, rng: np.random.Generator) -> Batch:
        """An example of the same clip that starts at any of its sample times."""
        last = max(0, n_times(self.windows.rows[self.windows.clip[index]]) - STRIP_FRAMES)
        return self.window(index, int(rng.integers(last + 1)))


def training_batches(source: Source, *, batch_size: int, seed: int, random_starts: bool) -> grain.DatasetIterator:
    """Endless batches of shuffled windows, each window once an epoch; the iterator's state can be saved.

    With `random_starts` a window starts at any 0.2 s of its clip rather than at its own second.
    """
    indices = grain.MapDataset.range(len(source.windows)).seed(seed).shuffle().repeat()
    examples = indices.random_map(source.random_window) if random_starts else indices.map(source.window)
    # One thread reads ahead: the step itself has the other cores.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(examples.batch(batch_size, drop_remainder=True).to_iter_dataset(options))


def evaluation_batches(source: Source, *, batch_size: int) -> Iterator[Batch]:
    """Every window once, in order; the last batch is filled up with masked copies of its first example."""
    indices = grain.MapDataset.range(len(source.windows))
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    for batch in indices.map(source.window).batch(batch_size).to_iter_dataset(options):
        missing = batch_size - len(batch["mask"])
        if missing:
            batch = {k: np.concatenate([v, np.repeat(v[:1], missing, axis=0)]) for k, v in batch.items()}
            batch["mask"][-missing:] = False
        yield batch
