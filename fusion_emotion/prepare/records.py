"""The record of a clip, the manifest of a prepared corpus, and how both lie on disk."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import msgpack
import numpy as np
from jaxtyping import Bool, Float32, Int16, UInt8

from fusion_emotion.files import atomic

MANIFEST = "manifest.jsonl"
SHARDS = "shards"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Everything of one clip that training and evaluation need; T sample times at 5 Hz, N samples at 16 kHz."""

    clip_id: str
    take_id: str
    speaker: str
    corpus: str
    label: int
    faces: UInt8[np.ndarray, "T S S 3"]  # RGB; T = 0 where the clip has no usable picture
    face_found: Bool[np.ndarray, "T"]  # False: the crop is the nearest found one
    box: Float32[np.ndarray, "T 4"]  # left, top, right, bottom of the crop in pixels of the source
    waveform: Int16[np.ndarray, "N"]  # mono; empty where the clip has no sound


_DTYPES = {"faces": np.uint8, "face_found": np.bool_, "box": np.float32, "waveform": np.int16}


def encode(record: Record) -> bytes:
    """A record as msgpack: no pickle, the same bytes for the same record."""
    packed: dict[str, Any] = {}
    for field in dataclasses.fields(Record):
        value = getattr(record, field.name)
        if field.name in _DTYPES:
            array: np.ndarray = np.ascontiguousarray(value, _DTYPES[field.name])
            value = [list(array.shape), array.tobytes()]
        packed[field.name] = value
    return msgpack.packb(packed)


def decode(data: bytes) -> Record:
    """The record that `encode` wrote; its arrays are views of `data`."""
    fields = msgpack.unpackb(data)
    for name, dtype in _DTYPES.items():
        shape, raw = fields[name]
        fields[name] = np.frombuffer(raw, dtype).reshape(shape)
    return Record(**fields)


@dataclasses.dataclass(kw_only=True, slots=True)  # not frozen: a million are then made in three quarters of the time
class Row:
    """A line of the manifest: every clip of the corpus has exactly one, whatever became of it."""

    clip_id: str
    take_id: str
    speaker: str
    sex: str
    label: int
    emotion: str
    intensity: str
    statement: str
    repetition: str
    modality: str
    channel: str
    status: str  # "ok" or "quarantined"
    reason: str  # why it is quarantined, or what an `ok` clip lacks; else empty
    n_frames: int  # T of the record; 0: no picture
    n_samples: int  # N of the record; 0: no sound
    found_share: float  # share of the sample times at which the face was found
    jitter: float  # shaking of the cropped boxes, in shares of the face width (`faces.jitter`)
    peak: float  # of the waveform, in [0, 1]
    rms_dbfs: float  # loudness of the waveform
    detector: str
    record: int  # index into the shards, in order; -1 where quarantined


# Strings that many rows share are kept once: a million rows are then 0.5 GB rather than 1.1.
_FEW_VALUES = tuple(f.name for f in dataclasses.fields(Row) if f.type is str and f.name not in ("clip_id", "take_id"))


def read_rows(path: pathlib.Path) -> Iterator[Row]:
    """The rows of a manifest, one at a time."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            fields = json.loads(line)
            for name in _FEW_VALUES:
                fields[name] = sys.intern(fields[name])
            yield Row(**fields)


def write_rows(path: pathlib.Path, rows: Iterable[Row]) -> None:
    """A manifest, whole or not at all."""
    with atomic(path) as partial, partial.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in rows)


def shard_paths(folder: pathlib.Path) -> list[str]:
    """The shards of a prepared corpus in the order that `Row.record` counts."""
    return [str(path) for path in sorted((folder / SHARDS).glob("*.arrayrecord"))]
