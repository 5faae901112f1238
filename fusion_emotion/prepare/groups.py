"""Groups of clips, each of which becomes one shard: the steps of every engine, on one machine or on many.

A finished clip is a file in `pending/`, named by its key and written atomically. When a group is complete, its shard
and its rows become a folder in `shards/`, by one rename, and its pending files are removed. So a killed preparation
resumes where it was, also with other clips, and two at once do no harm. The rows of clips to be tried again lie in
`retry/` and belong to no shard.
"""

import dataclasses
import hashlib
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import msgpack
from array_record.python.array_record_module import ArrayRecordWriter

from fusion_emotion.corpora.clip import Clip
from fusion_emotion.files import atomic, sync
from fusion_emotion.prepare import pool
from fusion_emotion.prepare.records import SHARDS, Row, encode, write_rows
from fusion_emotion.prepare.settings import Settings
from fusion_emotion.prepare.store import RETRY, ROWS, SHARD, digest, group_folder

PENDING = "pending"

KeyedClip = tuple[str, Clip]


@dataclasses.dataclass(frozen=True)
class Group:
    """Clips by their keys, which also name the shard."""

    clips: Mapping[str, Clip]

    @property
    def name(self) -> str:
        """The name of the group's folder."""
        return digest(self.clips)


def set_out(store: pathlib.Path, done: Collection[str] = ()) -> None:
    """Make the folders of a store; remove half-written files, what is to be tried again, and the pending of `done`."""
    shutil.rmtree(store / RETRY, ignore_errors=True)
    for name in (PENDING, RETRY, SHARDS):
        (store / name).mkdir(exist_ok=True)
    # Not the partial folders in shards/: of several machines, one may still be writing them.
    for path in (store / PENDING).iterdir():
        if path.name in done or path.name.startswith("."):
            path.unlink(missing_ok=True)


def is_closed(store: pathlib.Path, group: Group) -> bool:
    """True if the shard and the rows of a group exist."""
    return group_folder(store, group.name).exists()


def unfinished(store: pathlib.Path, group: Group) -> list[KeyedClip]:
    """Return the clips of an open group that this run has not prepared yet, with their keys."""
    return [
        (key, clip)
        for key, clip in group.clips.items()
        if not ((store / PENDING / key).exists() or (store / RETRY / key).exists())
    ]


def finish(store: pathlib.Path, clips: Sequence[KeyedClip], settings: Settings, *, workers: int) -> Iterator[str]:
    """Prepare clips into `pending/` or `retry/`, and yield the key of each; a crash or a hang costs that clip only."""
    # Sound alone needs neither a detector nor its weights.
    with_picture = any(clip.modality != "a" for _, clip in clips)
    argument, workers = (store, settings, with_picture), min(workers, len(clips))
    for (key, clip), _, lost in pool.run(
        clips, _make_work, argument, workers=workers, timeout_s=settings.clip_timeout_s
    ):
        if lost:
            from fusion_emotion.prepare.clip import quarantined

            row = quarantined(clip, settings, f"the worker that read it {lost}", retry=True)
            _write_finished(store, dataclasses.replace(row, key=key), None)
        yield key


def close(store: pathlib.Path, group: Group) -> None:
    """Turn the pending files of a complete group into its shard and rows; of two writers the first wins."""
    final = [key for key in group.clips if not (store / RETRY / key).exists()]
    members = [store / PENDING / key for key in final]
    try:
        with tempfile.TemporaryDirectory(dir=store / SHARDS, prefix=f".{group.name}.", suffix=".partial") as name:
            partial = pathlib.Path(name)
            rows: list[Row] = []
            n_records = 0
            with atomic(partial / SHARD) as shard:
                # One record a chunk: batches read clips in random order.
                writer = ArrayRecordWriter(str(shard), "group_size:1")
                for member in members:
                    fields, record = msgpack.unpackb(member.read_bytes())
                    row = Row(**fields)
                    if record:
                        writer.write(record)
                        row.record, n_records = n_records, n_records + 1
                    rows.append(row)
                writer.close()
            write_rows(partial / ROWS, rows)
            if rows:
                # Fails if the folder exists, so shard and rows come from one writer.
                partial.rename(group_folder(store, group.name))
                sync(store / SHARDS)
    except OSError:
        if not is_closed(store, group):
            raise
    for member in members:
        member.unlink(missing_ok=True)


def _make_work(argument: tuple[pathlib.Path, Settings, bool]) -> Callable[[KeyedClip], None]:
    """In a worker: make the function that prepares a clip into `pending/`."""
    import cv2

    from fusion_emotion.prepare.clip import failed, prepare_clip
    from fusion_emotion.prepare.detectors import create_detector

    store, settings, with_picture = argument
    cv2.setNumThreads(1)  # the workers are the parallelism
    detector = create_detector(settings) if with_picture else None

    def work(keyed: KeyedClip) -> None:
        key, clip = keyed
        row, record = prepare_clip(clip, settings, detector)
        try:
            data = encode(record) if record else None
        except MemoryError as error:
            row, data = failed(clip, settings, error), None
        row.key = key
        row.digest = hashlib.sha256(data).hexdigest()[:16] if data else ""
        _write_finished(store, row, data)

    return work


def _write_finished(store: pathlib.Path, row: Row, record: bytes | None) -> None:
    with atomic(store / (RETRY if row.retry else PENDING) / row.key) as partial:
        partial.write_bytes(msgpack.packb([dataclasses.asdict(row), record]))
