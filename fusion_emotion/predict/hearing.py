"""What the sound of a step is like: a voice, steady tones as of music, loudness."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import webrtcvad
from jaxtyping import Float, Int16

from fusion_emotion.units import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

BLOCK = 25  # steps, 5 s, after which the voice detector begins anew
_FULL_SCALE = 32_700  # a little less than int16 holds: a resampled clipped wave
_VAD_MODE = 2  # of 0 to 3, from lenient to strict
_VAD_FRAME = SAMPLE_RATE_HZ // 50  # samples; 10, 20 or 30 ms are allowed
_BAND = slice(40, 800)  # bins of 5 Hz: 200 Hz to 4 kHz, above the hum of the mains
_ENVELOPE = 40  # bins, over which a spectrum is flattened
_FLOOR = 1e-9 * SAMPLES_PER_FRAME  # of power, below the noise of 16 bits
# The mean of `tone` weighted by this power of the loudness tells music from speech (docs/predict.md).
_WEIGHT = 0.25


@dataclasses.dataclass(frozen=True)
class Heard:
    """One step, or the mean of several."""

    speech: float  # share with a voice
    clipped: float  # share of the samples at full scale
    power: float  # mean square, full scale at 1
    tone: float | None  # likeness of the fine structure of its spectrum to that of the step before, at most 1


class Ear:
    """Listens to the steps of a recording, in order."""

    def __init__(self) -> None:
        self._vad = webrtcvad.Vad(_VAD_MODE)
        self._fine: np.ndarray | None = None

    def __call__(self, step: int, sound: Int16[np.ndarray, "n"]) -> Heard:
        """Return what a step sounds like."""
        if step % BLOCK == 0:
            # Its memory of the noise begins anew, so that a run that goes on hears the same.
            self._vad = webrtcvad.Vad(_VAD_MODE)
        frames = [sound[i : i + _VAD_FRAME] for i in range(0, len(sound) - _VAD_FRAME + 1, _VAD_FRAME)]
        voiced = sum(self._vad.is_speech(frame.tobytes(), SAMPLE_RATE_HZ) for frame in frames)
        before, self._fine = self._fine, _fine(sound) if len(sound) == SAMPLES_PER_FRAME else None
        return Heard(
            speech=voiced * _VAD_FRAME / SAMPLES_PER_FRAME,
            clipped=float(np.mean(np.abs(sound.astype(np.int32)) >= _FULL_SCALE)) if len(sound) else 0.0,
            power=float(np.mean(np.square(sound / 32_768))) if len(sound) else 0.0,
            tone=None if before is None or self._fine is None else float(before @ self._fine),
        )


def _fine(sound: Int16[np.ndarray, "n"]) -> Float[np.ndarray, "bins"]:
    """Return the logarithm of the spectrum without its envelope, of mean 0 and length 1."""
    power = np.abs(np.fft.rfft(sound / 32_768 * np.hanning(len(sound)))[_BAND]) ** 2
    level = np.log(power + _FLOOR)
    fine = (
        level
        - np.convolve(np.pad(level, _ENVELOPE // 2, "edge"), np.ones(_ENVELOPE) / _ENVELOPE, "same")[
            _ENVELOPE // 2 : -(_ENVELOPE // 2)
        ]
    )
    fine -= fine.mean()
    return fine / (np.sqrt(np.square(fine).sum()) + 1e-9)


def mean(heard: Sequence[Heard]) -> Heard:
    """Return the mean of several steps or windows; loud ones count more for the tone."""
    toned = [(each.tone, each.power**_WEIGHT) for each in heard if each.tone is not None]
    weight = sum(share for _, share in toned)
    return Heard(
        speech=float(np.mean([each.speech for each in heard])) if heard else 0.0,
        clipped=float(np.mean([each.clipped for each in heard])) if heard else 0.0,
        power=float(np.mean([each.power for each in heard])) if heard else 0.0,
        tone=sum(tone * share for tone, share in toned) / weight if weight else None,
    )


def loudness_dbfs(power: float) -> float:
    """Return a mean square in dB of full scale, as preparation's `rms_dbfs`."""
    return 10 * math.log10(power + 1e-12)
