"""The store of a corpus under one set of record settings: closed groups of clips, and the sets made of them.

A clip is known by its key, which changes with its file. A group in `shards/` is final; a set, in `sets/`, is the
manifest of the clips that one run asked for, over the shards that hold them. So another list of clips, or a changed
file, costs only the clips that are new.
"""

import concurrent.futures
import hashlib
import json
import pathlib
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgpack

from fusion_emotion.corpora.clip import Clip
from fusion_emotion.files import atomic
from fusion_emotion.prepare.records import MANIFEST, SHARDS, Row, read_rows, write_rows, write_shard_list

SETS, RETRY = "sets", "retry"
SHARD, ROWS = "shard.arrayrecord", "rows.jsonl"  # in the folder of a closed group
_ENDS_BYTES = 64 << 10
_READERS = 16  # reading the ends of files is waiting, above all on a network file system


def digest(parts: Iterable[str]) -> str:
    """Return a name of 20 hexadecimal digits for a sequence of strings."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:20]


def keys_of(clips: Sequence[Clip], *, full: bool) -> list[str]:
    """Return the keys of clips, in their order; `full` reads the files whole."""
    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(lambda clip: key_of(clip, full=full), clips))


def key_of(clip: Clip, *, full: bool) -> str:
    """Return the key of a clip: of its id, modality, excerpt, and its file's suffix, size, time and 64 kB at both ends.

    `full` takes the whole content. A file that cannot be read has a key too, which another error or its return changes.
    """
    content = hashlib.sha256()
    try:
        status = clip.path.stat()
        # To open a pipe would wait for its writer.
        if stat.S_ISREG(status.st_mode):
            with clip.path.open("rb") as file:
                if full:
                    content = hashlib.file_digest(file, "sha256")
                else:
                    content.update(file.read(_ENDS_BYTES))
                    file.seek(max(0, status.st_size - _ENDS_BYTES))
                    content.update(file.read(_ENDS_BYTES))
        described = f"{status.st_size} {status.st_mtime_ns} {content.hexdigest()}"
    except OSError as error:
        described = f"cannot be read: {error.errno}"
    excerpt = [f"{clip.start_s}-{clip.end_s}"] if clip.start_s or clip.end_s else []
    return digest([clip.clip_id, clip.modality, clip.path.suffix, described, *excerpt])


def group_folder(store: pathlib.Path, name: str) -> pathlib.Path:
    """Return the folder of a closed group."""
    return store / SHARDS / name


def set_folder(store: pathlib.Path, clips: Mapping[str, Clip]) -> pathlib.Path:
    """Return the folder of a set of clips by their keys; other labels of the same files are another set."""
    return store / SETS / digest(json.dumps([key, facts(clip)]) for key, clip in clips.items())


def facts(clip: Clip) -> dict[str, Any]:
    """Return the fields of a clip that its row has too."""
    return {name: value for name, value in vars(clip).items() if name not in ("path", "start_s", "end_s")}


def closed_rows(store: pathlib.Path) -> Iterator[tuple[str, Row]]:
    """Yield the group and the row of every clip that is closed; `Row.record` counts within the group."""
    for rows in sorted((store / SHARDS).glob(f"*/{ROWS}")):
        for row in read_rows(rows):
            yield rows.parent.name, row


def write_set(store: pathlib.Path, clips: Mapping[str, Clip], settings: dict[str, Any]) -> None:
    """Write the set of clips that are all closed, or in `retry/`; the manifest is last, and makes it valid.

    What is known of a clip without opening it is that of today, not of the day when it was prepared.
    """
    closed: dict[str, tuple[str, Row]] = {}
    sizes: Counter[str] = Counter()
    for group, row in closed_rows(store):
        sizes[group] += row.status == "ok"
        if row.key in clips:
            closed[row.key] = group, row
    first: dict[str, int] = {}  # index of a group's first record in this set
    n_records = 0
    rows = []
    for key, clip in clips.items():
        if key not in closed:
            rows.append(Row(**msgpack.unpackb((store / RETRY / key).read_bytes())[0]))
            continue
        group, row = closed[key]
        if row.status == "ok":
            if group not in first:
                first[group] = n_records
                n_records += sizes[group]
            row.record += first[group]
        for name, value in facts(clip).items():
            setattr(row, name, value)
        rows.append(row)
    folder = set_folder(store, clips)
    folder.mkdir(parents=True, exist_ok=True)
    # Never an old manifest with a new list of shards.
    (folder / MANIFEST).unlink(missing_ok=True)
    with atomic(folder / "settings.json") as partial:
        partial.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    write_shard_list(folder, [group_folder(pathlib.Path("..", ".."), group) / SHARD for group in first])
    write_rows(folder / MANIFEST, rows)
