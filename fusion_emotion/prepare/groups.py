"""Groups of clips, each of which becomes one shard: the steps of every engine, on one machine or on many.

A finished clip is a file in `pending/`, written atomically. When a group is complete, its shard and its rows become a
folder in `closed/`, by one rename, and its pending files are removed. When all groups are closed, they become the
shards and the manifest. So a killed preparation resumes where it was, and two at once do no harm.
"""

import dataclasses
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence

import msgpack
from array_record.python.array_record_module import ArrayRecordWriter

from fusion_emotion.corpora.clip import Clip
from fusion_emotion.files import atomic, sync
from fusion_emotion.prepare import pool
from fusion_emotion.prepare.records import MANIFEST, SHARDS, Row, encode, read_rows, write_rows
from fusion_emotion.prepare.settings import Settings

PENDING, CLOSED = "pending", "closed"
_SHARD, _ROWS = "shard.arrayrecord", "rows.jsonl"


@dataclasses.dataclass(frozen=True)
class Group:
    """Consecutive clips of a corpus; `first` is the index of the first among all of them."""

    number: int
    first: int
    clips: Sequence[Clip]


def set_out(folder: pathlib.Path) -> None:
    """Make the folders of a preparation, and remove half-written files of a killed one."""
    for name in (PENDING, CLOSED, SHARDS):
        (folder / name).mkdir(exist_ok=True)
    # Not the folders in closed/: their writers may still be renaming them, and they are removed with it.
    for partial in [*folder.glob(".*.partial"), *(folder / PENDING).glob(".*.partial")]:
        partial.unlink(missing_ok=True)


def is_closed(folder: pathlib.Path, group: Group) -> bool:
    """True if the shard and the rows of a group exist."""
    return _closed(folder, group.number).exists()


def unfinished(folder: pathlib.Path, group: Group) -> list[tuple[int, Clip]]:
    """Return the clips of an open group that are not prepared yet, with their indices."""
    return [(i, clip) for i, clip in enumerate(group.clips, group.first) if not _pending(folder, i).exists()]


def finish(
    folder: pathlib.Path, clips: Sequence[tuple[int, Clip]], settings: Settings, *, workers: int
) -> Iterator[int]:
    """Prepare clips into `pending/`, and yield the index of each; a crash or a hang costs that clip only."""
    # Sound alone needs neither a detector nor its weights.
    with_picture = any(clip.modality != "a" for _, clip in clips)
    argument, workers = (folder, settings, with_picture), min(workers, len(clips))
    for (index, clip), _, lost in pool.run(
        clips, _make_work, argument, workers=workers, timeout_s=settings.clip_timeout_s
    ):
        if lost:
            from fusion_emotion.prepare.clip import quarantined

            _write_pending(folder, index, quarantined(clip, settings, f"the worker that read it {lost}"), None)
        yield index


def close(folder: pathlib.Path, group: Group) -> None:
    """Turn the pending files of a complete group into its shard and rows; of two writers the first wins."""
    members = [_pending(folder, index) for index in range(group.first, group.first + len(group.clips))]
    try:
        with tempfile.TemporaryDirectory(
            dir=folder / CLOSED, prefix=f".{group.number:05d}.", suffix=".partial"
        ) as name:
            partial = pathlib.Path(name)
            rows = []
            with atomic(partial / _SHARD) as shard:
                # One record a chunk: batches read clips in random order.
                writer = ArrayRecordWriter(str(shard), "group_size:1")
                for member in members:
                    fields, record = msgpack.unpackb(member.read_bytes())
                    rows.append(Row(**fields))
                    if record:
                        writer.write(record)
                writer.close()
            write_rows(partial / _ROWS, rows)
            # Fails if the folder exists, so shard and rows come from one writer.
            partial.rename(_closed(folder, group.number))
            sync(folder / CLOSED)
    except OSError:
        if not is_closed(folder, group):
            raise
    for member in members:
        member.unlink(missing_ok=True)


def join(folder: pathlib.Path, n_groups: int) -> None:
    """Turn the closed groups into shards and manifest; shards move first, so that a killed join can be repeated."""
    for number in range(n_groups):
        shard = _closed(folder, number) / _SHARD
        if shard.exists():
            shard.rename(folder / SHARDS / f"{number:05d}.arrayrecord")
    sync(folder / SHARDS)
    write_rows(folder / MANIFEST, _joined(folder, n_groups))
    for leftover in (PENDING, CLOSED):
        shutil.rmtree(folder / leftover, ignore_errors=True)


def _joined(folder: pathlib.Path, n_groups: int) -> Iterator[Row]:
    """The rows of all groups, with the records numbered."""
    count = 0
    for number in range(n_groups):
        for row in read_rows(_closed(folder, number) / _ROWS):
            if row.status == "ok":
                row = dataclasses.replace(row, record=count)
                count += 1
            yield row


def _make_work(argument: tuple[pathlib.Path, Settings, bool]) -> Callable[[tuple[int, Clip]], None]:
    """In a worker: make the function that prepares a numbered clip into `pending/`."""
    import cv2

    from fusion_emotion.prepare.clip import prepare_clip
    from fusion_emotion.prepare.detectors import create_detector

    folder, settings, with_picture = argument
    cv2.setNumThreads(1)  # the workers are the parallelism
    detector = create_detector(settings) if with_picture else None

    def work(numbered: tuple[int, Clip]) -> None:
        index, clip = numbered
        row, record = prepare_clip(clip, settings, detector)
        _write_pending(folder, index, row, encode(record) if record else None)

    return work


def _write_pending(folder: pathlib.Path, index: int, row: Row, record: bytes | None) -> None:
    with atomic(_pending(folder, index)) as partial:
        partial.write_bytes(msgpack.packb([dataclasses.asdict(row), record]))


def _pending(folder: pathlib.Path, index: int) -> pathlib.Path:
    return folder / PENDING / f"{index:07d}"


def _closed(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / CLOSED / f"{number:05d}"
