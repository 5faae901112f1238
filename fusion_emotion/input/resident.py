"""Records in device memory: segments are cut on the device, and batches carry only their places."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusion_emotion.input.batches import Source
from fusion_emotion.models.batch import Batch
from fusion_emotion.prepare.records import Row
from fusion_emotion.units import SAMPLES_PER_FRAME


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Resident:
    """The records of a source's clips, one after the other; types are open, since leaves get a device axis."""

    faces: Any  # uint8 [frames + 1, S, S, 3]; the last is black
    face_found: Any  # bool [frames + 1]
    waveform: Any  # int16 [samples + the longest segment in zeros]
    first_frame: Any  # int32 [clips]
    n_frames: Any
    first_sample: Any
    n_samples: Any


def fits(rows: Sequence[Row], *, face_size: int, max_gb: float) -> bool:
    """True if the records of `rows` take up to `max_gb` and 32 bits count their samples (37 hours of sound)."""
    n_frames, n_samples = sum(row.n_frames for row in rows), sum(row.n_samples for row in rows)
    return n_frames * face_size**2 * 3 + n_samples * 2 <= 1e9 * max_gb and n_samples < 2**31 - 2**24


def load(source: Source) -> Resident:
    """Read every record of a source's clips, as numpy arrays."""
    rows = source.segments.rows
    n_frames = np.array([row.n_frames for row in rows], np.int32)
    n_samples = np.array([row.n_samples for row in rows], np.int32)
    side = source.record(0).faces.shape[1]
    tail = source.segments.cutting.longest * SAMPLES_PER_FRAME
    resident = Resident(
        faces=np.zeros((n_frames.sum() + 1, side, side, 3), np.uint8),
        face_found=np.zeros(n_frames.sum() + 1, bool),
        waveform=np.zeros(n_samples.sum() + tail, np.int16),
        first_frame=np.cumsum(n_frames, dtype=np.int32) - n_frames,
        n_frames=n_frames,
        first_sample=np.cumsum(n_samples, dtype=np.int32) - n_samples,
        n_samples=n_samples,
    )
    for clip in range(len(rows)):
        record = source.record(clip)
        frames = slice(resident.first_frame[clip], resident.first_frame[clip] + n_frames[clip])
        samples = slice(resident.first_sample[clip], resident.first_sample[clip] + n_samples[clip])
        resident.faces[frames] = record.faces
        resident.face_found[frames] = record.face_found
        resident.waveform[samples] = record.waveform
    return resident


def with_media(resident: Resident, picked: Batch, *, pad_to: int) -> Batch:
    """Return a batch of picks with faces and sound, padded to `pad_to` frames: `Source.with_media` under jit."""
    clip, start, length = picked["clip"], picked["start"], picked["n_frames"]
    n_frames = jnp.minimum(resident.n_frames[clip], start + length)
    time = start[:, None] + jnp.arange(pad_to)
    reached = jnp.minimum(time, n_frames[:, None] - 1)
    black = resident.faces.shape[0] - 1
    frame = jnp.where((start < n_frames)[:, None], resident.first_frame[clip][:, None] + reached, black)
    face_found = resident.face_found[frame] & (time < n_frames[:, None])

    n_padded = pad_to * SAMPLES_PER_FRAME
    first = start * SAMPLES_PER_FRAME
    n_samples = jnp.minimum(resident.n_samples[clip] - first, length * SAMPLES_PER_FRAME)
    place = jnp.minimum(resident.first_sample[clip] + first, resident.waveform.shape[0] - n_padded)
    sound = jax.vmap(lambda start: jax.lax.dynamic_slice(resident.waveform, (start,), (n_padded,)))(place)
    return {
        **picked,
        "faces": resident.faces[frame],
        "face_found": face_found,
        "waveform": jnp.where(jnp.arange(n_padded) < n_samples[:, None], sound, 0),
        "n_samples": jnp.maximum(n_samples, 1),
        "has_video": face_found.any(axis=1),
        "has_audio": n_samples > 0,
    }
