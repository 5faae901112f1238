"""Speech by eSpeak NG (library and data from the package `espeakng_loader`), shaped by prosody."""

import ctypes
import pathlib
import tempfile

import espeakng_loader
import numpy as np
from jaxtyping import Float32, Int16

from fusion_emotion.corpora import ravdess
from fusion_emotion.corpora.sample import script
from fusion_emotion.errors import UserError

SAMPLE_RATE_HZ = 48_000
_ESPEAK_RATE_HZ = 22_050
_SPEECH_FLOOR = 0.01  # fraction of the peak; quieter ends are trimmed

# Constants of eSpeak NG's speak_lib.h.
_OUTPUT_SYNCHRONOUS, _DO_NOT_EXIT, _TEXT_IS_UTF8 = 2, 0x8000, 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4

Wave = Float32[np.ndarray, "N"]


def speak_all(actor: int, *, seed: int) -> list[Wave]:
    """Speak each of `script.takes_of(actor)`: waves at SAMPLE_RATE_HZ in [-1, 1], without silence around them.

    Call it once in a process: eSpeak NG keeps state between sentences that cannot be reset, so only the first calls of
    a process, in the same order, are reproducible.
    """
    spoken: list[Int16[np.ndarray, "N"]] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def receive(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: int) -> int:
        if samples and count > 0:
            spoken.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def checked(status: int, what: str) -> None:
        if status != 0:
            raise UserError(
                f"eSpeak NG refused {what} (status {status}): install espeakng-loader of requirements.txt anew"
            )

    waves = []
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    with tempfile.TemporaryDirectory() as folder:
        # eSpeak NG truncates paths longer than about 160 characters.
        data = pathlib.Path(folder, "espeak-ng-data")
        data.symlink_to(espeakng_loader.get_data_path())
        rate_hz = library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, str(data).encode(), _DO_NOT_EXIT)
        checked(rate_hz - _ESPEAK_RATE_HZ, "to start")
        library.espeak_SetSynthCallback(receive)
        voice = script.voice_of(actor, seed=seed)
        checked(library.espeak_SetVoiceByName(voice.name.encode()), f"the voice {voice.name}")
        for take in script.takes_of(actor):
            prosody = script.prosody_of(take, voice, seed=seed)
            # Some voices add random breath, by default seeded from the clock.
            library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
            for parameter, value in (
                (_RATE, prosody.words_per_minute),
                (_VOLUME, 100),
                (_PITCH, prosody.pitch),
                (_RANGE, prosody.pitch_range),
            ):
                checked(library.espeak_SetParameter(parameter, value, 0), f"parameter {parameter} = {value}")
            text = ravdess.STATEMENTS[take.statement].encode() + b"\0"
            checked(library.espeak_Synth(text, len(text), 0, 0, 0, _TEXT_IS_UTF8, None, None), "to speak")
            checked(library.espeak_Synchronize(), "to finish")
            waves.append(_shaped(np.concatenate(spoken), prosody))
            spoken.clear()
        library.espeak_Terminate()
    return waves


def _shaped(spoken: Int16[np.ndarray, "N"], prosody: script.Prosody) -> Wave:
    """Trim samples, resample them to SAMPLE_RATE_HZ and apply the prosody's tilt, resonance and level."""
    loud = np.flatnonzero(np.abs(spoken) > _SPEECH_FLOOR * np.abs(spoken).max())
    spoken = spoken[loud[0] : loud[-1] + 1]
    # Reading speech at another rate than it was written at shifts its formants, as another vocal tract would. Rates
    # that are multiples of 150 Hz, and lengths to match, avoid transforms of large prime lengths.
    steps = round(_ESPEAK_RATE_HZ / 150 * prosody.formant_shift)
    spoken = np.pad(spoken, (0, -len(spoken) % steps))
    count = len(spoken) // steps * (SAMPLE_RATE_HZ // 150)
    spectrum = np.fft.rfft(spoken)
    frequency_hz = np.arange(len(spectrum)) * 150 * steps / len(spoken)
    octaves = np.log2(np.clip(frequency_hz, 100, 8000) / 1000)
    resonance = np.exp(-0.5 * ((octaves - np.log2(1.2)) / 0.35) ** 2)
    gain_db = prosody.tilt_db_per_octave * octaves + prosody.resonance_db * resonance
    wave = np.fft.irfft(spectrum * 10 ** (gain_db / 20), count)
    wave *= 10 ** (prosody.level_dbfs / 20) / np.sqrt(np.mean(wave**2))
    return np.tanh(wave).astype(np.float32)
