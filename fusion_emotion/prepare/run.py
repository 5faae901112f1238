"""A corpus to shards and a manifest, in parallel; an interrupted preparation resumes."""

import dataclasses
import json
import os
import pathlib
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from array_record.python.array_record_data_source import ArrayRecordDataSource

from fusion_emotion.cores import cores
from fusion_emotion.corpora.clip import Clip
from fusion_emotion.errors import Stopped, UserError
from fusion_emotion.files import atomic, expanded
from fusion_emotion.locks import held
from fusion_emotion.prepare import ray_engine
from fusion_emotion.prepare.groups import Group, KeyedClip, close, close_stills, finish, set_out, unfinished
from fusion_emotion.prepare.hardware import resolve
from fusion_emotion.prepare.records import MANIFEST, Row, read_rows, shard_paths, write_rows, write_shard_list
from fusion_emotion.prepare.settings import Settings
from fusion_emotion.prepare.store import closed_rows, digest, keys_of, set_folder, write_set
from fusion_emotion.progress import bar

GROUP, STILLS = 64, 1024  # clips of a shard: 20 MB or so
# Readers keep all shards open, so large corpora get larger shards, not more.
MOST_SHARDS = 512

# Closes groups, and yields the number of clips finished since the last yield.
Engine = Callable[[pathlib.Path, Sequence[Group], Settings], Iterator[int]]


def prepare(clips: Sequence[Clip], settings: Settings, *, corpus: str = "", group: int = 0) -> pathlib.Path:
    """Prepare those of `clips` that are not prepared; return the folder of this set of clips.

    `corpus` names the store; "": the corpus of the first clip. `group` is the number of clips of a shard; 0: by the
    number of clips to prepare. Raises UserError if no clip can be used, the folder cannot be written, another run locks
    it, or the engine is missing; Stopped at Ctrl-C.
    """
    store = settings.store(corpus or clips[0].corpus)
    try:
        keyed = dict(zip(keys_of(clips, full=settings.full_digest), clips, strict=True))
        folder = set_folder(store, keyed)
        if not _is_done(folder, settings):
            busy = f"{store} is being prepared by process {{process}}: wait for it, then run the same command again"
            with held(store / "lock", busy):
                _fill(store, keyed, settings, group)
                write_set(store, keyed, dataclasses.asdict(settings))
    except KeyboardInterrupt:
        again = shlex.join(["python", *sys.argv])
        raise Stopped(
            f"SIGINT: the clips prepared so far are kept; the same command goes on from there: {again}",
            signal_number=signal.SIGINT,
        ) from None
    except OSError as error:
        raise UserError(
            f"the cache folder {store} cannot be written ({error.strerror}): make room or set "
            "--config.run.cache to another place; what is done so far is kept"
        ) from error
    if not any(row.status == "ok" for row in read_rows(folder / MANIFEST)):
        raise UserError(
            f"no clip can be used, {len(clips)} quarantined ({_reasons(folder)[0]}): mend the files, or see all "
            f"reasons in {folder / MANIFEST}"
        )
    return folder


def is_prepared(clips: Sequence[Clip], settings: Settings, *, corpus: str = "") -> bool:
    """True if these clips are prepared, but for those that `prepare` would try again."""
    keys = keys_of(clips, full=settings.full_digest)
    keyed = dict(zip(keys, clips, strict=True))
    return (set_folder(settings.store(corpus or clips[0].corpus), keyed) / MANIFEST).exists()


def join(folders: Sequence[pathlib.Path], settings: Settings) -> pathlib.Path:
    """Join the sets of several corpora: one manifest over the shards of all; return its folder."""
    joined = expanded(settings.cache, field="run.cache") / "joined" / digest(str(folder) for folder in folders)
    manifests = [folder / MANIFEST for folder in folders]
    made = joined / MANIFEST
    if made.exists() and all(made.stat().st_mtime_ns > manifest.stat().st_mtime_ns for manifest in manifests):
        return joined
    joined.mkdir(parents=True, exist_ok=True)
    made.unlink(missing_ok=True)
    shards: list[pathlib.Path] = []
    rows: list[Row] = []
    for folder in folders:
        paths = shard_paths(folder)
        n_records = len(ArrayRecordDataSource(shards)) if shards else 0
        for row in read_rows(folder / MANIFEST):
            row.record += n_records if row.record >= 0 else 0
            rows.append(row)
        shards += map(pathlib.Path, paths)
    with atomic(joined / "settings.json") as partial:
        partial.write_text(json.dumps(dataclasses.asdict(settings), indent=2), encoding="utf-8")
    write_shard_list(joined, [pathlib.Path(os.path.relpath(shard, joined)) for shard in shards])
    write_rows(made, rows)
    return joined


