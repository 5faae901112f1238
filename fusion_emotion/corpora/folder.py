"""Your own recordings: a table of them, or folders named after emotions.

A table (csv or parquet) has a row for each recording or excerpt. `path` (below data.root) and `emotion` are needed.
`speaker`, `sex`, `start_s`, `end_s`, `split`, `corpus`, `intensity` and `statement` are known; results can be broken
down by any other column. Without a table the folders are EMOTION/** or SPEAKER/EMOTION/**.
"""

import csv
import dataclasses
import functools
import math
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from fusion_emotion.corpora.clip import FILM_SUFFIXES, PICTURE_SUFFIXES, SOUND_SUFFIXES, Clip, by_id
from fusion_emotion.corpora.corpus import Corpus, Found, Wanted
from fusion_emotion.corpora.labels import EMOTIONS, known_word, parse
from fusion_emotion.errors import UserError
from fusion_emotion.files import is_utf8

_SUFFIXES = FILM_SUFFIXES + SOUND_SUFFIXES + PICTURE_SUFFIXES
_NEEDED = ("path", "emotion")
_KNOWN = (*_NEEDED, "speaker", "sex", "start_s", "end_s", "split", "corpus", "intensity", "statement")
_SEXES = {"": "", "male": "male", "m": "male", "female": "female", "f": "female"}
_SPLITS = {part: part for part in ("", "train", "validation", "test")} | {"val": "validation", "dev": "validation"}
_MOST_NAMED = 5
_MOST_FILES = 4096  # that are kept while a table is read
_REST = "\0"  # where csv puts cells beyond the header; pandas leaves its index without a name, so not ""
Cells = Mapping[str, str]  # of a row of a table, by column


def find(root: pathlib.Path, wanted: Wanted) -> Found:
    """Find the clips of the table, or of the folders if there is none. Raises UserError, by row and column."""
    if wanted.table:
        table = pathlib.Path(wanted.table)
        return _of_table(table if table.is_absolute() or table.is_file() else root / table, root, wanted)
    return _of_folders(root, wanted)


def _of_table(table: pathlib.Path, root: pathlib.Path, wanted: Wanted) -> Found:
    rows = _read_parquet(table) if table.suffix == ".parquet" else _read_csv(table)
    clips: dict[str, tuple[int, Clip]] = {}
    wrong: list[str] = []
    passed_over: list[tuple[str, str]] = []
    named = set[bool]()
    # The excerpts of a recording have rows near each other.
    file_of = functools.lru_cache(_MOST_FILES)(functools.partial(_named, root))
    for number, cells in rows:
        try:
            clip = _clip(cells, file_of, wanted)
            first, other = clips.get(clip.clip_id, (number, clip))
            if other is not clip and other != clip:
                field = next(name for name, value in vars(clip).items() if value != getattr(other, name))
                raise ValueError(f"path: {cells['path']} has another {field} in row {first}: keep one of the two")
            named.add(bool(clip.speaker))
            if len(named) > 1:
                raise ValueError("speaker: named in some rows and empty in others: fill it everywhere or nowhere")
        except ValueError as error:
            wrong.append(f"row {number}, column {error}")
            continue
        if first != number:
            passed_over.append((f"{table}, row {number}", f"the same recording as in row {first}"))
        elif reason := _not_wanted(clip, wanted):
            passed_over.append((str(clip.path), reason))
        else:
            clips[clip.clip_id] = number, clip
    if wrong:
        more = f"; and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        raise UserError(f"data.table={str(table)!r}: {'; '.join(wrong[:_MOST_NAMED])}{more}")
    if not clips and not passed_over:
        raise UserError(f"data.table={str(table)!r} has no row below its header: write one for each recording")
    placed = parse(wanted.labels) if wanted.labels else None
    takes: dict[tuple[str, str], int] = {}  # several excerpts of a recording are one
    for number, clip in clips.values():
        label = clip.emotion if placed is None else "" if (i := placed.of(clip.emotion)) is None else placed.names[i]
        takes.setdefault((clip.take_id, label), number)
    counts = Counter(label for _, label in takes)
    for (_, label), number in takes.items():
        if label and counts[label] == 1:
            raise UserError(
                f"data.table={str(table)!r}: row {number} is the only recording of emotion {label!r}: a class needs "
                "two or more, to train and to test; add some, or leave the row out"
            )
    return Found(clips=sorted((clip for _, clip in clips.values()), key=by_id), passed_over=passed_over)


