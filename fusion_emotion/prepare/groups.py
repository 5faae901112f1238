"""Groups of clips, each of which becomes one shard: the steps of every engine, on one machine or on many.

A finished clip is a file in `pending/`, named by its key and written atomically. When a group is complete, its shard
and its rows become a folder in `shards/`, by one rename, and its pending files are removed. So a killed preparation
resumes where it was, also with other clips, and two at once do no harm. The rows of clips to be tried again lie in
`retry/` and belong to no shard.
"""

import dataclasses
import errno
import hashlib
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

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

    @property
    def is_of_stills(self) -> bool:
        """True if all clips are pictures."""
        return all(clip.is_still for clip in self.clips.values())


def set_out(store: pathlib.Path, done: Collection[str] = ()) -> None:
    """Make the folders of a store; delete partial files, what is in retry/, and the pending files of keys in `done`."""
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


def close_stills(
    store: pathlib.Path, groups: Iterable[Group], settings: Settings, *, workers: int
) -> Iterator[tuple[Group, bool]]:
    """Prepare and close groups of pictures, each as one task without pending files, which would take most of the time.

    Yields each group, and whether it is closed: one that lost its worker, or has a clip to be tried again, is not.
    """
    for group, is_done, lost in pool.run(
        groups, _make_group_work, (store, settings), workers=workers, timeout_s=settings.clip_timeout_s
    ):
        yield group, bool(is_done) and not lost


def close(store: pathlib.Path, group: Group) -> None:
    """Turn the pending files of a complete group into its shard and rows; of two writers the first wins."""
    final = [key for key in group.clips if not (store / RETRY / key).exists()]
    members = [store / PENDING / key for key in final]
    _write_group(store, group, (msgpack.unpackb(member.read_bytes()) for member in members))
    for member in members:
        member.unlink(missing_ok=True)


def _write_group(store: pathlib.Path, group: Group, finished: Iterable[tuple[dict[str, Any], bytes | None]]) -> None:
    """Write the shard and the rows of a group, from the fields of each row and its record."""
    try:
        with tempfile.TemporaryDirectory(dir=store / SHARDS, prefix=f".{group.name}.", suffix=".partial") as name:
            partial = pathlib.Path(name)
            rows: list[Row] = []
            n_records = 0
            with atomic(partial / SHARD) as shard:
                # One record a chunk: batches read clips in random order.
                writer = ArrayRecordWriter(str(shard), "group_size:1")
                for fields, record in finished:
                    row = Row(**fields)
                    if record:
                        _written(writer.write, record)
                        row.record, n_records = n_records, n_records + 1
                    rows.append(row)
                _written(writer.close)
            write_rows(partial / ROWS, rows)
            if rows:
                # Fails if the folder exists, so shard and rows come from one writer.
                partial.rename(group_folder(store, group.name))
                sync(store / SHARDS)
    except OSError:
        if not is_closed(store, group):
            raise


def _written(write: Callable[..., None], *arguments: bytes) -> None:
    """Write to a shard; its library knows no OSError, also of a full disk."""
    try:
        write(*arguments)
    except RuntimeError as error:
        raise OSError(errno.EIO, str(error).splitlines()[0]) from error


def _make_work(argument: tuple[pathlib.Path, Settings, bool]) -> Callable[[KeyedClip], None]:
    """In a worker: make the function that prepares a clip into `pending/`."""
    store, settings, with_picture = argument
    prepared = _make_prepared(settings, with_picture=with_picture)
    return lambda keyed: _write_finished(store, *prepared(keyed))


def _make_group_work(argument: tuple[pathlib.Path, Settings]) -> Callable[[Group], bool]:
    """In a worker: make the function that prepares and closes a group; False if a clip is to be tried again."""
    store, settings = argument
    prepared = _make_prepared(settings, with_picture=True)

    def work(group: Group) -> bool:
        finished = [prepared(keyed) for keyed in group.clips.items()]
        if any(row.retry for row, _ in finished):
            return False
        _write_group(store, group, ((dataclasses.asdict(row), data) for row, data in finished))
        return True

    return work


def _make_prepared(settings: Settings, *, with_picture: bool) -> Callable[[KeyedClip], tuple[Row, bytes | None]]:
    """In a worker: make the function that prepares a clip and encodes its record."""
    import cv2

    from fusion_emotion.prepare.clip import failed, prepare_clip
    from fusion_emotion.prepare.detectors import create_detector

    cv2.setNumThreads(1)  # the workers are the parallelism
    detector = create_detector(settings) if with_picture and settings.detector != "none" else None

    def prepared(keyed: KeyedClip) -> tuple[Row, bytes | None]:
        key, clip = keyed
        row, record = prepare_clip(clip, settings, detector)
        try:
            data = encode(record) if record else None
        except MemoryError as error:
            row, data = failed(clip, settings, error), None
        row.key = key
        row.digest = hashlib.sha256(data).hexdigest()[:16] if data else ""
        return row, data

    return prepared


def _write_finished(store: pathlib.Path, row: Row, record: bytes | None) -> None:
    with atomic(store / (RETRY if row.retry else PENDING) / row.key) as partial:
        partial.write_bytes(msgpack.packb([dataclasses.asdict(row), record]))
