"""Groups of clips, of which each becomes one shard: what every engine does, on one machine or on many.

A clip that is finished lies in `pending/`, whole or not at all. When a group is complete, its shard and its rows become
a folder in `closed/`, both or neither, and its pending files go. When all are closed, they become the shards and the
manifest. So whatever is killed goes on where it was, and two that do the same work at once do no harm.
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
    """Make the folders of a preparation, and remove the half-written files of one that was killed."""
    for name in (PENDING, CLOSED, SHARDS):
        (folder / name).mkdir(exist_ok=True)
    # Not the folders in closed/, which go with it: one might be renamed by its writer while it is being emptied.
    for partial in [*folder.glob(".*.partial"), *(folder / PENDING).glob(".*.partial")]:
        partial.unlink(missing_ok=True)


def is_closed(folder: pathlib.Path, group: Group) -> bool:
    """Whether the shard and the rows of a group are there."""
    return _closed(folder, group.number).exists()


def unfinished(folder: pathlib.Path, group: Group) -> list[tuple[int, Clip]]:
    """The clips of an open group that are still to be prepared, with their indices."""
    return [(i, clip) for i, clip in enumerate(group.clips, group.first) if not _pending(folder, i).exists()]


def finish(
    folder: pathlib.Path, clips: Sequence[tuple[int, Clip]], settings: Settings, *, workers: int
) -> Iterator[int]:
    """Leave in `pending/` what becomes of each clip, and yield its index; a crash or a hang costs that clip only."""
    # Sound alone needs no detector, nor its weights.
    with_picture = any(clip.modality != "a" for _, clip in clips)
    argument = folder, settings, with_picture
    for (index, clip), _, lost in pool.run(
        clips, _make_work, argument, workers=min(workers, len(clips)), timeout_s=settings.clip_timeout_s
    ):
        if lost:
            from fusion_emotion.prepare.clip import quarantined

            _write_pending(folder, index, quarantined(clip, settings, f"the worker that read it {lost}"), None)
        yield index


def close(folder: pathlib.Path, group: Group) -> None:
    """Turn the pending files of a complete group into its shard and rows; where two do, those of the first stay."""
    members = [_pending(folder, index) for index in range(group.first, group.first + len(group.clips))]
    try:
        with tempfile.TemporaryDirectory(
            dir=folder / CLOSED, prefix=f".{group.number:05d}.", suffix=".partial"
        ) as name:
            partial = pathlib.Path(name)
            rows = []
            with atomic(partial / _SHARD) as shard:
                # One record a chunk: a batch reads clips from anywhere.
                writer = ArrayRecordWriter(str(shard), "group_size:1")
                for member in members:
                    fields, record = msgpack.unpackb(member.read_bytes())
                    rows.append(Row(**fields))
                    if record:
                        writer.write(record)
                writer.close()
            write_rows(partial / _ROWS, rows)
            # Fails if the folder is there: shard and rows are of one reading, whoever else is at it.
            partial.rename(_closed(folder, group.number))
            sync(folder / CLOSED)
    except OSError:
        if not is_closed(folder, group):
            raise
    for member in members:
        member.unlink(missing_ok=True)


def join(folder: pathlib.Path, n_groups: int) -> None:
    """Make the closed groups the shards and the manifest; a group's shard moves first, so this too can be repeated."""
    for number in range(n_groups):
        shard = _closed(folder, number) / _SHARD
        if shard.exists():
            shard.rename(folder / SHARDS / f"{number:05d}.arrayrecord")
    sync(folder / SHARDS)
    write_rows(folder / MANIFEST, _joined(folder, n_groups))
    for leftover in (PENDING, CLOSED):
        shutil.rmtree(folder / leftover, ignore_errors=True)


def _joined(folder: pathlib.Path, n_groups: int) -> Iterator[Row]:
    """The rows of all groups, with the records counted through."""
    count = 0
    for number in range(n_groups):
        for row in read_rows(_closed(folder, number) / _ROWS):
            if row.status == "ok":
                row = dataclasses.replace(row, record=count)
                count += 1
            yield row


def _make_work(argument: tuple[pathlib.Path, Settings, bool]) -> Callable[[tuple[int, Clip]], None]:
    """In a worker: the function that prepares a numbered clip and leaves it in `pending/`."""
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
