"""The MFCC of this project against librosa's, on the same segments of one second, alternating.

PYTHONPATH=. python benchmarks/mfcc.py
"""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import librosa
import numpy as np
from turns import in_turn, timed

from fusion_emotion.models.frontend import mfcc

SEGMENTS = 64
ROUNDS = 20
PARAMETERS: dict[str, Any] = {
    "sr": 16_000,
    "n_mfcc": 40,
    "n_fft": 1024,
    "hop_length": 256,
    "n_mels": 80,
    "fmin": 80.0,
    "fmax": 8000.0,
}


def main() -> None:
    """Print the segments per second of both and their ratio."""
    sound = np.random.default_rng(0).standard_normal((SEGMENTS, 16_000)).astype(np.float32)
    on_device = jnp.asarray(sound)
    ours = jax.jit(lambda waveform: mfcc(waveform, **PARAMETERS))
    began = time.perf_counter()
    ours(on_device).block_until_ready()
    compile_s = time.perf_counter() - began
    librosa.feature.mfcc(y=sound[0], **PARAMETERS)
    sides = {
        "fusion_emotion": lambda: ours(on_device).block_until_ready(),
        "librosa": lambda: [librosa.feature.mfcc(y=second, **PARAMETERS) for second in sound],
    }
    spent_ms = in_turn({name: functools.partial(timed, call) for name, call in sides.items()}, rounds=ROUNDS)
    rates = {name: 1e3 * SEGMENTS / ms for name, ms in spent_ms.items()}
    for name, rate in rates.items():
        print(f"{name:<15} {rate:8.0f} segments/s")
    print(f"ratio           {rates['fusion_emotion'] / rates['librosa']:8.1f}")
    print(f"compilation     {compile_s:8.1f} s, once; {jax.devices()[0].device_kind}")


if __name__ == "__main__":
    main()
