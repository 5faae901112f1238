"""The record of a clip, the manifest of a prepared corpus, and their formats on disk."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgpack
import numpy as np
from jaxtyping import Bool, Float32, Int16, UInt8

from fusion_emotion.files import atomic

MANIFEST = "manifest.jsonl"
SHARDS = "shards"
SHARD_LIST = "shards.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """The prepared faces and sound of a clip; T sample times at 5 Hz, N samples at 16 kHz."""

    clip_id: str
    take_id: str
    speaker: str
    corpus: str
    emotion: str
    faces: UInt8[np.ndarray, "T S S 3"]  # RGB; T = 0 where the clip has no usable picture
    face_found: Bool[np.ndarray, "T"]  # False: the crop is the nearest found one
    box: Float32[np.ndarray, "T 4"]  # left, top, right, bottom of the crop in pixels of the source
    waveform: Int16[np.ndarray, "N"]  # mono; empty where the clip has no sound


_DTYPES = {"faces": np.uint8, "face_found": np.bool_, "box": np.float32, "waveform": np.int16}


def encode(record: Record) -> bytes:
    """Encode a record as msgpack: no pickle, the same bytes for the same record."""
    packed: dict[str, Any] = {}
    for field in dataclasses.fields(Record):
        value = getattr(record, field.name)
        if field.name in _DTYPES:
            array: np.ndarray = np.ascontiguousarray(value, _DTYPES[field.name])
            value = [list(array.shape), array.tobytes()]
        packed[field.name] = value
    return msgpack.packb(packed)


def decode(data: bytes) -> Record:
    """Decode the bytes of `encode`; the arrays are views of them."""
    fields = msgpack.unpackb(data)
    for name, dtype in _DTYPES.items():
        shape, raw = fields[name]
        fields[name] = np.frombuffer(raw, dtype).reshape(shape)
    return Record(**fields)


@dataclasses.dataclass(kw_only=True, slots=True)  # not frozen: a million are then made in three quarters of the time
class Row:
    """A line of the manifest: every clip of the corpus has exactly one, prepared or quarantined."""

    corpus: str
    clip_id: str
    take_id: str
    speaker: str
    sex: str
    emotion: str  # in the words of the corpus
    intensity: str
    statement: str
    repetition: str
    modality: str
    channel: str
    split: str = ""  # the part that the corpus's owners name
    votes: str = ""  # of several raters, as "happy=7+neutral=2"
    more: Sequence[str] = ()  # what else is known, as "age=34"
    status: str  # "ok" or "quarantined"
    reason: str  # of the quarantine, or the lack of an `ok` clip; else empty
    n_frames: int = 0  # T of the record; 0: no picture
    n_samples: int = 0  # N of the record; 0: no sound
    found_share: float = 0.0  # share of the sample times at which the face was found
    jitter: float = 0.0  # shaking of the cropped boxes, in shares of the face width (`faces.jitter`)
    peak: float = 0.0  # of the waveform, in [0, 1]
    rms_dbfs: float = -120.0  # loudness of the waveform
    detector: str
    record: int = -1  # index into the shards, in order; -1 where quarantined
    key: str = ""  # of the clip and its file (`store.key_of`)
    digest: str = ""  # sha256 of the encoded record, 16 hexadecimal digits; empty where quarantined
    retry: bool = False  # quarantined for a reason of the machine: tried again at the next run
    label: int = -1  # index into a label set, given when rows are read for a model; never written

    def value(self, group: str) -> str:
        """Return the value of a field, or of a column that the corpus's owner has added."""
        added = next((text.partition("=")[2] for text in self.more if text.startswith(f"{group}=")), "")
        return added or (str(getattr(self, group)) if group in self.__slots__ else "")


# Strings and rounded numbers that many rows share are kept once: a million rows take 0.9 GB in place of 1.5.
_OF_ONE = ("clip_id", "take_id", "key", "digest")
_FEW_VALUES = tuple(f.name for f in dataclasses.fields(Row) if f.type is str and f.name not in _OF_ONE)
_RARE = ("split", "votes", "more")  # left out of a line where they are empty
_FEW_NUMBERS = ("n_samples", "found_share", "jitter", "peak", "rms_dbfs")


def read_rows(path: pathlib.Path) -> Iterator[Row]:
    """Read the rows of a manifest, one at a time."""
    # By field, because 1 and 1.0 are one key.
    numbers: dict[str, dict[float, float]] = {name: {} for name in _FEW_NUMBERS}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            fields = json.loads(line)
            for name, values in numbers.items():
                if name in fields:
                    fields[name] = values.setdefault(fields[name], fields[name])
            for name in _FEW_VALUES:
                if name in fields:
                    fields[name] = sys.intern(fields[name])
            if more := fields.get("more"):
                fields["more"] = tuple(map(sys.intern, more))
            yield Row(**fields)


def write_rows(path: pathlib.Path, rows: Iterable[Row]) -> None:
    """Write a manifest, all or nothing."""
    with atomic(path) as partial, partial.open("w", encoding="utf-8") as out:
        for row in rows:
            fields = dataclasses.asdict(row)
            for name in ("label", *(name for name in _RARE if not fields[name])):
                del fields[name]
            out.write(json.dumps(fields, ensure_ascii=False) + "\n")


def shard_paths(folder: pathlib.Path) -> list[str]:
    """Return the shards of a prepared corpus in the order that `Row.record` counts."""
    return [str((folder / name).resolve()) for name in json.loads((folder / SHARD_LIST).read_text(encoding="utf-8"))]


def write_shard_list(folder: pathlib.Path, paths: Iterable[pathlib.Path]) -> None:
    """Write the paths of the shards, relative to the folder of the manifest."""
    with atomic(folder / SHARD_LIST) as partial:
        partial.write_text(json.dumps([path.as_posix() for path in paths], indent=1), encoding="utf-8")
