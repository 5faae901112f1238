"""The clips of a run: WORKDIR/clips.jsonl keeps the parts of its split, which every later use of the workdir takes.

The first line names the labels. Each other line is a clip in a part: its id, the digest of its record, and where its
segments start, in frames of 0.2 s. Their lengths follow from record and config.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fusion_emotion.corpora.protocols import PARTS, Part, protocol
from fusion_emotion.errors import UserError
from fusion_emotion.files import atomic
from fusion_emotion.input.segments import Cutting, Segments, cutting_for, n_times, split_segments
from fusion_emotion.prepare.records import MANIFEST, Row, read_rows

CLIPS = "clips.jsonl"  # in a workdir

_FORMAT = 1
_MOST_NAMED = 5


def save(workdir: pathlib.Path, parts: Mapping[Part, Segments], *, label_names: Sequence[str]) -> None:
    """Write the parts of a split into a workdir, all or nothing."""
    with atomic(workdir / CLIPS) as partial, partial.open("w", encoding="utf-8") as out:
        out.write(json.dumps({"format": _FORMAT, "label_names": list(label_names)}) + "\n")
        for part, segments in parts.items():
            starts = np.split(segments.start, np.flatnonzero(np.diff(segments.clip)) + 1)
            for row, of_clip in zip(segments.rows, starts, strict=True):
                line = {"part": part, "clip_id": row.clip_id, "digest": row.digest, "starts": of_clip.tolist()}
                out.write(json.dumps(line) + "\n")


def keep(workdir: pathlib.Path, parts: Mapping[Part, Segments], *, label_names: Sequence[str]) -> None:
    """Write the parts of a split into a workdir that keeps none, unless an earlier version trained there."""
    if not (workdir / CLIPS).exists() and not is_trained(workdir):
        save(workdir, parts, label_names=label_names)


def is_trained(workdir: pathlib.Path) -> bool:
    """True if the workdir holds a checkpoint or a model."""
    return any((workdir / "checkpoints").glob("[0-9]*")) or (workdir / "model").exists()


def clip_ids(parts: Mapping[Part, Segments]) -> set[str]:
    """Return the ids of the clips of all parts."""
    return {row.clip_id for segments in parts.values() for row in segments.rows}


def parts_of(
    config: Mapping[str, Any],
    rows: Sequence[Row],
    folder: pathlib.Path,
    workdir: pathlib.Path | None,
    *,
    label_names: Sequence[str],
) -> dict[Part, Segments]:
    """Return the parts that `workdir` keeps; draw them from `rows` if it keeps none.

    `rows` are the usable rows of the corpus prepared in `folder`. Raises UserError if a clip that the workdir keeps is
    not among them or has another record.
    """
    cutting = Cutting.from_config(config["segment"])
    if workdir is None or not (workdir / CLIPS).exists():
        return split_segments(rows, config["split"], cutting)
    row_of = {row.clip_id: row for row in rows}
    clips: dict[Part, list[Row]] = {part: [] for part in PARTS}
    starts: dict[Part, list[list[int]]] = {part: [] for part in PARTS}
    kept, gone, changed = set[str](), set[str](), set[str]()
    for part, clip_id, digest, of_clip in _read(workdir / CLIPS, label_names):
        kept.add(clip_id)
        if (row := row_of.get(clip_id)) is None:
            gone.add(clip_id)
            continue
        # The manifests of earlier versions have no digest.
        if (digest and row.digest and digest != row.digest) or of_clip[-1] >= n_times(row):
            changed.add(clip_id)
        clips[part].append(row)
        starts[part].append(of_clip)
    if gone or changed:
        reasons = dict.fromkeys(changed, "its record has changed") | _absent(gone, folder)
        named = ", ".join(f"{clip_id} ({reasons[clip_id]})" for clip_id in sorted(reasons)[:_MOST_NAMED])
        more = f", and {len(reasons) - _MOST_NAMED} more" if len(reasons) > _MOST_NAMED else ""
        raise UserError(
            f"{len(reasons)} of the {len(kept)} clips of {workdir} are missing or changed: {named}{more}; put them "
            f"back into data.root={config['data']['root']!r} as they were, name another folder that holds them "
            "(--config.data.root=DIR), or train again in a new --workdir"
        )
    cutting = cutting_for(protocol(config["split"]["protocol"]), cutting)
    return {part: _segments(clips[part], starts[part], cutting) for part in PARTS}


def _read(path: pathlib.Path, label_names: Sequence[str]) -> Iterator[tuple[Part, str, str, list[int]]]:
    """Yield part, id, digest and starts of each line. Raises UserError if one cannot be read, or for other labels."""
    try:
        with path.open(encoding="utf-8") as lines:
            head = json.loads(next(lines))
            if head["format"] > _FORMAT:
                raise UserError(f"{path} was made by a newer version of this project: update it")
            if head["label_names"] != list(label_names):
                raise UserError(
                    f"{path} has the labels {', '.join(head['label_names'])}, and the corpus now has "
                    f"{', '.join(label_names)}: use the version that made it (results.json names its commit), or train "
                    "again in a new --workdir"
                )
            for line in map(json.loads, lines):
                yield line["part"], line["clip_id"], line["digest"], line["starts"]
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}): it lists the clips of this run; put it back as "
            "it was, or train again in a new --workdir"
        ) from error


def _absent(clip_ids: set[str], folder: pathlib.Path) -> dict[str, str]:
    """The reason why each of these clips is not among the usable rows."""
    reasons = {row.clip_id: row.reason for row in read_rows(folder / MANIFEST) if row.clip_id in clip_ids}
    return {clip_id: reasons.get(clip_id, "not found") or "not usable" for clip_id in clip_ids}


def _segments(rows: Sequence[Row], starts: Sequence[Sequence[int]], cutting: Cutting) -> Segments:
    """The segments of these starts, by row; their lengths are those of `segments_of`."""
    clip = np.repeat(np.arange(len(rows)), [len(of_clip) for of_clip in starts])
    start = np.array([start for of_clip in starts for start in of_clip], int)
    lasts = np.array([n_times(row) for row in rows], int)
    return Segments(rows, clip, start, np.minimum(lasts[clip] - start, cutting.longest), cutting)
