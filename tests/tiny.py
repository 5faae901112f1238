"""A prepared corpus of a few kilobytes whose classes are plain to see and to hear."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from fusion_emotion.corpora.ravdess import LABEL_NAMES
from fusion_emotion.prepare.records import MANIFEST, Record, Row, encode, write_rows, write_shard_list

FACE_SIZE = 32


@dataclasses.dataclass(kw_only=True)
class Placed:
    """The fields of a manifest's row that a protocol may use."""

    take_id: str
    speaker: str
    sex: str = ""
    label: int = 0
    corpus: str = ""
    split: str = ""


def records_of(*, speakers: int = 6, takes: int = 1, n_frames: int = 12, seed: int = 0) -> list[Record]:
    """Eight emotions of each speaker; the brightness of a face and the pitch of a voice tell them apart, with noise."""
    rng = np.random.default_rng(seed)
    records = []
    for speaker, label, take in np.ndindex(speakers, 8, takes):
        take_id = f"01-{label + 1:02d}-01-01-{take + 1:02d}-{speaker + 1:02d}"
        faces = rng.integers(0, 40, (n_frames, FACE_SIZE, FACE_SIZE, 3)) + 25 * label
        time_s = np.arange(n_frames * 3200) / 16_000
        sound = np.sin(2 * np.pi * 200 * 1.4**label * time_s) + 0.1 * rng.standard_normal(len(time_s))
        record = Record(
            clip_id=f"ravdess/01-{take_id}",
            take_id=f"ravdess/{take_id}",
            speaker=f"ravdess/{speaker + 1:02d}",
            corpus="ravdess",
            emotion=LABEL_NAMES[label],
            faces=faces.astype(np.uint8),
            face_found=np.ones(n_frames, bool),
            box=np.zeros((n_frames, 4), np.float32),
            waveform=(8000 * sound).astype(np.int16),
        )
        records.append(record)
    return records


def write(folder: pathlib.Path, **kind: int) -> pathlib.Path:
    """Write the records of `records_of` as a prepared corpus."""
    return write_corpus(folder, records_of(**kind))


def write_corpus(folder: pathlib.Path, records: Sequence[Record]) -> pathlib.Path:
    """Write records as a prepared corpus."""
    write_rows(folder / MANIFEST, write_records(folder, records))
    return folder


def write_records(folder: pathlib.Path, records: Sequence[Record], *, per_shard: int = 10**6) -> list[Row]:
    """Write the shards of records, and return their rows."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(records), per_shard)
    shards = [pathlib.Path(f"{number:05d}.arrayrecord") for number in range(len(starts))]
    write_shard_list(folder, shards)
    for shard, first in zip(shards, starts, strict=True):
        writer = ArrayRecordWriter(str(folder / shard), "group_size:1")
        for record in records[first : first + per_shard]:
            writer.write(encode(record))
        writer.close()
    return [row_of(record, index=index) for index, record in enumerate(records)]


def row_of(record: Record, *, index: int) -> Row:
    """The manifest's row of a record."""
    return Row(
        corpus=record.corpus,
        clip_id=record.clip_id,
        take_id=record.take_id,
        speaker=record.speaker,
        sex="male" if int(record.speaker[-2:]) % 2 else "female",
        emotion=record.emotion,
        intensity="normal",
        statement="01",
        repetition="01",
        modality="av",
        channel="speech",
        status="ok",
        reason="",
        n_frames=len(record.faces),
        n_samples=len(record.waveform),
        found_share=1.0,
        jitter=0.0,
        peak=0.5,
        rms_dbfs=-20.0,
        detector="insightface",
        record=index,
        digest=hashlib.sha256(encode(record)).hexdigest()[:16],
        label=LABEL_NAMES.index(record.emotion) if record.emotion in LABEL_NAMES else -1,
    )
