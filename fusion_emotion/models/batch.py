"""The contract between input and models: what a batch holds.

A segment is up to `segment.seconds` of a clip. Every example of a batch is padded to the same number of frames T.

| field        | type                  | meaning                                                          |
|--------------|-----------------------|------------------------------------------------------------------|
| `faces`      | uint8 [B, T, S, S, 3] | RGB crops at 5 Hz; padding repeats the last one                  |
| `face_found` | bool [B, T]           | False: no face was found at that time, or padding                |
| `n_frames`   | int32 [B]             | length of the segment in frames of 0.2 s, at least 1             |
| `waveform`   | int16 [B, T * 3200]   | 16 kHz mono; padding is zero                                     |
| `n_samples`  | int32 [B]             | samples that the clip has within the segment, at least 1         |
| `has_video`  | bool [B]              | a face was found in the segment                                  |
| `has_audio`  | bool [B]              | the clip has sound in the segment                                |
| `label`      | int32 [B]             | index into the label names                                       |
| `clip`       | int32 [B]             | index into the rows of the part: the segments of a clip share it |
| `mask`       | bool [B]              | False: the example only fills the batch                          |

Sound that ends within the segment is followed by silence; a missing modality is a flag, never a length of 0.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fusion_emotion.units import FRAME_RATE_HZ, SAMPLES_PER_FRAME

Batch = dict[str, Any]  # arrays by the names above
Spec = dict[str, jax.ShapeDtypeStruct]


def batch_spec(config: Mapping[str, Any], *, batch_size: int = 1, n_frames: int | None = None) -> Spec:
    """Shapes and types of a batch; padded to `n_frames`, by default to the longest segment of the config."""
    side = config["prepare"]["face_size"]
    b, t = batch_size, n_frames or round(config["segment"]["seconds"] * FRAME_RATE_HZ)
    fields = {
        "faces": ((b, t, side, side, 3), np.uint8),
        "face_found": ((b, t), np.bool_),
        "n_frames": ((b,), np.int32),
        "waveform": ((b, t * SAMPLES_PER_FRAME), np.int16),
        "n_samples": ((b,), np.int32),
        "has_video": ((b,), np.bool_),
        "has_audio": ((b,), np.bool_),
        "label": ((b,), np.int32),
        "clip": ((b,), np.int32),
        "mask": ((b,), np.bool_),
    }
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in fields.items()}


def noise(spec: Spec, *, n_classes: int, seed: int = 0) -> Batch:
    """A batch of full segments of noise, for tests and benchmarks."""
    rng = np.random.default_rng(seed)
    size, n_frames = spec["face_found"].shape
    full = {name: np.ones(field.shape, field.dtype) for name, field in spec.items()}
    return {
        **full,
        "faces": rng.integers(0, 256, spec["faces"].shape, np.uint8),
        "waveform": rng.integers(-9000, 9000, spec["waveform"].shape, np.int16),
        "n_frames": np.full(size, n_frames, np.int32),
        "n_samples": np.full(size, n_frames * SAMPLES_PER_FRAME, np.int32),
        "label": rng.integers(0, n_classes, size).astype(np.int32),
        "clip": np.arange(size, dtype=np.int32),
    }
