"""A corpus that stays on the device: windows are cut there, and only their places travel."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fusion_emotion.input.batches import Batch, Source
from fusion_emotion.prepare.records import Row
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Resident:
    """The records of some windows' clips, one after the other; types are open, for leaves get a device axis."""

    faces: Any  # uint8 [frames + 1, S, S, 3]; the last is black
    face_found: Any  # bool [frames + 1]
    waveform: Any  # int16 [samples + one second of zeros]
    first_frame: Any  # int32 [clips]
    n_frames: Any
    first_sample: Any
    n_samples: Any


def size_bytes(rows: list[Row], face_size: int) -> int:
    """What the records of `rows` take on a device."""
    return sum(row.n_frames for row in rows) * face_size**2 * 3 + sum(row.n_samples for row in rows) * 2


def can_be_indexed(rows: list[Row]) -> bool:
    """Whether 32 bits count the samples of `rows`: 37 hours of sound."""
    return sum(row.n_samples for row in rows) + SAMPLE_RATE_HZ < 2**31


def load(source: Source) -> Resident:
    """Read every record of a source's clips, as numpy arrays."""
    rows = source.windows.rows
    n_frames = np.array([row.n_frames for row in rows], np.int32)
    n_samples = np.array([row.n_samples for row in rows], np.int32)
    side = source.record(0).faces.shape[1]
    resident = Resident(
        faces=np.zeros((n_frames.sum() + 1, side, side, 3), np.uint8),
        face_found=np.zeros(n_frames.sum() + 1, bool),
        waveform=np.zeros(n_samples.sum() + SAMPLE_RATE_HZ, np.int16),
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


def with_media(resident: Resident, picked: Batch) -> Batch:
    """Picked windows with their pictures and sounds: `Source.with_media` under jit."""
    clip, start = picked["clip"], picked["start"]
    n_frames = resident.n_frames[clip]
    time = start[:, None] + jnp.arange(FRAME_RATE_HZ)
    black = resident.faces.shape[0] - 1
    reached = jnp.minimum(time, n_frames[:, None] - 1)
    frame = jnp.where((start < n_frames)[:, None], resident.first_frame[clip][:, None] + reached, black)
    faces = resident.faces[frame]
    batch, times, side, _, channels = faces.shape
    left = resident.n_samples[clip] - start * SAMPLES_PER_FRAME
    place = jnp.minimum(
        resident.first_sample[clip] + start * SAMPLES_PER_FRAME, resident.waveform.shape[0] - SAMPLE_RATE_HZ
    )
    sound = jax.vmap(lambda at: jax.lax.dynamic_slice(resident.waveform, (at,), (SAMPLE_RATE_HZ,)))(place)
    return {
        **picked,
        "strip": faces.swapaxes(1, 2).reshape(batch, side, times * side, channels),
        "waveform": jnp.where(jnp.arange(SAMPLE_RATE_HZ) < left[:, None], sound, 0),
        "has_video": (resident.face_found[frame] & (time < n_frames[:, None])).any(axis=1),
        "has_audio": left > 0,
    }
