"""A corpus to shards and a manifest: in parallel, once, and never again from the start.

The clips, sorted by id, fall into groups; a group becomes one shard. A worker writes what a clip became to
`pending/`, whole or not at all; when a group is complete, its shard and rows are written in order and its pending files
go. So a run killed at any moment goes on where it was, and what it leaves does not depend on who finished first.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgpack
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from fusion_emotion.corpora.clip import Clip
from fusion_emotion.errors import UserError
from fusion_emotion.prepare import pool
from fusion_emotion.prepare.hardware import resolve
from fusion_emotion.prepare.records import MANIFEST, SHARDS, Row, atomic, encode, read_rows, write_rows
from fusion_emotion.prepare.settings import Settings

GROUP = 64  # clips of a shard: 20 MB or so
_PENDING = "pending"


def prepare(clips: Sequence[Clip], settings: Settings, *, group: int = GROUP) -> pathlib.Path:
    """The cache folder of `clips`, prepared as `settings` say, `group` clips a shard; what is there is not done again.

    Raises UserError where the folder cannot be written, another run holds it, or no clip could be used.
    """
    folder = settings.cache_folder(
        clips[0].corpus, ((clip.clip_id + clip.path.suffix, clip.path.stat().st_size) for clip in clips)
    )
    if not (folder / MANIFEST).exists():
        settings = resolve(settings)
        print(f"preparing  {settings.detector} on {settings.provider}, video decoded on {settings.decoder}")
        try:
            with _held(folder):
                _fill(folder, clips, settings, group)
        except OSError as error:
            raise UserError(
                f"the cache folder {folder} cannot be written ({error.strerror}): make room or set "
                "--config.prepare.cache to another place; what is done so far is kept"
            ) from error
    return folder


def _fill(folder: pathlib.Path, clips: Sequence[Clip], settings: Settings, group: int) -> None:
    for name in (_PENDING, SHARDS):
        (folder / name).mkdir(exist_ok=True)
    for partial in folder.rglob(".*.partial"):
        partial.unlink()
    (folder / "settings.json").write_text(json.dumps(settings.__dict__, indent=2))
    groups = [range(first, min(first + group, len(clips))) for first in range(0, len(clips), group)]
    open_groups = {
        number: {i for i in members if not _pending(folder, i).exists()}
        for number, members in enumerate(groups)
        if not _rows(folder, number).exists()
    }
    todo = [i for missing in open_groups.values() for i in sorted(missing)]
    if todo and settings.detector == "insightface" and any(clip.modality != "a" for clip in clips):
        from fusion_emotion.prepare.detectors import insightface_weights

        # Once, before the workers would all fetch them.
        insightface_weights(settings)
    workers = min(settings.workers or os.cpu_count() or 1, max(1, len(todo)))
    with tqdm(total=len(clips), initial=len(clips) - len(todo), desc="preparing", unit="clip") as bar:
        for number in [number for number, missing in open_groups.items() if not missing]:
            _close_group(folder, number, groups[number])
        done = pool.run(todo, _make_work, (folder, clips, settings), workers=workers, timeout_s=settings.clip_timeout_s)
        for index, _, lost in done:
            if lost:
                from fusion_emotion.prepare.clip import quarantined

                row = quarantined(clips[index], settings, f"the worker that read it {lost}")
                _write_pending(folder, index, row, None)
            number = index // group
            open_groups[number].discard(index)
            if not open_groups[number]:
                _close_group(folder, number, groups[number])
            bar.update()
    write_rows(folder / MANIFEST, _joined(folder, len(groups)))
    for leftover in (_PENDING, "rows"):
        shutil.rmtree(folder / leftover, ignore_errors=True)


def _make_work(argument: tuple[pathlib.Path, Sequence[Clip], Settings]) -> Callable[[int], None]:
    """In a worker: the function that prepares the clip of an index and leaves it in `pending/`."""
    import cv2

    from fusion_emotion.prepare.clip import prepare_clip
    from fusion_emotion.prepare.detectors import create_detector

    folder, clips, settings = argument
    cv2.setNumThreads(1)  # the workers are the parallelism
    # Sound alone needs no detector, nor its weights.
    detector = create_detector(settings) if any(clip.modality != "a" for clip in clips) else None

    def work(index: int) -> None:
        row, record = prepare_clip(clips[index], settings, detector)
        _write_pending(folder, index, row, encode(record) if record else None)

    return work


def _pending(folder: pathlib.Path, index: int) -> pathlib.Path:
    return folder / _PENDING / f"{index:07d}"


def _rows(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / "rows" / f"{number:05d}.jsonl"


def _write_pending(folder: pathlib.Path, index: int, row: Row, record: bytes | None) -> None:
    with atomic(_pending(folder, index)) as partial:
        partial.write_bytes(msgpack.packb([row.__dict__, record]))


def _close_group(folder: pathlib.Path, number: int, group: range) -> None:
    """Write the shard, then the rows, of a complete group; the rows are what says that it is closed."""
    rows = []
    with atomic(folder / SHARDS / f"{number:05d}.arrayrecord") as partial:
        # One record a chunk: a batch reads clips from anywhere.
        writer = ArrayRecordWriter(str(partial), "group_size:1")
        count = 0
        for index in group:
            fields, record = msgpack.unpackb(_pending(folder, index).read_bytes())
            rows.append(Row(**{**fields, "record": count if record else -1}))
            if record:
                writer.write(record)
                count += 1
        writer.close()
    _rows(folder, number).parent.mkdir(exist_ok=True)
    write_rows(_rows(folder, number), rows)
    for index in group:
        _pending(folder, index).unlink()


def _joined(folder: pathlib.Path, n_groups: int) -> Iterator[Row]:
    """The rows of all groups, with records counted through."""
    before = 0
    for number in range(n_groups):
        rows = list(read_rows(_rows(folder, number)))
        for row in rows:
            yield Row(**{**row.__dict__, "record": row.record + before if row.status == "ok" else -1})
        before += sum(row.status == "ok" for row in rows)


@contextlib.contextmanager
def _held(folder: pathlib.Path) -> Iterator[None]:
    """Hold the cache folder; the lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise UserError(
                f"{folder} is being prepared by process {lock.read().strip() or 'unknown'}: "
                "wait for it, then run the same command again"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def summary(folder: pathlib.Path) -> dict[str, Any]:
    """Counts of a prepared corpus: found = ok + quarantined, and the reasons of the quarantine."""
    rows = list(read_rows(folder / MANIFEST))
    bad = {row.clip_id: row.reason for row in rows if row.status != "ok"}
    lacking = {row.clip_id: row.reason for row in rows if row.status == "ok" and row.reason}
    frames = sum(row.n_frames for row in rows)
    return {
        "found": len(rows),
        "ok": len(rows) - len(bad),
        "quarantined": bad,
        "lacking": lacking,
        "face_found_share": sum(row.found_share * row.n_frames for row in rows) / frames if frames else None,
    }
