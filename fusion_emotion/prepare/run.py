"""A corpus to shards and a manifest, in parallel; an interrupted preparation resumes."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

from tqdm import tqdm

from fusion_emotion.corpora.clip import Clip
from fusion_emotion.errors import UserError
from fusion_emotion.locks import held
from fusion_emotion.prepare import ray_engine
from fusion_emotion.prepare.groups import Group, close, finish, is_closed, join, set_out, unfinished
from fusion_emotion.prepare.hardware import resolve
from fusion_emotion.prepare.records import MANIFEST, read_rows
from fusion_emotion.prepare.settings import Settings

GROUP = 64  # clips of a shard: 20 MB or so
# Readers keep all shards open, so large corpora get larger shards, not more.
MOST_SHARDS = 512

# Closes groups, and yields the number of clips finished since the last yield.
Engine = Callable[[pathlib.Path, Sequence[Group], Settings], Iterator[int]]


def prepare(clips: Sequence[Clip], settings: Settings, *, group: int = 0) -> pathlib.Path:
    """Prepare `clips` unless they are prepared; return the cache folder.

    `group` is the number of clips of a shard; 0: by the size of the corpus. Raises UserError if the folder cannot be
    written, another run locks it, or the engine is missing.
    """
    folder = _folder(clips, settings)
    if (folder / MANIFEST).exists():
        return folder
    settings = resolve(settings)
    print(f"preparing  {settings.detector} on {settings.provider}, video decoded on {settings.decoder}")
    busy = f"{folder} is being prepared by process {{process}}: wait for it, then run the same command again"
    try:
        with held(folder / "lock", busy):
            _fill(folder, clips, settings, group or max(GROUP, -(-len(clips) // MOST_SHARDS)))
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be written ({error.strerror}): make room or set "
            "--config.run.cache to another place; what is done so far is kept"
        ) from error
    return folder


def is_prepared(clips: Sequence[Clip], settings: Settings) -> bool:
    """True if `prepare` has nothing to do."""
    return (_folder(clips, settings) / MANIFEST).exists()


def _folder(clips: Sequence[Clip], settings: Settings) -> pathlib.Path:
    files = ((clip.clip_id + clip.path.suffix, _size_bytes(clip)) for clip in clips)
    return settings.cache_folder(clips[0].corpus, files)


def _fill(folder: pathlib.Path, clips: Sequence[Clip], settings: Settings, size: int) -> None:
    set_out(folder)
    (folder / "settings.json").write_text(json.dumps(dataclasses.asdict(settings), indent=2))
    groups = [Group(n, first, clips[first : first + size]) for n, first in enumerate(range(0, len(clips), size))]
    todo = [group for group in groups if not is_closed(folder, group)]
    n_todo = sum(len(group.clips) for group in todo)
    if settings.detector == "insightface" and any(clip.modality != "a" for group in todo for clip in group.clips):
        from fusion_emotion.prepare.detectors import insightface_weights

        # Download the weights once, before the workers start.
        insightface_weights(settings)
    with tqdm(total=len(clips), initial=len(clips) - n_todo, desc="preparing", unit="clip") as bar:
        for count in ENGINES[settings.engine](folder, todo, settings):
            bar.update(count)
    join(folder, len(groups))


def _locally(folder: pathlib.Path, groups: Sequence[Group], settings: Settings) -> Iterator[int]:
    """The engine `local`: processes of this machine take the clips of all groups in turn."""
    todo: list[tuple[int, Clip]] = []
    group_of: dict[int, Group] = {}
    left: dict[int, int] = {}
    for group in groups:
        numbered = unfinished(folder, group)
        todo += numbered
        group_of.update((index, group) for index, _ in numbered)
        left[group.number] = len(numbered)
        if not numbered:
            close(folder, group)
        yield len(group.clips) - len(numbered)
    for index in finish(folder, todo, settings, workers=settings.workers or os.cpu_count() or 1):
        group = group_of[index]
        left[group.number] -= 1
        if not left[group.number]:
            close(folder, group)
        yield 1


ENGINES: dict[str, Engine] = {"local": _locally, "ray": ray_engine.close_groups}


def _size_bytes(clip: Clip) -> int:
    """The size of a clip's file; 0 if it cannot be read, which becomes a quarantine row."""
    try:
        return clip.path.stat().st_size
    except OSError:
        return 0


def summary(folder: pathlib.Path) -> str:
    """Describe a prepared corpus in lines: the counts of clips, and some of the clips for each reason."""
    rows = list(read_rows(folder / MANIFEST))
    n_ok = sum(row.status == "ok" for row in rows)
    lines = [f"found {len(rows)} = ok {n_ok} + quarantined {len(rows) - n_ok}"]
    if frames := sum(row.n_frames for row in rows):
        face_found = sum(row.found_share * row.n_frames for row in rows) / frames
        lines.append(f"face found in {face_found:.1%} of the sampled frames")
    by_reason: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row.status == "ok"):
        if row.reason:
            title = "lacking" if row.status == "ok" else "quarantined"
            by_reason.setdefault(f"{title}: {row.reason}", []).append(row.clip_id)
    for reason, clip_ids in by_reason.items():
        others = f" and {len(clip_ids) - 3} more" if len(clip_ids) > 3 else ""
        lines.append(f"{reason}: {', '.join(clip_ids[:3])}{others}")
    return "\n".join(lines)