def _is_done(folder: pathlib.Path, settings: Settings) -> bool:
    manifest = folder / MANIFEST
    return manifest.exists() and not (settings.retry and any(row.retry for row in read_rows(manifest)))


def _fill(store: pathlib.Path, clips: Mapping[str, Clip], settings: Settings, size: int) -> None:
    """Prepare the clips, by key, that the store lacks, in groups of `size`."""
    done = {row.key for _, row in closed_rows(store)}
    set_out(store, done)
    todo = [(key, clip) for key, clip in clips.items() if key not in done]
    if not todo:
        return
    settings = resolve(settings)
    print(f"preparing  {settings.detector} on {settings.provider}, video decoded on {settings.decoder}")
    if settings.detector == "insightface" and any(clip.modality != "a" for _, clip in todo):
        from fusion_emotion.prepare.detectors import insightface_weights

        # Download the weights once, before the workers start.
        insightface_weights(settings)
    # Pictures are small, and each group of them is one task.
    usual = STILLS if all(clip.is_still for _, clip in todo) else GROUP
    size = size or max(usual, -(-len(todo) // MOST_SHARDS))
    groups = [Group(dict(todo[first : first + size])) for first in range(0, len(todo), size)]
    with bar(total=len(clips), initial=len(clips) - len(todo), desc="preparing", unit="clip") as shown:
        for count in ENGINES[settings.engine](store, groups, settings):
            shown.update(count)


def _locally(store: pathlib.Path, groups: Sequence[Group], settings: Settings) -> Iterator[int]:
    """The engine `local`: processes of this machine take the clips of all groups in turn."""
    workers = settings.workers or cores()
    todo: list[KeyedClip] = []
    group_of: dict[str, Group] = {}
    left: dict[str, int] = {}
    stills = [group for group in groups if group.is_of_stills]
    by_clip = [group for group in groups if not group.is_of_stills]
    for group, is_closed in close_stills(store, stills, settings, workers=min(workers, len(stills))):
        if is_closed:
            yield len(group.clips)
        else:
            by_clip.append(group)
    for group in by_clip:
        clips = unfinished(store, group)
        todo += clips
        group_of.update((key, group) for key, _ in clips)
        left[group.name] = len(clips)
        if not clips:
            close(store, group)
        yield len(group.clips) - len(clips)
    for key in finish(store, todo, settings, workers=workers):
        group = group_of[key]
        left[group.name] -= 1
        if not left[group.name]:
            close(store, group)
        yield 1


ENGINES: dict[str, Engine] = {"local": _locally, "ray": ray_engine.close_groups}


def summary(folder: pathlib.Path) -> str:
    """Describe a prepared corpus in lines: the counts of clips, and some of the clips for each reason."""
    rows = list(read_rows(folder / MANIFEST))
    n_ok = sum(row.status == "ok" for row in rows)
    lines = [f"found {len(rows)} = ok {n_ok} + quarantined {len(rows) - n_ok}"]
    if frames := sum(row.n_frames for row in rows):
        face_found = sum(row.found_share * row.n_frames for row in rows) / frames
        lines.append(f"face found in {face_found:.1%} of the sampled frames")
    return "\n".join(lines + _reasons(folder))


def _reasons(folder: pathlib.Path) -> list[str]:
    """Return a line for each reason, with some of its clips."""
    by_reason: dict[str, list[str]] = {}
    for row in sorted(read_rows(folder / MANIFEST), key=lambda row: row.status == "ok"):
        if row.reason:
            title = "lacking" if row.status == "ok" else "quarantined"
            title += ", tried again at the next run" if row.retry else ""
            by_reason.setdefault(f"{title}: {row.reason}", []).append(row.clip_id)
    return [
        f"{reason}: {', '.join(ids[:3])}" + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
        for reason, ids in by_reason.items()
    ]