def _read_csv(table: pathlib.Path) -> Iterator[tuple[int, Cells]]:
    """Yield the number of each row, the header being row 1, and its cells. Raises UserError."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, restkey=_REST)
            _check_columns(table, reader.fieldnames or ())
            for cells in reader:
                if _REST in cells or None in cells.values():
                    raise UserError(
                        f"data.table={str(table)!r}: row {reader.line_num} has not as many cells as the header: put "
                        "cells that hold a comma between double quotes"
                    )
                yield reader.line_num, {name: value.strip() for name, value in cells.items() if name}
    except UnicodeDecodeError as error:
        raise UserError(f"data.table={str(table)!r} is not in UTF-8 (byte {error.start}): save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"data.table={str(table)!r}: {error}: expected a table of comma-separated values") from error
    except OSError as error:
        raise _unreadable(table, error) from error


def _read_parquet(table: pathlib.Path) -> Iterator[tuple[int, Cells]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"data.table={str(table)!r} needs pyarrow: pip install pyarrow, or save it as csv") from error
    try:
        columns = pyarrow.parquet.read_table(table).to_pydict()
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"data.table={str(table)!r} is no parquet file: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise _unreadable(table, error) from error
    _check_columns(table, tuple(columns))
    for number, values in enumerate(zip(*columns.values(), strict=True), start=1):
        yield number, dict(zip(columns, ("" if value is None else str(value) for value in values), strict=True))


def _unreadable(table: pathlib.Path, error: OSError) -> UserError:
    return UserError(
        f"data.table={str(table)!r} cannot be read ({error.strerror or error}): give the path of a csv or parquet file"
    )


def _check_columns(table: pathlib.Path, columns: Sequence[str]) -> None:
    """Raise UserError for missing or repeated columns, and for another separator."""
    if lacking := [name for name in _NEEDED if name not in columns]:
        other = next((repr(mark) for mark in ";\t|" if mark in "".join(columns)), "")
        remedy = f"it is separated by {other}: save it with commas" if other else f"there are {', '.join(columns)}"
        raise UserError(f"data.table={str(table)!r} has no column {lacking[0]!r}: {remedy}")
    if len(set(columns)) < len(columns):
        raise UserError(f"data.table={str(table)!r} names a column twice: {', '.join(columns)}")


@dataclasses.dataclass(frozen=True)
class _File:
    """A recording: its path, the same below data.root, that without the extension, and its modality."""

    path: pathlib.Path
    name: str
    take: str
    modality: str


def _named(root: pathlib.Path, name: str) -> _File:
    """Return the recording that a row names. Raises ValueError, which begins with the column."""
    path = root / name
    if not name or not path.is_file():
        raise ValueError(f"path: {name!r} is no file below {root}")
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"path: {path.name} has no extension of a film, a sound or a picture")
    return _file(root, path)


def _file(root: pathlib.Path, path: pathlib.Path) -> _File:
    below, suffix = os.path.relpath(path, root), path.suffix.lower()
    modality = "a" if suffix in SOUND_SUFFIXES else "v" if suffix in PICTURE_SUFFIXES else "av"
    return _File(path, below, os.path.splitext(below)[0], modality)


def _clip(cells: Cells, file_of: Callable[[str], _File], wanted: Wanted) -> Clip:
    """Return the clip of a row. Raises ValueError, which begins with the column."""
    file = file_of(cells["path"])
    emotion = cells["emotion"]
    if not emotion:
        raise ValueError("emotion: empty")
    if wanted.labels and parse(wanted.labels).of(emotion) is None and known_word(emotion) not in EMOTIONS:
        raise ValueError(f"emotion: {emotion!r} is unknown, and data.labels={wanted.labels!r} does not place it")
    sex, split = cells.get("sex", "").lower(), cells.get("split", "").lower()
    for column, value, values in (("sex", sex, _SEXES), ("split", split, _SPLITS)):
        if value not in values:
            raise ValueError(f"{column}: {value!r} is not one of {', '.join(filter(None, values))}")
    start_s, end_s = (_seconds(cells.get(column, ""), column) for column in ("start_s", "end_s"))
    if end_s and start_s >= end_s:
        raise ValueError(f"start_s: {start_s:g} is not before end_s, {end_s:g}")
    return _make(
        file,
        wanted,
        corpus=cells.get("corpus", "") or CORPUS.name,
        emotion=emotion,
        speaker=cells.get("speaker", ""),
        sex=_SEXES[sex],
        split=_SPLITS[split],
        start_s=start_s,
        end_s=end_s,
        intensity=cells.get("intensity", ""),
        statement=cells.get("statement", ""),
        more=tuple(f"{name}={value}" for name, value in cells.items() if name not in _KNOWN and value),
    )


def _seconds(text: str, column: str) -> float:
    try:
        value = float(text or 0)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{column}: {text!r} is no number of seconds, 0 or more")
    return value


def _make(
    file: _File,
    wanted: Wanted,
    *,
    corpus: str,
    emotion: str,
    speaker: str,
    sex: str = "",
    split: str = "",
    start_s: float = 0.0,
    end_s: float = 0.0,
    intensity: str = "",
    statement: str = "",
    more: tuple[str, ...] = (),
) -> Clip:
    excerpt = f"#{start_s:g}-{end_s:g}" if start_s or end_s else ""
    return Clip(
        path=file.path,
        corpus=corpus,
        clip_id=f"{corpus}/{file.name}{excerpt}",
        take_id=f"{corpus}/{file.take}",  # so all excerpts of a recording are on one side of a split
        speaker=speaker and f"{corpus}/{speaker}",
        sex=sex,
        emotion=known_word(emotion),  # or Angry and angry were two labels
        intensity=intensity,
        statement=statement,
        repetition="",
        modality="a" if file.modality == "av" and wanted.audio_alone else file.modality,  # no picture is read
        channel="",
        start_s=start_s,
        end_s=end_s,
        split=split,
        more=more,
    )


def _not_wanted(clip: Clip, wanted: Wanted) -> str:
    """The reason why a clip cannot serve a config; "" if it can."""
    return "a picture, which has no sound" if clip.is_still and wanted.audio_alone else ""


def _of_folders(root: pathlib.Path, wanted: Wanted) -> Found:
    """Find clips in EMOTION/** or SPEAKER/EMOTION/**; a folder counts as an emotion by its name."""
    placed = set(parse(wanted.labels).label_of) if wanted.labels else set()
    clips, passed_over = [], []
    for folder, subfolders, names in os.walk(root, followlinks=False):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        parts = pathlib.Path(os.path.relpath(folder, root)).parts
        depth = next((i for i, name in enumerate(parts[:2]) if known_word(name) in EMOTIONS or name in placed), None)
        for name in sorted(names):
            path = pathlib.Path(folder, name)
            if path.suffix.lower() not in _SUFFIXES or name.startswith("."):
                continue
            if not is_utf8(path):
                passed_over.append((ascii(str(path)), "its path is not in UTF-8: rename it"))
                continue
            if depth is None:
                passed_over.append((str(path), "in no folder that is named after an emotion"))
                continue
            speaker = parts[0] if depth == 1 else ""
            clip = _make(_file(root, path), wanted, corpus=CORPUS.name, emotion=parts[depth], speaker=speaker)
            if reason := _not_wanted(clip, wanted):
                passed_over.append((str(path), reason))
            else:
                clips.append(clip)
    if len({bool(clip.speaker) for clip in clips}) > 1:
        raise UserError(
            f"data.root={str(root)!r} holds EMOTION/** and SPEAKER/EMOTION/** folders: choose one way, or give a table "
            "(--config.data.table=labels.csv)"
        )
    return Found(clips=sorted(clips, key=by_id), passed_over=passed_over)


CORPUS = Corpus(
    name="folder",
    title="your own recordings",
    licence="your own",
    credit="Pictures and sound are of the recordings in data.root.",
    label_names=(),
    expects=(
        "folders EMOTION/** or SPEAKER/EMOTION/**, named after emotions (angry, happy, ...), or "
        "--config.data.table=labels.csv with the columns path and emotion"
    ),
    find=find,
    groups=("speaker", "sex", "corpus", "intensity", "statement"),
)
