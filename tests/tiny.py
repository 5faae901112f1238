"""A prepared corpus of a few kilobytes whose classes are plain to see and to hear."""

import pathlib

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from fusion_emotion.prepare.records import MANIFEST, SHARDS, Record, Row, encode, write_rows

FACE_SIZE = 32


def write(
    folder: pathlib.Path, *, speakers: int = 6, takes: int = 1, n_frames: int = 12, seed: int = 0
) -> pathlib.Path:
    """Eight emotions of each speaker; the brightness of a face and the pitch of a voice tell them apart, with noise."""
    rng = np.random.default_rng(seed)
    (folder / SHARDS).mkdir(parents=True)
    writer = ArrayRecordWriter(str(folder / SHARDS / "00000.arrayrecord"), "group_size:1")
    rows = []
    for speaker in range(1, speakers + 1):
        for label in range(8):
            for take in range(1, takes + 1):
                take_id = f"01-{label + 1:02d}-01-01-{take:02d}-{speaker:02d}"
                faces = rng.integers(0, 40, (n_frames, FACE_SIZE, FACE_SIZE, 3)) + 25 * label
                time_s = np.arange(n_frames * 3200) / 16_000
                sound = np.sin(2 * np.pi * 200 * 1.4**label * time_s) + 0.1 * rng.standard_normal(len(time_s))
                record = Record(
                    clip_id=f"01-{take_id}",
                    take_id=take_id,
                    speaker=f"{speaker:02d}",
                    corpus="ravdess",
                    label=label,
                    faces=faces.astype(np.uint8),
                    face_found=np.ones(n_frames, bool),
                    box=np.zeros((n_frames, 4), np.float32),
                    waveform=(8000 * sound).astype(np.int16),
                )
                writer.write(encode(record))
                rows.append(row_of(record, index=len(rows)))
    writer.close()
    write_rows(folder / MANIFEST, rows)
    return folder


def row_of(record: Record, *, index: int) -> Row:
    """The manifest's row of a record."""
    return Row(
        clip_id=record.clip_id,
        take_id=record.take_id,
        speaker=record.speaker,
        sex="male" if int(record.speaker) % 2 else "female",
        label=record.label,
        emotion="",
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
    )
