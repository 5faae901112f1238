"""A corpus to shards and a manifest: in parallel, once, and never again from the start."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from fusion_emotion.corpora.clip import Clip
from fusion_emotion.errors import UserError
from fusion_emotion.locks import held
from fusion_emotion.prepare import groups as groups_
from fusion_emotion.prepare import ray_engine
from fusion_emotion.prepare.groups import Group
from fusion_emotion.prepare.hardware import resolve
from fusion_emotion.prepare.records import MANIFEST, read_rows
from fusion_emotion.prepare.settings import Settings

GROUP = 64  # clips of a shard: 20 MB or so
# A reader keeps every shard open: of a large corpus, shards are larger rather than more.
MOST_SHARDS = 512

# Closes groups, and yields the number of clips that are finished since it last did.
Engine = Callable[[pathlib.Path, Sequence[Group], Settings], Iterator[int]]


def prepare(clips: Sequence[Clip], settings: Settings, *, group: int = 0) -> pathlib.Path:
    """The cache folder of `clips`, prepared as `settings` say; what is there is not done again.

    `group` is the number of clips of a shard, 0 leaving it to the size of the corpus. Raises UserError where the folder
    cannot be written, another run holds it, or the engine is not there.
    """
    folder = _folder(clips, settings)
    if not (folder / MANIFEST).exists():
        settings = resolve(settings)
        print(f"preparing  {settings.detector} on {settings.provider}, video decoded on {settings.decoder}")
        try:
            busy = f"{folder} is being prepared by process {{process}}: wait for it, then run the same command again"
            with held(folder / "lock", busy):
                _fill(folder, clips, settings, group or max(GROUP, -(-len(clips) // MOST_SHARDS)))
        except OSError as error:
            raise UserError(
                f"the cache folder {folder} cannot be written ({error.strerror}): make room or set "
                "--config.prepare.cache to another place; what is done so far is kept"
            ) from error
    return folder


def is_prepared(clips: Sequence[Clip], settings: Settings) -> bool:
    """Whether `prepare` would have nothing to do."""
    return (_folder(clips, settings) / MANIFEST).exists()


def _folder(clips: Sequence[Clip], settings: Settings) -> pathlib.Path:
    return settings.cache_folder(
        clips[0].corpus, ((clip.clip_id + clip.path.suffix, _size_bytes(clip)) for clip in clips)
    )


def _fill(folder: pathlib.Path, clips: Sequence[Clip], settings: Settings, size: int) -> None:
    groups_.set_out(folder)
    (folder / "settings.json").write_text(json.dumps(dataclasses.asdict(settings), indent=2))
    groups = [Group(n, first, clips[first : first + size]) for n, first in enumerate(range(0, len(clips), size))]
    todo = [group for group in groups if not groups_.is_closed(folder, group)]
    n_todo = sum(len(group.clips) for group in todo)
    if settings.detector == "insightface" and any(clip.modality != "a" for group in todo for clip in group.clips):
        from fusion_emotion.prepare.detectors import insightface_weights

        # Once, before the workers would all fetch them.
        insightface_weights(settings)
    engine = ENGINES[settings.engine]
    with tqdm(total=len(clips), initial=len(clips) - n_todo, desc="preparing", unit="clip") as bar:
        for count in engine(folder, todo, settings):
            bar.update(count)
    groups_.join(folder, len(groups))


def _locally(folder: pathlib.Path, groups: Sequence[Group], settings: Settings) -> Iterator[int]:
    """The engine `local`: processes of this machine, which take the clips of all groups in turn."""
    todo: list[tuple[int, Clip]] = []
    group_of: dict[int, Group] = {}
    left: dict[int, int] = {}
    for group in groups:
        unfinished = groups_.unfinished(folder, group)
        todo += unfinished
        group_of.update((index, group) for index, _ in unfinished)
        left[group.number] = len(unfinished)
        if not unfinished:
            groups_.close(folder, group)
        yield len(group.clips) - len(unfinished)
    for index in groups_.finish(folder, todo, settings, workers=settings.workers or os.cpu_count() or 1):
        group = group_of[index]
        left[group.number] -= 1
        if not left[group.number]:
            groups_.close(folder, group)
        yield 1


ENGINES: dict[str, Engine] = {"local": _locally, "ray": ray_engine.close_groups}


def _size_bytes(clip: Clip) -> int:
    """The size of a clip's file; 0 where it cannot be asked for, which becomes a quarantine row."""
    try:
        return clip.path.stat().st_size
    except OSError:
        return 0


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
